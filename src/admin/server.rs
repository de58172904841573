//! The thread and its listener.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{access, access::Token, api, settings::AdminSettings};
use crate::{app::Overspill, app::ServeError};

/// How long the last answers may take.
const LAST: Duration = Duration::from_secs(5);

/// Where the process is in its life. Clones share it.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<u8>);

impl Lifecycle {
    /// Not serving yet.
    pub const STARTING: u8 = 0;
    /// Serving.
    pub const SERVING: u8 = 1;
    /// Finishing what is under way.
    pub const DRAINING: u8 = 2;

    /// Just started.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Self::STARTING))
    }

    /// The phase.
    #[must_use]
    pub fn get(&self) -> u8 {
        *self.0.borrow()
    }

    /// The site is served.
    pub fn serving(&self) {
        self.0.send_replace(Self::SERVING);
    }

    /// The end begins.
    pub fn drain(&self) {
        self.0.send_replace(Self::DRAINING);
    }

    /// Until the end begins.
    pub async fn drained(&self) {
        let mut phase = self.0.subscribe();
        // The sender is this one, which lives on.
        let _ = phase.wait_for(|phase| *phase == Self::DRAINING).await;
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

/// What the answers are made from.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) overspill: Overspill,
    pub(super) lifecycle: Lifecycle,
}

/// The admin listener.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    token: String,
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
        Ok(Self {
            listener: listener.map_err(|error| ServeError::Listen {
                key: "admin.listen",
                address: settings.listen,
                error,
            })?,
            token: settings.token.clone(),
        })
    }

    /// The address it has.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers from now on, on a thread of its own, until the process ends or what this gives is told to end.
    ///
    /// # Errors
    /// The operating system gives no thread, or no runtime.
    pub fn start(self, overspill: Overspill, lifecycle: Lifecycle) -> io::Result<Answering> {
        let (open, guarded) = routers(Shown {
            overspill,
            lifecycle,
        });
        self.answer(open, guarded)
    }

    /// Answers from now on what `open` has for anyone and `guarded` for who shows the token.
    ///
    /// # Errors
    /// The operating system gives no thread, or no runtime.
    pub fn answer(self, open: Router, guarded: Router) -> io::Result<Answering> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let token = Token(self.token);
        let guarded = guarded.route_layer(middleware::from_fn_with_state(token, access::check));
        let router = open.merge(guarded);
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
                    let serving = axum::serve(listener, router).with_graceful_shutdown(told);
                    if let Err(error) = serving.await {
                        tracing::error!(%error, "the admin listener ended");
                    }
                });
                // Whether anybody waits for it is their own affair.
                let _ = done.send(());
            })?;
        Ok(Answering { stop, ended })
    }
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
        .route("/api/override", post(api::override_level))
        .route("/api/drain", post(api::drain))
        .with_state(shown.clone());
    let open = Router::new()
        .route("/livez", get(api::livez))
        .route("/readyz", get(api::readyz))
        .with_state(shown);
    (open, guarded)
}
