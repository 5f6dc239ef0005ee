//! What a worker thread knows of itself: which poll it leads, and whether the lead lies in the slot while a callback runs.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::busy::Scratch;
use crate::handover::{Call, Reclaim, Run};
use crate::poll::{self, PollShared};
use crate::pool::{Pool, Work, contain};
use crate::sync::{self, atomic::Ordering};
#[cfg(any(poller_loom, poller_shuttle))]
use crate::sync::{LocalCell, LocalRefCell};

sync::thread_local! {
    /// The pool that this thread belongs to, by its address; zero outside of any.
    static POOL: Cell<usize> = const { Cell::new(0) };
    /// The number that the system gave this thread, once it was asked for.
    static THREAD: Cell<u32> = const { Cell::new(0) };
    /// The poll that this thread leads.
    static LEADING: RefCell<Option<Arc<PollShared>>> = const { RefCell::new(None) };
    /// The callback for whose length the lead lies in the slot, unless it has announced that it will block.
    static LENT: Cell<Run> = const { Cell::new(Run::NONE) };
}

/// The calling thread belongs to `pool` from here on, to its end.
pub(crate) fn enter(pool: &Arc<Pool>) {
    POOL.set(Arc::as_ptr(pool).addr());
}

/// Leads `poll`, if its lead is still to be had.
pub(crate) fn lead(poll: &Arc<PollShared>, scratch: &mut Scratch) {
    if let Some(lead) = poll.lead.stand_in() {
        poll.leader.store(thread_id(), Ordering::Relaxed);
        // The first leader takes the lead from nobody.
        if poll.lead.runs() > 0 {
            // The monitor starts no threads, so one stands by before it is needed.
            poll.workers.ensure_standby();
            poll.insight.takeover();
        }
        LEADING.set(Some(poll.clone()));
        let mut held = Some(lead);
        while let Some(lead) = held.take() {
            contain(|| poll::lead(poll, lead, scratch));
            // Whoever leads now does what was left, also by work that a panic has ended.
            // A poll that has ended drops them, and with them what is the user's.
            scratch.jobs.drain(..).for_each(|job| contain(|| poll.push(job)));
            // After a panic in a callback the lead still lies where it was put, unless another leads.
            let number = LENT.replace(Run::NONE);
            if number != Run::NONE
                && let Reclaim::Kept(lead) = poll.lead.reclaim(number)
            {
                held = Some(lead);
            }
        }
        LEADING.set(None);
    }
}

/// The number that the system gave the calling thread; zero where it is not to be had.
pub(crate) fn thread_id() -> u32 {
    #[cfg(target_os = "linux")]
    if THREAD.get() == 0 {
        THREAD.set(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
    }
    THREAD.get()
}

/// Whether the calling thread belongs to `pool`.
pub(crate) fn is_in(pool: &Arc<Pool>) -> bool {
    POOL.get() == Arc::as_ptr(pool).addr()
}

/// Runs a callback while the lead lies in the slot. A panic ends the leading, which then begins again.
#[inline]
pub(crate) fn lent(number: Run, run: impl FnOnce()) {
    LENT.set(number);
    run();
    LENT.set(Run::NONE);
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
    let number = LENT.replace(Run::NONE);
    if number != Run::NONE {
        LEADING.with_borrow(|leading| {
            if let Some(poll) = leading
                && poll.lead.announce(number) == Call::Ask
                && poll.workers.submit(Work::Lead(poll.clone())).is_err()
            {
                log::debug!(event = "stop"; "a handler blocks while its event loop ends");
            }
        });
    }
    run()
}
