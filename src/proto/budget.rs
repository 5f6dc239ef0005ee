//! Budgets of windows: how many bytes one session, and one process, may have allowed its peers to send.
//!
//! ```text
//!   session   0 ──────── first windows ──────── max / 2 ──────── windows that grow ──────── max
//!   process   0 ─ the sum of all sessions ───── max / 2 ─────────────────────────────────── max
//! ```
//!
//! A window is a promise: the peer may send that much at any time, and nobody may be reading. So the promises are summed up, and not only
//! what has come. A stream's first window takes from the lower halves of both budgets, the less the less is free there; many quiet streams
//! leave the upper halves to those that grow with use. The smallest window is granted whatever is free: without it a stream would stand
//! still, and the limit of streams bounds how much that is.

use crate::limits::{
    PROCESS_WINDOW_BYTES_MAX, SESSION_WINDOW_BYTES_MAX, WINDOW_INITIAL_BYTES, WINDOW_MIN_BYTES,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all sessions of one process have promised together.
#[derive(Debug)]
pub struct WindowBudget {
    used: AtomicU64,
    max: u64,
}

impl Default for WindowBudget {
    fn default() -> Self {
        Self::new(PROCESS_WINDOW_BYTES_MAX)
    }
}

impl WindowBudget {
    /// A budget of this many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { used: AtomicU64::new(0), max: bytes_max }
    }

    /// Bytes that are promised now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }
}

/// What one session has promised, as a part of what its process has. Dropping it gives everything back.
#[derive(Debug)]
pub struct Windows {
    /// Invariant: used ≤ shared.used.
    used: u64,
    max: u64,
    shared: Arc<WindowBudget>,
}

impl Default for Windows {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Windows {
    /// The windows of a session, under the budget of its process.
    pub fn new(shared: Arc<WindowBudget>) -> Self {
        Self { used: 0, max: SESSION_WINDOW_BYTES_MAX, shared }
    }

    /// Bytes that are promised now.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The first window of a stream, which is taken from the budgets: an eighth of what is free for first windows, as a power of two
    /// between `WINDOW_MIN_BYTES` and `WINDOW_INITIAL_BYTES`.
    pub fn first(&mut self) -> u32 {
        let free = |max: u64, used: u64| (max / 2).saturating_sub(used);
        let free = free(self.max, self.used).min(free(self.shared.max, self.shared.used()));
        let eighth = u32::try_from(free / 8).unwrap_or(u32::MAX);
        let size = match eighth.checked_ilog2() {
            Some(log) => (1 << log).clamp(WINDOW_MIN_BYTES, WINDOW_INITIAL_BYTES),
            None => WINDOW_MIN_BYTES,
        };
        self.used += u64::from(size);
        self.shared.used.fetch_add(u64::from(size), Ordering::Relaxed);
        size
    }

    /// Takes `bytes` more for a window that grows; false when either budget does not have them.
    #[must_use]
    pub fn try_take(&mut self, bytes: u32) -> bool {
        let bytes = u64::from(bytes);
        let taken = self.used + bytes <= self.max && self.shared.try_take(bytes);
        if taken {
            self.used += bytes;
        }
        taken
    }

    /// Gives bytes back.
    pub fn give(&mut self, bytes: u32) {
        let bytes = u64::from(bytes);
        self.used = self.used.checked_sub(bytes).expect("a window gives back what it took, once");
        self.shared.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves T16: the sum of the windows has a limit, per session
    #[test]
    fn first_windows_shrink_to_the_smallest_and_leave_half_to_those_that_grow() {
        let mut windows = Windows::default();
        let sizes: Vec<_> = (0..2000).map(|_| windows.first()).collect();
        assert_eq!((sizes[0], sizes[100]), (WINDOW_INITIAL_BYTES, WINDOW_INITIAL_BYTES));
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes.iter().all(|size| size.is_power_of_two()));
        assert_eq!(sizes[1999], WINDOW_MIN_BYTES);
        let shrunk = sizes.iter().take_while(|size| **size > WINDOW_MIN_BYTES).map(|size| u64::from(*size));
        assert!(shrunk.sum::<u64>() <= SESSION_WINDOW_BYTES_MAX / 2);
        let free = SESSION_WINDOW_BYTES_MAX - windows.used();
        assert!(free > 0 && !windows.try_take(u32::try_from(free + 1).expect("less than 64 MiB")));
        assert!(windows.try_take(u32::try_from(free).expect("less than 64 MiB")) && !windows.try_take(1));
        assert_eq!(windows.first(), WINDOW_MIN_BYTES, "whatever is free");
    }

    // proves T16: the sum of the windows has a limit, per process, and a session that ends gives its part back
    #[test]
    fn sessions_share_the_budget_of_their_process() {
        let shared = Arc::new(WindowBudget::new(2 << 20));
        let (mut a, mut b) = (Windows::new(shared.clone()), Windows::new(shared.clone()));
        assert_eq!(a.first(), 128 << 10);
        assert!(b.try_take(1 << 20) && !a.try_take(1 << 20) && a.try_take(896 << 10) && !b.try_take(1));
        assert_eq!((shared.used(), b.first()), (2 << 20, WINDOW_MIN_BYTES));
        a.give(896 << 10);
        drop(b);
        assert_eq!((shared.used(), a.used()), (128 << 10, 128 << 10));
        assert!(a.try_take(1 << 20), "what the other gave back");
        drop(a);
        assert_eq!(shared.used(), 0);
        assert_eq!(WindowBudget::default().max, PROCESS_WINDOW_BYTES_MAX);
    }
}
