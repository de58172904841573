//! A request's body on its way to the upstream, and how far it has come.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, header::EXPECT};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    expect::Go,
    failure::Failure,
    lent::{Back, lend},
};

/// How far a request's body has come. Written by [`Outgoing`], read by who waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// When something last moved, in milliseconds since the beginning.
    moved: AtomicU64,
    waits_for_client: AtomicBool,
    is_over: AtomicBool,
}

impl Progress {
    pub(super) fn new(began: Instant) -> Arc<Self> {
        Arc::new(Self {
            began,
            moved: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
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

    /// Has all of it been taken?
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// It is sent once more.
    fn begins_again(&self) {
        self.is_over.store(false, Relaxed);
        // Nobody has asked the client for more yet.
        self.note(false);
    }

    fn note(&self, waits_for_client: bool) {
        if !waits_for_client {
            self.moved();
        }
        self.waits_for_client.store(waits_for_client, Relaxed);
    }

    /// Something moved just now.
    pub(super) fn moved(&self) {
        let millis = self.began.elapsed().as_millis();
        self.moved
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }
}

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// There is none.
    Empty,
    /// As it comes from the client.
    Streaming {
        inner: Body,
        progress: Arc<Progress>,
        /// It is not asked for before the upstream wants it.
        go: Option<Arc<Go>>,
    },
}

impl Outgoing {
    /// Makes of it one that comes back when nobody sends it any more.
    pub(super) fn lend(&mut self) -> Option<Back> {
        let Self::Streaming { inner, .. } = self else {
            return None;
        };
        let (lent, back) = lend(std::mem::take(inner));
        *inner = lent;
        Some(back)
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Streaming { progress, .. } => Some(progress.clone()),
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self::Streaming {
            inner,
            progress,
            go,
        } = &mut *self
        else {
            return Poll::Ready(None);
        };
        if let Some(waits) = go {
            ready!(waits.poll(cx));
            *go = None;
        }
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        progress.note(polled.is_pending());
        if matches!(polled, Poll::Ready(None)) || inner.is_end_stream() {
            progress.is_over.store(true, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming { inner, .. } => inner.size_hint(),
        }
    }
}

/// A body that is being sent.
pub(super) struct Sending {
    pub(super) progress: Arc<Progress>,
    /// The client waits to be told to go on.
    pub(super) go: Option<Arc<Go>>,
}

// === impl Sending ===

impl Sending {
    /// The request as it is sent; [`None`]: it has no body.
    pub(super) fn of(request: Request<Body>, begun: Instant) -> (Request<Outgoing>, Option<Self>) {
        let (mut parts, body) = request.into_parts();
        if http_body::Body::is_end_stream(&body) {
            parts.headers.remove(EXPECT);
            return (Request::from_parts(parts, Outgoing::Empty), None);
        }
        let asks = parts
            .headers
            .get(EXPECT)
            .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let go = asks.then(|| Arc::new(Go::new()));
        let progress = Progress::new(begun);
        let body = Outgoing::Streaming {
            inner: body,
            progress: progress.clone(),
            go: go.clone(),
        };
        let sending = Self { progress, go };
        (Request::from_parts(parts, body), Some(sending))
    }

    /// The body once more, if it comes `back` as it was, within `limit`.
    pub(super) async fn again(&self, back: Option<Back>, limit: Duration) -> Option<Outgoing> {
        let inner = timeout(limit, back?.again()).await.ok()??;
        self.progress.begins_again();
        Some(Outgoing::Streaming {
            inner,
            progress: self.progress.clone(),
            go: self.go.clone(),
        })
    }
}

/// What is waited for, unless nothing moves for `limit` before it comes.
pub(super) async fn unless_stuck<F: Future>(
    awaited: F,
    progress: Option<&Progress>,
    begun: Instant,
    limit: Duration,
) -> Result<F::Output, Failure> {
    let mut awaited = pin!(awaited);
    let mut moved = begun;
    loop {
        if let Ok(output) = timeout_at(moved + limit, awaited.as_mut()).await {
            return Ok(output);
        }
        moved = moved_since(progress, moved)?;
    }
}

/// When something moved, if it was after `moved`; else whose fault it is.
pub(super) fn moved_since(progress: Option<&Progress>, moved: Instant) -> Result<Instant, Failure> {
    match progress {
        Some(progress) if progress.last() > moved => Ok(progress.last()),
        Some(progress) if progress.waits_for_client() => Err(Failure::ClientTimeout),
        _ => Err(Failure::AnswerTimeout),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_upload_has_all_the_time_while_it_moves() {
        let begun = Instant::now();
        let progress = Progress::new(begun);
        let sending = async {
            for _ in 0..5 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                let part = Outgoing::Streaming {
                    inner: Body::new(Full::new(Bytes::from("part"))),
                    progress: Arc::clone(&progress),
                    go: None,
                };
                part.collect().await.expect("a full body does not fail");
            }
            "answer"
        };
        assert!(matches!(
            unless_stuck(sending, Some(&progress), begun, LIMIT).await,
            Ok("answer")
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_is_silent_is_waited_for_no_longer_than_the_limit() {
        let progress = Progress::new(Instant::now());
        let before = Instant::now();
        let silent = unless_stuck(pending::<()>(), Some(&progress), before, LIMIT).await;
        assert!(matches!(silent, Err(Failure::AnswerTimeout)));
        assert!(before.elapsed() >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_tells_who_is_waited_for() {
        let part = sleep(Duration::from_secs(3))
            .map(|()| Ok::<_, axum::Error>(Frame::data(Bytes::from("part"))));
        let progress = Progress::new(Instant::now());
        let mut body = Outgoing::Streaming {
            inner: Body::new(StreamBody::new(stream::once(part).chain(stream::pending()))),
            progress: Arc::clone(&progress),
            go: None,
        };
        let began = progress.last();
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
        // Sent once more it waits for the upstream first.
        progress.begins_again();
        assert!(!progress.waits_for_client());
    }
}
