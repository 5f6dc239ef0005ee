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

use crate::limits::{WINDOW_BYTES_MAX, WINDOW_INITIAL_BYTES};

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
    /// Bytes that the window spans. Fixed today; when it grows, the next credit is larger by that much.
    size: u32,
    /// Bytes that reached the kernel on our far side.
    delivered: u64,
    /// Bytes that the application took.
    read: u64,
    /// Bytes that arrived.
    received: u64,
    /// Bytes that we allowed in all.
    granted: u64,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        let size = WINDOW_INITIAL_BYTES;
        Self { size, delivered: 0, read: 0, received: 0, granted: u64::from(size) }
    }
}

impl ReceiveWindow {
    /// The bytes that the window spans.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Books `len` bytes that arrived.
    ///
    /// # Errors
    /// [`Overrun`] when the peer was not allowed to send them.
    pub fn receive(&mut self, len: usize) -> Result<(), Overrun> {
        let received = self.received + len as u64;
        if received > self.granted {
            return Err(Overrun);
        }
        self.received = received;
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

    /// The credit to send now: nothing until half a window can be given back at once.
    pub fn credit(&mut self) -> Option<u32> {
        let credit = u32::try_from(self.delivered + u64::from(self.size) - self.granted)
            .expect("granted never runs ahead of delivered by more than the window");
        if credit < self.size / 2 {
            return None;
        }
        self.granted += u64::from(credit);
        self.invariants();
        Some(credit)
    }

    /// Whether [`credit`](Self::credit) would give any.
    pub fn has_credit(&self) -> bool {
        self.delivered + u64::from(self.size) - self.granted >= u64::from(self.size / 2)
    }

    fn invariants(&self) {
        debug_assert!(
            self.delivered <= self.read && self.read <= self.received && self.received <= self.granted
        );
        debug_assert!(self.granted <= self.delivered + u64::from(self.size));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_comes_back_only_for_delivered_bytes_and_in_large_parts() {
        let mut w = ReceiveWindow::default();
        let size = w.size() as usize;
        w.receive(size).expect("within the window");
        assert_eq!(w.receive(1), Err(Overrun));
        w.read(size);
        assert_eq!(w.credit(), None);
        w.deliver(size as u64 / 2 - 1);
        assert_eq!(w.credit(), None);
        w.deliver(size as u64 / 2);
        w.deliver(7);
        assert!(w.has_credit());
        assert_eq!(w.credit(), Some(w.size() / 2));
        assert_eq!(w.credit(), None);
        w.receive(size / 2).expect("within the window");
        assert_eq!(w.receive(1), Err(Overrun));
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
