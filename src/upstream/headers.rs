//! Headers that are for one hop only (RFC 9110 section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};

/// For one hop by definition, whether `Connection` names them or not. `Trailer` is not among them: it
/// describes the message.
static ONE_HOP: [HeaderName; 8] = [
    // The first: it names others.
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// Takes off what of a request was meant for this hop alone. A client that takes trailers may say so to the upstream,
/// too: `TE: trailers` stays.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let takes_trailers = has_token(headers, &TE, b"trailers");
    strip_one_hop(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
}

/// Takes off what was meant for this hop alone.
pub(super) fn strip_one_hop(headers: &mut HeaderMap) {
    // One pass: cheaper than looking each up by its hash, and mostly there is none.
    let mut there = [false; ONE_HOP.len()];
    for name in headers.keys() {
        // By their lengths most others are told from them.
        if !matches!(name.as_str().len(), 2 | 7 | 10 | 16..=19) {
            continue;
        }
        for (one_hop, there) in ONE_HOP.iter().zip(&mut there) {
            *there |= one_hop == name;
        }
    }
    if there[0] {
        let is_option = |token: &[u8]| {
            token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive")
        };
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            // Mostly it is one of these, which name nothing that is not taken off below.
            .filter(|token| !is_option(token))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            // They say where the message goes and where it ends: no peer may have them taken off.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in &named {
            headers.remove(name);
        }
    }
    for (name, _) in ONE_HOP.iter().zip(there).filter(|(_, there)| *there) {
        headers.remove(name);
    }
}

/// Whether `token` is in a list, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The comma-separated tokens of every line of a header, without parameters. Bytes, since one that is
/// no ASCII must not hide the tokens beside it.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(|token| {
            token
                .split(|&byte| byte == b';')
                .next()
                .unwrap_or_default()
                .trim_ascii()
        })
}

/// HTTP/2 may send each cookie in a line of its own; HTTP/1.1 has one line (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(version: Version, headers: &mut HeaderMap) {
    if version < Version::HTTP_2 || headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn takes_off_what_is_for_one_hop_and_nothing_else() {
        let mut met = headers(&[
            ("connection", "close, X-One"),
            ("connection", "x-TWO , host, content-length, é, \"quoted\""),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("host", "a"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
        ]);
        strip_one_hop(&mut met);
        let kept = [
            ("x-three", "3"),
            ("host", "a"),
            ("content-length", "5"),
            ("trailer", "x-sum"),
        ];
        assert_eq!(met, headers(&kept));
    }

    #[test]
    fn each_is_taken_off_by_itself() {
        for name in &ONE_HOP {
            let mut met = HeaderMap::new();
            met.insert(name, HeaderValue::from_static("x"));
            strip_one_hop(&mut met);
            assert!(met.is_empty(), "{name}");
        }
    }

    #[test]
    fn trailers_are_still_welcome() {
        for te in ["trailers", "gzip;q=0.5, Trailers"] {
            let mut met = headers(&[("te", te), ("connection", "te")]);
            strip_request(&mut met);
            assert_eq!(met, headers(&[("te", "trailers"), ("connection", "TE")]));
        }
    }

    #[test]
    fn cookies_of_http_2_become_one_line() {
        let crumbs = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        let mut met = crumbs.clone();
        join_cookies(Version::HTTP_2, &mut met);
        assert_eq!(met, headers(&[("cookie", "a=1; b=2")]));
        let mut met = crumbs.clone();
        join_cookies(Version::HTTP_11, &mut met);
        assert_eq!(met, crumbs);
    }
}
