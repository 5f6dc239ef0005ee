//! Datagram sockets: the same ownership as connections, without a life cycle.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::sync::RwLock;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use crate::busy::Scratch;
use crate::handler::panic_text;
use crate::job::Job;
use crate::limits;
use crate::poll::PollShared;
use crate::state::{Closer, OnNotify, OnRelease, State};
use crate::token::Token;

/// Takes what arrives at a datagram socket. Calls for one socket never overlap.
pub trait DatagramHandler: Send + Sync + 'static {
    /// A datagram came; `data` is all of it.
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]);

    /// The system reports an error on the socket, such as a port that nobody listens on. The socket stays open.
    fn on_error(&self, _socket: &Datagrams, _error: &io::Error) {}
}

pub(crate) struct UdpShared {
    pub(crate) state: State,
    pub(crate) local_addr: SocketAddr,
    poll: Arc<PollShared>,
    handler: Box<dyn DatagramHandler>,
    /// The socket, which whoever closes it takes out, and the token, which is the owner's part. Sending takes the lock
    /// shared, so any thread may send.
    socket: RwLock<(Option<UdpSocket>, Option<Token>)>,
}

impl UdpShared {
    pub(crate) fn new(
        socket: UdpSocket,
        poll: Arc<PollShared>,
        handler: Box<dyn DatagramHandler>,
    ) -> io::Result<Arc<UdpShared>> {
        socket.set_nonblocking(true)?;
        let local_addr = socket.local_addr()?;
        let socket = RwLock::new((Some(socket), None));
        Ok(Arc::new(UdpShared { state: State::new(), local_addr, poll, handler, socket }))
    }

    pub(crate) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let (socket, slot) = &mut *self.socket.write();
        *slot = Some(token);
        let register = |socket: &UdpSocket| {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token.to_mio(), Interest::READABLE)
        };
        socket.as_ref().map_or(Ok(()), register)
    }

    /// The port is free when this returns; the owner clears up the rest.
    pub(crate) fn close(self: &Arc<UdpShared>) {
        let notify = self.state.close(Closer::User, false);
        // After the state, so that whoever misses the socket finds why.
        drop(self.socket.write().0.take());
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
            let received = self.socket.read().0.as_ref().map(|socket| socket.recv_from(buffer));
            let Some(received) = received else { return self.clean_up() };
            let call = || match &received {
                Ok((n, from)) => self.handler.on_datagram(&handle, *from, &buffer[..*n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.handler.on_error(&handle, error),
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
                log::error!(event = "panic", addr:% = self.local_addr;
                    "a datagram handler panicked: {}", panic_text(panic.as_ref()));
                self.state.close_as_owner(Closer::Panic, true);
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

    /// Gives the socket back without a poll to tell.
    pub(crate) fn discard(&self) {
        self.socket.write().0.take();
        self.state.finish();
    }

    fn clean_up(&self) {
        let (socket, token) = std::mem::take(&mut *self.socket.write());
        drop(socket);
        self.state.finish();
        if let Some(token) = token {
            self.poll.push(Job::Retire(token));
        }
    }
}

/// A datagram socket that was given to an event loop: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Datagrams(pub(crate) Arc<UdpShared>);

impl Datagrams {
    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Sends one datagram from the calling thread, at once.
    ///
    /// # Errors
    /// `WouldBlock` when the system's queue is full (datagrams may be lost; nothing waits), `NotConnected` when
    /// the socket is closed, and whatever the system says.
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        match &self.0.socket.read().0 {
            Some(socket) => socket.send_to(data, to).map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the socket and frees its port. The handler is not called any more once this has taken effect.
    pub fn close(&self) {
        self.0.close();
    }
}
