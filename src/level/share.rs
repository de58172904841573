//! Which part of the visitors is offloaded.
//!
//! Offloading everyone at once empties the primary, and the level flaps. So the share is moved until the
//! primary stays at its first threshold. What a visitor costs is not known, and it differs a thousandfold from site
//! to site. So the law is about ratios: with `v` the part of the visitors that the primary serves itself, `L` its load
//! and `T` the threshold,
//!
//! ```text
//! d ln v = −K ((L/T − 1) dt + D d(L/T))
//! ```
//!
//! - It sums up the error, so it comes to rest *at* the threshold and nowhere else.
//! - The load is about proportional to `v`. So the gain of the loop is `K` whatever a visitor costs and however large
//!   the crowd is; a law that moved `v` itself would be slow for a small crowd or unstable for a large one.
//! - The load is seen late: a moving average of time constant `τ`. So where it is going counts, too. The loop is then
//!   of second order with a damping of `(1 + K D) / (2 √(K τ))`: at K = 0.7/s and D = 1 s it is 0.7 for what is promised
//!   (τ = 2 s), and 1 for what is measured (τ = 1 s). It overshoots by a twentieth of the way at most, and does not flap.
//! - A load that cannot show how far it is above its capacity (a CPU is at most busy) moves it slower, but does not
//!   mislead it: the sign is right.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::units::Ratio;

/// Where the share begins at least when an episode begins: enough to be felt, too little to empty the primary.
const START: f64 = 0.25;
/// `K`: how fast the part that the primary serves itself shrinks, a second, for a load of twice the threshold.
const GAIN: f64 = 0.7;
/// `D`, in seconds: so far ahead the load is looked at.
const LEAD: f64 = 1.0;
/// A load counts as this many times its threshold at most: in one step not everything is to be moved.
const MOST: f64 = 6.0;
/// Where the primary serves fewer than these, it serves nobody alone. A ratio never gets to nothing, and from next to
/// nothing it would take long to come back.
const FEW: f64 = 0.005;
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
    /// The part of the visitors that the primary serves itself, from [`FEW`] to 1.
    alone: f64,
    /// The load as a multiple of its threshold when it was last seen, once engaged.
    last: Option<f64>,
}

// === impl ShareController ===

impl ShareController {
    /// Offloads nobody until [`engage`](Self::engage)d.
    #[must_use]
    pub const fn new(setting: Share) -> Self {
        Self {
            setting,
            alone: 1.0,
            last: None,
        }
    }

    /// An episode begins, with a load of `ratio` times its first threshold, that is going `to` so many times. Were the
    /// load proportional to the part that the primary serves alone, this would be it.
    pub fn engage(&mut self, ratio: f64, to: f64) {
        let most = 1.0 - START;
        self.alone = (1.0 / counted(to)).min(most);
        self.last = Some(counted(ratio));
    }

    /// The share that a load of `ratio` times the first threshold asks for, where nothing that is decided happens: a sum
    /// of errors that nothing mends would only grow.
    pub fn settle(&mut self, ratio: f64) {
        self.alone = if ratio.is_finite() && ratio > 1.0 {
            (1.0 / ratio).max(FEW)
        } else {
            1.0
        };
        self.last = Some(counted(ratio));
    }

    /// Goes on by another setting, from the share as it is.
    pub fn set(&mut self, setting: Share) {
        if let Share::Fixed(share) = self.setting
            && setting == Share::Auto
        {
            self.alone = (1.0 - share.get()).clamp(FEW, 1.0);
        }
        self.setting = setting;
    }

    /// The episode is over.
    pub fn disengage(&mut self) {
        *self = Self::new(self.setting);
    }

    /// Moves the share after `elapsed` with a load of `ratio` times its first threshold. A fixed share stays.
    pub fn observe(&mut self, ratio: f64, elapsed: Duration) {
        let ratio = counted(ratio);
        if let Some(last) = self.last.replace(ratio)
            && self.setting == Share::Auto
        {
            let moved = (ratio - 1.0) * elapsed.as_secs_f64() + LEAD * (ratio - last);
            self.alone = (self.alone * (-GAIN * moved).exp()).clamp(FEW, 1.0);
        }
    }

