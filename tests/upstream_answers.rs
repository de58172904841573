//! Upstreams that lie, stop, and send what nobody asked for; HTTP/2; bodies that wait to be asked for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use overspill::{
    front::{FrontLayer, Rules},
    upstream::{Host, Http2, ProxySettings, Upstream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tower_layer::Layer;

use crate::support::raw::{ask, exchange, parse};
#[cfg(target_os = "linux")]
use crate::support::wait::until;

/// Whoever waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

async fn soon<T>(doing: impl Future<Output = T>) -> T {
    timeout(PATIENCE, doing)
        .await
        .expect("it happens some time")
}

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

/// A server of ours in front of `upstream`.
async fn before(upstream: SocketAddr, settings: ProxySettings) -> SocketAddr {
    let url = format!("http://{upstream}").parse().unwrap();
    let upstream = Upstream::with(&url, settings).unwrap();
    run(Router::new().fallback_service(FrontLayer::new(Rules::Upstream).layer(upstream))).await
}

/// Unused connections are kept for longer than a test takes.
fn keeping() -> ProxySettings {
    ProxySettings {
        keep: Duration::from_secs(3600),
        ..ProxySettings::default()
    }
}

/// A head, and whatever came with it.
async fn receive(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(
            soon(stream.read_buf(&mut read)).await.unwrap() > 0,
            "closed in a head"
        );
    }
    String::from_utf8(read).unwrap()
}

async fn read_until(stream: &mut TcpStream, text: &str) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(text.as_bytes()) {
        read.push(soon(stream.read_u8()).await.expect("not closed before"));
    }
    read
}

async fn is_closed(stream: &mut TcpStream) {
    assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap_or(0), 0);
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_a_502_and_its_connection_is_given_up() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let many = "X: y\r\n".repeat(300);
    let long = format!("X: {}\r\n", "y".repeat(200_000));
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nX-Space : a\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 4\r\n",
        "HTTP/1.1 200 OK\r\nX-Return: a\rContent-Length: 9\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nX-Zero: a\0b\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 4\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 4\r\n",
        "HTTP/3.0 200 OK\r\nContent-Length: 4\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "\0\0\0\x04\0\0\0\0\0",
        &format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 4\r\n"),
        &format!("HTTP/1.1 200 OK\r\n{long}Content-Length: 4\r\n"),
    ] {
        let shown: String = head.chars().take(120).collect();
        let mut client = TcpStream::connect(server).await.unwrap();
        client.write_all(GET).await.unwrap();
        let (mut app, _) = soon(listener.accept()).await.unwrap();
        receive(&mut app).await;
        // It may be refused before all of it was written.
        let _ = app.write_all(format!("{head}\r\nevil").as_bytes()).await;
        let answer = String::from_utf8(read_until(&mut client, "a moment.\n").await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{shown}: {answer}");
        assert!(
            !answer.contains("evil") && !answer.contains("x-"),
            "{shown}: {answer}"
        );
        is_closed(&mut app).await;
        // The client's connection is none the worse for it.
        client.write_all(GET).await.unwrap();
        let (mut app, _) = soon(listener.accept()).await.unwrap();
        receive(&mut app).await;
        app.write_all(FINE).await.unwrap();
        read_until(&mut client, "\r\n\r\nfine").await;
        drop(app);
        // What was kept is found closed, and the next one is new.
        drop(client);
    }
}

#[tokio::test]
async fn what_comes_after_an_answer_is_nobodys() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (question, answer, end) in [
        // More than was told, at once.
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
            "\r\n\r\nfine",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
            "0\r\n\r\n",
        ),
        // A body where there is none.
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n",
            "\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "\r\n\r\n"),
    ] {
        let mut client = TcpStream::connect(server).await.unwrap();
        let text = format!("{question} /first HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(text.as_bytes()).await.unwrap();
        let (mut app, _) = soon(listener.accept()).await.unwrap();
        receive(&mut app).await;
        app.write_all(format!("{answer}{EVIL}").as_bytes())
            .await
            .unwrap();
        let first = read_until(&mut client, end).await;
        assert!(
            !String::from_utf8_lossy(&first).contains("evil"),
            "{answer}"
        );
        is_closed(&mut app).await;
        // The next question goes out on another connection.
        client.write_all(GET).await.unwrap();
        let (mut app, _) = soon(listener.accept()).await.unwrap();
        receive(&mut app).await;
        app.write_all(FINE).await.unwrap();
        let second = read_until(&mut client, "\r\n\r\nfine").await;
        assert!(
            !String::from_utf8_lossy(&second).contains("evil"),
            "{answer}"
        );
    }
}

