//! What an answer of the primary's is worth: kept for how long, passed on, or not believed.
//!
//! Freshness, storability and revalidation are RFC 9111's, by the crate `http-cache-semantics`. Around it:
//! directives are read without regard to case; what has a cookie is never kept; an answer that is none of an
//! object's (an error, a redirect elsewhere, a page where a picture should be) is never given out as one.
//!
//! What visitors say in `Cache-Control` is not heeded (RFC 9111 section 5.2.1 leaves that to a cache): a crowd
//! that presses "reload" must not reach the primary through its offload servers.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED, LOCATION,
        PRAGMA, SET_COOKIE, VARY,
    },
    request, response,
};
use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};

use super::settings::EdgeSettings;
use crate::upstream::UntilClose;

/// How long an object may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    /// When it was made, in milliseconds since 1970: its age counts from here.
    pub(super) born: u64,
    /// Seconds from then on for which it is fresh.
    pub(super) fresh: u32,
    /// Seconds after that in which it is given out while it is fetched anew.
    pub(super) while_revalidate: u32,
    /// Seconds after that in which it is given out where the primary fails.
    pub(super) if_error: u32,
}

/// What becomes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is kept.
    Keep(Life),
    /// It goes out and is not kept.
    Pass(&'static str),
    /// It does not go out.
    Refuse(StatusCode, &'static str),
}

/// How an object is, at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Fresh,
    /// To be given out, and fetched anew aside.
    Renew,
    /// To be fetched anew; given out where that fails.
    Fallback,
    /// To be fetched anew.
    Dead,
}

// === impl Life ===

impl Life {
    pub(super) fn state(&self, now: u64) -> State {
        let age = self.age(now);
        let fresh = u64::from(self.fresh);
        if age < fresh {
            State::Fresh
        } else if age < fresh + u64::from(self.while_revalidate) {
            State::Renew
        } else if age < fresh + u64::from(self.if_error) {
            State::Fallback
        } else {
            State::Dead
        }
    }

    /// Given out at once for so long, as far as it may be given out where the primary fails.
    pub(super) fn bearing(self, now: u64, seconds: u64) -> Self {
        let stale = self.age(now).saturating_sub(u64::from(self.fresh));
        let until = u32::try_from(stale.saturating_add(seconds)).unwrap_or(u32::MAX);
        Self {
            while_revalidate: self.while_revalidate.max(until.min(self.if_error)),
            ..self
        }
    }

    /// In seconds.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.born) / 1000
    }
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Judges the answer to an unconditional pull.
pub(super) fn judge(
    asked: &request::Parts,
    answer: &response::Parts,
    path: &str,
    settings: &EdgeSettings,
    now: SystemTime,
) -> Verdict {
    match answer.status {
        StatusCode::LOOP_DETECTED => {
            return Verdict::Refuse(StatusCode::LOOP_DETECTED, LOOP);
        }
        StatusCode::GATEWAY_TIMEOUT => {
            return Verdict::Refuse(
                StatusCode::GATEWAY_TIMEOUT,
                "The site took too long to answer.",
            );
        }
        status if status.is_server_error() => {
            return Verdict::Refuse(StatusCode::BAD_GATEWAY, "The site has failed to answer.");
        }
        // About the moment and the edge, not about the object.
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => {
            return Verdict::Refuse(StatusCode::BAD_GATEWAY, "The site has put us off.");
        }
        // Neither a part nor a condition was asked for.
        StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => {
            return Verdict::Refuse(StatusCode::BAD_GATEWAY, "The site has answered wrongly.");
        }
        status if status.is_redirection() && !stays(&asked.uri, &answer.headers) => {
            return Verdict::Refuse(
                StatusCode::BAD_GATEWAY,
                "The site has sent us elsewhere, where we do not go.",
            );
        }
        StatusCode::OK if is_error_page(path, &answer.headers) => {
            return Verdict::Refuse(
                StatusCode::BAD_GATEWAY,
                "The site has answered with a page where there should be an object.",
            );
        }
        StatusCode::OK
        | StatusCode::NON_AUTHORITATIVE_INFORMATION
        | StatusCode::NOT_FOUND
        | StatusCode::GONE => {}
        _ => return Verdict::Pass("status"),
    }
    if answer.headers.contains_key(SET_COOKIE) {
        return Verdict::Pass("cookie");
    }
    if answer.extensions.get::<UntilClose>().is_some() {
        return Verdict::Pass("no length");
    }
    let length = answer.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > settings.largest.bytes()) {
        return Verdict::Pass("size");
    }
    if vary(&answer.headers).any(|name| name == "*") {
        return Verdict::Pass("vary");
    }
    let policy = policy(asked, answer.status, &answer.headers, now);
    if !policy.is_storable() {
        return Verdict::Pass("cache-control");
    }
    Verdict::Keep(life(&policy, &answer.headers, settings, now))
}

