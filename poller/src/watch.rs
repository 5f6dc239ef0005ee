//! The limits of a connection (L-11): how long may it go without what ought to happen.
//!
//! ```text
//!   limit         runs while                                    starts again when
//!   read          input waits that the handler left, and        the handler consumes some of it
//!                 more of it could be read
//!   write stall   output waits for the kernel                   the kernel takes a byte
//!   idle          always                                        a byte is read or sent
//! ```
//! They are looked at when a turn ends, by counters that are kept anyway, and with the time that the poll knows anyway.
//! What stands in the poll's timers is not moved with them: it fires early, finds nothing due, and is armed again.

use std::io;
use std::time::Duration;

use crate::close::Limit;
use crate::limits;

/// A time that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// One limit: how long `count` may stand still.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// Nanoseconds; `NEVER` without a limit.
    limit: u64,
    /// Since when, on the poll's clock; `NEVER` while the limit does not run.
    since: u64,
    count: u64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { limit: NEVER, since: NEVER, count: 0 }
    }
}

impl Watch {
    fn look(&mut self, runs: bool, count: u64, now: u64) {
        if !runs {
            self.since = NEVER;
        } else if self.since == NEVER || self.count != count {
            self.since = now;
            self.count = count;
        }
    }

    fn deadline(&self) -> u64 {
        self.since.saturating_add(self.limit)
    }
}

/// The limits of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watches {
    read: Watch,
    write_stall: Watch,
    idle: Watch,
}

/// What the limits are about, as the owner sees it at the end of a turn.
pub(crate) struct Seen {
    /// Unconsumed input waits for more of it.
    pub(crate) input_waits: bool,
    pub(crate) output_waits: bool,
    pub(crate) consumed: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Watches {
    /// Sets a limit or takes it off. One that runs goes on from where it began.
    pub(crate) fn set(&mut self, limit: Limit, timeout: Option<Duration>) -> io::Result<()> {
        let nanos = nanos(timeout)?;
        match limit {
            Limit::Read => self.read.limit = nanos,
            Limit::WriteStall => self.write_stall.limit = nanos,
            Limit::Idle => self.idle.limit = nanos,
            Limit::Connect | Limit::Handshake => {}
        }
        if self.is_empty() {
            // What was seen goes too: nobody looks any more, and another connection may get this memory.
            *self = Watches::default();
        }
        Ok(())
    }

    /// Nanoseconds; `NEVER` without that limit.
    pub(crate) fn write_stall(&self) -> u64 {
        self.write_stall.limit
    }

    pub(crate) fn is_empty(&self) -> bool {
        [self.read, self.write_stall, self.idle].iter().all(|watch| watch.limit == NEVER)
    }

    pub(crate) fn look(&mut self, seen: &Seen, now: u64) {
        self.read.look(seen.input_waits, seen.consumed, now);
        self.write_stall.look(seen.output_waits, seen.bytes_out, now);
        self.idle.look(true, seen.bytes_in + seen.bytes_out, now);
    }

    /// The earliest end of a limit, and which.
    pub(crate) fn next(&self) -> (u64, Limit) {
        let read = (self.read.deadline(), Limit::Read);
        let write_stall = (self.write_stall.deadline(), Limit::WriteStall);
        let idle = (self.idle.deadline(), Limit::Idle);
        [read, write_stall, idle].into_iter().min_by_key(|(at, _)| *at).expect("there are three")
    }
}

/// A limit in nanoseconds.
///
/// # Errors
/// When it is zero.
pub(crate) fn nanos(timeout: Option<Duration>) -> io::Result<u64> {
    match timeout {
        None => Ok(NEVER),
        Some(Duration::ZERO) => {
            let what =
                "a limit of zero would end every connection at once: give it time, or `None` for no limit";
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
        Some(timeout) => {
            let longest = Duration::from_secs(limits::DELAY_SECONDS_MAX);
            Ok(u64::try_from(timeout.min(longest).as_nanos()).unwrap_or(NEVER))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(input_waits: bool, output_waits: bool, counts: [u64; 3]) -> Seen {
        let [consumed, bytes_in, bytes_out] = counts;
        Seen { input_waits, output_waits, consumed, bytes_in, bytes_out }
    }

    // proves L-11: from when each limit counts, and what starts it again
    #[test]
    fn a_limit_runs_from_the_last_progress_of_its_kind() {
        let mut watches = Watches::default();
        assert!(watches.is_empty());
        for (limit, ns) in [(Limit::Read, 100), (Limit::WriteStall, 50), (Limit::Idle, 1000)] {
            watches.set(limit, Some(Duration::from_nanos(ns))).expect("not zero");
        }
        let mut look = |now, seen: Seen| {
            watches.look(&seen, now);
            watches.next()
        };
        assert_eq!(look(10, seen(false, false, [0, 0, 0])), (1010, Limit::Idle));
        assert_eq!(look(20, seen(false, false, [0, 0, 0])), (1010, Limit::Idle), "nothing moved");
        assert_eq!(look(30, seen(true, false, [0, 5, 0])), (130, Limit::Read));
        assert_eq!(
            look(40, seen(true, false, [0, 6, 0])),
            (130, Limit::Read),
            "more came, nothing was consumed"
        );
        assert_eq!(look(50, seen(true, false, [1, 6, 0])), (150, Limit::Read), "the next message");
        assert_eq!(look(60, seen(false, true, [6, 6, 0])), (110, Limit::WriteStall));
        assert_eq!(look(70, seen(false, true, [6, 6, 1])), (120, Limit::WriteStall));
        assert_eq!(look(80, seen(false, false, [6, 6, 2])), (1080, Limit::Idle));
    }

    #[test]
    fn a_limit_that_is_changed_goes_on_from_where_it_began() {
        let mut watches = Watches::default();
        watches.look(&seen(false, false, [0, 0, 0]), 10);
        watches.set(Limit::Idle, Some(Duration::from_nanos(7))).expect("not zero");
        assert_eq!(watches.next(), (17, Limit::Idle));
        watches.set(Limit::Idle, None).expect("no limit");
        assert_eq!(watches.next().0, NEVER);
        let error = watches.set(Limit::Read, Some(Duration::ZERO)).expect_err("zero");
        assert!(error.to_string().contains("`None`"), "it says what to do: {error}");
        assert!(watches.is_empty());
    }

    #[test]
    fn no_limit_is_too_long() {
        let mut watches = Watches::default();
        watches.set(Limit::Idle, Some(Duration::MAX)).expect("long");
        watches.look(&seen(false, false, [0, 0, 0]), u64::MAX - 1);
        assert_eq!(watches.next().0, NEVER);
    }
}
