//! The situations in which a handler can be dispatched, and the stage that brings each of them about.
//!
//! ```text
//!   kept        worker ── poll ── subject's callback ── poll            the lead is there when the callback returns
//!   taken over  worker ── poll ── subject's callback (blocks) ───────── rest of the subject's turn, then stands by
//!               another           └─ poll ── bystander is answered ──── poll
//!   queue       worker ── poll ── holder's callback (blocks) ── poll ── subject's news, and all that has piled up
//! ```

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poller::{EventLoop, Remote};

use crate::support::gate::{Gate, gate};
use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// One poll, and nothing blocks in the way that `poller::blocking` announces.
    Kept,
    /// The subject's callback announces that it blocks, and another worker leads meanwhile.
    TakenOver,
    /// There is one worker, and another connection's handler holds it while the subject's news come.
    Queue,
}

pub const SITUATIONS: [Situation; 3] = [Situation::Kept, Situation::TakenOver, Situation::Queue];

/// One event loop with one poll, a bystander that must not notice anything, and a holder of the worker.
pub struct Stage {
    pub situation: Situation,
    /// The event loop's and so its threads' name, like no other in this process.
    pub name: String,
    pub remote: Remote,
    /// `None` once it was stopped.
    event_loop: Mutex<Option<EventLoop>>,
    pub echo_addr: SocketAddr,
    pub bystander: Bystander,
    holder: Mutex<(TcpStream, Gate)>,
}

/// A user of an echo on the same poll.
#[derive(Clone)]
pub struct Bystander {
    situation: Situation,
    stream: Arc<Mutex<TcpStream>>,
}

impl Stage {
    pub fn new(situation: Situation) -> Stage {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("stage {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let builder = EventLoop::builder().name(&name).polls(1);
        let builder = match situation {
            Situation::Queue => builder.standby_max(0),
            Situation::Kept | Situation::TakenOver => builder.standby_max(2),
        };
        let event_loop = builder.build().expect("an event loop");
        let (stop, gate) = gate();
        let echo = Probe::new(move |at, conn| {
            if at == At::Request && conn.input().chunk() == b"hold" {
                stop.wait_announced();
            }
            echo(at, conn)
        });
        // Events of a connection of no interest; nobody reads them.
        let (probe, _) = echo.start();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let echo_addr = event_loop.serve(listener, probe).expect("served").local_addr();
        let (mut bystander, mut holder) = (connect(echo_addr), connect(echo_addr));
        ask(&mut bystander, b"before");
        ask(&mut holder, b"before");
        let bystander = Bystander { situation, stream: Arc::new(Mutex::new(bystander)) };
        let remote = event_loop.remote();
        let (event_loop, holder) = (Mutex::new(Some(event_loop)), Mutex::new((holder, gate)));
        Stage { situation, name, remote, event_loop, echo_addr, bystander, holder }
    }

    /// Stops the event loop and does something meanwhile; says whether all connections ended by themselves.
    pub fn stop(&self, grace: Duration, meanwhile: impl FnOnce()) -> bool {
        let event_loop = self.event_loop.lock().expect("no panic").take().expect("stopped once");
        std::thread::scope(|scope| {
            let stopped = scope.spawn(|| event_loop.shutdown(grace));
            wait_until("it is stopping", || self.remote.is_stopping());
            meanwhile();
            stopped.join().expect("no panic")
        })
    }

    /// From here to `release` the holder's handler blocks: in the queue situation that is the only worker.
    pub fn hold(&self) {
        if self.situation != Situation::Kept {
            let (holder, gate) = &mut *self.holder.lock().expect("no panic");
            std::io::Write::write_all(holder, b"hold").expect("written");
            gate.reached();
        }
    }

    pub fn release(&self) {
        if self.situation != Situation::Kept {
            let (holder, gate) = &mut *self.holder.lock().expect("no panic");
            gate.open();
            let mut answer = [0; 4];
            std::io::Read::read_exact(holder, &mut answer).expect("the holder goes on, too");
        }
    }

    /// As `hold`, where only the queue needs it.
    pub fn hold_queue(&self) {
        if self.situation == Situation::Queue {
            self.hold();
        }
    }

    pub fn release_queue(&self) {
        if self.situation == Situation::Queue {
            self.release();
        }
    }
}

impl Bystander {
    /// Asks something and is answered.
    #[track_caller]
    pub fn is_served(&self) {
        ask(&mut self.stream.lock().expect("no panic"), b"is anybody there?");
    }

    /// Its connection ends, in an orderly manner when it is not forced.
    #[track_caller]
    pub fn is_ended(&self, forced: bool) {
        let mut stream = self.stream.lock().expect("no panic");
        match std::io::Read::read_to_end(&mut *stream, &mut Vec::new()) {
            Ok(n) => assert_eq!(n, 0),
            Err(error) => assert!(forced, "an idle connection is ended in an orderly manner: {error}"),
        }
    }

    /// Called by the subject's callback before its deed: where the lead is to be taken over, another worker serves
    /// the bystander (or ends it, when the event loop stops) while this one says that it blocks.
    pub fn lead_away(&self, stopping: bool) {
        if self.situation == Situation::TakenOver {
            poller::blocking(|| match stopping {
                true => self.is_ended(false),
                false => self.is_served(),
            });
        }
    }
}
