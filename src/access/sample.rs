//! Which requests get a line.
//!
//! At level `normal` a part of them, by lot. Above it a crowd must not fill disk and processor, so lines are fewer, down
//! to a rate: in every tenth of a second the part is what the rate allows of as many requests as came in the tenth before.
//! Each line stands for the requests since the last that got none, so that the figures in a log can be summed up. What
//! fails, and what the gate closes, is drawn on its own: neither hides in a crowd, and neither hides the crowd.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::servers::hash;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request.
    Usual,
    /// A request that failed.
    Failure,
    /// A connection that was closed before it could ask.
    Closed,
}

/// Draws.
#[derive(Debug)]
pub(super) struct Sampler {
    /// The bits of a number.
    sample: AtomicU64,
    lanes: [Lane; 3],
}

/// Those of one kind. Every number may be a little off where two threads meet: none guards anything.
#[derive(Debug, Default)]
struct Lane {
    /// How many lines a window may have, and how many nanoseconds it is long.
    allowed: AtomicU64,
    window: AtomicU64,
    /// The window that the following are of.
    current: AtomicU64,
    seen: AtomicU64,
    written: AtomicU64,
    /// What came in the window before.
    before: AtomicU64,
    /// Requests since the last line.
    skipped: AtomicU64,
    drawn: AtomicU64,
}

// === impl Sampler ===

impl Sampler {
    /// `sample`: the part at `normal`; `rate`: lines a second above it.
    pub(super) fn new(sample: f64, rate: u32) -> Self {
        let sampler = Self {
            sample: AtomicU64::default(),
            lanes: Default::default(),
        };
        sampler.set(sample, rate);
        sampler
    }

    /// Goes by these from now on.
    pub(super) fn set(&self, sample: f64, rate: u32) {
        self.sample.store(sample.to_bits(), Relaxed);
        let rate = u64::from(rate);
        for (lane, rate) in std::iter::zip(&self.lanes, [rate, rate, (rate / 10).max(1)]) {
            lane.set(rate);
        }
    }

    /// How many requests a line for this one would stand for; [`None`]: it gets none. `now`: since any moment that stays the
    /// same.
    pub(super) fn draw(&self, kind: Kind, is_crowd: bool, now: Duration) -> Option<u64> {
        let lane = &self.lanes[kind as usize];
        let part = match kind {
            Kind::Failure => 1.0,
            Kind::Usual | Kind::Closed => f64::from_bits(self.sample.load(Relaxed)),
        };
        let gets_one = if is_crowd {
            lane.has_room(part, now)
        } else {
            lane.is_drawn(part)
        };
        if gets_one {
            Some(1 + lane.skipped.swap(0, Relaxed))
        } else {
            lane.skipped.fetch_add(1, Relaxed);
            None
        }
    }

    /// A line that stood for so many was lost: the next stands for them too.
    pub(super) fn lost(&self, kind: Kind, requests: u64) {
        self.lanes[kind as usize]
            .skipped
            .fetch_add(requests, Relaxed);
    }
}

// === impl Lane ===

impl Lane {
    fn set(&self, rate: u64) {
        let (allowed, window) = match rate {
            10.. => (rate / 10, 100_000_000),
            _ => (rate, 1_000_000_000),
        };
        self.allowed.store(allowed, Relaxed);
        // Windows of another length are counted otherwise: a new one begins.
        if self.window.swap(window, Relaxed) != window {
            self.current.store(0, Relaxed);
        }
    }

    /// By lot, and not by turns: a page and its objects come in turns, too.
    fn is_drawn(&self, part: f64) -> bool {
        part >= 1.0 || hash::fraction(self.drawn.fetch_add(1, Relaxed), 0) < part
    }

    fn has_room(&self, part: f64, now: Duration) -> bool {
        let length = u128::from(self.window.load(Relaxed));
        let window = u64::try_from(now.as_nanos() / length).unwrap_or(u64::MAX);
        let allowed = self.allowed.load(Relaxed);
        let current = self.current.load(Relaxed);
        // Far behind is what was counted in shorter windows, by a thread that met a change of their length.
        let is_new = window > current || window + 1 < current;
        if is_new
            && self
                .current
                .compare_exchange(current, window, Relaxed, Relaxed)
                .is_ok()
        {
            let seen = self.seen.swap(0, Relaxed);
            let before = if window == current.saturating_add(1) {
                seen
            } else {
                0
            };
            self.before.store(before, Relaxed);
            self.written.store(0, Relaxed);
        }
        self.seen.fetch_add(1, Relaxed);
        let expected = self.before.load(Relaxed).max(1);
        let part = part.min(allowed as f64 / expected as f64);
        self.is_drawn(part) && self.written.fetch_add(1, Relaxed) < allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and requests that they stand for, of `rate` requests a second for ten seconds.
    fn lines(sampler: &Sampler, kind: Kind, is_crowd: bool, rate: u64) -> (u64, u64) {
        let (mut lines, mut requests) = (0, 0);
        for n in 0..10 * rate {
            let now =
                Duration::from_secs(1) * u32::try_from(n).unwrap() / u32::try_from(rate).unwrap();
            if let Some(stands_for) = sampler.draw(kind, is_crowd, now) {
                lines += 1;
                requests += stands_for;
            }
        }
        (lines, requests)
    }

    #[test]
    fn without_a_crowd_a_part_gets_lines_and_every_failure_does() {
        let sampler = Sampler::new(1.0, 1);
        assert_eq!(lines(&sampler, Kind::Usual, false, 5000), (50_000, 50_000));
        let sampler = Sampler::new(0.1, 1);
        let (part, stands_for) = lines(&sampler, Kind::Usual, false, 5000);
        assert!((4_500..5_500).contains(&part), "{part}");
        assert!((49_900..=50_000).contains(&stands_for), "{stands_for}");
        assert_eq!(lines(&sampler, Kind::Failure, false, 100), (1000, 1000));
    }

    #[test]
    fn a_crowd_gets_what_the_rate_allows_and_every_request_is_stood_for() {
        for (rate, came) in [(1000, 20_000), (100, 20_000), (5, 1000), (1, 7)] {
            for kind in [Kind::Usual, Kind::Failure] {
                let sampler = Sampler::new(1.0, rate);
                let (lines, stands_for) = lines(&sampler, kind, true, came);
                let most = 10 * u64::from(rate);
                assert!(lines <= most && lines > most / 2, "{rate}: {lines}");
                assert!(stands_for > 10 * came * 8 / 10, "{rate}: {stands_for}");
            }
        }
        // Fewer than the rate all get one.
        let sampler = Sampler::new(1.0, 1000);
        assert_eq!(lines(&sampler, Kind::Usual, true, 900), (9000, 9000));
    }

    #[test]
    fn a_window_that_lies_far_ahead_ends_nothing() {
        let sampler = Sampler::new(1.0, 5);
        sampler.lanes[0].current.store(u64::MAX, Relaxed);
        let second = Duration::from_secs(100);
        let drawn = (0..20).filter_map(|_| sampler.draw(Kind::Usual, true, second));
        assert_eq!(drawn.count(), 5);
    }

    #[test]
    fn what_the_gate_closes_gets_a_tenth_and_what_is_lost_is_stood_for_later() {
        let sampler = Sampler::new(1.0, 1000);
        let (lines, _) = lines(&sampler, Kind::Closed, true, 10_000);
        assert!((750..=1000).contains(&lines), "{lines}");
        sampler.lost(Kind::Usual, 3);
        assert_eq!(sampler.draw(Kind::Usual, false, Duration::ZERO), Some(4));
    }
}
