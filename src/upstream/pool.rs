//! Connections to one upstream, kept for the next request.
//!
//! HTTP/1.1: each thread that serves keeps those that it used last, and takes the last one first, so that what is more
//! than needed grows old and is closed. Nobody waits for a lock: where another thread looks at the same place in that
//! moment, the next place is taken, or a new connection.
//!
//! HTTP/2: a few connections, for all (`growth`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    UpstreamError,
    connect::{Connector, Stream},
    failure::Failure,
    growth::Growth,
    http1::Http1,
    http2::{Shared, Turn, Which},
    settings::{Http2, ProxySettings},
    target::{self, Target},
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
    pub(super) connector: Connector,
    pub(super) keep: Duration,
    /// The last used stands last.
    places: [Mutex<Vec<Box<Http1>>>; PLACES],
    pub(super) shared: Shared,
    pub(super) growth: Mutex<Growth>,
    pub(super) speaks: Speaks,
    /// The upstream has chosen HTTP/1.1.
    pub(super) chose_http1: AtomicBool,
    /// Somebody closes those that nobody uses.
    is_swept: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
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

    /// Its number, where it is shared.
    pub(super) fn shared(&self) -> Option<u64> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(turn) => Some(turn.number()),
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
            (Http2::Auto, target::Place::Tls) => Speaks::Either,
            (Http2::Auto, _) => Speaks::Http1,
        };
        Ok(Arc::new(Self {
            connector: Connector::new(target, settings.connect_timeout, settings.http2)?,
            keep: settings.keep,
            places: Default::default(),
            shared: Shared::default(),
            growth: Mutex::default(),
            speaks,
            chose_http1: AtomicBool::new(false),
            is_swept: AtomicBool::new(false),
        }))
    }

    /// A connection that is there: one that is shared and has room, or one that was kept. `http1`: it is for something that
    /// HTTP/2 has no way for.
    pub(super) fn at_hand(&self, http1: bool) -> Option<Taken> {
        let may_be_shared = match self.speaks {
            Speaks::Http1 => false,
            // There a new protocol would have to be asked for by other means (RFC 8441): it is not.
            Speaks::Http2 => return self.shared.turn(Which::any()).map(Taken::Http2),
            Speaks::Either => !http1,
        };
        if may_be_shared && let Some(turn) = self.shared.turn(Which::any()) {
            return Some(Taken::Http2(turn));
        }
        self.take_kept().map(Taken::Http1)
    }

    /// A new one, or where they are shared one of `which`. `end`: until when room is waited for where all are full.
    pub(super) async fn open(
        self: &Arc<Self>,
        http1: bool,
        which: Which,
        end: Instant,
    ) -> Result<Taken, Failure> {
        let is_shared = match self.speaks {
            Speaks::Http1 => false,
            Speaks::Http2 => true,
            Speaks::Either => !http1 && !self.chose_http1.load(Relaxed),
        };
        if is_shared {
            return self.shared_turn(which, None, end).await;
        }
        let until = Instant::now() + self.connector.limit;
        let (stream, is_http2) = self.connector.open(http1).await?;
        if !is_http2 {
            return self.http1(stream).await;
        }
        // It has changed its mind: others may be told the same just now, and one connection does for all.
        self.chose_http1.store(false, Relaxed);
        self.shared_turn(which, Some((stream, until)), end).await
    }

    pub(super) async fn http1(self: &Arc<Self>, stream: Stream) -> Result<Taken, Failure> {
        if !self.is_swept.swap(true, Relaxed) && !self.keep.is_zero() {
            tokio::spawn(sweep(Arc::downgrade(self), self.keep));
        }
        Http1::new(stream).await.map(Taken::Http1)
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

/// What is in there is whole after every step, and nobody waits inside.
pub(super) fn held<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
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
