//! From plain HTTP to the same page over https.
//!
//! What a certificate authority asks for (`/.well-known/acme-challenge/`, RFC 8555 section 8.3) goes the same way: it
//! follows redirects, and minds no certificate on that way.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, serve::Listener};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

use super::Connections;
use crate::{
    access::{AccessLog, Logged},
    front::{Front, FrontLayer, Rules, authority},
    guard::{Breaks, Noted, Room, Stage, Stopping},
};

/// Where https is spoken when nobody says where.
const HTTPS: u16 = 443;

/// Answers every request by a redirect to https.
#[derive(Debug, Clone, Copy)]
pub struct Redirect {
    port: u16,
}

// === impl Redirect ===

impl Redirect {
    /// To that port of the same host. What is malformed is refused.
    #[must_use]
    pub fn to(port: u16) -> Front<Self> {
        FrontLayer::new(Rules::Upstream).layer(Self { port })
    }

    fn location<B>(self, request: &Request<B>) -> Option<HeaderValue> {
        let named = authority(request).ok()??;
        // What follows the last colon is no port within the brackets of an IPv6 address.
        let host = match named.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => named,
        };
        let path = request.uri().path_and_query()?.as_str();
        let location = match self.port {
            HTTPS => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
        HeaderValue::try_from(location).ok()
    }
}

impl<B> Service<Request<B>> for Redirect {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut answer = Response::new(Body::empty());
        match self.location(&request) {
            Some(location) => {
                // RFC 9110 section 15.4.9: a form that is sent stays one.
                *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
                answer.headers_mut().insert(header::LOCATION, location);
            }
            // HTTP/1.0 may leave out which site is meant.
            None => *answer.status_mut() = StatusCode::BAD_REQUEST,
        }
        ready(Ok(answer))
    }
}

/// What redirects.
#[derive(Clone)]
pub(crate) struct Redirecting {
    pub(crate) service: Front<Redirect>,
    /// Without TLS.
    pub(crate) connections: Arc<Connections>,
    pub(crate) log: Option<AccessLog>,
}

/// Redirects whoever connects to `listener`, by `with` as it is then, within the limits of `room`, until told to stop. Who `exempts` says so has no
/// limit of its address; for whom there is no room `refuse` is called.
pub(crate) async fn redirect<L>(
    mut listener: L,
    (exempts, refuse): (
        impl Fn(SocketAddr) -> bool + Send,
        impl Fn(L::Io, SocketAddr) + Send,
    ),
    with: watch::Receiver<Redirecting>,
    room: Arc<Room>,
    stopping: Arc<Stopping>,
) where
    L: Listener<Addr = SocketAddr>,
    L::Io: Breaks,
{
    let mut stop = stopping.stop();
    loop {
        let (io, peer) = tokio::select! {
            biased;
            stage = stop.next() => match stage {
                Stage::Retiring => continue,
                Stage::Draining | Stage::Over => return,
            },
            accepted = listener.accept() => accepted,
        };
        let Some(place) = room.enter((!exempts(peer)).then(|| peer.ip())) else {
            refuse(io, peer);
            continue;
        };
        let Redirecting {
            service,
            connections,
            log,
        } = with.borrow().clone();
        let service = Noted::new(service, place.doing.clone());
        let service = TowerToHyperService::new(Logged::new(service, log.clone(), peer));
        tokio::spawn(connections.serve(io, (peer, log), place, stopping.stop(), service));
        room.settle().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_host_and_path_are_asked_for_at_the_port_of_tls() {
        let asked = |port, host: Option<&str>, target: &str| {
            let mut request = Request::get(target);
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            let location = Redirect { port }.location(&request.body(()).unwrap())?;
            Some(location.to_str().unwrap().to_owned())
        };
        for (port, host, target, location) in [
            (443, "a.example", "/", "https://a.example/"),
            (443, "a.example:80", "/b?c=d", "https://a.example/b?c=d"),
            (8443, "a.example:8080", "/b", "https://a.example:8443/b"),
            (8443, "[::1]:8080", "/", "https://[::1]:8443/"),
            (443, "[::1]", "/", "https://[::1]/"),
        ] {
            assert_eq!(asked(port, Some(host), target).as_deref(), Some(location));
        }
        assert_eq!(asked(443, None, "/"), None);
        assert_eq!(asked(443, Some("a b"), "/"), None);
    }
}
