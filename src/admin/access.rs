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

/// Lets who shows the token in.
pub(super) async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.0.is_empty() || shows(request.headers(), &token.0) {
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
