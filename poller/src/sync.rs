//! Locks, atomics, threads and the wait in the kernel: those of the system, or those of a checker.
//!
//! ```text
//!   ordinary build      --cfg poller_loom         --cfg poller_shuttle
//!   parking_lot, std    loom: every interleaving  shuttle: a million random ones
//!                       of a small model          of the whole event loop
//! ```
//! In an ordinary build this is nothing but re-exports. A checker decides at each operation of these types which thread
//! goes on, so whatever threads share goes through here, and nothing that is shared may be hidden from it. What the
//! checkers do not see: `Arc` and `Weak`, the clock, and the pool of nodes of `linkbuffer`.

#[cfg(any(poller_loom, poller_shuttle))]
pub(crate) mod checked;

#[cfg(any(poller_shuttle, all(miri, not(poller_loom))))]
mod cell;

#[cfg(poller_shuttle)]
pub(crate) use cell::AtomicCell;
#[cfg(any(poller_loom, poller_shuttle))]
pub(crate) use checked::*;

#[cfg(not(any(poller_loom, poller_shuttle)))]
pub(crate) use self::system::*;

#[cfg(not(any(poller_loom, poller_shuttle)))]
mod system {
    use std::io;
    use std::time::Duration;

    #[cfg(miri)]
    pub(crate) use super::cell::AtomicCell;
    #[cfg(not(miri))]
    pub(crate) use crossbeam_utils::atomic::AtomicCell;
    pub(crate) use parking_lot::{Condvar, Mutex, RwLock};
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
    pub(crate) use std::thread::park_timeout;
    pub(crate) use std::thread_local;

    /// Waits for readiness.
    #[inline]
    pub(crate) fn select(
        poll: &mut mio::Poll,
        events: &mut mio::Events,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        poll.poll(events, timeout)
    }
}
