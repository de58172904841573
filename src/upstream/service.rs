//! The service.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use axum::{body::Body, extract::ConnectInfo};
use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{ALLOW, CONNECTION, CONTENT_LENGTH, HOST, RETRY_AFTER, TRANSFER_ENCODING},
    response::Parts as AnswerParts,
    uri::{Authority, PathAndQuery},
};
use http_body_util::Either;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower_service::Service;
use url::Url;

use super::{
    OverTls, Timeouts, TrustedForwarding, UpstreamError,
    download::{Download, Link},
    failure::Failure,
    forwarded::{Origin, Way, write_forwarded},
    headers::{join_cookies, strip_one_hop, strip_request},
    http1::{Http1, Unanswered},
    pool::{Pool, Taken},
    retry::Attempts,
    settings::{Host, Http2, ProxySettings},
    stream::Answer,
    target::Target,
    upgrade::Asking,
    upload::{Outgoing, Sending},
};
use crate::{
    front::{Rules, authority, check_target, error_answer},
    load::UpstreamMeter,
};

/// Passes requests on to another server. Cloning is cheap, and clones share the connections.
#[derive(Clone)]
pub struct Upstream {
    pool: Arc<Pool>,
    target: Arc<Target>,
    settings: ProxySettings,
    meter: Option<UpstreamMeter>,
    /// [`None`]: each request tells.
    from: Option<Origin>,
}

/// An answer's body, as it comes.
type Coming = Either<Incoming, Answer>;

/// The answer of an [`Upstream`].
pub type UpstreamFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pool: _,
            target,
            settings,
            meter: _,
            from: _,
        } = self;
        f.debug_struct("Upstream")
            .field("target", target)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}

// === impl Upstream ===

impl Upstream {
    /// Passes requests on to `url`: http or https, a host, and maybe a path that every request's path is
    /// put behind; or `unix:` and the path of a socket. Connects when the first request comes.
    ///
    /// # Errors
    /// `url` is not such a URL, or https has no certificate authorities to trust.
    pub fn new(url: &Url, timeouts: Timeouts) -> Result<Self, UpstreamError> {
        Self::with(url, ProxySettings::default().with(timeouts))
    }

