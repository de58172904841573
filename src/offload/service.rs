//! The service: reads top to bottom in the order of the way of a request.

use std::{
    cell::OnceCell,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    ahead::Sighting,
    body::{Account, BoxError, Dropped, OffloadBody},
    classes::Applying,
    client::{client, is_trusted, key as client_key},
    compiled::Compiled,
    counters::Outcome,
    decide::{Decided, Decision, Turning, decide, place_in_share},
    fallback,
    future::{Model, Passing, ResponseFuture},
    page::Rewriting,
    pages::Asked,
    reason::{Reason, Told},
    request::{Kind, Peer},
    riding::Riding,
    settings::Mode,
    shared::Shared,
    snapshot::Snapshot,
    spread::Spread,
    stay,
    timing::Timing,
};
use crate::{
    level::Level,
    rewrite::headers::prepare_request,
    servers::{Client, SpreadBy, hash},
};

/// What offload servers show with their pulls.
pub const TOKEN_HEADER: &str = "x-overspill-token";
/// Says of which of `offload.servers` a pull is: by its name, or by the host of its URL.
pub const NAME_HEADER: &str = "x-overspill-server";
/// Carries an offload server's load report.
pub const LOAD_HEADER: &str = "x-overspill-load";
/// Says when the report was sent, and proves that it is of who has the token: `<time>.<mac>`.
pub const SIGNATURE_HEADER: &str = "x-overspill-signature";
/// Carries the reason of an answer, where `explain_header` is on.
pub const REASON_HEADER: &str = "x-overspill";
/// The same as [`TOKEN_HEADER`], taken apart once and not for every request.
static TOKEN: HeaderName = HeaderName::from_static(TOKEN_HEADER);

/// A service around `S` that offloads, throttles and drops.
#[derive(Debug, Clone)]
pub struct Offload<S> {
    inner: S,
    shared: Arc<Shared>,
    /// [`None`]: each request tells.
    peer: Option<Peer>,
}

// === impl Offload ===

impl<S> Offload<S> {
    pub(super) const fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            shared,
            peer: None,
        }
    }

    /// The same around `inner`, for the requests of one connection. They need no extensions to tell who `peer` is, which
    /// would cost each of them a table.
    #[cfg(feature = "server")]
    pub(crate) fn of_peer(&self, inner: S, peer: Peer) -> Self {
        Self {
            inner,
            shared: self.shared.clone(),
            peer: Some(peer),
        }
    }

    /// What is inside.
    #[cfg(feature = "server")]
    pub(crate) const fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S, B, ResBody> Service<Request<B>> for Offload<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: HttpBody,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<OffloadBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let snapshot = self.shared.snapshot();
        let seen = Seen::of(request.headers());
        // Off in every mode, whether it is right or wrong: the application has no use for it.
        let token = seen
            .token
            .then(|| request.headers_mut().remove(&TOKEN))
            .flatten();
        let riding = token.as_ref().map(|_| Riding::take(request.headers_mut()));
        if snapshot.compiled.mode == Mode::Off {
            return ResponseFuture::untouched(self.inner.call(request));
        }
        let pulls = is_pull(token.as_ref(), &snapshot);
        // A cache would tell it to everyone.
        let timing = (snapshot.compiled.server_timing && !pulls).then(Timing::begin);
        if pulls {
            if let Some(riding) = riding {
                riding.deliver(&snapshot, &self.shared);
            }
        } else if token.is_some() && self.shared.wrong_token.is_due() {
            tracing::warn!(
                "a request shows a token that is not ours, so it is treated as a visitor's: if an offload server \
                 sent it, set `offload.token` here and `edge.token` there (or its X-Overspill-Token) to the same"
            );
        }
        let mut future = self.respond(request, seen, pulls, &snapshot);
        if let Some(timing) = timing {
            future.timed(timing.decided());
        }
        if token.is_some() && !pulls {
            future.telling();
        }
        future
    }
}

