//! The layer around services: an axum router, and whatever else is a tower service.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    response::{Html, IntoResponse},
    routing::get as route,
};
use futures_util::stream;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use overspill::{
    Overspill, Settings,
    level::Level,
    rewrite::coding::{Coding, decode_all},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;
use tower_layer::Layer;

use crate::support::{
    self,
    client::{Request as Asked, connect, get, request},
    config::Config,
    program::Program,
    upstream::Upstream,
    wait::until,
};

const PAGE: &str = "<!doctype html><img src=\"/a.png\">";
const MOVED: &str = "<!doctype html><img src=\"http://eu.example/a.png\">";
const SERVER: &str = r#"offload.servers = [{ name = "eu", url = "http://eu.example", cors = true, health = false }]"#;

/// An Overspill whose server gets work.
async fn overspill(lines: &str) -> Overspill {
    let config = Config::new(SERVER).with(lines).to_string();
    let overspill = Overspill::start(Settings::from_toml(&config).unwrap()).unwrap();
    until("the server gets work", async || {
        overspill.status().servers[0].usable.then_some(())
    })
    .await;
    overspill
}

fn hold(overspill: &Overspill, level: Level) {
    overspill.override_level(level, Duration::from_secs(3600));
}

/// Serves `app` behind layer and gate.
async fn serve(overspill: &Overspill, app: Router) -> SocketAddr {
    serve_as_it_is(overspill, app.layer(overspill.layer())).await
}

/// Serves `app`, which has its layers, behind the gate.
async fn serve_as_it_is(overspill: &Overspill, app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = overspill.gate(listener);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn tagged() -> Router {
    // Conditions are the application's own affair: it knows its page's tag.
    // If-None-Match compares weakly (RFC 9110 section 13.1.2).
    let page = async |headers: HeaderMap| {
        let tag = [
            (header::ETAG, "\"abc\""),
            (header::CACHE_CONTROL, "max-age=60"),
            (header::CONTENT_SECURITY_POLICY, "img-src 'self'"),
        ];
        let shown = headers.get(header::IF_NONE_MATCH);
        let shown = shown
            .and_then(|shown| shown.to_str().ok())
            .unwrap_or_default();
        if shown
            .split(", ")
            .any(|shown| shown.trim_start_matches("W/") == "\"abc\"")
        {
            (StatusCode::NOT_MODIFIED, tag).into_response()
        } else {
            (tag, Html(PAGE)).into_response()
        }
    };
    Router::new()
        .route("/", route(page))
        .route("/a.png", route(async || "png"))
}

#[tokio::test]
async fn goes_around_an_axum_router() {
    let overspill = overspill("").await;
    let site = serve(&overspill, tagged()).await;
    assert_eq!(get("/").ask(site).await.text(), PAGE);
    hold(&overspill, Level::Offload);
    assert_eq!(get("/").ask(site).await.text(), MOVED);
    assert_eq!(get("/a.png").ask(site).await.text(), "png");
    hold(&overspill, Level::Throttle);
    assert_eq!(get("/").ask(site).await.status, 503);
    hold(&overspill, Level::Drop);
    assert_eq!(get("/").bytes(site).await, b"");
    overspill.end_override();
    assert_eq!(get("/").ask(site).await.text(), PAGE);
    until("all is counted", async || {
        let requests = overspill.status().requests;
        (requests.served == 3
            && requests.offloaded == 1
            && requests.throttled == 1
            && requests.dropped == 1)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn goes_around_any_service_with_any_body() {
    let overspill = overspill("").await;
    // A request without a body, an answer whose data is no `Bytes`, an error of its own, and no axum.
    #[derive(Debug, PartialEq)]
    struct Broken;
    let service = overspill
        .layer()
        .layer(service_fn(async |request: http::Request<()>| {
            if request.uri().path() == "/broken" {
                return Err(Broken);
            }
            // Wrapped round, so that the data has two pieces.
            let mut data: VecDeque<u8> = VecDeque::with_capacity(64);
            data.extend(&[0; 60]);
            data.drain(..60);
            data.extend(PAGE.as_bytes());
            let mut response = Response::new(Full::new(data));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
            Ok::<_, Broken>(response)
        }));
    let request = |method: &str, path: &str| {
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "site.example")
            .body(())
            .unwrap()
    };
    async fn text<B>(response: Response<B>) -> Result<String, B::Error>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
    for (level, expected) in [(Level::Normal, PAGE), (Level::Offload, MOVED)] {
        hold(&overspill, level);
        let response = service.clone().oneshot(request("GET", "/")).await.unwrap();
        assert_eq!(text(response).await.unwrap(), expected);
    }
    let error = service
        .clone()
        .oneshot(request("GET", "/broken"))
        .await
        .unwrap_err();
    assert_eq!(
        error, Broken,
        "the service's own error, and none of the layer's"
    );
    hold(&overspill, Level::Throttle);
    let response = service.clone().oneshot(request("GET", "/")).await.unwrap();
    assert_eq!(response.status(), 503);
    hold(&overspill, Level::Drop);
    let response = service.clone().oneshot(request("GET", "/")).await.unwrap();
    let error = text(response).await.unwrap_err();
    assert!(error.is::<overspill::offload::Dropped>(), "{error}");
    let response = service.oneshot(request("HEAD", "/")).await.unwrap();
    assert_eq!(
        response.status(),
        503,
        "without the gate nobody asks for a HEAD's body: it is told instead"
    );
}

#[tokio::test]
async fn head_gets_the_headers_that_get_would() {
    let overspill = overspill("").await;
    let site = serve(&overspill, tagged()).await;
    for level in [Level::Normal, Level::Offload, Level::Throttle] {
        hold(&overspill, level);
        let (got, head) = (
            get("/").ask(site).await,
            request("HEAD", "/").ask(site).await,
        );
        assert_eq!(head.status, got.status);
        assert!(head.body.is_empty());
        let names = [
            "etag",
            "cache-control",
            "content-type",
            "last-modified",
            "accept-ranges",
            "vary",
        ];
        for name in names {
            assert_eq!(head.header(name), got.header(name), "{level} {name}");
        }
        if let Some(length) = head.header("content-length") {
            assert_eq!(
                length,
                got.body.len().to_string(),
                "{level}: a length that is told is true"
            );
        }
    }
}

#[tokio::test]
async fn report_counts_what_it_would_do_and_changes_nothing() {
    let reporting = overspill("mode = \"report\"\noffload.redirect = [\"/downloads/**\"]").await;
    let off = overspill("mode = \"off\"\noffload.redirect = [\"/downloads/**\"]").await;
    let app = || tagged().route("/downloads/b.bin", route(async || "b"));
    let (seen, plain) = (serve(&reporting, app()).await, serve(&off, app()).await);
    let asked: [Asked; 5] = [
        get("/"),
        request("HEAD", "/"),
        get("/a.png"),
        get("/downloads/b.bin"),
        get("/").header("If-None-Match", "\"abc\""),
    ];
    let undated = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .filter(|line| !line.starts_with("date: "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    for level in Level::ALL {
        hold(&reporting, level);
        hold(&off, level);
        for asked in &asked {
            let answers = (
                undated(asked.bytes(seen).await),
                undated(asked.bytes(plain).await),
            );
            assert!(answers.0.starts_with("HTTP/1.1 "), "{level} {asked:?}");
            assert_eq!(answers.0, answers.1, "{level} {asked:?}");
        }
    }
    until("what it would have done is counted", async || {
        let counted = reporting.status().requests;
        // At `throttle` and `drop` four of the five begin something; an object is served.
        (counted.redirected == 1
            && counted.offloaded == 3
            && counted.throttled == 4
            && counted.dropped == 5)
            .then_some(())
    })
    .await;
    let counted = off.status().requests;
    let sum = counted.served
        + counted.offloaded
        + counted.redirected
        + counted.throttled
        + counted.dropped
        + counted.bypassed;
    assert_eq!(sum, 0, "off is off");
}

#[tokio::test]
async fn only_plain_gets_and_heads_are_redirected() {
    let overspill = overspill("offload.redirect = [\"/downloads/**\"]").await;
    let app = Router::new().fallback(async || "here");
    let site = serve(&overspill, app).await;
    hold(&overspill, Level::Offload);
    let film = "/downloads/a/film.mp4?x=1";
    for method in ["GET", "HEAD"] {
        let answer = request(method, film).ask(site).await;
        assert_eq!(answer.status, 307, "{method}");
        assert_eq!(
            answer.header("location"),
            Some("http://eu.example/downloads/a/film.mp4?x=1")
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.body.is_empty());
    }
    for asked in [
        request("POST", film),
        request("PUT", film),
        request("DELETE", film),
        request("OPTIONS", film),
        get(film).header("Via", "1.1 cache.example"),
        get(film).header("CDN-Loop", "cache.example"),
        request("HEAD", film).header("Via", "1.1 cache.example"),
        get("/elsewhere/film.mp4"),
        get("/downloads.mp4"),
    ] {
        let answer = asked.ask(site).await;
        assert_eq!(answer.status, 200, "{asked:?}");
        assert_eq!(answer.header("location"), None);
    }
    hold(&overspill, Level::Normal);
    assert_eq!(get(film).ask(site).await.text(), "here");
}

#[tokio::test]
async fn pulls_are_served_as_they_are_and_the_application_never_sees_the_token() {
    let overspill =
        overspill("offload.token = \"open sesame\"\nprimary.trusted_proxies = [\"127.0.0.1\"]")
            .await;
    // (The gate knows addresses only: at `drop` it lets a trusted one pass.)
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let note = seen.clone();
    let app = Router::new().fallback(async move |request: Request| {
        note.lock().unwrap().push(request.headers().clone());
        Html(PAGE)
    });
    let site = serve(&overspill, app).await;
    let pull = |token: &str| {
        get("/")
            .header("X-Overspill-Token", token)
            .header("CDN-Loop", "edge")
    };
    for level in Level::ALL {
        hold(&overspill, level);
        let answer = pull("open sesame").ask(site).await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, PAGE),
            "{level}: neither rewritten nor turned away"
        );
    }
    hold(&overspill, Level::Offload);
    for wrong in ["open", "open sesame!", ""] {
        assert_eq!(
            pull(wrong).ask(site).await.text(),
            MOVED,
            "{wrong:?} opens nothing"
        );
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 7);
    assert!(
        seen.iter()
            .all(|headers| !headers.contains_key("x-overspill-token"))
    );
    assert_eq!(overspill.status().requests.bypassed, 4);
}

#[tokio::test]
async fn validators_hold_for_the_page_that_they_were_given_with() {
    let overspill = overspill("offload.hold = \"1h\"").await;
    let site = serve(&overspill, tagged()).await;
    let with = |tag: &str| {
        get("/")
            .header("If-None-Match", tag)
            .header("Accept", "text/html")
    };

    let first = get("/").ask(site).await;
    assert_eq!(
        (first.header("etag"), first.text()),
        (Some("\"abc\""), PAGE)
    );
    assert_eq!(with("\"abc\"").ask(site).await.status, 304);

    hold(&overspill, Level::Offload);
    let moved = with("\"abc\"").ask(site).await;
    assert_eq!(
        (moved.status, moved.text()),
        (200, MOVED),
        "another page than the visitor has"
    );
    let tag = moved.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\"abc-ov"), "{tag}");
    let again = with(&tag).ask(site).await;
    assert_eq!(
        (again.status, again.header("etag")),
        (304, Some(tag.as_str())),
        "the same page still"
    );
    assert!(again.body.is_empty());
    for answer in [&moved, &again] {
        let caching = answer.header("cache-control").unwrap();
        assert!(
            caching.contains("private") && caching.contains("max-age=60"),
            "{caching}"
        );
        // A browser takes the policy of a 304 for the page that it has.
        assert_eq!(
            answer.header("content-security-policy"),
            Some("img-src 'self' http://eu.example")
        );
    }

    hold(&overspill, Level::Normal);
    let back = with(&tag).ask(site).await;
    assert_eq!(
        (back.status, back.text()),
        (200, PAGE),
        "the visitor's page links elsewhere"
    );
    assert_eq!(back.header("etag"), Some("\"abc\""));
    assert_eq!(with("\"abc\"").ask(site).await.status, 304);
}

#[tokio::test]
async fn nobody_is_led_from_https_to_http() {
    let lines = "primary.trusted_proxies = [\"127.0.0.1\"]\noffload.redirect = [\"/a.png\"]";
    let overspill = overspill(lines).await;
    let site = serve(&overspill, tagged()).await;
    hold(&overspill, Level::Offload);
    let plain = get("/a.png").ask(site).await;
    assert_eq!(
        (plain.status, plain.header("location")),
        (307, Some("http://eu.example/a.png"))
    );
    let https = |path| get(path).header("X-Forwarded-Proto", "https");
    assert_eq!(https("/a.png").ask(site).await.text(), "png");
    assert_eq!(https("/").ask(site).await.text(), PAGE);
}

#[tokio::test]
async fn off_means_off_but_the_token_is_nobodys_business() {
    let overspill = overspill("mode = \"off\"\noffload.token = \"secret\"").await;
    let shown = async |headers: HeaderMap| headers.contains_key("x-overspill-token").to_string();
    let site = serve(&overspill, Router::new().route("/", route(shown))).await;
    hold(&overspill, Level::Drop);
    let asked = get("/").header("X-Overspill-Token", "secret");
    assert_eq!(asked.ask(site).await.text(), "false");
}

#[tokio::test]
async fn a_chooser_that_names_no_server_costs_nobody_a_page() {
    use overspill::servers::{Candidate, Choose, Client, Select};
    #[derive(Debug)]
    struct Wrong;
    impl Select for Wrong {
        fn prepare(&self, _: &[Candidate]) -> Box<dyn Choose> {
            Box::new(Wrong)
        }
    }
    impl Choose for Wrong {
        fn choose(&self, _: &Client<'_>, _: &dyn Fn(usize) -> bool) -> Option<usize> {
            Some(99)
        }
    }
    let settings = Settings::from_toml(&Config::new(SERVER).to_string()).unwrap();
    let overspill = Overspill::builder(settings).select(Wrong).start().unwrap();
    let site = serve(&overspill, tagged()).await;
    hold(&overspill, Level::Offload);
    assert_eq!(get("/").ask(site).await.text(), PAGE);
}

#[tokio::test]
async fn a_large_page_that_comes_as_one_piece_goes_out_in_many() {
    let overspill = overspill("").await;
    hold(&overspill, Level::Offload);
    let mut page = PAGE.repeat(100);
    page.push_str(&"x".repeat(3 << 20));
    let service = overspill
        .layer()
        .layer(service_fn(async |_: http::Request<()>| {
            let mut response = Response::new(Full::new(Bytes::from(page.clone())));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
            Ok::<_, Infallible>(response)
        }));
    let request = http::Request::get("/")
        .header("host", "site.example")
        .body(())
        .unwrap();
    let mut body = service.oneshot(request).await.unwrap().into_body();
    let mut largest = 0;
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        largest = largest.max(data.len());
        all.extend_from_slice(&data);
    }
    assert_eq!(all.len(), page.len() + 100 * "http://eu.example".len());
    assert!(largest < 200 * 1024, "{largest}");
}

/// A page without an end.
fn endless() -> Router {
    let mut piece = PAGE.as_bytes().to_vec();
    piece.resize(64 * 1024, b'x');
    let piece = Bytes::from(piece);
    let page = async move || {
        let pieces = stream::repeat(Ok::<_, Infallible>(piece.clone()));
        (
            [(header::CONTENT_TYPE, "text/html")],
            Body::from_stream(pieces),
        )
    };
    Router::new().route("/", route(page))
}

#[tokio::test]
async fn a_page_given_up_half_way_is_in_flight_no_more() {
    let overspill = overspill("").await;
    let site = serve(&overspill, endless()).await;
    for level in [Level::Normal, Level::Offload] {
        hold(&overspill, level);
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut stream = connect([127, 0, 0, 1].into(), site).await.unwrap();
            stream.write_all(get("/").text().as_bytes()).await.unwrap();
            let mut some = vec![0; 100_000];
            stream.read_exact(&mut some).await.unwrap();
            streams.push(stream);
        }
        assert_eq!(overspill.status().in_flight, 5);
        drop(streams);
        until("nothing is in flight", async || {
            (overspill.status().in_flight == 0).then_some(())
        })
        .await;
    }
    let counted = overspill.status().requests;
    assert_eq!(
        (counted.served, counted.offloaded),
        (5, 5),
        "each is counted once"
    );
}

