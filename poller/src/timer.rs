//! The deadlines of one poll, earliest first, on the poll's clock.
//!
//! A connection has at most one entry, at the earliest of its deadlines; when a deadline moves later the entry
//! stays, fires early, finds nothing due and is armed again. So moving a deadline on every request costs nothing.

mod wheel;

use std::sync::Weak;
use std::time::{Duration, Instant};

use crate::handle::Shared;
use crate::limits;
use crate::listener::ListenerShared;
use wheel::Wheel;

pub(crate) use wheel::Key;

/// What to do when the time has come.
pub(crate) enum Due {
    Connection(Weak<Shared>),
    /// Accepting rested; go on.
    Accept(Weak<ListenerShared>),
    Task(Box<dyn FnOnce() + Send>),
}

/// The instant after `delay`. One beyond [`DELAY_SECONDS_MAX`](limits::DELAY_SECONDS_MAX) is as good as that.
pub(crate) fn later(delay: Duration) -> Instant {
    Instant::now() + delay.min(Duration::from_secs(limits::DELAY_SECONDS_MAX))
}

#[derive(Default)]
pub(crate) struct Timers {
    wheel: Wheel<Due>,
    /// The poll has stopped: nothing fires any more, so no task is kept.
    pub(crate) ended: bool,
}

impl Timers {
    /// Adds an entry; says whether it is now the earliest.
    pub(crate) fn insert(&mut self, at: u64, due: Due) -> (Key, bool) {
        let earliest = self.next().is_none_or(|next| at < next);
        (self.wheel.insert(at, due), earliest)
    }

    /// Takes an entry back; `None` when it has fired.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Due> {
        self.wheel.remove(key)
    }

    /// When to look again; `None` when nothing is armed.
    pub(crate) fn next(&mut self) -> Option<u64> {
        self.wheel.next()
    }

    /// The earliest entry that is due.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Due> {
        self.wheel.pop(now).map(|(_, due)| due)
    }

    /// Ends for good. The entries are dropped by the caller, with the lock off: they are anybody's closures.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = Due> + use<> {
        self.ended = true;
        std::mem::take(&mut self.wheel).into_rest()
    }
}
