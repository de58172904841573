//! An upstream that speaks HTTP/2: how many connections it gets, and what becomes of what it does not do.

use std::{future::poll_fn, net::SocketAddr, task::Poll, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use overspill::upstream::{Http2, ProxySettings, Upstream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tower_service::Service;

use crate::support::{
    frames::{DATA, INTERNAL_ERROR, OK, Peer, REFUSED_STREAM, RESET},
    wait::soon,
};

pub(crate) struct Server {
    listener: TcpListener,
    pub(crate) upstream: Upstream,
}

/// For tests in which a time has to run out, but not before something has happened on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(3);

pub(crate) fn settings() -> ProxySettings {
    ProxySettings {
        http2: Http2::Always,
        // For longer than a test takes.
        keep: Duration::from_secs(3600),
        ..ProxySettings::default()
    }
}

// === impl Server ===

impl Server {
    pub(crate) async fn start(settings: ProxySettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let url = format!("http://{address}").parse().unwrap();
        let upstream = Upstream::with(&url, settings).unwrap();
        Self { listener, upstream }
    }

    async fn accept(&self) -> TcpStream {
        soon("a connection", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    pub(crate) async fn greet(&self, most: Option<u32>) -> Peer<TcpStream> {
        Peer::greet(self.accept().await, most).await
    }

    /// Asks `times` at once.
    pub(crate) fn ask(&self, times: usize) -> JoinHandle<Vec<(StatusCode, String)>> {
        let asking: Vec<_> = (0..times).map(|_| self.send(Method::GET, b"")).collect();
        tokio::spawn(join_all(asking))
    }

    fn post(&self, body: &[u8]) -> JoinHandle<(StatusCode, String)> {
        tokio::spawn(self.send(Method::POST, body))
    }

    fn send(
        &self,
        method: Method,
        body: &[u8],
    ) -> impl Future<Output = (StatusCode, String)> + Send + 'static {
        self.send_body(method, Body::new(Full::new(Bytes::copy_from_slice(body))))
    }

    fn send_body(
        &self,
        method: Method,
        body: Body,
    ) -> impl Future<Output = (StatusCode, String)> + Send + 'static {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "site.example")
            .body(body)
            .unwrap();
        let answer = self.upstream.clone().call(request);
        async move {
            let answer = soon("an answer", answer).await.unwrap();
            let status = answer.status();
            let body = soon("its body", answer.into_body().collect())
                .await
                .unwrap();
            let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            (status, text)
        }
    }

    /// Nobody has connected whom nobody has accepted: what was asked before is answered, and this is a new connection.
    async fn is_alone(&self) {
        let own = TcpStream::connect(self.listener.local_addr().unwrap())
            .await
            .unwrap();
        let (_, next) = soon("a connection", self.listener.accept()).await.unwrap();
        assert_eq!(next, own.local_addr().unwrap());
    }
}

pub(crate) fn is_fine((status, text): &(StatusCode, String)) -> bool {
    *status == 200 && text == "fine"
}

pub(crate) async fn answered<T>(asking: JoinHandle<T>) -> T {
    soon("an answer", asking).await.unwrap()
}

#[tokio::test]
async fn a_burst_waits_for_one_connection() {
    let server = Server::start(settings()).await;
    let asking = server.ask(50);
    let mut peer = server.greet(None).await;
    for _ in 0..50 {
        let stream = peer.asked().await;
        peer.answer(stream).await;
    }
    assert!(answered(asking).await.iter().all(is_fine));
    server.is_alone().await;
}

#[tokio::test]
async fn who_goes_away_does_not_take_the_connection_along_that_others_wait_for() {
    let server = Server::start(settings()).await;
    let first = server.ask(1);
    let stream = server.accept().await;
    let mut others = Box::pin(join_all((0..3).map(|_| server.send(Method::GET, b""))));
    // They wait for the connection from here on.
    let asked = poll_fn(|cx| Poll::Ready(others.as_mut().poll(cx))).await;
    assert!(asked.is_pending());
    let others = tokio::spawn(others);
    first.abort();
    assert!(soon("its end", first).await.is_err());
    let mut peer = Peer::greet(stream, None).await;
    for _ in 0..3 {
        let stream = peer.asked().await;
        peer.answer(stream).await;
    }
    assert!(answered(others).await.iter().all(is_fine));
    server.is_alone().await;
}

#[tokio::test]
async fn where_a_connection_is_full_another_is_opened() {
    let server = Server::start(settings()).await;
    let asking = server.ask(6);
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = server.greet(Some(2)).await;
        let streams = [peer.asked().await, peer.asked().await];
        peers.push((peer, streams));
    }
    // None is answered before all have arrived.
    for (peer, streams) in &mut peers {
        for stream in streams {
            peer.answer(*stream).await;
        }
    }
    assert!(answered(asking).await.iter().all(is_fine));

    // What the other end says later counts as well: it is looked at with each request.
    let (peer, _) = &mut peers[0];
    peer.allow(Some(100)).await;
    for _ in 0..2 {
        let asking = server.ask(1);
        let stream = peer.asked().await;
        peer.answer(stream).await;
        assert!(answered(asking).await.iter().all(is_fine));
    }
    let asking = server.ask(50);
    for _ in 0..50 {
        let stream = peer.asked().await;
        peer.answer(stream).await;
    }
    assert!(answered(asking).await.iter().all(is_fine));
    server.is_alone().await;
}

#[tokio::test]
async fn there_are_bounds_to_how_many_are_opened() {
    let server = Server::start(settings()).await;
    let asking = server.ask(100);
    let (has, mut had) = mpsc::unbounded_channel();
    let (go, _) = tokio::sync::watch::channel(());
    for _ in 0..64 {
        let mut peer = server.greet(Some(1)).await;
        let (has, mut go) = (has.clone(), go.subscribe());
        tokio::spawn(async move {
            let mut stream = peer.asked().await;
            has.send(()).unwrap();
            go.changed().await.unwrap();
            loop {
                peer.answer(stream).await;
                stream = peer.asked().await;
            }
        });
    }
    for _ in 0..64 {
        soon("a request over each", had.recv()).await.unwrap();
    }
    go.send(()).unwrap();
    assert!(answered(asking).await.iter().all(is_fine));
    server.is_alone().await;
}

#[tokio::test]
async fn what_nobody_uses_is_closed() {
    for keep in [Duration::ZERO, Duration::from_millis(50)] {
        let server = Server::start(ProxySettings { keep, ..settings() }).await;
        let asking = server.ask(2);
        let mut peer = server.greet(None).await;
        for _ in 0..2 {
            let stream = peer.asked().await;
            peer.answer(stream).await;
        }
        assert!(answered(asking).await.iter().all(is_fine));
        assert!(peer.is_closed().await);
        // And what is asked later goes over another.
        let asking = server.ask(1);
        let mut peer = server.greet(None).await;
        let stream = peer.asked().await;
        peer.answer(stream).await;
        assert!(answered(asking).await.iter().all(is_fine));
    }
}

#[tokio::test]
async fn what_the_upstream_has_not_looked_at_goes_out_once_more() {
    enum By {
        GoAway,
        Refusal,
    }
    for by in [By::GoAway, By::Refusal] {
        for body in [b"".as_slice(), b"an order", &[7; 30_000]] {
            let server = Server::start(settings()).await;
            let asking = server.post(body);
            let mut peer = server.greet(None).await;
            let (stream, came) = peer.asked_whole().await;
            assert_eq!(came, body);
            match by {
                By::GoAway => peer.go_away(0).await,
                By::Refusal => peer.reset(stream, REFUSED_STREAM).await,
            }
            let mut other = server.greet(None).await;
            let (stream, came) = other.asked_whole().await;
            assert_eq!(came, body);
            other.answer(stream).await;
            assert!(is_fine(&answered(asking).await));
            if matches!(by, By::GoAway) {
                assert!(peer.is_closed().await);
            }
        }
    }
}

#[tokio::test]
async fn a_body_of_which_nothing_has_come_yet_goes_out_once_more_too() {
    let server = Server::start(settings()).await;
    let (mut feed, parts) = tokio::io::duplex(64);
    let parts = futures_util::stream::unfold(parts, async |mut parts| {
        let mut part = [0; 64];
        let size = parts.read(&mut part).await.unwrap();
        let part = Bytes::copy_from_slice(&part[..size]);
        (size > 0).then_some((Ok::<_, std::io::Error>(part), parts))
    });
    let asking = server.send_body(Method::PUT, Body::from_stream(parts));
    let asking = tokio::spawn(asking);
    let mut peer = server.greet(None).await;
    let stream = peer.asked().await;
    peer.reset(stream, REFUSED_STREAM).await;
    let mut other = server.greet(None).await;
    other.asked().await;
    feed.write_all(b"at last").await.unwrap();
    drop(feed);
    let (stream, came) = other.asked_whole().await;
    assert_eq!(came, b"at last");
    other.answer(stream).await;
    assert!(is_fine(&answered(asking).await));
}

#[tokio::test]
async fn many_that_are_turned_away_at_once_share_the_next_connection() {
    let server = Server::start(settings()).await;
    let asking = server.ask(30);
    let mut peer = server.greet(None).await;
    let first = peer.asked().await;
    for _ in 1..30 {
        peer.asked().await;
    }
    peer.go_away(first).await;
    let mut other = server.greet(None).await;
    for _ in 1..30 {
        let stream = other.asked().await;
        other.answer(stream).await;
    }
    // What was begun before is answered.
    peer.answer(first).await;
    assert!(answered(asking).await.iter().all(is_fine));
    server.is_alone().await;
}

#[tokio::test]
async fn connections_that_all_leave_cost_no_request_its_attempts() {
    let server = Server::start(settings()).await;
    let (mut peers, mut asking) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        // The second finds room on the connection of the first, and the next one none.
        for number in 0..2 {
            asking.push(server.ask(1));
            if number == 0 {
                peers.push(server.greet(Some(2)).await);
            }
            peers.last_mut().unwrap().asked().await;
        }
    }
    for peer in &mut peers {
        // It goes on with what it has: the answer to the first comes after the word.
        peer.go_away(3).await;
        peer.answer(1).await;
    }
    let mut others = asking.split_off(0).into_iter();
    while let (Some(first), Some(second)) = (others.next(), others.next()) {
        assert!(answered(first).await.iter().all(is_fine));
        asking.push(second);
    }
    let order = server.post(b"an order");
    let mut next = server.greet(None).await;
    let stream = next.asked().await;
    next.answer(stream).await;
    assert!(is_fine(&answered(order).await));
    for (peer, second) in peers.iter_mut().zip(asking) {
        peer.answer(3).await;
        assert!(answered(second).await.iter().all(is_fine));
    }
}

