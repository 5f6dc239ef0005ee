//! When it is said aloud that a gateway is not there: a decision, no clock and no log.
//!
//! ```text
//!   start ───────────────── fails: said ──── fails for a minute: said ──── ...
//!   lost, leaving: said ─── fails for GATEWAY_MISSED_MS: said ──── fails for a minute: said ──── ...
//! ```
//! * That a tunnel was lost is said where it is lost, and a gateway that restarts is back before anybody has read it. So the failures
//!   after it are news only when they go on.
//! * That a gateway does not let this client in is worse than that it is not there, because waiting does not help: that is said at once,
//!   whatever was said before.
//! * A tunnel that comes up ends all of it.

use std::time::{Duration, Instant};

use crate::limits::{GATEWAY_MISSED_MS, GATEWAY_MISSED_QUIET_MS};

/// What was said of one gateway.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missed {
    /// Failures are not said aloud before this.
    quiet_until: Option<Instant>,
    /// The last that was said is that it does not let this client in.
    refused: bool,
}

impl Missed {
    /// A tunnel to it is up.
    pub(super) fn is_back(&mut self) {
        *self = Missed::default();
    }

    /// A tunnel to it is lost, or about to be, and that is said elsewhere.
    pub(super) fn is_lost(&mut self, now: Instant) {
        self.keep_quiet(now, GATEWAY_MISSED_MS);
    }

    /// No tunnel came of an attempt, `refused` where waiting does not help: whether that is to be said aloud.
    #[must_use]
    pub(super) fn fails(&mut self, refused: bool, now: Instant) -> bool {
        let worse = refused && !self.refused;
        if !worse && self.quiet_until.is_some_and(|quiet_until| now < quiet_until) {
            return false;
        }
        self.refused = refused;
        self.keep_quiet(now, GATEWAY_MISSED_QUIET_MS);
        true
    }

    fn keep_quiet(&mut self, now: Instant, quiet_ms: u64) {
        self.quiet_until = self.quiet_until.max(Some(now + Duration::from_millis(quiet_ms)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Then {
        Back,
        Lost,
        /// And whether it is said.
        Fails(bool),
        Refuses(bool),
    }
    use Then::{Back, Fails, Lost, Refuses};

    /// What happens after so many milliseconds, in order.
    #[track_caller]
    fn check(story: &[(u64, Then)]) {
        let (mut missed, start) = (Missed::default(), crate::rt::now());
        for (after_ms, then) in story {
            let now = start + Duration::from_millis(*after_ms);
            match then {
                Back => missed.is_back(),
                Lost => missed.is_lost(now),
                Fails(said) => assert_eq!(missed.fails(false, now), *said, "at {after_ms} ms"),
                Refuses(said) => assert_eq!(missed.fails(true, now), *said, "at {after_ms} ms"),
            }
        }
    }

    const MISSED: u64 = GATEWAY_MISSED_MS;
    const QUIET: u64 = GATEWAY_MISSED_QUIET_MS;

    // proves S-57 (policy): once, and not again for each attempt
    #[test]
    fn a_gateway_that_never_was_there_is_missed_at_once_and_every_minute() {
        check(&[(0, Fails(true)), (1, Fails(false)), (QUIET - 1, Fails(false)), (QUIET, Fails(true))]);
        check(&[
            (0, Fails(true)),
            (3 * QUIET, Fails(true)),
            (4 * QUIET - 1, Fails(false)),
            (4 * QUIET, Fails(true)),
        ]);
    }

    // proves S-35 (policy): one that restarts is said to be lost, and no more
    #[test]
    fn a_gateway_that_was_lost_is_missed_when_it_stays_away() {
        check(&[(0, Lost), (1, Fails(false)), (MISSED - 1, Fails(false)), (MISSED, Fails(true))]);
        let again = MISSED + QUIET;
        check(&[(0, Lost), (MISSED, Fails(true)), (again - 1, Fails(false)), (again, Fails(true))]);
        // Leaving, and lost after it.
        check(&[(0, Lost), (500, Lost), (MISSED, Fails(false)), (MISSED + 500, Fails(true))]);
        // Another tunnel to it is lost, long after that was said.
        check(&[(0, Fails(true)), (10, Lost), (MISSED + 10, Fails(false)), (QUIET, Fails(true))]);
    }

    #[test]
    fn a_gateway_that_comes_back_is_missed_anew() {
        check(&[(0, Fails(true)), (1, Back), (2, Fails(true)), (3, Fails(false))]);
        check(&[(0, Fails(true)), (1, Back), (2, Lost), (3, Fails(false)), (2 + MISSED, Fails(true))]);
    }

    // proves S-07 (policy): a real fault is said at once, and not for each attempt
    #[test]
    fn that_it_does_not_let_this_client_in_is_said_at_once() {
        check(&[(0, Refuses(true)), (1, Refuses(false)), (2, Fails(false)), (QUIET, Refuses(true))]);
        check(&[(0, Fails(true)), (1, Refuses(true)), (QUIET, Fails(false)), (QUIET + 1, Fails(true))]);
        check(&[(0, Lost), (1, Refuses(true)), (MISSED, Fails(false)), (MISSED, Refuses(false))]);
    }
}
