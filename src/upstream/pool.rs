//! Connections to one upstream, kept for the next request.
//!
//! HTTP/1.1: each thread that serves keeps those that it used last, and takes the last one first, so that what is more
//! than needed grows old and is closed. Nobody waits for a lock: where another thread looks at the same place in that
//! moment, the next place is taken, or a new connection.
//!
//! HTTP/2: a few connections, for all. One is opened at a time, and whoever needs one meanwhile waits for it, or for room on one
//! that is open. Where none can be opened they wait for that room alone, and fail where none is open. Where the upstream
//! chooses the protocol (ALPN) it is the same until it has chosen HTTP/1.1.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    UpstreamError,
    connect::{Connector, Stream},
    failure::Failure,
    http1::Http1,
    http2::{One, Shared, Turn, Which},
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
    connector: Connector,
    keep: Duration,
    /// The last used stands last.
    places: [Mutex<Vec<Box<Http1>>>; PLACES],
    shared: Shared,
    growth: Mutex<Growth>,
    speaks: Speaks,
    /// The upstream has chosen HTTP/1.1.
    chose_http1: AtomicBool,
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

/// How one more connection of HTTP/2 is opened.
#[derive(Default)]
struct Growth {
    /// What those wait for who need it.
    opening: Option<Opening>,
    /// When that last failed.
    failed: Option<Instant>,
}

/// How a request gets its turn.
enum Next {
    Has(Turn),
    /// When this has been opened.
    Opens(Opening),
    /// When another is over.
    Room,
}

type Opening = watch::Receiver<Option<Opened>>;

/// What came of opening a connection.
#[derive(Clone)]
enum Opened {
    Http2(Arc<One>),
    /// The upstream has chosen it: it is for the first who takes it.
    Http1(Arc<Mutex<Option<Stream>>>),
    Failed(Arc<Failure>),
}

