//! A link with a capacity. Loopback has none of its own: without one nothing in the demo would ever be full.
//!
//! All bodies that a server sends draw on one bucket, in the order in which they come for a piece. A body takes its
//! turn *before* it asks for the next piece, so that what is behind it counts bytes when they go out, not when they
//! are ready. Who goes away while waiting leaves its place to those behind it: of a crowd that gives up nothing goes
//! over the link, and it never stands still while others wait.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::units::BitRate;

/// What a turn is good for, in bytes, until it is known how long the piece is.
const TURN: u64 = 16 * 1024;
/// How much sending time an idle link saves up: more than timers are late.
const BURST: Duration = Duration::from_millis(20);

/// A bucket of tokens, told as time: it is empty until `free_at`.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: f64,
    free_at: Instant,
}

// === impl Bucket ===

impl Bucket {
    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second)
    }

    /// From when on something may go.
    fn next(&self, now: Instant) -> Instant {
        self.free_at.max(now.checked_sub(BURST).unwrap_or(now))
    }

    /// Sends `bytes`.
    fn take(&mut self, bytes: u64, now: Instant) {
        self.free_at = self.next(now) + self.time_for(bytes);
    }

    /// `taken` turned out to be `used`.
    fn correct(&mut self, taken: u64, used: u64) {
        self.free_at += self.time_for(used);
        self.free_at = self
            .free_at
            .checked_sub(self.time_for(taken))
            .unwrap_or(self.free_at);
    }
}

/// A link, shared by all connections of a server.
#[derive(Debug)]
pub(super) struct Link {
    capacity: BitRate,
    bucket: Arc<Shared>,
    /// Those who wait for their turn.
    queue: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// How many they are.
    waiting: AtomicU64,
    sent: AtomicU64,
}

// === impl Link ===

