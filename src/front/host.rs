//! Whose request it is: the one authority that it names.

use http::{Request, Version, header::HOST};

use super::{Rejection, bytes::letters_digits_and};

/// Longest host with its port: 255 bytes are the limit of DNS, the rest is room for brackets and port.
const MAX_HOST: usize = 264;

/// The host, with its port if it has one, that a request is for. `None` only for HTTP/1.0, which may
/// leave it out.
///
/// HTTP/1 names it in `Host` (RFC 9112 section 3.2), HTTP/2 in `:authority`, where a `Host` beside it
/// must say the same (RFC 9113 section 8.3.1).
///
/// # Errors
/// The host is missing, named twice, or none; or an HTTP/1 target is not in origin form.
pub fn authority<B>(request: &Request<B>) -> Result<Option<&str>, Rejection> {
    let mut lines = request.headers().get_all(HOST).iter();
    let header = match (lines.next(), lines.next()) {
        (_, Some(_)) => return Err(Rejection::HostTwice),
        (None, _) => None,
        (Some(line), None) => Some(line.to_str().map_err(|_| Rejection::HostStrange)?),
    };
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let is_http1 = request.version() <= Version::HTTP_11;
    if is_http1 && (authority.is_some() || request.uri().scheme().is_some()) {
        return Err(Rejection::Form);
    }
    let host = match (authority, header) {
        (Some(authority), Some(header)) if !authority.eq_ignore_ascii_case(header) => {
            return Err(Rejection::HostTwice);
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) if request.version() < Version::HTTP_11 => return Ok(None),
        (None, None) => return Err(Rejection::HostMissing),
    };
    if is_host(host.as_bytes()) {
        Ok(Some(host))
    } else {
        Err(Rejection::HostStrange)
    }
}

/// `host [ ":" port ]` of RFC 3986 section 3.2, without user information, and not empty: an empty host
/// is invalid under http (RFC 9110 section 4.2.1).
fn is_host(text: &[u8]) -> bool {
    if text.len() > MAX_HOST {
        return false;
    }
    if let [b'[', rest @ ..] = text
        && let Some((literal, rest)) = split(rest, b']')
    {
        return is_ip_literal(literal)
            && match rest {
                [] => true,
                [b':', port @ ..] => is_port(port),
                _ => false,
            };
    }
    let (host, port) = split(text, b':').unwrap_or((text, b""));
    !host.is_empty() && is_reg_name(host) && is_port(port)
}

/// What stands before the first `byte`, and what after it.
fn split(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|found| *found == byte)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Digits up to 65535. None at all is allowed: `example.com:` is `example.com`.
fn is_port(text: &[u8]) -> bool {
    let number = text.iter().try_fold(0_u16, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let number = number.checked_mul(10)?.checked_add(digit.into())?;
        (digit < 10).then_some(number)
    });
    number.is_some()
}

/// What stands between the brackets. IPvFuture has no user yet, and zone identifiers are local to a
/// machine (RFC 9844), so IPv6 it is.
fn is_ip_literal(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// `unreserved / sub-delims`.
static IN_NAMES: [bool; 256] = letters_digits_and(b"-._~!$&'()*+,;=");

/// `*( unreserved / pct-encoded / sub-delims )`.
fn is_reg_name(mut bytes: &[u8]) -> bool {
    loop {
        bytes = match bytes {
            [] => return true,
            [b, rest @ ..] if IN_NAMES[usize::from(*b)] => rest,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn takes_names_addresses_and_ports() {
        for host in [
            "example.com",
            "EXAMPLE.com:8080",
            "127.0.0.1:1",
            "[::1]",
            "[2001:db8::1]:443",
            "a-b_c.test:",
            "x%41",
        ] {
            assert_eq!(
                authority(&request(Version::HTTP_11, "/", &[host])),
                Ok(Some(host)),
                "{host}"
            );
        }
    }

    #[test]
    fn refuses_hosts_that_are_none() {
        let long = "a".repeat(300);
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "a\\b",
            "user@a",
            "a<b>",
            "a\"b",
            "a:b",
            "a:1:2",
            "a:99999",
            "a:+1",
            "[::1",
            "::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "a%4",
            "a%zz",
            "a?b",
            "a#b",
            "{a}",
            "a\tb",
            "a|b",
            "a^b",
            long.as_str(),
        ] {
            assert_eq!(
                authority(&request(Version::HTTP_11, "/", &[host])),
                Err(Rejection::HostStrange),
                "{host:?}"
            );
        }
        let mut binary = request(Version::HTTP_11, "/", &[]);
        binary
            .headers_mut()
            .insert(HOST, http::HeaderValue::from_bytes(b"a\xff").unwrap());
        assert_eq!(authority(&binary), Err(Rejection::HostStrange));
    }

    #[test]
    fn needs_exactly_one_host_and_a_path() {
        use Rejection::{Form, HostMissing, HostTwice};
        let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        for (version, uri, hosts, expected) in [
            (h11, "/", &[][..], Err(HostMissing)),
            (h10, "/", &[], Ok(None)),
            (h10, "/", &["a"], Ok(Some("a"))),
            (h11, "/", &["a", "a"], Err(HostTwice)),
            (h10, "/", &["a", "b"], Err(HostTwice)),
            (h11, "http://a/", &["a"], Err(Form)),
            (h11, "a:443", &["a"], Err(Form)),
            (h2, "http://a/", &[], Ok(Some("a"))),
            (h2, "http://a/", &["A"], Ok(Some("a"))),
            (h2, "http://a/", &["b"], Err(HostTwice)),
            (h2, "http://u@a/", &[], Err(Rejection::HostStrange)),
            (h2, "/", &["a"], Ok(Some("a"))),
            (h2, "/", &[], Err(HostMissing)),
        ] {
            assert_eq!(
                authority(&request(version, uri, hosts)),
                expected,
                "{version:?} {uri} {hosts:?}"
            );
        }
    }
}
