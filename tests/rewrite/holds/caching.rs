//! Any headers of a page: rewritten, it is fresh for no longer, kept by nobody more, and says nothing of the bytes
//! that it was; and only what may be rewritten qualifies.
//!
//! The input is a response's head: a line with its status, then a header a line.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE},
};
use overspill::rewrite::{
    Private,
    headers::{Tag, qualifies, rewritten},
};

use super::site;

pub fn caching(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let status = lines
        .next()
        .and_then(|line| StatusCode::from_bytes(line).ok());
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let status = status.unwrap_or(StatusCode::OK);
    qualified(status, &headers);
    let _ = Private::shows(status, &headers);
    let tag = Tag::new(&site::target(true), &site::rules());
    for hold in [0, 30] {
        let mut after = headers.clone();
        rewritten(&mut after, &tag, Duration::from_secs(hold));
        assert_no_looser(&headers, &after, hold);
    }
}

fn qualified(status: StatusCode, headers: &HeaderMap) {
    for cors in [true, false] {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        let (parts, ()) = response.into_parts();
        assert!(qualifies(&parts, &Method::POST, cors).is_err());
        let Ok(coding) = qualifies(&parts, &Method::GET, cors) else {
            continue;
        };
        assert_eq!(status, StatusCode::OK);
        let has = |name: &str, word: &str| {
            headers.get_all(name).iter().any(|value| {
                let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
                text.trim().starts_with(word)
            })
        };
        assert!(has(CONTENT_TYPE.as_str(), "text/html"));
        assert!(coding.is_none() || headers.contains_key(CONTENT_ENCODING));
        assert!(!headers.contains_key("content-range"));
        assert!(!has("content-disposition", "attachment;"));
        assert!(cors || !has("cross-origin-embedder-policy", "require-corp;"));
        let directives = directives(headers);
        assert!(!directives.iter().any(|(name, _)| name == "no-transform"));
    }
}

fn assert_no_looser(before: &HeaderMap, after: &HeaderMap, hold: u64) {
    let context = || {
        let values = |headers: &HeaderMap| format!("{:?}", headers.get_all(CACHE_CONTROL));
        format!("{} became {}", values(before), values(after))
    };
    let (old, new) = (directives(before), directives(after));
    let has =
        |directives: &[Directive], name: &str| directives.iter().any(|(known, _)| known == name);
    assert!(has(&new, "private"), "{}", context());
    for kept in ["no-store", "no-cache", "must-revalidate", "no-transform"] {
        assert!(has(&new, kept) || !has(&old, kept), "{kept}: {}", context());
    }
    let max_age = |directives: &[Directive]| -> Option<u64> {
        let mut ages = directives.iter().filter(|(name, _)| name == "max-age");
        let (_, age) = ages.next()?;
        Some(age.trim().parse().unwrap_or(0))
    };
    let fresh = max_age(&new).expect("it says how long it is fresh");
    let age = before
        .get(AGE)
        .and_then(|age| age.to_str().ok()?.trim().parse().ok());
    let was = max_age(&old).unwrap_or(0).saturating_sub(age.unwrap_or(0));
    assert!(fresh <= was && fresh <= hold, "{}", context());
    assert_eq!(after.get_all(CACHE_CONTROL).iter().count(), 1);
    for gone in [
        "last-modified",
        "accept-ranges",
        "content-length",
        "digest",
        "repr-digest",
        "content-digest",
        "content-md5",
        "expires",
        "age",
        "cdn-cache-control",
        "surrogate-control",
    ] {
        assert!(!after.contains_key(gone), "{gone}");
    }
    if let Some(etag) = after.get("etag") {
        assert!(etag.as_bytes().starts_with(b"W/\""));
    }
    // All else is as it was.
    for (name, value) in after {
        let ours = name == CACHE_CONTROL || name == "etag";
        assert!(
            ours || before.get_all(name).iter().any(|old| old == value),
            "{name}"
        );
    }
}

type Directive = (String, String);

/// The directives of Cache-Control by RFC 9111, 5.2, and RFC 9110, 5.6: a list, in which commas within quotes are
/// none, and backslashes within quotes quote.
fn directives(headers: &HeaderMap) -> Vec<Directive> {
    let mut directives = Vec::new();
    for value in headers.get_all(CACHE_CONTROL) {
        let text: String = value
            .as_bytes()
            .iter()
            .map(|byte| char::from(*byte))
            .collect();
        let mut chars = text.chars().peekable();
        while chars.peek().is_some() {
            let (mut name, mut value, mut named) = (String::new(), String::new(), false);
            let mut quoted = false;
            while let Some(c) = chars.next() {
                match c {
                    '"' => {
                        quoted = !quoted;
                        if !named {
                            name.push(c);
                        }
                    }
                    '\\' if quoted => value.extend(chars.next()),
                    ',' if !quoted => break,
                    '=' if !named => named = true,
                    c if named => value.push(c),
                    c => name.push(c),
                }
            }
            let name = name.trim_matches([' ', '\t']).to_ascii_lowercase();
            directives.push((name, value));
        }
    }
    directives
}
