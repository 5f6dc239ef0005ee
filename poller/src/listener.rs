//! Listeners: accept, prepare, and hand the connection to a poll.
//!
//! A listener is an operator with the same ownership word as a connection, so two workers never accept from it at
//! once, and one that stops early queues itself again: the selector tells of a full backlog only once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::Socket;

use crate::busy::Scratch;
use crate::handle::Shared;
use crate::handler::{Callbacks, Prepare, prepare};
use crate::held::Held;
use crate::hint::Hint;
use crate::job::Job;
use crate::kept::Phase;
use crate::limits;
use crate::options::{ListenOptions, Places};
use crate::poll::PollShared;
use crate::service::{Quota, Service};
use crate::socket::{Address, Registration};
use crate::state::{Closer, News, OnNotify, OnRelease, State};
use crate::sync::Mutex;
use crate::tcp;
use crate::timer::Due;
use crate::token::Token;

/// A listener as every thread sees it.
pub(crate) struct ListenerShared {
    pub(crate) state: State,
    pub(crate) address: Address,
    places: Places,
    accept_turn_max: usize,
    /// `None` when only the event loop bounds its connections.
    quota: Option<Arc<Quota>>,
    /// Whoever closes it releases the socket; the slot is the owner's part.
    socket: Mutex<Held<Socket>>,
    /// The owner's part. While accepting rests one timer stands for it, whatever events come.
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    until: Option<Instant>,
    /// When it was last said that accepting rests.
    warned: Option<Instant>,
}

enum Accepted {
    One,
    Drained,
    /// Out of something; accepting rests for a while.
    Exhausted,
    Closed,
}

