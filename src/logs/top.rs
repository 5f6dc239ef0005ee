//! The most frequent keys of a stream, in bounded memory.
//!
//! Up to [`REPORT_KEYS_MAX`] distinct keys every count is exact. Beyond, the rarer half is forgotten, and from then
//! on a count may be too low by at most [`Top::slack`]: a key seen more often than that is never lost.

use std::collections::HashMap;

use crate::limits::{LOG_VALUE_BYTES_MAX, REPORT_KEYS_MAX};
use crate::logfmt;

/// Keys with what was counted for each.
#[derive(Clone, Debug, Default)]
pub struct Top {
    /// Invariant: keys.len() <= REPORT_KEYS_MAX.
    keys: HashMap<Box<[u8]>, Tally>,
    slack: u64,
}

/// What is counted for one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines with this key.
    pub count: u64,
    /// Those of them that did not end as they should.
    pub bad: u64,
    /// Payload bytes both ways.
    pub bytes: u64,
}

impl Top {
    /// Counts one line for `key`, of which the first [`LOG_VALUE_BYTES_MAX`] bytes matter.
    pub fn add(&mut self, key: &[u8], bad: bool, bytes: u64) {
        let key = logfmt::cut(key, LOG_VALUE_BYTES_MAX);
        let tally = match self.keys.get_mut(key) {
            Some(tally) => tally,
            None => {
                if self.keys.len() >= REPORT_KEYS_MAX {
                    self.forget_rarest_half();
                }
                self.keys.entry(key.into()).or_default()
            }
        };
        tally.count += 1;
        tally.bad += u64::from(bad);
        tally.bytes = tally.bytes.saturating_add(bytes);
    }

    fn forget_rarest_half(&mut self) {
        let mut counts: Vec<u64> = self.keys.values().map(|t| t.count).collect();
        let (_, &mut median, _) = counts.select_nth_unstable(REPORT_KEYS_MAX / 2);
        self.keys.retain(|_, tally| tally.count > median);
        self.slack += median;
    }

    /// The `rows` most frequent keys, equal ones in the order of the alphabet.
    pub fn rows(&self, rows: usize) -> Vec<(&[u8], Tally)> {
        let mut all: Vec<_> = self.keys.iter().map(|(key, tally)| (&**key, *tally)).collect();
        all.sort_unstable_by(|(a, x), (b, y)| y.count.cmp(&x.count).then(a.cmp(b)));
        all.truncate(rows);
        all
    }

    /// Distinct keys held.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// By how much a count may be too low; 0 while every count is exact.
    pub fn slack(&self) -> u64 {
        self.slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves the bound of REPORT_KEYS_MAX
    #[test]
    fn memory_is_bounded_and_the_frequent_survive() {
        let mut top = Top::default();
        for n in 0..REPORT_KEYS_MAX as u64 {
            top.add(&n.to_be_bytes(), false, 0);
        }
        assert_eq!((top.len(), top.slack()), (REPORT_KEYS_MAX, 0));
        for n in 0..200_000_u64 {
            top.add(&n.to_be_bytes(), false, 0);
            if n % 100 == 0 {
                top.add(b"frequent", n % 200 == 0, 3);
            }
            assert!(top.len() <= REPORT_KEYS_MAX);
        }
        assert!(top.slack() > 0 && top.slack() < 100, "{}", top.slack());
        let [(key, tally)] = top.rows(1)[..] else { panic!("one row was asked for") };
        assert_eq!(key, b"frequent");
        assert!(tally.count <= 2000 && tally.count + top.slack() >= 2000, "{tally:?}");
    }

    #[test]
    fn rows_are_sorted_and_keys_cut() {
        let mut top = Top::default();
        for key in ["b", "a", "c", "c"] {
            top.add(key.as_bytes(), key == "c", 5);
        }
        let c = Tally { count: 2, bad: 2, bytes: 10 };
        let one = Tally { count: 1, bad: 0, bytes: 5 };
        assert_eq!(top.rows(2), [(&b"c"[..], c), (b"a", one)]);
        let mut top = Top::default();
        top.add(&[b'x'; LOG_VALUE_BYTES_MAX * 2], false, 0);
        assert_eq!(top.rows(1)[0].0.len(), LOG_VALUE_BYTES_MAX);
    }
}
