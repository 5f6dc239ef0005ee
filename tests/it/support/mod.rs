//! What the tests of the real program are made of.
//!
//! ```text
//!   Wire (a user) ──▶ Program (gateway, client, standalone: real processes, every port 0) ──▶ Origin (threads here)
//!                        │ standard error
//!                        ▼
//!                       lines, waited for: nothing here sleeps to let something happen
//! ```
//! Everything that waits gives up after [`PATIENCE`] and shows the log.

mod origin;
mod password;
mod peer;
mod process;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use origin::{Origin, Request, Talk, ok};
pub(crate) use password::PasswordFile;
pub(crate) use peer::{Farewell, Peer};
pub(crate) use process::{Program, field, gateway, gateway_and_client, gateway_that_says, standalone};
pub(crate) use wire::{Ended, Response, Wire, basic};

/// How long a test waits for what has to happen: longer than any silence that is tested. Only a failing test ever waits so
/// long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Whether long transfers, long silences and timed assertions were asked for (`ANYPROXY_FULL=1`).
pub(crate) fn full() -> bool {
    std::env::var_os("ANYPROXY_FULL").is_some_and(|value| value == "1")
}

/// Whether a part of a test is left out, which it says then.
pub(crate) fn skipped(what: &str) -> bool {
    if !full() {
        println!("skipped without ANYPROXY_FULL=1: {what}");
    }
    !full()
}

/// Says that something is over, at the latest when a panic drops it: others who wait for that then end as well.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Tries again and again, until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
    }
}

/// Bytes that show every loss and every change of places.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
