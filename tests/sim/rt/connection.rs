//! One connection: what the world keeps of it, and what its handler and everyone else are given.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linkbuffer::LinkBuffer;
use poller::limits;
use poller::{Fault, Limit};

use super::handler::{Callbacks, Context, Prepare};
use super::kernel;

pub(super) use super::turn::run;

/// A time that never comes.
pub(super) const NEVER: u64 = u64::MAX;

/// What a connection has yet to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News(u16);

impl News {
    pub(super) const NONE: News = News(0);
    pub(super) const READABLE: News = News(1 << 1);
    pub(super) const WRITABLE: News = News(1 << 2);
    pub(super) const HUP: News = News(1 << 3);
    pub(super) const WOKEN: News = News(1 << 4);
    pub(super) const TIMER: News = News(1 << 6);
    pub(super) const SHUTDOWN: News = News(1 << 7);
    pub(super) const REST: News = News(1 << 8);

    pub(super) const fn with(self, other: News) -> News {
        News(self.0 | other.0)
    }

    pub(super) fn has(self, other: News) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn only(self, other: News) -> News {
        News(self.0 & other.0)
    }

    pub(super) fn bits(self) -> u16 {
        self.0
    }
}

/// Who asked for a close first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closer {
    User,
    Peer,
    Error,
    Timer,
    Shutdown,
    Handler,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Dialing,
    Connecting,
    Working,
    Closing,
    Lingering,
    Closed,
}

/// A limit in time: how long something may stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    limit: u64,
    since: u64,
    count: u64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { limit: NEVER, since: NEVER, count: 0 }
    }
}

impl Watch {
    pub(super) fn set(&mut self, limit: Option<Duration>) {
        self.limit = limit.map_or(NEVER, |limit| limit.as_nanos() as u64);
    }

    pub(super) fn look(&mut self, runs: bool, count: u64, now: u64) {
        if !runs {
            self.since = NEVER;
        } else if self.since == NEVER || self.count != count {
            (self.since, self.count) = (now, count);
        }
    }

    pub(super) fn deadline(&self) -> u64 {
        self.since.saturating_add(self.limit)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }
}

/// The limits of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) read: Watch,
    pub(super) write_stall: Watch,
    pub(super) idle: Watch,
}

impl Limits {
    pub(super) fn next(&self) -> (u64, Limit) {
        let read = (self.read.deadline(), Limit::Read);
        let write_stall = (self.write_stall.deadline(), Limit::WriteStall);
        let idle = (self.idle.deadline(), Limit::Idle);
        [read, write_stall, idle].into_iter().min_by_key(|(at, _)| *at).expect("there are three")
    }
}

/// What the world keeps of a connection at all times.
pub(super) struct Conn {
    pub(super) proc: u32,
    pub(super) link: Option<(u32, u8)>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    pub(super) news: News,
    pub(super) queued: bool,
    pub(super) running: bool,
    pub(super) closing: Option<(Closer, bool)>,
    pub(super) done: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) opened: u64,
    pub(super) moved: u64,
    /// The time for which its timer stands in the queue.
    pub(super) armed: Option<u64>,
    pub(super) dial_error: Option<io::ErrorKind>,
    /// In the hands of its owner while a turn runs.
    pub(super) body: Option<Box<Body>>,
}

impl Conn {
    pub(super) fn new(
        proc: u32,
        body: Box<Body>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        now: u64,
    ) -> Conn {
        Conn {
            proc,
            link: None,
            peer,
            local,
            news: News::NONE,
            queued: false,
            running: false,
            closing: None,
            done: false,
            bytes_in: 0,
            bytes_out: 0,
            opened: now,
            moved: now,
            armed: None,
            dial_error: None,
            body: Some(body),
        }
    }
}

/// What only the owner touches.
pub(super) struct Body {
    pub(super) handler: Arc<dyn Callbacks>,
    pub(super) context: Option<Context>,
    pub(super) phase: Phase,
    pub(super) input: LinkBuffer,
    pub(super) output: LinkBuffer,
    pub(super) limits: Limits,
    pub(super) timer_at: u64,
    pub(super) connect_at: u64,
    /// The addresses of a dial that were not tried, and when it has used up its time.
    pub(super) targets: VecDeque<SocketAddr>,
    pub(super) dial_until: u64,
    pub(super) close_at: u64,
    pub(super) broken: Option<Fault>,
    pub(super) dropped: usize,
    pub(super) lingered: usize,
    pub(super) fault: Option<Fault>,
    pub(super) why: Option<String>,
    pub(super) limit: Option<Limit>,
    pub(super) early: News,
    pub(super) flags: Flags,
}

/// What the owner remembers from one turn to the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    pub(super) readable: bool,
    pub(super) hup: bool,
    pub(super) input_ended: bool,
    pub(super) end_handled: bool,
    pub(super) half_close: bool,
    pub(super) paused: bool,
    pub(super) end_asked: bool,
    pub(super) end_sent: bool,
    pub(super) above_high: bool,
    pub(super) wake_on_progress: bool,
    pub(super) stopping: bool,
    pub(super) connected: bool,
}

