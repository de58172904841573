//! Who asks: the address, the identity, and one client key for both.
//!
//! Everything a client says of itself can be made up. So an address is taken from a header only where the
//! connection comes from a trusted proxy, and then the last one that no trusted proxy added; an identity
//! header likewise; an identity cookie carries an HMAC where a key is configured.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;

use super::{
    classes::only,
    compiled::{Compiled, Identity},
    stay::{hex, mac},
};
use crate::servers::{Client, hash};

/// Who asks, with what `peer` (the other end of the connection) and the headers tell.
pub(super) fn client<'a>(
    peer: Option<IpAddr>,
    headers: &'a HeaderMap,
    compiled: &Compiled,
) -> Client<'a> {
    let peer = peer.map(|address| address.to_canonical());
    let trusted = is_trusted(peer, &compiled.trusted_proxies);
    let address = if trusted {
        forwarded(headers, &compiled.trusted_proxies).or(peer)
    } else {
        peer
    };
    let identity = compiled
        .identity
        .as_ref()
        .and_then(|identity| identity.of(headers, trusted));
    Client {
        hash: key(address, identity),
        address,
        identity,
    }
}

/// The address alone.
#[cfg(feature = "server")]
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, compiled: &Compiled) -> IpAddr {
    let peer = peer.to_canonical();
    let trusted = &compiled.trusted_proxies;
    let forwarded = is_trusted(Some(peer), trusted).then(|| forwarded(headers, trusted));
    forwarded.flatten().unwrap_or(peer)
}

/// Whether what `peer` says of others is believed.
pub(super) fn is_trusted(peer: Option<IpAddr>, trusted_proxies: &[IpNet]) -> bool {
    peer.is_some_and(|peer| {
        let peer = peer.to_canonical();
        trusted_proxies
            .iter()
            .any(|network| network.contains(&peer))
    })
}

/// A hash of the identity, else of the address. Of an IPv6 address the first 64 bits count: the rest is the
/// visitor's to choose.
pub(crate) fn key(address: Option<IpAddr>, identity: Option<&str>) -> u64 {
    match (identity, address) {
        (Some(identity), _) => hash::bytes(identity.as_bytes()),
        (None, Some(IpAddr::V4(address))) => hash::bytes(&address.octets()),
        (None, Some(IpAddr::V6(address))) => hash::bytes(&address.octets()[..8]),
        (None, None) => 0,
    }
}

