//! The requests of a connection, which note what is under way.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Answering, Doing, LimitSettings};

type Error = axum::Error;

/// HTTP/1.1 and HTTP/2 within `limits`, as far as hyper has them; [`attend`](super::attend()) has the others.
pub(crate) fn builder(limits: &LimitSettings) -> auto::Builder<TokioExecutor> {
    let head_size = limits.head_size.bytes();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // Whoever attends to the connection sees how long a head takes, with one timer for all of them.
        .header_read_timeout(None)
        // Of what comes no more is held than of what goes; a head that is longer is a 431.
        .max_buf_size(usize::try_from(head_size).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.idle)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(head_size).unwrap_or(u32::MAX));
    builder
}

/// A service, for one connection.
#[derive(Debug, Clone)]
pub(crate) struct Noted<S> {
    inner: S,
    doing: Arc<Doing>,
}

// === impl Noted ===

impl<S> Noted<S> {
    pub(crate) const fn new(inner: S, doing: Arc<Doing>) -> Self {
        Self { inner, doing }
    }
}

impl<S> Service<Request<Incoming>> for Noted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<NotedBody>;
    type Error = S::Error;
    type Future = NotedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let answering = self.doing.begin(request.version() == Version::HTTP_2);
        let request = request.map(|body| {
            if body.is_end_stream() {
                return Body::new(body);
            }
            Body::new(Upload {
                inner: body,
                doing: self.doing.clone(),
                waits: false,
            })
        });
        NotedFuture {
            inner: self.inner.call(request),
            answering: Some(answering),
        }
    }
}

pin_project! {
    /// An answer that is under way until its body has gone.
    pub(crate) struct NotedFuture<F> {
        #[pin]
        inner: F,
        answering: Option<Answering>,
    }
}

impl<F, E> Future for NotedFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<NotedBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx))?;
        let mut answering = this.answering.take();
        if let Some(answering) = &mut answering {
            answering.starves(false);
        }
        Poll::Ready(Ok(answer.map(|inner| NotedBody { inner, answering })))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct NotedBody {
    inner: Body,
    answering: Option<Answering>,
}

impl HttpBody for NotedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(answering) = &mut self.answering {
            answering.starves(polled.is_pending());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a request.
#[derive(Debug)]
struct Upload {
    inner: Incoming,
    doing: Arc<Doing>,
    waits: bool,
}

// === impl Upload ===

impl Upload {
    /// Whether its next part is waited for.
    fn waits(&mut self, waits: bool) {
        if waits != self.waits {
            self.waits = waits;
            if waits {
                self.doing.awaited.fetch_add(1, Relaxed);
            } else {
                self.doing.awaited.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.waits(false);
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.waits(polled.is_pending());
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.doing.received.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
