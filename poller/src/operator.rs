//! What a poll drives for one descriptor, and the turn that an owner gives a connection.
//!
//! ```text
//!   news ──▶ dial done? ──▶ on_connect once ──▶ outbox, flush ──▶ on_timer, on_shutdown ──▶ read, on_request, flush ⟲
//!                                                                                                  │
//!   release ◀── arm the timer ◀── closing? clean up when the output has left ◀── on_drain ◀────────┘
//! ```

use std::sync::Arc;

use crate::busy::{Deadlines, Scratch};
use crate::close::{Fault, Limit};
use crate::connection::Connection;
use crate::flags::Flags;
use crate::handle::Shared;
use crate::handler::{Callbacks, Context, caught};
use crate::job::Job;
use crate::kept::{Core, Phase};
use crate::limits;
use crate::listener::ListenerShared;
use crate::state::{Close, Closer, News, OnRelease};
use crate::transport::Transport;
use crate::udp::UdpShared;

/// A registered descriptor and whom its readiness concerns.
#[derive(Clone)]
pub(crate) enum Operator {
    Connection(Arc<Shared>),
    Listener(Arc<ListenerShared>),
    Udp(Arc<UdpShared>),
}

/// How a turn ended.
pub(crate) enum Turn {
    /// Nothing to do before there is news.
    Rest,
    /// A close waits for output to leave; this is the close that the turn saw.
    Closing(Close),
    /// The budget is used up and there is more.
    Budget,
    /// There is a new socket to register.
    Redial,
    Closed,
}

impl Shared {
    /// Runs the connection as its owner until there is nothing left to do, or others should have their turn.
    pub(crate) fn run(self: &Arc<Shared>, mut news: News, scratch: &mut Scratch) {
        for _ in 0..limits::TURNS_MAX {
            let turn = self.turn(news, scratch);
            let released = match turn {
                Turn::Closed => return,
                Turn::Redial => return self.poll().push(Job::Open(self.clone())),
                Turn::Budget => {
                    // The end that was announced lies behind what is left to read, and whether it is a reset may have to be
                    // asked for: who pauses meanwhile does not come across it.
                    news = news.only(News::HUP);
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
        self.poll().push(Job::Run(self.clone()));
    }
}

impl Shared {
    /// The first turn of an accepted connection, before it is registered: it looks for bytes without having been told of
    /// any. Most users speak at once, and a connection that is over by then costs the selector nothing.
    pub(crate) fn first(self: &Arc<Shared>, scratch: &mut Scratch) {
        match self.turn(News::READABLE, scratch) {
            Turn::Closed => return,
            Turn::Budget => self.state.note_as_owner(News::REST),
            // What comes from now on makes an event when it is registered.
            Turn::Rest | Turn::Closing(_) | Turn::Redial => {}
        }
        scratch.jobs.push_back(Job::Open(self.clone()));
    }
}

/// The thread that has the connection for this turn, and all that goes with it.
pub(crate) struct Owner<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) conn: Connection<'a>,
    pub(crate) context: &'a mut Option<Context>,
}

impl Shared {
    /// One turn. What it leaves to be kept stays with the connection, the rest goes back to the thread.
    fn turn(self: &Arc<Shared>, news: News, scratch: &mut Scratch) -> Turn {
        let mut core = self.core.lock();
        let Core { kept, context, busy: slot } = &mut *core;
        if kept.phase == Phase::Closed {
            return Turn::Closed;
        }
        let mut busy = slot.take().unwrap_or_else(|| scratch.busy());
        let conn = Connection { shared: self, kept, busy: &mut busy };
        let mut owner = Owner { shared: self, conn, context };
        let turn = match caught(|| owner.turn(news, scratch)) {
            Ok(turn) => turn,
            Err(text) => owner.end_at_once(&text, scratch),
        };
        if busy.is_spent(&mut kept.flags) {
            scratch.take_back(busy);
        } else {
            scratch.reclaim_all(&mut busy);
            *slot = Some(busy);
        }
        turn
    }
}

impl Owner<'_> {
    fn turn(&mut self, news: News, scratch: &mut Scratch) -> Turn {
        let budget_used = self.work(news, scratch);
        if self.conn.kept.flags.has(Flags::KEEPS) {
            self.conn.look_at_limits(None);
        }
        if let Some(close) = self.shared.state.closing() {
            return self.close(close, scratch);
        }
        self.conn.arm();
        match budget_used {
            _ if self.conn.kept.phase == Phase::Redialing => Turn::Redial,
            true => Turn::Budget,
            false => Turn::Rest,
        }
    }

