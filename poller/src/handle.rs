//! The shared half of a connection, and the handle that everyone but the owner holds.
//!
//! A send from another thread goes into the outbox, in order, from any number of threads. A sender that finds the
//! connection idle takes it and writes at once on its own thread, so nothing is woken for it; otherwise the owner
//! finds the outbox when it looks again. A handle may outlive its connection, and then says so.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use linkbuffer::LinkBuffer;
use socket2::Socket;

use crate::busy::{self, Busy};
use crate::clock::{self, tick};
use crate::close::Closed;
use crate::connection::Connection;
use crate::flags::Flags;
use crate::handler::{Context, Wishes};
use crate::job::Job;
use crate::kept::{Core, Kept, Phase};
use crate::limits;
use crate::peer::Peer;
use crate::poll::PollShared;
use crate::service::Service;
use crate::state::{Closer, News, OnNotify, OnRelease, State};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::timer;
use crate::token::Token;
use crate::transport::Transport;
use crate::wait::Parker;
use crate::waiters::Waiters;
use crate::watch::NEVER;

/// One connection as everyone sees it.
///
/// An idle connection is this and its slot in the poll's table; `tests` below hold its size.
pub(crate) struct Shared {
    pub(crate) state: State,
    pub(crate) id: u64,
    pub(crate) peer: Peer,
    pub(crate) service: Arc<Service>,
    /// When it was made, on the poll's clock.
    pub(crate) opened: u64,
    /// The [`tick`] at which a byte was last read or sent. Written by the owner alone.
    moved: AtomicU32,
    /// The owner's part. Never contended: `state` names the one thread that may lock it.
    pub(crate) core: Mutex<Core>,
    /// `None` while there is nothing in it.
    outbox: Mutex<Option<Box<Outbox>>>,
    /// Bytes read from the kernel. Written by the owner alone.
    pub(crate) bytes_in: AtomicU64,
    /// Bytes that the kernel took. Written by the owner alone.
    pub(crate) bytes_out: AtomicU64,
}

pub(crate) type CloseCallback = Box<dyn FnOnce(&Closed) + Send>;

/// What other threads leave for the owner.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Invariant: bytes.len() + unsent <= OUTPUT_HIGH_BYTES + one send.
    bytes: LinkBuffer,
    /// Output that waits for the kernel, as far as handles have been told.
    unsent: usize,
    callbacks: Vec<CloseCallback>,
    /// Handles to wake when there is room.
    waiters: Option<Box<Waiters<Handle>>>,
    /// When the timer is to fire that a handle has set.
    timer: Option<u64>,
    /// The owner sleeps there, or is about to.
    parked: Option<Arc<Parker>>,
    /// Our stream has ended, or will after what is queued: sends are refused.
    ended: bool,
    /// It was a handle that asked for that.
    end_asked: bool,
    /// Set by clean-up, before the callbacks run.
    closed: Option<Arc<Closed>>,
}

impl Outbox {
    fn is_spent(&self) -> bool {
        let kept = self.ended
            || self.closed.is_some()
            || self.unsent > 0
            || self.timer.is_some()
            || self.parked.is_some();
        !kept && self.bytes.is_empty() && self.callbacks.is_empty() && self.waiters.is_none()
    }

    fn is_above(&self, mark: usize) -> bool {
        self.bytes.len() + self.unsent > mark
    }
}

