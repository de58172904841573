//! What an edge answers itself, below `/.overspill/`: nothing there is ever pulled. Each site has it, at its host and
//! below its prefix, with its own token.
//!
//! | path | for whom | what |
//! |---|---|---|
//! | `GET health` | anyone | 200, whatever the primary does: a drowning primary must not make its edges look dead |
//! | `GET load` | the token | the ORCA report |
//! | `POST purge` | the token | `{"path": …}`, `{"prefix": …}` or `{"all": true}` is forgotten |
//! | `POST warm` | the token | `{"paths": […]}` are pulled, each once |

use std::{pin::Pin, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::{
    respond::EdgeBody,
    service::{Edge, Inner, Visit, refusal},
};
use crate::front::authority;

/// The longest list of paths that is read.
const LONGEST: usize = 256 * 1024;
/// More are not warmed up at once.
const MOST: usize = 1_000;
/// Pulls of warm-ups that are under way together, to the last byte of their bodies.
pub(super) const TOGETHER: usize = 8;

/// What is told under a name that is none of the edge's.
const NAME: &str =
    "This server does not go by the name that it was asked under: put it into `edge.hosts`.";

type Answer = Pin<Box<dyn Future<Output = Response<EdgeBody>> + Send>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    path: Option<String>,
    prefix: Option<String>,
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Warm {
    paths: Vec<String>,
}

// === impl Edge ===

impl Edge {
    /// Answers `what` of a site.
    pub(super) fn own<B>(
        &self,
        request: Request<B>,
        site: usize,
        is_ours: bool,
        what: String,
    ) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let edge = self.clone();
        let host = authority(&request).ok().flatten().map(str::to_owned);
        let (parts, body) = request.into_parts();
        let refuse = move |parts: &http::request::Parts, status, sentence| {
            refusal(status, sentence, &parts.method, &parts.headers)
        };
        Box::pin(async move {
            let inner = &*edge.0;
            let is_get = matches!(parts.method, Method::GET | Method::HEAD);
            match (&*what, is_get) {
                ("health", true) if is_ours => {
                    text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")
                }
                ("health", true) => refuse(&parts, StatusCode::MISDIRECTED_REQUEST, NAME),
                ("load", true) => match inner.admits(&parts.headers, site, true) {
                    Ok(()) => {
                        let site = inner.sites.get(site);
                        // Who shows nothing teaches nothing, and must not think that all is well.
                        if site.token.is_none() && !is_ours {
                            return refuse(&parts, StatusCode::MISDIRECTED_REQUEST, NAME);
                        }
                        if site.token.is_some() {
                            site.learn(host.as_deref());
                        }
                        text(
                            StatusCode::OK,
                            "application/json",
                            inner.load.report().json.clone(),
                        )
                    }
                    Err(refused) => *refused,
                },
                ("purge" | "warm", false) if parts.method == Method::POST => {
                    if let Err(refused) = inner.admits(&parts.headers, site, false) {
                        return *refused;
                    }
                    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
                        return said(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long");
                    };
                    let body = body.to_bytes();
                    let site = u16::try_from(site).unwrap_or(u16::MAX);
                    if what == "purge" {
                        purge(inner, site, &body)
                    } else {
                        warm(&edge.0, site, &body)
                    }
                }
                ("health" | "load" | "purge" | "warm", _) => refuse(
                    &parts,
                    StatusCode::METHOD_NOT_ALLOWED,
                    "It is asked for by another method.",
                ),
                _ => refuse(
                    &parts,
                    StatusCode::NOT_FOUND,
                    "There is nothing at this address.",
                ),
            }
        })
    }
}

// === impl Inner ===

