//! Serves the connections of a listener, with TLS or without.

use std::{error::Error as StdError, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Certificates, gather::Gathered};
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
        let any = builder(&limits);
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

    /// Serves one, until it ends or has to.
    pub(crate) async fn serve<I, S, B>(
        self: Arc<Self>,
        io: I,
        peer: SocketAddr,
        place: Place,
        stop: Stop,
        service: S,
    ) where
        I: AsyncRead + AsyncWrite + Breaks + Unpin + Send + 'static,
        S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let served = match &self.tls {
            None => {
                let io = NotedIo::new(io, place.doing.clone());
                let connection = self.any.serve_connection(io, service);
                attend(connection, &place.doing, &self.limits, stop).await
            }
            // In a box: what this takes no connection without TLS should take.
            Some(tls) => Box::pin(self.serve_tls(tls, io, &place, stop, service)).await,
        };
        // A connection that breaks concerns nobody but its client, who knows.
        match served {
            Served::Ended(Ok(())) => {}
            Served::Ended(Err(error)) => tracing::debug!(%peer, error, "connection ended"),
            Served::ShownOut(why) => tracing::debug!(%peer, ?why, "shown out"),
        }
    }

    async fn serve_tls<I, S, B>(
        &self,
        tls: &Tls,
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
        let io = Counted::new(io, place.doing.clone());
        let handshake = tls.acceptor.accept(io);
        let io: TlsStream<_> = match attend_before(handshake, &place.doing, &self.limits).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Served::Ended(Err(error.into())),
            Err(why) => return Served::ShownOut(why),
        };
        // Who agrees on nothing knows of HTTP/1.1 alone (RFC 9113 section 3.2).
        let doing = &place.doing;
        if io.get_ref().1.alpn_protocol() == Some(b"h2") {
            let io = NotedIo::counted(Gathered::new(io, doing.clone()), doing.clone());
            let connection = tls.http2.serve_connection(io, service);
            return attend(connection, doing, &self.limits, stop).await;
        }
        let io = NotedIo::counted(io, doing.clone());
        let connection = tls.http1.serve_connection(io, service);
        attend(connection, doing, &self.limits, stop).await
    }
}
