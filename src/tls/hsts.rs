//! Over https alone, from now on (RFC 6797): said with every answer over TLS, and with none without it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Response, header::STRICT_TRANSPORT_SECURITY};
use hyper::service::Service;
use pin_project_lite::pin_project;

/// A service, for one connection over TLS.
#[derive(Debug)]
pub(super) struct Hsts<S> {
    inner: S,
    policy: Option<HeaderValue>,
}

/// What is said for so long a time.
pub(super) fn policy(time: Duration) -> HeaderValue {
    let policy = format!("max-age={}", time.as_secs());
    HeaderValue::try_from(policy).expect("letters and digits are a header's")
}

// === impl Hsts ===

impl<S> Hsts<S> {
    pub(super) const fn new(inner: S, policy: Option<HeaderValue>) -> Self {
        Self { inner, policy }
    }
}

impl<S, Q, A> Service<Q> for Hsts<S>
where
    S: Service<Q, Response = Response<A>>,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = HstsFuture<S::Future>;

    fn call(&self, request: Q) -> Self::Future {
        HstsFuture {
            inner: self.inner.call(request),
            policy: self.policy.clone(),
        }
    }
}

pin_project! {
    /// The answer of an [`Hsts`].
    pub(super) struct HstsFuture<F> {
        #[pin]
        inner: F,
        policy: Option<HeaderValue>,
    }
}

impl<F, A, E> Future for HstsFuture<F>
where
    F: Future<Output = Result<Response<A>, E>>,
{
    type Output = Result<Response<A>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx))?;
        if let Some(policy) = this.policy.take() {
            // There may be one at most (RFC 6797 section 7.1); who answers may know better.
            let said = answer.headers_mut().entry(STRICT_TRANSPORT_SECURITY);
            said.or_insert(policy);
        }
        Poll::Ready(Ok(answer))
    }
}
