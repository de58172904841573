//! The service.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::ConnectInfo};
use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ALLOW, HOST},
    request::Parts,
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;
use url::Url;

use super::{
    OverTls, Timeouts, TrustedForwarding, UpstreamError,
    body::{Download, Progress, Upload},
    connect::{Pool, pool},
    failure::Failure,
    forwarded::{Way, write_forwarded},
    headers::{join_cookies, strip_one_hop},
    target::Target,
};
use crate::front::{Rules, authority, check_target, error_answer};

/// Passes requests on to another server. Cloning is cheap, and clones share the connections.
#[derive(Clone)]
pub struct Upstream {
    pool: Pool,
    target: Arc<Target>,
    timeouts: Timeouts,
}

/// The answer of an [`Upstream`].
pub type UpstreamFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pool: _,
            target,
            timeouts,
        } = self;
        f.debug_struct("Upstream")
            .field("target", target)
            .field("timeouts", timeouts)
            .finish_non_exhaustive()
    }
}

// === impl Upstream ===

impl Upstream {
    /// Passes requests on to `url`: http or https, a host, and maybe a path that every request's path is
    /// put behind. Connects when the first request comes.
    ///
    /// # Errors
    /// `url` is not such a URL, or https has no certificate authorities to trust.
    pub fn new(url: &Url, timeouts: Timeouts) -> Result<Self, UpstreamError> {
        let target = Target::new(url)?;
        let pool = pool(&target.scheme, timeouts.connect)?;
        Ok(Self {
            pool,
            target: Arc::new(target),
            timeouts,
        })
    }

    /// Where it is.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a request whose address and headers are the upstream's already.
    pub(crate) async fn pass_on(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let again = self.repeatable(&parts, &body);
        let mut answer = self.send(parts, body).await;
        if let (Err(failure), Some(parts)) = (&answer, again)
            && failure.is_closed_unanswered()
        {
            tracing::debug!(%failure, "request sent again");
            answer = self.send(parts, Body::empty()).await;
        }
        let (mut parts, body) = answer?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Upgraded);
        }
        if ends_with_its_connection(&parts) {
            parts.extensions.insert(UntilClose);
        }
        strip_one_hop(&mut parts.headers);
        // The next hop's is the next hop's: an answer in HTTP/1.0 would be passed on as one.
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(
            parts,
            Body::new(Download::new(body, self.timeouts.idle)),
        ))
    }

    /// The request once more, if sending it twice does no harm.
    fn repeatable(&self, parts: &Parts, body: &Body) -> Option<Parts> {
        let is_safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        (is_safe && http_body::Body::is_end_stream(body)).then(|| parts.clone())
    }

    async fn send(&self, parts: Parts, body: Body) -> Result<Response<Incoming>, Failure> {
        let progress = Progress::new(Instant::now());
        let body = Body::new(Upload::new(body, Arc::clone(&progress)));
        let answer = self.pool.request(Request::from_parts(parts, body));
        unless_stuck(answer, &progress, self.timeouts.first_byte)
            .await?
            .map_err(Failure::from_client)
    }
}

/// An extension of an answer: its body ends where its connection does, so one that was cut looks whole
/// (RFC 9112 section 8).
#[derive(Debug, Clone, Copy)]
pub(crate) struct UntilClose;

fn ends_with_its_connection(parts: &http::response::Parts) -> bool {
    use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
    let has_body = !matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    has_body
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !parts.headers.contains_key(TRANSFER_ENCODING)
}

