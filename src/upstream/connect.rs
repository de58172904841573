//! Connections to the upstream: plain or TLS, each within a time limit.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Uri, uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::UpstreamError;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long an unused connection is kept. Servers close theirs after 5 s (Node, Apache) to 75 s (nginx);
/// a connection that is given up first is never found closed.
const KEEP: Duration = Duration::from_secs(4);

/// Connections, kept for reuse.
pub(super) type Pool = Client<Connector, Body>;

pub(super) fn pool(scheme: &Scheme, limit: Duration) -> Result<Pool, UpstreamError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let way = if *scheme == Scheme::HTTPS {
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(UpstreamError::Authorities)?;
        Way::Tls(builder.https_only().enable_http1().wrap_connector(tcp))
    } else {
        Way::Plain(tcp)
    };
    // Retrying means requests of which nothing was written, so it is safe for every method.
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP)
        .retry_canceled_requests(true)
        .set_host(false)
        .build(Connector { way, limit }))
}

#[derive(Clone)]
enum Way {
    Plain(HttpConnector),
    Tls(HttpsConnector<HttpConnector>),
}

/// Opens connections. What takes longer than `limit` fails with [`io::ErrorKind::TimedOut`].
#[derive(Clone)]
pub(super) struct Connector {
    way: Way,
    limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.way {
            Way::Plain(way) => way.poll_ready(cx).map_err(Into::into),
            Way::Tls(way) => way.poll_ready(cx),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let limit = self.limit;
        match &mut self.way {
            Way::Plain(way) => {
                let connecting = way.call(to);
                within(limit, async move {
                    Ok(MaybeHttpsStream::Http(connecting.await?))
                })
            }
            Way::Tls(way) => within(limit, way.call(to)),
        }
    }
}

fn within<T: 'static>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, BoxError>> + Send + 'static,
) -> Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>> {
    Box::pin(async move {
        match timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    })
}
