//! Whether a server is alive.
//!
//! One lost answer is an accident: a server turns ill after several bad answers in a row and well after
//! several good ones. Only the very first answer decides alone, since before it nothing is known at all.
//! A 503 is an answer of somebody who is busy, not ill.

use super::settings::HealthProbe;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Any status below 500.
    Good,
    /// 503: alive, and says that it has too much to do.
    Busy,
    /// No answer, or another status of 500 and above; says what happened.
    Bad(String),
}

/// What is known of a server's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not asked yet.
    Unknown,
    /// Alive.
    Well,
    /// Alive, but it answered 503.
    Busy,
    /// Not alive, and why.
    Ill(String),
}

/// Counts answers.
#[derive(Debug, Clone)]
pub struct HealthTracker {
    health: Health,
    in_a_row: u32,
}

// === impl HealthTracker ===

impl Default for HealthTracker {
    fn default() -> Self {
        Self {
            health: Health::Unknown,
            in_a_row: 0,
        }
    }
}

impl HealthTracker {
    /// What is known now.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Whether it is alive as far as is known, and its last answer was bad: the next one is wanted soon.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.health, Health::Well | Health::Busy) && self.in_a_row > 0
    }

    /// Takes in an answer; true when it changed the health.
    pub fn observe(&mut self, answer: Answer, settings: &HealthProbe) -> bool {
        let (next, needed) = match (&self.health, answer) {
            (Health::Unknown, Answer::Good) => (Health::Well, 1),
            (Health::Unknown, Answer::Busy) => (Health::Busy, 1),
            (Health::Unknown, Answer::Bad(why)) => (Health::Ill(why), 1),
            (Health::Ill(_), Answer::Good) => (Health::Well, settings.successes),
            (Health::Ill(_), Answer::Busy) => (Health::Busy, settings.successes),
            (Health::Well | Health::Busy, Answer::Bad(why)) => {
                (Health::Ill(why), settings.failures)
            }
            // Busy or not follows each answer: that is load, and load changes quickly.
            (Health::Busy, Answer::Good) => (Health::Well, 1),
            (Health::Well, Answer::Busy) => (Health::Busy, 1),
            (Health::Ill(_), Answer::Bad(_))
            | (Health::Well, Answer::Good)
            | (Health::Busy, Answer::Busy) => {
                self.in_a_row = 0;
                return false;
            }
        };
        self.in_a_row += 1;
        if self.in_a_row < needed {
            return false;
        }
        self.in_a_row = 0;
        self.health = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Answer {
        Answer::Bad("refused".to_owned())
    }

    fn after(answers: impl IntoIterator<Item = Answer>) -> Health {
        let mut tracker = HealthTracker::default();
        for answer in answers {
            tracker.observe(answer, &HealthProbe::default());
        }
        tracker.health().clone()
    }

    #[test]
    fn the_first_answer_decides_alone() {
        assert_eq!(after([]), Health::Unknown);
        assert_eq!(after([Answer::Good]), Health::Well);
        assert_eq!(after([bad()]), Health::Ill("refused".to_owned()));
    }

    #[test]
    fn then_it_takes_several_in_a_row() {
        assert_eq!(after([Answer::Good, bad(), bad()]), Health::Well);
        assert_eq!(
            after([Answer::Good, bad(), bad(), Answer::Good, bad(), bad()]),
            Health::Well
        );
        assert!(matches!(
            after([Answer::Good, bad(), bad(), bad()]),
            Health::Ill(_)
        ));
        assert!(matches!(after([bad(), Answer::Good]), Health::Ill(_)));
        assert_eq!(after([bad(), Answer::Good, Answer::Good]), Health::Well);
    }

    #[test]
    fn it_is_in_doubt_from_the_first_bad_answer_until_that_has_proved_right_or_wrong() {
        let mut tracker = HealthTracker::default();
        let mut in_doubt = |answer| {
            tracker.observe(answer, &HealthProbe::default());
            tracker.is_in_doubt()
        };
        assert!(!in_doubt(Answer::Good));
        assert!(in_doubt(bad()));
        assert!(!in_doubt(Answer::Good));
        assert!(in_doubt(bad()) && in_doubt(bad()));
        // It is ill: how soon it is well again is no matter of haste.
        assert!(!in_doubt(bad()) && !in_doubt(bad()));
        assert!(!in_doubt(Answer::Good) && !in_doubt(Answer::Good));
        assert!(in_doubt(bad()));
        assert!(!in_doubt(Answer::Busy));
    }

    #[test]
    fn a_503_is_load_not_illness() {
        assert_eq!(after([Answer::Good, Answer::Busy]), Health::Busy);
        assert_eq!(
            after([Answer::Good, Answer::Busy, Answer::Good]),
            Health::Well
        );
        assert_eq!(after(std::iter::repeat_n(Answer::Busy, 9)), Health::Busy);
    }

    proptest::proptest! {
        #[test]
        fn it_flips_after_so_many_in_a_row_and_never_before(
            answers in proptest::collection::vec(0..3_u8, 1..60), failures in 1..5_u32, successes in 1..5_u32,
        ) {
            let settings = HealthProbe { failures, successes, ..HealthProbe::default() };
            let mut tracker = HealthTracker::default();
            let answer = |kind: u8| match kind {
                0 => Answer::Good,
                1 => Answer::Busy,
                _ => bad(),
            };
            let is_bad = |kind: &u8| *kind == 2;
            for (at, kind) in answers.iter().enumerate() {
                let was_ill = matches!(tracker.health(), Health::Ill(_));
                tracker.observe(answer(*kind), &settings);
                let is_ill = matches!(tracker.health(), Health::Ill(_));
                let so_far = &answers[..=at];
                let last = |count: u32, are_bad: bool| {
                    let mut last = so_far.iter().rev().take(count as usize);
                    so_far.len() >= count as usize && last.all(|kind| is_bad(kind) == are_bad)
                };
                if at == 0 {
                    proptest::prop_assert_eq!(is_ill, is_bad(kind));
                } else if was_ill {
                    proptest::prop_assert_eq!(is_ill, !last(successes, false), "{:?}", so_far);
                } else {
                    proptest::prop_assert_eq!(is_ill, last(failures, true), "{:?}", so_far);
                }
                if !is_ill {
                    let busy = *tracker.health() == Health::Busy;
                    let last_alive = so_far.iter().rev().find(|kind| !is_bad(kind));
                    proptest::prop_assert_eq!(busy, last_alive == Some(&1));
                }
            }
        }
    }
}
