//! What the primary is told, and what visitors are.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_ALLOW_ORIGIN, ALT_SVC,
        AUTHORIZATION, COOKIE, SET_COOKIE, STRICT_TRANSPORT_SECURITY, USER_AGENT, VIA,
    },
};

pub(super) static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
static RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
static TIMING: HeaderName = HeaderName::from_static("timing-allow-origin");

/// More servers than that in a row are a circle of which one hides its name.
const MOST_HOPS: usize = 16;

/// How an answer came about (RFC 9211).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// From the store.
    Hit,
    /// From the store, though it is not fresh any more.
    Stale,
    /// By a pull.
    Miss,
    /// By somebody else's pull.
    Joined,
    /// By a pull that found the object unchanged.
    Renewed,
    /// By a pull of its own, since it is not for sharing.
    Passed,
}

impl Came {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Hit => "Overspill; hit",
            Self::Stale => "Overspill; hit; detail=stale",
            Self::Miss => "Overspill; fwd=uri-miss",
            Self::Joined => "Overspill; fwd=uri-miss; collapsed",
            Self::Renewed => "Overspill; fwd=stale; fwd-status=304",
            Self::Passed => "Overspill; fwd=bypass",
        })
    }
}

/// What of a visitor's request the primary is told: nothing that is the visitor's own.
fn is_told(name: &HeaderName) -> bool {
    *name == ACCEPT
        || *name == ACCEPT_LANGUAGE
        || *name == USER_AGENT
        || matches!(
            name.as_str(),
            "save-data" | "dpr" | "width" | "viewport-width"
        )
        || name.as_str().starts_with("sec-ch-")
}

/// The request's headers as the primary gets them, but for what says who asks.
pub(super) fn told(headers: &HeaderMap) -> HeaderMap {
    let mut told: HeaderMap = headers
        .iter()
        .filter(|(name, _)| is_told(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    debug_assert!(!told.contains_key(COOKIE) && !told.contains_key(AUTHORIZATION));
    let codings = codings(headers);
    if !codings.is_empty() {
        told.insert(ACCEPT_ENCODING, HeaderValue::from_static(codings));
    }
    if let Some(hops) = headers.get(&CDN_LOOP) {
        told.insert(CDN_LOOP.clone(), hops.clone());
    }
    told
}

/// What selects the variant: the values of the headers called `names` as the primary gets them.
pub(super) fn variant(names: &[HeaderName], headers: &HeaderMap) -> Vec<u8> {
    let mut variant = Vec::new();
    for name in names {
        variant.extend_from_slice(name.as_str().as_bytes());
        if *name == ACCEPT_ENCODING {
            variant.push(b':');
            variant.extend_from_slice(codings(headers).as_bytes());
        } else if is_told(name) {
            for value in headers.get_all(name) {
                variant.push(b':');
                variant.extend_from_slice(value.as_bytes());
            }
        }
        variant.push(b'\n');
    }
    variant
}

/// The codings that a client takes, always written alike: browsers differ in how they say the same, and each
/// way would be a variant of its own.
fn codings(headers: &HeaderMap) -> &'static str {
    const WRITTEN: [&str; 8] = [
        "",
        "br",
        "gzip",
        "br, gzip",
        "zstd",
        "br, zstd",
        "gzip, zstd",
        "br, gzip, zstd",
    ];
    let mut taken = 0;
    for line in headers.get_all(ACCEPT_ENCODING) {
        for coding in line.to_str().unwrap_or_default().split(',') {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts.any(|part| {
                part.strip_prefix("q=")
                    .is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0))
            });
            let bit = ["br", "gzip", "zstd"]
                .iter()
                .position(|known| name.eq_ignore_ascii_case(known));
            if let Some(bit) = bit.filter(|_| !refused) {
                taken |= 1 << bit;
            }
        }
    }
    WRITTEN[taken]
}

/// Whether a request has been here before, or goes round somewhere (RFC 8586).
pub(super) fn is_loop(headers: &HeaderMap, own: &str) -> bool {
    let mut hops = 0;
    let loops = |line: &HeaderValue, hops: &mut usize| {
        line.as_bytes().split(|byte| *byte == b',').any(|hop| {
            *hops += 1;
            hop.split(|byte| *byte == b';' || *byte == b' ')
                .any(|word| word == own.as_bytes())
        })
    };
    let named = headers
        .get_all(&CDN_LOOP)
        .iter()
        .any(|line| loops(line, &mut hops))
        || headers.get_all(VIA).iter().any(|line| loops(line, &mut 0));
    named || hops > MOST_HOPS
}

/// Takes off an answer what is the primary's own affair, or this edge's to say.
pub(super) fn clean(headers: &mut HeaderMap) {
    for name in [
        &SET_COOKIE,
        &ALT_SVC,
        &STRICT_TRANSPORT_SECURITY,
        &RESOURCE_POLICY,
        &TIMING,
        &CACHE_STATUS,
    ] {
        headers.remove(name);
    }
    headers.remove("set-cookie2");
    headers.remove("clear-site-data");
    headers.remove("x-overspill-token");
    // What was decided about whoever asked here is nothing to whoever asks later.
    headers.remove("x-overspill");
    let cors: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-"))
        .cloned()
        .collect();
    for name in cors {
        headers.remove(name);
    }
}

/// How many headers [`dress`] adds.
pub(super) const DRESS: usize = 8;

/// Lets pages of every origin use an answer, and says where it comes from.
pub(super) fn dress(headers: &mut HeaderMap, came: Came) {
    open(headers);
    headers.append(VIA, HeaderValue::from_static("1.1 overspill"));
    headers.insert(CACHE_STATUS.clone(), came.header());
}

/// Lets pages of every origin use an answer.
pub(super) fn open(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        RESOURCE_POLICY.clone(),
        HeaderValue::from_static("cross-origin"),
    );
    headers.insert(TIMING.clone(), HeaderValue::from_static("*"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_primary_is_told_nothing_of_the_visitor() {
        let asked = headers(&[
            ("cookie", "a=b"),
            ("authorization", "Basic eA=="),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-overspill-token", "guess"),
            ("range", "bytes=0-1"),
            ("origin", "http://a"),
            ("accept", "image/webp"),
            ("accept-encoding", "gzip, deflate, br;q=0.5, zstd;q=0"),
            ("cache-control", "no-cache"),
        ]);
        let told = told(&asked);
        assert_eq!(
            told,
            headers(&[("accept", "image/webp"), ("accept-encoding", "br, gzip")])
        );
    }

    #[test]
    fn a_circle_is_known_by_this_servers_own_name() {
        for (lines, is) in [
            (&[("cdn-loop", "a, overspill-1; v=2")][..], true),
            (&[("cdn-loop", "a"), ("cdn-loop", "overspill-1")], true),
            (&[("via", "1.1 overspill-1")], true),
            (&[("cdn-loop", "overspill-12, a")], false),
            (&[("cdn-loop", ",,,,,,,,,,,,,,,,,,,,,,")], true),
        ] {
            assert_eq!(is_loop(&headers(lines), "overspill-1"), is, "{lines:?}");
        }
    }
}
