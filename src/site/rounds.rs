//! Rounds through the files that are asked for: each is looked at before a second is over, by one thread for all,
//! so that nobody who asks has to wait for a look. Without them each of many files would be looked at by whoever asks
//! for it first in a second: a thread woken for one `stat`, thousands of times a second.

use std::{
    sync::{Arc, Mutex, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use super::{aside::locked, disk::Folders, entry::Entry, store::Store};

/// From the beginning of a round to that of the next: a second, less what a round may be late.
const PERIOD: Duration = Duration::from_millis(750);
/// What was looked at so shortly before, in milliseconds, has time until the next round.
const LATELY: u64 = 150;
/// A file goes along for so long after it was asked for last, in milliseconds.
const WARM: u64 = 3000;

/// The files that go along.
#[derive(Debug)]
pub(super) struct Rounds(Mutex<List>);

#[derive(Debug)]
struct List {
    /// Not held on to: what the store lets go of must be gone.
    entries: Vec<Weak<Entry>>,
    /// Somebody goes: there is a [`Going`].
    goes: bool,
}

/// Who goes. A runtime that ends takes along what runs on it, and another one may go on asking: so whoever stops, for
/// whatever reason, leaves the files to who asks for them next.
struct Going(Weak<Store>);

impl Drop for Going {
    fn drop(&mut self) {
        let Some(store) = self.0.upgrade() else {
            return;
        };
        let mut list = locked(&store.rounds().0);
        list.goes = false;
        for entry in list.entries.drain(..).filter_map(|entry| entry.upgrade()) {
            entry.goes_along.store(false, Relaxed);
        }
    }
}

// === impl Rounds ===

impl Rounds {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(List {
            entries: Vec::new(),
            goes: false,
        }))
    }

    /// `entry` was asked for; from now on it goes along. No lock is taken where it does so already.
    pub(super) fn asked_for(&self, entry: &Arc<Entry>, now: u64, store: &Arc<Store>) {
        // A line that several cores write to costs more than one that they read.
        if entry.asked.load(Relaxed) != now {
            entry.asked.store(now, Relaxed);
        }
        if entry.goes_along.load(Relaxed) || entry.goes_along.swap(true, Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            entry.goes_along.store(false, Relaxed);
            return;
        };
        let mut list = locked(&self.0);
        list.entries.push(Arc::downgrade(entry));
        if !std::mem::replace(&mut list.goes, true) {
            drop(list);
            runtime.spawn(go(Going(Arc::downgrade(store))));
        }
    }

    /// One round, `now`; whether anything is left for the next.
    pub(super) fn go_once(&self, store: &Store, now: u64) -> bool {
        let mut entries = std::mem::take(&mut locked(&self.0).entries);
        let mut folders = Folders::default();
        entries.retain(|entry| {
            let Some(entry) = entry.upgrade() else {
                return false;
            };
            let lately = |time: u64, most| now.saturating_sub(time) < most;
            if !lately(entry.asked.load(Relaxed), WARM) {
                // Before it is left: whoever asks from now on takes it along again.
                entry.goes_along.store(false, Relaxed);
                return false;
            }
            // What has changed is another entry from now on.
            lately(entry.checked.load(Relaxed), LATELY) || store.check(&entry, &mut folders)
        });
        let mut list = locked(&self.0);
        list.entries.append(&mut entries);
        !list.entries.is_empty()
    }
}

/// Goes round after round, as long as anything is asked for.
async fn go(mut going: Going) {
    let mut next = Instant::now();
    loop {
        next = (next + PERIOD).max(Instant::now());
        sleep_until(next).await;
        let Some(store) = going.0.upgrade() else {
            return;
        };
        // Who goes is aside for so long: a round that has begun is not given up with its runtime.
        let round = spawn_blocking(move || (store.rounds().go_once(&store, store.now()), going));
        match round.await {
            Ok((true, still)) => going = still,
            Ok((false, _)) => return,
            Err(ended) => {
                // The files of that round are looked at by who asks for them; later ones go along again.
                tracing::error!(%ended, "a round of looking at files ended early");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::site::{SiteSettings, disk::Found};

    #[test]
    fn they_go_on_where_a_runtime_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("page.html"), "page").unwrap();
        let root = folder.path().canonicalize().unwrap();
        let store = Arc::new(Store::new(root, &SiteSettings::default(), &mut Vec::new()));
        let goes = || locked(&store.rounds().0).goes;
        let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
        let first = runtime();
        let found = first.block_on(store.find(b"page.html"));
        let Ok(Found::File(entry)) = found else {
            panic!("{found:?}")
        };
        for runtime in [first, runtime()] {
            runtime.block_on(async { store.rounds().asked_for(&entry, 1, &store) });
            assert!(goes() && entry.goes_along.load(Relaxed));
            drop(runtime);
            assert!(!goes() && !entry.goes_along.load(Relaxed));
        }
    }
}
