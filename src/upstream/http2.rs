//! HTTP/2 connections to the upstream, shared by many requests.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use http::{Request, Response};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, futures::Notified},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::io::InspectReader;

use super::{
    expect::Go,
    failure::Failure,
    http1::Unanswered,
    stream::{self, Answer, Rest},
    upload::{Outgoing, Sending, unless_stuck},
};

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
/// How long the headers of an answer may be, unpacked.
const HEAD: u32 = 64 << 10;
/// After so long without a sign of life the other end is asked for one, and given up when it gives none for as long again.
const SILENCE: Duration = Duration::from_secs(20);
/// Stands for the number of requests that the other end allows until that has said so: h2 has another one for "any number".
const UNSAID: usize = usize::MAX - 1;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Shared {
    /// Each lives as long as it has requests, or its driver keeps it for some.
    open: ArcSwap<Vec<Weak<One>>>,
    opened: AtomicU64,
    /// Rung when there may be room where there was none.
    room: Arc<Notify>,
}

/// A connection.
pub(super) struct One {
    sender: SendRequest<Bytes>,
    under_way: AtomicUsize,
    /// So many may be under way. Written by the driver, as the other end says.
    most: AtomicUsize,
    /// How many were opened before, and itself.
    number: u64,
    /// It takes no more requests.
    is_leaving: AtomicBool,
    /// Something has come over it since that was last asked.
    is_heard: Arc<AtomicBool>,
    began: Instant,
    /// When the last request was over, in milliseconds since it began.
    idle_since: AtomicU64,
    /// As [`Shared`]'s.
    room: Arc<Notify>,
}

/// A request's place on a connection, until its stream is over.
struct Place(Arc<One>);

/// A request's part of a connection, until its answer has come.
pub(super) struct Turn {
    place: Arc<Place>,
    /// The request's body, where it is still being sent.
    rest: Option<Rest>,
    wants_body: bool,
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
    /// A turn on a connection of `which` that has room.
    pub(super) fn turn(&self, which: Which) -> Option<Turn> {
        let open = self.open.load();
        let mut wanted = usable(&open).filter(|one| which.has(one));
        wanted.find_map(|one| Turn::on(one, true))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        usable(&self.open.load()).count()
    }

    /// Whether one more may be opened.
    pub(super) fn may_grow(&self) -> bool {
        self.open.load().len() < CONNECTIONS || self.count() < CONNECTIONS
    }

    /// Ready once there may be room again.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
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
        let is_heard = Arc::new(AtomicBool::new(false));
        let heard = is_heard.clone();
        let stream = InspectReader::new(TokioIo::new(stream), move |_: &[u8]| {
            heard.store(true, Relaxed);
        });
        let greeted = timeout_at(end, greet(stream)).await;
        let (sender, connection) = greeted.unwrap_or(Err(Failure::ConnectTimeout))?;
        let one = Arc::new(One {
            sender,
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(allowed(&connection)),
            number: self.opened.fetch_add(1, Relaxed) + 1,
            is_leaving: AtomicBool::new(false),
            is_heard,
            began: Instant::now(),
            idle_since: AtomicU64::new(0),
            room: self.room.clone(),
        });
        let kept = (!keep.is_zero()).then(|| one.clone());
        let entry = Arc::downgrade(&one);
        tokio::spawn(drive(connection, entry.clone(), kept, keep));
        self.open.rcu(|open| {
            let open = open.iter().filter(|one| one.strong_count() > 0);
            open.chain([&entry]).cloned().collect::<Vec<_>>()
        });
        self.room.notify_waiters();
        Ok(one)
    }
}

fn usable(open: &[Weak<One>]) -> impl Iterator<Item = Arc<One>> {
    let open = open.iter().filter_map(Weak::upgrade);
    open.filter(|one| !one.is_closed())
}

/// Says what HTTP/2 begins with, and waits for the other end to do so: how many requests at once it allows.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
) -> Result<(SendRequest<Bytes>, Connection<S>), Failure> {
    let begun = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(UNSAID)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SENT)
        .max_header_list_size(HEAD)
        // Visitors who go away must not end the connection for all.
        .max_concurrent_reset_streams(10 * MOST)
        .max_local_error_reset_streams(None)
        .handshake(stream);
    let (sender, mut connection) = begun.await.map_err(Failure::BrokenHttp2)?;
    let said = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if connection.max_concurrent_send_streams() != UNSAID {
            return Poll::Ready(true);
        }
        ended.map(|_| false)
    });
    match said.await {
        true => Ok((sender, connection)),
        false => Err(Failure::NoHttp2),
    }
}

/// How many requests may be under way at once.
fn allowed<S: AsyncRead + AsyncWrite + Unpin>(connection: &Connection<S>) -> usize {
    connection.max_concurrent_send_streams().clamp(1, MOST)
}

/// Sees a connection to its end: until the last request is over, and until then for `keep` after each where there is `kept`.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<S>,
    one: Weak<One>,
    kept: Option<Arc<One>>,
    keep: Duration,
) {
    let pings = connection.ping_pong();
    let driven = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if let Some(one) = one.upgrade() {
            one.allows(allowed(&connection));
            one.hears_of_its_end();
        }
        ended
    });
    tokio::select! {
        ended = driven => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to the upstream ended");
            }
        }
        () = silence(&one, pings) => tracing::debug!("no sign of life of the upstream's"),
        never = hold(kept, keep) => match never {},
    }
    if let Some(one) = one.upgrade() {
        one.leaves();
    }
}

