//! Serving connections: HTTP/1.1 and HTTP/2, with TLS or without, through the gate and the layer, until told to stop.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{body::Body, serve::Listener};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::upgrade::OnUpgrade;
use ipnet::IpNet;
use pin_project_lite::pin_project;
use tokio::sync::{mpsc::UnboundedReceiver, watch};
use tower_layer::Layer;
use tower_service::Service;

use super::renew::{Renewal, Renewals};
use crate::{
    access::{AccessLog, Logged, LoggedBody},
    config::{PrimarySettings, Settings},
    front::{FrontLayer, Rules},
    gate::{Gate, GateStream},
    guard::{Answers, LimitSettings, Noted, NotedBody, Place, Ready, Room, Stop, Stopping},
    load::UpstreamMeter,
    offload::{BoxError, Dropped, Outcome},
    problem::Problem,
    servers::{absolute_url, networks},
    site::{Site, SiteBody, SiteError, SiteFuture},
    tls::{self, Certificates, Connections, Redirect, Redirecting, TlsSettings},
    upstream::{Held, Origin, OverHttp2, Upstream, UpstreamFuture},
};

/// The folder that is served when nothing else is named.
pub const DEFAULT_SITE: &str = "static/site";

/// What is served: a folder, or another server.
#[derive(Debug, Clone)]
pub enum Inner {
    /// A folder.
    Site(Site),
    /// Another server.
    Upstream(Box<Upstream>),
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {address} (`{key}`): {error}")]
    Listen {
        /// The key that names the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// There is no TLS.
    #[error("no TLS (`{section}`): {reason}")]
    Tls {
        /// The section that says how.
        section: &'static str,
        /// Why not.
        reason: String,
    },
}

/// Makes what `[primary]` says: the folder, or the upstream.
///
/// # Errors
/// Every problem: both are given, the folder is missing, the URL is none.
pub fn inner(primary: &PrimarySettings) -> Result<Inner, Vec<Problem>> {
    let problem = |key: &str, message: String| vec![Problem::new(key, message)];
    match (&primary.site, &primary.upstream) {
        (Some(_), Some(_)) => Err(problem(
            "primary.upstream",
            "must not be given together with `primary.site`".to_owned(),
        )),
        (_, None) => match Site::with_settings(folder(primary), &primary.files) {
            Ok(site) => Ok(Inner::Site(site)),
            Err(SiteError::Settings(problems)) => Err(problems),
            Err(error) => Err(problem("primary.site", error.to_string())),
        },
        (None, Some(url)) => upstream_url(url)
            .and_then(|url| Upstream::with(&url, primary.proxy).map_err(|error| error.to_string()))
            .map(|upstream| Inner::Upstream(Box::new(upstream)))
            .map_err(|message| problem("primary.upstream", message)),
    }
}

/// The folder that is served, where no upstream is.
pub(crate) fn folder(primary: &PrimarySettings) -> &Path {
    primary.site.as_deref().unwrap_or(Path::new(DEFAULT_SITE))
}

/// The URL of an upstream: http, https, or the path of a UNIX socket.
fn upstream_url(text: &str) -> Result<url::Url, String> {
    if !text.starts_with("unix:") {
        return absolute_url(text);
    }
    url::Url::parse(text).map_err(|error| format!("expected unix:/path/of.sock ({error})"))
}

// === impl Inner ===

impl Inner {
    /// Tells what is known of the server behind, where there is one.
    fn measured_by(self, meter: &UpstreamMeter) -> Self {
        match self {
            Self::Site(site) => {
                meter.stands_for_none();
                Self::Site(site)
            }
            Self::Upstream(upstream) => {
                Self::Upstream(Box::new(upstream.measured_by(meter.clone())))
            }
        }
    }

    /// The same for the requests of one connection.
    fn of_peer(&self, from: Origin) -> Self {
        match self {
            Self::Site(site) => Self::Site(site.clone()),
            Self::Upstream(upstream) => Self::Upstream(Box::new(upstream.of_peer(from))),
        }
    }

