//! A WebSocket over bytes in and bytes out (RFC 6455): the carrier of a tunnel.
//!
//! ```text
//!   Upgrading ──────▶ Open ──────▶ Closing ──────▶ Closed
//!       │  HTTP heads   │   close()      peer's close  ▲
//!       │               ├── peer's close, answered ────┤
//!       └───────────────┴── error, end ────────────────┘
//! ```
//!
//! * `handle_input` takes everything that arrived, in pieces of any size; `handle_end` the end of it.
//! * `poll_payload` gives the binary messages, in order and in parts as they came: nothing waits for the end of a
//!   message. There are as many parts waiting as the input had, so who hands over more input first takes what is there.
//! * `poll_output` gives what is to be sent. After an error it still has the last words (the HTTP
//!   answer, the close frame): send them, then close the connection.
//!
//! A tunnel carries binary messages and nothing else: text is turned away, no extension is
//! negotiated, so nothing is ever inflated. A limit is held against the length that a frame
//! declares, before a byte of it is kept. Of any number of pings the last one is answered.
//!
//! `tungstenite` reads and writes the heads of frames. Messages do not pass
//! through its buffers: a server sends them as the nodes that they came in, a client masks them on
//! their one way into the output, what arrives masked is unmasked on its one way out of the input, and
//! what arrives unmasked and not short is not copied.

use std::{collections::VecDeque, fmt, time::Instant};

use bytes::Bytes;
use linkbuffer::LinkBuffer;
use tungstenite::protocol::{
    Role,
    frame::coding::{CloseCode, Control, Data, OpCode},
};

use self::frame::{Header, Masks};
use crate::limits::{
    WEBSOCKET_CONTROL_BYTES_MAX, WEBSOCKET_HEAD_BYTES_MAX, WEBSOCKET_HEADER_BYTES_MAX,
    WEBSOCKET_IDLE_FRAMES_PER_S_MAX, WEBSOCKET_MESSAGE_BYTES_MAX, WEBSOCKET_PACKED_BYTES_MAX,
};
use crate::proto::rate::Rate;

mod error;
mod frame;
mod upgrade;

pub use error::Error;

/// The path of the tunnel on the gateway.
pub const TUNNEL_PATH: &str = "/tunnel";
/// The subprotocol that both sides offer.
pub const SUBPROTOCOL: &str = "anyproxy.1";

/// One side of a WebSocket.
pub struct WebSocket {
    role: Role,
    phase: Phase,
    /// What the client sent as `Sec-WebSocket-Key`; empty on a server.
    key: String,
    /// What arrived and is not yet a whole head, header or control frame.
    /// Invariant, after each call: less than one of these, by their limits.
    input: LinkBuffer,
    output: LinkBuffer,
    parts: VecDeque<Part>,
    /// The data frame of which more is to come.
    data: Option<DataFrame>,
    /// What the frames so far of a message declared, when more frames of it are to come.
    /// Invariant: at most WEBSOCKET_MESSAGE_BYTES_MAX.
    message_len: Option<usize>,
    /// What the latest ping said, until it is answered.
    ping: Option<Bytes>,
    masks: Masks,
    control_frames: u64,
    /// Control frames, and data frames with nothing in them, that were not yet held against `idle_rate`.
    idle_frames: u32,
    idle_rate: Rate,
    peer_close: Option<(u16, String)>,
}

/// A part of a binary message, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Nothing, where a message ends behind what was given before, or has nothing in it.
    pub bytes: Bytes,
    /// The message ends here.
    pub ends: bool,
}

/// A data frame of which a part is still to come.
#[derive(Debug)]
struct DataFrame {
    left: usize,
    /// Turned to the next byte.
    mask: Option<[u8; 4]>,
    is_final: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Upgrading,
    Open,
    /// Our close frame is out, the peer's is not in.
    Closing,
    Closed,
}

impl WebSocket {
    /// A client, whose first output is the request to upgrade. Its key and its masks are drawn from `seed`, which nobody can guess
    /// and nothing else is drawn from.
    ///
    /// # Panics
    /// When host or path would not stay in their places in an HTTP head: they are ours, not a user's.
    pub fn client(host_header: &str, path: &str, seed: [u8; 32]) -> WebSocket {
        let fits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        assert!(
            fits(host_header) && fits(path),
            "host and path of the gateway are checked with the configuration"
        );
        let mut masks = Masks::new(seed);
        let mut socket = WebSocket::new(Role::Client, masks.key(), masks);
        socket.output.write(upgrade::request(host_header, path, &socket.key).as_bytes());
        socket
    }

