//! How a listener accepts, and where its connections go.

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;

use crate::limits;
use crate::service::Service;

/// Which poll a new connection goes to. It stays there.
///
/// A dialed or adopted connection goes to the polls in turn, a dialed one also to that of another connection
/// ([`dial_near`](crate::Remote::dial_near)), which saves both a thread's wake-up when they talk to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// To each in turn. Even when connections live about equally long, and the cheapest.
    #[default]
    RoundRobin,
    /// To any. For connections that come in a rhythm which a turn would favour.
    Random,
    /// To the poll that has the fewest, accepted and dialed together. For connections that live long and unequally.
    LeastConnections,
    /// To the poll on which the listener lives: no connection crosses threads when it begins. For one listener per poll
    /// on a shared port ([`bind_shared`](crate::bind_shared)).
    Own,
}

/// How a listener accepts; see [`serve_with`](crate::Remote::serve_with).
///
/// # Examples
/// ```
/// use poller::{ListenOptions, Placement};
///
/// let options = ListenOptions::new().placement(Placement::LeastConnections).connections_max(10_000);
/// # drop(options);
/// ```
#[derive(Clone, Debug)]
pub struct ListenOptions {
    pub(crate) placement: Placement,
    pub(crate) accept_turn_max: usize,
    pub(crate) connections_max: Option<usize>,
    pub(crate) backlog: Option<u32>,
    pub(crate) deferred: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            placement: Placement::default(),
            accept_turn_max: limits::ACCEPT_TURN_MAX,
            connections_max: None,
            backlog: None,
            deferred: false,
        }
    }
}

impl ListenOptions {
    /// The defaults.
    pub fn new() -> ListenOptions {
        ListenOptions::default()
    }

    /// Where connections go.
    pub fn placement(mut self, placement: Placement) -> ListenOptions {
        self.placement = placement;
        self
    }

    /// Connections accepted in a turn before the other operators of the poll get theirs
    /// ([`ACCEPT_TURN_MAX`](limits::ACCEPT_TURN_MAX) by default).
    pub fn accept_turn_max(mut self, connections: usize) -> ListenOptions {
        self.accept_turn_max = connections;
        self
    }

    /// Connections of this listener that live at a time. More wait in the kernel's queue until one ends.
    pub fn connections_max(mut self, connections: usize) -> ListenOptions {
        self.connections_max = Some(connections);
        self
    }

    /// Length of the kernel's queue, which its `somaxconn` cuts. By default
    /// [`LISTEN_BACKLOG_MAX`](limits::LISTEN_BACKLOG_MAX), and for a descriptor that was passed on the length that it has.
    pub fn backlog(mut self, connections: u32) -> ListenOptions {
        self.backlog = Some(connections);
        self
    }

    /// For TCP protocols in which the user speaks first: the kernel hands a connection over when its first bytes have
    /// come, or after about a second without any. It is then read, answered and perhaps closed without a wait between.
    ///
    /// A user who connects and says nothing is accepted a second late, so `on_connect` runs late for it; do not use
    /// it where the server greets.
    pub fn deferred(mut self, on: bool) -> ListenOptions {
        self.deferred = on;
        self
    }

    /// # Errors
    /// For zeros, with what to do instead.
    pub(crate) fn check(&self) -> io::Result<()> {
        positive(
            self.accept_turn_max,
            "accept_turn_max(0) accepts nothing: leave it out, or close the listener",
        )?;
        positive(
            self.connections_max.unwrap_or(usize::MAX),
            "connections_max(0) serves nobody: leave it out, or close the listener",
        )?;
        positive(
            self.backlog.map_or(1, |backlog| backlog as usize),
            "backlog(0) is not what the kernel does: say 1 for the shortest queue",
        )
    }
}

/// # Errors
/// `InvalidInput` with `instead` for a zero.
pub(crate) fn positive(number: usize, instead: &str) -> io::Result<()> {
    match number {
        0 => Err(io::Error::new(io::ErrorKind::InvalidInput, instead)),
        _ => Ok(()),
    }
}

/// A placement at work: a listener's services, beginning with that on its own poll.
pub(crate) struct Places {
    placement: Placement,
    services: Vec<Arc<Service>>,
    next: AtomicUsize,
    random: RandomState,
}

impl Places {
    /// # Panics
    /// Without any.
    pub(crate) fn new(placement: Placement, services: Vec<Arc<Service>>) -> Places {
        assert!(!services.is_empty(), "an event loop has a poll");
        Places { placement, services, next: AtomicUsize::new(0), random: RandomState::new() }
    }

    /// That on the listener's own poll.
    pub(crate) fn own(&self) -> &Arc<Service> {
        &self.services[0]
    }

    /// That of the next connection.
    pub(crate) fn pick(&self) -> &Arc<Service> {
        let count = self.services.len();
        if count == 1 || self.placement == Placement::Own {
            return self.own();
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match self.placement {
            Placement::Own => self.own(),
            Placement::RoundRobin => &self.services[turn % count],
            Placement::Random => &self.services[self.random.hash_one(turn) as usize % count],
            // In turn among equals.
            Placement::LeastConnections => {
                let in_turn = (turn..turn.saturating_add(count)).map(|turn| &self.services[turn % count]);
                in_turn.min_by_key(|service| service.poll.connections()).unwrap_or(self.own())
            }
        }
    }
}
