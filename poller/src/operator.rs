//! What a poll drives for one descriptor, and the turn that an owner gives a connection.
//!
//! ```text
//!   news ──▶ dial done? ──▶ on_connect once ──▶ outbox, flush ──▶ on_timer, on_shutdown ──▶ read, on_request, flush ⟲
//!                                                                                                  │
//!   release ◀── arm the timer ◀── closing? clean up when the output has left ◀── on_drain ◀────────┘
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use linkbuffer::{LinkBuffer, Node};

use crate::close::{Closed, Fault};
use crate::connection::{Connection, Deadlines};
use crate::handle::{Core, Phase, Shared};
use crate::handler::{Session, panic_text};
use crate::limits;
use crate::listener::ListenerShared;
use crate::poll::Job;
use crate::state::{Close, Closer, News, OnRelease};
use crate::timer::Due;
use crate::udp::UdpShared;

/// A registered descriptor and whom its readiness concerns.
#[derive(Clone)]
pub(crate) enum Operator {
    Connection(Arc<Shared>),
    Listener(Arc<ListenerShared>),
    Udp(Arc<UdpShared>),
}

/// What belongs to a worker thread and is lent to whatever it runs.
#[derive(Default)]
pub(crate) struct Scratch {
    node: Option<Node>,
    datagram: Vec<u8>,
}

impl Scratch {
    fn node(&mut self) -> Node {
        self.node.take().unwrap_or_else(|| Node::take(limits::READ_BYTES_MAX))
    }

    /// Space for the largest datagram.
    pub(crate) fn datagram(&mut self) -> &mut [u8] {
        self.datagram.resize(limits::DATAGRAM_BYTES_MAX, 0);
        &mut self.datagram
    }
}

/// How a turn ended.
enum Turn {
    /// Nothing to do before there is news.
    Rest,
    /// A close waits for output to leave; this is the close that the turn saw.
    Closing(Close),
    /// The budget is used up and there is more.
    Budget,
    Closed,
}

impl Shared {
    /// Runs the connection as its owner until there is nothing left to do, or others should have their turn.
    pub(crate) fn run(self: &Arc<Shared>, mut news: News, scratch: &mut Scratch) {
        for _ in 0..limits::TURNS_MAX {
            let turn = {
                let core = &mut *self.core.lock();
                core.turn(self, news, scratch)
            };
            let released = match turn {
                Turn::Closed => return,
                Turn::Budget => {
                    news = News::NONE;
                    break;
                }
                Turn::Rest => self.state.release(),
                Turn::Closing(seen) => self.state.release_closing(seen),
            };
            match released {
                OnRelease::Idle => return,
                OnRelease::Again => news = self.state.take(),
            }
        }
        // Others first. `REST` brings the owner back to what it has not done, with the news that it has not used.
        self.state.note_as_owner(news.with(News::REST));
        self.poll.push(Job::Run(self.clone()));
    }
}

impl Core {
    fn turn(&mut self, shared: &Arc<Shared>, news: News, scratch: &mut Scratch) -> Turn {
        if self.phase == Phase::Closed {
            return Turn::Closed;
        }
        let budget_used = self.work(shared, news, scratch);
        if let Some(close) = shared.state.closing() {
            return self.close(shared, close);
        }
        self.arm(shared);
        if budget_used { Turn::Budget } else { Turn::Rest }
    }

    /// Everything but the end; says whether the budget was used up.
    fn work(&mut self, shared: &Arc<Shared>, news: News, scratch: &mut Scratch) -> bool {
        if news.has(News::HUP) {
            self.conn.hup = true;
        }
        self.conn.readable |= news.has(News::READABLE.with(News::HUP));
        if self.phase == Phase::Dialing && !self.dialed(shared, news) {
            return false;
        }
        if self.phase == Phase::Connecting && shared.state.closing().is_none() {
            if !self.call(shared, |session, conn| session.connect(conn)) {
                return false;
            }
            self.phase = Phase::Working;
            self.flush(shared);
        }
        if news.has(News::SENT) {
            shared.collect(&mut self.conn);
        }
        if news.has(News::SENT.with(News::WRITABLE).with(News::HUP)) {
            self.flush(shared);
        }
        if self.phase != Phase::Working {
            return false;
        }
        if news.has(News::TIMER) {
            self.timer(shared);
        }
        if news.has(News::SHUTDOWN) && shared.state.closing().is_none() {
            self.call(shared, |session, conn| session.shutdown(conn));
            self.flush(shared);
        }
        let mut woken = news.has(News::WOKEN);
        let mut read = 0;
        loop {
            while read < limits::TURN_BYTES_MAX && self.conn.wants_read() && shared.state.closing().is_none() {
                read += self.read(shared, scratch, &mut woken);
            }
            if woken && shared.state.closing().is_none() {
                woken = false;
                self.request(shared);
            }
            if !self.drained(shared) || !self.conn.wants_read() || read >= limits::TURN_BYTES_MAX {
                break;
            }
        }
        self.conn.wants_read() && read >= limits::TURN_BYTES_MAX
    }

