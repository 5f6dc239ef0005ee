//! How many connections live, and the wait for the last to go.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// Added to the count when no connection may come any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// The next connection's number in this process. It orders nothing, so the checkers need not see it.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// How many connections live, and a way to wait for the last to go.
pub(crate) struct Live {
    pub(crate) connections_max: usize,
    /// Handlers that may wait for their connections at once: each keeps a thread.
    pub(crate) waits_max: usize,
    /// How long one waits for a connection without limits.
    pub(crate) wait_limit: Duration,
    waits: AtomicUsize,
    connections: AtomicUsize,
    gone: (Mutex<()>, Condvar),
}

impl Live {
    pub(crate) fn new(connections_max: usize, waits_max: usize, wait_limit: Duration) -> Arc<Live> {
        Arc::new(Live {
            connections_max: connections_max.min(CLOSED - 1),
            waits_max,
            wait_limit,
            waits: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            gone: (Mutex::new(()), Condvar::new()),
        })
    }

    /// A number for a new connection; `None` when there are as many as there may be.
    pub(crate) fn enter(&self) -> Option<u64> {
        // Closed is a number above every maximum.
        if self.connections.fetch_add(1, Ordering::AcqRel) >= self.connections_max {
            self.leave();
            return None;
        }
        Some(NEXT_ID.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn leave(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            let _guard = self.gone.0.lock();
            self.gone.1.notify_all();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.load(Ordering::Acquire) & !CLOSED
    }

    /// A handler is about to wait; false when as many do as may. One that may ends it with
    /// [`end_wait`](Live::end_wait).
    #[must_use = "a handler that must not wait does not"]
    pub(crate) fn begin_wait(&self) -> bool {
        let may = self.waits.fetch_add(1, Ordering::Relaxed) < self.waits_max;
        if !may {
            self.end_wait();
        }
        may
    }

    pub(crate) fn end_wait(&self) {
        self.waits.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lets no connection in any more; false when there is one.
    pub(crate) fn close(&self) -> bool {
        self.connections.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Waits until there is no connection; false at the deadline.
    pub(crate) fn wait_until_none(&self, deadline: Instant) -> bool {
        let mut guard = self.gone.0.lock();
        while self.count() > 0 {
            if self.gone.1.wait_until(&mut guard, deadline).timed_out() {
                return self.count() == 0;
            }
        }
        true
    }
}

#[cfg(all(test, poller_loom))]
mod loom_tests;
