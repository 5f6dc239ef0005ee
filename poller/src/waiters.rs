//! Who waits for one connection's output to drain.
//!
//! ```text
//!   wake_on_drain ──▶ by number, each once ──▶ all at the next drain, or at the close
//!                          │ as many as at the last look, twice over
//!                          └──▶ those that have closed meanwhile go
//! ```
//! Nobody is refused, and so nobody has to ask again and again: a waiter is a connection, and of those there are only so
//! many. Invariant: waiters <= max(DRAIN_SWEEP_MIN, 2 x connections that lived at the last look).
//!
//! They have no order, so that none of those who wait for a narrow connection time and again is always the last.

use std::collections::HashMap;

use crate::limits;

pub(crate) struct Waiters<T> {
    by_id: HashMap<u64, T>,
    /// How many there are when those that have closed are looked for.
    sweep_at: usize,
}

impl<T> Default for Waiters<T> {
    fn default() -> Waiters<T> {
        Waiters { by_id: HashMap::new(), sweep_at: limits::DRAIN_SWEEP_MIN }
    }
}

impl<T> Waiters<T> {
    /// Enters the waiter of this number, which may be there already. Gives out those that have closed by what `is_over`
    /// says, where it was time to look for them: a handle may be the last that keeps a user's handler, so it is dropped with
    /// no lock held.
    #[must_use = "to be dropped with the lock off"]
    pub(crate) fn enter(&mut self, id: u64, waiter: T, is_over: impl Fn(&T) -> bool) -> Vec<T> {
        let mut closed = Vec::new();
        if self.by_id.len() >= self.sweep_at {
            closed.extend(self.by_id.extract_if(|_, waiter| is_over(waiter)).map(|(_, waiter)| waiter));
            self.sweep_at = limits::DRAIN_SWEEP_MIN.max(2 * self.by_id.len());
        }
        self.by_id.insert(id, waiter);
        closed
    }

    pub(crate) fn into_all(self) -> Vec<T> {
        self.by_id.into_values().collect()
    }
}

#[cfg(all(test, not(any(poller_loom, poller_shuttle))))]
mod tests {
    use super::*;

    // proves DRAIN_SWEEP_MIN: all who live are kept, however many, and those who closed do not add up
    #[test]
    fn waiters_are_as_many_as_live() {
        const LIVE: u64 = 10 * limits::DRAIN_SWEEP_MIN as u64;
        // Miri is too slow for more.
        const ENTERED: u64 = if cfg!(miri) { 3 } else { 100 } * LIVE;
        let mut waiters = Waiters::default();
        let is_over = |id: &u64| *id >= LIVE;
        let mut closed = Vec::new();
        for id in 0..ENTERED {
            closed.extend(waiters.enter(id, id, is_over).into_iter().inspect(|id| assert!(is_over(id))));
            assert!(waiters.by_id.len() <= 2 * LIVE as usize, "{}", waiters.by_id.len());
        }
        let mut all = waiters.into_all();
        all.extend(closed);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..ENTERED), "nobody is lost");
    }

    #[test]
    fn a_waiter_is_there_once() {
        let mut waiters = Waiters::default();
        for _ in 0..10 * limits::DRAIN_SWEEP_MIN {
            assert!(waiters.enter(7, (), |()| false).is_empty());
        }
        assert_eq!(waiters.into_all().len(), 1);
        let mut none_lives = Waiters::default();
        for id in 0..10 * limits::DRAIN_SWEEP_MIN as u64 {
            let closed = none_lives.enter(id, (), |()| true);
            assert!(closed.is_empty() || closed.len() == limits::DRAIN_SWEEP_MIN);
        }
        assert!(none_lives.into_all().len() <= limits::DRAIN_SWEEP_MIN);
    }
}
