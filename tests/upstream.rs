//! Standing in front of another server, over real sockets.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Extension, Router, body::Body, extract::Request};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use overspill::{
    front::{FrontLayer, Rules},
    upstream::{OverTls, Timeouts, TrustedForwarding, Upstream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tower_layer::Layer;

use crate::support::raw::{ask, exchange, parse};

/// For tests in which a time has to run out.
const SHORT: Duration = Duration::from_millis(50);
/// The same where something has to happen before, on a busy machine, too.
const LONG: Duration = Duration::from_secs(3);

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn run(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn passing_on(url: &str, timeouts: Timeouts) -> Router {
    let upstream = Upstream::new(&url.parse().unwrap(), timeouts).unwrap();
    Router::new().fallback_service(FrontLayer::new(Rules::Upstream).layer(upstream))
}

/// A server of ours in front of `upstream`.
async fn before(upstream: SocketAddr) -> SocketAddr {
    run(passing_on(
        &format!("http://{upstream}"),
        Timeouts::default(),
    ))
    .await
}

async fn impatient(upstream: SocketAddr, timeouts: Timeouts) -> SocketAddr {
    run(passing_on(&format!("http://{upstream}"), timeouts)).await
}

/// Answers with what it was asked: request line, sorted headers, an empty line, the body.
async fn mirror() -> SocketAddr {
    run(Router::new().fallback(async |request: Request| {
        let (parts, body) = request.into_parts();
        let mut lines: Vec<String> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
            .collect();
        lines.sort();
        let mut text = format!("{} {}\n{}\n", parts.method, parts.uri, lines.concat()).into_bytes();
        text.extend(body.collect().await.unwrap().to_bytes());
        text
    }))
    .await
}

/// An HTTP/1.1 message as far as it has come: its head and whatever of the body came along.
async fn receive(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(
            stream.read_buf(&mut read).await.unwrap() > 0,
            "closed in the middle of a head"
        );
    }
    String::from_utf8(read).unwrap()
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, read: &mut Vec<u8>, text: &str) {
    while !read
        .windows(text.len())
        .any(|window| window == text.as_bytes())
    {
        assert!(
            stream.read_buf(read).await.unwrap() > 0,
            "closed before {text:?} came"
        );
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn requests_arrive_as_they_were_sent() {
    let upstream = mirror().await;
    let server = before(upstream).await;
    let answer = ask(
        server,
        "PATCH /a%20b/%2F/c//d?q=%00&r",
        "Content-Length: 4\r\nX-One: 1\r\nUpgrade: websocket\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Authorization: x\r\nTE: trailers\r\nX-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\nbody",
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        "PATCH /a%20b/%2F/c//d?q=%00&r\nconnection: TE\ncontent-length: 4\nhost: site.example\nte: trailers\n\
         x-forwarded-for: 127.0.0.1\nx-forwarded-host: site.example\nx-forwarded-proto: http\nx-one: 1\n\nbody"
    );
}

#[tokio::test]
async fn every_path_is_put_behind_the_prefix_and_none_leads_out_of_it() {
    let upstream = mirror().await;
    let server = run(passing_on(
        &format!("http://{upstream}/shop/"),
        Timeouts::default(),
    ))
    .await;
    for (path, there) in [
        ("/", "/shop/"),
        ("/a/?b", "/shop/a/?b"),
        ("/.git", "/shop/.git"),
    ] {
        let answer = ask(server, &format!("GET {path}"), "").await;
        assert!(
            answer.text().starts_with(&format!("GET {there}\n")),
            "{}",
            answer.text()
        );
    }
    for path in [
        "/..",
        "/a/../../b",
        "/%2e%2e/b",
        "/..%2fb",
        "//evil",
        "/\\evil",
        "/%5cevil",
        "/a%00",
        "/a%",
        "/..;/b",
    ] {
        assert_eq!(
            ask(server, &format!("GET {path}"), "").await.status,
            400,
            "{path}"
        );
    }
    for length in [9000, 64 * 1024] {
        assert_eq!(
            ask(server, &format!("GET /{}", "a".repeat(length)), "")
                .await
                .status,
            414
        );
    }
}

#[tokio::test]
async fn the_word_of_a_trusted_proxy_is_passed_on() {
    let upstream = mirror().await;
    let app = passing_on(&format!("http://{upstream}"), Timeouts::default());
    let claims = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: shop.example\r\nForwarded: for=192.0.2.1\r\n";
    let trusting = run(app
        .clone()
        .layer(Extension(TrustedForwarding))
        .layer(Extension(OverTls)))
    .await;
    let text = ask(trusting, "GET /", claims).await;
    assert_eq!(
        text.text(),
        "GET /\nforwarded: for=192.0.2.1\nhost: site.example\nx-forwarded-for: 192.0.2.1, 127.0.0.1\n\
         x-forwarded-host: shop.example\nx-forwarded-proto: https\n\n"
    );
    let doubting = run(app).await;
    assert_eq!(
        ask(doubting, "GET /", claims).await.text(),
        "GET /\nhost: site.example\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: site.example\n\
         x-forwarded-proto: http\n\n"
    );
}

#[tokio::test]
async fn a_request_without_a_proper_host_is_refused() {
    let upstream = mirror().await;
    let server = before(upstream).await;
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n",
    ] {
        let answer = exchange(server, format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{head}");
    }
    let old = exchange(server, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        old.text().contains(&format!("\nhost: {upstream}\n")),
        "{}",
        old.text()
    );
}

#[tokio::test]
async fn http_2_becomes_http_1() {
    let upstream = mirror().await;
    let server = before(upstream).await;
    let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("https://shop.example:{}/x?y", server.port()))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = send.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let host = format!("shop.example:{}", server.port());
    // The scheme is the client's word, and it came without TLS.
    assert_eq!(
        std::str::from_utf8(&text).unwrap(),
        format!(
            "GET /x?y\ncookie: a=1; b=2\nhost: {host}\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: {host}\n\
             x-forwarded-proto: http\n\n"
        )
    );
}

#[tokio::test]
async fn large_bodies_arrive_byte_for_byte_both_ways() {
    let upstream =
        run(Router::new().fallback(async |request: Request| Response::new(request.into_body())))
            .await;
    let server = before(upstream).await;
    let body: Vec<u8> = (0..8_000_000_u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let mut stream = TcpStream::connect(server).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (mut reader, mut writer) = stream.split();
    let mut read = Vec::new();
    let (written, received) = tokio::join!(
        async {
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(&body).await
        },
        reader.read_to_end(&mut read)
    );
    written.unwrap();
    received.unwrap();
    let answer = parse(&read, false);
    assert!(answer.is_whole && answer.body == body);
}

#[tokio::test]
async fn an_answer_is_passed_on_while_it_is_being_made() {
    let (listener, upstream) = listen().await;
    let server = before(upstream).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    receive(&mut app).await;
    app.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await
        .unwrap();
    let mut read = Vec::new();
    read_until(&mut client, &mut read, "first").await;
    app.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    client.read_to_end(&mut read).await.unwrap();
    let answer = parse(&read, false);
    assert_eq!((answer.text(), answer.is_whole), ("firstsecond", true));
}

#[tokio::test]
async fn an_upload_is_passed_on_while_it_comes() {
    let (listener, upstream) = listen().await;
    let server = before(upstream).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    let head =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    client
        .write_all(format!("{head}5\r\nfirst\r\n").as_bytes())
        .await
        .unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    read_until(&mut app, &mut read, "first").await;
    client.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    read_until(&mut app, &mut read, "second").await;
    read_until(&mut app, &mut read, "0\r\n\r\n").await;
    app.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    assert_eq!(parse(&read, false).status, 204);
}

#[tokio::test]
async fn who_asks_before_sending_is_told_to_go_on() {
    let upstream = mirror().await;
    let server = before(upstream).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut interim = Vec::new();
    read_until(&mut client, &mut interim, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"body").await.unwrap();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    assert!(parse(&read, false).text().ends_with("\n\nbody"));
}

/// One request, answered by `answer` as it is, on a connection that is then closed.
async fn answered(answer: &[u8], request: &[u8]) -> (Vec<u8>, String) {
    let (listener, upstream) = listen().await;
    let server = before(upstream).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(request).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    let asked = receive(&mut app).await;
    app.write_all(answer).await.unwrap();
    drop(app);
    let mut read = Vec::new();
    let _ = client.read_to_end(&mut read).await;
    (read, asked)
}

#[tokio::test]
async fn what_is_for_one_hop_does_not_reach_the_client() {
    let (read, _) = answered(
        b"HTTP/1.1 200 Fine\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
          Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nProxy-Connection: x\r\nTransfer-Encoding: chunked\r\n\
          X-Kept: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        GET,
    )
    .await;
    let mut answer = parse(&read, false);
    assert_eq!(
        (answer.status, answer.text(), answer.is_whole),
        (200, "ok", true)
    );
    answer.headers.remove("date");
    let mut expected = HeaderMap::new();
    for (name, value) in [
        ("x-kept", "1"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        // Our own.
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
    ] {
        expected.append(name, value.parse().unwrap());
    }
    assert_eq!(answer.headers, expected);
}

#[tokio::test]
async fn trailers_reach_a_client_that_takes_them() {
    let (read, asked) = answered(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n",
    )
    .await;
    assert!(asked.contains("te: trailers\r\n"), "{asked}");
    let text = String::from_utf8(read).unwrap();
    assert!(text.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers() {
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (read, _) = answered(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n",
        head,
    )
    .await;
    let answer = parse(&read, true);
    assert_eq!(
        (answer.header("content-length"), answer.body.len()),
        (Some("1234"), 0)
    );
    let (read, _) = answered(b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", GET).await;
    let answer = parse(&read, false);
    assert_eq!((answer.status, answer.header("etag")), (304, Some("\"x\"")));
}

#[tokio::test]
async fn a_body_that_is_cut_is_not_taken_for_whole() {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (version, rest, more, is_whole) in [
        ("1.1", "Content-Length: 100\r\n\r\nhalf", "", false),
        ("1.1", chunked, "", false),
        ("1.1", chunked, "64\r\nbroken", false),
        ("1.1", chunked, "nonsense\r\n", false),
        ("1.1", chunked, "0\r\n\r\n", true),
        // Nothing says where this one ends.
        ("1.0", "\r\nhalf", "", true),
    ] {
        let (listener, upstream) = listen().await;
        let server = before(upstream).await;
        let mut client = TcpStream::connect(server).await.unwrap();
        client.write_all(GET).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        receive(&mut app).await;
        let answer = format!("HTTP/{version} 200 OK\r\n{rest}");
        app.write_all(answer.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        read_until(&mut client, &mut read, "half").await;
        app.write_all(more.as_bytes()).await.unwrap();
        drop(app);
        let _ = client.read_to_end(&mut read).await;
        assert_eq!(parse(&read, false).is_whole, is_whole, "{answer}{more}");
    }
}

#[tokio::test]
async fn what_is_no_answer_becomes_a_502() {
    for answer in [
        "not HTTP at all\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let (read, _) = answered(answer.as_bytes(), GET).await;
        let told = parse(&read, false);
        assert_eq!(told.status, 502, "{answer}");
        assert_eq!(
            told.text(),
            "The site cannot be reached just now. Please try again in a moment.\n"
        );
    }
}

#[tokio::test]
async fn a_refused_connection_is_a_502_that_names_nothing() {
    // Bound, so that nobody else is given the port, but nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let upstream = socket.local_addr().unwrap();
    let server = before(upstream).await;
    let html = ask(server, "GET /secret", "Accept: text/html\r\n").await;
    assert_eq!(
        (html.status, html.header("cache-control")),
        (502, Some("no-store"))
    );
    assert_eq!(
        html.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(html.text().contains("<h1>Bad Gateway</h1>"));
    for internal in [
        &upstream.port().to_string(),
        "127.0.0.1",
        "secret",
        "refused",
        "hyper",
    ] {
        assert!(!html.text().contains(internal), "{internal}");
    }
    let text = ask(server, "POST /", "Content-Length: 0\r\n").await;
    assert_eq!(
        (text.status, text.header("content-type")),
        (502, Some("text/plain; charset=utf-8"))
    );
    let head = ask(server, "HEAD /", "").await;
    assert_eq!((head.status, head.body.len()), (502, 0));
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_a_504() {
    let (listener, upstream) = listen().await;
    let timeouts = Timeouts {
        first_byte: SHORT,
        ..Timeouts::default()
    };
    let server = impatient(upstream, timeouts).await;
    let answer = ask(server, "GET /", "Accept: text/html\r\n").await;
    assert_eq!(answer.status, 504);
    assert!(answer.text().contains("too long to answer"));
    let (mut app, _) = listener.accept().await.unwrap();
    // The request is given up: the connection ends.
    let mut rest = Vec::new();
    app.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_does_not_come_is_a_504() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let upstream = listener.local_addr().unwrap();
    // Nobody accepts: once the queue is full, connecting waits.
    let mut queue = Vec::new();
    while let Ok(connected) = tokio::time::timeout(LONG, TcpStream::connect(upstream)).await {
        queue.push(connected.unwrap());
    }
    let timeouts = Timeouts {
        connect: SHORT,
        ..Timeouts::default()
    };
    let server = impatient(upstream, timeouts).await;
    assert_eq!(ask(server, "GET /", "").await.status, 504);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_so() {
    let (_listener, upstream) = listen().await;
    let timeouts = Timeouts {
        first_byte: LONG,
        ..Timeouts::default()
    };
    let server = impatient(upstream, timeouts).await;
    let answer = ask(server, "POST /", "Content-Length: 10\r\n\r\nhalf").await;
    assert_eq!(answer.status, 408);
}

#[tokio::test]
async fn an_answer_that_stalls_breaks_off() {
    let (listener, upstream) = listen().await;
    let timeouts = Timeouts {
        idle: SHORT,
        ..Timeouts::default()
    };
    let server = impatient(upstream, timeouts).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    receive(&mut app).await;
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    let mut read = Vec::new();
    read_until(&mut client, &mut read, "half").await;
    let _ = client.read_to_end(&mut read).await;
    assert!(!parse(&read, false).is_whole);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (listener, upstream) = listen().await;
    let server = before(upstream).await;

    // Before the answer.
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    receive(&mut app).await;
    drop(client);
    assert_eq!(app.read(&mut [0; 1]).await.unwrap_or(0), 0);

    // In the middle of an answer that never ends.
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    receive(&mut app).await;
    let endless = tokio::spawn(async move {
        let part = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        app.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        loop {
            app.write_all(part.as_bytes()).await?;
        }
        #[expect(unreachable_code, reason = "names the type")]
        Ok::<(), std::io::Error>(())
    });
    client.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    drop(client);
    assert!(endless.await.unwrap().is_err());
}

#[tokio::test]
async fn connections_are_kept_for_the_next_request() {
    let (listener, upstream) = listen().await;
    let server = before(upstream).await;
    let app = tokio::spawn(async move {
        let (mut app, _) = listener.accept().await.unwrap();
        for _ in 0..5 {
            receive(&mut app).await;
            app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
    });
    let mut client = TcpStream::connect(server).await.unwrap();
    for _ in 0..5 {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut read = Vec::new();
        read_until(&mut client, &mut read, "\r\n\r\nok").await;
    }
    app.await.unwrap();
}

/// The answer to `second` where the upstream answers one request, reads another on the same connection,
/// closes, and would answer on a new one; and how often it saw the second.
async fn closed_on(second: &str) -> (u16, usize) {
    let (listener, upstream) = listen().await;
    let server = before(upstream).await;
    let (saw, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (mut app, _) = listener.accept().await.unwrap();
        receive(&mut app).await;
        app.write_all(ok).await.unwrap();
        saw.send(receive(&mut app).await).unwrap();
        drop(app);
        loop {
            let (mut app, _) = listener.accept().await.unwrap();
            saw.send(receive(&mut app).await).unwrap();
            app.write_all(ok).await.unwrap();
        }
    });
    let mut client = TcpStream::connect(server).await.unwrap();
    client
        .write_all(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut read = Vec::new();
    read_until(&mut client, &mut read, "\r\n\r\nok").await;
    client.write_all(second.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    let mut times = 0;
    while seen.try_recv().is_ok() {
        times += 1;
    }
    (parse(&read, false).status, times)
}

#[tokio::test]
async fn only_what_does_no_harm_is_sent_twice() {
    for (second, outcome) in [
        (
            "GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            (200, 2),
        ),
        (
            "POST /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            (502, 1),
        ),
        (
            "DELETE /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            (200, 2),
        ),
        (
            "GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
            (502, 1),
        ),
    ] {
        assert_eq!(closed_on(second).await, outcome, "{second}");
    }
}

#[tokio::test]
async fn any_request_body_will_do() {
    use http_body_util::Full;
    use tower_service::Service;

    let upstream = mirror().await;
    let mut service = Upstream::new(
        &format!("http://{upstream}").parse().unwrap(),
        Timeouts::default(),
    )
    .unwrap();
    let request = http::Request::post("/x")
        .header("host", "a")
        .body(Full::new(Bytes::from("full")))
        .unwrap();
    let answer: Result<Response<Body>, Infallible> = service.call(request).await;
    let text = answer
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(
        text.starts_with("POST /x\ncontent-length: 4\nhost: a\n") && text.ends_with("\n\nfull"),
        "{text}"
    );
    // No peer is known here, so none is told.
    assert!(!text.contains("x-forwarded-for"), "{text}");
}
