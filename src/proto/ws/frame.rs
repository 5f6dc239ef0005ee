//! Frames: their heads by `tungstenite`, their payloads as nodes.

use std::io::Cursor;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use linkbuffer::{LinkBuffer, Short};
use sha2::Sha256;
use tungstenite::protocol::{
    Role,
    frame::{FrameHeader, coding::OpCode},
};

use super::Error;
use crate::limits::{
    UNMASK_NODE_BYTES_MIN, WEBSOCKET_CONTROL_BYTES_MAX as CONTROL_BYTES_MAX,
    WEBSOCKET_HEADER_BYTES_MAX as HEADER_BYTES_MAX,
};

/// A header that keeps the rules.
pub(super) struct Header {
    pub(super) is_final: bool,
    pub(super) opcode: OpCode,
    pub(super) mask: Option<[u8; 4]>,
    /// As declared; the limit of messages is not yet held against it.
    pub(super) payload_len: usize,
    /// The bytes of the header itself.
    pub(super) size: usize,
}

impl Header {
    /// Reads a header that a peer of this role's holder sent; `None` is "wait for more".
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Option<Header>, Error> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Error::Protocol("opcode"))?;
        let Some((header, payload_len)) = parsed else { return Ok(None) };
        let size = header.len(payload_len);
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Error::Protocol("reserved bits"));
        }
        if header.mask.is_some() != (role == Role::Server) {
            return Err(Error::Protocol("mask"));
        }
        if payload_len >> 63 != 0 {
            return Err(Error::Protocol("length with its top bit set"));
        }
        if cursor.position() != size as u64 {
            return Err(Error::Protocol("length in more bytes than it needs"));
        }
        if matches!(header.opcode, OpCode::Control(_)) {
            if !header.is_final {
                return Err(Error::Protocol("control frame in fragments"));
            }
            if payload_len > CONTROL_BYTES_MAX as u64 {
                return Err(Error::Protocol("control frame too long"));
            }
        }
        let payload_len = usize::try_from(payload_len).map_err(|_| Error::TooBig)?;
        let FrameHeader { is_final, opcode, mask, .. } = header;
        Ok(Some(Header { is_final, opcode, mask, payload_len, size }))
    }
}

/// Takes a payload out. What is unmasked, not short and in one piece is not copied.
pub(super) fn read_payload(
    input: &mut LinkBuffer,
    len: usize,
    mask: Option<[u8; 4]>,
) -> Result<Bytes, Short> {
    let Some(mask) = mask else { return input.read_bytes(len) };
    let mut payload = input.read_vec(len)?;
    apply(&mut payload, mask);
    Ok(Bytes::from(payload))
}

/// Writes one whole frame. The payload is linked when there is no mask, and copied once under a mask.
pub(super) fn write(out: &mut LinkBuffer, opcode: OpCode, mask: Option<[u8; 4]>, payload: LinkBuffer) {
    let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
    let mut bytes = [0; HEADER_BYTES_MAX];
    let mut free = &mut bytes[..];
    header.format(payload.len() as u64, &mut free).expect("the longest header fits");
    let size = HEADER_BYTES_MAX - free.len();
    out.write(&bytes[..size]);
    let Some(mut mask) = mask else { return out.append(payload) };
    for chunk in payload.chunks() {
        apply_to(chunk, out.reserve(chunk.len()), mask);
        out.commit(chunk.len());
        mask.rotate_left(chunk.len() % 4);
    }
}

/// Copies a piece of a payload without its mask, which is turned to the first byte.
pub(super) fn unmask(piece: &[u8], mask: [u8; 4]) -> Bytes {
    if piece.len() < UNMASK_NODE_BYTES_MIN {
        let mut bytes = vec![0; piece.len()];
        apply_to(piece, &mut bytes, mask);
        return Bytes::from(bytes);
    }
    // Into a node, because nodes come from a pool and go back there.
    let mut buffer = LinkBuffer::new();
    apply_to(piece, buffer.reserve(piece.len()), mask);
    buffer.commit(piece.len());
    buffer.read_bytes(piece.len()).expect("as much was just committed")
}

/// As [`apply`], from one place to another in one go.
fn apply_to(from: &[u8], to: &mut [u8], mask: [u8; 4]) {
    let wide = wide(mask);
    let (words, rest) = from.as_chunks::<8>();
    let (to_words, to_rest) = to[..from.len()].as_chunks_mut::<8>();
    for (to, from) in to_words.iter_mut().zip(words) {
        *to = (u64::from_ne_bytes(*from) ^ wide).to_ne_bytes();
    }
    for ((to, from), mask) in to_rest.iter_mut().zip(rest).zip(mask.iter().cycle()) {
        *to = from ^ mask;
    }
}

fn wide(mask: [u8; 4]) -> u64 {
    u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]])
}

/// RFC 6455, section 5.3; twice is not at all.
fn apply(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = wide(mask);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The key and the masks of a client: HMAC-SHA256 of a counter, eight masks at a time. Who has seen some of them knows
/// nothing of the others (RFC 6455, section 10.3).
pub(super) struct Masks {
    seed: [u8; 32],
    /// Blocks drawn so far.
    count: u64,
    drawn: [[u8; 4]; 8],
    /// Of `drawn`. Invariant: left <= 8.
    left: usize,
}

impl Masks {
    pub(super) fn new(seed: [u8; 32]) -> Masks {
        Masks { seed, count: 0, drawn: [[0; 4]; 8], left: 0 }
    }

    /// What a client sends as `Sec-WebSocket-Key`: 16 bytes in base64.
    pub(super) fn key(&mut self) -> String {
        STANDARD.encode(&self.block()[..16])
    }

    pub(super) fn next(&mut self) -> [u8; 4] {
        if self.left == 0 {
            let block = self.block();
            let (masks, _) = block.as_chunks::<4>();
            self.drawn.copy_from_slice(masks);
            self.left = self.drawn.len();
        }
        self.left -= 1;
        self.drawn[self.left]
    }

    fn block(&mut self) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.seed).expect("HMAC takes a key of any length");
        mac.update(&self.count.to_le_bytes());
        self.count += 1;
        mac.finalize().into_bytes().into()
    }
}
