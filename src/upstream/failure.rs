//! What goes wrong with an upstream, and what the client is told.

use std::{error::Error, io};

use http::StatusCode;

use crate::front::Rejection;

/// Why there is no answer of the upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the request cannot be passed on: {0}")]
    Refused(Rejection),
    #[error("there is no way to pass CONNECT on")]
    Method,
    #[error("no connection: {0}")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("no answer in time")]
    AnswerTimeout,
    #[error("the client stopped sending its request")]
    ClientTimeout,
    #[error("no answer: {0}")]
    Broken(#[source] hyper_util::client::legacy::Error),
    #[error("an answer that was not asked for: it wants to change the protocol")]
    Upgraded,
}

impl Failure {
    pub(super) fn from_client(error: hyper_util::client::legacy::Error) -> Self {
        if !error.is_connect() {
            return Self::Broken(error);
        }
        let is_late = causes(&error).any(|cause| {
            cause
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        });
        if is_late {
            Self::ConnectTimeout
        } else {
            Self::Unreachable(error)
        }
    }

    /// Did the connection close after the request was written and before an answer? A kept connection
    /// that the upstream gives up in that moment looks like this.
    pub(super) fn is_closed_unanswered(&self) -> bool {
        let Self::Broken(error) = self else {
            return false;
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

    /// The status, and a sentence that names nothing of what is behind.
    pub(crate) fn told(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(rejection) => (rejection.status(), rejection.sentence()),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "The server does not open tunnels.",
            ),
            Self::ClientTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "The request did not arrive in time.",
            ),
            Self::ConnectTimeout | Self::AnswerTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "The site took too long to answer. Please try again in a moment.",
            ),
            Self::Unreachable(_) | Self::Broken(_) | Self::Upgraded => (
                StatusCode::BAD_GATEWAY,
                "The site cannot be reached just now. Please try again in a moment.",
            ),
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}
