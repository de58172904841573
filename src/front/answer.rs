//! The small pages that say what went wrong.

use axum::body::Body;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};

/// An error as a person can read it: HTML where the client takes HTML, else one line of text. Never
/// stored by a cache. HEAD gets the headers alone.
///
/// The sentence is a constant, so that nothing of the request can find its way into the page.
#[must_use]
pub fn error_answer(
    status: StatusCode,
    sentence: &'static str,
    method: &Method,
    headers: &HeaderMap,
) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or("Error");
    let (kind, text) = if takes_html(headers) {
        let number = status.as_u16();
        (
            "text/html; charset=utf-8",
            format!(
                "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
                 <meta name=\"viewport\" content=\"width=device-width\">\n\
                 <title>{number} {reason}</title>\n<h1>{reason}</h1>\n<p>{sentence}</p>\n</html>\n"
            ),
        )
    } else {
        ("text/plain; charset=utf-8", format!("{sentence}\n"))
    };
    let length = HeaderValue::from(text.len());
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(text)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let answer = response.headers_mut();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.insert(CONTENT_LENGTH, length);
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// HTML named, and not refused with a weight of 0. `*/*` is not enough: it is what programs send.
fn takes_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let is_html = kind.eq_ignore_ascii_case("text/html")
                || kind.eq_ignore_ascii_case("application/xhtml+xml");
            let is_refused = parts.any(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                name.trim().eq_ignore_ascii_case("q")
                    && value
                        .trim()
                        .parse::<f32>()
                        .is_ok_and(|weight| weight <= 0.0)
            });
            is_html && !is_refused
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_html_to_those_who_ask_for_it() {
        for (accept, html) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("*/*", false),
            ("image/avif,image/webp", false),
            ("TEXT/HTML; q=0.5", true),
            ("text/html;q=0", false),
            ("text/html;q=0.0, text/plain", false),
            ("application/json, text/html ; level=1", true),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(takes_html(&headers), html, "{accept}");
        }
    }
}
