//! The gateway's side of a SOCKS5 handshake (RFC 1928, RFC 1929), for one user's connection.
//!
//! ```text
//!   greeting ──▶ [name and password, verified] ──▶ request ──▶ Connect ──▶ reply ──▶ Established
//!      │                       │                    │                      │
//!      └───────────────────────┴────────────────────┴──────────────────────┴────▶ Close, after output
//! ```
//!
//! * `handle_input` takes what belongs to the handshake and nothing more: bytes that a user sends
//!   behind the request stay in the caller's buffer, and are the target's once it is `Established`.
//!   Until then the caller stops reading when that buffer is full, as for any connection.
//! * `output` has what is to be sent, in order. It goes out before a `Close` is carried out.
//! * `poll_event` says what to do next; call it until `None` after each `handle_*` and `reply`.
//!
//! With a group there is no way in without a name and a password. Success is only ever answered by
//! [`Socks5::reply`], that is, after the target answered.

use std::net::{IpAddr, SocketAddr};

use linkbuffer::LinkBuffer;

use super::{
    credentials::{Login, Proven},
    target::{Target, TargetError},
};
use crate::limits::SOCKS5_MESSAGE_BYTES_MAX;

/// The handshake of one connection.
#[derive(Debug)]
pub struct Socks5 {
    /// A name and a password are asked for.
    asks: bool,
    state: State,
    /// Whose password was sent; proved from `Request` on.
    user: Option<String>,
    /// At most one thing is to be done at a time.
    event: Option<Event>,
    output: LinkBuffer,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Find out whether this is right, and say so with [`Socks5::verified`].
    Verify(Login),
    /// Reach this target, and say how it went with [`Socks5::reply`].
    Connect {
        /// A name in lower case, or an address without brackets; it is a valid host.
        host: String,
        /// Never 0.
        port: u16,
        /// The group, where one had to be named.
        user: Option<String>,
    },
    /// The handshake is over; everything else is the target's.
    Established,
    /// Send the output, then close. The word says why, for the log.
    Close(&'static str),
}

/// Why a target was not reached, in the words of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyCode {
    /// None of the others: no client there, a limit, draining, a fault of ours.
    Failed,
    /// A rule forbids it.
    Forbidden,
    /// The target's network cannot be reached.
    NetworkUnreachable,
    /// The target's host cannot be reached.
    HostUnreachable,
    /// The target's name cannot be resolved.
    NameUnresolved,
    /// The target refused.
    Refused,
    /// The target did not answer in time.
    TimedOut,
    /// The command is not CONNECT.
    CommandUnsupported,
    /// The address is of no known type.
    AddressUnsupported,
}

impl ReplyCode {
    /// The byte of RFC 1928, section 6.
    pub fn as_u8(self) -> u8 {
        match self {
            ReplyCode::Failed => 0x01,
            ReplyCode::Forbidden => 0x02,
            ReplyCode::NetworkUnreachable => 0x03,
            // The RFC has no code for a name; this is what curl and browsers take it for.
            ReplyCode::HostUnreachable | ReplyCode::NameUnresolved => 0x04,
            ReplyCode::Refused => 0x05,
            ReplyCode::TimedOut => 0x06,
            ReplyCode::CommandUnsupported => 0x07,
            ReplyCode::AddressUnsupported => 0x08,
        }
    }

    /// The word for a log line.
    pub fn word(self) -> &'static str {
        match self {
            ReplyCode::Failed => "failed",
            ReplyCode::Forbidden => "forbidden",
            ReplyCode::NetworkUnreachable => "network-unreachable",
            ReplyCode::HostUnreachable => "host-unreachable",
            ReplyCode::NameUnresolved => "name-unresolved",
            ReplyCode::Refused => "refused",
            ReplyCode::TimedOut => "timed-out",
            ReplyCode::CommandUnsupported => "command-unsupported",
            ReplyCode::AddressUnsupported => "address-unsupported",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Password,
    /// `Verify` was said, `verified` is awaited.
    Verifying,
    Request,
    /// `Connect` was said, `reply` is awaited.
    Connecting,
    Established,
    Closed,
}

impl Socks5 {
    /// A handshake that begins. `asks`: without a name and a password there is no way in.
    pub fn new(asks: bool) -> Socks5 {
        Socks5 { asks, state: State::Greeting, user: None, event: None, output: LinkBuffer::new() }
    }

