//! What has happened so far: plain atomics, read by the status and the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::servers::hash::mix;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The primary served it alone.
    Served,
    /// A page went out with its objects linked to an offload server.
    Offloaded,
    /// Sent to an offload server by a 307.
    Redirected,
    /// Turned away with a 503.
    Throttled,
    /// Closed without an answer.
    Dropped,
    /// Exempt: not looked at.
    Bypassed,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 6] = [
        Self::Served,
        Self::Offloaded,
        Self::Redirected,
        Self::Throttled,
        Self::Dropped,
        Self::Bypassed,
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Offloaded => "offloaded",
            Self::Redirected => "redirected",
            Self::Throttled => "throttled",
            Self::Dropped => "dropped",
            Self::Bypassed => "bypassed",
        }
    }
}

/// Counts since start. Written by the request path and the gate.
#[derive(Debug, Default)]
pub struct Counters {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    bail_outs: [AtomicU64; BAIL_OUTS],
    strangers: AtomicU64,
}

/// Room for the reasons of bail-outs: one of each, and to spare.
const BAIL_OUTS: usize = 16;

// === impl Counters ===

impl Counters {
    /// One more request with this outcome.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests had this outcome.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// A hash unlike that of the requests around it, for who has neither address nor identity. Then shares
    /// are met by requests, not by visitors: serve with connect info to have an address.
    pub fn stranger(&self) -> u64 {
        mix(self.strangers.fetch_add(1, Ordering::Relaxed))
    }

    /// One more page whose end went out as it came.
    pub fn bail_out(&self, reason: crate::rewrite::BailOut) {
        if let Some(count) = self.bail_outs.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many pages ended so, by reason.
    #[must_use]
    pub fn bail_outs(&self, reason: crate::rewrite::BailOut) -> u64 {
        self.bail_outs
            .get(reason as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
