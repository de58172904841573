//! WebSocket and other upgrades, through the program to a real application.

use std::{path::Path, process::Stdio};

use bytes::Bytes;
use http::{Request, Response};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    client::get,
    config::Config,
    process::{Running, start, wait_for},
    program::Program,
    raw::parse,
    tls,
    wait::{soon, until},
    webdriver::Browser,
};

/// A Node application with a WebSocket that says `hello` and then whatever it is told; and where it listens.
fn echo(socket: Option<&Path>) -> (Running, String) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/upstream/echo.js"
    );
    let mut command = std::process::Command::new("node");
    command.arg(script).args(socket).stdout(Stdio::piped());
    let (running, lines) = start(&mut command, |child| child.stdout.take());
    let said = wait_for(&lines, |line| Some(line.to_owned())).unwrap();
    let url = match socket {
        Some(path) => format!("unix:{}", path.display()),
        None => format!("http://127.0.0.1:{said}"),
    };
    (running, url)
}

async fn before(url: &str, lines: &str) -> Program {
    Program::serve(&Config::new(format!(
        "primary.upstream = \"{url}\"\n{lines}"
    )))
    .await
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: site.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Reads until `end` has come, and gives all before it and itself.
async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    soon(
        format_args!("{} comes", String::from_utf8_lossy(end)),
        async {
            while !read.ends_with(end) {
                read.push(stream.read_u8().await.expect("it is not closed before"));
            }
        },
    )
    .await;
    read
}

/// A WebSocket that has heard its `hello`, and the head of the answer.
async fn open(program: &Program) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(program.site).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let head = String::from_utf8(read_until(&mut stream, b"\r\n\r\n").await).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    read_until(&mut stream, b"\x81\x05hello").await;
    (stream, head)
}

/// A client's frame: masked, by nothing.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        size @ ..126 => frame.push(0x80 | size as u8),
        size @ ..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((size as u16).to_be_bytes());
        }
        size => {
            frame.push(0x80 | 127);
            frame.extend((size as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

async fn says_back(stream: &mut TcpStream, text: &str) {
    stream.write_all(&masked(1, text.as_bytes())).await.unwrap();
    read_until(stream, text.as_bytes()).await;
}

#[tokio::test]
#[ignore = "needs Node"]
async fn a_websocket_goes_through() {
    let (_app, url) = echo(None);
    let program = before(&url, "").await;
    let (mut stream, head) = open(&program).await;
    // RFC 6455 section 1.3: what belongs to that key.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let head = parse(head.as_bytes(), false);
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("connection"), Some("upgrade"));
    assert_eq!(head.header("x-seen-host"), Some("site.example"));
    for word in ["one", "two", "three"] {
        says_back(&mut stream, word).await;
    }

    // More than any buffer on the way holds, both ways at once.
    let much: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut reader, mut writer) = stream.split();
    let frame = masked(2, &much);
    let mut back = vec![0; 10 + much.len()];
    let (sent, read) = tokio::join!(writer.write_all(&frame), reader.read_exact(&mut back));
    sent.unwrap();
    read.unwrap();
    assert!(back[10..] == much[..]);

    // The other end closes after a goodbye.
    stream.write_all(&masked(8, b"\x03\xe8")).await.unwrap();
    let mut rest = Vec::new();
    soon("it ends", stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"\x88\x02\x03\xe8");

    // It counts as any request, and is not in flight for as long as it lasts.
    let status = program
        .until("nothing is under way", |status| status["in_flight"] == 0)
        .await;
    assert_eq!(status["requests"]["served"], json!(1), "{status}");
    assert_eq!(get("/page").ask(program.site).await.status, 200);
}

#[tokio::test]
#[ignore = "needs Node"]
async fn a_websocket_goes_through_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let (_app, url) = echo(Some(&path));
    let program = before(&format!("{url}:/shop"), "").await;
    let (mut stream, _) = open(&program).await;
    says_back(&mut stream, "through a file").await;
    let page = get("/page?a").ask(program.site).await;
    assert_eq!(page.text(), "<title>echo</title>GET /shop/page?a");
}