    /// One read and what it brings: a request, the end of the stream, or a broken connection.
    fn read(&mut self, shared: &Arc<Shared>, scratch: &mut Scratch, woken: &mut bool) -> usize {
        let outcome = self.conn.read(shared, scratch.node());
        let read = match outcome {
            Ok(None) => 0,
            Ok(Some(n)) => {
                *woken = false;
                self.request(shared);
                n
            }
            Err(error) => {
                self.conn.readable = false;
                self.fail(shared, &error);
                0
            }
        };
        scratch.node = self.conn.input.reclaim();
        read
    }

    fn request(&mut self, shared: &Arc<Shared>) {
        let ended = self.conn.input_ended;
        if !self.call(shared, |session, conn| session.request(conn)) {
            return;
        }
        self.flush(shared);
        if ended && !self.conn.end_handled {
            self.conn.end_handled = true;
            if !self.conn.half_close {
                // Its answer still goes out, then the connection closes (L-22).
                shared.state.close_as_owner(Closer::Peer, false);
            }
        }
    }

    /// Tells the handler that it may produce again; says whether it was told.
    fn drained(&mut self, shared: &Arc<Shared>) -> bool {
        let waiting = self.conn.output.len();
        if !self.conn.above_high || waiting > limits::OUTPUT_LOW_BYTES || shared.state.closing().is_some() {
            return false;
        }
        self.conn.above_high = false;
        self.call(shared, |session, conn| session.drain(conn));
        self.flush(shared);
        true
    }

    fn timer(&mut self, shared: &Arc<Shared>) {
        let now = Instant::now();
        self.conn.deadlines.fired(now);
        if Deadlines::due(&mut self.conn.deadlines.user, now) && shared.state.closing().is_none() {
            self.call(shared, |session, conn| session.timer(conn));
            self.flush(shared);
        }
    }

    /// Whether a dial has come to its end, well or ill.
    fn dialed(&mut self, shared: &Arc<Shared>, news: News) -> bool {
        if shared.state.closing().is_some() {
            return false;
        }
        if news.has(News::SHUTDOWN) {
            shared.state.close_as_owner(Closer::Shutdown, true);
            return false;
        }
        if news.has(News::WRITABLE.with(News::HUP)) {
            let verdict = match &self.conn.socket {
                Some(socket) => socket.take_error(),
                None => Ok(None),
            };
            match verdict {
                Ok(None) => {
                    self.phase = Phase::Connecting;
                    self.conn.deadlines.connect = None;
                    return true;
                }
                Ok(Some(error)) | Err(error) => self.fail(shared, &error),
            }
        }
        if news.has(News::TIMER) {
            let now = Instant::now();
            self.conn.deadlines.fired(now);
            if Deadlines::due(&mut self.conn.deadlines.connect, now) {
                shared.state.close_as_owner(Closer::Timer, true);
            }
        }
        false
    }

    fn flush(&mut self, shared: &Arc<Shared>) {
        if let Err(error) = self.conn.flush_for(shared) {
            self.fail(shared, &error);
        }
        if self.conn.output.len() <= limits::OUTPUT_LOW_BYTES {
            let waiters = std::mem::take(&mut shared.outbox.lock().waiters);
            waiters.iter().for_each(crate::Handle::wake);
        }
    }

    fn fail(&mut self, shared: &Arc<Shared>, error: &std::io::Error) {
        self.details.fault.get_or_insert(Fault::from(error));
        shared.state.close_as_owner(Closer::Error, true);
    }