    /// Whether answers begin at once, or may be waited for.
    fn answers(&self) -> Answers {
        match self {
            Self::Site(_) => Answers::AtOnce,
            Self::Upstream(upstream) if upstream.may_take_websockets() => Answers::OrWebSocket,
            Self::Upstream(_) => Answers::InTime,
        }
    }

    const fn rules(&self) -> Rules {
        match self {
            Self::Site(_) => Rules::Folder,
            Self::Upstream(_) => Rules::Upstream,
        }
    }
}

impl<B> Service<Request<B>> for Inner
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<InnerBody>;
    type Error = Infallible;
    type Future = InnerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> InnerFuture {
        let answer = match self {
            Self::Site(site) => Answering::Site {
                inner: site.call(request),
            },
            Self::Upstream(upstream) => Answering::Upstream {
                inner: upstream.call(request.map(Body::new)),
            },
        };
        InnerFuture { answer }
    }
}

pin_project! {
    /// The answer of an [`Inner`].
    pub struct InnerFuture {
        #[pin]
        answer: Answering,
    }
}

pin_project! {
    #[project = AnsweringProjection]
    enum Answering {
        Site { #[pin] inner: SiteFuture },
        Upstream { #[pin] inner: UpstreamFuture },
    }
}

impl Future for InnerFuture {
    type Output = Result<Response<InnerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().answer.project() {
            AnsweringProjection::Site { inner } => {
                ready!(inner.poll(cx)).map(|answer| answer.map(InnerBody::Site))
            }
            AnsweringProjection::Upstream { inner } => {
                ready!(inner.poll(cx)).map(|answer| answer.map(InnerBody::Upstream))
            }
        })
    }
}

/// The body of what [`Inner`] answers.
#[derive(Debug)]
pub enum InnerBody {
    /// A folder's.
    Site(SiteBody),
    /// Another server's.
    Upstream(Body),
}

