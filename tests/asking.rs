//! How much one client may ask for: bodies, requests over a connection, headers.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{connect, drain, visitor},
    config::Config,
    program::Program,
    raw::exchange,
    small_site,
    upstream::Upstream,
    wait::soon,
};

const LONGEST: usize = 100_000;

/// An application that says how long a body was, in front of it the program; and what bodies came whole.
async fn echo(lines: &str) -> (Arc<Mutex<Vec<usize>>>, Upstream, Program) {
    let whole = Arc::<Mutex<Vec<usize>>>::default();
    let seen = whole.clone();
    let app = post(async move |body: Body| match body.collect().await {
        Ok(body) => {
            let length = body.to_bytes().len();
            seen.lock().unwrap().push(length);
            length.to_string()
        }
        Err(_) => "broken".to_owned(),
    });
    let app = app.layer(axum::extract::DefaultBodyLimit::disable());
    let upstream = Upstream::start(Router::new().route("/", app)).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nprimary.limits.body_size = \"{LONGEST}B\"\n{lines}",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    (whole, upstream, program)
}

fn post_of(length: usize, is_chunked: bool) -> Vec<u8> {
    let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".to_vec();
    if !is_chunked {
        request.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
        request.resize(request.len() + length, b'x');
        return request;
    }
    request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    let mut left = length;
    while left > 0 {
        let chunk = left.min(10_000);
        request.extend(format!("{chunk:x}\r\n").bytes());
        request.resize(request.len() + chunk, b'x');
        request.extend(b"\r\n");
        left -= chunk;
    }
    request.extend(b"0\r\n\r\n");
    request
}

#[tokio::test]
async fn a_body_may_be_so_long_and_no_longer() {
    let (whole, _upstream, program) = echo("").await;
    for is_chunked in [false, true] {
        let answer = exchange(program.site, post_of(LONGEST, is_chunked)).await;
        assert_eq!((answer.status, answer.text()), (200, &*LONGEST.to_string()));
        assert_eq!(whole.lock().unwrap().pop(), Some(LONGEST));
        let answer = exchange(program.site, post_of(LONGEST + 1, is_chunked)).await;
        assert_eq!(answer.status, 413, "chunked: {is_chunked}");
        assert!(whole.lock().unwrap().is_empty());
    }
    // It is told at once: nothing of the body has been sent here.
    let mut stream = connect(visitor(1), program.site).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut read = [0; 13];
    soon("an answer", stream.read_exact(&mut read))
        .await
        .unwrap();
    assert_eq!(&read, b"HTTP/1.1 413 ");
}

#[tokio::test]
async fn a_body_for_a_folder_is_bounded_as_well() {
    let site = small_site();
    let lines = format!("primary.limits.body_size = \"{LONGEST}B\"");
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    let answer = exchange(program.site, post_of(LONGEST + 1, false)).await;
    assert_eq!(answer.status, 413);
    let answer = exchange(program.site, post_of(LONGEST, false)).await;
    assert_eq!(answer.status, 405);
}

/// Asks on one connection until an answer says that it is the last one; gives how many there were.
async fn asked_until_the_end(program: &Program) -> usize {
    let mut stream = connect(visitor(1), program.site).await.unwrap();
    for asked in 1.. {
        let ask = b"GET /a.png HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\npng") {
            let count = soon("an answer", stream.read_buf(&mut read)).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&read));
        }
        let head = String::from_utf8(read).unwrap().to_ascii_lowercase();
        if head.contains("connection: close\r\n") {
            assert_eq!(drain(&mut stream).await, (Vec::new(), None));
            return asked;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_connection_has_so_many_requests() {
    let site = small_site();
    let primary = Program::serve(&Config::of_site(&site, "primary.limits.requests = 3")).await;
    assert_eq!(asked_until_the_end(&primary).await, 3);
    let lines = format!(
        "edge.primary = \"http://{}\"\nedge.limits.requests = 4",
        primary.site
    );
    let edge = Program::edge(&Config::new(lines)).await;
    assert_eq!(asked_until_the_end(&edge).await, 4);
}

#[tokio::test]
async fn an_http2_connection_ends_with_all_that_was_asked_answered() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "primary.limits.requests = 50")).await;
    let mut answered = 0;
    // A client whose connection goes away opens another one.
    for _ in 0..4 {
        let stream = TokioIo::new(TcpStream::connect(program.site).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let before = answered;
        while client.ready().await.is_ok() {
            let request = Request::get(format!("http://{}/a.png", program.site))
                .body(Empty::<Bytes>::new())
                .unwrap();
            let Ok(answer) = client.send_request(request).await else {
                break;
            };
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&*body, b"png");
            answered += 1;
        }
        assert!(answered >= before + 50, "{answered}");
        // What comes between the two GOAWAYs is answered, too.
        assert!(answered < before + 100, "{answered}");
        let ended = soon("the connection ends", connection).await.unwrap();
        assert!(ended.is_ok(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_request_has_so_many_headers() {
    let site = small_site();
    for most in [100, 20, 200] {
        let lines = format!("primary.limits.headers = {most}");
        let program = Program::serve(&Config::of_site(&site, &lines)).await;
        let headers = |count: usize| -> String {
            (0..count)
                .map(|number| format!("x-{number}: y\r\n"))
                .collect()
        };
        // With Host and Connection.
        for (count, status) in [(most - 2, 200), (most - 1, 431), (most * 5, 431)] {
            let request = format!(
                "GET /a.png HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n",
                headers(count)
            );
            let answer = exchange(program.site, request).await;
            assert_eq!(answer.status, status, "{count} of {most}");
        }
        let stream = TokioIo::new(TcpStream::connect(program.site).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
        tokio::spawn(connection);
        for (count, status) in [(most, 200), (most + 1, 431)] {
            let mut request = Request::get(format!("http://{}/a.png", program.site));
            for number in 0..count {
                request = request.header(format!("x-{number}"), "y");
            }
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), status, "{count} of {most}");
        }
    }
}
