//! How often something may happen: a bucket of tokens that is kept as one instant.
//!
//! ```text
//!   now ─────────────── free ──── now + 1 s
//!        what was used    │  what is left of the burst
//! ```
//! Each event moves `free` on by its share of a second. Where that would lead beyond one second from now, the bucket is empty. So a second's
//! worth may come at once, and not more than that many a second in the long run.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// At most so many a second.
#[derive(Debug, Clone)]
pub struct Rate {
    /// What one event costs.
    share: Duration,
    /// When the bucket will be full again; in the past when it is.
    free: Option<Instant>,
}

impl Rate {
    /// A full bucket of `per_s` tokens, which fills up within a second.
    ///
    /// # Panics
    /// When it would never hold a token.
    pub fn new(per_s: u32) -> Self {
        assert!(per_s > 0, "a rate lets something pass");
        Self { share: SECOND / per_s, free: None }
    }

    /// Takes `n` tokens; false when there are fewer. Then they are taken all the same: who is too fast stays so for a while.
    #[must_use]
    pub fn take(&mut self, n: u32, now: Instant) -> bool {
        let from = self.free.map_or(now, |free| free.max(now));
        // Longer than any session lives, and an instant can still be added to it.
        let cost = self.share.saturating_mul(n).min(1000 * SECOND);
        let free = from + cost;
        self.free = Some(free.min(now + 1000 * SECOND));
        free.saturating_duration_since(now) <= SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn base() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_second_holds_a_burst_and_no_more() {
        let (mut rate, now) = (Rate::new(100), base());
        assert!((0..100).all(|_| rate.take(1, now)));
        assert!(!rate.take(1, now));
        // One token of a hundred comes back in ten milliseconds; the one that was refused is owed besides.
        assert!(!rate.take(1, now + Duration::from_millis(10)));
        assert!(rate.take(1, now + Duration::from_millis(40)));
        assert!(
            rate.take(100, now + Duration::from_secs(10)) && !rate.take(1, now + Duration::from_secs(10))
        );
    }

    #[test]
    fn a_steady_rate_passes_for_ever_and_a_little_more_does_not() {
        let mut now = base();
        let (mut steady, mut fast) = (Rate::new(100), Rate::new(100));
        let mut refused = 0;
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            assert!(steady.take(1, now));
            refused += u32::from(!fast.take(1, now)) + u32::from(!fast.take(1, now));
        }
        assert!(refused > 9_000, "{refused}");
    }

    #[test]
    fn any_number_can_be_asked_for() {
        let (mut rate, now) = (Rate::new(u32::MAX), base());
        assert!(rate.take(u32::MAX, now));
        let mut rate = Rate::new(1);
        assert!((0..10).all(|_| !rate.take(u32::MAX, now)));
        assert!(rate.take(1, now + 2000 * SECOND));
    }
}