impl Shared {
    /// A connection that nobody has heard of yet; its maker owns it.
    pub(crate) fn create(
        id: u64,
        prepared: (Socket, Option<SocketAddr>, Wishes),
        service: Arc<Service>,
        context: Context,
        phase: Phase,
    ) -> Arc<Shared> {
        let (socket, peer, wishes) = prepared;
        let mut flags = Flags::default();
        flags.put(Flags::HALF_CLOSE, wishes.half_close);
        // No address: a Unix socket, or one that is over. A dial that has several to try is none of them.
        flags.put(Flags::MARKED, peer.is_none() && service.dialing.is_none());
        let limited = !wishes.limits.is_empty();
        flags.put(Flags::KEEPS, limited);
        let busy = limited.then(|| Box::new(Busy { watches: wishes.limits, ..Busy::default() }));
        let opened = service.poll.now();
        let kept = Kept {
            transport: Some(Transport::new(socket)),
            token: Token::NONE,
            flags,
            phase,
            #[cfg(feature = "tls")]
            tls: wishes.tls,
        };
        let mut core = Core { kept, context: Some(context), busy };
        if phase == Phase::Connecting {
            let limit = core.kept.connected(&service.poll.clock);
            if limit != NEVER {
                core.busy().deadlines.connect = limit;
            }
        }
        Arc::new(Shared {
            state: State::new(),
            id,
            peer: Peer::from(peer),
            service,
            opened,
            moved: AtomicU32::new(tick(opened)),
            core: Mutex::new(core),
            outbox: Mutex::new(None),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        })
    }

