//! One request to an upstream that speaks HTTP/2: bodies that are not taken, not wanted, or cut.

use std::{
    future::pending,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use overspill::upstream::ProxySettings;
use tokio::{net::TcpStream, task::JoinHandle};
use tower_service::Service;

use crate::{
    support::{
        frames::{CANCEL, CONTINUE, DATA, NO_ERROR, OF_TEN, OK, Peer, RESET},
        wait::soon,
    },
    upstream_http2::{LONG, Server, answered, is_fine, settings},
};

/// More than is taken of a body before the other end says that it takes more.
const MUCH: usize = 200_000;

/// Sends `body`, and gives the answer as it comes.
fn put(server: &Server, headers: &[(&str, &str)], body: Body) -> JoinHandle<Response<Body>> {
    let mut request = Request::put("/").header("host", "site.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = server.upstream.clone().call(request.body(body).unwrap());
    tokio::spawn(async { answer.await.unwrap() })
}

/// Sends a body of so much that is not over.
fn upload(server: &Server, headers: &[(&str, &str)], size: usize) -> JoinHandle<Response<Body>> {
    let much = stream::once(async move { Ok::<_, axum::Error>(Bytes::from(vec![7; size])) });
    let body = Body::from_stream(much.chain(stream::once(pending())));
    put(server, headers, body)
}

/// The answer has come as a whole.
async fn is_answered(asking: JoinHandle<Response<Body>>) {
    let answer = answered(asking).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = soon("a body", answer.into_body().collect()).await.unwrap();
    assert_eq!(body.to_bytes(), "fine");
}

/// The next stream that is reset is this one.
async fn is_taken_back(peer: &mut Peer<TcpStream>, stream: u32) {
    loop {
        let frame = peer.frame().await.expect("not closed before");
        if frame.kind == RESET {
            assert_eq!(frame.stream, stream);
            assert_eq!(frame.payload, CANCEL.to_be_bytes());
            return;
        }
    }
}

/// The connection, on which there is one place, takes another request.
async fn is_free(server: &Server, peer: &mut Peer<TcpStream>) {
    let asking = server.ask(1);
    let stream = peer.asked().await;
    peer.answer(stream).await;
    assert!(answered(asking).await.iter().all(is_fine));
}

#[tokio::test]
async fn a_body_that_nobody_takes_is_given_up_after_the_answer() {
    let server = Server::start(ProxySettings {
        idle_timeout: LONG,
        ..settings()
    })
    .await;
    let asking = upload(&server, &[], MUCH);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    is_answered(asking).await;
    is_taken_back(&mut peer, stream).await;
    is_free(&server, &mut peer).await;
}

#[tokio::test]
async fn a_body_that_nobody_takes_goes_with_who_no_longer_wants_the_answer() {
    let server = Server::start(settings()).await;
    for size in [MUCH, 4] {
        let asking = upload(&server, &[], size);
        let mut peer = server.greet(Some(1)).await;
        let stream = peer.asked().await;
        peer.head(stream, OK).await;
        peer.part(stream, b"some", false).await;
        let mut body = answered(asking).await.into_body();
        let some = soon("a part", body.frame()).await.unwrap().unwrap();
        assert_eq!(some.into_data().unwrap(), "some");
        drop(body);
        is_taken_back(&mut peer, stream).await;
        is_free(&server, &mut peer).await;
        // The next one has a connection of its own.
        peer.go_away(3).await;
        assert!(peer.is_closed().await);
    }
}

#[tokio::test]
async fn a_body_goes_on_after_the_answer_as_long_as_it_is_taken() {
    let server = Server::start(settings()).await;
    let (feed, parts) = tokio::sync::mpsc::unbounded_channel::<&'static [u8]>();
    let parts = stream::unfold(parts, async |mut parts| {
        let part = parts.recv().await?;
        Some((Ok::<_, axum::Error>(Bytes::from_static(part)), parts))
    });
    let asking = put(&server, &[], Body::from_stream(parts));
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    is_answered(asking).await;
    for part in [&b"some"[..], b"more"] {
        feed.send(part).unwrap();
        let frame = peer.frame().await.expect("it goes on");
        assert_eq!((frame.kind, &frame.payload[..]), (DATA, part));
    }
    drop(feed);
    let frame = peer.frame().await.expect("it goes on");
    assert!(frame.is_last() && frame.payload.is_empty(), "{frame:?}");
    is_free(&server, &mut peer).await;
}

/// A body that is over when its last part has been taken, as those over HTTP/2 are.
struct Parts(std::vec::IntoIter<&'static str>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let part = self.0.next();
        Poll::Ready(part.map(|part| Ok(Frame::data(Bytes::from(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.len() == 0
    }
}

#[tokio::test]
async fn a_body_ends_with_an_empty_part_as_well() {
    let server = Server::start(settings()).await;
    let parts = Parts(vec!["so", "", "me", ""].into_iter());
    let asking = put(&server, &[], Body::new(parts));
    let mut peer = server.greet(Some(1)).await;
    let (stream, body) = peer.asked_whole().await;
    assert_eq!(body, b"some");
    peer.answer(stream).await;
    is_answered(asking).await;
    is_free(&server, &mut peer).await;
}

#[tokio::test]
async fn a_server_that_wants_no_more_of_a_body_has_answered() {
    let server = Server::start(settings()).await;
    let asking = upload(&server, &[], MUCH);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    peer.reset(stream, NO_ERROR).await;
    is_answered(asking).await;
    is_free(&server, &mut peer).await;
}

#[tokio::test]
async fn an_answer_that_is_cut_is_not_taken_for_whole() {
    let server = Server::start(settings()).await;
    let mut first = None;
    for (head, reason) in [
        (OK, NO_ERROR),
        (OF_TEN, NO_ERROR),
        (OK, CANCEL),
        (OF_TEN, CANCEL),
    ] {
        let asking = upload(&server, &[], 4);
        if first.is_none() {
            first = Some(server.greet(Some(1)).await);
        }
        let peer = first.as_mut().unwrap();
        let stream = peer.asked().await;
        peer.head(stream, head).await;
        peer.part(stream, b"some", false).await;
        peer.reset(stream, reason).await;
        let body = answered(asking).await.into_body();
        assert!(soon("its end", body.collect()).await.is_err(), "{reason}");
    }
}

#[tokio::test]
async fn a_body_is_asked_for_when_the_upstream_wants_it() {
    let server = Server::start(settings()).await;
    let asking = upload(&server, &[("expect", "100-continue")], 4);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.head(stream, CONTINUE).await;
    let frame = peer.frame().await.expect("the body");
    assert_eq!((frame.kind, &frame.payload[..]), (DATA, &[7; 4][..]));
    peer.answer(stream).await;
    let answer = answered(asking).await;
    assert_eq!(answer.status(), StatusCode::OK);
    drop(answer);
    is_taken_back(&mut peer, stream).await;
}

#[tokio::test]
async fn a_body_that_is_not_wanted_is_not_sent_after_the_answer() {
    let server = Server::start(settings()).await;
    let asking = upload(&server, &[("expect", "100-continue")], 4);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    is_answered(asking).await;
    // Long before anything is too long.
    is_taken_back(&mut peer, stream).await;
    is_free(&server, &mut peer).await;
}
