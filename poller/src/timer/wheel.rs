//! A hierarchical timer wheel: arming and cancelling cost the same with one entry as with a million.
//!
//! ```text
//!   level 0   64 slots of ~1 ms  ┐ an entry stands on the level of the highest bit in which its tick
//!   level 1   64 slots of ~67 ms │ differs from the current one; so everything on a level comes before
//!   ...                          │ everything on the next, and within a level slots come in order
//!   level 7                      ┘
//!   ready     a heap of what belongs to the current tick or an earlier one, ordered to the nanosecond
//! ```
//! * Time moves when [`Wheel::pop`] is told of it: from occupied slot to occupied slot, never tick by tick. A slot that
//!   is reached hands its entries to lower levels, so an entry moves at most once a level.
//! * Entries fire in the order of their time, and of their arming where that is equal. None fires early.
//! * A cancelled entry leaves its slot at once; in the heap a husk stays until its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slab::Slab;

use crate::limits;

const SLOTS: usize = 64;
/// As many as 64 bits of nanoseconds need.
const LEVELS: usize = (u64::BITS - limits::TIMER_TICK_SHIFT).div_ceil(SLOTS.ilog2()) as usize;
/// Where an entry of the heap stands.
const READY: u16 = u16::MAX;
const NOBODY: u32 = u32::MAX;

/// Names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// When it fires.
    pub(crate) at: u64,
    /// Its number, which no other entry ever has.
    sequence: u64,
    index: u32,
}

struct Entry<T> {
    key: Key,
    /// Level and slot, or `READY`.
    place: u16,
    /// Its neighbours in the slot.
    previous: u32,
    next: u32,
    what: T,
}

#[derive(Clone, Copy)]
struct Slot {
    first: u32,
    /// Invariant: at most the time of each of its entries. Cancelling does not raise it.
    earliest: u64,
}

const EMPTY: Slot = Slot { first: NOBODY, earliest: u64::MAX };

pub(crate) struct Wheel<T> {
    entries: Slab<Entry<T>>,
    slots: [[Slot; SLOTS]; LEVELS],
    /// Which slots of a level have entries.
    occupied: [u64; LEVELS],
    ready: BinaryHeap<Reverse<Key>>,
    /// Invariant: each entry in a slot has a later tick than this.
    tick: u64,
    sequence: u64,
}

impl<T> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel {
            entries: Slab::new(),
            slots: [[EMPTY; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            ready: BinaryHeap::new(),
            tick: 0,
            sequence: 0,
        }
    }
}

impl<T> Wheel<T> {
    /// Adds an entry. O(1).
    pub(crate) fn insert(&mut self, at: u64, what: T) -> Key {
        self.sequence += 1;
        let key = Key { at, sequence: self.sequence, index: self.entries.vacant_key() as u32 };
        self.entries.insert(Entry { key, place: READY, previous: NOBODY, next: NOBODY, what });
        self.place(key);
        key
    }