    /// Callbacks contain their own panics. What else is not ours is called rarely, as the `Display` of a handler's error: such
    /// a panic ends the connection too.
    #[cold]
    fn end_at_once(&mut self, text: &str, scratch: &mut Scratch) -> Turn {
        report_panic(self.shared, "what a callback left", text);
        self.shared.state.close_as_owner(Closer::Panic, true);
        match self.shared.state.closing() {
            Some(close) if self.conn.kept.phase != Phase::Closed => self.close(close, scratch),
            _ => Turn::Closed,
        }
    }

    /// Everything but the end; says whether the budget was used up.
    fn work(&mut self, news: News, scratch: &mut Scratch) -> bool {
        self.conn.kept.note(news);
        if news.has(News::HUP) {
            self.look_for_reset();
        }
        if self.conn.kept.phase == Phase::Dialing && !self.dialed(news) {
            return self.put_off(news);
        }
        #[cfg(feature = "tls")]
        if self.conn.kept.phase == Phase::Handshaking && !self.shake_hands(news) {
            return self.put_off(news);
        }
        let news = news.with(std::mem::take(&mut self.conn.busy.early));
        if self.conn.kept.phase == Phase::Connecting && !self.is_given_up() {
            if !self.call("on_connect", |handler, cx, conn| handler.connect(cx, conn)) {
                return false;
            }
            self.conn.kept.phase = Phase::Working;
            self.conn.kept.flags.set(Flags::CONNECTED);
            self.flush();
        }
        if news.has(News::SENT) {
            self.shared.collect(self.conn.kept, self.conn.busy);
        }
        if news.has(News::SENT.with(News::WRITABLE).with(News::HUP)) {
            self.flush();
        }
        if self.conn.kept.phase != Phase::Working {
            return false;
        }
        if news.has(News::TIMER) {
            self.timer();
        }
        if news.has(News::SHUTDOWN) && self.shared.state.closing().is_none() {
            self.conn.busy.stopping = true;
            self.call("on_shutdown", |handler, cx, conn| handler.shutdown(cx, conn));
            self.conn.busy.stopping = false;
            self.flush();
        }
        let mut woken = news.has(News::WOKEN);
        // Whether the end that was announced has to be asked for, once nothing is read any more.
        let mut unasked = news.has(News::HUP);
        let (mut read, mut drains) = (0, 0);
        let budget_used = loop {
            while read < limits::TURN_BYTES_MAX
                && self.conn.wants_read()
                && self.shared.state.closing().is_none()
            {
                read += self.read(scratch, &mut woken);
            }
            if woken && self.shared.state.closing().is_none() {
                woken = false;
                self.request();
            }
            if self.conn.is_drained() && self.shared.state.closing().is_none() {
                drains += 1;
                self.drained();
            }
            // A callback may have made room for reading, or filled the output and found it drained again.
            let more = self.conn.wants_read() || self.conn.is_drained();
            if self.shared.state.closing().is_some() {
                break false;
            }
            if !more && std::mem::take(&mut unasked) {
                self.look_for_reset();
            } else if !more {
                break false;
            }
            if read >= limits::TURN_BYTES_MAX || drains >= limits::DRAINS_TURN_MAX {
                break true;
            }
        };
        self.end_of_itself();
        budget_used
    }

    /// Keeps for after `on_connect` what is looked at then.
    fn put_off(&mut self, news: News) -> bool {
        self.conn.kept.flags.set(Flags::KEEPS);
        self.conn.busy.early = self.conn.busy.early.with(news.only(News::WOKEN.with(News::SENT)));
        false
    }

