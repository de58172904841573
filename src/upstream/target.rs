//! Where the upstream is, and the address there of a request.

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use url::Url;

/// Why a URL cannot be an upstream's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Neither http nor https.
    #[error("expected a URL that begins with http:// or https://, found {0}")]
    Scheme(
        /// The URL.
        Url,
    ),
    /// A user, a query or a fragment: nothing that could be sent with every request.
    #[error("expected a URL of a host and at most a path, found {0}")]
    MoreThanAPath(
        /// The URL, without the password.
        Url,
    ),
    /// The host is none that HTTP can name.
    #[error("expected a URL with a host name or an address, found {0}")]
    Host(
        /// The URL.
        Url,
    ),
    /// The machine's certificate authorities cannot be read, so https would trust nobody.
    #[error("no certificate authorities to check https with: {0}")]
    Authorities(
        /// What the system says.
        #[source]
        std::io::Error,
    ),
}

/// The upstream's URL, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(super) scheme: Scheme,
    pub(crate) authority: Authority,
    /// Without the slash at its end; mostly empty.
    prefix: String,
}

impl Target {
    pub(crate) fn new(url: &Url) -> Result<Self, UpstreamError> {
        let scheme = match url.scheme() {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err(UpstreamError::Scheme(url.clone())),
        };
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || url.query().is_some() || url.fragment().is_some() {
            let mut shown = url.clone();
            // It fails for URLs that cannot have a password.
            let _ = shown.set_password(None);
            return Err(UpstreamError::MoreThanAPath(shown));
        }
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let authority = authority
            .parse()
            .map_err(|_| UpstreamError::Host(url.clone()))?;
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self {
            scheme,
            authority,
            prefix,
        })
    }

    /// The address at the upstream of what a client asked for as `uri`. `None` if there is none.
    pub(crate) fn address(&self, uri: &Uri) -> Option<Uri> {
        let asked = uri.path_and_query()?;
        let there = if self.prefix.is_empty() {
            asked.clone()
        } else {
            PathAndQuery::try_from(format!("{}{asked}", self.prefix)).ok()?
        };
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(there)
            .build()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, UpstreamError> {
        Target::new(&url.parse().unwrap())
    }

    #[test]
    fn puts_the_prefix_in_front() {
        for (url, asked, there) in [
            ("http://app:3000", "/a?b=//c", "http://app:3000/a?b=//c"),
            ("http://app/", "/", "http://app/"),
            ("https://app/shop/", "/a/", "https://app/shop/a/"),
            ("http://[::1]:1/x/y", "/?q", "http://[::1]:1/x/y/?q"),
            ("http://app", "http://client.example/a", "http://app/a"),
        ] {
            let address = target(url)
                .unwrap()
                .address(&asked.parse().unwrap())
                .unwrap();
            assert_eq!(address.to_string(), there, "{url} {asked}");
        }
    }

    #[test]
    fn refuses_urls_that_are_no_upstreams() {
        for url in ["ftp://app", "file:///etc", "unix:/run/app.sock"] {
            assert!(
                matches!(target(url), Err(UpstreamError::Scheme(_))),
                "{url}"
            );
        }
        for url in ["http://user:secret@app", "http://app/?a", "http://app/#b"] {
            let error = target(url).unwrap_err();
            assert!(matches!(error, UpstreamError::MoreThanAPath(_)), "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
