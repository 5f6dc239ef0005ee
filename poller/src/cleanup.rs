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
use std::time::{Duration, Instant};

use linkbuffer::LinkBuffer;

use crate::close::Closed;
use crate::connection::Deadlines;
use crate::handle::{Core, Phase, Shared};
use crate::operator::{Turn, report_panic};
use crate::state::{Close, Closer};
use crate::timer;

impl Core {
    /// A close was asked for: waits for unsent output, or cleans up.
    pub(crate) fn close(&mut self, shared: &Arc<Shared>, close: Close) -> Turn {
        if self.phase != Phase::Closing {
            if self.phase == Phase::Working && !close.abort {
                shared.collect(&mut self.conn);
                self.flush(shared);
            }
            self.conn.deadlines.close = Some(timer::later(shared.poll.close_stall));
        }
        // The flush may have found the connection broken.
        let close = shared.state.closing().unwrap_or(close);
        let waits = !self.conn.output.is_empty() && !close.abort;
        if waits && matches!(self.phase, Phase::Working | Phase::Closing) {
            self.phase = Phase::Closing;
            let now = Instant::now();
            self.conn.deadlines.fired(now);
            if !Deadlines::due(&mut self.conn.deadlines.close, now) {
                self.conn.deadlines.user = None;
                self.arm(shared);
                return Turn::Closing(close);
            }
        }
        self.clean_up(shared, close);
        Turn::Closed
    }

    /// The end, once: descriptor, callbacks, buffers, slot.
    fn clean_up(&mut self, shared: &Arc<Shared>, close: Close) {
        let connected = matches!(self.phase, Phase::Working | Phase::Closing);
        self.phase = Phase::Closed;
        let local = self.conn.local_addr();
        let unsent = self.conn.dropped + self.conn.output.len() + shared.outbox.lock().bytes.len();
        let cut_off = unsent > 0 || close.closer == Closer::Panic;
        if let Some(socket) = self.conn.socket.take()
            && (cut_off || (close.abort && matches!(close.closer, Closer::User | Closer::Shutdown)))
        {
            // The peer must not take for whole what was cut off. Best effort: without it the peer sees an ordinary end.
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                log::debug!(event = "abort", conn = shared.id; "no reset: {error}");
            }
        }
        if let Some(armed) = self.conn.deadlines.armed.take() {
            shared.poll.disarm(armed);
        }
        let info = Arc::new(Closed {
            reason: self.details.reason(close.closer),
            id: shared.id,
            peer: shared.peer,
            local,
            bytes_in: shared.bytes_in.load(Relaxed),
            bytes_out: shared.bytes_out.load(Relaxed),
            unsent: unsent as u64,
            connected,
            lifetime: self.conn.opened.elapsed(),
        });
        self.conn.input = LinkBuffer::new();
        self.conn.output = LinkBuffer::new();
        let contained = |callback: &mut dyn FnMut()| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
                report_panic(shared, panic.as_ref());
            }
        };
        let mut session = self.session.take();
        if connected
            && matches!(close.closer, Closer::Peer | Closer::Error)
            && let Some(session) = &mut session
        {
            contained(&mut || session.disconnect(&info));
        }
        let (callbacks, waiters) = {
            let mut outbox = shared.outbox.lock();
            outbox.closed = Some(info.clone());
            outbox.bytes = LinkBuffer::new();
            (std::mem::take(&mut outbox.callbacks), std::mem::take(&mut outbox.waiters))
        };
        for callback in callbacks.into_iter().rev() {
            let mut callback = Some(callback);
            contained(&mut || {
                if let Some(callback) = callback.take() {
                    callback(&info);
                }
            });
        }
        if let Some(session) = &mut session {
            contained(&mut || session.close(&info));
        }
        contained(&mut || drop(session.take()));
        shared.state.finish();
        waiters.iter().for_each(crate::Handle::wake);
        shared.poll.retire(self.conn.token.take());
    }
}
