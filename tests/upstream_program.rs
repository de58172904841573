//! The upstream's overload and its health, as the program sees and tells them; TLS and HTTP/2 to a real server.

#![cfg(feature = "server")]

mod support;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::Response;
use serde_json::json;
use support::{
    client::get, config::Config, folder, process::Nginx, program::Program, upstream::Upstream,
};

/// What an application does, as the test says.
#[derive(Debug, Default)]
struct Doing {
    status: AtomicU16,
    /// In milliseconds.
    takes: AtomicU64,
}

async fn application(doing: &Arc<Doing>) -> Upstream {
    let doing = doing.clone();
    let page = async move || {
        tokio::time::sleep(Duration::from_millis(doing.takes.load(Relaxed))).await;
        Response::builder()
            .status(doing.status.load(Relaxed))
            .header("retry-after", "3600")
            .body(Body::from("page"))
            .unwrap()
    };
    Upstream::start(Router::new().fallback(page)).await
}

#[tokio::test]
async fn an_upstream_that_is_slow_or_says_503_is_load() {
    let doing = Arc::new(Doing::default());
    doing.status.store(200, Relaxed);
    let app = application(&doing).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nload.upstream.capacity = \"400ms\"\nload.upstream.offload = 0.5",
        app.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let signal = program.signal("upstream").await;
    assert_eq!(
        (&signal["offload"], &signal["off"]),
        (&json!(0.5), &json!(null)),
        "{signal}"
    );

    doing.takes.store(600, Relaxed);
    let crowd = |program: &Program| {
        let site = program.site;
        tokio::spawn(async move {
            loop {
                let _ = get("/").try_ask(site).await;
            }
        })
    };
    let visitors: Vec<_> = (0..4).map(|_| crowd(&program)).collect();
    program.until_level("offload").await;
    for visitor in visitors {
        visitor.abort();
    }
    program
        .until("it recovers", |status| {
            let signals = status["signals"].as_array().unwrap();
            signals
                .iter()
                .any(|signal| signal["name"] == "upstream" && signal["load"].as_f64() < Some(0.2))
        })
        .await;

    // It says so itself, once, and for an hour: a minute of that is believed.
    doing.takes.store(0, Relaxed);
    doing.status.store(503, Relaxed);
    assert_eq!(get("/").ask(program.site).await.status, 503);
    program
        .until("it is full", |status| {
            let signals = status["signals"].as_array().unwrap();
            signals
                .iter()
                .any(|signal| signal["name"] == "upstream" && signal["load"].as_f64() > Some(0.9))
        })
        .await;
}

#[tokio::test]
async fn without_a_capacity_the_signal_is_off() {
    let doing = Arc::new(Doing::default());
    doing.status.store(503, Relaxed);
    let app = application(&doing).await;
    let lines = format!("primary.upstream = \"http://{}\"", app.address);
    let program = Program::serve(&Config::new(lines)).await;
    assert_eq!(get("/").ask(program.site).await.status, 503);
    let signal = program.signal("upstream").await;
    assert_eq!(
        signal["off"],
        "no capacity given (`load.upstream.capacity`)"
    );
    assert_eq!(program.status().await["level"], "normal");
}

#[tokio::test]
async fn the_status_tells_whether_the_upstream_answers() {
    let doing = Arc::new(Doing::default());
    doing.status.store(200, Relaxed);
    let app = application(&doing).await;
    let address = app.address;
    let lines =
        format!("primary.upstream = \"http://{address}/shop\"\nprimary.proxy.keep = \"0s\"");
    let program = Program::serve(&Config::new(lines)).await;
    let told = program.status().await["upstream"].clone();
    assert_eq!(told["url"], format!("http://{address}/shop"));
    assert_eq!(
        (&told["reachable"], &told["since"]),
        (&json!(null), &json!(null)),
        "{told}"
    );
    assert_eq!(get("/").ask(program.site).await.status, 200);
    let told = program.status().await["upstream"].clone();
    assert_eq!(
        (&told["reachable"], &told["last_failure"]),
        (&json!(true), &json!(null)),
        "{told}"
    );
    assert_eq!(told["waiting"], 0);
    drop(app);
    support::wait::until("it is known to be gone", async || {
        let _ = get("/").try_ask(program.site).await;
        let told = program.status().await["upstream"].clone();
        (told["reachable"] == json!(false) && told["last_failure"]["time"].is_f64()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_folder_has_no_upstream() {
    let site = support::small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    assert_eq!(program.status().await["upstream"], json!(null));
}

#[tokio::test]
#[ignore = "needs nginx and openssl"]
async fn over_tls_the_upstream_chooses_http_2_or_1() {
    let keys = tempfile::tempdir().unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| keys.path().join(name));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let site = folder([("index.html", b"a page".as_slice())]);
    for (server, http2, protocol) in [
        ("http2", "\"auto\"", "HTTP/2.0"),
        ("http2", "true", "HTTP/2.0"),
        ("http2", "false", "HTTP/1.1"),
        ("", "\"auto\"", "HTTP/1.1"),
    ] {
        // The port of a second listener is told by a first one.
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let nginx = Nginx::configured(
            "",
            &format!(
                "listen 127.0.0.1:{port} ssl {server}; ssl_certificate {}; ssl_certificate_key {}; root {}; \
                 add_header X-Protocol $server_protocol;",
                certificate.display(),
                key.display(),
                site.path().display()
            ),
        );
        let lines = format!(
            "primary.upstream = \"https://localhost:{port}\"\nprimary.proxy.http2 = {http2}"
        );
        let first = format!("export SSL_CERT_FILE={}", certificate.display());
        let program = Program::serve_after(&first, &Config::new(lines)).await;
        for _ in 0..3 {
            let answer = get("/").ask(program.site).await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, "a page"),
                "{}",
                program.log()
            );
            assert_eq!(
                answer.header("x-protocol"),
                Some(protocol),
                "{server} {http2}"
            );
        }
        drop(nginx);
    }
}

#[tokio::test]
async fn an_unusable_upstream_is_named_with_its_key() {
    for (url, expected) in [
        ("ftp://app", "scheme http or https"),
        ("unix:app.sock", "the path of a UNIX socket"),
    ] {
        let finished =
            support::program::run(&["check"], &format!("primary.upstream = \"{url}\"")).await;
        assert_eq!(finished.code, Some(1));
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(
            said.contains("primary.upstream") && said.contains(expected),
            "{said}"
        );
    }
    let config = "primary.proxy = { connect_timeout = \"0s\", http2 = \"maybe\", host = \"mine\" }";
    let finished = support::program::run(&["check"], config).await;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for expected in [
        "primary.proxy.connect_timeout",
        "primary.proxy.http2",
        "primary.proxy.host",
        "\"auto\", true or false",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
