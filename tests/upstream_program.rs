//! The upstream's overload and its health, as the program sees and tells them; TLS and HTTP/2 to a real server.

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
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::{
    self,
    client::{get, post},
    config::Config,
    folder,
    frames::Peer,
    process::Nginx,
    program::Program,
    tls::{self, Certificates},
    upstream::Upstream,
    wait::soon,
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
#[ignore = "needs nginx"]
async fn nothing_is_lost_where_the_upstream_often_ends_its_connections() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let _nginx = Nginx::configured(
        "",
        &format!("listen 127.0.0.1:{port} http2; keepalive_requests 50; return 200 fine;"),
    );
    let lines = format!(
        "primary.upstream = \"http://127.0.0.1:{port}\"\nprimary.proxy.http2 = true\n\
         primary.proxy.keep = \"1h\""
    );
    let program = Program::serve(&Config::new(lines)).await;
    let asking = (0..16).map(|_| async {
        for _ in 0..40 {
            for request in [get("/"), post("/", "an order")] {
                let answer = request.ask(program.site).await;
                let told = (answer.status, answer.text());
                assert_eq!(told, (200, "fine"), "{}", program.log());
            }
        }
    });
    futures_util::future::join_all(asking).await;
}

/// An upstream over TLS that speaks `protocol`, and the program in front of it, which is asked 20 times before it has an answer:
/// its only connection.
async fn asked_at_once(
    protocol: &str,
) -> (
    Program,
    tokio::task::JoinHandle<()>,
    TcpListener,
    TlsAcceptor,
    TcpStream,
) {
    let certificates = Certificates::of_localhost();
    let certificate = certificates.path("a.pem");
    let key = PrivateKeyDer::from_pem_file(certificates.path("a.key")).unwrap();
    let chain = vec![tls::certificate(&certificate)];
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let lines = format!(
        "primary.upstream = \"https://localhost:{port}\"\nprimary.proxy.connect_timeout = \"1h\""
    );
    let first = format!("export SSL_CERT_FILE={}", certificate.display());
    let program = Program::serve_after(&first, &Config::new(lines)).await;
    let site = program.site;
    let asking = tokio::spawn(async move {
        let asking = (0..20).map(|_| async move {
            let answer = get("/").ask(site).await;
            assert_eq!((answer.status, answer.text()), (200, "fine"));
        });
        futures_util::future::join_all(asking).await;
    });
    let (stream, _) = soon("a connection", listener.accept()).await.unwrap();
    program
        .until("all have asked", |status| {
            status["upstream"]["waiting"] == 20
        })
        .await;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    (program, asking, listener, acceptor, stream)
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn who_asks_while_http_2_is_agreed_on_waits_for_the_one_connection() {
    let (_program, asking, listener, acceptor, stream) = asked_at_once("h2").await;
    let stream = soon("a handshake", acceptor.accept(stream)).await.unwrap();
    let mut peer = Peer::greet(stream, None).await;
    for _ in 0..20 {
        let stream = peer.asked().await;
        peer.answer(stream).await;
    }
    soon("all answers", asking).await.unwrap();
    // Nobody else has connected.
    let own = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (_, next) = soon("a connection", listener.accept()).await.unwrap();
    assert_eq!(next, own.local_addr().unwrap());
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn where_http_1_is_agreed_on_each_opens_its_own() {
    let (_program, asking, listener, acceptor, first) = asked_at_once("http/1.1").await;
    let mut streams = vec![first];
    let mut asked = Vec::new();
    // None is answered before all have come, each over its own.
    for _ in 0..20 {
        let stream = match streams.pop() {
            Some(stream) => stream,
            None => soon("a connection", listener.accept()).await.unwrap().0,
        };
        let mut stream = soon("a handshake", acceptor.accept(stream)).await.unwrap();
        read_head(&mut stream).await;
        asked.push(stream);
    }
    for stream in &mut asked {
        let fine = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        stream.write_all(fine).await.unwrap();
        stream.flush().await.unwrap();
    }
    soon("all answers", asking).await.unwrap();
}

async fn read_head(stream: &mut TlsStream<TcpStream>) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(soon("a head", stream.read_u8()).await.unwrap());
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
