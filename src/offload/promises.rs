//! What the primary has promised to send, and whether it can.
//!
//! A link that is full reads 1.0 however much more is asked of it, and goes on reading 1.0 while it drains. So what
//! matters is what was *promised*: every page that the primary serves adds its bytes, and those of its objects where
//! it serves them itself, at that moment. Between two steps of the control loop the sum of them is one atomic, so
//! that a decision knows about the one just before it, and no clock is read for it at `normal`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::alarm::Alarm;
use crate::{level::Turned, load::Thresholds, servers::PROMISE_WINDOW, units::Ratio};

/// The time constant of what is sent beside what was promised: others' work, and what browsers fetch in excess.
const BESIDE: f64 = 2.0;
/// The same while more waits to be sent than a burst leaves: then the link is busy, and most of that is what was promised, and drains.
const BESIDE_WAITING: f64 = 20.0;
/// The time over which is counted what is promised *just now*: as short as it can be with a few visitors in it.
const JUST_NOW: f64 = 0.5;
/// What waits beyond so many seconds of work counts as load, a second as 1: a queue that a burst leaves goes by itself,
/// one that a crowd leaves stays as long as no more is moved.
const QUEUE: f64 = 0.8;
/// So many seconds of work may wait for the link before anyone is turned away for it, and so many until everyone is. A
/// crowd comes in bursts, and who waits for a second or two is served.
const BACKLOG: [f64; 2] = [1.25, 2.25];
/// The same for those for whom a server has room, and who take no more of the link than a page: they are the last.
const BACKLOG_OFFLOADED: [f64; 2] = [3.0, 5.0];

/// Sums up promises. Written by the request path, taken by the control loop.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// Bytes on the wire since the last step.
    pending: AtomicU64,
    alarm: Alarm,
}

// === impl Promises ===

impl Promises {
    /// Promises `bytes` on the wire; tells, once, that an episode should begin by them.
    pub(super) fn add(&self, bytes: u64) -> bool {
        let pending = self.pending.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.alarm.rings_at(pending)
    }

    /// Those since the last step.
    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Takes them.
    pub(super) fn take(&self) -> u64 {
        self.pending.swap(0, Ordering::Relaxed)
    }

    /// From how many bytes on an episode should begin.
    pub(super) fn set_alarm(&self, bytes: Option<u64>) {
        self.alarm.set(bytes);
    }
}

/// The primary's link, as of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// What it can carry, in bytes a second.
    pub capacity: f64,
    /// The signal's thresholds.
    pub thresholds: Thresholds,
    /// When this holds.
    pub at: Instant,
    /// What was promised, in bytes a second: a moving average.
    pub rate: f64,
    /// The same just now: where the average is going.
    pub just_now: f64,
    /// What of it was not sent yet, in bytes, were the link used up to its second threshold.
    pub backlog: f64,
    /// What is sent beside it, as a load: never negative.
    pub correction: f64,
}

// === impl Link ===

impl Link {
    /// Nothing was promised yet.
    pub(super) const fn new(capacity: f64, thresholds: Thresholds, now: Instant) -> Self {
        Self {
            capacity,
            thresholds,
            at: now,
            rate: 0.0,
            just_now: 0.0,
            backlog: 0.0,
            correction: 0.0,
        }
    }

    /// How it stands at `now`, with so many bytes promised since.
    #[must_use]
    pub fn after(&self, pending: u64, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        let window = PROMISE_WINDOW.as_secs_f64();
        let bytes = pending as f64;
        let sent = (self.second() - self.correction).max(0.0) * self.capacity * elapsed;
        Self {
            at: now,
            rate: self.rate * (-elapsed / window).exp() + bytes / window,
            just_now: self.just_now * (-elapsed / JUST_NOW).exp() + bytes / JUST_NOW,
            backlog: (self.backlog - sent).max(0.0) + bytes,
            ..*self
        }
    }

