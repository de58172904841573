//! A policy only ever grows by the origin, and says the same twice.
#![no_main]

use http::{HeaderMap, HeaderValue, header::CONTENT_SECURITY_POLICY};
use libfuzzer_sys::fuzz_target;
use overspill::rewrite::{Kinds, csp};

const ORIGIN: &str = "https://t.example";

fuzz_target!(|policy: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(policy) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_SECURITY_POLICY, value.clone());
    let kinds = csp::allow(&mut headers, ORIGIN, Kinds::ALL);
    if kinds.is_empty() {
        assert_eq!(headers[CONTENT_SECURITY_POLICY], value);
    }
    let once = headers.clone();
    assert_eq!(csp::allow(&mut headers, ORIGIN, kinds), kinds);
    assert_eq!(headers, once);
    if let (Ok(before), Ok(after)) = (value.to_str(), once[CONTENT_SECURITY_POLICY].to_str()) {
        let (before, after) = (before.split(',').count(), after.split(',').count());
        assert_eq!(before, after);
    }
});
