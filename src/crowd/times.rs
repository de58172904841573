//! How long visits took: a histogram, since a list of millions would not be bounded.

use std::time::Duration;

/// Values below that have a bucket each.
const EXACT: u64 = 256;
/// Buckets from one power of two to the next: none is wider than 1/128 of what it holds.
const STEPS: usize = 128;
/// Up to 2⁴⁰ µs, which is twelve days.
const BUCKETS: usize = EXACT as usize + 32 * STEPS;

/// Times, each known to 0.4 %, the longest exactly.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    /// Empty until there is a time.
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

// === impl Times ===

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; BUCKETS];
        }
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.longest = self.longest.max(time);
    }

    /// The time that `part` of the visits did not exceed (nearest rank); none where there was no visit.
    pub(super) fn percentile(&self, part: f64) -> Option<Duration> {
        let rank = ((part * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        let found = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_micros(middle(found)).min(self.longest))
    }

    pub(super) fn longest(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.longest)
    }
}

fn bucket(micros: u64) -> usize {
    if micros < EXACT {
        return micros as usize;
    }
    let power = micros.ilog2() as usize;
    let step = (micros >> (power - 7)) as usize - STEPS;
    (EXACT as usize + (power - 8) * STEPS + step).min(BUCKETS - 1)
}

/// The middle of what a bucket holds.
const fn middle(bucket: usize) -> u64 {
    if bucket < EXACT as usize {
        return bucket as u64;
    }
    let (power, step) = ((bucket - EXACT as usize) / STEPS, bucket % STEPS);
    let width = 2u64 << power;
    (STEPS + step) as u64 * width + width / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_visit_has_no_percentiles() {
        assert_eq!(Times::default().percentile(0.5), None);
        assert_eq!(Times::default().longest(), None);
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut times = Times::default();
        for millis in (1..=100).rev() {
            times.add(Duration::from_millis(millis));
        }
        for (part, millis) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = times.percentile(part).unwrap().as_secs_f64() * 1000.0;
            assert!((found / millis - 1.0).abs() < 0.004, "{part}: {found}");
        }
        assert_eq!(times.longest(), Some(Duration::from_millis(100)));
        let mut one = Times::default();
        one.add(Duration::MAX);
        assert_eq!(one.longest(), Some(Duration::MAX));
        assert!(one.percentile(0.5).is_some());
    }

    proptest! {
        #[test]
        fn every_time_is_known_to_four_in_a_thousand(micros in 0u64..1 << 39) {
            let found = middle(bucket(micros)) as f64;
            prop_assert!((found - micros as f64).abs() <= 0.004 * micros as f64);
        }
    }
}