/// Holds a connection until nobody has used it for `keep`.
async fn hold(kept: Option<Arc<One>>, keep: Duration) -> Infallible {
    if let Some(one) = kept {
        one.is_idle_for(keep).await;
    }
    pending().await
}

/// Ready once the other end has given no sign of life although there are requests, and although it was asked for one.
async fn silence(one: &Weak<One>, pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    let mut is_asked = false;
    loop {
        sleep(SILENCE).await;
        if !one.upgrade().is_some_and(|one| one.is_silent()) {
            is_asked = false;
            continue;
        }
        if is_asked {
            return;
        }
        is_asked = true;
        // Its answer is heard as anything is. It is taken here, since no other PING goes out before; where there has been none
        // since the last time, that one is still under way.
        let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
        let _ = pings.send_ping(Ping::opaque());
    }
}

// === impl One ===

impl One {
    pub(super) fn is_closed(&self) -> bool {
        self.is_leaving.load(Relaxed)
    }

    /// It takes no more requests.
    fn leaves(&self) {
        self.is_leaving.store(true, Relaxed);
        // Others may be opened in its place.
        self.room.notify_waiters();
    }

    /// It may go on for the requests that it has, and take no more.
    fn hears_of_its_end(&self) {
        let mut unwoken = Context::from_waker(Waker::noop());
        let ready = self.sender.clone().poll_ready(&mut unwoken);
        if matches!(ready, Poll::Ready(Err(_))) && !self.is_closed() {
            self.leaves();
        }
    }

    fn note(&self, failure: &Failure) {
        if let Failure::Leaves(_) = failure {
            self.leaves();
        }
    }

    fn allows(&self, most: usize) {
        if self.most.swap(most, Relaxed) < most {
            self.room.notify_waiters();
        }
    }

    /// There are requests, and nothing has come since that was last asked.
    fn is_silent(&self) -> bool {
        !self.is_heard.swap(false, Relaxed) && self.under_way.load(Relaxed) > 0
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
        Some(Self {
            place: Arc::new(Place(one)),
            rest: None,
            wants_body: true,
            is_kept,
        })
    }

    /// The number of its connection.
    pub(super) fn number(&self) -> u64 {
        self.place.0.number
    }

    /// Sends `request`, and gives the answer as soon as its head is there. `limit`: how long nothing may move before. `idle`: how
    /// long nothing may move of the request's body once the answer has come.
    pub(super) async fn ask(
        &mut self,
        request: Request<Outgoing>,
        upload: Option<&Sending>,
        begun: Instant,
        limit: Duration,
        idle: Duration,
    ) -> Result<Response<Answer>, Unanswered> {
        let one = &self.place.0;
        let held = self.place.clone();
        let asked = stream::begin(one.sender.clone(), request, held, idle);
        let (answer, rest) = asked.inspect_err(|unanswered| one.note(&unanswered.failure))?;
        self.rest = rest;
        let go = upload.and_then(|upload| upload.go.as_deref());
        let progress = upload.map(|upload| &*upload.progress);
        let answer = unless_stuck(stream::answered(answer, go), progress, begun, limit).await?;
        let answer = answer.inspect_err(|failure| one.note(failure))?;
        self.wants_body = !go.is_some_and(Go::answered);
        Ok(answer)
    }

    /// The answer has come as a whole. The request's body is still sent, if it is wanted.
    pub(super) fn settle(self) {
        if let Some(rest) = self.rest
            && self.wants_body
        {
            rest.go_on();
        }
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
        one.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncWriteExt, DuplexStream, duplex},
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

    const LONG: Duration = Duration::from_secs(3600);

    /// A connection, and the other end, which has greeted it.
    async fn greeted(shared: &Shared) -> (Arc<One>, DuplexStream) {
        let (stream, mut other) = duplex(1 << 16);
        other.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let added = shared.add(TokioIo::new(stream), Instant::now() + LONG, LONG);
        (added.await.expect("it is open"), other)
    }

    /// Asks, and is told how it failed and after how long.
    async fn fails(one: Arc<One>) -> (Failure, Duration) {
        let mut turn = Turn::on(one, true).expect("it is open");
        let asked = Instant::now();
        let request = Request::get("http://site.example/").body(Outgoing::Empty);
        let answer = turn.ask(request.unwrap(), None, asked, LONG, LONG).await;
        let failure = answer.err().expect("there is none").failure;
        (failure, asked.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_has_ended() {
        let shared = Shared::default();
        let (one, _other) = greeted(&shared).await;
        // It is kept though nothing comes, while nobody waits for anything.
        sleep(SILENCE * 10).await;
        let (failure, after) = fails(one).await;
        assert!(failure.is_closed_unanswered(), "{failure}");
        assert!(after >= SILENCE && after <= SILENCE * 3, "{after:?}");
        assert_eq!(shared.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_falls_silent_has_ended_though_it_answered_no_ping_before() {
        let shared = Shared::default();
        let (one, mut other) = greeted(&shared).await;
        // It opens its window now and then, and never answers a PING.
        let says = async {
            for _ in 0..10 {
                sleep(SILENCE * 3 / 2).await;
                let more = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
                other.write_all(more).await.unwrap();
            }
            pending::<()>().await;
        };
        let (failure, after) = tokio::select! {
            failed = fails(one) => failed,
            () = says => unreachable!(),
        };
        assert!(failure.is_closed_unanswered(), "{failure}");
        assert!(after >= SILENCE * 15 && after <= SILENCE * 19, "{after:?}");
    }
}
