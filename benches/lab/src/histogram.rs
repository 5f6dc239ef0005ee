//! Latencies, counted in steps that grow with them.
//!
//! ```text
//!   nanoseconds  0 .. 127        128 .. 255       256 .. 511      ...
//!   a step is    1 ns            2 ns             4 ns                  so at most 1/64 of the value
//! ```

/// Steps per doubling; the first row has twice as many, because it begins at zero.
const STEPS: u64 = 64;

/// Counts of latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Invariant: the sum of `counts`.
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; slot(u64::MAX) + 1], total: 0, max: 0 }
    }
}

/// How far `value` is shifted so that it becomes less than two rows.
fn shift_of(value: u64) -> u32 {
    (value / STEPS).checked_ilog2().unwrap_or(0)
}

fn slot(value: u64) -> usize {
    let shift = shift_of(value);
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

/// The greatest value that falls into `slot`.
fn top(slot: usize) -> u64 {
    let slot = slot as u64;
    let shift = (slot / STEPS).saturating_sub(1);
    let step = slot - shift * STEPS;
    (step << shift) + ((1 << shift) - 1)
}

impl Histogram {
    /// Counts one latency.
    #[inline]
    pub fn add(&mut self, nanos: u64) {
        self.counts[slot(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The latency in nanoseconds that `part` of all did not exceed, by at most 1/64 too high.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return top(slot).min(self.max);
            }
        }
        self.max
    }

    /// A JSON object in microseconds, or `null` when nothing was counted.
    pub fn json(&self) -> String {
        if self.total == 0 {
            return "null".to_owned();
        }
        let micros = |part| self.quantile(part) as f64 / 1e3;
        format!(
            r#"{{"n":{},"p50":{:.1},"p90":{:.1},"p99":{:.1},"p999":{:.1},"max":{:.1}}}"#,
            self.total,
            micros(0.5),
            micros(0.9),
            micros(0.99),
            micros(0.999),
            self.max as f64 / 1e3
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_one_another_and_are_narrow() {
        for exponent in 0..64 {
            for value in [(1u64 << exponent) - 1, 1 << exponent, (1 << exponent) + (1 << exponent) / 3] {
                let slot = slot(value);
                assert!(top(slot) >= value && top(slot) - value <= value / STEPS, "{value}: {}", top(slot));
                assert!(slot == 0 || top(slot - 1) < value, "{value} belongs into an earlier slot");
            }
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut histogram = Histogram::default();
        for value in (1..=1000).rev() {
            histogram.add(value * 1000);
        }
        for (part, want) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let got = histogram.quantile(part) as f64;
            assert!(got >= want && got <= want * (1.0 + 1.0 / STEPS as f64), "{part}: {got}");
        }
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.quantile(0.5)), (2000, histogram.quantile(0.5)));
        assert_eq!(Histogram::default().json(), "null");
    }
}
