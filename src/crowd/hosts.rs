//! The hosts that are visited: where they are, and what came from them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;
use tokio::sync::OnceCell;
use url::{Host as Name, Url};

use super::{
    reach::Reach,
    sources::{Pool, Sources},
    trouble::Trouble,
};

/// Hosts beyond that are not visited: a page could name a new one each time.
const MOST: usize = 1_000;

/// One host, by its name and port.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) requests: AtomicU64,
    pub(super) connections: AtomicU64,
    /// Of bodies.
    pub(super) bytes: AtomicU64,
    /// Of heads and bodies, as they came.
    pub(super) wire_bytes: Arc<AtomicU64>,
    /// Found once, so that names cost nothing while the crowd comes.
    places: OnceCell<Result<Vec<Place>, Trouble>>,
}

/// An address of a host, and those that visitors come to it from.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) from: Pool,
}

/// What came from a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HostCount {
    /// Requests sent.
    pub requests: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Bytes of bodies that arrived, those of answers that were cut short or given up included.
    pub bytes: u64,
    /// Bytes of heads and bodies that arrived (without those of TLS and TCP).
    pub wire_bytes: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: Mutex<HashMap<String, Arc<Host>>>,
    sources: Sources,
    reach: Reach,
}

// === impl Hosts ===

impl Hosts {
    pub(super) fn new(sources: Sources, reach: Reach) -> Self {
        Self {
            known: Mutex::default(),
            sources,
            reach,
        }
    }

    /// The host of `url`.
    pub(super) fn of(&self, url: &Url) -> Result<Arc<Host>, Trouble> {
        let name = name(url);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(&name) {
            return Ok(host.clone());
        }
        if known.len() >= MOST {
            return Err(Trouble::TooManyHosts);
        }
        let host = Arc::new(Host {
            name: name.clone(),
            ..Host::default()
        });
        known.insert(name, host.clone());
        Ok(host)
    }

    /// Where the host of `url` is, if it may be visited.
    pub(super) async fn places<'a>(
        &self,
        host: &'a Host,
        url: &Url,
    ) -> Result<&'a [Place], Trouble> {
        let places = host.places.get_or_init(|| async {
            let addresses = resolve(url).await?;
            let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
            let name = url.host_str().unwrap_or_default();
            if let Some(address) = self.reach.refuses(name, &ips) {
                return Err(Trouble::Foreign(address));
            }
            let place = |address| Place {
                address,
                from: self.sources.toward(address),
            };
            Ok(addresses.into_iter().map(place).collect())
        });
        match places.await {
            Ok(places) => Ok(places),
            Err(trouble) => Err(trouble.clone()),
        }
    }

    /// What came from each host that was asked anything.
    pub(super) fn counts(&self) -> Vec<(String, HostCount)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<(String, HostCount)> = known
            .values()
            .map(|host| (host.name.clone(), host.count()))
            .filter(|(_, count)| *count != HostCount::default())
            .collect();
        counts.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then_with(|| a.0.cmp(&b.0)));
        counts
    }
}

// === impl Host ===

impl Host {
    /// The first of its addresses, once they have been looked up.
    pub(super) fn place(&self) -> Option<&Place> {
        self.places.get()?.as_ref().ok()?.first()
    }

    fn count(&self) -> HostCount {
        HostCount {
            requests: self.requests.load(Relaxed),
            connections: self.connections.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            wire_bytes: self.wire_bytes.load(Relaxed),
        }
    }
}

/// Name and port, as a `Host` header would have them with every port named.
fn name(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    format!("{name}:{}", port(url))
}

fn port(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or(80)
}

async fn resolve(url: &Url) -> Result<Vec<SocketAddr>, Trouble> {
    let port = port(url);
    let found = match url.host() {
        Some(Name::Ipv4(address)) => vec![(address, port).into()],
        Some(Name::Ipv6(address)) => vec![canonical((address, port).into())],
        Some(Name::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|_| Trouble::Unknown)?
            // Where a system has both, ::ffff:127.0.0.1 is 127.0.0.1.
            .map(canonical)
            .collect(),
        None => Vec::new(),
    };
    if found.is_empty() {
        return Err(Trouble::Unknown);
    }
    Ok(found)
}

const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
