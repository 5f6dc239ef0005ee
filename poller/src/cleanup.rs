//! The end of a connection: what is still sent, and the clean-up, once.
//!
//! ```text
//!   close(who) ──▶ being dialed, with something sent? ──▶ wait until it stands, and on_connect has run
//!                       │ no
//!                       ▼
//!                  output left? ──▶ wait for it, while it moves ──▶ peer still sending? ──▶ end our stream, drop its bytes
//!                       │ abort                                           │ no                     │ its end, or a limit
//!                       └─────────────────────────▶ descriptor ◀──────────┴────────────────────────┘
//!                                                       ▼
//!   slot, count ◀── context ◀── on_close ◀── close callbacks, last in first out ◀── on_disconnect, if the peer left
//! ```
//! A socket that is closed with bytes unread resets the connection, and what the peer has not received of the output by then
//! is lost (RFC 2525, 2.17). So a graceful close reads on for a while where the peer is known to be sending (L-23).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use linkbuffer::Node;

use crate::busy::{Deadlines, Scratch};
use crate::close::Closed;
use crate::flags::Flags;
use crate::handler::caught;
use crate::job::Job;
use crate::kept::Phase;
use crate::limits;
use crate::operator::{Owner, Turn, report_panic};
use crate::state::{Close, Closer};
use crate::timer::{self, Key};
use crate::watch::NEVER;

/// For a checker any time is as long as it likes.
const LINGER: Duration =
    if cfg!(poller_shuttle) { Duration::ZERO } else { Duration::from_millis(limits::LINGER_MS) };

