//! The shared half of a connection, and the handle that everyone but the owner holds.
//!
//! A send from another thread goes into the outbox, in order, from any number of threads. A sender that finds the
//! connection idle takes it and writes at once on its own thread, so nothing is woken for it; otherwise the owner
//! finds the outbox when it looks again. A handle may outlive its connection, and then says so.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use bytes::Bytes;
use linkbuffer::LinkBuffer;
use parking_lot::Mutex;

use crate::close::{Closed, Details};
use crate::connection::Connection;
use crate::handler::Session;
use crate::job::Job;
use crate::limits;
use crate::poll::PollShared;
use crate::state::{Closer, News, OnNotify, OnRelease, State};

/// One connection as everyone sees it.
pub(crate) struct Shared {
    pub(crate) state: State,
    pub(crate) id: u64,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) poll: Arc<PollShared>,
    /// The owner's part. Never contended: `state` names the one thread that may lock it.
    pub(crate) core: Mutex<Core>,
    pub(crate) outbox: Mutex<Outbox>,
    /// Bytes read from the kernel. Written by the owner alone.
    pub(crate) bytes_in: AtomicU64,
    /// Bytes that the kernel took. Written by the owner alone.
    pub(crate) bytes_out: AtomicU64,
    /// Output that waits for the kernel, without the outbox. Written by the owner alone.
    pub(crate) unsent: AtomicUsize,
}

/// What only the owner touches.
pub(crate) struct Core {
    pub(crate) conn: Connection,
    /// `None` after clean-up.
    pub(crate) session: Option<Box<dyn Session>>,
    pub(crate) phase: Phase,
    pub(crate) details: Details,
    /// What came while the dial was under way and is looked at after `on_connect`.
    pub(crate) early: News,
}

/// The phases in which an owner meets a connection; creation and preparation come before there is an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A dial waits for the kernel's verdict.
    Dialing,
    /// `on_connect` has not run.
    Connecting,
    Working,
    /// The close was seen; the output that is left is being sent.
    Closing,
    Closed,
}

type CloseCallback = Box<dyn FnOnce(&Closed) + Send>;

/// What other threads leave for the owner.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Invariant: bytes.len() + unsent <= OUTPUT_HIGH_BYTES + one send.
    pub(crate) bytes: LinkBuffer,
    pub(crate) callbacks: Vec<CloseCallback>,
    /// Handles to wake when there is room. Invariant: waiters.len() <= DRAIN_WAITERS_MAX.
    pub(crate) waiters: Vec<Handle>,
    /// Our stream has ended, or will after what is queued: sends are refused.
    pub(crate) ended: bool,
    /// Set by clean-up, before the callbacks run.
    pub(crate) closed: Option<Arc<Closed>>,
}

impl Shared {
    /// Tells whoever owns the connection, or makes its poll run it.
    pub(crate) fn notify(self: &Arc<Shared>, news: News) {
        if let OnNotify::Own = self.state.notify(news) {
            self.poll.push(Job::Run(self.clone()));
        }
    }

    /// From the owner to itself: `on_request` is wanted once more.
    pub(crate) fn wake_owner(&self) {
        // The caller owns the connection, so it will look again.
        self.state.note_as_owner(News::WOKEN);
    }

    pub(crate) fn close(self: &Arc<Shared>, closer: Closer, abort: bool) {
        if let OnNotify::Own = self.state.close(closer, abort) {
            self.poll.push(Job::Run(self.clone()));
        }
    }

    /// Moves the outbox behind the output.
    pub(crate) fn collect(&self, conn: &mut Connection) {
        let mut outbox = self.outbox.lock();
        conn.output.append(std::mem::take(&mut outbox.bytes));
        // Under the lock, so that a sender never sees the bytes in neither place.
        self.unsent.store(conn.output.len(), Relaxed);
    }

    /// Wakes the handles that wait for room, if there is some.
    pub(crate) fn wake_waiters(&self, conn: &Connection) {
        if conn.output.len() <= limits::OUTPUT_LOW_BYTES {
            // Bound first: a woken connection may be this one.
            let waiters = std::mem::take(&mut self.outbox.lock().waiters);
            waiters.iter().for_each(Handle::wake);
        }
    }

