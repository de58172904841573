//! Serves the connections of a listener, with TLS or without.

use std::{error::Error as StdError, net::SocketAddr, sync::Arc};

use futures_util::future::Either;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Certificates, gather::Gathered, hsts::Hsts};
use crate::{
    access::AccessLog,
    guard::{
        Answers, Breaks, Counted, LimitSettings, NotedIo, Place, Served, Stop, attend,
        attend_before, builder,
    },
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
    hsts: Option<HeaderValue>,
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
}

// === impl Connections ===

impl Connections {
    /// Within `limits`; with `certificates` over TLS alone.
    pub(crate) fn new(
        limits: LimitSettings,
        certificates: Option<&Certificates>,
        answers: Answers,
    ) -> Arc<Self> {
        let any = builder(&limits, answers);
        let tls = certificates.map(|certificates| Tls {
            acceptor: TlsAcceptor::from(certificates.config().clone()),
            hsts: certificates.hsts(),
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
        (peer, log): (SocketAddr, Option<AccessLog>),
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
                note(served, peer, log.as_ref());
            }));
        }
        let io = NotedIo::new(io, place.doing.clone());
        let connection = self.any.serve_connection_with_upgrades(io, service);
        let connection = Box::pin(connection.into_owned());
        Either::Right(async move {
            let served = attend(connection, &place.doing, &self.limits, stop).await;
            note(served, peer, log.as_ref());
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
        let before = attend_before(handshake, &place.doing, &self.limits, stop.clone());
        let io: TlsStream<_> = match before.await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Served::Ended(Err(error.into())),
            Err(why) => return Served::ShownOut(why),
        };
        // Who agrees on nothing knows of HTTP/1.1 alone (RFC 9113 section 3.2).
        let is_http2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
        let service = Hsts::new(service, tls.hsts.clone());
        let doing = &place.doing;
        if is_http2 {
            let io = NotedIo::counted(Gathered::new(io, doing.clone()), doing.clone());
            let connection = Box::pin(tls.http2.serve_connection_with_upgrades(io, service));
            return attend(connection, doing, &self.limits, stop).await;
        }
        let io = NotedIo::counted(io, doing.clone());
        let connection = Box::pin(tls.http1.serve_connection_with_upgrades(io, service));
        attend(connection, doing, &self.limits, stop).await
    }
}

/// A connection that breaks concerns nobody but its client, who knows.
fn note(served: Served<BoxError>, peer: SocketAddr, log: Option<&AccessLog>) {
    match served {
        Served::Ended(Ok(())) => {}
        Served::Ended(Err(error)) => {
            if let (Some(log), Some(status)) = (log, refusal(&error)) {
                log.unreadable(peer, status);
            }
            tracing::debug!(%peer, error, "connection ended");
        }
        Served::ShownOut(why) => tracing::debug!(%peer, ?why, "shown out"),
    }
}

/// What hyper has answered where it could not read the head of a request over HTTP/1.1: no service sees such a one.
fn refusal(error: &BoxError) -> Option<StatusCode> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_parse_too_large() {
        return Some(match &*error.to_string() {
            "URI too long" => StatusCode::URI_TOO_LONG,
            _ => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        });
    }
    (error.is_parse() && !error.is_parse_version_h2()).then_some(StatusCode::BAD_REQUEST)
}
