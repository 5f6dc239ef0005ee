//! One stream of a tunnel joined to one connection: bytes both ways, each end of stream on its own.
//!
//! ```text
//!   connection.input  ──▶ session.write   (as far as window and queue allow; the rest stays, reading pauses)
//!   connection.output ◀── session.read    (as far as the output is small)
//!                     ──▶ session.delivered(what the kernel took)   the peer's window opens only by that
//!   input ended ──▶ FIN          end read ──▶ shutdown_write
//! ```
//! A slow connection holds back its own stream and nothing else: its bytes stay under the stream's window, in the
//! session, and no byte is dropped.
//!
//! # Who wakes whom
//! | what waits | for | and hears of it by |
//! |---|---|---|
//! | input, or an end behind it | window, or room in the stream's queue | `Writable` |
//! | the stream's bytes | room in the output | progress of the output |
//! | the peer's window | the kernel, here | progress of the output; less than [`RELAY_CREDIT_BYTES`] may stay unsaid, which leaves the peer half its window at least |
//! | our end of stream | the output, and the input when that has ended | both of the above |

use linkbuffer::LinkBuffer;

use crate::limits::{RELAY_CREDIT_BYTES, RELAY_OUTPUT_BYTES, RELAY_TURN_BYTES_MAX};
use crate::proto::frame::ResetCode;
use crate::proto::session::{Session, StreamId};
use crate::rt::{Connection, Reason};
use crate::tunnel::{Broken, Stream};

/// The joint.
#[derive(Debug)]
pub struct Relay {
    stream: Stream,
    /// Bytes read from the session. Invariant: credited <= delivered <= read.
    read: u64,
    /// Of those, bytes that were not for the connection as they are. Invariant: handled <= read.
    handled: u64,
    /// How much of `read` the session was told to have reached the kernel.
    credited: u64,
    /// Bytes written into the session.
    sent: u64,
    /// What goes into the session before the connection's input.
    before: LinkBuffer,
    finished: bool,
    ended: bool,
}

/// How a relay stands after [`Relay::pump`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Open,
    /// Both directions have ended.
    Done,
    /// The stream broke.
    Broken(Broken),
}

impl Relay {
    /// Joins a stream that was accepted.
    pub fn new(stream: Stream) -> Relay {
        Relay {
            stream,
            read: 0,
            handled: 0,
            credited: 0,
            sent: 0,
            before: LinkBuffer::new(),
            finished: false,
            ended: false,
        }
    }

    /// Joins a stream that was in use: `read` bytes of it were read, of which `input` are still to go to the
    /// connection, and `before` goes into it first.
    pub fn resume(
        stream: Stream,
        read: u64,
        ended: bool,
        input: LinkBuffer,
        before: LinkBuffer,
        conn: &mut Connection,
    ) -> Relay {
        let handled = read.saturating_sub(input.len() as u64);
        conn.output().append(input);
        Relay { read, handled, ended, before, ..Relay::new(stream) }
    }

    /// Bytes that came out of the tunnel for the connection.
    pub fn bytes_read(&self) -> u64 {
        self.read - self.handled
    }

    /// Bytes that went into the tunnel.
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// The connection has closed: breaks off what is left, so that the other side does not take it for all. Nothing
    /// happens to a stream that was done.
    pub fn abandon(&mut self, reason: &Reason) {
        match reason {
            Reason::Shutdown => self.stream.abandon(ResetCode::Stopping),
            Reason::Timeout(_) => self.stream.abandon(ResetCode::Timeout),
            Reason::Handler(_) | Reason::Panic => self.stream.abandon(ResetCode::Internal),
            Reason::User | Reason::Detached => self.stream.abandon(ResetCode::Reset),
            // What it had sent before it broke off may be a whole answer.
            Reason::Peer | Reason::Error(_) | Reason::Tls(_) => self.stream.abandon_behind(ResetCode::Reset),
        }
    }

    /// Moves what can be moved. Call it for every news of the connection or the stream.
    ///
    /// A connection that turns out to be broken is no flow of its own: it closes with its error by itself.
    pub fn pump(&mut self, conn: &mut Connection) -> Flow {
        let begun = self.read;
        loop {
            let room = RELAY_OUTPUT_BYTES.saturating_sub(conn.unsent());
            let read = self.exchange(conn, room);
            if conn.flush().is_err() {
                return Flow::Open;
            }
            let uncredited = self.delivered(conn) - self.credited;
            let more = read == room && !self.ended;
            if conn.unsent() > 0 || !(more || uncredited >= RELAY_CREDIT_BYTES) {
                break;
            }
            if self.read - begun >= RELAY_TURN_BYTES_MAX {
                // Others first.
                conn.handle().wake();
                break;
            }
        }
        let stopped = match self.stream.broken() {
            // What it still sends is to be read; what we would send is not wanted.
            Some(Broken::Stopped(_)) => true,
            Some(broken) if !(self.finished && self.ended) => return Flow::Broken(broken),
            _ => false,
        };
        if stopped {
            self.finished = true;
            conn.input().clear();
        }
        // What is here already goes first: then the rest, and the end, are read.
        match self.finished || (conn.input().is_empty() && self.before.is_empty()) {
            true => conn.resume(),
            false => conn.pause(),
        }
        if self.finished && self.ended {
            // The end that was asked for may still wait to be sent: the stream leaves by itself.
            self.stream.leave();
            return Flow::Done;
        }
        if conn.unsent() > 0 {
            conn.wake_on_progress();
        } else if self.ended && !conn.input_ended() {
            // With both ends reached the connection would close by itself, though its input may still wait for the
            // window: then the end waits for that.
            conn.shutdown_write();
        }
        Flow::Open
    }

    /// Of the bytes read, those that reached the kernel.
    fn delivered(&self, conn: &mut Connection) -> u64 {
        self.read.saturating_sub(conn.unsent() as u64)
    }

    /// All that there is to say to the session, in one go. Returns how much was read.
    fn exchange(&mut self, conn: &mut Connection, room: usize) -> usize {
        let delivered = self.delivered(conn);
        let ended = conn.input_ended();
        let credit = delivered > self.credited;
        self.credited = delivered;
        if self.finished {
            conn.input().clear();
        }
        let reads = room > 0 && !self.ended;
        let writes = !self.finished && (ended || !conn.input().is_empty() || !self.before.is_empty());
        if !(reads || writes || credit) {
            return 0;
        }
        let stream = &self.stream;
        let (before, (input, output)) = (&mut self.before, conn.buffers());
        let write = |session: &mut Session, id: StreamId| {
            let mut written = 0;
            for bytes in [before, input] {
                if !bytes.is_empty() {
                    // Gone, or not wanted: the notes say how.
                    written += session.write(id, bytes).unwrap_or(0);
                    if !bytes.is_empty() {
                        return (written, false);
                    }
                }
            }
            let finished = ended && session.contains(id);
            if finished {
                session.finish(id);
            }
            (written, finished)
        };
        let (written, finished, read) = stream.exchange(|session, id| {
            if credit {
                session.delivered(id, delivered);
            }
            let (written, finished) = if writes { write(session, id) } else { (0, false) };
            // A stream that is gone gives nothing, and the notes say why.
            let read = reads.then(|| session.read(id, output, room).ok()).flatten().unwrap_or_default();
            (written, finished, read)
        });
        self.sent += written as u64;
        self.finished |= finished;
        self.read += read.bytes as u64;
        self.ended |= read.end;
        read.bytes
    }
}
