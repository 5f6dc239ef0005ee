//! What tunnels counted, summed up over all that a process ever had.
//!
//! ```text
//!   tunnel ── now and then, and at its end ──▶ what it counted since it was asked last ──▶ Totals
//! ```
//! A tunnel gives each count away once, so the sums only grow, and a tunnel that ends while they are taken is neither missed nor
//! counted twice.

use std::ops::{AddAssign, Sub};

use parking_lot::Mutex;

use super::Tunnel;
use crate::proto::session::Stats;

/// Counts of one tunnel, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Streams that were opened.
    pub streams: u64,
    /// Streams that the client refused because of a limit, or because it was leaving.
    pub refused: u64,
    /// Frames for streams and ports that were gone already.
    pub late: u64,
    /// Datagrams that made room for newer ones.
    pub dgram_drop: u64,
    /// Control frames of the WebSocket that came.
    pub ws_ctl: u64,
}

impl Tally {
    pub(super) fn new(stats: &Stats, ws_ctl: u64) -> Tally {
        Tally {
            streams: stats.streams_opened,
            refused: stats.streams_refused,
            late: stats.late_frames,
            dgram_drop: stats.datagrams_dropped,
            ws_ctl,
        }
    }
}

impl Sub for Tally {
    type Output = Tally;

    fn sub(self, before: Tally) -> Tally {
        Tally {
            streams: self.streams - before.streams,
            refused: self.refused - before.refused,
            late: self.late - before.late,
            dgram_drop: self.dgram_drop - before.dgram_drop,
            ws_ctl: self.ws_ctl - before.ws_ctl,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Tally) {
        self.streams += more.streams;
        self.refused += more.refused;
        self.late += more.late;
        self.dgram_drop += more.dgram_drop;
        self.ws_ctl += more.ws_ctl;
    }
}

/// The sums.
#[derive(Debug, Default)]
pub struct Totals(Mutex<Tally>);

impl Totals {
    /// Adds what a tunnel counted since this was done last.
    pub fn take(&self, tunnel: &Tunnel) {
        let news = tunnel.tally();
        *self.0.lock() += news;
    }

    /// The sums so far.
    pub fn get(&self) -> Tally {
        *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::credentials::Credentials;
    use crate::proto::session::{GatewayConfig, Session};

    // A line comes every ten seconds, and a tunnel ends in between: each count is in the sums once.
    #[test]
    fn each_count_is_taken_once() {
        let credentials = std::sync::Arc::new(Credentials::new());
        let config = GatewayConfig { credentials, session_id: 1, nonce: [2; 32] };
        let tunnel = Tunnel::new(Session::gateway(config, crate::rt::now()), "t1".into());
        let totals = Totals::default();
        for so_far in [3, 3, 10] {
            tunnel.inner.lock().ws_control = so_far;
            totals.take(&tunnel);
            assert_eq!(totals.get(), Tally { ws_ctl: so_far, ..Tally::default() });
        }
        let stats = Stats {
            streams_opened: 1,
            streams_refused: 2,
            late_frames: 3,
            datagrams_dropped: 4,
            ..Stats::default()
        };
        let all = Tally { streams: 1, refused: 2, late: 3, dgram_drop: 4, ws_ctl: 5 };
        let mut twice = Tally::new(&stats, 5);
        assert_eq!(twice, all);
        twice += all;
        assert_eq!(twice - all, all);
    }
}
