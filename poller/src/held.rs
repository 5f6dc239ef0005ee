//! A socket that is no connection, with what goes with it: a listener's, or one for datagrams.
//!
//! ```text
//!   given ──▶ registered ──▶ released by whoever closes it ──▶ the slot is given back by the owner
//! ```
//! It is closed under the lock that it lies in: whoever finds it gone may rely on its port being free.

use std::io;
use std::os::fd::AsRawFd;

use mio::Interest;
use mio::unix::SourceFd;

use crate::poll::PollShared;
use crate::socket::Registration;
use crate::token::Token;

/// The socket, until it is released, and its slot, once it has one.
pub(crate) struct Held<S> {
    /// With the proof that the event loop has it once.
    socket: Option<(S, Registration)>,
    token: Option<Token>,
}

impl<S: AsRawFd> Held<S> {
    pub(crate) fn new(socket: S, registration: Registration) -> Held<S> {
        Held { socket: Some((socket, registration)), token: None }
    }

    /// `None` when it has been released.
    pub(crate) fn socket(&self) -> Option<&S> {
        self.socket.as_ref().map(|(socket, _)| socket)
    }

    /// Tells the selector of it, in the slot that it has from now on.
    pub(crate) fn register(&mut self, poll: &PollShared, token: Token) -> io::Result<()> {
        self.token = Some(token);
        let Some(socket) = self.socket() else { return Ok(()) };
        let fd = socket.as_raw_fd();
        poll.registry(|registry| registry.register(&mut SourceFd(&fd), token.to_mio(), Interest::READABLE))
    }

    /// Closes the socket, unless that was done.
    pub(crate) fn release(&mut self, poll: &PollShared) {
        if let Some((socket, _registration)) = self.socket.take()
            && self.token.is_some()
        {
            poll.forget(&socket);
        }
    }

    /// The slot, to be given back.
    pub(crate) fn take_token(&mut self) -> Option<Token> {
        self.token.take()
    }
}
