//! WebSocket over HTTP/2 (RFC 8441).
//!
//! A client asks for it with a CONNECT that names the protocol, and is answered 200. For all who look at it on its way it
//! becomes what it would be over HTTP/1.1: a GET that asks for an upgrade, answered 101 (RFC 6455). The upstream is asked like that,
//! too. What HTTP/1.1 has and HTTP/2 does not is the key, with which each side sees that the other one means a
//! WebSocket: it is made here, and the answer to it is checked here.

use axum::body::Body;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper::ext::Protocol;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::front::error_answer;

/// What is appended to a key before it is hashed (RFC 6455 section 1.3).
const MEANT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client of HTTP/2 that waits for a WebSocket.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The answer to the key.
    accept: HeaderValue,
}

// === impl Waiting ===

impl Waiting {
    /// Makes of a request for a WebSocket over HTTP/2 one as over HTTP/1.1. [`None`]: it is none.
    pub(crate) fn of<B>(request: &mut Request<B>) -> Option<Self> {
        if request.method() != Method::CONNECT || request.version() != Version::HTTP_2 {
            return None;
        }
        let protocol = request.extensions().get::<Protocol>()?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return None;
        }
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).ok()?;
        let key = base64(&nonce);
        let accept = HeaderValue::try_from(accept(&key)).ok()?;
        let key = HeaderValue::try_from(key).ok()?;
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_KEY, key);
        Some(Self { accept })
    }

    /// Makes of the answer what a client of HTTP/2 gets. What is no WebSocket must not look like one there: then what comes
    /// out is said instead.
    pub(crate) fn answered<B>(self, answer: &mut Response<B>) -> Option<Response<Body>> {
        let is_agreed = answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && answer.headers().get(SEC_WEBSOCKET_ACCEPT) == Some(&self.accept);
        if is_agreed {
            let headers = answer.headers_mut();
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                headers.remove(name);
            }
            *answer.status_mut() = StatusCode::OK;
        } else if answer.status().is_informational() || answer.status().is_success() {
            tracing::debug!(status = %answer.status(), "no WebSocket, though one was asked for");
            return Some(error_answer(
                StatusCode::BAD_GATEWAY,
                "The site does not open a WebSocket here.",
                &Method::GET,
                &HeaderMap::new(),
            ));
        }
        None
    }
}

fn accept(key: &str) -> String {
    let hashed = digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{MEANT}").as_bytes(),
    );
    base64(hashed.as_ref())
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) as usize % DIGITS.len();
            let is_there = digit <= three.len();
            text.push(if is_there { DIGITS[at].into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (text, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }
}
