//! One request of a visitor, and its answer, read to the end.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, COOKIE, HOST, LOCATION, REFERER, USER_AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use std::sync::atomic::Ordering::Relaxed;
use url::{Host as Name, Position, Url};
use xxhash_rust::xxh3::Xxh3;

use super::{
    connection::{Connection, Tls},
    hosts::{Host, Hosts},
    trouble::Trouble,
};
use crate::rewrite::{
    Kind,
    coding::{Coding, decode_all},
};

/// No page that people read is larger.
const LARGEST_PAGE: usize = 8 * 1024 * 1024;
/// Of a stylesheet beyond that it is not looked at what it fetches.
const LARGEST_STYLESHEET: usize = 1024 * 1024;

/// How visitors reach hosts.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) hosts: Hosts,
    pub(super) tls: Tls,
    /// Whether bodies are hashed.
    pub(super) hash: bool,
}

/// What a visitor asks for.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    /// None for a page.
    pub(super) kind: Option<Kind>,
    pub(super) page: Option<&'a Url>,
    pub(super) cookies: Option<String>,
    pub(super) visitor: u64,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Of pages and stylesheets, if they are not too large to be read.
    pub(super) text: Option<String>,
    /// Where bodies are hashed.
    pub(super) hash: u128,
}

// === impl Answer ===

impl Answer {
    /// Where it sends the visitor, who asked for `url`, instead.
    pub(super) fn redirect(&self, url: &Url) -> Option<Result<Url, Trouble>> {
        let redirects = matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = redirects.then(|| self.headers.get(LOCATION))??;
        let next = location
            .to_str()
            .ok()
            .and_then(|location| url.join(location).ok())
            .filter(|next| matches!(next.scheme(), "http" | "https"));
        Some(next.ok_or(Trouble::Redirect))
    }
}

// === impl Net ===

impl Net {
    /// Asks for something, over `idle` if that is open still. The connection comes back if it can be used again.
    pub(super) async fn fetch(
        &self,
        host: &Host,
        ask: &Ask<'_>,
        idle: Option<Connection>,
    ) -> (Option<Connection>, Result<Answer, Trouble>) {
        let used = match idle {
            // Between two answers the server may have closed it.
            Some(mut connection) => connection.is_ready().await.then_some(connection),
            None => None,
        };
        if let Some(connection) = used {
            match self.exchange(host, ask, connection).await {
                // It was closed while the request was on its way: browsers ask again (RFC 9112, section 9.3.1).
                (_, Err(Trouble::Dropped)) => {}
                answered => return answered,
            }
        }
        let places = match self.hosts.places(host, ask.url).await {
            Ok(places) => places,
            Err(trouble) => return (None, Err(trouble)),
        };
        match Connection::open(host, places, ask.url, &self.tls, ask.visitor).await {
            Ok(connection) => self.exchange(host, ask, connection).await,
            Err(trouble) => (None, Err(trouble)),
        }
    }

    async fn exchange(
        &self,
        host: &Host,
        ask: &Ask<'_>,
        mut connection: Connection,
    ) -> (Option<Connection>, Result<Answer, Trouble>) {
        host.requests.fetch_add(1, Relaxed);
        let answer = async {
            let (head, body) = connection.ask(ask.request()).await?.into_parts();
            let most = most_text(ask.kind, &head.headers);
            let (bytes, hash) = self.read(host, body, most).await?;
            Ok(Answer {
                status: head.status,
                text: text(ask.kind, &head.headers, bytes)?,
                headers: head.headers,
                hash,
            })
        };
        let answer = answer.await;
        let again = answer.is_ok().then_some(connection);
        (again, answer)
    }

    /// Reads a body to its end; keeps it if it is not larger than `most`.
    async fn read(
        &self,
        host: &Host,
        mut body: Incoming,
        most: usize,
    ) -> Result<(Option<Bytes>, u128), Trouble> {
        let mut kept = (most > 0).then(BytesMut::new);
        let mut hash = self.hash.then(Xxh3::new);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Trouble::Cut)?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            host.bytes.fetch_add(data.len() as u64, Relaxed);
            if let Some(hash) = &mut hash {
                hash.update(&data);
            }
            kept = kept.filter(|kept| kept.len() + data.len() <= most);
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&data);
            }
        }
        let hash = hash.map_or(0, |hash| hash.digest128());
        Ok((kept.map(BytesMut::freeze), hash))
    }
}

// === impl Ask ===

impl Ask<'_> {
    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        let target = &self.url[Position::BeforePath..Position::AfterQuery];
        // A URL's path and query have no character that a target must not have.
        if let Ok(target) = target.parse::<Uri>() {
            *request.uri_mut() = target;
        }
        let headers = request.headers_mut();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        // The host, and the port where it is not the usual one.
        set(HOST, &self.url[Position::BeforeHost..Position::AfterPort]);
        set(
            USER_AGENT,
            concat!("overspill-crowd/", env!("CARGO_PKG_VERSION")),
        );
        set(ACCEPT, accept(self.kind));
        // Compressed bytes of two servers differ where the bytes do not.
        set(ACCEPT_ENCODING, "identity");
        if is_trustworthy(self.url) {
            set(HeaderName::from_static("sec-fetch-dest"), dest(self.kind));
        }
        if let Some(referer) = self.page.and_then(|page| referer(page, self.url)) {
            set(REFERER, &referer);
        }
        if let Some(cookies) = &self.cookies {
            set(COOKIE, cookies);
        }
        request
    }
}

