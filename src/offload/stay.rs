//! Who was let in stays in: a signed cookie.
//!
//! Admission is drawn anew every half minute, so that a retry has a new chance. Without this cookie it would
//! also throw out who is in the middle of a purchase. The cookie is `<expiry>.<mac>`: the second, counted
//! from 1970, until which it holds, and an HMAC-SHA256 over that and the client key, so that it can be
//! neither forged nor handed around.
//!
//! Where there are classes (`throttle.classes`) it lets stay in what was let in, and what is turned away later still:
//! `<expiry>.<priority>.<mac>` holds for classes of that priority or a higher one. Else whoever asked once for a path
//! that is let in would be in everywhere. (Without the number it is 0, the priority of who belongs to no class.)

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, header};
use sha2::Sha256;

use super::client::cookie;

const NAME: &str = "overspill_stay";

/// Makes and checks the cookies.
#[derive(Clone)]
pub(super) struct Stay {
    /// How long; zero: no cookies.
    length: Duration,
    key: [u8; 32],
}

impl std::fmt::Debug for Stay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stay")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

// === impl Stay ===

impl Stay {
    /// The key comes from `secret`, which several primaries may share; without one it is this process's own.
    pub(super) fn new(length: Duration, secret: &str) -> Self {
        let mut key = [0; 32];
        if secret.is_empty() {
            if let Err(error) = getrandom::fill(&mut key) {
                tracing::warn!(%error, "no randomness for the stay cookie: it is off");
                return Self {
                    length: Duration::ZERO,
                    key,
                };
            }
        } else {
            key = mac(secret.as_bytes(), &[b"overspill stay cookie"]);
        }
        Self { length, key }
    }

    /// The same for as long, with the key of `old`, whose secret is the same.
    pub(super) fn after(self, old: &Self) -> Self {
        Self {
            key: old.key,
            ..self
        }
    }

    fn mac(&self, expiry: u64, client: u64, priority: i32) -> String {
        let (expiry, client) = (expiry.to_be_bytes(), client.to_be_bytes());
        let priority = priority.to_be_bytes();
        let parts: [&[u8]; 3] = [&expiry, &client, &priority];
        // Primaries without classes know of no priority.
        let parts = if priority == [0; 4] {
            &parts[..2]
        } else {
            &parts
        };
        hex(&mac(&self.key, parts)[..16])
    }

    /// The lowest priority for which the request shows a cookie of this `client` that still holds at `unix_now`
    /// (seconds).
    pub(super) fn held(&self, headers: &HeaderMap, client: u64, unix_now: u64) -> Option<i32> {
        if self.length.is_zero() {
            return None;
        }
        let (expiry, rest) = cookie(headers, NAME)?.split_once('.')?;
        let expiry: u64 = expiry.parse().ok()?;
        // One that holds longer than any we make is not ours, whatever its MAC says.
        if !(unix_now..=unix_now + self.length.as_secs() + 1).contains(&expiry) {
            return None;
        }
        let (priority, shown) = match rest.split_once('.') {
            Some((priority, shown)) => (priority.parse().ok()?, shown),
            None => (0, rest),
        };
        let expected = self.mac(expiry, client, priority);
        let genuine: bool =
            subtle::ConstantTimeEq::ct_eq(shown.as_bytes(), expected.as_bytes()).into();
        genuine.then_some(priority)
    }

    /// The cookie for a `client` who was let in, as of a class of this `priority`; [`None`] where cookies are off.
    pub(super) fn cookie(&self, client: u64, priority: i32, unix_now: u64) -> Option<HeaderValue> {
        if self.length.is_zero() {
            return None;
        }
        let seconds = self.length.as_secs().max(1);
        let expiry = unix_now + seconds;
        let mac = self.mac(expiry, client, priority);
        let class = match priority {
            0 => String::new(),
            priority => format!("{priority}."),
        };
        HeaderValue::try_from(format!(
            "{NAME}={expiry}.{class}{mac}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"
        ))
        .ok()
    }
}

/// Adds `cookie` to an answer, which by that is for one visitor alone.
pub(super) fn give(headers: &mut HeaderMap, cookie: HeaderValue) {
    headers.append(header::SET_COOKIE, cookie);
    let is_private = headers.get_all(header::CACHE_CONTROL).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("private") || value.contains("no-store"))
    });
    if !is_private {
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// HMAC-SHA256 (RFC 2104) of the joined `parts`.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cookie: &HeaderValue) -> HeaderMap {
        let value = cookie.to_str().unwrap().split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::try_from(format!("a=b; {value}")).unwrap(),
        );
        headers
    }

    #[test]
    fn holds_for_its_client_and_its_time() {
        let stay = Stay::new(Duration::from_secs(300), "secret");
        let headers = shown(&stay.cookie(7, 0, 1_000).unwrap());
        assert_eq!(stay.held(&headers, 7, 1_000), Some(0));
        assert_eq!(stay.held(&headers, 7, 1_300), Some(0));
        assert_eq!(stay.held(&headers, 7, 1_301), None, "over");
        assert_eq!(stay.held(&headers, 8, 1_000), None, "somebody else");
        assert_eq!(stay.held(&HeaderMap::new(), 7, 1_000), None);
        let other_primary = Stay::new(Duration::from_secs(300), "secret");
        assert_eq!(
            other_primary.held(&headers, 7, 1_000),
            Some(0),
            "the secret is shared"
        );
        let stranger = Stay::new(Duration::from_secs(300), "");
        assert_eq!(stranger.held(&headers, 7, 1_000), None);
    }

    #[test]
    fn holds_for_the_priority_that_it_was_given_for_and_no_other() {
        let stay = Stay::new(Duration::from_secs(300), "secret");
        for priority in [1, -1, i32::MAX, i32::MIN] {
            let cookie = stay.cookie(7, priority, 1_000).unwrap();
            assert_eq!(stay.held(&shown(&cookie), 7, 1_000), Some(priority));
            // The number is signed: it can be neither changed nor left out.
            let text = cookie.to_str().unwrap();
            let number = format!(".{priority}.");
            assert!(text.contains(&number), "{text}");
            for other in [".", ".0.", ".2."] {
                let changed = HeaderValue::try_from(text.replace(&number, other)).unwrap();
                assert_eq!(stay.held(&shown(&changed), 7, 1_000), None, "{changed:?}");
            }
        }
        let plain = stay.cookie(7, 0, 1_000).unwrap();
        let text = plain.to_str().unwrap().replacen('.', ".-1.", 1);
        let changed = HeaderValue::try_from(text).unwrap();
        assert_eq!(stay.held(&shown(&changed), 7, 1_000), None);
    }

    #[test]
    fn a_forged_cookie_is_none() {
        let stay = Stay::new(Duration::from_secs(300), "secret");
        for value in [
            "1100",
            "1100.",
            "1100.00",
            ".",
            "..",
            "1100.1.00",
            "1100.x.00",
            "1100.99999999999.00",
            "x.y",
            "99999999999.0",
            "",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::COOKIE,
                HeaderValue::try_from(format!("{NAME}={value}")).unwrap(),
            );
            assert_eq!(stay.held(&headers, 7, 1_000), None, "{value}");
        }
    }

    #[test]
    fn can_be_off() {
        let stay = Stay::new(Duration::ZERO, "secret");
        assert!(stay.cookie(7, 0, 1_000).is_none());
    }

    #[test]
    fn the_mac_is_the_published_one() {
        // RFC 4231, test case 2.
        let mac = mac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            hex(&mac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
