//! Percentiles of millions of durations in 30 KiB: a histogram whose buckets grow with the value.
//!
//! ```text
//!  value   0 1 2 .. 127 | 128..129 130..131 ..  255 | 256..259 ..   511 | ...
//!  buckets one each     | 64 of width 2             | 64 of width 4     | 64 an octave
//! ```
//! Below 128 a percentile is exact; above, it is at most 1/64 too high. Two histograms add up.

/// Values below this have a bucket each.
const EXACT: u64 = 128;
/// Buckets in one octave above.
const PER_OCTAVE: u64 = EXACT / 2;
/// Octaves from `EXACT` to the end of `u64`.
const OCTAVES: u64 = u64::BITS as u64 - EXACT.trailing_zeros() as u64;

/// Counts of values by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    /// Invariant: the sum of `counts`.
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = EXACT + OCTAVES * PER_OCTAVE;
        Histogram { counts: vec![0; index(buckets)].into(), total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value counted, exactly.
    pub fn max(&self) -> Option<u64> {
        (self.total > 0).then_some(self.max)
    }

    /// The value that `permille` of a thousand values do not exceed; `None` when nothing was counted.
    pub fn permille(&self, permille: u64) -> Option<u64> {
        // The rank is at least 1 and at most the total, whatever is asked.
        let rank = u128::from(self.total) * u128::from(permille);
        let rank = rank.div_ceil(1000).clamp(1, u128::from(self.total.max(1)));
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(i, &count)| {
            seen += u128::from(count);
            (seen >= rank).then(|| last_value(i as u64).min(self.max))
        })
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return index(value);
    }
    // How far the value must be shifted to lie in PER_OCTAVE..EXACT.
    let shift = u64::from(EXACT.leading_zeros() + 1 - value.leading_zeros());
    index(EXACT + (shift - 1) * PER_OCTAVE + (value >> shift) - PER_OCTAVE)
}

/// The largest value that falls into this bucket.
fn last_value(bucket: u64) -> u64 {
    if bucket < EXACT {
        return bucket;
    }
    let shift = (bucket - EXACT) / PER_OCTAVE + 1;
    let first = ((bucket - EXACT) % PER_OCTAVE + PER_OCTAVE) << shift;
    first + ((1 << shift) - 1)
}

fn index(bucket: u64) -> usize {
    usize::try_from(bucket).expect("there are a few thousand buckets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_the_buckets_meet() {
        for b in 0..Histogram::default().counts.len() as u64 {
            let last = last_value(b);
            assert_eq!(bucket(last), index(b), "the last of bucket {b}");
            if last < u64::MAX {
                assert_eq!(bucket(last + 1), index(b + 1), "the first behind bucket {b}");
            }
        }
        assert_eq!(last_value(Histogram::default().counts.len() as u64 - 1), u64::MAX);
    }

    #[track_caller]
    fn check(values: impl IntoIterator<Item = u64>, permille: u64, want: Option<u64>) {
        let mut h = Histogram::default();
        values.into_iter().for_each(|v| h.record(v));
        assert_eq!(h.permille(permille), want);
    }

    #[test]
    fn percentiles() {
        check([], 500, None);
        check([7], 500, Some(7));
        check([7], 0, Some(7));
        check(1..=100, 500, Some(50));
        check(1..=100, 990, Some(99));
        check(1..=100, 1000, Some(100));
        check([u64::MAX, 1], 999, Some(u64::MAX));
        // The exact answer is 900,000; it may be a sixty-fourth too high.
        let mut h = Histogram::default();
        (1..=1_000_000).for_each(|v| h.record(v));
        let p90 = h.permille(900).expect("values were counted");
        assert!((900_000..=900_000 + 900_000 / 64).contains(&p90), "{p90}");
        assert_eq!((h.max(), h.total()), (Some(1_000_000), 1_000_000));
    }
}