#[tokio::test]
#[ignore = "needs Node"]
async fn silence_ends_a_websocket_and_its_client_s_limits_do_not() {
    let (_app, url) = echo(None);
    // What a connection between two requests has, and what a slow one has, is over long before.
    let limits = "primary.proxy.idle_timeout = \"8s\"\nprimary.limits.idle = \"100ms\"\n\
                  primary.limits.head_time = \"500ms\"\nprimary.limits.slow_time = \"100ms\"";
    let program = before(&url, limits).await;
    let (mut stream, _) = open(&program).await;
    let begun = std::time::Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        says_back(&mut stream, "still here").await;
    }
    let status = program.status().await;
    assert_eq!(status["connections"], json!(1), "{status}");
    let mut rest = Vec::new();
    let _ = soon("silence ends it", stream.read_to_end(&mut rest)).await;
    assert!(begun.elapsed() >= std::time::Duration::from_secs(8));
    program
        .until("it is gone", |status| status["connections"] == 0)
        .await;
}

#[tokio::test]
#[ignore = "needs Node"]
async fn a_websocket_keeps_its_place_among_the_connections() {
    let (_app, url) = echo(None);
    let program = before(&url, "primary.limits.connections = 2").await;
    let (mut first, _) = open(&program).await;
    let (mut second, _) = open(&program).await;
    // There is no room, and nobody is idle.
    assert!(get("/").try_ask(program.site).await.is_none());
    says_back(&mut first, "first").await;
    says_back(&mut second, "second").await;
    drop(first);
    until("there is room again", async || {
        get("/")
            .try_ask(program.site)
            .await
            .filter(|answer| answer.status == 200)
    })
    .await;
    says_back(&mut second, "second").await;
}

#[tokio::test]
#[ignore = "needs Node"]
async fn a_visitor_without_a_page_gets_no_websocket_either() {
    let (_app, url) = echo(None);
    let program = before(&url, "").await;
    let (mut before, _) = open(&program).await;
    program.hold_level("throttle").await;
    let mut stream = TcpStream::connect(program.site).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, b"\r\n\r\n").await;
    assert!(
        head.starts_with(b"HTTP/1.1 503 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    // Who was in stays in.
    says_back(&mut before, "still here").await;
}

#[tokio::test]
#[ignore = "needs Node"]
async fn a_stop_closes_websockets_in_order() {
    let (_app, url) = echo(None);
    let program = before(&url, "primary.limits.drain = \"1h\"").await;
    let (mut stream, _) = open(&program).await;
    says_back(&mut stream, "one").await;
    let ended = tokio::spawn(program.terminate());
    // Going away (RFC 6455 section 7.4.1).
    read_until(&mut stream, b"\x88\x02\x03\xe9").await;
    stream.write_all(&masked(8, b"\x03\xe9")).await.unwrap();
    let mut rest = Vec::new();
    soon("it ends", stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"");
    assert_eq!(soon("it ends", ended).await.unwrap(), Some(0));
}

/// An upstream that reads one head and answers with `answer`; gives the connection.
async fn answers(listener: &TcpListener, answer: &str) -> (TcpStream, String) {
    let (mut stream, _) = soon("it is asked", listener.accept()).await.unwrap();
    let head = read_until(&mut stream, b"\r\n\r\n").await;
    stream.write_all(answer.as_bytes()).await.unwrap();
    (stream, String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn what_is_asked_for_is_passed_on_but_http_and_tls_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let program = before(&url, "").await;
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (asked, passed) in [
        (
            "Connection: upgrade\r\nUpgrade: chat/2, h2c, IRC\r\n",
            Some("chat/2, IRC"),
        ),
        (
            "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            None,
        ),
        (
            "Connection: upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n",
            None,
        ),
        ("Upgrade: websocket\r\n", None),
        ("Connection: upgrade\r\n", None),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
            None,
        ),
    ] {
        let mut client = TcpStream::connect(program.site).await.unwrap();
        let body = if asked.contains("Content-Length") {
            "x"
        } else {
            ""
        };
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n{body}");
        client.write_all(text.as_bytes()).await.unwrap();
        let (_stream, head) = answers(&listener, OK).await;
        let found = head.lines().find_map(|line| line.strip_prefix("upgrade: "));
        assert_eq!(found, passed, "{asked}\n{head}");
        assert_eq!(
            head.contains("connection: upgrade"),
            passed.is_some(),
            "{head}"
        );
        assert!(!head.to_lowercase().contains("http2-settings"), "{head}");
        let answer = read_until(&mut client, b"\r\n\r\n").await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn an_upgrade_is_one_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let program = before(&url, "primary.limits.requests = 3").await;
    let mut client = TcpStream::connect(program.site).await.unwrap();
    for number in 1..=3 {
        client.write_all(ASK.as_bytes()).await.unwrap();
        // It does not agree, so that the connection goes on as it was.
        let no = "HTTP/1.1 204 No Content\r\n\r\n";
        let (_stream, _) = answers(&listener, no).await;
        let head = String::from_utf8(read_until(&mut client, b"\r\n\r\n").await).unwrap();
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
        let is_last = head.contains("connection: close");
        assert_eq!(is_last, number == 3, "{number}: {head}");
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_a_502() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let program = before(&url, "").await;
    let answer = |protocol: &str| {
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{protocol}\r\nsecret")
    };
    for (asked, answered) in [
        ("", "Upgrade: websocket\r\n"),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
            "Upgrade: chat\r\n",
        ),
        ("Connection: upgrade\r\nUpgrade: websocket\r\n", ""),
    ] {
        let mut client = TcpStream::connect(program.site).await.unwrap();
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n");
        client.write_all(text.as_bytes()).await.unwrap();
        let (mut stream, _) = answers(&listener, &answer(answered)).await;
        let told = String::from_utf8(read_until(&mut client, b"a moment.\n").await).unwrap();
        assert!(
            told.starts_with("HTTP/1.1 502 ") && !told.contains("secret"),
            "{told}"
        );
        assert_eq!(
            soon("it is closed", stream.read(&mut [0; 1]))
                .await
                .unwrap_or(0),
            0
        );
    }
}

/// A connection over HTTP/2 to the site, whose settings have come.
async fn over_http2(program: &Program) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(program.site).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // The settings come before the first answer.
    let request = Request::head(format!("http://{}/", program.site))
        .body(())
        .unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    soon("an answer", answer).await.unwrap();
    soon("room", send.ready()).await.unwrap()
}

/// Asks for `protocol` over HTTP/2 (RFC 8441); gives the answer, and where to send.
async fn connect(
    program: &Program,
    send: &mut h2::client::SendRequest<Bytes>,
    protocol: &'static str,
) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let request = Request::connect(format!("http://{}/chat?a", program.site))
        .header("sec-websocket-version", "13")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .extension(h2::ext::Protocol::from_static(protocol))
        .body(())
        .unwrap();
    let (answer, sending) = send.send_request(request, false).unwrap();
    (soon("an answer", answer).await.unwrap(), sending)
}

