//! How busy is the server behind: how long its answers take, and what it says itself.
//!
//! The load is the time from a request to the head of its answer, of the time that counts as load 1.0: the mean of the
//! answers since the last look, or, where that is more, the mean of what those have waited so far that still wait. So an
//! upstream that has stopped answering is seen to be late before anybody gives up.
//!
//! One that says 503 says that it is overloaded, and `Retry-After` says for how long. Until then the load is at least the
//! part of its answers that are a 503: 1.0 where all are, and little where one path among many is closed. Where nobody
//! was let in to ask, it is 1.0, as it said.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::{Signal, SignalError};
use crate::units::Ratio;

/// A 503 without a word of how long counts for this time.
const AGAIN: Duration = Duration::from_secs(1);
/// Longer than that none is believed: an upstream in maintenance is not to keep visitors out when it is back.
const LONGEST: Duration = Duration::from_secs(60);

/// What is known of the upstream; clones know the same. Written by the requests that are passed on, read by the sampler
/// and the status: atomics alone.
#[derive(Debug, Clone, Default)]
pub struct UpstreamMeter(Arc<Known>);

/// Times are in microseconds since `origin`.
#[derive(Debug)]
struct Known {
    origin: Instant,
    name: ArcSwapOption<String>,
    /// Since the sampler looked.
    answers: AtomicU64,
    answer_time: AtomicU64,
    refusals: AtomicU64,
    /// Requests that wait for their answer, and the sum of the times at which they began to: [`one_since`].
    waiting: AtomicU64,
    /// Until when it wants to be left alone.
    overloaded_until: AtomicU64,
    is_reachable: AtomicBool,
    /// Since when it is, or is not; 0: nobody has tried.
    since: AtomicU64,
    last_failure: ArcSwapOption<UpstreamFailure>,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// When.
    pub time: SystemTime,
    /// In words for whoever operates the server.
    pub text: String,
}

/// Whether the upstream answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamHealth {
    /// Where it is.
    pub name: String,
    /// Whether the last request was answered; [`None`]: there was none.
    pub reachable: Option<bool>,
    /// Since when that is so.
    pub since: Option<Duration>,
    /// The last time that there was no answer.
    pub last_failure: Option<Arc<UpstreamFailure>>,
    /// Requests that wait for their answer.
    pub waiting: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            name: ArcSwapOption::default(),
            answers: AtomicU64::default(),
            answer_time: AtomicU64::default(),
            refusals: AtomicU64::default(),
            waiting: AtomicU64::default(),
            overloaded_until: AtomicU64::default(),
            is_reachable: AtomicBool::default(),
            since: AtomicU64::default(),
            last_failure: ArcSwapOption::default(),
        }
    }
}

// === impl UpstreamMeter ===

impl UpstreamMeter {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whose it is from now on.
    pub fn stands_for(&self, name: impl fmt::Display) {
        self.0.stands_for(Some(name.to_string()));
    }

    /// Says that there is no upstream any more.
    pub fn stands_for_none(&self) {
        self.0.stands_for(None);
    }

    /// A request is passed on at `now`; it waits until the guard is told what came, or dropped.
    pub fn begin(&self, now: Instant) -> Waiting {
        let begun = self.0.time(now);
        self.0.waiting.fetch_add(one_since(begun), Relaxed);
        Waiting {
            known: self.0.clone(),
            begun,
        }
    }

    /// What is known of it; [`None`]: there is no upstream.
    #[must_use]
    pub fn health(&self) -> Option<UpstreamHealth> {
        let known = &self.0;
        let since = match known.since.load(Relaxed) {
            0 => None,
            since => Some(Duration::from_micros(
                known.time(Instant::now()).saturating_sub(since),
            )),
        };
        Some(UpstreamHealth {
            name: known.name.load().as_ref()?.to_string(),
            reachable: since.map(|_| known.is_reachable.load(Relaxed)),
            since,
            last_failure: known.last_failure.load_full(),
            waiting: known.waiting.load(Relaxed) & MOST_WAITING,
        })
    }
}

/// How many wait and since when are one number, so that they belong together whenever they are read: the count in the
/// lower bits, above it the sum of when they began, in milliseconds. What overflows there comes off again with who ends.
const COUNT_BITS: u32 = 22;
const MOST_WAITING: u64 = (1 << COUNT_BITS) - 1;
const SUM: u64 = u64::MAX >> COUNT_BITS;
/// In microseconds.
const MILLISECOND: u64 = 1000;

