//! Serving connections: HTTP/1.1 and HTTP/2 without TLS, through the gate and the layer, until told to stop.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, extract::ConnectInfo, serve::Listener};
use http::{Request, Response};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    config::{PrimarySettings, Settings},
    front::{FrontLayer, Rules},
    gate::Gate,
    guard::{LimitSettings, Noted, NotedIo, Room, Served, Stop, attend, builder},
    offload::{BoxError, Dropped, Outcome},
    problem::Problem,
    servers::{absolute_url, networks},
    site::{Site, SiteFuture},
    upstream::{Timeouts, TrustedForwarding, Upstream},
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
            Site::new(&folder)
                .map(Inner::Site)
                .map_err(|error| problem("primary.site", error.to_string()))
        }
        (None, Some(url)) => absolute_url(url)
            .and_then(|url| {
                Upstream::new(&url, Timeouts::default()).map_err(|error| error.to_string())
            })
            .map(|upstream| Inner::Upstream(Box::new(upstream)))
            .map_err(|message| problem("primary.upstream", message)),
    }
}

// === impl Inner ===

impl Inner {
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
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = SiteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> SiteFuture {
        match self {
            Self::Site(site) => site.call(request),
            Self::Upstream(upstream) => upstream.call(request.map(Body::new)),
        }
    }
}

/// Tells the services inside who is at the other end, and whether what that one says of others is believed.
#[derive(Debug, Clone)]
struct FromPeer<S> {
    inner: S,
    peer: SocketAddr,
    trusted: bool,
}

impl<S> Service<Request<Body>> for FromPeer<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Dropped;
    type Future = FromPeerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Dropped>> {
        self.inner.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        if self.trusted {
            extensions.insert(TrustedForwarding);
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
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(answer) = ready!(self.project().inner.poll(cx));
        // Over HTTP/2 the head would go out before the body is asked for.
        match answer.extensions().get::<Dropped>() {
            Some(dropped) => Poll::Ready(Err(*dropped)),
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
}

impl Serving {
    /// Listens at `primary.listen`.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub async fn new(
        settings: &Settings,
        inner: Inner,
        overspill: super::Overspill,
    ) -> Result<Self, ServeError> {
        let address = settings.primary.listen;
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| ServeError::Listen {
                key: "primary.listen",
                address,
                error,
            })?;
        Ok(Self::on(listener, settings, inner, overspill))
    }

    /// Listens on a socket that is there already.
    #[must_use]
    pub fn on(
        listener: tokio::net::TcpListener,
        settings: &Settings,
        inner: Inner,
        overspill: super::Overspill,
    ) -> Self {
        Self {
            listener: Gate::new(listener, overspill.shared().clone()),
            inner,
            // The configuration was checked: there is nothing left to tell.
            trusted_proxies: networks(&settings.primary.trusted_proxies, "", &mut Vec::new()),
            overspill,
            drain: settings.primary.limits.drain,
            limits: settings.primary.limits,
        }
    }
}

/// Serves until `stop` is ready, and then what is under way for the drain time at most.
pub async fn serve(mut serving: Serving, stop: impl Future<Output = ()>) {
    let (rules, limits) = (serving.inner.rules(), serving.limits);
    // What is malformed is refused before anything is decided about it.
    let service = FrontLayer::new(rules).layer(serving.overspill.layer().layer(serving.inner));
    let builder = builder(&limits);
    let room = Room::new(&limits, "primary.limits");
    serving.listener.relieved_by(room.clone());
    let (stopping, told) = Stop::new();
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
            io.refuse();
            continue;
        };
        let address = peer.ip().to_canonical();
        let service = FromPeer {
            inner: service.clone(),
            peer,
            trusted: serving
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&address)),
        };
        let service = TowerToHyperService::new(Noted::new(service, place.doing.clone()));
        let io = NotedIo::new(io, place.doing.clone());
        let connection = Box::pin(builder.serve_connection(io, service).into_owned());
        let told = told.clone();
        tokio::spawn(async move {
            // A connection that breaks concerns nobody but its client, who knows.
            match attend(connection, &place.doing, &limits, told).await {
                Served::Ended(Ok(())) => {}
                Served::Ended(Err(error)) => tracing::debug!(%peer, error, "connection ended"),
                Served::ShownOut(why) => tracing::debug!(%peer, ?why, "shown out"),
            }
        });
        room.settle().await;
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
