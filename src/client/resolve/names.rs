//! Which names are known, and who waits for which: plain data, no clock, no thread.
//!
//! ```text
//!   ask ──▶ Known(found)            until it is too old: RESOLVED_MS, or NOT_FOUND_MS for a name that is none
//!       ──▶ First, Another ──▶ .. ──▶ found ──▶ everybody who waits
//!       ──▶ Busy                      give_up ──▶ the one
//! ```
//! A name that nobody waits for any more is not looked up if nobody has begun with it. Of the known ones those are kept
//! that were used last.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::NoAddress;
use crate::limits::{LOOKUP_WAITERS_MAX, LOOKUPS_MAX, NAMES_MAX, NOT_FOUND_MS, RESOLVED_MS};
use crate::rt::Timer;

/// What a name came to; the ports are 0.
pub(super) type Found = Result<Arc<[SocketAddr]>, NoAddress>;

/// The names. `W` is who waits.
pub(super) struct Names<W> {
    /// Invariant: known.len() <= known_max.
    known: HashMap<Arc<str>, Known>,
    known_max: usize,
    /// Invariant: asked.len() <= LOOKUPS_MAX, each with nobody waiting only once it was begun.
    asked: HashMap<Arc<str>, Lookup<W>>,
    /// Invariant: the sum of those who wait, and <= LOOKUP_WAITERS_MAX.
    waiting: usize,
    /// Numbers those who wait, and the uses of what is known.
    next: u64,
}

struct Known {
    found: Found,
    until: Instant,
    used: u64,
}

struct Lookup<W> {
    begun: bool,
    /// By their numbers, so in the order in which they came.
    waiting: BTreeMap<u64, (W, Option<Timer>)>,
}

/// What became of a question.
#[must_use]
pub(super) enum Asked<W> {
    /// It is known.
    Known(W, Found),
    /// Nobody has asked before: this name is to be looked up.
    First(u64),
    /// Somebody has.
    Another(u64),
    /// Too many names are asked for, or too many wait.
    Busy(W),
}

impl<W> Default for Names<W> {
    fn default() -> Names<W> {
        Names::new()
    }
}

impl<W> Names<W> {
    pub(super) fn new() -> Names<W> {
        Names { known: HashMap::new(), known_max: NAMES_MAX, asked: HashMap::new(), waiting: 0, next: 0 }
    }

    /// Remembers nothing.
    pub(super) fn uncached() -> Names<W> {
        Names { known_max: 0, ..Names::new() }
    }

    pub(super) fn ask(&mut self, name: &Arc<str>, who: W, now: Instant) -> Asked<W> {
        self.next += 1;
        let number = self.next;
        if let Some(known) = self.known.get_mut(name)
            && now < known.until
        {
            known.used = number;
            return Asked::Known(who, known.found.clone());
        }
        if self.waiting >= LOOKUP_WAITERS_MAX {
            return Asked::Busy(who);
        }
        let asked = self.asked.len();
        let first = !self.asked.contains_key(name);
        if first && asked >= LOOKUPS_MAX {
            return Asked::Busy(who);
        }
        let lookup = self
            .asked
            .entry(name.clone())
            .or_insert_with(|| Lookup { begun: false, waiting: BTreeMap::new() });
        lookup.waiting.insert(number, (who, None));
        self.waiting += 1;
        if first { Asked::First(number) } else { Asked::Another(number) }
    }

    /// The clock of somebody who waits; it is stopped when the answer comes. It may have come already.
    pub(super) fn times(&mut self, name: &str, number: u64, clock: Timer) {
        match self.asked.get_mut(name).and_then(|lookup| lookup.waiting.get_mut(&number)) {
            Some((_, timer)) => *timer = Some(clock),
            None => {
                clock.cancel();
            }
        }
    }

    /// Whether somebody still waits for a name with which a thread is about to begin.
    pub(super) fn begin(&mut self, name: &str) -> bool {
        match self.asked.get_mut(name) {
            Some(lookup) if !lookup.waiting.is_empty() => {
                lookup.begun = true;
                true
            }
            _ => {
                self.asked.remove(name);
                false
            }
        }
    }

    /// Takes out one who waits; `None` when the answer was quicker.
    pub(super) fn give_up(&mut self, name: &str, number: u64) -> Option<W> {
        let (who, _clock) = self.asked.get_mut(name)?.waiting.remove(&number)?;
        self.waiting -= 1;
        Some(who)
    }

    /// Takes out everybody who waits for a name that was looked up, and remembers what it came to.
    pub(super) fn found(&mut self, name: &str, found: Found, now: Instant) -> Vec<W> {
        let Some((name, lookup)) = self.asked.remove_entry(name) else { return Vec::new() };
        let lived = match &found {
            Ok(_) => RESOLVED_MS,
            Err(NoAddress::NotFound) => NOT_FOUND_MS,
            // That says something of the resolver and nothing of the name.
            Err(NoAddress::Timeout | NoAddress::Busy) => 0,
        };
        if lived > 0 && self.known_max > 0 {
            self.make_room(&name, now);
            let until = now + Duration::from_millis(lived);
            self.known.insert(name, Known { found, until, used: self.next });
        }
        self.waiting -= lookup.waiting.len();
        let answered = |(who, clock): (W, Option<Timer>)| {
            clock.map(Timer::cancel);
            who
        };
        lookup.waiting.into_values().map(answered).collect()
    }

