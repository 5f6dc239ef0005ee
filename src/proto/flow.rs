//! Windows: how many bytes a sender may still send on one stream.
//!
//! ```text
//!   the sender                      the receiver
//!   sent ≤ granted                  delivered ≤ read ≤ received ≤ granted ≤ delivered + size
//!
//!   0 ────────── delivered ──── read ───── received ────────── granted
//!                   │  with the   │  waits to be │ may still be   │
//!                   │ application │  read here   │ sent to us     │
//!                   └───────────── at most `size` ───────────────┘
//! ```
//!
//! Totals count from the beginning of the stream, so that granting twice or forgetting a part shows as an inequality. Bytes
//! become credit again only when the application says that they were *delivered* (reached the kernel): a slow user slows
//! its target, and nothing lies in between but one window.
//!
//! The receiver's window grows with use: when a whole window was delivered in less than two round trips, the window may be what holds the
//! sender up, and it doubles as far as the [budgets](super::budget) allow. When ten seconds bring less than one window, it shrinks to
//! what they bring. Credit cannot be taken back, so a window that shrank gives none until the peer has used up the difference, and
//! only then is the budget free again: a window holds of it what it spans, or what the peer may still send, whichever is more.

use super::budget::Windows;
use crate::limits::{WINDOW_BYTES_MAX, WINDOW_IDLE_MS, WINDOW_INITIAL_BYTES};
use std::time::{Duration, Instant};

/// The peer broke a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

/// The window that the peer grants us.
#[derive(Debug, Default)]
pub struct SendWindow {
    /// Bytes that we sent. Invariant: sent ≤ granted ≤ sent + WINDOW_BYTES_MAX.
    sent: u64,
    /// Bytes that the peer allowed in all.
    granted: u64,
}

impl SendWindow {
    /// Bytes that may be sent now.
    pub fn available(&self) -> usize {
        usize::try_from(self.granted - self.sent).expect("a window is at most 16 MiB")
    }

    /// Takes credit from the peer.
    ///
    /// # Errors
    /// [`Overrun`] when the window would be larger than any window may be.
    pub fn grant(&mut self, credit: u32) -> Result<(), Overrun> {
        let granted = self.granted.checked_add(u64::from(credit)).ok_or(Overrun)?;
        if granted - self.sent > u64::from(WINDOW_BYTES_MAX) {
            return Err(Overrun);
        }
        self.granted = granted;
        Ok(())
    }

    /// Uses up `len` bytes, which [`available`](Self::available) allowed.
    pub fn take(&mut self, len: usize) {
        self.sent += len as u64;
        assert!(self.sent <= self.granted, "the send queue never holds more than the window");
    }
}

/// The window that we grant the peer.
#[derive(Debug)]
pub struct ReceiveWindow {
    /// Bytes that the window spans. Invariant: size ≤ held.
    size: u32,
    /// Bytes of the budgets that it holds. Invariant: granted ≤ delivered + held, held ≤ WINDOW_BYTES_MAX.
    held: u32,
    /// Bytes that reached the kernel on our far side.
    delivered: u64,
    /// Bytes that the application took.
    read: u64,
    /// Bytes that arrived.
    received: u64,
    /// Bytes that we allowed in all.
    granted: u64,
    /// What was delivered, and when, as the window that is being timed began.
    timed_from: u64,
    timed_since: Option<Instant>,
}

impl ReceiveWindow {
    /// A window of `size` bytes, which were taken from the budgets.
    pub fn new(size: u32) -> Self {
        let granted = u64::from(size);
        Self {
            size,
            held: size,
            delivered: 0,
            read: 0,
            received: 0,
            granted,
            timed_from: 0,
            timed_since: None,
        }
    }

    /// The bytes that the window spans.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Bytes of the budgets that it holds: to be given back when the stream ends.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Books `len` bytes that arrived.
    ///
    /// # Errors
    /// [`Overrun`] when the peer was not allowed to send them.
    pub fn receive(&mut self, len: usize, now: Instant) -> Result<(), Overrun> {
        let received = self.received + len as u64;
        if received > self.granted {
            return Err(Overrun);
        }
        self.received = received;
        self.timed_since.get_or_insert(now);
        Ok(())
    }

    /// Books `len` bytes that the application took.
    pub fn read(&mut self, len: usize) {
        self.read += len as u64;
        self.invariants();
    }

    /// Books that `total` bytes in all reached the kernel. A total that is not news changes nothing, and more than was read
    /// cannot have been delivered.
    pub fn deliver(&mut self, total: u64) {
        debug_assert!(total <= self.read, "only bytes that were read can have been delivered");
        self.delivered = self.delivered.max(total.min(self.read));
    }

