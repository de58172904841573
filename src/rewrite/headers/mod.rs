//! The headers of a page that is rewritten, both ways.

use std::time::Duration;

use http::{HeaderMap, Method, response::Parts};

/// Names a server and the rules in validators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(Box<str>);

impl Tag {
    /// The tag of pages rewritten for `server` by the rules of `version`.
    #[must_use]
    pub fn new(_server: &str, _version: u32) -> Self {
        todo!()
    }

    /// `ov` and some hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Translates the conditions of a request for the inner service.
pub fn prepare_request(_headers: &mut HeaderMap, _tag: Option<&Tag>, _page_expected: bool) {
    todo!()
}

/// The headers of a rewritten page.
pub fn rewritten(_headers: &mut HeaderMap, _tag: &Tag, _remaining_hold: Duration) {
    todo!()
}

/// The headers of a 304 that answers a translated condition.
pub fn not_modified(_headers: &mut HeaderMap, _tag: &Tag, _remaining_hold: Duration) {
    todo!()
}

/// Why a response is not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unqualified {
    /// Neither GET nor HEAD.
    Method,
    /// Not 200.
    Status,
    /// Not `text/html`.
    Type,
    /// In a charset that is not ASCII-compatible.
    Charset,
    /// Encoded.
    Encoding,
    /// A part.
    Range,
    /// `no-transform`.
    NoTransform,
    /// An attachment.
    Attachment,
    /// `Cross-Origin-Embedder-Policy: require-corp`.
    Embedder,
}

/// Whether a response is a page to rewrite.
///
/// # Errors
/// The first reason why it is not.
pub fn qualifies(_parts: &Parts, _method: &Method) -> Result<(), Unqualified> {
    todo!()
}

/// Whether the charset in `content_type` is one that ASCII can be inserted into.
#[must_use]
pub fn is_rewritable_charset(_content_type: &str) -> bool {
    todo!()
}
