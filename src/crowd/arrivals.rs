//! When visitors come, and for which page: drawn from the visitor's number and a seed, so that the same seed
//! gives the same crowd.

use std::time::Duration;

use crate::servers::hash;

/// Whether visitors come by the dice; a seed is a pair of dice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dice {
    seed: u64,
}

// === impl Dice ===

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            seed: hash::mix(seed),
        }
    }

    /// The time from visitor number `visitor` − 1 to this one, where `rate` a second come.
    pub(super) fn pause(self, rate: f64, visitor: u64) -> Duration {
        pause(rate, self.roll(visitor, 2))
    }

    /// Which of `count` pages the visitor comes for, each as likely as the others.
    pub(super) fn page(self, count: usize, visitor: u64) -> usize {
        (self.roll(visitor, 1) * count as f64) as usize
    }

    fn roll(self, visitor: u64, what: u64) -> f64 {
        hash::fraction(visitor ^ self.seed, what)
    }
}

/// The time until the next visitor, with `rate` a second who know nothing of each other: exponentially
/// distributed. `place` in [0, 1) is drawn by chance.
fn pause(rate: f64, place: f64) -> Duration {
    Duration::try_from_secs_f64(-(1.0 - place).max(1e-9).ln() / rate).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_as_the_rate_says() {
        for seed in [0, 1, u64::MAX] {
            let dice = Dice::new(seed);
            let ten_thousand: Duration = (0..10_000).map(|n| dice.pause(50.0, n)).sum();
            let seconds = ten_thousand.as_secs_f64();
            assert!((190.0..210.0).contains(&seconds), "seed {seed}: {seconds}");
        }
    }

    #[test]
    fn pauses_are_those_of_visitors_who_know_nothing_of_each_other() {
        let dice = Dice::new(7);
        let longer = |than: f64| {
            let pauses = (0..10_000).map(|n| dice.pause(1.0, n).as_secs_f64());
            pauses.filter(|pause| *pause > than).count()
        };
        // e⁻¹ and e⁻³ of them.
        assert!((3_550..3_810).contains(&longer(1.0)), "{}", longer(1.0));
        assert!((430..570).contains(&longer(3.0)), "{}", longer(3.0));
        assert_eq!(pause(1e-300, 0.5), Duration::MAX, "who never comes");
    }

    #[test]
    fn each_page_gets_its_part_and_independently_of_when() {
        let dice = Dice::new(1);
        for page in 0..4 {
            let visits = |early: bool| {
                (0..8_000)
                    .filter(|n| dice.page(4, *n) == page)
                    .filter(|n| (dice.pause(1.0, *n) < Duration::from_secs_f64(0.693)) == early)
                    .count()
            };
            for early in [true, false] {
                let count = visits(early);
                assert!((900..1_100).contains(&count), "{page} {early}: {count}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_crowd_and_another_another() {
        let crowd = |seed| {
            let dice = Dice::new(seed);
            (0..100).map(move |n| (dice.pause(1.0, n), dice.page(9, n)))
        };
        assert!(crowd(1).eq(crowd(1)));
        assert!(!crowd(1).eq(crowd(2)));
    }
}
