//! How heavy pages are: learnt from what passes by.
//!
//! Two tables of atomics, indexed by a hash of the path: bounded in memory, without a lock and without an
//! allocation. A slot holds the upper bits of the hash and the size; on a collision the later one wins,
//! which costs an estimate, never correctness.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fetched::{Fetched, Passed};

const SLOTS: usize = 1 << 15;
/// Of a slot's 64 bits so many hold the size: up to a terabyte.
const SIZE_BITS: u32 = 40;
/// What a page's objects weigh before anything is known: about the median of the web.
const UNKNOWN_PAGE: u64 = 500_000;

/// Sizes by path.
#[derive(Debug)]
struct Table {
    slots: Box<[AtomicU64]>,
}

// === impl Table ===

impl Table {
    fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn place(path: u64) -> (usize, u64) {
        ((path as usize) % SLOTS, path >> SIZE_BITS)
    }

    fn get(&self, path: u64) -> Option<u64> {
        let (slot, tag) = Self::place(path);
        let word = self.slots.get(slot)?.load(Ordering::Relaxed);
        (word != 0 && word >> SIZE_BITS == tag).then_some(word & ((1 << SIZE_BITS) - 1))
    }

    fn set(&self, path: u64, size: u64) {
        let (slot, tag) = Self::place(path);
        if let Some(slot) = self.slots.get(slot) {
            let word = tag << SIZE_BITS | size.min((1 << SIZE_BITS) - 1);
            // Most of the time it is known already: a read leaves the cache line shared.
            if slot.load(Ordering::Relaxed) != word {
                slot.store(word, Ordering::Relaxed);
            }
        }
    }
}

/// What is known of pages' and objects' sizes.
#[derive(Debug)]
pub struct Weights {
    objects: Table,
    pages: Table,
    /// What the primary has served to visitors. Written by the request path.
    pages_served: AtomicU64,
    object_bytes_served: AtomicU64,
    page_bytes_served: AtomicU64,
    /// The part of a page's weight that visitors fetch, and the bytes of objects that they fetch for a page that was
    /// never scanned (each an `f64`; negative: nothing is known). Written by the control loop.
    part: AtomicU64,
    mean: AtomicU64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            objects: Table::new(),
            pages: Table::new(),
            pages_served: AtomicU64::new(0),
            object_bytes_served: AtomicU64::new(0),
            page_bytes_served: AtomicU64::new(0),
            part: AtomicU64::new((1.0f64).to_bits()),
            mean: AtomicU64::new((-1.0f64).to_bits()),
        }
    }
}

// === impl Weights ===

impl Weights {
    /// An object's size, known from the folder or from having passed.
    pub fn learn_object(&self, path: u64, bytes: u64) {
        self.objects.set(path, bytes);
    }

    /// The size of the object at `path`.
    #[must_use]
    pub fn object(&self, path: u64) -> Option<u64> {
        self.objects.get(path)
    }

    /// A page's objects, found when it was scanned. An object of unknown size counts as the mean of the known.
    pub fn learn_page(&self, page: u64, objects: impl Iterator<Item = u64>) {
        let (mut known, mut sum, mut unknown) = (0, 0, 0);
        for object in objects {
            match self.object(object) {
                Some(bytes) => {
                    known += 1;
                    sum += bytes;
                }
                None => unknown += 1,
            }
        }
        match sum.checked_div(known) {
            Some(mean) => self.pages.set(page, sum + mean * unknown),
            None if unknown == 0 => self.pages.set(page, 0),
            // Of none of its objects anything is known: nothing is learnt.
            None => {}
        }
    }

    /// The primary served `page`, whose objects it serves itself; gives what it promises to send for them, as
    /// [`known_page`](Self::known_page) does.
    pub fn page_served(&self, page: u64) -> u64 {
        let scanned = self.pages.get(page);
        let promised = self.promised(scanned);
        // One that was never scanned says nothing about the part: it counts as what is fetched anyway.
        self.page_bytes_served
            .fetch_add(scanned.unwrap_or(promised), Ordering::Relaxed);
        self.pages_served.fetch_add(1, Ordering::Relaxed);
        promised
    }

