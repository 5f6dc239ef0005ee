//! Is the peer still there? Any frame says so; silence is asked about; nothing else ends a quiet tunnel.
//!
//! ```text
//!            15 s without a frame              10 s without a frame        10 s without a frame
//!   quiet ────────────────────────▶ PING (1) ──────────────────────▶ PING (2) ──────────────────▶ lost
//!     ▲                                │                                │
//!     └───────────── any frame ────────┴────────────────────────────────┘
//! ```
//!
//! That is the gateway's clock. A client's begins 2 s later, so that a quiet tunnel carries one PING in 15 s and not two.
//!
//! An OPEN that is not answered by any frame at all within `OPEN_QUIET_MS` makes the first PING of it: a client that has died is not to be
//! asked for streams until it is quiet for 15 s. (The OPEN itself may wait for its target for much longer.)
//!
//! A deadline that is looked at much too late (the process was suspended) asks again instead of counting a miss, because the
//! answer may lie in the socket.
//!
//! A PING measures besides how long its answer takes. One is sent for that alone when the session comes up, and when a window grows.

use super::event::Flood;
use super::{Error, Role};
use crate::limits::{
    OPEN_QUIET_MS, PING_ANSWER_MS, PING_CLIENT_LATER_MS, PING_IDLE_MS, PING_MISSES_MAX, PINGS_PER_S_MAX,
    RTT_FRESH_MS,
};
use crate::proto::rate::Rate;
use std::time::{Duration, Instant};

const OPEN_QUIET: Duration = Duration::from_millis(OPEN_QUIET_MS);
const ANSWER: Duration = Duration::from_millis(PING_ANSWER_MS);

#[derive(Debug)]
pub(super) struct Liveness {
    /// Silence after which it is our turn to ask.
    idle: Duration,
    /// When the last question or the last frame was; the next step is due `idle` or `ANSWER` after it.
    since: Instant,
    /// Questions without an answer. Invariant: unanswered ≤ PING_MISSES_MAX.
    unanswered: u32,
    /// An OPEN is to be sent.
    opens: bool,
    /// When an OPEN was sent after which no frame has arrived, the first of several.
    opened: Option<Instant>,
    /// The last PING that was sent: its number, and when.
    asked: Option<(u64, Instant)>,
    numbers: u64,
    /// A PING is to be sent, unless a frame arrives before that.
    asks: bool,
    /// A PING is to be sent, for the sake of the time that its answer takes.
    measures: bool,
    /// When the last PING was sent.
    measured: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    /// The shortest of all times: later ones may have been spent in queues.
    pub(super) rtt_min: Option<Duration>,
    /// PINGs and PONGs of the peer.
    pings: Rate,
}

impl Liveness {
    pub(super) fn new(role: Role, now: Instant) -> Self {
        let later = match role {
            Role::Gateway => 0,
            Role::Client => PING_CLIENT_LATER_MS,
        };
        Self {
            idle: Duration::from_millis(PING_IDLE_MS + later),
            since: now,
            unanswered: 0,
            opens: false,
            opened: None,
            asked: None,
            numbers: 0,
            asks: false,
            measures: false,
            measured: None,
            rtt: None,
            rtt_min: None,
            pings: Rate::new(PINGS_PER_S_MAX),
        }
    }

    /// A frame arrived.
    pub(super) fn received(&mut self, now: Instant) {
        self.since = now;
        self.unanswered = 0;
        self.asks = false;
        self.opened = None;
    }

    /// An OPEN will be sent.
    pub(super) fn opens(&mut self) {
        self.opens = true;
    }

    /// What was to be sent has left.
    pub(super) fn sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.opens) {
            self.opened.get_or_insert(now);
        }
    }

    /// Whether the peer has been asked something and has not said a word since.
    pub(super) fn doubts(&self) -> bool {
        self.unanswered > 0
    }

    pub(super) fn timeout(&self) -> Instant {
        match (self.unanswered, self.opened) {
            (0, Some(opened)) => (self.since + self.idle).min(opened + OPEN_QUIET),
            (0, None) => self.since + self.idle,
            _ => self.since + ANSWER,
        }
    }

    /// Looks at the clock.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        let due = self.timeout();
        if now < due {
            return Ok(());
        }
        let on_time = now < due + ANSWER;
        if self.unanswered == 0 || on_time {
            if self.unanswered == PING_MISSES_MAX {
                return Err(Error::PeerLost);
            }
            self.unanswered += 1;
        }
        self.asks = true;
        self.since = now;
        Ok(())
    }

    /// Wants a fresh round trip time, unless there is one.
    pub(super) fn measure(&mut self, now: Instant) {
        let fresh = |at| now.saturating_duration_since(at) < Duration::from_millis(RTT_FRESH_MS);
        self.measures |= !self.measured.is_some_and(fresh);
    }

    pub(super) fn wants_ping(&self) -> bool {
        self.asks || self.measures
    }

    /// The number of the PING to send now, if one is to be sent.
    pub(super) fn take_ping(&mut self, now: Instant) -> Option<u64> {
        if !self.wants_ping() {
            return None;
        }
        self.quiet();
        self.numbers += 1;
        self.asked = Some((self.numbers, now));
        self.measured = Some(now);
        Some(self.numbers)
    }

    /// Sends no PING that was not sent yet.
    pub(super) fn quiet(&mut self) {
        (self.asks, self.measures) = (false, false);
    }

    pub(super) fn pong(&mut self, number: u64, now: Instant) {
        if let Some((_, at)) = self.asked.take_if(|(asked, _)| *asked == number) {
            let rtt = now.saturating_duration_since(at);
            self.rtt = Some(rtt);
            self.rtt_min = Some(self.rtt_min.map_or(rtt, |min| min.min(rtt)));
        }
    }

    /// Counts a PING or a PONG.
    pub(super) fn count(&mut self, now: Instant) -> Result<(), Error> {
        if self.pings.take(1, now) { Ok(()) } else { Err(Error::Flood(Flood::Pings)) }
    }
}
