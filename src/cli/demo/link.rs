//! A link with a capacity. Loopback has none of its own: without one nothing in the demo would ever be full.
//!
//! All bodies that a server sends draw on one bucket. A body takes its turn *before* it asks for the next
//! piece, so that what is behind it counts bytes when they go out, not when they are ready.

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
use tokio::time::{Instant, Sleep, sleep_until};

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

    /// Queues `bytes`; gives the moment from which they may go.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let saved = now.checked_sub(BURST).unwrap_or(now);
        let start = self.free_at.max(saved);
        self.free_at = start + self.time_for(bytes);
        start
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
    bucket: Mutex<Bucket>,
    sent: AtomicU64,
}

// === impl Link ===

impl Link {
    pub(super) fn new(capacity: BitRate, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            bucket: Mutex::new(Bucket {
                bytes_per_second: capacity.bytes_per_second(),
                free_at: now,
            }),
            sent: AtomicU64::new(0),
        })
    }

    pub(super) const fn capacity(&self) -> BitRate {
        self.capacity
    }

    /// All bytes that went out.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body's place in the queue of its link. Given back when the body is given up.
struct Turn {
    link: Arc<Link>,
    used: u64,
    comes: Pin<Box<Sleep>>,
}

// === impl Turn ===

impl Turn {
    fn wait(link: &Arc<Link>) -> Self {
        let at = link.bucket().take(TURN, Instant::now());
        Self {
            link: link.clone(),
            used: 0,
            comes: Box::pin(sleep_until(at)),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.link.bucket().correct(TURN, self.used);
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
        ready!(turn.comes.as_mut().poll(cx));
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
    async fn idle_time_is_saved_up_for_a_burst_only() {
        let link = link();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        body(&link, 100).collect().await.unwrap();
        let took = began.elapsed().as_secs_f64();
        assert!(took > 0.95, "{took} s for 1 MB at 1 MB/s");
    }
}