/// How much of an answer is read as text.
fn most_text(kind: Option<Kind>, headers: &HeaderMap) -> usize {
    let is = |what: &str| {
        let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        value.map(|value| {
            value
                .get(..what.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(what.as_bytes()))
        })
    };
    match kind {
        None if is("text/html").or(is("application/xhtml")).unwrap_or(true) => LARGEST_PAGE,
        Some(Kind::Style) if is("text/css").unwrap_or(false) => LARGEST_STYLESHEET,
        _ => 0,
    }
}

/// A kept body as text.
fn text(
    kind: Option<Kind>,
    headers: &HeaderMap,
    bytes: Option<Bytes>,
) -> Result<Option<String>, Trouble> {
    let Some(bytes) = bytes else {
        let too_large = kind.is_none() && most_text(kind, headers) > 0;
        return if too_large {
            Err(Trouble::TooLarge)
        } else {
            Ok(None)
        };
    };
    let bytes = match Coding::of(headers) {
        Ok(None) => bytes,
        Ok(Some(coding)) => decode_all(coding, &bytes, LARGEST_PAGE).map_err(|_| Trouble::Cut)?,
        Err(_) => return Ok(None),
    };
    // Links are ASCII in every charset that browsers read pages in but UTF-16.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// As browsers have it.
const fn accept(kind: Option<Kind>) -> &'static str {
    match kind {
        None => "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        Some(Kind::Style) => "text/css,*/*;q=0.1",
        Some(Kind::Image) => "image/avif,image/webp,image/svg+xml,image/*,*/*;q=0.8",
        Some(Kind::Script | Kind::Media | Kind::Font) => "*/*",
    }
}

/// `Sec-Fetch-Dest`.
const fn dest(kind: Option<Kind>) -> &'static str {
    match kind {
        None => "document",
        Some(Kind::Style) => "style",
        Some(Kind::Image) => "image",
        Some(Kind::Script) => "script",
        Some(Kind::Media) => "video",
        Some(Kind::Font) => "font",
    }
}

/// Whether browsers tell a server what they fetch for: by TLS, or on their own machine (W3C Secure Contexts, 3.1).
fn is_trustworthy(url: &Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(Name::Ipv4(address)) => address.is_loopback(),
            Some(Name::Ipv6(address)) => address.is_loopback(),
            Some(Name::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        }
}

/// `Referer` by the policy that browsers have where a page says nothing: strict-origin-when-cross-origin.
fn referer(page: &Url, url: &Url) -> Option<String> {
    if page.origin() == url.origin() {
        return Some(page[..Position::AfterQuery].to_owned());
    }
    let downgrade = page.scheme() == "https" && url.scheme() != "https";
    (!downgrade).then(|| format!("{}/", page.origin().ascii_serialization()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn request(ask: Ask<'_>) -> (String, Vec<String>) {
        let request = ask.request();
        let headers = request.headers().iter();
        let lines = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        (request.uri().to_string(), lines.collect())
    }

    #[test]
    fn asks_as_browsers_do() {
        let page = url("http://site.example/news/?a=1#top");
        let (target, lines) = request(Ask {
            url: &url("http://127.0.0.1:81/a%20b.png?v=2"),
            kind: Some(Kind::Image),
            page: Some(&page),
            cookies: Some("visitor=7".to_owned()),
            visitor: 7,
        });
        assert_eq!(target, "/a%20b.png?v=2");
        for line in [
            "host: 127.0.0.1:81",
            "sec-fetch-dest: image",
            "referer: http://site.example/",
            "cookie: visitor=7",
            "accept-encoding: identity",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}: {lines:?}");
        }
        let (target, lines) = request(Ask {
            url: &page,
            kind: None,
            page: None,
            cookies: None,
            visitor: 0,
        });
        assert_eq!(target, "/news/?a=1");
        assert!(
            lines.contains(&"host: site.example".to_owned()),
            "{lines:?}"
        );
        let told = |name: &str| lines.iter().any(|line| line.starts_with(name));
        assert!(!told("sec-fetch-dest") && !told("referer") && !told("cookie"));
    }

    #[test]
    fn tells_of_the_page_what_browsers_tell() {
        let page = url("https://site.example/a?b#c");
        assert_eq!(
            referer(&page, &url("https://site.example/x")).as_deref(),
            Some("https://site.example/a?b")
        );
        assert_eq!(
            referer(&page, &url("https://eu.example/x")).as_deref(),
            Some("https://site.example/")
        );
        assert_eq!(referer(&page, &url("http://eu.example/x")), None);
    }
}
