//! Turned away, as clients see it: curl, and sockets that count every byte.

use std::{io, net::Ipv4Addr};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    self,
    client::{connect, drain, get, request, visitor},
    config::Config,
    curl::curl,
    folder,
    program::Program,
};

/// What an HTTP/2 client says first (RFC 9113 section 3.4): the preface, and settings without a setting.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn program(lines: &str) -> (TempDir, Program) {
    let site = folder([
        ("index.html", b"<img src=/a.png>".as_slice()),
        ("a.png", b"png"),
        ("healthz", b"well"),
    ]);
    let lines = format!("primary.site = {:?}\n{lines}", site.path());
    let program = Program::serve(&Config::new(lines)).await;
    (site, program)
}

/// An offload server at this very address, so that the gate lets all of it pass, and the layer drops.
const GATE_OPEN: &str =
    r#"offload.servers = [{ name = "eu", url = "http://127.0.0.1:9", health = false }]"#;

#[tokio::test]
async fn curl_gets_a_503_with_retry_after_at_throttle() {
    let (_site, program) = program("throttle.retry_after = \"20s\"").await;
    program.hold_level("throttle").await;
    let url = format!("http://{}/", program.site);
    for version in [
        "--http1.0",
        "--http1.1",
        "--http2",
        "--http2-prior-knowledge",
    ] {
        let said = curl(&[version, &url]).await;
        assert_eq!(said.code, Some(0), "{version} {said:?}");
        let (head, page) = said.stdout.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert!(
            head.lines().next().unwrap().contains(" 503"),
            "{version} {head}"
        );
        let value = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let seconds: u64 = value("retry-after:").unwrap().parse().unwrap();
        assert!((20..=30).contains(&seconds), "{seconds}");
        assert_eq!(value("cache-control:"), Some("no-store"));
        assert!(value("content-type:").unwrap().starts_with("text/html"));
        assert!(page.contains("overloaded"), "{page}");
        let fail = curl(&[version, "--fail", &url]).await;
        assert_eq!(fail.code, Some(22), "{version} {fail:?}");
        let head = curl(&[version, "--head", &url]).await;
        assert!(
            head.stdout.contains(" 503") && head.stdout.ends_with("\r\n\r\n"),
            "{version} {head:?}"
        );
    }
    let object = curl(&[&format!("{url}a.png")]).await;
    assert!(
        object.stdout.ends_with("png"),
        "objects of pages that were let in are served: {object:?}"
    );
    let health = curl(&[&format!("{url}healthz")]).await;
    assert!(health.stdout.ends_with("well"), "{health:?}");
}

#[tokio::test]
async fn the_503_speaks_what_the_client_takes() {
    let page = folder([(
        "page.html",
        b"<p>come back in {{ retry_after }} s".as_slice(),
    )]);
    let lines = format!(
        "throttle.page = {:?}\nthrottle.retry_after = \"7s\"",
        page.path().join("page.html")
    );
    let (_site, program) = program(&lines).await;
    program.hold_level("throttle").await;
    for (accept, kind, body) in [
        (
            "text/html",
            "text/html; charset=utf-8",
            "<p>come back in 7 s",
        ),
        (
            "application/json",
            "application/problem+json",
            "\"status\":503",
        ),
        (
            "text/plain",
            "text/plain; charset=utf-8",
            "The server is overloaded",
        ),
    ] {
        let answer = get("/").header("Accept", accept).ask(program.site).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (503, Some(kind))
        );
        assert!(answer.text().contains(body), "{accept} {}", answer.text());
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        assert_eq!(
            request(method, "/a.png").ask(program.site).await.status,
            503,
            "{method} begins something"
        );
    }
}

#[tokio::test]
async fn curl_gets_an_empty_reply_at_drop() {
    for gate in ["", GATE_OPEN] {
        let (_site, program) = program(gate).await;
        program.hold_level("drop").await;
        let url = format!("http://{}/", program.site);
        for arguments in [
            &["--http1.0"][..],
            &["--http1.1"],
            &["--http2"],
            &["--http1.1", "--head"],
            &["--http1.0", "--head"],
        ] {
            let said = curl(&[arguments, &[&url]].concat()).await;
            assert_eq!(
                said.code,
                Some(52),
                "empty reply from server, not {said:?} ({arguments:?}, {gate:?})"
            );
            assert_eq!(said.stdout, "");
        }
        let said = curl(&["--data", "a=b", &url]).await;
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(52), ""),
            "a POST {said:?}"
        );
        for arguments in [
            &["--http2-prior-knowledge"][..],
            &["--http2-prior-knowledge", "--head"],
        ] {
            let said = curl(&[arguments, &[&url]].concat()).await;
            // With prior knowledge curl says what ended first: the reply (52), the stream (18), HTTP/2 (16, 92),
            // its sending (55) or its receiving (56).
            assert!(
                [16, 18, 52, 55, 56, 92].map(Some).contains(&said.code),
                "the connection's end: {said:?} ({gate:?})"
            );
            assert_eq!(said.stdout, "", "{arguments:?}");
        }
    }
}

