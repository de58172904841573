//! Which level the loads ask for.
//!
//! A signal enters a level when its load passes that level's threshold, and leaves it when the load has been
//! below the threshold less the *release* margin for a *dwell*. The gap and the dwell are there because a
//! level changes the load that it answers: without them the level would follow its own effect up and down.
//! The level is the highest that any signal asks for.
//!
//! The dwell is the configured *hold*. It costs nothing: at `throttle` and `drop` those are turned away that the load
//! asks for, be it nobody.
//!
//! Two levels have a rule more:
//! - `offload`, where the share is controlled automatically: there the load is parked *at* the threshold by the
//!   share itself, and says nothing about whether the episode is over. So the level is kept as long as the share has
//!   something to do, and a hold longer.
//! - `drop` is entered only by a load that stays above its threshold although every new visitor is turned away
//!   already: else turning away is enough, and what was let in has to drain first.

use std::time::Duration;

use tokio::time::Instant;

use super::Level;
use crate::{load::Thresholds, units::Ratio};

/// How long `throttle` and `drop` last at least, where the hold is shorter.
const DWELL: Duration = Duration::from_secs(1);
/// How long a load must stay above the third threshold, with every new visitor turned away, before `drop` is entered.
const SUSTAIN: Duration = Duration::from_secs(2);

/// What the machine needs to know beside the loads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineSettings {
    /// The least time that an offload episode lasts.
    pub hold: Duration,
    /// How far below its threshold a level is left.
    pub release: Ratio,
}

/// One signal's load, and its thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignalLoad {
    /// Used / capacity. [`None`] while the signal has no reading: it then asks for nothing new and keeps
    /// what it holds until the dwell is over.
    pub load: Option<Ratio>,
    /// The load that visitors are turned away by: that, or what is known better than by measuring.
    pub lasting: Option<Ratio>,
    /// The loads at which the levels are entered; a level without one is never entered by this signal.
    pub thresholds: Thresholds,
}

/// A change of level, with what made it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition {
    /// The level until now.
    pub from: Level,
    /// The level from now on.
    pub to: Level,
    /// The signal (its position among the loads) that asks for the new level; [`None`] where none does any more.
    pub signal: Option<usize>,
}

/// Remembers which signal holds which level.
#[derive(Debug)]
pub struct Machine {
    settings: MachineSettings,
    level: Level,
    /// For every signal a latch for `offload`, `throttle` and `drop`.
    latches: Vec<[Latch; 3]>,
}

/// One signal's claim to one level.
#[derive(Debug, Clone, Copy, Default)]
struct Latch {
    held: bool,
    /// Above the threshold without a break since then, while not yet held.
    above_since: Option<Instant>,
    /// When the level was last needed, while held.
    needed_at: Option<Instant>,
}

// === impl Machine ===

impl Machine {
    /// Begins at `normal`.
    #[must_use]
    pub fn new(settings: MachineSettings) -> Self {
        Self {
            settings,
            level: Level::Normal,
            latches: Vec::new(),
        }
    }

    /// The level now.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// How far below its threshold a level is left.
    #[must_use]
    pub const fn release(&self) -> Ratio {
        self.settings.release
    }

    /// Goes on with other settings.
    pub const fn set(&mut self, settings: MachineSettings) {
        self.settings = settings;
    }

    /// How long the level stays `offload` or above at least, whatever the load does from `now` on.
    #[must_use]
    pub fn hold_left(&self, now: Instant) -> Duration {
        self.latches
            .iter()
            .filter_map(|latches| latches[0].needed_at)
            .map(|needed_at| {
                self.settings
                    .hold
                    .saturating_sub(now.saturating_duration_since(needed_at))
            })
            .max()
            .unwrap_or_default()
    }

