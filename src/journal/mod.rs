//! The decision log: what was decided, when, and by which figures.
//!
//! ```text
//! control loop, operator's hand, reload ──► Journal::record ──┬─► one structured line in the log
//!                                                             └─► the last 1,000, for whoever asks
//! ```
//!
//! An [`Event`] carries the figures, and says itself in words. Recording takes a lock, so it happens beside the request
//! path and never on it.

mod event;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::sync::watch;

pub use self::event::Event;

/// So many entries are kept.
const KEPT: usize = 1_000;

/// Something that was decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Counts up from 1.
    pub id: u64,
    /// When, in seconds since 1970.
    pub time: f64,
    /// The event in words.
    pub text: String,
    /// What it was, as `kind` and `details`.
    #[serde(flatten)]
    pub event: Event,
}

/// The last entries, oldest first.
#[derive(Debug)]
pub struct Journal {
    /// Written by the control loop and the operator's hand.
    entries: Mutex<VecDeque<Arc<Entry>>>,
    /// The number of the last entry.
    last: watch::Sender<u64>,
}

/// Seconds since 1970.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

// === impl Journal ===

impl Default for Journal {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }
}

impl Journal {
    /// Writes an event down, and into the log.
    pub fn record(&self, event: Event, at: SystemTime) {
        event.log();
        let mut entries = self.entries();
        let id = entries.back().map_or(1, |entry| entry.id + 1);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(Arc::new(Entry {
            id,
            time: unix_seconds(at),
            text: event.to_string(),
            event,
        }));
        self.last.send_replace(id);
    }

    /// The last entries, `most` at most.
    #[must_use]
    pub fn last(&self, most: usize) -> Vec<Arc<Entry>> {
        let entries = self.entries();
        let skipped = entries.len().saturating_sub(most);
        entries.iter().skip(skipped).cloned().collect()
    }

    /// Those after the entry with the number `id`.
    #[must_use]
    pub fn after(&self, id: u64) -> Vec<Arc<Entry>> {
        let entries = self.entries();
        let new = entries.iter().rev().take_while(|entry| entry.id > id);
        let mut new: Vec<_> = new.cloned().collect();
        new.reverse();
        new
    }

    /// Tells the number of the last entry whenever there is one more.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        // Every write leaves the list whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_thousand_in_their_order() {
        let journal = Journal::default();
        let watch = journal.watch();
        for _ in 0..KEPT + 5 {
            journal.record(Event::Drain, UNIX_EPOCH);
        }
        let ids: Vec<u64> = journal.last(KEPT * 2).iter().map(|it| it.id).collect();
        assert_eq!(ids, (6..=1_005).collect::<Vec<u64>>());
        assert_eq!(journal.last(2).len(), 2);
        let ids: Vec<u64> = journal.after(1_003).iter().map(|it| it.id).collect();
        assert_eq!(ids, [1_004, 1_005]);
        assert_eq!(*watch.borrow(), 1_005);
    }

    #[test]
    fn an_entry_tells_its_kind_its_words_and_its_figures() {
        let journal = Journal::default();
        journal.record(
            Event::Server {
                server: "eu".to_owned(),
                usable: false,
                reason: Some("not healthy: connection refused".to_owned()),
                load: Some(0.5),
                threshold: 0.8,
            },
            UNIX_EPOCH,
        );
        let entry = serde_json::to_value(&*journal.last(1)[0]).unwrap();
        assert_eq!(
            entry,
            serde_json::json!({
                "id": 1,
                "time": 0.0,
                "kind": "server",
                "text": "eu gets no work: not healthy: connection refused",
                "details": {
                    "server": "eu",
                    "usable": false,
                    "reason": "not healthy: connection refused",
                    "load": 0.5,
                    "threshold": 0.8,
                },
            })
        );
    }
}
