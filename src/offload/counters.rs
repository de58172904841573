//! What has happened so far: plain atomics, read by the status and the metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

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
    durations: [Durations; Outcome::ALL.len()],
    bail_outs: [AtomicU64; BAIL_OUTS],
    strangers: AtomicU64,
}

/// How long requests took, from their head to the end of their answer's body.
#[derive(Debug, Default)]
struct Durations {
    /// One for each of [`Counters::BOUNDS`], and one for what took longer.
    buckets: [AtomicU64; Counters::BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// A histogram as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// All of it, in seconds.
    pub sum: f64,
    /// How many each bucket has, by its upper bound in seconds; the last has none.
    pub buckets: Vec<(f64, u64)>,
}

/// Room for the reasons of bail-outs: one of each, and to spare.
const BAIL_OUTS: usize = 16;

/// Lines of the access log since start. Written by the request path and by whoever writes the log.
#[derive(Debug, Default)]
pub struct LineCounts {
    /// In the log.
    pub written: AtomicU64,
    /// Lost, since they came faster than they could be written, or could not be written at all.
    pub dropped: AtomicU64,
    /// Not meant to be written: others stand for them.
    pub sampled_out: AtomicU64,
}

// === impl LineCounts ===

impl LineCounts {
    /// Each, with its label in metrics.
    #[must_use]
    pub fn by_result(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("written", of(&self.written)),
            ("dropped", of(&self.dropped)),
            ("sampled_out", of(&self.sampled_out)),
        ]
    }
}

// === impl Counters ===

impl Counters {
    /// The upper bounds of the durations' buckets, in seconds: from a page out of memory to a visitor's patience.
    pub const BOUNDS: [f64; 14] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ];

    /// One more request with this outcome, which took so long.
    pub fn answered(&self, outcome: Outcome, took: Duration) {
        self.count(outcome);
        let durations = &self.durations[outcome as usize];
        let seconds = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().take_while(|bound| seconds > **bound);
        durations.buckets[bucket.count()].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        durations
            .microseconds
            .fetch_add(microseconds, Ordering::Relaxed);
    }

    /// How long the requests with this outcome took.
    #[must_use]
    pub fn durations(&self, outcome: Outcome) -> Histogram {
        let durations = &self.durations[outcome as usize];
        let bounds = Self::BOUNDS.into_iter().chain([f64::MAX]);
        Histogram {
            sum: durations.microseconds.load(Ordering::Relaxed) as f64 / 1e6,
            buckets: std::iter::zip(bounds, &durations.buckets)
                .map(|(bound, count)| (bound, count.load(Ordering::Relaxed)))
                .collect(),
        }
    }

    /// One more request with this outcome, of which nothing else is known.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_bucket_whose_bound_it_does_not_pass() {
        let counters = Counters::default();
        for millis in [0, 1, 2, 31_000] {
            counters.answered(Outcome::Served, Duration::from_millis(millis));
        }
        let histogram = counters.durations(Outcome::Served);
        assert_eq!(
            histogram.buckets[..3],
            [(0.001, 2), (0.0025, 1), (0.005, 0)]
        );
        assert_eq!(histogram.buckets.last(), Some(&(f64::MAX, 1)));
        assert!((histogram.sum - 31.003).abs() < 1e-9);
        assert_eq!(counters.outcome(Outcome::Served), 4);
        assert_eq!(counters.durations(Outcome::Dropped).sum, 0.0);
    }
}
