//! The owner's side of one connection: what handlers are given.
//!
//! A connection belongs to one thread at a time (see `state`), so nothing here is locked or atomic except the
//! counters that others may read. Reading goes into the thread's own buffer, which is lent to the input for the
//! length of one handler call; what the handler leaves behind moves to memory of the right size. So an idle
//! connection owns no buffer.

use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use linkbuffer::{LinkBuffer, Node};
use mio::Interest;
use mio::unix::SourceFd;
use socket2::Socket;
use std::os::fd::AsRawFd;

use crate::close::Fault;
use crate::handle::{Handle, Shared};
use crate::limits;
use crate::state::Closer;
use crate::timer;
use crate::token::Token;

/// One accepted or dialed socket with its buffers, in the hands of its handler.
///
/// What is written to [`output`](Connection::output) leaves when the handler returns, in one system call where the
/// kernel takes it; [`flush`](Connection::flush) sends earlier.
pub struct Connection {
    pub(crate) socket: Option<Socket>,
    pub(crate) shared: Weak<Shared>,
    pub(crate) input: LinkBuffer,
    pub(crate) output: LinkBuffer,
    pub(crate) token: Option<Token>,
    /// Interest in writing joins once, the first time that the kernel took less than was offered.
    pub(crate) interest_write: bool,
    /// The kernel had something to read when last heard of.
    pub(crate) readable: bool,
    /// The kernel announced the end: a short read does not mean drained any more.
    pub(crate) hup: bool,
    pub(crate) input_ended: bool,
    pub(crate) end_handled: bool,
    pub(crate) half_close: bool,
    pub(crate) paused: bool,
    pub(crate) shutdown_write: ShutdownWrite,
    /// Output was seen above the high watermark and has not been below the low one since.
    pub(crate) above_high: bool,
    pub(crate) wake_on_progress: bool,
    /// Sending failed. What the peer had sent before is still read and handed over, then the connection closes.
    pub(crate) broken: Option<Fault>,
    /// Output bytes that were dropped because sending failed.
    pub(crate) dropped: usize,
    /// `on_shutdown` runs: a close has that reason.
    pub(crate) stopping: bool,
    pub(crate) deadlines: Deadlines,
    pub(crate) opened: Instant,
}

/// How far our own end of stream has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShutdownWrite {
    Open,
    /// After what is queued.
    Asked,
    Done,
}

/// The instants at which this connection wants to be looked at. `armed` is what stands in the poll's timers: it may
/// be earlier than needed (then nothing happens), never later.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    pub(crate) user: Option<Instant>,
    pub(crate) connect: Option<Instant>,
    pub(crate) close: Option<Instant>,
    pub(crate) armed: Option<crate::timer::Key>,
}

impl Deadlines {
    pub(crate) fn next(&self) -> Option<Instant> {
        [self.user, self.connect, self.close].into_iter().flatten().min()
    }

    /// The entry in the poll's timers has fired, if it was due.
    pub(crate) fn fired(&mut self, now: Instant) {
        self.armed = self.armed.filter(|armed| armed.0 > now);
    }

    pub(crate) fn due(deadline: &mut Option<Instant>, now: Instant) -> bool {
        let due = deadline.is_some_and(|at| at <= now);
        if due {
            *deadline = None;
        }
        due
    }
}

impl Connection {
    pub(crate) fn new(socket: Socket, shared: Weak<Shared>, half_close: bool) -> Connection {
        Connection {
            socket: Some(socket),
            shared,
            input: LinkBuffer::new(),
            output: LinkBuffer::new(),
            token: None,
            interest_write: false,
            readable: false,
            hup: false,
            input_ended: false,
            end_handled: false,
            half_close,
            paused: false,
            shutdown_write: ShutdownWrite::Open,
            above_high: false,
            wake_on_progress: false,
            broken: None,
            dropped: 0,
            stopping: false,
            deadlines: Deadlines::default(),
            opened: Instant::now(),
        }
    }

    fn shared(&self) -> Arc<Shared> {
        self.shared.upgrade().expect("a connection lives inside its shared half")
    }

    /// The bytes that have arrived and were not consumed.
    pub fn input(&mut self) -> &mut LinkBuffer {
        &mut self.input
    }

