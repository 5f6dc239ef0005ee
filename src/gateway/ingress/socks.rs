//! The SOCKS5 proxy port.
//!
//! ```text
//!   Handshake ──Connect──▶ Opening ──accepted, Established──▶ Relaying ──▶ closed
//!                             └────────refused──▶ reply, close
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Gate, Joined, Journey, Verdict, closed_end, dst, opened, unanswered};
use crate::limits::{LINGER_MS, SOCKS5_HANDSHAKE_MS};
use crate::proto::credentials::{Credentials, Login, Proven};
use crate::proto::frame::{Network, OpenRequest};
use crate::proto::socks5::{Event, Socks5};
use crate::record::{End, Ingress, Phase, Proto, Text, Who};
use crate::relay::Relay;
use crate::rt::{self, Closed, Connection, Handler, Prepare, Reject};
use crate::tunnel::{Stream, Watcher};

/// The handler of the port.
pub struct Socks(Gate);

impl Socks {
    /// For a gateway.
    pub fn new(gate: Gate) -> Socks {
        Socks(gate)
    }
}

/// One user.
pub struct User {
    socks: Socks5,
    stage: Stage,
    journey: Option<Journey>,
    /// Where the answer comes to while a password is looked at.
    proven: Option<Arc<OnceLock<Proven>>>,
    /// What was there when the login came, until a stream is asked for: a key may be taken out in between.
    under: Option<Arc<Credentials>>,
    code: Option<u16>,
}

enum Stage {
    Handshake,
    Opening(Stream),
    Relaying(Box<Joined>),
    /// The last reply is out; what still comes is read and dropped until the user closes.
    Lingering,
}

impl Handler for Socks {
    type Context = User;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<User, Reject> {
        conn.set_half_close(true);
        self.0.times.prepare(Ingress::Socks, conn).map_err(|error| Reject(error.to_string()))?;
        let journey = Journey::new(Proto::Socks5, Ingress::Socks, conn.peer_addr(), rt::now());
        let socks = Socks5::new(self.0.logins.asks());
        let (stage, journey) = (Stage::Handshake, Some(journey));
        Ok(User { socks, stage, journey, proven: None, under: None, code: None })
    }

    fn on_connect(&self, _cx: &mut User, conn: &mut Connection) -> rt::Result {
        conn.set_timer(Duration::from_millis(SOCKS5_HANDSHAKE_MS));
        Ok(())
    }

    fn on_request(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        self.advance(cx, conn)
    }

    fn on_timer(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        match cx.stage {
            Stage::Handshake => {
                self.handshake_ended(cx, conn, End::new(Who::UserTimeout, Phase::Request, "timeout"));
                conn.close();
            }
            Stage::Lingering => conn.close(),
            Stage::Opening(_) | Stage::Relaying(_) => {}
        }
        Ok(())
    }

    fn on_shutdown(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        if matches!(cx.stage, Stage::Handshake | Stage::Lingering) {
            conn.close();
        }
        Ok(())
    }

    fn on_close(&self, cx: &mut User, info: &Closed) {
        let phase = match &mut cx.stage {
            Stage::Handshake => Phase::Request,
            Stage::Opening(stream) => {
                stream.reset(unanswered(&info.reason));
                Phase::Connect
            }
            Stage::Relaying(joined) => return joined.closed(&self.0, &info.reason),
            // Its line was written when the last reply was.
            Stage::Lingering => return,
        };
        if info.bytes_in > 0 {
            self.end(cx, closed_end(&info.reason, phase));
        }
    }
}

/// A handshake that came to nothing, in the words of the log, and the reply that the user got.
fn unfinished(why: &'static str) -> (Option<u16>, End) {
    let refused = |phase, why| End::new(Who::Refused, phase, why);
    match why {
        "ended" => (None, End::new(Who::UserReset, Phase::Request, "eof")),
        "password" => (None, refused(Phase::Auth, "auth")),
        "auth-later" => (None, refused(Phase::Auth, "auth_later")),
        "no-method" => (None, refused(Phase::Auth, "no_method")),
        "command-unsupported" => (Some(7), refused(Phase::Request, "bad_command")),
        "address-unsupported" => (Some(8), refused(Phase::Request, "bad_address")),
        "name-unresolved" => (Some(4), refused(Phase::Request, "bad_host")),
        "failed" => (Some(1), refused(Phase::Request, "bad_host")),
        _ => (None, refused(Phase::Request, "bad_request")),
    }
}

