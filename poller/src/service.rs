//! What the connections of one handler on one poll have in common: one of these stands for it in each of them.

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use crate::dialer::Dialing;
use crate::handler::Callbacks;
use crate::hint::Hint;
use crate::listener::ListenerShared;
use crate::poll::PollShared;
use crate::socket::Registration;
use crate::sync::Mutex;

/// A handler, where it runs, and who counts its connections.
pub(crate) struct Service {
    pub(crate) poll: Arc<PollShared>,
    pub(crate) callbacks: Arc<dyn Callbacks>,
    /// Whether its callbacks were found to block.
    pub(crate) hint: Arc<Hint>,
    /// That of a listener whose connections are bounded.
    pub(crate) quota: Option<Arc<Quota>>,
    /// This end of all its connections, where that is known without asking the system each time.
    pub(crate) local: Option<SocketAddr>,
    /// That of a dial that began with several addresses.
    pub(crate) dialing: Option<Box<Dialing>>,
    /// That of a connection that was adopted; in it what is held for as long as its socket is here.
    pub(crate) adopted: Option<Mutex<Option<Registration>>>,
}

impl Service {
    /// Counts a new connection, and numbers it; `None` when the event loop has as many as it may.
    pub(crate) fn enter(&self) -> Option<u64> {
        let id = self.poll.enter()?;
        if let Some(quota) = &self.quota {
            quota.connections.fetch_add(1, Ordering::AcqRel);
        }
        Some(id)
    }

    /// The socket of a connection that was adopted is not here any more, and may come back.
    pub(crate) fn let_go(&self) {
        if let Some(adopted) = &self.adopted {
            // Bound first: its end takes another lock.
            let registration = adopted.lock().take();
            drop(registration);
        }
    }

    /// A connection has gone, with whatever it had.
    pub(crate) fn leave(&self) {
        self.let_go();
        if let Some(quota) = &self.quota {
            quota.leave();
        }
        self.poll.leave();
    }
}

/// A connection that is counted and does not exist yet. It is counted out again unless it comes to be, however that ends.
pub(crate) struct Entry<'a> {
    poll: &'a PollShared,
    pub(crate) id: u64,
}

impl<'a> Entry<'a> {
    /// # Errors
    /// When the event loop has as many connections as it may.
    pub(crate) fn new(poll: &'a PollShared) -> io::Result<Entry<'a>> {
        let text = || format!("there are {} connections already", poll.live.connections_max);
        let id = poll.enter().ok_or_else(|| io::Error::other(text()))?;
        Ok(Entry { poll, id })
    }

    /// It has come to be, and is counted out at its end.
    pub(crate) fn stay(self) {
        std::mem::forget(self);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.poll.leave();
    }
}

/// How many connections of one listener live, over all polls.
pub(crate) struct Quota {
    connections_max: usize,
    /// Invariant: connections <= connections_max, because only the listener's owner enters, and looks first.
    connections: AtomicUsize,
    listener: Weak<ListenerShared>,
}

impl Quota {
    pub(crate) fn new(connections_max: usize, listener: Weak<ListenerShared>) -> Quota {
        Quota { connections_max, connections: AtomicUsize::new(0), listener }
    }

    /// Whether all connections that there may be live. The listener is told when one ends.
    pub(crate) fn is_full(&self) -> bool {
        self.connections.load(Ordering::Acquire) >= self.connections_max
    }

    fn leave(&self) {
        // Who waits in the kernel's queue makes no event any more.
        if self.connections.fetch_sub(1, Ordering::AcqRel) == self.connections_max
            && let Some(listener) = self.listener.upgrade()
        {
            listener.look_again();
        }
    }
}
