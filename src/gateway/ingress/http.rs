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

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use linkbuffer::LinkBuffer;
use poller::{Closed, Connection, Handler, Prepare, Reject};

use super::{Gate, Journey, Verdict, broken_end, closed_end};
use crate::gateway::NoStream;
use crate::limits::{LINGER_MS, RELAY_OUTPUT_BYTES};
use crate::proto::frame::{Network, OpenRequest, ResetCode};
use crate::proto::http::{
    Clock, End as HttpEnd, Event, ExchangeRecord, HttpProxy, ProxyConfig, Refusal, Verifier,
};
use crate::record::{End, Ingress, Phase, Proto, Who};
use crate::relay::{Flow, Relay};
use crate::tunnel::{Broken, Stream, Watcher};

/// The handler of the port.
pub struct Http {
    gate: Gate,
    config: Arc<ProxyConfig>,
}

impl Http {
    /// For a gateway.
    pub fn new(gate: Gate) -> Http {
        let credentials = gate.users.clone();
        let auth = (!credentials.is_open()).then_some(credentials as Arc<dyn Verifier>);
        let config = Arc::new(ProxyConfig { auth, via: format!("anyproxy-{:08x}", gate.seed as u32) });
        Http { gate, config }
    }
}

impl Verifier for crate::proto::credentials::Credentials {
    fn verify(&self, user: &[u8], password: &[u8]) -> bool {
        crate::proto::credentials::Credentials::verify(self, user, password)
    }
}

/// One user.
pub struct User {
    proxy: HttpProxy,
    stage: Stage,
    /// What is known of the stream under way.
    journey: Option<Journey>,
    peer: Option<std::net::SocketAddr>,
    stopping: bool,
}

enum Stage {
    /// No stream.
    Between,
    Opening(Stream),
    Exchanging(Upstream),
    Relaying(Relay, Box<ExchangeRecord>),
    /// The last answer is out; what still comes is read and dropped until the user closes.
    Lingering,
}

/// A stream whose bytes the machine looks at.
struct Upstream {
    stream: Stream,
    /// Read from the session and not yet understood.
    input: LinkBuffer,
    /// Bytes read from the session.
    read: u64,
    ended: bool,
}

fn clock() -> Clock {
    Clock { now: Instant::now(), wall: SystemTime::now() }
}

impl Handler for Http {
    type Context = User;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<User, Reject> {
        conn.set_half_close(true);
        let proxy = HttpProxy::new(self.config.clone(), Instant::now());
        Ok(User { proxy, stage: Stage::Between, journey: None, peer: conn.peer_addr(), stopping: false })
    }

    fn on_connect(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        self.advance(cx, conn)
    }

    fn on_request(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        self.advance(cx, conn)
    }

    fn on_drain(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        self.advance(cx, conn)
    }

    fn on_timer(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        if matches!(cx.stage, Stage::Lingering) {
            conn.close();
            return Ok(());
        }
        cx.proxy.handle_timeout(clock());
        self.advance(cx, conn)
    }

    fn on_shutdown(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        cx.stopping = true;
        cx.proxy.stop();
        if matches!(cx.stage, Stage::Lingering) {
            conn.close();
        }
        self.advance(cx, conn)
    }