    /// The credit to send now: nothing until half a window can be given back at once. Before that the window takes the size that its
    /// use asks for; `rtt` is the shortest time that a question and its answer have taken.
    pub fn credit(&mut self, now: Instant, rtt: Option<Duration>, windows: &mut Windows) -> Option<u32> {
        if !self.has_credit() {
            return None;
        }
        self.resize(now, rtt, windows);
        if !self.has_credit() {
            return None;
        }
        let credit = self.due();
        self.granted += u64::from(credit);
        self.invariants();
        Some(credit)
    }

    /// Whether half a window can be given back. A window that has just shrunk may still give nothing.
    pub fn has_credit(&self) -> bool {
        self.due() > 0 && self.due() >= self.size / 2
    }

    /// What the peer lacks of a whole window.
    fn due(&self) -> u32 {
        // More than a window is granted for a while after it has shrunk.
        let due = (self.delivered + u64::from(self.size)).saturating_sub(self.granted);
        u32::try_from(due).expect("granted is never behind delivered")
    }

    fn resize(&mut self, now: Instant, rtt: Option<Duration>, windows: &mut Windows) {
        let took = now.saturating_duration_since(*self.timed_since.get_or_insert(now));
        let brought = u32::try_from(self.delivered - self.timed_from).unwrap_or(u32::MAX);
        if brought >= self.size {
            if rtt.is_some_and(|rtt| took < 2 * rtt) {
                let size = self.size.saturating_mul(2).min(WINDOW_BYTES_MAX);
                let more = size.saturating_sub(self.held);
                if more == 0 || windows.try_take(more) {
                    self.held += more;
                    self.size = size;
                }
            }
        } else if took >= Duration::from_millis(WINDOW_IDLE_MS) {
            let idle = u128::from(brought) * u128::from(WINDOW_IDLE_MS) / took.as_millis();
            let used = u32::try_from(idle).map_or(self.size, |used| used.min(self.size)).next_power_of_two();
            self.size = self.size.min(used.min(self.size / 2).max(WINDOW_INITIAL_BYTES));
        } else {
            return;
        }
        self.timed_from = self.delivered;
        self.timed_since = Some(now);
        let open = u32::try_from(self.granted - self.delivered).expect("a window is at most 16 MiB");
        let holds = self.size.max(open);
        windows.give(self.held - holds);
        self.held = holds;
    }

