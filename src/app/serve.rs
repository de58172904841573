//! Serving connections: HTTP/1.1 and HTTP/2 without TLS, through the gate and the layer, until told to stop.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::ConnectInfo, serve::Listener};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use ipnet::IpNet;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    config::Settings,
    front::{FrontLayer, Rules},
    gate::GateListener,
    offload::{BoxError, PrimarySettings},
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
    /// Whether a request has come.
    begun: Arc<AtomicBool>,
}

impl<S> Service<Request<Incoming>> for FromPeer<S>
where
    S: Service<Request<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> S::Future {
        self.begun.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        if self.trusted {
            extensions.insert(TrustedForwarding);
        }
        self.inner.call(request)
    }
}

/// All that serving takes.
#[derive(Debug)]
pub struct Serving {
    /// Where connections come from.
    pub listener: GateListener,
    /// What answers.
    pub inner: Inner,
    /// Around what answers.
    pub overspill: super::Overspill,
    /// Networks that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long requests under way may take to finish after the stop. Default: 30 s.
    pub drain: Duration,
    /// How long the head of a request may take, and the first request of a connection; after as long without
    /// a frame an HTTP/2 client is asked whether it is still there. Default: 30 s.
    pub patience: Duration,
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
        Ok(Self {
            listener: overspill.gate(listener),
            inner,
            // The configuration was checked: there is nothing left to tell.
            trusted_proxies: networks(&settings.primary.trusted_proxies, "", &mut Vec::new()),
            overspill,
            drain: Duration::from_secs(30),
            patience: Duration::from_secs(30),
        })
    }
}

/// Serves until `stop` is ready, and then what is under way for the drain time at most.
pub async fn serve(mut serving: Serving, stop: impl Future<Output = ()>) {
    let (rules, patience) = (serving.inner.rules(), serving.patience);
    // What is malformed is refused before anything is decided about it.
    let service = FrontLayer::new(rules).layer(serving.overspill.layer().layer(serving.inner));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(patience);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let (io, peer) = tokio::select! {
            accepted = serving.listener.accept() => accepted,
            () = &mut stop => break,
        };
        let address = peer.ip().to_canonical();
        let service = FromPeer {
            inner: service.clone(),
            peer,
            begun: Arc::default(),
            trusted: serving
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&address)),
        };
        let begun = service.begun.clone();
        let connection =
            builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = tokio::time::sleep(patience) => {
                    if !begun.load(Ordering::Relaxed) {
                        // hyper's own limit begins with the first byte: who says nothing is shown out here.
                        return;
                    }
                    connection.await
                }
            };
            // A connection that breaks concerns nobody but its client, who knows.
            if let Err(error) = ended {
                tracing::debug!(%peer, error, "connection ended");
            }
        });
    }
    // Nobody new: the queue in the kernel goes with the listener.
    drop(serving.listener);
    if tokio::time::timeout(serving.drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = serving.drain.as_secs(),
            "requests were still under way when the time for draining was over"
        );
    }
}
