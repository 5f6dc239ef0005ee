//! Users and targets: they talk over streams, and see whether what they hear is what was said.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use simulated::rt::{self, Closed, Connection, Handler, Prepare, Reject};

use super::bytes::{self, NAME_SIZE};
use super::plan::{StreamPlan, Talk, Way};
use super::{FORWARD, HTTP, PORT_FIRST, SOCKS, Shared, TARGET, target_name};

/// A talker rests so often, and no more.
const RESTS: u32 = 3;
/// And waits so often between two pieces.
const PAUSES: u32 = 40;
/// Unsent bytes beyond which it says no more for now.
const UNSENT: usize = 32 * 1024;

/// One direction of a stream.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    pub(crate) sent: u64,
    /// All was sent, and the end.
    pub(crate) finished: bool,
    pub(crate) received: u64,
    pub(crate) ended: bool,
}

/// What is known of one stream.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) plan: StreamPlan,
    pub(crate) user: Option<SocketAddr>,
    pub(crate) begun: u64,
    pub(crate) up: Direction,
    pub(crate) down: Direction,
    /// The user was told that the target is there, or the target saw the user.
    pub(crate) established: bool,
    pub(crate) target_seen: bool,
    pub(crate) user_done: bool,
    pub(crate) target_done: bool,
    /// One of the two has broken it off.
    pub(crate) aborted: bool,
    faults: (u64, u64),
    /// Why nothing came of it.
    pub(crate) refused: Option<String>,
}

impl StreamState {
    pub(crate) fn new(plan: StreamPlan) -> StreamState {
        StreamState {
            plan,
            user: None,
            begun: rt::now_ns(),
            up: Direction::default(),
            down: Direction::default(),
            established: false,
            target_seen: false,
            user_done: false,
            target_done: false,
            aborted: false,
            faults: rt::faults(),
            refused: None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.user_done && (self.target_done || !self.target_seen)
    }

    /// Both directions came to their end.
    pub(crate) fn is_whole(&self) -> bool {
        self.up.ended && self.down.ended
    }

    /// Whether there is a reason for a stream to end before its time.
    pub(crate) fn is_excused(&self) -> bool {
        let (count, at) = rt::faults();
        let minute = Duration::from_secs(60).as_nanos() as u64;
        self.aborted || count > self.faults.0 || (count > 0 && at + minute > self.begun)
    }
}

/// One end of a stream, once it may talk.
struct Talker {
    stream: u32,
    is_user: bool,
    talk: Talk,
    sent: u64,
    received: u64,
    rests: u32,
    pauses: u32,
    /// Bytes until the next rest.
    until_rest: u64,
    rest_until: u64,
    pause_until: u64,
    finished: bool,
    ended: bool,
}

impl Talker {
    fn new(stream: u32, is_user: bool, talk: Talk, sent: u64) -> Talker {
        let until_rest = talk.rests.map_or(u64::MAX, |(bytes, _)| bytes);
        Talker {
            stream,
            is_user,
            talk,
            sent,
            received: 0,
            rests: RESTS,
            pauses: PAUSES,
            until_rest,
            rest_until: 0,
            pause_until: 0,
            finished: false,
            ended: false,
        }
    }

    fn pump(&mut self, shared: &Shared, conn: &mut Connection<'_>) {
        let now = rt::now_ns();
        self.read(shared, conn, now);
        if self.talk.aborts_at.is_some_and(|at| self.sent + self.received >= at) {
            shared.stream(self.stream, |state| state.aborted = true);
            conn.abort();
            return;
        }
        self.write(shared, conn, now);
        let hears_all = self.ended || !self.talk.ends_last;
        if self.sent == self.talk.len && hears_all && !self.finished {
            self.finished = true;
            shared.stream(self.stream, |state| {
                let direction = if self.is_user { &mut state.up } else { &mut state.down };
                direction.finished = true;
            });
            conn.shutdown_write();
        }
        let timer = [self.rest_until, self.pause_until].into_iter().filter(|at| *at > now).min();
        match timer {
            Some(at) => conn.set_timer(Duration::from_nanos(at - now)),
            None => conn.clear_timer(),
        }
        match self.rest_until > now {
            true => conn.pause(),
            false => conn.resume(),
        }
        if conn.unsent() > 0 {
            conn.wake_on_progress();
        }
    }