/// Whether an answer with this `status` that is not kept is about the object: then what is kept of it is of no use.
pub(super) fn displaces(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK
            | StatusCode::NON_AUTHORITATIVE_INFORMATION
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
    )
}

/// What a loop is told.
pub(super) const LOOP: &str = "The request has come back to a server that it had passed: the servers' primaries form a circle.";

/// The names in `Vary`; a line that can't be read may name anything.
pub(super) fn vary(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(VARY)
        .iter()
        .map(|line| line.to_str().unwrap_or("*"))
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

fn policy(
    asked: &request::Parts,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> CachePolicy {
    let mut asked_for = Request::new(());
    *asked_for.method_mut() = Method::GET;
    *asked_for.uri_mut() = asked.uri.clone();
    *asked_for.headers_mut() = asked.headers.clone();
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    *answer.headers_mut() = tidy(headers);
    CachePolicy::new_options(&asked_for, &answer, now, CacheOptions::default())
}

/// The headers as the crate reads them right: directives in lower case, and an age that can be added to.
fn tidy(headers: &HeaderMap) -> HeaderMap {
    const OLDEST: u64 = 10 * 365 * 24 * 3600;
    let mut headers = headers.clone();
    if headers.contains_key(CACHE_CONTROL) {
        let lines: Vec<String> = headers
            .get_all(CACHE_CONTROL)
            .iter()
            .map(|line| String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase())
            .collect();
        // One that is not ASCII must not hide the others: it reads as `no-store`.
        let joined = HeaderValue::try_from(lines.join(", "));
        let joined = joined.ok().filter(|joined| joined.to_str().is_ok());
        headers.insert(
            CACHE_CONTROL,
            joined.unwrap_or_else(|| HeaderValue::from_static("no-store")),
        );
    }
    if let Some(age) = headers.remove(AGE) {
        let age = age.to_str().ok().and_then(|age| age.parse().ok());
        headers.insert(AGE, HeaderValue::from(age.unwrap_or(0u64).min(OLDEST)));
    }
    headers
}

fn life(
    policy: &CachePolicy,
    headers: &HeaderMap,
    settings: &EdgeSettings,
    now: SystemTime,
) -> Life {
    let age = policy.age(now);
    let control = directives(headers);
    let has = |name: &str| control.iter().any(|(found, _)| found == name);
    let value = |name: &str| {
        let (_, value) = control.iter().find(|(found, _)| found == name)?;
        value.parse::<u64>().ok().map(Duration::from_secs)
    };
    let says = has("max-age")
        || has("s-maxage")
        || has("no-cache")
        || headers.contains_key(EXPIRES)
        || headers.contains_key(PRAGMA);
    let left = policy.time_to_live(now);
    let fresh = if says {
        left
    } else {
        left.max(settings.fresh.saturating_sub(age))
    };
    let never_stale = has("no-cache")
        || has("must-revalidate")
        || has("proxy-revalidate")
        || headers.contains_key(PRAGMA);
    // A shared cache's own lifetime forbids it too, where nothing else is said (RFC 9111 section 5.2.2.10).
    let stale = |name: &str, usual: Duration| match value(name) {
        _ if never_stale => Duration::ZERO,
        Some(time) => time,
        None if has("s-maxage") => Duration::ZERO,
        None => usual,
    };
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    Life {
        born: millis(now).saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        fresh: seconds(age.saturating_add(fresh)),
        // What is to be asked about at once is no longer good for anything else.
        while_revalidate: seconds(stale(
            "stale-while-revalidate",
            settings
                .stale_while_revalidate
                .min(age.saturating_add(fresh)),
        )),
        if_error: seconds(stale("stale-if-error", settings.stale_if_error)),
    }
}

fn directives(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|directive| {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            (
                name.trim().to_ascii_lowercase(),
                value.trim().trim_matches('"').to_owned(),
            )
        })
        .collect()
}

/// Adds to a pull what asks whether the object that is kept is still the one.
pub(super) fn condition(asked: &mut request::Parts, kept: &HeaderMap, now: SystemTime) {
    let policy = policy(asked, StatusCode::OK, kept, now);
    // Not reused, whatever the crate thinks of its freshness: so that it has to be asked about.
    let mut request = Request::new(());
    *request.uri_mut() = asked.uri.clone();
    *request.headers_mut() = asked.headers.clone();
    request
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let BeforeRequest::Stale { request, .. } = policy.before_request(&request, now) {
        for name in [http::header::IF_NONE_MATCH, http::header::IF_MODIFIED_SINCE] {
            if let Some(value) = request.headers.get(&name) {
                asked.headers.insert(name, value.clone());
            }
        }
    }
}

/// What a 304 makes of the object that is kept: its headers and its new life; [`None`]: it is about another.
pub(super) fn renewed(
    asked: &request::Parts,
    kept: &HeaderMap,
    status: StatusCode,
    answer: &response::Parts,
    settings: &EdgeSettings,
    now: SystemTime,
) -> Option<(HeaderMap, Verdict)> {
    let mut headers_only = Response::new(());
    *headers_only.status_mut() = answer.status;
    *headers_only.headers_mut() = answer.headers.clone();
    // One that repeats none of what was asked with is about that all the same; the crate takes it for another's.
    let validators = [ETAG, LAST_MODIFIED];
    let is_named = |name: &HeaderName| kept.contains_key(name) && answer.headers.contains_key(name);
    if !validators.iter().any(is_named) {
        for name in validators {
            if let Some(value) = kept.get(&name) {
                headers_only.headers_mut().insert(name, value.clone());
            }
        }
    }
    let mut request = Request::new(());
    *request.uri_mut() = asked.uri.clone();
    *request.headers_mut() = asked.headers.clone();
    match policy(asked, status, kept, now).after_response(&request, &headers_only, now) {
        AfterResponse::NotModified(..) => {}
        AfterResponse::Modified(..) => return None,
    }
    // RFC 9111 section 3.2: what the 304 says replaces what was said, but for what describes the body.
    let mut headers = kept.clone();
    headers.remove(AGE);
    for name in answer.headers.keys() {
        if matches!(
            name.as_str(),
            "content-length"
                | "content-encoding"
                | "content-range"
                | "content-type"
                | "transfer-encoding"
        ) {
            continue;
        }
        headers.remove(name);
        for value in answer.headers.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let policy = self::policy(asked, status, &headers, now);
    let verdict = if !policy.is_storable() || headers.contains_key(SET_COOKIE) {
        Verdict::Pass("cache-control")
    } else {
        Verdict::Keep(life(&policy, &headers, settings, now))
    };
    Some((headers, verdict))
}

/// Whether a redirect leads to the same site.
fn stays(asked: &Uri, headers: &HeaderMap) -> bool {
    let Some(location) = headers.get(LOCATION) else {
        return true;
    };
    let Ok(location) = location.to_str() else {
        return false;
    };
    let Ok(base) = url::Url::parse(&asked.to_string()) else {
        return false;
    };
    base.join(location)
        .is_ok_and(|to| to.origin() == base.origin())
}

/// A page where the address promises an object: what a broken site says with "200 OK".
fn is_error_page(path: &str, headers: &HeaderMap) -> bool {
    const OBJECTS: [&str; 40] = [
        "css",
        "js",
        "mjs",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "webp",
        "avif",
        "svg",
        "ico",
        "bmp",
        "apng",
        "woff",
        "woff2",
        "ttf",
        "otf",
        "eot",
        "mp4",
        "webm",
        "mp3",
        "m4a",
        "ogg",
        "oga",
        "ogv",
        "opus",
        "wav",
        "flac",
        "mov",
        "m4v",
        "wasm",
        "json",
        "pdf",
        "zip",
        "xml",
        "txt",
        "map",
        "webmanifest",
        "m3u8",
        "ts",
    ];
    let is = |page: &str| {
        headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.as_bytes().get(..page.len()))
            .is_some_and(|kind| kind.eq_ignore_ascii_case(page.as_bytes()))
    };
    let is_xhtml = is("application/xhtml+xml");
    (is_xhtml || is("text/html"))
        && path
            .split('?')
            .next()
            .and_then(|path| path.rsplit('/').next()?.rsplit_once('.'))
            .is_some_and(|(_, extension)| {
                // Where it is XHTML, XML may be just that.
                !(is_xhtml && extension.eq_ignore_ascii_case("xml"))
                    && OBJECTS
                        .iter()
                        .any(|object| extension.eq_ignore_ascii_case(object))
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn asked() -> request::Parts {
        let request = Request::get("http://site.example/a.css").body(()).unwrap();
        request.into_parts().0
    }

    fn judged(status: u16, lines: &[(&'static str, &str)]) -> Verdict {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        *answer.headers_mut() = headers(lines);
        let (answer, ()) = answer.into_parts();
        let settings = EdgeSettings::default();
        judge(&asked(), &answer, "/a.css", &settings, SystemTime::now())
    }

    fn kept(lines: &[(&'static str, &str)]) -> Life {
        match judged(200, lines) {
            Verdict::Keep(life) => life,
            verdict => panic!("{lines:?}: {verdict:?}"),
        }
    }

    #[test]
    fn what_is_not_for_everyone_is_not_kept() {
        for lines in [
            &[("cache-control", "no-store")][..],
            &[("cache-control", "PRIVATE")],
            &[
                ("cache-control", "max-age=60"),
                ("cache-control", "No-Store"),
            ],
            &[("cache-control", "max-age=60, private=\"x\"")],
            &[("cache-control", "max-age=60, \u{e9}")],
            &[
                ("set-cookie", "a=b"),
                ("cache-control", "public, max-age=60"),
            ],
            &[("vary", "accept, *")],
            &[("vary", "accept"), ("vary", "caf\u{e9}")],
            &[("content-length", "999999999")],
        ] {
            assert!(matches!(judged(200, lines), Verdict::Pass(_)), "{lines:?}");
        }
        assert!(matches!(judged(403, &[]), Verdict::Pass(_)));
    }

    #[test]
    fn what_is_wrong_is_not_given_out() {
        for (status, lines) in [
            (500, &[][..]),
            (503, &[]),
            (304, &[]),
            (206, &[]),
            (408, &[]),
            (421, &[]),
            (425, &[]),
            (429, &[("retry-after", "9")]),
            (302, &[("location", "http://127.0.0.1/secret")]),
            (301, &[("location", "//169.254.169.254/")]),
            (200, &[("content-type", "Text/HTML; charset=utf-8")]),
        ] {
            let verdict = judged(status, lines);
            assert!(
                matches!(verdict, Verdict::Refuse(StatusCode::BAD_GATEWAY, _)),
                "{status} {lines:?}: {verdict:?}"
            );
        }
        let at_home = judged(302, &[("location", "/b.css")]);
        assert_eq!(at_home, Verdict::Pass("status"));
        assert!(matches!(
            judged(504, &[]),
            Verdict::Refuse(StatusCode::GATEWAY_TIMEOUT, _)
        ));
    }

    #[test]
    fn a_page_where_there_should_be_an_object_is_an_error_page() {
        for (path, kind, is) in [
            ("/a.pdf", "text/html", true),
            ("/a.ZIP?b=c.d", "text/html; charset=utf-8", true),
            ("/a.xml", "text/html", true),
            ("/a.txt", "text/html", true),
            ("/a.js.map", "text/html", true),
            ("/a.webmanifest", "text/html", true),
            ("/a.m3u8", "text/html", true),
            ("/a.ts", "text/html", true),
            ("/a.png", "Application/XHTML+XML", true),
            ("/a.xml", "application/xhtml+xml", false),
            ("/a.txt", "text/plain", false),
            ("/a.html", "text/html", false),
            ("/a", "application/xhtml+xml", false),
        ] {
            let headers = headers(&[("content-type", kind)]);
            assert_eq!(is_error_page(path, &headers), is, "{path} {kind}");
        }
    }

    #[test]
    fn life_is_as_the_primary_says() {
        assert_eq!(kept(&[("cache-control", "max-age=60")]).fresh, 60);
        let both = kept(&[("cache-control", "max-age=60, S-MaxAge=\"5\"")]);
        assert_eq!((both.fresh, both.if_error), (5, 0));
        let aged = kept(&[("cache-control", "max-age=60"), ("age", "50")]);
        assert_eq!((aged.fresh, aged.age(millis(SystemTime::now()))), (60, 50));
        assert_eq!(kept(&[("cache-control", "no-cache")]).fresh, 0);
        assert_eq!(kept(&[]).fresh, 10, "nothing is said");
        for (says, renewed_within) in [
            ("public", 10),
            ("max-age=60", 10),
            ("max-age=3", 3),
            ("max-age=0", 0),
        ] {
            let life = kept(&[("cache-control", says)]);
            assert_eq!(life.while_revalidate, renewed_within, "{says}");
        }
        let stale = kept(&[(
            "cache-control",
            "max-age=1, stale-while-revalidate=20, stale-if-error=30",
        )]);
        assert_eq!((stale.while_revalidate, stale.if_error), (20, 30));
        let strict = kept(&[(
            "cache-control",
            "max-age=1, must-revalidate, stale-if-error=30",
        )]);
        assert_eq!((strict.while_revalidate, strict.if_error), (0, 0));
        // Whatever it says, nothing overflows.
        for (name, value) in [
            ("age", "18446744073709551615"),
            ("cache-control", "max-age=18446744073709551615"),
            ("cache-control", "max-age=99999999999999999999999"),
            ("expires", "0"),
            ("expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("date", "Thu, 01 Jan 1600 00:00:00 GMT"),
        ] {
            kept(&[(name, value)]);
        }
    }

    #[test]
    fn states_follow_one_another() {
        let life = Life {
            born: 0,
            fresh: 10,
            while_revalidate: 5,
            if_error: 20,
        };
        for (second, state) in [
            (9, State::Fresh),
            (10, State::Renew),
            (15, State::Fallback),
            (30, State::Dead),
        ] {
            assert_eq!(life.state(second * 1000), state, "{second}");
        }
    }

    #[test]
    fn a_304_renews_the_object_that_it_is_about() {
        let kept = headers(&[
            ("etag", "\"1\""),
            ("cache-control", "max-age=1"),
            ("content-type", "text/css"),
        ]);
        let now = SystemTime::now();
        let mut asked = asked();
        condition(&mut asked, &kept, now);
        assert_eq!(asked.headers["if-none-match"], "\"1\"");
        let settings = EdgeSettings::default();
        let answer = |etag: &str| {
            let mut answer = Response::new(());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            *answer.headers_mut() = headers(&[("etag", etag), ("cache-control", "max-age=99")]);
            answer.into_parts().0
        };
        let (new, verdict) = renewed(
            &asked,
            &kept,
            StatusCode::OK,
            &answer("\"1\""),
            &settings,
            now,
        )
        .unwrap();
        assert_eq!(new["cache-control"], "max-age=99");
        assert_eq!(new["content-type"], "text/css");
        assert!(matches!(verdict, Verdict::Keep(Life { fresh: 99, .. })));
        assert!(
            renewed(
                &asked,
                &kept,
                StatusCode::OK,
                &answer("\"2\""),
                &settings,
                now
            )
            .is_none()
        );
    }
}
