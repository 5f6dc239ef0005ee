//! The SOCKS5 proxy port.
//!
//! ```text
//!   Handshake ──Connect──▶ Opening ──accepted, Established──▶ Relaying ──▶ closed
//!                             └────────refused──▶ reply, close
//! ```

use std::time::{Duration, Instant};

use poller::{Closed, Connection, Handler, Prepare, Reject};

use super::{Gate, Journey, Verdict, broken_end, closed_end};
use crate::limits::{LINGER_MS, SOCKS5_HANDSHAKE_MS};
use crate::proto::frame::{Network, OpenRequest};
use crate::proto::socks5::{Event, Socks5};
use crate::record::{End, Ingress, Phase, Proto, Who};
use crate::relay::{Flow, Relay};
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
    code: Option<u16>,
}

enum Stage {
    Handshake,
    Opening(Stream),
    Relaying(Relay),
    /// The last reply is out; what still comes is read and dropped until the user closes.
    Lingering,
}

impl Handler for Socks {
    type Context = User;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<User, Reject> {
        conn.set_half_close(true);
        let journey = Journey::new(Proto::Socks5, Ingress::Socks, conn.peer_addr(), Instant::now());
        let socks = Socks5::new(self.0.users.clone());
        Ok(User { socks, stage: Stage::Handshake, journey: Some(journey), code: None })
    }

    fn on_connect(&self, _cx: &mut User, conn: &mut Connection) -> poller::Result {
        conn.set_timer(Duration::from_millis(SOCKS5_HANDSHAKE_MS));
        Ok(())
    }

    fn on_request(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        self.advance(cx, conn)
    }

    fn on_timer(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        match cx.stage {
            Stage::Handshake => {
                self.end(cx, (0, 0), End::new(Who::UserTimeout, Phase::Request, "timeout"));
                conn.close();
            }
            Stage::Lingering => conn.close(),
            Stage::Opening(_) | Stage::Relaying(_) => {}
        }
        Ok(())
    }

    fn on_shutdown(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        if matches!(cx.stage, Stage::Handshake | Stage::Lingering) {
            conn.close();
        }
        Ok(())
    }

    fn on_close(&self, cx: &mut User, info: &Closed) {
        let (phase, bytes) = match &cx.stage {
            Stage::Handshake => (Phase::Request, (0, 0)),
            Stage::Opening(_) => (Phase::Connect, (0, 0)),
            Stage::Relaying(relay) => {
                relay.abandon(&info.reason);
                (Phase::Data, (relay.bytes_sent(), relay.bytes_read()))
            }
            Stage::Lingering => (Phase::LastData, (0, 0)),
        };
        // Who came and went without a word, such as a health check, made no stream.
        if info.bytes_in > 0 || !matches!(cx.stage, Stage::Handshake) {
            self.end(cx, bytes, closed_end(&info.reason, phase));
        }
    }
}

impl Socks {
    fn end(&self, cx: &mut User, bytes: (u64, u64), end: End) {
        if let Some(journey) = cx.journey.take() {
            journey.end(&self.0, cx.code, bytes, end);
        }
    }

    fn advance(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        if matches!(cx.stage, Stage::Handshake) {
            cx.socks.handle_input(conn.input());
            if conn.input_ended() {
                cx.socks.handle_end();
            }
        }
        if let Stage::Opening(stream) = &cx.stage {
            if let Some(answer) = stream.take_answer() {
                if let Some(journey) = &mut cx.journey {
                    journey.answer(&answer);
                }
                match answer {
                    Ok(opened) => cx.socks.reply(Ok(opened.addr)),
                    Err(refused) => self.refuse(cx, refused.code.into()),
                }
            } else if let Some(broken) = stream.broken() {
                let end = broken_end(broken, Phase::Connect);
                let reply = Verdict::from(crate::gateway::NoStream::NoClient).reply;
                self.refuse(cx, Verdict { end, reply, ..crate::gateway::NoStream::NoClient.into() });
            }
        }
        while let Some(event) = cx.socks.poll_event() {
            conn.output().append(std::mem::take(cx.socks.output()));
            match event {
                Event::Connect { host, port, user } => self.open(cx, conn, host, port, user),
                Event::Established => {
                    cx.code = Some(0);
                    if let Stage::Opening(stream) = std::mem::replace(&mut cx.stage, Stage::Lingering) {
                        conn.clear_timer();
                        cx.stage = Stage::Relaying(Relay::new(stream));
                    }
                }
                Event::Close(why) => {
                    self.end(cx, (0, 0), End::new(Who::Refused, Phase::Request, why));
                    cx.stage = Stage::Lingering;
                    conn.shutdown_write();
                    conn.set_timer(Duration::from_millis(LINGER_MS));
                }
            }
        }
        conn.output().append(std::mem::take(cx.socks.output()));
        self.relay(cx, conn)
    }

    fn open(&self, cx: &mut User, conn: &mut Connection, host: String, port: u16, user: Option<String>) {
        let Some(journey) = &mut cx.journey else { return };
        journey.asked(&host, port, user.as_deref());
        conn.clear_timer();
        let group = self.0.group_of(user.as_deref());
        let user_addr = conn.peer_addr();
        let request = OpenRequest { network: Network::Tcp, host, port, conn_id: 0, user_addr };
        match self.0.open(group, request, Watcher::Connection(conn.handle())) {
            Ok(opening) => cx.stage = Stage::Opening(journey.opening(opening, group)),
            Err(why) => self.refuse(cx, why.into()),
        }
    }

    fn refuse(&self, cx: &mut User, verdict: Verdict) {
        cx.code = Some(u16::from(verdict.reply.as_u8()));
        self.end(cx, (0, 0), verdict.end);
        cx.socks.reply(Err(verdict.reply));
    }

    fn relay(&self, cx: &mut User, conn: &mut Connection) -> poller::Result {
        match &mut cx.stage {
            Stage::Handshake => {}
            // The user may talk on before the answer; what is here already is kept.
            Stage::Opening(_) => {
                if conn.input().is_empty() { conn.resume() } else { conn.pause() }
            }
            Stage::Lingering => {
                conn.resume();
                conn.input().clear();
                if conn.input_ended() {
                    conn.close();
                }
            }
            Stage::Relaying(relay) => {
                let flow = relay.pump(conn)?;
                let bytes = (relay.bytes_sent(), relay.bytes_read());
                if bytes.1 > 0
                    && let Some(journey) = &mut cx.journey
                {
                    journey.first_byte();
                }
                match flow {
                    Flow::Open => {}
                    Flow::Done => {
                        self.end(cx, bytes, End::EOF);
                        conn.close();
                    }
                    Flow::Broken(broken) => {
                        self.end(cx, bytes, broken_end(broken, Phase::Data));
                        // Nobody is to take these bytes for all of them.
                        conn.abort();
                    }
                }
            }
        }
        Ok(())
    }
}
