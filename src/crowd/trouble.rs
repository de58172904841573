//! What keeps a visitor from getting something.

use std::{
    error::Error,
    io::{self, ErrorKind},
    net::IpAddr,
};

use http::StatusCode;

/// Why something did not arrive as it should have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub(super) enum Trouble {
    #[error("connection refused")]
    Refused,
    #[error("connection closed without a byte")]
    Dropped,
    #[error("no patience left")]
    TimedOut,
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("cut short")]
    Cut,
    #[error("the bytes are not those of the primary")]
    Wrong,
    #[error("larger than a visitor takes")]
    TooLarge,
    #[error("redirected too often")]
    Redirects,
    #[error("redirected to what is no http or https URL")]
    Redirect,
    #[error("{0} is somebody else's: not visited")]
    Foreign(IpAddr),
    #[error("no such host")]
    Unknown,
    #[error("more hosts than a crowd visits")]
    TooManyHosts,
    /// This machine's own limits.
    #[error("this machine can't open more connections ({0})")]
    Own(&'static str),
    #[error("no connection ({0})")]
    Connection(ErrorKind),
    #[error("no TLS ({0})")]
    Tls(String),
    #[error("the answer is not HTTP")]
    NotHttp,
}

// === impl Trouble ===

impl Trouble {
    /// What became of an attempt to connect.
    pub(super) fn of_connecting(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Self::Dropped,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => {
                Self::Own("no port left: more --addresses have more")
            }
            _ if is_own(error) => Self::Own("no file or memory left"),
            kind => Self::Connection(kind),
        }
    }

    /// What became of a TLS handshake.
    pub(super) fn of_tls(error: &(dyn Error + 'static)) -> Self {
        let ended = causes(error)
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                )
            });
        if ended {
            return Self::Dropped;
        }
        let last = causes(error).last().unwrap_or(error);
        Self::Tls(last.to_string().chars().take(120).collect())
    }
}

/// An error and what it stands for. (What an [`io::Error`] holds is not its source: that of what it holds is.)
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
        Some(error)
    })
}

/// Out of files or memory.
#[cfg(unix)]
fn is_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    own.iter()
        .any(|own| error.raw_os_error() == Some(own.raw_os_error()))
}

#[cfg(not(unix))]
fn is_own(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_server_s_fault() {
        let trouble = |kind: ErrorKind| Trouble::of_connecting(&kind.into());
        assert!(matches!(
            trouble(ErrorKind::AddrNotAvailable),
            Trouble::Own(_)
        ));
        assert_eq!(trouble(ErrorKind::ConnectionRefused), Trouble::Refused);
        assert_eq!(trouble(ErrorKind::ConnectionReset), Trouble::Dropped);
        assert_eq!(trouble(ErrorKind::TimedOut), Trouble::TimedOut);
        let unreachable = trouble(ErrorKind::HostUnreachable);
        assert_eq!(unreachable, Trouble::Connection(ErrorKind::HostUnreachable));
    }

    #[test]
    #[cfg(unix)]
    fn neither_is_a_limit_of_open_files() {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(matches!(Trouble::of_connecting(&error), Trouble::Own(_)));
    }

    #[test]
    fn a_server_that_ends_the_handshake_has_dropped_the_visitor() {
        let ended = io::Error::other(io::Error::from(ErrorKind::UnexpectedEof));
        assert_eq!(Trouble::of_tls(&ended), Trouble::Dropped);
        let untrusted = io::Error::other("unknown issuer");
        assert_eq!(
            Trouble::of_tls(&untrusted),
            Trouble::Tls("unknown issuer".to_owned())
        );
    }
}
