//! Reads along what goes through the tunnels, and holds it against the protocol.
//!
//! | rule | |
//! |---|---|
//! | a stream's number is the last one's and two | it is never used again |
//! | a side closes its direction once | by FIN, RST or OPEN_ERR; behind FIN only WINDOW and one STOP, behind the others nothing |
//! | DATA is held to the window | the sum of what the other side has granted |
//! | credit is for bytes that the kernel took | of the connection that the stream is joined to |
//! | nobody complains | no GOAWAY over a broken rule, no WebSocket closed for one |

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use simulated::limits::RELAY_CREDIT_BYTES;
use simulated::proto::frame::{Decoder, Frame, GoAwayCode, Network};
use simulated::proto::session::Error;
use simulated::rt;

use super::{TARGET, TUNNEL, target_name};

/// More than the head of an HTTP answer, which the kernel takes, too.
const HEAD_BYTES: u64 = 1024;

/// All tunnels.
#[derive(Default)]
pub(super) struct Tap {
    carriers: BTreeMap<u32, Carrier>,
}

#[derive(Default)]
struct Carrier {
    /// What the client sends, and what the gateway does.
    sides: [Wire; 2],
    last_stream: u32,
    streams: BTreeMap<u32, Stream>,
}

/// What one side sends.
#[derive(Default)]
struct Wire {
    /// What is not a whole head yet, of HTTP or of a WebSocket frame.
    head: Vec<u8>,
    upgraded: bool,
    frame: Option<Payload>,
    decoder: Decoder,
}

/// The frame of a WebSocket that is going by.
struct Payload {
    opcode: u8,
    left: u64,
    mask: [u8; 4],
    at: usize,
    control: Vec<u8>,
}

struct Stream {
    tcp: bool,
    user: Option<SocketAddr>,
    target: Option<SocketAddr>,
    halves: [Half; 2],
}

#[derive(Default)]
struct Half {
    sent: u64,
    /// What this side lets the other one send.
    granted: u64,
    /// What its window spans, and how much the kernel had taken when that was last looked at.
    size: u64,
    timed_from: u64,
    fin: bool,
    stop: bool,
    gone: bool,
}

type Held = Result<(), String>;

impl Tap {
    /// Looks at what has gone by since.
    pub(super) fn look(&mut self) -> Held {
        while let Some((link, by_gateway, bytes)) = rt::take_tapped() {
            let carrier = self.carriers.entry(link).or_default();
            carrier.take(usize::from(by_gateway), &bytes).map_err(|fault| {
                format!("tunnel {link}, {}: {fault}", ["client", "gateway"][usize::from(by_gateway)])
            })?;
        }
        Ok(())
    }

    /// Every stream of the tunnels that are there has been closed by both sides.
    pub(super) fn at_rest(&self) -> Held {
        for link in rt::links_to(TUNNEL) {
            let Some(carrier) = self.carriers.get(&link) else { continue };
            if let Some((id, _)) = carrier.streams.iter().find(|(_, stream)| !stream.is_over()) {
                return Err(format!("tunnel {link}: stream {id} was not closed"));
            }
        }
        Ok(())
    }
}

impl Stream {
    fn is_over(&self) -> bool {
        self.halves.iter().any(|half| half.gone || half.stop) || self.halves.iter().all(|half| half.fin)
    }
}

impl Half {
    /// Credit was given when the kernel had taken so many bytes. A window doubles when it was taken whole since that was last looked
    /// at, as far as that was said: then it may span more than before.
    fn give_back(&mut self, taken: u64) -> Held {
        let spans = self.granted.saturating_sub(taken);
        let unsaid = RELAY_CREDIT_BYTES + HEAD_BYTES;
        if taken - self.timed_from + unsaid >= self.size {
            self.timed_from = taken;
            if spans > self.size {
                self.size *= 2;
            }
        }
        match spans > self.size {
            true => Err(format!(
                "lets {spans} bytes come beyond those that the kernel took, with a window of {}",
                self.size
            )),
            false => Ok(()),
        }
    }
}