impl Owner<'_> {
    /// A close was asked for: waits for unsent output, then for the peer to stop, or cleans up.
    pub(crate) fn close(&mut self, close: Close, scratch: &mut Scratch) -> Turn {
        let begins = self.conn.kept.phase.has_limits();
        if begins && !close.abort {
            // Also what an `on_connect` that failed has written to say so (L-23).
            self.shared.collect(self.conn.kept, self.conn.busy);
            #[cfg(feature = "tls")]
            self.conn.end_tls();
            self.flush();
        }
        // The flush may have found the connection broken.
        let close = self.shared.state.closing().unwrap_or(close);
        let stands = !self.conn.kept.phase.is_early() || self.is_given_up();
        if stands && (close.abort || !self.waits(begins, close.closer)) {
            self.clean_up(close, scratch);
            return Turn::Closed;
        }
        self.conn.busy.deadlines.user = NEVER;
        self.arm_the_end();
        if self.conn.kept.phase == Phase::Redialing { Turn::Redial } else { Turn::Closing(close) }
    }

    /// Whether a close leaves nothing to be done before `on_connect`. What was sent to a connection that does not stand yet is
    /// something to be done: it is made all the same, within its limits, unless by an abort (L-23).
    pub(crate) fn is_given_up(&self) -> bool {
        self.shared.state.closing().is_some_and(|close| close.abort || self.shared.uncollected() == 0)
    }

    /// Sees to it that what is waited for has an end. What was armed before may have fired in this turn, unseen.
    fn arm_the_end(&mut self) {
        let now = self.shared.poll().clock.look();
        self.conn.busy.deadlines.fired(now);
        self.conn.arm();
        let deadlines = &self.conn.busy.deadlines;
        // A limit that was set to for ever needs none.
        let next = deadlines.next();
        let comes = |armed: Key| armed.at > now || armed.at == next;
        debug_assert!(next == NEVER || deadlines.armed.is_some_and(comes), "{deadlines:?} at {now}");
    }

    /// Whether there is something to wait for before the end, and time for it. `begins`: the close was just seen.
    fn waits(&mut self, begins: bool, closer: Closer) -> bool {
        if self.conn.kept.transport.is_none() {
            return false;
        }
        match self.conn.kept.phase {
            Phase::Lingering => return !self.is_late() && self.lingers(),
            // What the peer has sent while the output left may be there with no event yet.
            Phase::Closing => self.conn.kept.flags.set(Flags::READABLE),
            _ if !begins => return false,
            _ => {}
        }
        if self.conn.busy.unsent() > 0 {
            if begins {
                self.conn.kept.phase = Phase::Closing;
                self.wait_until(self.shared.poll().close_stalled(self.conn.busy.watches.write_stall()));
            }
            return !self.is_late();
        }
        let ours = matches!(closer, Closer::User | Closer::Handler | Closer::Shutdown | Closer::Timer);
        if !ours
            || self.conn.kept.flags.has(Flags::INPUT_ENDED)
            || self.conn.busy.broken.is_some()
            || !self.is_sending()
        {
            return false;
        }
        if let Some(transport) = &self.conn.kept.transport
            && !self.conn.kept.flags.has(Flags::END_SENT)
            && transport.shutdown_write().is_err()
        {
            return false;
        }
        self.conn.kept.phase = Phase::Lingering;
        self.wait_until(self.shared.poll().clock.at(timer::later(LINGER)));
        true
    }

    /// Whether the peer has sent something that nobody wanted, and may send more, or is about to.
    fn is_sending(&mut self) -> bool {
        let unconsumed = !self.conn.busy.input.is_empty();
        self.conn.busy.lingered = 0;
        self.lingers() && (unconsumed || self.conn.busy.lingered > 0 || self.conn.kept.awaits_tickets())
    }

    fn wait_until(&mut self, at: u64) {
        self.conn.busy.deadlines.close = at;
        self.conn.kept.flags.set(Flags::KEEPS);
    }

    /// Whether the time for what is waited for is over.
    fn is_late(&mut self) -> bool {
        let now = self.shared.poll().clock.look();
        self.conn.busy.deadlines.fired(now);
        Deadlines::due(&mut self.conn.busy.deadlines.close, now)
    }

    /// Reads and drops what the peer is still sending, as far as it has come. Says whether there may be more.
    fn lingers(&mut self) -> bool {
        while self.conn.kept.flags.has(Flags::READABLE) {
            // One that has ended its stream has no more than the kernel holds; another is slowed by what it finds unread.
            if self.conn.busy.lingered >= limits::LINGER_BYTES_MAX && !self.conn.kept.flags.has(Flags::HUP) {
                break;
            }
            let busy = &mut *self.conn.busy;
            busy.input.clear();
            if busy.input.inputs().is_empty() {
                busy.input.lend(Node::take(limits::READ_BYTES_MAX));
            }
            match self.conn.read() {
                Ok(None) => {}
                Ok(Some(n)) if n > 0 => self.conn.busy.lingered += n,
                // The peer has ended its stream, or left altogether.
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        true
    }

    /// The end, once: descriptor, callbacks, buffers, slot.
    fn clean_up(&mut self, close: Close, scratch: &mut Scratch) {
        let shared = self.shared;
        let (kept, busy) = (&mut *self.conn.kept, &mut *self.conn.busy);
        let connected = kept.flags.has(Flags::CONNECTED);
        kept.phase = Phase::Closed;
        let asked = || kept.transport.as_ref().map_or(busy.details.local, |transport| transport.local_addr());
        let local = shared.service.local.or_else(asked);
        let unsent = busy.dropped + busy.unsent() + shared.uncollected();
        let cut_off = unsent > 0 || close.closer == Closer::Panic;
        if shared.service.adopted.is_some()
            && let Err(error) = kept.deregister(shared.poll())
        {
            log::debug!(event = "close", conn = shared.id; "was not with the selector: {error}");
        }
        if let Some(transport) = kept.transport.take()
            && (cut_off || (close.abort && matches!(close.closer, Closer::User | Closer::Shutdown)))
        {
            // The peer must not take for whole what was cut off. Best effort: without it the peer sees an ordinary end.
            if let Err(error) = transport.reset_on_close() {
                log::debug!(event = "abort", conn = shared.id; "no reset: {error}");
            }
        }
        if let Some(armed) = busy.deadlines.armed.take() {
            shared.poll().disarm(armed);
        }
        let now = shared.poll().clock.look();
        let info = Closed {
            reason: busy.details.reason(close.closer),
            id: shared.id,
            peer: shared.peer_addr(),
            local,
            bytes_in: shared.bytes_in.load(Relaxed),
            bytes_out: shared.bytes_out.load(Relaxed),
            unsent: unsent as u64,
            connected,
            lifetime: Duration::from_nanos(now.saturating_sub(shared.opened)),
            quiet: shared.quiet_at(now),
        };
        // A lent node stays, so the thread keeps its read buffer.
        busy.input.clear();
        busy.drop_unsent();
        // Everything but bytes is marked.
        if kept.flags.has(Flags::KEEPS) {
            busy.rest();
        }
        let contained = |name, callback: &mut dyn FnMut()| {
            if let Err(text) = caught(callback) {
                report_panic(shared, name, &text);
            }
        };
        let handler = &*shared.service.callbacks;
        let mut context = self.context.take();
        if connected
            && matches!(close.closer, Closer::Peer | Closer::Error)
            && let Some(context) = &mut context
        {
            contained("on_disconnect", &mut || handler.disconnect(context, &info));
        }
        let mut waiters = None;
        if let Some((callbacks, waiting)) = shared.end_outbox(&info) {
            waiters = Some(waiting);
            for callback in callbacks.into_iter().rev() {
                let mut callback = Some(callback);
                contained("close callback", &mut || {
                    if let Some(callback) = callback.take() {
                        callback(&info);
                    }
                });
            }
        }
        if let Some(context) = &mut context {
            contained("on_close", &mut || handler.close(context, &info));
        }
        contained("drop of the context", &mut || drop(context.take()));
        shared.state.finish();
        waiters.iter().flatten().for_each(crate::Handle::wake);
        // For the leader, which is this thread unless the lead was lost: nobody has to be woken for it.
        if let Some(token) = kept.token() {
            scratch.jobs.push_back(Job::Retire(token));
        }
        shared.service.leave();
    }
}
