//! Who may ask.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;

/// The token; empty: none is needed.
#[derive(Clone)]
pub(super) struct Token(pub(super) String);

/// Lets who shows the token in; where none is needed, whoever asks on purpose.
pub(super) async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.0.is_empty() {
        if is_on_purpose(request.headers()) {
            return next.run(request).await;
        }
        return (
            StatusCode::FORBIDDEN,
            "asked by another site's page, or under another name than a loopback address\n",
        )
            .into_response();
    }
    if shows(request.headers(), &token.0) {
        return next.run(request).await;
    }
    (
        StatusCode::UNAUTHORIZED,
        [(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"overspill\""),
        )],
        "expected `Authorization: Bearer` with the token of `admin.token`\n",
    )
        .into_response()
}

/// Whether a request without a token is not one that a page from elsewhere made the operator's browser send:
/// its `Host` is a loopback name (else DNS rebinding could reach us), and it has no foreign `Origin`.
fn is_on_purpose(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let Some(host) = text(header::HOST) else {
        return false;
    };
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    let is_loopback = name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback());
    let same_origin = text(header::ORIGIN).is_none_or(|origin| {
        origin
            .strip_prefix("http://")
            .is_some_and(|origin| origin == host)
    });
    let same_site = headers
        .get("sec-fetch-site")
        .is_none_or(|site| site == "none" || site == "same-origin");
    is_loopback && same_origin && same_site
}

/// Compares in a time that does not tell how much of the token was right.
fn shows(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .is_some_and(|(scheme, shown)| {
            scheme.eq_ignore_ascii_case(b"bearer ")
                && shown.trim_ascii().ct_eq(token.as_bytes()).into()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
        shows(&headers, "secret")
    }

    #[test]
    fn without_a_token_no_other_sites_page_may_ask() {
        let asked = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| {
                    let name = http::HeaderName::from_static(name);
                    (name, HeaderValue::from_static(value))
                })
                .collect();
            is_on_purpose(&headers)
        };
        assert!(asked(&[("host", "127.0.0.1:9901")]));
        assert!(asked(&[("host", "[::1]:9901")]));
        assert!(asked(&[
            ("host", "localhost:9901"),
            ("origin", "http://localhost:9901")
        ]));
        assert!(!asked(&[("host", "evil.example:9901")]), "DNS rebinding");
        assert!(!asked(&[
            ("host", "localhost:9901"),
            ("origin", "http://evil.example")
        ]));
        assert!(!asked(&[
            ("host", "localhost:9901"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(!asked(&[]));
    }

    #[test]
    fn only_the_token_opens() {
        assert!(allowed("Bearer secret") && allowed("bearer secret"));
        for wrong in [
            "Bearer secret2",
            "Bearer ",
            "Bearer",
            "Basic secret",
            "secret",
            "",
        ] {
            assert!(!allowed(wrong), "{wrong}");
        }
        assert!(!shows(&HeaderMap::new(), "secret"));
    }
}