/// A connection that should have been open has closed at once, so many times.
const CLOSED: u32 = 3;
/// Where no connection could be opened beside those that are open the next attempt is so much later.
const PAUSE: Duration = Duration::from_secs(1);

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

    async fn http1(self: &Arc<Self>, stream: Stream) -> Result<Taken, Failure> {
        if !self.is_swept.swap(true, Relaxed) && !self.keep.is_zero() {
            tokio::spawn(sweep(Arc::downgrade(self), self.keep));
        }
        Http1::new(stream).await.map(Taken::Http1)
    }

    /// A turn on a connection that is shared, or what the upstream has chosen instead. `begun`: a connection over
    /// which HTTP/2 is to be spoken where one is needed, and until when it has time to begin.
    async fn shared_turn(
        self: &Arc<Self>,
        which: Which,
        begun: Option<(Stream, Instant)>,
        end: Instant,
    ) -> Result<Taken, Failure> {
        let turn = timeout_at(end, self.wait_for_turn(which, begun));
        turn.await.unwrap_or(Err(Failure::AnswerTimeout))
    }

    async fn wait_for_turn(
        self: &Arc<Self>,
        which: Which,
        mut begun: Option<(Stream, Instant)>,
    ) -> Result<Taken, Failure> {
        let mut closed = 0;
        while closed < CLOSED {
            let mut room = pin!(self.shared.room());
            // What gets free from now on counts.
            room.as_mut().enable();
            let mut opening = match self.next(which, begun.take()) {
                Next::Has(turn) => return Ok(Taken::Http2(turn)),
                Next::Opens(opening) => opening,
                Next::Room => {
                    let _ = timeout(PAUSE, room).await;
                    continue;
                }
            };
            let is_choosy = which != Which::any();
            if is_choosy {
                // Who was refused there leaves it to others: it must not be kept from them, either.
                room.set(self.shared.room());
            }
            let opened = tokio::select! {
                biased;
                opened = opening.wait_for(Option::is_some) => opened.ok().and_then(|it| it.clone()),
                () = room, if !is_choosy => continue,
            };
            match opened {
                Some(Opened::Http2(one)) => {
                    closed += u32::from(one.is_closed());
                    // Or others have filled it, and one more is needed.
                    if let Some(turn) = Turn::on(one, false) {
                        return Ok(Taken::Http2(turn));
                    }
                }
                Some(Opened::Http1(stream)) => {
                    let first = held(&stream).take();
                    let stream = match first {
                        Some(stream) => stream,
                        None => self.connector.open(true).await?.0,
                    };
                    return self.http1(stream).await;
                }
                Some(Opened::Failed(failure)) => {
                    if self.shared.count() == 0 {
                        return Err(Failure::Shared(failure));
                    }
                }
                None => break,
            }
        }
        Err(Failure::Ended)
    }

    /// How a request gets its turn on one of `which`. `begun`: as in [`shared_turn`](Self::shared_turn).
    fn next(self: &Arc<Self>, which: Which, begun: Option<(Stream, Instant)>) -> Next {
        if let Some(turn) = self.shared.turn(which) {
            return Next::Has(turn);
        }
        let mut growth = held(&self.growth);
        if let Some(opening) = &growth.opening
            && opening.has_changed().is_ok()
        {
            return Next::Opens(opening.clone());
        }
        // It may have been opened since.
        if let Some(turn) = self.shared.turn(which) {
            return Next::Has(turn);
        }
        let has_failed = growth.failed.is_some_and(|failed| failed.elapsed() < PAUSE);
        if !self.shared.may_grow() || has_failed && self.shared.count() > 0 {
            // Who has been refused by all may as well be refused once more.
            let any = self.shared.turn(Which::any());
            return any.map_or(Next::Room, Next::Has);
        }
        let (tell, told) = watch::channel(None);
        growth.opening = Some(told.clone());
        let pool = self.clone();
        // Whoever began it may go away: the others still wait for it.
        tokio::spawn(async move {
            let opened = pool.open_shared(begun).await;
            *held(&pool.growth) = Growth {
                opening: None,
                failed: matches!(opened, Opened::Failed(_)).then(Instant::now),
            };
            // They may all have gone.
            let _ = tell.send(Some(opened));
        });
        Next::Opens(told)
    }

    async fn open_shared(&self, begun: Option<(Stream, Instant)>) -> Opened {
        let mut end = Instant::now() + self.connector.limit;
        let connected = match begun {
            Some((stream, until)) => {
                end = until;
                Ok((stream, true))
            }
            None => self.connector.open(false).await,
        };
        let opened = match connected {
            Ok((stream, is_http2)) if is_http2 || self.speaks == Speaks::Http2 => {
                self.shared.add(stream, end, self.keep).await
            }
            Ok((stream, _)) => {
                self.chose_http1.store(true, Relaxed);
                return Opened::Http1(Arc::new(Mutex::new(Some(stream))));
            }
            Err(failure) => Err(failure),
        };
        match opened {
            Ok(one) => Opened::Http2(one),
            Err(failure) => Opened::Failed(Arc::new(failure)),
        }
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
fn held<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
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

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(180);

    fn pool(address: std::net::SocketAddr) -> Arc<Pool> {
        let url = format!("http://{address}").parse().unwrap();
        let settings = ProxySettings {
            http2: Http2::Always,
            ..ProxySettings::default()
        };
        Pool::new(&Target::new(&url).unwrap(), &settings).unwrap()
    }

    /// Begins HTTP/2, and allows one request at a time.
    async fn accept(listener: &TcpListener) -> TcpStream {
        let mut other = listener.accept().await.unwrap().0;
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01";
        other.write_all(settings).await.unwrap();
        other
    }

    async fn turn(pool: &Arc<Pool>, which: Which) -> (Taken, u64) {
        let end = Instant::now() + LONG;
        let taken = pool.shared_turn(which, None, end).await;
        let taken = taken.unwrap_or_else(|failure| panic!("{failure}"));
        let number = taken.shared().expect("it is shared");
        (taken, number)
    }

    #[tokio::test]
    async fn who_finds_all_full_gets_the_first_place_that_is_free_wherever_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(listener.local_addr().unwrap());
        let mut open = Vec::new();
        for expected in 1..=3 {
            let ((taken, number), other) =
                tokio::join!(turn(&pool, Which::any()), accept(&listener));
            assert_eq!(number, expected);
            open.push((taken, other));
        }
        // No more can be opened.
        drop(listener);
        for free in [2, 1, 3] {
            let mut waits = pin!(turn(&pool, Which::any()));
            let early = timeout(Duration::from_millis(50), &mut waits).await;
            assert!(early.is_err(), "all are full");
            let other = open
                .swap_remove(
                    open.iter()
                        .position(|(one, _)| one.shared() == Some(free))
                        .unwrap(),
                )
                .1;
            let (taken, number) = waits.await;
            assert_eq!(number, free);
            open.push((taken, other));
        }
    }

    #[tokio::test]
    async fn who_was_refused_by_all_goes_to_one_of_them_where_there_is_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(listener.local_addr().unwrap());
        let (first, one) = tokio::join!(turn(&pool, Which::any()), accept(&listener));
        let (second, two) = tokio::join!(turn(&pool, Which::any()), accept(&listener));
        drop((first, second, listener));
        for (which, number) in [
            (Which::any().but(1), 2),
            (Which::any().but(2), 1),
            (Which::any().but(1).but(2), 1),
            (Which::any().later(1), 2),
            (Which::any().later(2), 1),
        ] {
            assert_eq!(turn(&pool, which).await.1, number, "{which:?}");
        }
        drop((one, two));
    }

    #[tokio::test]
    async fn who_waits_for_ever_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(listener.local_addr().unwrap());
        let (_first, _one) = tokio::join!(turn(&pool, Which::any()), accept(&listener));
        drop(listener);
        let end = Instant::now() + Duration::from_millis(100);
        let taken = pool.shared_turn(Which::any(), None, end).await;
        assert!(matches!(taken, Err(Failure::AnswerTimeout)));
    }

    #[tokio::test]
    async fn where_the_upstream_changes_to_http2_one_connection_is_enough_for_all_who_opened_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = pool(address);
        let (mut turns, mut others) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let stream = Stream::Tcp(TokioIo::new(TcpStream::connect(address).await.unwrap()));
            let mut other = listener.accept().await.unwrap().0;
            // SETTINGS, without any.
            other.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            others.push(other);
            let end = Instant::now() + LONG;
            turns.push(pool.shared_turn(Which::any(), Some((stream, end)), end));
        }
        for turn in join_all(turns).await {
            let number = turn.ok().and_then(|turn| turn.shared());
            assert_eq!(number, Some(1));
        }
    }
}
