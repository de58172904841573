//! Which part of the visitors is turned away.

use super::SignalLoad;
use crate::{load::Thresholds, units::Ratio};

/// Over how much load a part grows from 0 to 1 where no next threshold says it.
const SPAN: f64 = 0.1;

/// The parts of the new visitors that are turned away, each from 0 to 1.
///
/// `throttled` counts those that get no page, `dropped` those of them that get no answer either: where both
/// are above 0, `dropped` is taken first and the rest of `throttled` gets the 503.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Turned {
    /// Grows from 0 at the second threshold to 1 at the third.
    pub throttled: Ratio,
    /// Grows from 0 at the third threshold to 1 as far again above it.
    pub dropped: Ratio,
}

impl Turned {
    /// Everyone gets the 503.
    pub const ALL_THROTTLED: Self = Self {
        throttled: Ratio::ONE,
        dropped: Ratio::ZERO,
    };
    /// Nobody gets an answer.
    pub const ALL_DROPPED: Self = Self {
        throttled: Ratio::ONE,
        dropped: Ratio::ONE,
    };

    /// What the loads ask for: of every signal the greatest part.
    #[must_use]
    pub fn away(signals: &[SignalLoad]) -> Self {
        signals
            .iter()
            .filter_map(|signal| Some(Self::by(signal.lasting?.get(), &signal.thresholds)))
            .fold(Self::default(), Self::most)
    }

    /// What one signal's load asks for.
    #[must_use]
    pub fn by(load: f64, thresholds: &Thresholds) -> Self {
        let (second, third) = (thresholds.throttle, thresholds.drop);
        let span = match (second, third) {
            (Some(second), Some(third)) if third > second => third.get() - second.get(),
            _ => SPAN,
        };
        let above = |threshold: Option<Ratio>| {
            threshold.map_or(Ratio::ZERO, |threshold| {
                Ratio::saturating(((load - threshold.get()) / span).min(1.0))
            })
        };
        Self {
            throttled: above(second),
            dropped: above(third),
        }
    }

    /// The greater part of each.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            throttled: max(self.throttled, other.throttled),
            dropped: max(self.dropped, other.dropped),
        }
    }
}

fn max(a: Ratio, b: Ratio) -> Ratio {
    if a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(load: f64, throttle: Option<f64>, drop: Option<f64>) -> (f64, f64) {
        let turned = Turned::away(&[SignalLoad {
            load: None,
            lasting: Ratio::new(load),
            thresholds: Thresholds {
                offload: None,
                throttle: throttle.and_then(Ratio::new),
                drop: drop.and_then(Ratio::new),
            },
        }]);
        (turned.throttled.get(), turned.dropped.get())
    }

    fn near(a: (f64, f64), b: (f64, f64)) {
        assert!(
            (a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9,
            "{a:?} is not {b:?}"
        );
    }

    #[test]
    fn grows_from_the_second_threshold_to_the_third_and_as_far_again() {
        near(away(0.80, Some(0.8), Some(1.0)), (0.0, 0.0));
        near(away(0.90, Some(0.8), Some(1.0)), (0.5, 0.0));
        near(away(1.00, Some(0.8), Some(1.0)), (1.0, 0.0));
        near(away(1.10, Some(0.8), Some(1.0)), (1.0, 0.5));
        near(away(9.00, Some(0.8), Some(1.0)), (1.0, 1.0));
    }

    #[test]
    fn each_threshold_works_alone() {
        near(away(0.85, Some(0.8), None), (0.5, 0.0));
        near(away(0.85, None, Some(0.8)), (0.0, 0.5));
        near(away(9.0, None, None), (0.0, 0.0));
    }
}