impl<S> Offload<S> {
    /// From the bypass on.
    fn respond<B, ResBody>(
        &mut self,
        mut request: Request<B>,
        seen: Seen,
        pulls: bool,
        snapshot: &Snapshot,
    ) -> ResponseFuture<S::Future, ResBody>
    where
        S: Service<Request<B>, Response = Response<ResBody>>,
        ResBody: HttpBody,
        ResBody::Error: Into<BoxError>,
    {
        let peer = self.peer.unwrap_or_else(|| Peer::of(&request));
        let account = Account::new(&self.shared);
        if snapshot.compiled.fallback.is_some() && fallback::is_asked_for(&request) {
            let account = account.with(Outcome::Bypassed);
            let response = fallback::response(&request);
            let mut future =
                ResponseFuture::ready(response.map(|bytes| OffloadBody::full(bytes, account)));
            future.explaining(self.kept(Reason::Exempt, snapshot));
            return future;
        }

        let path = hash::bytes(request.uri().path().as_bytes());
        if pulls {
            let account = account.with(Outcome::Bypassed);
            let passing = Passing::Pull { path };
            // What is told to a cache would be told to everyone.
            let mut future = ResponseFuture::passing(self.inner.call(request), account, passing);
            future.explaining(self.kept(Reason::Pull, snapshot));
            return future;
        }
        // Whatever was seen to be an object: its size is known.
        if request.method() == Method::GET
            && self.shared.weights.object(path).is_some()
            && let Some(target) = request.uri().path_and_query()
        {
            self.shared.hot.note(path, target.as_str());
        }
        if is_bypassed(&request, peer, snapshot) {
            let account = account.with(Outcome::Bypassed);
            let mut future =
                ResponseFuture::passing(self.inner.call(request), account, Passing::Unseen);
            future.explaining(self.untold(Reason::Exempt, snapshot));
            return future;
        }

        if snapshot.level == Level::Normal {
            if seen.if_none_match {
                prepare_request(request.headers_mut(), None, false);
            }
            let is_new = request.method() == Method::GET && self.shared.ahead.wants(path);
            let sighting = is_new.then(|| {
                let asked = Asked::of(&request, is_https(&request, peer, snapshot));
                Sighting::new(asked, &snapshot.compiled, path)
            });
            let passing = Passing::whole(path, request.method()).watched(sighting);
            let mut future = ResponseFuture::passing(self.inner.call(request), account, passing);
            future.explaining(self.untold(Reason::Normal, snapshot));
            return future;
        }

        let kind = Kind::of(&request, &snapshot.compiled);
        let mut answer = self.decide(&request, peer, kind, path, snapshot);
        let mut told = answer.told.take();
        if snapshot.compiled.mode == Mode::Report {
            prepare_request(request.headers_mut(), None, kind.wants_page);
            let model = match answer.decision {
                Decision::Serve | Decision::Redirect(_) => None,
                Decision::Offload(server) => {
                    let server = snapshot.compiled.servers.get(server);
                    server.map(|server| Model::Offloaded(server.clone(), answer.at))
                }
                Decision::Throttle | Decision::Drop => Some(Model::TurnedAway),
            };
            let passing = Passing::whole(path, request.method()).modelled(model);
            let account = match answer.decision {
                Decision::Serve => account,
                Decision::Offload(_) => account.with(Outcome::Offloaded),
                Decision::Redirect(_) => account.with(Outcome::Redirected),
                Decision::Throttle => account.with(Outcome::Throttled),
                Decision::Drop => account.with(Outcome::Dropped),
            };
            let mut future = ResponseFuture::passing(self.inner.call(request), account, passing);
            future.explaining(told);
            return future;
        }

        let mut future = match answer.decision {
            Decision::Drop => self.drop_request(&request, peer, account, snapshot),
            Decision::Throttle => throttled(&request, account, snapshot),
            Decision::Redirect(server) => {
                let own = |pool| {
                    let https = is_https(&request, peer, snapshot);
                    Spread::new(snapshot, pool, server, https).place(path, |_| true)
                };
                let server = answer.pool.and_then(own).unwrap_or(server);
                if let Some(told) = &mut told {
                    told.sent_to(snapshot.compiled.servers.get(server));
                }
                self.redirect(&request, server, path, account, snapshot)
            }
            Decision::Serve => {
                prepare_request(request.headers_mut(), None, kind.wants_page);
                let passing = Passing::whole(path, request.method()).staying(answer.stay);
                ResponseFuture::passing(self.inner.call(request), account, passing)
            }
            Decision::Offload(server) => {
                let mut rewriting = Rewriting::new(&request, peer, server, snapshot, path, answer);
                rewriting.prepare(request.headers_mut(), kind.wants_page);
                ResponseFuture::rewriting(self.inner.call(request), account, rewriting)
            }
        };
        future.explaining(told);
        future
    }
}