    /// The other end: of a dial the address that is tried, or that worked.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer.addr().or_else(|| self.service.dialing.as_ref()?.peer())
    }

    pub(crate) fn poll(&self) -> &Arc<PollShared> {
        &self.service.poll
    }

    /// Tells whoever owns the connection, or makes its poll run it.
    pub(crate) fn notify(self: &Arc<Shared>, news: News) {
        self.follow(self.state.notify(news));
    }

    fn follow(self: &Arc<Shared>, verdict: OnNotify) {
        match verdict {
            OnNotify::Own => self.poll().push(Job::Run(self.clone())),
            OnNotify::Nothing => {}
            OnNotify::Wake => self.unpark(),
        }
    }

    /// Takes an idle connection with `news` in hand, or leaves the news for its owner.
    pub(crate) fn acquire(&self, news: News) -> Option<News> {
        if self.state.own() {
            return Some(news);
        }
        match self.state.notify(news) {
            OnNotify::Own => Some(self.state.take()),
            OnNotify::Nothing => None,
            OnNotify::Wake => {
                self.unpark();
                None
            }
        }
    }

    /// Where the owner sleeps from here on, if it does.
    pub(crate) fn park_at(&self, parker: Option<Arc<Parker>>) {
        let mut slot = self.outbox.lock();
        let outbox = slot.get_or_insert_default();
        outbox.parked = parker;
        if outbox.is_spent() {
            *slot = None;
        }
    }

    fn unpark(&self) {
        // Bound first: the parker is told with the lock off.
        let parked = self.outbox.lock().as_ref().and_then(|outbox| outbox.parked.clone());
        if let Some(parker) = parked {
            parker.wake();
        }
    }

    pub(crate) fn note_moved(&self) {
        self.moved.store(tick(self.poll().now()), Relaxed);
    }

    /// For how long no byte has moved, at a time of the poll's clock.
    pub(crate) fn quiet_at(&self, now: u64) -> Duration {
        clock::since_tick(self.moved.load(Relaxed), now)
    }

    /// From the owner to itself: `on_request` is wanted once more.
    pub(crate) fn wake_owner(&self) {
        // The caller owns the connection, so it will look again.
        self.state.note_as_owner(News::WOKEN);
    }

    pub(crate) fn close(self: &Arc<Shared>, closer: Closer, abort: bool) {
        self.follow(self.state.close(closer, abort));
    }

    /// Moves the outbox behind the output, and sets the timer that a handle has set.
    pub(crate) fn collect(&self, kept: &mut Kept, busy: &mut Busy) {
        if let Some(outbox) = &mut *self.outbox.lock() {
            if let Some(at) = outbox.timer.take() {
                busy.deadlines.user = at;
                kept.flags.set(Flags::KEEPS);
            }
            if std::mem::take(&mut outbox.end_asked) {
                kept.flags.set(Flags::END_ASKED);
            }
            busy.output.append(std::mem::take(&mut outbox.bytes));
            // Under the lock, so that a sender never sees the bytes in neither place.
            outbox.unsent = busy.unsent();
            kept.flags.set(Flags::UNSENT_TOLD);
        }
    }

    /// Refuses further sends by handles and moves those that were taken behind the output.
    pub(crate) fn end_sends(&self, kept: &mut Kept, busy: &mut Busy) {
        self.outbox.lock().get_or_insert_default().ended = true;
        self.collect(kept, busy);
    }

    /// After a flush: tells the handles how much output is left, and wakes those that wait for room if there is
    /// some. Nobody waits for a connection that had all its output taken, so that costs nothing.
    #[inline]
    pub(crate) fn tell_unsent(&self, kept: &mut Kept, busy: &Busy) {
        let unsent = busy.unsent();
        if unsent > 0 || kept.flags.has(Flags::UNSENT_TOLD) {
            self.tell(kept, unsent);
        }
    }

    fn tell(&self, kept: &mut Kept, unsent: usize) {
        kept.flags.put(Flags::UNSENT_TOLD, unsent > 0);
        let mut waiters = None;
        {
            let mut slot = self.outbox.lock();
            let outbox = slot.get_or_insert_default();
            outbox.unsent = unsent;
            if unsent <= limits::OUTPUT_LOW_BYTES {
                waiters = outbox.waiters.take();
            }
            if outbox.is_spent() {
                *slot = None;
            }
        }
        // With the lock off: a woken connection may be this one.
        if let Some(waiters) = waiters {
            waiters.into_all().iter().for_each(Handle::wake);
        }
    }

    /// Sends on the calling thread, which has just become the owner: `bytes`, or what is in the outbox. No callback
    /// runs here: whatever else there is to do goes to the poll, also the news that came with the ownership.
    fn send_now(self: &Arc<Shared>, news: News, bytes: Option<Bytes>) {
        {
            let mut core = self.core.lock();
            let Core { kept, busy: slot, .. } = &mut *core;
            let mut busy = slot.take().unwrap_or_else(busy::spare);
            if matches!(kept.phase, Phase::Working) {
                match bytes {
                    Some(bytes) => busy.output.write_bytes(bytes),
                    None => self.collect(kept, &mut busy),
                }
                let mut conn = Connection { shared: self, kept, busy: &mut busy };
                if conn.flush().is_err() {
                    // Released below, where the poll is told to look at the broken connection.
                    self.state.note_as_owner(News::HUP);
                }
                if conn.kept.flags.has(Flags::KEEPS) {
                    conn.look_at_limits(None);
                    conn.arm();
                }
                self.tell_unsent(kept, &busy);
            } else {
                if let Some(bytes) = bytes {
                    self.outbox.lock().get_or_insert_default().bytes.write_bytes(bytes);
                }
                self.state.note_as_owner(News::SENT);
            }
            match busy.is_spent(&mut kept.flags) {
                true => busy::keep_spare(busy),
                false => *slot = Some(busy),
            }
        }
        self.state.note_as_owner(news.without(News::SENT));
        if let OnRelease::Again = self.state.release() {
            self.poll().push(Job::Run(self.clone()));
        }
    }

    /// Bytes that the owner has not collected.
    pub(crate) fn uncollected(&self) -> usize {
        self.outbox.lock().as_ref().map_or(0, |outbox| outbox.bytes.len())
    }

    /// The end: sends are refused from here on, and callbacks run at once. Gives out those that were added, and the handles
    /// that wait for room; `None` when nobody can have added any.
    pub(crate) fn end_outbox(self: &Arc<Shared>, info: &Closed) -> Option<(Vec<CloseCallback>, Vec<Handle>)> {
        let mut slot = self.outbox.lock();
        // The owner and the poll's table have it. Where nobody else does, nobody can get it, nor left anything.
        if slot.is_none() && Arc::strong_count(self) <= 2 {
            return None;
        }
        let outbox = slot.take().unwrap_or_default();
        *slot = Some(Box::new(Outbox { closed: Some(Arc::new(info.clone())), ..Outbox::default() }));
        Some((outbox.callbacks, outbox.waiters.map_or(Vec::new(), |waiters| waiters.into_all())))
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

    /// The other end; `None` where it has no IP address, as on a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.peer_addr()
    }

    /// Bytes that the kernel took so far.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.load(Relaxed)
    }

    /// Bytes that were read so far.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.load(Relaxed)
    }

    /// For how long it has been there; after the close, since it was opened.
    pub fn lifetime(&self) -> Duration {
        self.0.poll().clock.since(self.0.opened)
    }

    /// For how long no byte was read or sent; to within about ten milliseconds.
    pub fn quiet(&self) -> Duration {
        self.0.quiet_at(self.0.poll().clock.look())
    }

    /// What the last callbacks are told; `None` before the close.
    pub fn closed(&self) -> Option<Arc<Closed>> {
        // The lock is not asked for while the connection lives.
        self.0.state.closing()?;
        self.0.outbox.lock().as_ref()?.closed.clone()
    }

    /// Whether clean-up is over, or a close was asked for.
    #[doc(alias = "IsActive")]
    pub fn is_closed(&self) -> bool {
        self.0.state.is_done() || self.0.state.closing().is_some()
    }

    /// Sends `bytes` after everything that was sent before. They leave from this thread when the connection is
    /// idle, and otherwise when its owner lets go; of one that is still being dialed, after `on_connect`. Below the high
    /// watermark bytes of any length are taken.
    ///
    /// # Errors
    /// [`SendError::WouldBlock`] above the high watermark, [`SendError::Closed`] when closing has begun or our stream was
    /// ended by [`Connection::shutdown_write`].
    pub fn send(&self, bytes: Bytes) -> Result<(), SendError> {
        {
            let mut slot = self.0.outbox.lock();
            let closing = self.0.state.closing().is_some();
            match &mut *slot {
                _ if closing => return Err(SendError::Closed(bytes)),
                // Nothing was sent before that is not with the owner: who owns the connection now may go on there.
                None if self.0.state.own() => {
                    drop(slot);
                    self.0.send_now(News::NONE, Some(bytes));
                    return Ok(());
                }
                None => slot.get_or_insert_default().bytes.write_bytes(bytes),
                Some(outbox) if outbox.closed.is_some() || outbox.ended => {
                    return Err(SendError::Closed(bytes));
                }
                Some(outbox) if outbox.is_above(limits::OUTPUT_HIGH_BYTES) => {
                    return Err(SendError::WouldBlock(bytes));
                }
                Some(outbox) => outbox.bytes.write_bytes(bytes),
            }
        }
        if let Some(news) = self.0.acquire(News::SENT) {
            self.0.send_now(news, None);
        }
        Ok(())
    }

    /// Ends our stream after what was written and sent before, as
    /// [`Connection::shutdown_write`](crate::Connection::shutdown_write); later sends are refused. Nothing happens when it was
    /// ended or closed already.
    pub fn shutdown_write(&self) {
        {
            let mut slot = self.0.outbox.lock();
            if self.0.state.closing().is_some() || slot.as_ref().is_some_and(|outbox| outbox.ended) {
                return;
            }
            let outbox = slot.get_or_insert_default();
            (outbox.ended, outbox.end_asked) = (true, true);
        }
        if let Some(news) = self.0.acquire(News::SENT) {
            self.0.send_now(news, None);
        }
    }

    /// Wakes `waiter` once this connection's output is below its low watermark, or closed. However often it asks meanwhile, it
    /// is woken once; where there is room already, at once.
    pub fn wake_on_drain(&self, waiter: &Handle) {
        let entered = match &mut *self.0.outbox.lock() {
            Some(outbox) if outbox.closed.is_none() && outbox.is_above(limits::OUTPUT_LOW_BYTES) => {
                let waiters = outbox.waiters.get_or_insert_default();
                Some(waiters.enter(waiter.id(), waiter.clone(), Handle::is_closed))
            }
            _ => None,
        };
        match entered {
            Some(closed) => drop(closed),
            None => waiter.wake(),
        }
    }

    /// Sets the connection's timer, as [`Connection::set_timer`] does: [`on_timer`](crate::Handler::on_timer) runs after
    /// `delay`.
    ///
    /// # Errors
    /// When the connection is closed or closing: no callback of it would be called.
    pub fn set_timer(&self, delay: Duration) -> io::Result<()> {
        {
            let mut slot = self.0.outbox.lock();
            let closed = slot.as_ref().is_some_and(|outbox| outbox.closed.is_some());
            if closed || self.0.state.closing().is_some() {
                let what =
                    "a closed connection has no timers: `Remote::after` sets one that needs no connection";
                return Err(io::Error::new(io::ErrorKind::NotConnected, what));
            }
            let at = self.0.poll().clock.at(timer::later(delay));
            slot.get_or_insert_default().timer = Some(at);
        }
        if let Some(news) = self.0.acquire(News::SENT) {
            self.0.send_now(news, None);
        }
        Ok(())
    }

    /// Asks for one `on_request` of this connection, on a worker thread. Nothing happens when it is closed.
    pub fn wake(&self) {
        self.0.notify(News::WOKEN);
    }

    /// Closes after what was sent (see [`Connection::close`]).
    ///
    /// One that is still being dialed, or shakes hands, is given up at once when nothing was sent to it. Otherwise it goes on
    /// until it stands, within its limits: `on_connect` runs, what was sent leaves, and then it closes. When it comes to
    /// nothing, [`Closed::unsent`] says how much was lost.
    pub fn close(&self) {
        self.0.close(Closer::User, false);
    }

    /// Closes at once, dropping what is queued; the peer sees a reset (on a Unix socket, which has none, an ordinary end).
    /// A dial is given up, whatever was sent to it.
    pub fn abort(&self) {
        self.0.close(Closer::User, true);
    }

    /// Adds a close callback: last in, first out, before the handler's `on_close`. After the close it runs at
    /// once, on the calling thread.
    ///
    /// # Errors
    /// When there are [`CLOSE_CALLBACKS_MAX`](limits::CLOSE_CALLBACKS_MAX) already.
    pub fn add_close_callback(&self, callback: impl FnOnce(&Closed) + Send + 'static) -> io::Result<()> {
        let closed = {
            let mut slot = self.0.outbox.lock();
            let outbox = slot.get_or_insert_default();
            match &outbox.closed {
                None if outbox.callbacks.len() >= limits::CLOSE_CALLBACKS_MAX => {
                    let max = limits::CLOSE_CALLBACKS_MAX;
                    let what =
                        format!("{max} close callbacks wait already: let one of them do what this one would");
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
                }
                None => {
                    outbox.callbacks.push(Box::new(callback));
                    return Ok(());
                }
                Some(closed) => closed.clone(),
            }
        };
        callback(&closed);
        Ok(())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("id", &self.0.id).field("peer", &self.peer_addr()).finish()
    }
}

#[cfg(all(test, not(any(poller_loom, poller_shuttle))))]
mod tests {
    use super::*;

    // proves L-27: what an idle connection costs beside its slot in the table, and what malloc adds to a block
    #[test]
    fn an_idle_connection_is_small() {
        const COUNTERS_BYTES: usize = 2 * size_of::<usize>();
        const MALLOC_BYTES: usize = size_of::<usize>();
        const SLOT_BYTES: usize = size_of::<Option<crate::operator::Operator>>() + size_of::<u32>();
        let block = (COUNTERS_BYTES + size_of::<Shared>() + MALLOC_BYTES).next_multiple_of(16);
        assert!(block + SLOT_BYTES <= 180, "{block} + {SLOT_BYTES} bytes");
        let context: Context = Box::new(());
        assert_eq!(size_of_val(&*context), 0, "a context without a size takes no memory");
    }
}
