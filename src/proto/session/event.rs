//! What a session tells the application, and the words for it.

use crate::proto::derive::Recipe;
use crate::proto::flow::Overrun;
use crate::proto::frame::{
    AuthErrCode, FrameError, GoAwayCode, Kind, Network, OpenRequest, Opened, PortError, PortRequest,
    RefuseCode, ResetCode,
};
use std::fmt;

/// A stream inside one session. Numbers are odd, grow, and are never used again in that session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happened. Every stream that appears in `Opened`, or was given by `open`, ends with exactly one `Closed`, and every
/// session with exactly one `Lost`, behind which only streams that outlive the session have `Closed`, and before it `Reset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Gateway, where it asked for that: the client has proved itself. Answer with `admit` or `turn_away`.
    Proved,
    /// Both sides have proved themselves; streams may be opened.
    Up,
    /// Client: derive the keys of the secret like this, which takes long, and hand them to `derived`.
    Derive(Recipe),
    /// The peer wants a stream to a target: answer with `accept` or `refuse`.
    Opened(StreamId, OpenRequest),
    /// The target answered.
    Accepted(StreamId, Opened),
    /// The target did not; `Closed` follows.
    Refused(StreamId, Refused),
    /// There are bytes, datagrams or the end to read. At most one is queued for a stream; read until nothing is left.
    Readable(StreamId),
    /// A write that fell short may go on.
    Writable(StreamId),
    /// The peer, which has sent its FIN, does not want what we send: what was queued is dropped and nothing more is taken. What it
    /// sent before can still be read.
    Stopped(StreamId, ResetCode),
    /// The peer broke the stream off; `Closed` follows.
    Reset(StreamId, ResetCode),
    /// The stream left the table.
    Closed(StreamId),
    /// The client asks for a port: answer with `answer_port`.
    PortRequested(PortRequest),
    /// The gateway opened the port.
    PortOpened {
        /// TCP or UDP.
        network: Network,
        /// The port as it was asked for.
        port: u16,
        /// The port that is open.
        actual: u16,
    },
    /// The gateway did not open the port.
    PortRefused {
        /// TCP or UDP.
        network: Network,
        /// The port as it was asked for.
        port: u16,
        /// Why.
        error: PortError,
    },
    /// The peer gave the port up.
    PortClosed {
        /// TCP or UDP.
        network: Network,
        /// The port as it was asked for.
        port: u16,
    },
    /// The peer wants no new streams; those that are open go on.
    Draining,
    /// The session is over.
    Lost(Lost),
}

/// What the client says of a target that was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub code: RefuseCode,
    /// The time that the name took.
    pub resolve_us: u32,
    /// The time that the connection took.
    pub connect_us: u32,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// We closed it.
    Closed(GoAwayCode),
    /// The peer closed it.
    PeerClosed(GoAwayCode, String),
    /// Something went wrong.
    Failed(Error),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Closed(code) => write!(f, "closed here: {code:?}"),
            Lost::PeerClosed(GoAwayCode::Stop, reason) if reason.is_empty() => {
                f.write_str("closed by the peer: it is stopping")
            }
            Lost::PeerClosed(code, reason) if reason.is_empty() => write!(f, "closed by the peer: {code:?}"),
            Lost::PeerClosed(code, reason) => write!(f, "closed by the peer: {code:?}: {reason}"),
            Lost::Failed(error) => error.fmt(f),
        }
    }
}

/// A numbered part of the protocol that the peer flooded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// PING and PONG.
    Pings,
    /// WINDOW with hardly any credit.
    Credits,
    /// PORT_OPEN.
    Ports,
    /// Frames that each make us answer.
    Answers,
    /// Frames that each make an event.
    Events,
}