/// What is waited for, unless nothing moves for `limit` before it comes.
async fn unless_stuck<F: Future>(
    awaited: F,
    progress: &Progress,
    limit: Duration,
) -> Result<F::Output, Failure> {
    let mut awaited = pin!(awaited);
    let mut moved = progress.last();
    loop {
        if let Ok(output) = timeout_at(moved + limit, awaited.as_mut()).await {
            return Ok(output);
        }
        let last = progress.last();
        if last > moved {
            moved = last;
        } else if progress.waits_for_client() {
            return Err(Failure::ClientTimeout);
        } else {
            return Err(Failure::AnswerTimeout);
        }
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = UpstreamFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> UpstreamFuture {
        let upstream = self.clone();
        let asked = (
            request.method().clone(),
            request.headers().get(http::header::ACCEPT).cloned(),
        );
        let prepared = prepare(request.map(Body::new), &self.target);
        Box::pin(async move {
            let answer = match prepared {
                Ok(request) => upstream.pass_on(request).await,
                Err(failure) => Err(failure),
            };
            Ok(answer.unwrap_or_else(|failure| explain(&failure, &upstream.target, asked)))
        })
    }
}

/// The request as the upstream gets it.
fn prepare(request: Request<Body>, target: &Target) -> Result<Request<Body>, Failure> {
    if request.method() == Method::CONNECT {
        return Err(Failure::Method);
    }
    let path = request
        .uri()
        .path_and_query()
        .map_or("", PathAndQuery::as_str);
    check_target(path, Rules::Upstream).map_err(Failure::Refused)?;
    let asked_for = authority(&request).map_err(Failure::Refused)?;
    let host = asked_for.and_then(|host| HeaderValue::try_from(host).ok());

    let (mut parts, body) = request.into_parts();
    let uri = target
        .address(&parts.uri)
        .ok_or(Failure::Refused(crate::front::Rejection::Form))?;
    strip_one_hop(&mut parts.headers);
    join_cookies(parts.version, &mut parts.headers);
    crate::trace::tidy(&mut parts.headers);
    write_forwarded(&mut parts.headers, way(&parts.extensions, host.as_ref()));
    let host = match host {
        Some(host) => host,
        None => HeaderValue::try_from(target.authority.as_str())
            .expect("an authority is a header value"),
    };
    parts.headers.insert(HOST, host);
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    // They are about this side's connection.
    parts.extensions = Extensions::new();
    Ok(Request::from_parts(parts, body))
}

fn way<'a>(extensions: &Extensions, host: Option<&'a HeaderValue>) -> Way<'a> {
    Way {
        peer: extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip()),
        is_trusted: extensions.get::<TrustedForwarding>().is_some(),
        is_tls: extensions.get::<OverTls>().is_some(),
        host,
    }
}

/// Tells the log what happened, and the client what it needs to know.
fn explain(
    failure: &Failure,
    target: &Target,
    asked: (Method, Option<HeaderValue>),
) -> Response<Body> {
    let (status, sentence) = failure.told();
    if status.is_server_error() {
        tracing::warn!(upstream = %target.authority, %failure, "no answer from the upstream");
    } else {
        tracing::debug!(%failure, "request not passed on");
    }
    let (method, accept) = asked;
    let headers: HeaderMap = accept
        .into_iter()
        .map(|accept| (http::header::ACCEPT, accept))
        .collect();
    let mut answer = error_answer(status, sentence, &method, &headers);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http_body_util::{BodyExt, Full};
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_upload_has_all_the_time_while_it_moves() {
        let progress = Progress::new(Instant::now());
        let sending = async {
            for _ in 0..5 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                let part = Upload::new(Full::new(Bytes::from("part")), Arc::clone(&progress));
                part.collect().await.expect("a full body does not fail");
            }
            "answer"
        };
        assert!(matches!(
            unless_stuck(sending, &progress, LIMIT).await,
            Ok("answer")
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_is_silent_is_waited_for_no_longer_than_the_limit() {
        let progress = Progress::new(Instant::now());
        let before = Instant::now();
        let silent = unless_stuck(pending::<()>(), &progress, LIMIT).await;
        assert!(matches!(silent, Err(Failure::AnswerTimeout)));
        assert!(before.elapsed() >= LIMIT);
    }
}
