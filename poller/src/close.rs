//! Why a connection ended, and what its last callbacks are told.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::state::Closer;

/// The one reason for which a connection was closed: that of the first closer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "ErrConnClosed")]
pub enum Reason {
    /// This side: [`Connection::close`](crate::Connection::close), [`Handle::close`](crate::Handle::close) or an abort.
    User,
    /// The peer ended its stream.
    Peer,
    /// The connection broke, or a dial failed; the errno is kept.
    Error(Fault),
    /// A limit passed.
    Timeout(Limit),
    /// The peer broke the TLS protocol, has no certificate that is accepted, or accepted none of ours. Only with the
    /// feature `tls`. A stream that was cut off is `Error` with [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    Tls(String),
    /// The event loop stopped.
    Shutdown,
    /// A handler returned this error.
    Handler(String),
    /// A handler panicked, or what the configuration of TLS calls.
    Panic,
    /// A handler took the descriptor: [`Connection::detach`](crate::Connection::detach).
    Detached,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::User => f.write_str("closed by this side"),
            Reason::Peer => f.write_str("closed by the peer"),
            Reason::Error(fault) => write!(f, "{fault}"),
            Reason::Tls(error) => write!(f, "TLS: {error}"),
            Reason::Timeout(limit) => write!(f, "timed out: {limit}"),
            Reason::Shutdown => f.write_str("the event loop stopped"),
            Reason::Handler(error) => write!(f, "the handler said: {error}"),
            Reason::Panic => f.write_str("a callback panicked"),
            Reason::Detached => f.write_str("handed over"),
        }
    }
}

/// A limit in time that a connection can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// A dial has not connected within its timeout.
    Connect,
    /// The TLS handshake has not ended: see `tls::Engine::with_handshake_timeout`.
    Handshake,
    /// A message that had begun did not go on: see [`Connection::set_read_timeout`](crate::Connection::set_read_timeout).
    Read,
    /// Output waited and not one byte of it left: see
    /// [`Connection::set_write_stall_timeout`](crate::Connection::set_write_stall_timeout).
    WriteStall,
    /// No byte moved either way: see [`Connection::set_idle_timeout`](crate::Connection::set_idle_timeout).
    Idle,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Connect => "not connected",
            Limit::Handshake => "the TLS handshake did not end",
            Limit::Read => "the message did not go on",
            Limit::WriteStall => "the peer takes nothing",
            Limit::Idle => "nothing moved",
        })
    }
}

/// An I/O error that can be cloned and compared: its kind, and the errno when the system gave one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The portable kind.
    pub kind: io::ErrorKind,
    /// The system's number, such as `ECONNREFUSED`.
    pub errno: Option<i32>,
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Fault {
        Fault { kind: error.kind(), errno: error.raw_os_error() }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        match fault.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => fault.kind.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

/// What close callbacks are given: everything about the connection but a way to read or write it.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Why it ended.
    pub reason: Reason,
    /// The connection's number, unique in the process.
    pub id: u64,
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// This end.
    pub local: Option<SocketAddr>,
    /// Bytes that were read from the kernel; with TLS these are records.
    pub bytes_in: u64,
    /// Bytes that the kernel took; with TLS these are records.
    pub bytes_out: u64,
    /// Bytes that were written by the handler or a handle and never left: an abort, a broken connection, a dial that
    /// came to nothing, or a close whose output did not move for too long. The peer sees a reset then.
    pub unsent: u64,
    /// Whether `on_connect` ran and said Ok.
    pub connected: bool,
    /// From creation to close.
    pub lifetime: Duration,
    /// From the last byte that was read or sent, or from creation, to close; to within about ten milliseconds.
    pub quiet: Duration,
}

/// What the owner learnt about an end before it is decided whose reason counts.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(crate) fault: Option<Fault>,
    pub(crate) handler: Option<String>,
    pub(crate) limit: Option<Limit>,
    /// The descriptor was handed over.
    pub(crate) detached: bool,
    /// This end's address, of a descriptor that was handed over.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) tls: Option<String>,
}

impl Details {
    pub(crate) fn is_empty(&self) -> bool {
        self.fault.is_none()
            && self.handler.is_none()
            && self.limit.is_none()
            && !self.detached
            && self.tls.is_none()
    }

    pub(crate) fn reason(&mut self, closer: Closer) -> Reason {
        match closer {
            // Whoever came first: the connection lives on elsewhere.
            _ if self.detached => Reason::Detached,
            Closer::User => Reason::User,
            Closer::Peer => Reason::Peer,
            Closer::Error if self.tls.is_some() => Reason::Tls(self.tls.take().unwrap_or_default()),
            Closer::Error => {
                Reason::Error(self.fault.take().unwrap_or(Fault { kind: io::ErrorKind::Other, errno: None }))
            }
            Closer::Timer => Reason::Timeout(self.limit.take().unwrap_or(Limit::Connect)),
            Closer::Shutdown => Reason::Shutdown,
            Closer::Handler => Reason::Handler(self.handler.take().unwrap_or_default()),
            Closer::Panic => Reason::Panic,
        }
    }
}
