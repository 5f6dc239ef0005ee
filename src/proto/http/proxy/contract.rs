//! What goes into a proxied connection's machine besides bytes, and what comes out.

use std::time::{Instant, SystemTime};

use crate::proto::credentials::Login;
pub use crate::proto::credentials::Proven;

/// What all connections to a proxy port have in common.
pub struct ProxyConfig {
    /// Whether users are asked for a name and a password.
    pub auth: bool,
    /// The name in `Via`. It must be this gateway's own: a request that carries it already has come back to us.
    pub via: String,
}

/// The time, for deadlines and for `Date`.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// For deadlines and marks.
    pub now: Instant,
    /// For people.
    pub wall: SystemTime,
}

/// How an exchange ended: who ended it, and in which phase. The letters are those of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Who, or why.
    pub who: char,
    /// How far it had come.
    pub phase: char,
}

impl End {
    /// A normal end.
    pub const NORMAL: End = End { who: '-', phase: '-' };

    pub(super) const fn new(who: char, phase: char) -> Self {
        Self { who, phase }
    }
}

/// Why an upstream could not be opened, and what the user is told.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The status to answer: 403, 502, 503, 504.
    pub status: u16,
    /// For the user, in a sentence.
    pub text: &'a str,
    /// For the access log.
    pub end: End,
    /// For the access log: a stable word.
    pub why: &'static str,
}

/// One request and its answer, for the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeRecord {
    /// The method; empty when the head was not understood.
    pub method: String,
    /// The target's host; empty when there was none.
    pub host: String,
    /// The target's port; 0 when there was none.
    pub port: u16,
    /// The user, once known by password.
    pub user: Option<String>,
    /// The status of the final response; 0 when none was sent.
    pub code: u16,
    /// Payload bytes towards the target.
    pub up: u64,
    /// Payload bytes towards the user.
    pub down: u64,
    /// First byte of the request.
    pub begun: Instant,
    /// Its head was complete.
    pub asked: Instant,
    /// The upstream was open.
    pub opened: Option<Instant>,
    /// The upstream's first byte.
    pub answered: Option<Instant>,
    /// The end.
    pub ended: Instant,
    /// Who ended it, and when.
    pub end: End,
    /// Why, in a stable word.
    pub why: &'static str,
}

/// What the caller is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Find out whether this is right, and say `verified`.
    Verify(Login),
    /// Open an upstream, and say `opened` or `refused`.
    Open {
        /// The host, as a name or an address without brackets.
        host: String,
        /// The port.
        port: u16,
        /// It is for CONNECT.
        connect: bool,
        /// The group that the user belongs to.
        user: Option<String>,
    },
    /// The upstream is not needed any more. `abort`: its byte stream is incomplete, so it is reset.
    CloseUpstream {
        /// Reset instead of closing.
        abort: bool,
    },
    /// From now on the bytes of both sides are relayed as they are, by the caller, once `to_user` and
    /// `to_upstream` have been sent. The record is the caller's to finish: bytes, end and why.
    Tunnel(Box<ExchangeRecord>),
    /// An exchange is over.
    Done(Box<ExchangeRecord>),
    /// The user's connection is over: after the output has been sent, or at once and with a reset.
    CloseUser {
        /// What is in `to_user` is sent first.
        after_output: bool,
    },
}
