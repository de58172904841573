//! The thread and its listener.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};

use super::{
    access,
    access::Access,
    api, dashboard,
    lifecycle::Lifecycle,
    live::{self, Live},
    settings::AdminSettings,
};
use crate::{
    app::{Overspill, Reloader, ServeError, Status},
    guard::{
        Acceptor, Answers, LimitSettings, Noted, NotedIo, Room, Served, Stopping, attend, builder,
    },
    handover::Restarter,
    units::ByteSize,
};

/// How long the last answers may take.
const LAST: Duration = Duration::from_secs(5);
/// No body that is understood is longer.
const LONGEST_BODY: usize = 16 << 10;

/// What those who connect may hold on to: there are few of them, and the operator is one.
const LIMITS: LimitSettings = LimitSettings {
    connections: 256,
    connections_per_address: 256,
    head_time: Duration::from_secs(10),
    head_size: ByteSize::new(16 << 10),
    idle: Duration::from_secs(60),
    slow_time: Duration::from_secs(20),
    slow_bytes: ByteSize::new(1 << 10),
    streams: 32,
    ..LimitSettings::DEFAULT
};

/// What the answers are made from.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) overspill: Overspill,
    pub(super) lifecycle: Lifecycle,
    pub(super) live: Arc<Live>,
    pub(super) reloader: Option<Arc<Reloader>>,
}

/// The state, and where the process is in its life.
#[derive(Serialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub(super) status: Status,
    lifecycle: &'static str,
}

/// Who connected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The admin listener.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    token: String,
    reloader: Option<Arc<Reloader>>,
    restarter: Option<Arc<Restarter>>,
}

// === impl Shown ===

impl Shown {
    pub(super) fn status(&self) -> Told {
        Told {
            status: self.overspill.status(),
            lifecycle: self.lifecycle.as_str(),
        }
    }
}

// === impl Admin ===

impl Admin {
    /// Takes the address.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub fn bind(settings: &AdminSettings) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(settings.listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.map_err(|error| ServeError::Listen {
            key: "admin.listen",
            address: settings.listen,
            error,
        })?;
        Ok(Self::on(listener, settings))
    }

    /// Takes a socket that is there already, and does not block.
    #[must_use]
    pub fn on(listener: TcpListener, settings: &AdminSettings) -> Self {
        Self {
            listener,
            token: settings.token.clone(),
            reloader: None,
            restarter: None,
        }
    }

    /// The listener, to be handed on to a successor.
    pub(crate) const fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Starts a successor when it is asked to.
    #[must_use]
    pub(crate) fn restarting(mut self, restarter: Arc<Restarter>) -> Self {
        self.restarter = Some(restarter);
        self
    }

    /// The address it has.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Reads the configuration anew when it is asked to.
    #[must_use]
    pub fn reloading(mut self, reloader: Arc<Reloader>) -> Self {
        self.reloader = Some(reloader);
        self
    }

    /// Answers from now on, on a thread of its own, until the process ends or what this gives is told to end.
    ///
    /// # Errors
    /// The operating system gives no thread, or no runtime.
    pub fn start(self, overspill: Overspill, lifecycle: Lifecycle) -> io::Result<Answering> {
        let shown = Shown {
            overspill,
            lifecycle,
            live: Arc::default(),
            reloader: self.reloader.clone(),
        };
        let (open, guarded) = routers(shown.clone());
        self.run(open, guarded, Live::run(shown))
    }

    /// Answers from now on what `open` has for anyone and `guarded` for who shows the token.
    ///
    /// # Errors
    /// The operating system gives no thread, or no runtime.
    pub fn answer(self, open: Router, guarded: Router) -> io::Result<Answering> {
        self.run(open, guarded, std::future::pending())
    }

    /// The same with `beside` it, which does not end.
    fn run(
        self,
        open: Router,
        guarded: Router,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Answering> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let access = Access::new(self.token);
        let guarded = match self.restarter {
            Some(restarter) => guarded.merge(
                Router::new()
                    .route("/api/restart", post(api::restart))
                    .with_state(restarter),
            ),
            None => guarded,
        };
        let guarded = guarded.route_layer(middleware::from_fn_with_state(access, access::check));
        let router = open
            .merge(guarded)
            .layer(DefaultBodyLimit::max(LONGEST_BODY));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let told = async move {
            // Nobody is there to tell it any more: until the process ends.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        thread::Builder::new()
            .name("overspill-admin".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, router, told) => {}
                        () = beside => {}
                    }
                });
                // Whether anybody waits for it is their own affair.
                let _ = done.send(());
            })?;
        Ok(Answering { stop, ended })
    }
}

/// Answers until `stop` is ready, and then what was asked before.
async fn serve(listener: tokio::net::TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let builder = builder(&LIMITS, Answers::InTime);
    let room = Room::new(&LIMITS, "admin");
    let mut acceptor = Acceptor::default();
    acceptor.relieved_by(room.clone());
    let stopping = Stopping::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let (io, peer) = tokio::select! {
            accepted = acceptor.accept(&listener) => accepted,
            () = &mut stop => break,
        };
        // One that is gone already will say so when it is read.
        let _ = io.set_nodelay(true);
        let Some(place) = room.enter(None) else {
            continue;
        };
        let router = router.clone().layer(Extension(Peer(peer.ip())));
        let service = TowerToHyperService::new(Noted::new(router, place.doing.clone()));
        let io = NotedIo::new(io, place.doing.clone());
        let connection = builder.serve_connection_with_upgrades(io, service);
        let connection = Box::pin(connection.into_owned());
        let stopped = stopping.stop();
        tokio::spawn(async move {
            match attend(connection, &place.doing, &LIMITS, stopped).await {
                Served::Ended(Ok(())) => {}
                Served::Ended(Err(error)) => tracing::debug!(%peer, %error, "connection ended"),
                Served::ShownOut(why) => tracing::debug!(%peer, ?why, "shown out"),
            }
        });
        room.settle().await;
    }
    drop(listener);
    stopping.all_have_ended().await;
}

/// The admin listener at work. Dropping this lets it work on.
#[derive(Debug)]
pub struct Answering {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

// === impl Answering ===

impl Answering {
    /// Takes no more requests, and answers those that it has, for 5 s at most: who asked the process to end hears of it
    /// before it does.
    pub async fn end(self) {
        let _ = self.stop.send(());
        let _ = timeout(LAST, self.ended).await;
    }
}

fn routers(shown: Shown) -> (Router, Router) {
    let guarded = Router::new()
        .route("/metrics", get(api::metrics))
        .route("/api/status", get(api::status))
        .route("/api/history", get(api::history))
        .route("/api/decisions", get(api::decisions))
        .route("/api/events", get(live::events))
        .route("/api/explain", get(api::explain))
        .route("/api/override", post(api::override_level))
        .route("/api/reload", post(api::reload))
        .route("/api/drain", post(api::drain))
        .with_state(shown.clone());
    let open = Router::new()
        .route("/", get(dashboard::index))
        .route("/dashboard/{*path}", get(dashboard::file))
        .route("/livez", get(api::livez))
        .route("/readyz", get(api::readyz))
        .with_state(shown);
    (open, guarded)
}
