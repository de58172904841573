//! The way of a request through an edge: reads top to bottom.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::SystemTime,
};

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE, RETRY_AFTER},
};
use tokio::{sync::Semaphore, time::timeout};
use tower_service::Service;

use super::{
    counters::{Counters, count},
    fill::{Fill, Fills, Outcome},
    headers::{Came, clean, dress, is_loop, open, variant},
    object::{Name, Object},
    own::TOGETHER,
    policy::{LOOP, State, Verdict, judge, millis},
    pull::Pull,
    report::Load,
    respond::{Asker, EdgeBody, Meter, coming, kept},
    settings::EdgeSettings,
    sites::Sites,
    store::{Entry, Key, Store},
};
use crate::{
    access::AccessLog,
    front::{Rules, authority, check_target, error_answer},
    guard::LimitSettings,
    load,
    seldom::Seldom,
    upstream::UpstreamError,
};

/// What every edge keeps to itself.
pub(super) const OWN: &str = "/.overspill/";

/// The offload server. Clones are handles of the same one.
#[derive(Clone)]
pub struct Edge(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: EdgeSettings,
    pub(super) sites: Sites,
    pub(super) store: Store,
    pub(super) fills: Fills,
    /// Bytes of objects that are coming.
    pub(super) filling: AtomicU64,
    /// Pulls of warm-ups that may be under way together.
    pub(super) warming: Semaphore,
    pub(super) load: Load,
    pub(super) counters: Counters,
    /// Where there is one. Set by who serves.
    pub(super) access_log: OnceLock<AccessLog>,
    /// Its name in CDN-Loop and Via: of this process alone.
    name: String,
    pub(super) id: HeaderValue,
    pub(super) via: HeaderValue,
    pub(super) said: Said,
}

/// What the log says seldom.
#[derive(Default)]
pub(super) struct Said {
    pub(super) token: Seldom,
    pub(super) host: Seldom,
    pub(super) broken: Seldom,
    pub(super) refused: Seldom,
    pub(super) circle: Seldom,
    pub(super) asked: Seldom,
}

/// Why there is no edge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// A primary can't be asked.
    #[error(transparent)]
    Primary(#[from] UpstreamError),
    /// The operating system gives no thread.
    #[error("can't start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

// === impl Edge ===

impl Edge {
    /// What clients may hold on to.
    pub(super) fn limits(&self) -> &LimitSettings {
        &self.0.settings.limits
    }

    /// Starts to look at the load. Must be called within a Tokio runtime; the settings were checked.
    ///
    /// # Errors
    /// No thread; no certificate authorities where a primary is asked by https.
    pub fn start(settings: &EdgeSettings, load: &load::Settings) -> Result<Self, EdgeError> {
        let mut random = [0; 16];
        // Without randomness the seed is the process's own address space and number at least.
        if getrandom::fill(&mut random).is_err() {
            random[..4].copy_from_slice(&std::process::id().to_le_bytes());
        }
        let (seed, id) = random.split_at(8);
        let seed = seed
            .iter()
            .fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let name = id.iter().fold("overspill-".to_owned(), |name, byte| {
            format!("{name}{byte:02x}")
        });
        let header = |text: &str| HeaderValue::try_from(text).expect("hex digits are a header's");
        Ok(Self(Arc::new(Inner {
            sites: Sites::new(settings)?,
            store: Store::new(settings.memory.bytes(), seed),
            fills: Fills::default(),
            filling: AtomicU64::new(0),
            warming: Semaphore::new(TOGETHER),
            load: Load::start(load, settings)?,
            counters: Counters::default(),
            access_log: OnceLock::new(),
            id: header(&name),
            via: header(&format!("1.1 {name}")),
            name,
            said: Said::default(),
            settings: settings.clone(),
        })))
    }
}

/// The answer of an [`Edge`]: at once from the store, or later.
pub enum EdgeFuture {
    /// At once.
    Ready(Ready<Response<EdgeBody>>),
    /// Later.
    Later(Pin<Box<dyn Future<Output = Response<EdgeBody>> + Send>>),
}

impl fmt::Debug for EdgeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeFuture").finish_non_exhaustive()
    }
}

impl Future for EdgeFuture {
    type Output = Result<Response<EdgeBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(response) => Pin::new(response).poll(cx),
            Self::Later(response) => response.as_mut().poll(cx),
        }
        .map(Ok)
    }
}

