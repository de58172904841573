//! What became of the visitors.

use std::{collections::HashMap, time::Duration};

use http::StatusCode;
use serde::Serialize;
use url::Url;

use super::{times::Times, trouble::Trouble};

/// Different things that went wrong are told apart up to that.
const MOST_FAILURES: usize = 200;

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The page is there with all its objects.
    Whole,
    /// The page is there, not all of its objects are.
    Partial {
        /// All that is missing came too late.
        late: bool,
    },
    /// A 503 instead of the page.
    Throttled,
    /// The connection was closed without a byte.
    Dropped,
    /// No page within the visitor's patience.
    TimedOut,
    /// Nobody listens.
    Refused,
    /// Something else than the page, or half of it.
    Failed,
    /// This machine could not send the visitor.
    NotStarted,
}

/// One visit, when it is over.
#[derive(Debug)]
pub(super) struct Visited {
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) objects: ObjectCount,
    pub(super) troubles: Vec<(Url, Trouble)>,
}

/// Visitors by how their visits ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Visitors whom the rate asked for.
    pub offered: u64,
    /// Of those, the ones who came: not those for whom there was no place among `--max-visitors`.
    pub arrived: u64,
    /// Visitors whom this machine did not send: too many at once, or no file or port left.
    pub not_started: u64,
    /// Pages that arrived with all their objects.
    pub whole: u64,
    /// Pages that arrived, but not with all their objects.
    pub partial: u64,
    /// Of those, the ones of which all that is missing came too late.
    pub partial_timed_out: u64,
    /// 503 instead of the page.
    pub throttled: u64,
    /// Connections closed or reset without a byte.
    pub dropped: u64,
    /// No page within the visitor's patience.
    pub timed_out: u64,
    /// Connections that nobody took.
    pub refused: u64,
    /// Another status, half a page, no HTTP …
    pub failed: u64,
    /// Visits that were under way when the crowd was broken off.
    pub unfinished: u64,
}

/// The objects of pages that arrived, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ObjectCount {
    /// Arrived as they should.
    pub whole: u64,
    /// Other statuses than 200 and 503, connections that failed, bodies that were cut short.
    pub failed: u64,
    /// 503.
    pub throttled: u64,
    /// Not there when the visitor's patience ended.
    pub timed_out: u64,
    /// Other bytes than the primary's (with `--verify`).
    pub wrong: u64,
    /// Of those that arrived, the ones that nothing is known of to compare with (with `--verify`).
    pub unverified: u64,
    /// The primary itself did not have them (with `--verify`). They do not count against a page.
    pub missing: u64,
    /// On hosts that are not to be visited. They do not count against a page.
    pub foreign: u64,
}

/// All visits.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub(super) tally: Tally,
    pub(super) objects: ObjectCount,
    /// Of whole pages.
    pub(super) times: Times,
    /// Whole pages by the time the last visitor came.
    pub(super) whole_in_time: u64,
    pub(super) failures: HashMap<(String, Trouble), u64>,
}

// === impl Outcome ===

impl Outcome {
    /// What it is when the page did not arrive.
    pub(super) const fn without_page(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Status(StatusCode::SERVICE_UNAVAILABLE) => Self::Throttled,
            Trouble::Dropped => Self::Dropped,
            Trouble::TimedOut => Self::TimedOut,
            Trouble::Refused => Self::Refused,
            Trouble::Own(_) => Self::NotStarted,
            _ => Self::Failed,
        }
    }

    /// Whether the word alone does not tell what was wrong.
    pub(super) const fn is_strange(self) -> bool {
        matches!(self, Self::Refused | Self::Failed | Self::NotStarted)
    }
}

// === impl ObjectCount ===

impl ObjectCount {
    /// What a visit is whose page arrived.
    pub(super) const fn outcome(&self) -> Outcome {
        let others = self.failed + self.throttled + self.wrong;
        match (others, self.timed_out) {
            (0, 0) => Outcome::Whole,
            (0, _) => Outcome::Partial { late: true },
            _ => Outcome::Partial { late: false },
        }
    }

    const fn add(&mut self, more: &Self) {
        self.whole += more.whole;
        self.failed += more.failed;
        self.throttled += more.throttled;
        self.timed_out += more.timed_out;
        self.wrong += more.wrong;
        self.unverified += more.unverified;
        self.missing += more.missing;
        self.foreign += more.foreign;
    }
}

