//! The requests of a connection, which note what is under way.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::ACCEPT,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Answering, Doing, LimitSettings, settings::USUAL_HEADERS};
use crate::{front::error_answer, units::ByteSize};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a service takes to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Its answers begin at once, so that nobody has to look whether the client is still there. To look means to read: a
    /// buffer for each request.
    AtOnce,
    /// Its answers may be waited for, and are given up when the client goes.
    InTime,
    /// The same, and WebSockets may be asked for over HTTP/2, which clients are told (RFC 8441 section 3).
    OrWebSocket,
}

/// HTTP/1.1 and HTTP/2 within `limits`, as far as hyper has them; [`attend`](super::attend()) has the others.
pub(crate) fn builder(limits: &LimitSettings, answers: Answers) -> auto::Builder<TokioExecutor> {
    let head_size = limits.head_size.bytes();
    let bytes = |size: ByteSize| u32::try_from(size.bytes()).unwrap_or(u32::MAX);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if limits.headers != USUAL_HEADERS {
        builder.http1().max_headers(limits.headers as usize);
    }
    builder
        .http1()
        // Whoever attends to the connection sees how long a head takes, with one timer for all of them.
        .header_read_timeout(None)
        .half_close(answers == Answers::AtOnce)
        // Of what comes no more is held than of what goes; a head that is longer is a 431.
        .max_buf_size(usize::try_from(head_size).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.idle)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.resets as usize)
        .max_local_error_reset_streams(limits.resets as usize)
        .initial_stream_window_size(bytes(limits.window))
        .initial_connection_window_size(bytes(limits.connection_window))
        .max_send_buf_size(bytes(limits.send_buffer) as usize)
        .max_header_list_size(bytes(limits.head_size));
    if answers == Answers::OrWebSocket {
        builder.http2().enable_connect_protocol();
    }
    builder
}

/// Why a request asks for too much; [`None`]: it does not.
pub(crate) fn too_much<B: HttpBody>(
    doing: &Doing,
    request: &Request<B>,
) -> Option<(StatusCode, &'static str)> {
    let most = doing.most();
    if request.body().size_hint().lower() > most.body {
        return Some(TOO_LONG);
    }
    // Over HTTP/1.1 hyper has counted them.
    (request.headers().len() > most.headers).then_some((
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The request has too many headers.",
    ))
}

const TOO_LONG: (StatusCode, &str) = (
    StatusCode::PAYLOAD_TOO_LARGE,
    "What was sent is longer than this server takes.",
);

/// A service that is always ready, for hyper: it is called without being asked whether it is.
#[derive(Debug, Clone)]
pub(crate) struct Ready<S>(S);

// === impl Ready ===

impl<S> Ready<S> {
    pub(crate) const fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: Service<Request<Incoming>> + Clone> hyper::service::Service<Request<Incoming>>
    for Ready<S>
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.0.clone().call(request)
    }
}

/// A request that is under way, until its answer begins.
pub(crate) struct Noting {
    upload: Option<Box<Asked>>,
    answering: Option<Answering>,
}

/// What a request with a body was about, for the case that it becomes too long.
struct Asked {
    method: Method,
    accept: Option<HeaderValue>,
    is_too_long: Arc<AtomicBool>,
}

// === impl Noting ===

impl Noting {
    /// A request came; with it what is said where it asks for too much.
    pub(crate) fn begin(
        doing: &Arc<Doing>,
        request: &Request<Incoming>,
    ) -> (Self, Option<Response<Body>>) {
        let mut noting = Self {
            upload: None,
            answering: Some(doing.begin(request.version() == Version::HTTP_2)),
        };
        if let Some((status, sentence)) = too_much(doing, request) {
            let (method, headers) = (request.method(), request.headers());
            return (
                noting,
                Some(error_answer(status, sentence, method, headers)),
            );
        }
        if !request.body().is_end_stream() {
            noting.upload = Some(Box::new(Asked {
                method: request.method().clone(),
                accept: request.headers().get(ACCEPT).cloned(),
                is_too_long: Arc::default(),
            }));
        }
        (noting, None)
    }

    /// What is said in place of the answer, if the body has become too long.
    pub(crate) fn refusal(&self) -> Option<Response<Body>> {
        let asked = self.upload.as_ref()?;
        let (status, sentence) = TOO_LONG;
        asked.is_too_long.load(Relaxed).then(|| {
            let accept = asked.accept.clone();
            let headers = accept.into_iter().map(|accept| (ACCEPT, accept)).collect();
            error_answer(status, sentence, &asked.method, &headers)
        })
    }

