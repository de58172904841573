//! WebSocket and other upgrades, through the program to a real application.

#![cfg(feature = "server")]

mod support;

use std::{path::Path, process::Stdio};

use serde_json::json;
use support::{
    client::get,
    config::Config,
    process::{Running, start, wait_for},
    program::Program,
    raw::parse,
    wait::{soon, until},
    webdriver::Browser,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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

#[tokio::test]
#[ignore = "needs Node and Chromium"]
async fn a_browser_talks_over_a_websocket() {
    let (_app, url) = echo(None);
    let program = before(&url, "").await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", program.site)).await;
    let script = "
        return await new Promise(done => {
            const heard = [];
            const socket = new WebSocket('ws://' + location.host + '/chat');
            socket.onmessage = event => {
                heard.push(event.data);
                if (heard.length === 1) socket.send('from a browser');
                else socket.close(1000);
            };
            socket.onclose = event => done([heard, event.code]);
        });";
    let said = browser.run(script).await;
    assert_eq!(said, json!([["hello", "from a browser"], 1000]));
    browser.quit().await;
}