/// One who has waited since `begun`, in microseconds.
const fn one_since(begun: u64) -> u64 {
    ((begun / MILLISECOND) << COUNT_BITS) | 1
}

// === impl Known ===

impl Known {
    /// What is known of another one is nothing to this one.
    fn stands_for(&self, name: Option<String>) {
        let before = self.name.swap(name.clone().map(Arc::new));
        if before.as_deref() != name.as_ref() {
            self.since.store(0, Relaxed);
            self.overloaded_until.store(0, Relaxed);
            self.last_failure.store(None);
        }
    }

    fn time(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.origin).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    fn note_reachable(&self, reachable: bool, now: u64) {
        if self.since.load(Relaxed) == 0 || self.is_reachable.load(Relaxed) != reachable {
            self.is_reachable.store(reachable, Relaxed);
            // 0 is for never.
            self.since.store(now.max(1), Relaxed);
        }
    }

    /// The mean of what those have waited who wait.
    fn mean_wait(&self, now: u64) -> f64 {
        let word = self.waiting.load(Relaxed);
        let (waiting, since) = (word & MOST_WAITING, word >> COUNT_BITS);
        if waiting == 0 {
            return 0.0;
        }
        let waited = waiting.wrapping_mul(now / MILLISECOND).wrapping_sub(since) & SUM;
        // Who begins just now may be later than the look.
        if waited > SUM / 2 {
            return 0.0;
        }
        (waited * MILLISECOND) as f64 / waiting as f64
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
#[must_use = "what is dropped at once has not waited"]
pub struct Waiting {
    known: Arc<Known>,
    begun: u64,
}

// === impl Waiting ===

impl Waiting {
    /// The head of an answer has come. `overloaded`: it says that there is too much to do, and for how long, if it does.
    pub fn answered(self, overloaded: Option<Option<Duration>>) {
        let known = &*self.known;
        let now = known.time(Instant::now());
        known.answers.fetch_add(1, Relaxed);
        known
            .answer_time
            .fetch_add(now.saturating_sub(self.begun), Relaxed);
        known.note_reachable(true, now);
        if let Some(length) = overloaded {
            known.refusals.fetch_add(1, Relaxed);
            let length = length.unwrap_or(AGAIN).min(LONGEST).max(AGAIN);
            let until = now.saturating_add(length.as_micros() as u64);
            known.overloaded_until.fetch_max(until, Relaxed);
        }
    }

    /// None will come. `failure`: the upstream's fault, in words.
    pub fn failed(self, failure: &dyn fmt::Display) {
        let known = &*self.known;
        let now = known.time(Instant::now());
        known.note_reachable(false, now);
        known.last_failure.store(Some(Arc::new(UpstreamFailure {
            time: SystemTime::now(),
            text: failure.to_string(),
        })));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.known.waiting.fetch_sub(one_since(self.begun), Relaxed);
    }
}

/// The signal `upstream`: the time to the first byte, of the one that counts as load 1.0.
#[derive(Debug)]
pub struct UpstreamSignal {
    meter: UpstreamMeter,
    capacity: Duration,
}

impl UpstreamSignal {
    /// Answers that take `capacity` are load 1.0; less than a microsecond counts as that.
    #[must_use]
    pub fn new(meter: UpstreamMeter, capacity: Duration) -> Self {
        Self {
            meter,
            capacity: capacity.max(Duration::from_micros(1)),
        }
    }
}

impl Signal for UpstreamSignal {
    fn name(&self) -> &str {
        "upstream"
    }

    fn sample(&mut self, now: Instant) -> Result<Option<Ratio>, SignalError> {
        let known = &*self.meter.0;
        let now = known.time(now);
        let answers = known.answers.swap(0, Relaxed);
        let time = known.answer_time.swap(0, Relaxed);
        let refusals = known.refusals.swap(0, Relaxed);
        let mean = if answers == 0 {
            0.0
        } else {
            time as f64 / answers as f64
        };
        let late = mean.max(known.mean_wait(now)) / (self.capacity.as_secs_f64() * 1e6);
        let refused = match answers {
            _ if now >= known.overloaded_until.load(Relaxed) => 0.0,
            0 => 1.0,
            answers => refusals as f64 / answers as f64,
        };
        Ok(Some(Ratio::saturating(late.max(refused))))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn signal() -> (UpstreamMeter, UpstreamSignal) {
        let meter = UpstreamMeter::new();
        let signal = UpstreamSignal::new(meter.clone(), SECOND);
        (meter, signal)
    }

    fn load(signal: &mut UpstreamSignal) -> f64 {
        let load = signal.sample(Instant::now()).unwrap().unwrap().get();
        (load * 1000.0).round() / 1000.0
    }

    #[tokio::test(start_paused = true)]
    async fn the_load_is_the_mean_time_to_an_answer() {
        let (meter, mut signal) = signal();
        assert_eq!(load(&mut signal), 0.0);
        let [first, second] = [meter.begin(Instant::now()), meter.begin(Instant::now())];
        advance(SECOND / 5).await;
        first.answered(None);
        advance(SECOND / 5).await;
        second.answered(None);
        assert_eq!(load(&mut signal), 0.3);
        assert_eq!(load(&mut signal), 0.0, "nobody asks any more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_counts_before_the_answer() {
        let (meter, mut signal) = signal();
        let waiting = meter.begin(Instant::now());
        advance(2 * SECOND).await;
        let _young = meter.begin(Instant::now());
        advance(SECOND).await;
        assert_eq!(load(&mut signal), 2.0);
        drop(waiting);
        assert_eq!(load(&mut signal), 1.0);
    }

    /// One read of a number that is just being changed must not look like an age.
    #[test]
    fn who_comes_and_goes_while_it_is_looked_at_changes_little() {
        const DAY: Duration = Duration::from_secs(86_400);
        let known = Known {
            origin: Instant::now().checked_sub(DAY).unwrap(),
            ..Known::default()
        };
        let meter = UpstreamMeter(Arc::new(known));
        let _waits = meter.begin(Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..100_000 {
                        drop(meter.begin(Instant::now()));
                    }
                });
            }
            for _ in 0..100_000 {
                let waited = meter.0.mean_wait(meter.0.time(Instant::now()));
                assert!(waited < DAY.as_micros() as f64 / 10.0, "{waited}");
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_503_counts_until_it_may_be_tried_again() {
        let (meter, mut signal) = signal();
        meter
            .begin(Instant::now())
            .answered(Some(Some(10 * SECOND)));
        assert_eq!(load(&mut signal), 1.0);
        // Nobody is let in.
        advance(9 * SECOND).await;
        assert_eq!(load(&mut signal), 1.0);
        // One closed path among others says little.
        for _ in 0..3 {
            meter.begin(Instant::now()).answered(None);
        }
        meter.begin(Instant::now()).answered(Some(None));
        assert_eq!(load(&mut signal), 0.25);
        advance(2 * SECOND).await;
        assert_eq!(load(&mut signal), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_word_is_believed_for_more_than_a_minute() {
        let (meter, mut signal) = signal();
        let day = Duration::from_secs(86_400);
        meter.begin(Instant::now()).answered(Some(Some(day)));
        load(&mut signal);
        advance(59 * SECOND).await;
        assert_eq!(load(&mut signal), 1.0);
        advance(2 * SECOND).await;
        assert_eq!(load(&mut signal), 0.0);
        meter
            .begin(Instant::now())
            .answered(Some(Some(Duration::ZERO)));
        assert_eq!(load(&mut signal), 1.0, "but for a second it is");
    }

    #[tokio::test(start_paused = true)]
    async fn health_tells_since_when_and_what_went_wrong() {
        let meter = UpstreamMeter::new();
        assert_eq!(meter.health(), None);
        meter.stands_for("http://app");
        let health = meter.health().unwrap();
        assert_eq!((health.reachable, health.since), (None, None));
        advance(SECOND).await;
        meter.begin(Instant::now()).answered(None);
        advance(SECOND).await;
        meter.begin(Instant::now()).answered(None);
        let health = meter.health().unwrap();
        assert_eq!((health.reachable, health.since), (Some(true), Some(SECOND)));
        meter.begin(Instant::now()).failed(&"refused");
        advance(3 * SECOND).await;
        let health = meter.health().unwrap();
        assert_eq!(
            (health.reachable, health.since),
            (Some(false), Some(3 * SECOND))
        );
        assert_eq!(health.last_failure.unwrap().text, "refused");
        assert_eq!(health.waiting, 0);
    }
}
