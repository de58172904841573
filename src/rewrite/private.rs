//! Objects that are not for everyone: remembered when they pass, so that no page links to them elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::headers::is_private;

const SLOTS: usize = 1 << 14;

/// The paths of objects that passed with `private`, `no-store`, `Set-Cookie`, `Vary: Cookie`, 401 or 403.
///
/// A table of hashes: bounded, without a lock. On a collision the later path takes the slot; then the
/// earlier one is known again when it passes again.
#[derive(Debug)]
pub struct Private {
    slots: Box<[AtomicU64]>,
    generation: AtomicU64,
}

impl Default for Private {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            generation: AtomicU64::new(0),
        }
    }
}

// === impl Private ===

impl Private {
    fn slot(&self, path: u64) -> Option<&AtomicU64> {
        self.slots.get(path as usize % SLOTS)
    }

    /// Whether the object whose path has this hash is one.
    #[must_use]
    pub fn contains(&self, path: u64) -> bool {
        self.slot(path)
            .is_some_and(|slot| slot.load(Ordering::Relaxed) == path)
    }

    /// Remembers the path with this hash.
    pub fn remember(&self, path: u64) {
        if let Some(slot) = self.slot(path)
            && slot.swap(path, Ordering::Relaxed) != path
        {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes with every path that is new to it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a response says that its object is not for everyone.
    #[must_use]
    pub fn shows(status: StatusCode, headers: &HeaderMap) -> bool {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return true;
        }
        // One pass: cheaper than looking each up by its hash.
        let mut has_cache_control = false;
        for (name, value) in headers {
            if name == header::SET_COOKIE || (name == header::VARY && names_cookie(value)) {
                return true;
            }
            has_cache_control |= name == header::CACHE_CONTROL;
        }
        has_cache_control && is_private(headers)
    }
}

/// Whether a line of `Vary` does.
fn names_cookie(vary: &HeaderValue) -> bool {
    let mut names = vary.as_bytes().split(|&b| b == b',');
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"cookie"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_paths_and_tells_that_something_changed() {
        let private = Private::default();
        assert!(!private.contains(7));
        private.remember(7);
        private.remember(7);
        assert!(private.contains(7));
        assert_eq!(private.generation(), 1);
        // The same slot.
        private.remember(7 + SLOTS as u64);
        assert!(!private.contains(7));
        assert_eq!(private.generation(), 2);
    }

    #[test]
    fn knows_what_is_not_for_everyone() {
        let shows = |status: u16, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            Private::shows(StatusCode::from_u16(status).unwrap(), &map)
        };
        assert!(shows(401, &[]) && shows(403, &[]));
        assert!(shows(200, &[("cache-control", "max-age=1, Private")]));
        assert!(shows(200, &[("cache-control", "no-store")]));
        assert!(shows(200, &[("set-cookie", "a=b")]));
        assert!(shows(200, &[("vary", "Accept, cookie")]));
        assert!(!shows(200, &[]));
        assert!(!shows(404, &[("vary", "Accept")]));
        assert!(!shows(200, &[("cache-control", "public, max-age=60")]));
    }
}
