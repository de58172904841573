//! Who the client was, told to the upstream.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

/// An extension of a request: its peer is a proxy whose word on the client counts. Without it, what the
/// request says about its way is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedForwarding;

/// It came over TLS, so `X-Forwarded-Proto` is `https`.
pub use crate::offload::OverTls;
use crate::offload::Peer;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Applications believe these, too: a client must not set them.
const ALSO_BELIEVED: [&str; 2] = ["forwarded", "x-real-ip"];

/// The other end of a connection, for what comes over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// [`TrustedForwarding`].
    pub(crate) is_trusted: bool,
    /// [`OverTls`].
    pub(crate) over_tls: bool,
}

// === impl Origin ===

impl Origin {
    /// The same, for who has an own opinion on trust.
    pub(crate) const fn peer(self) -> Peer {
        Peer {
            address: Some(self.address),
            over_tls: self.over_tls,
        }
    }
}

/// What is known of a request's way to us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    /// The other end of the connection.
    pub(super) peer: Option<IpAddr>,
    /// [`TrustedForwarding`].
    pub(super) is_trusted: bool,
    /// [`OverTls`].
    pub(super) is_tls: bool,
    /// The host that was asked for.
    pub(super) host: Option<&'a HeaderValue>,
}

/// Writes `X-Forwarded-For`, `-Proto` and `-Host`; `forwarded`: and `Forwarded`.
pub(super) fn write_forwarded(headers: &mut HeaderMap, way: Way<'_>, forwarded: bool) {
    let unwanted: Vec<HeaderName> = headers
        .keys()
        // Nearly all begin with another letter.
        .filter(|name| matches!(name.as_str().as_bytes(), [b'x' | b'f', ..]))
        .filter(|name| is_disguised(name) || (!way.is_trusted && is_believed(name.as_str())))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    if forwarded && let Some(elements) = elements(headers, way) {
        headers.insert(FORWARDED, elements);
    }
    if let Some(peer) = way.peer {
        let chain = chain(headers, peer.to_canonical());
        headers.insert(FOR, chain);
    }
    let proto = HeaderValue::from_static(if way.is_tls { "https" } else { "http" });
    headers.entry(PROTO).or_insert(proto);
    if let Some(host) = way.host {
        headers.entry(HOST).or_insert_with(|| host.clone());
    }
}

/// Whether applications believe it. All of these begin with an `x` or an `f`.
fn is_believed(name: &str) -> bool {
    name.starts_with("x-forwarded-") || ALSO_BELIEVED.contains(&name)
}

/// Whether it is one of those, but for an underscore: no proxy writes them so, and CGI and its like know no difference
/// between these and the real ones.
fn is_disguised(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.contains('_') && is_believed(&name.replace('_', "-"))
}

/// The hops so far and the last one, as RFC 7239 section 4 writes them. Where whoever is trusted has told them in
/// `X-Forwarded-For` alone they are taken from there: `Forwarded` must not tell less.
fn elements(headers: &HeaderMap, way: Way<'_>) -> Option<HeaderValue> {
    let mut elements: Vec<u8> = Vec::new();
    let mut next = |element: &[u8]| {
        if !elements.is_empty() {
            elements.extend_from_slice(b", ");
        }
        elements.extend_from_slice(element);
    };
    if headers.contains_key(FORWARDED) {
        for line in headers.get_all(FORWARDED) {
            next(line.as_bytes());
        }
    } else {
        let lines = headers.get_all(FOR).iter();
        let hops = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
        for hop in hops {
            let address = std::str::from_utf8(hop.trim_ascii()).ok();
            let address = address.and_then(|hop| hop.parse().ok());
            next(node(address).as_bytes());
        }
    }
    let mut last = node(way.peer.map(|peer| peer.to_canonical()));
    if let Some(host) = way.host.and_then(|host| host.to_str().ok()) {
        last.extend([";host=\"", host, "\""]);
    }
    last += if way.is_tls {
        ";proto=https"
    } else {
        ";proto=http"
    };
    next(last.as_bytes());
    HeaderValue::from_bytes(&elements).ok()
}