/// What the kernel says of the other end of a connection on this machine.
#[cfg(target_os = "linux")]
struct OtherEnd {
    /// The line's beginning: its port, and that of this end.
    ports: [String; 2],
}

#[cfg(target_os = "linux")]
impl OtherEnd {
    fn of(stream: &TcpStream) -> Self {
        let ports = [stream.peer_addr(), stream.local_addr()];
        let ports = ports.map(|address| format!(":{:04X}", address.unwrap().port()));
        Self { ports }
    }

    /// Waits until its state and what waits there to be read, in hexadecimal, are what is meant. Whoever looks at a socket
    /// for another reason after that finds it so: the same call of the system tells of all sockets.
    async fn until(&self, is_meant: impl Fn(&str, &str) -> bool) {
        until("the kernel has brought it", async || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            table.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                let [_, own, other, state, queues, ..] = fields[..] else {
                    return None;
                };
                let is_it = own.ends_with(&self.ports[0]) && other.ends_with(&self.ports[1]);
                let (_, unread) = queues.split_once(':')?;
                (is_it && is_meant(state, unread)).then_some(())
            })
        })
        .await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_comes_while_nobody_asks_is_nobodys_either() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut kept, _) = soon(listener.accept()).await.unwrap();
    receive(&mut kept).await;
    kept.write_all(FINE).await.unwrap();
    read_until(&mut client, "\r\n\r\nfine").await;
    kept.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        .await
        .unwrap();
    let is_there = |_: &str, unread: &str| unread.bytes().any(|digit| digit != b'0');
    OtherEnd::of(&kept).until(is_there).await;
    client
        .write_all(b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    assert!(receive(&mut app).await.starts_with("POST /second "));
    app.write_all(FINE).await.unwrap();
    read_until(&mut client, "\r\n\r\nfine").await;
    is_closed(&mut kept).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn whatever_was_not_written_goes_out_on_another_connection() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut kept, _) = soon(listener.accept()).await.unwrap();
    receive(&mut kept).await;
    kept.write_all(FINE).await.unwrap();
    read_until(&mut client, "\r\n\r\nfine").await;
    // Given up while nobody asks.
    let other = OtherEnd::of(&kept);
    drop(kept);
    const CLOSE_WAIT: &str = "08";
    other.until(|state, _| state == CLOSE_WAIT).await;
    client
        .write_all(b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        .await
        .unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    let mut asked = receive(&mut app).await.into_bytes();
    while !asked.ends_with(b"body") {
        assert!(soon(app.read_buf(&mut asked)).await.unwrap() > 0);
    }
    app.write_all(FINE).await.unwrap();
    read_until(&mut client, "\r\n\r\nfine").await;
}

#[tokio::test]
async fn on_a_new_connection_nothing_is_sent_twice() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let asking = tokio::spawn(async move {
        exchange(
            server,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await
    });
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    receive(&mut app).await;
    drop(app);
    assert_eq!(soon(asking).await.unwrap().status, 502);
    // It would have been sent before that was answered, but the next who connects is this test.
    let own = TcpStream::connect(upstream).await.unwrap();
    let (_, next) = soon(listener.accept()).await.unwrap();
    assert_eq!(next, own.local_addr().unwrap());
}

