//! What should not wait for the control loop's next look.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Rings once when a number has reached what it was set to. Takes no lock.
#[derive(Debug)]
pub(super) struct Alarm(AtomicU64);

/// It never rings at this.
const OFF: u64 = u64::MAX;

impl Default for Alarm {
    fn default() -> Self {
        Self(AtomicU64::new(OFF))
    }
}

// === impl Alarm ===

impl Alarm {
    /// Rings at `number` or above from now on, or never.
    pub(super) fn set(&self, number: Option<u64>) {
        self.0.store(number.unwrap_or(OFF), Relaxed);
    }

    /// The number is `number` now: tells, once, that the alarm rings.
    pub(super) fn rings_at(&self, number: u64) -> bool {
        number >= self.0.load(Relaxed) && self.0.swap(OFF, Relaxed) != OFF
    }
}
