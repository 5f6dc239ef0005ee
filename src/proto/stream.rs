//! One stream inside a session: two halves that end on their own, each with its window and its queue.
//!
//! ```text
//!   opening      Sent ──OPEN_OK──▶ Done ◀──OPEN_OK sent── Answered ◀──accept── Received          OPEN_ERR, RST: gone
//!
//!   sending      Open ──finish──▶ FinQueued ──FIN sent──▶ Ended       STOP received: Ended, what was queued is dropped
//!   receiving    Open ──FIN received──▶ Fin ──all read──▶ Ended
//!
//!   sending      Open, FinQueued ──reset behind──▶ RstQueued ──RST sent──▶ gone      only with something queued
//!   receiving    Open, Fin ──RST received──▶ Rst ──all read──▶ gone                  only with something to read
//!
//!   both Ended, or a reset from either side: gone, once
//! ```
//!
//! A side closes its direction with one message: FIN, or RST (or OPEN_ERR before there was anything to close). After its FIN, the
//! only thing that it may still say about the stream is WINDOW, and STOP at the end.

use super::flow::{ReceiveWindow, SendWindow};
use super::frame::{HEAD_SIZE, Network, ResetCode};
use crate::limits::{
    BACKLOG_LINKED_BYTES_MAX, DATA_BODY_BYTES_MAX, DATAGRAM_COPY_BYTES_MAX, DATAGRAM_QUEUE_BYTES_MAX,
    DATAGRAM_QUEUE_LEN_MAX, SEND_QUEUE_BYTES_MAX,
};
use bytes::Bytes;
use linkbuffer::LinkBuffer;
use std::collections::VecDeque;

/// How far the opening came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// OPEN was sent; the target did not answer yet.
    Sent,
    /// OPEN was received; the application did not answer yet.
    Received,
    /// The application accepted; OPEN_OK waits to be sent, and no byte goes ahead of it.
    Answered,
    /// Bytes may go both ways.
    Done,
}

/// The direction from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// More may be written.
    Open,
    /// FIN follows what is queued.
    FinQueued,
    /// RST follows what is queued, of which there is some; nobody here has the stream any more.
    RstQueued(ResetCode),
    /// FIN was sent, or the peer does not want more.
    Ended,
}

/// The direction to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// More may come.
    Open,
    /// FIN came; there may be bytes to read.
    Fin,
    /// RST came; there are bytes to read, and the application hears of it behind them.
    Rst(ResetCode),
    /// The application has read the end.
    Ended,
}

/// What a stream has for its turn on the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Data(usize),
    Dgram(usize),
    Fin,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) network: Network,
    pub(super) opening: Opening,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    /// The peer has said STOP, behind its FIN: it has nothing more to say.
    pub(super) stopped: bool,
    /// Bytes that wait for their turn. Invariant: queue.len() ≤ send_window.available() and ≤ SEND_QUEUE_BYTES_MAX.
    queue: LinkBuffer,
    pub(super) send_window: SendWindow,
    /// A write was taken in part; the application waits for room.
    pub(super) wants_room: bool,
    /// Bytes that wait to be read. Held to the window.
    received: LinkBuffer,
    pub(super) receive_window: ReceiveWindow,
    /// Only streams of UDP have them.
    datagrams: Option<Box<Datagrams>>,
    /// Deficit round robin: what this stream may send before it is the next one's turn, and whether its turn has begun.
    pub(super) deficit: usize,
    pub(super) in_turn: bool,
    /// In the session's queue of streams that have something to send; at most once.
    pub(super) scheduled: bool,
    /// In the session's queue of streams that have credit to give; at most once.
    pub(super) credit_queued: bool,
    /// An event of this kind is queued; at most one at a time.
    pub(super) readable_queued: bool,
    pub(super) writable_queued: bool,
}

#[derive(Debug, Default)]
struct Datagrams {
    out: DatagramQueue,
    received: DatagramQueue,
}

/// Whole datagrams, first in, first out; the oldest makes room.
#[derive(Debug, Default)]
struct DatagramQueue {
    queue: VecDeque<Bytes>,
    /// Invariant: the sum of what each counts for.
    bytes: usize,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Out,
    In,
}

impl Direction {
    pub(super) const BOTH: [Direction; 2] = [Direction::Out, Direction::In];
}

