//! [`check`](super::check) as a tower layer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Rejection, Rules, check, error_answer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Refuses malformed requests in front of a service.
///
/// ```no_run
/// use overspill::{front::{FrontLayer, Rules}, site::Site};
/// use tower_layer::Layer;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let site = Site::new(std::path::Path::new("."))?;
/// let guarded = FrontLayer::new(Rules::Folder).layer(site);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FrontLayer {
    rules: Rules,
}

impl FrontLayer {
    /// A layer that holds paths to `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }
}

impl<S> Layer<S> for FrontLayer {
    type Service = Front<S>;

    fn layer(&self, inner: S) -> Front<S> {
        Front {
            inner,
            rules: self.rules,
        }
    }
}

/// What [`FrontLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct Front<S> {
    inner: S,
    rules: Rules,
}

// === impl Rejection ===

impl Rejection {
    /// The answer to `request`, which is refused.
    pub(crate) fn answer<B>(self, request: &Request<B>) -> Response<Body> {
        tracing::debug!(rejection = ?self, "request refused");
        let (method, headers) = (request.method(), request.headers());
        let mut answer = error_answer(self.status(), self.sentence(), method, headers);
        let is_malformed = self.status() == StatusCode::BAD_REQUEST || self == Self::Coding;
        if is_malformed && request.version() < Version::HTTP_2 {
            // Whoever sends such a request may mean something else by what comes after it.
            let headers = answer.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

// === impl Front ===

impl<S, B, R> Service<Request<B>> for Front<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = FrontFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match check(&request, self.rules) {
            Ok(()) => FrontFuture {
                inner: Some(self.inner.call(request)),
                refusal: None,
            },
            Err(rejection) => FrontFuture {
                inner: None,
                refusal: Some(rejection.answer(&request)),
            },
        }
    }
}

pin_project! {
    /// The answer of a [`Front`]: the inner service's, or a refusal.
    #[derive(Debug)]
    pub struct FrontFuture<F> {
        #[pin]
        inner: Option<F>,
        refusal: Option<Response<Body>>,
    }
}

impl<F, R, E> Future for FrontFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(inner) = this.inner.as_pin_mut() {
            return Poll::Ready(ready!(inner.poll(cx)).map(|answer| answer.map(Body::new)));
        }
        let refusal = this.refusal.take();
        Poll::Ready(Ok(refusal.expect("a future is not polled after it is done")))
    }
}