/// The frames' types in what a server sent over HTTP/2.
fn frames(mut read: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = read {
        types.push(*kind);
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        read = rest.get(length..).unwrap_or_default();
    }
    types
}

/// A request for `/` as an HTTP/2 HEADERS frame that ends the stream: indexed fields of the static table
/// (RFC 7541 appendix A), and the authority as it is.
fn headers_frame(method: u8) -> Vec<u8> {
    // :method, :scheme http, :path /, :authority (index 1, literal without indexing)
    let mut block = vec![method, 0x86, 0x84, 0x01, 1, b'a'];
    let mut frame = vec![0, 0, block.len() as u8, 1, 0x05, 0, 0, 0, 1];
    frame.append(&mut block);
    frame
}

/// `:method: GET` of the static table.
const GET: u8 = 0x82;

#[tokio::test]
async fn no_head_of_an_answer_is_sent_over_http_2() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const RST_STREAM: u8 = 3;
    // HEAD is not in the static table: `:method` is index 2, literal without indexing, then its value.
    let head = {
        let mut block = vec![0x02, 4, b'H', b'E', b'A', b'D', 0x86, 0x84, 0x01, 1, b'a'];
        let mut frame = vec![0, 0, block.len() as u8, 1, 0x05, 0, 0, 0, 1];
        frame.append(&mut block);
        frame
    };
    for frame in [headers_frame(GET), head] {
        let (_site, program) = program(GATE_OPEN).await;
        // To see that the frame is a proper one: it is answered at `normal`.
        let mut stream = connect(Ipv4Addr::LOCALHOST, program.site).await.unwrap();
        stream.write_all(&[PREFACE, &frame].concat()).await.unwrap();
        let mut read = Vec::new();
        while !frames(&read).contains(&HEADERS) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{read:?}");
        }
        program.hold_level("drop").await;
        let mut stream = connect(Ipv4Addr::LOCALHOST, program.site).await.unwrap();
        stream.write_all(&[PREFACE, &frame].concat()).await.unwrap();
        let (read, _) = drain(&mut stream).await;
        let sent = frames(&read);
        assert!(
            !sent.contains(&HEADERS) && !sent.contains(&RST_STREAM),
            "{sent:?}"
        );
        assert!(
            sent.iter().all(|kind| *kind >= SETTINGS),
            "nothing but the connection's own frames: {sent:?}"
        );
    }
}

#[tokio::test]
async fn a_trusted_proxy_gets_no_head_either_and_keeps_its_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    let (_site, program) = program("primary.trusted_proxies = [\"127.0.0.1\"]").await;
    program.hold_level("drop").await;
    let mut stream = connect(Ipv4Addr::LOCALHOST, program.site).await.unwrap();
    let frame = headers_frame(GET);
    stream.write_all(&[PREFACE, &frame].concat()).await.unwrap();
    let mut read = Vec::new();
    while !frames(&read).contains(&RST_STREAM) {
        let count = support::wait::soon("a frame", stream.read_buf(&mut read)).await;
        assert!(count.unwrap() > 0, "{read:?}");
    }
    assert!(!frames(&read).contains(&HEADERS), "{:?}", frames(&read));
    // Other visitors' requests are on it, too.
    program.hold_level("normal").await;
    let mut next = frame;
    *next.get_mut(8).unwrap() = 3;
    stream.write_all(&next).await.unwrap();
    while !frames(&read).contains(&HEADERS) {
        let count = support::wait::soon("a frame", stream.read_buf(&mut read)).await;
        assert!(count.unwrap() > 0, "{read:?}");
    }
}

#[tokio::test]
async fn not_a_byte_is_sent_over_http_1() {
    for lines in ["", GATE_OPEN, "drop.method = \"reset\""] {
        let (_site, program) = program(lines).await;
        program.hold_level("drop").await;
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            for path in ["/", "/a.png", "/nowhere"] {
                let read = request(method, path).bytes(program.site).await;
                assert_eq!(read, b"", "{method} {path} {lines}");
            }
        }
        assert!(
            program.status().await["requests"]["dropped"]
                .as_u64()
                .unwrap()
                >= 12
        );
    }
}

