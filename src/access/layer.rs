//! Around the service: an entry is begun with the request and goes to the log when its answer is over, however that is.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{AccessLog, Open};
use crate::offload::{Dropped, Record};

/// What an edge says of how an answer came about (RFC 9211).
static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A service for one connection, with a line for every request; without a log it is the service.
#[derive(Debug, Clone)]
pub struct Logged<S> {
    inner: S,
    log: Option<AccessLog>,
    peer: SocketAddr,
}

// === impl Logged ===

impl<S> Logged<S> {
    /// `peer`: the other end of the connection.
    pub const fn new(inner: S, log: Option<AccessLog>, peer: SocketAddr) -> Self {
        Self { inner, log, peer }
    }
}

impl<S, B, R> Service<Request<B>> for Logged<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: HttpBody,
{
    type Response = Response<LoggedBody<R>>;
    type Error = S::Error;
    type Future = LoggedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let log = self.log.as_ref();
        let open = log.and_then(|log| log.begin(&mut request, self.peer));
        LoggedFuture {
            inner: self.inner.call(request),
            open,
        }
    }
}

pin_project! {
    /// The answer of a [`Logged`].
    #[derive(Debug)]
    pub struct LoggedFuture<F> {
        // Goes to the log before it is known of what is inside that it is over.
        open: Option<Box<Open>>,
        #[pin]
        inner: F,
    }
}

impl<F, R, E> Future for LoggedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<LoggedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let mut open = this.open.take();
        if let Some(open) = &mut open {
            open.answered(&mut response);
        }
        Poll::Ready(Ok(response.map(|inner| LoggedBody::new(inner, open))))
    }
}

// === impl Open ===

impl Open {
    /// There is a head.
    pub(crate) fn answered<R: HttpBody>(&mut self, response: &mut Response<R>) {
        let entry = &mut self.entry;
        if response.extensions().get::<Dropped>().is_some() {
            entry.status = super::entry::CLOSED;
        } else {
            entry.status = response.status().as_u16();
        }
        if let Some(record) = response.extensions_mut().remove::<Record>() {
            entry.outcome = Some(record.outcome.label());
            entry.reason = Some(record.reason.label());
            entry.level = Some(record.level);
            entry.server = record.server;
            entry.report = record.report;
        } else {
            // Nobody has decided about a redirect to https.
            let status = response.status();
            let is_error = status.is_client_error() || status.is_server_error();
            entry.outcome = self.log.unrecorded().filter(|_| is_error);
        }
        if self.log.is_of_edge() {
            let status = response.headers().get(&CACHE_STATUS);
            let (outcome, reason) = cache_status(status.map_or(b"", |value| value.as_bytes()));
            (entry.outcome, entry.reason) = (outcome, reason);
        }
        self.length = length(response);
        let status = response.status();
        // Nobody asks for their body.
        let is_bodiless = self.is_head
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        entry.aborted =
            entry.status == super::entry::CLOSED || !is_bodiless && self.length != Some(0);
    }

    /// A piece of the body was taken.
    fn passes(&mut self, bytes: usize) {
        self.entry.bytes += bytes as u64;
        if self.length.is_some_and(|length| self.entry.bytes >= length) {
            self.entry.aborted = false;
        }
    }
}

/// The bytes of the body. A server that has sent as many as were announced does not ask whether there are more.
fn length<R: HttpBody>(response: &Response<R>) -> Option<u64> {
    let announced = || response.headers().get(CONTENT_LENGTH)?.to_str().ok();
    let exact = response.body().size_hint().exact();
    exact.or_else(|| announced()?.parse().ok())
}

/// Of `Overspill; hit; detail=stale` the outcome and its detail, in words that are known.
fn cache_status(value: &[u8]) -> (Option<&'static str>, Option<&'static str>) {
    let mut words = value
        .split(|&byte| byte == b';')
        .skip(1)
        .map(<[u8]>::trim_ascii);
    let outcome = match words.next() {
        Some(b"hit") => Some("hit"),
        Some(b"fwd=uri-miss") => Some("miss"),
        Some(b"fwd=stale") => Some("stale"),
        Some(b"fwd=bypass") => Some("bypass"),
        _ => None,
    };
    let reason = match words.next() {
        Some(b"detail=stale") => Some("stale"),
        Some(b"collapsed") => Some("collapsed"),
        Some(b"fwd-status=304") => Some("unchanged"),
        _ => None,
    };
    (outcome, reason)
}

pin_project! {
    /// The body of an answer of a [`Logged`].
    #[derive(Debug)]
    pub struct LoggedBody<R> {
        // As above.
        open: Option<Box<Open>>,
        #[pin]
        inner: R,
    }
}

// === impl LoggedBody ===

impl<R> LoggedBody<R> {
    pub(crate) const fn new(inner: R, open: Option<Box<Open>>) -> Self {
        Self { open, inner }
    }

    /// What is in it.
    pub(crate) const fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }
}

impl<R> HttpBody for LoggedBody<R>
where
    R: HttpBody<Data = Bytes>,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        if let Some(open) = this.open {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        open.passes(data.len());
                    }
                    // It may not be asked again.
                    if this.inner.is_end_stream() {
                        open.entry.aborted = false;
                    }
                }
                Some(Err(_)) => {}
                None => open.entry.aborted = false,
            }
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
    use super::*;

    #[test]
    fn reads_what_an_edge_says() {
        for (value, expected) in [
            ("Overspill; hit", (Some("hit"), None)),
            ("Overspill; hit; detail=stale", (Some("hit"), Some("stale"))),
            (
                "Overspill; fwd=uri-miss; collapsed",
                (Some("miss"), Some("collapsed")),
            ),
            (
                "Overspill; fwd=stale; fwd-status=304",
                (Some("stale"), Some("unchanged")),
            ),
            ("Overspill; fwd=bypass", (Some("bypass"), None)),
            ("", (None, None)),
        ] {
            assert_eq!(cache_status(value.as_bytes()), expected, "{value}");
        }
    }
}