/// Reads until `end` has come.
async fn heard(body: &mut h2::RecvStream, end: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let part = soon("a part", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        read.extend(part);
    }
}

async fn until_end(body: &mut h2::RecvStream) {
    while let Some(Ok(part)) = soon("its end", body.data()).await {
        body.flow_control().release_capacity(part.len()).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs Node"]
async fn a_websocket_goes_through_from_http_2() {
    let (_app, url) = echo(None);
    let program = before(&url, "").await;
    let mut send = over_http2(&program).await;
    assert!(send.is_extended_connect_protocol_enabled());
    let (answer, mut sending) = connect(&program, &mut send, "websocket").await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(name), "{answer:?}");
    }
    let mut body = answer.into_body();
    heard(&mut body, b"\x81\x05hello").await;
    for word in ["one", "two"] {
        let frame = masked(1, word.as_bytes());
        sending.send_data(frame.into(), false).unwrap();
        heard(&mut body, word.as_bytes()).await;
    }
    // Others go over the same connection.
    let (answer, mut other) = connect(&program, &mut send, "websocket").await;
    let mut second = answer.into_body();
    heard(&mut second, b"\x81\x05hello").await;
    // Much both ways: more than the windows.
    let mut much: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    // As nothing before it ends.
    much.extend(b"the end");
    let frame = masked(2, &much);
    other.send_data(frame.into(), false).unwrap();
    heard(&mut second, b"the end").await;
    // The end of one is not that of the other.
    other.send_data(masked(8, &[]).into(), true).unwrap();
    until_end(&mut second).await;
    let frame = masked(1, b"three");
    sending.send_data(frame.into(), false).unwrap();
    heard(&mut body, b"three").await;
    assert_eq!(program.status().await["connections"], 1);
}

