//! One question over HTTP, and what went wrong with it in words.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Asks.
#[derive(Debug, Clone)]
pub(super) struct HttpClient(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

// === impl HttpClient ===

impl HttpClient {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(connector()?),
        ))
    }

    /// Asks for `uri`; the answer's body is still to come.
    pub(super) async fn get(
        &self,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<http::Response<Incoming>, String> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri.clone();
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("overspill/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        self.0
            .request(request)
            .await
            .map_err(|error| root_cause(&error))
    }

    /// The body of `uri`, if it is one of 200 and no longer than `limit`.
    pub(super) async fn text(
        &self,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
        limit: usize,
    ) -> Result<Bytes, String> {
        let response = self.get(uri, authorization).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(format!(
                "it answered {}: set `offload.token` here and its token (`edge.token`) to the same",
                response.status()
            ));
        }
        if response.status() != StatusCode::OK {
            return Err(format!("expected status 200, found {}", response.status()));
        }
        let body = Limited::new(response.into_body(), limit)
            .collect()
            .await
            .map_err(|error| format!("expected a report of at most {limit} bytes: {error}"))?;
        Ok(body.to_bytes())
    }
}

/// To http and https.
pub(in crate::servers) fn connector() -> io::Result<HttpsConnector<HttpConnector>> {
    // Named, since an application around us may bring another provider as well.
    Ok(hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build())
}

/// The last of an error's sources: "connection refused" says more than "client error".
pub(in crate::servers) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
