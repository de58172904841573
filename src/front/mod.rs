//! What every request is asked before anything else sees it: is its target one, and whose is it.
//!
//! A server that guesses what a strange request meant is how caches get poisoned, folders left and
//! visitors redirected to somebody else's site. So nothing is repaired here: a request is well formed,
//! or it is answered with a 4xx and a sentence.
//!
//! | request | answer |
//! |---|---|
//! | no `Host` (HTTP/1.1), two of them, one outside RFC 3986, or unlike the authority | 400 |
//! | a target in absolute, authority or asterisk form | 400 |
//! | a path with `..`, NUL, control characters, broken percent-encoding, a leading `//` or `/\` | 400 |
//! | in a folder also `//` anywhere, `\`, an encoded `/` | 400 |
//! | in a folder: names that begin with a dot, but for `.well-known` | 404, by the folder |
//! | a target longer than [`MAX_TARGET`] | 414 |
//! | `Transfer-Encoding` other than one `chunked`: whoever is behind may see another end of the body | 501 |
//!
//! [`FrontLayer`] asks all of it, in front of the overload layer too, so that a path that would be
//! refused is never offloaded, redirected or counted. [`check_target`] is asked once more by the
//! services themselves, since each has to be safe alone.
//!
//! ```
//! use overspill::front::{Rejection, Rules, check_target};
//!
//! assert_eq!(check_target("/a/b.css?v=1", Rules::Folder), Ok(()));
//! assert_eq!(check_target("/a/%2e%2e/secret", Rules::Folder), Err(Rejection::Traversal));
//! ```

mod answer;
mod bytes;
mod host;
mod layer;
mod target;

pub use self::{
    answer::error_answer,
    host::authority,
    layer::{Front, FrontFuture, FrontLayer},
    target::{MAX_TARGET, Rules, check_target},
};

use http::{HeaderMap, Request, StatusCode, header::TRANSFER_ENCODING};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
#[non_exhaustive]
pub enum Rejection {
    /// An HTTP/1 target in absolute, authority or asterisk form: this is no forward proxy.
    Form,
    /// HTTP/1.1 without `Host`, or HTTP/2 without an authority (RFC 9112 section 3.2).
    HostMissing,
    /// More than one host: two `Host` lines, or one that differs from the authority.
    HostTwice,
    /// A host that is no registered name, IP literal and port (RFC 3986 section 3.2.2).
    HostStrange,
    /// A character that has no place in a path, as it is or encoded, or broken percent-encoding.
    Character,
    /// An empty segment, as in `//`: some readers take what follows for a host.
    EmptySegment,
    /// A `..` segment, however it is written.
    Traversal,
    /// The target is longer than [`MAX_TARGET`].
    TooLong,
    /// A name that begins with a dot. Answered as if it were not there.
    Hidden,
    /// A transfer coding other than `chunked`, or that one twice (RFC 9112 section 6.1).
    Coding,
}

impl Rejection {
    /// The status that says so: 400, 404, 414 or 501.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::URI_TOO_LONG,
            Self::Hidden => StatusCode::NOT_FOUND,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Form => "The request's target is not a path.",
            Self::HostMissing => "The request does not say which host it is for.",
            Self::HostTwice => "The request names more than one host.",
            Self::HostStrange => "The request's host is not a host name.",
            Self::Character => "The address has a character that it cannot have.",
            Self::EmptySegment => "The address has an empty part.",
            Self::Traversal => "The address leads out of where it began.",
            Self::TooLong => "The address is too long.",
            Self::Hidden => "There is nothing at this address.",
            Self::Coding => "The request's body comes in a coding that the server does not know.",
        }
    }
}

/// Everything this module asks: the form of the target, the host, the path, the coding of the body. What is [hidden] is let
/// through, for the folder to answer.
///
/// [hidden]: Rejection::Hidden
///
/// # Errors
/// The first reason to refuse the request.
pub fn check<B>(request: &Request<B>, rules: Rules) -> Result<(), Rejection> {
    check_coding(request.headers())?;
    let target = request.uri().path_and_query();
    match check_target(target.map_or("", http::uri::PathAndQuery::as_str), rules) {
        // Well formed, and nobody's but the folder's to answer: it may have a page for what is not there.
        Ok(()) | Err(Rejection::Hidden) => authority(request).map(drop),
        Err(rejection) => Err(rejection),
    }
}

/// What reads requests takes a body for chunked where that is the last coding that is named; it decodes that one, and no
/// other.
fn check_coding(headers: &HeaderMap) -> Result<(), Rejection> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(coding), None)
            if coding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(())
        }
        _ => Err(Rejection::Coding),
    }
}
