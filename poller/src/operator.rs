//! What a poll drives for one descriptor, and the turn that an owner gives a connection.
//!
//! ```text
//!   news ──▶ dial done? ──▶ on_connect once ──▶ outbox, flush ──▶ on_timer, on_shutdown ──▶ read, on_request, flush ⟲
//!                                                                                                  │
//!   release ◀── arm the timer ◀── closing? clean up when the output has left ◀── on_drain ◀────────┘
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use linkbuffer::Node;

use crate::close::Fault;
use crate::connection::{Connection, Deadlines, ShutdownWrite};
use crate::handle::{Core, Phase, Shared};
use crate::handler::{Session, panic_text};
use crate::job::Job;
use crate::limits;
use crate::listener::ListenerShared;
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
pub(crate) enum Turn {
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
            self.look_for_reset(shared);
        }
        self.conn.readable |= news.has(News::READABLE.with(News::HUP));
        if self.phase == Phase::Dialing && !self.dialed(shared, news) {
            self.early = self.early.with(news.only(News::WOKEN.with(News::SENT)));
            return false;
        }
        let news = news.with(std::mem::take(&mut self.early));
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
            self.conn.stopping = true;
            self.call(shared, |session, conn| session.shutdown(conn));
            self.conn.stopping = false;
            self.flush(shared);
        }
        let mut woken = news.has(News::WOKEN);
        let (mut read, mut drains) = (0, 0);
        let budget_used = loop {
            while read < limits::TURN_BYTES_MAX && self.conn.wants_read() && shared.state.closing().is_none()
            {
                read += self.read(shared, scratch, &mut woken);
            }
            if woken && shared.state.closing().is_none() {
                woken = false;
                self.request(shared);
            }
            if self.conn.is_drained() && shared.state.closing().is_none() {
                drains += 1;
                self.drained(shared);
            }
            // A callback may have made room for reading, or filled the output and found it drained again.
            let more = self.conn.wants_read() || self.conn.is_drained();
            if !more || shared.state.closing().is_some() {
                break false;
            }
            if read >= limits::TURN_BYTES_MAX || drains >= limits::DRAINS_TURN_MAX {
                break true;
            }
        };
        self.end_of_itself(shared);
        budget_used
    }

    /// A half-closed connection is not read any more, so a reset has to be asked for.
    fn look_for_reset(&mut self, shared: &Shared) {
        if self.conn.input_ended
            && self.conn.broken.is_none()
            && let Some(socket) = &self.conn.socket
            && let Ok(Some(error)) | Err(error) = socket.take_error()
        {
            self.conn.break_off(shared, Fault::from(&error));
        }
    }

    /// Closes what has come to its end without anybody asking for it: a broken connection of which nothing is left to
    /// read, and one whose peer has ended its stream and that has nothing more to say.
    fn end_of_itself(&mut self, shared: &Arc<Shared>) {
        let conn = &self.conn;
        if let Some(fault) = conn.broken
            && !conn.wants_read()
        {
            self.details.fault.get_or_insert(fault);
            shared.state.close_as_owner(Closer::Error, true);
        } else if conn.end_handled && (!conn.half_close || conn.shutdown_write == ShutdownWrite::Done) {
            // The answer still goes out (L-22).
            shared.state.close_as_owner(Closer::Peer, false);
        }
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
        if ended {
            self.conn.end_handled = true;
            self.end_of_itself(shared);
        }
    }

    /// Tells the handler that it may produce again.
    fn drained(&mut self, shared: &Arc<Shared>) {
        self.conn.above_high = false;
        self.call(shared, |session, conn| session.drain(conn));
        self.flush(shared);
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
                // It was connected and has been reset since: what the peer said before that is handed over first.
                Ok(Some(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    self.conn.break_off(shared, Fault::from(&error));
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

    pub(crate) fn flush(&mut self, shared: &Arc<Shared>) {
        if self.conn.flush_for(shared).is_err() {
            // The connection remembers that it is broken, and closes when what the peer sent before was read (L-15).
            debug_assert!(self.conn.broken.is_some(), "a flush that fails breaks the connection");
        }
        shared.wake_waiters(&self.conn);
    }

    fn fail(&mut self, shared: &Arc<Shared>, error: &std::io::Error) {
        let fault = self.conn.broken.unwrap_or(Fault::from(error));
        self.details.fault.get_or_insert(fault);
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
            // A handler that passes on what its flush said adds nothing: the broken connection is the reason.
            Ok(Err(_)) if self.conn.broken.is_some() => {
                self.details.fault = self.details.fault.or(self.conn.broken);
                shared.state.close_as_owner(Closer::Error, true);
                false
            }
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
    pub(crate) fn arm(&mut self, shared: &Arc<Shared>) {
        let Some(next) = self.conn.deadlines.next() else { return };
        if self.conn.deadlines.armed.is_some_and(|armed| armed.0 <= next) {
            return;
        }
        let former = self.conn.deadlines.armed.take();
        self.conn.deadlines.armed =
            Some(shared.poll.arm(former, next, Due::Connection(Arc::downgrade(shared))));
    }
}

pub(crate) fn report_panic(shared: &Shared, panic: &(dyn std::any::Any + Send)) {
    log::error!(event = "panic", conn = shared.id; "a callback panicked: {}", panic_text(panic));
}
