//! Listeners: accept, prepare, and hand the connection to a poll.
//!
//! A listener is an operator with the same ownership word as a connection, so two workers never accept from it at
//! once, and one that stops early queues itself again: the selector tells of a full backlog only once.

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use mio::{Interest, Registry};
use socket2::Socket;

use crate::handle::{Phase, Service, Shared};
use crate::handler::{Prepare, prepare};
use crate::job::Job;
use crate::limits;
use crate::poll::PollShared;
use crate::state::{Closer, OnNotify, OnRelease, State};
use crate::timer::Due;
use crate::token::Token;

/// A listener as every thread sees it.
pub(crate) struct ListenerShared {
    pub(crate) state: State,
    pub(crate) local_addr: SocketAddr,
    poll: Arc<PollShared>,
    /// Where accepted connections go, in turn, and who handles them: the same everywhere.
    services: Vec<Arc<Service>>,
    next: AtomicUsize,
    /// The socket, which whoever closes it takes out, and the token, which is the owner's part.
    socket: Mutex<(Option<mio::net::TcpListener>, Option<Token>)>,
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
    pub(crate) fn new(
        listener: std::net::TcpListener,
        services: Vec<Arc<Service>>,
    ) -> io::Result<Arc<ListenerShared>> {
        listener.set_nonblocking(true)?;
        let socket = Socket::from(listener);
        // Accepted sockets inherit it, which saves a call for each.
        socket.set_tcp_nodelay(true)?;
        // The standard library listens with a short queue; listening again only changes its length.
        socket.listen(limits::LISTEN_BACKLOG_MAX)?;
        let listener = std::net::TcpListener::from(socket);
        Ok(Arc::new(ListenerShared {
            state: State::new(),
            local_addr: listener.local_addr()?,
            poll: services.first().expect("an event loop has a poll").poll.clone(),
            services,
            next: AtomicUsize::new(0),
            socket: Mutex::new((Some(mio::net::TcpListener::from_std(listener)), None)),
            rest: Mutex::new(Rest::default()),
        }))
    }

    pub(crate) fn poll(&self) -> &Arc<PollShared> {
        &self.poll
    }

    pub(crate) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let (socket, slot) = &mut *self.socket.lock();
        *slot = Some(token);
        socket.as_mut().map_or(Ok(()), |socket| registry.register(socket, token.to_mio(), Interest::READABLE))
    }

    /// The port is free when this returns; the owner clears up the rest.
    pub(crate) fn close(self: &Arc<ListenerShared>) {
        let notify = self.state.close(Closer::User, false);
        // After the state, so that whoever misses the socket finds why.
        drop(self.socket.lock().0.take());
        if let OnNotify::Own = notify {
            self.poll.push(Job::Accept(self.clone()));
        }
    }

    /// Accepts as the owner.
    pub(crate) fn run(self: &Arc<ListenerShared>) {
        // News is only ever "look again", which is what follows.
        self.state.take();
        for _ in 0..limits::ACCEPT_TURN_MAX {
            if self.state.closing().is_some() {
                self.clean_up();
                return;
            }
            match if self.rests() { Accepted::Drained } else { self.accept() } {
                Accepted::One => {}
                Accepted::Closed => return self.clean_up(),
                Accepted::Exhausted => {
                    let at = Instant::now() + Duration::from_millis(limits::ACCEPT_PAUSE_MS);
                    self.rest.lock().until = Some(at);
                    self.poll.arm(None, at, Due::Accept(Arc::downgrade(self)));
                }
                Accepted::Drained => match self.state.release() {
                    OnRelease::Idle => return,
                    OnRelease::Again => {
                        self.state.take();
                    }
                },
            }
        }
        self.poll.push(Job::Accept(self.clone()));
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
            log::warn!(event = "limit_hit", limit = limit, addr:% = self.local_addr;
                "accepting rests for {} ms at a time: {why}", limits::ACCEPT_PAUSE_MS);
        }
    }

    fn accept(&self) -> Accepted {
        let stream = match &self.socket.lock().0 {
            None => return Accepted::Closed,
            Some(socket) => socket.accept(),
        };
        match stream {
            Ok((stream, peer)) => self.welcome(Socket::from(std::net::TcpStream::from(stream)), peer),
            Err(error) => match error.raw_os_error() {
                _ if error.kind() == io::ErrorKind::WouldBlock => Accepted::Drained,
                // The peer left before it was accepted, or its network did, or a signal came: the next one may do.
                Some(
                    libc::ECONNABORTED
                    | libc::EINTR
                    | libc::EPERM
                    | libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::EOPNOTSUPP
                    | libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::ETIMEDOUT,
                ) => Accepted::One,
                // Out of descriptors or memory, or something that trying again at once does not mend.
                _ => {
                    self.warn("descriptors", &error.to_string());
                    Accepted::Exhausted
                }
            },
        }
    }

    fn welcome(&self, socket: Socket, peer: SocketAddr) -> Accepted {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let service = &self.services[turn % self.services.len()];
        let poll = &service.poll;
        let mut conn = Prepare { socket: &socket, peer: Some(peer), half_close: false };
        let Some(id) = poll.live.enter() else {
            let max = poll.live.connections_max;
            self.warn("connections", &format!("a connection was closed, there are {max} already"));
            return Accepted::Exhausted;
        };
        match prepare(&*service.callbacks, &mut conn) {
            Ok(context) => {
                let half_close = conn.half_close;
                let prepared = (socket, Some(peer), half_close);
                let shared = Shared::create(id, prepared, service.clone(), context, Phase::Connecting);
                poll.push(Job::Open(shared));
            }
            Err(reject) => {
                log::debug!(event = "refuse", peer:% = peer; "{}", reject.0);
                poll.live.leave();
            }
        }
        Accepted::One
    }

    /// Gives the socket back without a poll to tell.
    pub(crate) fn discard(&self) {
        self.socket.lock().0.take();
        self.state.finish();
    }

    fn clean_up(&self) {
        let (socket, token) = std::mem::take(&mut *self.socket.lock());
        drop(socket);
        self.state.finish();
        if let Some(token) = token {
            self.poll.push(Job::Retire(token));
        }
    }
}

/// A listener that was given to an event loop.
#[derive(Clone)]
pub struct Listener(pub(crate) Arc<ListenerShared>);

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Stops accepting and frees the port; accepted connections live on.
    pub fn close(&self) {
        self.0.close();
    }
}