    /// Takes what belongs to the handshake from the front of what the user sent.
    pub fn handle_input(&mut self, input: &mut LinkBuffer) {
        loop {
            let read = match self.state {
                State::Greeting => Self::greeting,
                State::Password => Self::password,
                State::Request => Self::request,
                State::Verifying | State::Connecting | State::Established => return,
                State::Closed => {
                    let len = input.len();
                    return input.skip(len).expect("a buffer has as many bytes as it says");
                }
            };
            let len = input.len().min(SOCKS5_MESSAGE_BYTES_MAX);
            let seen = input.peek(len).expect("a buffer has as many bytes as it says");
            match read(self, &mut Reader { bytes: seen, taken: 0 }) {
                Some(taken) => input.skip(taken).expect("a message that was read can be skipped"),
                None => return,
            }
        }
    }

    /// Takes the end of what the user sends. In the middle of the handshake that is its end; a user
    /// who waits for the reply, or is past it, has only half-closed.
    pub fn handle_end(&mut self) {
        if matches!(self.state, State::Greeting | State::Password | State::Request) {
            self.close("ended");
        }
    }

    /// Answers the [`Event::Verify`]. What the user sent behind it is looked at with the next `handle_input`.
    ///
    /// # Panics
    /// When no `Verify` is waiting for its answer.
    pub fn verified(&mut self, proven: Proven) {
        assert_eq!(self.state, State::Verifying, "one answer to one Verify");
        match proven {
            Proven::Yes => self.let_in(),
            Proven::No => self.turn_away("password"),
            Proven::Later => self.turn_away("auth-later"),
        }
    }

    fn let_in(&mut self) {
        self.output.write(&[PASSWORD_VERSION, PASSWORD_RIGHT]);
        self.state = State::Request;
    }

    fn turn_away(&mut self, why: &'static str) {
        self.user = None;
        self.output.write(&[PASSWORD_VERSION, PASSWORD_WRONG]);
        self.close(why);
    }

    /// Answers the [`Event::Connect`]: with the address that was bound for it, where that is known,
    /// or with the reason why not.
    ///
    /// # Panics
    /// When no `Connect` is waiting for its answer.
    pub fn reply(&mut self, result: Result<Option<SocketAddr>, ReplyCode>) {
        assert_eq!(self.state, State::Connecting, "one reply answers one Connect");
        match result {
            Ok(bound) => {
                self.write_reply(0x00, bound);
                self.state = State::Established;
                self.event = Some(Event::Established);
            }
            Err(code) => self.refuse(code),
        }
    }

    /// What is to be sent to the user.
    pub fn output(&mut self) -> &mut LinkBuffer {
        &mut self.output
    }

    /// What is to be done next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// RFC 1928, section 3: version, number of methods, methods.
    fn greeting(&mut self, reader: &mut Reader<'_>) -> Option<usize> {
        if reader.u8()? != VERSION {
            self.close("version");
            return Some(reader.taken);
        }
        let methods = reader.counted()?;
        let method = if !self.asks && methods.contains(&METHOD_NONE) {
            METHOD_NONE
        } else if methods.contains(&METHOD_PASSWORD) {
            METHOD_PASSWORD
        } else {
            METHOD_UNACCEPTABLE
        };
        self.output.write(&[VERSION, method]);
        match method {
            METHOD_NONE => self.state = State::Request,
            METHOD_PASSWORD => self.state = State::Password,
            _ => self.close("no-method"),
        }
        Some(reader.taken)
    }

