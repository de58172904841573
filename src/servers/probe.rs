//! Asks the offload servers how they are: one task for every question to every server.
//!
//! The first question is asked at once. An answer may take as long as the time between two questions, and
//! 5 s at most. Tasks end when the returned handle is dropped.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    health::Answer,
    report,
    server::{Server, Servers},
    settings::{HealthSettings, ReportKind, absolute_url},
};

/// The longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the servers' names are looked up again.
const LOOK_UP: Duration = Duration::from_secs(60);

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The probes of all servers; dropping it ends them.
#[derive(Debug)]
pub struct Probes {
    _tasks: JoinSet<()>,
}

// === impl Probes ===

impl Probes {
    /// Starts asking. `token` is shown with every question for a load. Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(servers: &Servers, token: &str) -> Self {
        let mut tasks = JoinSet::new();
        if servers.is_empty() {
            return Self { _tasks: tasks };
        }
        let client = match client() {
            Ok(client) => client,
            Err(error) => {
                // Nobody is asked, so every server stays "not yet probed", and this says why.
                tracing::error!(%error, "no certificate authorities: offload servers can't be asked");
                return Self { _tasks: tasks };
            }
        };
        for server in servers.iter() {
            if let HealthSettings::Probe(health) = &server.settings().health {
                // A prefix keeps its path: `https://cdn.example/site` is asked for `/site` + `health.path`.
                let url = format!(
                    "{}{}",
                    server.url().as_str().trim_end_matches('/'),
                    health.path
                );
                if let Ok(uri) = url.parse::<Uri>() {
                    tasks.spawn(ask_for_health(
                        client.clone(),
                        server.clone(),
                        uri,
                        health.every,
                    ));
                }
            }
            let settings = &server.settings().report;
            let uri = absolute_url(&settings.url)
                .ok()
                .and_then(|url| url.as_str().parse().ok());
            if let (ReportKind::Orca, Some(uri)) = (settings.kind, uri) {
                let authorization = authorization(token);
                tasks.spawn(ask_for_load(
                    client.clone(),
                    server.clone(),
                    uri,
                    authorization,
                    settings.every,
                ));
            }
            tasks.spawn(look_up(server.clone()));
        }
        Self { _tasks: tasks }
    }
}

fn client() -> std::io::Result<HttpClient> {
    // Named, since an application around us may bring another provider as well.
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector))
}

fn authorization(token: &str) -> Option<HeaderValue> {
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Asks every `every`; a late question is not made up for.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn ask_for_health(client: HttpClient, server: Arc<Server>, uri: Uri, every: Duration) {
    let mut ticks = ticks(every);
    let patience = every.clamp(Duration::from_millis(500), PATIENCE);
    loop {
        ticks.tick().await;
        let asked = timeout(patience, ask(&client, Method::GET, &uri, None)).await;
        server.observe_health(match asked {
            Ok(Ok(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Answer::Busy
            }
            Ok(Ok(response)) if response.status().as_u16() < 500 => Answer::Good,
            Ok(Ok(response)) => Answer::Bad(format!("it answered {}", response.status())),
            Ok(Err(reason)) => Answer::Bad(reason),
            Err(_) => Answer::Bad(format!("no answer within {patience:?}")),
        });
    }
}

async fn ask_for_load(
    client: HttpClient,
    server: Arc<Server>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    every: Duration,
) {
    let mut ticks = ticks(every);
    let patience = every.clamp(Duration::from_millis(500), PATIENCE);
    loop {
        ticks.tick().await;
        let report = timeout(
            patience,
            fetch_report(&client, &uri, authorization.as_ref()),
        )
        .await
        .unwrap_or_else(|_| Err(format!("no report within {patience:?}")));
        server.observe_report(report, Instant::now());
    }
}

async fn fetch_report(
    client: &HttpClient,
    uri: &Uri,
    authorization: Option<&HeaderValue>,
) -> Result<crate::units::Ratio, String> {
    let response = ask(client, Method::GET, uri, authorization).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("expected status 200, found {}", response.status()));
    }
    let body = Limited::new(response.into_body(), report::LIMIT)
        .collect()
        .await
        .map_err(|error| {
            format!(
                "expected a report of at most {} bytes: {error}",
                report::LIMIT
            )
        })?;
    report::parse(&body.to_bytes()).map_err(|error| error.to_string())
}

async fn ask(
    client: &HttpClient,
    method: Method,
    uri: &Uri,
    authorization: Option<&HeaderValue>,
) -> Result<http::Response<hyper::body::Incoming>, String> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    let headers: &mut HeaderMap = request.headers_mut();
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("overspill/", env!("CARGO_PKG_VERSION"))),
    );
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    client
        .request(request)
        .await
        .map_err(|error| root_cause(&error))
}

/// The last of an error's sources: "connection refused" says more than "client error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

async fn look_up(server: Arc<Server>) {
    let mut ticks = ticks(LOOK_UP);
    loop {
        ticks.tick().await;
        let addresses = match server.url().host() {
            Some(url::Host::Ipv4(address)) => vec![address.into()],
            Some(url::Host::Ipv6(address)) => vec![address.into()],
            Some(url::Host::Domain(name)) => match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                // Keep what was known: a name server that fails has not moved anybody.
                Err(_) => continue,
            },
            None => return,
        };
        server.observe_addresses(addresses);
    }
}
