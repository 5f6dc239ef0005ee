//! The deadlines of one poll, earliest first.
//!
//! A connection has at most one entry, at the earliest of its deadlines; when a deadline moves later the entry
//! stays, fires early, finds nothing due and is armed again. So moving a deadline on every request costs nothing.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use crate::handle::Shared;
use crate::listener::ListenerShared;

/// Names an entry: when it fires, and a number that keeps equal instants apart.
pub(crate) type Key = (Instant, u64);

/// What to do when the time has come.
pub(crate) enum Due {
    Connection(Weak<Shared>),
    /// Accepting rested; go on.
    Accept(Weak<ListenerShared>),
    Task(Box<dyn FnOnce() + Send>),
}

/// The instant after `delay`. One beyond [`DELAY_SECONDS_MAX`](crate::limits::DELAY_SECONDS_MAX) is as good as that.
pub(crate) fn later(delay: Duration) -> Instant {
    Instant::now() + delay.min(Duration::from_secs(crate::limits::DELAY_SECONDS_MAX))
}

#[derive(Default)]
pub(crate) struct Timers {
    entries: BTreeMap<Key, Due>,
    sequence: u64,
    /// Entries that are tasks. Invariant: tasks <= TASK_TIMERS_MAX.
    pub(crate) tasks: usize,
    /// The poll has stopped: nothing fires any more, so no task is kept.
    pub(crate) ended: bool,
}

impl Timers {
    /// Adds an entry; says whether it is now the earliest.
    pub(crate) fn insert(&mut self, at: Instant, due: Due) -> (Key, bool) {
        let earliest = self.next().is_none_or(|next| at < next);
        self.sequence += 1;
        self.tasks += usize::from(matches!(due, Due::Task(_)));
        let key = (at, self.sequence);
        self.entries.insert(key, due);
        (key, earliest)
    }

    /// Takes an entry back; `None` when it has fired.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Due> {
        let due = self.entries.remove(&key)?;
        self.tasks -= usize::from(matches!(due, Due::Task(_)));
        Some(due)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(key, _)| key.0)
    }

    /// The earliest entry that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Key, Due)> {
        let key = *self.entries.first_key_value().filter(|(key, _)| key.0 <= now)?.0;
        self.remove(key).map(|due| (key, due))
    }

    /// Ends for good. The entries are dropped by the caller, with the lock off: they are anybody's closures.
    #[must_use]
    pub(crate) fn end(&mut self) -> BTreeMap<Key, Due> {
        self.ended = true;
        self.tasks = 0;
        std::mem::take(&mut self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fire_in_order_and_only_when_due() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        let task = || Due::Task(Box::new(|| ()));
        assert!(timers.insert(at(20), task()).1);
        let (cancelled, earliest) = timers.insert(at(10), task());
        assert!(earliest);
        assert!(!timers.insert(at(20), task()).1);
        assert_eq!(timers.next(), Some(at(10)));
        assert!(timers.remove(cancelled).is_some());
        assert!(timers.remove(cancelled).is_none());
        assert!(timers.pop(at(19)).is_none());
        assert_eq!(timers.tasks, 2);
        assert_eq!(timers.pop(at(20)).map(|(key, _)| key.0), Some(at(20)));
        assert_eq!(timers.pop(at(20)).map(|(key, _)| key.0), Some(at(20)));
        assert!(timers.pop(at(99)).is_none());
        assert_eq!(timers.tasks, 0);
    }
}