/// A figure of /proc/PID/status, in bytes.
#[cfg(target_os = "linux")]
fn memory(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap();
    line.trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_page_of_200_mb_is_rewritten_within_8_mb() {
    const PIECES: usize = 3200;
    // 64 KiB, with two links: an ordinary one, and one whose tag lies across the boundary of two pieces.
    let mut piece = b"\"/c.png\"><p>text<img src=\"/a.png\">".to_vec();
    piece.resize(64 * 1024 - 9, b'x');
    piece.extend_from_slice(b"<img src=");
    let piece = Bytes::from(piece);
    let page = {
        let piece = piece.clone();
        move |pieces: usize| {
            let chunks =
                stream::iter(std::iter::repeat_n(piece.clone(), pieces).map(Ok::<_, Infallible>));
            async move {
                (
                    [(header::CONTENT_TYPE, "text/html")],
                    Body::from_stream(chunks),
                )
            }
        }
    };
    let (small, large) = (page.clone(), page);
    let app = Router::new()
        .route("/small", route(move || small(32)))
        .route("/large", route(move || large(PIECES)));
    let upstream = Upstream::start(app).await;
    let config = Config::new(SERVER).with(format!(
        "primary.upstream = \"http://{}\"",
        upstream.address
    ));
    let program = Program::serve(&config).await;
    program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    // What every page needs has been needed before.
    get("/small").ask(program.site).await;
    let before = memory(program.id(), "VmHWM");
    let mut stream = connect([127, 0, 0, 1].into(), program.site).await.unwrap();
    stream
        .write_all(get("/large").text().as_bytes())
        .await
        .unwrap();
    let (mut read, mut moved, mut buffer, mut tail) = (0, 0, vec![0; 1 << 20], Vec::new());
    let prefix = b"http://eu.example/";
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        if length == 0 {
            break;
        }
        read += length;
        // What may be the beginning of a link is looked at again with what follows it.
        tail.extend_from_slice(&buffer[..length]);
        moved += tail
            .windows(prefix.len())
            .filter(|window| *window == prefix)
            .count();
        tail.drain(..tail.len().saturating_sub(prefix.len() - 1));
    }
    assert!(tail.ends_with(b"0\r\n\r\n"), "the last chunk came");
    assert!(read > PIECES * 64 * 1024, "{read} bytes");
    // The very first piece begins within no tag, and the last ends within one.
    assert!(moved >= 2 * PIECES - 2, "{moved} links of {}", 2 * PIECES);
    let grown = memory(program.id(), "VmHWM") - before;
    assert!(grown < 8_000_000, "{grown} bytes more");
}

