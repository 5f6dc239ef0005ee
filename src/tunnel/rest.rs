//! When the carrier of a session is woken.
//!
//! ```text
//!            ┌──────────────────────── begin ─────────────────────────┐
//!            │                                                        │
//!            ▼        rest: nothing waits                             │
//!   Awake ─────────▶ Idle ──── offer: anything ──▶ Awake, and woken   │
//!     │  ◀─┐                                                          │
//!     │    └── rest: something waits, another turn                    │
//!     └────▶ Blocked ── offer: news ─────────────▶ Awake, and woken ──┘
//!      rest: only the socket is waited for, which wakes by itself
//! ```
//! It stands behind the same lock as what it speaks of. Whoever changes that offers it to the carrier before the lock is released, and
//! wakes the carrier after. The carrier has done what it could, outside the lock and inside, before it rests: so `rest` looks once
//! more, in one step with the decision. What came before that step is seen by it, what comes after finds a carrier that is to be woken.

/// What waits for the carrier.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// The session has something to send.
    pub(super) output: bool,
    /// Somebody has to be told something, or the carrier may leave.
    pub(super) news: bool,
}

/// Whether the carrier has to be woken when there is something for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It runs, or will: it looks at everything under the lock before it rests.
    Awake,
    /// It rests: anything wakes it.
    Idle,
    /// Its socket takes no more: what is to be sent can wait until it does, news cannot.
    Blocked,
}

impl Rest {
    /// A turn of the carrier begins, whoever caused it.
    pub(super) fn begin(&mut self) {
        *self = Rest::Awake;
    }

    /// Something may wait for the carrier now. True when the caller has to wake it.
    #[must_use]
    pub(super) fn offer(&mut self, waiting: Waiting) -> bool {
        let wakes = match self {
            Rest::Idle => waiting.output || waiting.news,
            Rest::Blocked => waiting.news,
            Rest::Awake => false,
        };
        if wakes {
            *self = Rest::Awake;
        }
        wakes
    }

    /// The carrier has done what it could; `blocked` when its socket takes no more, and will wake it when it does. True when there is
    /// more to do: another turn has to follow.
    #[must_use]
    pub(super) fn rest(&mut self, waiting: Waiting, blocked: bool) -> bool {
        let again = waiting.news || (waiting.output && !blocked);
        *self = match (again, blocked) {
            (true, _) => Rest::Awake,
            (false, true) => Rest::Blocked,
            (false, false) => Rest::Idle,
        };
        again
    }
}

#[cfg(test)]
mod shuttle_tests;
