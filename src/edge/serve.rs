//! Serving connections: HTTP/1.1 and HTTP/2 without TLS, until told to stop.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use http::{Request, Version};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower_service::Service;

use super::{Edge, EdgeFuture};

/// How long requests under way may take to finish after the stop.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a connection may bring no request while none is being answered: a head takes no longer either. And how long
/// an HTTP/2 client may be silent until it is asked whether it is still there.
///
/// hyper has a limit for heads, which sets up a timer for every request, and none for who says nothing at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many bytes at least have to go out to a client within [`PATIENCE`] while some wait for it: 341 a second. Who takes
/// less keeps in memory what it was given, and others waiting who share a pull with it.
const LEAST: u64 = 10 * 1024;
/// The same for HTTP/2, where a client's windows hold answers back and no write ever waits: more than what a PING and its
/// like are.
const LEAST_HTTP2: u64 = 128;

/// What a connection is doing. Written by its service and its stream, read by [`unless_idle`].
#[derive(Debug, Default)]
struct Doing {
    /// Requests so far.
    asked: AtomicU64,
    /// Something waits until the client reads.
    writing: AtomicBool,
    /// Bytes so far.
    written: AtomicU64,
    /// HTTP/2 has its own way to find out who is there.
    is_http2: AtomicBool,
    /// Answers that are under way.
    answering: AtomicUsize,
    /// Of those, the ones that wait for the primary.
    starving: AtomicUsize,
}

/// An answer that is under way, until its body has gone.
#[derive(Debug)]
pub(super) struct Answering {
    doing: Arc<Doing>,
    starves: bool,
}

// === impl Answering ===

impl Answering {
    fn new(doing: Arc<Doing>) -> Self {
        doing.answering.fetch_add(1, Relaxed);
        doing.starving.fetch_add(1, Relaxed);
        Self {
            doing,
            starves: true,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.doing.is_http2.load(Relaxed)
    }

    /// Whether it waits for the primary: if not, it waits for the client.
    pub(super) fn starves(&mut self, starves: bool) {
        if starves != self.starves {
            self.starves = starves;
            if starves {
                self.doing.starving.fetch_add(1, Relaxed);
            } else {
                self.doing.starving.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.starves(false);
        self.doing.answering.fetch_sub(1, Relaxed);
    }
}

// === impl Doing ===

impl Doing {
    fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    fn is_answering(&self) -> bool {
        self.answering.load(Relaxed) > 0
    }

    fn is_idle_since(&self, asked: u64) -> bool {
        self.asked() == asked
            && !self.is_answering()
            && !self.writing.load(Relaxed)
            && !self.is_http2.load(Relaxed)
    }

    /// Whether the client has hardly taken anything of what there is for it.
    fn is_stuck_since(&self, asked: u64, written: u64) -> bool {
        let taken = self.written() - written;
        if self.is_http2.load(Relaxed) {
            let answering = self.answering.load(Relaxed);
            self.asked() == asked && answering > self.starving.load(Relaxed) && taken < LEAST_HTTP2
        } else {
            self.writing.load(Relaxed) && taken < LEAST
        }
    }
}

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
        self.doing.asked.fetch_add(1, Relaxed);
        if request.version() == Version::HTTP_2 {
            self.doing.is_http2.store(true, Relaxed);
        }
        NotedFuture {
            answer: self.edge.call(request),
            answering: Some(Answering::new(self.doing.clone())),
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
            answer.body_mut().hold(answering);
        }
        Poll::Ready(answer)
    }
}

/// The connection's stream.
struct NotedIo {
    io: TokioIo<TcpStream>,
    doing: Arc<Doing>,
}

// === impl NotedIo ===

impl NotedIo {
    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.doing.writing.store(polled.is_pending(), Relaxed);
        if let Poll::Ready(Ok(written)) = polled {
            self.doing.written.fetch_add(written as u64, Relaxed);
        }
        polled
    }
}

impl Read for NotedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for NotedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The end of a connection; [`None`]: it has done nothing for too long, or does not take what it has asked for.
async fn unless_idle<C: Future>(connection: C, doing: &Doing) -> Option<C::Output> {
    let mut connection = pin!(connection);
    loop {
        let (asked, written) = (doing.asked(), doing.written());
        match timeout(PATIENCE, connection.as_mut()).await {
            Ok(ended) => return Some(ended),
            Err(_) if doing.is_idle_since(asked) || doing.is_stuck_since(asked, written) => {
                return None;
            }
            Err(_) => {}
        }
    }
}

/// Serves until `stop` is ready, and then what is under way for half a minute at most.
pub async fn serve(edge: Edge, mut listener: TcpListener, stop: impl Future<Output = ()>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PATIENCE);
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        // axum's own: it waits and goes on where accept fails (EMFILE).
        let (io, peer) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = &mut stop => break,
        };
        // One that is gone already will say so when it is read.
        let _ = io.set_nodelay(true);
        let doing = Arc::new(Doing::default());
        let service = TowerToHyperService::new(Noted {
            edge: edge.clone(),
            doing: doing.clone(),
        });
        let io = NotedIo {
            io: TokioIo::new(io),
            doing: doing.clone(),
        };
        let connection = builder.serve_connection(io, service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            // A connection that breaks concerns nobody but its client, who knows.
            if let Some(Err(error)) = unless_idle(connection, &doing).await {
                tracing::debug!(%peer, error, "connection ended");
            }
        });
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            seconds = DRAIN.as_secs(),
            "requests were still under way when the time for draining was over"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpSocket, TcpStream},
        time::{self, Instant},
    };

    use super::*;
    use crate::{edge::EdgeSettings, load};

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

    #[test]
    fn who_reads_slowly_is_not_stuck_and_who_waits_for_the_primary_is_not() {
        let doing = Arc::new(Doing::default());
        assert!(!doing.is_stuck_since(0, 0), "nothing waits for it");
        doing.writing.store(true, Relaxed);
        doing.written.store(LEAST - 1, Relaxed);
        assert!(doing.is_stuck_since(0, 0));
        doing.written.store(LEAST, Relaxed);
        assert!(!doing.is_stuck_since(0, 0));

        let doing = Arc::new(Doing::default());
        doing.is_http2.store(true, Relaxed);
        let mut answering = Answering::new(doing.clone());
        assert!(!doing.is_stuck_since(0, 0), "it waits for the primary");
        answering.starves(false);
        assert!(doing.is_stuck_since(0, 0));
        doing.written.store(LEAST_HTTP2 - 1, Relaxed);
        assert!(doing.is_stuck_since(0, 0), "PINGs are no progress");
        doing.asked.store(1, Relaxed);
        assert!(!doing.is_stuck_since(0, 0), "it has just asked");
        doing.written.store(LEAST_HTTP2, Relaxed);
        assert!(!doing.is_stuck_since(1, 0));
        drop(answering);
        assert!(!doing.is_answering());
        assert_eq!(doing.starving.load(Relaxed), 0);
    }

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
