//! The time as a poll last saw it: nanoseconds since the poll began, so that a time fits into one word.

use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::limits;

pub(crate) struct Clock {
    start: Instant,
    /// When somebody last looked. Never goes back.
    seen: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { start: Instant::now(), seen: AtomicU64::new(0) }
    }

    /// Looks at the time.
    pub(crate) fn look(&self) -> u64 {
        let now = self.at(Instant::now());
        self.seen.fetch_max(now, Relaxed).max(now)
    }

    /// The time when somebody last looked.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// An instant on this clock; what was before its start is its start.
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        let nanos = instant.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// A time on this clock as others count. One that no clock holds is as good as the longest delay.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        let longest = Duration::from_secs(limits::DELAY_SECONDS_MAX);
        self.start + Duration::from_nanos(at).min(self.start.elapsed() + longest)
    }

    /// From a time on this clock until now.
    pub(crate) fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.look().saturating_sub(then))
    }
}

/// A time as half a word: eight milliseconds each, and round in 417 days.
pub(crate) fn tick(at: u64) -> u32 {
    (at >> TICK_SHIFT) as u32
}

/// From the time of which `then` is the [`tick`] until `now`, as long as that is below a year.
pub(crate) fn since_tick(then: u32, now: u64) -> Duration {
    Duration::from_nanos(u64::from(tick(now).wrapping_sub(then)) << TICK_SHIFT)
}

const TICK_SHIFT: u32 = 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_and_holds_every_instant() {
        let clock = Clock::new();
        let first = clock.look();
        assert!(clock.look() >= first);
        assert_eq!(clock.at(clock.start + Duration::from_micros(7)), 7_000);
        assert_eq!(clock.at(clock.start - Duration::from_secs(1)), 0);
        assert!(clock.since(u64::MAX) == Duration::ZERO);
    }
}
