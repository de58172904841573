//! What caches may do with a rewritten page (RFC 9111).

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES,
        LAST_MODIFIED,
    },
};

use super::Tag;

/// What speaks of the page's bytes before they were rewritten, or to caches that would keep them.
static GONE: [HeaderName; 13] = [
    LAST_MODIFIED,
    ACCEPT_RANGES,
    CONTENT_LENGTH,
    EXPIRES,
    AGE,
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("cloudflare-cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
    HeaderName::from_static("x-accel-expires"),
];

/// Makes the headers of a page those of the page rewritten under `tag`.
///
/// It is private, and fresh for no longer than it was and than `remaining_hold`, what is left of the
/// episode's hold. `no-cache`, `no-store` and `must-revalidate` stay.
pub fn rewritten(headers: &mut HeaderMap, tag: &Tag, remaining_hold: Duration) {
    let etag = headers.get(ETAG).and_then(|etag| tag.put_on(etag));
    match etag {
        Some(etag) => {
            headers.insert(ETAG, etag);
        }
        None => {
            headers.remove(ETAG);
        }
    }
    let cache_control = if headers.contains_key(CACHE_CONTROL) {
        CacheControl::of(headers).rewritten(age(headers), remaining_hold)
    } else {
        HeaderValue::from_static("private, max-age=0")
    };
    // A page has few headers: looking them through costs less than looking each of these up by its hash.
    let mut there = [false; GONE.len()];
    for name in headers.keys().filter(|name| **name != CONTENT_TYPE) {
        for (gone, there) in GONE.iter().zip(&mut there) {
            *there |= gone == name;
        }
    }
    for (name, _) in GONE.iter().zip(there).filter(|(_, there)| *there) {
        headers.remove(name);
    }
    headers.insert(CACHE_CONTROL, cache_control);
}

/// Makes the headers of a 304 those of the page rewritten under `tag`, for an answer to a condition
/// that was translated ([`Condition::Rewritten`](super::Condition::Rewritten)).
///
/// A cache updates what it holds from a 304 (RFC 9111, 4.3.4), so it has to say the same as the page. That
/// goes for its policy, too: call [`csp::allow`](crate::rewrite::csp::allow) on it as on the page, or the
/// page from the cache would be kept from what it links to.
pub fn not_modified(headers: &mut HeaderMap, tag: &Tag, remaining_hold: Duration) {
    rewritten(headers, tag, remaining_hold);
}

/// Whether no shared cache may keep the response.
pub(crate) fn is_private(headers: &HeaderMap) -> bool {
    headers.contains_key(CACHE_CONTROL) && {
        let control = CacheControl::of(headers);
        control.has("private") || control.has("no-store")
    }
}

fn age(headers: &HeaderMap) -> u64 {
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    age.and_then(|age| age.trim().parse().ok()).unwrap_or(0)
}

/// The directives of a response's Cache-Control, names in lower case.
pub(super) struct CacheControl(Vec<(String, Option<String>)>);

// === impl CacheControl ===

impl CacheControl {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CACHE_CONTROL).iter();
        let directives = values.flat_map(|value| split(&String::from_utf8_lossy(value.as_bytes())));
        Self(directives.collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// How long the response was fresh by `max-age`, in seconds. What can't be read, and what only
    /// other headers or heuristics would tell, counts as not at all.
    fn max_age(&self) -> u64 {
        let ages = self.0.iter().filter(|(name, _)| name == "max-age");
        ages.map(|(_, age)| age.as_ref().and_then(|age| age.parse().ok()).unwrap_or(0))
            .min()
            .unwrap_or(0)
    }

    fn rewritten(&self, age: u64, remaining_hold: Duration) -> HeaderValue {
        let fresh = self
            .max_age()
            .saturating_sub(age)
            .min(remaining_hold.as_secs());
        let mut text = format!("private, max-age={fresh}");
        // `no-cache` may name fields; without them it is stricter.
        for kept in ["no-cache", "no-store", "must-revalidate", "no-transform"] {
            if self.has(kept) {
                text.push_str(", ");
                text.push_str(kept);
            }
        }
        HeaderValue::try_from(text).expect("names and digits are a header value")
    }
}

/// `name`, `name=value` or `name="value, \"value\""`, separated by commas (RFC 9110, 5.6). Where a quote has no end,
/// it is open what it holds: each comma behind it separates, and nothing is fresh.
fn split(text: &str) -> Vec<(String, Option<String>)> {
    let mut directives = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                directives.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    let rest = &text[start..];
    if quoted {
        directives.extend(rest.split(',').chain(["max-age=0"]));
    } else {
        directives.push(rest);
    }
    let directives = directives.into_iter().map(str::trim);
    directives
        .filter(|directive| !directive.is_empty())
        .map(|directive| match directive.split_once('=') {
            Some((name, value)) => (
                name.trim().to_ascii_lowercase(),
                Some(value.trim().trim_matches('"').to_owned()),
            ),
            None => (directive.to_ascii_lowercase(), None),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tag::tests::tag, *};

    fn cache_control(before: &[(&'static str, &'static str)], hold: u64) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(*name, HeaderValue::from_static(value));
        }
        rewritten(&mut headers, &tag("eu"), Duration::from_secs(hold));
        let values: Vec<_> = headers.get_all(CACHE_CONTROL).iter().collect();
        assert_eq!(values.len(), 1);
        values[0].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_rewritten_page_never_outlives_its_episode() {
        for (before, hold, expected) in [
            (
                "public, max-age=3600, s-maxage=86400",
                30,
                "private, max-age=30",
            ),
            ("max-age=5", 30, "private, max-age=5"),
            ("max-age=31536000, immutable", 0, "private, max-age=0"),
            (
                "stale-while-revalidate=60, max-age=\"7\"",
                30,
                "private, max-age=7",
            ),
            ("max-age=60, Max-Age=4", 30, "private, max-age=4"),
            ("max-age=soon", 30, "private, max-age=0"),
            ("public", 30, "private, max-age=0"),
            ("s-maxage=60", 30, "private, max-age=0"),
        ] {
            assert_eq!(
                cache_control(&[("cache-control", before)], hold),
                expected,
                "{before}"
            );
        }
        let aged = [("cache-control", "max-age=60"), ("age", "50")];
        assert_eq!(cache_control(&aged, 30), "private, max-age=10");
        let expires = [("expires", "Thu, 01 Jan 2099 00:00:00 GMT")];
        assert_eq!(cache_control(&expires, 30), "private, max-age=0");
    }

    #[test]
    fn caching_is_never_loosened() {
        for (before, expected) in [
            ("no-store", "private, max-age=0, no-store"),
            ("No-Cache, max-age=9", "private, max-age=9, no-cache"),
            ("no-cache=\"a, no-store\"", "private, max-age=0, no-cache"),
            (
                "must-revalidate, max-age=9",
                "private, max-age=9, must-revalidate",
            ),
            (
                r#"a="\"", no-store, b="\\", no-cache"#,
                "private, max-age=0, no-cache, no-store",
            ),
            ("a=\"x, max-age=9, no-store", "private, max-age=0, no-store"),
        ] {
            assert_eq!(
                cache_control(&[("cache-control", before)], 30),
                expected,
                "{before}"
            );
        }
        let lines = [
            ("cache-control", "max-age=9"),
            ("cache-control", "no-store"),
        ];
        assert_eq!(cache_control(&lines, 30), "private, max-age=9, no-store");
    }

    #[test]
    fn what_speaks_of_the_original_bytes_goes() {
        let tag = tag("eu");
        let mut headers = HeaderMap::new();
        for name in &GONE {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers.insert(ETAG, HeaderValue::from_static("\"abc\""));
        headers.insert("content-language", HeaderValue::from_static("en"));
        rewritten(&mut headers, &tag, Duration::from_secs(30));
        assert_eq!(headers[ETAG], format!("W/\"abc-{tag}\""));
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "content-language", "etag"]);
    }

    #[test]
    fn an_etag_of_another_form_goes() {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, HeaderValue::from_static("bare"));
        not_modified(&mut headers, &tag("eu"), Duration::from_secs(30));
        assert!(!headers.contains_key(ETAG));
    }
}