/// The client's address as trusted proxies tell it: from the right, the first that is not itself trusted.
fn forwarded(headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Option<IpAddr> {
    let by_x = || {
        headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','))
    };
    // RFC 7239: `for=192.0.2.60;proto=http, for="[2001:db8::1]:4711"`.
    let by_standard = || {
        headers
            .get_all(header::FORWARDED)
            .iter()
            .rev()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','))
            .filter_map(|element| {
                element.split(';').find_map(|pair| {
                    let (name, value) = pair.split_once('=')?;
                    name.trim().eq_ignore_ascii_case("for").then_some(value)
                })
            })
    };
    // Beyond what can't be read nothing is known to be true.
    let addresses = |texts: &mut dyn Iterator<Item = &str>| {
        let mut last = None;
        for text in texts {
            let address = parse_address(text)?;
            last = Some(address);
            if !is_trusted(last, trusted_proxies) {
                break;
            }
        }
        last
    };
    addresses(&mut by_x()).or_else(|| addresses(&mut by_standard()))
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`, each possibly in quotes.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    text.parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse())
        .ok()
        .map(|address| address.to_canonical())
}

/// The value of the cookie called `name` (RFC 6265 section 4.2).
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.trim_matches('"'))
        })
}

// === impl Identity ===

impl Identity {
    fn of<'a>(&self, headers: &'a HeaderMap, peer_is_trusted: bool) -> Option<&'a str> {
        let identity = match self {
            Self::Header(name) if peer_is_trusted => only(headers, name)?,
            Self::Header(_) => return None,
            Self::Cookie { name, key: None } => cookie(headers, name)?,
            Self::Cookie {
                name,
                key: Some(key),
            } => {
                let (identity, shown) = cookie(headers, name)?.rsplit_once('.')?;
                let expected = hex(&mac(key.as_bytes(), &[identity.as_bytes()]));
                let shown = shown.to_ascii_lowercase();
                let genuine: bool =
                    subtle::ConstantTimeEq::ct_eq(shown.as_bytes(), expected.as_bytes()).into();
                genuine.then_some(identity)?
            }
        };
        (!identity.is_empty()).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap()]
    }

    fn address(pairs: &[(&'static str, &str)]) -> Option<String> {
        forwarded(&headers(pairs), &trusted()).map(|address| address.to_string())
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_added_is_the_clients() {
        let x = "x-forwarded-for";
        assert_eq!(
            address(&[(x, "203.0.113.9")]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            address(&[(x, "6.6.6.6, 203.0.113.9, 10.1.1.1")]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            address(&[(x, "6.6.6.6"), (x, "203.0.113.9")]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            address(&[(x, "10.1.1.1, 10.1.1.2")]).as_deref(),
            Some("10.1.1.1")
        );
        assert_eq!(
            address(&[(x, "203.0.113.9:1234")]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            address(&[(x, "::ffff:203.0.113.9")]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(address(&[(x, "unknown")]), None);
        assert_eq!(address(&[(x, "")]), None);
        let standard = "for=6.6.6.6, For=\"[2001:db8::7]:4711\";proto=https, for=10.1.1.1";
        assert_eq!(
            address(&[("forwarded", standard)]).as_deref(),
            Some("2001:db8::7")
        );
    }

    #[test]
    fn an_ipv6_visitor_is_its_network() {
        let key_of = |text: &str| key(Some(text.parse().unwrap()), None);
        assert_eq!(key_of("2001:db8::1"), key_of("2001:db8::2"));
        assert_ne!(key_of("2001:db8::1"), key_of("2001:db8:0:1::1"));
        assert_ne!(key_of("192.0.2.1"), key_of("192.0.2.2"));
    }

    #[test]
    fn an_identity_header_is_believed_from_trusted_proxies_only() {
        let identity = Identity::Header(HeaderName::from_static("x-user"));
        let headers = headers(&[("x-user", "gold-1")]);
        assert_eq!(identity.of(&headers, true), Some("gold-1"));
        assert_eq!(identity.of(&headers, false), None);
    }

    #[test]
    fn a_cookie_with_a_key_must_be_signed() {
        let plain = Identity::Cookie {
            name: "session".to_owned(),
            key: None,
        };
        let signed = Identity::Cookie {
            name: "session".to_owned(),
            key: Some("Jefe".to_owned()),
        };
        let mac = hex(&mac(b"Jefe", &[b"gold-1"]));
        let genuine = headers(&[("cookie", &format!("a=1; session=gold-1.{mac}"))]);
        assert_eq!(signed.of(&genuine, false), Some("gold-1"));
        let forged = headers(&[("cookie", &format!("session=gold-2.{mac}"))]);
        assert_eq!(signed.of(&forged, false), None);
        let unsigned = headers(&[("cookie", "session=gold-1")]);
        assert_eq!(signed.of(&unsigned, false), None);
        assert_eq!(plain.of(&unsigned, false), Some("gold-1"));
        assert_eq!(plain.of(&headers(&[("cookie", "session=")]), false), None);
    }

    proptest::proptest! {
        #[test]
        fn headers_of_any_kind_do_no_harm(x: Vec<u8>, cookie: Vec<u8>, standard: Vec<u8>) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [("x-forwarded-for", x), ("cookie", cookie), ("forwarded", standard)] {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.insert(name, value);
                }
            }
            let _ = forwarded(&headers, &trusted());
            let _ = super::cookie(&headers, "session");
        }
    }
}