    /// Takes an entry back; `None` when it has fired. O(1).
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get(key.index as usize).filter(|entry| entry.key == key)?;
        let (place, previous, next) = (entry.place, entry.previous, entry.next);
        if place != READY {
            let (level, slot) = (usize::from(place) / SLOTS, usize::from(place) % SLOTS);
            match self.entries.get_mut(previous as usize) {
                Some(previous) => previous.next = next,
                None => self.slots[level][slot].first = next,
            }
            if let Some(next) = self.entries.get_mut(next as usize) {
                next.previous = previous;
            }
            if self.slots[level][slot].first == NOBODY {
                self.slots[level][slot] = EMPTY;
                self.occupied[level] &= !(1 << slot);
            }
        }
        let what = self.entries.remove(key.index as usize).what;
        if self.entries.is_empty() {
            self.ready.clear();
        }
        Some(what)
    }

    /// When [`pop`](Wheel::pop) should be called: no entry fires before, and the earliest at that time unless one was
    /// cancelled since. O(levels).
    pub(crate) fn next(&mut self) -> Option<u64> {
        while let Some(Reverse(key)) = self.ready.peek() {
            if self.is_live(*key) {
                return Some(key.at);
            }
            self.ready.pop();
        }
        self.first_slot().map(|(level, slot)| self.slots[level][slot].earliest)
    }

    /// The earliest entry that is due.
    pub(crate) fn pop(&mut self, now: u64) -> Option<(Key, T)> {
        loop {
            while let Some(Reverse(key)) = self.ready.peek().copied() {
                if !self.is_live(key) {
                    self.ready.pop();
                } else if key.at <= now {
                    self.ready.pop();
                    return Some((key, self.entries.remove(key.index as usize).what));
                } else {
                    return None;
                }
            }
            let (level, slot) = self.first_slot()?;
            // The start of the slot: the current tick with the slot's number on its level and nothing below.
            let shift = level as u32 * SLOTS.ilog2();
            let above = self.tick.checked_shr(shift + SLOTS.ilog2()).unwrap_or(0);
            let start = ((above << SLOTS.ilog2()) | slot as u64) << shift;
            if start > now >> limits::TIMER_TICK_SHIFT {
                return None;
            }
            self.tick = start;
            let mut index = std::mem::replace(&mut self.slots[level][slot], EMPTY).first;
            self.occupied[level] &= !(1 << slot);
            while let Some(entry) = self.entries.get(index as usize) {
                let key = entry.key;
                index = entry.next;
                self.place(key);
            }
        }
    }

    /// All that is left, in no order.
    pub(crate) fn into_rest(self) -> impl Iterator<Item = T> + use<T> {
        self.entries.into_iter().map(|(_, entry)| entry.what)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a key of the heap still has its entry.
    fn is_live(&self, key: Key) -> bool {
        self.entries.get(key.index as usize).is_some_and(|entry| entry.key == key)
    }

    /// The first occupied slot of the lowest occupied level. All slots on a level lie ahead of the current tick.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// Puts an entry where it belongs now.
    fn place(&mut self, key: Key) {
        let tick = key.at >> limits::TIMER_TICK_SHIFT;
        let entry = &mut self.entries[key.index as usize];
        if tick <= self.tick {
            entry.place = READY;
            self.ready.push(Reverse(key));
            return;
        }
        let level = ((tick ^ self.tick).ilog2() / SLOTS.ilog2()) as usize;
        let slot = (tick >> (level as u32 * SLOTS.ilog2())) as usize % SLOTS;
        let head = &mut self.slots[level][slot];
        entry.place = (level * SLOTS + slot) as u16;
        entry.previous = NOBODY;
        entry.next = head.first;
        head.earliest = head.earliest.min(key.at);
        let second = std::mem::replace(&mut head.first, key.index);
        self.occupied[level] |= 1 << slot;
        if let Some(second) = self.entries.get_mut(second as usize) {
            second.previous = key.index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn entries_fire_in_order_and_only_when_due() {
        let mut wheel = Wheel::default();
        wheel.insert(20 * MS, "second");
        let cancelled = wheel.insert(10 * MS, "cancelled");
        wheel.insert(20 * MS, "third");
        wheel.insert(20 * MS - 1, "first");
        assert_eq!(wheel.next(), Some(10 * MS));
        assert_eq!(wheel.remove(cancelled), Some("cancelled"));
        assert_eq!(wheel.remove(cancelled), None);
        assert!(wheel.pop(20 * MS - 2).is_none());
        let pop = |wheel: &mut Wheel<_>, now| wheel.pop(now).map(|(_, what)| what);
        assert_eq!(pop(&mut wheel, 20 * MS - 1), Some("first"));
        assert_eq!(pop(&mut wheel, 20 * MS - 1), None);
        assert_eq!(pop(&mut wheel, 20 * MS), Some("second"));
        assert_eq!(pop(&mut wheel, 20 * MS), Some("third"));
        assert_eq!((pop(&mut wheel, u64::MAX), wheel.next(), wheel.len()), (None, None, 0));
    }

    /// Runs random operations on the wheel and on a sorted list, over spans of time from nanoseconds to centuries.
    fn check(seed: u64, span_bits: u32) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut wheel = Wheel::default();
        let mut model = std::collections::BTreeMap::new();
        let mut gone = Vec::new();
        let mut now = 0u64;
        // Miri is too slow for more.
        for n in 0..if cfg!(miri) { 150 } else { 3_000u32 } {
            match random.u32(0..10) {
                0..5 => {
                    let span = random.u64(..) >> (64 - random.u32(1..=span_bits));
                    // Some in the past.
                    let at = (now + span).saturating_sub(random.u64(0..1000));
                    model.insert(wheel.insert(at, n), n);
                }
                5..7 => {
                    let Some(key) = random.choice(model.keys().copied().collect::<Vec<Key>>()) else {
                        continue;
                    };
                    assert_eq!(wheel.remove(key), model.remove(&key));
                    gone.push(key);
                }
                7 => {
                    if let Some(key) = random.choice(gone.iter()) {
                        assert_eq!(wheel.remove(*key), None, "an entry that has gone stays gone");
                    }
                }
                _ => {
                    now = match random.bool() {
                        true => now + (random.u64(..) >> (64 - random.u32(1..=span_bits))),
                        // As a poll does that wakes when it was told to.
                        false => wheel.next().unwrap_or(now).max(now),
                    };
                    while let Some((key, what)) = wheel.pop(now) {
                        assert_eq!(model.pop_first(), Some((key, what)), "the earliest first");
                        assert!(key.at <= now);
                        gone.push(key);
                    }
                    assert!(model.first_key_value().is_none_or(|(key, _)| key.at > now), "none is late");
                }
            }
            let earliest = model.first_key_value().map(|(key, _)| key.at);
            let next = wheel.next();
            assert!(next <= earliest && next.is_some() == earliest.is_some(), "{next:?} before {earliest:?}");
            assert_eq!(wheel.len(), model.len());
        }
        let mut rest: Vec<u32> = wheel.into_rest().collect();
        rest.sort_unstable();
        let mut want: Vec<u32> = model.into_values().collect();
        want.sort_unstable();
        assert_eq!(rest, want);
    }

    #[test]
    fn a_wheel_is_as_good_as_a_sorted_list() {
        for seed in 0..if cfg!(miri) { 1 } else { 40 } {
            for span_bits in [10, 21, 24, 30, 40, 50, 58] {
                check(seed, span_bits);
            }
        }
    }

    // proves that the wheel takes the latest time there is
    #[test]
    fn no_time_is_too_late() {
        let mut wheel = Wheel::default();
        wheel.insert(u64::MAX, ());
        assert!(wheel.pop(u64::MAX - 1).is_none());
        assert_eq!(wheel.next(), Some(u64::MAX));
        assert!(wheel.pop(u64::MAX).is_some());
    }

    // proves that nothing is looked at tick by tick, and that a hundred thousand entries cancel and fire
    #[test]
    fn a_hundred_thousand_entries_cancel_and_fire_in_order() {
        // Miri does a thousandth of it in the same time.
        let count: u64 = if cfg!(miri) { 1_000 } else { 100_000 };
        let mut wheel = Wheel::default();
        let year = 365 * 24 * 3600 * 1000 * MS;
        let keys: Vec<Key> = (0..count).map(|n| wheel.insert(n * 7919 % count * (year / count), n)).collect();
        for key in keys.iter().step_by(2) {
            assert!(wheel.remove(*key).is_some());
        }
        let (mut fired, mut wakes, mut last) = (0, 0, 0);
        while let Some(next) = wheel.next() {
            wakes += 1;
            while let Some((key, _)) = wheel.pop(next) {
                assert!(last <= key.at && key.at <= next);
                last = key.at;
                fired += 1;
            }
        }
        assert_eq!(fired, count / 2);
        assert!(wakes <= count, "at most one more for each that was cancelled: {wakes}");
    }
}