impl Body {
    pub(super) fn new(
        handler: Arc<dyn Callbacks>,
        context: Context,
        phase: Phase,
        wishes: &Prepare<'_>,
    ) -> Box<Body> {
        Box::new(Body {
            handler,
            context: Some(context),
            phase,
            input: LinkBuffer::new(),
            output: LinkBuffer::new(),
            limits: wishes.limits,
            timer_at: NEVER,
            connect_at: NEVER,
            targets: VecDeque::new(),
            dial_until: NEVER,
            close_at: NEVER,
            broken: None,
            dropped: 0,
            lingered: 0,
            fault: None,
            why: None,
            limit: None,
            early: News::NONE,
            flags: Flags { half_close: wishes.half_close, ..Flags::default() },
        })
    }

    pub(super) fn has_limits(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Working)
    }
}

/// A connection in the hands of its handler.
pub struct Connection<'a> {
    pub(super) id: u32,
    pub(super) run: u64,
    pub(super) body: &'a mut Body,
}

/// What the poller's does, and nothing else.
#[allow(missing_docs, clippy::missing_errors_doc, reason = "they are the poller's")]
impl Connection<'_> {
    pub fn tls(&self) -> Option<&poller::tls::Engine> {
        None
    }

    pub fn input(&mut self) -> &mut LinkBuffer {
        &mut self.body.input
    }

    pub fn output(&mut self) -> &mut LinkBuffer {
        &mut self.body.output
    }

    pub fn unsent(&self) -> usize {
        self.body.output.len()
    }

    pub fn buffers(&mut self) -> (&mut LinkBuffer, &mut LinkBuffer) {
        (&mut self.body.input, &mut self.body.output)
    }

    pub fn input_ended(&self) -> bool {
        self.body.flags.input_ended
    }

    pub fn handle(&self) -> Handle {
        Handle { id: self.id, run: self.run }
    }

    pub fn id(&self) -> u64 {
        u64::from(self.id)
    }

    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.handle().peer_addr()
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.handle().look(|conn| conn.local).flatten()
    }

    pub fn bytes_out(&self) -> u64 {
        self.handle().bytes_out()
    }

    pub fn close(&mut self) {
        let closer = if self.body.flags.stopping { Closer::Shutdown } else { Closer::User };
        self.close_as(closer, false);
    }

    pub fn abort(&mut self) {
        self.close_as(Closer::User, true);
    }

    pub fn shutdown_write(&mut self) {
        self.body.flags.end_asked = true;
    }

    pub fn set_half_close(&mut self, on: bool) {
        self.body.flags.half_close = on;
    }

    pub fn pause(&mut self) {
        self.body.flags.paused = true;
    }

    pub fn resume(&mut self) {
        self.body.flags.paused = false;
    }

    pub fn is_congested(&mut self) -> bool {
        let congested = self.unsent() > limits::OUTPUT_HIGH_BYTES;
        self.body.flags.above_high |= congested;
        congested
    }

    pub fn wake_on_progress(&mut self) {
        self.body.flags.wake_on_progress = true;
    }

    pub fn set_timer(&mut self, delay: Duration) {
        self.set_timer_at(kernel::now() + delay);
    }

    pub fn set_timer_at(&mut self, at: Instant) {
        self.body.timer_at = kernel::nanos_at(at).max(kernel::now_ns() + 1);
    }

    pub fn clear_timer(&mut self) {
        self.body.timer_at = NEVER;
    }

    pub fn set_read_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.body.limits.read.set(limit);
        Ok(())
    }

    pub fn set_write_stall_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.body.limits.write_stall.set(limit);
        Ok(())
    }

    pub fn set_idle_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.body.limits.idle.set(limit);
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(fault) = self.body.broken {
            self.drop_output();
            return Err(fault.into());
        }
        let id = self.id;
        let mut sent = 0;
        while !self.body.output.is_empty() {
            let output = &mut self.body.output;
            let wrote = kernel::with(|k| match k.conns[id as usize].link {
                Some((link, side)) => k.write(link, side, output),
                None => Ok((0, true)),
            });
            match wrote.unwrap_or(Ok((0, true))) {
                Ok((n, short)) => {
                    sent += n;
                    if short {
                        self.body.flags.above_high |= self.body.output.len() > limits::OUTPUT_HIGH_BYTES;
                        break;
                    }
                }
                Err(error) => {
                    self.break_off(Fault::from(&error));
                    return Err(error);
                }
            }
        }
        if sent > 0 {
            self.note_sent(sent);
        }
        if self.body.flags.end_asked && !self.body.flags.end_sent && self.body.output.is_empty() {
            self.body.flags.end_sent = true;
            if !self.end_stream() {
                (self.body.flags.readable, self.body.flags.hup) = (true, true);
            }
        }
        Ok(())
    }
}

