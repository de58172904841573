//! A change of a page, as it is for every server: what it takes of the server is written down beside it.

use std::{ops::Range, sync::Arc};

use super::{Kind, Kinds, Private, Target, csp::MetaPolicy};

/// A change of the page. Ranges are of bytes of the whole page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) needs: Needs,
    /// What is moved, or what this goes along with: it stays when that stays.
    pub(super) object: Option<Object>,
    pub(super) with: With,
}

/// Path and query of an object, and the hash of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) path: Arc<str>,
    pub(super) hash: u64,
}

/// What is put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum With {
    /// The server's prefix, then this text, which is escaped for the place.
    Moved(Place, Box<str>),
    /// This text.
    Text(&'static str),
    /// A policy of the page, with the server's origin added.
    Policy(Box<str>),
    /// The fallback script.
    Fallback,
}

/// Where a URL stands, which says how it is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An attribute of its own.
    Attribute,
    /// The text of a `<style>`.
    Style,
    /// CSS in a `style` attribute.
    StyleAttribute,
}

/// What an edit takes of a server, and of the policies that let it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Needs {
    pub(super) kinds: Kinds,
    /// Answers that scripts and fonts may read.
    pub(super) cors: bool,
    /// Nobody is led from https to http.
    pub(super) https: bool,
}

/// A server, and what may be moved there from one page.
#[derive(Debug, Clone)]
pub struct Allowance {
    pub(super) target: Arc<Target>,
    pub(super) kinds: Kinds,
    pub(super) private: Arc<Private>,
    /// The `src` of the fallback script, where the page may have it.
    pub(super) fallback: Option<Arc<str>>,
}

// === impl Needs ===

impl Needs {
    /// What moving an object of `kind` takes.
    pub(super) fn of(kind: Kind) -> Self {
        let kinds = Kinds::NONE.with(kind);
        match kind {
            // A stylesheet takes its relative fonts and pictures along, and browsers fetch fonts from
            // elsewhere with CORS alone.
            Kind::Style => Self {
                kinds: kinds.with(Kind::Font).with(Kind::Image),
                cors: true,
                https: false,
            },
            Kind::Font => Self {
                kinds,
                cors: true,
                https: false,
            },
            _ => Self {
                kinds,
                cors: false,
                https: false,
            },
        }
    }
}

// === impl Allowance ===

impl Allowance {
    /// Objects of `kinds` may move to `target`.
    #[must_use]
    pub fn new(target: Arc<Target>, kinds: Kinds) -> Self {
        Self {
            target,
            kinds,
            private: Arc::default(),
            fallback: None,
        }
    }

    /// Objects that stay since they are not for everyone.
    #[must_use]
    pub fn with_private(mut self, private: Arc<Private>) -> Self {
        self.private = private;
        self
    }

    /// The `src` of the fallback script, which the page gets in front of the first moved link.
    #[must_use]
    pub fn with_fallback(mut self, src: Option<Arc<str>>) -> Self {
        self.fallback = src;
        self
    }

    /// The server.
    #[must_use]
    pub const fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// What the page's policies let in, as a number: others make another page.
    #[must_use]
    pub fn version(&self) -> u64 {
        u64::from(self.fallback.is_some()) << 8 | u64::from(self.kinds.bits())
    }

    pub(super) fn permits(&self, needs: Needs) -> bool {
        self.kinds.contains_all(needs.kinds)
            && (!needs.cors || self.target.cors())
            && (!needs.https || self.target.https())
    }

    /// Writes what `edit` puts in, piece by piece; tells whether the edit is made at all. The same pieces
    /// come each time.
    pub(super) fn write(&self, edit: &Edit, mut put: impl FnMut(&[u8])) -> bool {
        if !self.permits(edit.needs) {
            return false;
        }
        if let Some(object) = &edit.object
            && self.private.contains(object.hash)
        {
            return false;
        }
        match &edit.with {
            With::Moved(place, text) => {
                put(self.target.prefix_in(*place).as_bytes());
                put(text.as_bytes());
            }
            With::Text(text) => put(text.as_bytes()),
            With::Policy(text) => {
                match MetaPolicy::new(text).widened(self.target.origin(), self.kinds) {
                    Some(widened) => put(super::escape::escape_all(&widened).as_bytes()),
                    None => return false,
                }
            }
            With::Fallback => match &self.fallback {
                Some(src) => {
                    put(b"<script src=\"");
                    put(src.as_bytes());
                    put(b"\" data-from=\"");
                    put(self.target.prefix_in(Place::Attribute).as_bytes());
                    put(b"\"></script>");
                }
                None => return false,
            },
        }
        true
    }
}