impl Carrier {
    fn take(&mut self, side: usize, bytes: &[u8]) -> Held {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wire = &mut self.sides[side];
            if let Some(payload) = &mut wire.frame {
                let n = (payload.left.min(rest.len() as u64)) as usize;
                let part = payload.unmask(&rest[..n]);
                rest = &rest[n..];
                let (opcode, over) = (payload.opcode, payload.left == 0);
                if opcode < 8 {
                    wire.decoder.push(part);
                } else {
                    payload.control.extend_from_slice(&part);
                }
                let closed = (over && opcode == 8).then(|| std::mem::take(&mut payload.control));
                if over {
                    wire.frame = None;
                }
                self.frames(side)?;
                if let Some([high, low, words @ ..]) = closed.as_deref()
                    && matches!(u16::from_be_bytes([*high, *low]), 1002 | 1003 | 1007 | 1009 | 1010 | 1011)
                {
                    let code = u16::from_be_bytes([*high, *low]);
                    return Err(format!("closes with {code} {}", String::from_utf8_lossy(words)));
                }
            } else {
                wire.head.push(rest[0]);
                rest = &rest[1..];
                if !wire.upgraded {
                    if wire.head.ends_with(b"\r\n\r\n") {
                        wire.upgraded = true;
                        wire.head.clear();
                    }
                } else if let Some(payload) = Payload::parse(&wire.head) {
                    wire.head.clear();
                    // One without a payload is over.
                    wire.frame = (payload.left > 0).then_some(payload);
                }
            }
        }
        Ok(())
    }

    fn frames(&mut self, side: usize) -> Held {
        loop {
            let next =
                self.sides[side].decoder.next_frame().map_err(|error| format!("sends nonsense: {error}"))?;
            let Some((head, body)) = next else { return Ok(()) };
            let frame = Frame::read(head, body).map_err(|error| format!("sends nonsense: {error}"))?;
            let kind = frame.kind();
            self.frame(side, head.stream, frame)
                .map_err(|fault| format!("stream {}, {kind:?}: {fault}", head.stream))?;
        }
    }

    fn frame(&mut self, side: usize, id: u32, frame: Frame) -> Held {
        if let Frame::GoAway(goaway) = &frame
            && goaway.code == GoAwayCode::Protocol
            // Who is silent is told so, too.
            && goaway.reason != Error::HandshakeTimeout.to_string()
        {
            return Err(format!("complains: {}", goaway.reason));
        }
        if let Frame::Open { request, window } = &frame {
            if id <= self.last_stream || id.is_multiple_of(2) {
                return Err(format!("comes after {}", self.last_stream));
            }
            self.last_stream = id;
            let named = request.host == target_name();
            let ip = if named { Some(TARGET) } else { request.host.parse().ok() };
            let target = ip.filter(|ip| *ip == TARGET).map(|ip| SocketAddr::new(ip, request.port));
            let mut halves = [Half::default(), Half::default()];
            (halves[side].granted, halves[side].size) = (u64::from(*window), u64::from(*window));
            let tcp = request.network == Network::Tcp;
            self.streams.insert(id, Stream { tcp, user: request.user_addr, target, halves });
            return Ok(());
        }
        if id == 0 {
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Err("was not opened".into()) };
        let half = &mut stream.halves[side];
        if half.gone {
            return Err("comes after the last word".into());
        }
        let last_words = matches!(frame, Frame::Window(_) | Frame::Stop(_));
        if half.fin && !last_words {
            return Err("comes after FIN".into());
        }
        match frame {
            Frame::OpenOk { window, .. } => {
                (half.granted, half.size) = (u64::from(window), u64::from(window))
            }
            Frame::OpenErr { .. } | Frame::Rst(_) => half.gone = true,
            Frame::Fin => half.fin = true,
            Frame::Stop(_) if !half.fin => return Err("comes without FIN".into()),
            Frame::Stop(_) if std::mem::replace(&mut half.stop, true) => return Err("comes twice".into()),
            Frame::Window(credit) => {
                half.granted += u64::from(credit);
                // The gateway's connection is to the user, the client's to the target.
                let peer = if side == 1 { stream.user } else { stream.target };
                if let Some(taken) = peer.filter(|_| stream.tcp).and_then(rt::bytes_out_to) {
                    half.give_back(taken)?;
                }
            }
            Frame::Data(body) => {
                half.sent += body.len() as u64;
                let (sent, granted) = (half.sent, stream.halves[1 - side].granted);
                if sent > granted {
                    return Err(format!("is byte {sent} of {granted} that may be sent"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Payload {
    /// Reads the head of a frame, once it is whole.
    fn parse(head: &[u8]) -> Option<Payload> {
        let [first, second, rest @ ..] = head else { return None };
        let (len_size, masked) = (
            match second & 127 {
                126 => 2,
                127 => 8,
                _ => 0,
            },
            second & 128 != 0,
        );
        if rest.len() < len_size + if masked { 4 } else { 0 } {
            return None;
        }
        let left = match len_size {
            0 => u64::from(second & 127),
            _ => rest[..len_size].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        };
        let mask = if masked { rest[len_size..].try_into().expect("four bytes") } else { [0; 4] };
        Some(Payload { opcode: first & 15, left, mask, at: 0, control: Vec::new() })
    }

    fn unmask(&mut self, part: &[u8]) -> Bytes {
        let mut out = part.to_vec();
        if self.mask != [0; 4] {
            let mask: [u8; 4] = std::array::from_fn(|i| self.mask[(self.at + i) % 4]);
            let (words, rest) = out.as_chunks_mut::<4>();
            for word in words {
                *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
            }
            rest.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
            self.at = (self.at + part.len()) % 4;
        }
        self.left -= part.len() as u64;
        out.into()
    }
}