    /// The primary served an object.
    pub fn object_served(&self, bytes: u64) {
        self.object_bytes_served.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that the primary has served so far.
    pub(super) fn passed(&self) -> Passed {
        Passed {
            pages: self.pages_served.load(Ordering::Relaxed),
            weight: self.page_bytes_served.load(Ordering::Relaxed),
            bytes: self.object_bytes_served.load(Ordering::Relaxed),
        }
    }

    /// Goes on with what was learnt of visitors.
    pub(super) fn set_fetched(&self, fetched: Fetched) {
        self.part.store(fetched.part.to_bits(), Ordering::Relaxed);
        self.mean
            .store(fetched.mean.unwrap_or(-1.0).to_bits(), Ordering::Relaxed);
    }

    /// What visitors fetch for `page`: what its objects weigh by its scan, times the part of such weights that
    /// visitors fetch; else what they fetch for any page, else a guess.
    #[must_use]
    pub fn page(&self, page: u64) -> u64 {
        match self.pages.get(page).or_else(|| self.mean()) {
            Some(_) => self.known_page(page),
            None => UNKNOWN_PAGE,
        }
    }

    fn mean(&self) -> Option<u64> {
        let mean = f64::from_bits(self.mean.load(Ordering::Relaxed));
        (mean >= 0.0).then_some(mean as u64)
    }

    fn part(&self) -> f64 {
        f64::from_bits(self.part.load(Ordering::Relaxed))
    }

    /// The same as far as anything is known: a guess must not begin an episode.
    #[must_use]
    pub fn known_page(&self, page: u64) -> u64 {
        self.promised(self.pages.get(page))
    }

    fn promised(&self, scanned: Option<u64>) -> u64 {
        match scanned {
            Some(weight) => (weight as f64 * self.part()) as u64,
            None => self.mean().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::hash::bytes as path;

    #[test]
    fn a_page_weighs_what_its_objects_weigh() {
        let weights = Weights::default();
        weights.learn_object(path(b"/a.png"), 1_000);
        weights.learn_object(path(b"/b.png"), 3_000);
        let objects = [&b"/a.png"[..], b"/b.png", b"/unknown.png"];
        weights.learn_page(path(b"/"), objects.into_iter().map(path));
        assert_eq!(
            weights.page(path(b"/")),
            6_000,
            "the unknown counts as the mean"
        );
        weights.learn_page(path(b"/plain"), std::iter::empty());
        assert_eq!(weights.page(path(b"/plain")), 0);
    }

    #[test]
    fn a_page_promises_what_visitors_fetch_of_it() {
        let weights = Weights::default();
        assert_eq!(weights.page(1), UNKNOWN_PAGE);
        weights.learn_object(path(b"/small.png"), 100_000);
        weights.learn_object(path(b"/large.png"), 300_000);
        let objects = [&b"/small.png"[..], b"/large.png"];
        weights.learn_page(path(b"/"), objects.into_iter().map(path));
        for _ in 0..20 {
            weights.page_served(path(b"/"));
            weights.object_served(100_000);
        }
        assert_eq!(weights.page(path(b"/")), 400_000, "nothing is learnt yet");
        let passed = weights.passed();
        assert_eq!(
            (passed.pages, passed.bytes, passed.weight),
            (20, 2_000_000, 8_000_000)
        );
        weights.set_fetched(Fetched {
            part: 0.25,
            mean: Some(20_000.0),
        });
        assert_eq!(weights.page(path(b"/")), 100_000);
        assert_eq!(weights.page(1), 20_000, "one that was never scanned");
    }

    #[test]
    fn a_guess_promises_nothing_to_the_primary() {
        let weights = Weights::default();
        assert_eq!(weights.known_page(1), 0);
        weights.learn_object(path(b"/a.png"), 50_000);
        weights.learn_page(path(b"/"), std::iter::once(path(b"/a.png")));
        assert_eq!(weights.known_page(path(b"/")), 50_000);
    }

    #[test]
    fn sizes_are_kept_per_path() {
        let weights = Weights::default();
        for n in 0..1_000u64 {
            weights.learn_object(path(&n.to_le_bytes()), n);
        }
        let right = (0..1_000u64)
            .filter(|n| weights.object(path(&n.to_le_bytes())) == Some(*n))
            .count();
        assert!(right > 950, "{right}");
        assert!((1_000..2_000u64).all(|n| weights.object(path(&n.to_le_bytes())).is_none()));
    }
}