/// Datagrams that made room for a newer one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dropped {
    pub(super) count: u64,
    pub(super) bytes: usize,
}

impl DatagramQueue {
    fn push(&mut self, datagram: Bytes) -> Dropped {
        self.bytes += cost(&datagram);
        self.queue.push_back(datagram);
        let mut dropped = Dropped::default();
        while self.queue.len() > DATAGRAM_QUEUE_LEN_MAX || self.bytes > DATAGRAM_QUEUE_BYTES_MAX {
            dropped.bytes += self.pop().map_or(0, |oldest| oldest.len());
            dropped.count += 1;
        }
        dropped
    }

    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= cost(&datagram);
        Some(datagram)
    }
}

/// What a datagram counts for: one of no bytes takes room as well.
fn cost(datagram: &Bytes) -> usize {
    HEAD_SIZE + datagram.len()
}

impl Stream {
    /// A stream that grants the peer a window of that many bytes.
    pub(super) fn new(network: Network, opening: Opening, window: u32) -> Self {
        Self {
            network,
            opening,
            sending: Sending::Open,
            receiving: Receiving::Open,
            stopped: false,
            queue: LinkBuffer::new(),
            send_window: SendWindow::default(),
            wants_room: false,
            received: LinkBuffer::new(),
            receive_window: ReceiveWindow::new(window),
            datagrams: (network == Network::Udp).then(Box::default),
            deficit: 0,
            in_turn: false,
            scheduled: false,
            credit_queued: false,
            readable_queued: false,
            writable_queued: false,
        }
    }

    /// Both directions ended.
    pub(super) fn is_over(&self) -> bool {
        self.sending == Sending::Ended && self.receiving == Receiving::Ended
    }

    /// Nothing more is to be said or heard of it: what has come is there to be read, up to the end that came behind it. Datagrams
    /// may be lost.
    pub(super) fn is_whole(&self) -> bool {
        self.network == Network::Tcp
            && self.sending == Sending::Ended
            && matches!(self.receiving, Receiving::Fin | Receiving::Rst(_))
    }

    // ---- sending

    /// Bytes that a write may bring now.
    fn room(&self) -> usize {
        let window = self.send_window.available() - self.queue.len();
        window.min(SEND_QUEUE_BYTES_MAX - self.queue.len())
    }

    /// Moves what there is room for out of `bytes`; what stays is asked for again by [`has_room`](Self::has_room).
    pub(super) fn write(&mut self, bytes: &mut LinkBuffer) -> usize {
        let n = bytes.len().min(self.room());
        if n > 0 {
            self.queue.append(bytes.split_to(n).expect("n was held to the length"));
        }
        self.wants_room = !bytes.is_empty();
        n
    }

    /// Whether a write that fell short should be tried again: the window is open, and half the queue is free so that the two
    /// sides do not trade single bytes.
    pub(super) fn has_room(&self) -> bool {
        self.wants_room
            && self.sending == Sending::Open
            && self.queue.len() <= SEND_QUEUE_BYTES_MAX / 2
            && self.room() > 0
    }

    pub(super) fn push_datagram(&mut self, datagram: Bytes) -> Dropped {
        self.datagrams.as_mut().map(|datagrams| datagrams.out.push(datagram)).unwrap_or_default()
    }

    /// What is next to be sent, if anything is.
    pub(super) fn next(&self) -> Option<Next> {
        if self.opening != Opening::Done || self.sending == Sending::Ended {
            return None;
        }
        if !self.queue.is_empty() {
            return Some(Next::Data(self.queue.len().min(DATA_BODY_BYTES_MAX)));
        }
        if let Some(datagram) = self.datagrams.as_ref().and_then(|datagrams| datagrams.out.queue.front()) {
            return Some(Next::Dgram(datagram.len()));
        }
        (self.sending == Sending::FinQueued).then_some(Next::Fin)
    }

    /// Whether there are bytes or datagrams that an RST would have to wait for.
    pub(super) fn has_unsent(&self) -> bool {
        let opened = matches!(self.opening, Opening::Answered | Opening::Done);
        opened
            && self.sending != Sending::Ended
            && (!self.queue.is_empty() || self.datagram_bytes(Direction::Out) > 0)
    }

