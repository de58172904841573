//! Serving connections: HTTP/1.1 and HTTP/2, with TLS or without, through the gate and the layer, until told to stop.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::serve::Listener;
use ipnet::IpNet;
use tokio::sync::{mpsc::UnboundedReceiver, watch};
use tower_layer::Layer;

use super::{
    Inner,
    door::Door,
    renew::{Renewal, Renewals},
};
use crate::{
    access::AccessLog,
    config::Settings,
    gate::{Gate, GateStream},
    guard::{Answers, LimitSettings, Room, Stopping},
    offload::Outcome,
    servers::networks,
    site::Site,
    tls::{self, Certificates, Connections, Redirect, Redirecting, TlsSettings},
    upstream::Origin,
};

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
        let door = Door::new(
            &service,
            from,
            (place.clone(), stopping.stop()),
            log.clone(),
        );
        let serves = connections
            .clone()
            .serve(io, (peer, log), place, stopping.stop(), door);
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