    /// A server, which waits for a request to upgrade.
    pub fn server() -> WebSocket {
        // A server masks nothing.
        WebSocket::new(Role::Server, String::new(), Masks::new([0; 32]))
    }

    fn new(role: Role, key: String, masks: Masks) -> WebSocket {
        WebSocket {
            role,
            phase: Phase::Upgrading,
            key,
            input: LinkBuffer::new(),
            output: LinkBuffer::new(),
            parts: VecDeque::new(),
            data: None,
            message_len: None,
            ping: None,
            masks,
            control_frames: 0,
            idle_frames: 0,
            idle_rate: Rate::new(WEBSOCKET_IDLE_FRAMES_PER_S_MAX),
            peer_close: None,
        }
    }

    /// Takes all that arrived.
    ///
    /// # Errors
    /// When the WebSocket is over because of it. It is reported once, is final, and the output has
    /// the last words for the peer; what came before it can still be taken.
    pub fn handle_input(&mut self, input: &mut LinkBuffer) -> Result<(), Error> {
        // Only a head has lines: what comes behind it is not searched, for it is the bulk of all bytes.
        let line_ended = self.phase == Phase::Upgrading && input.find(b'\n').is_some();
        self.keep(input);
        let result = match self.phase {
            Phase::Upgrading => self.read_head(line_ended).and_then(|()| self.read_frames()),
            _ => self.read_frames(),
        };
        self.settle(result)
    }

    /// Holds the frames that carried nothing (pings, pongs, empty data frames) against their rate. To be called after
    /// [`handle_input`](Self::handle_input), by who has a clock.
    ///
    /// # Errors
    /// [`Error::Flood`] when there were too many: the WebSocket is over, as after an error of `handle_input`.
    pub fn handle_time(&mut self, now: Instant) -> Result<(), Error> {
        let idle_frames = std::mem::take(&mut self.idle_frames);
        let result =
            match idle_frames == 0 || self.phase == Phase::Closed || self.idle_rate.take(idle_frames, now) {
                true => Ok(()),
                false => Err(Error::Flood),
            };
        self.settle(result)
    }

    /// The one place where an error ends the WebSocket.
    fn settle(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &result {
            if let Some(code) = error.close_code()
                && self.phase == Phase::Open
            {
                self.write_close(Some(code), "");
            }
            self.phase = Phase::Closed;
        }
        if self.phase == Phase::Closed {
            self.input = LinkBuffer::new();
            self.data = None;
            self.ping = None;
        }
        result
    }

