//! What only a busy connection has: bytes that wait, deadlines, and what it learnt about its end.
//!
//! ```text
//!   idle connection            turn                           end of the turn
//!   busy: None  ──── takes the worker's spare one ───▶ nothing left in it? back to the worker
//!   busy: Some  ──── its own ─────────────────────────▶ else it stays with the connection
//! ```
//! So an idle connection owns none, and a request that is read, answered and sent in one turn allocates nothing: one box
//! per thread goes from connection to connection.

use std::cell::Cell;
use std::collections::VecDeque;

use linkbuffer::{LinkBuffer, Node};

use crate::close::{Details, Fault};
use crate::flags::Flags;
use crate::job::Job;
use crate::limits;
use crate::state::News;
use crate::timer::Key;
use crate::watch::{NEVER, Watches};

#[derive(Debug, Default)]
pub(crate) struct Busy {
    /// May have the thread's read buffer lent to it while a turn lasts.
    pub(crate) input: LinkBuffer,
    pub(crate) output: LinkBuffer,
    /// Records that the kernel has not taken.
    #[cfg(feature = "tls")]
    pub(crate) sealed: LinkBuffer,
    pub(crate) deadlines: Deadlines,
    pub(crate) watches: Watches,
    /// Sending failed. What the peer had sent before is still read and handed over, then the connection closes.
    pub(crate) broken: Option<Fault>,
    /// Output bytes that were dropped because sending failed.
    pub(crate) dropped: usize,
    pub(crate) details: Details,
    /// `on_shutdown` runs: a close has that reason.
    pub(crate) stopping: bool,
    /// Bytes that were read and dropped after the end of our stream.
    pub(crate) lingered: usize,
    /// What came while the dial was under way and is looked at after `on_connect`.
    pub(crate) early: News,
}

impl Busy {
    /// Whether nothing in it is worth keeping. Everything but bytes is marked with [`Flags::KEEPS`], which goes when that
    /// has gone.
    pub(crate) fn is_spent(&mut self, flags: &mut Flags) -> bool {
        let no_bytes = self.input.is_empty()
            && self.unsent() == 0
            && self.input.reserved_len() == 0
            && self.output.reserved_len() == 0;
        if flags.has(Flags::KEEPS) {
            flags.put(Flags::KEEPS, !self.holds_bytes_only());
        }
        no_bytes && !flags.has(Flags::KEEPS)
    }

    /// Forgets everything but bytes: the connection has ended.
    pub(crate) fn rest(&mut self) {
        let (input, output) = (std::mem::take(&mut self.input), std::mem::take(&mut self.output));
        *self = Busy { input, output, ..Busy::default() };
    }

    /// Bytes that wait for the kernel, those that are sealed and those that will be.
    pub(crate) fn unsent(&self) -> usize {
        #[cfg(feature = "tls")]
        return self.output.len() + self.sealed.len();
        #[cfg(not(feature = "tls"))]
        self.output.len()
    }

    pub(crate) fn drop_unsent(&mut self) {
        // What is lent to it stays.
        self.output.clear();
        #[cfg(feature = "tls")]
        (self.sealed = LinkBuffer::new());
    }

    fn holds_bytes_only(&self) -> bool {
        self.deadlines.armed.is_none()
            && self.deadlines.next() == NEVER
            && self.watches.is_empty()
            && self.broken.is_none()
            && self.dropped == 0
            && self.details.is_empty()
            && self.early == News::NONE
    }
}

/// The times at which this connection wants to be looked at, beside its limits. `armed` is what stands in the poll's
/// timers: it may be earlier than needed (then nothing happens), never later.
#[derive(Debug)]
pub(crate) struct Deadlines {
    pub(crate) user: u64,
    pub(crate) connect: u64,
    pub(crate) close: u64,
    pub(crate) armed: Option<Key>,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { user: NEVER, connect: NEVER, close: NEVER, armed: None }
    }
}

impl Deadlines {
    pub(crate) fn next(&self) -> u64 {
        self.user.min(self.connect).min(self.close)
    }

    /// The entry in the poll's timers has fired, if it was due.
    pub(crate) fn fired(&mut self, now: u64) {
        self.armed = self.armed.filter(|armed| armed.at > now);
    }

    pub(crate) fn due(deadline: &mut u64, now: u64) -> bool {
        let due = *deadline <= now;
        if due {
            *deadline = NEVER;
        }
        due
    }
}

/// What the pool lends to a worker thread while it has work, and the thread to whatever it runs.
#[derive(Default)]
pub(crate) struct Scratch {
    node: Option<Node>,
    busy: Option<Box<Busy>>,
    datagram: Vec<u8>,
    /// What the work that runs on this thread leaves for the leader, which is this thread again unless the lead was lost.
    pub(crate) jobs: VecDeque<Job>,
}

impl Scratch {
    /// Something for a connection that has nothing. A node is lent to its output, for answers that are sent in the same
    /// turn; it stays there for the next connection, unless a handler hangs bytes of its own behind it, as a relay does:
    /// then it has no use here.
    pub(crate) fn busy(&mut self) -> Box<Busy> {
        self.busy.take().unwrap_or_else(|| {
            let mut busy = Box::<Busy>::default();
            busy.output.lend(Node::take(limits::ANSWER_BYTES));
            busy
        })
    }

    /// Takes back what was lent to a connection that keeps `busy`.
    pub(crate) fn reclaim_all(&mut self, busy: &mut Busy) {
        self.reclaim_from(&mut busy.input);
        drop(busy.output.reclaim());
    }

    /// Takes back what a connection has no use for any more. One is enough: that which was made for a connection of its own
    /// goes, and leaves what was lent to it.
    pub(crate) fn take_back(&mut self, mut busy: Box<Busy>) {
        match self.busy {
            None => self.busy = Some(busy),
            Some(_) => self.reclaim_all(&mut busy),
        }
    }

    /// Gives `input` the thread's read buffer, unless it has it already.
    pub(crate) fn lend_to(&mut self, input: &mut LinkBuffer) {
        if input.inputs().is_empty() {
            input.lend(self.node.take().unwrap_or_else(|| Node::take(limits::READ_BYTES_MAX)));
        }
    }

    /// Takes the read buffer back; what is left unread in it moves to memory of the right size.
    pub(crate) fn reclaim_from(&mut self, input: &mut LinkBuffer) {
        if let Some(node) = input.reclaim() {
            self.node = Some(node);
        }
    }

    /// Space for the largest datagram.
    pub(crate) fn datagram(&mut self) -> &mut [u8] {
        self.datagram.resize(limits::DATAGRAM_BYTES_MAX, 0);
        &mut self.datagram
    }
}

thread_local! {
    /// For sends on the calling thread, which may be in the middle of a turn that has the spare of its scratch.
    static SPARE: Cell<Option<Box<Busy>>> = const { Cell::new(None) };
}

/// Something to send with, on any thread.
pub(crate) fn spare() -> Box<Busy> {
    SPARE.take().unwrap_or_default()
}

/// Keeps it for the next send of this thread.
pub(crate) fn keep_spare(busy: Box<Busy>) {
    SPARE.set(Some(busy));
}
