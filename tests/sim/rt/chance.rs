//! Everything that is left to chance, and a record of all that happened: both follow from the seed.

/// A source of numbers that looks random and is not (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Two purposes of one seed have nothing in common.
    pub fn new(seed: u64, purpose: u64) -> Chance {
        let mut chance = Chance(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        chance.next();
        chance
    }

    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "it has no end, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when that is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number from `low` to `high`, each order of magnitude as likely as the next.
    pub fn scale(&mut self, low: u64, high: u64) -> u64 {
        let bits = u64::from((high / low.max(1)).max(1).ilog2());
        let top = low.max(1) << self.range(0, bits);
        self.range(low, top.clamp(low, high))
    }

    /// Fills with any bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let any = self.next().to_le_bytes();
            chunk.copy_from_slice(&any[..chunk.len()]);
        }
    }
}

/// What happened, as one number that differs when anything did; and as lines, for who wants to read it.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    count: u64,
    /// Whether each note is printed as well.
    pub prints: bool,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, count: 0, prints: false }
    }

    /// Notes something, with two numbers that say more.
    pub fn note(&mut self, at: u64, what: &'static str, a: u64, b: u64) {
        self.count += 1;
        let word = what.as_bytes().iter().fold(0u64, |word, byte| word.rotate_left(7) ^ u64::from(*byte));
        for part in [at, word, a, b] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.prints {
            eprintln!("{:>14.6} ms  {what} {a} {b}", at as f64 / 1e6);
        }
    }

    /// The number.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much was noted.
    pub fn count(&self) -> u64 {
        self.count
    }
}
