//! Which responses are pages to rewrite.

use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE},
    response::Parts,
};

use super::caching::CacheControl;
use crate::rewrite::coding::Coding;

/// Why a response is not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unqualified {
    /// Neither GET nor HEAD.
    Method,
    /// Not 200.
    Status,
    /// Not `text/html`. XHTML is none: its parsers stop at the first error.
    Type,
    /// In a charset in which ASCII is not ASCII.
    Charset,
    /// In a content coding that is not known, or in several.
    Encoding,
    /// A part of the page.
    Range,
    /// `Cache-Control: no-transform`.
    NoTransform,
    /// To be saved, not shown.
    Attachment,
    /// `Cross-Origin-Embedder-Policy: require-corp`: objects from elsewhere are blocked unless they say
    /// otherwise, as servers with `cors` do.
    Embedder,
}

impl Unqualified {
    /// Half a sentence for people, about the response.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Method => "it answers neither a GET nor a HEAD",
            Self::Status => "its status is not 200",
            Self::Type => "its Content-Type is not text/html",
            Self::Charset => "its charset is one in which ASCII is not ASCII",
            Self::Encoding => {
                "its Content-Encoding is none of gzip, deflate, br and zstd, or several of them"
            }
            Self::Range => "it is a part of a page",
            Self::NoTransform => "its Cache-Control says no-transform",
            Self::Attachment => "its Content-Disposition says that it is to be saved, not shown",
            Self::Embedder => {
                "its Cross-Origin-Embedder-Policy says require-corp, and the server has no `cors`"
            }
        }
    }

    /// As logs name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::Type => "type",
            Self::Charset => "charset",
            Self::Encoding => "encoding",
            Self::Range => "range",
            Self::NoTransform => "no_transform",
            Self::Attachment => "attachment",
            Self::Embedder => "embedder",
        }
    }
}

static EMBEDDER: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");

/// What decides besides the type.
static DECIDING: [HeaderName; 5] = [
    CONTENT_ENCODING,
    CONTENT_RANGE,
    CACHE_CONTROL,
    CONTENT_DISPOSITION,
    HeaderName::from_static("cross-origin-embedder-policy"),
];

/// Whether the response to a request by `method` is a page to rewrite, and the coding it comes in. `cors`: the
/// offload server says that its objects may be used from elsewhere.
///
/// # Errors
/// The first reason why it is not.
pub fn qualifies(
    parts: &Parts,
    method: &Method,
    cors: bool,
) -> Result<Option<Coding>, Unqualified> {
    let headers = &parts.headers;
    if method != Method::GET && method != Method::HEAD {
        return Err(Unqualified::Method);
    }
    if parts.status != StatusCode::OK {
        return Err(Unqualified::Status);
    }
    let content_type = only(headers, &CONTENT_TYPE).ok_or(Unqualified::Type)?;
    // As nearly every page says it.
    if !matches!(content_type, "text/html" | "text/html; charset=utf-8") {
        if !essence(content_type).eq_ignore_ascii_case("text/html") {
            return Err(Unqualified::Type);
        }
        if !is_rewritable_charset(content_type) {
            return Err(Unqualified::Charset);
        }
    }
    // A page has few headers: looking them through costs less than looking each of these up by its hash.
    if !headers.keys().any(|name| DECIDING.contains(name)) {
        return Ok(None);
    }
    let coding = Coding::of(headers).map_err(|_| Unqualified::Encoding)?;
    if headers.contains_key(CONTENT_RANGE) {
        return Err(Unqualified::Range);
    }
    if CacheControl::of(headers).has("no-transform") {
        return Err(Unqualified::NoTransform);
    }
    if !all(headers, &CONTENT_DISPOSITION, |value| {
        essence(value) != "attachment"
    }) {
        return Err(Unqualified::Attachment);
    }
    if !cors && embedder(headers) {
        return Err(Unqualified::Embedder);
    }
    Ok(coding)
}

/// Whether the page embeds only what says that it may be used from elsewhere.
#[must_use]
pub fn embedder(headers: &HeaderMap) -> bool {
    !all(headers, &EMBEDDER, |value| essence(value) != "require-corp")
}

