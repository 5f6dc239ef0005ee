//! Blocking reads and flushes, for handlers that want to read a message from its beginning to its end in one go.
//!
//! ```text
//!   wait_for(n) ──▶ enough is there ─────────────────────────────────────────────▶ Ok
//!        │  ▲ read, flush                                                          ▲
//!        ▼  │                                                                      │
//!   give up the lead ──▶ say so in the word, unless there is news ──▶ park ──▶ news ──▶ enough? ended? closing? limit?
//! ```
//! The connection stays with the thread that waits, so nobody else touches it. Whoever leaves news for it finds in its word
//! that the owner is parked, and wakes it. News that the wait has no use for stays for the turn that goes on afterwards.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use linkbuffer::Node;

use crate::close::{Fault, Limit};
use crate::connection::Connection;
use crate::flags::Flags;
use crate::limits;
use crate::state::{Closer, News};
use crate::sync::{Condvar, Mutex};
use crate::watch::NEVER;
use crate::worker;

/// Where an owner sleeps that waits for news.
#[derive(Default)]
pub(crate) struct Parker {
    told: Mutex<bool>,
    woken: Condvar,
}

impl Parker {
    pub(crate) fn wake(&self) {
        *self.told.lock() = true;
        self.woken.notify_one();
    }

    /// Sleeps until it is woken (also if it was before), or until `deadline`.
    fn park(&self, deadline: Instant) {
        let mut told = self.told.lock();
        while !*told && !self.woken.wait_until(&mut told, deadline).timed_out() {}
        *told = false;
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// So many unconsumed bytes.
    Input(usize),
    /// No output is left.
    Sent,
}

/// What a wait does not act upon itself.
const LATER: News = News::WOKEN.with(News::TIMER).with(News::SHUTDOWN).with(News::REST);

impl Connection<'_> {
    /// Waits until at least `n` unconsumed bytes are in the input. What is queued is sent first.
    ///
    /// The thread blocks, as within [`blocking`](crate::blocking): another worker serves the other connections meanwhile,
    /// and what handles send to this one goes out. Where the bytes are there already, this costs nothing.
    ///
    /// The read limit runs from the beginning of the wait, the idle limit as ever; where neither is set,
    /// [`Builder::wait_limit`](crate::Builder::wait_limit) bounds the wait as the read limit would.
    ///
    /// Whoever sends half a message holds a thread: for peers that are not trusted set a short read limit, or use what is there
    /// and return.
    ///
    /// # Errors
    /// When the handler returns them, they close the connection like any other.
    /// * `UnexpectedEof`: the stream ended first; the message says after how many bytes, which are still in the input.
    /// * `ConnectionAborted`: the connection was closed from elsewhere, or the grace of a shutdown is over (`on_shutdown` comes
    ///   only when the handler has returned).
    /// * `TimedOut`: a limit passed, and the connection closes with that reason.
    /// * `ResourceBusy`: as many handlers wait already as there are standby workers.
    /// * `InvalidInput`: more is asked for than [`INPUT_HIGH_BYTES`](limits::INPUT_HIGH_BYTES).
    /// * What the system says when the connection is broken.
    ///
    /// # Examples
    /// ```
    /// # use poller::{Connection, Handler, Prepare, Reject};
    /// struct Lengths;
    /// impl Handler for Lengths {
    ///     type Context = ();
    ///     # fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> { Ok(()) }
    ///     fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
    ///         while !conn.input().is_empty() {
    ///             conn.wait_for(1)?;
    ///             let len = usize::from(conn.input().next(1)?[0]);
    ///             conn.wait_for(len)?;
    ///             let message = conn.input().read_vec(len)?;
    ///             conn.output().write(&message);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[doc(alias = "Next")]
    #[doc(alias = "waitRead")]
    pub fn wait_for(&mut self, n: usize) -> io::Result<()> {
        if self.busy.input.len() >= n {
            return Ok(());
        }
        if n > limits::INPUT_HIGH_BYTES {
            let what = format!(
                "{n} bytes are more than an input holds ({}): consume them piece by piece",
                limits::INPUT_HIGH_BYTES
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let outcome = self.wait(Goal::Input(n));
        // What was lent for this is not the thread's.
        drop(self.busy.input.reclaim());
        outcome
    }

    /// Sends what is queued and waits until the kernel has taken all of it. The thread blocks, as in
    /// [`wait_for`](Connection::wait_for); the write-stall and the idle limit run, or else
    /// [`Builder::wait_limit`](crate::Builder::wait_limit) while nothing moves.
    ///
    /// # Errors
    /// As [`wait_for`](Connection::wait_for).
    #[doc(alias = "Flush")]
    pub fn flush_all(&mut self) -> io::Result<()> {
        self.wait(Goal::Sent)
    }

    fn wait(&mut self, goal: Goal) -> io::Result<()> {
        let known = self.input_ended();
        let outcome = self.wait_for_goal(goal);
        if self.input_ended() && !known {
            // The handler is told once more, as of any end; but not of one that it knows, or it would wake itself for ever.
            self.shared.wake_owner();
        }
        outcome
    }

    fn wait_for_goal(&mut self, goal: Goal) -> io::Result<()> {
        // Often there is no need to block.
        if let Some(outcome) = self.advance(goal) {
            return outcome;
        }
        let shared = self.shared;
        let live = &shared.poll().live;
        if !live.begin_wait() {
            let what = format!(
                "{} handlers wait already, as many as there are standby workers (`Builder::standby_max`)",
                live.waits_max
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
        }
        // In its first turn the selector may not have been told of the connection.
        let outcome = self.kept.register(shared.poll(), self.busy.unsent() > 0).and_then(|()| {
            let parker = Arc::new(Parker::default());
            shared.park_at(Some(parker.clone()));
            let outcome = worker::blocking(|| self.wait_at(goal, &parker));
            shared.park_at(None);
            outcome
        });
        live.end_wait();
        outcome
    }

    fn wait_at(&mut self, goal: Goal, parker: &Parker) -> io::Result<()> {
        let shared = self.shared;
        let clock = &shared.poll().clock;
        let mut later = News::NONE;
        let bound = u64::try_from(shared.poll().live.wait_limit.as_nanos()).unwrap_or(NEVER);
        let (mut moved, mut bounded) = (self.moved(goal), clock.look().saturating_add(bound));
        let outcome = loop {
            let now = clock.look();
            self.look_at_limits(Some(goal));
            if let Some(outcome) = self.advance(goal) {
                break outcome;
            }
            if self.moved(goal) != moved {
                (moved, bounded) = (self.moved(goal), now.saturating_add(bound));
            }
            let limit = if self.kept.phase.has_limits() { self.busy.watches.next().0 } else { NEVER };
            if limit == NEVER && bounded <= now {
                self.pass(if goal == Goal::Sent { Limit::WriteStall } else { Limit::Read });
                continue;
            }
            let until = if limit == NEVER { bounded } else { limit };
            if shared.state.begin_wait() {
                parker.park(clock.instant(until));
            }
            shared.state.end_wait();
            later = later.with(self.take_news());
        };
        shared.state.note_as_owner(later);
        outcome
    }

    /// What must move for a wait without a limit to go on.
    fn moved(&self, goal: Goal) -> u64 {
        match goal {
            // The whole wait is bounded.
            Goal::Input(_) => 0,
            Goal::Sent => self.bytes_out(),
        }
    }

    /// Acts upon the news that concern the wait, and gives back the rest.
    fn take_news(&mut self) -> News {
        let news = self.shared.state.take();
        self.kept.note(news);
        if news.has(News::SENT) {
            self.shared.collect(self.kept, self.busy);
        }
        // The turn looks at the end of the peer again: it knows when to ask for an error.
        news.only(LATER.with(News::HUP))
    }

    /// Does what can be done without waiting; the outcome, or `None` when there is only waiting left.
    fn advance(&mut self, goal: Goal) -> Option<io::Result<()>> {
        loop {
            let flushed = self.flush();
            self.shared.tell_unsent(self.kept, self.busy);
            let reached = match goal {
                Goal::Input(n) => self.busy.input.len() >= n,
                Goal::Sent => flushed.is_ok() && self.busy.unsent() == 0,
            };
            if reached {
                return Some(Ok(()));
            }
            if let Some(close) = self.shared.state.closing() {
                let (kind, what) = match close.closer {
                    Closer::Timer => (io::ErrorKind::TimedOut, "a limit passed while the handler waited"),
                    _ => (
                        io::ErrorKind::ConnectionAborted,
                        "the connection was closed while its handler waited",
                    ),
                };
                return Some(Err(io::Error::new(kind, what)));
            }
            let Goal::Input(n) = goal else { return flushed.err().map(Err) };
            if self.input_ended() {
                let what = format!("the stream ended after {} of {n} bytes", self.busy.input.len());
                return Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
            }
            if !self.kept.flags.has(Flags::READABLE) {
                return flushed.err().map(Err);
            }
            if !self.kept.has_tls() && self.busy.input.inputs().is_empty() {
                let wanted =
                    (n - self.busy.input.len()).clamp(limits::WAIT_READ_BYTES_MIN, limits::READ_BYTES_MAX);
                self.busy.input.lend(Node::take(wanted));
            }
            #[cfg(feature = "tls")]
            let outcome =
                if self.kept.has_tls() { self.open_records().map(drop) } else { self.read().map(drop) };
            #[cfg(not(feature = "tls"))]
            let outcome = self.read();
            if let Err(error) = outcome {
                self.kept.flags.set(Flags::KEEPS);
                let fault = self.busy.broken.unwrap_or(Fault::from(&error));
                self.busy.details.fault.get_or_insert(fault);
                self.shared.state.close_as_owner(Closer::Error, true);
                return Some(Err(fault.into()));
            }
        }
    }
}
