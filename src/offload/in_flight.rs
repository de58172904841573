//! How many requests may be in flight.
//!
//! An average follows a crowd that comes all at once only after a second or two, and meanwhile everyone is let through
//! to who works for it: in front of an upstream that is minutes of work. But how many requests are in flight is known
//! exactly at every moment. So below the second threshold the level goes by the average; above it, level and who is turned
//! away go by the number itself.

use crate::{level::Turned, load::Thresholds};

/// How many requests may be in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InFlightLimit {
    /// So many are a load of 1.
    pub capacity: f64,
    /// The signal's thresholds.
    pub thresholds: Thresholds,
}

// === impl InFlightLimit ===

impl InFlightLimit {
    /// Who is turned away while so many are in flight.
    #[must_use]
    pub fn turned(&self, in_flight: u64) -> Turned {
        Turned::by(in_flight as f64 / self.capacity, &self.thresholds)
    }

    /// From how many on someone is turned away.
    pub(super) fn alarm(&self) -> Option<u64> {
        let second = self.thresholds.throttle?.get();
        Some(((second * self.capacity) as u64).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_away_from_the_second_threshold_on() {
        let limit = InFlightLimit {
            capacity: 100.0,
            thresholds: Thresholds::standard(),
        };
        assert_eq!(limit.alarm(), Some(91));
        assert_eq!(limit.turned(90), Turned::default());
        assert!((limit.turned(94).throttled.get() - 0.5).abs() < 1e-9);
        let all = limit.turned(106);
        assert_eq!((all.throttled.get(), all.dropped.get()), (1.0, 1.0));
        let only_offload = Thresholds {
            throttle: None,
            drop: None,
            ..Thresholds::standard()
        };
        let limit = InFlightLimit {
            thresholds: only_offload,
            ..limit
        };
        assert_eq!(
            (limit.alarm(), limit.turned(1_000)),
            (None, Turned::default())
        );
    }
}