/// Whether ASCII can be inserted into a page with this Content-Type as ASCII: not UTF-16, ISO-2022-JP
/// and the encodings that browsers refuse. A label that no browser knows counts for nothing.
#[must_use]
pub fn is_rewritable_charset(content_type: &str) -> bool {
    content_type
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, label)| {
            let label = label.trim().trim_matches(['"', '\'']);
            encoding_rs::Encoding::for_label(label.as_bytes())
                .is_none_or(encoding_rs::Encoding::is_ascii_compatible)
        })
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Whether every value of a header is text and, in lower case, passes the test.
fn all(headers: &HeaderMap, name: &HeaderName, test: impl Fn(&str) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    values.all(|value| {
        let text = value.to_str().map(|text| text.trim().to_ascii_lowercase());
        text.is_ok_and(|text| test(&text))
    })
}

/// What stands in front of the parameters.
fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or(value).trim()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};

    use super::*;

    fn check(
        method: Method,
        status: u16,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Option<Coding>, Unqualified> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, HeaderValue::from_static(value));
        }
        qualifies(&response.body(()).unwrap().into_parts().0, &method, false)
    }

    #[test]
    fn pages_qualify() {
        for content_type in [
            "text/html",
            "Text/HTML; charset=utf-8",
            "text/html;charset=Shift_JIS",
        ] {
            for method in [Method::GET, Method::HEAD] {
                assert_eq!(
                    check(method, 200, &[("content-type", content_type)]),
                    Ok(None)
                );
            }
        }
        let more = [
            ("content-type", "text/html"),
            ("content-encoding", "identity"),
            ("content-disposition", "inline; filename=attachment"),
            ("cache-control", "no-cache"),
            ("cross-origin-embedder-policy", "credentialless"),
        ];
        assert_eq!(check(Method::GET, 200, &more), Ok(None));
        let encoded = [("content-type", "text/html"), ("content-encoding", "gzip")];
        assert_eq!(check(Method::GET, 200, &encoded), Ok(Some(Coding::Gzip)));
    }

    #[test]
    fn what_is_no_page_or_must_not_be_changed_does_not() {
        assert_eq!(
            check(Method::POST, 200, &[("content-type", "text/html")]),
            Err(Unqualified::Method)
        );
        assert_eq!(
            check(Method::GET, 206, &[("content-type", "text/html")]),
            Err(Unqualified::Status)
        );
        for content_type in [
            None,
            Some("application/xhtml+xml"),
            Some("text/htmlx"),
            Some("text/plain"),
        ] {
            let headers: Vec<_> = content_type
                .map(|value| ("content-type", value))
                .into_iter()
                .collect();
            assert_eq!(check(Method::GET, 200, &headers), Err(Unqualified::Type));
        }
        for (name, value, reason) in [
            ("content-type", "text/html", Unqualified::Type),
            ("content-encoding", "compress", Unqualified::Encoding),
            ("content-encoding", "gzip, br", Unqualified::Encoding),
            ("content-range", "bytes 0-1/2", Unqualified::Range),
            (
                "cache-control",
                "private, No-Transform",
                Unqualified::NoTransform,
            ),
            (
                "content-disposition",
                "Attachment; filename=x",
                Unqualified::Attachment,
            ),
            (
                "cross-origin-embedder-policy",
                "require-corp; report-to=\"x\"",
                Unqualified::Embedder,
            ),
        ] {
            let headers = [("content-type", "text/html"), (name, value)];
            assert_eq!(
                check(Method::GET, 200, &headers),
                Err(reason),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn charsets_without_ascii_are_refused() {
        for charset in [
            "utf-16",
            "UTF-16BE",
            "\"utf-16le\"",
            "iso-2022-jp",
            "csiso2022kr",
            "hz-gb-2312",
        ] {
            assert!(
                !is_rewritable_charset(&format!("text/html; charset={charset}")),
                "{charset}"
            );
        }
        for content_type in [
            "text/html",
            "text/html; charset=latin1",
            "text/html; charset=klingon",
            "text/html; Charset = 'gbk'",
        ] {
            assert!(is_rewritable_charset(content_type), "{content_type}");
        }
    }
}
