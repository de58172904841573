//! Bodies on their way, watched for standstill.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

/// How far a request's body has come. Written by [`Upload`], read by who waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// When something last moved, in milliseconds since the beginning.
    moved: AtomicU64,
    waits_for_client: AtomicBool,
}

impl Progress {
    pub(super) fn new(began: Instant) -> Arc<Self> {
        Arc::new(Self {
            began,
            moved: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
        })
    }

    /// When something last moved.
    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Relaxed))
    }

    /// Is it the client that is waited for, not the upstream?
    pub(super) fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Relaxed)
    }

    fn note(&self, waits_for_client: bool) {
        if !waits_for_client {
            let millis = self.began.elapsed().as_millis();
            self.moved
                .store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
        }
        self.waits_for_client.store(waits_for_client, Relaxed);
    }
}

pin_project! {
    /// A request's body on its way to the upstream.
    pub(super) struct Upload<B> {
        #[pin]
        inner: B,
        progress: Arc<Progress>,
    }
}

impl<B> Upload<B> {
    pub(super) fn new(inner: B, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }
}

impl<B: Body<Data = Bytes>> Body for Upload<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        this.progress.note(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The upstream stopped in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the upstream sent nothing for {0:?} in the middle of its answer")]
pub(super) struct Stalled(Duration);

pin_project! {
    /// An answer's body on its way to the client. The clock runs only while the upstream is waited for.
    pub(super) struct Download<B> {
        #[pin]
        inner: B,
        idle: Duration,
        // Made when it is first needed: most bodies are there before anyone waits.
        clock: Option<Pin<Box<Sleep>>>,
        is_waiting: bool,
    }
}

impl<B> Download<B> {
    pub(super) fn new(inner: B, idle: Duration) -> Self {
        Self {
            inner,
            idle,
            clock: None,
            is_waiting: false,
        }
    }
}

impl<B> Body for Download<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            *this.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let idle = *this.idle;
        let clock = this.clock.get_or_insert_with(|| Box::pin(sleep(idle)));
        if !std::mem::replace(this.is_waiting, true) {
            clock.as_mut().reset(Instant::now() + idle);
        }
        ready!(clock.as_mut().poll(cx));
        *this.is_waiting = false;
        Poll::Ready(Some(Err(Stalled(idle).into())))
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
    use http_body_util::{BodyExt, StreamBody};
    use tokio::{sync::mpsc, time::advance};

    use super::*;

    /// A body whose parts are sent by the test.
    fn fed() -> (
        mpsc::UnboundedSender<&'static str>,
        impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin,
    ) {
        let (feed, mut parts) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |cx| {
            parts
                .poll_recv(cx)
                .map(|part| part.map(|part: &str| Ok(Frame::data(Bytes::from(part)))))
        });
        (feed, StreamBody::new(stream))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_keeps_moving_has_all_the_time() {
        let (feed, body) = fed();
        let mut body = Download::new(body, Duration::from_secs(10));
        for _ in 0..5 {
            let (frame, ()) = tokio::join!(body.frame(), async {
                tokio::time::sleep(Duration::from_secs(9)).await;
                feed.send("part").unwrap();
            });
            assert!(frame.unwrap().is_ok());
        }
        drop(feed);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_breaks_off() {
        let (feed, body) = fed();
        let mut body = Download::new(body, Duration::from_secs(10));
        feed.send("part").unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let before = Instant::now();
        assert!(body.frame().await.unwrap().unwrap_err().is::<Stalled>());
        assert!(before.elapsed() >= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_held_against_the_upstream() {
        let (feed, body) = fed();
        let mut body = Download::new(body, Duration::from_secs(10));
        for _ in 0..3 {
            feed.send("part").unwrap();
            advance(Duration::from_secs(100)).await;
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_tells_who_is_waited_for() {
        let (feed, body) = fed();
        let progress = Progress::new(Instant::now());
        let mut body = Upload::new(body, Arc::clone(&progress));
        let began = progress.last();
        advance(Duration::from_secs(3)).await;
        feed.send("part").unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(progress.last() - began, Duration::from_secs(3));
        assert!(!progress.waits_for_client());
        assert!(
            tokio::time::timeout(Duration::from_secs(5), body.frame())
                .await
                .is_err()
        );
        assert!(progress.waits_for_client());
        assert_eq!(progress.last() - began, Duration::from_secs(3));
    }
}