#[tokio::test]
async fn close_ends_with_a_fin_and_reset_with_a_rst() {
    for (method, gate, expected) in [
        ("close", "", None),
        ("close", GATE_OPEN, None),
        ("reset", "", Some(io::ErrorKind::ConnectionReset)),
        ("reset", GATE_OPEN, Some(io::ErrorKind::ConnectionReset)),
    ] {
        let (_site, program) = program(&format!("drop.method = \"{method}\"\n{gate}")).await;
        // A connection that is there already: its next request is dropped by the layer.
        let mut kept = connect(Ipv4Addr::LOCALHOST, program.site).await.unwrap();
        kept.write_all(b"GET /a.png HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut first = Vec::new();
        while !first.ends_with(b"\r\n\r\npng") {
            assert!(kept.read_buf(&mut first).await.unwrap() > 0);
        }
        program.hold_level("drop").await;
        kept.write_all(b"GET /a.png HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(
            drain(&mut kept).await,
            (Vec::new(), expected),
            "{method}: a kept connection"
        );
        // A new one. Without a word of ours, so that only the server's own end is seen.
        if gate.is_empty() {
            // The end may be there before `connect` has looked whether it came about: then that tells it.
            let ended = match connect(visitor(1), program.site).await {
                Ok(mut new) => drain(&mut new).await,
                Err(error) => (Vec::new(), Some(error.kind())),
            };
            assert_eq!(ended, (Vec::new(), expected), "{method}: a new connection");
        }
    }
}

#[tokio::test]
async fn stall_leaves_new_connections_unaccepted_until_it_is_over() {
    let (_site, program) = program("drop.method = \"stall\"").await;
    program.hold_level("drop").await;
    // The one that is being waited for when the level changes is accepted still; what it asks for is dropped.
    assert_eq!(get("/").bytes(program.site).await, b"");
    let site = program.site;
    let waiting = tokio::spawn(async move { get("/a.png").ask(site).await });
    program.hold_level("normal").await;
    let answer = support::wait::soon("an answer", waiting).await.unwrap();
    assert_eq!(answer.text(), "png");
    assert_eq!(program.status().await["requests"]["dropped"], 1);
}

#[tokio::test]
async fn the_layer_drops_without_a_byte_where_throttling_means_dropping() {
    let (_site, program) = program("throttle.action = \"drop\"").await;
    program.hold_level("throttle").await;
    let url = format!("http://{}/", program.site);
    for arguments in [&["--http1.1"][..], &["--http1.1", "--head"]] {
        let said = curl(&[arguments, &[&url]].concat()).await;
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(52), ""),
            "{said:?}"
        );
    }
    assert_eq!(
        get("/a.png").ask(program.site).await.text(),
        "png",
        "an object of a page that was let in"
    );
}

#[tokio::test]
async fn exempt_are_health_paths_exempt_addresses_and_pulls() {
    let lines = r#"
        throttle.bypass.addresses = ["127.1.0.7"]
        offload.token = "open sesame"
        primary.trusted_proxies = ["127.1.0.9"]
        offload.servers = [{ name = "eu", url = "http://127.1.0.8:9", health = false }]
    "#;
    let (_site, program) = program(lines).await;
    for level in ["throttle", "drop"] {
        program.hold_level(level).await;
        let exempt = get("/").from(visitor(7)).ask(program.site).await;
        assert_eq!(exempt.status, 200, "{level}: an exempt address");
        let through = get("/")
            .from(visitor(9))
            .header("X-Forwarded-For", "127.1.0.7")
            .ask(program.site)
            .await;
        assert_eq!(
            through.status, 200,
            "{level}: the same through a trusted proxy"
        );
        let pull = get("/")
            .from(visitor(8))
            .header("X-Overspill-Token", "open sesame")
            .ask(program.site)
            .await;
        assert_eq!(pull.status, 200, "{level}: a pull");
        let health = get("/healthz").from(visitor(9)).ask(program.site).await;
        assert_eq!(health.status, 200, "{level}: the health path");
        let turned_away =
            |reply: Option<support::raw::Answer>| reply.is_none_or(|answer| answer.status == 503);
        let wrong = get("/")
            .from(visitor(8))
            .header("X-Overspill-Token", "open sesam");
        assert!(
            turned_away(wrong.try_ask(program.site).await),
            "{level}: a wrong token"
        );
        let said = get("/")
            .from(visitor(10))
            .header("X-Forwarded-For", "127.1.0.7");
        assert!(
            turned_away(said.try_ask(program.site).await),
            "{level}: who only says that it is exempt"
        );
    }
    let status = program.status().await;
    assert_eq!(status["requests"]["bypassed"], 8);
}

#[tokio::test]
async fn who_was_let_in_stays_in() {
    let (_site, program) = program("throttle.stay = \"5m\"\nload.in_flight.capacity = 1000\nload.in_flight.throttle = 0.0001\nload.in_flight.offload = 0.00001").await;
    // Any request in flight is past the second threshold by a breath: nearly everyone is let in, and given
    // the cookie.
    let cookie = support::wait::until("a cookie", async || {
        let answer = get("/").from(visitor(1)).ask(program.site).await;
        let cookie = answer
            .header("set-cookie")?
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        Some(cookie)
    })
    .await;
    program.hold_level("throttle").await;
    let from = |number: usize| get("/").from(visitor(number));
    assert_eq!(from(1).ask(program.site).await.status, 503, "without it");
    assert_eq!(
        from(1)
            .header("Cookie", &cookie)
            .ask(program.site)
            .await
            .status,
        200
    );
    assert_eq!(
        from(2)
            .header("Cookie", &cookie)
            .ask(program.site)
            .await
            .status,
        503,
        "it is nobody else's"
    );
}
