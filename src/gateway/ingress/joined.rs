//! A user's connection joined to its stream, as every ingress has it once the target has answered: bytes both ways,
//! and at the end one access line.

use super::{Gate, Journey, broken_end, closed_end};
use crate::record::{End, Phase};
use crate::relay::{Flow, Relay};
use crate::rt::{self, Connection, Reason};
use crate::times::Stall;

/// The last stage of a user's connection. Its line is written once, by whoever comes upon the end first.
pub(crate) struct Joined {
    relay: Relay,
    journey: Option<Journey>,
    code: Option<u16>,
    stall: Stall,
}

impl Joined {
    pub(crate) fn new(gate: &Gate, relay: Relay, journey: Option<Journey>, code: Option<u16>) -> Joined {
        Joined { relay, journey, code, stall: Stall::new(&gate.times) }
    }

    /// Moves what can be moved, and closes the connection at the end.
    pub(crate) fn pump(&mut self, gate: &Gate, conn: &mut Connection) -> rt::Result {
        let flow = self.relay.pump(conn);
        let conn_id = self.journey.as_ref().and_then(Journey::conn_id);
        if !self.stall.follow(conn, conn_id)? {
            return Ok(());
        }
        if self.relay.bytes_read() > 0
            && let Some(journey) = &mut self.journey
        {
            journey.first_byte();
        }
        match flow {
            Flow::Open => {}
            Flow::Done => {
                self.end(gate, End::EOF);
                conn.close();
            }
            Flow::Broken(broken) => {
                self.end(gate, broken_end(broken, Phase::Data));
                // Nobody is to take these bytes for all of them.
                conn.abort();
            }
        }
        Ok(())
    }

    /// The connection has closed, if not by `pump` then in the middle.
    pub(crate) fn closed(&mut self, gate: &Gate, reason: &Reason) {
        self.relay.abandon(reason);
        self.end(gate, closed_end(reason, Phase::Data));
    }

    fn end(&mut self, gate: &Gate, end: End) {
        if let Some(journey) = self.journey.take() {
            journey.end(gate, self.code, (self.relay.bytes_sent(), self.relay.bytes_read()), end);
        }
    }
}
