//! A change of a page, as it is for every server: what it takes of the server is written down beside it.

use std::{fmt, ops::Range, sync::Arc};

use super::{
    Kind, Kinds, Private, Target,
    csp::MetaPolicy,
    escape::{escape_all, escape_unquoted},
};

/// A change of the page. Ranges are of bytes of the whole page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) needs: Needs,
    /// What is moved, or what this goes along with: it stays when that stays.
    pub(super) object: Option<Object>,
    pub(super) with: With,
}

/// An object, by the hash of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object {
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
    Policy {
        text: Box<str>,
        /// Whether its attribute is seen to be quoted.
        quoted: bool,
    },
    /// The fallback script.
    Fallback,
}

/// Where a URL stands, which says how it is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An attribute of its own.
    Attribute,
    /// One of several in an attribute.
    Srcset,
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

/// Where objects go, and what may be moved there from one page.
#[derive(Debug, Clone)]
pub struct Allowance {
    to: To,
    /// Objects that stay since they are not for everyone; `None`: none is known.
    pub(super) private: Option<Arc<Private>>,
    /// The `src` of the fallback script, where the page may have it.
    pub(super) fallback: Option<Arc<str>>,
}

/// Where objects go.
#[derive(Debug, Clone)]
enum To {
    /// All of them to one server.
    One(Arc<Target>, Kinds),
    /// Each to a server of its own.
    Each(Arc<dyn Spread>),
}

/// Several servers, each of which takes a part of a page's objects.
pub trait Spread: fmt::Debug + Send + Sync {
    /// The server of the object whose path has this hash; [`None`] where it stays. For one page it is the same
    /// each time.
    fn place(&self, object: u64) -> Option<Placed<'_>>;

    /// All servers that objects of the page may go to: its policies have to let them in.
    fn servers(&self) -> Vec<(&Target, Kinds)>;

    /// Names all that makes a difference to a page, but for which object goes where.
    fn version(&self) -> u64;
}

/// Where an object goes.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The server, by whatever number its owner knows it.
    pub server: usize,
    /// The same as pages see it.
    pub target: &'a Target,
    /// What the page's policies let come from there.
    pub kinds: Kinds,
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

    /// Whether a server that gives objects of `kinds` to the page gives all of this.
    pub(super) const fn are_met_by(self, target: &Target, kinds: Kinds) -> bool {
        kinds.contains_all(self.kinds)
            && (!self.cors || target.cors())
            && (!self.https || target.https())
    }
}

// === impl Allowance ===

impl Allowance {
    /// Objects of `kinds` may move to `target`.
    #[must_use]
    pub fn new(target: Arc<Target>, kinds: Kinds) -> Self {
        Self::to(To::One(target, kinds))
    }

    /// Each object may move to the server that `spread` says.
    #[must_use]
    pub fn each(spread: Arc<dyn Spread>) -> Self {
        Self::to(To::Each(spread))
    }

    const fn to(to: To) -> Self {
        Self {
            to,
            private: None,
            fallback: None,
        }
    }

    /// Objects that stay since they are not for everyone.
    #[must_use]
    pub fn with_private(mut self, private: Arc<Private>) -> Self {
        self.private = Some(private);
        self
    }

    /// The `src` of the fallback script, which the page gets in front of the first moved link.
    #[must_use]
    pub fn with_fallback(mut self, src: Option<Arc<str>>) -> Self {
        self.fallback = src;
        self
    }

    /// The server, where it is the same for all objects.
    #[must_use]
    pub const fn target(&self) -> Option<&Arc<Target>> {
        match &self.to {
            To::One(target, _) => Some(target),
            To::Each(_) => None,
        }
    }

    /// Whether anything at all may move from a page that is reached so.
    pub(super) fn moves_from(&self, https: bool) -> bool {
        match &self.to {
            To::One(target, kinds) => !kinds.is_empty() && (target.https() || !https),
            // What goes where is decided one by one.
            To::Each(_) => true,
        }
    }

    /// What the page's policies let in, as a number: others make another page.
    #[must_use]
    pub fn version(&self) -> u64 {
        let kinds = match &self.to {
            To::One(_, kinds) => u64::from(kinds.number()),
            To::Each(spread) => spread.version() << 9,
        };
        u64::from(self.fallback.is_some()) << 8 | kinds
    }

    /// The number of the server that an object goes to, where they are spread.
    #[must_use]
    pub fn server_of(&self, object: u64) -> Option<usize> {
        match &self.to {
            To::One(..) => None,
            To::Each(spread) => spread.place(object).map(|placed| placed.server),
        }
    }

    /// Where an object goes that takes this much of its server; [`None`] where it stays.
    pub(super) fn target_of(&self, object: Object, needs: Needs) -> Option<&Target> {
        if self.is_private(object) {
            return None;
        }
        let (target, kinds) = match &self.to {
            To::One(target, kinds) => (&**target, *kinds),
            To::Each(spread) => {
                let placed = spread.place(object.hash)?;
                (placed.target, placed.kinds)
            }
        };
        needs.are_met_by(target, kinds).then_some(target)
    }

    /// All servers, and what may come from each.
    fn servers(&self) -> Vec<(&Target, Kinds)> {
        match &self.to {
            To::One(target, kinds) => vec![(&**target, *kinds)],
            To::Each(spread) => spread.servers(),
        }
    }

    /// Whether `object` is not for everyone.
    pub(super) fn is_private(&self, object: Object) -> bool {
        let private = self.private.as_ref();
        private.is_some_and(|private| private.contains(object.hash))
    }

    /// Writes what `edit` puts in, piece by piece; tells whether the edit is made at all. The same pieces
    /// come each time.
    pub(super) fn write(&self, edit: &Edit, mut put: impl FnMut(&[u8])) -> bool {
        let target = match edit.object {
            Some(object) => match self.target_of(object, edit.needs) {
                Some(target) => Some(target),
                None => return false,
            },
            None => None,
        };
        match (&edit.with, target) {
            (With::Moved(place, text), Some(target)) => {
                put(target.prefix_in(*place).as_bytes());
                put(text.as_bytes());
            }
            // Nothing moves that is no object.
            (With::Moved(..), None) => return false,
            (With::Text(text), _) => put(text.as_bytes()),
            (With::Policy { text, quoted }, _) => match self.widened(text) {
                Some(widened) if *quoted => put(escape_all(&widened).as_bytes()),
                Some(widened) => put(escape_unquoted(&widened).as_bytes()),
                None => return false,
            },
            (With::Fallback, _) => match &self.fallback {
                // One for each server: it minds that server's objects alone.
                Some(src) => {
                    for (target, _) in self.servers() {
                        put(b"<script src=\"");
                        put(src.as_bytes());
                        put(b"\" data-from=\"");
                        put(target.prefix_in(Place::Attribute).as_bytes());
                        put(b"\"></script>");
                    }
                }
                None => return false,
            },
        }
        true
    }

    /// A policy of the page that lets the servers in; [`None`] where it does already.
    fn widened(&self, policy: &str) -> Option<String> {
        let servers = self.servers();
        let origins = servers
            .iter()
            .map(|(target, kinds)| (target.origin(), *kinds));
        MetaPolicy::new(policy).widened(&origins.collect::<Vec<_>>())
    }
}