impl http_body::Body for InnerBody {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        match &mut *self {
            Self::Site(body) => Pin::new(body).poll_frame(cx),
            Self::Upstream(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Site(body) => body.is_end_stream(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Site(body) => body.size_hint(),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}

/// The body of what is answered.
type AnswerBody = LoggedBody<NotedBody>;

/// Holds on to the connection for what it is upgraded to, and ends it where a request is dropped.
#[derive(Debug, Clone)]
struct FromPeer<S> {
    inner: S,
    /// The connection's place, and word of the stop: both are held on to for as long as the connection is open. In one
    /// piece, since it is cloned with every request, and the word is shared by all connections.
    held: Arc<(Arc<Place>, Stop)>,
}

impl<S, Q> Service<Request<Q>> for FromPeer<S>
where
    S: Service<Request<Q>, Response = Response<AnswerBody>, Error = Infallible>,
{
    type Response = Response<AnswerBody>;
    type Error = Dropped;
    type Future = FromPeerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Dropped>> {
        self.inner.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let extensions = request.extensions_mut();
        // After an upgrade the connection goes on without its server.
        if extensions.get::<OnUpgrade>().is_some() {
            let answering = self.held.0.doing.may_go_on();
            let held = Held::new((answering, self.held.clone()));
            extensions.insert(held.until(self.held.1.clone()));
        }
        FromPeerFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    struct FromPeerFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F> Future for FromPeerFuture<F>
where
    F: Future<Output = Result<Response<AnswerBody>, Infallible>>,
{
    type Output = Result<Response<AnswerBody>, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut answer) = ready!(self.project().inner.poll(cx));
        // Over HTTP/2 the head would go out before the body is asked for.
        match answer.extensions().get::<Dropped>().copied() {
            Some(dropped) => {
                // It is not the client that takes it back.
                answer.body_mut().get_mut().is_given_up();
                Poll::Ready(Err(dropped))
            }
            None => Poll::Ready(Ok(answer)),
        }
    }
}

/// All that serving takes.
#[derive(Debug)]
pub struct Serving {
    /// Where connections come from.
    pub listener: Gate,
    /// What answers.
    pub inner: Inner,
    /// Around what answers.
    pub overspill: super::Overspill,
    /// Networks that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long requests under way may take to finish after the stop. Default: `primary.limits.drain`.
    pub drain: Duration,
    /// What clients may hold on to. Default: `primary.limits`.
    pub limits: LimitSettings,
    /// With them it is served over TLS alone. Default: `primary.tls`.
    pub tls: Option<Certificates>,
    /// Where requests without TLS are sent to https. Default: `primary.tls.redirect`.
    pub redirect: Option<Gate>,
    /// Where a line of every request goes. Default: nowhere.
    pub access_log: Option<AccessLog>,
    /// What a reload changes. Default: nothing.
    renewals: Option<UnboundedReceiver<Renewal>>,
}

impl Serving {
    /// Listens at `primary.listen`, and at `primary.tls.redirect`.
    ///
    /// # Errors
    /// An address can't be listened on; the certificates can't be read.
    pub async fn new(
        settings: &Settings,
        inner: Inner,
        overspill: super::Overspill,
    ) -> Result<Self, ServeError> {
        let listener = listen("primary.listen", settings.primary.listen).await?;
        let redirect = match settings.primary.tls.as_ref().and_then(|tls| tls.redirect) {
            Some(address) => Some(listen("primary.tls.redirect", address).await?),
            None => None,
        };
        Self::on(listener, redirect, settings, inner, overspill)
    }

    /// Listens on sockets that are there already: the site's, and the one for requests without TLS.
    ///
    /// # Errors
    /// The certificates can't be read.
    pub fn on(
        listener: tokio::net::TcpListener,
        redirect: Option<tokio::net::TcpListener>,
        settings: &Settings,
        inner: Inner,
        overspill: super::Overspill,
    ) -> Result<Self, ServeError> {
        let gate = |listener| Gate::new(listener, overspill.shared().clone());
        Ok(Self {
            listener: gate(listener),
            tls: certificates(settings.primary.tls.as_ref(), "primary.tls")?,
            redirect: redirect.map(gate),
            inner,
            // The configuration was checked: there is nothing left to tell.
            trusted_proxies: networks(&settings.primary.trusted_proxies, "", &mut Vec::new()),
            overspill,
            drain: settings.primary.limits.drain,
            limits: settings.primary.limits,
            access_log: None,
            renewals: None,
        })
    }

    /// Changes it while it is served: for a [`Reloader`](super::Reloader). To be called when all else is set: it changes the
    /// certificates and the access log that are there by then.
    pub fn renewals(&mut self) -> Renewals {
        let (overspill, log) = (self.overspill.clone(), self.access_log.clone());
        let (renewals, told) = Renewals::new(overspill, self.tls.clone(), log);
        self.renewals = Some(told);
        renewals
    }
}

/// More files than that are not weighed beforehand.
const MOST_OBJECTS: usize = 100_000;

/// Learns the sizes of the folder's objects, aside: a large folder takes a while to walk. Must be called within a Tokio
/// runtime.
pub(crate) fn weigh(folder: &Path, overspill: super::Overspill) {
    let folder = folder.to_path_buf();
    tokio::task::spawn_blocking(move || {
        overspill.learn_objects(Site::objects(&folder, MOST_OBJECTS))
    });
}

/// Listens at `address`, which is the value of `key`.
async fn listen(
    key: &'static str,
    address: SocketAddr,
) -> Result<tokio::net::TcpListener, ServeError> {
    let bound = tokio::net::TcpListener::bind(address).await;
    bound.map_err(|error| ServeError::Listen {
        key,
        address,
        error,
    })
}

/// The certificates that `section` names.
fn certificates(
    tls: Option<&TlsSettings>,
    section: &'static str,
) -> Result<Option<Certificates>, ServeError> {
    let Some(tls) = tls else { return Ok(None) };
    let read = Certificates::read(tls, section);
    read.map(Some).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let reason = problems.join("; ");
        ServeError::Tls { section, reason }
    })
}

/// The next change; pends for ever where there will be none.
async fn next(renewals: &mut Option<UnboundedReceiver<Renewal>>) -> Renewal {
    if let Some(told) = renewals
        && let Some(renewal) = told.recv().await
    {
        return renewal;
    }
    std::future::pending().await
}

/// Serves until `stop` is ready, and then what is under way for the drain time at most.
pub async fn serve(mut serving: Serving, stop: impl Future<Output = ()>) {
    let shared = serving.overspill.shared().clone();
    let serve_by = |inner: Inner| {
        let inner = inner.measured_by(&shared.upstream);
        serving.overspill.layer().layer(inner)
    };
    let mut service = serve_by(serving.inner);
    let mut connections = {
        let answers = service.inner().answers();
        Connections::new(serving.limits, serving.tls.as_ref(), answers)
    };
    let room = Room::new(&serving.limits, "primary.limits");
    serving.listener.relieved_by(room.clone());
    let log = serving.access_log;
    if let Some(log) = &log {
        serving.listener.seen_by(log.witness());
    }
    let stopping = Arc::new(Stopping::new());
    let refuse = {
        let (shared, log) = (shared.clone(), log.clone());
        move |io: GateStream, peer| {
            shared.counters.count(Outcome::Dropped);
            if let Some(log) = &log {
                log.closed(peer);
            }
            io.refuse();
        }
    };
    let port = serving
        .listener
        .local_addr()
        .map_or(0, |address| address.port());
    let redirecting = |limits| Redirecting {
        service: Redirect::to(serving.tls.as_ref().map_or(port, |tls| tls.port(port))),
        connections: Connections::new(limits, None, Answers::AtOnce),
        log: log.clone(),
    };
    let redirects = watch::Sender::new(redirecting(serving.limits));
    if let Some(mut listener) = serving.redirect {
        listener.relieved_by(room.clone());
        if let Some(log) = &log {
            listener.seen_by(log.witness());
        }
        let doors = (listener.exempting(), refuse.clone());
        let (room, stopping) = (room.clone(), stopping.clone());
        let redirecting = redirects.subscribe();
        tokio::spawn(tls::redirect(listener, doors, redirecting, room, stopping));
    }
    let renewing = serving.tls.clone().map(|certificates| {
        let shared = shared.clone();
        let tell = move |renewal| shared.journal.record(renewal, SystemTime::now());
        tokio::spawn(tls::watch(certificates, tell))
    });
    let mut stop = std::pin::pin!(stop);
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = &mut stop => break,
            // Before who comes after it.
            renewal = next(&mut serving.renewals) => {
                if let Some(inner) = renewal.inner {
                    service = serve_by(inner);
                }
                let limits = renewal.limits;
                room.resize(&limits, "primary.limits");
                let answers = service.inner().answers();
                connections = Connections::new(limits, serving.tls.as_ref(), answers);
                redirects.send_replace(redirecting(limits));
                serving.drain = limits.drain;
                serving.trusted_proxies = renewal.trusted_proxies;
                if renewal.retires {
                    stopping.retire();
                }
                continue;
            }
            accepted = serving.listener.accept() => accepted,
        };
        // Behind a proxy that is known everyone comes from its address.
        let counted = (!serving.listener.exempts(peer)).then(|| peer.ip());
        let Some(place) = room.enter(counted) else {
            refuse(io, peer);
            continue;
        };
        let address = peer.ip().to_canonical();
        let log = log.as_ref().and_then(AccessLog::for_connection);
        let trusted = &serving.trusted_proxies;
        let from = Origin {
            address: peer,
            is_trusted: trusted.iter().any(|network| network.contains(&address)),
            over_tls: connections.are_over_tls(),
        };
        let inner = service.inner();
        // What is malformed is refused before anything is decided about it.
        let front = FrontLayer::new(inner.rules());
        let service = front.layer(service.of_peer(inner.of_peer(from), from.peer()));
        let takes_websockets = inner.answers() == Answers::OrWebSocket;
        let service = OverHttp2::new(service, takes_websockets);
        let service = Noted::new(service, place.doing.clone());
        let service = FromPeer {
            // What the limits refuse gets its line as well.
            inner: Logged::new(service, log.clone(), peer),
            held: Arc::new((place.clone(), stopping.stop())),
        };
        let service = Ready::new(service);
        let serves = connections
            .clone()
            .serve(io, (peer, log), place, stopping.stop(), service);
        tokio::spawn(serves);
        room.settle().await;
    }
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    // Nobody new: the queue in the kernel goes with the listener.
    drop(serving.listener);
    stopping.drain(serving.drain).await;
}
