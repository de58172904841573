//! The service.

use std::{
    borrow::Cow,
    convert::Infallible,
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ALLOW, CONTENT_LENGTH, LOCATION},
    request::Parts,
    uri::PathAndQuery,
};
use percent_encoding::percent_decode_str;
use tower_service::Service;

use super::{
    answer::Asker,
    body::SiteBody,
    disk::Found,
    entry::Entry,
    objects::Objects,
    settings::SiteSettings,
    store::{Failed, Store},
};
use crate::{
    front::{MAX_TARGET, Rejection, Rules, check_target},
    problem::Problem,
};

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// It is not there, or may not be read.
    #[error("expected a folder that can be read, found {}: {error}", path.display())]
    Unreadable {
        /// The path as it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// There is something else at that path.
    #[error("expected a folder, found {}", .0.display())]
    NotAFolder(
        /// The path as it was given.
        PathBuf,
    ),
    /// The settings are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings(
        /// At least one.
        Vec<Problem>,
    ),
}

/// Serves the files below a folder. Cloning is cheap, and clones share what is kept.
#[derive(Debug, Clone)]
pub struct Site {
    store: Arc<Store>,
}

/// The answer of a [`Site`]: at once where the file is at hand.
pub struct SiteFuture(State);

enum State {
    Ready(Option<Response<SiteBody>>),
    Waiting(Pin<Box<dyn Future<Output = Response<SiteBody>> + Send>>),
}

// === impl Site ===

impl Site {
    /// Serves what is below `root`, which is resolved now: a link changed later is not followed.
    ///
    /// # Errors
    /// `root` is no folder that can be read.
    pub fn new(root: &Path) -> Result<Self, SiteError> {
        Self::with_settings(root, &SiteSettings::default())
    }

    /// The same by settings other than the defaults.
    ///
    /// # Errors
    /// `root` is no folder that can be read, or the settings are wrong.
    pub fn with_settings(root: &Path, settings: &SiteSettings) -> Result<Self, SiteError> {
        let unreadable = |error| SiteError::Unreadable {
            path: root.to_owned(),
            error,
        };
        let canonical = root.canonicalize().map_err(unreadable)?;
        if !canonical.is_dir() {
            return Err(SiteError::NotAFolder(root.to_owned()));
        }
        canonical.read_dir().map_err(unreadable)?;
        let mut problems = Vec::new();
        let store = Arc::new(Store::new(canonical, settings, &mut problems));
        if problems.is_empty() {
            Ok(Self { store })
        } else {
            Err(SiteError::Settings(problems))
        }
    }

    /// The files below `root` that would be served, at most `limit`: each one's path as a visitor asks
    /// for it (percent-encoded) and its size in bytes. In no order; what cannot be read is left out.
    ///
    /// Blocks while the folder is read.
    pub fn objects(root: &Path, limit: usize) -> impl Iterator<Item = (String, u64)> + use<> {
        Objects::new(root, limit)
    }

    /// The answer that takes no look at the disk.
    fn at_once(&self, asker: Asker<'_>, uri: &Uri) -> Option<Response<SiteBody>> {
        if *asker.method != Method::GET && *asker.method != Method::HEAD {
            return None;
        }
        let path = uri.path().as_bytes();
        // What is kept was found at a path that was checked. Where this one is the same, letter by letter, it is, too: other
        // letters than those of ASCII had to be encoded there.
        let is_plain = path.is_ascii()
            && !path.contains(&b'%')
            && uri
                .path_and_query()
                .is_some_and(|target| target.as_str().len() <= MAX_TARGET);
        let entry = if is_plain {
            self.store.at_hand(path.strip_prefix(b"/")?)?
        } else {
            self.store.at_hand(&checked(uri).ok()?)?
        };
        Some(self.file(asker, &entry))
    }

    fn file(&self, asker: Asker<'_>, entry: &Arc<Entry>) -> Response<SiteBody> {
        let (variant, missing) = entry.variant(asker);
        if let Some(place) = missing {
            self.store.wants(entry, place);
        }
        asker.answer(entry, variant)
    }

