//! Serving connections: HTTP/1.1 and HTTP/2, with TLS or without, until told to stop.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::serve::Listener;
use http::{Request, Version};
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tower_service::Service;

use super::{Edge, EdgeFuture, service::refusal};
use crate::{
    access::{AccessLog, Logged},
    guard::{Acceptor, Answering, Answers, Doing, Ready, Room, Stopping, too_much},
    journal::Event,
    tls::{self, Certificates, Connections, Redirect, Redirecting},
};

/// The edge, for one connection.
#[derive(Clone)]
struct Noted {
    edge: Edge,
    doing: Arc<Doing>,
}

impl Service<Request<Incoming>> for Noted {
    type Response = <Edge as Service<Request<Incoming>>>::Response;
    type Error = Infallible;
    type Future = NotedFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> NotedFuture {
        let answering = self.doing.begin(request.version() == Version::HTTP_2);
        if let Some((status, sentence)) = too_much(&self.doing, &request) {
            let answer = refusal(status, sentence, request.method(), request.headers());
            return NotedFuture {
                answer: EdgeFuture::Ready(std::future::ready(answer)),
                answering: Some(answering),
            };
        }
        NotedFuture {
            answer: self.edge.call(request),
            answering: Some(answering),
        }
    }
}

/// An answer that is under way until its body has gone.
struct NotedFuture {
    answer: EdgeFuture,
    answering: Option<Answering>,
}

impl Future for NotedFuture {
    type Output = <EdgeFuture as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(Pin::new(&mut self.answer).poll(cx));
        if let (Ok(answer), Some(answering)) = (&mut answer, self.answering.take()) {
            answering.say_goodbye(answer.headers_mut());
            answer.body_mut().hold(answering);
        }
        Poll::Ready(answer)
    }
}

/// Where an edge is asked.
#[derive(Debug)]
pub struct Listening {
    /// For the site.
    pub listener: TcpListener,
    /// With them it is served over TLS alone.
    pub tls: Option<Certificates>,
    /// Where requests without TLS are sent to https.
    pub redirect: Option<TcpListener>,
    /// Where a line of every request goes.
    pub access_log: Option<AccessLog>,
}

impl From<TcpListener> for Listening {
    /// Without TLS, and without an access log.
    fn from(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
            redirect: None,
            access_log: None,
        }
    }
}

/// A listener that goes on where accepting fails.
struct Accepting {
    listener: TcpListener,
    acceptor: Acceptor,
}