impl Connection<'_> {
    pub(super) fn closing(&self) -> Option<(Closer, bool)> {
        kernel::with(|k| k.conns[self.id as usize].closing).flatten()
    }

    /// From the owner, who will look.
    pub(super) fn close_as(&mut self, closer: Closer, abort: bool) {
        let _ = kernel::with(|k| {
            let conn = &mut k.conns[self.id as usize];
            let (first, was) = conn.closing.unwrap_or((closer, false));
            conn.closing = Some((first, was || abort));
        });
    }

    pub(super) fn end_stream(&mut self) -> bool {
        kernel::with(|k| match k.conns[self.id as usize].link {
            Some((link, side)) => k.end_stream(link, side),
            None => false,
        })
        .unwrap_or(false)
    }

    pub(super) fn break_off(&mut self, fault: Fault) {
        self.body.broken = Some(fault);
        (self.body.flags.readable, self.body.flags.hup) = (true, true);
        self.body.flags.paused = false;
        self.drop_output();
    }

    fn drop_output(&mut self) {
        self.body.dropped += self.body.output.len();
        self.body.output.clear();
    }

    fn note_sent(&mut self, sent: usize) {
        let progress = std::mem::take(&mut self.body.flags.wake_on_progress);
        let stall = self.body.limits.write_stall.limit().min(limits::CLOSE_STALL_MS * 1_000_000);
        let close_at = &mut self.body.close_at;
        let _ = kernel::with(|k| {
            let now = k.now;
            let conn = &mut k.conns[self.id as usize];
            conn.bytes_out += sent as u64;
            conn.moved = now;
            if progress {
                conn.news = conn.news.with(News::WOKEN);
            }
            if *close_at != NEVER {
                *close_at = now + stall;
            }
        });
    }

    pub(super) fn wants_read(&self) -> bool {
        let flags = &self.body.flags;
        flags.readable
            && !flags.paused
            && !flags.input_ended
            && self.body.input.len() < limits::INPUT_HIGH_BYTES
            && self.unsent() <= limits::OUTPUT_HIGH_BYTES
    }

    pub(super) fn is_drained(&self) -> bool {
        self.body.flags.above_high && self.unsent() <= limits::OUTPUT_LOW_BYTES && self.body.broken.is_none()
    }

    pub(super) fn read(&mut self) -> io::Result<Option<usize>> {
        let input = &mut self.body.input;
        let read = kernel::with(|k| {
            let (link, side) = k.conns[self.id as usize].link?;
            let read = k.read(link, side, input);
            let now = k.now;
            if let Ok(Some(n)) = &read {
                let conn = &mut k.conns[self.id as usize];
                conn.bytes_in += *n as u64;
                conn.moved = now;
            }
            Some((read, k.is_dry(link, side)))
        });
        let Some((read, dry)) = read.flatten() else { return Ok(None) };
        let flags = &mut self.body.flags;
        match read {
            Ok(Some(0)) => {
                flags.readable = false;
                if self.body.broken.is_some() {
                    return Ok(None);
                }
                flags.input_ended = true;
                Ok(Some(0))
            }
            Ok(Some(n)) => {
                flags.readable = !dry;
                Ok(Some(n))
            }
            Ok(None) => {
                flags.readable = false;
                Ok(None)
            }
            Err(error) => {
                flags.readable = false;
                Err(error)
            }
        }
    }
}

/// The side of a connection that may be kept anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Handle {
    pub(super) id: u32,
    pub(super) run: u64,
}

#[allow(missing_docs, reason = "they are the poller's")]
impl Handle {
    fn look<R>(&self, at: impl FnOnce(&Conn) -> R) -> Option<R> {
        kernel::with(|k| (k.run == self.run).then(|| at(&k.conns[self.id as usize]))).flatten()
    }

    pub fn id(&self) -> u64 {
        u64::from(self.id)
    }

    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.look(|conn| conn.peer).flatten()
    }

    pub fn bytes_out(&self) -> u64 {
        self.look(|conn| conn.bytes_out).unwrap_or(0)
    }

    pub fn bytes_in(&self) -> u64 {
        self.look(|conn| conn.bytes_in).unwrap_or(0)
    }

    pub fn is_closed(&self) -> bool {
        self.look(|conn| conn.done || conn.closing.is_some()).unwrap_or(true)
    }

    pub fn wake(&self) {
        let _ = kernel::with(|k| {
            if k.run == self.run {
                k.notify(self.id, News::WOKEN);
            }
        });
    }

    pub fn close(&self) {
        self.close_as(false);
    }

    pub fn abort(&self) {
        self.close_as(true);
    }

    fn close_as(&self, abort: bool) {
        let _ = kernel::with(|k| {
            if k.run == self.run {
                k.close_conn(self.id, Closer::User, abort);
            }
        });
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("id", &self.id).field("peer", &self.peer_addr()).finish()
    }
}
