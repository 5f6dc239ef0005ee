//! HTTP/1.1 (RFC 9110, RFC 9112) without I/O: heads, bodies, and the proxy's side of one connection.
//!
//! * [`parse_request`] and [`parse_response`] read a head out of borrowed bytes and allocate nothing. What they
//!   accept is strict: a message that two readers could take in two ways (the raw material of request smuggling)
//!   is refused with a [`Reject`] that carries the status to answer and the fault in words.
//! * [`BodyReader`] and [`BodyWriter`] take the payload out of its framing, and put it in, piece by piece.
//! * [`write_head`] and [`write_error`] write the responses that are our own.
//! * [`HttpProxy`] is one user's connection to the proxy port.
//!
//! After a [`Reject`] nothing more may be read from that connection: where the message ends is unknown.

mod body;
mod chunked;
mod fields;
mod forward;
mod head;
mod proxy;
mod target;
mod write;

pub use body::{BodyReader, BodyWriter, CutShort, Miscount};
pub use head::{FieldSlots, HeadScan, RequestHead, ResponseHead, empty_slots, parse_request, parse_response};
pub use httparse::Header as Field;
pub use proxy::{Clock, End, Event, ExchangeRecord, HttpProxy, Proven, ProxyConfig, Refusal};
pub use target::{Authority, Target};
pub use write::{Outgoing, http_date, reason, write_error, write_head};

/// A message that is refused: the status to answer with, and what was wrong with it.
///
/// For a request the status is the answer. For a response it is always 502, which is what the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status code of the answer.
    pub status: u16,
    /// What was seen, in a few words for a person.
    pub why: &'static str,
}

impl Reject {
    pub(crate) const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }

    pub(crate) const fn bad(why: &'static str) -> Self {
        Self::new(400, why)
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.why, self.status)
    }
}

impl std::error::Error for Reject {}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, up to one of size zero and its trailers.
    Chunked,
    /// Everything up to the end of the connection; responses only.
    UntilClose,
}

/// The minor version of a message whose major version is 1.
///
/// Higher minor versions are read as 1.1 (RFC 9110 section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}