/// Why a session is over. All but [`Error::Refused`], [`Error::HandshakeTimeout`] and [`Error::PeerLost`] say that the peer broke the
/// protocol or could not prove itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Bytes that are no frame.
    Frame(FrameError),
    /// A frame that may not come now, or not from this side.
    Unexpected(Kind),
    /// A frame for a stream that was never opened.
    UnknownStream(StreamId),
    /// OPEN with a number that is not the next one.
    StreamId {
        /// The number that came.
        id: StreamId,
        /// The number that was due.
        due: u64,
    },
    /// More bytes than the window allowed.
    WindowExceeded(StreamId),
    /// More credit than any window may have.
    CreditOverflow(StreamId),
    /// DATA without bytes, or WINDOW without credit.
    Empty(Kind),
    /// A message that the peer's own FIN had ruled out.
    AfterFin(StreamId, Kind),
    /// A message that the peer's own STOP had ruled out.
    AfterStop(StreamId, Kind),
    /// A WebSocket message that ends inside a frame.
    Cut,
    /// Too much of something.
    Flood(Flood),
    /// No version that both sides speak.
    Version {
        /// The lowest that the peer speaks.
        min: u16,
        /// The highest.
        max: u16,
    },
    /// The peer's proof is wrong, or its group is not known.
    Credentials,
    /// The client has proved its key, which does not list the group.
    Group,
    /// One end of the session has TLS and the other has not.
    Binding,
    /// The gateway refused us.
    Refused {
        /// Whether trying again may help.
        retry: bool,
        /// Why.
        code: AuthErrCode,
        /// Why, for people.
        reason: String,
    },
    /// The peer did not finish the handshake in time.
    HandshakeTimeout,
    /// The peer does not answer any more.
    PeerLost,
}

impl Error {
    /// Whether a new connection may fare better without anybody changing anything.
    pub fn retry(&self) -> bool {
        match self {
            Error::Refused { retry, .. } => *retry,
            Error::Version { .. } | Error::Credentials | Error::Group | Error::Binding => false,
            _ => true,
        }
    }

    /// The close code of the WebSocket that carried the session (RFC 6455, section 7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            Error::Frame(FrameError::Oversize { .. }) => 1009,
            Error::Flood(_)
            | Error::Credentials
            | Error::Group
            | Error::Binding
            | Error::Refused { .. }
            | Error::HandshakeTimeout => 1008,
            Error::PeerLost => 1001,
            _ => 1002,
        }
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Error::Frame(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Frame(error) => error.fmt(f),
            Error::Unexpected(kind) => write!(f, "{kind:?} frame where it may not come"),
            Error::UnknownStream(id) => write!(f, "stream {id} was never opened"),
            Error::StreamId { id, due } => write!(f, "OPEN with stream {id}, the next one is {due}"),
            Error::WindowExceeded(id) => write!(f, "more bytes on stream {id} than its window allows"),
            Error::CreditOverflow(id) => write!(f, "more credit on stream {id} than a window may have"),
            Error::Empty(kind) => write!(f, "{kind:?} frame with nothing in it"),
            Error::AfterFin(id, kind) => write!(f, "{kind:?} frame on stream {id} after its FIN"),
            Error::AfterStop(id, kind) => write!(f, "{kind:?} frame on stream {id} after its STOP"),
            Error::Cut => f.write_str("a message that ends inside a frame"),
            Error::Flood(what) => write!(f, "too many frames at once: {what:?}"),
            Error::Version { min, max } => write!(f, "the peer speaks versions {min} to {max}"),
            Error::Credentials => f.write_str("the group or its secret is wrong"),
            Error::Group => f.write_str("this client's key does not list the group"),
            Error::Binding => f.write_str(
                "TLS ends between the client and the gateway: let it through to the gateway unopened",
            ),
            Error::Refused { reason, .. } => write!(f, "the gateway refused: {reason}"),
            Error::HandshakeTimeout => f.write_str("the handshake took too long"),
            Error::PeerLost => f.write_str("the peer does not answer"),
        }
    }
}

impl std::error::Error for Error {}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The session is not up, or over.
    NotUp,
    /// Only a gateway opens streams.
    Role,
    /// As many streams are open as may be, or too much waits to be sent.
    Limit,
    /// The peer wants no more, or we are about to leave.
    Draining,
    /// All stream numbers of this session were used.
    Exhausted,
    /// The host is no name.
    Host,
}

/// Why a stream does not take a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// It is gone.
    Gone,
    /// It was not accepted yet, or was accepted before.
    Opening,
    /// It was finished, or the peer wants no more.
    Finished,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OpenError::NotUp => "the tunnel is not up",
            OpenError::Role => "only a gateway opens streams",
            OpenError::Limit => "too many streams",
            OpenError::Draining => "the tunnel is draining",
            OpenError::Exhausted => "the tunnel has used up its stream numbers",
            OpenError::Host => "the host is no name",
        })
    }
}

impl std::error::Error for OpenError {}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StreamError::Gone => "the stream is gone",
            StreamError::Opening => "the stream is not in this part of its opening",
            StreamError::Finished => "the stream takes no more bytes",
        })
    }
}

impl std::error::Error for StreamError {}

/// An overrun belongs to a stream.
pub(super) fn overrun(id: StreamId) -> impl Fn(Overrun) -> Error {
    move |Overrun| Error::CreditOverflow(id)
}
