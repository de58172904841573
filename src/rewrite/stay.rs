//! Why a link stays.

/// Why a link is not moved, wherever the visitor is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stay {
    /// Not http or https: `data:`, `blob:`, `javascript:` …
    Scheme,
    /// Empty, or a place in the page itself.
    Fragment,
    /// A character reference that may be read in more than one way.
    Reference,
    /// What makes no URL.
    NotUrl,
    /// Relative to a `<base>` that may not count.
    Base,
    /// Carries a user or a password.
    User,
    /// On a host that is not the site's.
    Foreign,
    /// Not an object by `rewrite.include` and `rewrite.exclude`.
    Rules,
    /// Can't be written anew without knowing the page's charset, or is not UTF-8.
    Spelling,
    /// A policy in the page leaves no room for an offload server.
    Policy,
    /// A policy knows the page's CSS by its hash.
    Hashed,
    /// Within `data-overspill="off"`.
    Off,
    /// `crossorigin="use-credentials"`.
    Credentials,
    /// A module script, and `rewrite.modules` is off, or there is an import map.
    Module,
    /// A script that is not JavaScript.
    NotScript,
    /// A relation that embeds nothing, or one that is bound to the origin.
    Relation,
    /// A navigation, a document, or metadata: not an embedded object.
    NotEmbedded,
    /// Browsers forbid it across origins.
    SameOrigin,
    /// Markup that may be read in more than one way.
    Markup,
    /// The source of a picture whose `img` comes too late.
    Picture,
}

// === impl Stay ===

impl Stay {
    /// One sentence for people.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Scheme => "not an http or https URL",
            Self::Fragment => "empty, or a place in the page itself",
            Self::Reference => "a character reference that may be read in more than one way",
            Self::NotUrl => "not a URL",
            Self::Base => "relative to a <base> that may not count",
            Self::User => "carries a user or a password",
            Self::Foreign => "on a host that is not the site's",
            Self::Rules => "not in rewrite.include, or in rewrite.exclude",
            Self::Spelling => "can't be written anew without knowing the page's charset",
            Self::Policy => "a content security policy leaves no room for it",
            Self::Hashed => "a content security policy knows the CSS by its hash",
            Self::Off => "within data-overspill=\"off\"",
            Self::Credentials => "crossorigin=\"use-credentials\"",
            Self::Module => "a module: rewrite.modules is off, or there is an import map",
            Self::NotScript => "a script that is not JavaScript",
            Self::Relation => "its rel embeds nothing, or is bound to the origin",
            Self::NotEmbedded => "a navigation, a document or metadata",
            Self::SameOrigin => "browsers forbid it across origins",
            Self::Markup => "markup that may be read in more than one way",
            Self::Picture => "the picture's img, which says how it is fetched, comes too late",
        }
    }

    /// As JSON names it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Scheme => "scheme",
            Self::Fragment => "fragment",
            Self::Reference => "reference",
            Self::NotUrl => "not_url",
            Self::Base => "base",
            Self::User => "user",
            Self::Foreign => "foreign_host",
            Self::Rules => "rules",
            Self::Spelling => "spelling",
            Self::Policy => "csp",
            Self::Hashed => "csp_hash",
            Self::Off => "off",
            Self::Credentials => "credentials",
            Self::Module => "module",
            Self::NotScript => "not_javascript",
            Self::Relation => "relation",
            Self::NotEmbedded => "not_embedded",
            Self::SameOrigin => "same_origin",
            Self::Markup => "markup",
            Self::Picture => "picture",
        }
    }
}