    fn read(&mut self, shared: &Shared, conn: &mut Connection<'_>, now: u64) {
        let input = conn.input();
        let len = input.len() as u64;
        if len > 0 {
            let mut at = self.received;
            let wrong = input.chunks().find_map(|chunk| {
                let wrong = bytes::first_wrong(self.stream, !self.is_user, at, chunk);
                at += chunk.len() as u64;
                wrong
            });
            input.clear();
            self.received = at;
            if let Some(at) = wrong {
                shared.finding(format!("{self}: the byte at {at} is not the one that was sent"));
            }
            self.until_rest = self.until_rest.saturating_sub(len);
            if self.until_rest == 0
                && let Some((bytes, rest)) = self.talk.rests
                && self.rests > 0
            {
                self.rests -= 1;
                self.until_rest = bytes;
                self.rest_until = now + rest.as_nanos() as u64;
            }
        }
        let ends = conn.input_ended() && !self.ended;
        self.ended |= ends;
        if len == 0 && !ends {
            return;
        }
        let (received, ended) = (self.received, self.ended);
        let fault = shared.stream(self.stream, |state| {
            // A target that was reached for a user who has left already hears nothing, and an end.
            let in_vain = !self.is_user && received == 0 && state.user_done;
            let direction = if self.is_user { &mut state.down } else { &mut state.up };
            (direction.received, direction.ended) = (received, ended);
            if received > direction.sent {
                Some(format!("heard {received} bytes, and only {} were said", direction.sent))
            } else if ended && !in_vain && !(direction.finished && received == direction.sent) {
                let whole = if direction.finished { "all" } else { "not all yet" };
                Some(format!(
                    "a clean end after {received} bytes, of {} that were said, {whole}",
                    direction.sent
                ))
            } else {
                None
            }
        });
        if let Some(fault) = fault {
            shared.finding(format!("{self}: {fault}"));
        }
    }

    fn write(&mut self, shared: &Shared, conn: &mut Connection<'_>, now: u64) {
        let mut said = Vec::new();
        while self.sent < self.talk.len && conn.unsent() < UNSENT && self.pause_until <= now {
            let piece = (self.talk.piece as u64).min(self.talk.len - self.sent) as usize;
            said.clear();
            bytes::write(self.stream, self.is_user, self.sent, piece, &mut said);
            conn.output().write(&said);
            self.sent += piece as u64;
            let sent = self.sent;
            shared.stream(self.stream, |state| {
                let direction = if self.is_user { &mut state.up } else { &mut state.down };
                direction.sent = sent;
            });
            if self.talk.pause > Duration::ZERO && self.pauses > 0 {
                self.pauses -= 1;
                self.pause_until = now + self.talk.pause.as_nanos() as u64;
            }
            if self.talk.aborts_at.is_some_and(|at| self.sent + self.received >= at) {
                // It is sent as far as the kernel takes it now; the next look breaks off.
                conn.handle().wake();
                break;
            }
            if conn.flush().is_err() {
                // It closes with that error.
                return;
            }
        }
    }

    fn closed(&self, shared: &Shared, info: &Closed) {
        let why = shared.stream(self.stream, |state| {
            let done = if self.is_user { &mut state.user_done } else { &mut state.target_done };
            *done = true;
            let whole = self.ended && self.finished && info.unsent == 0;
            (!whole && !state.is_excused() && state.established).then(|| info.reason.to_string())
        });
        if let Some(why) = why {
            shared.finding(format!("{self}: broken for no reason: {why}"));
        }
    }
}

impl std::fmt::Display for Talker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} of stream {}", if self.is_user { "user" } else { "target" }, self.stream)
    }
}

