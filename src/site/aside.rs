//! Work that nobody waits for: done by one thread, one after the other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, task::JoinHandle};

use crate::seldom::Seldom;

/// Work that is done by one thread aside, one after the other.
#[derive(Debug)]
pub(super) struct Aside<T> {
    queue: Mutex<Queue<T>>,
    crashed: Seldom,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: Vec<T>,
    /// Who does it, until it has looked for the last time. One that its runtime never came to has finished, too.
    runs: Option<JoinHandle<()>>,
}

/// What these locks guard is whole at every moment.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Aside ===

impl<T: Send + 'static> Aside<T> {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                waiting: Vec::new(),
                runs: None,
            }),
            crashed: Seldom::default(),
        }
    }

    /// Has `work` done by `run`, which [works off](Self::work_off) all that waits. `false`: not now.
    pub(super) fn add(&self, work: T, most: usize, run: impl FnOnce() + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let mut queue = locked(&self.queue);
        if queue.waiting.len() >= most {
            return false;
        }
        queue.waiting.push(work);
        if queue.runs.as_ref().is_none_or(JoinHandle::is_finished) {
            queue.runs = Some(runtime.spawn_blocking(run));
        }
        true
    }

    /// Has `each` do all that waits. A crash costs the work in which it happens.
    pub(super) fn work_off(&self, each: impl Fn(T)) {
        loop {
            let waiting = self.take();
            if waiting.is_empty() {
                return;
            }
            for work in waiting {
                // What it shares with others it changes as a whole or not at all.
                let done = catch_unwind(AssertUnwindSafe(|| each(work)));
                if done.is_err() && self.crashed.is_due() {
                    tracing::error!("work on a file has crashed; it is left out");
                }
            }
        }
    }

    /// What waits; nothing: whoever asks has to stop.
    fn take(&self) -> Vec<T> {
        let mut queue = locked(&self.queue);
        if queue.waiting.is_empty() {
            queue.runs = None;
        }
        std::mem::take(&mut queue.waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{runtime::Builder, sync::mpsc::unbounded_channel, time::timeout};

    use super::*;

    /// Longer than any machine takes: what crashed for good would be waited for for ever.
    const PATIENCE: Duration = Duration::from_secs(180);

    #[tokio::test]
    async fn a_crash_takes_no_other_work_along() {
        let works = timeout(PATIENCE, works_on_after_crashes());
        works.await.expect("it works on");
    }

    async fn works_on_after_crashes() {
        let aside = Arc::new(Aside::new());
        let (tell, mut done) = unbounded_channel();
        for round in 0..2 {
            for work in [0, 1, 2] {
                let (own, tell) = (aside.clone(), tell.clone());
                let run = move || {
                    own.work_off(|work| {
                        assert_ne!(work, 0, "a crash");
                        tell.send(work).unwrap();
                    });
                };
                assert!(aside.add(round * 3 + work, 10, run));
            }
            for work in [0, 1, 2] {
                let work = round * 3 + work;
                if work != 0 {
                    assert_eq!(done.recv().await, Some(work));
                }
            }
        }
        // What crashes last ends nothing either.
        let (own, again) = (aside.clone(), aside.clone());
        assert!(aside.add(0, 10, move || own.work_off(|_| panic!("a crash"))));
        let run = move || again.work_off(|work| tell.send(work).unwrap());
        while locked(&aside.queue).runs.is_some() {
            tokio::task::yield_now().await;
        }
        assert!(aside.add(7, 10, run));
        assert_eq!(done.recv().await, Some(7));
    }

    #[test]
    fn what_a_runtime_did_not_come_to_is_done_by_the_next_one() {
        let aside = Arc::new(Aside::new());
        let (tell, mut done) = unbounded_channel();
        let add = |work| {
            let (own, tell) = (aside.clone(), tell.clone());
            let run = move || own.work_off(|work| tell.send(work).unwrap());
            assert!(aside.add(work, 10, run));
        };
        let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
        let ended = runtime().handle().clone();
        {
            let _in = ended.enter();
            add(1);
        }
        runtime().block_on(async {
            add(2);
            for work in [1, 2] {
                let done = timeout(PATIENCE, done.recv());
                assert_eq!(done.await, Ok(Some(work)));
            }
        });
    }
}
