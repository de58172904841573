//! How many requests may be in flight.
//!
//! An average follows a crowd that comes all at once only after a second or two, and meanwhile everyone is let through
//! to who works for it: in front of an upstream that is minutes of work. But how many requests are in flight is known
//! exactly at every moment. So the average decides as it does for any signal, and beside it nobody is let in while so
//! many are in flight that the average would turn everyone away. (Below that the number itself decides nothing: it
//! is another with every request, and one visitor shall get one answer.)

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
    /// Who is turned away while so many are in flight: from the third threshold on everyone.
    #[must_use]
    pub fn turned(&self, in_flight: u64) -> Turned {
        match self.alarm() {
            Some(alarm) if in_flight >= alarm => {
                Turned::by(in_flight as f64 / self.capacity, &self.thresholds)
                    .most(Turned::ALL_THROTTLED)
            }
            _ => Turned::default(),
        }
    }

    /// From how many on that is.
    pub(super) fn alarm(&self) -> Option<u64> {
        self.thresholds.throttle?;
        let third = self.thresholds.drop?.get();
        Some((third * self.capacity).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_nobody_in_from_the_third_threshold_on() {
        let limit = InFlightLimit {
            capacity: 100.0,
            thresholds: Thresholds::standard(),
        };
        assert_eq!(limit.alarm(), Some(98));
        assert_eq!(limit.turned(97), Turned::default());
        let all = limit.turned(98);
        assert_eq!((all.throttled.get(), all.dropped.get()), (1.0, 0.0));
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