    /// Takes the end of what the peer sends.
    ///
    /// # Errors
    /// When it came before the peer's close frame.
    pub fn handle_end(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => Ok(()),
            Phase::Upgrading if self.role == Role::Client => Err(Error::Unanswered),
            Phase::Upgrading | Phase::Open | Phase::Closing => Err(Error::Ended),
        }
    }

    /// The next part of a binary message.
    pub fn poll_payload(&mut self) -> Option<Part> {
        self.parts.pop_front()
    }

    /// Queues one binary message.
    ///
    /// # Errors
    /// When the WebSocket is not open; the message is dropped.
    ///
    /// # Panics
    /// When the message is longer than a peer would take.
    pub fn send(&mut self, message: LinkBuffer) -> Result<(), Error> {
        if self.phase != Phase::Open {
            return Err(Error::NotOpen);
        }
        assert!(message.len() <= WEBSOCKET_MESSAGE_BYTES_MAX, "messages are cut below the limit");
        self.write_frame(OpCode::Data(Data::Binary), message);
        Ok(())
    }

    /// Moves what is to be sent behind what is in `out`; says whether there was anything.
    pub fn poll_output(&mut self, out: &mut LinkBuffer) -> bool {
        if let Some(said) = self.ping.take_if(|_| self.phase == Phase::Open) {
            let mut pong = LinkBuffer::new();
            pong.write_bytes(said);
            self.write_frame(OpCode::Control(Control::Pong), pong);
        }
        if self.output.is_empty() {
            return false;
        }
        out.append(std::mem::replace(&mut self.output, LinkBuffer::new()));
        true
    }

    /// Begins to close, or does nothing when that has begun. What was sent before goes out before;
    /// messages arrive until the peer answers, or the connection ends.
    pub fn close(&mut self, code: u16, reason: &str) {
        match self.phase {
            Phase::Upgrading => self.phase = Phase::Closed,
            Phase::Open => {
                self.write_close(Some(code), reason);
                self.phase = Phase::Closing;
            }
            Phase::Closing | Phase::Closed => {}
        }
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether nothing will arrive any more, so that the connection ends with the last output.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The code (1005 where there was none) and the reason of the peer's close frame.
    pub fn peer_close(&self) -> Option<(u16, &str)> {
        self.peer_close.as_ref().map(|(code, reason)| (*code, reason.as_str()))
    }

    /// Bytes that are kept because a head or a frame is not whole yet.
    pub fn held_bytes(&self) -> usize {
        self.input.len()
    }

    /// How many control frames arrived.
    pub fn control_frames(&self) -> u64 {
        self.control_frames
    }

    /// Takes the pieces as they are, but packs small ones: a peer who sends byte by byte does not
    /// make a node of each.
    fn keep(&mut self, input: &mut LinkBuffer) {
        if input.len() < WEBSOCKET_PACKED_BYTES_MAX {
            input.chunks().for_each(|chunk| self.input.write(chunk));
            input.clear();
        } else {
            let len = input.len();
            self.input.append(input.split_to(len).expect("a buffer has as many bytes as it says"));
        }
    }

    fn read_head(&mut self, line_ended: bool) -> Result<(), Error> {
        let len = self.input.len().min(WEBSOCKET_HEAD_BYTES_MAX);
        // A head ends with a line: without a new one, reading it again finds nothing new.
        let head_len = if line_ended {
            let seen = self.input.peek(len).expect("a buffer has as many bytes as it says");
            // Whole lines only, so that it does not matter what came with them.
            let lines_len = seen.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let head = &seen[..lines_len];
            match self.role {
                Role::Client => upgrade::read_response(head, &self.key)?,
                Role::Server => match upgrade::read_request(head) {
                    Ok(Some(accepted)) => {
                        self.output.write(accepted.answer.as_bytes());
                        Some(accepted.head_len)
                    }
                    Ok(None) => None,
                    Err(refused) => {
                        self.output.write(refused.answer.as_bytes());
                        return Err(Error::Refused(refused.status));
                    }
                },
            }
        } else {
            None
        };
        match head_len {
            Some(head_len) => {
                self.input.skip(head_len).expect("a head that was read can be skipped");
                self.phase = Phase::Open;
                Ok(())
            }
            None if len < WEBSOCKET_HEAD_BYTES_MAX => Ok(()),
            None if self.role == Role::Client => Err(Error::Upgrade("the head is too long")),
            None => {
                let refused = upgrade::head_too_long();
                self.output.write(refused.answer.as_bytes());
                Err(Error::Refused(refused.status))
            }
        }
    }

    fn read_frames(&mut self) -> Result<(), Error> {
        while matches!(self.phase, Phase::Open | Phase::Closing) {
            if let Some(data) = self.data.take_if(|data| data.left == 0 || !self.input.is_empty()) {
                self.read_part(data);
                continue;
            }
            if self.data.is_some() {
                return Ok(());
            }
            let Some(header) = self.read_header()? else { return Ok(()) };
            let message_len = self.check_message(&header)?;
            let is_data = matches!(header.opcode, OpCode::Data(_));
            if !is_data && self.input.len() - header.size < header.payload_len {
                return Ok(());
            }
            self.input.skip(header.size).expect("a header that was read can be skipped");
            let Header { is_final, mask, payload_len, .. } = header;
            match header.opcode {
                OpCode::Data(_) => {
                    self.message_len = (!is_final).then_some(message_len);
                    self.idle_frames = self.idle_frames.saturating_add(u32::from(payload_len == 0));
                    self.data = Some(DataFrame { left: payload_len, mask, is_final });
                }
                OpCode::Control(control) => {
                    let payload = frame::read_payload(&mut self.input, payload_len, mask)
                        .expect("the length was compared above");
                    self.read_control(control, payload)?;
                }
            }
        }
        Ok(())
    }

    /// Takes as much of a data frame as lies in one piece, or the end of it.
    fn read_part(&mut self, mut data: DataFrame) {
        let chunk = self.input.chunk();
        let len = chunk.len().min(data.left);
        data.left -= len;
        let bytes = match &mut data.mask {
            Some(mask) => {
                let bytes = frame::unmask(&chunk[..len], *mask);
                mask.rotate_left(len % 4);
                self.input.skip(len).expect("a piece that was looked at can be skipped");
                bytes
            }
            None => self.input.read_chunk(len).unwrap_or_default(),
        };
        let ends = data.left == 0 && data.is_final;
        if ends || !bytes.is_empty() {
            self.parts.push_back(Part { bytes, ends });
        }
        if data.left > 0 {
            self.data = Some(data);
        }
    }

    fn read_header(&mut self) -> Result<Option<Header>, Error> {
        let chunk = self.input.chunk();
        let len = self.input.len().min(WEBSOCKET_HEADER_BYTES_MAX);
        // Most headers lie in one piece. To look further would join it with the piece behind it.
        match Header::parse(&chunk[..chunk.len().min(len)], self.role)? {
            None if chunk.len() < len => {
                let seen = self.input.peek(len).expect("a buffer has as many bytes as it says");
                Header::parse(seen, self.role)
            }
            header => Ok(header),
        }
    }

    /// Whether a data frame may come now, and whether the message keeps within its limit: the message's length with it.
    fn check_message(&self, header: &Header) -> Result<usize, Error> {
        let before = match (header.opcode, self.message_len) {
            (OpCode::Data(Data::Text), _) => return Err(Error::Text),
            (OpCode::Data(Data::Continue), None) => return Err(Error::Protocol("nothing to continue")),
            (OpCode::Data(Data::Continue), Some(before)) => before,
            (OpCode::Data(_), Some(_)) => return Err(Error::Protocol("message within a message")),
            _ => 0,
        };
        if header.payload_len > WEBSOCKET_MESSAGE_BYTES_MAX - before {
            return Err(Error::TooBig);
        }
        Ok(before + header.payload_len)
    }

    fn read_control(&mut self, control: Control, payload: Bytes) -> Result<(), Error> {
        self.control_frames += 1;
        self.idle_frames = self.idle_frames.saturating_add(1);
        match control {
            Control::Ping => self.ping = Some(payload),
            Control::Close => self.read_close(&payload)?,
            // A pong answers nothing: the tunnel has pings of its own. Reserved ones do not parse.
            Control::Pong | Control::Reserved(_) => {}
        }
        Ok(())
    }

    /// RFC 6455, sections 5.5.1 and 7.4.
    fn read_close(&mut self, payload: &[u8]) -> Result<(), Error> {
        let (code, reason) = match payload {
            [] => (None, ""),
            [_] => return Err(Error::Protocol("close code of one byte")),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !CloseCode::from(code).is_allowed() {
                    return Err(Error::Protocol("close code"));
                }
                (Some(code), std::str::from_utf8(reason).map_err(|_| Error::Utf8)?)
            }
        };
        self.peer_close = Some((code.unwrap_or(1005), reason.to_owned()));
        if self.phase == Phase::Open {
            self.write_close(code, "");
        }
        self.phase = Phase::Closed;
        Ok(())
    }

    fn write_close(&mut self, code: Option<u16>, reason: &str) {
        let mut payload = LinkBuffer::new();
        if let Some(code) = code {
            let reason = &reason[..reason.floor_char_boundary(WEBSOCKET_CONTROL_BYTES_MAX - 2)];
            payload.write(&code.to_be_bytes());
            payload.write(reason.as_bytes());
        }
        self.write_frame(OpCode::Control(Control::Close), payload);
    }

    fn write_frame(&mut self, opcode: OpCode, payload: LinkBuffer) {
        let mask = match self.role {
            Role::Client => Some(self.masks.next()),
            Role::Server => None,
        };
        frame::write(&mut self.output, opcode, mask, payload);
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("role", &self.role)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