impl Listener for Accepting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let (io, peer) = self.acceptor.accept(&self.listener).await;
        // One that is gone already will say so when it is read.
        let _ = io.set_nodelay(true);
        (io, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A proxy on this machine brings everyone's connections.
fn is_own(peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

/// Serves until `stop` is ready, and then what is under way, for `edge.limits.drain` at most.
pub async fn serve(edge: Edge, listening: impl Into<Listening>, stop: impl Future<Output = ()>) {
    let listening = listening.into();
    let limits = *edge.limits();
    let (listener, access_log) = (listening.listener, listening.access_log);
    let connections = Connections::new(limits, listening.tls.as_ref(), Answers::InTime);
    let room = Room::new(&limits, "edge.limits");
    let mut accepting = Accepting {
        listener,
        acceptor: Acceptor::default(),
    };
    accepting.acceptor.relieved_by(room.clone());
    let stopping = Arc::new(Stopping::new());
    let port = accepting.local_addr().map_or(0, |address| address.port());
    let port = listening.tls.as_ref().map_or(port, |tls| tls.port(port));
    let renewing = listening.tls.map(|certificates| {
        let tell = |event: Event| event.log();
        tokio::spawn(tls::watch(certificates, tell))
    });
    let refuse = {
        let log = access_log.clone();
        move |io: TcpStream, peer| {
            if let Some(log) = &log {
                log.closed(peer);
            }
            drop(io);
        }
    };
    if let Some(redirect) = listening.redirect {
        let redirecting = Redirecting {
            service: Redirect::to(port),
            connections: Connections::new(limits, None, Answers::AtOnce),
            log: access_log.clone(),
        };
        let mut redirect = Accepting {
            listener: redirect,
            acceptor: Acceptor::default(),
        };
        redirect.acceptor.relieved_by(room.clone());
        let doors = (is_own, refuse.clone());
        tokio::spawn(tls::redirect(
            redirect,
            doors,
            watch::Sender::new(redirecting).subscribe(),
            room.clone(),
            stopping.clone(),
        ));
    }
    let mut stop = pin!(stop);
    if let Some(log) = &access_log {
        // For the metrics.
        let _ = edge.0.access_log.set(log.clone());
    }
    loop {
        let (io, peer) = tokio::select! {
            accepted = accepting.accept() => accepted,
            () = &mut stop => break,
        };
        let address = peer.ip().to_canonical();
        let Some(place) = room.enter((!is_own(peer)).then_some(address)) else {
            refuse(io, peer);
            continue;
        };
        let service = Noted {
            edge: edge.clone(),
            doing: place.doing.clone(),
        };
        let service = Logged::new(service, access_log.clone(), peer);
        let service = Ready::new(service);
        let serves = connections.clone().serve(
            io,
            (peer, access_log.clone()),
            place,
            stopping.stop(),
            service,
        );
        tokio::spawn(serves);
        room.settle().await;
    }
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    drop(accepting);
    stopping.drain(limits.drain).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
        time::{self, Instant},
    };

    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;
    use crate::{edge::EdgeSettings, load};

    /// All times of the limits.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn start(primary: SocketAddr) -> SocketAddr {
        let mut load = load::Settings::default();
        load.cpu.enabled = false;
        load.bandwidth.enabled = false;
        let settings = EdgeSettings {
            primary: format!("http://{primary}"),
            patience: PATIENCE * 2,
            ..EdgeSettings::default()
        };
        let edge = Edge::start(&settings, &load).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(edge, listener, std::future::pending()));
        address
    }

    /// Sends `said`, and reads to the end of the connection; gives what came, and after how long it ended.
    ///
    /// A clock that is paused jumps ahead whenever nobody has anything to do, be it that the kernel is not done with
    /// carrying bytes. So it goes until what `comes` at once has come.
    async fn say(
        edge: SocketAddr,
        said: &str,
        comes: impl Fn(&[u8]) -> bool,
    ) -> (String, Duration) {
        time::resume();
        let before = Instant::now();
        let mut stream = TcpStream::connect(edge).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !comes(&read) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
        time::pause();
        // What was said and not understood may make it a reset.
        let _ = stream.read_to_end(&mut read).await;
        (String::from_utf8(read).unwrap(), before.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_is_shown_out_and_who_waits_for_an_answer_is_not() {
        // The kernel takes connections; nobody ever answers.
        let primary = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = start(primary.local_addr().unwrap()).await;
        let health = "GET /.overspill/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for (said, ends) in [
            ("", PATIENCE..PATIENCE * 2),
            ("GET / HT", PATIENCE..PATIENCE * 2),
            ("PRI * HTTP/2.0\r\n", PATIENCE..PATIENCE * 2),
            (health, PATIENCE..PATIENCE * 3),
            (&*format!("{health}GET / HT"), PATIENCE..PATIENCE * 3),
        ] {
            let answered = |read: &[u8]| !said.contains(health) || read.ends_with(b"ok\n");
            let (read, after) = say(edge, said, answered).await;
            assert_eq!(read.contains("200 OK"), said.contains(health), "{read}");
            assert!(ends.contains(&after), "{said:?}: {after:?}");
        }
        let asks = "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let (read, after) = say(edge, asks, |_| true).await;
        assert!(read.starts_with("HTTP/1.1 504 "), "{read}");
        assert!(after >= PATIENCE * 2, "{after:?}");
    }

    const MUCH: usize = 8 << 20;

    /// A primary that sends its first visitor 8 MB, and an edge that has them.
    async fn with_much() -> SocketAddr {
        let primary = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = primary.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = primary.accept().await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![7; MUCH]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let edge = start(address).await;
        // Fills the store, so that the next one gets it in one piece, which hyper takes at once.
        let (read, _) = say(edge, MUCH_PLEASE, |read| read.len() > MUCH).await;
        assert!(read.len() > MUCH);
        edge
    }

    const MUCH_PLEASE: &str = "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_shown_out() {
        let edge = with_much().await;
        let socket = TcpSocket::new_v4().unwrap();
        // More than the kernel takes is left.
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let mut silent = socket.connect(edge).await.unwrap();
        silent.write_all(MUCH_PLEASE.as_bytes()).await.unwrap();
        tokio::time::sleep(PATIENCE * 3).await;
        let mut given = Vec::new();
        let _ = silent.read_to_end(&mut given).await;
        assert!(given.len() < MUCH, "{}", given.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_opens_no_window_on_http2_is_shown_out() {
        let edge = with_much().await;
        time::resume();
        let begun = Instant::now();
        let stream = TokioIo::new(TcpStream::connect(edge).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(64 * 1024)
                .handshake(stream)
                .await
                .unwrap();
        // It goes on answering PINGs.
        let connection = tokio::spawn(connection);
        let request = Request::get(format!("http://localhost:{}/a", edge.port()))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        // Nobody reads its body.
        let answer = client.send_request(request).await.unwrap();
        time::pause();
        let _ = connection.await;
        let after = begun.elapsed();
        assert!((PATIENCE..PATIENCE * 3).contains(&after), "{after:?}");
        drop(answer);
    }
}
