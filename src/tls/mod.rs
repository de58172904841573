//! TLS for the primary and for edges: certificates, the handshake, and the way there from plain HTTP.
//!
//! The gate has looked at a connection before a byte of it is read here. A handshake is a part of the first request's
//! head: it has to be done within the same time, and its connection has the same place in the room. Which protocol
//! follows, HTTP/2 or HTTP/1.1, is what both sides agreed on (ALPN, RFC 7301).
//!
//! | file | what |
//! |---|---|
//! | `settings` | `[primary.tls]` and `[edge.tls]` |
//! | `certificate` | a certificate and its key, as their files have them |
//! | `certificates` | all of them, and which one a client gets (SNI, RFC 6066 section 3) |
//! | `watch` | looks for new files |
//! | `connections` | serves a connection, with TLS or without |
//! | `hsts` | what keeps clients on https |
//! | `redirect` | from plain HTTP to https |

#[cfg(feature = "server")]
mod certificate;
#[cfg(feature = "server")]
mod certificates;
#[cfg(feature = "server")]
mod connections;
#[cfg(feature = "server")]
mod gather;
#[cfg(feature = "server")]
mod hsts;
#[cfg(feature = "server")]
mod redirect;
mod settings;
#[cfg(feature = "server")]
mod watch;

pub use self::settings::{PairSettings, TlsSettings};
#[cfg(feature = "server")]
pub use self::{certificates::Certificates, redirect::Redirect};
#[cfg(feature = "server")]
pub(crate) use self::{
    connections::Connections,
    redirect::{Redirecting, redirect},
    watch::watch,
};
