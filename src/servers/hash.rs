//! Hashes that decide about visitors: the same in every process, so that several primaries decide alike.

/// A hash of `bytes`, eight at a time: a path of 40 bytes takes five steps, where one byte after the other
/// would take longer than everything else the layer does at `normal`. Not for tables that an attacker could
/// fill: for choices only.
#[must_use]
pub fn bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let step =
        |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        step(hash, u64::from_le_bytes(*word))
    });
    mix(step(hash, u64::from_le_bytes(last)))
}

/// A hash of numbers that come one by one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Running(u64);

impl Running {
    /// Takes in one more.
    pub const fn add(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The hash of those so far.
    #[must_use]
    pub const fn end(self) -> u64 {
        mix(self.0)
    }
}

/// Spreads every bit over all (the finaliser of SplitMix64).
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number in [0, 1) from a hash and a salt: below a share of 0.3 for three visitors in ten.
#[must_use]
pub fn fraction(hash: u64, salt: u64) -> f64 {
    (mix(hash ^ mix(salt)) >> 11) as f64 / (1u64 << 53) as f64
}

/// For tables whose keys are hashes already.
#[cfg(feature = "server")]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct AsItIs(u64);

#[cfg(feature = "server")]
impl std::hash::Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // For keys of other types, of which there are none.
        self.0 = self::bytes(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_met_and_depends_on_the_salt() {
        let below = |salt| {
            (0..10_000)
                .filter(|n| fraction(mix(*n), salt) < 0.3)
                .count()
        };
        assert!((2_850..3_150).contains(&below(1)), "{}", below(1));
        let both = (0..10_000u64)
            .filter(|n| fraction(mix(*n), 1) < 0.3 && fraction(mix(*n), 2) < 0.3)
            .count();
        assert!((800..1_000).contains(&both), "independent: {both}");
    }

    #[test]
    fn similar_keys_are_spread() {
        let below = (0..1_000)
            .filter(|n| fraction(bytes(format!("10.0.0.{n}").as_bytes()), 7) < 0.5)
            .count();
        assert!((440..560).contains(&below), "{below}");
    }
}