#[tokio::test]
async fn who_takes_back_much_does_not_end_the_connection_for_others() {
    // More than are remembered, and more than the library allows a server to get wrong.
    const MANY: usize = 2500;
    let server = Server::start(settings()).await;
    let waits = server.ask(1);
    let mut peer = server.greet(None).await;
    let first = peer.asked().await;
    let mut taken_back = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let asking = server.ask(1);
        taken_back.push(peer.asked().await);
        asking.abort();
        while soon("its end", peer.frame()).await.unwrap().kind != RESET {}
    }
    for stream in taken_back {
        peer.head(stream, OK).await;
    }
    peer.answer(first).await;
    assert!(answered(waits).await.iter().all(is_fine));
}

#[tokio::test]
async fn what_may_have_been_done_does_not_go_out_again() {
    // For other reasons than that it was not looked at.
    let server = Server::start(settings()).await;
    let asking = server.post(b"an order");
    let mut peer = server.greet(None).await;
    let (stream, _) = peer.asked_whole().await;
    peer.reset(stream, INTERNAL_ERROR).await;
    assert_eq!(answered(asking).await.0, StatusCode::BAD_GATEWAY);

    // Over the same connection, which ends without a word.
    let asking = server.post(b"an order");
    peer.asked_whole().await;
    drop(peer);
    assert_eq!(answered(asking).await.0, StatusCode::BAD_GATEWAY);
    server.is_alone().await;

    // It was the last that was looked at.
    let asking = server.post(b"an order");
    let mut peer = server.greet(None).await;
    let (stream, _) = peer.asked_whole().await;
    peer.go_away(stream).await;
    drop(peer);
    assert_eq!(answered(asking).await.0, StatusCode::BAD_GATEWAY);
    server.is_alone().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_the_upstreams_fault() {
    let server = Server::start(settings()).await;
    let parts = [Ok(Bytes::from("half")), Err("no more")];
    let body = Body::from_stream(futures_util::stream::iter(parts));
    let asking = tokio::spawn(server.send_body(Method::PUT, body));
    let mut peer = server.greet(None).await;
    peer.asked().await;
    assert_eq!(answered(asking).await.0, StatusCode::BAD_REQUEST);
    // The others go on.
    let asking = server.ask(1);
    let stream = peer.asked().await;
    peer.answer(stream).await;
    assert!(is_fine(&answered(asking).await[0]));
}

#[tokio::test]
async fn what_does_no_harm_goes_out_again_over_a_new_connection() {
    let server = Server::start(settings()).await;
    let asking = server.ask(1);
    let mut peer = server.greet(None).await;
    let stream = peer.asked().await;
    peer.answer(stream).await;
    assert!(is_fine(&answered(asking).await[0]));

    let asking = server.ask(1);
    peer.asked().await;
    drop(peer);
    let mut other = server.greet(None).await;
    let stream = other.asked().await;
    other.answer(stream).await;
    assert!(is_fine(&answered(asking).await[0]));
}

#[tokio::test]
async fn the_place_of_what_is_taken_back_is_free_though_its_body_has_no_end() {
    let server = Server::start(settings()).await;
    let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>());
    let asking = tokio::spawn(server.send_body(Method::PUT, body));
    let mut peer = server.greet(Some(1)).await;
    peer.asked().await;
    asking.abort();
    while soon("its end", peer.frame()).await.unwrap().kind != RESET {}
    let asking = server.ask(1);
    let stream = peer.asked().await;
    peer.answer(stream).await;
    assert!(is_fine(&answered(asking).await[0]));
    server.is_alone().await;
}

