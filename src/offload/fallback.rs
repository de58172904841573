//! The script that refetches from the primary what an offload server fails to give (`rewrite.fallback`).

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::servers::hash;

/// `static/fallback.js`, made small.
const SCRIPT: &str = include_str!("../../static/fallback.min.js");

/// Under its name it never changes, so that it can be cached for long.
static PATH: LazyLock<Arc<str>> = LazyLock::new(|| {
    let version = hash::bytes(SCRIPT.as_bytes());
    format!("/.overspill/fallback-{version:016x}.js").into()
});

/// What pages link to.
pub(super) fn src() -> Arc<str> {
    PATH.clone()
}

/// Whether the request is for the script.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && request.uri().path() == &**PATH
}

/// The script.
pub(super) fn response<B>(request: &Request<B>) -> Response<Bytes> {
    let body = match *request.method() {
        Method::HEAD => Bytes::new(),
        _ => Bytes::from_static(SCRIPT.as_bytes()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    #[test]
    fn the_script_is_made_of_its_source() {
        // Made anew by scripts/minify, which says what stands here.
        let source = sha2::Sha256::digest(include_str!("../../static/fallback.js"));
        let source = u64::from_be_bytes(source[..8].try_into().unwrap());
        assert_eq!(format!("{source:016x}"), "e7d9c855f0fe1552");
    }

    #[test]
    fn the_script_is_small_and_cacheable() {
        assert!(SCRIPT.len() < 2048, "{} bytes", SCRIPT.len());
        let request = Request::get(&*src()).body(()).unwrap();
        assert!(is_asked_for(&request));
        let response = response(&request);
        assert_eq!(response.body().as_ref(), SCRIPT.as_bytes());
        assert!(
            response.headers()[header::CACHE_CONTROL]
                .to_str()
                .unwrap()
                .contains("immutable")
        );
        let other = Request::get("/.overspill/other.js").body(()).unwrap();
        assert!(!is_asked_for(&other));
    }
}