impl<B> Service<Request<B>> for Edge
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = EdgeFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> EdgeFuture {
        let inner = &self.0;
        let refuse = |status, sentence| {
            count(&inner.counters.refused);
            let answer = refusal(status, sentence, request.method(), request.headers());
            EdgeFuture::Ready(ready(answer))
        };
        if request.method() == Method::CONNECT {
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "The server does not open tunnels.",
            );
        }
        let target = request.uri().path_and_query();
        let target = target.map_or("", http::uri::PathAndQuery::as_str);
        let host = match check_target(target, Rules::Upstream).and_then(|()| authority(&request)) {
            Ok(host) => host,
            Err(rejection) => return refuse(rejection.status(), rejection.sentence()),
        };
        let asked = inner.sites.find(host, request.uri());
        if let Some(what) = asked.target.strip_prefix(OWN) {
            let what = what.split('?').next().unwrap_or_default().to_owned();
            let (site, is_ours) = (asked.site, asked.is_ours);
            return EdgeFuture::Later(self.own(request, site, is_ours, what));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "This server gives out objects: it takes GET and HEAD alone.",
            );
        }
        if !asked.is_ours {
            if inner.said.host.is_due() {
                tracing::warn!(
                    host,
                    "asked under a name that is not this edge's: if it is, put it into `edge.hosts`"
                );
            }
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "This server does not serve the host that was asked for.",
            );
        }
        if is_loop(request.headers(), &inner.name) {
            if inner.said.circle.is_due() {
                tracing::warn!(
                    "a request came back to this edge: `edge.primary` leads to a server that asks this edge"
                );
            }
            return refuse(StatusCode::LOOP_DETECTED, LOOP);
        }
        inner.load.requests.fetch_add(1, Relaxed);
        let meter = inner.meter();
        let now = SystemTime::now();
        let site = u16::try_from(asked.site).unwrap_or(u16::MAX);
        let asker = Asker {
            method: request.method(),
            headers: request.headers(),
        };
        if let (_, Found::Object(object, State::Fresh)) =
            inner.find(site, asked.target, asker.headers, now)
        {
            count(&inner.counters.hits);
            let answer = kept(&object, &asker, now, Came::Hit, meter);
            return EdgeFuture::Ready(ready(answer));
        }
        let (inner, target) = (self.0.clone(), asked.target.to_owned());
        let (parts, _) = request.into_parts();
        EdgeFuture::Later(Box::pin(async move {
            let visit = Visit {
                inner,
                site,
                target,
                method: parts.method,
                headers: parts.headers,
            };
            visit.answer(meter).await
        }))
    }
}

/// What is known of a name.
enum Found {
    Object(Arc<Object>, State),
    Passes,
    Nothing,
}

// === impl Inner ===

impl Inner {
    fn meter(&self) -> Meter {
        Meter {
            _in_flight: self.load.in_flight.enter(),
            bytes: self.load.bytes.clone(),
        }
    }

    /// What is kept for who asks so, and its place.
    fn find(&self, site: u16, target: &str, headers: &HeaderMap, now: SystemTime) -> (Key, Found) {
        let base = Name {
            site,
            target,
            variant: b"",
        };
        let key = self.store.key(base);
        match self.store.get(key) {
            Some(Entry::Varies(varies)) if varies.is(base) => {
                let variant = variant(&varies.names, headers);
                let name = Name {
                    variant: &variant,
                    ..base
                };
                let key = self.store.key(name);
                (key, found(self.store.get(key), name, now))
            }
            entry => (key, found(entry, base, now)),
        }
    }
}

fn found(entry: Option<Entry>, name: Name<'_>, now: SystemTime) -> Found {
    let now = millis(now);
    match entry {
        Some(Entry::Object(object)) if object.is(name) => {
            let state = object.life.state(now);
            Found::Object(object, state)
        }
        Some(Entry::Passes { until }) if now < until => Found::Passes,
        _ => Found::Nothing,
    }
}

/// A request that is not answered at once.
pub(super) struct Visit {
    pub(super) inner: Arc<Inner>,
    pub(super) site: u16,
    pub(super) target: String,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
}

/// How often a request may find that what it waited for is another variant than its own.
const ROUNDS: usize = 4;

// === impl Visit ===

