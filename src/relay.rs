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

use linkbuffer::LinkBuffer;
use poller::{Connection, Reason};

use crate::limits::RELAY_OUTPUT_BYTES;
use crate::proto::frame::ResetCode;
use crate::proto::session::StreamError;
use crate::tunnel::{Broken, Stream};

/// The joint.
#[derive(Debug)]
pub struct Relay {
    stream: Stream,
    /// Bytes read from the session. Invariant: delivered <= read.
    read: u64,
    /// Of those, bytes that were not for the connection as they are. Invariant: handled <= read.
    handled: u64,
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
        Relay { stream, read, handled, sent: 0, before, finished: false, ended }
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Bytes that came out of the tunnel for the connection.
    pub fn bytes_read(&self) -> u64 {
        self.read - self.handled
    }

    /// Bytes that went into the tunnel.
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// Whether the tunnel's direction towards this connection has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether this connection's direction into the tunnel has ended.
    pub fn has_finished(&self) -> bool {
        self.finished
    }

    /// Moves what can be moved. Call it for every news of the connection or the stream.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn pump(&mut self, conn: &mut Connection) -> poller::Result<Flow> {
        self.upstream(conn);
        let mut lost = self.downstream(conn)?;
        if self.ended && conn.output().is_empty() {
            conn.shutdown_write();
        }
        if self.finished && self.ended {
            return Ok(self.done());
        }
        lost = lost.or(self.stream.broken());
        match lost {
            // What it still sends is to be read; what we would send is not wanted.
            Some(Broken::Stopped(_)) => {
                self.finished = true;
                conn.input().clear();
                Ok(if self.ended { self.done() } else { Flow::Open })
            }
            Some(broken) => Ok(Flow::Broken(broken)),
            None => Ok(Flow::Open),
        }
    }

    /// The connection closed. Unless both directions had ended, the other side is told that it broke.
    pub fn abandon(&self, reason: &Reason) {
        if self.finished && self.ended {
            return;
        }
        self.stream.reset(match reason {
            Reason::Shutdown => ResetCode::Stopping,
            Reason::Timeout => ResetCode::Timeout,
            Reason::Handler(_) | Reason::Panic => ResetCode::Internal,
            _ => ResetCode::Reset,
        });
    }

    /// The end that was asked for may still wait to be sent: the stream leaves by itself.
    fn done(&mut self) -> Flow {
        self.stream.leave();
        Flow::Done
    }

    /// From the connection into the tunnel.
    fn upstream(&mut self, conn: &mut Connection) {
        if self.finished {
            conn.input().clear();
            return;
        }
        let ended = conn.input_ended();
        let (input, before) = (conn.input(), &mut self.before);
        if input.is_empty() && before.is_empty() && !ended {
            return;
        }
        let written = self.stream.exchange(|session, id| {
            let mut written = 0;
            for bytes in [&mut *before, &mut *input] {
                if !bytes.is_empty() {
                    written += session.write(id, bytes)?;
                }
            }
            if ended && input.is_empty() && before.is_empty() {
                session.finish(id);
            }
            Ok(written)
        });
        match written {
            Ok(bytes) => {
                self.sent += bytes as u64;
                self.finished = ended && conn.input().is_empty() && self.before.is_empty();
            }
            Err(StreamError::Opening) => {}
            // Broken or stopped: the notes say how.
            Err(StreamError::Gone | StreamError::Finished) => {}
        }
        // The session takes more once there is room, and says so.
        match conn.input().is_empty() {
            true => conn.resume(),
            false => conn.pause(),
        }
    }

    /// From the tunnel to the connection.
    fn downstream(&mut self, conn: &mut Connection) -> poller::Result<Option<Broken>> {
        loop {
            let room = RELAY_OUTPUT_BYTES.saturating_sub(conn.output().len());
            if room > 0 && !self.ended {
                let output = conn.output();
                match self.stream.exchange(|session, id| session.read(id, output, room)) {
                    Ok(read) => {
                        self.read += read.bytes as u64;
                        self.ended |= read.end;
                        if read.bytes > 0 {
                            conn.flush()?;
                            self.credit(conn);
                            if conn.output().is_empty() && !self.ended {
                                continue;
                            }
                        }
                    }
                    // The end was read before, or the stream is gone: the notes say how.
                    Err(_) if self.stream.is_closed() => {
                        return Ok(Some(self.stream.broken().unwrap_or(Broken::Lost)));
                    }
                    Err(_) => {}
                }
            } else {
                conn.flush()?;
                self.credit(conn);
            }
            if !conn.output().is_empty() {
                conn.wake_on_progress();
            }
            return Ok(None);
        }
    }

    /// Gives back the window of what has reached the kernel.
    fn credit(&self, conn: &mut Connection) {
        let delivered = self.read.saturating_sub(conn.output().len() as u64);
        if !self.stream.is_closed() {
            self.stream.exchange(|session, id| session.delivered(id, delivered));
        }
    }
}
