//! What happens in the demo: acts, each with a crowd of its own size.
//!
//! An act has the time that it takes to be understood, and ends when what it is about has been seen, be the machine
//! as slow as it may: so the narrator never says what is not so.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// One act.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act {
    /// Its name on the progress bar.
    pub(super) name: &'static str,
    /// What the narrator says.
    pub(super) sentence: &'static str,
    /// How long it is at least, but for the last act, which ends as soon as all is as it was.
    pub(super) length: Duration,
    /// How long it is at most.
    pub(super) most: Duration,
    /// How long the crowd takes to get from the last act's size to this one's.
    pub(super) grows: Duration,
    /// Visitors a second from then on.
    pub(super) visitors: f64,
    /// What is to be seen before it ends.
    pub(super) shows: Shows,
}

/// What an act is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// Just how it goes.
    Things,
    /// This level, or one above it.
    Level(&'static str),
    /// An offload server dies and comes back, and Overspill knows both.
    Death,
    /// Level `normal` again.
    Relief,
}

/// The acts, and the times that go with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Story {
    pub(super) acts: [Act; ACTS],
    /// From one line to the next.
    pub(super) line: Duration,
    /// `offload.hold`.
    pub(super) hold: Duration,
    /// How often Overspill asks the offload servers whether they are alive.
    pub(super) probe: Duration,
    /// How long the room of one that comes back grows.
    pub(super) slow_start: Duration,
    /// How long the server is dead.
    pub(super) dead: Duration,
    /// How long the level must have been `normal` in the last act for the story to end.
    pub(super) calm: Duration,
    /// After that a visitor goes away.
    pub(super) patience: Duration,
}

/// How many acts there are.
pub(super) const ACTS: usize = 8;

/// Visitors a second when nothing happens, and after the story.
pub(super) const FEW: f64 = 2.0;

/// Of every act: its name, what it shows, and what the narrator says.
const PROGRAMME: [(&str, Shows, &str); ACTS] = [
    (
        "calm",
        Shows::Things,
        "An ordinary evening. The primary serves everything itself.",
    ),
    (
        "a crowd",
        Shows::Level("offload"),
        "The lighthouse is in the local news. Each second more people come.",
    ),
    (
        "offload",
        Shows::Things,
        "That is more than one small link carries. The primary still sends every page;\n  the pictures in it now come from a and b, to as many visitors as it takes.",
    ),
    (
        "a server dies",
        Shows::Death,
        "Offload server b is killed: its connections break, and nobody listens.",
    ),
    (
        "twice the crowd",
        Shows::Things,
        "National television: the crowd doubles. a and b carry most of it.",
    ),
    (
        "throttle",
        Shows::Level("throttle"),
        "More than twice as many again, and more than all three links carry. For whom\n  there is room nowhere gets a 503 page, so that the others get whole pages.",
    ),
    (
        "drop",
        Shows::Level("drop"),
        "Somebody posts it where millions look. The 503 pages alone are more than the\n  link carries. When they wait for seconds, some get no answer at all.",
    ),
    (
        "relief",
        Shows::Relief,
        "The news moves on, and the crowd goes home.",
    ),
];

const fn seconds(seconds: f64) -> Duration {
    Duration::from_micros((seconds * 1e6) as u64)
}

// === impl Story ===

impl Story {
    /// About two minutes.
    pub(super) const FULL: Self = Self {
        acts: acts(
            [
                (10.0, 0.0, FEW),
                (9.0, 6.0, 8.0),
                (12.0, 0.0, 8.0),
                (18.0, 0.0, 8.0),
                (12.0, 3.0, 16.0),
                (14.0, 3.0, 40.0),
                (12.0, 1.0, 150.0),
                (20.0, 0.5, 1.0),
            ],
            seconds(20.0),
        ),
        line: seconds(2.0),
        hold: seconds(5.0),
        probe: seconds(1.0),
        slow_start: seconds(5.0),
        dead: seconds(8.0),
        calm: seconds(3.0),
        patience: seconds(8.0),
    };

    /// The same in a quarter of the time.
    pub(super) const FAST: Self = Self {
        acts: acts(
            [
                (1.5, 0.0, FEW),
                (1.0, 0.5, 8.0),
                (2.0, 0.0, 8.0),
                (3.5, 0.0, 8.0),
                (2.0, 0.5, 16.0),
                (3.0, 0.5, 40.0),
                (3.0, 0.2, 150.0),
                (6.0, 0.2, 1.0),
            ],
            seconds(30.0),
        ),
        line: seconds(0.5),
        hold: seconds(1.0),
        probe: seconds(0.3),
        slow_start: seconds(1.0),
        dead: seconds(1.5),
        calm: seconds(0.5),
        patience: seconds(4.0),
    };

    /// How long it is, if every act takes its time and no more.
    pub(super) fn length(&self) -> Duration {
        self.acts.iter().map(|act| act.length).sum()
    }

    /// How long it is at most.
    pub(super) fn most(&self) -> Duration {
        self.acts.iter().map(|act| act.most).sum()
    }
}

