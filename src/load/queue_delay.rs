//! How late the runtime polls a ready task.
//!
//! A task of ours on the runtime beats: it puts itself at the end of the run queue and takes the time
//! until its turn comes, then it sleeps for [`PERIOD`] and takes the time by which it is woken late.
//! The first is the wait behind other ready tasks, the second also that for the driver of timers and
//! sockets. (`tokio::task::yield_now` would not do for the first: it gets ready again only after the
//! runtime has run out of ready tasks or turned to the driver.)
//!
//! Whoever samples takes the worst since the last sample. A beat that is overdue counts as well, so
//! that a runtime that has stopped polling is seen to be late before it goes on.

use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{Signal, SignalError};
use crate::units::Ratio;

/// The time between two beats.
pub const PERIOD: Duration = Duration::from_millis(25);

/// What a timer may be late without anyone keeping it waiting: tokio's timers tick in milliseconds,
/// and the poll system calls wait in whole ones, too.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// The signal `queue_delay`: the delay, of the one that counts as load 1.0.
///
/// The beating task ends when this is dropped.
#[derive(Debug)]
pub struct QueueDelay {
    beat: Arc<Beat>,
    task: JoinHandle<()>,
    capacity: Duration,
}

impl QueueDelay {
    /// Starts the beat on `runtime`, which needs its time driver. A delay of `capacity` is load 1.0;
    /// less than a microsecond counts as that.
    #[must_use]
    pub fn start(runtime: &Handle, capacity: Duration) -> Self {
        let beat = Arc::new(Beat::new(Instant::now()));
        Self {
            task: runtime.spawn(keep_beating(beat.clone())),
            beat,
            capacity: capacity.max(Duration::from_micros(1)),
        }
    }
}

impl Drop for QueueDelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Signal for QueueDelay {
    fn name(&self) -> &str {
        "queue_delay"
    }

    fn sample(&mut self, now: Instant) -> Result<Option<Ratio>, SignalError> {
        if self.task.is_finished() {
            return Err(SignalError::new(
                "the runtime that is measured has ended, or has no time driver",
            ));
        }
        let delay = self.beat.worst_since_last_asked(now);
        let load = |delay: Duration| delay.as_secs_f64() / self.capacity.as_secs_f64();
        Ok(delay.map(|delay| Ratio::saturating(load(delay))))
    }
}

async fn keep_beating(beat: Arc<Beat>) {
    loop {
        beat.ready_at(Instant::now());
        requeue().await;
        beat.polled_at(Instant::now());

        let due = Instant::now() + PERIOD;
        beat.ready_at(due + TIMER_GRAIN);
        sleep_until(due).await;
        beat.polled_at(Instant::now());
    }
}

