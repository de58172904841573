//! What a line says, gathered while its request is there: one piece of text with what the client said, and figures.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, Request, Version, header};

use crate::{
    level::Level,
    servers::Server,
    trace::{SpanId, TraceId},
};

/// The status of a connection that is closed without an answer, as nginx writes it.
pub(super) const CLOSED: u16 = 444;
/// The status of a request whose client went before there was an answer, as nginx writes it.
pub(super) const GONE: u16 = 499;

/// As much of each is kept, in bytes: lines wait in memory, and clients choose how long they are.
const MOST: [usize; FIELDS] = [64, 4096, 264, 1024, 512];
const FIELDS: usize = 5;

/// What a line says.
#[derive(Debug)]
pub(super) struct Entry {
    /// Method, target, host, referer, user agent, one after the other.
    pub(super) text: Vec<u8>,
    pub(super) ends: [usize; FIELDS],
    /// [`None`]: nothing was asked.
    pub(super) version: Option<Version>,
    pub(super) client: Option<IpAddr>,
    /// When the head was there.
    pub(super) at: SystemTime,
    /// From then to the end of the answer's body.
    pub(super) took: Duration,
    pub(super) status: u16,
    /// Of the body, as far as it was taken.
    pub(super) bytes: u64,
    /// The answer did not get to its end.
    pub(super) aborted: bool,
    pub(super) level: Option<Level>,
    pub(super) outcome: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
    pub(super) server: Option<Arc<Server>>,
    /// The mode is report.
    pub(super) report: bool,
    pub(super) trace: Option<TraceId>,
    /// Where spans are exported.
    pub(super) span: Option<Span>,
    /// How many requests the line stands for; 0: it is not to be written.
    pub(super) stands_for: u64,
}

/// The span of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    /// The client's.
    pub(super) parent: Option<SpanId>,
    pub(super) is_sampled: bool,
}

// === impl Entry ===

impl Entry {
    /// Of a connection from `client` that is closed unheard.
    pub(super) fn closed(client: IpAddr) -> Self {
        Self {
            text: Vec::new(),
            ends: [0; FIELDS],
            version: None,
            client: Some(client),
            at: SystemTime::now(),
            took: Duration::ZERO,
            status: CLOSED,
            bytes: 0,
            aborted: false,
            level: None,
            outcome: None,
            reason: None,
            server: None,
            report: false,
            trace: None,
            span: None,
            stands_for: 1,
        }
    }

    /// Of a request.
    pub(super) fn of<B>(request: &Request<B>, client: Option<IpAddr>) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        // Over HTTP/2 the target has the authority in it always; over HTTP/1.1 that is worth seeing.
        let whole = match uri.path_and_query() {
            Some(path) if uri.authority().is_none() || request.version() >= Version::HTTP_2 => {
                Ok(path.as_str())
            }
            _ => Err(uri.to_string()),
        };
        let target = match &whole {
            Ok(target) => target,
            Err(target) => target.as_str(),
        };
        let authority = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let fields = [
            request.method().as_str().as_bytes(),
            target.as_bytes(),
            authority.unwrap_or_else(|| value(headers, header::HOST)),
            value(headers, header::REFERER),
            value(headers, header::USER_AGENT),
        ];
        let fields =
            std::iter::zip(fields, MOST).map(|(field, most)| &field[..field.len().min(most)]);
        let mut text = Vec::with_capacity(fields.clone().map(<[u8]>::len).sum());
        let mut ends = [0; FIELDS];
        for (field, end) in fields.zip(&mut ends) {
            text.extend_from_slice(field);
            *end = text.len();
        }
        Self {
            text,
            ends,
            version: Some(request.version()),
            // Until there is an answer.
            status: GONE,
            aborted: true,
            client,
            ..Self::closed(IpAddr::from([0, 0, 0, 0]))
        }
    }

    fn field(&self, at: usize) -> &[u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin..self.ends[at]]
    }

    pub(super) fn method(&self) -> &[u8] {
        self.field(0)
    }

    pub(super) fn target(&self) -> &[u8] {
        self.field(1)
    }

    pub(super) fn host(&self) -> &[u8] {
        self.field(2)
    }

    pub(super) fn referer(&self) -> &[u8] {
        self.field(3)
    }

    pub(super) fn agent(&self) -> &[u8] {
        self.field(4)
    }

    /// `HTTP/1.1`; [`None`]: nothing was asked.
    pub(super) fn protocol(&self) -> Option<&'static str> {
        Some(match self.version? {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        })
    }

    /// What it takes while it waits, in bytes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.text.capacity()
    }
}

fn value(headers: &HeaderMap, name: HeaderName) -> &[u8] {
    headers.get(name).map_or(b"", |value| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: Version, uri: &str, lines: &[(&str, &str)]) -> Entry {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        Entry::of(&request.body(()).unwrap(), None)
    }

    #[test]
    fn keeps_what_the_client_said_up_to_a_length() {
        let headers = [
            ("host", "a.example"),
            ("user-agent", "x/1"),
            ("referer", "http://b/"),
        ];
        let met = entry(Version::HTTP_11, "/a?b", &headers);
        assert_eq!(met.method(), b"GET");
        assert_eq!(met.target(), b"/a?b");
        assert_eq!(met.host(), b"a.example");
        assert_eq!(met.referer(), b"http://b/");
        assert_eq!(met.agent(), b"x/1");
        let long = "x".repeat(9000);
        let met = entry(
            Version::HTTP_11,
            &format!("/{long}"),
            &[("user-agent", &long)],
        );
        assert_eq!(
            (met.target().len(), met.agent().len(), met.host().len()),
            (4096, 512, 0)
        );
    }

    #[test]
    fn tells_an_authority_only_where_it_is_out_of_place() {
        let met = entry(Version::HTTP_2, "http://a.example/x", &[]);
        assert_eq!((met.target(), met.host()), (&b"/x"[..], &b"a.example"[..]));
        let met = entry(Version::HTTP_11, "http://a.example/x", &[]);
        assert_eq!(met.target(), b"http://a.example/x");
        assert_eq!(
            entry(Version::HTTP_11, "a.example:443", &[]).target(),
            b"a.example:443"
        );
        assert_eq!(entry(Version::HTTP_11, "*", &[]).target(), b"*");
        assert_eq!(Entry::closed([1, 2, 3, 4].into()).target(), b"");
    }
}