    fn invariants(&self) {
        debug_assert!(
            self.delivered <= self.read && self.read <= self.received && self.received <= self.granted
        );
        debug_assert!(self.granted <= self.delivered + u64::from(self.held));
        debug_assert!(self.size <= self.held && self.held <= WINDOW_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SESSION_WINDOW_BYTES_MAX;

    const RTT: Duration = Duration::from_millis(50);

    #[allow(clippy::disallowed_methods)]
    fn base() -> Instant {
        Instant::now()
    }

    /// A window of the usual size, and the budget that it was taken from.
    fn window() -> (ReceiveWindow, Windows) {
        let mut windows = Windows::default();
        let size = windows.first();
        (ReceiveWindow::new(size), windows)
    }

    /// Receives, reads and delivers `len` bytes, and takes the credit for them.
    fn pass(w: &mut ReceiveWindow, len: u32, at: Instant, windows: &mut Windows) -> Option<u32> {
        w.receive(len as usize, at).expect("within the window");
        w.read(len as usize);
        w.deliver(w.delivered + u64::from(len));
        w.credit(at, Some(RTT), windows)
    }

    #[test]
    fn credit_comes_back_only_for_delivered_bytes_and_in_large_parts() {
        let ((mut w, mut windows), now) = (window(), base());
        let size = w.size() as usize;
        w.receive(size, now).expect("within the window");
        assert_eq!(w.receive(1, now), Err(Overrun));
        w.read(size);
        assert_eq!(w.credit(now, None, &mut windows), None);
        w.deliver(size as u64 / 2 - 1);
        assert_eq!(w.credit(now, None, &mut windows), None);
        w.deliver(size as u64 / 2);
        w.deliver(7);
        assert!(w.has_credit());
        assert_eq!(w.credit(now, None, &mut windows), Some(w.size() / 2));
        assert_eq!(w.credit(now, None, &mut windows), None);
        w.receive(size / 2, now).expect("within the window");
        assert_eq!(w.receive(1, now), Err(Overrun));
    }

    // A window that is used up within two round trips is what holds the sender up; at two round trips it is not.
    #[test]
    fn a_window_doubles_when_it_is_used_within_two_round_trips() {
        for (took, grows) in [(2 * RTT - Duration::from_micros(1), true), (2 * RTT, false)] {
            let ((mut w, mut windows), now) = (window(), base());
            let size = w.size();
            assert_eq!(pass(&mut w, size / 2, now, &mut windows), Some(size / 2));
            let want = if grows { (2 * size, size / 2 + size) } else { (size, size / 2) };
            assert_eq!(pass(&mut w, size / 2, now + took, &mut windows), Some(want.1));
            assert_eq!((w.size(), w.held(), windows.used()), (want.0, want.0, u64::from(want.0)));
        }
    }

    #[test]
    fn a_window_grows_to_the_largest_and_not_without_a_round_trip_time() {
        let ((mut w, mut windows), now) = (window(), base());
        for _ in 0..10 {
            let size = w.size();
            assert!(pass(&mut w, size, now, &mut windows).is_some());
        }
        assert_eq!((w.size(), windows.used()), (WINDOW_BYTES_MAX, u64::from(WINDOW_BYTES_MAX)));
        let (mut w, mut windows) = window();
        w.receive(w.size() as usize, now).expect("within the window");
        w.read(w.size() as usize);
        w.deliver(u64::from(w.size()));
        assert_eq!(w.credit(now, None, &mut windows), Some(w.size()));
        assert_eq!(w.size(), WINDOW_INITIAL_BYTES);
    }

    #[test]
    fn a_window_does_not_grow_beyond_the_budget() {
        let ((mut w, mut windows), now) = (window(), base());
        let left = SESSION_WINDOW_BYTES_MAX - windows.used() - u64::from(WINDOW_INITIAL_BYTES);
        assert!(windows.try_take(u32::try_from(left).expect("less than 64 MiB")));
        for _ in 0..3 {
            let size = w.size();
            assert_eq!(pass(&mut w, size, now, &mut windows), Some(2 * WINDOW_INITIAL_BYTES));
        }
        assert_eq!((w.size(), windows.used()), (2 * WINDOW_INITIAL_BYTES, SESSION_WINDOW_BYTES_MAX));
    }

    // Credit cannot be taken back: it is withheld, and the budget is free again once the peer has used the difference up.
    #[test]
    fn a_window_that_is_not_used_shrinks_and_gives_its_budget_back() {
        let ((mut w, mut windows), now) = (window(), base());
        for _ in 0..4 {
            let size = w.size();
            assert!(pass(&mut w, size, now, &mut windows).is_some());
        }
        let large = w.size();
        assert_eq!(large, 16 * WINDOW_INITIAL_BYTES);
        // It trickles: ten seconds bring half of it.
        let mut later = now + Duration::from_millis(WINDOW_IDLE_MS);
        let mut used = 0;
        while used < large / 2 {
            assert_eq!((w.size(), windows.used()), (large, u64::from(large)));
            used += 64 << 10;
            assert_eq!(pass(&mut w, 64 << 10, later, &mut windows), None, "more than enough is granted");
        }
        assert_eq!((w.size(), w.held()), (large / 2, large / 2), "what was used, and what is granted");
        later += Duration::from_millis(WINDOW_IDLE_MS);
        let mut credit = None;
        while credit.is_none() {
            credit = pass(&mut w, 64 << 10, later, &mut windows);
            later += Duration::from_secs(1);
        }
        assert_eq!(windows.used(), u64::from(w.held()));
        assert!(w.size() < large / 2 && w.held() < large / 2, "{w:?}");
        // Never below what a stream begins with.
        for _ in 0..100 {
            later += Duration::from_secs(20);
            while pass(&mut w, 16 << 10, later, &mut windows).is_none() {}
        }
        assert_eq!((w.size(), w.held()), (WINDOW_INITIAL_BYTES, WINDOW_INITIAL_BYTES));
    }

    // proves T16: credit is added with a check, and a window has a largest size
    #[test]
    fn credit_beyond_the_largest_window_is_refused() {
        let mut w = SendWindow::default();
        w.grant(WINDOW_BYTES_MAX).expect("within the window");
        assert_eq!(w.grant(1), Err(Overrun));
        assert_eq!(w.grant(u32::MAX), Err(Overrun));
        w.take(10);
        w.grant(10).expect("within the window");
        assert_eq!(w.available(), WINDOW_BYTES_MAX as usize);
    }
}