    /// Takes in the loads at `now`; gives the change of level, if there is one.
    ///
    /// `share_at_work` is for a share that is controlled automatically: whether it still offloads anyone.
    /// [`None`] where the share is fixed. `all_turned`: every new visitor has been turned away until now.
    pub fn observe(
        &mut self,
        signals: &[SignalLoad],
        share_at_work: Option<bool>,
        all_turned: bool,
        now: Instant,
    ) -> Option<Transition> {
        self.latches.resize(signals.len(), Default::default());
        let mut highest = (Level::Normal, None);
        for (index, (signal, latches)) in signals.iter().zip(&mut self.latches).enumerate() {
            for (latch, level) in latches.iter_mut().zip(&Level::ALL[1..]) {
                let Some(threshold) = super::threshold(&signal.thresholds, *level) else {
                    *latch = Latch::default();
                    continue;
                };
                let (load, sustain) = match level {
                    // A signal that turns nobody away asks for `drop` all the same.
                    Level::Drop if all_turned || signal.thresholds.throttle.is_none() => {
                        (signal.lasting, SUSTAIN)
                    }
                    Level::Drop => (None, SUSTAIN),
                    _ => (signal.load, Duration::ZERO),
                };
                let dwell = match level {
                    Level::Throttle | Level::Drop => self.settings.hold.max(DWELL),
                    _ => self.settings.hold,
                };
                let above = load.is_some_and(|load| load > threshold);
                let near = signal.load.is_some_and(|load| {
                    load.get() >= threshold.get() - self.settings.release.get()
                });
                let needed = match share_at_work {
                    Some(at_work) if *level == Level::Offload => {
                        above || (at_work && signal.load.is_some())
                    }
                    _ => near,
                };
                latch.observe(above, needed, sustain, dwell, now);
                if latch.held && *level > highest.0 {
                    highest = (*level, Some(index));
                }
            }
        }
        let from = std::mem::replace(&mut self.level, highest.0);
        (from != highest.0).then_some(Transition {
            from,
            to: highest.0,
            signal: highest.1,
        })
    }
}

// === impl Latch ===

