//! The turn that a connection has when there is news, in the order in which the poller does things.

use std::time::Duration;

use poller::limits;
use poller::{Closed, Fault, Limit, Reason, Result};

use super::connection::{Body, Closer, Connection, NEVER, News, Phase};
use super::handler::{Callbacks, Context};
use super::kernel::{self, What};

/// One turn, with the connection's own part in hand.
pub(super) fn run(id: u32, mut body: Box<Body>, news: News) {
    let Some(run) = kernel::with(|k| k.run) else { return };
    let mut turn = Turn { conn: Connection { id, run, body: &mut body } };
    let again = turn.turn(news);
    // What is left of a connection that has ended is dropped with the world let go.
    drop(kernel::with(|k| k.end_turn(id, body, again)));
}

struct Turn<'a> {
    conn: Connection<'a>,
}

impl Turn<'_> {
    fn turn(&mut self, news: News) -> News {
        let budget_used = self.work(news);
        self.look_at_limits();
        if let Some((closer, abort)) = self.conn.closing() {
            self.close(closer, abort);
            return News::NONE;
        }
        self.arm();
        if budget_used { News::REST } else { News::NONE }
    }

    /// Everything but the end; says whether the budget was used up.
    fn work(&mut self, news: News) -> bool {
        let flags = &mut self.conn.body.flags;
        flags.readable |= news.has(News::READABLE.with(News::HUP));
        if news.has(News::HUP) {
            flags.hup = true;
            self.look_for_reset();
        }
        if self.conn.body.phase == Phase::Dialing && !self.dialed(news) {
            self.conn.body.early = self.conn.body.early.with(news.only(News::WOKEN));
            return false;
        }
        let news = news.with(std::mem::take(&mut self.conn.body.early));
        if self.conn.body.phase == Phase::Connecting && self.conn.closing().is_none() {
            if !self.call(|handler, cx, conn| handler.connect(cx, conn)) {
                return false;
            }
            self.conn.body.phase = Phase::Working;
            self.conn.body.flags.connected = true;
            self.flush();
        }
        if news.has(News::WRITABLE.with(News::HUP)) {
            self.flush();
        }
        if self.conn.body.phase != Phase::Working {
            return false;
        }
        if news.has(News::TIMER) {
            self.timer();
        }
        if news.has(News::SHUTDOWN) && self.conn.closing().is_none() {
            self.conn.body.flags.stopping = true;
            self.call(|handler, cx, conn| handler.shutdown(cx, conn));
            self.conn.body.flags.stopping = false;
            self.flush();
        }
        self.exchange(news)
    }

    fn exchange(&mut self, news: News) -> bool {
        let mut woken = news.has(News::WOKEN);
        let mut unasked = news.has(News::HUP);
        let (mut read, mut drains) = (0, 0);
        let budget_used = loop {
            while read < limits::TURN_BYTES_MAX && self.conn.wants_read() && self.conn.closing().is_none() {
                read += self.read(&mut woken);
            }
            if woken && self.conn.closing().is_none() {
                woken = false;
                self.request();
            }
            if self.conn.is_drained() && self.conn.closing().is_none() {
                drains += 1;
                self.conn.body.flags.above_high = false;
                self.call(|handler, cx, conn| handler.drain(cx, conn));
                self.flush();
            }
            let more = self.conn.wants_read() || self.conn.is_drained();
            if self.conn.closing().is_some() {
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

    fn look_for_reset(&mut self) {
        if self.conn.body.phase != Phase::Working || self.conn.wants_read() || self.conn.body.broken.is_some()
        {
            return;
        }
        let id = self.conn.id;
        let error = kernel::with(|k| {
            let (link, side) = k.conns[id as usize].link?;
            k.take_error(link, side)
        });
        if let Some(error) = error.flatten() {
            self.conn.break_off(Fault::from(&error));
        }
    }

    fn end_of_itself(&mut self) {
        let flags = self.conn.body.flags;
        if let Some(fault) = self.conn.body.broken
            && !self.conn.wants_read()
        {
            self.conn.body.fault.get_or_insert(fault);
            self.conn.close_as(Closer::Error, true);
        } else if flags.end_handled && (!flags.half_close || flags.end_sent) {
            self.conn.close_as(Closer::Peer, false);
        }
    }

    fn read(&mut self, woken: &mut bool) -> usize {
        match self.conn.read() {
            Ok(None) => 0,
            Ok(Some(n)) => {
                *woken = false;
                self.request();
                n
            }
            Err(error) => {
                if std::mem::take(woken) {
                    self.request();
                }
                self.fail(Fault::from(&error));
                0
            }
        }
    }

    fn request(&mut self) {
        let ended = self.conn.input_ended();
        if !self.call(|handler, cx, conn| handler.request(cx, conn)) {
            return;
        }
        self.flush();
        if ended {
            self.conn.body.flags.end_handled = true;
            self.end_of_itself();
        }
    }

    fn timer(&mut self) {
        if self.conn.body.timer_at <= kernel::now_ns() && self.conn.closing().is_none() {
            self.conn.body.timer_at = NEVER;
            self.call(|handler, cx, conn| handler.timer(cx, conn));
            self.flush();
        }
    }

    /// Whether a dial has come to its end well.
    fn dialed(&mut self, news: News) -> bool {
        if self.conn.closing().is_some() {
            return false;
        }
        if news.has(News::SHUTDOWN) {
            self.conn.close_as(Closer::Shutdown, true);
            return false;
        }
        let id = self.conn.id;
        if news.has(News::WRITABLE.with(News::HUP)) {
            let error = kernel::with(|k| k.conns[id as usize].dial_error.take()).flatten();
            match error {
                None => {
                    self.conn.body.connect_at = NEVER;
                    self.conn.body.phase = Phase::Connecting;
                    return true;
                }
                Some(_) if self.redial() => {}
                Some(kind) => self.fail(Fault::from(&kind.into())),
            }
        } else if news.has(News::TIMER) && self.conn.body.connect_at <= kernel::now_ns() && !self.redial() {
            self.pass(Limit::Connect);
        }
        false
    }

    /// Goes on to the next address of a dial, if there is one.
    fn redial(&mut self) -> bool {
        let body = &mut *self.conn.body;
        let Some(addr) = body.targets.pop_front() else { return false };
        let left = body.dial_until.saturating_sub(kernel::now_ns());
        body.connect_at = kernel::now_ns() + left / (body.targets.len() as u64 + 1);
        let id = self.conn.id;
        let _ = kernel::with(|k| {
            k.conns[id as usize].peer = Some(addr);
            let at = k.soon();
            k.push(at, What::Syn(id));
        });
        true
    }

    fn flush(&mut self) {
        if self.conn.closing().is_some_and(|(_, abort)| abort) {
            return;
        }
        // The connection remembers that it is broken, and closes when what the peer sent before was read.
        let flushed = self.conn.flush();
        debug_assert!(
            flushed.is_ok() || self.conn.body.broken.is_some(),
            "a flush that fails breaks the connection"
        );
    }

    fn fail(&mut self, fault: Fault) {
        let fault = self.conn.body.broken.unwrap_or(fault);
        self.conn.body.fault.get_or_insert(fault);
        self.conn.close_as(Closer::Error, true);
    }

    fn pass(&mut self, limit: Limit) {
        self.conn.body.limit.get_or_insert(limit);
        self.conn.close_as(Closer::Timer, !matches!(limit, Limit::Read | Limit::Idle));
    }

    fn call(
        &mut self,
        callback: impl FnOnce(&dyn Callbacks, &mut Context, &mut Connection<'_>) -> Result,
    ) -> bool {
        let Some(mut context) = self.conn.body.context.take() else { return false };
        let handler = self.conn.body.handler.clone();
        let outcome = callback(&*handler, &mut context, &mut self.conn);
        self.conn.body.context = Some(context);
        let Err(error) = outcome else { return true };
        let body = &mut *self.conn.body;
        if body.broken.is_some() {
            body.fault = body.fault.or(body.broken);
            self.conn.close_as(Closer::Error, true);
        } else {
            body.why.get_or_insert(error.to_string());
            self.conn.close_as(Closer::Handler, false);
        }
        false
    }

    fn look_at_limits(&mut self) {
        let body = &mut *self.conn.body;
        if !body.has_limits() {
            return;
        }
        let id = self.conn.id;
        let Some((now, bytes_in, bytes_out)) =
            kernel::with(|k| (k.now, k.conns[id as usize].bytes_in, k.conns[id as usize].bytes_out))
        else {
            return;
        };
        let (input, output) = (body.input.len(), body.output.len());
        let stopped = body.flags.paused || body.flags.input_ended;
        let waits = input > 0 && !stopped && output <= limits::OUTPUT_HIGH_BYTES;
        body.limits.read.look(waits, bytes_in.wrapping_sub(input as u64), now);
        body.limits.write_stall.look(output > 0, bytes_out, now);
        body.limits.idle.look(true, bytes_in + bytes_out, now);
        let (at, limit) = body.limits.next();
        if at <= now && self.conn.closing().is_none() {
            self.pass(limit);
        }
    }

    /// Puts the earliest deadline into the queue, unless something as early stands there.
    fn arm(&mut self) {
        let body = &*self.conn.body;
        let limit = if body.has_limits() { body.limits.next().0 } else { NEVER };
        let next = body.timer_at.min(body.connect_at).min(body.close_at).min(limit);
        let id = self.conn.id;
        let _ = kernel::with(|k| {
            let conn = &mut k.conns[id as usize];
            if next == NEVER || conn.armed.is_some_and(|at| at <= next) {
                return;
            }
            conn.armed = Some(next);
            let at = k.late(next);
            k.push(at, What::Timer(id, next));
        });
    }

    // ---- the end

    fn close(&mut self, closer: Closer, abort: bool) {
        let begins = self.conn.body.has_limits();
        if begins && !abort {
            self.flush();
        }
        let (closer, abort) = self.conn.closing().unwrap_or((closer, abort));
        if abort || !self.waits(begins, closer) {
            return self.clean_up(closer, abort);
        }
        self.conn.body.timer_at = NEVER;
        self.arm();
    }

    /// Whether there is something to wait for before the end, and time for it.
    fn waits(&mut self, begins: bool, closer: Closer) -> bool {
        let now = kernel::now_ns();
        let late = self.conn.body.close_at <= now;
        match self.conn.body.phase {
            Phase::Lingering => return !late && self.lingers(),
            Phase::Closing => {}
            _ if !begins => return false,
            _ => {}
        }
        if self.conn.unsent() > 0 {
            if begins {
                self.conn.body.phase = Phase::Closing;
                let stall = Duration::from_millis(limits::CLOSE_STALL_MS).as_nanos() as u64;
                self.conn.body.close_at = now + stall.min(self.conn.body.limits.write_stall.limit());
                return true;
            }
            return !late;
        }
        let ours = matches!(closer, Closer::User | Closer::Handler | Closer::Shutdown);
        if !ours || self.conn.body.flags.input_ended || self.conn.body.broken.is_some() {
            return false;
        }
        let unconsumed = !self.conn.body.input.is_empty();
        self.conn.body.lingered = 0;
        if !(self.lingers() && (unconsumed || self.conn.body.lingered > 0)) {
            return false;
        }
        if !self.conn.body.flags.end_sent && !self.conn.end_stream() {
            return false;
        }
        self.conn.body.flags.end_sent = true;
        self.conn.body.phase = Phase::Lingering;
        self.conn.body.close_at = now + Duration::from_millis(limits::LINGER_MS).as_nanos() as u64;
        true
    }

    fn lingers(&mut self) -> bool {
        while self.conn.body.flags.readable {
            if self.conn.body.lingered >= limits::LINGER_BYTES_MAX && !self.conn.body.flags.hup {
                break;
            }
            self.conn.body.input.clear();
            match self.conn.read() {
                Ok(None) => {}
                Ok(Some(n)) if n > 0 => self.conn.body.lingered += n,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        true
    }

    fn clean_up(&mut self, closer: Closer, abort: bool) {
        let (id, body) = (self.conn.id, &mut *self.conn.body);
        body.phase = Phase::Closed;
        let unsent = body.dropped + body.output.len();
        let reason = match closer {
            Closer::User => Reason::User,
            Closer::Peer => Reason::Peer,
            Closer::Error => {
                let unknown = Fault { kind: std::io::ErrorKind::Other, errno: None };
                Reason::Error(body.fault.take().unwrap_or(unknown))
            }
            Closer::Timer => Reason::Timeout(body.limit.take().unwrap_or(Limit::Connect)),
            Closer::Shutdown => Reason::Shutdown,
            Closer::Handler => Reason::Handler(body.why.take().unwrap_or_default()),
        };
        let resets = unsent > 0 || (abort && matches!(closer, Closer::User | Closer::Shutdown));
        let connected = body.flags.connected;
        let info = kernel::with(|k| {
            if let Some((link, side)) = k.conns[id as usize].link.take() {
                k.close_end(link, side, resets);
            }
            let now = k.now;
            k.trace.note(now, "closed", u64::from(id), unsent as u64);
            let conn = &mut k.conns[id as usize];
            conn.armed = None;
            Closed {
                reason,
                id: u64::from(id),
                peer: conn.peer,
                local: conn.local,
                bytes_in: conn.bytes_in,
                bytes_out: conn.bytes_out,
                unsent: unsent as u64,
                connected,
                lifetime: Duration::from_nanos(now - conn.opened),
                quiet: Duration::from_nanos(now - conn.moved),
            }
        });
        let Some(info) = info else { return };
        body.input.clear();
        body.output.clear();
        if let Some(mut context) = body.context.take() {
            let handler = body.handler.clone();
            if connected && matches!(closer, Closer::Peer | Closer::Error) {
                handler.disconnect(&mut context, &info);
            }
            handler.close(&mut context, &info);
        }
        let _ = kernel::with(|k| k.conns[id as usize].done = true);
    }
}