    /// The bytes that are to be sent.
    pub fn output(&mut self) -> &mut LinkBuffer {
        &mut self.output
    }

    /// Input and output at once.
    pub fn buffers(&mut self) -> (&mut LinkBuffer, &mut LinkBuffer) {
        (&mut self.input, &mut self.output)
    }

    /// Whether the peer has ended its stream: nothing will follow what is in the input now.
    pub fn input_ended(&self) -> bool {
        self.input_ended
    }

    /// The cheap side of this connection that may be kept, cloned and sent to other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared())
    }

    /// The connection's number, unique in the process.
    pub fn id(&self) -> u64 {
        self.shared().id
    }

    /// The other end.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared().peer
    }

    /// This end.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.as_ref()?.local_addr().ok()?.as_socket()
    }

    /// Bytes that the kernel took so far.
    pub fn bytes_out(&self) -> u64 {
        self.shared().bytes_out.load(Relaxed)
    }

    /// Closes when the output has left (L-23): what is queued is still sent, unless none of it moves for
    /// [`CLOSE_STALL_MS`](crate::limits::CLOSE_STALL_MS) (builder: `close_stall`). Takes effect when the handler returns.
    pub fn close(&mut self) {
        let closer = if self.stopping { Closer::Shutdown } else { Closer::User };
        self.shared().state.close_as_owner(closer, false);
    }

    /// Closes at once, dropping what is queued; the peer sees a reset. Takes effect when the handler returns.
    pub fn abort(&mut self) {
        self.shared().state.close_as_owner(Closer::User, true);
    }

    /// Ends our stream after what is queued here and was sent by handles; reading goes on, and a handle's next send is
    /// refused. Writing more afterwards is a mistake that breaks the connection.
    pub fn shutdown_write(&mut self) {
        if self.shutdown_write == ShutdownWrite::Open {
            self.shutdown_write = ShutdownWrite::Asked;
            let shared = self.shared();
            shared.outbox.lock().ended = true;
            shared.collect(self);
        }
    }

    /// Keeps (or stops keeping) the connection open after the peer ended its stream, until our stream has ended too.
    pub fn set_half_close(&mut self, on: bool) {
        self.half_close = on;
    }

    /// Stops reading; the kernel's buffer fills and TCP slows the peer. Costs no system call.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Reads again.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Whether the output stands above its high watermark: the handler should produce no more for now, and
    /// `on_drain` says when to go on.
    pub fn is_congested(&mut self) -> bool {
        let congested = self.output.len() > limits::OUTPUT_HIGH_BYTES;
        self.above_high |= congested;
        congested
    }

    /// Asks for `on_request` when the kernel takes more of the output that waits now.
    pub fn wake_on_progress(&mut self) {
        self.wake_on_progress = true;
    }

    /// Runs [`on_timer`](crate::Handler::on_timer) after `delay`. There is one timer per connection; setting it
    /// again replaces it.
    pub fn set_timer(&mut self, delay: Duration) {
        self.set_timer_at(timer::later(delay));
    }

    /// As [`set_timer`](Connection::set_timer), at an instant.
    pub fn set_timer_at(&mut self, at: Instant) {
        self.deadlines.user = Some(at);
    }

    /// Takes the timer back.
    pub fn clear_timer(&mut self) {
        self.deadlines.user = None;
    }

    /// Sends what is queued, as far as the kernel takes it; the rest goes out when it takes more.
    ///
    /// # Errors
    /// When the connection is broken. It then closes with that error when the handler returns.
    pub fn flush(&mut self) -> io::Result<()> {
        let shared = self.shared();
        self.flush_for(&shared)
    }

    pub(crate) fn flush_for(&mut self, shared: &Shared) -> io::Result<()> {
        if let Some(fault) = self.broken {
            self.drop_output(shared);
            return Err(fault.into());
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut sent_all = 0u64;
        let outcome = loop {
            if self.output.is_empty() {
                break Ok(());
            }
            let mut slices = [IoSlice::new(&[]); limits::IO_SLICES_MAX];
            let count = self.output.io_slices(&mut slices);
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            let sent = if count == 1 {
                socket.send_with_flags(&slices[0], libc::MSG_NOSIGNAL)
            } else {
                socket.send_vectored_with_flags(&slices[..count], libc::MSG_NOSIGNAL)
            };
            match sent {
                Ok(n) => {
                    self.output.output_ack(n);
                    sent_all += n as u64;
                    if n < offered {
                        break self.want_write(shared);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break self.want_write(shared),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if sent_all > 0 || self.output.is_empty() {
            self.note_progress(shared, sent_all);
        }
        if let Err(error) = outcome {
            self.break_off(shared, Fault::from(&error));
            return Err(error);
        }
        if self.output.is_empty() && self.shutdown_write == ShutdownWrite::Asked {
            self.shutdown_write = ShutdownWrite::Done;
            if let Some(socket) = &self.socket
                && socket.shutdown(std::net::Shutdown::Write).is_err()
            {
                // The peer has reset the connection: a read says so, after what is left to read.
                self.readable = true;
                self.hup = true;
            }
        }
        Ok(())
    }

    /// Nothing can be sent any more. The system tells an error once, so it is kept, and reads go on to the end.
    pub(crate) fn break_off(&mut self, shared: &Shared, fault: Fault) {
        self.broken = Some(fault);
        self.readable = true;
        self.hup = true;
        self.drop_output(shared);
    }

    fn drop_output(&mut self, shared: &Shared) {
        self.dropped += self.output.len();
        self.output = LinkBuffer::new();
        shared.unsent.store(0, Relaxed);
    }

    fn note_progress(&mut self, shared: &Shared, sent: u64) {
        let total = shared.bytes_out.load(Relaxed) + sent;
        shared.bytes_out.store(total, Relaxed);
        shared.unsent.store(self.output.len(), Relaxed);
        if sent > 0 {
            if self.deadlines.close.is_some() {
                self.deadlines.close = Some(timer::later(shared.poll.close_stall));
            }
            if std::mem::take(&mut self.wake_on_progress) {
                shared.wake_owner();
            }
        }
    }

    fn want_write(&mut self, shared: &Shared) -> io::Result<()> {
        self.above_high |= self.output.len() > limits::OUTPUT_HIGH_BYTES;
        shared.unsent.store(self.output.len(), Relaxed);
        if self.interest_write {
            return Ok(());
        }
        if let Some((fd, token)) = self.fd().zip(self.token) {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let mut source = SourceFd(&fd);
            shared.poll.registry(|registry| registry.reregister(&mut source, token.to_mio(), interest))?;
            self.interest_write = true;
        }
        Ok(())
    }

    pub(crate) fn fd(&self) -> Option<i32> {
        self.socket.as_ref().map(|socket| socket.as_raw_fd())
    }

    /// Whether the output has passed the high watermark and is below the low one again.
    pub(crate) fn is_drained(&self) -> bool {
        self.above_high && self.output.len() <= limits::OUTPUT_LOW_BYTES
    }

    /// Whether a read should be tried now.
    pub(crate) fn wants_read(&self) -> bool {
        self.readable
            && !self.paused
            && !self.input_ended
            && self.input.len() < limits::INPUT_HIGH_BYTES
            && self.output.len() <= limits::OUTPUT_HIGH_BYTES
    }

    /// One read into the lent node: the number of bytes, zero at the end of the stream, `None` when there was
    /// nothing.
    pub(crate) fn read(&mut self, shared: &Shared, node: Node) -> io::Result<Option<usize>> {
        self.input.lend(node);
        let Some(socket) = &self.socket else { return Ok(None) };
        let space = self.input.inputs();
        let room = space.len();
        let mut socket = socket;
        loop {
            match socket.read(space) {
                Ok(0) if self.broken.is_some() => {
                    self.readable = false;
                    return Ok(None);
                }
                Ok(0) => {
                    self.input_ended = true;
                    self.readable = false;
                    return Ok(Some(0));
                }
                Ok(n) => {
                    self.input.input_ack(n);
                    // A short read drained the socket, unless its end is near: then the end must still be read.
                    self.readable = n == room || self.hup;
                    shared.bytes_in.store(shared.bytes_in.load(Relaxed) + n as u64, Relaxed);
                    return Ok(Some(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
