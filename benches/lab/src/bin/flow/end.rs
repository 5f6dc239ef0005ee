//! One end of a stream: what it sends and receives, and when it is over.
//!
//! ```text
//!   user      order and payload ──▶ shut down ─┐         target   order ──▶ payload both ways ──▶ report ──▶ over
//!             payload ──▶ report ──▶ end ──────┴▶ over
//! ```

use std::io::{self, Read as _};
use std::net::{Shutdown, TcpStream};

use rustix::event::epoll::EventFlags;

use crate::order::{ENDLESS, ORDER, Order, REPORT, Report};
use crate::payload::{Moved, Sink, Source};

/// Memory that the ends of one thread share.
pub(crate) struct Scratch {
    pub(crate) zeros: Vec<u8>,
    pub(crate) room: Vec<u8>,
}

/// Whether an end goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Stays,
    Over,
}

/// Words of the protocol as they arrive, of a known length.
struct Words<const LEN: usize> {
    bytes: [u8; LEN],
    have: usize,
}

impl<const LEN: usize> Words<LEN> {
    fn new() -> Self {
        Words { bytes: [0; LEN], have: 0 }
    }

    /// Reads once; the words when they are whole.
    fn receive(&mut self, mut socket: &TcpStream) -> io::Result<Option<&[u8; LEN]>> {
        match socket.read(&mut self.bytes[self.have..]) {
            Ok(0) => Err(io::Error::other(format!("ended {} bytes before it should", LEN - self.have))),
            Ok(got) => {
                self.have += got;
                Ok((self.have == LEN).then_some(&self.bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The user's end.
pub(crate) struct User {
    pub(crate) socket: TcpStream,
    order: Order,
    source: Source,
    pub(crate) sink: Sink,
    words: Words<REPORT>,
    report: Option<Report>,
}

impl User {
    /// Begins a stream on a connection that does not block.
    pub(crate) fn new(socket: TcpStream, order: Order) -> User {
        let mut source = if order.is_checked() {
            Source::checked(order.up, order.seed, order.write_max)
        } else {
            Source::plain(order.up)
        };
        source.say(&order.encode());
        let sink = Sink::new(order.down, order.is_checked());
        User { socket, order, source, sink, words: Words::new(), report: None }
    }

    /// What it waits for. Room to write only as long as it has something to write: else every wait would be over at once.
    pub(crate) fn interest(&self) -> EventFlags {
        let mut interest = EventFlags::IN;
        interest.set(EventFlags::OUT, !self.source.is_done());
        interest
    }

    /// Bytes that went either way so far.
    pub(crate) fn moved(&self) -> u64 {
        self.source.sent + self.sink.received + self.words.have as u64
    }

    /// How far it came, for a fault's text.
    pub(crate) fn progress(&self) -> String {
        let Order { up, down, .. } = self.order;
        format!("{} of {} up, {} of {} down", self.source.sent, up + ORDER as u64, self.sink.received, down)
    }

    /// One write and one read, as far as they go.
    ///
    /// # Errors
    /// When the connection broke, or the stream is not what was sent.
    pub(crate) fn turn(&mut self, flags: EventFlags, scratch: &mut Scratch) -> io::Result<Turn> {
        if flags.contains(EventFlags::OUT) && !self.source.is_done() {
            self.source.send(&self.socket, &scratch.zeros)?;
            if self.source.is_done() && self.order.is_checked() {
                self.socket.shutdown(Shutdown::Write)?;
            }
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return self.receive(&mut scratch.room);
        }
        Ok(Turn::Stays)
    }

    fn receive(&mut self, room: &mut [u8]) -> io::Result<Turn> {
        if !self.sink.is_done() {
            return match self.sink.receive(&self.socket, room)? {
                Moved::End => Err(io::Error::other("ended within the payload")),
                Moved::Nothing | Moved::Some => Ok(Turn::Stays),
            };
        }
        let Some(report) = self.report else {
            self.report = self.words.receive(&self.socket)?.map(Report::decode);
            return Ok(Turn::Stays);
        };
        match (&self.socket).read(&mut room[..1]) {
            Ok(0) => self.judge(&report).map(|()| Turn::Over),
            Ok(_) => Err(io::Error::other("more came than was sent")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Stays),
            Err(error) => Err(error),
        }
    }

    fn judge(&self, report: &Report) -> io::Result<()> {
        let Order { up, down, .. } = self.order;
        let pairs =
            [("up", up, self.source.sum(), report.received), ("down", down, report.sent, self.sink.sum())];
        for (name, want, sent, received) in pairs {
            if sent != received || sent.bytes != want {
                return Err(io::Error::other(format!(
                    "{name}: {} of {want} bytes sent, {} received, sums {}",
                    sent.bytes,
                    received.bytes,
                    if sent.sha256 == received.sha256 { "equal" } else { "DIFFER" }
                )));
            }
        }
        Ok(())
    }
}

/// The target's end.
pub(crate) struct Target {
    pub(crate) socket: TcpStream,
    words: Words<ORDER>,
    work: Option<Work>,
}

/// What was ordered.
struct Work {
    order: Order,
    source: Source,
    sink: Sink,
    /// The user's end of input was seen.
    ended: bool,
    reported: bool,
}

/// Bytes that a target received and sent on all its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Counted {
    pub(crate) fn json(&self) -> String {
        format!(r#"{{"received":{},"sent":{}}}"#, self.received, self.sent)
    }
}

impl Target {
    pub(crate) fn new(socket: TcpStream) -> Target {
        Target { socket, words: Words::new(), work: None }
    }

    pub(crate) fn interest(&self) -> EventFlags {
        match &self.work {
            None => EventFlags::IN,
            Some(work) => {
                let mut interest = EventFlags::empty();
                interest.set(EventFlags::IN, !work.ended);
                interest.set(EventFlags::OUT, !work.source.is_done());
                interest
            }
        }
    }

    /// One write and one read, as far as they go; counts them.
    ///
    /// # Errors
    /// When the connection broke, or what came is no order.
    pub(crate) fn turn(
        &mut self,
        flags: EventFlags,
        scratch: &mut Scratch,
        counted: &mut Counted,
    ) -> io::Result<Turn> {
        let readable = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        let Some(work) = &mut self.work else {
            if readable && let Some(order) = self.words.receive(&self.socket)? {
                self.work = Some(Work::new(Order::decode(order)?, counted));
            }
            return Ok(Turn::Stays);
        };
        if flags.contains(EventFlags::OUT) {
            let before = work.source.sent;
            work.source.send(&self.socket, &scratch.zeros)?;
            counted.sent += work.source.sent - before;
        }
        if readable && !work.ended {
            let before = work.sink.received;
            work.ended = work.sink.receive(&self.socket, &mut scratch.room)? == Moved::End;
            counted.received += work.sink.received - before;
        }
        if !work.source.is_done() || !work.ended {
            return Ok(Turn::Stays);
        }
        if work.order.is_checked() && !work.reported {
            work.reported = true;
            let report = Report { received: work.sink.sum(), sent: work.source.sum() };
            work.source.say(&report.encode());
            return Ok(Turn::Stays);
        }
        Ok(Turn::Over)
    }
}

impl Work {
    fn new(order: Order, counted: &Counted) -> Work {
        // A checked stream is read to its very end: what comes beyond the order would show in the sum.
        let expected = if order.is_count() { 0 } else { ENDLESS };
        let mut source = if order.is_checked() {
            Source::checked(order.down, order.seed.wrapping_add(1), order.write_max)
        } else {
            Source::plain(order.down)
        };
        if order.is_count() {
            source.say(&counted.received.to_be_bytes());
            source.say(&counted.sent.to_be_bytes());
        }
        let sink = Sink::new(expected, order.is_checked());
        Work { order, source, sink, ended: order.is_count(), reported: false }
    }
}
