//! What the owner remembers of a connection from one turn to the next, as bits.

/// A set of the facts below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// Interest in writing joins once, the first time that the kernel took less than was offered.
    pub(crate) const INTEREST_WRITE: Flags = Flags(1 << 0);
    /// The kernel had something to read when last heard of.
    pub(crate) const READABLE: Flags = Flags(1 << 1);
    /// The kernel announced the end: a short read does not mean drained any more.
    pub(crate) const HUP: Flags = Flags(1 << 2);
    /// The peer's stream has ended.
    pub(crate) const INPUT_ENDED: Flags = Flags(1 << 3);
    /// The handler was told of that end.
    pub(crate) const END_HANDLED: Flags = Flags(1 << 4);
    /// The connection stays open for writing after the peer's end.
    pub(crate) const HALF_CLOSE: Flags = Flags(1 << 5);
    pub(crate) const PAUSED: Flags = Flags(1 << 6);
    /// Our stream ends after what is queued.
    pub(crate) const END_ASKED: Flags = Flags(1 << 7);
    /// Our stream has ended.
    pub(crate) const END_SENT: Flags = Flags(1 << 8);
    /// Output was seen above the high watermark and has not been below the low one since.
    pub(crate) const ABOVE_HIGH: Flags = Flags(1 << 9);
    pub(crate) const WAKE_ON_PROGRESS: Flags = Flags(1 << 10);
    /// There are marks in the stream at which a read stops with more behind it: urgent data on TCP, passed descriptors on a
    /// Unix socket. A short read does not mean drained.
    pub(crate) const MARKED: Flags = Flags(1 << 11);
    /// Handles have been told of output that waits for the kernel.
    pub(crate) const UNSENT_TOLD: Flags = Flags(1 << 12);
    /// `Busy` holds something beside bytes, so it stays with the connection.
    pub(crate) const KEEPS: Flags = Flags(1 << 13);
    /// `on_connect` ran and said Ok.
    pub(crate) const CONNECTED: Flags = Flags(1 << 14);
    /// The selector knows the socket.
    pub(crate) const REGISTERED: Flags = Flags(1 << 15);

    pub(crate) const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether one of `other` is set.
    pub(crate) fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Those of `other` that are set.
    pub(crate) fn only(self, other: Flags) -> Flags {
        Flags(self.0 & other.0)
    }

    pub(crate) fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    pub(crate) fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }

    pub(crate) fn put(&mut self, other: Flags, on: bool) {
        match on {
            true => self.set(other),
            false => self.clear(other),
        }
    }

    /// Clears `other` and says whether it was set.
    pub(crate) fn take(&mut self, other: Flags) -> bool {
        let was = self.has(other);
        self.clear(other);
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_do_not_touch_each_other() {
        let mut flags = Flags::default();
        flags.set(Flags::PAUSED.with(Flags::HUP));
        assert!(flags.has(Flags::PAUSED) && !flags.has(Flags::READABLE));
        assert_eq!(flags.only(Flags::HUP.with(Flags::READABLE)), Flags::HUP);
        assert!(flags.take(Flags::HUP) && !flags.take(Flags::HUP));
        flags.put(Flags::KEEPS, true);
        flags.put(Flags::PAUSED, false);
        assert_eq!(flags, Flags::KEEPS);
    }
}