#[tokio::test]
async fn a_long_body_does_not_go_out_again() {
    let server = Server::start(settings()).await;
    let (mut feed, parts) = tokio::io::duplex(1 << 20);
    let parts = futures_util::stream::unfold(parts, async |mut parts| {
        let mut part = vec![0; 32 << 10];
        let size = parts.read(&mut part).await.unwrap();
        part.truncate(size);
        (size > 0).then_some((Ok::<_, std::io::Error>(Bytes::from(part)), parts))
    });
    let asking = server.send_body(Method::PUT, Body::from_stream(parts));
    let asking = tokio::spawn(asking);
    feed.write_all(&[7; 200_000]).await.unwrap();
    let mut peer = server.greet(None).await;
    let mut came = 0;
    let stream = loop {
        let frame = peer.frame().await.unwrap();
        came += frame.payload.len() * usize::from(frame.kind == DATA);
        // What the client may send without being told to go on.
        if came == 65_535 {
            break frame.stream;
        }
    };
    peer.reset(stream, REFUSED_STREAM).await;
    assert_eq!(answered(asking).await.0, StatusCode::BAD_GATEWAY);
    server.is_alone().await;
}

#[tokio::test]
async fn who_refuses_everything_is_asked_a_third_time_and_no_more() {
    let server = Server::start(settings()).await;
    let asking = server.post(b"an order");
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = server.greet(None).await;
        let (stream, _) = peer.asked_whole().await;
        peer.reset(stream, REFUSED_STREAM).await;
        peers.push(peer);
    }
    assert_eq!(answered(asking).await.0, StatusCode::BAD_GATEWAY);
    server.is_alone().await;
}

