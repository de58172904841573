//! A moving average by time constant.

use std::time::Duration;

use tokio::time::Instant;

/// Exponentially weighted moving average whose weights come from time, not from the number of
/// samples: a late sample, or another sampling interval, does not change how fast it follows.
///
/// A value that comes `dt` after the last one gets the weight 1 − exp(−dt/τ). The average begins at 0:
/// the first value alone, often that of the busy moment of a start, must not turn visitors away.
#[derive(Debug, Clone)]
pub struct Ewma {
    time_constant: Duration,
    last: Option<(f64, Instant)>,
}

impl Ewma {
    /// An average that shows 63 % of a change after `time_constant`; zero means no smoothing.
    #[must_use]
    pub const fn new(time_constant: Duration) -> Self {
        Self {
            time_constant,
            last: None,
        }
    }

    /// Takes in `value`, which holds since the last one, and gives the average at `now`.
    pub fn update(&mut self, value: f64, now: Instant) -> f64 {
        let average = match self.last {
            Some((average, at)) => {
                average + self.weight(now.saturating_duration_since(at)) * (value - average)
            }
            None if self.time_constant.is_zero() => value,
            None => 0.0,
        };
        self.last = Some((average, now));
        average
    }

    /// The average as it stood at the last value.
    #[must_use]
    pub fn get(&self) -> Option<f64> {
        self.last.map(|(average, _)| average)
    }

    /// Forgets all, as if new.
    pub fn reset(&mut self) {
        self.last = None;
    }

    fn weight(&self, elapsed: Duration) -> f64 {
        if self.time_constant.is_zero() {
            return 1.0;
        }
        // exp_m1: a microsecond of an hour is lost in 1 − exp(−x).
        -(-elapsed.as_secs_f64() / self.time_constant.as_secs_f64()).exp_m1()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The average after a step from 0 to 1 that was sampled `samples` times in `span`.
    fn step(samples: u32, span: Duration) -> f64 {
        let start = Instant::now();
        let mut average = Ewma::new(SECOND);
        average.update(0.0, start);
        for i in 1..=samples {
            average.update(1.0, start + span * i / samples);
        }
        average.get().unwrap()
    }

    #[test]
    fn depends_on_time_and_not_on_the_number_of_samples() {
        let expected = 1.0 - (-2.0_f64).exp();
        for samples in [1, 2, 8, 500] {
            let got = step(samples, 2 * SECOND);
            assert!((got - expected).abs() < 1e-9, "{samples}: {got}");
        }
    }

    #[test]
    fn shows_63_percent_of_a_step_after_the_time_constant() {
        assert!((step(4, SECOND) - 0.632).abs() < 0.001);
    }

    #[test]
    fn begins_at_nothing_and_again_after_a_reset() {
        let now = Instant::now();
        let mut average = Ewma::new(SECOND);
        assert_eq!(average.update(0.9, now), 0.0);
        assert!(average.update(0.9, now + SECOND) > 0.5);
        average.reset();
        assert_eq!(average.get(), None);
        assert_eq!(average.update(0.9, now + 2 * SECOND), 0.0);
    }

    #[test]
    fn does_not_smooth_without_a_time_constant() {
        let now = Instant::now();
        let mut average = Ewma::new(Duration::ZERO);
        average.update(0.0, now);
        assert_eq!(average.update(1.0, now), 1.0);
    }

    #[test]
    fn ignores_a_value_that_holds_for_no_time_and_a_clock_that_goes_back() {
        let now = Instant::now() + SECOND;
        let mut average = Ewma::new(SECOND);
        average.update(1.0, now);
        let before = average.update(1.0, now + SECOND);
        assert_eq!(average.update(0.0, now + SECOND), before);
        assert_eq!(average.update(0.0, now), before);
    }
}
