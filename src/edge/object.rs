//! One object that is kept, small: one piece of memory for all of it.
//!
//! A `HeaderMap` takes more than a kilobyte for ten headers. So they are written one after the other, the
//! usual names as a number, between the target with the values that select a variant, and the body. What goes
//! out are slices of that piece: nothing is copied.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::policy::Life;

/// Names that are written as their place here.
static USUAL: [HeaderName; 24] = [
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::CACHE_CONTROL,
    header::VARY,
    header::CONTENT_ENCODING,
    header::DATE,
    header::SERVER,
    header::EXPIRES,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::CONTENT_SECURITY_POLICY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::REFERRER_POLICY,
    header::LINK,
    header::VIA,
    header::ACCEPT_RANGES,
    header::CONTENT_LOCATION,
    header::PRAGMA,
    header::X_XSS_PROTECTION,
    header::ALT_SVC,
    header::WARNING,
    header::RETRY_AFTER,
];
/// What stands for a name that is written out.
const WRITTEN_OUT: u8 = u8::MAX;

/// Which object: the site, the target, and the values of the headers that its `Vary` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) site: u16,
    pub(super) target: &'a str,
    pub(super) variant: &'a [u8],
}

/// An object that is kept.
#[derive(Debug)]
pub(super) struct Object {
    /// Target, variant, headers, body.
    all: Bytes,
    pub(super) life: Life,
    /// Where the body begins.
    body: u32,
    status: u16,
    site: u16,
    target: u16,
    variant: u16,
}

// === impl Object ===

impl Object {
    /// [`None`]: its head is too large to be kept.
    pub(super) fn new(
        name: Name<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        life: Life,
    ) -> Option<Self> {
        let mut head = BytesMut::with_capacity(1024);
        head.put_slice(name.target.as_bytes());
        head.put_slice(name.variant);
        for (name, value) in headers {
            match USUAL.iter().position(|usual| usual == name) {
                Some(place) => head.put_u8(u8::try_from(place).ok()?),
                None => {
                    head.put_u8(WRITTEN_OUT);
                    head.put_u8(u8::try_from(name.as_str().len()).ok()?);
                    head.put_slice(name.as_str().as_bytes());
                }
            }
            head.put_u16(u16::try_from(value.len()).ok()?);
            head.put_slice(value.as_bytes());
        }
        Some(Self {
            // Exactly as large as it has to be.
            all: Bytes::from([&head, body].concat().into_boxed_slice()),
            body: u32::try_from(head.len()).ok()?,
            life,
            status: status.as_u16(),
            site: name.site,
            target: u16::try_from(name.target.len()).ok()?,
            variant: u16::try_from(name.variant.len()).ok()?,
        })
    }

    pub(super) fn with_life(&self, life: Life) -> Self {
        Self {
            all: self.all.clone(),
            life,
            ..*self
        }
    }

    pub(super) fn body(&self) -> Bytes {
        self.all.slice(self.body as usize..)
    }

    pub(super) fn length(&self) -> u64 {
        (self.all.len() - self.body as usize) as u64
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK)
    }

    pub(super) fn is(&self, name: Name<'_>) -> bool {
        let (target, variant) = (usize::from(self.target), usize::from(self.variant));
        self.site == name.site
            && target == name.target.len()
            && variant == name.variant.len()
            && self.all[..target] == *name.target.as_bytes()
            && self.all[target..target + variant] == *name.variant
    }

    pub(super) fn site(&self) -> u16 {
        self.site
    }

    pub(super) fn target(&self) -> &[u8] {
        &self.all[..usize::from(self.target)]
    }

    pub(super) fn variant(&self) -> &[u8] {
        let target = usize::from(self.target);
        &self.all[target..target + usize::from(self.variant)]
    }

    /// Its headers, with room for `more`.
    pub(super) fn headers(&self, more: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(12 + more);
        let mut at = usize::from(self.target) + usize::from(self.variant);
        while let Some((name, value, next)) = self.line(at) {
            headers.append(name, value);
            at = next;
        }
        headers
    }

    fn line(&self, mut at: usize) -> Option<(HeaderName, HeaderValue, usize)> {
        let head = &self.all[..self.body as usize];
        let place = *head.get(at)?;
        at += 1;
        let name = if place == WRITTEN_OUT {
            let end = at + 1 + usize::from(*head.get(at)?);
            let name = HeaderName::from_bytes(head.get(at + 1..end)?).ok()?;
            at = end;
            name
        } else {
            USUAL.get(usize::from(place))?.clone()
        };
        let length = u16::from_be_bytes(*head.get(at..)?.first_chunk()?);
        let end = at + 2 + usize::from(length);
        let value = (end <= head.len()).then(|| self.all.slice(at + 2..end))?;
        Some((name, HeaderValue::from_maybe_shared(value).ok()?, end))
    }

    /// What it takes, with what the table around it takes.
    pub(super) fn weight(&self) -> u64 {
        /// Of the table, its queues, this struct, and what the allocator adds: measured on the process, so that
        /// `edge.memory` is what is really taken (benches/RESULTS.md).
        const AROUND: u64 = 512;
        AROUND + self.all.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life {
        born: 0,
        fresh: 1,
        while_revalidate: 0,
        if_error: 0,
    };

    #[test]
    fn what_was_kept_comes_back() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/css"),
            ("link", "</a>; rel=preload"),
            ("link", "</b>; rel=preload"),
            ("x-own", "\u{e9}"),
            ("x-empty", ""),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let name = Name {
            site: 3,
            target: "/a?b",
            variant: b"gzip",
        };
        let object = Object::new(name, StatusCode::NOT_FOUND, &headers, b"body", LIFE).unwrap();
        assert_eq!((object.body(), object.length()), ("body".into(), 4));
        assert_eq!(object.headers(0), headers);
        assert_eq!(object.status(), StatusCode::NOT_FOUND);
        assert!(object.is(name));
        for other in [
            Name { site: 2, ..name },
            Name {
                target: "/a?bg",
                ..name
            },
            Name {
                target: "/a?bgzip",
                variant: b"",
                ..name
            },
            Name {
                variant: b"gziq",
                ..name
            },
        ] {
            assert!(!object.is(other), "{other:?}");
        }
    }

    #[test]
    fn a_head_that_is_too_large_is_not_kept() {
        let mut headers = HeaderMap::new();
        let long = "a".repeat(70_000);
        headers.insert("x-long", HeaderValue::try_from(long).unwrap());
        let name = Name {
            site: 0,
            target: "/",
            variant: b"",
        };
        assert!(Object::new(name, StatusCode::OK, &headers, b"", LIFE).is_none());
    }
}
