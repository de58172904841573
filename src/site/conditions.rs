//! Which ranges are answered. [`ServeDir`](tower_http::services::ServeDir) knows neither `If-Range` nor
//! that a range is for GET alone.

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ETAG, IF_RANGE, LAST_MODIFIED, RANGE},
};

/// What becomes of a request's `Range`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ranged {
    /// There is none, or one that has to be ignored: the whole file.
    Whole,
    /// The part that is asked for.
    Part,
    /// The part, if the file is still the one that this validator names.
    PartOf(HeaderValue),
}

/// Reads `Range` and `If-Range` (RFC 9110 sections 13.1.5 and 14.2): a range is for GET, in the unit
/// `bytes`; any other is ignored.
pub(super) fn ranged(method: &Method, headers: &HeaderMap) -> Ranged {
    let mut lines = headers.get_all(RANGE).iter();
    let range = match (lines.next(), lines.next()) {
        (Some(range), None) => range.as_bytes(),
        _ => return Ranged::Whole,
    };
    if method != Method::GET || !range.starts_with(b"bytes=") {
        return Ranged::Whole;
    }
    match headers.get(IF_RANGE) {
        Some(validator) => Ranged::PartOf(validator.clone()),
        None => Ranged::Part,
    }
}

/// Does `validator` name the file whose headers these are? A weak tag never does; a date has to be the
/// very one that was sent.
pub(super) fn is_current(validator: &HeaderValue, file: &HeaderMap) -> bool {
    let current = if validator.as_bytes().starts_with(b"\"") {
        file.get(ETAG)
    } else {
        file.get(LAST_MODIFIED)
    };
    current == Some(validator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_range_is_for_get_and_in_bytes() {
        let bytes = headers(&[(RANGE, "bytes=0-1")]);
        assert_eq!(ranged(&Method::GET, &bytes), Ranged::Part);
        assert_eq!(ranged(&Method::HEAD, &bytes), Ranged::Whole);
        let items = headers(&[(RANGE, "items=0-1")]);
        assert_eq!(ranged(&Method::GET, &items), Ranged::Whole);
        let mut twice = bytes.clone();
        twice.append(RANGE, HeaderValue::from_static("bytes=5-6"));
        assert_eq!(ranged(&Method::GET, &twice), Ranged::Whole);
        assert_eq!(ranged(&Method::GET, &HeaderMap::new()), Ranged::Whole);
    }

    #[test]
    fn a_validator_names_one_version() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let file = headers(&[(ETAG, "\"a\""), (LAST_MODIFIED, date)]);
        for (validator, current) in [
            ("\"a\"", true),
            ("\"b\"", false),
            ("W/\"a\"", false),
            (date, true),
            ("Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("", false),
        ] {
            let validator = HeaderValue::from_static(validator);
            assert_eq!(is_current(&validator, &file), current, "{validator:?}");
        }
        assert!(!is_current(
            &HeaderValue::from_static("\"a\""),
            &HeaderMap::new()
        ));
    }
}
