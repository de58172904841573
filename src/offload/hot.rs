//! Which objects are asked for most, as far as that can be known for next to nothing.
//!
//! Each place holds one path and a count: who comes to it by the same path adds one, who comes by another takes one
//! away, and where nothing is left the newcomer moves in (the majority vote of Boyer and Moore). So what is in the
//! majority in its place stays, and the highest counts are the hottest. No lock, no allocation. When two meet, a
//! count is off by one, and a path may be of both: that is seen by its hash when it is read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::servers::hash;

const PLACES: usize = 512;
/// A path is written in so many words of eight bytes; a longer one is not remembered.
const WORDS: usize = 16;

#[derive(Debug, Default)]
struct Place {
    hash: AtomicU64,
    count: AtomicU64,
    length: AtomicU64,
    path: [AtomicU64; WORDS],
}

// === impl Place ===

impl Place {
    fn write(&self, hash: u64, path: &str) {
        self.hash.store(hash, Relaxed);
        self.length.store(path.len() as u64, Relaxed);
        for (word, bytes) in self.path.iter().zip(path.as_bytes().chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(whole), Relaxed);
        }
        self.count.store(1, Relaxed);
    }

    /// What is written here, if it is one path.
    fn read(&self) -> Option<String> {
        let bytes = self
            .path
            .iter()
            .flat_map(|word| word.load(Relaxed).to_le_bytes());
        let length = usize::try_from(self.length.load(Relaxed)).ok()?;
        let path = String::from_utf8(bytes.take(length).collect()).ok()?;
        let alone = path.split('?').next().unwrap_or_default();
        (hash::bytes(alone.as_bytes()) == self.hash.load(Relaxed)).then_some(path)
    }
}

/// An object that is asked for often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HotObject {
    /// Its path, with its query.
    pub(crate) path: String,
    /// So many bytes it is long.
    pub(crate) bytes: u64,
}

/// Paths and how often they were asked for.
#[derive(Debug)]
pub(super) struct Hot {
    places: Box<[Place]>,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| Place::default()).collect(),
        }
    }
}

// === impl Hot ===

impl Hot {
    /// The object at `path` (with its query), whose path has this `hash`, was asked for.
    pub(super) fn note(&self, hash: u64, path: &str) {
        // The table of sizes takes the lowest bits: others here.
        let place = &self.places[(hash >> 20) as usize % PLACES];
        if place.hash.load(Relaxed) == hash {
            place.count.fetch_add(1, Relaxed);
        } else if place.count.load(Relaxed) > 0 {
            // Two at once may take one too many: then it is as if it were everybody's favourite.
            let less = |count: u64| count.checked_sub(1);
            let _ = place.count.fetch_update(Relaxed, Relaxed, less);
        } else if path.len() <= WORDS * 8 {
            place.write(hash, path);
        }
    }

    /// What was counted counts half from now on.
    pub(super) fn forget(&self) {
        for place in &self.places {
            place.count.store(place.count.load(Relaxed) / 2, Relaxed);
        }
    }

    /// The paths that were asked for most, with their hashes: at most `most`, of those that were `least` times or more and
    /// whose hash `is_wanted`.
    pub(super) fn top(
        &self,
        most: usize,
        least: u64,
        is_wanted: impl Fn(u64) -> bool,
    ) -> Vec<(u64, String)> {
        let mut found: Vec<(u64, (u64, String))> = self
            .places
            .iter()
            .filter_map(|place| {
                let count = place.count.load(Relaxed);
                let hash = place.hash.load(Relaxed);
                let wanted = count >= least && is_wanted(hash);
                wanted
                    .then(|| place.read())
                    .flatten()
                    .map(|path| (count, (hash, path)))
            })
            .collect();
        found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        found.truncate(most);
        found.into_iter().map(|(_, object)| object).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_come_out_on_top_whatever_else_passes() {
        let hot = Hot::default();
        let note = |path: &str| hot.note(hash::bytes(path.as_bytes()), path);
        for round in 0..2_000 {
            for _ in 0..4 {
                note("/logo.png");
            }
            note("/site.css");
            note("/site.css");
            note(&format!("/rare/{round}.png"));
        }
        let top = |most, least, is_wanted: &dyn Fn(u64) -> bool| -> Vec<String> {
            let found = hot.top(most, least, is_wanted).into_iter();
            found.map(|(_, path)| path).collect()
        };
        assert_eq!(top(2, 1, &|_| true), ["/logo.png", "/site.css"]);
        assert_eq!(top(9, 3_000, &|_| true), ["/logo.png", "/site.css"]);
        hot.forget();
        assert_eq!(top(9, 3_000, &|_| true), ["/logo.png"]);
        let logo = hash::bytes(b"/logo.png");
        assert_eq!(top(1, 1, &|path| path != logo), ["/site.css"]);
    }
}
