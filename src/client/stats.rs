//! How a client goes, in one line now and then, as on the gateway: what its tunnels carry and counted, and whom its rules turned away.
//!
//! All but `conns` and `tun` count from the start of the process. A client on which nothing happens says nothing.

use std::sync::Arc;
use std::time::Duration;

use super::fleet::Fleet;
use crate::limits::STATS_MS;
use crate::tunnel::Tally;

/// What a line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Streams that are open.
    pub(super) conns: usize,
    /// Tunnels that are up.
    pub(super) tun: usize,
    /// What all tunnels counted.
    pub(super) tally: Tally,
    /// Streams to where the rules forbid.
    pub(super) forbidden: u64,
}

/// Writes a line whenever that has passed since the last look and something has changed, until the event loop stops.
pub(super) fn watch(fleet: &Arc<Fleet>, said: Line) {
    let weak = Arc::downgrade(fleet);
    let again = move || {
        if let Some(fleet) = weak.upgrade() {
            let line = fleet.line();
            if line != said {
                say(&line);
            }
            watch(&fleet, line);
        }
    };
    if let Err(error) = fleet.remote.after(Duration::from_millis(STATS_MS), again) {
        log::debug!(event = "stats"; "no more of them: {error}");
    }
}

fn say(line: &Line) {
    let Line { conns, tun, tally, forbidden } = *line;
    let Tally { streams, refused, late, dgram_drop, ws_ctl } = tally;
    log::info!(event = "stats", v = 1, conns, streams, tun, refused, late, dgram_drop, ws_ctl, forbidden; "");
}
