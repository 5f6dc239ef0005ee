//! Is the peer still there? Any frame says so; silence is asked about; nothing else ends a quiet tunnel.
//!
//! ```text
//!            15 s without a frame              10 s without a frame        10 s without a frame
//!   quiet ────────────────────────▶ PING (1) ──────────────────────▶ PING (2) ──────────────────▶ lost
//!     ▲                                │                                │
//!     └───────────── any frame ────────┴────────────────────────────────┘
//! ```
//!
//! A deadline that is looked at much too late (the process was suspended) asks again instead of counting a miss, because the
//! answer may lie in the socket.

use super::Error;
use super::event::Flood;
use crate::limits::{PING_ANSWER_MS, PING_IDLE_MS, PING_MISSES_MAX, PINGS_PER_S_MAX};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_millis(PING_IDLE_MS);
const ANSWER: Duration = Duration::from_millis(PING_ANSWER_MS);

#[derive(Debug)]
pub(super) struct Liveness {
    /// When the last question or the last frame was; the next step is due `IDLE` or `ANSWER` after it.
    since: Instant,
    /// Questions without an answer. Invariant: unanswered ≤ PING_MISSES_MAX.
    unanswered: u32,
    /// The number of the last PING, and when it was asked for.
    asked: Option<(u64, Instant)>,
    numbers: u64,
    /// A PING that waits to be sent.
    pub(super) ping: Option<u64>,
    pub(super) rtt: Option<Duration>,
    /// PINGs and PONGs of the second that began then.
    second: Instant,
    in_second: u32,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            unanswered: 0,
            asked: None,
            numbers: 0,
            ping: None,
            rtt: None,
            second: now,
            in_second: 0,
        }
    }

    /// A frame arrived.
    pub(super) fn received(&mut self, now: Instant) {
        self.since = now;
        self.unanswered = 0;
        self.ping = None;
    }

    pub(super) fn timeout(&self) -> Instant {
        self.since + if self.unanswered == 0 { IDLE } else { ANSWER }
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
        self.numbers += 1;
        self.asked = Some((self.numbers, now));
        self.ping = Some(self.numbers);
        self.since = now;
        Ok(())
    }

    pub(super) fn pong(&mut self, number: u64, now: Instant) {
        if let Some((_, at)) = self.asked.take_if(|(asked, _)| *asked == number) {
            self.rtt = Some(now.saturating_duration_since(at));
        }
    }

    /// Counts a PING or a PONG.
    pub(super) fn count(&mut self, now: Instant) -> Result<(), Error> {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.in_second = 0;
        }
        self.in_second += 1;
        if self.in_second > PINGS_PER_S_MAX { Err(Error::Flood(Flood::Pings)) } else { Ok(()) }
    }
}
