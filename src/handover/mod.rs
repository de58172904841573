//! Starts and ends that nobody notices: sockets that were there before the process, a successor that takes them over, and
//! words with the service manager.
//!
//! A listening socket has a queue in the kernel. Whoever closes the last handle of it resets the connections that wait in
//! the queue, and until somebody binds the address again others are refused. So a restart never closes it:
//!
//! ```text
//! old     serves ───────────────────────┬─ hears "ready", accepts no more ── finishes what is under way ── ends
//!            └─ starts the new one,     │
//!               with its sockets        │
//! new           └─ reads its configuration, accepts from the same queue ── serves
//! ```
//!
//! A successor that does not get as far as "ready" changes nothing: it says why, and the old one goes on. (Two processes
//! that bind the same address with `SO_REUSEPORT` have a queue each, and what is in that of the old one is lost.)
//!
//! | file | what |
//! |---|---|
//! | `sockets` | the sockets that were handed to this process: by systemd, or by its predecessor |
//! | `successor` | starts the same program once more, and hands it the sockets |
//! | `predecessor` | in a successor: who waits to hear that it is ready |
//! | `manager` | what the service manager is told (`sd_notify`) |

mod manager;
#[cfg(unix)]
mod predecessor;
mod sockets;
#[cfg(unix)]
mod successor;

#[cfg(not(unix))]
mod elsewhere;

#[cfg(not(unix))]
pub(crate) use self::elsewhere::{Predecessor, Restarter};
pub(crate) use self::{
    manager::{reloading, serving, stopping, taken_over, watch},
    sockets::Sockets,
};
#[cfg(unix)]
pub(crate) use self::{predecessor::Predecessor, successor::Restarter};

/// Why there is no successor: all stays as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// One is starting already, or has taken over.
    #[error("a restart is under way already")]
    Busy,
    /// This process is about to end.
    #[error("this process is draining")]
    Draining,
    /// A container ends with its first process.
    #[error(
        "this is process 1, with which its container ends: have whatever runs the container start the new one"
    )]
    First,
    /// The system does not start it.
    #[error("can't start a successor: {0}")]
    Start(#[source] std::io::Error),
    /// It says why.
    #[error("the successor did not start: {0}")]
    Failed(String),
    /// It neither became ready nor said why.
    #[error("the successor was not ready after {0} s and was ended")]
    Late(u64),
    /// Not on this system.
    #[error("a successor can be started on Unix only")]
    Elsewhere,
}

/// The variable that makes a process a successor: what its sockets were to listen at, as `name=address` and separated by
/// commas.
#[cfg(unix)]
const SUCCEEDS: &str = "OVERSPILL_SUCCEEDS";
