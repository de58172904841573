//! Conditional requests (RFC 9110 section 13): does the client have the file already, is it the one that it
//! means.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderValue, Method,
    header::{
        ACCEPT_ENCODING, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
        RANGE,
    },
};

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators<'a> {
    /// Strong.
    pub(super) etag: &'a HeaderValue,
    pub(super) modified: Option<&'a Modified>,
}

/// `Last-Modified`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Modified {
    /// Since 1970.
    seconds: u64,
    pub(super) value: HeaderValue,
}

/// What the conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The file goes out, or a part of it.
    Send,
    /// The client has it (304).
    NotModified,
    /// It is not the one that the client means (412).
    Failed,
}

/// Which of the headers a request has that decide here: mostly none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Conditional {
    if_none_match: bool,
    /// Any of the others that decide whether the file is sent.
    others: bool,
    range: bool,
    /// Not a condition, but read with them.
    pub(super) accept_encoding: bool,
}

// === impl Modified ===

impl Modified {
    /// Of a file that was changed at this time. Only once that second is over, since it may be changed in it again;
    /// and never a time that is still to come (RFC 9110 section 8.8.2.1).
    pub(super) fn of(time: SystemTime, now: SystemTime) -> Option<Self> {
        /// Kernels take the time of a change from a clock that is a tick late.
        const LATE: Duration = Duration::from_millis(20);
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let over = Duration::from_secs(seconds.checked_add(1)?) + LATE;
        if now.duration_since(SystemTime::UNIX_EPOCH).ok()? < over {
            return None;
        }
        // The year 10000, from where on there is no such date.
        const LAST: u64 = 253_402_300_800;
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let value = (seconds < LAST).then(|| httpdate::fmt_http_date(whole))?;
        let value = HeaderValue::try_from(value).ok()?;
        Some(Self { seconds, value })
    }

    /// The same time, its text elsewhere.
    pub(super) fn with(self, value: HeaderValue) -> Self {
        Self { value, ..self }
    }
}

// === impl Verdict ===

impl Verdict {
    const fn by(is_known: bool) -> Self {
        if is_known {
            Self::NotModified
        } else {
            Self::Send
        }
    }
}

// === impl Conditional ===

impl Conditional {
    /// One pass: cheaper than looking each up by its hash.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            found.range |= name == RANGE;
            found.accept_encoding |= name == ACCEPT_ENCODING;
            found.if_none_match |= name == IF_NONE_MATCH;
            found.others |=
                name == IF_MODIFIED_SINCE || name == IF_MATCH || name == IF_UNMODIFIED_SINCE;
        }
        found
    }

    /// Whether a part is asked for.
    pub(super) const fn has_range(self) -> bool {
        self.range
    }

    /// The preconditions in their order (RFC 9110 section 13.2.2), for GET and HEAD.
    pub(super) fn verdict(self, headers: &HeaderMap, file: Validators<'_>) -> Verdict {
        if !self.others {
            let is_known = self.if_none_match && names(headers, &IF_NONE_MATCH, file.etag, true);
            return Verdict::by(is_known);
        }
        if headers.contains_key(IF_MATCH) {
            if !names(headers, &IF_MATCH, file.etag, false) {
                return Verdict::Failed;
            }
        } else if let (Some(since), Some(modified)) =
            (date(headers, &IF_UNMODIFIED_SINCE), file.modified)
            && modified.seconds > since
        {
            return Verdict::Failed;
        }
        let is_known = if self.if_none_match {
            names(headers, &IF_NONE_MATCH, file.etag, true)
        } else if let Some(modified) = file.modified {
            // Nearly always the very date that was sent.
            headers.get(IF_MODIFIED_SINCE) == Some(&modified.value)
                || date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| modified.seconds <= since)
        } else {
            false
        };
        Verdict::by(is_known)
    }

    /// The value of `Range`, if it is to be answered with a part (RFC 9110 sections 13.1.5 and 14.2): it is for GET, it
    /// stands there once, and the file is still the one that `If-Range` names.
    pub(super) fn range<'a>(
        self,
        method: &Method,
        headers: &'a HeaderMap,
        file: Validators<'_>,
    ) -> Option<&'a HeaderValue> {
        if !self.range || method != Method::GET {
            return None;
        }
        let mut lines = headers.get_all(RANGE).iter();
        let (Some(range), None) = (lines.next(), lines.next()) else {
            return None;
        };
        let mut validators = headers.get_all(IF_RANGE).iter();
        match (validators.next(), validators.next()) {
            (None, _) => Some(range),
            (Some(validator), None) => is_current(validator, file).then_some(range),
            _ => None,
        }
    }
}

/// Does `validator` name the file? A weak tag never does; a date has to be the very one that was sent.
fn is_current(validator: &HeaderValue, file: Validators<'_>) -> bool {
    validator == file.etag
        || file
            .modified
            .is_some_and(|modified| validator == modified.value)
}

/// A date that stands there once.
fn date(headers: &HeaderMap, name: &http::HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let date = httpdate::parse_http_date(line.to_str().ok()?).ok()?;
    let since = date.duration_since(SystemTime::UNIX_EPOCH);
    // Long ago is long ago.
    Some(since.map_or(0, |since| since.as_secs()))
}

/// Whether the list in `name` has `etag`, or is `*`. `weakly`: weak ones count, too.
fn names(headers: &HeaderMap, name: &http::HeaderName, etag: &HeaderValue, weakly: bool) -> bool {
    headers.get_all(name).iter().any(|line| {
        line == etag || line.as_bytes().trim_ascii() == b"*" || lists(line.as_bytes(), etag, weakly)
    })
}

