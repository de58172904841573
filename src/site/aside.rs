//! Work that nobody waits for: done by one thread, one after the other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;

/// Work that is done by one thread aside, one after the other.
#[derive(Debug)]
pub(super) struct Aside<T>(Mutex<Queue<T>>);

#[derive(Debug)]
struct Queue<T> {
    waiting: Vec<T>,
    runs: bool,
}

/// What these locks guard is whole at every moment.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Aside ===

impl<T: Send + 'static> Aside<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Queue {
            waiting: Vec::new(),
            runs: false,
        }))
    }

    /// Has `work` done by `run`, which takes all that waits. `false`: not now.
    pub(super) fn add(&self, work: T, most: usize, run: impl FnOnce() + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let mut queue = locked(&self.0);
        if queue.waiting.len() >= most {
            return false;
        }
        queue.waiting.push(work);
        if !std::mem::replace(&mut queue.runs, true) {
            drop(queue);
            runtime.spawn_blocking(run);
        }
        true
    }

    /// What waits; nothing: whoever asks has to stop.
    pub(super) fn take(&self) -> Vec<T> {
        let mut queue = locked(&self.0);
        queue.runs = !queue.waiting.is_empty();
        std::mem::take(&mut queue.waiting)
    }
}