    /// Sends the outbox on the calling thread, which has just become the owner. No callback runs here: whatever
    /// else there is to do goes to the poll, also the news that came with the ownership.
    fn send_now(self: &Arc<Shared>, news: News) {
        {
            let mut core = self.core.lock();
            if matches!(core.phase, Phase::Working) {
                self.collect(&mut core.conn);
                if core.conn.flush_for(self).is_err() {
                    // Released below, where the poll is told to look at the broken connection.
                    self.state.note_as_owner(News::HUP);
                }
                self.wake_waiters(&core.conn);
            } else {
                self.state.note_as_owner(News::SENT);
            }
        }
        self.state.note_as_owner(news.without(News::SENT));
        if let OnRelease::Again = self.state.release() {
            self.poll.push(Job::Run(self.clone()));
        }
    }
}

/// The side of a connection that may be kept anywhere, cloned, and sent to other threads.
///
/// It keeps neither the connection open nor its buffers alive.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// Why a send was not taken. The bytes come back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError {
    /// The connection has more unsent output than its high watermark allows; see [`Handle::wake_on_drain`].
    WouldBlock(Bytes),
    /// The connection is closed or closing.
    Closed(Bytes),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::WouldBlock(_) => "the output is above its high watermark",
            SendError::Closed(_) => "the connection is closed",
        })
    }
}

impl std::error::Error for SendError {}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Handle {
        Handle(shared)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// The connection's number, unique in the process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The other end.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// Bytes that the kernel took so far.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.load(Relaxed)
    }

    /// Bytes that were read so far.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.load(Relaxed)
    }

    /// Whether clean-up is over, or a close was asked for.
    pub fn is_closed(&self) -> bool {
        self.0.state.is_done() || self.0.state.closing().is_some()
    }

    /// Sends `bytes` after everything that was sent before. They leave from this thread when the connection is
    /// idle, and otherwise when its owner lets go.
    ///
    /// # Errors
    /// [`SendError::WouldBlock`] above the high watermark, [`SendError::Closed`] when closing has begun or our stream was
    /// ended by [`Connection::shutdown_write`].
    pub fn send(&self, bytes: Bytes) -> Result<(), SendError> {
        {
            let mut outbox = self.0.outbox.lock();
            if outbox.closed.is_some() || outbox.ended || self.0.state.closing().is_some() {
                return Err(SendError::Closed(bytes));
            }
            if outbox.bytes.len() + self.0.unsent.load(Relaxed) > limits::OUTPUT_HIGH_BYTES {
                return Err(SendError::WouldBlock(bytes));
            }
            outbox.bytes.write_bytes(bytes);
        }
        if let Some(news) = self.0.state.acquire(News::SENT) {
            self.0.send_now(news);
        }
        Ok(())
    }

    /// Wakes `waiter` once this connection's output is below its low watermark, or closed.
    pub fn wake_on_drain(&self, waiter: &Handle) {
        {
            let mut outbox = self.0.outbox.lock();
            let waiting = outbox.bytes.len() + self.0.unsent.load(Relaxed) > limits::OUTPUT_LOW_BYTES;
            if outbox.closed.is_none() && waiting && outbox.waiters.len() < limits::DRAIN_WAITERS_MAX {
                outbox.waiters.push(waiter.clone());
                return;
            }
        }
        waiter.wake();
    }

    /// Asks for one `on_request` of this connection, on a worker thread. Nothing happens when it is closed.
    pub fn wake(&self) {
        self.0.notify(News::WOKEN);
    }

    /// Closes after what was sent (see [`Connection::close`]).
    pub fn close(&self) {
        self.0.close(Closer::User, false);
    }

    /// Closes at once, dropping what is queued; the peer sees a reset.
    pub fn abort(&self) {
        self.0.close(Closer::User, true);
    }

    /// Adds a close callback: last in, first out, before the handler's `on_close`. After the close it runs at
    /// once, on the calling thread.
    pub fn add_close_callback(&self, callback: impl FnOnce(&Closed) + Send + 'static) {
        let closed = {
            let mut outbox = self.0.outbox.lock();
            match &outbox.closed {
                None => {
                    outbox.callbacks.push(Box::new(callback));
                    return;
                }
                Some(closed) => closed.clone(),
            }
        };
        callback(&closed);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("id", &self.0.id).field("peer", &self.0.peer).finish()
    }
}
