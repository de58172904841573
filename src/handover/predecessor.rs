//! In a successor: who waits to hear that it is ready.
//!
//! It is at the other end of the standard input, which a server has no other use for: so the pipe needs no number that
//! could be taken by something else.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
};

/// What is said when all is well; anything else is the reason why not.
pub(super) const READY: &[u8] = b"ready\n";

/// The process that started this one, while it waits.
#[derive(Debug)]
pub(crate) struct Predecessor(File);

// === impl Predecessor ===

impl Predecessor {
    /// [`None`]: this process succeeds nobody. Called once.
    pub(crate) fn from_environment() -> Option<Self> {
        std::env::var_os(super::SUCCEEDS)?;
        let pipe = io::stdin().as_fd().try_clone_to_owned().ok()?;
        // The predecessor sees the pipe close when this one is dropped.
        if let Ok(nothing) = File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(nothing);
        }
        Some(Self(File::from(pipe)))
    }

    /// From now on connections are accepted here.
    pub(crate) fn ready(mut self) {
        if let Err(error) = self.0.write_all(READY) {
            tracing::warn!(%error, "the predecessor does not hear that its successor is ready");
        }
    }

    /// It goes on by itself.
    pub(crate) fn failed(mut self, why: &dyn fmt::Display) {
        // It sees the pipe close in any case.
        let _ = write!(self.0, "{why}");
    }
}