/// Puts the task at the end of the run queue, at once ready again.
async fn requeue() {
    let mut queued = false;
    poll_fn(|context| {
        if mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// When the beating task is ready, and by how much it was polled late. Times are in nanoseconds
/// from `origin`. The task writes, the sampler reads and resets `worst`.
#[derive(Debug)]
struct Beat {
    origin: Instant,
    /// From when on the task waits for its turn.
    ready: AtomicU64,
    /// The longest that it has waited since the sampler last asked.
    worst: AtomicU64,
}

impl Beat {
    /// A runtime may be measured before anybody runs it; its start is no delay.
    const NEVER: u64 = u64::MAX;

    fn new(origin: Instant) -> Self {
        Self {
            origin,
            ready: AtomicU64::new(Self::NEVER),
            worst: AtomicU64::new(0),
        }
    }

    fn ready_at(&self, at: Instant) {
        self.ready.store(self.time(at), Ordering::Relaxed);
    }

    fn polled_at(&self, now: Instant) {
        let waited = self
            .time(now)
            .saturating_sub(self.ready.load(Ordering::Relaxed));
        self.worst.fetch_max(waited, Ordering::Relaxed);
    }

    /// None until the task has first been polled.
    fn worst_since_last_asked(&self, now: Instant) -> Option<Duration> {
        let ready = self.ready.load(Ordering::Relaxed);
        if ready == Self::NEVER {
            return None;
        }
        let overdue = self.time(now).saturating_sub(ready);
        let worst = self.worst.swap(0, Ordering::Relaxed).max(overdue);
        Some(Duration::from_nanos(worst))
    }

    fn time(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.origin).as_nanos();
        // 584 years.
        u64::try_from(elapsed).unwrap_or(Self::NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_longest_wait_since_the_last_question_counts_once() {
        let start = Instant::now();
        let beat = Beat::new(start);
        for (ready, polled) in [(0, 3), (10, 50), (60, 61)] {
            beat.ready_at(start + MS * ready);
            beat.polled_at(start + MS * polled);
        }
        beat.ready_at(start + MS * 90);
        assert_eq!(beat.worst_since_last_asked(start + MS * 70), Some(MS * 40));
        assert_eq!(
            beat.worst_since_last_asked(start + MS * 80),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn an_overdue_beat_is_seen_while_the_runtime_stands_still() {
        let start = Instant::now();
        let beat = Beat::new(start);
        beat.ready_at(start + MS * 27);
        let delay = |at| beat.worst_since_last_asked(start + MS * at).unwrap();
        assert_eq!(delay(20), Duration::ZERO);
        assert_eq!(delay(127), MS * 100);
        assert_eq!(delay(1027), MS * 1000);
    }

    #[test]
    fn a_beat_polled_early_was_not_late() {
        let start = Instant::now();
        let beat = Beat::new(start);
        beat.ready_at(start + MS * 27);
        beat.polled_at(start + MS * 25);
        assert_eq!(
            beat.worst_since_last_asked(start + MS * 26),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_runtime_that_nobody_has_run_yet_gives_no_reading() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let mut signal = QueueDelay::start(runtime.handle(), MS * 100);
        let later = Instant::now() + Duration::from_secs(9);
        assert_eq!(signal.sample(later).unwrap(), None);
        runtime.block_on(tokio::task::yield_now());
        assert!(signal.sample(later).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_runtime_has_no_delay() {
        let mut signal = QueueDelay::start(&Handle::current(), MS * 100);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(signal.sample(Instant::now()).unwrap(), Some(Ratio::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_blocks_the_runtime_is_seen_afterwards() {
        let mut signal = QueueDelay::start(&Handle::current(), MS * 100);
        tokio::time::sleep(MS * 10).await;
        // As if this task had computed for 200 ms: the beat was due 25 ms after the start, and had
        // to wait until now.
        tokio::time::advance(MS * 200).await;
        tokio::time::sleep(MS * 10).await;
        let load = signal.sample(Instant::now()).unwrap().unwrap().get();
        assert!((1.5..2.0).contains(&load), "{load}");
        tokio::time::sleep(MS * 100).await;
        assert_eq!(signal.sample(Instant::now()).unwrap(), Some(Ratio::ZERO));
    }

    #[test]
    fn a_runtime_that_really_stands_still_is_seen_from_outside() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let mut signal = QueueDelay::start(runtime.handle(), MS * 50);
        let (release, blocked) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let mut until = |done: fn(Option<Ratio>) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !done(signal.sample(Instant::now()).unwrap()) {
                assert!(Instant::now() < deadline, "waited for a minute");
                std::thread::yield_now();
            }
        };
        until(|load| load.is_some());
        runtime.spawn(async move {
            started.send(()).unwrap();
            // Blocks the only worker until the test has seen it.
            // An error is a test that has failed meanwhile.
            let _ = blocked.recv();
        });
        has_started.recv().unwrap();
        until(|load| load.is_some_and(|load| load >= Ratio::ONE));
        release.send(()).unwrap();
    }

    #[test]
    fn the_beat_ends_with_the_signal_and_the_signal_tells_of_an_ended_runtime() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let signal = QueueDelay::start(runtime.handle(), MS);
        let beat = Arc::downgrade(&signal.beat);
        drop(signal);
        runtime.block_on(async {
            while beat.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        });

        let mut signal = QueueDelay::start(runtime.handle(), MS);
        runtime.shutdown_timeout(Duration::from_secs(60));
        let error = signal.sample(Instant::now()).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