impl Inner {
    /// Whether the site's token is shown; where no site has one, `open` says whether that is enough.
    fn admits(
        &self,
        headers: &HeaderMap,
        site: usize,
        open: bool,
    ) -> Result<(), Box<Response<EdgeBody>>> {
        let shown = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map_or(&b""[..], |(_, token)| token.trim_ascii());
        let Some(token) = &self.sites.get(site).token else {
            if open && !self.sites.have_token() {
                return Ok(());
            }
            return Err(Box::new(said(
                StatusCode::FORBIDDEN,
                "set `edge.token`: without one nobody may do this",
            )));
        };
        if bool::from(token.as_bytes().ct_eq(shown)) {
            return Ok(());
        }
        if self.said.asked.is_due() {
            tracing::warn!(
                "asked for the load, a purge or a warm-up with a token that is not ours: set `edge.token` here and \
                 `offload.token` at the primary to the same"
            );
        }
        let mut refused = said(
            StatusCode::UNAUTHORIZED,
            "expected `Authorization: Bearer` with the token of `edge.token`, which has to be the primary's \
             `offload.token`, or of the entry of `edge.sites` that was asked",
        );
        let challenge = HeaderValue::from_static("Bearer realm=\"overspill\"");
        refused.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        Err(Box::new(refused))
    }
}

fn purge(inner: &Inner, site: u16, body: &[u8]) -> Response<EdgeBody> {
    const EXPECTED: &str = r#"expected {"path": "/a.css"}, {"prefix": "/a/"} or {"all": true}"#;
    let asked = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => return said(StatusCode::BAD_REQUEST, &format!("{EXPECTED}: {error}")),
    };
    let count = match asked {
        Purge {
            path: Some(path),
            prefix: None,
            all: false,
        } => inner.store.purge(|of, target| {
            // With every query: who names a path means the file.
            let is = target.split(|byte| *byte == b'?').next() == Some(path.as_bytes())
                || target == path.as_bytes();
            is && of == site
        }),
        Purge {
            path: None,
            prefix: Some(prefix),
            all: false,
        } => inner
            .store
            .purge(|of, target| target.starts_with(prefix.as_bytes()) && of == site),
        Purge {
            path: None,
            prefix: None,
            all: true,
        } => inner.store.purge(|of, _| of == site),
        _ => return said(StatusCode::BAD_REQUEST, EXPECTED),
    };
    // What is on its way was asked for before: nobody who asks from now on gets it.
    inner.fills.leave_all();
    tracing::info!(count, "purged");
    let text = json!({ "purged": count }).to_string();
    self::text(StatusCode::OK, "application/json", text)
}

fn warm(inner: &Arc<Inner>, site: u16, body: &[u8]) -> Response<EdgeBody> {
    let asked: Warm = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => {
            let message = format!(r#"expected {{"paths": ["/a.css", …]}}: {error}"#);
            return said(StatusCode::BAD_REQUEST, &message);
        }
    };
    let mut headers = HeaderMap::new();
    // As browsers ask.
    headers.insert(
        ACCEPT_ENCODING,
        HeaderValue::from_static("gzip, deflate, br, zstd"),
    );
    let is_path =
        |path: &String| crate::front::check_target(path, crate::front::Rules::Upstream).is_ok();
    let visits: Vec<Visit> = asked
        .paths
        .into_iter()
        .filter(is_path)
        .take(MOST)
        .map(|target| Visit {
            inner: inner.clone(),
            site,
            // The primary names paths as it knows them.
            target,
            method: Method::HEAD,
            headers: headers.clone(),
        })
        .collect();
    let count = visits.len();
    tracing::info!(count, "warming up");
    tokio::spawn(
        stream::iter(visits).for_each_concurrent(TOGETHER, async |visit| {
            visit.warm().await;
        }),
    );
    let text = json!({ "warming": count }).to_string();
    self::text(StatusCode::ACCEPTED, "application/json", text)
}

fn said(status: StatusCode, message: &str) -> Response<EdgeBody> {
    text(
        status,
        "application/json",
        json!({ "error": message }).to_string(),
    )
}

fn text(status: StatusCode, kind: &'static str, text: impl Into<Body>) -> Response<EdgeBody> {
    let mut answer = Response::new(EdgeBody::other(text.into(), None));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
