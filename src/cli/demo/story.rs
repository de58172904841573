//! What happens in the demo: acts, each with a crowd of its own size.

use std::time::Duration;

/// One act.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act {
    /// How long it lasts; the last act may end before, when all is as it was.
    pub(super) length: Duration,
    /// How long the crowd takes to get from the last act's size to this one's.
    pub(super) grows: Duration,
    /// Visitors a second from then on.
    pub(super) visitors: f64,
    /// What the narrator says.
    pub(super) sentence: &'static str,
}

/// The acts, and the times that go with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Story {
    pub(super) acts: [Act; 5],
    /// From one line to the next.
    pub(super) line: Duration,
    /// `offload.hold`.
    pub(super) hold: Duration,
    /// How long the level must have been `normal` in the last act for the story to end.
    pub(super) calm: Duration,
}

const SENTENCES: [&str; 5] = [
    "An ordinary evening. The primary serves everything itself.",
    "The lighthouse is in the local news. More visitors than the primary's link can carry alone.",
    "Now on national television. More visitors than all three links can carry.",
    "And somebody posts it where millions look. Even saying no is work now.",
    "The news moves on. The crowd goes home.",
];

// === impl Story ===

impl Story {
    /// About a minute.
    pub(super) const FULL: Self = Self::new(
        [
            (6.0, 0.0, 4.0),
            (15.0, 5.0, 24.0),
            (15.0, 4.0, 80.0),
            (6.0, 0.5, 250.0),
            (40.0, 0.5, 2.0),
        ],
        1.0,
        5.0,
        3.0,
    );

    /// The same in a quarter of the time.
    pub(super) const FAST: Self = Self::new(
        [
            (1.5, 0.0, 4.0),
            (3.0, 0.5, 24.0),
            (3.5, 0.5, 90.0),
            (2.0, 0.2, 200.0),
            (60.0, 0.2, 2.0),
        ],
        0.5,
        1.0,
        0.5,
    );

    /// Of every act: seconds, seconds until its crowd is there, visitors a second.
    const fn new(acts: [(f64, f64, f64); 5], line: f64, hold: f64, calm: f64) -> Self {
        const fn seconds(seconds: f64) -> Duration {
            Duration::from_micros((seconds * 1e6) as u64)
        }
        const fn act(story: [(f64, f64, f64); 5], number: usize) -> Act {
            let (length, grows, visitors) = story[number];
            Act {
                length: seconds(length),
                grows: seconds(grows),
                visitors,
                sentence: SENTENCES[number],
            }
        }
        Self {
            acts: [
                act(acts, 0),
                act(acts, 1),
                act(acts, 2),
                act(acts, 3),
                act(acts, 4),
            ],
            line: seconds(line),
            hold: seconds(hold),
            calm: seconds(calm),
        }
    }

    /// The act at `time`, and how long it has lasted; [`None`] after the last.
    pub(super) fn act(&self, time: Duration) -> Option<(usize, Duration)> {
        let mut since = time;
        for (number, act) in self.acts.iter().enumerate() {
            if since < act.length {
                return Some((number, since));
            }
            since -= act.length;
        }
        None
    }

    /// How long it is if the last act does not end before its time.
    pub(super) fn length(&self) -> Duration {
        self.acts.iter().map(|act| act.length).sum()
    }

    /// Visitors a second at `time`.
    pub(super) fn visitors(&self, time: Duration) -> f64 {
        let Some((number, since)) = self.act(time) else {
            return 0.0;
        };
        let Act {
            grows, visitors, ..
        } = self.acts[number];
        let before = number
            .checked_sub(1)
            .map_or(0.0, |last| self.acts[last].visitors);
        if since >= grows {
            visitors
        } else {
            before + (visitors - before) * since.as_secs_f64() / grows.as_secs_f64()
        }
    }

    /// The number of the last act.
    pub(super) const fn last(&self) -> usize {
        self.acts.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_grows_until_it_goes() {
        let story = Story::FULL;
        let at = |seconds| story.visitors(Duration::from_secs_f64(seconds));
        assert_eq!(at(0.0), 4.0, "it begins with someone there");
        assert_eq!(at(6.0), 4.0);
        assert_eq!(at(8.5), 14.0, "half way to the second act's crowd");
        assert_eq!(at(11.0), 24.0);
        assert_eq!(at(45.0), 2.0);
        assert_eq!(at(999.0), 0.0);
    }

    #[test]
    fn tells_which_act_it_is() {
        let act = |seconds| Story::FULL.act(Duration::from_secs(seconds));
        assert_eq!(act(0), Some((0, Duration::ZERO)));
        assert_eq!(act(7), Some((1, Duration::from_secs(1))));
        assert_eq!(act(43), Some((Story::FULL.last(), Duration::from_secs(1))));
        assert_eq!(act(999), None);
    }
}
