//! What a server has been promised, in bytes a second.
//!
//! A link that is full reads 1.0 however many more pages are promised to it, and goes on reading 1.0 while it
//! drains. What has been *assigned* does not saturate: every page's weight is added the moment it is promised
//! and decays with a time constant of 2 s, so that a steady stream of promises reads as its rate.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// The time constant of the moving average of promises.
pub const WINDOW: Duration = Duration::from_secs(2);

/// What `bytes` of bodies are on a link: the heads of frames and packets (66 bytes for 1,448 where packets are full),
/// and those of answers.
#[must_use]
pub fn on_the_wire(bytes: u64) -> u64 {
    bytes + bytes / 18
}

/// A rate that is exact at every assignment, without a lock: the decayed sum (as `f32`) and the time it was
/// last decayed to (milliseconds) share one atomic word.
#[derive(Debug)]
pub struct AssignedRate {
    began: Instant,
    word: AtomicU64,
}

fn pack(milliseconds: u32, bytes: f32) -> u64 {
    u64::from(milliseconds) << 32 | u64::from(bytes.to_bits())
}

fn unpack(word: u64) -> (u32, f32) {
    ((word >> 32) as u32, f32::from_bits(word as u32))
}

impl Clone for AssignedRate {
    fn clone(&self) -> Self {
        Self {
            began: self.began,
            word: AtomicU64::new(self.word.load(Ordering::Relaxed)),
        }
    }
}

// === impl AssignedRate ===

impl AssignedRate {
    /// Nothing assigned; `now` is where its clock begins.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            word: AtomicU64::new(pack(0, 0.0)),
        }
    }

    /// Milliseconds since the beginning; they wrap after 49 days, which the difference below survives.
    fn clock(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.began).as_millis() as u32
    }

    /// What is left at `clock` of the sum in `word`.
    fn decayed(word: u64, clock: u32) -> f32 {
        let (then, bytes) = unpack(word);
        let passed = clock.wrapping_sub(then);
        // Two threads may read the clock in one order and arrive in the other: that is no time passed.
        if passed > u32::MAX / 2 {
            return bytes;
        }
        bytes * (-(passed as f32) / WINDOW.as_millis() as f32).exp()
    }

    /// Promises `bytes` at `now`.
    pub fn add(&self, bytes: u64, now: Instant) {
        let clock = self.clock(now);
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (then, _) = unpack(word);
            let newest = if clock.wrapping_sub(then) > u32::MAX / 2 {
                then
            } else {
                clock
            };
            let next = pack(newest, Self::decayed(word, clock) + bytes as f32);
            match self
                .word
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// Bytes a second, as of `now`.
    #[must_use]
    pub fn rate(&self, now: Instant) -> f64 {
        let bytes = Self::decayed(self.word.load(Ordering::Relaxed), self.clock(now));
        f64::from(bytes) / WINDOW.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_reads_as_its_rate() {
        let began = Instant::now();
        let rate = AssignedRate::new(began);
        for step in 0..1000 {
            rate.add(10_000, began + Duration::from_millis(20) * step);
        }
        let seen = rate.rate(began + Duration::from_millis(20_000));
        assert!((seen - 500_000.0).abs() < 10_000.0, "{seen}");
    }

    #[test]
    fn is_felt_at_once_and_forgotten_in_time() {
        let began = Instant::now();
        let rate = AssignedRate::new(began);
        rate.add(1_000_000, began);
        assert_eq!(rate.rate(began), 500_000.0);
        let later = rate.rate(began + Duration::from_secs(2));
        assert!(
            (later - 500_000.0 / std::f64::consts::E).abs() < 100.0,
            "{later}"
        );
        assert!(rate.rate(began + Duration::from_secs(60)) < 1.0);
    }

    #[test]
    fn a_clock_read_before_the_last_one_loses_nothing() {
        let began = Instant::now();
        let rate = AssignedRate::new(began);
        rate.add(1_000, began + Duration::from_secs(1));
        rate.add(1_000, began);
        assert_eq!(rate.rate(began + Duration::from_secs(1)), 1_000.0);
    }

    #[test]
    fn simultaneous_promises_are_all_counted() {
        let began = Instant::now();
        let rate = AssignedRate::new(began);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| rate.add(1, began)));
            }
        });
        assert_eq!(rate.rate(began), 20_000.0);
    }
}