    /// The same, as the settings say.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(url: &Url, settings: ProxySettings) -> Result<Self, UpstreamError> {
        let target = Target::new(url)?;
        let pool = Pool::new(&target, &settings)?;
        Ok(Self {
            pool,
            target: Arc::new(target),
            settings,
            meter: None,
            from: None,
        })
    }

    /// Tells `meter` how long answers take, and when there are none.
    #[must_use]
    pub fn measured_by(mut self, meter: UpstreamMeter) -> Self {
        meter.stands_for(self.target.shown());
        self.meter = Some(meter);
        self
    }

    /// For the requests of one connection, which need no extensions to tell where they come from.
    pub(crate) fn of_peer(&self, from: Origin) -> Self {
        Self {
            from: Some(from),
            ..self.clone()
        }
    }

    /// Whether it may take WebSockets: over HTTP/2 they are not passed on.
    pub(crate) fn may_take_websockets(&self) -> bool {
        self.settings.http2 != Http2::Always
    }

    /// Where it is.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a request whose address and headers are the upstream's already.
    pub(crate) async fn pass_on(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let begun = Instant::now();
        let (request, upload) = Sending::of(request, begun);
        self.exchange(begun, request, upload, None).await
    }

    /// It is made for every request, and is small: what is seldom needed is in boxes.
    async fn exchange(
        &self,
        begun: Instant,
        mut request: Request<Outgoing>,
        upload: Option<Sending>,
        asking: Option<Asking>,
    ) -> Result<Response<Body>, Failure> {
        let waiting = self.meter.as_ref().map(|meter| meter.begin(begun));
        let mut attempts = Attempts::of(&request);
        let limit = self.settings.first_byte_timeout;
        let http1 = asking.is_some();
        // Connections that were kept and can't be used any more are few: a new one is the second or the third.
        let mut at_hand = self.pool.at_hand(http1);
        // Since when it is waited for: for a connection, then for an answer.
        let mut since = begun;
        let answer = loop {
            let taken = match at_hand.take() {
                Some(taken) => taken,
                None => {
                    let opened = self.pool.open(http1, attempts.which(), since + limit);
                    let opened = Box::pin(opened).await;
                    since = Instant::now();
                    match opened {
                        Ok(taken) => taken,
                        Err(failure) => break Err(failure),
                    }
                }
            };
            let spare = attempts.spare(&mut request, &taken);
            let asked = match taken {
                Taken::Http1(mut connection) => {
                    let asked = self.ask_http1(&mut connection, request, upload.as_ref(), since);
                    let answer = asked.await.map(|answer| answer.map(Either::Left));
                    answer.map(|answer| (answer, Taken::Http1(connection)))
                }
                Taken::Http2(mut turn) => {
                    self.for_http2(&mut request);
                    let idle = self.settings.idle_timeout;
                    let asked = turn.ask(request, upload.as_ref(), since, limit, idle);
                    let answer = Box::pin(asked).await;
                    let answer = answer.map(|answer| answer.map(Either::Right));
                    answer.map(|answer| (answer, Taken::Http2(turn)))
                }
            };
            let unanswered = match asked {
                Ok((answer, way)) => break self.answer(answer, way, upload, asking),
                Err(unanswered) => unanswered,
            };
            let again = attempts.again(unanswered, spare, upload.as_ref(), limit);
            match Box::pin(again).await {
                Ok(again) => request = again,
                Err(failure) => break Err(failure),
            }
            since = Instant::now();
        };
        match (waiting, &answer) {
            (None, _) => {}
            (Some(waiting), Ok(answer)) => waiting.answered(overloaded(answer)),
            (Some(waiting), Err(failure)) if failure.is_the_upstreams() => waiting.failed(failure),
            (Some(_), Err(_)) => {}
        }
        answer
    }

    fn ask_http1<'a>(
        &self,
        connection: &'a mut Http1,
        mut request: Request<Outgoing>,
        upload: Option<&'a Sending>,
        begun: Instant,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + use<'a> {
        for_http1(&mut request);
        if let Some(go) = upload.and_then(|upload| upload.go.as_ref()) {
            let go = go.clone();
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    go.wanted();
                }
            });
        }
        let progress = upload.map(|upload| &*upload.progress);
        connection.ask(request, progress, begun, self.settings.first_byte_timeout)
    }

    /// The answer as the client gets it.
    fn answer(
        &self,
        answer: Response<Coming>,
        way: Taken,
        upload: Option<Sending>,
        asking: Option<Asking>,
    ) -> Result<Response<Body>, Failure> {
        let (mut parts, body) = answer.into_parts();
        let idle = self.settings.idle_timeout;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Taken::Http1(connection), Some(asking)) = (way, asking) else {
                return Err(Failure::Upgraded);
            };
            let begun = asking.begin(connection, parts.headers, idle);
            return begun.ok_or(Failure::Upgraded);
        }
        if is_ambiguous(&parts) {
            return Err(Failure::Ambiguous);
        }
        let link = match way {
            Taken::Http1(connection) => {
                if ends_with_its_connection(&parts) {
                    parts.extensions.insert(UntilClose);
                }
                self.link(connection, upload)
            }
            Taken::Http2(turn) => Link::Shared(turn),
        };
        strip_one_hop(&mut parts.headers);
        // The next hop's is the next hop's: an answer in HTTP/1.0 would be passed on as one.
        parts.version = Version::HTTP_11;
        let body = Body::new(Download::new(body, link, idle));
        Ok(Response::from_parts(parts, body))
    }

    fn link(&self, connection: Box<Http1>, upload: Option<Sending>) -> Link {
        let own = |connection| Link::Own(connection, self.pool.clone());
        match upload {
            None => own(connection),
            // The body stays where it is: the connection ends with the answer.
            Some(upload) if upload.go.as_ref().is_some_and(|go| go.answered()) => own(connection),
            Some(upload) if upload.progress.is_over() => own(connection),
            Some(_) => Link::Aside(connection.drive_aside()),
        }
    }

    fn for_http2(&self, request: &mut Request<Outgoing>) {
        let host = request.headers_mut().remove(HOST);
        let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.target.scheme.clone());
        // What goes out once more has it there already.
        let host = host.or_else(|| parts.authority.take());
        parts.authority = Some(host.unwrap_or_else(|| self.target.authority.clone()));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        // Streams have no connection of their own.
        request.headers_mut().remove(CONNECTION);
        *request.version_mut() = Version::HTTP_2;
    }
}

/// Whether an answer says that there is too much to do, and for how long.
fn overloaded(answer: &Response<Body>) -> Option<Option<Duration>> {
    (answer.status() == StatusCode::SERVICE_UNAVAILABLE).then(|| {
        let after = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = after.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(after).ok()?;
        Some(date.duration_since(SystemTime::now()).unwrap_or_default())
    })
}

