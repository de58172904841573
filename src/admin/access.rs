//! Who may ask.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;

use super::{api::refusal, server::Peer, tries::Tries};

/// Who may ask. Clones share it.
#[derive(Clone)]
pub(super) struct Access(Arc<Inner>);

struct Inner {
    /// Empty: none is needed.
    token: String,
    /// Written where a wrong token is shown.
    tries: Mutex<Tries>,
}

/// Why somebody may not.
enum Refusal {
    /// A page of another site made a browser ask.
    NotOnPurpose,
    /// No token, or a wrong one.
    NoToken,
    /// Too many wrong ones.
    Wait(Duration),
}

// === impl Access ===

impl Access {
    pub(super) fn new(token: String) -> Self {
        Self(Arc::new(Inner {
            token,
            tries: Mutex::default(),
        }))
    }

    /// `authority`: where HTTP/2 says whom it asks.
    fn allows(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
        peer: IpAddr,
    ) -> Result<(), Refusal> {
        let Inner { token, tries } = &*self.0;
        if token.is_empty() {
            return match is_on_purpose(headers, authority) {
                true => Ok(()),
                false => Err(Refusal::NotOnPurpose),
            };
        }
        // Every write leaves the value whole.
        let mut tries = tries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(wait) = tries.wait(peer, now) {
            return Err(Refusal::Wait(wait));
        }
        if shows(headers, token) {
            return Ok(());
        }
        // A dashboard begins without one: that is no try.
        if headers.contains_key(header::AUTHORIZATION) {
            tries.wrong(peer, now);
        }
        Err(Refusal::NoToken)
    }
}

/// Lets who shows the token in; where none is needed, whoever asks on purpose.
pub(super) async fn check(
    State(access): State<Access>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let authority = request.uri().authority().map(ToString::to_string);
    let refused = match access.allows(request.headers(), authority.as_deref(), peer) {
        Ok(()) => return next.run(request).await,
        Err(refused) => refused,
    };
    match refused {
        Refusal::NotOnPurpose => refusal(
            StatusCode::FORBIDDEN,
            "asked by another site's page, or under another name than a loopback address",
        ),
        Refusal::NoToken => {
            let mut response = refusal(
                StatusCode::UNAUTHORIZED,
                "expected `Authorization: Bearer` with the token of `admin.token`",
            );
            let scheme = HeaderValue::from_static("Bearer realm=\"overspill\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
            response
        }
        Refusal::Wait(wait) => {
            let seconds = wait.as_secs() + 1;
            let message = format!("too many wrong tokens: try again in {seconds} s");
            let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, &message);
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
    }
}

/// Whether a request without a token is not one that a page from elsewhere made the operator's browser send:
/// its `Host` is a loopback name (else DNS rebinding could reach us), and it has no foreign `Origin`.
fn is_on_purpose(headers: &HeaderMap, authority: Option<&str>) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let Some(host) = text(header::HOST).or(authority) else {
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
            is_on_purpose(&headers, None)
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
        let over_http2 = |authority| is_on_purpose(&HeaderMap::new(), Some(authority));
        assert!(over_http2("127.0.0.1:9901") && !over_http2("evil.example"));
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
