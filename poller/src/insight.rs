//! What a poll tells about itself: counters that its leader writes and anybody may read, without a lock.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A look at one poll; see [`Remote::polls`](crate::Remote::polls). The numbers are read one after the other while the
/// poll goes on, so they need not fit together to the last unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PollStats {
    /// Times that the leader has waited for events, or looked for them.
    pub turns: u64,
    /// Callbacks and turns of connections that were run with the lead to be had.
    pub runs: u64,
    /// The longest time from the end of one wait to the beginning of the next, since the start. As long as that a
    /// connection may have waited for its turn, unless a standby worker took over.
    pub longest_turn: Duration,
    /// Times that a standby worker took over the lead, announced or not.
    pub takeovers: u64,
    /// Of those: times that the monitor found a callback to block. One that spins is taken over from, too, and not
    /// counted here.
    pub suspected: u64,
    /// Listeners, datagram sockets and dialed handlers whose callbacks were found to block without announcing it
    /// ([`blocking`](crate::blocking)), and which are looked at more closely since.
    pub hinted: u64,
    /// Connections and other jobs that have been left for the leader since it last took what was there, by other threads or
    /// by a connection that has used up its turn. What else follows from the leader's own work, as the first turn of a
    /// connection that it has accepted, waits for nothing but the end of the batch and is not counted.
    pub queued: usize,
}

/// A look at the worker threads of an event loop; see [`Remote::workers`](crate::Remote::workers).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Threads that were started.
    pub threads: usize,
    /// Threads that stand by.
    pub standby: usize,
    /// Times that a lead was to be taken over and all threads were busy, as many as there may be.
    pub starved: u64,
}

/// The counters of one poll. Written by the holder of the lead alone, unless said otherwise.
#[derive(Default)]
pub(crate) struct Insight {
    turns: AtomicU64,
    longest_turn_ns: AtomicU64,
    takeovers: AtomicU64,
    /// Written by whoever lost the lead.
    suspected: AtomicU64,
    /// Written by whoever learnt it.
    hinted: AtomicU64,
    /// Written under the lock of the jobs.
    pub(crate) queued: AtomicUsize,
}

impl Insight {
    /// A turn has ended, and a wait begins.
    pub(crate) fn turn(&self, length: Duration) {
        self.turns.store(self.turns.load(Relaxed) + 1, Relaxed);
        let length = length.as_nanos() as u64;
        if length > self.longest_turn_ns.load(Relaxed) {
            self.longest_turn_ns.store(length, Relaxed);
        }
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    pub(crate) fn takeover(&self) {
        self.takeovers.store(self.takeovers.load(Relaxed) + 1, Relaxed);
    }

    pub(crate) fn suspected(&self) {
        self.suspected.fetch_add(1, Relaxed);
    }

    pub(crate) fn hinted(&self) {
        self.hinted.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self, runs: u64) -> PollStats {
        PollStats {
            turns: self.turns.load(Relaxed),
            runs,
            longest_turn: Duration::from_nanos(self.longest_turn_ns.load(Relaxed)),
            takeovers: self.takeovers.load(Relaxed),
            suspected: self.suspected.load(Relaxed),
            hinted: self.hinted.load(Relaxed),
            queued: self.queued.load(Relaxed),
        }
    }
}
