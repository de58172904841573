//! Status and the operator's hand, as JSON.

use std::{net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{lifecycle::Lifecycle, server::Shown, text::exposition};
use crate::{
    handover::{RestartError, Restarter},
    journal::Entry,
    level::Level,
    units,
};

/// The longest that a level may be held by hand: a day. Who wants more has to say so again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shown): State<Shown>) -> Response {
    match shown.lifecycle.get() {
        Lifecycle::SERVING => "ok\n".into_response(),
        Lifecycle::DRAINING => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    }
}

pub(super) async fn metrics(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    exposition(super::metrics::encode(&shown.overspill), &headers)
}

pub(super) async fn status(State(shown): State<Shown>) -> Response {
    fresh(&shown.status())
}

pub(super) async fn history(State(shown): State<Shown>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, shown.live.columns()).into_response()
}

/// `?limit=`
#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

pub(super) async fn decisions(
    State(shown): State<Shown>,
    limit: Result<Query<Limit>, QueryRejection>,
) -> Response {
    match limit {
        Ok(Query(Limit { limit })) => {
            let journal = &shown.overspill.shared().journal;
            let decisions = journal.last(limit.unwrap_or(usize::MAX));
            let decisions: Vec<&Entry> = decisions.iter().map(|entry| &**entry).collect();
            fresh(&json!({ "decisions": decisions }))
        }
        Err(rejection) => refusal(
            StatusCode::BAD_REQUEST,
            &format!("`limit`: expected a number: {}", rejection.body_text()),
        ),
    }
}

/// `?path=/x&client=203.0.113.7&identity=gold-1`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    path: Option<String>,
    client: Option<String>,
    identity: Option<String>,
}

pub(super) async fn explain(
    State(shown): State<Shown>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let Query(asked) = match asked {
        Ok(asked) => asked,
        Err(rejection) => return refusal(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let path = asked.path.as_deref().unwrap_or("/");
    let client = asked.client.as_deref().unwrap_or_default();
    let Ok(client) = client.parse::<IpAddr>() else {
        let message = format!(
            "`client`: expected an IP address, found {:?}",
            short(client)
        );
        return refusal(StatusCode::BAD_REQUEST, &message);
    };
    let identity = asked.identity.as_deref().filter(|name| !name.is_empty());
    let explained = path
        .starts_with('/')
        .then(|| shown.overspill.explain(path, client, identity).ok());
    match explained.flatten() {
        Some(explanation) => fresh(&explanation),
        None => {
            let expected = "expected a path as in a request, such as \"/news?page=2\"";
            let message = format!("`path`: {expected}, found {:?}", short(path));
            refusal(StatusCode::BAD_REQUEST, &message)
        }
    }
}

/// What somebody sent, as far as it goes into a message.
fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

fn fresh(value: &impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(value)).into_response()
}

/// `{"level":"offload","for":"60s"}`, or `{"level":null}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverrideRequest {
    level: Option<String>,
    #[serde(rename = "for")]
    length: Option<String>,
}

pub(super) async fn override_level(
    State(shown): State<Shown>,
    request: Result<Json<OverrideRequest>, JsonRejection>,
) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(rejection) => return refusal(rejection.status(), &rejection.body_text()),
    };
    match understood(&request) {
        Ok(Some((level, length))) => {
            shown.overspill.override_level(level, length);
            Json(json!({ "level": level, "seconds": length.as_secs_f64() })).into_response()
        }
        Ok(None) => {
            shown.overspill.end_override();
            Json(json!({ "level": null })).into_response()
        }
        Err(message) => refusal(StatusCode::BAD_REQUEST, &message),
    }
}

fn understood(request: &OverrideRequest) -> Result<Option<(Level, Duration)>, String> {
    let Some(level) = &request.level else {
        return Ok(None);
    };
    let level = Level::from_str(level).map_err(|error| format!("`level`: {error}"))?;
    let length = request
        .length
        .as_deref()
        .ok_or("`for`: expected a duration such as \"60s\", found nothing")?;
    let length = units::duration::parse(length).map_err(|error| format!("`for`: {error}"))?;
    if length.is_zero() || length > LONGEST {
        return Err(format!(
            "`for`: expected more than 0s and at most {}h, found {:?}",
            LONGEST.as_secs() / 3600,
            length
        ));
    }
    Ok(Some((level, length)))
}

pub(super) fn refusal(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

pub(super) async fn reload(State(shown): State<Shown>) -> Response {
    let Some(reloader) = shown.reloader.clone() else {
        let message = "this process has no configuration that could be read anew";
        return refusal(StatusCode::CONFLICT, message);
    };
    // Files are read, and names of certificate authorities.
    match tokio::task::spawn_blocking(move || reloader.reload()).await {
        Ok(Ok(reloaded)) => Json(json!({
            "reloaded": true,
            "changed": reloaded.changed,
            "restart_needed": reloaded.restart_needed,
        }))
        .into_response(),
        Ok(Err(error)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) async fn restart(State(restarter): State<Arc<Restarter>>) -> Response {
    match restarter.restart().await {
        Ok(successor) => Json(json!({ "restarted": true, "process": successor })).into_response(),
        Err(error) => {
            tracing::error!(%error, "no restart: all stays as it was");
            let status = match &error {
                RestartError::Failed(_) | RestartError::Late(_) => StatusCode::UNPROCESSABLE_ENTITY,
                RestartError::Start(_) => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::CONFLICT,
            };
            refusal(status, &error.to_string())
        }
    }
}

pub(super) async fn drain(State(shown): State<Shown>) -> Response {
    shown.lifecycle.drain();
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> Result<Option<(Level, Duration)>, String> {
        understood(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_level_is_held_for_a_time() {
        let asked = ask(r#"{"level":"throttle","for":"1m"}"#).unwrap();
        assert_eq!(asked, Some((Level::Throttle, Duration::from_secs(60))));
        assert_eq!(ask(r#"{"level":null}"#).unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused_with_the_field_and_what_was_expected() {
        for (text, part) in [
            (
                r#"{"level":"panic","for":"1m"}"#,
                "`level`: expected \"normal\"",
            ),
            (r#"{"level":"drop"}"#, "`for`: expected a duration"),
            (
                r#"{"level":"drop","for":"soon"}"#,
                "`for`: expected a duration",
            ),
            (r#"{"level":"drop","for":"0s"}"#, "more than 0s"),
            (r#"{"level":"drop","for":"10000h"}"#, "at most 24h"),
        ] {
            let error = ask(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
