//! Warms edges up: each is told of objects, and pulls what it lacks of them.
//!
//! It is for `overspill edge` alone, which is known by where its load is told.

use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::time::timeout;

use super::{
    probe::{PATIENCE, authorization, connector, root_cause},
    server::{Server, Servers},
};

/// Where an edge tells its load, and where it is warmed up.
const LOAD: &str = "/.overspill/load";
const WARM: &str = "/.overspill/warm";

/// Tells every edge among `servers` its paths: those of `paths` that stand at its position. Without a token none
/// would listen.
pub async fn warm(servers: &Servers, token: &str, paths: &[Vec<&str>]) {
    let edges: Vec<(&Server, Uri, &Vec<&str>)> = servers
        .iter()
        .zip(paths)
        .filter(|(_, paths)| !paths.is_empty())
        .filter_map(|(server, paths)| {
            let edge = server.settings().report.url.strip_suffix(LOAD)?;
            Some((&**server, format!("{edge}{WARM}").parse().ok()?, paths))
        })
        .collect();
    let Some(authorization) = authorization(token) else {
        return;
    };
    if edges.is_empty() {
        return;
    }
    let Ok(connector) = connector() else { return };
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .build::<_, Full<bytes::Bytes>>(connector);
    for (server, uri, paths) in edges {
        let mut request = Request::new(Full::from(json!({ "paths": paths }).to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, authorization.clone());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let answer = timeout(PATIENCE, client.request(request)).await;
        let failed = match answer {
            Ok(Ok(answer)) if answer.status() == StatusCode::ACCEPTED => {
                tracing::info!(server = server.name(), objects = paths.len(), "warming up");
                continue;
            }
            Ok(Ok(answer)) => format!("it answered {}", answer.status()),
            Ok(Err(error)) => root_cause(&error),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::warn!(server = server.name(), reason = failed, "can't warm it up");
    }
}
