//! Serves the connections of a listener, with TLS or without.

use std::{error::Error as StdError, net::SocketAddr, sync::Arc};

use futures_util::future::Either;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Certificates;
use crate::guard::{
    Breaks, Counted, LimitSettings, NotedIo, Place, Served, Stop, attend, attend_before, builder,
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// How the connections of a listener are served.
pub(crate) struct Connections {
    limits: LimitSettings,
    /// HTTP/1.1 or HTTP/2, told by the first bytes.
    any: auto::Builder<TokioExecutor>,
    tls: Option<Tls>,
}

struct Tls {
    acceptor: TlsAcceptor,
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
}

// === impl Connections ===

impl Connections {
    /// Within `limits`; with `certificates` over TLS alone.
    pub(crate) fn new(limits: LimitSettings, certificates: Option<&Certificates>) -> Arc<Self> {
        Self::served_by(builder(&limits), limits, certificates)
    }

    /// The same, where clients are told that they may ask for a WebSocket over HTTP/2 (RFC 8441 section 3).
    pub(crate) fn with_websockets(
        limits: LimitSettings,
        certificates: Option<&Certificates>,
    ) -> Arc<Self> {
        let mut any = builder(&limits);
        any.http2().enable_connect_protocol();
        Self::served_by(any, limits, certificates)
    }

    fn served_by(
        any: auto::Builder<TokioExecutor>,
        limits: LimitSettings,
        certificates: Option<&Certificates>,
    ) -> Arc<Self> {
        let tls = certificates.map(|certificates| Tls {
            acceptor: TlsAcceptor::from(certificates.config().clone()),
            http1: any.clone().http1_only(),
            http2: any.clone().http2_only(),
        });
        Arc::new(Self { limits, any, tls })
    }

    /// Whether they are over TLS.
    pub(crate) const fn are_over_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Serves one, until it ends or has to. Not an `async fn`: its future would have room for the connection as it comes and
    /// for what it becomes.
    pub(crate) fn serve<I, S, B>(
        self: Arc<Self>,
        io: I,
        peer: SocketAddr,
        place: Arc<Place>,
        stop: Stop,
        service: S,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        I: AsyncRead + AsyncWrite + Breaks + Unpin + Send + 'static,
        S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if self.tls.is_some() {
            // In a box: what a handshake takes no connection without TLS should take.
            return Either::Left(Box::pin(async move {
                let served = self.serve_tls(io, &place, stop, service).await;
                note(served, peer);
            }));
        }
        let io = NotedIo::new(io, place.doing.clone());
        let connection = self.any.serve_connection_with_upgrades(io, service);
        let connection = Box::pin(connection.into_owned());
        Either::Right(async move {
            let served = attend(connection, &place.doing, &self.limits, stop).await;
            note(served, peer);
        })
    }

    async fn serve_tls<I, S, B>(
        &self,
        io: I,
        place: &Place,
        stop: Stop,
        service: S,
    ) -> Served<BoxError>
    where
        I: AsyncRead + AsyncWrite + Breaks + Unpin + Send + 'static,
        S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Some(tls) = &self.tls else {
            return Served::Ended(Ok(()));
        };
        let io = Counted::new(io, place.doing.clone());
        let handshake = tls.acceptor.accept(io);
        let io: TlsStream<_> = match attend_before(handshake, &place.doing, &self.limits).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Served::Ended(Err(error.into())),
            Err(why) => return Served::ShownOut(why),
        };
        // Who agrees on nothing knows of HTTP/1.1 alone (RFC 9113 section 3.2).
        let builder = match io.get_ref().1.alpn_protocol() {
            Some(b"h2") => &tls.http2,
            _ => &tls.http1,
        };
        let io = NotedIo::counted(io, place.doing.clone());
        let connection = Box::pin(builder.serve_connection_with_upgrades(io, service));
        attend(connection, &place.doing, &self.limits, stop).await
    }
}

/// A connection that breaks concerns nobody but its client, who knows.
fn note(served: Served<BoxError>, peer: SocketAddr) {
    match served {
        Served::Ended(Ok(())) => {}
        Served::Ended(Err(error)) => tracing::debug!(%peer, error, "connection ended"),
        Served::ShownOut(why) => tracing::debug!(%peer, ?why, "shown out"),
    }
}
