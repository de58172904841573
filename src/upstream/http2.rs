//! HTTP/2 connections to the upstream, shared by many requests.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, Connection, SendRequest},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{body::Outgoing, failure::Failure, greeting::Greeted, http1::Unanswered};

/// At most so many requests go over one connection at once, whatever the other end allows: they share its window, and
/// wait for what one of them has lost.
const MOST: usize = 100;
/// At most so many connections are opened because the others are full: who comes beyond that waits for one of those.
const CONNECTIONS: usize = 64;
/// What may be under way of one answer, and of all over one connection: so much is held at most where clients are slow. There
/// is room for all of them: a few that are slow must not hold up the others.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// What waits to be sent of one request.
const SENT: usize = 64 << 10;
/// After so long without a sign of life the other end is asked for one, and given up when it gives none.
const SILENCE: Duration = Duration::from_secs(20);
/// What hyper takes for the number of requests that the other end allows until that has said so.
const UNSAID: usize = usize::MAX - 1;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Shared {
    /// Each lives as long as it has requests, or its driver keeps it for some.
    open: ArcSwap<Vec<Weak<One>>>,
    opened: AtomicU64,
}

/// A connection.
pub(super) struct One {
    /// Gone when the connection takes no more requests: one that was handed over in just that moment lies in a channel that
    /// nobody reads, and comes back when the last sender goes.
    sender: ArcSwapOption<SendRequest<Outgoing>>,
    under_way: AtomicUsize,
    /// So many may be under way. Written by the driver, as the other end says.
    most: Arc<AtomicUsize>,
    /// How many were opened before, and itself.
    number: u64,
    /// The other end takes no more requests.
    is_leaving: AtomicBool,
    began: Instant,
    /// When the last request was over, in milliseconds since it began.
    idle_since: AtomicU64,
}

/// A request's place on a connection, until its stream is over.
pub(super) struct Place(Arc<One>);

/// A request's part of a connection, until its answer has come.
pub(super) struct Turn {
    place: Arc<Place>,
    /// It is not one of the first requests over it.
    pub(super) is_kept: bool,
}

/// Which connections will do: those of which a request knows nothing bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Which {
    /// Those that were opened later than this one: it has ended, and its elders may be about to.
    later: u64,
    /// Not the ones that have refused it. None has the number 0.
    refused: [u64; 2],
}

// === impl Which ===

impl Which {
    /// Any.
    pub(super) const fn any() -> Self {
        Self {
            later: 0,
            refused: [0; 2],
        }
    }

    /// Not this one, which goes on for others.
    pub(super) const fn but(self, number: u64) -> Self {
        Self {
            refused: [self.refused[1], number],
            ..self
        }
    }

    /// Not this one, nor any that is older.
    pub(super) fn later(self, number: u64) -> Self {
        Self {
            later: self.later.max(number),
            ..self
        }
    }

    fn has(self, one: &One) -> bool {
        one.number > self.later && !self.refused.contains(&one.number)
    }
}

// === impl Shared ===

impl Shared {
    /// A turn on a connection that is open and has room, or where there are as many as there may be on any.
    pub(super) fn turn(&self, which: Which) -> Option<Turn> {
        let open = self.open.load();
        let mut usable = usable(&open).filter(|one| which.has(one));
        let turn = usable.find_map(|one| Turn::on(one, true));
        if turn.is_some() || open.len() < CONNECTIONS || self::usable(&open).count() < CONNECTIONS {
            return turn;
        }
        self.queue(which)
    }

    /// A turn on a connection that is open, after those which are under way. Who has been refused by all may as well be
    /// refused once more.
    pub(super) fn queue(&self, which: Which) -> Option<Turn> {
        let open = self.open.load();
        let least =
            usable(&open).min_by_key(|one| (!which.has(one), one.under_way.load(Relaxed)))?;
        least.under_way.fetch_add(1, Relaxed);
        Some(Turn {
            place: Arc::new(Place(least)),
            is_kept: true,
        })
    }

    /// Begins HTTP/2 over `stream`, and waits until `end` for the other end to do so. The connection is open for all, and
    /// for `keep` after its last request.
    pub(super) async fn add<S>(
        &self,
        stream: S,
        end: Instant,
        keep: Duration,
    ) -> Result<Arc<One>, Failure>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let greeted = timeout_at(end, greet(stream)).await;
        let (sender, connection, most) = greeted.unwrap_or(Err(Failure::ConnectTimeout))?;
        let most = Arc::new(AtomicUsize::new(most.clamp(1, MOST)));
        let one = Arc::new(One {
            sender: ArcSwapOption::from_pointee(sender),
            under_way: AtomicUsize::new(0),
            most: most.clone(),
            number: self.opened.fetch_add(1, Relaxed) + 1,
            is_leaving: AtomicBool::new(false),
            began: Instant::now(),
            idle_since: AtomicU64::new(0),
        });
        let kept = (!keep.is_zero()).then(|| one.clone());
        let entry = Arc::downgrade(&one);
        let ends = entry.clone();
        tokio::spawn(async move {
            drive(connection, most, kept, keep).await;
            if let Some(one) = ends.upgrade() {
                one.is_leaving.store(true, Relaxed);
                one.sender.store(None);
            }
        });
        self.open.rcu(|open| {
            let open = open.iter().filter(|one| one.strong_count() > 0);
            open.chain([&entry]).cloned().collect::<Vec<_>>()
        });
        Ok(one)
    }
}

