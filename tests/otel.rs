//! Spans, as a collector gets them.

#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, routing::post};
use http::HeaderMap;
use support::{client::get, config::Config, program::Program, upstream::Upstream, wait::until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

type Got = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A collector; what it got.
async fn collector() -> (Upstream, Got) {
    let got = Got::default();
    let take = async |State(got): State<Got>, headers: HeaderMap, body: Bytes| {
        got.lock().unwrap().push((headers, body));
        ""
    };
    let app = Router::new()
        .route("/v1/traces", post(take))
        .with_state(got.clone());
    (Upstream::start(app).await, got)
}

/// Whether `bytes` stand in what came: protobuf writes texts and numbers of traces as they are.
fn holds(got: &Got, bytes: &[u8]) -> bool {
    let got = got.lock().unwrap();
    let mut bodies = got.iter().map(|(_, body)| body);
    bodies.any(|body| body.windows(bytes.len()).any(|part| part == bytes))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

#[tokio::test]
async fn a_collector_gets_a_span_of_the_trace_and_the_upstream_is_told_of_it() {
    let (collector, got) = collector().await;
    let upstream = Upstream::start(Router::new().fallback(async |headers: HeaderMap| {
        let told = headers
            .get("traceparent")
            .map(|value| value.to_str().unwrap().to_owned());
        told.unwrap_or_default()
    }))
    .await;
    let lines = format!("primary.upstream = \"http://{}\"", upstream.address);
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{}", collector.address);
    let first = format!("export {endpoint} OTEL_BSP_SCHEDULE_DELAY=50");
    let program = Program::serve_after(&first, &Config::new(lines)).await;

    let told = get("/of/it?a=b")
        .header("Traceparent", &format!("00-{TRACE}-{PARENT}-01"))
        .ask(program.site)
        .await;
    let (trace, rest) = told.text()[3..].split_once('-').unwrap();
    let (span, flags) = rest.split_once('-').unwrap();
    assert_eq!((trace, flags), (TRACE, "01"));
    assert_ne!(span, PARENT, "the span between");
    until("the span", async || {
        holds(&got, &bytes(TRACE)).then_some(())
    })
    .await;
    for (what, bytes) in [
        ("its number", bytes(span)),
        ("its parent", bytes(PARENT)),
        ("the path", b"/of/it".to_vec()),
        ("the outcome", b"overspill.outcome".to_vec()),
        ("the service", b"overspill".to_vec()),
    ] {
        assert!(holds(&got, &bytes), "{what}");
    }
    let kind = got.lock().unwrap()[0].0["content-type"].clone();
    assert_eq!(kind, "application/x-protobuf");

    // Whoever began this one does not record it.
    let other = "1af7651916cd43dd8448eb211c80319c";
    let told = get("/unsampled")
        .header("Traceparent", &format!("00-{other}-{PARENT}-00"))
        .ask(program.site)
        .await;
    assert!(told.text().starts_with(&format!("00-{other}-")) && told.text().ends_with("-00"));

    // Without a trace one begins here.
    let told = get("/begins").ask(program.site).await;
    let begun = told.text()[3..35].to_owned();
    assert!(told.text().ends_with("-01"), "{}", told.text());
    // What waits is sent before the end.
    assert_eq!(program.terminate().await, Some(0));
    assert!(holds(&got, &bytes(&begun)));
    assert!(!holds(&got, &bytes(other)));
}

#[tokio::test]
async fn without_a_collector_no_trace_is_made_up() {
    let upstream = Upstream::start(
        Router::new()
            .fallback(async |headers: HeaderMap| headers.contains_key("traceparent").to_string()),
    )
    .await;
    let lines = format!("primary.upstream = \"http://{}\"", upstream.address);
    let program = Program::serve(&Config::new(lines)).await;
    assert_eq!(get("/").ask(program.site).await.text(), "false");
}
