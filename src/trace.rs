//! W3C Trace Context, level 1: whose part of which trace a request is.
//!
//! A `traceparent` that is well formed goes on to the upstream as it came, with its `tracestate`. One that is not is
//! no trace: both are taken off, as the specification asks, and whoever comes next may begin a new one.
//!
//! ```
//! use overspill::trace::TraceParent;
//!
//! let header = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
//! let parent = TraceParent::parse(header).unwrap();
//! assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
//! assert!(parent.is_sampled());
//! ```

use std::fmt;

use http::{HeaderMap, HeaderName};

/// `traceparent`.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The name of a trace: never all zeros. Shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

/// The name of a span of it: never all zeros. Shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

/// What a `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The span that the request is of.
    pub span: SpanId,
    /// Bit 0: it is recorded.
    pub flags: u8,
}

// === impl TraceId ===

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl SpanId ===

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl TraceParent ===

impl TraceParent {
    /// Reads the value of one header: of version 00 exactly what that says, of later ones what they have in common with
    /// it (Trace Context 3.2).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(55)?;
        let [version] = hex(&known[..2])?;
        let dashes = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        let trace: [u8; 16] = hex(&known[3..35])?;
        let span: [u8; 8] = hex(&known[36..52])?;
        let [flags] = hex(&known[53..])?;
        (dashes && ends && trace != [0; 16] && span != [0; 8]).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags,
        })
    }

    /// What these headers say, where they say it once.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Whether its sender records the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// As version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags & 1)
    }
}

/// Takes off what is no trace: a malformed or repeated `traceparent`, and a `tracestate` without one.
pub fn tidy(headers: &mut HeaderMap) {
    if TraceParent::of(headers).is_none() {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    }
}

/// Lower-case digits alone: upper case is malformed.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? * 16 + value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn reads_what_the_specification_allows_and_nothing_else() {
        for (value, good) in [
            (GOOD, true),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                true,
            ),
            // A later version may say more, after a dash.
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                true,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                true,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                false,
            ),
            (
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                false,
            ),
            (
                "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-011",
                false,
            ),
            ("", false),
        ] {
            let parsed = TraceParent::parse(value.as_bytes());
            assert_eq!(parsed.is_some(), good, "{value}");
        }
        let parsed = TraceParent::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(parsed.to_string(), GOOD);
        assert!(parsed.is_sampled());
    }

    #[test]
    fn what_is_no_trace_is_taken_off() {
        let headers = |parents: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(&TRACESTATE, HeaderValue::from_static("a=b"));
            for parent in parents {
                headers.append(&TRACEPARENT, HeaderValue::from_static(parent));
            }
            tidy(&mut headers);
            headers.len()
        };
        assert_eq!(headers(&[GOOD]), 2);
        assert_eq!(headers(&[GOOD, GOOD]), 0);
        assert_eq!(headers(&["00-1-2-3"]), 0);
        assert_eq!(headers(&[]), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(value: Vec<u8>) {
            let _ = TraceParent::parse(&value);
        }

        #[test]
        fn what_is_written_is_read_again(trace: [u8; 16], span: [u8; 8], flags in 0_u8..2) {
            let parent = TraceParent { trace: TraceId(trace), span: SpanId(span), flags };
            let is_one = trace != [0; 16] && span != [0; 8];
            proptest::prop_assert_eq!(TraceParent::parse(parent.to_string().as_bytes()), is_one.then_some(parent));
        }
    }
}