// === impl Tally ===

impl Tally {
    /// Visits that are over, of those who came.
    pub(super) const fn ended(&self) -> u64 {
        self.whole
            + self.partial
            + self.throttled
            + self.dropped
            + self.timed_out
            + self.refused
            + self.failed
    }
}

// === impl Tallies ===

impl Tallies {
    /// Counts a visit; `coming` while others still come.
    pub(super) fn add(&mut self, visited: Visited, coming: bool) {
        let tally = &mut self.tally;
        *match visited.outcome {
            Outcome::Whole => &mut tally.whole,
            Outcome::Partial { late } => {
                tally.partial_timed_out += u64::from(late);
                &mut tally.partial
            }
            Outcome::Throttled => &mut tally.throttled,
            Outcome::Dropped => &mut tally.dropped,
            Outcome::TimedOut => &mut tally.timed_out,
            Outcome::Refused => &mut tally.refused,
            Outcome::Failed => &mut tally.failed,
            Outcome::NotStarted => {
                tally.arrived -= 1;
                &mut tally.not_started
            }
        } += 1;
        if visited.outcome == Outcome::Whole {
            self.times.add(visited.took);
            self.whole_in_time += u64::from(coming);
        }
        self.objects.add(&visited.objects);
        for (url, trouble) in visited.troubles {
            self.fail(url, trouble);
        }
    }

    fn fail(&mut self, url: Url, trouble: Trouble) {
        let key = (String::from(url), trouble);
        if let Some(count) = self.failures.get_mut(&key) {
            *count += 1;
        } else if self.failures.len() < MOST_FAILURES {
            self.failures.insert(key, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visited(outcome: Outcome) -> Visited {
        Visited {
            outcome,
            took: Duration::from_millis(5),
            objects: ObjectCount::default(),
            troubles: Vec::new(),
        }
    }

    #[test]
    fn a_page_is_whole_when_nothing_is_missing_that_could_be_had() {
        let count = ObjectCount {
            whole: 3,
            missing: 1,
            foreign: 1,
            unverified: 1,
            ..ObjectCount::default()
        };
        assert_eq!(count.outcome(), Outcome::Whole);
        let late = ObjectCount {
            timed_out: 1,
            ..count
        };
        assert_eq!(late.outcome(), Outcome::Partial { late: true });
        for broken in [
            ObjectCount { failed: 1, ..late },
            ObjectCount {
                throttled: 1,
                ..late
            },
            ObjectCount { wrong: 1, ..late },
        ] {
            assert_eq!(broken.outcome(), Outcome::Partial { late: false });
        }
    }

    #[test]
    fn every_visitor_is_counted_once() {
        let mut tallies = Tallies::default();
        let all = [
            Outcome::Whole,
            Outcome::Partial { late: true },
            Outcome::Partial { late: false },
            Outcome::Throttled,
            Outcome::Dropped,
            Outcome::TimedOut,
            Outcome::Refused,
            Outcome::Failed,
            Outcome::NotStarted,
        ];
        for (index, outcome) in all.into_iter().enumerate() {
            tallies.tally.offered += 1;
            tallies.tally.arrived += 1;
            tallies.add(visited(outcome), index % 2 == 0);
        }
        let tally = tallies.tally;
        assert_eq!((tally.offered, tally.arrived, tally.not_started), (9, 8, 1));
        assert_eq!(tally.ended(), 8);
        assert_eq!((tally.partial, tally.partial_timed_out), (2, 1));
        assert_eq!(
            (tallies.whole_in_time, tallies.times.longest()),
            (1, Some(Duration::from_millis(5)))
        );
    }

    #[test]
    fn what_goes_wrong_is_told_apart_up_to_a_bound() {
        let mut tallies = Tallies::default();
        for number in 0..1_000 {
            let url = Url::parse(&format!("http://a/{}", number % 500)).unwrap();
            tallies.fail(url, Trouble::Cut);
        }
        assert_eq!(tallies.failures.len(), MOST_FAILURES);
        assert!(tallies.failures.values().all(|count| *count == 2));
    }
}
