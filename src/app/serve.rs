//! Serving connections: HTTP/1.1 and HTTP/2, with TLS or without, through the gate and the layer, until told to stop.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{body::Body, extract::ConnectInfo, serve::Listener};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    access::{AccessLog, Logged, LoggedBody},
    config::{PrimarySettings, Settings},
    front::{FrontLayer, Rules},
    gate::Gate,
    guard::{LimitSettings, Noted, Place, Room, Stop},
    load::UpstreamMeter,
    offload::{BoxError, Dropped, Outcome, OverTls},
    problem::Problem,
    servers::{absolute_url, networks},
    site::{Site, SiteBody, SiteError, SiteFuture},
    tls::{self, Certificates, Connections, Redirect, TlsSettings},
    upstream::{Held, OverHttp2, TrustedForwarding, Upstream, UpstreamFuture},
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
        (site, None) => {
            let folder = site.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SITE));
            match Site::with_settings(&folder, &primary.files) {
                Ok(site) => Ok(Inner::Site(site)),
                Err(SiteError::Settings(problems)) => Err(problems),
                Err(error) => Err(problem("primary.site", error.to_string())),
            }
        }
        (None, Some(url)) => upstream_url(url)
            .and_then(|url| Upstream::with(&url, primary.proxy).map_err(|error| error.to_string()))
            .map(|upstream| Inner::Upstream(Box::new(upstream)))
            .map_err(|message| problem("primary.upstream", message)),
    }
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
            Self::Site(site) => Self::Site(site),
            Self::Upstream(upstream) => {
                Self::Upstream(Box::new(upstream.measured_by(meter.clone())))
            }
        }
    }

    fn may_take_websockets(&self) -> bool {
        match self {
            Self::Site(_) => false,
            Self::Upstream(upstream) => upstream.may_take_websockets(),
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

/// Tells the services inside who is at the other end, and whether what that one says of others is believed.
#[derive(Debug, Clone)]
struct FromPeer<S> {
    inner: S,
    peer: SocketAddr,
    trusted: bool,
    over_tls: bool,
    takes_websockets: bool,
    /// The connection's place, and word of the stop: both are held on to for as long as the connection is open. In one
    /// piece, since it is cloned with every request, and the word is shared by all connections.
    held: Arc<(Arc<Place>, Stop)>,
}

impl<S> Service<Request<Body>> for FromPeer<S>
where
    S: Service<Request<Body>, Response = Response<LoggedBody<Body>>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Dropped;
    type Future = FromPeerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Dropped>> {
        self.inner.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let websocket = match self.takes_websockets {
            true => OverHttp2::of(&mut request),
            false => None,
        };
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        if self.trusted {
            extensions.insert(TrustedForwarding);
        }
        if self.over_tls {
            extensions.insert(OverTls);
        }
        // After an upgrade the connection goes on without its server.
        if extensions.get::<OnUpgrade>().is_some() {
            let answering = self.held.0.doing.may_go_on();
            extensions.insert(Held::new((answering, self.held.clone())));
        }
        FromPeerFuture {
            inner: self.inner.call(request),
            websocket,
        }
    }
}

pin_project! {
    struct FromPeerFuture<F> {
        #[pin]
        inner: F,
        websocket: Option<OverHttp2>,
    }
}

impl<F> Future for FromPeerFuture<F>
where
    F: Future<Output = Result<Response<LoggedBody<Body>>, Infallible>>,
{
    type Output = Result<Response<Body>, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(answer) = ready!(this.inner.poll(cx));
        // Over HTTP/2 the head would go out before the body is asked for.
        match answer.extensions().get::<Dropped>() {
            Some(dropped) => Poll::Ready(Err(*dropped)),
            None => {
                let answer = answer.map(LoggedBody::boxed);
                Poll::Ready(Ok(match this.websocket.take() {
                    Some(websocket) => websocket.answer(answer),
                    None => answer,
                }))
            }
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
        })
    }
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

/// Serves until `stop` is ready, and then what is under way for the drain time at most.
pub async fn serve(mut serving: Serving, stop: impl Future<Output = ()>) {
    let (rules, limits) = (serving.inner.rules(), serving.limits);
    let takes_websockets = serving.inner.may_take_websockets();
    // What is malformed is refused before anything is decided about it.
    let inner = serving
        .inner
        .measured_by(&serving.overspill.shared().upstream);
    let service = FrontLayer::new(rules).layer(serving.overspill.layer().layer(inner));
    let connections = if takes_websockets {
        Connections::with_websockets(limits, serving.tls.as_ref())
    } else {
        Connections::new(limits, serving.tls.as_ref())
    };
    let room = Room::new(&limits, "primary.limits");
    serving.listener.relieved_by(room.clone());
    let log = serving.access_log;
    if let Some(log) = &log {
        serving.listener.seen_by(log.witness());
    }
    let (stopping, told) = Stop::new();
    let renewing = serving.tls.map(|certificates| {
        let shared = serving.overspill.shared().clone();
        let tell = move |renewal| shared.journal.record(renewal, SystemTime::now());
        tokio::spawn(tls::watch(certificates, tell))
    });
    if let (Some(listener), Ok(address)) = (serving.redirect, serving.listener.local_addr()) {
        let exempts = listener.exempting();
        let to = (Redirect::to(address), Connections::new(limits, None));
        tokio::spawn(tls::redirect(
            listener,
            exempts,
            to,
            room.clone(),
            told.clone(),
        ));
    }
    let mut stop = std::pin::pin!(stop);
    loop {
        let (io, peer) = tokio::select! {
            accepted = serving.listener.accept() => accepted,
            () = &mut stop => break,
        };
        // Behind a proxy that is known everyone comes from its address.
        let counted = (!serving.listener.exempts(peer)).then(|| peer.ip());
        let Some(place) = room.enter(counted) else {
            serving.overspill.shared().counters.count(Outcome::Dropped);
            if let Some(log) = &log {
                log.closed(peer);
            }
            io.refuse();
            continue;
        };
        let address = peer.ip().to_canonical();
        let service = FromPeer {
            inner: Logged::new(service.clone(), log.clone(), peer),
            peer,
            trusted: serving
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&address)),
            over_tls: connections.are_over_tls(),
            takes_websockets,
            held: Arc::new((place.clone(), told.clone())),
        };
        let service = TowerToHyperService::new(Noted::new(service, place.doing.clone()));
        let serves = connections
            .clone()
            .serve(io, peer, place, told.clone(), service);
        tokio::spawn(serves);
        room.settle().await;
    }
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    // Nobody new: the queue in the kernel goes with the listener.
    drop(serving.listener);
    drop(told);
    stopping.send_replace(());
    if tokio::time::timeout(serving.drain, stopping.closed())
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = serving.drain.as_secs(),
            "requests were still under way when the time for draining was over"
        );
    }
}
