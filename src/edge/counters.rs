//! What has happened so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Counts since start. Written by the request path and the pulls.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) joined: AtomicU64,
    pub(super) passed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) pulls: AtomicU64,
    pub(super) renewed: AtomicU64,
    pub(super) failed_pulls: AtomicU64,
    pub(super) pulled_bytes: AtomicU64,
}

/// The same as of one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Counts {
    /// Answered from the store.
    pub(super) hits: u64,
    /// Of those, with what was not fresh any more.
    pub(super) stale: u64,
    /// Waited for a pull that they began.
    pub(super) misses: u64,
    /// Waited for a pull that another had begun.
    pub(super) joined: u64,
    /// Passed on alone, since the object is not for sharing.
    pub(super) passed: u64,
    /// Not for this server, or malformed.
    pub(super) refused: u64,
    /// Answered with 502, 504 or 508.
    pub(super) failed: u64,
    /// Answered with 503, since a pull was needed and the edge full.
    pub(super) turned_away: u64,
    /// Requests to primaries.
    pub(super) pulls: u64,
    /// Of those, answered with 304.
    pub(super) renewed: u64,
    /// Of those, nothing came that could be given out.
    pub(super) failed_pulls: u64,
    /// Bytes of their bodies.
    pub(super) pulled_bytes: u64,
}

impl Counters {
    pub(super) fn get(&self) -> Counts {
        Counts {
            hits: self.hits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            misses: self.misses.load(Relaxed),
            joined: self.joined.load(Relaxed),
            passed: self.passed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            pulls: self.pulls.load(Relaxed),
            renewed: self.renewed.load(Relaxed),
            failed_pulls: self.failed_pulls.load(Relaxed),
            pulled_bytes: self.pulled_bytes.load(Relaxed),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