type Greetings<S> = (
    SendRequest<Outgoing>,
    Connection<Greeted<S>, Outgoing, TokioExecutor>,
    usize,
);

/// Says what HTTP/2 begins with, and waits for the other end to do so: how many requests at once it allows.
async fn greet<S>(stream: S) -> Result<Greetings<S>, Failure>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let (stream, greeting) = Greeted::new(stream);
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_max_send_streams(UNSAID)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SENT)
        .keep_alive_interval(SILENCE)
        .handshake(stream)
        .await
        .map_err(Failure::Broken)?;
    let most = greeting.await.map_err(|_| Failure::NoHttp2)?;
    Ok((sender, connection, most))
}

fn usable(open: &[Weak<One>]) -> impl Iterator<Item = Arc<One>> {
    let open = open.iter().filter_map(Weak::upgrade);
    open.filter(|one| !one.is_closed())
}

/// Sees a connection to its end. Without `one` that comes when no request is under way.
async fn drive<S: Read + Write + Unpin + Send + 'static>(
    mut connection: Connection<Greeted<S>, Outgoing, TokioExecutor>,
    most: Arc<AtomicUsize>,
    one: Option<Arc<One>>,
    keep: Duration,
) {
    let driven = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        let said = connection.current_max_send_streams();
        if said != UNSAID {
            most.store(said.clamp(1, MOST), Relaxed);
        }
        polled
    });
    let mut driven = pin!(driven);
    if let Some(one) = one {
        tokio::select! {
            ended = &mut driven => return note(ended),
            () = one.is_idle_for(keep) => {}
        }
    }
    note(driven.await);
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to the upstream ended");
    }
}

// === impl One ===

impl One {
    pub(super) fn is_closed(&self) -> bool {
        self.is_leaving.load(Relaxed)
            || self
                .sender
                .load()
                .as_ref()
                .is_none_or(|sender| sender.is_closed())
    }

    /// Ready once nobody has used it for `keep`.
    async fn is_idle_for(&self, keep: Duration) {
        loop {
            let since = match self.under_way.load(Relaxed) {
                0 => self.began + Duration::from_millis(self.idle_since.load(Relaxed)),
                _ => Instant::now(),
            };
            if since.elapsed() >= keep {
                return;
            }
            sleep_until(since + keep).await;
        }
    }
}

// === impl Turn ===

impl Turn {
    /// [`None`]: it is closed, or full.
    pub(super) fn on(one: Arc<One>, is_kept: bool) -> Option<Self> {
        if one.is_closed() {
            return None;
        }
        let most = one.most.load(Relaxed);
        let more = |under_way| (under_way < most).then_some(under_way + 1);
        one.under_way.fetch_update(Relaxed, Relaxed, more).ok()?;
        let place = Arc::new(Place(one));
        Some(Self { place, is_kept })
    }

    /// The number of its connection.
    pub(super) fn number(&self) -> u64 {
        self.place.0.number
    }

    /// For the request's body, which may be on its way for longer than the answer: the stream is not over before.
    pub(super) fn place(&self) -> Arc<Place> {
        self.place.clone()
    }

    pub(super) async fn ask(
        &self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let one = &self.place.0;
        let sender = one.sender.load().as_deref().cloned();
        let Some(mut sender) = sender else {
            return Err(Unanswered {
                failure: Failure::Ended,
                unsent: Some(Box::new(request)),
            });
        };
        let answer = sender.try_send_request(request);
        drop(sender);
        answer.await.map_err(|mut error| {
            let unsent = error.take_message().map(Box::new);
            let failure = Failure::of_http2(error.into_error());
            if let Failure::Undone { leaves: true, .. } = failure {
                one.is_leaving.store(true, Relaxed);
            }
            Unanswered { failure, unsent }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self(one) = self;
        let millis = one.began.elapsed().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        // Before it shows as idle: it must not look as if it had been so for long.
        one.idle_since.store(millis, Relaxed);
        one.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_the_greeting_is_waited_for_no_longer_than_the_limit() {
        const LIMIT: Duration = Duration::from_secs(5);
        let (stream, _silent) = duplex(8);
        let shared = Shared::default();
        let begun = Instant::now();
        let added = shared.add(TokioIo::new(stream), begun + LIMIT, LIMIT);
        let added = timeout(LIMIT * 100, added).await.expect("it ends");
        assert!(matches!(added, Err(Failure::ConnectTimeout)));
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test]
    async fn who_was_refused_by_all_waits_for_one_of_them_where_there_is_no_other() {
        const LIMIT: Duration = Duration::from_secs(180);
        let shared = Shared::default();
        assert!(shared.queue(Which::any()).is_none());
        let (mut open, mut others) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (stream, mut other) = duplex(1024);
            // SETTINGS, without any.
            other.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            others.push(other);
            let added = shared.add(TokioIo::new(stream), Instant::now() + LIMIT, LIMIT);
            open.push(added.await.expect("it is open"));
        }
        let queued = |which| shared.queue(which).map(|turn| turn.number());
        for (which, number) in [
            (Which::any().but(1), 2),
            (Which::any().but(2), 1),
            (Which::any().but(1).but(2), 1),
            (Which::any().later(1), 2),
            (Which::any().later(2), 1),
        ] {
            assert_eq!(queued(which), Some(number), "{which:?}");
        }
    }
}