/// A decision, and the cookie for who is let in by it.
pub(super) struct Answer {
    decision: Decision,
    /// The same for who is told of it, where somebody is.
    told: Option<Box<Told>>,
    /// The pool of the server in it, where objects are spread.
    pub(super) pool: Option<usize>,
    pub(super) at: Instant,
    pub(super) stay: Option<HeaderValue>,
}

impl<S> Offload<S> {
    /// What is told of a decision.
    fn told(
        &self,
        decided: Decided,
        place: impl FnOnce() -> Option<f64>,
        snapshot: &Snapshot,
    ) -> Option<Box<Told>> {
        let (explains, keeps) = (snapshot.compiled.explains, self.shared.keeps_records());
        if !explains && !keeps {
            return None;
        }
        let mut told = Told::new();
        if explains {
            told = told.explaining(decided, place(), snapshot);
        }
        if keeps {
            told = told.recorded(decided, snapshot);
        }
        Some(Box::new(told))
    }

    /// The same where nothing had to be decided.
    fn untold(&self, reason: Reason, snapshot: &Snapshot) -> Option<Box<Told>> {
        self.told(served(reason), || None, snapshot)
    }

    /// The same where the answer is to say nothing of it.
    fn kept(&self, reason: Reason, snapshot: &Snapshot) -> Option<Box<Told>> {
        let told = || Box::new(Told::new().recorded(served(reason), snapshot));
        self.shared.keeps_records().then(told)
    }

