//! Entity tags of rewritten pages (RFC 9110, 8.8.3).

use std::fmt;

use http::HeaderValue;
use sha2::{Digest, Sha256};

use crate::rewrite::{Rules, Target};

/// Names a server and the rules in validators: two pages rewritten from the same one are the same where
/// their tags are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(Box<str>);

/// What a tag looks like in front of the closing quote: this, then eight digits.
pub(super) const MARK: &[u8] = b"-ov";
const DIGITS: usize = 8;

// === impl Tag ===

impl Tag {
    /// The tag of pages rewritten for `target` by `rules`. It is the same in every process.
    #[must_use]
    pub fn new(target: &Target, rules: &Rules) -> Self {
        let mut hash = Sha256::new();
        for text in [target.name(), target.prefix()] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.update([u8::from(target.cors())]);
        hash.update(rules.version().to_be_bytes());
        let digest = hash.finalize();
        let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Self(format!("ov{number:08x}").into())
    }

    /// The tag of pages whose objects are spread over several servers. `version` names the servers, the rules, and
    /// which object goes where.
    #[must_use]
    pub fn of_several(version: u64) -> Self {
        Self(format!("ov{:08x}", version >> 32).into())
    }

    /// `ov` and eight hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ETag of the rewritten page whose own is `etag`: weak, since not its bytes but what it shows
    /// is the same. `None` where `etag` is none.
    pub(super) fn put_on(&self, etag: &HeaderValue) -> Option<HeaderValue> {
        let opaque = EntityTag::parse_one(etag.as_bytes())?.opaque;
        let value = [b"W/\"", opaque, b"-", self.0.as_bytes(), b"\""].concat();
        HeaderValue::from_bytes(&value).ok()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One entity tag of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntityTag<'a> {
    /// As it stands there.
    pub(super) text: &'a [u8],
    /// What is between the quotes.
    pub(super) opaque: &'a [u8],
}

// === impl EntityTag ===

impl<'a> EntityTag<'a> {
    /// The one entity tag that `bytes` is.
    fn parse_one(bytes: &'a [u8]) -> Option<Self> {
        match Self::parse(bytes.trim_ascii()) {
            Some((tag, [])) => Some(tag),
            _ => None,
        }
    }

    /// Every entity tag of a list; `None` where it is none.
    pub(super) fn parse_list(bytes: &'a [u8]) -> Option<Vec<Self>> {
        let mut tags = Vec::new();
        let mut rest = bytes.trim_ascii();
        while !rest.is_empty() {
            // Empty elements are allowed (RFC 9110, 5.6.1.2).
            if let Some(after) = rest.strip_prefix(b",") {
                rest = after.trim_ascii_start();
                continue;
            }
            let (tag, after) = Self::parse(rest)?;
            tags.push(tag);
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b",") {
                return None;
            }
        }
        Some(tags)
    }

    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let quoted = bytes.strip_prefix(b"W/").unwrap_or(bytes);
        let after = quoted.strip_prefix(b"\"")?;
        let end = after.iter().position(|b| *b == b'"')?;
        let rest = &after[end + 1..];
        let text = &bytes[..bytes.len() - rest.len()];
        Some((
            Self {
                text,
                opaque: &after[..end],
            },
            rest,
        ))
    }

    /// The page's own opaque tag and the mark that a rewriting put on it, if one did.
    pub(super) fn split(&self) -> Option<(&'a [u8], &'a [u8])> {
        let start = self.opaque.len().checked_sub(MARK.len() + DIGITS)?;
        let (own, marked) = self.opaque.split_at(start);
        let digits = marked.strip_prefix(MARK)?;
        let hexadecimal = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        // Without its dash, a mark is what `Tag` holds.
        digits
            .iter()
            .all(hexadecimal)
            .then_some((own, &marked[1..]))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use url::Url;

    use super::*;
    use crate::rewrite::Settings;

    pub(in super::super) fn tag(name: &str) -> Tag {
        let url = Url::parse("https://eu.example").unwrap();
        let rules = Rules::new(&Settings::default()).unwrap();
        Tag::new(&Target::new(name, &url, true).unwrap(), &rules)
    }

    #[test]
    fn a_tag_names_server_and_rules() {
        assert_eq!(tag("eu"), tag("eu"));
        assert_ne!(tag("eu"), tag("us"));
        assert!(tag("eu").as_str().starts_with("ov") && tag("eu").as_str().len() == 10);
    }

    #[test]
    fn what_is_put_on_comes_off() {
        let tag = tag("eu");
        for etag in ["\"abc\"", "W/\"abc\"", " \"abc\" "] {
            let marked = tag.put_on(&HeaderValue::from_static(etag)).unwrap();
            assert_eq!(marked, format!("W/\"abc-{tag}\""));
            let parsed = EntityTag::parse_one(marked.as_bytes()).unwrap();
            assert_eq!(parsed.split(), Some((&b"abc"[..], tag.as_str().as_bytes())));
        }
        for etag in ["abc", "\"abc", "\"a\"b\"", ""] {
            assert_eq!(tag.put_on(&HeaderValue::from_static(etag)), None, "{etag}");
        }
    }

    #[test]
    fn lists_are_read_with_commas_in_quotes() {
        let list = |text: &'static str| {
            EntityTag::parse_list(text.as_bytes())
                .map(|tags| tags.iter().map(|tag| tag.text).collect::<Vec<_>>())
        };
        assert_eq!(
            list("\"a,b\", W/\"c\",,"),
            Some(vec![&b"\"a,b\""[..], b"W/\"c\""])
        );
        assert_eq!(list(""), Some(vec![]));
        assert_eq!(list("\"a\" \"b\""), None);
        assert_eq!(list("*"), None);
    }
}
