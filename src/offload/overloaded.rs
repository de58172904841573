//! The answer to who is turned away: a 503 that costs next to nothing.
//!
//! Page, problem document and text are rendered when the configuration is loaded. An answer is a copy of
//! some header values and a reference to the bytes.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use minijinja::{Environment, context};

use crate::problem::Problem;

/// The built-in page.
const PAGE: &str = include_str!("../../templates/overloaded.html");
/// So many different values of `Retry-After` are given out.
const JITTER_STEPS: u64 = 16;

/// The prebuilt answers.
#[derive(Debug, Clone)]
pub(super) struct Overloaded {
    html: Form,
    problem: Form,
    text: Form,
    retry_after: Vec<HeaderValue>,
}

#[derive(Debug, Clone)]
struct Form {
    content_type: HeaderValue,
    length: HeaderValue,
    body: Bytes,
}

// === impl Form ===

impl Form {
    fn new(content_type: &'static str, body: String) -> Self {
        Self {
            content_type: HeaderValue::from_static(content_type),
            length: body.len().into(),
            body: body.into(),
        }
    }
}

// === impl Overloaded ===

impl Overloaded {
    /// Renders the page at `path`, or the built-in one.
    pub(super) fn new(path: Option<&Path>, retry_after: Duration) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new("throttle.page", message);
        let page = match path {
            None => PAGE.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                problem(format!(
                    "must be a readable template, found {} ({error})",
                    path.display()
                ))
            })?,
        };
        // RFC 9110 section 10.2.3: whole seconds.
        let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
        let mut templates = Environment::new();
        // The name's ending turns HTML escaping on.
        let html = templates
            .add_template("overloaded.html", &page)
            .and_then(|()| templates.get_template("overloaded.html"))
            .and_then(|template| template.render(context! { retry_after => seconds }))
            .map_err(|error| problem(format!("must be a template: {error}")))?;
        let document = serde_json::json!({
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": "The server is overloaded. Please try again later.",
        });
        Ok(Self {
            html: Form::new("text/html; charset=utf-8", html),
            problem: Form::new("application/problem+json", document.to_string()),
            text: Form::new(
                "text/plain; charset=utf-8",
                "The server is overloaded. Please try again later.\n".to_owned(),
            ),
            retry_after: (0..JITTER_STEPS)
                .map(|step| HeaderValue::from(seconds + seconds * step / (2 * (JITTER_STEPS - 1))))
                .collect(),
        })
    }

    /// The answer to a request with these `headers`. `jitter` picks one of the values of `Retry-After`.
    pub(super) fn response(
        &self,
        method: &Method,
        headers: &HeaderMap,
        jitter: u64,
    ) -> Response<Bytes> {
        let form = match accepted(headers) {
            Accepted::Html => &self.html,
            Accepted::Json => &self.problem,
            Accepted::Other => &self.text,
        };
        let body = if method == Method::HEAD {
            Bytes::new()
        } else {
            form.body.clone()
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let answer = response.headers_mut();
        answer.insert(header::CONTENT_TYPE, form.content_type.clone());
        answer.insert(header::CONTENT_LENGTH, form.length.clone());
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after.get((jitter % JITTER_STEPS) as usize) {
            answer.insert(header::RETRY_AFTER, after.clone());
        }
        response
    }
}

enum Accepted {
    Html,
    Json,
    Other,
}

/// What a client takes (RFC 9110 section 12.5.1): HTML where it is accepted, by name or by wildcard.
fn accepted(headers: &HeaderMap) -> Accepted {
    let mut json = false;
    let mut any = false;
    for value in headers.get_all(header::ACCEPT) {
        any = true;
        for range in value.as_bytes().split(|byte| *byte == b',') {
            let Ok(range) = std::str::from_utf8(range) else {
                continue;
            };
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let refused = parts.any(|part| {
                part.strip_prefix("q=").is_some_and(|quality| {
                    quality
                        .trim_end_matches('0')
                        .trim_end_matches('.')
                        .trim_end_matches('0')
                        .is_empty()
                })
            });
            if refused {
                continue;
            }
            if ["text/html", "text/*", "*/*"]
                .iter()
                .any(|html| kind.eq_ignore_ascii_case(html))
            {
                return Accepted::Html;
            }
            let kind = kind.as_bytes();
            json |= kind.eq_ignore_ascii_case(b"application/json")
                || kind.eq_ignore_ascii_case(b"application/*")
                || kind.to_ascii_lowercase().ends_with(b"+json");
        }
    }
    match (any, json) {
        (false, _) => Accepted::Html,
        (true, true) => Accepted::Json,
        (true, false) => Accepted::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(accept: Option<&'static str>, method: Method) -> Response<Bytes> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        Overloaded::new(None, Duration::from_secs(10))
            .unwrap()
            .response(&method, &headers, 3)
    }

    fn kind(accept: Option<&'static str>) -> String {
        let response = response(accept, Method::GET);
        response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn speaks_what_the_client_takes() {
        assert!(kind(None).starts_with("text/html"));
        assert!(kind(Some("*/*")).starts_with("text/html"));
        assert!(kind(Some("application/json, text/html;q=0.5")).starts_with("text/html"));
        assert_eq!(kind(Some("application/json")), "application/problem+json");
        assert_eq!(
            kind(Some("application/ld+json")),
            "application/problem+json"
        );
        assert!(kind(Some("image/avif,image/webp")).starts_with("text/plain"));
        assert!(kind(Some("text/html;q=0, text/plain")).starts_with("text/plain"));
        assert!(kind(Some("text/html;q=0.000, text/plain")).starts_with("text/plain"));
        assert!(kind(Some("text/html;q=0.10, text/plain")).starts_with("text/html"));
    }

    #[test]
    fn tells_when_to_come_back_and_is_never_stored() {
        let page = response(None, Method::GET);
        assert_eq!(page.status(), 503);
        assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(
            page.headers()[header::CONTENT_LENGTH],
            page.body().len().to_string()
        );
        assert!(
            std::str::from_utf8(page.body())
                .unwrap()
                .contains("overloaded")
        );
        let head = response(None, Method::HEAD);
        assert!(head.body().is_empty());
        assert_eq!(
            head.headers()[header::CONTENT_LENGTH],
            page.body().len().to_string()
        );
    }

    #[test]
    fn retry_after_is_jittered_between_once_and_one_and_a_half_times() {
        let overloaded = Overloaded::new(None, Duration::from_secs(10)).unwrap();
        let values: Vec<u64> = (0..JITTER_STEPS)
            .map(|jitter| {
                let response = overloaded.response(&Method::GET, &HeaderMap::new(), jitter);
                response.headers()[header::RETRY_AFTER]
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert_eq!(values.iter().min(), Some(&10));
        assert_eq!(values.iter().max(), Some(&15));
    }

    #[test]
    fn a_page_that_is_missing_or_no_template_is_told() {
        let error = Overloaded::new(Some(Path::new("/nowhere.html")), Duration::ZERO).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`throttle.page` must be a readable template"),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        std::fs::write(&path, "{% if %}").unwrap();
        let error = Overloaded::new(Some(&path), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("must be a template"), "{error}");
    }
}
