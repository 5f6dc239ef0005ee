//! How long to wait before the next tunnel is dialed: a decision, no clock and no dice.
//!
//! ```text
//!  ceiling
//!    30 s ┤                                     ┌───────── for ever
//!         │                                 ┌───┘
//!  0.44 s ┤                             ┌───┘
//!  0.22 s ┤          ┌──────────────────┘
//!   0.1 s ┤ ─────┬───┘ doubling          doubling
//!         └──────┴───────┴──────────────┴────────────────────▶
//!          quick          10 s of waiting handed out
//! ```
//!
//! * Each wait is drawn between nothing and the ceiling ("full jitter"), so that a thousand clients
//!   that lost one gateway do not come back as one.
//! * A restarting gateway is back within seconds, so the first retry after a lost tunnel is quick
//!   and the ceiling stays low for the first ten seconds of waiting.
//! * Who is not let in has a definite answer, and nothing to be quick for: the ceiling doubles from
//!   the first time on, without staying low.
//! * A tunnel that comes up and dies at once must not hammer the gateway: only a tunnel that lived
//!   a minute resets the ceiling, and a quick retry has to be earned by a life of some length.
//! * What a tunnel lived is taken off the waiting handed out: a gateway that is there for longer than
//!   it is away is found quickly, however often it goes.
//! * It never gives up, and it holds no timer: whoever waits can stop waiting at any moment.

use std::time::Duration;

use crate::limits::{
    RECONNECT_BASE_MS, RECONNECT_EARLY_MAX_MS, RECONNECT_EARLY_MS, RECONNECT_QUICK_LIVED_MS,
    RECONNECT_QUICK_MAX_MS, RECONNECT_RESET_LIVED_MS, RECONNECT_WAIT_MAX_MS, RECONNECT_WAIT_MIN_MS,
};

/// How the last attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No tunnel came of it, and one may come the next time: unreachable, timed out, busy.
    Failed,
    /// The gateway does not let this client in, and waiting does not change that: a wrong password, a key that is not its own.
    Refused,
    /// There was a tunnel, from its welcome to its loss.
    Lost {
        /// How long it was there.
        lived: Duration,
    },
}

/// The back-off of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// What the next wait is drawn under.
    /// Invariant: RECONNECT_BASE_MS <= ceiling_ms <= RECONNECT_WAIT_MAX_MS.
    ceiling_ms: u64,
    /// Waiting handed out since the last reset, less what tunnels lived; what the dialing itself took is not in it.
    waited_ms: u64,
}

impl Default for Reconnect {
    fn default() -> Reconnect {
        Reconnect { ceiling_ms: RECONNECT_BASE_MS, waited_ms: 0 }
    }
}

impl Reconnect {
    /// As if the gateway had never been missing.
    pub fn new() -> Reconnect {
        Reconnect::default()
    }

