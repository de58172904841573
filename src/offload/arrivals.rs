//! How many come of each class, and so which part of each is turned away.
//!
//! So much of all who come is turned away, the lowest class first: for that it has to be known which part of them each
//! class is. That is counted on the request path, with an atomic for each, and averaged at every step. Those count who
//! are not in already: by a cookie that lets them stay they pass whatever is decided. Without classes nothing is
//! counted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{classes::Classes, decide::Decision};
use crate::level::{Place, places};

/// The time constant of the averages. What matters is their proportion, which changes slowly: of one in twenty, and
/// forty visitors a second, so long an average has seen twenty.
const AVERAGED: Duration = Duration::from_secs(10);

/// Counts and averages of each class, lowest first. Counts are written by the request path.
#[derive(Debug)]
pub(super) struct Arrivals {
    classes: Arc<Classes>,
    counts: Box<[Counts]>,
    /// Taken by the control loop and the status, never on the request path.
    averages: Mutex<Averages>,
}

#[derive(Debug, Default)]
struct Counts {
    applied: AtomicU64,
    throttled: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Averages {
    /// Of each class: those who came, each counting the less the longer ago it was.
    came: Vec<f64>,
    /// Of each class: those who had come at the last step.
    seen: Vec<u64>,
    at: Instant,
}

/// One class, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClassCounts {
    pub(crate) name: String,
    pub(crate) priority: i32,
    /// Its part of those who came lately and were not in already; nothing where nobody came.
    pub(crate) part: Option<f64>,
    /// Requests that began something and were turned away with a 503, since start.
    pub(crate) throttled: u64,
    /// Those that got no answer.
    pub(crate) dropped: u64,
}

// === impl Arrivals ===

impl Arrivals {
    pub(super) fn new(classes: Arc<Classes>, now: Instant) -> Self {
        let length = classes.iter().len();
        Self {
            counts: (0..length).map(|_| Counts::default()).collect(),
            averages: Mutex::new(Averages {
                came: vec![0.0; length],
                seen: vec![0; length],
                at: now,
            }),
            classes,
        }
    }

    /// One more who asks to be let in.
    pub(super) fn applied(&self, class: usize) {
        if let Some(counts) = self.counts.get(class) {
            counts.applied.fetch_add(1, Relaxed);
        }
    }

    /// What was decided about a request that begins something.
    pub(super) fn decided(&self, class: usize, decision: Decision) {
        let Some(counts) = self.counts.get(class) else {
            return;
        };
        match decision {
            Decision::Throttle => counts.throttled.fetch_add(1, Relaxed),
            Decision::Drop => counts.dropped.fetch_add(1, Relaxed),
            Decision::Serve | Decision::Offload(_) | Decision::Redirect(_) => 0,
        };
    }

    /// Takes in who has come; tells where each class stands among them, nothing where there are none.
    pub(super) fn step(&self, now: Instant) -> Vec<Place> {
        if self.counts.is_empty() {
            return Vec::new();
        }
        let mut averages = self.averages.lock().unwrap_or_else(PoisonError::into_inner);
        averages.take_in(&self.counts, now);
        self.classes.by_priority(&averages.came, places)
    }

    /// What has become of each class.
    pub(super) fn classes(&self) -> Vec<ClassCounts> {
        let averages = self.averages.lock().unwrap_or_else(PoisonError::into_inner);
        let all: f64 = averages.came.iter().sum();
        let classes = self.classes.iter().zip(&self.counts).zip(&averages.came);
        classes
            .map(|((class, counts), came)| ClassCounts {
                name: class.name.clone(),
                priority: class.priority,
                part: (all > 0.0).then(|| came / all),
                throttled: counts.throttled.load(Relaxed),
                dropped: counts.dropped.load(Relaxed),
            })
            .collect()
    }
}

// === impl Averages ===

impl Averages {
    fn take_in(&mut self, counts: &[Counts], now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        let kept = (-elapsed.as_secs_f64() / AVERAGED.as_secs_f64()).exp();
        for ((came, seen), counts) in self.came.iter_mut().zip(&mut self.seen).zip(counts) {
            let applied = counts.applied.load(Relaxed);
            let new = applied - std::mem::replace(seen, applied);
            *came = *came * kept + new as f64;
        }
        // All are forgotten at one pace, so after a silence some numbers smaller than any visitor are left. Then nothing
        // is known.
        if self.came.iter().sum::<f64>() < 0.01 {
            self.came.fill(0.0);
        }
    }
}
