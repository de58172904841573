//! What a request is: something that begins a visit, or a part of a page that was let in.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use http::{HeaderMap, HeaderName, Method, Request, header};

use super::compiled::Compiled;

/// An extension of a request: it came over TLS. Whoever ends TLS in this process sets it, since an HTTP/1
/// request does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverTls;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    /// What it sends came over TLS.
    pub(crate) over_tls: bool,
}

// === impl Peer ===

impl Peer {
    /// Where nobody else knows: as the extensions of the request tell.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let extensions = request.extensions();
        let address = extensions.get::<ConnectInfo<SocketAddr>>();
        Self {
            address: address.map(|info| info.0),
            over_tls: extensions.get::<OverTls>().is_some(),
        }
    }

    pub(super) fn ip(self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }
}

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
        let seen = Seen::of(headers);
        // Browsers say what they fetch it for; `Accept` is read where they do not.
        let accepts_html = || accepts(headers, "text/html");
        let (object, wants_page) = match seen.dest {
            Some("document" | "iframe" | "frame" | "embed" | "object") => (false, true),
            Some("empty" | "websocket" | "webtransport" | "json") => (false, accepts_html()),
            Some(_) => (true, false),
            None if compiled.rules.is_object(path) => (true, false),
            None if accepts_html() => (false, true),
            None => (
                accepts(headers, "image/") || accepts(headers, "text/css"),
                false,
            ),
        };
        Self {
            begins: !safe || !object,
            may_be_page: safe && !object,
            wants_page: safe && wants_page,
            redirect: safe && !seen.via && compiled.is_redirected(path),
        }
    }
}

/// What headers say, found in one pass: cheaper than looking each up by its hash.
#[derive(Default)]
struct Seen<'a> {
    dest: Option<&'a str>,
    via: bool,
}

static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

impl<'a> Seen<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            if *name == SEC_FETCH_DEST {
                seen.dest = seen.dest.or_else(|| value.to_str().ok());
            }
            seen.via |= *name == header::VIA || *name == CDN_LOOP;
        }
        seen
    }
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(kind))
}
