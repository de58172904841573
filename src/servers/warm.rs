//! Warms edges up: each is told of objects, and pulls what it lacks of them.
//!
//! It is for `overspill edge` alone, which is known by where its load is told.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{
    probe::{PATIENCE, authorization, connector, root_cause},
    server::{Server, Servers},
};
use crate::seldom::Seldom;

/// Where an edge tells its load, and where it is warmed up.
const LOAD: &str = "/.overspill/load";
const WARM: &str = "/.overspill/warm";

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>;

/// Tells edges what to pull.
#[derive(Debug)]
pub struct Warmer {
    /// Without a token none would listen.
    authorization: Option<HeaderValue>,
    /// Made when it is needed: most have no edges.
    client: Option<HttpClient>,
    /// It is tried again every few seconds, and not told each time.
    deaf: Seldom,
}

// === impl Warmer ===

impl Warmer {
    /// Shows `token`.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self {
            authorization: authorization(token),
            client: None,
            deaf: Seldom::default(),
        }
    }

    /// Whether the server can be warmed up.
    #[must_use]
    pub fn is_for(server: &Server) -> bool {
        server.settings().report.url.ends_with(LOAD)
    }

    /// Tells every edge among `servers` its paths, all at once: those of `paths` that stand at its position. Gives the
    /// positions of those that did not hear it.
    pub async fn warm(&mut self, servers: &Servers, paths: &[Vec<&str>]) -> Vec<usize> {
        let edges: Vec<(usize, &Vec<&str>)> = (0..servers.len())
            .zip(paths)
            .filter(|(_, paths)| !paths.is_empty())
            .collect();
        let Some(authorization) = self.authorization.clone() else {
            return Vec::new();
        };
        if edges.is_empty() {
            return Vec::new();
        }
        if self.client.is_none() {
            self.client = connector()
                .ok()
                .map(|connector| Client::builder(TokioExecutor::new()).build(connector));
        }
        let Some(client) = &self.client else {
            return Vec::new();
        };
        let mut told = JoinSet::new();
        for (position, paths) in edges {
            let (client, server) = (client.clone(), Arc::clone(&servers[position]));
            let (authorization, count) = (authorization.clone(), paths.len());
            let body = json!({ "paths": paths }).to_string();
            told.spawn(async move {
                let heard = tell(&client, &server, authorization, body).await;
                if heard.is_ok() {
                    tracing::info!(server = server.name(), objects = count, "warming up");
                }
                heard.map_err(|reason| (position, server, reason))
            });
        }
        let mut deaf = Vec::new();
        while let Some(told) = told.join_next().await {
            if let Ok(Err((position, server, reason))) = told {
                if self.deaf.is_due() {
                    tracing::warn!(server = server.name(), reason, "can't warm it up");
                }
                deaf.push(position);
            }
        }
        deaf
    }
}

async fn tell(
    client: &HttpClient,
    server: &Server,
    authorization: HeaderValue,
    body: String,
) -> Result<(), String> {
    let url = &server.settings().report.url;
    let edge = url.strip_suffix(LOAD).unwrap_or(url);
    let uri: Uri = format!("{edge}{WARM}")
        .parse()
        .map_err(|error| format!("no address: {error}"))?;
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, authorization);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    match timeout(PATIENCE, client.request(request)).await {
        Ok(Ok(answer)) if answer.status() == StatusCode::ACCEPTED => Ok(()),
        Ok(Ok(answer)) => Err(format!("it answered {}", answer.status())),
        Ok(Err(error)) => Err(root_cause(&error)),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
