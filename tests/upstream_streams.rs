//! One request to an upstream that speaks HTTP/2: bodies that are not taken, not wanted, or cut.

use std::{future::pending, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use overspill::upstream::ProxySettings;
use tokio::{net::TcpStream, task::JoinHandle};
use tower_service::Service;

use crate::{
    support::{
        frames::{CANCEL, CONTINUE, DATA, Frame, NO_ERROR, OF_TEN, OK, Peer, RESET},
        wait::soon,
    },
    upstream_http2::{Server, answered, is_fine, settings},
};

/// More than is taken of a body before the other end says that it takes more.
const MUCH: usize = 200_000;

/// Sends a body of so much that is not over, and gives the answer as it comes.
fn upload(server: &Server, headers: &[(&str, &str)], size: usize) -> JoinHandle<Response<Body>> {
    let much =
        futures_util::stream::once(async move { Ok::<_, axum::Error>(Bytes::from(vec![7; size])) });
    let body = Body::from_stream(much.chain(futures_util::stream::once(pending())));
    let mut request = Request::put("/").header("host", "site.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = server.upstream.clone().call(request.body(body).unwrap());
    tokio::spawn(async { answer.await.unwrap() })
}

/// The next frame that ends a stream from our side.
async fn reset(peer: &mut Peer<TcpStream>) -> Frame {
    loop {
        let frame = peer.frame().await.expect("not closed before");
        if frame.kind == RESET {
            return frame;
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
        idle_timeout: Duration::from_millis(100),
        ..settings()
    })
    .await;
    let asking = upload(&server, &[], MUCH);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    let body = answered(asking).await.into_body();
    assert_eq!(
        soon("a body", body.collect()).await.unwrap().to_bytes(),
        "fine"
    );
    let frame = reset(&mut peer).await;
    assert_eq!(
        (frame.stream, frame.payload),
        (stream, CANCEL.to_be_bytes().to_vec())
    );
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
        let frame = reset(&mut peer).await;
        assert_eq!(
            (frame.stream, frame.payload),
            (stream, CANCEL.to_be_bytes().to_vec())
        );
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
    let parts = futures_util::stream::unfold(parts, async |mut parts| {
        let part = parts.recv().await?;
        Some((Ok::<_, axum::Error>(Bytes::from_static(part)), parts))
    });
    let request = Request::put("/").header("host", "site.example");
    let request = request.body(Body::from_stream(parts)).unwrap();
    let answer = server.upstream.clone().call(request);
    let asking = tokio::spawn(async { answer.await.unwrap() });
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    let body = answered(asking).await.into_body();
    assert_eq!(
        soon("a body", body.collect()).await.unwrap().to_bytes(),
        "fine"
    );
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

#[tokio::test]
async fn a_body_ends_with_an_empty_part_as_well() {
    let server = Server::start(settings()).await;
    let (feed, mut came) = tokio::sync::mpsc::channel(2);
    for part in ["some", ""] {
        feed.send(Bytes::from(part)).await.unwrap();
    }
    drop(feed);
    // Over when its last part has been taken, as bodies over HTTP/2 are.
    struct Parts(tokio::sync::mpsc::Receiver<Bytes>);
    impl http_body::Body for Parts {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            let part = self.0.poll_recv(cx);
            part.map(|part| part.map(|part| Ok(http_body::Frame::data(part))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_closed() && self.0.is_empty()
        }
    }
    came.close();
    let request = Request::put("/").header("host", "site.example");
    let request = request.body(Body::new(Parts(came))).unwrap();
    let answer = server.upstream.clone().call(request);
    let asking = tokio::spawn(async { answer.await.unwrap() });
    let mut peer = server.greet(Some(1)).await;
    let (stream, body) = peer.asked_whole().await;
    assert_eq!(body, b"some");
    peer.answer(stream).await;
    assert_eq!(answered(asking).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_wants_no_more_of_a_body_has_answered() {
    let server = Server::start(settings()).await;
    let asking = upload(&server, &[], MUCH);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    peer.reset(stream, NO_ERROR).await;
    let answer = answered(asking).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = soon("a body", answer.into_body().collect()).await.unwrap();
    assert_eq!(body.to_bytes(), "fine");
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
    assert_eq!(reset(&mut peer).await.stream, stream);
}

#[tokio::test]
async fn a_body_that_is_not_wanted_is_not_sent_after_the_answer() {
    let server = Server::start(settings()).await;
    let asking = upload(&server, &[("expect", "100-continue")], 4);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    let body = answered(asking).await.into_body();
    assert_eq!(
        soon("a body", body.collect()).await.unwrap().to_bytes(),
        "fine"
    );
    // Long before anything is too long.
    let frame = reset(&mut peer).await;
    assert_eq!(frame.stream, stream);
    is_free(&server, &mut peer).await;
}
