//! Where a page stands, and which hosts are its own.

use std::sync::Arc;

use url::{Host, Url};

/// The site's own hosts, parsed once.
#[derive(Debug, Clone, Default)]
pub struct OwnHosts(Vec<Authority>);

/// A host with its port, `None` where that is the default port of http or of https.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    host: Host<String>,
    port: Option<u16>,
}

/// The page that is being rewritten.
#[derive(Debug, Clone)]
pub struct Page {
    url: Url,
    own: Authority,
    hosts: Arc<OwnHosts>,
    base_allowed: bool,
    styles_hashed: bool,
}

// === impl Authority ===

impl Authority {
    fn of(url: &Url) -> Option<Self> {
        Some(Self {
            host: url.host()?.to_owned(),
            // Both schemes count as own, so both default ports are one.
            port: url.port().filter(|port| !matches!(port, 80 | 443)),
        })
    }

    /// `name` or `name:port`, as a Host header has it.
    fn parse(text: &str) -> Option<Self> {
        let odd = |c: char| matches!(c, '/' | '\\' | '?' | '#' | '@') || c <= ' ';
        if text.is_empty() || text.contains(odd) {
            return None;
        }
        let url = Url::parse(&format!("http://{text}/")).ok()?;
        Self::of(&url)
    }
}

// === impl OwnHosts ===

impl OwnHosts {
    /// Parses names such as `www.example.com` or `example.com:8080`.
    ///
    /// # Errors
    /// The index of every name that is none.
    pub fn new<S: AsRef<str>>(names: &[S]) -> Result<Self, Vec<usize>> {
        let parsed: Vec<_> = names
            .iter()
            .map(|name| Authority::parse(name.as_ref()))
            .collect();
        let wrong: Vec<_> = (0..parsed.len()).filter(|&i| parsed[i].is_none()).collect();
        if wrong.is_empty() {
            Ok(Self(parsed.into_iter().flatten().collect()))
        } else {
            Err(wrong)
        }
    }
}

// === impl Page ===

impl Page {
    /// The page at `path_and_query` of the host that the request names, which may carry a port.
    /// `None` where host and path make no URL: nothing of such a page is moved.
    #[must_use]
    pub fn new(
        https: bool,
        host: &str,
        path_and_query: &str,
        hosts: Arc<OwnHosts>,
    ) -> Option<Self> {
        let own = Authority::parse(host)?;
        let path = if path_and_query.starts_with('/') {
            path_and_query
        } else {
            "/"
        };
        let scheme = if https { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{host}{path}")).ok()?;
        Some(Self {
            url,
            own,
            hosts,
            base_allowed: true,
            styles_hashed: false,
        })
    }

    /// Says whether the page's policy lets `<base>` count ([`csp::restricts_base`]); where it is in
    /// doubt, links that hang on a `<base>` stay.
    ///
    /// [`csp::restricts_base`]: super::csp::restricts_base
    #[must_use]
    pub const fn with_base_allowed(mut self, allowed: bool) -> Self {
        self.base_allowed = allowed;
        self
    }

    /// Whether a policy of the response knows the page's own CSS by its hash, so that it must not change
    /// ([`csp::hashes_inline_styles`]).
    ///
    /// [`csp::hashes_inline_styles`]: super::csp::hashes_inline_styles
    #[must_use]
    pub const fn with_styles_hashed(mut self, hashed: bool) -> Self {
        self.styles_hashed = hashed;
        self
    }

    pub(super) const fn styles_hashed(&self) -> bool {
        self.styles_hashed
    }

    /// The page's own URL.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the page was asked for over https.
    #[must_use]
    pub fn https(&self) -> bool {
        self.url.scheme() == "https"
    }

    pub(super) const fn base_allowed(&self) -> bool {
        self.base_allowed
    }

    /// Whether `url` is on one of the site's own hosts.
    #[must_use]
    pub fn owns(&self, url: &Url) -> bool {
        Authority::of(url)
            .is_some_and(|authority| authority == self.own || self.hosts.0.contains(&authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owns(host: &str, hosts: &[&str], url: &str) -> bool {
        let hosts = Arc::new(OwnHosts::new(hosts).unwrap());
        Page::new(false, host, "/", hosts)
            .unwrap()
            .owns(&Url::parse(url).unwrap())
    }

    #[test]
    fn the_host_asked_for_and_the_sites_names_are_own() {
        assert!(owns("a.example", &[], "https://a.example/x"));
        assert!(owns("a.example:443", &[], "http://A.EXAMPLE:80/x"));
        assert!(owns(
            "127.0.0.1:8080",
            &["www.example"],
            "http://127.0.0.1:8080/x"
        ));
        assert!(owns(
            "127.0.0.1:8080",
            &["www.example"],
            "https://www.example/x"
        ));
        assert!(!owns(
            "127.0.0.1:8080",
            &["www.example"],
            "http://127.0.0.1/x"
        ));
        assert!(!owns("a.example", &["b.example:81"], "http://b.example/x"));
        assert!(!owns("a.example", &[], "http://a.example.evil/x"));
    }

    #[test]
    fn strange_hosts_make_no_page() {
        for host in [
            "", "a b", "u@h", "h/x", "h\\x", "h?x", "[::1", "h:99999", "a<b",
        ] {
            assert!(
                Page::new(true, host, "/", Arc::default()).is_none(),
                "{host}"
            );
        }
        assert_eq!(OwnHosts::new(&["ok", "not ok", ""]).unwrap_err(), [1, 2]);
    }
}
