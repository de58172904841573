//! HTTP/2 connections to the upstream, shared by many requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{body::Outgoing, connect::Stream, failure::Failure, http1::Unanswered};

/// As many requests go over one connection at once; for more another is opened. Most servers allow 100 to 128, and who
/// comes beyond that would wait.
const MOST: usize = 100;
/// What may be under way of one answer, and of all over one connection: so much is held at most where clients are slow.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What waits to be sent of one request.
const SENT: usize = 64 << 10;
/// After so long without a sign of life the other end is asked for one, and given up when it gives none.
const SILENCE: Duration = Duration::from_secs(20);

/// The connections that are open.
#[derive(Default)]
pub(super) struct Shared {
    open: ArcSwap<Vec<Arc<One>>>,
    /// Held while one is being opened.
    opening: Mutex<()>,
}

struct One {
    sender: SendRequest<Outgoing>,
    under_way: AtomicUsize,
}

/// A request's part of a connection, until its answer has come.
pub(super) struct Turn {
    one: Arc<One>,
    /// It is not the first request over it.
    pub(super) is_kept: bool,
}

// === impl Shared ===

impl Shared {
    /// A turn on a connection that is open and has room.
    pub(super) fn turn(&self) -> Option<Turn> {
        let open = self.open.load();
        open.iter().find_map(|one| Turn::on(one, true))
    }

    /// Who opens a connection, alone.
    pub(super) async fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Begins HTTP/2 over `stream`, for this request and others.
    pub(super) async fn add(&self, stream: Stream) -> Result<Turn, Failure> {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SENT)
            .keep_alive_interval(SILENCE)
            .handshake(stream)
            .await
            .map_err(Failure::Broken)?;
        // It ends when nobody can send over it any more, and is told when the other end is gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the upstream ended");
            }
        });
        let one = Arc::new(One {
            sender,
            under_way: AtomicUsize::new(0),
        });
        let turn = Turn::on(&one, false).ok_or(Failure::Ended)?;
        self.open.rcu(|open| {
            let open = open.iter().filter(|one| !one.sender.is_closed());
            open.chain([&one]).cloned().collect::<Vec<_>>()
        });
        Ok(turn)
    }
}

// === impl Turn ===

impl Turn {
    fn on(one: &Arc<One>, is_kept: bool) -> Option<Self> {
        if one.sender.is_closed() {
            return None;
        }
        if one.under_way.fetch_add(1, Relaxed) >= MOST {
            one.under_way.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self {
            one: one.clone(),
            is_kept,
        })
    }

    pub(super) async fn ask(
        &self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut sender = self.one.sender.clone();
        sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().map(Box::new);
            let failure = Failure::Broken(error.into_error());
            Unanswered { failure, unsent }
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.one.under_way.fetch_sub(1, Relaxed);
    }
}