fn node(address: Option<IpAddr>) -> String {
    match address {
        Some(IpAddr::V4(address)) => format!("for={address}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        None => "for=unknown".to_owned(),
    }
}

/// The addresses so far, and the peer's: one line, since not every application reads more.
fn chain(headers: &HeaderMap, peer: IpAddr) -> HeaderValue {
    // An address of either kind.
    let mut chain: Vec<u8> = Vec::with_capacity(39);
    for line in headers.get_all(FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    match peer {
        IpAddr::V4(address) => write_octets(&mut chain, address.octets()),
        IpAddr::V6(address) => chain.extend_from_slice(address.to_string().as_bytes()),
    }
    HeaderValue::from_bytes(&chain).expect("header values and an address make a header value")
}

/// As `to_string` would, in a tenth of the time: it is done for every request.
fn write_octets(text: &mut Vec<u8>, octets: [u8; 4]) {
    for (place, octet) in octets.into_iter().enumerate() {
        if place > 0 {
            text.push(b'.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
        let first = usize::from(octet < 100) + usize::from(octet < 10);
        text.extend_from_slice(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_written_as_addresses_are() {
        for octets in [[0, 9, 10, 99], [100, 199, 200, 255], [127, 0, 0, 1]] {
            let mut text = Vec::new();
            write_octets(&mut text, octets);
            let address = std::net::Ipv4Addr::from(octets);
            assert_eq!(text, address.to_string().as_bytes());
        }
    }

    fn told(
        lines: &[(&'static str, &str)],
        peer: &str,
        is_trusted: bool,
        is_tls: bool,
    ) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let host = HeaderValue::from_static("shop.example");
        let peer = peer.parse().ok();
        write_forwarded(
            &mut headers,
            Way {
                peer,
                is_trusted,
                is_tls,
                host: Some(&host),
            },
            false,
        );
        let mut told: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        told.sort();
        told
    }

    const CLAIMS: [(&str, &str); 9] = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "5.6.7.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/admin"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        // An application behind CGI or WSGI takes these for the same.
        ("x_forwarded_for", "1.2.3.4"),
        ("x-real_ip", "1.2.3.4"),
    ];

    #[test]
    fn a_strangers_claims_are_replaced() {
        assert_eq!(
            told(&CLAIMS, "::ffff:192.0.2.7", false, false),
            [
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: http"
            ]
        );
        assert_eq!(
            told(&CLAIMS, "unknown", false, true),
            ["x-forwarded-host: shop.example", "x-forwarded-proto: https"]
        );
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_the_proxy_appended() {
        assert_eq!(
            told(&CLAIMS, "2001:db8::1", true, false),
            [
                "forwarded: for=1.2.3.4",
                "x-forwarded-for: 1.2.3.4, 5.6.7.8, 2001:db8::1",
                "x-forwarded-host: evil.example",
                "x-forwarded-prefix: /admin",
                "x-forwarded-proto: https",
                "x-real-ip: 1.2.3.4",
            ]
        );
        assert_eq!(
            told(&[], "192.0.2.7", true, false),
            [
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: http"
            ]
        );
    }

    #[test]
    fn forwarded_tells_every_hop_of_those_who_are_believed() {
        let host = HeaderValue::from_static("shop.example:8443");
        let told = |lines: &[(&'static str, &'static str)], is_trusted| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            let way = Way {
                peer: "2001:db8::1".parse().ok(),
                is_trusted,
                is_tls: true,
                host: Some(&host),
            };
            write_forwarded(&mut headers, way, true);
            headers["forwarded"].to_str().unwrap().to_owned()
        };
        let last = "for=\"[2001:db8::1]\";host=\"shop.example:8443\";proto=https";
        assert_eq!(told(&CLAIMS, false), last);
        assert_eq!(told(&CLAIMS, true), format!("for=1.2.3.4, {last}"));
        let chain = [("x-forwarded-for", "192.0.2.1, 2001:db8::2, x")];
        assert_eq!(
            told(&chain, true),
            format!("for=192.0.2.1, for=\"[2001:db8::2]\", for=unknown, {last}")
        );
    }
}
