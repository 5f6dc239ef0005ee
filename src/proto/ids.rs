//! Tables by stream number.
//!
//! Numbers of streams are given out one after the other, so no keyed hash is needed to spread them, and looking a stream up is what a session
//! does most. A peer that keeps those open whose numbers fall together gains little: a table holds a few thousand at most, and the worst
//! look-up passes by all of them once.
//!
//! The order of such a table means nothing. Whoever goes through one sorts first, so that nothing depends on it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by stream number.
pub type IdMap<V> = HashMap<u32, V, BuildHasherDefault<IdHasher>>;

/// Spreads 32-bit numbers; see the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The fractional part of the golden ratio, which keeps multiples apart; the table looks at the highest and the lowest bits.
        let product = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn numbers_in_a_row_spread_over_both_ends_of_the_hash() {
        let hash = |id: u32| BuildHasherDefault::<IdHasher>::default().hash_one(id);
        for step in [1, 2, 64, 4096, 65_536] {
            let hashes: Vec<_> = (0..4096).map(|n| hash(1 + n * step)).collect();
            let low: HashSet<_> = hashes.iter().map(|hash| hash & 8191).collect();
            let high: HashSet<_> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(low.len() > 2000 && high.len() == 128, "{step}: {} {}", low.len(), high.len());
        }
    }
}
