//! What a worker thread knows of itself: which poll it leads, and whether the lead lies in the slot while a callback runs.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::busy::Scratch;
use crate::poll::{self, PollShared};
use crate::pool::{Work, contain};

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
    /// The poll that this thread leads.
    static LEADING: RefCell<Option<Arc<PollShared>>> = const { RefCell::new(None) };
    /// The lead lies in the slot and nobody has been told.
    static LENT: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread belongs to an event loop from here on.
pub(crate) fn enter() {
    IS_WORKER.set(true);
}

/// Leads `poll`, if its lead is still to be had.
pub(crate) fn lead(poll: &Arc<PollShared>, scratch: &mut Scratch) {
    // Before the look into the slot: who blocks after it asks again.
    poll.lead_wanted.store(false, Ordering::SeqCst);
    if let Some(lead) = poll.take_lead() {
        LEADING.set(Some(poll.clone()));
        poll::lead(poll, lead, scratch);
        LEADING.set(None);
    }
}

/// Whether the calling thread belongs to an event loop.
pub(crate) fn is_worker() -> bool {
    IS_WORKER.get()
}

/// Runs a callback while the lead lies in the slot.
pub(crate) fn lent(run: impl FnOnce()) {
    LENT.set(true);
    contain(run);
    LENT.set(false);
}

/// Announces that `run` is going to block, so that another worker takes over the poll meanwhile: no other
/// connection waits for it. Outside a handler it just runs.
///
/// # Examples
/// ```
/// let answer = poller::blocking(|| std::fs::read("/dev/null"));
/// assert_eq!(answer?, b"");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn blocking<T>(run: impl FnOnce() -> T) -> T {
    if LENT.replace(false) {
        LEADING.with_borrow(|leading| {
            if let Some(poll) = leading
                && !poll.lead_wanted.swap(true, Ordering::SeqCst)
                && poll.workers.submit(Work::Lead(poll.clone())).is_err()
            {
                log::debug!(event = "stop"; "a handler blocks while its event loop ends");
            }
        });
    }
    run()
}