    fn decide<B>(
        &self,
        request: &Request<B>,
        peer: Peer,
        kind: Kind,
        path: u64,
        snapshot: &Snapshot,
    ) -> Answer {
        let compiled = &snapshot.compiled;
        let mut client: Client<'_> = client(peer.ip(), request.headers(), compiled);
        if client.address.is_none() && client.identity.is_none() {
            client.hash = self.shared.counters.stranger();
        }
        let now = Instant::now();
        let weight = OnceCell::new();
        let has_room =
            |server: usize| match (compiled.servers.get(server), snapshot.servers.get(server)) {
                (Some(server), Some(state)) => {
                    let weight = weight.get_or_init(|| self.shared.weights.page(path));
                    server.has_room(state, *weight, now)
                }
                _ => false,
            };
        let unix = snapshot.unix_seconds();
        let known = OnceCell::new();
        let held = || {
            let look = || compiled.stay.held(request.headers(), client.hash, unix);
            *known.get_or_init(look)
        };
        let class = class(request, peer, kind, &client, compiled);
        let turning = if kind.begins {
            let in_flight = self.shared.others_in_flight();
            Turning::now(snapshot, self.shared.link(snapshot, now), in_flight, class)
        } else {
            Turning::default()
        };
        let priority = compiled.classes.priority(class);
        let stays = || held().is_some_and(|held| held <= priority);
        if kind.begins && !compiled.classes.is_empty() && !stays() {
            self.shared.arrivals.applied(class);
        }
        let decided = decide(
            kind,
            &client,
            snapshot,
            turning,
            &*self.shared.admit,
            stays,
            &has_room,
        );
        let Decided { decision, reason } = match decided.decision {
            Decision::Throttle if compiled.throttle_drops => Decided {
                decision: Decision::Drop,
                ..decided
            },
            // Nobody is led from https to http.
            Decision::Redirect(server)
                if is_https(request, peer, snapshot)
                    && !compiled.targets[server].target.https() =>
            {
                Decided {
                    decision: Decision::Serve,
                    reason: Reason::LessSecure,
                }
            }
            _ => decided,
        };
        if kind.begins {
            self.shared.arrivals.decided(class, decision);
        }
        let pool = match (compiled.spread, decision) {
            (SpreadBy::Object, Decision::Offload(server) | Decision::Redirect(server)) => {
                snapshot.choose.pool(&client, server)
            }
            _ => None,
        };
        let let_in = snapshot.level >= Level::Throttle
            && kind.begins
            && matches!(decision, Decision::Serve | Decision::Offload(_));
        // Who stays was let in before.
        if let_in && decision == Decision::Serve && !known.get().is_some_and(Option::is_some) {
            self.shared.serves_alone();
        }
        if let_in && let Some(address) = peer.ip() {
            let address = client_key(Some(address.to_canonical()), None);
            self.shared.admitted.note(address, unix);
        }
        let cookie = || {
            // Who may stay for less already may go on to: being let in takes nothing away.
            let held = (!compiled.classes.is_empty()).then(held).flatten();
            let priority = held.map_or(priority, |held| held.min(priority));
            compiled.stay.cookie(client.hash, priority, unix)
        };
        let place = || Some(place_in_share(&client));
        let told = self.told(Decided { decision, reason }, place, snapshot);
        Answer {
            decision,
            told,
            at: now,
            pool,
            stay: let_in.then(cookie).flatten(),
        }
    }

    /// Not a byte: the connection is closed by its switch where it came through the gate, else by an error
    /// in the body before the head is written. Of a HEAD the body is never asked for: without the gate it
    /// gets the 503.
    fn drop_request<B, F, ResBody>(
        &self,
        request: &Request<B>,
        peer: Peer,
        account: Account,
        snapshot: &Snapshot,
    ) -> ResponseFuture<F, ResBody>
    where
        ResBody: HttpBody,
    {
        // A proxy's HTTP/2 connection carries other visitors' requests as well: those go on.
        let is_shared = request.version() == Version::HTTP_2
            && is_trusted(peer.ip(), &snapshot.compiled.trusted_proxies);
        let switch = peer
            .address
            .filter(|_| !is_shared)
            .and_then(|peer| self.shared.connections.switch(peer));
        if let Some(switch) = &switch {
            switch.turn_off();
        } else if request.method() == Method::HEAD {
            return throttled(request, account, snapshot);
        }
        let account = account.with(Outcome::Dropped);
        let mut response = Response::new(OffloadBody::nothing(account));
        // For a server that can do better than to begin an answer whose body fails.
        response.extensions_mut().insert(Dropped);
        ResponseFuture::ready(response)
    }

    fn redirect<B, F, ResBody>(
        &self,
        request: &Request<B>,
        server: usize,
        path: u64,
        account: Account,
        snapshot: &Snapshot,
    ) -> ResponseFuture<F, ResBody>
    where
        ResBody: HttpBody,
    {
        let compiled = &snapshot.compiled;
        let account = account.with(Outcome::Redirected);
        let mut response = Response::new(OffloadBody::empty(account));
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let (Some(server), Some(target)) =
            (compiled.servers.get(server), compiled.targets.get(server))
        {
            let target = target.target.prefix();
            let path_and_query = request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str());
            if let Ok(location) = HeaderValue::try_from(format!("{target}{path_and_query}")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            server.assign(
                self.shared.weights.object(path).unwrap_or(0),
                Instant::now(),
            );
        }
        ResponseFuture::ready(response)
    }
}