/// A tag may have commas in it, so the list is read tag by tag; what is no tag ends it.
fn lists(mut list: &[u8], etag: &HeaderValue, weakly: bool) -> bool {
    loop {
        while let [b',' | b' ' | b'\t', rest @ ..] = list {
            list = rest;
        }
        let (tag, is_weak) = match list {
            [b'W', b'/', tag @ ..] => (tag, true),
            tag => (tag, false),
        };
        let [b'"', opaque @ ..] = tag else {
            return false;
        };
        let Some(end) = opaque.iter().position(|byte| *byte == b'"') else {
            return false;
        };
        let (tag, rest) = tag.split_at(end + 2);
        if tag == etag.as_bytes() && (weakly || !is_weak) {
            return true;
        }
        list = rest;
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn modified() -> Modified {
        Modified::of(httpdate::parse_http_date(DATE).unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn preconditions_are_asked_in_their_order() {
        use Verdict::{Failed, NotModified, Send};
        let (etag, modified) = (HeaderValue::from_static("\"a,b\""), modified());
        let file = Validators {
            etag: &etag,
            modified: Some(&modified),
        };
        for (lines, expected) in [
            (&[][..], Send),
            (&[(IF_NONE_MATCH, "\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "W/\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"a\" , , W/\"x\",\"a,b\"")], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (&[(IF_NONE_MATCH, "\"a\"")], Send),
            (&[(IF_NONE_MATCH, "a,b")], Send),
            (&[(IF_NONE_MATCH, "\"a,b")], Send),
            (&[(IF_NONE_MATCH, "")], Send),
            (
                &[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "\"a,b\"")],
                NotModified,
            ),
            (
                &[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, LATER)],
                Send,
            ),
            (&[(IF_MODIFIED_SINCE, DATE)], NotModified),
            (&[(IF_MODIFIED_SINCE, LATER)], NotModified),
            (&[(IF_MODIFIED_SINCE, EARLIER)], Send),
            (
                &[(IF_MODIFIED_SINCE, "Sunday, 06-Nov-94 08:49:37 GMT")],
                NotModified,
            ),
            (&[(IF_MODIFIED_SINCE, "yesterday")], Send),
            (&[(IF_MATCH, "\"a,b\"")], Send),
            (&[(IF_MATCH, "*")], Send),
            (&[(IF_MATCH, "W/\"a,b\"")], Failed),
            (&[(IF_MATCH, "\"x\"")], Failed),
            (&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"a,b\"")], Failed),
            (
                &[(IF_MATCH, "\"a,b\""), (IF_NONE_MATCH, "\"a,b\"")],
                NotModified,
            ),
            (
                &[(IF_MATCH, "\"a,b\""), (IF_UNMODIFIED_SINCE, EARLIER)],
                Send,
            ),
            (&[(IF_UNMODIFIED_SINCE, EARLIER)], Failed),
            (&[(IF_UNMODIFIED_SINCE, DATE)], Send),
            (&[(IF_UNMODIFIED_SINCE, "yesterday")], Send),
        ] {
            let headers = headers(lines);
            let verdict = Conditional::of(&headers).verdict(&headers, file);
            assert_eq!(verdict, expected, "{lines:?}");
        }
        // Of a file whose time says nothing yet no time is taken for an answer.
        let unknown = Validators {
            etag: &etag,
            modified: None,
        };
        for (name, expected) in [(IF_MODIFIED_SINCE, Send), (IF_UNMODIFIED_SINCE, Send)] {
            let headers = headers(&[(name, LATER)]);
            assert_eq!(
                Conditional::of(&headers).verdict(&headers, unknown),
                expected
            );
        }
    }

    #[test]
    fn a_range_is_for_get_and_for_the_version_that_is_meant() {
        let (etag, modified) = (HeaderValue::from_static("\"a\""), modified());
        let file = Validators {
            etag: &etag,
            modified: Some(&modified),
        };
        let range = (RANGE, "bytes=0-1");
        for (lines, is_answered) in [
            (vec![range.clone()], true),
            (vec![range.clone(), (RANGE, "bytes=5-6")], false),
            (vec![], false),
            (vec![range.clone(), (IF_RANGE, "\"a\"")], true),
            (vec![range.clone(), (IF_RANGE, "\"b\"")], false),
            (vec![range.clone(), (IF_RANGE, "W/\"a\"")], false),
            (vec![range.clone(), (IF_RANGE, DATE)], true),
            (vec![range.clone(), (IF_RANGE, LATER)], false),
            (vec![range.clone(), (IF_RANGE, "")], false),
            (
                vec![range.clone(), (IF_RANGE, "\"a\""), (IF_RANGE, "\"a\"")],
                false,
            ),
        ] {
            let headers = headers(&lines);
            let conditional = Conditional::of(&headers);
            let get = conditional.range(&Method::GET, &headers, file);
            assert_eq!(get.is_some(), is_answered, "{lines:?}");
            assert_eq!(conditional.range(&Method::HEAD, &headers, file), None);
        }
    }

    #[test]
    fn a_time_is_told_when_its_second_is_over() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(Modified::of(at(5_300), at(5_900)), None);
        assert_eq!(Modified::of(at(5_300), at(6_010)), None);
        let modified = Modified::of(at(5_300), at(6_020)).unwrap();
        assert_eq!(modified.value, "Thu, 01 Jan 1970 00:00:05 GMT");
        assert_eq!(Modified::of(at(9_000), at(5_000)), None);
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Modified::of(before, at(5_000)), None);
        let years = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(number * 31_556_952);
        assert_eq!(Modified::of(years(9_000), years(9_001)), None);
    }
}
