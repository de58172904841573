//! Which part of the visitors is offloaded.
//!
//! Offloading everyone at once empties the primary, and the level flaps. So the share is moved until the
//! primary stays at its first threshold: an integral controller, since only one that sums up the error can
//! hold a load *at* a value without knowing what a visitor costs.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::units::Ratio;

/// Where the share begins when an episode begins: enough to be felt, too little to empty the primary.
const START: f64 = 0.25;
/// By how much the share grows in a second for every 1.0 of load above the threshold.
const GAIN: f64 = 0.6;
/// Below this the share offloads nobody worth mentioning, and counts as 0.
const IDLE: f64 = 0.005;

/// `offload.share`: a fixed part of the visitors, or found by the controller.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Share {
    /// The controller holds the primary at its first threshold.
    #[default]
    Auto,
    /// Always this part, from 0 to 1.
    Fixed(Ratio),
}

// === impl Share ===

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(ratio) => ratio.fmt(f),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(ratio) => ratio.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "\"auto\" or a ratio from 0 to 1";
        struct Visitor;
        impl Visitor {
            fn fixed<E: de::Error>(
                self,
                ratio: Option<Ratio>,
                found: impl fmt::Display,
            ) -> Result<Share, E> {
                ratio
                    .filter(|ratio| *ratio <= Ratio::ONE)
                    .map(Share::Fixed)
                    .ok_or_else(|| E::custom(format_args!("expected {EXPECTED}, found {found}")))
            }
        }
        impl de::Visitor<'_> for Visitor {
            type Value = Share;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Share, E> {
                match text {
                    "auto" => Ok(Share::Auto),
                    _ => self.fixed(text.parse().ok(), format_args!("{text:?}")),
                }
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Share, E> {
                self.fixed(Ratio::new(number), number)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Share, E> {
                self.visit_f64(number as f64)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Share, E> {
                self.visit_f64(number as f64)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Holds the primary at its first threshold by moving the share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShareController {
    setting: Share,
    share: f64,
}

// === impl ShareController ===

impl ShareController {
    /// Offloads nobody until [`engage`](Self::engage)d.
    #[must_use]
    pub const fn new(setting: Share) -> Self {
        Self {
            setting,
            share: 0.0,
        }
    }

    /// An episode begins.
    pub fn engage(&mut self) {
        self.share = match self.setting {
            Share::Auto => START,
            Share::Fixed(ratio) => ratio.get(),
        };
    }

    /// The episode is over.
    pub fn disengage(&mut self) {
        self.share = 0.0;
    }

    /// Moves the share after `elapsed` in which the load was `excess` above its first threshold (negative:
    /// below it). A fixed share stays.
    pub fn observe(&mut self, excess: f64, elapsed: Duration) {
        if self.setting == Share::Auto && excess.is_finite() {
            let moved = self.share + GAIN * excess * elapsed.as_secs_f64();
            self.share = if moved < IDLE { 0.0 } else { moved.min(1.0) };
        }
    }

    /// The part of the visitors that is offloaded, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> Ratio {
        Ratio::saturating(self.share)
    }

    /// Whether an automatic share still offloads anyone; [`None`] where it is fixed.
    #[must_use]
    pub fn at_work(&self) -> Option<bool> {
        (self.setting == Share::Auto).then_some(self.share > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);

    /// A plant: the primary's load is `demand` less what is offloaded, seen through a lag of `lag` seconds.
    fn simulate(demand: f64, lag: f64, seconds: f64) -> Vec<(f64, f64)> {
        let mut controller = ShareController::new(Share::Auto);
        controller.engage();
        let (mut seen, mut trace) = (demand, Vec::new());
        for _ in 0..(seconds / 0.25) as usize {
            let load = demand * (1.0 - 0.97 * controller.share().get());
            seen += (load - seen) * (1.0 - (-0.25 / lag).exp());
            controller.observe(seen - 0.7, STEP);
            trace.push((load, controller.share().get()));
        }
        trace
    }

    #[test]
    fn holds_the_load_at_the_threshold_after_a_step() {
        for demand in [0.9, 1.5, 2.5] {
            let trace = simulate(demand, 1.0, 60.0);
            for (load, share) in &trace[200..] {
                assert!(
                    (load - 0.7).abs() < 0.02,
                    "demand {demand}: load {load}, share {share}"
                );
            }
        }
    }

    #[test]
    fn lets_go_when_the_demand_goes() {
        let trace = simulate(0.3, 1.0, 10.0);
        assert_eq!(trace.last().unwrap().1, 0.0);
    }

    #[test]
    fn takes_everyone_when_that_is_not_enough_and_does_not_wind_up() {
        let mut controller = ShareController::new(Share::Auto);
        controller.engage();
        for _ in 0..1000 {
            controller.observe(1.0, STEP);
        }
        assert_eq!(controller.share(), Ratio::ONE);
        controller.observe(-1.0, STEP);
        assert!(controller.share() < Ratio::ONE, "reacts at once");
    }

    #[test]
    fn a_fixed_share_stays() {
        let mut controller = ShareController::new(Share::Fixed(Ratio::new(0.5).unwrap()));
        assert_eq!(controller.share(), Ratio::ZERO);
        controller.engage();
        controller.observe(9.0, STEP);
        assert_eq!(controller.share().get(), 0.5);
        assert_eq!(controller.at_work(), None);
    }

    #[test]
    fn is_written_as_auto_or_as_a_ratio() {
        let read = |text: &str| serde_json::from_str::<Share>(text);
        assert_eq!(read("\"auto\"").unwrap(), Share::Auto);
        assert_eq!(read("0.5").unwrap(), Share::Fixed(Ratio::new(0.5).unwrap()));
        assert_eq!(
            read("\"50%\"").unwrap(),
            Share::Fixed(Ratio::new(0.5).unwrap())
        );
        assert_eq!(read("1").unwrap(), Share::Fixed(Ratio::ONE));
        for text in ["1.5", "-1", "\"most\"", "true"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("\"auto\" or a ratio from 0 to 1"), "{error}");
        }
    }
}