/// The position of the class that the request belongs to; 0 where there are none, and where it makes no difference.
fn class<B>(
    request: &Request<B>,
    peer: Peer,
    kind: Kind,
    client: &Client<'_>,
    compiled: &Compiled,
) -> usize {
    if compiled.classes.is_empty() || !kind.begins {
        return 0;
    }
    compiled.classes.of(Applying {
        client,
        path: request.uri().path(),
        headers: request.headers(),
        trusted: is_trusted(peer.ip(), &compiled.trusted_proxies),
    })
}

fn throttled<B, F, ResBody>(
    request: &Request<B>,
    account: Account,
    snapshot: &Snapshot,
) -> ResponseFuture<F, ResBody>
where
    ResBody: HttpBody,
{
    let account = account.with(Outcome::Throttled);
    let overloaded = &snapshot.compiled.overloaded;
    // Whose turn it is to come back when: anything that differs from request to request will do.
    let jitter = account.shared().counters.stranger();
    let response = overloaded.response(request.method(), request.headers(), jitter);
    ResponseFuture::ready(response.map(|bytes| OffloadBody::full(bytes, account)))
}

/// The headers that matter even at `normal`, found in one pass: cheaper than looking each up by its hash.
#[derive(Default)]
struct Seen {
    token: bool,
    if_none_match: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            seen.if_none_match |= name == header::IF_NONE_MATCH;
            seen.token |= name == TOKEN;
        }
        seen
    }
}

/// Whether an offload server asks, by the token that it shows.
fn is_pull(shown: Option<&HeaderValue>, snapshot: &Snapshot) -> bool {
    let token = snapshot.compiled.token.as_bytes();
    shown.is_some_and(|shown| {
        !token.is_empty() && bool::from(subtle::ConstantTimeEq::ct_eq(shown.as_bytes(), token))
    })
}

const fn served(reason: Reason) -> Decided {
    Decided {
        decision: Decision::Serve,
        reason,
    }
}

/// Health paths and exempt addresses.
fn is_bypassed<B>(request: &Request<B>, peer: Peer, snapshot: &Snapshot) -> bool {
    let compiled = &snapshot.compiled;
    let path = request.uri().path();
    if compiled.bypasses_path(path) {
        return true;
    }
    if compiled.bypass_addresses.is_empty() {
        return false;
    }
    let client = client(peer.ip(), request.headers(), compiled);
    client.address.is_some_and(|address| {
        compiled
            .bypass_addresses
            .iter()
            .any(|network| network.contains(&address))
    })
}

/// Whether the page was asked for over https: as the connection says, or a trusted proxy.
pub(super) fn is_https<B>(request: &Request<B>, peer: Peer, snapshot: &Snapshot) -> bool {
    let trusted = is_trusted(peer.ip(), &snapshot.compiled.trusted_proxies);
    if trusted && let Some(proto) = forwarded_proto(request.headers()) {
        return proto.eq_ignore_ascii_case("https");
    }
    peer.over_tls || request.uri().scheme() == Some(&http::uri::Scheme::HTTPS)
}

/// What the last proxy says of the scheme.
fn forwarded_proto(headers: &HeaderMap) -> Option<&str> {
    let by_x = headers
        .get_all("x-forwarded-proto")
        .iter()
        .next_back()
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.rsplit(',').next())
        .map(str::trim);
    by_x.or_else(|| {
        let last = headers
            .get_all(header::FORWARDED)
            .iter()
            .next_back()?
            .to_str()
            .ok()?;
        last.rsplit(',').next()?.split(';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("proto")
                .then(|| value.trim().trim_matches('"'))
        })
    })
}

/// Gives `cookie` to who was let in.
pub(super) fn let_stay(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        stay::give(headers, cookie);
    }
}
