//! The owner's half of a connection: what it keeps while it is idle, and the phase in which an owner meets it.
//!
//! ```text
//!   accepted: entered (has its slot) ──▶ first turn ──▶ registered ──▶ events bring turns
//!   dialed:   entered ──▶ registered ──▶ connected ──▶ first turn
//! ```
//! A connection has its slot in the poll's table before anything else happens to it, so that the end of the event loop
//! finds it. The selector is told of it when there is something to wait for: after the first turn of an accepted
//! connection, or within, when its handler waits.

use std::io;

use mio::Interest;
use mio::unix::SourceFd;

use crate::busy::Busy;
use crate::clock::Clock;
use crate::flags::Flags;
use crate::handler::Context;
use crate::poll::PollShared;
use crate::state::News;
use crate::token::Token;
use crate::transport::Transport;
use crate::watch::NEVER;

/// What only the owner touches.
pub(crate) struct Core {
    pub(crate) kept: Kept,
    /// `None` after clean-up.
    pub(crate) context: Option<Context>,
    /// What a turn left. During a turn it is in the owner's hands.
    pub(crate) busy: Option<Box<Busy>>,
}

/// What an idle connection keeps beside its context.
pub(crate) struct Kept {
    pub(crate) transport: Option<Transport>,
    pub(crate) token: Token,
    pub(crate) flags: Flags,
    pub(crate) phase: Phase,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Box<crate::tls::Engine>>,
}

/// What the selector is asked of every connection. Urgent data is dropped, and what stands behind it must still be read.
const READS: Interest = Interest::READABLE.add(Interest::PRIORITY);

impl Kept {
    /// Takes note of what the selector has told about reading.
    pub(crate) fn note(&mut self, news: News) {
        if news.has(News::READABLE.with(News::HUP)) {
            self.flags.set(Flags::READABLE);
        }
        if news.has(News::HUP) {
            self.flags.set(Flags::HUP);
        }
        if news.has(News::URGENT) {
            self.flags.set(Flags::MARKED);
        }
    }

    /// Whether the other end of the TLS is about to send what nobody asked for.
    pub(crate) fn awaits_tickets(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().is_some_and(|engine| engine.awaits_tickets());
        #[cfg(not(feature = "tls"))]
        false
    }

    pub(crate) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The socket is connected. What comes before `on_connect` has a limit.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "nothing comes before it"))]
    pub(crate) fn connected(&mut self, clock: &Clock) -> u64 {
        self.phase = Phase::Connecting;
        #[cfg(feature = "tls")]
        if let Some(engine) = &self.tls {
            self.phase = Phase::Handshaking;
            return clock.at(crate::timer::later(engine.handshake_timeout));
        }
        NEVER
    }

    pub(crate) fn token(&self) -> Option<Token> {
        (self.token != Token::NONE).then_some(self.token)
    }

    /// Tells the selector of the socket, unless it knows; `writes` when there is output, or a verdict, to wait for.
    pub(crate) fn register(&mut self, poll: &PollShared, writes: bool) -> io::Result<()> {
        let Some(transport) = self.transport.as_ref().filter(|_| !self.flags.has(Flags::REGISTERED)) else {
            return Ok(());
        };
        let (fd, token) = (transport.fd(), self.token.to_mio());
        let interest = if writes { READS | Interest::WRITABLE } else { READS };
        poll.registry(|registry| registry.register(&mut SourceFd(&fd), token, interest))?;
        self.flags.set(Flags::REGISTERED);
        self.flags.put(Flags::INTEREST_WRITE, writes);
        Ok(())
    }

    /// The selector tells from here on when the kernel takes bytes; a socket that it does not know yet is registered for
    /// that when it is.
    pub(crate) fn want_write(&mut self, poll: &PollShared) -> io::Result<()> {
        let joins = self.flags.only(Flags::REGISTERED.with(Flags::INTEREST_WRITE)) == Flags::REGISTERED;
        if let Some(transport) = self.transport.as_ref().filter(|_| joins) {
            let (fd, token) = (transport.fd(), self.token.to_mio());
            let interest = READS | Interest::WRITABLE;
            poll.registry(|registry| registry.reregister(&mut SourceFd(&fd), token, interest))?;
            self.flags.set(Flags::INTEREST_WRITE);
        }
        Ok(())
    }

    /// The selector forgets the socket. Closing it does the same, unless somebody else has it too, as where it was before.
    pub(crate) fn deregister(&mut self, poll: &PollShared) -> io::Result<()> {
        match &self.transport {
            Some(transport) if self.flags.take(Flags::REGISTERED) => {
                let fd = transport.fd();
                poll.registry(|registry| registry.deregister(&mut SourceFd(&fd)))
            }
            _ => Ok(()),
        }
    }
}

impl Core {
    /// What only a busy connection has, outside a turn. It stays.
    pub(crate) fn busy(&mut self) -> &mut Busy {
        self.kept.flags.set(Flags::KEEPS);
        self.busy.get_or_insert_default()
    }
}

/// The phases in which an owner meets a connection; creation and preparation come before there is an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A dial waits for the kernel's verdict.
    Dialing,
    /// A dial has gone on to its next address, whose socket is not registered yet.
    Redialing,
    /// TLS is being agreed upon.
    #[cfg(feature = "tls")]
    Handshaking,
    /// `on_connect` has not run.
    Connecting,
    Working,
    /// The close was seen; the output that is left is being sent.
    Closing,
    /// All was sent and our stream has ended; what the peer is still sending is read and dropped.
    Lingering,
    Closed,
}

impl Phase {
    /// Whether the connection does not stand yet.
    pub(crate) fn is_early(self) -> bool {
        #[cfg(feature = "tls")]
        if self == Phase::Handshaking {
            return true;
        }
        matches!(self, Phase::Dialing | Phase::Redialing)
    }

    /// Whether read, write-stall and idle limits run: while the handler's callbacks may.
    pub(crate) fn has_limits(self) -> bool {
        matches!(self, Phase::Connecting | Phase::Working)
    }
}
