//! What ends a WebSocket other than a close.

use std::fmt;

use crate::limits::WEBSOCKET_MESSAGE_BYTES_MAX;

/// Why a WebSocket is over, or never came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer asked for something else than the tunnel, and was told so with this HTTP status.
    Refused(u16),
    /// The gateway answered with this HTTP status and not with 101.
    Status(u16),
    /// The head of the upgrade is not as it has to be; the word says what about it.
    Upgrade(&'static str),
    /// The peer broke the protocol (1002); the word says how.
    Protocol(&'static str),
    /// The peer sent a text message (1003).
    Text,
    /// The reason of the peer's close frame is not UTF-8 (1007).
    Utf8,
    /// The peer's message is over the limit (1009).
    TooBig,
    /// The peer sent too many frames that carry nothing (1008).
    Flood,
    /// The peer's bytes ended without a close frame.
    Ended,
    /// The gateway's bytes ended before it had answered the upgrade.
    Unanswered,
    /// Nothing can be sent before the upgrade and after the close.
    NotOpen,
}

impl Error {
    /// The code of the close frame that tells the peer, where there is one.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Error::Protocol(_) => Some(1002),
            Error::Text => Some(1003),
            Error::Utf8 => Some(1007),
            Error::TooBig => Some(1009),
            Error::Flood => Some(1008),
            Error::Refused(_) | Error::Status(_) | Error::Upgrade(_) => None,
            Error::Ended | Error::Unanswered | Error::NotOpen => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(status) => write!(f, "not a tunnel's request: answered {status}"),
            Error::Status(status) => {
                write!(f, "the gateway answered {status} and not 101; is that its port for tunnels?")
            }
            Error::Upgrade(what) => write!(f, "bad upgrade: {what}"),
            Error::Protocol(what) => write!(f, "the peer broke the WebSocket protocol: {what}"),
            Error::Text => f.write_str("the peer sent a text message"),
            Error::Utf8 => f.write_str("the peer's close reason is not UTF-8"),
            Error::TooBig => {
                write!(f, "the peer's message is longer than {WEBSOCKET_MESSAGE_BYTES_MAX} bytes")
            }
            Error::Flood => f.write_str("the peer sent too many frames that carry nothing"),
            Error::Ended => f.write_str("the connection ended without a close"),
            Error::Unanswered => f.write_str("the gateway closed before it answered the upgrade"),
            Error::NotOpen => f.write_str("the WebSocket is not open"),
        }
    }
}

impl std::error::Error for Error {}
