//! How a request gets its turn on a connection of HTTP/2, and when one more is opened.
//!
//! There are few, for all. One is opened at a time, and whoever needs one meanwhile waits for it, or for room on one that is open.
//! Where none can be opened they wait for that room alone, and fail where none is open. Where the upstream chooses the
//! protocol (ALPN) it is the same until it has chosen HTTP/1.1.

use std::{
    pin::pin,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    connect::Stream,
    failure::Failure,
    http2::{One, Turn, Which},
    pool::{Pool, Speaks, Taken, held},
};

/// A connection that should have been open has closed at once, so many times.
const CLOSED: u32 = 3;
/// Where no connection could be opened beside those that are open the next attempt is so much later.
const PAUSE: Duration = Duration::from_secs(1);

/// How one more connection of HTTP/2 is opened.
#[derive(Default)]
pub(super) struct Growth {
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

// === impl Pool ===

impl Pool {
    /// A turn on a connection that is shared, or what the upstream has chosen instead. `begun`: a connection over
    /// which HTTP/2 is to be spoken where one is needed, and until when it has time to begin.
    pub(super) async fn shared_turn(
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
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::super::{
        settings::{Http2, ProxySettings},
        target::Target,
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
