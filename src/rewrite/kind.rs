//! What a browser fetches an object as: what a content security policy speaks about.

use std::fmt;

/// What an embedded object is to the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pictures, posters and icons: `img-src`.
    Image,
    /// Classic scripts: `script-src`.
    Script,
    /// Stylesheets: `style-src`.
    Style,
    /// Video and audio: `media-src`.
    Media,
    /// Fonts, which a moved stylesheet takes along: `font-src`.
    Font,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Image,
        Self::Script,
        Self::Style,
        Self::Media,
        Self::Font,
    ];

    /// The kind that a path's extension speaks of; a picture if it says nothing.
    ///
    /// For links whose element does not tell, such as `rewrite.attributes` on an `a`.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let is = |known: &[&str]| known.iter().any(|k| extension.eq_ignore_ascii_case(k));
        if is(&["css"]) {
            Self::Style
        } else if is(&["js", "mjs"]) {
            Self::Script
        } else if is(&["woff", "woff2", "ttf", "otf", "eot"]) {
            Self::Font
        } else if is(&[
            "mp4", "webm", "mp3", "m4a", "ogg", "oga", "ogv", "opus", "wav", "flac", "mov", "m4v",
        ]) {
            Self::Media
        } else {
            Self::Image
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of [`Kind`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u8);

impl Kinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self(0b1_1111);

    /// Whether `kind` is in the set.
    #[must_use]
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether all of `kinds` are in the set.
    #[must_use]
    pub const fn contains_all(self, kinds: Self) -> bool {
        self.0 & kinds.0 == kinds.0
    }

    /// The set with `kind`.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | kind.bit())
    }

    /// The set less `kind`.
    #[must_use]
    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !kind.bit())
    }

    /// The set as a number: a bit for each kind.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .into_iter()
            .filter(move |&kind| self.contains(kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