    async fn answer(self, request: Parts) -> Response<SiteBody> {
        let asker = Asker::of_parts(&request);
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut answer = asker.error(
                StatusCode::METHOD_NOT_ALLOWED,
                "This address can be read, and nothing else.",
            );
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let found = match checked(&request.uri) {
            Ok(path) => self.store.find(&path).await,
            Err(Rejection::Hidden) => Ok(Found::Missing),
            Err(rejection) => return asker.error(rejection.status(), rejection.sentence()),
        };
        match found {
            Ok(Found::File(entry)) => self.file(asker, &entry),
            Ok(Found::Folder) => to_folder(&request.uri),
            Ok(Found::Missing) => self.missing(asker).await,
            Err(failed) => unread(asker, &request.uri, &failed),
        }
    }

    /// The folder's own `404.html`, else a few words.
    async fn missing(&self, asker: Asker<'_>) -> Response<SiteBody> {
        const PAGE: &[u8] = b"404.html";
        let entry = match self.store.at_hand(PAGE) {
            Some(entry) => Some(entry),
            None => match self.store.find(PAGE).await {
                Ok(Found::File(entry)) => Some(entry),
                _ => None,
            },
        };
        match entry {
            Some(entry) => asker.not_found(entry.variant(asker).0),
            None => asker.error(StatusCode::NOT_FOUND, "There is nothing at this address."),
        }
    }
}

impl<B: Send + 'static> Service<Request<B>> for Site {
    type Response = Response<SiteBody>;
    type Error = Infallible;
    type Future = SiteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> SiteFuture {
        if let Some(answer) = self.at_once(Asker::of(&request), request.uri()) {
            return SiteFuture(State::Ready(Some(answer)));
        }
        let (request, _) = request.into_parts();
        let site = self.clone();
        SiteFuture(State::Waiting(Box::pin(site.answer(request))))
    }
}

// === impl SiteFuture ===

impl fmt::Debug for SiteFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteFuture").finish_non_exhaustive()
    }
}

impl Future for SiteFuture {
    type Output = Result<Response<SiteBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(answer) => {
                let answer = answer.take();
                Poll::Ready(Ok(answer.expect("a future is not polled after it is ready")))
            }
            State::Waiting(answer) => answer.as_mut().poll(cx).map(Ok),
        }
    }
}

/// The path without its first slash, decoded. The query means nothing to a file.
fn checked(uri: &Uri) -> Result<Cow<'_, [u8]>, Rejection> {
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    check_target(target, Rules::Folder)?;
    let path = uri.path().strip_prefix('/').unwrap_or_default();
    Ok(percent_decode_str(path).into())
}

fn unread(asker: Asker<'_>, uri: &Uri, failed: &Failed) -> Response<SiteBody> {
    tracing::warn!(path = uri.path(), error = %failed, "file not read");
    asker.error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The server could not read what is at this address.",
    )
}

/// To the same path with a slash, and the same query. The path begins with exactly one slash and has no
/// backslash (it was checked), so no browser takes its beginning for a host.
fn to_folder(uri: &Uri) -> Response<SiteBody> {
    let path = uri.path();
    let location = match uri.query() {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    let location = HeaderValue::try_from(location).unwrap_or(HeaderValue::from_static("/"));
    let mut answer = Response::new(SiteBody::empty());
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = answer.headers_mut();
    headers.insert(LOCATION, location);
    // For HEAD no one else would count it.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    answer
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with these files in it, and the site that it is.
    fn site(names: &[&str]) -> (tempfile::TempDir, Site) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "text").unwrap();
        }
        let site = Site::new(folder.path()).unwrap();
        (folder, site)
    }

    async fn status(site: &Site, path: &str) -> u16 {
        let request = Request::get(path).body(()).unwrap();
        let answer = site.clone().call(request).await.unwrap();
        answer.status().as_u16()
    }

    #[tokio::test]
    async fn the_same_file_under_many_escapes_is_kept_once() {
        let (_folder, site) = site(&["page.html"]);
        for path in ["/page.html", "/%70age.html", "/p%61ge%2ehtml"] {
            assert_eq!(status(&site, path).await, 200, "{path}");
        }
        assert_eq!(site.store.count(), 1);
    }

    #[tokio::test]
    async fn what_is_refused_is_refused_though_its_file_is_kept() {
        let (_folder, site) = site(&["na\u{ef}ve.txt"]);
        assert_eq!(status(&site, "/na\u{ef}ve.txt").await, 400);
        assert_eq!(status(&site, "/na%C3%AFve.txt").await, 200);
        assert_eq!(site.store.count(), 1);
        assert_eq!(status(&site, "/na\u{ef}ve.txt").await, 400);
    }
}
