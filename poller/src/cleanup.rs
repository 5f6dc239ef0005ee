//! The end of a connection: what is still sent, and the clean-up, once.
//!
//! ```text
//!   close(who) ──▶ output left? ──▶ wait for it, while it moves ──▶ descriptor ──▶ on_disconnect, if the peer left
//!                       │ no, or an abort                              ▲                  │
//!                       └──────────────────────────────────────────────┘                  ▼
//!                             slot, count ◀── context ◀── on_close ◀── close callbacks, last in first out
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::busy::Deadlines;
use crate::close::Closed;
use crate::flags::Flags;
use crate::kept::Phase;
use crate::operator::{Owner, Turn, report_panic};
use crate::state::{Close, Closer};
use crate::watch::NEVER;

impl Owner<'_> {
    /// A close was asked for: waits for unsent output, or cleans up.
    pub(crate) fn close(&mut self, close: Close) -> Turn {
        if self.conn.kept.phase != Phase::Closing {
            if self.conn.kept.phase == Phase::Working && !close.abort {
                self.shared.collect(self.conn.kept, self.conn.busy);
                #[cfg(feature = "tls")]
                self.conn.end_tls();
                self.flush();
            } else if self.conn.kept.phase == Phase::Connecting && !close.abort {
                // What an `on_connect` that failed has written to say so (L-23).
                #[cfg(feature = "tls")]
                self.conn.end_tls();
                self.flush();
            }
            self.conn.busy.deadlines.close = self.shared.poll().close_stalled();
            self.conn.kept.flags.set(Flags::KEEPS);
        }
        // The flush may have found the connection broken.
        let close = self.shared.state.closing().unwrap_or(close);
        let waits = self.conn.busy.unsent() > 0 && !close.abort;
        if waits && matches!(self.conn.kept.phase, Phase::Connecting | Phase::Working | Phase::Closing) {
            self.conn.kept.phase = Phase::Closing;
            let now = self.shared.poll().clock.look();
            let deadlines = &mut self.conn.busy.deadlines;
            deadlines.fired(now);
            if !Deadlines::due(&mut deadlines.close, now) {
                deadlines.user = NEVER;
                self.conn.arm();
                return Turn::Closing(close);
            }
        }
        self.clean_up(close);
        Turn::Closed
    }

    /// The end, once: descriptor, callbacks, buffers, slot.
    fn clean_up(&mut self, close: Close) {
        let shared = self.shared;
        let (kept, busy) = (&mut *self.conn.kept, &mut *self.conn.busy);
        let connected = kept.flags.has(Flags::CONNECTED);
        kept.phase = Phase::Closed;
        let asked = || kept.transport.as_ref().map_or(busy.details.local, |transport| transport.local_addr());
        let local = shared.service.local.or_else(asked);
        let unsent = busy.dropped + busy.unsent() + shared.uncollected();
        let cut_off = unsent > 0 || close.closer == Closer::Panic;
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
        let info = Arc::new(Closed {
            reason: busy.details.reason(close.closer),
            id: shared.id,
            peer: shared.peer_addr(),
            local,
            bytes_in: shared.bytes_in.load(Relaxed),
            bytes_out: shared.bytes_out.load(Relaxed),
            unsent: unsent as u64,
            connected,
            lifetime: shared.poll().clock.since(shared.opened),
            quiet: shared.quiet(),
        });
        // A lent node stays, so the thread keeps its read buffer.
        busy.input.clear();
        busy.drop_unsent();
        busy.rest();
        let contained = |name, callback: &mut dyn FnMut()| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
                report_panic(shared, name, panic.as_ref());
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
        let (callbacks, waiters) = shared.end_outbox(&info);
        for callback in callbacks.into_iter().rev() {
            let mut callback = Some(callback);
            contained("close callback", &mut || {
                if let Some(callback) = callback.take() {
                    callback(&info);
                }
            });
        }
        if let Some(context) = &mut context {
            contained("on_close", &mut || handler.close(context, &info));
        }
        contained("drop of the context", &mut || drop(context.take()));
        shared.state.finish();
        waiters.iter().for_each(crate::Handle::wake);
        shared.service.leave(kept.token());
    }
}