    /// A connection that is not read, because it is half-closed, paused, or full, has to ask for a reset.
    fn look_for_reset(&mut self) {
        if self.conn.kept.phase == Phase::Working
            && !self.conn.wants_read()
            && self.conn.busy.broken.is_none()
            && let Some(transport) = &self.conn.kept.transport
            && let Ok(Some(error)) | Err(error) = transport.take_error()
        {
            self.conn.break_off(Fault::from(&error));
        }
    }

    /// Closes what has come to its end without anybody asking for it: a broken connection of which nothing is left to
    /// read, and one whose peer has ended its stream and that has nothing more to say.
    fn end_of_itself(&mut self) {
        let conn = &self.conn;
        let flags = conn.kept.flags;
        if let Some(fault) = conn.busy.broken
            && !conn.wants_read()
        {
            self.conn.busy.details.fault.get_or_insert(fault);
            self.shared.state.close_as_owner(Closer::Error, true);
        } else if flags.has(Flags::END_HANDLED)
            && (!flags.has(Flags::HALF_CLOSE) || flags.has(Flags::END_SENT))
        {
            // The answer still goes out (L-22).
            self.shared.state.close_as_owner(Closer::Peer, false);
        }
    }

    /// One read and what it brings: a request, the end of the stream, or a broken connection.
    fn read(&mut self, scratch: &mut Scratch, woken: &mut bool) -> usize {
        #[cfg(feature = "tls")]
        if self.conn.kept.tls.is_some() {
            return self.read_records(woken);
        }
        scratch.lend_to(&mut self.conn.busy.input);
        let outcome = self.conn.read();
        let read = match outcome {
            Ok(None) => 0,
            Ok(Some(n)) => {
                *woken = false;
                self.request();
                n
            }
            Err(error) => {
                // What was read before it was here is handed over first.
                if std::mem::take(woken) {
                    self.request();
                }
                self.fail(&error);
                0
            }
        };
        if !self.conn.busy.input.is_empty() {
            scratch.reclaim_from(&mut self.conn.busy.input);
        }
        read
    }

    pub(crate) fn request(&mut self) {
        let ended = self.conn.input_ended();
        if !self.call("on_request", |handler, cx, conn| handler.request(cx, conn)) {
            return;
        }
        self.flush();
        if ended {
            self.conn.kept.flags.set(Flags::END_HANDLED);
            self.end_of_itself();
        }
    }

    /// Tells the handler that it may produce again.
    fn drained(&mut self) {
        self.conn.kept.flags.clear(Flags::ABOVE_HIGH);
        self.call("on_drain", |handler, cx, conn| handler.drain(cx, conn));
        self.flush();
    }

    fn timer(&mut self) {
        let now = self.shared.poll().clock.look();
        self.conn.busy.deadlines.fired(now);
        if Deadlines::due(&mut self.conn.busy.deadlines.user, now) && self.shared.state.closing().is_none() {
            self.call("on_timer", |handler, cx, conn| handler.timer(cx, conn));
            self.flush();
        }
    }

