//! Datagram sockets: the same ownership as connections, without a life cycle.
//!
//! * One thread at a time receives, as the owner, at most [`DATAGRAMS_TURN_MAX`](crate::limits::DATAGRAMS_TURN_MAX)
//!   datagrams in a turn. Any thread sends, at once and without owning anything; the kernel keeps datagrams whole.
//! * An error that the network reports, such as ECONNREFUSED for a port on which nobody listens, is told to
//!   `on_error` or to whoever sends next, whichever comes first: the system tells it once. It reports such errors on
//!   connected sockets alone; one that talks to many peers is not told whose datagram was refused, and by default
//!   not even that one was.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::busy::Scratch;
use crate::handler::caught;
use crate::held::Held;
use crate::hint::Hint;
use crate::job::Job;
use crate::limits;
use crate::poll::PollShared;
use crate::socket::Registration;
use crate::state::{Closer, OnNotify, OnRelease, State};
use crate::sync::RwLock;
use crate::token::Token;

/// Takes what arrives at a datagram socket. Calls for one socket never overlap.
pub trait DatagramHandler: Send + Sync + 'static {
    /// A datagram came; `data` is all of it. A panic is one line in the log and costs this datagram alone: the socket stays
    /// open, or whoever may send to it could end the service.
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]);

    /// The system reports an error on the socket, such as a port that nobody listens on. The socket stays open.
    fn on_error(&self, _socket: &Datagrams, _error: &io::Error) {}
}

pub(crate) struct UdpShared {
    pub(crate) state: State,
    pub(crate) local_addr: SocketAddr,
    peer: Option<SocketAddr>,
    poll: Arc<PollShared>,
    pub(crate) hint: Hint,
    handler: Box<dyn DatagramHandler>,
    /// Whoever closes it releases the socket; the slot is the owner's part. Sending takes the lock shared, so any thread may
    /// send.
    socket: RwLock<Held<UdpSocket>>,
}

impl UdpShared {
    pub(crate) fn new(
        socket: UdpSocket,
        local_addr: SocketAddr,
        registration: Registration,
        poll: Arc<PollShared>,
        handler: Box<dyn DatagramHandler>,
    ) -> io::Result<Arc<UdpShared>> {
        socket.set_nonblocking(true)?;
        let peer = match socket.peer_addr() {
            Ok(peer) => Some(peer),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => return Err(error),
        };
        let socket = RwLock::new(Held::new(socket, registration));
        let (state, hint) = (State::new(), Hint::default());
        Ok(Arc::new(UdpShared { state, local_addr, peer, poll, hint, handler, socket }))
    }

    pub(crate) fn register(&self, token: Token) -> io::Result<()> {
        self.socket.write().register(&self.poll, token)
    }

    /// The port is free when this returns; the owner clears up the rest.
    pub(crate) fn close(self: &Arc<UdpShared>) {
        let notify = self.state.close(Closer::User, false);
        // After the state, so that whoever misses the socket finds why.
        self.release();
        if let OnNotify::Own = notify {
            self.poll.push(Job::RunUdp(self.clone()));
        }
    }

    /// Receives as the owner, until the socket is drained or others should have their turn.
    pub(crate) fn run(self: &Arc<UdpShared>, scratch: &mut Scratch) {
        self.state.take();
        let handle = Datagrams(self.clone());
        for _ in 0..limits::DATAGRAMS_TURN_MAX {
            if self.state.closing().is_some() {
                self.clean_up();
                return;
            }
            let buffer = scratch.datagram();
            let received = self.socket.read().socket().map(|socket| socket.recv_from(buffer));
            let Some(received) = received else { return self.clean_up() };
            let call = || match &received {
                Ok((n, from)) => self.handler.on_datagram(&handle, *from, &buffer[..*n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.handler.on_error(&handle, error),
            };
            if let Err(text) = caught(call) {
                log::error!(event = "panic", addr:% = self.local_addr; "a datagram handler panicked: {text}");
            }
            if received.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                match self.state.release() {
                    OnRelease::Idle => return,
                    OnRelease::Again => {
                        self.state.take();
                    }
                }
            }
        }
        self.poll.push(Job::RunUdp(self.clone()));
    }

    fn release(&self) {
        self.socket.write().release(&self.poll);
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
        let token = self.socket.write().take_token();
        if let Some(token) = token {
            self.poll.push(Job::Retire(token));
        }
    }
}

/// A datagram socket that was given to an event loop: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Datagrams(pub(crate) Arc<UdpShared>);

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addr, peer) = (self.0.local_addr, self.0.peer);
        f.debug_struct("Datagrams").field("addr", &addr).field("peer", &peer).finish_non_exhaustive()
    }
}

impl Datagrams {
    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// The one peer of a connected socket: only its datagrams arrive.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// Sends one datagram from the calling thread, at once.
    ///
    /// # Errors
    /// `WouldBlock` when the system's queue is full (datagrams may be lost; nothing waits), `NotConnected` when
    /// the socket is closed, and whatever the system says, also about an earlier datagram.
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        self.with(|socket| socket.send_to(data, to))
    }

    /// As [`send_to`](Datagrams::send_to), to the peer of a connected socket.
    ///
    /// # Errors
    /// As [`send_to`](Datagrams::send_to); an errno of its own (`EDESTADDRREQ`) when the socket is not connected.
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        self.with(|socket| socket.send(data))
    }

    fn with(&self, send: impl FnOnce(&UdpSocket) -> io::Result<usize>) -> io::Result<()> {
        match self.0.socket.read().socket() {
            Some(socket) => send(socket).map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the socket and frees its port; dropping this does not. The handler is not called any more once this has taken effect.
    pub fn close(&self) {
        self.0.close();
    }
}