#[tokio::test]
async fn kept_connections_grow_old() {
    let (listener, upstream) = listen().await;
    let settings = ProxySettings {
        keep: Duration::from_millis(50),
        ..ProxySettings::default()
    };
    let server = before(upstream, settings).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    receive(&mut app).await;
    app.write_all(FINE).await.unwrap();
    read_until(&mut client, "\r\n\r\nfine").await;
    // Nobody asks any more.
    is_closed(&mut app).await;
}

const EXPECTING: &[u8] =
    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn a_body_is_asked_for_when_the_upstream_wants_it() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    let head = receive(&mut app).await;
    assert!(
        head.contains("expect: 100-continue\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    app.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"body").await.unwrap();
    read_until(&mut app, "body").await;
    app.write_all(FINE).await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\nfine").await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_body_that_is_not_wanted_is_not_asked_for() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    receive(&mut app).await;
    app.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlong")
        .await
        .unwrap();
    let mut read = Vec::new();
    let _ = soon(client.read_to_end(&mut read)).await;
    let text = String::from_utf8(read).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 413 ") && text.ends_with("long"),
        "{text}"
    );
    // Where the next request would begin is the upstream's to guess: nothing more is sent there.
    is_closed(&mut app).await;
}

#[tokio::test]
async fn an_upstream_that_does_not_know_of_it_gets_the_body_after_a_second() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, keeping()).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    receive(&mut app).await;
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"body").await.unwrap();
    read_until(&mut app, "body").await;
    app.write_all(FINE).await.unwrap();
    read_until(&mut client, "\r\n\r\nfine").await;
}

#[tokio::test]
async fn host_is_the_clients_or_the_upstreams() {
    let mirror = run(Router::new().fallback(async |headers: HeaderMap| {
        let told = |name: &str| {
            headers
                .get(name)
                .map_or("none", |value| value.to_str().unwrap())
                .to_owned()
        };
        format!(
            "{} {} {}",
            told("host"),
            told("x-forwarded-host"),
            told("forwarded")
        )
    }))
    .await;
    let client = before(mirror, ProxySettings::default()).await;
    assert_eq!(
        ask(client, "GET /", "").await.text(),
        "site.example site.example none"
    );
    let settings = ProxySettings {
        host: Host::Upstream,
        forwarded: true,
        ..ProxySettings::default()
    };
    let upstream = before(mirror, settings).await;
    assert_eq!(
        ask(upstream, "GET /", "Forwarded: for=evil\r\n")
            .await
            .text(),
        format!("{mirror} site.example for=127.0.0.1;host=\"site.example\";proto=http")
    );
}

fn over_http2() -> ProxySettings {
    ProxySettings {
        http2: Http2::Always,
        ..ProxySettings::default()
    }
}

#[tokio::test]
async fn http_2_is_spoken_with_an_upstream_that_knows_it() {
    let seen = Arc::new(AtomicU64::new(0));
    let connections = seen.clone();
    let (listener, upstream) = listen().await;
    let app = Router::new().fallback(async |request: Request| {
        let told = format!(
            "{:?} {} {} {:?}\n",
            request.version(),
            request.method(),
            request.uri(),
            request
                .headers()
                .get("x-forwarded-host")
                .map(|host| host.to_str().unwrap()),
        );
        let body = request.into_body().collect().await.unwrap().to_bytes();
        [told.as_bytes(), &body].concat()
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Relaxed);
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let server = before(upstream, over_http2()).await;
    let asking = (0..20).map(|number| async move {
        let line = format!("POST /{number}?a");
        let answer = ask(server, &line, "Content-Length: 4\r\n\r\nbody").await;
        assert_eq!(
            answer.text(),
            format!("HTTP/2.0 POST http://site.example/{number}?a Some(\"site.example\")\nbody")
        );
    });
    futures_util::future::join_all(asking).await;
    assert_eq!(seen.load(Relaxed), 1, "they share a connection");
}

#[tokio::test]
async fn trailers_go_both_ways_over_http_2() {
    let app = Router::new().fallback(async |request: Request| {
        let whole = request.into_body().collect().await.unwrap();
        let sum = whole.trailers().unwrap()["x-sum"].clone();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-seen", sum);
        let frames = [
            Ok::<_, std::convert::Infallible>(Frame::data(whole.to_bytes())),
            Ok(Frame::trailers(trailers)),
        ];
        Response::builder()
            .header("trailer", "x-seen")
            .body(Body::new(StreamBody::new(futures_util::stream::iter(
                frames,
            ))))
            .unwrap()
    });
    let upstream = run(app).await;
    for settings in [over_http2(), ProxySettings::default()] {
        let server = before(upstream, settings).await;
        let stream = TokioIo::new(TcpStream::connect(server).await.unwrap());
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let frames = [
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("body"))),
            Ok(Frame::trailers(trailers)),
        ];
        let request = http::Request::post(format!("http://site.example:{}/", server.port()))
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(Body::new(StreamBody::new(futures_util::stream::iter(
                frames,
            ))))
            .unwrap();
        let answer = soon(send.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let whole = soon(answer.into_body().collect()).await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-seen"], "7", "{settings:?}");
        assert_eq!(whole.to_bytes(), "body");
    }
}

