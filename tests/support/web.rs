//! An HTTP client that takes answers as they come.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Keeps its connections.
#[derive(Debug, Clone)]
pub(crate) struct Client(legacy::Client<HttpConnector, Full<Bytes>>);

/// All of an answer.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self(legacy::Client::builder(TokioExecutor::new()).build_http())
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        let (parts, body) = self.0.request(request).await.unwrap().into_parts();
        Got {
            status: parts.status,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub(crate) async fn get(&self, url: &str) -> Got {
        self.send(Request::get(url).body(Full::default()).unwrap())
            .await
    }

    /// Sends `body` as JSON with `method`, and reads JSON; anything but a 2xx fails the test.
    pub(crate) async fn json(&self, method: &str, url: &str, body: &Value) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json");
        let request = request.body(Full::from(body.to_string())).unwrap();
        let got = self.send(request).await;
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!(
            got.status.is_success(),
            "{method} {url}: {} {text}",
            got.status
        );
        serde_json::from_str(&text).unwrap()
    }
}
