//! Connections to the upstream: TCP, TLS or a UNIX socket, each within a time limit.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connection, HttpConnector},
    rt::TokioIo,
};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::{
    UpstreamError,
    failure::{BoxError, Failure},
    settings::Http2,
    target::{Place, Target},
};

/// Opens connections to one upstream.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    way: Way,
    to: Uri,
    /// How long one may take.
    pub(super) limit: Duration,
}

#[derive(Debug, Clone)]
enum Way {
    Plain(HttpConnector),
    Tls {
        /// As the settings say.
        any: HttpsConnector<HttpConnector>,
        /// For what HTTP/2 has no way: an upgrade.
        http1: HttpsConnector<HttpConnector>,
    },
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(
        target: &Target,
        limit: Duration,
        http2: Http2,
    ) -> Result<Self, UpstreamError> {
        let to = Uri::builder()
            .scheme(target.scheme.clone())
            .authority(target.authority.clone())
            .path_and_query(PathAndQuery::from_static("/"))
            .build()
            .map_err(|_| UpstreamError::Name)?;
        let tcp = || {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp
        };
        let way = match &target.place {
            Place::Plain => Way::Plain(tcp()),
            Place::Tls => {
                let builder = || {
                    let provider = rustls::crypto::ring::default_provider();
                    HttpsConnectorBuilder::new()
                        .with_provider_and_native_roots(provider)
                        .map_err(UpstreamError::Authorities)
                        .map(HttpsConnectorBuilder::https_only)
                };
                let http1 = builder()?.enable_http1().wrap_connector(tcp());
                let any = match http2 {
                    Http2::Never => http1.clone(),
                    Http2::Auto => builder()?.enable_all_versions().wrap_connector(tcp()),
                    Http2::Always => builder()?.enable_http2().wrap_connector(tcp()),
                };
                Way::Tls { any, http1 }
            }
            #[cfg(unix)]
            Place::Unix(path) => Way::Unix(path.clone()),
        };
        Ok(Self { way, to, limit })
    }

    /// Opens one; whether the other end has agreed to HTTP/2 is told with it. `http1`: it must not.
    pub(super) async fn open(&self, http1: bool) -> Result<(Stream, bool), Failure> {
        match timeout(self.limit, self.connect(http1)).await {
            Ok(connected) => connected.map_err(Failure::Unreachable),
            Err(_) => Err(Failure::ConnectTimeout),
        }
    }

    async fn connect(&self, http1: bool) -> Result<(Stream, bool), BoxError> {
        match &self.way {
            Way::Plain(way) => {
                let stream = way.clone().call(self.to.clone()).await?;
                Ok((Stream::Tcp(stream), false))
            }
            Way::Tls { any, http1: only } => {
                let mut way = if http1 { only.clone() } else { any.clone() };
                let stream = way.call(self.to.clone()).await?;
                let is_http2 = stream.connected().is_negotiated_h2();
                Ok((Stream::Tls(Box::new(stream)), is_http2))
            }
            #[cfg(unix)]
            Way::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok((Stream::Unix(TokioIo::new(stream)), false))
            }
        }
    }
}

/// A connection to the upstream.
pub(super) enum Stream {
    Tcp(TokioIo<TcpStream>),
    Tls(Box<MaybeHttpsStream<TokioIo<TcpStream>>>),
    #[cfg(unix)]
    Unix(TokioIo<tokio::net::UnixStream>),
}

macro_rules! through {
    ($stream:expr, $io:ident => $do:expr) => {
        match $stream.get_mut() {
            Self::Tcp(io) => {
                let $io = Pin::new(io);
                $do
            }
            Self::Tls(io) => {
                let $io = Pin::new(io.as_mut());
                $do
            }
            #[cfg(unix)]
            Self::Unix(io) => {
                let $io = Pin::new(io);
                $do
            }
        }
    };
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        through!(self, io => io.poll_read(cx, buffer))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        through!(self, io => io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        through!(self, io => io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, io => io.poll_shutdown(cx))
    }
}
