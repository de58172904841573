//! Which coding a client gets (RFC 9110 section 12.5.3).

use http::{HeaderMap, header::ACCEPT_ENCODING};

use crate::rewrite::coding::Coding;

/// The codings that files are served in: where a client likes several as well, the first.
pub(super) const CODINGS: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

/// How much a client likes each of [`CODINGS`], and the file as it is: in thousandths, 0: not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    codings: [u16; CODINGS.len()],
    identity: u16,
}

// === impl Accepted ===

impl Accepted {
    /// Without the header nothing but the file as it is: whoever can decode says so.
    const NOTHING: Self = Self {
        codings: [0; CODINGS.len()],
        identity: 1,
    };

    /// Reads `Accept-Encoding`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut codings = [None; CODINGS.len()];
        let (mut identity, mut any) = (None, None);
        for line in headers.get_all(ACCEPT_ENCODING) {
            for member in line.as_bytes().split(|byte| *byte == b',') {
                let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                let name = parts.next().unwrap_or_default();
                let weight = match (parts.next(), parts.next()) {
                    (None, _) => Some(1000),
                    (Some(parameter), None) => weight(parameter),
                    _ => None,
                };
                // A member that can't be read is none.
                let Some(weight) = weight else { continue };
                if name == b"*" {
                    any = Some(weight);
                } else if name.eq_ignore_ascii_case(b"identity") {
                    identity = Some(weight);
                } else if let Some(place) = place(name) {
                    codings[place] = Some(weight);
                }
            }
        }
        Self {
            codings: codings.map(|weight| weight.or(any).unwrap_or(0)),
            // Good enough unless it is refused, but any coding that is named is better.
            identity: identity.or(any).unwrap_or(Self::NOTHING.identity),
        }
    }

    /// The position of the coding to serve, of those that are `there`; [`None`]: the file as it is, also where that is
    /// refused and there is nothing else.
    pub(super) fn best(self, there: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut most = 0;
        for (place, weight) in self.codings.into_iter().enumerate() {
            if weight > most && there(place) {
                (best, most) = (Some(place), weight);
            }
        }
        best.filter(|_| most >= self.identity)
    }
}

fn place(name: &[u8]) -> Option<usize> {
    let coding = if name.eq_ignore_ascii_case(b"br") {
        Coding::Brotli
    } else if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
        Coding::Gzip
    } else if name.eq_ignore_ascii_case(b"zstd") {
        Coding::Zstd
    } else {
        return None;
    };
    CODINGS.iter().position(|known| *known == coding)
}

/// `q=` and `0` to `1` with at most three digits after the point (RFC 9110 section 12.4.2), in thousandths.
fn weight(parameter: &[u8]) -> Option<u16> {
    let ([b'q' | b'Q', b'=', whole @ (b'0' | b'1')], rest) = parameter.split_at_checked(3)? else {
        return None;
    };
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let thousandths = [100, 10, 1]
        .into_iter()
        .zip(digits)
        .map(|(place, digit)| place * u16::from(digit - b'0'))
        .sum::<u16>();
    let weight = u16::from(whole - b'0') * 1000 + thousandths;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn accepted(lines: &[&str]) -> Accepted {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
        }
        Accepted::of(&headers)
    }

    #[test]
    fn the_best_that_is_accepted_and_there() {
        const ALL: [bool; 3] = [true; 3];
        let (br, zstd, gzip) = (Some(0), Some(1), Some(2));
        for (line, there, expected) in [
            ("gzip, deflate, br, zstd", ALL, br),
            ("gzip, deflate, br, zstd", [false, true, true], zstd),
            ("gzip, deflate, br, zstd", [false, false, true], gzip),
            ("gzip, deflate, br, zstd", [false; 3], None),
            ("gzip", ALL, gzip),
            ("X-GZIP ; Q=0.5", ALL, gzip),
            ("br;q=0.5, gzip", ALL, gzip),
            ("br;q=0.999, gzip;q=1.000", ALL, gzip),
            ("br;q=0, *", ALL, zstd),
            ("br;q=0", ALL, None),
            ("br;q=0.0, gzip;q=0.001", ALL, gzip),
            ("*", ALL, br),
            ("*;q=0", ALL, None),
            ("identity, gzip;q=0.5", ALL, None),
            ("identity;q=0.5, gzip;q=0.5", ALL, gzip),
            ("identity;q=0", ALL, None),
            ("gzip;q=2", ALL, None),
            ("gzip;q=0.1234", ALL, None),
            ("gzip;q=", ALL, None),
            ("gzip;q=1;x=2", ALL, None),
            ("gzip;level=1", ALL, None),
            ("compress, deflate", ALL, None),
            ("", ALL, None),
            (",,gzip,", ALL, gzip),
        ] {
            let best = accepted(&[line]).best(|place| there[place]);
            assert_eq!(best, expected, "{line}");
        }
        assert_eq!(accepted(&[]).best(|_| true), None);
        assert_eq!(accepted(&[]), Accepted::NOTHING);
        assert_eq!(accepted(&["gzip", "br"]).best(|_| true), br);
    }

    proptest! {
        #[test]
        fn any_text_is_read(line in "[ -~\t]{0,80}") {
            accepted(&[&line]).best(|_| true);
        }

        #[test]
        fn what_is_served_is_one_of_those_that_are_liked_most(
            br in prop::option::of(0..=1000_u16),
            zstd in prop::option::of(0..=1000_u16),
            gzip in prop::option::of(0..=1000_u16),
            identity in prop::option::of(0..=1000_u16),
            there: [bool; 3],
        ) {
            let names = ["br", "zstd", "gzip", "identity"];
            let weights = [br, zstd, gzip, identity];
            let line: Vec<_> = names
                .iter()
                .zip(weights)
                .filter_map(|(name, weight)| {
                    let weight = weight?;
                    Some(format!("{name};q={}.{:03}", weight / 1000, weight % 1000))
                })
                .collect();
            let best = accepted(&[&line.join(", ")]).best(|place| there[place]);
            let liked = |place: usize| weights[place].filter(|_| there[place]).unwrap_or(0);
            let most = (0..3).map(liked).max().unwrap_or(0);
            match best {
                Some(place) => prop_assert!(liked(place) == most && most > 0 && most >= identity.unwrap_or(0)),
                None => prop_assert!(most == 0 || identity.is_some_and(|identity| identity > most)),
            }
        }
    }
}
