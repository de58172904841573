//! How many requests are being served.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

use super::{Signal, SignalError};
use crate::units::Ratio;

/// Counts what is under way; clones count together.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<AtomicU64>);

impl InFlight {
    /// Nothing is under way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more until the guard is dropped. Costs two atomic additions, no allocation.
    pub fn enter(&self) -> InFlightGuard {
        // No other memory depends on this number, so no order is needed.
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.0.clone())
    }

    /// Counts one more until [`end`](Self::end), for a guard that holds the gauge by other means; gives how many there
    /// are with it.
    pub(crate) fn begin(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Ends what [`begin`](Self::begin) began.
    pub(crate) fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are under way.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that is under way, until dropped.
#[derive(Debug)]
#[must_use = "what is dropped at once has not been under way"]
pub struct InFlightGuard(Arc<AtomicU64>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The signal `in_flight`: the count, of a capacity.
#[derive(Debug)]
pub struct InFlightSignal {
    gauge: InFlight,
    capacity: u32,
}

impl InFlightSignal {
    /// `capacity` in flight are load 1.0. A capacity of 0 counts as 1.
    #[must_use]
    pub fn new(gauge: InFlight, capacity: u32) -> Self {
        Self {
            gauge,
            capacity: capacity.max(1),
        }
    }
}

impl Signal for InFlightSignal {
    fn name(&self) -> &str {
        "in_flight"
    }

    fn sample(&mut self, _now: Instant) -> Result<Option<Ratio>, SignalError> {
        let load = self.gauge.count() as f64 / f64::from(self.capacity);
        Ok(Some(Ratio::saturating(load)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_follows_guards_that_come_and_go() {
        let gauge = InFlight::new();
        let mut signal = InFlightSignal::new(gauge.clone(), 4);
        let mut load = || signal.sample(Instant::now()).unwrap().unwrap().get();
        assert_eq!(load(), 0.0);
        let first = gauge.enter();
        let second = gauge.clone().enter();
        assert_eq!(load(), 0.5);
        drop(first);
        assert_eq!(load(), 0.25);
        drop(second);
        assert_eq!(load(), 0.0);
    }

    #[test]
    fn a_guard_leaves_when_its_work_panics() {
        let gauge = InFlight::new();
        let inner = gauge.clone();
        let work = std::thread::spawn(move || {
            let _guard = inner.enter();
            panic!("the work fails");
        });
        assert!(work.join().is_err());
        assert_eq!(gauge.count(), 0);
    }

    #[test]
    fn goes_above_one_and_never_divides_by_zero() {
        let gauge = InFlight::new();
        let _guards = [gauge.enter(), gauge.enter()];
        let mut signal = InFlightSignal::new(gauge, 0);
        assert_eq!(signal.sample(Instant::now()).unwrap(), Ratio::new(2.0));
    }
}
