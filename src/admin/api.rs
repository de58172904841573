//! Status and the operator's hand, as JSON.

use std::{str::FromStr, time::Duration};

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::server::{Lifecycle, Shown};
use crate::{level::Level, units};

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

pub(super) async fn metrics(State(shown): State<Shown>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match super::metrics::encode(&shown.overspill) {
        Ok(text) => ([(header::CONTENT_TYPE, TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

pub(super) async fn status(State(shown): State<Shown>) -> Response {
    (
        [(header::CACHE_CONTROL, "no-store")],
        Json(shown.overspill.status()),
    )
        .into_response()
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

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
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
