//! Connections to one upstream, kept for the next request.
//!
//! HTTP/1.1: each thread that serves keeps those that it used last, and takes the last one first, so that what is more
//! than needed grows old and is closed. Nobody waits for a lock: where another thread looks at the same place in that
//! moment, the next place is taken, or a new connection. HTTP/2: a few connections, for all.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, TryLockError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    UpstreamError,
    connect::Connector,
    failure::Failure,
    http1::Http1,
    http2::{Shared, Turn},
    settings::{Http2, ProxySettings},
    target::{Place, Target},
};

/// At most so many are kept in each place.
const MOST: usize = 256;
/// How many places there are: more than most machines have threads that serve.
const PLACES: usize = 16;

/// The connections.
#[expect(
    clippy::vec_box,
    reason = "they go from hand to hand with every request, and are large"
)]
pub(super) struct Pool {
    connector: Connector,
    keep: Duration,
    /// The last used stands last.
    places: [Mutex<Vec<Box<Http1>>>; PLACES],
    shared: Shared,
    speaks: Speaks,
    /// Somebody closes those that nobody uses.
    is_swept: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    /// HTTP/2 without asking.
    Http2,
    /// What is agreed on.
    Either,
}

/// A connection for one request.
pub(super) enum Taken {
    Http1(Box<Http1>),
    Http2(Turn),
}

// === impl Taken ===

impl Taken {
    /// Whether it was used before.
    pub(super) fn is_kept(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_kept,
            Self::Http2(turn) => turn.is_kept,
        }
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(
        target: &Target,
        settings: &ProxySettings,
    ) -> Result<Arc<Self>, UpstreamError> {
        let speaks = match (settings.http2, &target.place) {
            (Http2::Never, _) => Speaks::Http1,
            (Http2::Always, _) => Speaks::Http2,
            (Http2::Auto, Place::Tls) => Speaks::Either,
            (Http2::Auto, _) => Speaks::Http1,
        };
        Ok(Arc::new(Self {
            connector: Connector::new(target, settings.connect_timeout, settings.http2)?,
            keep: settings.keep,
            places: Default::default(),
            shared: Shared::default(),
            speaks,
            is_swept: AtomicBool::new(false),
        }))
    }

    /// A connection: a kept one, or a new one. `http1`: it is for something that HTTP/2 has no way for.
    pub(super) async fn take(self: &Arc<Self>, http1: bool) -> Result<Taken, Failure> {
        match self.speaks {
            Speaks::Http1 => {}
            // There a new protocol would have to be asked for by other means (RFC 8441).
            Speaks::Http2 => return self.shared_turn().await.map(Taken::Http2),
            Speaks::Either if http1 => {}
            Speaks::Either => {
                if let Some(turn) = self.shared.turn() {
                    return Ok(Taken::Http2(turn));
                }
            }
        }
        if let Some(kept) = self.take_kept() {
            return Ok(Taken::Http1(kept));
        }
        self.open(http1).await
    }

    /// A new one, for sure where nothing is shared.
    pub(super) async fn open(self: &Arc<Self>, http1: bool) -> Result<Taken, Failure> {
        if self.speaks == Speaks::Http2 {
            return self.shared_turn().await.map(Taken::Http2);
        }
        let (stream, is_http2) = self.connector.open(http1).await?;
        if is_http2 {
            return self.shared.add(stream).await.map(Taken::Http2);
        }
        if !self.is_swept.swap(true, Relaxed) && !self.keep.is_zero() {
            tokio::spawn(sweep(Arc::downgrade(self), self.keep));
        }
        Http1::new(stream).await.map(Taken::Http1)
    }

    /// Where HTTP/2 is spoken for sure, one connection is opened at a time: those who come meanwhile share it.
    async fn shared_turn(&self) -> Result<Turn, Failure> {
        if let Some(turn) = self.shared.turn() {
            return Ok(turn);
        }
        let _alone = self.shared.opening().await;
        if let Some(turn) = self.shared.turn() {
            return Ok(turn);
        }
        let (stream, _) = self.connector.open(false).await?;
        self.shared.add(stream).await
    }

    fn take_kept(&self) -> Option<Box<Http1>> {
        let now = Instant::now();
        for place in self.in_turn() {
            let Some(mut kept) = free(place) else {
                continue;
            };
            while let Some(mut connection) = kept.pop() {
                if now >= connection.kept_since + self.keep {
                    // So are all below it.
                    kept.clear();
                    break;
                }
                if connection.is_ready() {
                    connection.is_kept = true;
                    return Some(connection);
                }
            }
        }
        None
    }

    /// Keeps `connection` for another request, if it can have one.
    pub(super) fn keep(&self, mut connection: Box<Http1>) {
        if self.keep.is_zero() || !connection.is_ready() {
            return;
        }
        connection.kept_since = Instant::now();
        if let Some(mut kept) = self.in_turn().find_map(free)
            && kept.len() < MOST
        {
            kept.push(connection);
        }
    }

    /// The places, this thread's own first.
    fn in_turn(&self) -> impl Iterator<Item = &Mutex<Vec<Box<Http1>>>> {
        let own = own_place();
        (0..PLACES).map(move |step| &self.places[(own + step) % PLACES])
    }
}

/// A place at which nobody else looks just now.
fn free<T>(place: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match place.try_lock() {
        Ok(free) => Some(free),
        // What is in there is whole after every step.
        Err(TryLockError::Poisoned(free)) => Some(free.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// The place of this thread.
fn own_place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Relaxed) % PLACES;
    }
    OWN.with(|own| *own)
}

/// Closes what nobody has used for `keep`, as long as there is a pool.
async fn sweep(pool: Weak<Pool>, keep: Duration) {
    loop {
        sleep(keep).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        for mut kept in pool.places.iter().filter_map(free) {
            kept.retain(|connection| now < connection.kept_since + keep);
        }
    }
}
