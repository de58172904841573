//! What is said at most once a minute.

use std::{
    sync::{Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

/// Lets something be said once a minute: a crowd must not fill the log.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is time to say it.
    pub(crate) fn is_due(&self) -> bool {
        const MINUTE: Duration = Duration::from_secs(60);
        // Who does not get the lock knows that somebody else is saying it.
        let mut last = match self.0.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return false,
        };
        let due = last.is_none_or(|last| last.elapsed() >= MINUTE);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