    /// How long to wait now that an attempt has ended. `random` is any evenly drawn number.
    #[must_use]
    pub fn wait(&mut self, ended: Ended, random: u32) -> Duration {
        if ended != Ended::Refused && self.waited_ms < RECONNECT_EARLY_MS {
            self.ceiling_ms = self.ceiling_ms.min(RECONNECT_EARLY_MAX_MS);
        }
        let mut under_ms = self.ceiling_ms;
        if let Ended::Lost { lived } = ended {
            let lived_ms = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
            if lived_ms >= RECONNECT_RESET_LIVED_MS {
                *self = Reconnect::new();
            }
            self.waited_ms = self.waited_ms.saturating_sub(lived_ms);
            if self.waited_ms < RECONNECT_EARLY_MS {
                self.ceiling_ms = self.ceiling_ms.min(RECONNECT_EARLY_MAX_MS);
                under_ms = under_ms.min(self.ceiling_ms);
            }
            let fresh = *self == Reconnect::new();
            if fresh || lived_ms >= self.ceiling_ms.min(RECONNECT_QUICK_LIVED_MS) {
                under_ms = RECONNECT_QUICK_MAX_MS;
            }
        }
        let wait_ms = ((under_ms * u64::from(random)) >> u32::BITS).max(RECONNECT_WAIT_MIN_MS);
        self.waited_ms = self.waited_ms.saturating_add(wait_ms);
        let is_early = ended != Ended::Refused && self.waited_ms < RECONNECT_EARLY_MS;
        let most_ms = if is_early { RECONNECT_EARLY_MAX_MS } else { RECONNECT_WAIT_MAX_MS };
        self.ceiling_ms = (self.ceiling_ms * 2).min(most_ms);
        Duration::from_millis(wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: u32 = u32::MAX;

    fn lost(lived_ms: u64) -> Ended {
        Ended::Lost { lived: Duration::from_millis(lived_ms) }
    }

    /// The longest waits that a run of endings can lead to, in milliseconds.
    fn longest_waits(endings: impl IntoIterator<Item = Ended>) -> Vec<u64> {
        let mut reconnect = Reconnect::new();
        endings.into_iter().map(|ended| reconnect.wait(ended, LONGEST).as_millis() as u64).collect()
    }

    /// The state after this many failures, each waited out in full.
    fn failed(count: usize) -> Reconnect {
        let mut reconnect = Reconnect::new();
        for ended in failures(count) {
            assert!(reconnect.wait(ended, LONGEST) > Duration::ZERO);
        }
        reconnect
    }

    fn failures(count: usize) -> impl Iterator<Item = Ended> {
        std::iter::repeat_n(Ended::Failed, count)
    }

    // proves S-57 (policy)
    #[test]
    fn refused_connects_are_retried_for_ever_under_a_growing_ceiling() {
        let waits = longest_waits(failures(10_000));
        assert_eq!(waits[..5], [99, 199, 219, 219, 219]);
        assert_eq!(*waits.iter().max().expect("there are waits"), RECONNECT_WAIT_MAX_MS - 1);
        assert!(waits[55..].iter().all(|&wait| wait == RECONNECT_WAIT_MAX_MS - 1));
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    // proves S-57 (policy): a gateway that restarts within ten seconds is found within a quarter of one.
    #[test]
    fn the_first_ten_seconds_of_waiting_know_no_wait_over_the_early_one() {
        const { assert!(RECONNECT_EARLY_MAX_MS <= 250) };
        let mut total = 0;
        for wait in longest_waits(failures(100)) {
            if total < RECONNECT_EARLY_MS {
                assert!(wait <= RECONNECT_EARLY_MAX_MS, "{wait} ms after {total} ms");
            }
            total += wait;
        }
        assert!(total > RECONNECT_EARLY_MS);
    }

    // A client with a wrong password knocked nine times a second.
    #[test]
    fn who_is_not_let_in_comes_back_more_and_more_rarely_from_the_first_time_on() {
        let waits = longest_waits(std::iter::repeat_n(Ended::Refused, 20));
        assert_eq!(waits[..9], [99, 199, 399, 799, 1_599, 3_199, 6_399, 12_799, 25_599]);
        assert!(waits[9..].iter().all(|&wait| wait == RECONNECT_WAIT_MAX_MS - 1));
    }

    // It may be that it restarts to let this client in.
    #[test]
    fn a_gateway_that_is_gone_after_it_refused_is_found_as_soon_as_any() {
        let refused = std::iter::repeat_n(Ended::Refused, 6);
        let waits = longest_waits(refused.chain(failures(1)).chain([Ended::Refused; 2]));
        assert_eq!(
            waits[6..],
            [RECONNECT_EARLY_MAX_MS - 1, RECONNECT_EARLY_MAX_MS - 1, 2 * RECONNECT_EARLY_MAX_MS - 1]
        );
    }

    #[test]
    fn the_first_retry_after_a_lost_tunnel_is_quick() {
        #[track_caller]
        fn check(before: usize, lived_ms: u64, want_quick: bool) {
            let mut reconnect = failed(before);
            let wait = reconnect.wait(lost(lived_ms), LONGEST).as_millis() as u64;
            assert_eq!(wait <= RECONNECT_QUICK_MAX_MS, want_quick, "{wait} ms");
        }
        check(0, 0, true);
        check(0, 10, true);
        check(0, 3_600_000, true);
        check(5, RECONNECT_EARLY_MAX_MS - 1, false);
        check(5, RECONNECT_EARLY_MAX_MS, true);
        check(60, 1_000, false);
        check(60, RECONNECT_QUICK_LIVED_MS - 1, false);
        check(60, RECONNECT_QUICK_LIVED_MS, true);
    }

    // proves S-68 (policy): only a minute of life resets.
    #[test]
    fn only_a_tunnel_that_lived_a_minute_resets_the_ceiling() {
        #[track_caller]
        fn check(lived_ms: u64, want_ms: u64) {
            let mut reconnect = failed(60);
            let lost = reconnect.wait(lost(lived_ms), LONGEST);
            assert!(lost <= Duration::from_millis(RECONNECT_QUICK_MAX_MS));
            assert_eq!(reconnect.wait(Ended::Failed, LONGEST).as_millis() as u64, want_ms);
        }
        check(RECONNECT_RESET_LIVED_MS - 1, RECONNECT_WAIT_MAX_MS - 1);
        check(RECONNECT_RESET_LIVED_MS, 199);
        check(u64::MAX, 199);
    }

    #[test]
    fn a_tunnel_that_dies_at_once_does_not_hammer_the_gateway() {
        let waits = longest_waits(std::iter::repeat_n(lost(1), 100));
        assert_eq!(waits[0], RECONNECT_QUICK_MAX_MS - 1);
        assert!(waits[60..].iter().all(|&wait| wait == RECONNECT_WAIT_MAX_MS - 1));
    }

    // A gateway that was killed again and again, and worked in between, was once waited for for half a minute.
    #[test]
    fn a_tunnel_that_lives_longer_than_it_is_waited_for_comes_back_soon_for_ever() {
        let lives = std::iter::repeat_n(lost(RECONNECT_EARLY_MAX_MS), 1000);
        assert!(longest_waits(lives).iter().all(|&wait| wait < RECONNECT_EARLY_MAX_MS));
        // The same when each return takes some attempts.
        let lives =
            (0..1000).map(|n| if n % 4 == 0 { lost(4 * RECONNECT_EARLY_MAX_MS) } else { Ended::Failed });
        assert!(longest_waits(lives).iter().all(|&wait| wait < RECONNECT_EARLY_MAX_MS));
        // And one that was away for long pays that off by its life.
        let mut reconnect = failed(55);
        let owed = Duration::from_millis(reconnect.waited_ms - RECONNECT_EARLY_MS + 1);
        assert!(owed > Duration::from_millis(RECONNECT_RESET_LIVED_MS), "or a minute resets it");
        let mut lived = Duration::ZERO;
        while lived < owed {
            lived += Duration::from_millis(RECONNECT_RESET_LIVED_MS - 1);
            assert!(reconnect.wait(lost(RECONNECT_RESET_LIVED_MS - 1), 0) > Duration::ZERO);
        }
        let wait = reconnect.wait(Ended::Failed, LONGEST);
        assert!(wait < Duration::from_millis(RECONNECT_EARLY_MAX_MS), "{wait:?}");
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut draws = fastrand::Rng::with_seed(7);
        let mut seen = [0u32; 10];
        let reconnect = failed(60);
        for _ in 0..10_000 {
            let wait = reconnect.clone().wait(Ended::Failed, draws.u32(..)).as_millis() as u64;
            seen[(wait * 10 / RECONNECT_WAIT_MAX_MS) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (900..1100).contains(&count)), "{seen:?}");
        assert_eq!(
            Reconnect::new().wait(Ended::Failed, 0),
            Duration::from_millis(RECONNECT_WAIT_MIN_MS),
            "never nothing"
        );
    }
}
