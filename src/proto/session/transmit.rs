//! What goes out next: control frames and credit, and the streams in turns.
//!
//! ```text
//!   one message    │ control, credit │ streams in turns                    │ control, credit │
//!                  0             half of it, while streams wait                            max
//! ```
//!
//! Control frames go first, so that a question does not wait behind bulk; but they leave half of each message to the streams, so that
//! no number of them holds the bytes up. A stream's bytes are not scheduled before its OPEN_OK has left.
//!
//! Deficit round robin: a turn gives a stream `TURN_BYTES`; it sends whole frames while they fit into what it was given and keeps the rest for
//! its next turn, unless it runs out of things to send. A stream that has much to send delays one that has little by one frame, and never
//! by its queue.

use super::{Session, StreamId};
use crate::limits::TURN_BYTES;
use crate::proto::frame::{Frame, HEAD_SIZE, Head, Kind};
use crate::proto::stream::{Next, Sending, Stream};
use linkbuffer::LinkBuffer;
use std::time::Instant;

impl Session {
    /// Appends whole frames to `out` and says how many bytes: at most `max`, but one frame when there is one.
    pub fn poll_transmit(&mut self, max: usize, out: &mut LinkBuffer, now: Instant) -> usize {
        if !self.wants_transmit() {
            return 0;
        }
        let mut budget = Budget { max, sent: 0, frames: 0 };
        if !self.turns.is_empty() {
            budget.max = max / 2;
        }
        if self.transmit_control(&mut budget, out, now) {
            self.transmit_credit(&mut budget, out, now);
        }
        budget.max = max;
        self.transmit_streams(&mut budget, out);
        // What there was no room for before, and the resets that waited behind their streams' bytes.
        if self.transmit_control(&mut budget, out, now) {
            self.transmit_credit(&mut budget, out, now);
        }
        self.stats.bytes_out += budget.sent as u64;
        self.stats.frames_out += budget.frames;
        budget.sent
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) is worth a call; after one that gave nothing it is not.
    pub fn wants_transmit(&self) -> bool {
        !self.control.is_empty()
            || self.pong.is_some()
            || self.liveness.wants_ping()
            || !self.credits.is_empty()
            || !self.turns.is_empty()
    }

    /// False when the budget is used up.
    fn transmit_control(&mut self, budget: &mut Budget, out: &mut LinkBuffer, now: Instant) -> bool {
        let mut done = true;
        while let Some((head, frame)) = self.control.front() {
            if !budget.allows(frame.len()) {
                done = false;
                break;
            }
            budget.spend(frame.len());
            out.write(frame);
            self.control.pop_front();
            if head.kind == Kind::OpenOk {
                self.on_open_ok_sent(StreamId(head.stream));
            }
        }
        if done {
            self.liveness.sent(now);
        }
        // Behind the others, because the first of them may be the one that ends the handshake; but two frames of 20 bytes are
        // not worth a place in a queue when `max` is that small.
        if let Some(number) = self.pong.take() {
            budget.write(&Frame::Pong(number), out);
        }
        if let Some(number) = self.liveness.take_ping(now) {
            budget.write(&Frame::Ping(number), out);
        }
        done
    }

    fn transmit_credit(&mut self, budget: &mut Budget, out: &mut LinkBuffer, now: Instant) {
        const LEN: usize = HEAD_SIZE + 4;
        while let Some(&id) = self.credits.front() {
            if !budget.allows(LEN) {
                return;
            }
            self.credits.pop_front();
            let Some(stream) = self.table.get_mut(&id) else { continue };
            stream.credit_queued = false;
            // The peer's FIN may have made it pointless since it was queued.
            if !stream.has_credit() {
                continue;
            }
            let window = &mut stream.receive_window;
            let size = window.size();
            let credit = window.credit(now, self.liveness.rtt_min, &mut self.windows);
            if window.size() != size {
                // The next size depends on it.
                self.liveness.measure(now);
            }
            if let Some(credit) = credit {
                let head = Head { kind: Kind::Window, stream: id, len: LEN - HEAD_SIZE };
                let frame = out.reserve(LEN);
                frame[..HEAD_SIZE].copy_from_slice(&head.encode());
                frame[HEAD_SIZE..LEN].copy_from_slice(&credit.to_be_bytes());
                out.commit(LEN);
                budget.spend(LEN);
            }
        }
    }

    fn transmit_streams(&mut self, budget: &mut Budget, out: &mut LinkBuffer) {
        while let Some(&id) = self.turns.front() {
            let Some(stream) = self.table.get_mut(&id) else {
                self.turns.pop_front();
                continue;
            };
            let Some(next) = stream.next() else {
                stream.scheduled = false;
                stream.in_turn = false;
                stream.deficit = 0;
                self.turns.pop_front();
                continue;
            };
            if !stream.in_turn {
                stream.in_turn = true;
                stream.deficit += TURN_BYTES;
            }
            let (kind, len) = match next {
                Next::Data(len) => (Kind::Data, len),
                Next::Dgram(len) => (Kind::Dgram, len),
                Next::Fin => (Kind::Fin, 0),
            };
            if len > stream.deficit {
                stream.in_turn = false;
                self.turns.rotate_left(1);
                continue;
            }
            if !budget.allows(HEAD_SIZE + len) {
                return;
            }
            budget.spend(HEAD_SIZE + len);
            stream.deficit -= len;
            out.write(&Head { kind, stream: id, len }.encode());
            match next {
                Next::Data(len) => out.append(stream.take_data(len)),
                Next::Dgram(_) => {
                    let datagram = self.change_datagrams(StreamId(id), Stream::take_datagram);
                    out.write_bytes(datagram.expect("a stream that has a turn is in the table"));
                }
                Next::Fin => stream.sending = Sending::Ended,
            }
            let Some(stream) = self.table.get(&id) else { continue };
            if let Sending::RstQueued(code) = stream.sending
                && !stream.has_unsent()
            {
                self.reset(StreamId(id), code);
            } else if !self.remove_over(StreamId(id)) {
                self.offer_room(StreamId(id));
            }
        }
    }
}

/// How much one call may send.
struct Budget {
    max: usize,
    sent: usize,
    frames: u64,
}

impl Budget {
    fn allows(&self, len: usize) -> bool {
        self.sent == 0 || self.sent + len <= self.max
    }

    fn spend(&mut self, len: usize) {
        self.sent += len;
        self.frames += 1;
    }

    /// Sends a frame of no stream, whatever is allowed.
    fn write(&mut self, frame: &Frame, out: &mut LinkBuffer) {
        let frame = frame.encode(0);
        self.spend(frame.len());
        out.write(&frame);
    }
}
