//! Where links are moved to.

use url::Url;

use super::{Kind, Kinds, edit::Place, escape};

/// An offload server as a page sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    name: Box<str>,
    prefix: Box<str>,
    /// The prefix as it stands in an attribute value.
    in_attribute: Box<str>,
    /// As it stands in the text of a `<style>`.
    in_style: Box<str>,
    /// As it stands in a `style` attribute.
    in_style_attribute: Box<str>,
    origin: Box<str>,
    https: bool,
    cors: bool,
}

/// A URL that no link can be moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an http or https URL without user, query and fragment")]
pub struct TargetError;

// === impl Target ===

impl Target {
    /// The server `name` at `url`, which may carry a path prefix. `cors`: it answers with
    /// `Access-Control-Allow-Origin: *`.
    ///
    /// # Errors
    /// Where `url` is not http or https, or carries a user, a query or a fragment.
    pub fn new(name: &str, url: &Url, cors: bool) -> Result<Self, TargetError> {
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
            return Err(TargetError);
        }
        let prefix = url.as_str().trim_end_matches('/');
        Ok(Self {
            name: name.into(),
            prefix: prefix.into(),
            in_attribute: escape::write(prefix, Place::Attribute).into(),
            in_style: escape::write(prefix, Place::Style).into(),
            in_style_attribute: escape::write(prefix, Place::StyleAttribute).into(),
            origin: url.origin().ascii_serialization().into(),
            https: url.scheme() == "https",
            cors,
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a moved path is appended to: the URL without its trailing slash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Scheme, host and port, as a content security policy names them.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is reached by https.
    #[must_use]
    pub const fn https(&self) -> bool {
        self.https
    }

    /// Whether it answers with `Access-Control-Allow-Origin`.
    #[must_use]
    pub const fn cors(&self) -> bool {
        self.cors
    }

    /// What may move to it as far as it is concerned: without CORS, stylesheets stay, since they take
    /// their fonts along. To be narrowed by [`csp::allow`](super::csp::allow).
    #[must_use]
    pub const fn kinds(&self) -> Kinds {
        if self.cors {
            Kinds::ALL
        } else {
            Kinds::ALL.without(Kind::Style).without(Kind::Font)
        }
    }

    /// The prefix as it stands in `place`.
    pub(super) const fn prefix_in(&self, place: Place) -> &str {
        match place {
            Place::Attribute | Place::Srcset => &self.in_attribute,
            Place::Style => &self.in_style,
            Place::StyleAttribute => &self.in_style_attribute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_has_no_trailing_slash() {
        for (url, prefix, origin) in [
            (
                "https://eu.example",
                "https://eu.example",
                "https://eu.example",
            ),
            (
                "https://eu.example/",
                "https://eu.example",
                "https://eu.example",
            ),
            (
                "http://[::1]:81/a/b/",
                "http://[::1]:81/a/b",
                "http://[::1]:81",
            ),
            ("http://h:80/a'&b", "http://h/a'&b", "http://h"),
        ] {
            let target = Target::new("eu", &Url::parse(url).unwrap(), false).unwrap();
            assert_eq!((target.prefix(), target.origin()), (prefix, origin));
        }
    }

    #[test]
    fn refuses_what_no_path_can_follow() {
        for url in [
            "ftp://h/",
            "data:,x",
            "http://u@h/",
            "http://h/?q",
            "http://h/#f",
        ] {
            assert_eq!(
                Target::new("x", &Url::parse(url).unwrap(), true),
                Err(TargetError),
                "{url}"
            );
        }
    }
}
