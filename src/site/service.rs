//! The service.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
    },
    request::Parts,
    uri::PathAndQuery,
};
use tower_http::services::fs::{DefaultServeDirFallback, ServeDir};
use tower_service::Service;

use super::{
    conditions::{Ranged, is_current, ranged},
    files::Files,
    objects::Objects,
};
use crate::front::{Rules, check_target, error_answer};

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
}

/// Serves the files below a folder. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Site {
    files: ServeDir<DefaultServeDirFallback, Files>,
}

/// The answer of a [`Site`].
pub type SiteFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

// === impl Site ===

impl Site {
    /// Serves what is below `root`, which is resolved now: a link changed later is not followed.
    ///
    /// # Errors
    /// `root` is no folder that can be read.
    pub fn new(root: &Path) -> Result<Self, SiteError> {
        let unreadable = |error| SiteError::Unreadable {
            path: root.to_owned(),
            error,
        };
        let canonical = root.canonicalize().map_err(unreadable)?;
        if !canonical.is_dir() {
            return Err(SiteError::NotAFolder(root.to_owned()));
        }
        canonical.read_dir().map_err(unreadable)?;
        let canonical: Arc<Path> = canonical.into();
        let files = ServeDir::with_backend(&canonical, Files::new(Arc::clone(&canonical)))
            .ignore_multi_range_requests(true);
        Ok(Self { files })
    }

    /// The files below `root` that would be served, at most `limit`: each one's path as a visitor asks
    /// for it (percent-encoded) and its size in bytes. In no order; what cannot be read is left out.
    ///
    /// Blocks while the folder is read.
    pub fn objects(root: &Path, limit: usize) -> impl Iterator<Item = (String, u64)> + use<> {
        Objects::new(root, limit)
    }

    async fn answer(mut self, request: Parts) -> Response<Body> {
        let Parts {
            method,
            uri,
            headers,
            ..
        } = &request;
        let error = |status, sentence| error_answer(status, sentence, method, headers);

        if method != Method::GET && method != Method::HEAD {
            let mut answer = error(
                StatusCode::METHOD_NOT_ALLOWED,
                "This address can be read, and nothing else.",
            );
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
        let found = match check_target(target, Rules::Folder) {
            Ok(()) => self.find(method, uri.path(), headers).await,
            Err(rejection) if rejection.status() == StatusCode::NOT_FOUND => Ok(None),
            Err(rejection) => return error(rejection.status(), rejection.sentence()),
        };
        match found {
            Ok(Some(found)) => finish(found, uri, &error),
            Ok(None) => match self.not_found_page(method).await {
                Some(page) => page,
                None => error(StatusCode::NOT_FOUND, "There is nothing at this address."),
            },
            Err(failed) => {
                tracing::warn!(path = uri.path(), error = %failed, "file not read");
                error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "The server could not read what is at this address.",
                )
            }
        }
    }

    /// What is at `path`, by the conditions and the range that `headers` ask for.
    async fn find(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> io::Result<Option<Response<Body>>> {
        let mut headers = headers.clone();
        let keep = match ranged(method, &headers) {
            Ranged::Whole => false,
            Ranged::Part => true,
            Ranged::PartOf(validator) => self
                .fetch(&Method::HEAD, path, HeaderMap::new())
                .await?
                .is_some_and(|file| is_current(&validator, file.headers())),
        };
        headers.remove(IF_RANGE);
        if !keep {
            headers.remove(RANGE);
        }
        self.fetch(method, path, headers).await
    }

    async fn fetch(
        &mut self,
        method: &Method,
        path: &str,
        headers: HeaderMap,
    ) -> io::Result<Option<Response<Body>>> {
        // The path alone: the query means nothing to a file.
        let Ok(uri) = path.parse::<Uri>() else {
            return Ok(None);
        };
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match self.files.try_call(request).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(None),
            Ok(response) => Ok(Some(response.map(Body::new))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder's own `404.html`.
    async fn not_found_page(&mut self, method: &Method) -> Option<Response<Body>> {
        let found = self
            .fetch(method, "/404.html", HeaderMap::new())
            .await
            .ok()
            .flatten()?;
        let mut page = Some(found).filter(|page| page.status() == StatusCode::OK)?;
        *page.status_mut() = StatusCode::NOT_FOUND;
        let headers = page.headers_mut();
        // They describe the page, not what was asked for.
        for name in [ETAG, LAST_MODIFIED, ACCEPT_RANGES] {
            headers.remove(name);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        name_charset(headers);
        Some(page)
    }
}

impl<B: Send + 'static> Service<Request<B>> for Site {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = SiteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> SiteFuture {
        let (request, _) = request.into_parts();
        let site = self.clone();
        Box::pin(async move { Ok(site.answer(request).await) })
    }
}

/// Completes what was found in the folder.
fn finish(
    mut found: Response<Body>,
    uri: &Uri,
    error: &impl Fn(StatusCode, &'static str) -> Response<Body>,
) -> Response<Body> {
    let sentence = match found.status() {
        StatusCode::TEMPORARY_REDIRECT => {
            let location = to_folder(uri);
            found.headers_mut().insert(LOCATION, location);
            // For HEAD no one else would count it.
            found
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(0));
            return found;
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            "What is at this address does not have the part that was asked for."
        }
        StatusCode::PRECONDITION_FAILED => "What is at this address is not what was expected.",
        StatusCode::INTERNAL_SERVER_ERROR => "The server could not read what is at this address.",
        _ => {
            name_charset(found.headers_mut());
            return found;
        }
    };
    let mut answer = error(found.status(), sentence);
    if let Some(range) = found.headers_mut().remove(CONTENT_RANGE) {
        answer.headers_mut().insert(CONTENT_RANGE, range);
    }
    answer
}

/// The same path with a slash, and the same query. The path begins with exactly one slash and has no
/// backslash (it was checked), so no browser takes its beginning for a host.
fn to_folder(uri: &Uri) -> HeaderValue {
    let path = uri.path();
    let location = match uri.query() {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    HeaderValue::try_from(location).unwrap_or(HeaderValue::from_static("/"))
}

/// Text without a charset is read as whatever the reader likes: it is UTF-8.
fn name_charset(headers: &mut HeaderMap) {
    if let Some(kind) = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        && kind.starts_with("text/")
        && !kind.contains(';')
        && let Ok(kind) = HeaderValue::try_from(format!("{kind}; charset=utf-8"))
    {
        headers.insert(CONTENT_TYPE, kind);
    }
}
