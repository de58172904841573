//! What of the primary's work would be left, were what is decided to happen.
//!
//! In report mode nothing that is decided happens, so the loads stay what they were, and control that looked at them
//! would do more and more. So its effect is modelled: by the bytes that the primary would be promised to send, of
//! those that it sends. That is exact for its link, and a fair guess for what else a page takes.

use std::time::Duration;

use crate::servers::PROMISE_WINDOW;

/// Rates in bytes a second: moving averages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    promised: f64,
    unchanged: f64,
}

// === impl Work ===

impl Work {
    /// In the last `elapsed` so much was `promised`, and so much sent besides, `unchanged` by what was decided.
    pub(super) fn add(&mut self, promised: u64, unchanged: u64, elapsed: Duration) {
        let window = PROMISE_WINDOW.as_secs_f64();
        let left = (-elapsed.as_secs_f64() / window).exp();
        self.promised = self.promised * left + promised as f64 / window;
        self.unchanged = self.unchanged * left + unchanged as f64 / window;
    }

    /// What is promised.
    pub(super) const fn promised(&self) -> f64 {
        self.promised
    }

    /// All that is sent.
    pub(super) fn all(&self) -> f64 {
        self.promised + self.unchanged
    }

    /// The part of the work that would be left, from 0 to 1.
    pub(super) fn part_left(&self) -> f64 {
        let all = self.all();
        if all > 0.0 { self.promised / all } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_is_promised_of_all_that_is_sent() {
        let mut work = Work::default();
        assert_eq!(
            work.part_left(),
            1.0,
            "where nothing is sent nothing would be spared"
        );
        for _ in 0..40 {
            work.add(25_000, 75_000, Duration::from_millis(250));
        }
        assert_eq!(work.part_left(), 0.25);
        assert!((work.promised() - 100_000.0).abs() < 10_000.0);
        for _ in 0..80 {
            work.add(25_000, 0, Duration::from_millis(250));
        }
        assert!(work.part_left() > 0.99);
    }
}