    /// The answer begins, with these headers. What comes out is for its [`NotedBody`].
    pub(crate) fn answered(&mut self, headers: &mut HeaderMap) -> Option<Answering> {
        let mut answering = self.answering.take();
        if let Some(answering) = &mut answering {
            answering.starves(false);
            answering.say_goodbye(headers);
        }
        answering
    }

    /// Nobody waits for an answer any more, and that is not the client's doing.
    fn is_given_up(&mut self) {
        if let Some(answering) = &mut self.answering {
            answering.is_whole();
        }
    }
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
    type Response = Response<NotedBody<Body>>;
    type Error = S::Error;
    type Future = NotedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (noting, refusal) = Noting::begin(&self.doing, &request);
        let inner = refusal.is_none().then(|| {
            let body = |body| Body::new(Upload::new(body, &noting, &self.doing));
            self.inner.call(request.map(body))
        });
        NotedFuture {
            inner,
            refusal,
            noting,
        }
    }
}

pin_project! {
    /// An answer that is under way until its body has gone.
    pub(crate) struct NotedFuture<F> {
        #[pin]
        inner: Option<F>,
        refusal: Option<Response<Body>>,
        noting: Noting,
    }
}

impl<F, E> Future for NotedFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<NotedBody<Body>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = match this.inner.as_pin_mut() {
            Some(inner) => match ready!(inner.poll(cx)) {
                Ok(answer) => this.noting.refusal().unwrap_or(answer),
                Err(error) => {
                    this.noting.is_given_up();
                    return Poll::Ready(Err(error));
                }
            },
            None => this
                .refusal
                .take()
                .expect("a future is not polled after it is done"),
        };
        let answering = this.noting.answered(answer.headers_mut());
        Poll::Ready(Ok(answer.map(|inner| NotedBody::new(inner, answering))))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct NotedBody<B: HttpBody> {
    inner: B,
    answering: Option<Answering>,
}

// === impl NotedBody ===

impl<B: HttpBody> NotedBody<B> {
    pub(crate) const fn new(inner: B, answering: Option<Answering>) -> Self {
        Self { inner, answering }
    }

    /// None of it is sent, and not because of the client.
    pub(crate) fn is_given_up(&mut self) {
        if let Some(answering) = &mut self.answering {
            answering.is_whole();
        }
    }
}

impl<B: HttpBody> Drop for NotedBody<B> {
    fn drop(&mut self) {
        if let Some(answering) = &mut self.answering
            && self.inner.is_end_stream()
        {
            answering.is_whole();
        }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for NotedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(answering) = &mut self.answering {
            answering.polled(&polled);
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
pub(crate) struct Upload {
    inner: Incoming,
    /// Nearly no request has any: it is in a box, so that those are not larger.
    counted: Option<Box<Counted>>,
}

/// What is counted of a body.
#[derive(Debug)]
struct Counted {
    /// Bytes that it may still have.
    left: u64,
    is_too_long: Arc<AtomicBool>,
    doing: Arc<Doing>,
    waits: bool,
}

// === impl Upload ===

impl Upload {
    /// The body of the request that `noting` is about.
    pub(crate) fn new(inner: Incoming, noting: &Noting, doing: &Arc<Doing>) -> Self {
        let counted = noting.upload.as_ref().map(|asked| {
            Box::new(Counted {
                left: doing.most().body,
                is_too_long: asked.is_too_long.clone(),
                doing: doing.clone(),
                waits: false,
            })
        });
        Self { inner, counted }
    }
}

// === impl Counted ===

impl Counted {
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

    /// A part came; whether it may be so long.
    fn takes(&mut self, length: u64) -> bool {
        self.doing.received.fetch_add(length, Relaxed);
        let left = self.left.checked_sub(length);
        if left.is_none() {
            self.is_too_long.store(true, Relaxed);
        }
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waits(false);
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(counted) = &mut self.counted {
            counted.waits(polled.is_pending());
            if let Poll::Ready(Some(Ok(frame))) = &polled
                && let Some(data) = frame.data_ref()
                && !counted.takes(data.len() as u64)
            {
                return Poll::Ready(Some(Err("the body is longer than it may be".into())));
            }
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
