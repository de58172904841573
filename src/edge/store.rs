//! What is kept: bounded in bytes, the least useful goes first (moka: TinyLFU).
//!
//! The key is a hash of the site and the target, with a seed of this process. An object knows its own name, so
//! that two of one hash never stand for one another. Where an object varies, its place holds the names of the
//! headers that select the variant, and each variant has a place of its own.

use std::{
    hash::BuildHasherDefault,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderName;
use moka::sync::Cache;
use xxhash_rust::xxh3::Xxh3;

use super::{
    object::{Name, Object},
    policy::State,
};
use crate::servers::hash::AsItIs;

/// A place in the store.
pub(super) type Key = u64;

/// What stands in a place.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// An object.
    Object(Arc<Object>),
    /// It varies by these headers.
    Varies(Arc<Varies>),
    /// It can't be kept, or shared: until then everyone who asks is passed on at once.
    Passes {
        /// Milliseconds since 1970.
        until: u64,
    },
}

/// By which headers the object of this name varies.
#[derive(Debug)]
pub(super) struct Varies {
    site: u16,
    target: Box<str>,
    pub(super) names: Box<[HeaderName]>,
}

/// The store.
pub(super) struct Store {
    cache: Cache<Key, Entry, BuildHasherDefault<AsItIs>>,
    seed: u64,
    /// How often something was purged: what was asked for before is not kept after.
    purges: AtomicU64,
}

// === impl Store ===