impl ListenerShared {
    /// `adopted`: the queue of the socket is not ours to choose. The listener lives on the first of `polls`.
    pub(crate) fn new(
        (socket, registration): (Socket, Registration),
        address: Address,
        adopted: bool,
        options: &ListenOptions,
        polls: Vec<Arc<PollShared>>,
        callbacks: Arc<dyn Callbacks>,
    ) -> io::Result<Arc<ListenerShared>> {
        socket.set_nonblocking(true)?;
        let ip = address.as_ip();
        match (ip, options.deferred) {
            (Some(_), true) => tcp::defer_accept(&socket)?,
            (Some(_), false) => {}
            (None, true) => {
                let text = "only TCP accepts deferred: leave it out for a Unix socket";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            (None, false) => {}
        }
        if ip.is_some() {
            // Accepted sockets inherit it, which saves calls for each.
            tcp::configure(&socket)?;
        }
        // The standard library listens with a short queue; listening again only changes its length.
        match options.backlog {
            Some(backlog) => socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?,
            None if adopted => {}
            None => socket.listen(limits::LISTEN_BACKLOG_MAX)?,
        }
        Ok(Arc::new_cyclic(|listener| {
            let quota = options.connections_max.map(|max| Arc::new(Quota::new(max, listener.clone())));
            let hint = Arc::<Hint>::default();
            let local = ip.filter(|addr| !addr.ip().is_unspecified());
            let service = |poll| {
                let (callbacks, hint, quota) = (callbacks.clone(), hint.clone(), quota.clone());
                Arc::new(Service { poll, callbacks, hint, quota, local, dialing: None, adopted: None })
            };
            let services = polls.into_iter().map(service).collect();
            ListenerShared {
                state: State::new(),
                address,
                places: Places::new(options.placement, services),
                accept_turn_max: options.accept_turn_max,
                quota,
                socket: Mutex::new(Held::new(socket, registration)),
                rest: Mutex::new(Rest::default()),
            }
        }))
    }

    pub(crate) fn poll(&self) -> &Arc<PollShared> {
        &self.places.own().poll
    }

    /// For `on_prepare` and the connections alike.
    pub(crate) fn hint(&self) -> &Hint {
        &self.places.own().hint
    }

    pub(crate) fn register(&self, token: Token) -> io::Result<()> {
        self.socket.lock().register(self.poll(), token)
    }

    /// The port is free when this returns; the owner clears up the rest.
    pub(crate) fn close(self: &Arc<ListenerShared>) {
        let notify = self.state.close(Closer::User, false);
        // After the state, so that whoever misses the socket finds why.
        self.release();
        if let OnNotify::Own = notify {
            self.poll().push(Job::Accept(self.clone()));
        }
    }

    /// Accepts as the owner. Connections that stay on this poll are left for the leader: it gives them their first turn
    /// when the listener is free again, so that a handler that blocks holds up no accepting.
    pub(crate) fn run(self: &Arc<ListenerShared>, scratch: &mut Scratch) {
        // News is only ever "look again", which is what follows.
        self.state.take();
        for _ in 0..self.accept_turn_max {
            if self.state.closing().is_some() {
                self.clean_up();
                return;
            }
            match if self.rests() || self.is_full() { Accepted::Drained } else { self.accept(scratch) } {
                Accepted::One => {}
                Accepted::Closed => return self.clean_up(),
                Accepted::Exhausted => {
                    let at = Instant::now() + Duration::from_millis(limits::ACCEPT_PAUSE_MS);
                    self.rest.lock().until = Some(at);
                    self.poll().arm(None, at, Due::Accept(Arc::downgrade(self)));
                }
                Accepted::Drained => match self.state.release() {
                    OnRelease::Idle => return,
                    OnRelease::Again => {
                        self.state.take();
                    }
                },
            }
        }
        self.poll().push(Job::Accept(self.clone()));
    }

    /// Whether accepting rests. Its timer is armed, so an event meanwhile may be forgotten.
    fn rests(&self) -> bool {
        let mut rest = self.rest.lock();
        rest.until = rest.until.filter(|until| *until > Instant::now());
        rest.until.is_some()
    }

    /// Says that accepting rests, but not each time.
    fn warn(&self, limit: &str, why: &str) {
        let mut rest = self.rest.lock();
        let silence = Duration::from_millis(limits::ACCEPT_WARN_MS);
        if rest.warned.is_none_or(|at| at.elapsed() >= silence) {
            rest.warned = Some(Instant::now());
            log::warn!(event = "limit_hit", limit = limit, addr:% = self.address;
                "accepting rests for {} ms at a time: {why}", limits::ACCEPT_PAUSE_MS);
        }
    }

    /// Whether it has all connections that it may have.
    fn is_full(&self) -> bool {
        self.quota.as_ref().is_some_and(|quota| quota.is_full())
    }

    /// There may be room again for whoever waits.
    pub(crate) fn look_again(self: &Arc<ListenerShared>) {
        if let OnNotify::Own = self.state.notify(News::READABLE) {
            self.poll().push(Job::Accept(self.clone()));
        }
    }

    fn accept(&self, scratch: &mut Scratch) -> Accepted {
        let accepted = match self.socket.lock().socket() {
            None => return Accepted::Closed,
            Some(socket) => acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC),
        };
        match accepted {
            Ok((socket, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                self.welcome(socket.into(), peer, scratch)
            }
            Err(Errno::AGAIN) => Accepted::Drained,
            // The peer left before it was accepted, or its network did, or a signal came: the next one may do.
            Err(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::TIMEDOUT,
            ) => Accepted::One,
            // Out of descriptors or memory, or something that trying again at once does not mend.
            Err(error) => {
                self.warn("descriptors", &io::Error::from(error).to_string());
                Accepted::Exhausted
            }
        }
    }

    fn welcome(&self, socket: Socket, peer: Option<SocketAddr>, scratch: &mut Scratch) -> Accepted {
        let service = self.places.pick();
        let mut conn = Prepare::new(&socket, peer);
        let Some(id) = service.enter() else {
            let max = service.poll.live.connections_max;
            self.warn("connections", &format!("a connection was closed, there are {max} already"));
            return Accepted::Exhausted;
        };
        match prepare(&*service.callbacks, id, &mut conn) {
            Ok(context) => {
                let wishes = conn.wishes;
                let prepared = (socket, peer, wishes);
                let shared = Shared::create(id, prepared, service.clone(), context, Phase::Connecting);
                match Arc::ptr_eq(&service.poll, self.poll()) {
                    true => scratch.jobs.push_back(Job::First(shared)),
                    false => service.poll.push(Job::First(shared)),
                }
            }
            Err(reject) => {
                let peer = peer.map_or("a Unix socket".into(), |peer| peer.to_string());
                log::debug!(event = "refuse", peer:% = peer; "{}", reject.0);
                service.leave();
            }
        }
        Accepted::One
    }

    fn release(&self) {
        self.socket.lock().release(self.poll());
    }

    /// Gives the socket back without a poll to tell.
    pub(crate) fn discard(&self) {
        self.release();
        self.state.finish();
    }

    fn clean_up(&self) {
        self.release();
        self.state.finish();
        // Bound first: the job is left with the lock off.
        let token = self.socket.lock().take_token();
        if let Some(token) = token {
            self.poll().push(Job::Retire(token));
        }
    }
}

/// A listener that was given to an event loop. Its address is of the kind that the listener was given as. Dropping it
/// does not close it.
#[derive(Clone)]
pub struct Listener<A = SocketAddr> {
    pub(crate) shared: Arc<ListenerShared>,
    pub(crate) addr: A,
}

impl<A: fmt::Debug> fmt::Debug for Listener<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl<A: Clone> Listener<A> {
    /// Where it listens: a [`SocketAddr`] for a `TcpListener`, the path for a `UnixListener`, and an
    /// [`Address`](crate::Address) for a descriptor that was passed on.
    pub fn local_addr(&self) -> A {
        self.addr.clone()
    }
}

impl<A> Listener<A> {
    /// Stops accepting and frees the port; accepted connections live on.
    pub fn close(&self) {
        self.shared.close();
    }
}