impl Socks {
    fn end(&self, cx: &mut User, end: End) {
        if let Some(journey) = cx.journey.take() {
            journey.end(&self.0, cx.code, (0, 0), end);
        }
    }

    /// Who came and went without a word, such as a health check, made no stream and has no line.
    fn handshake_ended(&self, cx: &mut User, conn: &Connection, end: End) {
        match conn.handle().bytes_in() {
            0 => cx.journey = None,
            _ => self.end(cx, end),
        }
    }

    fn advance(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        if matches!(cx.stage, Stage::Handshake) {
            if let Some(proven) = cx.proven.as_ref().and_then(|answer| answer.get().copied()) {
                cx.proven = None;
                cx.socks.verified(proven);
            }
            cx.socks.handle_input(conn.input());
            if conn.input_ended() {
                cx.socks.handle_end();
            }
        }
        if let Stage::Opening(stream) = &cx.stage {
            match opened(stream, &mut cx.journey) {
                Some(Ok(opened)) => cx.socks.reply(Ok(opened.addr)),
                Some(Err(verdict)) => self.refuse(cx, verdict),
                None => {}
            }
        }
        while let Some(event) = cx.socks.poll_event() {
            conn.output().append(std::mem::take(cx.socks.output()));
            match event {
                Event::Verify(login) => self.verify(cx, conn, login),
                Event::Connect { host, port, user } => self.open(cx, conn, host, port, user),
                Event::Established => {
                    if let Stage::Opening(stream) = std::mem::replace(&mut cx.stage, Stage::Lingering) {
                        let joined = Joined::new(&self.0, Relay::new(stream), cx.journey.take(), Some(0));
                        cx.stage = Stage::Relaying(Box::new(joined));
                    }
                }
                Event::Close(why) => {
                    let (code, end) = unfinished(why);
                    cx.code = cx.code.or(code);
                    self.handshake_ended(cx, conn, end);
                    cx.stage = Stage::Lingering;
                    conn.shutdown_write();
                    conn.set_timer(Duration::from_millis(LINGER_MS));
                }
            }
        }
        conn.output().append(std::mem::take(cx.socks.output()));
        self.relay(cx, conn)
    }

    fn verify(&self, cx: &mut User, conn: &mut Connection, login: Login) {
        let answer = Arc::new(OnceLock::new());
        let (tell, user) = (answer.clone(), conn.handle());
        let then = move |proven| {
            if tell.set(proven).is_ok() {
                user.wake();
            }
        };
        cx.under = Some(self.0.logins.current());
        match self.0.logins.check(conn.peer_addr().map(|peer| peer.ip()), login, then) {
            Some(proven) => {
                cx.socks.verified(proven);
                // What the user sent behind its password.
                cx.socks.handle_input(conn.input());
                if conn.input_ended() {
                    cx.socks.handle_end();
                }
            }
            None => cx.proven = Some(answer),
        }
    }

    fn open(&self, cx: &mut User, conn: &mut Connection, host: String, port: u16, user: Option<String>) {
        let Some(journey) = &mut cx.journey else { return };
        journey.asked(Text::new(dst(&host, port)), user.as_deref());
        conn.clear_timer();
        let (group, under) = (self.0.group_of(user.as_deref()), cx.under.take());
        let user_addr = conn.peer_addr();
        let request = OpenRequest { network: Network::Tcp, host, port, conn_id: 0, user_addr };
        match self.0.open(group, under.as_ref(), request, Watcher::Connection(conn.handle())) {
            Ok(opening) => cx.stage = Stage::Opening(journey.opening(opening, Text::new(group))),
            Err(why) => self.refuse(cx, why.into()),
        }
    }

    fn refuse(&self, cx: &mut User, verdict: Verdict) {
        cx.code = Some(u16::from(verdict.reply.as_u8()));
        self.end(cx, verdict.end);
        cx.socks.reply(Err(verdict.reply));
    }

    fn relay(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        match &mut cx.stage {
            Stage::Handshake => {}
            // The user may talk on before the answer; what is here already is kept.
            Stage::Opening(_) => {
                if conn.input().is_empty() {
                    conn.resume();
                } else {
                    conn.pause();
                }
            }
            Stage::Lingering => {
                conn.resume();
                conn.input().clear();
                if conn.input_ended() {
                    conn.close();
                }
            }
            Stage::Relaying(joined) => joined.pump(&self.0, conn)?,
        }
        Ok(())
    }
}