    /// Bytes that wait for their turn.
    pub(super) fn unsent_len(&self) -> usize {
        self.queue.len()
    }

    /// What the datagrams that wait count for.
    pub(super) fn datagram_bytes(&self, direction: Direction) -> usize {
        let queue = self.datagrams.as_ref().map(|datagrams| match direction {
            Direction::Out => &datagrams.out,
            Direction::In => &datagrams.received,
        });
        queue.map_or(0, |queue| queue.bytes)
    }

    /// Drops the oldest datagram.
    pub(super) fn drop_datagram(&mut self, direction: Direction) {
        if let Some(datagrams) = &mut self.datagrams {
            match direction {
                Direction::Out => datagrams.out.pop(),
                Direction::In => datagrams.received.pop(),
            };
        }
    }

    /// Drops all datagrams, in both directions.
    pub(super) fn drop_datagrams(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            **datagrams = Datagrams::default();
        }
    }

    /// Whether it is gone for the application here, and only has to send what is queued.
    pub(super) fn is_resetting(&self) -> bool {
        matches!(self.sending, Sending::RstQueued(_))
    }

    /// RST follows what is queued. What has come is dropped: nobody here reads it any more.
    pub(super) fn reset_behind(&mut self, code: ResetCode) {
        self.sending = Sending::RstQueued(code);
        self.wants_room = false;
        self.received = LinkBuffer::new();
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.received = DatagramQueue::default();
        }
    }

    /// Takes the next `len` bytes of the queue, for one DATA frame.
    pub(super) fn take_data(&mut self, len: usize) -> LinkBuffer {
        self.send_window.take(len);
        self.queue.split_to(len).expect("next() said how many bytes there are")
    }

    pub(super) fn take_datagram(&mut self) -> Bytes {
        let datagrams = self.datagrams.as_mut().expect("next() said that there is a datagram");
        datagrams.out.pop().expect("next() said that there is a datagram")
    }

    /// The peer does not want more.
    pub(super) fn stop_sending(&mut self) {
        self.sending = Sending::Ended;
        self.wants_room = false;
        self.queue = LinkBuffer::new();
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.out = DatagramQueue::default();
        }
    }

    // ---- receiving

    /// Keeps bytes that the window allowed. As they came, while little waits; what piles up is copied, because a piece of an
    /// input keeps all of that input's memory alive.
    pub(super) fn push_received(&mut self, body: Bytes) {
        if self.received.len() < BACKLOG_LINKED_BYTES_MAX {
            self.received.write_bytes(body);
        } else {
            self.received.write(&body);
        }
    }

    pub(super) fn push_received_datagram(&mut self, body: Bytes) -> Dropped {
        let body = if body.len() < DATAGRAM_COPY_BYTES_MAX { Bytes::copy_from_slice(&body) } else { body };
        self.datagrams.as_mut().map(|datagrams| datagrams.received.push(body)).unwrap_or_default()
    }

    /// Moves at most `max` received bytes to `out`. The flag is the end of the stream, and is set once.
    pub(super) fn read(&mut self, out: &mut LinkBuffer, max: usize) -> (usize, bool) {
        let n = self.received.len().min(max);
        if n > 0 {
            out.append(self.received.split_to(n).expect("n was held to the length"));
            self.receive_window.read(n);
        }
        let datagrams_left =
            self.datagrams.as_ref().is_some_and(|datagrams| !datagrams.received.queue.is_empty());
        let end = self.receiving == Receiving::Fin && self.received.is_empty() && !datagrams_left;
        if end {
            self.receiving = Receiving::Ended;
        }
        (n, end)
    }

    pub(super) fn pop_received_datagram(&mut self) -> Option<Bytes> {
        self.datagrams.as_mut()?.received.pop()
    }

    /// Whether WINDOW is worth sending: a peer that sent FIN has no use for it.
    pub(super) fn has_credit(&self) -> bool {
        self.receiving == Receiving::Open && self.receive_window.has_credit()
    }

    /// Bytes that can be read now.
    pub(super) fn readable_len(&self) -> usize {
        self.received.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // An idle stream is to cost at most 1 KB; this is all that it holds.
    #[test]
    fn an_idle_stream_is_small() {
        assert!(size_of::<Stream>() <= 320, "{}", size_of::<Stream>());
    }
}