/// HTTP/1.1 sends a path, and the host in a header.
fn for_http1(request: &mut Request<Outgoing>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().scheme().is_none() {
        return;
    }
    let parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(path) = parts.path_and_query {
        *request.uri_mut() = Uri::from(path);
    }
    if let Some(host) = parts.authority
        && let Ok(host) = HeaderValue::try_from(host.as_str())
    {
        request.headers_mut().entry(HOST).or_insert(host);
    }
}

/// An extension of an answer: its body ends where its connection does, so one that was cut looks whole
/// (RFC 9112 section 8).
#[derive(Debug, Clone, Copy)]
pub(crate) struct UntilClose;

fn ends_with_its_connection(parts: &AnswerParts) -> bool {
    let has_body = !matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    has_body
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !parts.headers.contains_key(TRANSFER_ENCODING)
}

/// Two readers might disagree on where it ends, and take the rest for the answer to another's question (RFC 9112
/// section 6.3).
fn is_ambiguous(parts: &AnswerParts) -> bool {
    let headers = &parts.headers;
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_one = lengths.next().is_none_or(|length| {
        lengths.next().is_none() && length.as_bytes().iter().all(u8::is_ascii_digit)
    });
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = codings.next().is_none_or(|coding| {
        codings.next().is_none()
            && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            && parts.version == Version::HTTP_11
            && !headers.contains_key(CONTENT_LENGTH)
    });
    !is_one || !is_chunked
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
        let (request, asking) = match upstream.prepare(request.map(Body::new)) {
            Ok(prepared) => prepared,
            Err(failure) => {
                let answer = explain(&failure, &upstream.target, asked);
                return Box::pin(std::future::ready(Ok(answer)));
            }
        };
        let begun = Instant::now();
        let (request, upload) = Sending::of(request, begun);
        Box::pin(async move {
            let answer = upstream.exchange(begun, request, upload, asking).await;
            Ok(answer.unwrap_or_else(|failure| explain(&failure, &upstream.target, asked)))
        })
    }
}

impl Upstream {
    /// The request as the upstream gets it, and to which protocol it wants to change.
    fn prepare(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Request<Body>, Option<Asking>), Failure> {
        if request.method() == Method::CONNECT {
            return Err(Failure::Method);
        }
        let path = request
            .uri()
            .path_and_query()
            .map_or("", PathAndQuery::as_str);
        check_target(path, Rules::Upstream).map_err(Failure::Refused)?;
        let asked_for = authority(&request).map_err(Failure::Refused)?;
        let host = match request.uri().authority() {
            // It is what the header says: no copy.
            None => asked_for.and_then(|_| request.headers().get(HOST).cloned()),
            Some(_) => asked_for.and_then(|host| HeaderValue::try_from(host).ok()),
        };

        let asking = Asking::of(&mut request);
        let (mut parts, body) = request.into_parts();
        let path = self
            .target
            .path(&parts.uri)
            .ok_or(Failure::Refused(crate::front::Rejection::Form))?;
        strip_request(&mut parts.headers);
        if let Some(asking) = &asking {
            asking.write(&mut parts.headers);
        }
        join_cookies(parts.version, &mut parts.headers);
        crate::trace::tidy(&mut parts.headers);
        let way = match self.from {
            None => way(&parts.extensions, host.as_ref()),
            Some(from) => Way {
                peer: Some(from.address.ip()),
                is_trusted: from.is_trusted,
                is_tls: from.over_tls,
                host: host.as_ref(),
            },
        };
        write_forwarded(&mut parts.headers, way, self.settings.forwarded);
        let host = match (host, self.settings.host) {
            (Some(host), Host::Client) => host,
            _ => HeaderValue::try_from(self.target.authority.as_str())
                .expect("an authority is a header value"),
        };
        parts.headers.insert(HOST, host);
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        // They are about this side's connection.
        parts.extensions = Extensions::new();
        Ok((Request::from_parts(parts, body), asking))
    }
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
    use super::*;

    #[test]
    fn what_goes_out_again_over_http2_asks_for_the_same_host() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let upstream = Upstream::new(&url, Timeouts::default()).unwrap();
        let request = Request::get("/a").header(HOST, "site.example");
        let mut request = request.body(Outgoing::Empty).unwrap();
        for _ in 0..2 {
            upstream.for_http2(&mut request);
            assert_eq!(request.uri(), "http://site.example/a");
        }
    }
}
