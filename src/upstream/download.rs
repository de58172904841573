//! An answer's body on its way, watched for standstill.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    failure::{BoxError, Failure},
    http1::{Aside, Http1},
    http2::Turn,
    pool::Pool,
};

/// The upstream stopped in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the upstream sent nothing for {0:?} in the middle of its answer")]
pub(super) struct Stalled(Duration);

/// What an answer's body comes over.
pub(super) enum Link {
    /// A connection that is driven by who takes the body, and kept when it has come as a whole.
    Own(Box<Http1>, Arc<Pool>),
    /// One that has a task.
    Aside(#[expect(dead_code, reason = "held for its end")] Aside),
    /// One that is shared.
    Shared(Turn),
    /// It is not needed any more.
    Done,
}

/// An answer's body on its way to the client. The clock runs only while the upstream is waited for.
pub(super) struct Download<B> {
    inner: B,
    link: Link,
    idle: Duration,
    waits_since: Option<Instant>,
    // Made when it is first needed: most bodies are there before anyone waits.
    clock: Option<Pin<Box<Sleep>>>,
}

// === impl Download ===

impl<B: HttpBody<Data = Bytes> + Unpin> Download<B> {
    pub(super) fn new(inner: B, link: Link, idle: Duration) -> Self {
        let mut download = Self {
            inner,
            link,
            idle,
            waits_since: None,
            clock: None,
        };
        if download.inner.is_end_stream() {
            download.settle();
        }
        download
    }

    /// All has come: the connection is free for another request, if it is in order.
    fn settle(&mut self) {
        match std::mem::replace(&mut self.link, Link::Done) {
            Link::Own(connection, pool) => pool.keep(connection),
            Link::Shared(turn) => turn.settle(),
            Link::Aside(_) | Link::Done => {}
        }
    }

    /// What there is of the next frame.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B::Error: Into<BoxError>,
    {
        let Link::Own(connection, _) = &mut self.link else {
            let polled = Pin::new(&mut self.inner).poll_frame(cx);
            return polled.map_err(Into::into);
        };
        // It comes of what is driven here, and never while this is not looking.
        let mut unwoken = Context::from_waker(Waker::noop());
        connection.is_about_to_be_driven();
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(&mut unwoken) {
            connection.is_left();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let ended = connection.drive(cx);
        match Pin::new(&mut self.inner).poll_frame(&mut unwoken) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => ended.map(|()| Some(Err(Failure::Ended.into()))),
        }
    }

    /// Ready once the upstream has been waited for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = *self.waits_since.get_or_insert_with(Instant::now) + self.idle;
        if let Link::Own(connection, _) = &mut self.link {
            return connection.poll_until(end, cx);
        }
        let idle = self.idle;
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep(idle)));
        if clock.deadline() != end {
            clock.as_mut().reset(end);
        }
        clock.as_mut().poll(cx)
    }
}

impl<B> HttpBody for Download<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = self.poll_inner(cx) else {
            ready!(self.poll_stalled(cx));
            self.link = Link::Done;
            return Poll::Ready(Some(Err(Stalled(self.idle).into())));
        };
        self.waits_since = None;
        match &frame {
            Some(Err(_)) => self.link = Link::Done,
            Some(Ok(_)) if self.inner.is_end_stream() => self.settle(),
            Some(Ok(_)) => {}
            None => self.settle(),
        }
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
    use http_body_util::{BodyExt, StreamBody};
    use tokio::{sync::mpsc, time::advance};

    use super::*;

    /// A body whose parts are sent by the test.
    fn fed() -> (
        mpsc::UnboundedSender<&'static str>,
        impl HttpBody<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin,
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
        let mut body = Download::new(body, Link::Done, Duration::from_secs(10));
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
        let mut body = Download::new(body, Link::Done, Duration::from_secs(10));
        feed.send("part").unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let before = Instant::now();
        assert!(body.frame().await.unwrap().unwrap_err().is::<Stalled>());
        assert!(before.elapsed() >= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_held_against_the_upstream() {
        let (feed, body) = fed();
        let mut body = Download::new(body, Link::Done, Duration::from_secs(10));
        for _ in 0..3 {
            feed.send("part").unwrap();
            advance(Duration::from_secs(100)).await;
            assert!(body.frame().await.unwrap().is_ok());
        }
    }
}
