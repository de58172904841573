//! Metrics in the form that is asked for.
//!
//! The encoder writes OpenMetrics. Who does not ask for that gets the classic text format of Prometheus, which differs
//! in little: a counter's family has its `_total`, and nothing says where it ends.

use std::fmt;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The answer to a request with these `headers`, of what the encoder gave.
pub fn exposition(encoded: Result<String, fmt::Error>, headers: &HeaderMap) -> Response {
    let wants_open_metrics = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"));
    match encoded {
        Ok(text) if wants_open_metrics => {
            ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
        }
        Ok(text) => ([(header::CONTENT_TYPE, CLASSIC)], classic(&text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The same in the classic text format.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 256);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let of_counter = is_counter(line)
            || (line.starts_with("# HELP ") && lines.peek().is_some_and(|next| is_counter(next)));
        // `# HELP name words`
        let mut parts = line.splitn(4, ' ');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(sign), Some(what), Some(name), Some(rest)) if of_counter => {
                text += &format!("{sign} {what} {name}_total {rest}\n");
            }
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counters_family_has_its_ending_in_the_classic_format() {
        let open_metrics = "\
            # HELP visits Visits so far.\n\
            # TYPE visits counter\n\
            visits_total{page=\"a counter\"} 7\n\
            # HELP load Load of a counter\n\
            # TYPE load gauge\n\
            # UNIT load ratio\n\
            load 0.5\n\
            # EOF\n";
        let expected = "\
            # HELP visits_total Visits so far.\n\
            # TYPE visits_total counter\n\
            visits_total{page=\"a counter\"} 7\n\
            # HELP load Load of a counter\n\
            # TYPE load gauge\n\
            load 0.5\n";
        assert_eq!(classic(open_metrics), expected);
    }
}