#[tokio::test]
async fn from_http_2_it_is_asked_for_as_over_http_1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let program = before(&url, "").await;
    for (answered, status) in [
        (
            "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\nSec-WebSocket-Protocol: chat",
            200,
        ),
        // It has not seen the key, or is no WebSocket at all.
        (
            "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            502,
        ),
        (
            "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat",
            502,
        ),
        ("200 OK\r\nContent-Length: 0", 502),
        ("204 No Content", 502),
        ("403 Forbidden\r\nContent-Length: 0", 403),
    ] {
        let greeted = answers(
            &listener,
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        );
        let (mut send, _) = tokio::join!(over_http2(&program), greeted);
        let upgrade = async {
            let (mut stream, _) = soon("it is asked", listener.accept()).await.unwrap();
            let head = read_until(&mut stream, b"\r\n\r\n").await;
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("GET /chat?a HTTP/1.1\r\n"), "{head}");
            let asked = parse(
                head.replacen("GET /chat?a HTTP/1.1", "HTTP/1.1 200 OK", 1)
                    .as_bytes(),
                false,
            );
            let told = |name| asked.header(name);
            assert_eq!(told("upgrade"), Some("websocket"));
            assert_eq!(told("connection"), Some("upgrade"));
            assert_eq!(told("sec-websocket-version"), Some("13"));
            assert_eq!(told("cookie"), Some("a=1; b=2"));
            assert_eq!(told("host"), Some(&*program.site.to_string()));
            let key = told("sec-websocket-key").unwrap();
            assert_eq!(key.len(), 24, "{key}");
            let accept = if status == 200 {
                format!("\r\nSec-WebSocket-Accept: {}", accept(key))
            } else {
                String::new()
            };
            let answer = format!("HTTP/1.1 {answered}{accept}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let asking = connect(&program, &mut send, "websocket");
        let ((answer, mut sending), mut stream) = tokio::join!(asking, upgrade);
        assert_eq!(answer.status(), status, "{answered}");
        if status != 200 {
            continue;
        }
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        stream.write_all(b"from there").await.unwrap();
        let mut body = answer.into_body();
        heard(&mut body, b"from there").await;
        sending.send_data("from here".into(), false).unwrap();
        read_until(&mut stream, b"from here").await;
        // Either's end is the other's.
        drop(stream);
        until_end(&mut body).await;
    }
}

/// What belongs to a key (RFC 6455 section 4.2.2).
fn accept(key: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hashed = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let mut bits: String = hashed
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:08b}"))
        .collect();
    bits.push_str("00");
    let digits = bits.as_bytes().chunks(6).map(|six| {
        let six = std::str::from_utf8(six).unwrap();
        char::from(DIGITS[usize::from_str_radix(six, 2).unwrap()])
    });
    digits.chain(['=']).collect()
}

#[tokio::test]
async fn other_protocols_over_http_2_are_no_tunnels() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let program = before(&url, "").await;
    let greeted = answers(
        &listener,
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    );
    let (mut send, _) = tokio::join!(over_http2(&program), greeted);
    let (answer, _) = connect(&program, &mut send, "connect-udp").await;
    assert_eq!(answer.status(), 405);
}

#[tokio::test]
#[ignore = "needs Node and Chromium"]
async fn a_browser_talks_over_a_websocket() {
    let (_app, url) = echo(None);
    let program = before(&url, "").await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", program.site)).await;
    assert_eq!(
        browser.run(TALK).await,
        json!([["hello", "from a browser"], 1000])
    );
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs Node, Chromium and openssl"]
async fn a_browser_talks_over_a_websocket_over_http_2() {
    let (_app, url) = echo(None);
    let certificates = tls::Certificates::of_localhost();
    let log = certificates.path("access.log");
    let lines = certificates.lines("primary.tls", "a");
    let program = before(&url, &format!("{lines}\naccess_log.path = {log:?}")).await;
    let browser = Browser::trusting_all().await;
    browser
        .open(&format!("https://localhost:{}/", program.site.port()))
        .await;
    assert_eq!(
        browser.run(TALK).await,
        json!([["hello", "from a browser"], 1000])
    );
    browser.quit().await;
    until("there is a line of it", async || {
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        let line = lines.lines().find(|line| line.contains("/chat"))?;
        assert!(line.contains("\"CONNECT /chat HTTP/2.0\" 200 "), "{lines}");
        Some(())
    })
    .await;
}

/// Says something over a WebSocket, and gives what came and how it ended.
const TALK: &str = "
    return await new Promise(done => {
        const heard = [];
        const socket = new WebSocket(location.origin.replace('http', 'ws') + '/chat');
        socket.onmessage = event => {
            heard.push(event.data);
            if (heard.length === 1) socket.send('from a browser');
            else socket.close(1000);
        };
        socket.onclose = event => done([heard, event.code]);
    });";