    /// Runs a callback. An error or a panic closes this connection and no other.
    fn call(
        &mut self,
        shared: &Arc<Shared>,
        callback: impl FnOnce(&mut dyn Session, &mut Connection) -> crate::Result,
    ) -> bool {
        let Some(session) = &mut self.session else { return false };
        let conn = &mut self.conn;
        match catch_unwind(AssertUnwindSafe(|| callback(session.as_mut(), conn))) {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.details.handler.get_or_insert(error.to_string());
                shared.state.close_as_owner(Closer::Handler, false);
                false
            }
            Err(panic) => {
                report_panic(shared, panic.as_ref());
                shared.state.close_as_owner(Closer::Panic, true);
                false
            }
        }
    }

    /// Puts the earliest deadline into the poll's timers, unless something as early stands there.
    fn arm(&mut self, shared: &Arc<Shared>) {
        let Some(next) = self.conn.deadlines.next() else { return };
        if self.conn.deadlines.armed.is_some_and(|armed| armed.0 <= next) {
            return;
        }
        let former = self.conn.deadlines.armed.take();
        self.conn.deadlines.armed = Some(shared.poll.arm(former, next, Due::Connection(Arc::downgrade(shared))));
    }

    /// A close was asked for: waits for unsent output, or cleans up.
    fn close(&mut self, shared: &Arc<Shared>, close: Close) -> Turn {
        if self.phase != Phase::Closing {
            if self.phase == Phase::Working && !close.abort {
                shared.collect(&mut self.conn);
                self.flush(shared);
            }
            let close_stall = Duration::from_millis(limits::CLOSE_STALL_MS);
            self.conn.deadlines.close = Some(Instant::now() + close_stall);
        }
        // The flush may have found the connection broken.
        let close = shared.state.closing().unwrap_or(close);
        let waits = !self.conn.output.is_empty() && !close.abort;
        if waits && matches!(self.phase, Phase::Working | Phase::Closing) {
            self.phase = Phase::Closing;
            let now = Instant::now();
            self.conn.deadlines.fired(now);
            if !Deadlines::due(&mut self.conn.deadlines.close, now) {
                self.conn.deadlines.user = None;
                self.arm(shared);
                return Turn::Closing(close);
            }
        }
        self.clean_up(shared, close);
        Turn::Closed
    }

    /// The end, once: descriptor, callbacks, buffers, slot.
    fn clean_up(&mut self, shared: &Arc<Shared>, close: Close) {
        let connected = matches!(self.phase, Phase::Working | Phase::Closing);
        self.phase = Phase::Closed;
        let local = self.conn.local_addr();
        if let Some(socket) = self.conn.socket.take()
            && close.abort
            && close.closer == Closer::User
        {
            // Best effort: without it the peer sees an ordinary end instead of a reset.
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                log::debug!(event = "abort", conn = shared.id; "no reset: {error}");
            }
        }
        if let Some(armed) = self.conn.deadlines.armed.take() {
            shared.poll.disarm(armed);
        }
        let info = Arc::new(Closed {
            reason: self.details.reason(close.closer),
            id: shared.id,
            peer: shared.peer,
            local,
            bytes_in: shared.bytes_in.load(Relaxed),
            bytes_out: shared.bytes_out.load(Relaxed),
            unsent: (self.conn.output.len() + shared.outbox.lock().bytes.len()) as u64,
            connected,
            lifetime: self.conn.opened.elapsed(),
        });
        self.conn.input = LinkBuffer::new();
        self.conn.output = LinkBuffer::new();
        let contained = |callback: &mut dyn FnMut()| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
                report_panic(shared, panic.as_ref());
            }
        };
        let mut session = self.session.take();
        if connected
            && matches!(close.closer, Closer::Peer | Closer::Error)
            && let Some(session) = &mut session
        {
            contained(&mut || session.disconnect(&info));
        }
        let (callbacks, waiters) = {
            let mut outbox = shared.outbox.lock();
            outbox.closed = Some(info.clone());
            outbox.bytes = LinkBuffer::new();
            (std::mem::take(&mut outbox.callbacks), std::mem::take(&mut outbox.waiters))
        };
        for callback in callbacks.into_iter().rev() {
            let mut callback = Some(callback);
            contained(&mut || {
                if let Some(callback) = callback.take() {
                    callback(&info);
                }
            });
        }
        if let Some(session) = &mut session {
            contained(&mut || session.close(&info));
        }
        contained(&mut || drop(session.take()));
        shared.state.finish();
        waiters.iter().for_each(crate::Handle::wake);
        shared.poll.retire(self.conn.token.take());
    }
}

fn report_panic(shared: &Shared, panic: &(dyn std::any::Any + Send)) {
    log::error!(event = "panic", conn = shared.id; "a callback panicked: {}", panic_text(panic));
}