    /// RFC 1929, section 2: version, name, password.
    fn password(&mut self, reader: &mut Reader<'_>) -> Option<usize> {
        if reader.u8()? != PASSWORD_VERSION {
            self.output.write(&[PASSWORD_VERSION, PASSWORD_WRONG]);
            self.close("version");
            return Some(reader.taken);
        }
        let user = reader.counted()?;
        let password = reader.counted()?;
        match Login::new(user, password) {
            // Whoever insists on a password where none is wanted is as welcome as anyone.
            _ if !self.asks => self.let_in(),
            Some(login) => {
                self.user = Some(login.user.clone());
                self.state = State::Verifying;
                self.event = Some(Event::Verify(login));
            }
            None => self.turn_away("password"),
        }
        Some(reader.taken)
    }

    /// RFC 1928, section 4: version, command, reserved, type of address, address, port.
    fn request(&mut self, reader: &mut Reader<'_>) -> Option<usize> {
        if reader.u8()? != VERSION {
            self.close("version");
            return Some(reader.taken);
        }
        let command = reader.u8()?;
        let _reserved = reader.u8()?;
        // What is wrong is said as soon as it is seen: the length of an unknown address is unknown.
        let address_type = reader.u8()?;
        if command != COMMAND_CONNECT {
            self.refuse(ReplyCode::CommandUnsupported);
            return Some(reader.taken);
        }
        let host = match address_type {
            ADDRESS_V4 => Ok(IpAddr::from(reader.array::<4>()?)),
            ADDRESS_V6 => Ok(IpAddr::from(reader.array::<16>()?)),
            ADDRESS_NAME => Err(reader.counted()?),
            _ => {
                self.refuse(ReplyCode::AddressUnsupported);
                return Some(reader.taken);
            }
        };
        let port = u16::from_be_bytes(reader.array()?);
        let target = match host {
            Ok(address) => Target::from_address(address, port),
            Err(name) => std::str::from_utf8(name)
                .map_err(|_| TargetError::NotAscii)
                .and_then(|name| Target::new(name, port)),
        };
        match target {
            Ok(target) => {
                self.state = State::Connecting;
                self.event = Some(Event::Connect {
                    host: target.host().to_string(),
                    port: target.port(),
                    user: self.user.clone(),
                });
            }
            Err(TargetError::Port) => self.refuse(ReplyCode::Failed),
            Err(_) => self.refuse(ReplyCode::NameUnresolved),
        }
        Some(reader.taken)
    }

    fn refuse(&mut self, code: ReplyCode) {
        self.write_reply(code.as_u8(), None);
        self.close(code.word());
    }

    /// RFC 1928, section 6. What is not known is 0.0.0.0:0.
    fn write_reply(&mut self, code: u8, bound: Option<SocketAddr>) {
        let bound = bound.unwrap_or(SocketAddr::from(([0; 4], 0)));
        self.output.write(&[VERSION, code, 0x00]);
        match bound.ip() {
            IpAddr::V4(address) => {
                self.output.write(&[ADDRESS_V4]);
                self.output.write(&address.octets());
            }
            IpAddr::V6(address) => {
                self.output.write(&[ADDRESS_V6]);
                self.output.write(&address.octets());
            }
        }
        self.output.write(&bound.port().to_be_bytes());
    }

    fn close(&mut self, why: &'static str) {
        self.state = State::Closed;
        self.event = Some(Event::Close(why));
    }
}

/// Reads a message that may not be there in full; `None` is "wait for more".
struct Reader<'a> {
    bytes: &'a [u8],
    taken: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.taken..self.taken + len)?;
        self.taken += len;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N).and_then(|bytes| bytes.try_into().ok())
    }

    /// A byte that says how many bytes follow, and those.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }
}

const VERSION: u8 = 0x05;
const METHOD_NONE: u8 = 0x00;
const METHOD_PASSWORD: u8 = 0x02;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const PASSWORD_VERSION: u8 = 0x01;
const PASSWORD_RIGHT: u8 = 0x00;
const PASSWORD_WRONG: u8 = 0x01;
const COMMAND_CONNECT: u8 = 0x01;
const ADDRESS_V4: u8 = 0x01;
const ADDRESS_NAME: u8 = 0x03;
const ADDRESS_V6: u8 = 0x04;

#[cfg(test)]
mod tests;
