//! The datagrams of all streams together: a budget for the session, on top of what each queue may hold.
//!
//! ```text
//!   queues, by what they hold    │ 12 │ 76 │ 4,108 │ 98,000 │  ◀── the longest: its oldest datagram makes room
//! ```
//! Each queue is held to its own length first, and drops its own oldest. Only when the session as a whole holds too much is another
//! queue concerned, and that is the longest: who floods loses its own datagrams before anybody else's. The queues are kept in the order
//! of what they hold, so finding the longest costs the same however many there are.

use super::{Session, StreamId};
use crate::limits::SESSION_DATAGRAM_BYTES_MAX;
use crate::proto::stream::{Direction, Stream};
use std::collections::BTreeSet;

/// What all queues of a session hold.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Invariant: the sum of all `queues`.
    bytes: usize,
    /// Queues that hold something: how much, of which stream, in which direction.
    queues: BTreeSet<(usize, u32, Direction)>,
}

impl Holdings {
    fn set(&mut self, id: u32, direction: Direction, before: usize, after: usize) {
        if before == after {
            return;
        }
        if before > 0 {
            let was_there = self.queues.remove(&(before, id, direction));
            debug_assert!(was_there, "every queue that holds something is listed");
        }
        if after > 0 {
            self.queues.insert((after, id, direction));
        }
        self.bytes = self.bytes - before + after;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Session {
    /// The one way to change what a stream's queues of datagrams hold; `None` when the stream is gone.
    pub(super) fn change_datagrams<R>(
        &mut self,
        id: StreamId,
        change: impl FnOnce(&mut Stream) -> R,
    ) -> Option<R> {
        let stream = self.table.get_mut(&id.0)?;
        let held = |stream: &Stream| Direction::BOTH.map(|direction| stream.datagram_bytes(direction));
        let before = held(stream);
        let result = change(stream);
        let after = held(stream);
        for ((direction, before), after) in Direction::BOTH.into_iter().zip(before).zip(after) {
            self.datagrams.set(id.0, direction, before, after);
        }
        Some(result)
    }

    /// Brings the session back within its budget.
    pub(super) fn shed_datagrams(&mut self) {
        while self.datagrams.bytes > SESSION_DATAGRAM_BYTES_MAX
            && let Some(&(_, id, direction)) = self.datagrams.queues.last()
        {
            let dropped = self.change_datagrams(StreamId(id), |stream| stream.drop_datagram(direction));
            assert!(dropped.is_some(), "queues that hold something belong to streams in the table");
            self.stats.datagrams_dropped += 1;
        }
    }
}