    /// The part of the visitors that is offloaded, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> Ratio {
        match self.setting {
            _ if self.last.is_none() => Ratio::ZERO,
            Share::Fixed(ratio) => ratio,
            Share::Auto if self.alone <= FEW => Ratio::ONE,
            Share::Auto if self.alone > 1.0 - IDLE => Ratio::ZERO,
            Share::Auto => Ratio::saturating(1.0 - self.alone),
        }
    }

    /// Whether an automatic share still offloads anyone; [`None`] where it is fixed.
    #[must_use]
    pub fn at_work(&self) -> Option<bool> {
        (self.setting == Share::Auto).then(|| self.share() > Ratio::ZERO)
    }
}

/// As which multiple of the threshold a load counts.
fn counted(ratio: f64) -> f64 {
    if ratio.is_finite() {
        ratio.clamp(0.0, MOST)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: f64 = 0.25;

    /// A primary whose load is `demand(t)` times its capacity, less what is offloaded, of which `rest` stays with it;
    /// seen through a moving average of `lag` seconds, `delay` steps late, and never above `clip`.
    struct Plant<D: Fn(f64) -> f64> {
        demand: D,
        rest: f64,
        lag: f64,
        delay: usize,
        clip: f64,
    }

    impl<D: Fn(f64) -> f64> Plant<D> {
        /// Time, true load and share of each step.
        fn run(&self, seconds: f64) -> Vec<(f64, f64, f64)> {
            let mut controller = ShareController::new(Share::Auto);
            let (mut seen, mut engaged) = (0.0, false);
            let (mut late, mut trace) = (std::collections::VecDeque::new(), Vec::new());
            for step in 0..(seconds / STEP) as usize {
                let time = step as f64 * STEP;
                let share = controller.share().get();
                let load = (self.demand)(time) * (1.0 - share * (1.0 - self.rest));
                seen += (load.min(self.clip) - seen) * (1.0 - (-STEP / self.lag).exp());
                late.push_back(seen);
                let shown = if late.len() > self.delay {
                    late.pop_front().unwrap()
                } else {
                    0.0
                };
                if !engaged && shown > 0.7 {
                    engaged = true;
                    controller.engage(shown / 0.7, shown / 0.7);
                } else {
                    controller.observe(shown / 0.7, Duration::from_secs_f64(STEP));
                }
                trace.push((time, load, controller.share().get()));
            }
            trace
        }
    }

    /// The mean of a part of the trace, and how far it is away from it at most.
    fn spread(trace: &[(f64, f64, f64)], of: fn(&(f64, f64, f64)) -> f64) -> (f64, f64) {
        let mean = trace.iter().map(of).sum::<f64>() / trace.len() as f64;
        let far = trace.iter().map(|step| (of(step) - mean).abs());
        (mean, far.fold(0.0, f64::max))
    }

    #[test]
    fn holds_the_load_at_the_threshold_after_any_step_whatever_a_visitor_costs() {
        for demand in [0.8, 1.0, 1.5, 3.0, 10.0, 30.0] {
            for rest in [0.0, 0.01, 0.02] {
                if demand * rest > 0.4 {
                    // Offloading everyone leaves hardly less than the threshold: there is nothing to hold.
                    continue;
                }
                for (lag, delay) in [(0.3, 0), (1.0, 0), (2.0, 0), (1.0, 1), (2.0, 1)] {
                    let plant = Plant {
                        demand: |_| demand,
                        rest,
                        lag,
                        delay,
                        clip: f64::INFINITY,
                    };
                    let trace = plant.run(60.0);
                    let case = format!("demand {demand}, rest {rest}, lag {lag}, delay {delay}");
                    let (load, far) = spread(&trace[160..], |step| step.1);
                    assert!((load - 0.7).abs() < 0.02, "{case}: {load}");
                    assert!(far < 0.05, "{case}: {far}");
                    // From three times the capacity it is there in five seconds, within a fifth.
                    if demand <= 3.0 {
                        let late = trace
                            .iter()
                            .find(|(time, load, _)| *time > 5.0 && (load - 0.7).abs() > 0.7 * 0.25);
                        assert_eq!(late, None, "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn finds_the_share_although_saturation_hides_the_demand() {
        for demand in [1.5, 3.0, 10.0] {
            let plant = Plant {
                demand: |_| demand,
                rest: 0.0,
                lag: 1.0,
                delay: 1,
                clip: 1.0,
            };
            let trace = plant.run(60.0);
            let (load, far) = spread(&trace[160..], |step| step.1);
            assert!(
                (load - 0.7).abs() < 0.02 && far < 0.05,
                "{demand}: {load} {far}"
            );
        }
    }

    #[test]
    fn follows_a_ramp_and_a_sine_without_flapping() {
        let shapes: [fn(f64) -> f64; 2] = [
            |time| 0.5 + time / 20.0,
            |time| 2.0 + (time * std::f64::consts::TAU / 40.0).sin(),
        ];
        for (number, demand) in shapes.into_iter().enumerate() {
            let plant = Plant {
                demand,
                rest: 0.02,
                lag: 2.0,
                delay: 0,
                clip: f64::INFINITY,
            };
            let trace = plant.run(80.0);
            for (time, load, share) in &trace[60..] {
                assert!(*load < 0.95 && *load > 0.5, "{number} at {time}: {load}");
                assert!(*share > 0.0, "{number} at {time}: it let go");
            }
        }
    }

    #[test]
    fn a_crowd_that_comes_and_goes_every_ten_seconds_does_not_make_it_swing() {
        let plant = Plant {
            demand: |time| if time % 20.0 < 10.0 { 3.0 } else { 0.1 },
            rest: 0.02,
            lag: 2.0,
            delay: 0,
            clip: f64::INFINITY,
        };
        let trace = plant.run(200.0);
        // In the last five seconds of each burst the load is where it should be, burst after burst.
        let settled: Vec<_> = trace
            .iter()
            .filter(|(time, ..)| *time > 40.0 && time % 20.0 > 6.0 && time % 20.0 < 10.0)
            .copied()
            .collect();
        let (load, _) = spread(&settled, |step| step.1);
        assert!((load - 0.7).abs() < 0.1, "{load}");
        let (first, last) = (&trace[80..160], &trace[trace.len() - 80..]);
        let (first, last) = (spread(first, |step| step.2), spread(last, |step| step.2));
        assert!((first.0 - last.0).abs() < 0.05, "{first:?} {last:?}");
    }

    #[test]
    fn lets_go_when_the_demand_goes() {
        let plant = Plant {
            demand: |time| if time < 30.0 { 3.0 } else { 0.2 },
            rest: 0.02,
            lag: 2.0,
            delay: 0,
            clip: f64::INFINITY,
        };
        let trace = plant.run(50.0);
        assert_eq!(trace.last().unwrap().2, 0.0);
    }

    #[test]
    fn a_saturated_signal_is_back_in_six_seconds() {
        let plant = Plant {
            demand: |_| 3.0,
            rest: 0.0,
            lag: 1.0,
            delay: 1,
            clip: 1.0,
        };
        let late = plant
            .run(60.0)
            .into_iter()
            .find(|(time, load, _)| *time > 6.0 && (load - 0.7).abs() > 0.7 * 0.25);
        assert_eq!(late, None);
    }

    #[test]
    fn takes_everyone_when_that_is_not_enough_and_does_not_wind_up() {
        let mut controller = ShareController::new(Share::Auto);
        controller.engage(1.0, 1.0);
        for _ in 0..1000 {
            controller.observe(2.0, Duration::from_millis(250));
        }
        assert_eq!(controller.share(), Ratio::ONE);
        controller.observe(0.5, Duration::from_millis(250));
        assert!(controller.share() < Ratio::ONE, "reacts at once");
    }

    #[test]
    fn another_setting_goes_on_from_the_share_as_it_is() {
        let mut controller = ShareController::new(Share::Fixed(Ratio::saturating(0.4)));
        controller.set(Share::Auto);
        assert_eq!(controller.share(), Ratio::ZERO, "no episode, no share");
        controller.set(Share::Fixed(Ratio::saturating(0.4)));
        controller.engage(1.5, 1.5);
        controller.set(Share::Auto);
        assert!((controller.share().get() - 0.4).abs() < 1e-9);
        assert_eq!(controller.at_work(), Some(true));
        controller.set(Share::Fixed(Ratio::ONE));
        assert_eq!(controller.share(), Ratio::ONE);
    }

    #[test]
    fn a_fixed_share_stays() {
        let mut controller = ShareController::new(Share::Fixed(Ratio::new(0.5).unwrap()));
        assert_eq!(controller.share(), Ratio::ZERO);
        controller.engage(2.0, 2.0);
        controller.observe(9.0, Duration::from_secs(1));
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