/// Of every act: seconds, seconds until its crowd is there, visitors a second. It is given `patience` more to show
/// what it shows.
const fn acts(story: [(f64, f64, f64); ACTS], patience: Duration) -> [Act; ACTS] {
    const fn act(story: [(f64, f64, f64); ACTS], patience: Duration, number: usize) -> Act {
        let (length, grows, visitors) = story[number];
        let (name, shows, sentence) = PROGRAMME[number];
        let length = seconds(length);
        Act {
            name,
            sentence,
            length,
            most: match shows {
                Shows::Things => length,
                _ => length.saturating_add(patience),
            },
            grows: seconds(grows),
            visitors,
            shows,
        }
    }
    [
        act(story, patience, 0),
        act(story, patience, 1),
        act(story, patience, 2),
        act(story, patience, 3),
        act(story, patience, 4),
        act(story, patience, 5),
        act(story, patience, 6),
        act(story, patience, 7),
    ]
}

/// The story as it is played: when which act began. Both crowds come by it, so an act begins, and the story ends, a
/// moment after that is decided: then both know it before they come to that time, and are the same crowd.
#[derive(Debug)]
pub(super) struct Played {
    story: Story,
    times: Mutex<Times>,
}

#[derive(Debug, Clone)]
struct Times {
    /// Of the acts that have begun, or are about to.
    begun: Vec<Duration>,
    /// From then on nobody comes.
    over: Option<Duration>,
}

// === impl Played ===

impl Played {
    /// How long before it begins an act is decided.
    pub(super) const AHEAD: Duration = Duration::from_millis(250);

    /// The first act begins at once.
    pub(super) fn new(story: Story) -> Self {
        Self {
            story,
            times: Mutex::new(Times {
                begun: vec![Duration::ZERO],
                over: None,
            }),
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The act at `time`, and how long it has lasted.
    pub(super) fn act(&self, time: Duration) -> (usize, Duration) {
        let times = self.times();
        let number = times.begun.partition_point(|begun| *begun <= time);
        let number = number.saturating_sub(1);
        (number, time.saturating_sub(times.begun[number]))
    }

    /// The next act, or the end, is to come soon; decided at `now`. It is decided once.
    pub(super) fn go_on(&self, now: Duration) {
        let mut times = self.times();
        let at = now + Self::AHEAD;
        let is_decided = times.begun.last().is_some_and(|last| *last > now) || times.over.is_some();
        if is_decided {
            return;
        }
        if times.begun.len() < ACTS {
            times.begun.push(at);
        } else {
            times.over = Some(at);
        }
    }

    /// Whether it is over at `time`.
    pub(super) fn is_over(&self, time: Duration) -> bool {
        self.times().over.is_some_and(|over| over <= time)
    }

    /// Visitors a second at `time`.
    pub(super) fn visitors(&self, time: Duration) -> f64 {
        if self.is_over(time) {
            return 0.0;
        }
        let (number, since) = self.act(time);
        let acts = &self.story.acts;
        let Act {
            grows, visitors, ..
        } = acts[number];
        if since >= grows {
            return visitors;
        }
        let before = number
            .checked_sub(1)
            .map_or(0.0, |last| acts[last].visitors);
        before + (visitors - before) * since.as_secs_f64() / grows.as_secs_f64()
    }

    /// How much of the story is behind, of [`Story::length`]: the time that is left is what the acts to come take.
    pub(super) fn behind(&self, time: Duration) -> Duration {
        let (number, since) = self.act(time);
        let acts = &self.story.acts;
        let before: Duration = acts[..number].iter().map(|act| act.length).sum();
        before + since.min(acts[number].length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_crowd_grows_until_it_goes() {
        let played = Played::new(Story::FULL);
        assert_eq!(
            played.visitors(at(0.0)),
            FEW,
            "it begins with someone there"
        );
        assert_eq!(played.visitors(at(99.0)), FEW, "nothing has been decided");
        played.go_on(at(9.75));
        assert_eq!(played.visitors(at(9.9)), FEW);
        assert_eq!(played.visitors(at(13.0)), 5.0, "half way");
        assert_eq!(played.visitors(at(16.0)), 8.0);
        for act in 2..ACTS {
            played.go_on(at(10.0 * act as f64));
        }
        assert_eq!(played.visitors(at(80.0)), 1.0);
        played.go_on(at(89.75));
        assert_eq!(played.visitors(at(89.9)), 1.0);
        assert_eq!(played.visitors(at(90.0)), 0.0);
        assert!(played.is_over(at(90.0)));
    }

    #[test]
    fn an_act_is_decided_once_and_before_anyone_comes_to_it() {
        let played = Played::new(Story::FULL);
        played.go_on(at(9.0));
        played.go_on(at(9.1));
        assert_eq!(played.act(at(9.2)), (0, at(9.2)));
        assert_eq!(played.act(at(9.25)), (1, at(0.0)));
        assert_eq!(played.act(at(99.0)), (1, at(89.75)));
        for _ in 0..2 * ACTS {
            played.go_on(at(50.0));
        }
        assert_eq!(played.act(at(99.0)).0, 2);
    }

    #[test]
    fn what_is_behind_never_is_more_than_the_acts_take() {
        let played = Played::new(Story::FULL);
        assert_eq!(played.behind(at(5.0)), at(5.0));
        assert_eq!(played.behind(at(50.0)), at(10.0));
        played.go_on(at(50.0));
        assert_eq!(played.behind(at(51.25)), at(11.0));
    }

    #[test]
    fn the_full_story_takes_two_minutes_and_the_fast_one_a_quarter_of_that() {
        let length = Story::FULL.length();
        assert!((at(105.0)..at(120.0)).contains(&length), "{length:?}");
        assert!(Story::FAST.length() * 4 <= length);
        assert!(Story::FULL.most() < at(300.0));
    }
}
