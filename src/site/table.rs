//! The files that are kept, by the hashes of their paths, bounded in bytes.
//!
//! Every request reads, and reading takes no lock and writes nothing into the table: it is in many small parts, and whoever
//! changes one copies it. When there is no room, those go first that were not asked for again since they were
//! read, so that whoever walks through the whole folder takes away nothing that others want; then those that were not asked
//! for longest.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{
            AtomicI64,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
};

use arc_swap::ArcSwap;

use super::entry::Entry;
use crate::servers::hash::AsItIs;

/// A power of two. Of a hundred thousand files each has a hundred, which are copied in less time than a file is read.
const PARTS: usize = 1024;
/// Where there is no room, an eighth of it is made, so that it takes time seldom.
const ROOM: i64 = 8;

type Part = HashMap<u64, Arc<Entry>, BuildHasherDefault<AsItIs>>;

/// The files that are kept.
pub(super) struct Table {
    parts: Box<[ArcSwap<Part>]>,
    /// Bytes that there may be.
    most: i64,
    /// Bytes that there are; for moments fewer than none, where an entry is counted out before it is counted in.
    weight: AtomicI64,
    /// Held by who makes room.
    making_room: Mutex<()>,
}

fn weight(entry: &Arc<Entry>) -> i64 {
    i64::try_from(entry.weight()).unwrap_or(i64::MAX)
}

// === impl Table ===

