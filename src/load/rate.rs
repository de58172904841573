//! From a counter to a rate.

use tokio::time::Instant;

/// How fast a counter that only ever grows is growing.
///
/// A counter that went down was reset (an interface came up anew) or wrapped at 32 bits. Which of the
/// two can't be told, so the difference is not used, and the count begins again.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: Option<(u64, Instant)>,
}

impl Rate {
    /// Units a second since the last call; none where there is nothing to compare with yet.
    pub(super) fn per_second(&mut self, total: u64, now: Instant) -> Option<f64> {
        let (before, at) = self.last.replace((total, now))?;
        let elapsed = now.saturating_duration_since(at);
        if elapsed.is_zero() {
            // Nothing can be told from no time: what was counted in it belongs to the next call.
            self.last = Some((before.min(total), at));
            return None;
        }
        let grown = total.checked_sub(before)?;
        Some(grown as f64 / elapsed.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn needs_two_readings_and_divides_by_the_time_between() {
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(1_000, start), None);
        let half = start + Duration::from_millis(500);
        assert_eq!(rate.per_second(1_500, half), Some(1_000.0));
        assert_eq!(
            rate.per_second(1_500, half + Duration::from_secs(2)),
            Some(0.0)
        );
    }

    #[test]
    fn a_reset_or_wrapped_counter_gives_no_rate_and_then_the_right_one() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut rate = Rate::default();
        rate.per_second(u64::from(u32::MAX), start);
        assert_eq!(rate.per_second(50, start + second), None);
        assert_eq!(rate.per_second(80, start + 2 * second), Some(30.0));
    }

    #[test]
    fn loses_nothing_when_asked_twice_at_once() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut rate = Rate::default();
        rate.per_second(100, start);
        assert_eq!(rate.per_second(150, start), None);
        assert_eq!(rate.per_second(200, start + second), Some(100.0));
    }
}
