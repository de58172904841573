//! Where the upstream is, and the address there of a request.

use std::path::PathBuf;

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
    #[error("expected a URL that begins with http://, https:// or unix:/, found {0}")]
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
    /// A UNIX socket has to be named by its whole path.
    #[error(
        "expected the path of a UNIX socket, such as unix:/run/app.sock or unix:/run/app.sock:/prefix, found {0}"
    )]
    Socket(
        /// The URL.
        Url,
    ),
    /// There are none here.
    #[error("there are no UNIX sockets on this system: expected http:// or https://, found {0}")]
    NoSockets(
        /// The URL.
        Url,
    ),
    /// Its parts make no address.
    #[error("expected a URL whose host and path HTTP can name")]
    Name,
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
    pub(super) place: Place,
    /// Without the slash at its end; mostly empty.
    prefix: String,
}

/// How it is connected to.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Plain,
    Tls,
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Target {
    pub(crate) fn new(url: &Url) -> Result<Self, UpstreamError> {
        let (scheme, place) = match url.scheme() {
            "http" => (Scheme::HTTP, Place::Plain),
            "https" => (Scheme::HTTPS, Place::Tls),
            "unix" => return Self::socket(url),
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
            place,
            prefix,
        })
    }

    /// `unix:/run/app.sock`, and behind a colon what goes before every path. It is called `localhost` there.
    #[cfg(unix)]
    fn socket(url: &Url) -> Result<Self, UpstreamError> {
        let wrong = || UpstreamError::Socket(url.clone());
        if url.has_host() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong());
        }
        let (path, prefix) = url.path().split_once(':').unwrap_or((url.path(), ""));
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| wrong())?;
        let is_path = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
        if !is_path || !(prefix.is_empty() || prefix.starts_with('/')) {
            return Err(wrong());
        }
        Ok(Self {
            scheme: Scheme::HTTP,
            authority: Authority::from_static("localhost"),
            place: Place::Unix(PathBuf::from(&*path)),
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }

    #[cfg(not(unix))]
    fn socket(url: &Url) -> Result<Self, UpstreamError> {
        Err(UpstreamError::NoSockets(url.clone()))
    }

    /// The address at the upstream of what a client asked for as `uri`. `None` if there is none.
    pub(crate) fn address(&self, uri: &Uri) -> Option<Uri> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(self.there(uri.path_and_query()?)?)
            .build()
            .ok()
    }

    /// The same without scheme and host, as HTTP/1.1 sends it.
    pub(super) fn path(&self, uri: &Uri) -> Option<PathAndQuery> {
        self.there(uri.path_and_query()?)
    }

    fn there(&self, asked: &PathAndQuery) -> Option<PathAndQuery> {
        if self.prefix.is_empty() {
            return Some(asked.clone());
        }
        PathAndQuery::try_from(format!("{}{asked}", self.prefix)).ok()
    }

    /// As it is shown to whoever operates the server.
    pub(crate) fn shown(&self) -> String {
        match &self.place {
            Place::Plain | Place::Tls => {
                format!("{}://{}{}", self.scheme, self.authority, self.prefix)
            }
            #[cfg(unix)]
            Place::Unix(path) if self.prefix.is_empty() => format!("unix:{}", path.display()),
            #[cfg(unix)]
            Place::Unix(path) => format!("unix:{}:{}", path.display(), self.prefix),
        }
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
        for url in ["ftp://app", "file:///etc"] {
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

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_is_a_path_and_maybe_a_prefix() {
        for (url, path, there) in [
            ("unix:/run/app.sock", "/run/app.sock", "/a?b"),
            ("unix:///run/app.sock", "/run/app.sock", "/a?b"),
            (
                "unix:/run/my%20app.sock:/shop/",
                "/run/my app.sock",
                "/shop/a?b",
            ),
        ] {
            let target = target(url).unwrap();
            let Place::Unix(found) = &target.place else {
                panic!("{url}");
            };
            assert_eq!(found, std::path::Path::new(path));
            let asked = "http://client.example/a?b".parse().unwrap();
            assert_eq!(target.path(&asked).unwrap(), there);
            assert_eq!(target.address(&asked).unwrap().host(), Some("localhost"));
        }
        for url in [
            "unix:",
            "unix:app.sock",
            "unix:/run/",
            "unix:/a:b",
            "unix:/a?b",
            "unix:/a%00",
            "unix://host/a",
        ] {
            assert!(
                matches!(target(url), Err(UpstreamError::Socket(_))),
                "{url}"
            );
        }
    }
}