impl Table {
    /// For `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        Self {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            most: i64::try_from(most).unwrap_or(i64::MAX),
            weight: AtomicI64::new(0),
            making_room: Mutex::default(),
        }
    }

    /// Within a part the lower bits tell keys apart, and the uppermost ones.
    fn part(&self, key: u64) -> &ArcSwap<Part> {
        &self.parts[(key >> 32) as usize % PARTS]
    }

    pub(super) fn get(&self, key: u64) -> Option<Arc<Entry>> {
        self.part(key).load().get(&key).cloned()
    }

    /// Keeps `entry`, in place of what was there. What takes more than all of the room is not kept.
    pub(super) fn put(&self, key: u64, entry: &Arc<Entry>) {
        if weight(entry) > self.most {
            self.remove(key);
            return;
        }
        self.change(key, |_| Some(entry.clone()));
    }

    pub(super) fn remove(&self, key: u64) {
        self.change(key, |_| None);
    }

    /// Puts what `with` makes of what is there in its place; [`None`]: nothing.
    pub(super) fn change(
        &self,
        key: u64,
        with: impl Fn(Option<&Arc<Entry>>) -> Option<Arc<Entry>>,
    ) {
        let mut after = None;
        let part = self.part(key).rcu(|part| {
            let mut changed = Part::clone(part);
            let before = part.get(&key);
            after = with(before);
            match &after {
                Some(after) => {
                    // It was asked for by the same path.
                    let asked = before.map_or(0, |before| before.asked.load(Relaxed));
                    after.asked.fetch_max(asked, Relaxed);
                    changed.insert(key, after.clone())
                }
                None => changed.remove(&key),
            };
            changed
        });
        let weight = |entry: Option<&Arc<Entry>>| entry.map_or(0, weight);
        let (before, after) = (weight(part.get(&key)), weight(after.as_ref()));
        self.weight.fetch_add(after - before, Relaxed);
        if after > before && self.weight.load(Relaxed) > self.most {
            self.make_room();
        }
    }

    /// Blocks for a moment: for a hundred thousand files some ten milliseconds.
    fn make_room(&self) {
        loop {
            // Between the lock and the weight: whoever finds it held has its weight seen by who holds it.
            fence(SeqCst);
            if self.weight.load(Relaxed) <= self.most {
                return;
            }
            let _making = match self.making_room.try_lock() {
                Ok(making) => making,
                Err(TryLockError::Poisoned(making)) => making.into_inner(),
                // Somebody does so already, and looks again when it is not held any more.
                Err(TryLockError::WouldBlock) => return,
            };
            let mut all: Vec<(u64, u64, u64)> = self
                .parts
                .iter()
                .flat_map(|part| {
                    let part = part.load();
                    let rank = |(key, entry): (&u64, &Arc<Entry>)| {
                        let (asked, checked) = (&entry.asked, &entry.checked);
                        (asked.load(Relaxed), checked.load(Relaxed), *key)
                    };
                    part.iter().map(rank).collect::<Vec<_>>()
                })
                .collect();
            all.sort_unstable();
            let enough = self.most - self.most / ROOM;
            for (.., key) in all {
                if self.weight.load(Relaxed) <= enough {
                    break;
                }
                self.remove(key);
            }
        }
    }

    /// How many there are, and their bytes.
    #[cfg(test)]
    pub(super) fn holds(&self) -> (usize, i64) {
        let count = self.parts.iter().map(|part| part.load().len()).sum();
        (count, self.weight.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::disk::Found, *};
    use crate::site::{SiteSettings, store::Store};

    /// Twenty files, and their entries, of which each takes the same.
    fn entries() -> (tempfile::TempDir, Vec<Arc<Entry>>) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let store = Arc::new(Store::new(root, &SiteSettings::default(), &mut Vec::new()));
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let entry = |number: u64| {
            let name = format!("{number:02}.bin");
            fs::write(folder.path().join(&name), [0; 5000]).unwrap();
            match runtime.block_on(store.find(name.as_bytes())) {
                Ok(Found::File(entry)) => entry,
                found => panic!("{found:?}"),
            }
        };
        let entries = (0..20).map(entry).collect();
        (folder, entries)
    }

    fn kept(table: &Table) -> Vec<u64> {
        let keys = 0..20;
        keys.filter(|key| table.get(*key).is_some()).collect()
    }

    #[test]
    fn what_is_asked_for_again_outlasts_what_is_not() {
        let (_folder, entries) = entries();
        let table = Table::new(10 * entries[0].weight());
        for (key, entry) in (0..).zip(&entries) {
            entry.checked.store(100 + key, Relaxed);
        }
        for key in 0..3 {
            table.put(key, &entries[key as usize]);
            // The last of them longest ago.
            entries[key as usize].asked.store(50 - key, Relaxed);
        }
        // Somebody walks through all of it.
        for key in 3..20 {
            table.put(key, &entries[key as usize]);
        }
        let left = kept(&table);
        assert!(
            left.starts_with(&[0, 1, 2]) && left.ends_with(&[19]),
            "{left:?}"
        );
        assert!(left.len() <= 10);
        // All is asked for again, the later the later.
        let table = Table::new(10 * entries[0].weight());
        for key in 0..20 {
            let entry = &entries[key as usize];
            entry.asked.store(1000 + key, Relaxed);
            table.put(key, entry);
        }
        let left = kept(&table);
        assert_eq!(left.last(), Some(&19));
        assert!(
            left.iter().is_sorted() && !left.contains(&0) && left.len() >= 8,
            "{left:?}"
        );
    }

    #[test]
    fn its_weight_is_that_of_what_it_keeps() {
        let (_folder, entries) = entries();
        let each = weight(&entries[0]);
        let table = Table::new(entries[0].weight() * 6);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (table, entries) = (&table, &entries);
                scope.spawn(move || {
                    for step in 0..500 {
                        let key = (step * 7 + thread) % 20;
                        match step % 3 {
                            0 => table.remove(key),
                            _ => table.put(key, &entries[key as usize]),
                        }
                    }
                });
            }
        });
        let (count, weight) = table.holds();
        assert_eq!(weight, count as i64 * each);
        assert!(count <= 6);
        for key in 0..20 {
            table.remove(key);
        }
        assert_eq!(table.holds(), (0, 0));
    }

    #[test]
    fn what_is_renewed_is_not_as_if_nobody_had_asked() {
        let (_folder, entries) = entries();
        let table = Table::new(entries[0].weight() * 6);
        table.put(1, &entries[0]);
        entries[0].asked.store(7, Relaxed);
        table.put(1, &entries[1]);
        assert_eq!(entries[1].asked.load(Relaxed), 7);
        assert!(Arc::ptr_eq(&table.get(1).unwrap(), &entries[1]));
        assert_eq!(table.holds().0, 1);
    }
}
