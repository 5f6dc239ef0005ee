//! A forwarded TCP port: each connection is a stream to the port's target.

use super::Way;
use crate::gateway::ingress::{Joined, Journey, closed_end, opened, unanswered};
use crate::proto::frame::Network;
use crate::record::{Ingress, Phase, Proto};
use crate::relay::Relay;
use crate::rt::{self, Closed, Connection, Handler, Prepare, Reject};
use crate::tunnel::{Stream, Watcher};

/// The handler of the port.
pub(super) struct Tcp(pub(super) Way);

/// One user of it.
pub(super) struct User {
    stage: Stage,
    /// Until the stream is there.
    journey: Option<Journey>,
}

enum Stage {
    Start,
    Opening(Stream),
    Relaying(Box<Joined>),
    Over,
}

impl Handler for Tcp {
    type Context = User;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<User, Reject> {
        conn.set_half_close(true);
        self.0.gate.times.prepare(Ingress::Forward, conn).map_err(|error| Reject(error.to_string()))?;
        Ok(User { stage: Stage::Start, journey: None })
    }

    fn on_connect(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        // What the user says before the target is there stays in the kernel.
        conn.pause();
        let user = conn.peer_addr();
        let mut journey = self.0.journey(Proto::Tcp, user);
        match self.0.open(Network::Tcp, user, Watcher::Connection(conn.handle()), &mut journey) {
            Ok(stream) => {
                cx.journey = Some(journey);
                cx.stage = Stage::Opening(stream);
            }
            Err(verdict) => {
                journey.end(&self.0.gate, None, (0, 0), verdict.end);
                conn.abort();
            }
        }
        Ok(())
    }

    fn on_request(&self, cx: &mut User, conn: &mut Connection) -> rt::Result {
        if let Stage::Opening(stream) = &cx.stage {
            let Some(answer) = opened(stream, &mut cx.journey) else { return Ok(()) };
            match (answer, std::mem::replace(&mut cx.stage, Stage::Over)) {
                (Ok(_), Stage::Opening(stream)) => {
                    conn.resume();
                    cx.stage = Stage::Relaying(Box::new(Joined::new(
                        &self.0.gate,
                        Relay::new(stream),
                        cx.journey.take(),
                        None,
                    )));
                }
                (Err(verdict), _) => {
                    if let Some(journey) = cx.journey.take() {
                        journey.end(&self.0.gate, None, (0, 0), verdict.end);
                    }
                    conn.abort();
                }
                (Ok(_), _) => {}
            }
        }
        if let Stage::Relaying(joined) = &mut cx.stage {
            joined.pump(&self.0.gate, conn)?;
        }
        Ok(())
    }

    fn on_shutdown(&self, _cx: &mut User, _conn: &mut Connection) -> rt::Result {
        // It may be in the middle of something: it has until the deadline.
        Ok(())
    }

    fn on_close(&self, cx: &mut User, info: &Closed) {
        if let Stage::Relaying(joined) = &mut cx.stage {
            return joined.closed(&self.0.gate, &info.reason);
        }
        if let Stage::Opening(stream) = &cx.stage {
            stream.reset(unanswered(&info.reason));
        }
        if let Some(journey) = cx.journey.take() {
            journey.end(&self.0.gate, None, (0, 0), closed_end(&info.reason, Phase::Connect));
        }
    }
}
