//! What a request is: something that begins a visit, or a part of a page that was let in.

use http::{HeaderMap, Method, Request, header};

use super::compiled::Compiled;

/// An extension of a request: it came over TLS. Whoever ends TLS in this process sets it, since an HTTP/1
/// request does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverTls;

/// What the decision needs to know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// It begins something: a navigation or a call. Only such requests are turned away; an embedded object
    /// belongs to a page that was let in.
    pub begins: bool,
    /// Its answer may be a page whose links can be rewritten.
    pub may_be_page: bool,
    /// A page is asked for in so many words.
    pub wants_page: bool,
    /// It is on a redirect path, and may be redirected: never what came through another cache, which would
    /// be sent round in a circle.
    pub redirect: bool,
}

// === impl Kind ===

impl Kind {
    /// By `Sec-Fetch-Dest` ([Fetch Metadata]), else by the path (`rewrite.include`), else by `Accept`.
    ///
    /// [Fetch Metadata]: https://www.w3.org/TR/fetch-metadata/#sec-fetch-dest-header
    pub(super) fn of<B>(request: &Request<B>, compiled: &Compiled) -> Self {
        let safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let path = request.uri().path();
        let headers = request.headers();
        let accepts_html = accepts(headers, "text/html");
        let (object, wants_page) = match headers
            .get("sec-fetch-dest")
            .and_then(|dest| dest.to_str().ok())
        {
            Some("document" | "iframe" | "frame" | "embed" | "object") => (false, true),
            Some("empty" | "websocket" | "webtransport" | "json") => (false, accepts_html),
            Some(_) => (true, false),
            None if compiled.rules.is_object(path) => (true, false),
            None if accepts_html => (false, true),
            None => (
                accepts(headers, "image/") || accepts(headers, "text/css"),
                false,
            ),
        };
        let via = headers.contains_key(header::VIA) || headers.contains_key("cdn-loop");
        Self {
            begins: !safe || !object,
            may_be_page: safe && !object,
            wants_page: safe && wants_page,
            redirect: safe && !via && compiled.is_redirected(path),
        }
    }
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(kind))
}