// ---- users

/// The handler of a user's connection to the gateway.
pub(crate) struct User {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stream: u32,
}

pub(crate) struct UserTalk {
    talker: Talker,
    stage: Stage,
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// SOCKS5: which method.
    Greeting,
    /// The answer to what was asked for.
    Answer,
    Talking,
    Over,
}

impl User {
    /// Where a user of this stream goes.
    pub(crate) fn door(way: Way) -> SocketAddr {
        match way {
            Way::Connect => HTTP,
            Way::Socks => SOCKS,
            Way::Forward => FORWARD,
        }
    }

    fn target(&self, named: bool) -> (String, u16) {
        let port = PORT_FIRST + self.stream as u16;
        (if named { target_name() } else { TARGET.to_string() }, port)
    }

    fn ask(&self, conn: &mut Connection<'_>) {
        let (host, port) = self.target(self.shared.stream(self.stream, |state| state.plan.named));
        match self.shared.stream(self.stream, |state| state.plan.way) {
            Way::Connect => {
                let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
                conn.output().write(head.as_bytes());
            }
            Way::Socks => {
                let name = host.as_bytes();
                let mut asks = vec![5, 1, 0, 3, name.len() as u8];
                asks.extend_from_slice(name);
                asks.extend_from_slice(&port.to_be_bytes());
                conn.output().write(&asks);
            }
            Way::Forward => {}
        }
    }

    /// Whether the user may talk on; looks at the answer until it may.
    fn answered(&self, talk: &mut UserTalk, conn: &mut Connection<'_>) -> bool {
        if talk.stage == Stage::Greeting && conn.input().len() >= 2 {
            let method = conn.input().read_vec(2).unwrap_or_default();
            if method != [5, 0] {
                self.refused(talk, conn, format!("method {method:?}"));
                return false;
            }
            self.ask(conn);
            talk.stage = Stage::Answer;
        }
        if talk.stage == Stage::Answer {
            match self.read_answer(conn) {
                None => {}
                Some(Ok(())) => {
                    talk.stage = Stage::Talking;
                    self.shared.stream(self.stream, |state| state.established = true);
                    rt::note("established", u64::from(self.stream), 0);
                }
                Some(Err(why)) => self.refused(talk, conn, why),
            }
        }
        talk.stage == Stage::Talking
    }

    fn read_answer(&self, conn: &mut Connection<'_>) -> Option<Result<(), String>> {
        let input = conn.input();
        if self.shared.stream(self.stream, |state| state.plan.way) == Way::Connect {
            let len = input.find_slice(b"\r\n\r\n")? + 4;
            let head = input.read_vec(len).unwrap_or_default();
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            return Some(if line.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(line) });
        }
        let head = input.peek(5).ok()?.to_vec();
        let len = match head[3] {
            1 => 10,
            4 => 22,
            _ => 7 + usize::from(head[4]),
        };
        let answer = input.read_vec(len).ok()?;
        Some(if answer[1] == 0 { Ok(()) } else { Err(format!("SOCKS5 reply {}", answer[1])) })
    }

    fn refused(&self, talk: &mut UserTalk, conn: &mut Connection<'_>, why: String) {
        rt::note("refused", u64::from(self.stream), 0);
        talk.stage = Stage::Over;
        self.shared.stream(self.stream, |state| state.refused = Some(why));
        conn.close();
    }

    fn advance(&self, talk: &mut UserTalk, conn: &mut Connection<'_>) {
        if self.answered(talk, conn) {
            talk.talker.pump(&self.shared, conn);
        } else if talk.stage == Stage::Over || conn.input_ended() {
            conn.close();
        }
    }
}

impl Handler for User {
    type Context = UserTalk;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<UserTalk, Reject> {
        conn.set_half_close(true);
        let plan = self.shared.stream(self.stream, |state| state.plan.clone());
        let stage = match plan.way {
            Way::Connect => Stage::Answer,
            Way::Socks => Stage::Greeting,
            Way::Forward => Stage::Talking,
        };
        Ok(UserTalk { talker: Talker::new(self.stream, true, plan.user, 0), stage })
    }

