//! Limits that hold whoever connects: what a client may hold on to, and for how long.
//!
//! A server dies of clients that take without asking as surely as of those that ask too much: who connects and says
//! nothing, sends a byte a second, never reads, or opens ten thousand connections keeps memory and open files from the
//! others. So every connection tells what it is *doing*, and whoever does nothing useful for too long is shown out;
//! where there is room for no more, those who do nothing go first, the longest idle one before the others.
//!
//! | file | what |
//! |---|---|
//! | `settings` | the limits, as the configuration has them |
//! | `accept` | accepting goes on where it fails (EMFILE) |
//! | `doing` | what a connection is doing: written by its stream and its requests |
//! | `io`, `service` | the stream and the requests that write it |
//! | `attend` | serves one connection, until it ends or has to |
//! | `stop` | how it learns that it is to end |
//! | `room` | how many there may be, and who goes when there are too many |
//! | `files` | the limit of open files |
//!
//! The primary ([`app`](crate::app)) and the edge use the same.

mod accept;
#[cfg(feature = "server")]
mod attend;
#[cfg(feature = "server")]
mod doing;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
mod io;
#[cfg(feature = "server")]
mod room;
#[cfg(feature = "server")]
mod service;
mod settings;
#[cfg(feature = "server")]
mod stop;

pub(crate) use self::accept::Acceptor;
#[cfg(feature = "server")]
pub(crate) use self::accept::Relief;
pub use self::settings::LimitSettings;
#[cfg(feature = "server")]
pub(crate) use self::{
    attend::{Served, attend, attend_before},
    doing::{Answering, Doing},
    files::allow_many_connections,
    io::{Breaks, Counted, NotedIo},
    room::{Place, Room},
    service::{Answers, Noted, NotedBody, Noting, Ready, Upload, builder, too_much},
    stop::{Stage, Stop, Stopping},
};