impl Visit {
    pub(super) async fn answer(&self, meter: Meter) -> Response<EdgeBody> {
        let inner = &self.inner;
        let asker = Asker {
            method: &self.method,
            headers: &self.headers,
        };
        for _ in 0..ROUNDS {
            let now = SystemTime::now();
            let (key, found) = inner.find(self.site, &self.target, &self.headers, now);
            let stale = match found {
                Found::Object(object, State::Fresh) => {
                    count(&inner.counters.hits);
                    return kept(&object, &asker, now, Came::Hit, meter);
                }
                Found::Object(object, State::Renew) => {
                    self.renew_aside(key, &object);
                    return self.stale(&object, now, meter);
                }
                Found::Object(object, _) => Some(object),
                Found::Passes => return self.pass(meter).await,
                Found::Nothing => None,
            };
            let (fill, mine) = inner.fills.join(key);
            if mine {
                if self.was_filled_meanwhile(key, &fill) {
                    continue;
                }
                if inner.load.is_full() {
                    fill.settle(Outcome::Failed(StatusCode::SERVICE_UNAVAILABLE, FULL));
                    inner.fills.leave(key, &fill);
                } else {
                    self.start(key, fill.clone(), stale.clone());
                }
            }
            let outcome = match &stale {
                Some(object) => self.outcome_or(&fill, key, object).await,
                None => fill.outcome().await,
            };
            let counter = if mine {
                &inner.counters.misses
            } else {
                &inner.counters.joined
            };
            match outcome {
                Outcome::Streams(head) => {
                    if variant(&head.varies, &self.headers) != head.variant {
                        continue;
                    }
                    let Some(reader) = fill.reader() else {
                        return self.pass(meter).await;
                    };
                    count(counter);
                    let came = if mine { Came::Miss } else { Came::Joined };
                    return coming(&head, reader, &asker, came, meter);
                }
                Outcome::Kept(object) => {
                    if !self.is_for_me(&object) {
                        continue;
                    }
                    count(counter);
                    let came = if mine { Came::Renewed } else { Came::Joined };
                    return kept(&object, &asker, SystemTime::now(), came, meter);
                }
                Outcome::Passes => {
                    let passed = if mine { fill.passed() } else { None };
                    if let Some(answer) = passed {
                        return self.passed(answer, meter);
                    }
                    let now = SystemTime::now();
                    // What is kept still has not been displaced by what was for another alone.
                    match inner.find(self.site, &self.target, &self.headers, now) {
                        (_, Found::Object(_, State::Fresh)) => continue,
                        (_, Found::Object(object, State::Renew | State::Fallback)) => {
                            return self.stale(&object, now, meter);
                        }
                        _ => return self.pass(meter).await,
                    }
                }
                Outcome::Failed(status, sentence) => {
                    let now = SystemTime::now();
                    let stale =
                        stale.filter(|object| object.life.state(millis(now)) != State::Dead);
                    return match stale {
                        Some(object) => self.stale(&object, now, meter),
                        None => self.failed(status, sentence),
                    };
                }
            }
        }
        self.pass(meter).await
    }

    /// What comes of a pull; where it takes longer than the patience for the primary, `object` has to do, if it may.
    async fn outcome_or(&self, fill: &Fill, key: Key, object: &Arc<Object>) -> Outcome {
        let inner = &self.inner;
        match timeout(inner.settings.patience, fill.outcome()).await {
            Ok(outcome) => outcome,
            Err(_) if object.life.state(millis(SystemTime::now())) == State::Dead => {
                fill.outcome().await
            }
            Err(_) => {
                inner.bear_with(key, object);
                Outcome::Failed(
                    StatusCode::GATEWAY_TIMEOUT,
                    "The site took too long to answer.",
                )
            }
        }
    }

    /// Has the object pulled, if it is neither there nor on its way; waits until its body is there, too.
    pub(super) async fn warm(&self) {
        let inner = &self.inner;
        // Closed it never is.
        let Ok(_place) = inner.warming.acquire().await else {
            return;
        };
        let now = SystemTime::now();
        let (key, kept) = match inner.find(self.site, &self.target, &self.headers, now) {
            (_, Found::Object(_, State::Fresh) | Found::Passes) => return,
            (key, Found::Object(object, _)) => (key, Some(object)),
            (key, Found::Nothing) => (key, None),
        };
        if inner.load.is_full() {
            return;
        }
        let (fill, mine) = inner.fills.join(key);
        if mine && !self.was_filled_meanwhile(key, &fill) {
            count(&inner.counters.misses);
            self.start(key, fill.clone(), kept);
            fill.finished().await;
        }
    }

    /// Another fill may have ended between the look for the object and the beginning of this one: then nothing is pulled
    /// again, and who has joined it since gets what is there.
    fn was_filled_meanwhile(&self, key: Key, fill: &Arc<Fill>) -> bool {
        let now = SystemTime::now();
        let (_, found) = self.inner.find(self.site, &self.target, &self.headers, now);
        let Found::Object(object, State::Fresh) = found else {
            return false;
        };
        fill.settle(Outcome::Kept(object));
        self.inner.fills.leave(key, fill);
        true
    }

    /// Whether it is the variant that is asked for.
    fn is_for_me(&self, object: &Object) -> bool {
        let headers = object.headers(0);
        let head = super::fill::Head::of(&headers, object.status(), &self.headers);
        object.variant() == head.variant
    }