    fn on_connect(&self, talk: &mut UserTalk, conn: &mut Connection<'_>) -> rt::Result {
        let addr = conn.local_addr();
        let (way, hasty) = self.shared.stream(self.stream, |state| {
            state.user = addr;
            (state.plan.way, state.plan.hasty)
        });
        match way {
            Way::Socks => conn.output().write(&[5, 1, 0]),
            way => {
                self.ask(conn);
                if way == Way::Connect && hasty && talk.talker.talk.aborts_at.is_none() {
                    talk.talker.write(&self.shared, conn, rt::now_ns());
                }
            }
        }
        self.advance(talk, conn);
        Ok(())
    }

    fn on_request(&self, talk: &mut UserTalk, conn: &mut Connection<'_>) -> rt::Result {
        self.advance(talk, conn);
        Ok(())
    }

    fn on_timer(&self, talk: &mut UserTalk, conn: &mut Connection<'_>) -> rt::Result {
        self.advance(talk, conn);
        Ok(())
    }

    fn on_close(&self, talk: &mut UserTalk, info: &Closed) {
        if !self.shared.stream(self.stream, |state| state.established) {
            self.shared.stream(self.stream, |state| {
                let why = || format!("closed: {}", info.reason);
                state.refused.get_or_insert_with(why);
            });
        }
        talk.talker.closed(&self.shared, info);
    }
}

// ---- targets

/// The handler of targets: one port a stream, or one for all of a forwarded port.
pub(crate) struct Target {
    pub(crate) shared: Arc<Shared>,
}

/// `None` until it is known which stream it is.
pub(crate) struct TargetTalk(Option<Talker>);

impl Target {
    fn meet(&self, stream: u32, heard: u64) -> Option<Talker> {
        let plan = self.shared.try_stream(stream, |state| {
            let twice = state.target_seen;
            (state.target_seen, state.established) = (true, true);
            (state.plan.target.clone(), twice)
        });
        let Some((talk, twice)) = plan else {
            self.shared.finding(format!("a target was reached for stream {stream}, which nobody asked for"));
            return None;
        };
        if twice {
            self.shared.finding(format!("the target of stream {stream} was reached twice"));
        }
        debug_assert_eq!(heard, 0);
        Some(Talker::new(stream, false, talk, 0))
    }
}

impl Handler for Target {
    type Context = TargetTalk;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<TargetTalk, Reject> {
        conn.set_half_close(true);
        Ok(TargetTalk(None))
    }

    fn on_connect(&self, talk: &mut TargetTalk, conn: &mut Connection<'_>) -> rt::Result {
        let local = conn.local_addr().ok_or("an accepted connection has an address")?;
        if local.ip() == TARGET {
            talk.0 = self.meet(u32::from(local.port() - PORT_FIRST), 0);
        }
        self.on_request(talk, conn)
    }

    fn on_request(&self, talk: &mut TargetTalk, conn: &mut Connection<'_>) -> rt::Result {
        if talk.0.is_none() {
            let first = conn.input().peek(NAME_SIZE as usize).ok().and_then(|first| first.try_into().ok());
            talk.0 = first.and_then(|first| self.meet(bytes::named(first).0, 0));
        }
        match &mut talk.0 {
            Some(talker) => talker.pump(&self.shared, conn),
            None if conn.input_ended() => conn.close(),
            None => {}
        }
        Ok(())
    }

    fn on_timer(&self, talk: &mut TargetTalk, conn: &mut Connection<'_>) -> rt::Result {
        self.on_request(talk, conn)
    }

    fn on_close(&self, talk: &mut TargetTalk, info: &Closed) {
        if let Some(talker) = &talk.0 {
            talker.closed(&self.shared, info);
        }
    }
}