    /// For a name that is not known yet: without what is too old, or else what was not used for longest.
    fn make_room(&mut self, name: &str, now: Instant) {
        if self.known.len() < self.known_max || self.known.contains_key(name) {
            return;
        }
        self.known.retain(|_, known| now < known.until);
        if self.known.len() >= self.known_max {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(last: u8) -> Found {
        Ok([SocketAddr::from(([10, 0, 0, last], 0))].into())
    }

    fn name(number: usize) -> Arc<str> {
        format!("n{number}").into()
    }

    #[track_caller]
    fn ask(names: &mut Names<usize>, number: usize, now: Instant) -> &'static str {
        match names.ask(&name(number), number, now) {
            Asked::Known(_, Ok(_)) => "known",
            Asked::Known(_, Err(_)) => "known not to be",
            Asked::First(_) => "first",
            Asked::Another(_) => "another",
            Asked::Busy(_) => "busy",
        }
    }

    #[test]
    fn an_answer_is_for_everybody_who_waits_and_for_who_asks_soon() {
        let (mut names, begin) = (Names::new(), Instant::now());
        let after = |ms| begin + Duration::from_millis(ms);
        assert_eq!(ask(&mut names, 1, begin), "first");
        assert_eq!(ask(&mut names, 1, begin), "another");
        assert_eq!(ask(&mut names, 2, begin), "first");
        assert!(names.begin("n1"));
        assert_eq!(names.found("n1", found(1), begin), [1, 1]);
        assert_eq!(names.found("n2", Err(NoAddress::NotFound), begin), [2]);
        for (number, ms, want) in [
            (1, 0, "known"),
            (2, NOT_FOUND_MS - 1, "known not to be"),
            (2, NOT_FOUND_MS, "first"),
            (1, RESOLVED_MS - 1, "known"),
            (1, RESOLVED_MS, "first"),
        ] {
            assert_eq!(ask(&mut names, number, after(ms)), want, "n{number} after {ms} ms");
        }
    }

    #[test]
    fn a_resolver_that_does_not_answer_is_nothing_to_remember() {
        let (mut names, now) = (Names::new(), Instant::now());
        assert_eq!(ask(&mut names, 1, now), "first");
        assert_eq!(names.found("n1", Err(NoAddress::Timeout), now), [1]);
        assert_eq!(ask(&mut names, 1, now), "first");
    }

    #[test]
    fn a_name_that_nobody_waits_for_is_not_begun() {
        let (mut names, now) = (Names::new(), Instant::now());
        let Asked::First(number) = names.ask(&name(1), 1, now) else { panic!("it is new") };
        assert_eq!(names.give_up("n1", number), Some(1));
        assert_eq!(names.give_up("n1", number), None);
        assert!(!names.begin("n1"));
        assert_eq!(ask(&mut names, 1, now), "first", "and is forgotten");
        // Once it is begun it stays, so that the next who asks takes no second thread.
        assert!(names.begin("n1"));
        assert_eq!(names.give_up("n1", 2), Some(1));
        assert_eq!(ask(&mut names, 1, now), "another");
        assert_eq!((names.found("n1", found(1), now), names.waiting), (vec![1], 0));
    }

    #[test]
    fn names_under_way_and_those_who_wait_are_bounded() {
        let (mut names, now) = (Names::new(), Instant::now());
        for number in 0..LOOKUPS_MAX {
            assert_eq!(ask(&mut names, number, now), "first");
        }
        assert_eq!(ask(&mut names, LOOKUPS_MAX, now), "busy");
        for _ in LOOKUPS_MAX..LOOKUP_WAITERS_MAX {
            assert_eq!(ask(&mut names, 0, now), "another");
        }
        assert_eq!(ask(&mut names, 0, now), "busy");
        assert_eq!(names.found("n1", found(1), now), [1]);
        assert_eq!(ask(&mut names, 1, now), "known", "that needs no room");
        assert_eq!(ask(&mut names, LOOKUPS_MAX, now), "first");
        assert_eq!(ask(&mut names, 0, now), "busy");
    }

    #[test]
    fn the_least_used_name_makes_room() {
        let (mut names, begin) = (Names::new(), Instant::now());
        let learn = |names: &mut Names<usize>, number| {
            assert_eq!(ask(names, number, begin), "first");
            names.found(&name(number), found(1), begin);
        };
        for number in 0..NAMES_MAX {
            learn(&mut names, number);
        }
        assert_eq!(ask(&mut names, 0, begin), "known");
        learn(&mut names, NAMES_MAX);
        assert_eq!(names.known.len(), NAMES_MAX);
        assert_eq!(ask(&mut names, 0, begin), "known");
        assert_eq!(ask(&mut names, 1, begin), "first", "it was the one");
    }

    #[test]
    fn who_wants_to_remember_nothing_asks_each_time() {
        let (mut names, now) = (Names::uncached(), Instant::now());
        for _ in 0..2 {
            assert_eq!(ask(&mut names, 1, now), "first");
            assert_eq!(names.found("n1", found(1), now), [1]);
        }
    }
}
