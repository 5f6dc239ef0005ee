//! A gate at which a callback waits until the test lets it go on.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use poller::EventLoop;

use super::PATIENCE;

/// The callback's side.
#[derive(Clone)]
pub struct Stop {
    reached: Sender<()>,
    opened: Receiver<()>,
}

/// The test's side. Dropping it opens the gate for good.
pub struct Gate {
    reached: Receiver<()>,
    open: Sender<()>,
}

/// A gate and the stop before it.
pub fn gate() -> (Stop, Gate) {
    let (reached, when_reached) = crossbeam_channel::unbounded();
    let (open, opened) = crossbeam_channel::unbounded();
    (Stop { reached, opened }, Gate { reached: when_reached, open })
}

impl Stop {
    /// Tells that it is here and waits, without a word to the event loop.
    pub fn wait(&self) {
        // Both fail when the gate is gone, and then it is open.
        self.reached.send(()).ok();
        self.opened.recv_timeout(PATIENCE).ok();
    }

    /// As `wait`, announced: another worker may take the lead.
    pub fn wait_announced(&self) {
        poller::blocking(|| self.wait());
    }
}

impl Gate {
    /// Waits until somebody stands before it.
    #[track_caller]
    pub fn reached(&self) {
        self.reached.recv_timeout(PATIENCE).expect("somebody should stand before the gate");
    }

    /// Whether somebody stands before it.
    pub fn is_reached(&self) -> bool {
        self.reached.try_recv().is_ok()
    }

    /// Lets one through.
    #[track_caller]
    pub fn open(&self) {
        self.open.send(()).expect("somebody comes to the gate");
    }
}

/// Keeps the leader of the only poll busy until the gate opens, without announcing it.
pub fn hold(event_loop: &EventLoop) -> Gate {
    let (stop, gate) = gate();
    event_loop.after(Duration::ZERO, move || stop.wait()).expect("a timer");
    gate.reached();
    gate
}