impl Store {
    pub(super) fn new(memory: u64, seed: u64) -> Self {
        let weigh = |_: &Key, entry: &Entry| {
            let weight = match entry {
                Entry::Object(object) => object.weight(),
                Entry::Varies(varies) => 400 + varies.target.len() as u64,
                Entry::Passes { .. } => 300,
            };
            u32::try_from(weight).unwrap_or(u32::MAX)
        };
        Self {
            cache: Cache::builder()
                .max_capacity(memory)
                .weigher(weigh)
                .build_with_hasher(BuildHasherDefault::default()),
            seed,
            purges: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self, name: Name<'_>) -> Key {
        let mut hash = Xxh3::with_seed(self.seed);
        hash.update(&name.site.to_le_bytes());
        hash.update(name.target.as_bytes());
        if !name.variant.is_empty() {
            // No target has it.
            hash.update(b"\n");
            hash.update(name.variant);
        }
        hash.digest()
    }

    pub(super) fn get(&self, key: Key) -> Option<Entry> {
        self.cache.get(&key)
    }

    pub(super) fn insert(&self, key: Key, entry: Entry) {
        self.cache.insert(key, entry);
    }

    /// Inserts what was asked for when so often something had been purged; not, where something has been since.
    pub(super) fn insert_unless_purged(&self, key: Key, entry: Entry, purges: u64) {
        self.insert(key, entry);
        // In this order: a purge that has not counted yet finds it.
        if self.purges() != purges {
            self.remove(key);
        }
    }

    /// `object` was to be renewed and could not be: from now on it is given out at once for a while, and renewed aside.
    pub(super) fn bear_with(&self, key: Key, object: &Arc<Object>, now: u64, seconds: u64) {
        let purges = self.purges();
        let is_there =
            matches!(self.get(key), Some(Entry::Object(found)) if Arc::ptr_eq(&found, object));
        if is_there && object.life.state(now) == State::Fallback {
            let life = object.life.bearing(now, seconds);
            let object = Arc::new(object.with_life(life));
            self.insert_unless_purged(key, Entry::Object(object), purges);
        }
    }

    pub(super) fn remove(&self, key: Key) {
        self.cache.invalidate(&key);
    }

    pub(super) fn purges(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Forgets what `goes` says, given the site and the target; gives how many objects went.
    pub(super) fn purge(&self, goes: impl Fn(u16, &[u8]) -> bool) -> u64 {
        self.purges.fetch_add(1, Ordering::AcqRel);
        let mut count = 0;
        for (key, entry) in &self.cache {
            let purged = match &entry {
                Entry::Object(object) => goes(object.site(), object.target()),
                Entry::Varies(varies) => goes(varies.site, varies.target.as_bytes()),
                Entry::Passes { .. } => true,
            };
            if purged {
                self.cache.invalidate(&*key);
                count += u64::from(matches!(entry, Entry::Object(_)));
            }
        }
        count
    }

    /// Entries and bytes, exact as of now.
    pub(super) fn size(&self) -> (u64, u64) {
        self.cache.run_pending_tasks();
        (self.cache.entry_count(), self.cache.weighted_size())
    }
}

// === impl Varies ===

impl Varies {
    pub(super) fn new(name: Name<'_>, names: Box<[HeaderName]>) -> Self {
        Self {
            site: name.site,
            target: name.target.into(),
            names,
        }
    }

    pub(super) fn is(&self, name: Name<'_>) -> bool {
        self.site == name.site && *self.target == *name.target
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::edge::policy::Life;

    fn object(name: Name<'_>, size: usize) -> Entry {
        let life = Life {
            born: 0,
            fresh: 1,
            while_revalidate: 0,
            if_error: 0,
        };
        let body = vec![0; size];
        Entry::Object(Arc::new(
            Object::new(name, StatusCode::OK, &HeaderMap::new(), &body, life).unwrap(),
        ))
    }

    #[test]
    fn holds_no_more_than_it_may() {
        let store = Store::new(1 << 20, 7);
        let targets: Vec<String> = (0..1000).map(|number| format!("/{number}")).collect();
        for target in &targets {
            let name = Name {
                site: 0,
                target,
                variant: b"",
            };
            store.insert(store.key(name), object(name, 10_000));
        }
        let (entries, bytes) = store.size();
        assert!(bytes <= 1 << 20, "{bytes}");
        assert!((50..=104).contains(&entries), "{entries}");
    }

    #[test]
    fn purges_what_it_is_told() {
        let store = Store::new(1 << 20, 7);
        for target in ["/a/1", "/a/2", "/b"] {
            let name = Name {
                site: 0,
                target,
                variant: b"",
            };
            store.insert(store.key(name), object(name, 10));
        }
        assert_eq!(store.purge(|_, target| target.starts_with(b"/a/")), 2);
        let left = |target| {
            store
                .get(store.key(Name {
                    site: 0,
                    target,
                    variant: b"",
                }))
                .is_some()
        };
        assert!(!left("/a/1") && !left("/a/2") && left("/b"));
        assert_eq!(store.purges(), 1);
    }

    #[test]
    fn a_hundred_thousand_objects_take_at_most_400_bytes_each_besides_what_they_are() {
        const COUNT: usize = 100_000;
        const BODY: usize = 64;
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "image/webp"),
            ("etag", "\"5f3e-61a2b3c4d5e6f\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("cache-control", "public, max-age=86400"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("server", "nginx"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let text: usize = headers.values().map(http::HeaderValue::len).sum();
        let store = Store::new(1 << 30, 7);
        let mut paths = 0;
        let taken = allocation_counter::measure(|| {
            for number in 0..COUNT {
                let target = format!("/images/gallery/{number}.webp");
                paths += target.len();
                let name = Name {
                    site: 0,
                    target: &target,
                    variant: b"",
                };
                let life = Life {
                    born: 0,
                    fresh: 1,
                    while_revalidate: 0,
                    if_error: 0,
                };
                let object = Object::new(name, StatusCode::OK, &headers, &[0; BODY], life).unwrap();
                // One that was given out has a counter more.
                drop(object.body());
                store.insert(store.key(name), Entry::Object(Arc::new(object)));
            }
            assert_eq!(store.size().0, COUNT as u64);
        });
        let own = paths + COUNT * (BODY + text);
        let besides = (usize::try_from(taken.bytes_current).unwrap() - own) / COUNT;
        println!("{besides} bytes besides each object");
        assert!(besides <= 400, "{besides}");
    }
}
