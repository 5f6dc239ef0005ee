//! The HTTP proxy port: moves bytes between the user's connection, the machine that understands HTTP
//! ([`HttpProxy`]), and one stream of a tunnel at a time.
//!
//! ```text
//!            ┌────────────────────── next request ──────────────────────┐
//!            ▼                                                          │
//!   Between ──Open──▶ Opening ──accepted──▶ Exchanging ──response sent──┘
//!                        │                      │ CONNECT, 101
//!                        └─refused─▶ Between    └──────▶ Relaying ──▶ closed
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use linkbuffer::LinkBuffer;

use super::{Gate, Joined, Journey, Verdict, broken_end, closed_end, dst, opened, unanswered};
use crate::limits::{LINGER_MS, RELAY_CREDIT_BYTES, RELAY_OUTPUT_BYTES};
use crate::proto::credentials::Credentials;
use crate::proto::frame::{Network, OpenRequest, ResetCode};
use crate::proto::http::{
    Clock, End as HttpEnd, Event, ExchangeRecord, HttpProxy, Proven, ProxyConfig, Refusal,
};
use crate::record::{End, Ingress, Phase, Proto, Text, Who};
use crate::relay::Relay;
use crate::rt::{self, Closed, Connection, Handler, Prepare, Reject};
use crate::times::{Stall, can_arm};
use crate::tunnel::{Broken, Stream, Watcher};

/// The handler of the port.
pub struct Http {
    gate: Gate,
    config: Arc<ProxyConfig>,
}

impl Http {
    /// For a gateway.
    pub fn new(gate: Gate) -> Http {
        let config = Arc::new(ProxyConfig {
            auth: gate.logins.asks(),
            via: format!("anyproxy-{:08x}", gate.seed as u32),
        });
        Http { gate, config }
    }
}

/// One user.
pub struct User(Stand);

enum Stand {
    /// The machine has a say.
    Talking(Box<Talk>),
    /// Nobody looks at the bytes any more: behind a CONNECT that rests is no machine.
    Joined(Box<Joined>),
}

/// A user whose bytes the machine looks at.
struct Talk {
    proxy: HttpProxy,
    stage: Stage,
    /// What is known of the stream under way.
    journey: Option<Journey>,
    peer: Option<std::net::SocketAddr>,
    /// Where the answer comes to while a password is looked at.
    proven: Option<Arc<OnceLock<Proven>>>,
    /// What was there when the login came, until a stream is asked for: a key may be taken out in between.
    under: Option<Arc<Credentials>>,
    stopping: bool,
    stall: Stall,
}

enum Stage {
    /// No stream.
    Between,
    Opening(Stream),
    Exchanging(Upstream),
    /// The machine has done its work.
    Relaying(Box<Joined>),
    /// The last answer is out; what still comes is read and dropped until the user closes.
    Lingering,
}

/// A stream whose bytes the machine looks at.
struct Upstream {
    stream: Stream,
    /// Read from the session and not yet understood.
    input: LinkBuffer,
    /// Bytes read from the session. Invariant: credited <= read.
    read: u64,
    /// What the session was told of those that reached the kernel.
    credited: u64,
    /// The session had no more when it was last asked; a wake follows when it has.
    dry: bool,
    ended: bool,
}

fn clock() -> Clock {
    Clock { now: rt::now(), wall: rt::wall() }
}

impl Handler for Http {
    type Context = User;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<User, Reject> {
        conn.set_half_close(true);
        self.gate.times.prepare(Ingress::Http, conn).map_err(|error| Reject(error.to_string()))?;
        let proxy = HttpProxy::new(self.config.clone(), rt::now());
        Ok(User(Stand::Talking(Box::new(Talk {
            proxy,
            stage: Stage::Between,
            journey: None,
            peer: conn.peer_addr(),
            proven: None,
            under: None,
            stopping: false,
            stall: Stall::new(&self.gate.times),
        }))))
    }

    fn on_connect(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        self.advance(cx, conn)
    }

    fn on_request(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        self.advance(cx, conn)
    }

    fn on_drain(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        self.advance(cx, conn)
    }

    fn on_timer(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        if let Stand::Talking(talk) = &mut cx.0 {
            if matches!(talk.stage, Stage::Lingering) {
                conn.close();
                return Ok(());
            }
            talk.proxy.handle_timeout(clock());
        }
        self.advance(cx, conn)
    }

