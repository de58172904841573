//! First sight of a page.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Kinds, Page, Rules, Target};

/// Why the rest of a page was passed on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BailOut {
    /// The scanner would have needed more memory than it may use.
    Memory,
    /// One tag is longer than a tag can sensibly be.
    TagSize,
    /// The page begins with the mark of UTF-16.
    Encoding,
    /// The page sets a content security policy in a `<meta>`.
    CspMeta,
    /// An AMP page: its scripts and styles are not free to move.
    Amp,
    /// The scanner refused the markup.
    Markup,
}

impl BailOut {
    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TagSize => "tag_size",
            Self::Encoding => "encoding",
            Self::CspMeta => "csp_meta",
            Self::Amp => "amp",
            Self::Markup => "markup",
        }
    }
}

/// What became of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many URLs were moved; a srcset counts each of its own.
    pub links: u32,
    /// Path and query of what was moved, in order, at most [`Summary::MAX_OBJECTS`], repeats included.
    pub objects: Vec<Box<str>>,
    /// Why the page's end was passed on as it came, if it was.
    pub bail_out: Option<BailOut>,
}

impl Summary {
    /// The most objects that are listed.
    pub const MAX_OBJECTS: usize = 512;
}

/// Rewrites one page as it streams by.
pub struct Rewriter {
    _todo: (Arc<Rules>, Page, Arc<Target>, Kinds),
}

impl Rewriter {
    /// A rewriter that moves the links of `page` that `rules` and `kinds` allow to `target`.
    #[must_use]
    pub fn new(rules: Arc<Rules>, page: Page, target: Arc<Target>, kinds: Kinds) -> Self {
        Self {
            _todo: (rules, page, target, kinds),
        }
    }

    /// Takes the next bytes of the page and appends what is ready to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(chunk);
    }

    /// The page has ended: appends what was held back and tells what was done. What is pushed later
    /// passes unchanged.
    pub fn finish(&mut self, _out: &mut BytesMut) -> Summary {
        Summary::default()
    }
}