/// Waits until `count` has stood still.
async fn until_still(count: &AtomicU64) -> u64 {
    let mut last = count.load(Relaxed);
    let mut still = 0;
    soon(async {
        while still < 20 || last == 0 {
            sleep(Duration::from_millis(50)).await;
            let now = count.load(Relaxed);
            still = if now == last { still + 1 } else { 0 };
            last = now;
        }
        last
    })
    .await
}

/// More than all buffers on the way, the kernel's included.
const MUCH: u64 = 256 << 20;
/// What those may hold.
const HELD: u64 = 64 << 20;

#[tokio::test]
async fn nothing_is_taken_from_the_upstream_that_the_client_does_not_take() {
    for http2 in [Http2::Never, Http2::Always] {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let app = Router::new().fallback(async move || {
            let parts = futures_util::stream::unfold(counted.clone(), async |sent| {
                let part = Bytes::from_static(&[7; 1 << 16]);
                (sent.fetch_add(part.len() as u64, Relaxed) < MUCH)
                    .then(|| (Ok::<_, std::io::Error>(part), sent))
            });
            Body::from_stream(parts)
        });
        let settings = ProxySettings {
            http2,
            ..ProxySettings::default()
        };
        let server = before(run(app).await, settings).await;
        let mut client = TcpStream::connect(server).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let taken = until_still(&sent).await;
        assert!(taken < HELD, "{taken}");
        let mut read = Vec::new();
        soon(client.read_to_end(&mut read)).await.unwrap();
        let answer = parse(&read, false);
        assert!(answer.is_whole);
        assert_eq!(answer.body.len() as u64, MUCH);
    }
}

#[tokio::test]
async fn nothing_is_taken_from_the_client_that_the_upstream_does_not_take() {
    let (listener, upstream) = listen().await;
    let server = before(upstream, ProxySettings::default()).await;
    let client = TcpStream::connect(server).await.unwrap();
    let (mut answer, mut upload) = client.into_split();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let sending = tokio::spawn(async move {
        let head = format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {MUCH}\r\n\r\n"
        );
        upload.write_all(head.as_bytes()).await.unwrap();
        let part = vec![7; 1 << 16];
        while counted.fetch_add(part.len() as u64, Relaxed) < MUCH {
            upload.write_all(&part).await.unwrap();
        }
        upload
    });
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    let taken = until_still(&sent).await;
    assert!(taken < HELD, "{taken}");
    let head = receive(&mut app).await;
    let mut came = (head.len() - head.find("\r\n\r\n").unwrap() - 4) as u64;
    let mut buffer = vec![0; 1 << 20];
    while came < MUCH {
        came += soon(app.read(&mut buffer)).await.unwrap() as u64;
    }
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
        .await
        .unwrap();
    let mut read = Vec::new();
    soon(answer.read_to_end(&mut read)).await.unwrap();
    assert_eq!(parse(&read, false).text(), "fine");
    soon(sending).await.unwrap();
}