    fn on_close(&self, cx: &mut User, info: &Closed) {
        match std::mem::replace(&mut cx.stage, Stage::Lingering) {
            Stage::Relaying(relay, record) => {
                relay.abandon(&info.reason);
                let end = closed_end(&info.reason, Phase::Data);
                self.relayed(cx, &relay, &record, end);
            }
            Stage::Lingering => {}
            stage @ (Stage::Between | Stage::Opening(_) | Stage::Exchanging(_)) => {
                cx.proxy.handle_user_reset(clock());
                while let Some(event) = cx.proxy.poll_event() {
                    match (event, &stage) {
                        (Event::Done(record), _) => {
                            let end = closed_end(&info.reason, phase_of(record.end));
                            self.done(cx, &record, Some(end));
                        }
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
    /// Moves everything that can be moved, until nothing changes any more.
    fn advance(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        loop {
            self.answered(cx);
            if let Stage::Relaying(..) = cx.stage {
                return self.relay(cx, conn);
            }
            if let Stage::Lingering = cx.stage {
                conn.resume();
                conn.input().clear();
                if conn.input_ended() {
                    conn.close();
                }
                return Ok(());
            }
            let mut moved = self.from_upstream(cx);
            moved |= from_user(cx, conn);
            moved |= to_upstream(cx);
            if conn.output().len() < RELAY_OUTPUT_BYTES && !cx.proxy.to_user().is_empty() {
                conn.output().append(std::mem::take(cx.proxy.to_user()));
                moved = true;
            }
            while let Some(event) = cx.proxy.poll_event() {
                self.event(cx, conn, event)?;
                moved = true;
            }
            if !moved {
                conn.flush()?;
                // The kernel may have made room for what did not fit.
                if !conn.output().is_empty() || cx.proxy.to_user().is_empty() {
                    return self.settle(cx, conn);
                }
            }
        }
    }

    /// Gives credit, and says what to wait for.
    fn settle(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        let unsent = conn.output().len() + cx.proxy.to_user().len();
        if let Stage::Exchanging(upstream) = &cx.stage
            && !upstream.stream.is_closed()
        {
            // The response's framing is part of what is unsent, so credit is late by that, never early.
            let delivered = upstream.read.saturating_sub((unsent + upstream.input.len()) as u64);
            upstream.stream.exchange(|session, id| session.delivered(id, delivered));
        }
        if !conn.output().is_empty() {
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
        Ok(())
    }

    /// The target has answered, or the tunnel is gone.
    fn answered(&self, cx: &mut User) {
        let Stage::Opening(stream) = &cx.stage else { return };
        let verdict = match (stream.take_answer(), stream.broken()) {
            (Some(answer), _) => {
                if let Some(journey) = &mut cx.journey {
                    journey.answer(&answer);
                }
                match answer {
                    Ok(_) => None,
                    Err(refused) => Some(Verdict::from(refused.code)),
                }
            }
            (None, Some(broken)) => {
                let end = broken_end(broken, Phase::Connect);
                Some(Verdict { status: 502, text: "the tunnel was lost", end, ..NoStream::NoClient.into() })
            }
            (None, None) => return,
        };
        match verdict {
            None => {
                if let Stage::Opening(stream) = std::mem::replace(&mut cx.stage, Stage::Between) {
                    cx.stage =
                        Stage::Exchanging(Upstream { stream, input: LinkBuffer::new(), read: 0, ended: false });
                    cx.proxy.opened(clock());
                }
            }
            Some(verdict) => {
                cx.stage = Stage::Between;
                self.refuse(cx, verdict);
            }
        }
    }

    fn refuse(&self, cx: &mut User, verdict: Verdict) {
        let end = HttpEnd {
            who: char::from(verdict.end.who.letter()),
            phase: char::from(verdict.end.phase.letter()),
        };
        let refusal = Refusal { status: verdict.status, text: verdict.text, end, why: verdict.end.why };
        cx.proxy.refused(refusal, clock());
    }

    fn event(&self, cx: &mut User, conn: &mut Connection, event: Event) -> poller::Result {
        match event {
            Event::Open { host, port, connect, user } => {
                let proto = if connect { Proto::Connect } else { Proto::Http };
                let mut journey = Journey::new(proto, Ingress::Http, cx.peer, Instant::now());
                journey.asked(&host, port, user.as_deref());
                let group = self.gate.group_of(user.as_deref());
                let request = OpenRequest { network: Network::Tcp, host, port, conn_id: 0, user_addr: cx.peer };
                match self.gate.open(group, request, Watcher::Connection(conn.handle())) {
                    Ok(opening) => cx.stage = Stage::Opening(journey.opening(opening, group)),
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
                    cx.stage = Stage::Relaying(relay, record);
                }
            }
            Event::Done(record) => self.done(cx, &record, None),
            Event::CloseUser { after_output: false } => conn.abort(),
            Event::CloseUser { after_output: true } => {
                conn.output().append(std::mem::take(cx.proxy.to_user()));
                conn.flush()?;
                cx.stage = Stage::Lingering;
                if cx.stopping || conn.input_ended() {
                    conn.close();
                } else {
                    conn.shutdown_write();
                    conn.set_timer(Duration::from_millis(LINGER_MS));
                }
            }
        }
        Ok(())
    }

    /// From the session to the machine.
    fn from_upstream(&self, cx: &mut User) -> bool {
        let Stage::Exchanging(upstream) = &mut cx.stage else { return false };
        if !cx.proxy.wants_upstream() {
            return false;
        }
        let before = (upstream.input.len(), upstream.ended);
        let room = RELAY_OUTPUT_BYTES.saturating_sub(upstream.input.len());
        let mut bytes = 0;
        let mut broken = None;
        if room > 0 && !upstream.ended {
            let input = &mut upstream.input;
            match upstream.stream.exchange(|session, id| session.read(id, input, room)) {
                Ok(read) => {
                    bytes = read.bytes;
                    upstream.read += read.bytes as u64;
                    upstream.ended = read.end;
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
            let end = broken_end(broken, Phase::Data);
            let letters =
                HttpEnd { who: char::from(end.who.letter()), phase: char::from(end.phase.letter()) };
            cx.proxy.handle_upstream_reset(letters, end.why, clock());
            return true;
        }
        if bytes > 0 || upstream.ended != before.1 || !upstream.input.is_empty() {
            cx.proxy.handle_upstream(&mut upstream.input, upstream.ended, clock());
        }
        bytes > 0 || upstream.ended != before.1 || upstream.input.len() != before.0
    }

    fn relay(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        let Stage::Relaying(relay, _) = &mut cx.stage else { return Ok(()) };
        let flow = relay.pump(conn)?;
        if relay.bytes_read() > 0
            && let Some(journey) = &mut cx.journey
        {
            journey.first_byte();
        }
        let end = match flow {
            Flow::Open => return Ok(()),
            Flow::Done => {
                conn.close();
                End::EOF
            }
            Flow::Broken(broken) => {
                // Nobody is to take these bytes for all of them.
                conn.abort();
                broken_end(broken, Phase::Data)
            }
        };
        if let Stage::Relaying(relay, record) = std::mem::replace(&mut cx.stage, Stage::Lingering) {
            self.relayed(cx, &relay, &record, end);
        }
        Ok(())
    }

    fn relayed(&self, cx: &mut User, relay: &Relay, record: &ExchangeRecord, end: End) {
        if let Some(journey) = cx.journey.take() {
            journey.end(&self.gate, Some(record.code), (relay.bytes_sent(), relay.bytes_read()), end);
        }
    }

    /// An exchange is over: its access line.
    fn done(&self, cx: &mut User, record: &ExchangeRecord, end: Option<End>) {
        let journey = cx.journey.take().unwrap_or_else(|| {
            // It never got as far as a stream.
            let proto = if record.method == "CONNECT" { Proto::Connect } else { Proto::Http };
            let mut journey = Journey::new(proto, Ingress::Http, cx.peer, record.begun);
            if record.port != 0 {
                journey.asked(&record.host, record.port, record.user.as_deref());
            }
            journey
        });
        let end = end.unwrap_or_else(|| {
            let who = u8::try_from(record.end.who).ok().and_then(Who::from_letter);
            End::new(who.unwrap_or(Who::Internal), phase_of(record.end), record.why)
        });
        let code = Some(record.code).filter(|code| *code != 0);
        journey.end(&self.gate, code, (record.up, record.down), end);
    }
}

fn phase_of(end: HttpEnd) -> Phase {
    u8::try_from(end.phase).ok().and_then(Phase::from_letter).unwrap_or(Phase::Done)
}

/// From the user to the machine.
fn from_user(cx: &mut User, conn: &mut Connection) -> bool {
    let before = conn.input().len();
    let ended = conn.input_ended();
    if ended {
        cx.proxy.handle_user_end(conn.input(), clock());
    } else if before > 0 && cx.proxy.wants_user() {
        cx.proxy.handle_user(conn.input(), clock());
    }
    conn.input().len() != before
}

/// From the machine to the session.
fn to_upstream(cx: &mut User) -> bool {
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
