//! What sends to the collector: the SDK has no runtime of its own, so requests are made on ours.

use std::{io, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::{runtime::Handle, time::timeout};

/// How long the collector may take: as the specification has it, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise, which
/// the SDK reads.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than that of an answer is not read.
const MOST: usize = 1 << 20;

/// Sends by HTTP/1.1, plain or over TLS.
#[derive(Debug, Clone)]
pub(super) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
}

// === impl Client ===

impl Client {
    pub(super) fn new(runtime: Handle) -> io::Result<Self> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Ok(Self { inner, runtime })
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let asking = async {
            let answer = self.inner.request(request.map(Full::new)).await?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, MOST).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        timeout(PATIENCE, asking).await?
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    // As `async_trait` writes it.
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Sending<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let sending = self.runtime.spawn(self.clone().send(request));
        Box::pin(async { sending.await? })
    }
}