    fn on_shutdown(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        if let Stand::Talking(talk) = &mut cx.0 {
            talk.stopping = true;
            talk.proxy.stop();
            if matches!(talk.stage, Stage::Lingering) {
                conn.close();
            }
        }
        self.advance(cx, conn)
    }

    fn on_close(&self, cx: &mut User, info: &Closed) {
        let cx = match &mut cx.0 {
            Stand::Talking(talk) => talk,
            Stand::Joined(joined) => return joined.closed(&self.gate, &info.reason),
        };
        match std::mem::replace(&mut cx.stage, Stage::Lingering) {
            Stage::Relaying(mut joined) => joined.closed(&self.gate, &info.reason),
            Stage::Lingering => {}
            stage @ (Stage::Between | Stage::Opening(_) | Stage::Exchanging(_)) => {
                cx.proxy.handle_user_reset(clock());
                while let Some(event) = cx.proxy.poll_event() {
                    match (event, &stage) {
                        (Event::Done(record), _) => {
                            let end = closed_end(&info.reason, phase_of(record.end));
                            self.done(cx, &record, Some(end));
                        }
                        (Event::CloseUpstream { abort: true }, Stage::Opening(stream)) => {
                            stream.reset(unanswered(&info.reason));
                        }
                        // The target is not to take for whole what was cut short.
                        (Event::CloseUpstream { abort: true }, Stage::Exchanging(upstream)) => {
                            upstream.stream.reset(ResetCode::Reset);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

impl Http {
    /// Moves everything that can be moved, by whoever has a say.
    fn advance(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        if let Stand::Talking(talk) = &mut cx.0 {
            match self.talk(talk, conn)? {
                Some(joined) => cx.0 = Stand::Joined(joined),
                None => return Ok(()),
            }
        }
        match &mut cx.0 {
            Stand::Joined(joined) => joined.pump(&self.gate, conn),
            Stand::Talking(_) => Ok(()),
        }
    }

    /// Moves everything that can be moved, until nothing changes any more, or the machine has done its work: then gives
    /// what is left of the user.
    fn talk(&self, cx: &mut Talk, conn: &mut Connection) -> rt::Result<Option<Box<Joined>>> {
        if let Stage::Exchanging(upstream) = &mut cx.stage {
            upstream.dry = false;
        }
        loop {
            if let Some(proven) = cx.proven.as_ref().and_then(|answer| answer.get().copied()) {
                cx.proven = None;
                cx.proxy.verified(proven, clock());
            }
            self.answered(cx);
            match std::mem::replace(&mut cx.stage, Stage::Lingering) {
                Stage::Relaying(joined) => return Ok(Some(joined)),
                Stage::Lingering => {
                    conn.resume();
                    conn.input().clear();
                    if conn.input_ended() {
                        conn.close();
                    }
                    return Ok(None);
                }
                stage => cx.stage = stage,
            }
            let mut moved = from_upstream(cx);
            moved |= from_user(cx, conn);
            moved |= to_upstream(cx);
            if conn.unsent() < RELAY_OUTPUT_BYTES && !cx.proxy.to_user().is_empty() {
                conn.output().append(std::mem::take(cx.proxy.to_user()));
                moved = true;
            }
            while let Some(event) = cx.proxy.poll_event() {
                self.event(cx, conn, event);
                moved = true;
            }
            if !moved {
                if conn.flush().is_err() {
                    // It closes with that error by itself, once what the user had sent before was read.
                    return Ok(None);
                }
                // The kernel may have made room for what did not fit.
                if conn.unsent() > 0 || cx.proxy.to_user().is_empty() {
                    let conn_id = cx.journey.as_ref().and_then(Journey::conn_id);
                    if can_arm(conn, conn_id) {
                        settle(cx, conn);
                        cx.stall.follow(conn, conn_id)?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The target has answered, or the tunnel is gone.
    fn answered(&self, cx: &mut Talk) {
        let Stage::Opening(stream) = &cx.stage else { return };
        let Some(answer) = opened(stream, &mut cx.journey) else { return };
        if let Stage::Opening(stream) = std::mem::replace(&mut cx.stage, Stage::Between) {
            match answer {
                Ok(_) => {
                    cx.stage = Stage::Exchanging(Upstream::new(stream));
                    cx.proxy.opened(clock());
                }
                Err(verdict) => self.refuse(cx, verdict),
            }
        }
    }

    fn refuse(&self, cx: &mut Talk, verdict: Verdict) {
        let end = HttpEnd {
            who: char::from(verdict.end.who.letter()),
            phase: char::from(verdict.end.phase.letter()),
        };
        let refusal = Refusal { status: verdict.status, text: verdict.text, end, why: verdict.end.why };
        cx.proxy.refused(refusal, clock());
    }

    fn event(&self, cx: &mut Talk, conn: &mut Connection, event: Event) {
        match event {
            Event::Verify(login) => {
                let answer = Arc::new(OnceLock::new());
                let (tell, user) = (answer.clone(), conn.handle());
                let then = move |proven| {
                    if tell.set(proven).is_ok() {
                        user.wake();
                    }
                };
                cx.under = Some(self.gate.logins.current());
                match self.gate.logins.check(cx.peer.map(|peer| peer.ip()), login, then) {
                    Some(proven) => cx.proxy.verified(proven, clock()),
                    None => cx.proven = Some(answer),
                }
            }
            Event::Open { host, port, connect, user } => {
                let proto = if connect { Proto::Connect } else { Proto::Http };
                let mut journey = Journey::new(proto, Ingress::Http, cx.peer, rt::now());
                journey.asked(Text::new(dst(&host, port)), user.as_deref());
                let (group, under) = (self.gate.group_of(user.as_deref()), cx.under.take());
                let request =
                    OpenRequest { network: Network::Tcp, host, port, conn_id: 0, user_addr: cx.peer };
                match self.gate.open(group, under.as_ref(), request, Watcher::Connection(conn.handle())) {
                    Ok(opening) => cx.stage = Stage::Opening(journey.opening(opening, Text::new(group))),
                    Err(why) => self.refuse(cx, why.into()),
                }
                cx.journey = Some(journey);
            }
            Event::CloseUpstream { abort } => {
                if let Stage::Opening(stream) | Stage::Exchanging(Upstream { stream, .. }) =
                    std::mem::replace(&mut cx.stage, Stage::Between)
                {
                    stream.reset(if abort { ResetCode::Reset } else { ResetCode::Cancelled });
                }
            }
            Event::Tunnel(record) => {
                // What the machine had to say first (the 200, the 101) goes before the stream's bytes.
                conn.output().append(std::mem::take(cx.proxy.to_user()));
                if let Stage::Exchanging(upstream) = std::mem::replace(&mut cx.stage, Stage::Between) {
                    let relay = Relay::resume(
                        upstream.stream,
                        upstream.read,
                        upstream.ended,
                        upstream.input,
                        std::mem::take(cx.proxy.to_upstream()),
                        conn,
                    );
                    conn.clear_timer();
                    let mut journey = cx.journey.take();
                    if let Some(journey) = &mut journey {
                        journey.began(record.begun);
                    }
                    cx.stage =
                        Stage::Relaying(Box::new(Joined::new(&self.gate, relay, journey, Some(record.code))));
                }
            }
            Event::Done(record) => self.done(cx, &record, None),
            Event::CloseUser { after_output: false } => conn.abort(),
            Event::CloseUser { after_output: true } => {
                conn.output().append(std::mem::take(cx.proxy.to_user()));
                cx.stage = Stage::Lingering;
                if cx.stopping || conn.input_ended() {
                    conn.close();
                } else {
                    conn.shutdown_write();
                    conn.set_timer(Duration::from_millis(LINGER_MS));
                }
            }
        }
    }

    /// An exchange is over: its access line.
    fn done(&self, cx: &mut Talk, record: &ExchangeRecord, end: Option<End>) {
        cx.under = None;
        let mut journey = cx.journey.take().unwrap_or_else(|| {
            // It never got as far as a stream.
            let proto = if record.method == "CONNECT" { Proto::Connect } else { Proto::Http };
            let mut journey = Journey::new(proto, Ingress::Http, cx.peer, rt::now());
            if record.port != 0 {
                journey.asked(Text::new(dst(&record.host, record.port)), record.user.as_deref());
            }
            journey
        });
        let end = end.unwrap_or_else(|| {
            let who = u8::try_from(record.end.who).ok().and_then(Who::from_letter);
            End::new(who.unwrap_or(Who::Internal), phase_of(record.end), record.why)
        });
        journey.began(record.begun);
        let code = Some(record.code).filter(|code| *code != 0);
        journey.end(&self.gate, code, (record.up, record.down), end);
    }
}

impl Upstream {
    fn new(stream: Stream) -> Upstream {
        Upstream { stream, input: LinkBuffer::new(), read: 0, credited: 0, dry: false, ended: false }
    }
}

/// Gives credit, and says what to wait for.
fn settle(cx: &mut Talk, conn: &mut Connection) {
    let unsent = conn.unsent() + cx.proxy.to_user().len();
    if let Stage::Exchanging(upstream) = &mut cx.stage {
        // The response's framing is part of what is unsent, so credit is late by that, never early.
        // What waits to be whole (a head, a chunk's size) has limits of its own: held against the window, it could wait for ever.
        let held = if upstream.dry && unsent == 0 { 0 } else { upstream.input.len() };
        let delivered = upstream.read.saturating_sub((unsent + held) as u64);
        if delivered >= upstream.credited + RELAY_CREDIT_BYTES {
            upstream.credited = delivered;
            upstream.stream.exchange(|session, id| session.delivered(id, delivered));
        }
    }
    if conn.unsent() > 0 {
        conn.wake_on_progress();
    }
    // What is not wanted now stays in the kernel, but a little is read so that a user who leaves is noticed.
    match cx.proxy.wants_user() || conn.input().len() < RELAY_OUTPUT_BYTES {
        true => conn.resume(),
        false => conn.pause(),
    }
    if !matches!(cx.stage, Stage::Lingering) {
        match cx.proxy.poll_timeout() {
            Some(at) => conn.set_timer_at(at),
            None => conn.clear_timer(),
        }
    }
}

fn phase_of(end: HttpEnd) -> Phase {
    u8::try_from(end.phase).ok().and_then(Phase::from_letter).unwrap_or(Phase::Done)
}

/// From the user to the machine.
fn from_user(cx: &mut Talk, conn: &mut Connection) -> bool {
    let before = conn.input().len();
    let ended = conn.input_ended();
    if ended {
        cx.proxy.handle_user_end(conn.input(), clock());
    } else if before > 0 && cx.proxy.wants_user() {
        cx.proxy.handle_user(conn.input(), clock());
    }
    conn.input().len() != before
}

/// From the session to the machine.
fn from_upstream(cx: &mut Talk) -> bool {
    let Stage::Exchanging(upstream) = &mut cx.stage else { return false };
    if !cx.proxy.wants_upstream() {
        return false;
    }
    let before = (upstream.input.len(), upstream.ended);
    let room = RELAY_OUTPUT_BYTES.saturating_sub(upstream.input.len());
    let mut bytes = 0;
    let mut broken = None;
    if room > 0 && !upstream.ended && !upstream.dry {
        let input = &mut upstream.input;
        match upstream.stream.exchange(|session, id| session.read(id, input, room)) {
            Ok(read) => {
                bytes = read.bytes;
                upstream.read += read.bytes as u64;
                upstream.ended = read.end;
                upstream.dry = read.bytes < room;
            }
            Err(_) if upstream.stream.is_closed() => {
                broken = Some(upstream.stream.broken().unwrap_or(Broken::Lost));
            }
            Err(_) => {}
        }
    }
    if bytes > 0
        && let Some(journey) = &mut cx.journey
    {
        journey.first_byte();
    }
    // A target that wants no more of the request may still answer it.
    let wants_none = |broken: &Broken| matches!(broken, Broken::Stopped(_));
    broken = broken.or_else(|| upstream.stream.broken().filter(|broken| bytes == 0 && !wants_none(broken)));
    if let Some(broken) = broken {
        let answered = cx.journey.as_ref().is_some_and(Journey::has_answer);
        let end = broken_end(broken, if answered { Phase::Data } else { Phase::Head });
        let letters = HttpEnd { who: char::from(end.who.letter()), phase: char::from(end.phase.letter()) };
        cx.proxy.handle_upstream_reset(letters, end.why, clock());
        return true;
    }
    if bytes > 0 || upstream.ended || !upstream.input.is_empty() {
        cx.proxy.handle_upstream(&mut upstream.input, upstream.ended, clock());
    }
    bytes > 0 || upstream.ended != before.1 || upstream.input.len() != before.0
}

/// From the machine to the session.
fn to_upstream(cx: &mut Talk) -> bool {
    let Stage::Exchanging(upstream) = &mut cx.stage else { return false };
    let output = cx.proxy.to_upstream();
    if output.is_empty() {
        return false;
    }
    // A stream that is gone or stopped takes nothing; its notes say how, and the machine hears of it there.
    match upstream.stream.exchange(|session, id| session.write(id, output)) {
        Ok(bytes) => bytes > 0,
        Err(_) => {
            output.clear();
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_behind_connect_keeps_no_room_for_the_machine() {
        assert_eq!(size_of::<User>(), 2 * size_of::<usize>());
    }
}