impl Link {
    /// Must be called within a Tokio runtime. The link works until it is dropped.
    pub(super) fn new(capacity: BitRate, now: Instant) -> Arc<Self> {
        let bucket = Arc::new(Shared {
            bucket: Mutex::new(Bucket {
                bytes_per_second: capacity.bytes_per_second(),
                free_at: now,
            }),
            corrected: Notify::new(),
        });
        let (queue, waiting) = mpsc::unbounded_channel();
        tokio::spawn(take_turns(bucket.clone(), waiting));
        Arc::new(Self {
            capacity,
            bucket,
            queue,
            waiting: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    pub(super) const fn capacity(&self) -> BitRate {
        self.capacity
    }

    /// How long, in seconds, whoever comes now waits at most until it is their turn.
    pub(super) fn queue(&self) -> f64 {
        let waiting = self.waiting.load(Ordering::Relaxed);
        (waiting * TURN) as f64 / self.capacity.bytes_per_second()
    }

    /// All bytes that went out.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// The bucket, and word of what it gets back.
#[derive(Debug)]
struct Shared {
    bucket: Mutex<Bucket>,
    corrected: Notify,
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until something may go.
    async fn is_free(&self) {
        loop {
            let next = self.lock().next(Instant::now());
            tokio::select! {
                () = sleep_until(next) => return,
                () = self.corrected.notified() => {}
            }
        }
    }
}

/// Gives one after the other its turn. Whoever has got it may be late, or gone: the link does not wait for them.
async fn take_turns(
    bucket: Arc<Shared>,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    while let Some(turn) = waiting.recv().await {
        if turn.is_closed() {
            continue;
        }
        bucket.is_free().await;
        let mut bucket = bucket.lock();
        if turn.send(()).is_ok() {
            bucket.take(TURN, Instant::now());
        }
    }
}

/// A body's place in the queue of its link. Given back when the body is given up.
struct Turn {
    link: Arc<Link>,
    used: u64,
    has_come: bool,
    comes: oneshot::Receiver<()>,
}

// === impl Turn ===

impl Turn {
    fn wait(link: &Arc<Link>) -> Self {
        let (turn, comes) = oneshot::channel();
        link.waiting.fetch_add(1, Ordering::Relaxed);
        // It is there as long as the link is.
        let _ = link.queue.send(turn);
        Self {
            link: link.clone(),
            used: 0,
            has_come: false,
            comes,
        }
    }

    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_come {
            let _ = ready!(Pin::new(&mut self.comes).poll(cx));
            self.has_come = true;
            self.link.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Poll::Ready(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A turn is given within the lock: it has come, or it never will.
        let mut bucket = self.link.bucket.lock();
        if self.has_come || self.comes.try_recv().is_ok() {
            bucket.correct(TURN, self.used);
            self.link.bucket.corrected.notify_one();
        }
        self.comes.close();
        if !self.has_come {
            self.link.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.link.sent.fetch_add(self.used, Ordering::Relaxed);
    }
}

pin_project! {
    /// A body that goes out over a link.
    pub(super) struct LinkBody<B> {
        #[pin]
        inner: B,
        link: Arc<Link>,
        turn: Option<Turn>,
    }
}

// === impl LinkBody ===

impl<B> LinkBody<B> {
    pub(super) const fn new(inner: B, link: Arc<Link>) -> Self {
        Self {
            inner,
            link,
            turn: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for LinkBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let turn = this.turn.get_or_insert_with(|| Turn::wait(this.link));
        ready!(turn.poll_come(cx));
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            turn.used = frame.data_ref().map_or(0, |data| data.remaining() as u64);
        }
        *this.turn = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    /// 1 MB/s.
    fn link() -> Arc<Link> {
        let capacity = BitRate::from_bits_per_second(8e6).unwrap();
        Link::new(capacity, Instant::now())
    }

    /// `pieces` pieces of 10 kB.
    fn body(link: &Arc<Link>, pieces: usize) -> impl Body<Data = Bytes, Error = ()> + use<> {
        let piece = || Ok(Frame::data(Bytes::from_static(&[7; 10_000])));
        let pieces = futures_util::stream::iter((0..pieces).map(move |_| piece()));
        LinkBody::new(StreamBody::new(pieces), link.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn two_bodies_share_one_capacity() {
        let (link, began) = (link(), Instant::now());
        let both = tokio::join!(body(&link, 100).collect(), body(&link, 100).collect());
        assert_eq!(both.0.unwrap().to_bytes().len(), 1_000_000);
        assert_eq!(both.1.unwrap().to_bytes().len(), 1_000_000);
        let took = began.elapsed().as_secs_f64();
        assert!((1.95..2.01).contains(&took), "{took} s for 2 MB at 1 MB/s");
        assert_eq!(link.sent(), 2_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_longer_than_a_turn_is_paid_for_by_those_behind_it() {
        let (link, began) = (link(), Instant::now());
        let long = Full::new(Bytes::from(vec![0; 500_000]));
        LinkBody::new(long, link.clone()).collect().await.unwrap();
        body(&link, 1).collect().await.unwrap();
        let took = began.elapsed().as_secs_f64();
        assert!((0.48..0.52).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_given_up_gives_its_turn_back() {
        let (link, began) = (link(), Instant::now());
        for _ in 0..1_000 {
            let mut given_up = Box::pin(body(&link, 1));
            let mut context = Context::from_waker(std::task::Waker::noop());
            drop(given_up.as_mut().poll_frame(&mut context));
            drop(given_up);
        }
        let sent = link.sent();
        assert!(sent < 50_000, "only what a burst is good for: {sent}");
        body(&link, 100).collect().await.unwrap();
        let took = began.elapsed().as_secs_f64();
        assert!(took < 1.1, "{took} s for 1 MB at 1 MB/s");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_while_waiting_leaves_the_link_to_the_others() {
        let (link, began) = (link(), Instant::now());
        // The first crowd would take ten seconds, and goes away after one.
        let first = futures_util::future::join_all((0..1_000).map(|_| body(&link, 1).collect()));
        let second = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            futures_util::future::join_all((0..50).map(|_| body(&link, 1).collect())).await;
        };
        let first = tokio::time::timeout(Duration::from_secs(1), first);
        assert!(tokio::join!(first, second).0.is_err());
        assert_eq!(link.queue(), 0.0, "nobody waits any more");
        let took = began.elapsed().as_secs_f64();
        assert!(
            (1.4..1.6).contains(&took),
            "{took} s, half a second of it for 0.5 MB"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_saved_up_for_a_burst_only() {
        let link = link();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        body(&link, 100).collect().await.unwrap();
        let took = began.elapsed().as_secs_f64();
        assert!(took > 0.95, "{took} s for 1 MB at 1 MB/s");
    }
}