    /// Whether a dial has come to its end, well or ill.
    fn dialed(&mut self, news: News) -> bool {
        if self.is_given_up() {
            return false;
        }
        if news.has(News::SHUTDOWN) {
            self.shared.state.close_as_owner(Closer::Shutdown, true);
            return false;
        }
        if news.has(News::WRITABLE.with(News::HUP)) {
            let verdict = match &self.conn.kept.transport {
                Some(transport) => transport.take_error(),
                None => Ok(None),
            };
            match verdict {
                Ok(None) => {
                    self.stands();
                    return true;
                }
                // It was connected and has been reset since: what the peer said before that is handed over first.
                Ok(Some(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    self.conn.break_off(Fault::from(&error));
                    self.stands();
                    return true;
                }
                Ok(Some(error)) | Err(error) => {
                    if !self.redial() {
                        self.fail(&error);
                    }
                    return false;
                }
            }
        }
        if news.has(News::TIMER) {
            let now = self.shared.poll().clock.look();
            self.conn.busy.deadlines.fired(now);
            if Deadlines::due(&mut self.conn.busy.deadlines.connect, now) && !self.redial() {
                self.conn.pass(Limit::Connect);
            }
        }
        false
    }

    /// A dial is over, and with it its limit: what was armed for it would keep memory with an idle connection.
    fn stands(&mut self) {
        let poll = self.shared.poll();
        self.conn.busy.deadlines.connect = self.conn.kept.connected(&poll.clock);
        if let Some(armed) = self.conn.busy.deadlines.armed.take() {
            poll.disarm(armed);
        }
    }

    /// Goes on to the next address of a dial, if there is one. That no later one could be tried is what the dial came to.
    fn redial(&mut self) -> bool {
        let Some(dialing) = &self.shared.service.dialing else { return false };
        if dialing.is_over() {
            return false;
        }
        match dialing.next() {
            Ok((socket, _)) => {
                // Its registration tells when it is connected, also when it is already. The former socket closes here.
                self.conn.kept.transport = Some(Transport::new(socket));
                let former = Flags::HUP.with(Flags::READABLE).with(Flags::REGISTERED);
                self.conn.kept.flags.clear(former);
                self.conn.kept.phase = Phase::Redialing;
                self.conn.kept.flags.set(Flags::KEEPS);
                // What is armed for the former address may have fired, unseen.
                if let Some(armed) = self.conn.busy.deadlines.armed.take() {
                    self.shared.poll().disarm(armed);
                }
                self.conn.busy.deadlines.connect = self.shared.poll().clock.at(dialing.share());
            }
            Err(error) => self.fail(&error),
        }
        true
    }

    pub(crate) fn flush(&mut self) {
        // Nothing to send, no end of the stream, and nobody to tell.
        let flags = self.conn.kept.flags;
        if self.conn.busy.unsent() == 0
            && self.conn.busy.broken.is_none()
            && !flags.has(Flags::END_ASKED.with(Flags::UNSENT_TOLD))
        {
            return;
        }
        // An abort sends nothing more.
        if self.shared.state.closing().is_some_and(|close| close.abort) {
            return;
        }
        if self.conn.flush().is_err() {
            // The connection remembers that it is broken, and closes when what the peer sent before was read (L-15).
            debug_assert!(self.conn.busy.broken.is_some(), "a flush that fails breaks the connection");
        }
        self.shared.tell_unsent(self.conn.kept, self.conn.busy);
    }

    pub(crate) fn fail(&mut self, error: &std::io::Error) {
        let fault = self.conn.busy.broken.unwrap_or(Fault::from(error));
        self.conn.kept.flags.set(Flags::KEEPS);
        self.conn.busy.details.fault.get_or_insert(fault);
        self.shared.state.close_as_owner(Closer::Error, true);
    }

    /// Runs a callback. An error or a panic closes this connection and no other.
    fn call(
        &mut self,
        name: &'static str,
        callback: impl FnOnce(&dyn Callbacks, &mut Context, &mut Connection<'_>) -> crate::Result,
    ) -> bool {
        let Some(context) = &mut *self.context else { return false };
        let (handler, conn) = (&*self.shared.service.callbacks, &mut self.conn);
        let error = match caught(|| callback(handler, context, conn)) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(text) => {
                report_panic(self.shared, name, &text);
                self.shared.state.close_as_owner(Closer::Panic, true);
                return false;
            }
        };
        self.conn.kept.flags.set(Flags::KEEPS);
        let busy = &mut *self.conn.busy;
        if busy.broken.is_some() {
            // A handler that passes on what its flush said adds nothing: the broken connection is the reason.
            busy.details.fault = busy.details.fault.or(busy.broken);
            self.shared.state.close_as_owner(Closer::Error, true);
        } else {
            busy.details.handler.get_or_insert(error.to_string());
            self.shared.state.close_as_owner(Closer::Handler, false);
        }
        false
    }
}

pub(crate) fn report_panic(shared: &Shared, callback: &str, text: &str) {
    log::error!(event = "panic", conn = shared.id, callback = callback; "a callback panicked: {text}");
}