    fn start(&self, key: Key, fill: Arc<Fill>, kept: Option<Arc<Object>>) {
        let pull = Pull {
            inner: self.inner.clone(),
            fill,
            key,
            variant: OnceLock::new(),
            site: self.site,
            target: self.target.clone(),
            headers: self.headers.clone(),
            kept,
            purges: self.inner.store.purges(),
        };
        // A task of its own: others may read on when this visitor has gone.
        tokio::spawn(pull.run());
    }

    fn renew_aside(&self, key: Key, kept: &Arc<Object>) {
        if self.inner.load.is_full() {
            return;
        }
        let (fill, mine) = self.inner.fills.join(key);
        if mine {
            self.start(key, fill, Some(kept.clone()));
        }
    }

    fn stale(&self, object: &Object, now: SystemTime, meter: Meter) -> Response<EdgeBody> {
        count(&self.inner.counters.hits);
        count(&self.inner.counters.stale);
        let asker = Asker {
            method: &self.method,
            headers: &self.headers,
        };
        kept(object, &asker, now, Came::Stale, meter)
    }

    /// Asks for this visitor alone: with the conditions and the range, so that a film can be wound forward.
    async fn pass(&self, meter: Meter) -> Response<EdgeBody> {
        let inner = &self.inner;
        if inner.load.is_full() {
            return self.failed(StatusCode::SERVICE_UNAVAILABLE, FULL);
        }
        let Some(mut asked) = inner.asked(&self.method, self.site, &self.target, &self.headers)
        else {
            return self.failed(StatusCode::BAD_REQUEST, "The address is none.");
        };
        let mut conditional = false;
        for name in [RANGE, IF_RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE] {
            if let Some(value) = self.headers.get(&name) {
                asked.headers.insert(name, value.clone());
                conditional = true;
            }
        }
        let answer = match inner.send(self.site, &asked, Body::empty()).await {
            Ok(answer) => answer,
            Err((status, sentence)) => return self.failed(status, sentence),
        };
        let (mut parts, body) = answer.into_parts();
        let was_asked_for = conditional
            && matches!(
                parts.status,
                StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
            );
        if !was_asked_for {
            let verdict = judge(
                &asked,
                &parts,
                &self.target,
                &inner.settings,
                SystemTime::now(),
            );
            if let Verdict::Refuse(status, sentence) = verdict {
                return self.failed(status, sentence);
            }
        }
        clean(&mut parts.headers);
        self.passed(Response::from_parts(parts, body), meter)
    }

    fn passed(&self, answer: Response<Body>, meter: Meter) -> Response<EdgeBody> {
        count(&self.inner.counters.passed);
        let (mut parts, body) = answer.into_parts();
        dress(&mut parts.headers, Came::Passed);
        self.move_below_prefix(&mut parts.headers);
        let body = if self.method == Method::HEAD {
            Body::empty()
        } else {
            body
        };
        Response::from_parts(parts, EdgeBody::other(body, Some(meter)))
    }

    /// The primary does not know of the site's prefix: where it sends visitors elsewhere on the site, that is below it.
    fn move_below_prefix(&self, headers: &mut HeaderMap) {
        let site = self.inner.sites.get(usize::from(self.site));
        let (Some(prefix), Some(location)) = (&site.prefix, headers.get_mut(LOCATION)) else {
            return;
        };
        let old = location.as_bytes();
        // A path from the root, and not another host; browsers take a backslash for a slash.
        if old.starts_with(b"/") && !old[1..].starts_with(b"/") && !old[1..].starts_with(b"\\") {
            let new = [prefix.as_bytes(), old].concat();
            if let Ok(new) = HeaderValue::from_bytes(&new) {
                *location = new;
            }
        }
    }

    fn failed(&self, status: StatusCode, sentence: &'static str) -> Response<EdgeBody> {
        let counters = &self.inner.counters;
        count(if status == StatusCode::SERVICE_UNAVAILABLE {
            &counters.turned_away
        } else {
            &counters.failed
        });
        refusal(status, sentence, &self.method, &self.headers)
    }
}

/// What a visitor is told whose object would have to be pulled.
const FULL: &str = "This server is full. Please try again in a moment.";

/// An answer that says why there is no other. Pages of every origin may read it.
pub(super) fn refusal(
    status: StatusCode,
    sentence: &'static str,
    method: &Method,
    headers: &HeaderMap,
) -> Response<EdgeBody> {
    let mut answer = error_answer(status, sentence, method, headers);
    let added = answer.headers_mut();
    open(added);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        added.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        // Spread, so that the crowd does not come back at once.
        let spread = millis(SystemTime::now()) % 6;
        added.insert(RETRY_AFTER, HeaderValue::from(5 + spread));
    }
    answer.map(|body| EdgeBody::other(body, None))
}
