//! The owner's side of one connection: what handlers are given.
//!
//! A connection belongs to one thread at a time (see `state`), so nothing here is locked or atomic except the
//! counters that others may read. Reading goes into the thread's own buffer, which is lent to the input for the
//! length of one handler call; what the handler leaves behind moves to memory of the right size. So an idle
//! connection owns no buffer.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use linkbuffer::LinkBuffer;

use crate::busy::Busy;
use crate::close::{Fault, Limit};
use crate::flags::Flags;
use crate::handle::{Handle, Shared};
use crate::kept::Kept;
use crate::limits;
use crate::state::Closer;
use crate::timer::{self, Due};
use crate::transport::Transport;
use crate::wait::Goal;
use crate::watch::{NEVER, Seen};

/// One accepted, dialed or adopted socket with its buffers, in the hands of its handler.
///
/// What is written to [`output`](Connection::output) leaves when the handler returns, in one system call where the
/// kernel takes it; [`flush`](Connection::flush) sends earlier. It lasts for one call: what may be kept is its
/// [`handle`](Connection::handle).
pub struct Connection<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) kept: &'a mut Kept,
    pub(crate) busy: &'a mut Busy,
}

impl Connection<'_> {
    /// The connection's TLS, where it has it: what was agreed upon in the handshake.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&crate::tls::Engine> {
        self.kept.tls.as_deref()
    }

    /// The bytes that have arrived and were not consumed. A byte that TCP marks as urgent is not among them, nor are
    /// descriptors that a Unix socket passes along: both are dropped, and what stands behind them is here.
    #[doc(alias = "Reader")]
    pub fn input(&mut self) -> &mut LinkBuffer {
        &mut self.busy.input
    }

    /// The bytes that are to be sent.
    #[doc(alias = "Writer")]
    pub fn output(&mut self) -> &mut LinkBuffer {
        &mut self.busy.output
    }

    /// Bytes of output that the kernel has not taken: those in the [`output`](Connection::output) and, with TLS, the
    /// records that were made of what was there. So it can be more than zero when the output is empty, and it is what to
    /// look at for who asks whether all has left.
    ///
    /// # Examples
    /// ```
    /// // Asks for more only as fast as the peer takes it.
    /// fn produce(conn: &mut poller::Connection, blocks: &mut impl Iterator<Item = Vec<u8>>) -> poller::Result {
    ///     while conn.unsent() < 64 * 1024
    ///         && let Some(block) = blocks.next()
    ///     {
    ///         conn.output().write(&block);
    ///         conn.flush()?;
    ///     }
    ///     if conn.unsent() > 0 {
    ///         conn.wake_on_progress();
    ///     }
    ///     Ok(())
    /// }
    /// # let event_loop = poller::EventLoop::new()?;
    /// # struct Blocks;
    /// # impl poller::Handler for Blocks {
    /// #     type Context = std::vec::IntoIter<Vec<u8>>;
    /// #     fn on_prepare(&self, _: &mut poller::Prepare<'_>) -> Result<Self::Context, poller::Reject> {
    /// #         Ok(vec![vec![7; 50_000]; 40].into_iter())
    /// #     }
    /// #     fn on_connect(&self, cx: &mut Self::Context, conn: &mut poller::Connection) -> poller::Result {
    /// #         self.on_request(cx, conn)
    /// #     }
    /// #     fn on_request(&self, cx: &mut Self::Context, conn: &mut poller::Connection) -> poller::Result {
    /// #         produce(conn, cx)?;
    /// #         if cx.len() == 0 {
    /// #             conn.close();
    /// #         }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let listener = event_loop.remote().serve(std::net::TcpListener::bind("127.0.0.1:0")?, Blocks)?;
    /// # let mut user = std::net::TcpStream::connect(listener.local_addr())?;
    /// # assert_eq!(std::io::copy(&mut user, &mut std::io::sink())?, 2_000_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unsent(&self) -> usize {
        self.busy.unsent()
    }

    /// Input and output at once.
    pub fn buffers(&mut self) -> (&mut LinkBuffer, &mut LinkBuffer) {
        (&mut self.busy.input, &mut self.busy.output)
    }

    /// Whether the peer has ended its stream: nothing will follow what is in the input now.
    pub fn input_ended(&self) -> bool {
        self.kept.flags.has(Flags::INPUT_ENDED)
    }

    /// The cheap side of this connection that may be kept, cloned and sent to other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// The connection's number, unique in the process.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The other end.
    #[doc(alias = "RemoteAddr")]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.peer_addr()
    }

    /// This end.
    #[doc(alias = "LocalAddr")]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.kept.transport.as_ref()?.local_addr()
    }

    /// Bytes that the kernel took so far.
    pub fn bytes_out(&self) -> u64 {
        self.shared.bytes_out.load(Relaxed)
    }

    /// Closes when the output has left: what is queued is still sent, unless none of it moves for
    /// [`CLOSE_STALL_MS`](crate::limits::CLOSE_STALL_MS) (builder: `close_stall`), or the connection's write-stall limit where
    /// that is shorter. Takes effect when the handler returns.
    ///
    /// Where the peer is known to be sending still (input was left unconsumed or unread), our stream ends first and what it
    /// sends is dropped, until it stops, for at most [`LINGER_MS`](crate::limits::LINGER_MS): otherwise the system
    /// would reset the connection, and the end of the output be lost.
    #[doc(alias = "Close")]
    pub fn close(&mut self) {
        let closer = if self.busy.stopping { Closer::Shutdown } else { Closer::User };
        self.shared.state.close_as_owner(closer, false);
    }

    /// Closes at once, dropping what is queued; the peer sees a reset (on a Unix socket, which has none, an ordinary end).
    /// Takes effect when the handler returns.
    pub fn abort(&mut self) {
        self.shared.state.close_as_owner(Closer::User, true);
    }

    /// Ends our stream after what is queued here and was sent by handles; reading goes on, and a handle's next send is
    /// refused. Writing more in a later callback is a mistake that breaks the connection.
    pub fn shutdown_write(&mut self) {
        if !self.kept.flags.has(Flags::END_ASKED) {
            self.kept.flags.set(Flags::END_ASKED);
            self.shared.end_sends(self.kept, self.busy);
        }
    }

    /// Keeps (or stops keeping) the connection open after the peer ended its stream, until our stream has ended too.
    pub fn set_half_close(&mut self, on: bool) {
        self.kept.flags.put(Flags::HALF_CLOSE, on);
    }

    /// Stops reading; the kernel's buffer fills and TCP slows the peer. Costs no system call.
    ///
    /// The peer's end waits behind what was not read, and is told after it. A connection that breaks is paused no longer:
    /// what came before is handed over, and then it closes.
    pub fn pause(&mut self) {
        self.kept.flags.set(Flags::PAUSED);
    }

    /// Reads again.
    pub fn resume(&mut self) {
        self.kept.flags.clear(Flags::PAUSED);
    }

    /// Whether the output stands above its high watermark: the handler should produce no more for now, and
    /// `on_drain` says when to go on.
    pub fn is_congested(&mut self) -> bool {
        let congested = self.busy.unsent() > limits::OUTPUT_HIGH_BYTES;
        if congested {
            self.kept.flags.set(Flags::ABOVE_HIGH);
        }
        congested
    }

    /// Asks for `on_request` when the kernel takes more of the output that waits now.
    pub fn wake_on_progress(&mut self) {
        self.kept.flags.set(Flags::WAKE_ON_PROGRESS);
    }

    /// Runs [`on_timer`](crate::Handler::on_timer) after `delay`. There is one timer per connection; setting it
    /// again replaces it.
    pub fn set_timer(&mut self, delay: Duration) {
        self.set_timer_at(timer::later(delay));
    }

    /// As [`set_timer`](Connection::set_timer), at an instant; at once when it has passed.
    pub fn set_timer_at(&mut self, at: Instant) {
        let clock = &self.shared.poll().clock;
        // One that is past already is due after the events that wait, as one without delay is.
        self.busy.deadlines.user = clock.at(at).max(clock.look() + 1);
        self.kept.flags.set(Flags::KEEPS);
    }

    /// Takes the timer back.
    pub fn clear_timer(&mut self) {
        self.busy.deadlines.user = NEVER;
    }

    /// Bounds the time for which a message may stand still: input that the handler left unconsumed, waiting for more of
    /// it. The time begins when the handler first leaves it, starts again when the handler consumes some, and ends when
    /// it consumes all, or the stream ends. It does not run while the connection is paused, its output is above the high
    /// watermark, or [`flush_all`](Connection::flush_all) waits, because then it is not the peer who is slow. A handler that consumes a message piece by piece
    /// bounds the whole with [`set_timer`](Connection::set_timer).
    ///
    /// All limits can be changed at any time, also while they run: they go on from where they began. The time is that
    /// which the poll last saw, so a limit may pass early by as much as a turn of the poll takes, and late by about a
    /// millisecond. Passing closes with [`Reason::Timeout`](crate::Reason::Timeout).
    ///
    /// # Errors
    /// When the limit is zero.
    pub fn set_read_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.set_limit(Limit::Read, limit)
    }

    /// Bounds the time for which output may wait while the kernel takes not one byte of it. What is left then is
    /// dropped, and the peer sees a reset. A transfer that moves is never cut.
    ///
    /// # Errors
    /// When the limit is zero.
    pub fn set_write_stall_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.set_limit(Limit::WriteStall, limit)
    }

    /// Bounds the time for which no byte is read or sent, for whatever reason: also while reading is paused or the output is
    /// full, so that in a relay it has to be longer than the write-stall limit of the other side.
    ///
    /// When this limit or the one for reading passes, the connection closes as by [`close`](Connection::close): what is queued
    /// is still sent, while it moves.
    ///
    /// # Errors
    /// When the limit is zero.
    pub fn set_idle_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.set_limit(Limit::Idle, limit)
    }

    fn set_limit(&mut self, limit: Limit, timeout: Option<Duration>) -> io::Result<()> {
        self.kept.flags.set(Flags::KEEPS);
        self.busy.watches.set(limit, timeout)
    }

    /// Takes note of what moved, and closes when a limit has passed. A handler that waits for input has begun a message; one
    /// that waits for its output to leave takes no input meanwhile.
    pub(crate) fn look_at_limits(&mut self, waits: Option<Goal>) {
        if self.busy.watches.is_empty() || !self.kept.phase.has_limits() {
            return;
        }
        let bytes_in = self.shared.bytes_in.load(Relaxed);
        let (input, output) = (self.busy.input.len(), self.busy.unsent());
        let stopped = self.kept.flags.has(Flags::PAUSED.with(Flags::INPUT_ENDED));
        let begun = match waits {
            None => input > 0,
            Some(Goal::Input(_)) => true,
            Some(Goal::Sent) => false,
        };
        let seen = Seen {
            input_waits: begun && !stopped && output <= limits::OUTPUT_HIGH_BYTES,
            output_waits: output > 0,
            consumed: self.bytes_read(bytes_in).wrapping_sub(input as u64),
            bytes_in,
            bytes_out: self.shared.bytes_out.load(Relaxed),
        };
        let now = self.shared.poll().now();
        self.busy.watches.look(&seen, now);
        let (at, limit) = self.busy.watches.next();
        if at <= now && self.shared.state.closing().is_none() {
            self.pass(limit);
        }
    }

    /// What came into the input: the bytes that were read, or what TLS made of them.
    fn bytes_read(&self, bytes_in: u64) -> u64 {
        #[cfg(feature = "tls")]
        if let Some(engine) = &self.kept.tls {
            return engine.opened;
        }
        bytes_in
    }

    /// Closes because a limit has passed. Where nothing moves, there is nothing to wait for.
    pub(crate) fn pass(&mut self, limit: Limit) {
        self.kept.flags.set(Flags::KEEPS);
        self.busy.details.limit.get_or_insert(limit);
        self.shared.state.close_as_owner(Closer::Timer, !matches!(limit, Limit::Read | Limit::Idle));
    }

    /// Puts the earliest deadline into the poll's timers, unless something as early stands there.
    pub(crate) fn arm(&mut self) {
        if !self.kept.flags.has(Flags::KEEPS) {
            return;
        }
        let limit = if self.kept.phase.has_limits() { self.busy.watches.next().0 } else { NEVER };
        let deadlines = &mut self.busy.deadlines;
        let next = deadlines.next().min(limit);
        if next == NEVER || deadlines.armed.is_some_and(|armed| armed.at <= next) {
            return;
        }
        let former = deadlines.armed.take();
        let due = Due::Connection(Arc::downgrade(self.shared));
        deadlines.armed = Some(self.shared.poll().arm_at(former, next, due));
    }

    /// Sends what is queued, as far as the kernel takes it; the rest goes out when it takes more.
    ///
    /// # Errors
    /// When the connection is broken. It then closes with that error when the handler returns.
    #[doc(alias = "Flush")]
    pub fn flush(&mut self) -> io::Result<()> {
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        if let Some(fault) = self.busy.broken {
            self.drop_output();
            return Err(fault.into());
        }
        let Some(transport) = &self.kept.transport else { return Ok(()) };
        let (mut total, mut short) = (0, false);
        #[cfg(feature = "tls")]
        let outcome = match &mut self.kept.tls {
            None => drain(transport, &mut self.busy.output, &mut total, &mut short),
            Some(engine) => {
                let end = self.kept.flags.has(Flags::END_ASKED);
                crate::tls::carry::drain(engine, end, transport, self.busy, &mut total, &mut short)
            }
        };
        #[cfg(not(feature = "tls"))]
        let outcome = drain(transport, &mut self.busy.output, &mut total, &mut short);
        if total > 0 {
            self.note_sent(total);
        }
        if let Err(error) = outcome.and_then(|()| if short { self.want_write() } else { Ok(()) }) {
            #[cfg(feature = "tls")]
            self.note_failure();
            self.break_off(Fault::from(&error));
            return Err(error);
        }
        if self.kept.flags.only(Flags::END_ASKED.with(Flags::END_SENT)) == Flags::END_ASKED
            && self.busy.unsent() == 0
        {
            self.end_output();
        }
        Ok(())
    }

    fn end_output(&mut self) {
        self.kept.flags.set(Flags::END_SENT);
        if let Some(transport) = &self.kept.transport
            && transport.shutdown_write().is_err()
        {
            // The peer has reset the connection: a read says so, after what is left to read.
            self.kept.flags.set(Flags::READABLE.with(Flags::HUP));
        }
    }

    /// Nothing can be sent any more. The system tells an error once, so it is kept, and reads go on to the end.
    pub(crate) fn break_off(&mut self, fault: Fault) {
        self.busy.broken = Some(fault);
        self.kept.flags.set(Flags::KEEPS.with(Flags::READABLE).with(Flags::HUP));
        // There is nobody to slow down any more, and what is left to read is what the kernel holds.
        self.kept.flags.clear(Flags::PAUSED);
        self.drop_output();
    }

    fn drop_output(&mut self) {
        self.busy.dropped += self.busy.unsent();
        self.busy.drop_unsent();
    }

    fn note_sent(&mut self, sent: usize) {
        let total = self.shared.bytes_out.load(Relaxed) + sent as u64;
        self.shared.bytes_out.store(total, Relaxed);
        self.shared.note_moved();
        if self.busy.deadlines.close != NEVER {
            let limit = self.busy.watches.write_stall();
            self.busy.deadlines.close = self.shared.poll().close_stalled(limit);
        }
        if self.kept.flags.take(Flags::WAKE_ON_PROGRESS) {
            self.shared.wake_owner();
        }
    }

    /// The kernel took less than there was: it tells when it takes more.
    fn want_write(&mut self) -> io::Result<()> {
        if self.busy.unsent() > limits::OUTPUT_HIGH_BYTES {
            self.kept.flags.set(Flags::ABOVE_HIGH);
        }
        self.kept.want_write(self.shared.poll())
    }

    /// Whether the output has passed the high watermark and is below the low one again.
    pub(crate) fn is_drained(&self) -> bool {
        // Output that was dropped has made no room.
        self.kept.flags.has(Flags::ABOVE_HIGH)
            && self.busy.unsent() <= limits::OUTPUT_LOW_BYTES
            && self.busy.broken.is_none()
    }

    /// Whether a read should be tried now.
    pub(crate) fn wants_read(&self) -> bool {
        let asked = Flags::READABLE.with(Flags::PAUSED).with(Flags::INPUT_ENDED);
        self.kept.flags.only(asked) == Flags::READABLE
            && self.busy.input.len() < limits::INPUT_HIGH_BYTES
            && self.busy.unsent() <= limits::OUTPUT_HIGH_BYTES
    }

    /// One read into the node that was lent to the input: the number of bytes, zero at the end of the stream, `None`
    /// when there was nothing.
    pub(crate) fn read(&mut self) -> io::Result<Option<usize>> {
        let Some(transport) = &self.kept.transport else { return Ok(None) };
        let space = self.busy.input.inputs();
        let room = space.len();
        let flags = &mut self.kept.flags;
        match transport.recv(space) {
            Ok(0) => {
                flags.clear(Flags::READABLE);
                if self.busy.broken.is_some() {
                    return Ok(None);
                }
                flags.set(Flags::INPUT_ENDED);
                Ok(Some(0))
            }
            Ok(n) => {
                self.busy.input.input_ack(n);
                // A short read drained the socket, unless its end is near, which must still be read, or it may stop at marks.
                if n < room && !flags.has(Flags::HUP.with(Flags::MARKED)) {
                    flags.clear(Flags::READABLE);
                }
                self.shared.bytes_in.store(self.shared.bytes_in.load(Relaxed) + n as u64, Relaxed);
                self.shared.note_moved();
                Ok(Some(n))
            }
            Err(error) => {
                flags.clear(Flags::READABLE);
                if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) }
            }
        }
    }
}

/// Sends until nothing is left or the kernel took less than there was, which `short` says then.
#[inline]
pub(crate) fn drain(
    transport: &Transport,
    bytes: &mut LinkBuffer,
    total: &mut usize,
    short: &mut bool,
) -> io::Result<()> {
    loop {
        let len = bytes.len();
        if len == 0 {
            return Ok(());
        }
        let piece = bytes.chunk();
        let (offered, sent) = if piece.len() == len {
            (len, transport.send(&[IoSlice::new(piece)]))
        } else {
            let mut pieces = [IoSlice::new(&[]); limits::IO_SLICES_MAX];
            let count = bytes.io_slices(&mut pieces);
            let offered = pieces[..count].iter().map(|piece| piece.len()).sum();
            (offered, transport.send(&pieces[..count]))
        };
        match sent {
            Ok(n) => {
                bytes.output_ack(n);
                *total += n;
                if n < offered {
                    *short = true;
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *short = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}
