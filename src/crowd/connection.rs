//! One visitor's connection to a host: HTTP/1.1 over TCP or TLS, from the visitor's own address.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tower_service::Service;
use url::Url;

use super::{
    hosts::{Host, Place},
    trouble::Trouble,
};

/// What TLS connections are made with: the system's authorities (and those of `SSL_CERT_FILE`).
#[derive(Debug, Default)]
pub(super) struct Tls(OnceLock<Result<Arc<rustls::ClientConfig>, String>>);

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Bytes that came.
    read: Arc<AtomicU64>,
    _driver: Driver,
}

/// The task that moves a connection's bytes.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Connection ===

impl Connection {
    /// Connects visitor number `visitor` to `host`, which is that of `url`.
    pub(super) async fn open(
        host: &Host,
        places: &[Place],
        url: &Url,
        tls: &Tls,
        visitor: u64,
    ) -> Result<Self, Trouble> {
        let stream = connect(places, visitor).await?;
        host.connections.fetch_add(1, Relaxed);
        let stream = match url.scheme() {
            "https" => tls.over(stream, url).await?,
            _ => MaybeHttpsStream::Http(TokioIo::new(stream)),
        };
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            inner: TokioIo::new(stream),
            read: read.clone(),
            total: host.wire_bytes.clone(),
        };
        let made = handshake(TokioIo::new(counted)).await;
        let (sender, connection) = made.map_err(|_| Trouble::Dropped)?;
        // Who waits for an answer is told what goes wrong.
        let driver = Driver(tokio::spawn(async {
            let _ = connection.await;
        }));
        Ok(Self {
            sender,
            read,
            _driver: driver,
        })
    }

    /// Whether it can take a request; a server may have closed it since the last.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Trouble> {
        let before = self.read.load(Acquire);
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        answer.await.map_err(|error| {
            if self.read.load(Acquire) == before {
                Trouble::Dropped
            } else if error.is_parse() {
                Trouble::NotHttp
            } else {
                Trouble::Cut
            }
        })
    }
}

/// To the first of a host's addresses that takes the connection.
async fn connect(places: &[Place], visitor: u64) -> Result<TcpStream, Trouble> {
    let mut trouble = Trouble::Unknown;
    for place in places {
        match connect_to(place, visitor).await {
            Ok(stream) => return Ok(stream),
            Err(error) => trouble = Trouble::of_connecting(&error),
        }
    }
    Err(trouble)
}

async fn connect_to(place: &Place, visitor: u64) -> io::Result<TcpStream> {
    let socket = if place.address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = place.from.pick(visitor) {
        socket.bind((from, 0).into())?;
    }
    let stream = socket.connect(place.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

// === impl Tls ===

impl Tls {
    /// Reads the system's authorities, once.
    ///
    /// # Errors
    /// There are none, or they can't be read.
    pub(super) fn ready(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let config = self.0.get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_native_roots()
                .map_err(|error| error.to_string())?
                .with_no_client_auth();
            Ok(Arc::new(config))
        });
        config.clone()
    }

    async fn over(&self, stream: TcpStream, url: &Url) -> Result<Stream, Trouble> {
        let config = self.ready().map_err(Trouble::Tls)?;
        let uri: Uri = url[..url::Position::BeforePath]
            .parse()
            .map_err(|_| Trouble::Unknown)?;
        let mut connector = HttpsConnector::from((Connected(Some(stream)), config));
        let connected = connector.call(uri).await;
        connected.map_err(|error| Trouble::of_tls(&*error))
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection that is there already, for the connector that puts TLS over it.
struct Connected(Option<TcpStream>);

impl Service<Uri> for Connected {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

pin_project! {
    /// Counts what comes.
    struct Counted<S> {
        #[pin]
        inner: S,
        read: Arc<AtomicU64>,
        total: Arc<AtomicU64>,
    }
}

impl<S: AsyncRead> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        let polled = this.inner.poll_read(cx, buf);
        let more = (buf.filled().len() - before) as u64;
        if more > 0 {
            this.read.fetch_add(more, Release);
            this.total.fetch_add(more, Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite> AsyncWrite for Counted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
