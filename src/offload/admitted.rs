//! Which addresses a page was given to just now.
//!
//! At `drop` the gate knows nothing but an address. A visitor whose page was let in opens more connections for its
//! objects, and to close those would waste what it has got already.
//!
//! One table of atomics: bounded in memory, without a lock. A slot holds the upper half of the address's hash, and a
//! second; where two meet in one slot the later one wins.

use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 1 << 15;
/// How long connections for a page's objects are let in.
const SECONDS: u32 = 30;

/// The addresses.
#[derive(Debug)]
pub(super) struct Admitted {
    slots: Box<[AtomicU64]>,
}

impl Default for Admitted {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

// === impl Admitted ===

impl Admitted {
    fn slot(&self, address: u64) -> Option<&AtomicU64> {
        self.slots.get(address as usize % SLOTS)
    }

    /// A page went to the address with this hash, at this second.
    pub(super) fn note(&self, address: u64, second: u64) {
        if let Some(slot) = self.slot(address) {
            // A second of 0 would look like an empty slot.
            slot.store(
                address >> 32 << 32 | u64::from(second as u32 | 1),
                Ordering::Relaxed,
            );
        }
    }

    /// Whether one did, less than half a minute ago.
    pub(super) fn holds(&self, address: u64, second: u64) -> bool {
        let word = self
            .slot(address)
            .map_or(0, |slot| slot.load(Ordering::Relaxed));
        let ago = (second as u32).wrapping_sub(word as u32);
        // Seconds are noted in pairs, so one may be ahead by one.
        word as u32 != 0 && word >> 32 == address >> 32 && (ago < SECONDS || ago == u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::hash::mix;

    #[test]
    fn an_address_is_known_for_half_a_minute() {
        let admitted = Admitted::default();
        let address = mix(1);
        for second in [1_000, 1_001, u64::from(u32::MAX)] {
            assert!(!admitted.holds(mix(second), second));
            admitted.note(address, second);
            assert!(admitted.holds(address, second));
            assert!(admitted.holds(address, second + 28));
            assert!(!admitted.holds(address, second + 31));
            assert!(
                !admitted.holds(address ^ 1 << 40, second),
                "another in its slot"
            );
        }
    }
}