impl Latch {
    fn observe(
        &mut self,
        above: bool,
        needed: bool,
        sustain: Duration,
        dwell: Duration,
        now: Instant,
    ) {
        if self.held {
            let needed_at = *self.needed_at.get_or_insert(now);
            if needed {
                self.needed_at = Some(now);
            } else if now.saturating_duration_since(needed_at) >= dwell {
                *self = Self::default();
            }
        } else if above {
            let since = *self.above_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= sustain {
                self.held = true;
                self.needed_at = Some(now);
            }
        } else {
            self.above_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(value: f64) -> Ratio {
        Ratio::new(value).unwrap()
    }

    fn thresholds(offload: f64, throttle: f64, drop: f64) -> Thresholds {
        Thresholds {
            offload: Some(ratio(offload)),
            throttle: Some(ratio(throttle)),
            drop: Some(ratio(drop)),
        }
    }

    fn machine(hold: u64) -> Machine {
        Machine::new(MachineSettings {
            hold: Duration::from_secs(hold),
            release: ratio(0.05),
        })
    }

    /// Feeds one signal with `loads`, one every 250 ms, and gives the level after each.
    fn run(machine: &mut Machine, start: Instant, loads: &[f64]) -> Vec<Level> {
        loads
            .iter()
            .enumerate()
            .map(|(step, load)| {
                let signal = SignalLoad {
                    load: Some(ratio(*load)),
                    lasting: Some(ratio(*load)),
                    thresholds: thresholds(0.7, 0.9, 0.98),
                };
                machine.observe(
                    &[signal],
                    None,
                    *load > 0.98,
                    start + Duration::from_millis(250) * step as u32,
                );
                machine.level()
            })
            .collect()
    }

    #[test]
    fn enters_only_above_the_threshold() {
        let levels = run(&mut machine(0), Instant::now(), &[0.69, 0.70, 0.71, 0.91]);
        assert_eq!(
            levels,
            [
                Level::Normal,
                Level::Normal,
                Level::Offload,
                Level::Throttle
            ]
        );
    }

    #[test]
    fn leaves_only_below_the_release_margin() {
        let levels = run(&mut machine(0), Instant::now(), &[0.71, 0.66, 0.65, 0.64]);
        assert_eq!(
            levels,
            [
                Level::Offload,
                Level::Offload,
                Level::Offload,
                Level::Normal
            ]
        );
    }

    #[test]
    fn an_episode_lasts_the_hold_and_no_longer() {
        let mut loads = vec![0.1; 20];
        loads[0] = 0.8;
        let levels = run(&mut machine(2), Instant::now(), &loads);
        // Entered at step 0; 2 s are 8 steps.
        assert!(levels[..8].iter().all(|level| *level == Level::Offload));
        assert!(levels[8..].iter().all(|level| *level == Level::Normal));
    }

    #[test]
    fn drop_needs_a_load_that_stays() {
        let mut loads = vec![1.0; 14];
        loads[2] = 0.95;
        let levels = run(&mut machine(0), Instant::now(), &loads);
        // From step 3 on; 2 s are 8 steps.
        assert_eq!(levels[..11], [Level::Throttle; 11]);
        assert_eq!(levels[11], Level::Drop);
    }

    #[test]
    fn drop_waits_until_all_are_turned_away() {
        let mut machine = machine(0);
        let start = Instant::now();
        let signal = |throttle| SignalLoad {
            load: Some(ratio(1.2)),
            lasting: Some(ratio(1.2)),
            thresholds: Thresholds {
                throttle,
                ..thresholds(0.7, 0.9, 0.98)
            },
        };
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            machine.observe(&[signal(Some(ratio(0.9)))], None, false, now);
            assert_eq!(machine.level(), Level::Throttle);
        }
        for second in 10..13 {
            let now = start + Duration::from_secs(second);
            machine.observe(&[signal(None)], None, false, now);
        }
        assert_eq!(
            machine.level(),
            Level::Drop,
            "a signal that turns nobody away"
        );
    }

    #[test]
    fn every_level_lasts_the_hold() {
        let mut loads = vec![0.1; 20];
        loads[0] = 0.95;
        let levels = run(&mut machine(2), Instant::now(), &loads);
        assert!(levels[..8].iter().all(|level| *level == Level::Throttle));
        assert!(levels[8..].iter().all(|level| *level == Level::Normal));
    }

    #[test]
    fn the_highest_level_of_any_signal_counts_and_is_named() {
        let mut machine = machine(0);
        let signals = [
            SignalLoad {
                load: Some(ratio(0.75)),
                lasting: None,
                thresholds: thresholds(0.7, 0.9, 0.98),
            },
            SignalLoad {
                load: Some(ratio(0.5)),
                lasting: None,
                thresholds: thresholds(0.3, 0.4, 0.98),
            },
        ];
        let transition = machine
            .observe(&signals, None, false, Instant::now())
            .unwrap();
        assert_eq!(transition.to, Level::Throttle);
        assert_eq!(transition.signal, Some(1));
    }

    #[test]
    fn levels_without_a_threshold_are_never_entered() {
        let mut machine = machine(0);
        let signal = SignalLoad {
            load: Some(ratio(5.0)),
            lasting: Some(ratio(5.0)),
            thresholds: Thresholds {
                offload: None,
                throttle: Some(ratio(0.9)),
                drop: None,
            },
        };
        let start = Instant::now();
        for second in 0..10 {
            machine.observe(&[signal], None, true, start + Duration::from_secs(second));
            assert_eq!(machine.level(), Level::Throttle);
        }
    }

    #[test]
    fn with_an_automatic_share_the_episode_ends_when_the_share_has_been_idle_for_a_hold() {
        let mut machine = machine(2);
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let signal = |load| SignalLoad {
            load: Some(ratio(load)),
            lasting: None,
            thresholds: thresholds(0.7, 0.9, 0.98),
        };
        machine.observe(&[signal(0.8)], Some(true), false, at(0));
        machine.observe(&[signal(0.1)], Some(true), false, at(10));
        assert_eq!(machine.level(), Level::Offload, "the share is at work");
        machine.observe(&[signal(0.69)], Some(false), false, at(11));
        assert_eq!(machine.level(), Level::Offload, "idle for a second");
        machine.observe(&[signal(0.69)], Some(false), false, at(12));
        assert_eq!(machine.level(), Level::Normal, "idle for a hold");
    }

    #[test]
    fn an_automatic_share_holds_no_episode_of_a_signal_that_went_silent() {
        let mut machine = machine(1);
        let start = Instant::now();
        let signal = |load| SignalLoad {
            load,
            lasting: load,
            thresholds: thresholds(0.7, 0.9, 0.98),
        };
        machine.observe(&[signal(Some(ratio(0.8)))], Some(true), false, start);
        machine.observe(
            &[signal(None)],
            Some(true),
            false,
            start + Duration::from_secs(2),
        );
        assert_eq!(machine.level(), Level::Normal);
    }

    #[test]
    fn a_signal_without_a_reading_lets_go_after_the_dwell() {
        let mut machine = machine(1);
        let start = Instant::now();
        let signal = |load| SignalLoad {
            load,
            lasting: load,
            thresholds: thresholds(0.7, 0.9, 0.98),
        };
        machine.observe(&[signal(Some(ratio(0.8)))], None, false, start);
        machine.observe(
            &[signal(None)],
            None,
            false,
            start + Duration::from_millis(500),
        );
        assert_eq!(machine.level(), Level::Offload);
        machine.observe(&[signal(None)], None, false, start + Duration::from_secs(1));
        assert_eq!(machine.level(), Level::Normal);
    }
}
