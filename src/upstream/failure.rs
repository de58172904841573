//! What goes wrong with an upstream, and what the client is told.

use std::{error::Error, io, sync::Arc};

use http::StatusCode;

use crate::front::Rejection;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Why there is no answer of the upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the request cannot be passed on: {0}")]
    Refused(Rejection),
    #[error("there is no way to pass CONNECT on")]
    Method,
    #[error("no connection: {}", in_full(&**.0))]
    Unreachable(BoxError),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("no answer in time")]
    AnswerTimeout,
    #[error("the client stopped sending its request")]
    ClientTimeout,
    #[error("the request's body broke off")]
    Cut,
    #[error("no answer: {}", in_full(.0))]
    Broken(hyper::Error),
    #[error("no answer: {0}")]
    BrokenHttp2(h2::Error),
    #[error("the connection ended before the answer")]
    Ended,
    #[error("it does not speak HTTP/2")]
    NoHttp2,
    /// Over HTTP/2: the upstream says that it has done nothing of it (RFC 9113 section 8.7).
    #[error("not done: {0}")]
    RefusedStream(h2::Error),
    /// The same, and it takes nothing else over this connection.
    #[error("not done: {0}")]
    Leaves(h2::Error),
    /// What several have waited for.
    #[error(transparent)]
    Shared(Arc<Failure>),
    #[error("an answer that was not asked for: it wants to change the protocol")]
    Upgraded,
    #[error("an answer that may end in two places")]
    Ambiguous,
}

impl Failure {
    /// That of a request over HTTP/2.
    pub(super) fn of_http2(error: h2::Error) -> Self {
        if error.is_remote() && error.is_go_away() {
            Self::Leaves(error)
        } else if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            Self::RefusedStream(error)
        } else if error.is_reset() && !error.is_remote() && !error.is_library() {
            // We have taken it back.
            Self::Cut
        } else {
            Self::BrokenHttp2(error)
        }
    }

    /// Does the upstream say that it has done nothing?
    pub(super) const fn is_undone(&self) -> bool {
        matches!(self, Self::RefusedStream(_) | Self::Leaves(_))
    }

    /// Did the connection close after the request was written, or handed over, and before an answer? A kept connection
    /// that the upstream gives up in that moment looks like this.
    pub(super) fn is_closed_unanswered(&self) -> bool {
        let error = match self {
            Self::Ended => return true,
            Self::BrokenHttp2(error) => return error.is_io(),
            Self::Broken(error) => error,
            _ => return false,
        };
        causes(error).any(|cause| {
            let closed = cause
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_incomplete_message);
            let reset = cause.downcast_ref::<io::Error>().is_some_and(|error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                )
            });
            closed || reset
        })
    }

    /// Is it the upstream's fault, and not the client's?
    pub(super) fn is_the_upstreams(&self) -> bool {
        self.told().0.is_server_error()
    }

    /// The status, and a sentence that names nothing of what is behind.
    pub(crate) fn told(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Shared(failure) => failure.told(),
            Self::Refused(rejection) => (rejection.status(), rejection.sentence()),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "The server does not open tunnels.",
            ),
            Self::ClientTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "The request did not arrive in time.",
            ),
            // Its own body ended before its time: mostly nobody is left to be told.
            Self::Cut => (StatusCode::BAD_REQUEST, "The request did not arrive whole."),
            Self::Broken(error) if error.is_user() => Self::Cut.told(),
            Self::ConnectTimeout | Self::AnswerTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "The site took too long to answer. Please try again in a moment.",
            ),
            Self::Unreachable(_)
            | Self::Broken(_)
            | Self::BrokenHttp2(_)
            | Self::Ended
            | Self::NoHttp2
            | Self::RefusedStream(_)
            | Self::Leaves(_)
            | Self::Upgraded
            | Self::Ambiguous => (
                StatusCode::BAD_GATEWAY,
                "The site cannot be reached just now. Please try again in a moment.",
            ),
        }
    }
}

/// An error with its causes: the outer ones tell little.
fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            let between = if text.is_empty() { "" } else { ": " };
            text.extend([between, &cause]);
        }
    }
    text
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}