#[tokio::test]
async fn who_is_refused_by_two_asks_a_third_that_is_open() {
    let server = Server::start(settings()).await;
    let asking = server.ask(3);
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = server.greet(Some(1)).await;
        let stream = peer.asked().await;
        peers.push((peer, stream));
    }
    for (peer, stream) in &mut peers {
        peer.answer(*stream).await;
    }
    assert!(answered(asking).await.iter().all(is_fine));

    let asking = server.post(b"an order");
    let [first, second, third] = &mut peers[..] else {
        unreachable!()
    };
    for (peer, _) in [first, second] {
        let (stream, _) = peer.asked_whole().await;
        peer.reset(stream, REFUSED_STREAM).await;
    }
    let (stream, _) = third.0.asked_whole().await;
    third.0.answer(stream).await;
    assert!(is_fine(&answered(asking).await));
    server.is_alone().await;
}

/// Has a connection fail that is opened because the others are full.
async fn no_more(server: &Server) {
    let mut stream = server.accept().await;
    stream.write_all(b"HTTP/1.1 503 \r\n\r\n").await.unwrap();
    // Given up before it is closed.
    let mut rest = Vec::new();
    let _ = soon("its end", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn where_no_more_can_be_opened_an_open_one_is_waited_for() {
    let server = Server::start(settings()).await;
    let first = server.ask(1);
    let mut peer = server.greet(Some(1)).await;
    let stream = peer.asked().await;
    let others = server.ask(5);
    no_more(&server).await;
    peer.answer(stream).await;
    for _ in 0..5 {
        let stream = peer.asked().await;
        peer.answer(stream).await;
    }
    assert!(answered(first).await.iter().all(is_fine));
    assert!(answered(others).await.iter().all(is_fine));
}

#[tokio::test]
async fn who_waits_for_room_is_not_lost_with_the_connection_that_has_none() {
    let server = Server::start(settings()).await;
    let first = server.ask(1);
    let mut peer = server.greet(Some(1)).await;
    peer.asked().await;
    let order = server.post(b"an order");
    no_more(&server).await;
    let other = server.ask(1);
    let next = server.accept().await;
    drop(peer);
    assert_eq!(answered(first).await[0].0, StatusCode::BAD_GATEWAY);
    let mut peer = Peer::greet(next, None).await;
    for _ in 0..2 {
        let stream = peer.asked().await;
        peer.answer(stream).await;
    }
    assert!(is_fine(&answered(other).await[0]));
    assert!(is_fine(&answered(order).await));
    server.is_alone().await;
}

#[tokio::test]
async fn all_who_wait_for_a_connection_fail_with_it() {
    // It is accepted, and nothing comes.
    let silent = ProxySettings {
        connect_timeout: LONG,
        ..settings()
    };
    let server = Server::start(silent).await;
    let asking = server.ask(20);
    let stream = server.accept().await;
    for (status, _) in answered(asking).await {
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    }
    drop(stream);
    server.is_alone().await;

    // It speaks another protocol.
    let server = Server::start(settings()).await;
    let asking = server.ask(20);
    let mut stream = server.accept().await;
    let told = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nevil";
    stream.write_all(told).await.unwrap();
    for (status, text) in answered(asking).await {
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(!text.contains("evil"));
    }
    server.is_alone().await;
}

#[tokio::test]
async fn a_connection_that_ends_at_once_is_not_opened_for_ever() {
    let server = Server::start(settings()).await;
    let asking = server.ask(5);
    let ends = async {
        loop {
            let mut peer = server.greet(None).await;
            peer.go_away(0).await;
            drop(peer);
        }
    };
    let told = tokio::select! {
        told = answered(asking) => told,
        () = ends => unreachable!(),
    };
    assert!(
        told.iter()
            .all(|(status, _)| *status == StatusCode::BAD_GATEWAY)
    );
}