    /// Learns from the load that was `measured`, if there is one, over the last `elapsed`.
    pub(super) fn learn(&mut self, measured: Option<f64>, elapsed: Duration) {
        let Some(measured) = measured else { return };
        let beside = measured - self.rate / self.capacity;
        let is_full = measured >= self.thresholds.drop.map_or(1.0, |drop| drop.get());
        // A full link shows only that there is at least so much.
        if is_full && beside < self.correction {
            return;
        }
        let waits = self.backlog > QUEUE * self.capacity;
        let window = if waits && beside > self.correction {
            BESIDE_WAITING
        } else {
            BESIDE
        };
        let weight = 1.0 - (-elapsed.as_secs_f64() / window).exp();
        self.correction = (self.correction + (beside - self.correction) * weight).max(0.0);
    }

    /// The load: what was promised and what is sent beside it, of what can be carried.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.rate / self.capacity + self.correction
    }

    /// Where the load is going.
    #[must_use]
    pub fn load_to_come(&self) -> f64 {
        self.just_now.max(self.rate) / self.capacity + self.correction
    }

    /// The load that the share goes by: with what waits, since that has to go, too.
    #[must_use]
    pub fn load_with_backlog(&self) -> f64 {
        self.load() + (self.backlog / self.capacity - QUEUE).max(0.0)
    }

    /// Who is turned away, of those whose objects the primary would serve itself. Its load has to be too high, and
    /// more has to wait than what a burst leaves; but what others send is no burst.
    #[must_use]
    pub fn turned(&self) -> Turned {
        let by_rate = Turned::by(self.load(), &self.thresholds);
        let others = (self.correction / self.load().max(f64::MIN_POSITIVE)).min(1.0);
        let most = self.late(BACKLOG).max(others);
        Turned {
            throttled: Ratio::saturating(by_rate.throttled.get().min(most)),
            dropped: by_rate.dropped,
        }
    }

    /// Who is turned away, of those who take no more of it than a page: where the others would be dropped, and more
    /// waits than letting in the others leaves.
    #[must_use]
    pub fn turned_offloaded(&self) -> Ratio {
        let by_rate = Turned::by(self.load(), &self.thresholds).dropped.get();
        Ratio::saturating(by_rate.min(self.late(BACKLOG_OFFLOADED)))
    }

    /// Which part of those who come is too much, where so many seconds of work may wait until someone is, and so many
    /// until all are.
    fn late(&self, [some, all]: [f64; 2]) -> f64 {
        let waiting = self.backlog / self.capacity;
        ((waiting - some) / (all - some)).clamp(0.0, 1.0)
    }

    /// How many more bytes may be promised at once until the load passes the first threshold.
    pub(super) fn until_offload(&self) -> Option<u64> {
        let first = self.thresholds.offload?.get();
        let room = (first - self.load()).max(0.0) * self.capacity * PROMISE_WINDOW.as_secs_f64();
        Some(room as u64 + 1)
    }

    fn second(&self) -> f64 {
        let threshold = self.thresholds.throttle.or(self.thresholds.drop);
        threshold.map_or(1.0, |threshold| threshold.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// 10 MB a second.
    fn link(now: Instant) -> Link {
        let ratio = |value| Ratio::new(value);
        let thresholds = Thresholds {
            offload: ratio(0.7),
            throttle: ratio(0.9),
            drop: ratio(1.0),
        };
        Link::new(10e6, thresholds, now)
    }

    #[test]
    fn a_promise_is_felt_at_once_and_drains() {
        let now = Instant::now();
        let busy = link(now).after(18 * MB, now);
        assert_eq!((busy.load(), busy.backlog), (0.9, 18e6));
        let later = busy.after(0, now + Duration::from_secs(1));
        assert!((later.load() - 0.9 * (-0.5f64).exp()).abs() < 1e-9);
        assert_eq!(later.backlog, 9e6, "at the second threshold");
        assert_eq!(busy.after(0, now + Duration::from_secs(9)).backlog, 0.0);
    }

    #[test]
    fn a_burst_turns_nobody_away_and_what_cannot_be_finished_does() {
        let mut now = Instant::now();
        let burst = link(now).after(9 * MB, now).after(10 * MB, now);
        assert!(burst.load() > 0.9);
        assert!(burst.turned().throttled.get() > 0.0);
        let burst = link(now).after(0, now).after(9 * MB, now);
        assert_eq!(burst.turned(), Turned::default());
        let mut crowded = link(now);
        for _ in 0..40 {
            now += Duration::from_millis(250);
            crowded = crowded.after(5 * MB, now);
        }
        assert_eq!(crowded.turned().throttled, Ratio::ONE);
        assert_eq!(crowded.turned().dropped, Ratio::ONE);
    }

    #[test]
    fn a_rate_that_lasts_is_turned_away_as_the_thresholds_say() {
        let mut now = Instant::now();
        let mut steady = link(now);
        for _ in 0..4_000 {
            now += Duration::from_millis(10);
            steady = steady.after(95_000, now);
        }
        let throttled = steady.turned().throttled.get();
        assert!((throttled - 0.5).abs() < 0.03, "{throttled}");
    }

    #[test]
    fn what_others_send_counts_as_load() {
        let mut now = Instant::now();
        let mut link = link(now);
        for _ in 0..100 {
            now += Duration::from_millis(250);
            link = link.after(0, now);
            link.learn(Some(0.6), Duration::from_millis(250));
        }
        assert!((link.load() - 0.6).abs() < 0.01);
        for _ in 0..100 {
            now += Duration::from_millis(250);
            link = link.after(0, now);
            link.learn(Some(0.0), Duration::from_millis(250));
        }
        assert!(link.load() < 0.01, "and is forgotten when they stop");
    }

    #[test]
    fn a_full_link_that_drains_teaches_nothing() {
        let now = Instant::now();
        let mut link = link(now).after(40 * MB, now);
        link.correction = 0.1;
        link.learn(Some(1.0), Duration::from_secs(60));
        assert_eq!(link.correction, 0.1, "what was promised explains it");
        link.learn(None, Duration::from_secs(60));
        assert_eq!(link.correction, 0.1);
    }

    #[test]
    fn a_queue_that_drains_is_not_taken_for_others_and_others_are_learnt_beside_it() {
        let mut now = Instant::now();
        let mut link = link(now).after(40 * MB, now);
        let second = |link: &mut Link, now: &mut Instant, promised, measured| {
            for _ in 0..4 {
                *now += Duration::from_millis(250);
                *link = link.after(promised / 4, *now);
                link.learn(Some(measured), Duration::from_millis(250));
            }
        };
        for _ in 0..3 {
            second(&mut link, &mut now, 0, 0.97);
        }
        assert!(link.correction < 0.1, "{}", link.correction);
        // Half of the link is others', and there is always somebody who waits.
        link.backlog = 20e6;
        for _ in 0..120 {
            second(&mut link, &mut now, 5 * MB, 1.0);
            link.backlog = link.backlog.max(20e6);
        }
        assert!((link.correction - 0.5).abs() < 0.05, "{}", link.correction);
    }

    #[test]
    fn the_alarm_rings_once() {
        let promises = Promises::default();
        assert!(!promises.add(u64::MAX / 2));
        promises.take();
        promises.set_alarm(Some(1_000));
        assert!(!promises.add(999));
        assert!(promises.add(1));
        assert!(!promises.add(1_000_000));
        assert_eq!(promises.pending(), 1_001_000);
    }

    #[test]
    fn it_rings_where_the_first_threshold_is() {
        let now = Instant::now();
        let link = link(now).after(4 * MB, now);
        let more = link.until_offload().unwrap();
        assert!(link.after(more - 1, now).load() <= 0.7);
        assert!(link.after(more + 10, now).load() > 0.7);
    }
}
