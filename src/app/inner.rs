//! What is served: a folder, or another server.

use std::{
    convert::Infallible,
    future::Future,
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    config::PrimarySettings,
    front::Rules,
    guard::Answers,
    load::UpstreamMeter,
    offload::BoxError,
    problem::Problem,
    servers::absolute_url,
    site::{Site, SiteBody, SiteError, SiteFuture},
    upstream::{Origin, Upstream, UpstreamFuture},
};

/// The folder that is served when nothing else is named.
pub const DEFAULT_SITE: &str = "static/site";

/// What is served: a folder, or another server.
#[derive(Debug, Clone)]
pub enum Inner {
    /// A folder.
    Site(Site),
    /// Another server.
    Upstream(Box<Upstream>),
}

/// Makes what `[primary]` says: the folder, or the upstream.
///
/// # Errors
/// Every problem: both are given, the folder is missing, the URL is none.
pub fn inner(primary: &PrimarySettings) -> Result<Inner, Vec<Problem>> {
    let problem = |key: &str, message: String| vec![Problem::new(key, message)];
    match (&primary.site, &primary.upstream) {
        (Some(_), Some(_)) => Err(problem(
            "primary.upstream",
            "must not be given together with `primary.site`".to_owned(),
        )),
        (_, None) => match Site::with_settings(folder(primary), &primary.files) {
            Ok(site) => Ok(Inner::Site(site)),
            Err(SiteError::Settings(problems)) => Err(problems),
            Err(error) => Err(problem("primary.site", error.to_string())),
        },
        (None, Some(url)) => upstream_url(url)
            .and_then(|url| Upstream::with(&url, primary.proxy).map_err(|error| error.to_string()))
            .map(|upstream| Inner::Upstream(Box::new(upstream)))
            .map_err(|message| problem("primary.upstream", message)),
    }
}

/// The folder that is served, where no upstream is.
pub(crate) fn folder(primary: &PrimarySettings) -> &Path {
    primary.site.as_deref().unwrap_or(Path::new(DEFAULT_SITE))
}

/// The URL of an upstream: http, https, or the path of a UNIX socket.
fn upstream_url(text: &str) -> Result<url::Url, String> {
    if !text.starts_with("unix:") {
        return absolute_url(text);
    }
    url::Url::parse(text).map_err(|error| format!("expected unix:/path/of.sock ({error})"))
}

// === impl Inner ===

impl Inner {
    /// Tells what is known of the server behind, where there is one.
    pub(super) fn measured_by(self, meter: &UpstreamMeter) -> Self {
        match self {
            Self::Site(site) => {
                meter.stands_for_none();
                Self::Site(site)
            }
            Self::Upstream(upstream) => {
                Self::Upstream(Box::new(upstream.measured_by(meter.clone())))
            }
        }
    }

    /// The same for the requests of one connection.
    pub(super) fn of_peer(&self, from: Origin) -> Self {
        match self {
            Self::Site(site) => Self::Site(site.clone()),
            Self::Upstream(upstream) => Self::Upstream(Box::new(upstream.of_peer(from))),
        }
    }

    /// Whether answers begin at once, or may be waited for.
    pub(super) fn answers(&self) -> Answers {
        match self {
            Self::Site(_) => Answers::AtOnce,
            Self::Upstream(upstream) if upstream.may_take_websockets() => Answers::OrWebSocket,
            Self::Upstream(_) => Answers::InTime,
        }
    }

    pub(super) const fn rules(&self) -> Rules {
        match self {
            Self::Site(_) => Rules::Folder,
            Self::Upstream(_) => Rules::Upstream,
        }
    }
}

impl<B> Service<Request<B>> for Inner
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<InnerBody>;
    type Error = Infallible;
    type Future = InnerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> InnerFuture {
        let answer = match self {
            Self::Site(site) => Answering::Site {
                inner: site.call(request),
            },
            Self::Upstream(upstream) => Answering::Upstream {
                inner: upstream.call(request.map(Body::new)),
            },
        };
        InnerFuture { answer }
    }
}

pin_project! {
    /// The answer of an [`Inner`].
    pub struct InnerFuture {
        #[pin]
        answer: Answering,
    }
}

pin_project! {
    #[project = AnsweringProjection]
    enum Answering {
        Site { #[pin] inner: SiteFuture },
        Upstream { #[pin] inner: UpstreamFuture },
    }
}

impl Future for InnerFuture {
    type Output = Result<Response<InnerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().answer.project() {
            AnsweringProjection::Site { inner } => {
                ready!(inner.poll(cx)).map(|answer| answer.map(InnerBody::Site))
            }
            AnsweringProjection::Upstream { inner } => {
                ready!(inner.poll(cx)).map(|answer| answer.map(InnerBody::Upstream))
            }
        })
    }
}

/// The body of what [`Inner`] answers.
#[derive(Debug)]
pub enum InnerBody {
    /// A folder's.
    Site(SiteBody),
    /// Another server's.
    Upstream(Body),
}

impl http_body::Body for InnerBody {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        match &mut *self {
            Self::Site(body) => Pin::new(body).poll_frame(cx),
            Self::Upstream(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Site(body) => body.is_end_stream(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Site(body) => body.size_hint(),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}