#[tokio::test]
async fn other_methods_pass_with_their_bodies() {
    let overspill = overspill("").await;
    let app = Router::new().fallback(async |request: Request| {
        let method: Method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Html(format!(
            "{method} {} {PAGE}",
            String::from_utf8_lossy(&body)
        ))
    });
    let site = serve(&overspill, app).await;
    hold(&overspill, Level::Offload);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let mut stream = connect([127, 0, 0, 1].into(), site).await.unwrap();
        let text = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let (read, _) = support::client::drain(&mut stream).await;
        let answer = support::raw::parse(&read, false);
        assert_eq!(
            answer.text(),
            format!("{method} a=b {PAGE}"),
            "only pages that are asked for are rewritten"
        );
    }
}

#[tokio::test]
async fn compression_goes_around_the_layer() {
    let (page, moved) = (PAGE.repeat(200), MOVED.repeat(200));
    let sent = page.clone();
    let answer = async move |headers: HeaderMap| {
        let tag = [(header::ETAG, "\"abc\"")];
        // It compares weakly.
        let shown = headers.get(header::IF_NONE_MATCH);
        if shown.is_some_and(|tag| tag.as_bytes().ends_with(b"\"abc\"")) {
            return (StatusCode::NOT_MODIFIED, tag).into_response();
        }
        (tag, Html(sent)).into_response()
    };
    let overspill = overspill("").await;
    let app = Router::new()
        .route("/", route(answer))
        .layer(overspill.layer())
        .layer(CompressionLayer::new());
    let site = serve_as_it_is(&overspill, app).await;
    let ask = async |method: &str, accepted: &str, tag: Option<&str>| {
        let mut asked = request(method, "/").header("Accept", "text/html");
        if !accepted.is_empty() {
            asked = asked.header("Accept-Encoding", accepted);
        }
        if let Some(tag) = tag {
            asked = asked.header("If-None-Match", tag);
        }
        asked.ask(site).await
    };
    for (level, expected) in [(Level::Normal, &page), (Level::Offload, &moved)] {
        hold(&overspill, level);
        let plain = ask("GET", "", None).await;
        assert_eq!(plain.text(), expected);
        assert_eq!(plain.header("content-encoding"), None);
        assert_eq!(
            plain.header("content-length"),
            Some(&*expected.len().to_string())
        );

        for (accepted, coding) in [("gzip", Coding::Gzip), ("br", Coding::Brotli)] {
            let got = ask("GET", accepted, None).await;
            assert_eq!(got.header("content-encoding"), Some(accepted), "{level}");
            assert!(got.is_whole && got.body.len() < expected.len());
            let body = Bytes::from(got.body.clone());
            let decoded = decode_all(coding, &body, expected.len()).unwrap();
            assert_eq!(decoded, expected.as_bytes(), "{level} {accepted}");
            // As a cache needs to know.
            let vary = got.header("vary").unwrap_or_default().to_ascii_lowercase();
            assert!(vary.contains("accept-encoding"), "{vary}");
            let tag = got.header("etag").expect("a tag").to_owned();

            let head = ask("HEAD", accepted, None).await;
            assert_eq!(head.status, 200, "{level} {accepted}");
            assert!(head.body.is_empty());
            assert_eq!(head.header("etag"), Some(&*tag), "{level} {accepted}");
            if let Some(length) = head.header("content-length") {
                let lengths = [got.body.len(), expected.len()].map(|length| length.to_string());
                assert!(
                    lengths.iter().any(|known| known == length),
                    "{level} {length}"
                );
            }

            // What the visitor has is still the page, and of the other level it is not.
            let again = ask("GET", accepted, Some(&tag)).await;
            assert_eq!(
                (again.status, again.header("etag")),
                (304, Some(&*tag)),
                "{level}"
            );
            assert!(again.body.is_empty());
            assert_eq!(again.header("content-encoding"), None);
        }
    }
}
