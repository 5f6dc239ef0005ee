//! The frames of the tunnel: a head of twelve bytes, then a body.
//!
//! ```text
//!   0        1        2                 4                                   8                                  12
//!   ├────────┼────────┼─────────────────┼───────────────────────────────────┼───────────────────────────────────┼────────
//!   │ type   │ flags  │ reserved        │ stream                            │ length of the body                │ body
//!   └────────┴────────┴─────────────────┴───────────────────────────────────┴───────────────────────────────────┴────────
//! ```
//!
//! Flags and the reserved bytes are zero in version 1. Frames about the session have stream 0, frames about a stream never.
//! [`Decoder`] cuts a byte stream into frames: a head is judged as soon as it is complete, so that no memory is ever taken for a
//! length that was only claimed, and a body that lies whole in one input is a slice of it.

mod body;
mod code;

pub use body::{AuthErr, Frame, GoAway, Hello, OpenRequest, Opened, PortRequest, Welcome};
pub use code::{AuthErrCode, GoAwayCode, Network, PortError, RefuseCode, ResetCode};

use crate::limits::{CONTROL_BODY_BYTES_MAX, DATA_BODY_BYTES_MAX, DGRAM_BODY_BYTES_MAX};
use crate::proto::wire::WireError;
use bytes::{Buf, Bytes, BytesMut};
use std::fmt;

/// Bytes in the head of every frame.
pub const HEAD_SIZE: usize = 12;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// The type of a frame, as its first byte.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value,)* }

        impl Kind {
            /// Every type that version 1 knows.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// The type with this number.
            pub fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// The client says who it is.
    Hello = 1,
    /// The gateway answers with what it chose.
    Welcome = 2,
    /// The client proves that it knows the secret.
    Auth = 3,
    /// The gateway takes the proof and gives its own.
    AuthOk = 4,
    /// The gateway refuses.
    AuthErr = 5,
    /// Asks whether the peer lives.
    Ping = 6,
    /// Says so.
    Pong = 7,
    /// No more streams, or the end of the session.
    GoAway = 8,
    /// Opens a stream.
    Open = 16,
    /// The target answered.
    OpenOk = 17,
    /// The target did not.
    OpenErr = 18,
    /// Bytes.
    Data = 19,
    /// Credit.
    Window = 20,
    /// No more bytes will come; the other direction goes on.
    Fin = 21,
    /// The stream is over in both directions.
    Rst = 22,
    /// Sent after FIN: what the peer still has to say is not wanted.
    Stop = 23,
    /// One datagram.
    Dgram = 24,
    /// The client asks for a port on the gateway.
    PortOpen = 32,
    /// The port is open.
    PortOk = 33,
    /// It is not.
    PortErr = 34,
    /// The port is given back.
    PortClose = 35,
}

impl Kind {
    /// Whether frames of this type are about one stream.
    pub fn is_stream(self) -> bool {
        (Kind::Open as u8..=Kind::Dgram as u8).contains(&(self as u8))
    }

    /// The most bytes that a body of this type may have.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Kind::Data => DATA_BODY_BYTES_MAX,
            Kind::Dgram => DGRAM_BODY_BYTES_MAX,
            Kind::Fin => 0,
            Kind::Window => 4,
            Kind::Ping | Kind::Pong => 8,
            Kind::Rst | Kind::Stop => 1,
            Kind::Auth | Kind::AuthOk => 32,
            _ => CONTROL_BODY_BYTES_MAX,
        }
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// No such type.
    UnknownType(u8),
    /// Flags or reserved bytes that version 1 does not know.
    Reserved(Kind),
    /// A frame about the session that names a stream, or one about a stream that names none.
    Stream(Kind),
    /// A body longer than its type allows.
    Oversize {
        /// The type.
        kind: Kind,
        /// The length that was claimed.
        len: u32,
    },
    /// A body that cannot be read.
    Body(Kind, WireError),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::UnknownType(value) => write!(f, "frame type {value} is unknown"),
            FrameError::Reserved(kind) => write!(f, "{kind:?} frame with flags or reserved bytes set"),
            FrameError::Stream(kind) => write!(f, "{kind:?} frame on a stream where it may not stand"),
            FrameError::Oversize { kind, len } => {
                write!(f, "{kind:?} frame of {len} bytes, at most {} are allowed", kind.body_bytes_max())
            }
            FrameError::Body(kind, error) => write!(f, "{kind:?} frame: {error}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The head of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the frame is.
    pub kind: Kind,
    /// The stream that it is about, or 0.
    pub stream: u32,
    /// Bytes that follow. Invariant: len ≤ kind.body_bytes_max().
    pub len: usize,
}

impl Head {
    /// The twelve bytes.
    pub fn encode(self) -> [u8; HEAD_SIZE] {
        let mut out = [0; HEAD_SIZE];
        out[0] = self.kind as u8;
        out[4..8].copy_from_slice(&self.stream.to_be_bytes());
        let len = u32::try_from(self.len).expect("every body is shorter than 64 KiB");
        out[8..12].copy_from_slice(&len.to_be_bytes());
        out
    }

    /// Judges twelve bytes.
    ///
    /// # Errors
    /// When no frame of version 1 begins like this.
    pub fn decode(bytes: &[u8; HEAD_SIZE]) -> Result<Self, FrameError> {
        let [kind, flags, reserved @ .., s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        let kind = Kind::from_u8(kind).ok_or(FrameError::UnknownType(kind))?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if flags != 0 || reserved != [0; 2] {
            return Err(FrameError::Reserved(kind));
        }
        if kind.is_stream() != (stream != 0) {
            return Err(FrameError::Stream(kind));
        }
        match usize::try_from(len) {
            Ok(len) if len <= kind.body_bytes_max() => Ok(Self { kind, stream, len }),
            _ => Err(FrameError::Oversize { kind, len }),
        }
    }
}

/// A frame, or a part of the body of a DATA frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The frame's head, the same for each of its parts.
    pub head: Head,
    /// All of the body, or a part of it. Never empty behind the first.
    pub body: Bytes,
    /// Whether the frame begins here.
    pub first: bool,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a frame that did not come whole. Invariant: shorter than the frame.
    partial: BytesMut,
    /// What is left of the last input. Invariant: empty while `partial` waits for more.
    input: Bytes,
    /// The DATA frame whose body is being handed on, and how much of that is still to come. Invariant: then `partial` is empty.
    data: Option<(Head, usize)>,
}

impl Decoder {
    /// Takes the next bytes; all frames or pieces of the last ones have been taken.
    pub fn push(&mut self, input: Bytes) {
        debug_assert!(self.input.is_empty(), "the last input was read to its end");
        self.input = input;
    }

    /// Whether all that came was whole frames, once they have been taken.
    pub fn is_between_frames(&self) -> bool {
        self.data.is_none() && self.partial.is_empty() && self.input.is_empty()
    }

    /// Drops everything: the peer is not listened to any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Memory that is kept for a frame that is not whole yet.
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// The next whole frame, or `None` until there is more input. Who takes pieces as well takes the last of a frame first.
    ///
    /// # Errors
    /// When the bytes are no frame; there is no way to go on after that.
    pub fn next_frame(&mut self) -> Result<Option<(Head, Bytes)>, FrameError> {
        debug_assert!(self.data.is_none(), "the last piece of a frame comes before the next frame");
        if self.partial.is_empty()
            && let Some(bytes) = self.input.first_chunk::<HEAD_SIZE>()
        {
            let head = Head::decode(bytes)?;
            if self.input.len() >= HEAD_SIZE + head.len {
                let frame = self.input.split_to(HEAD_SIZE + head.len);
                return Ok(Some((head, frame.slice(HEAD_SIZE..))));
            }
        }
        if !self.fill(HEAD_SIZE) {
            return Ok(None);
        }
        let head = Head::decode(self.partial.first_chunk().expect("a whole head was just filled"))?;
        if !self.fill(HEAD_SIZE + head.len) {
            return Ok(None);
        }
        let frame = std::mem::take(&mut self.partial).freeze();
        Ok(Some((head, frame.slice(HEAD_SIZE..))))
    }

    /// As [`next_frame`](Self::next_frame), but the body of a DATA frame comes in parts as it arrived: none of it waits for the rest, and
    /// none is copied.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FrameError> {
        if let Some((head, left)) = self.data {
            return Ok(self.part(head, left, false));
        }
        if let Some(head) = self.data_head()? {
            return Ok(self.part(head, head.len, true));
        }
        Ok(self.next_frame()?.map(|(head, body)| Piece { head, body, first: true }))
    }

    /// Takes the head of a DATA frame whose body has begun to arrive, or is empty.
    fn data_head(&mut self) -> Result<Option<Head>, FrameError> {
        let is_data = |head: Head, behind: usize| head.kind == Kind::Data && (behind > 0 || head.len == 0);
        if self.partial.is_empty() {
            let Some(bytes) = self.input.first_chunk::<HEAD_SIZE>() else { return Ok(None) };
            let head = Head::decode(bytes)?;
            let found = is_data(head, self.input.len() - HEAD_SIZE);
            if found {
                self.input.advance(HEAD_SIZE);
            }
            return Ok(found.then_some(head));
        }
        if self.partial.len() > HEAD_SIZE || !self.fill(HEAD_SIZE) {
            return Ok(None);
        }
        let head = Head::decode(self.partial.first_chunk().expect("a whole head was just filled"))?;
        let found = is_data(head, self.input.len());
        if found {
            self.partial.clear();
        }
        Ok(found.then_some(head))
    }

    fn part(&mut self, head: Head, left: usize, first: bool) -> Option<Piece> {
        let len = left.min(self.input.len());
        self.data = (left > len).then_some((head, left - len));
        let body = self.input.split_to(len);
        (first || !body.is_empty()).then_some(Piece { head, body, first })
    }

    /// Moves input over until `partial` has `len` bytes; memory grows with what arrived, not with what was claimed.
    fn fill(&mut self, len: usize) -> bool {
        let n = len.saturating_sub(self.partial.len()).min(self.input.len());
        self.partial.extend_from_slice(&self.input.split_to(n));
        self.partial.len() >= len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_keep_their_numbers() {
        for value in 0..=u8::MAX {
            let kind = Kind::from_u8(value);
            assert!(kind.is_none_or(|kind| kind as u8 == value && Kind::ALL.contains(&kind)));
        }
        assert_eq!(Kind::ALL.len(), 21);
    }

    #[test]
    fn frames_come_out_whatever_the_cut_and_whole_bodies_are_not_copied() {
        let mut bytes = Vec::new();
        let bodies: [&[u8]; 4] = [b"", b"x", &[7; 100], b"yz"];
        for (i, body) in bodies.iter().enumerate() {
            bytes.extend_from_slice(
                &Head { kind: Kind::Data, stream: i as u32 + 1, len: body.len() }.encode(),
            );
            bytes.extend_from_slice(body);
        }
        let bytes = Bytes::from(bytes);
        for piece in 1..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = 0;
            for cut in bytes.chunks(piece) {
                decoder.push(bytes.slice_ref(cut));
                while let Some((head, body)) = decoder.next_frame().expect("no error") {
                    assert_eq!((head.stream as usize, &body[..]), (seen + 1, bodies[seen]));
                    let whole = bytes.as_ptr_range().contains(&body.as_ptr());
                    assert!(whole || piece < bytes.len() || body.is_empty());
                    seen += 1;
                }
            }
            assert_eq!(seen, bodies.len());
        }
    }

    #[test]
    fn the_body_of_data_is_handed_on_as_it_comes_and_never_copied() {
        let (first, second) = (Frame::Data(vec![7; 100].into()), Frame::Data(vec![8; 9].into()));
        let frames = [first.encode(1), Frame::Window(5).encode(1), second.encode(3), Frame::Fin.encode(3)];
        let bytes = Bytes::from(frames.concat());
        for piece in 1..=bytes.len() {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for cut in bytes.chunks(piece) {
                decoder.push(bytes.slice_ref(cut));
                let mut arrived = 0;
                while let Some(piece) = decoder.next_piece().expect("no error") {
                    let Piece { head, body, first } = piece;
                    if head.kind == Kind::Data {
                        assert!(!body.is_empty() && bytes.as_ptr_range().contains(&body.as_ptr()));
                        arrived += body.len();
                    }
                    match (first, seen.last_mut()) {
                        (true, _) => seen.push((head, body.to_vec())),
                        (false, Some((same, before))) if *same == head => before.extend_from_slice(&body),
                        other => panic!("a part of no frame: {other:?}"),
                    }
                }
                assert!(arrived <= cut.len() && decoder.held_bytes() < 64, "at once");
            }
            let want = [(Kind::Data, 1, vec![7; 100]), (Kind::Window, 1, vec![0, 0, 0, 5])];
            let want = want.into_iter().chain([(Kind::Data, 3, vec![8; 9]), (Kind::Fin, 3, vec![])]);
            let want: Vec<_> =
                want.map(|(kind, stream, body)| (Head { kind, stream, len: body.len() }, body)).collect();
            assert_eq!(seen, want, "pieces of {piece}");
        }
    }

    // proves T12: judged on the head, before any body arrived
    #[test]
    fn a_bad_head_is_refused_at_its_last_byte() {
        #[track_caller]
        fn check(head: [u8; HEAD_SIZE], want: FrameError) {
            let mut decoder = Decoder::default();
            decoder.push(Bytes::copy_from_slice(&head[..11]));
            assert_eq!(decoder.next_frame(), Ok(None));
            decoder.push(Bytes::copy_from_slice(&head[11..]));
            assert_eq!(decoder.next_frame(), Err(want));
        }
        check([99, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], FrameError::UnknownType(99));
        check([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], FrameError::UnknownType(0));
        check([19, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], FrameError::Reserved(Kind::Data));
        check([19, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], FrameError::Reserved(Kind::Data));
        check([19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Stream(Kind::Data));
        check([6, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8], FrameError::Stream(Kind::Ping));
        let len = DATA_BODY_BYTES_MAX as u32 + 1;
        check([19, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x40, 1], FrameError::Oversize { kind: Kind::Data, len });
        check(
            [19, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 255],
            FrameError::Oversize { kind: Kind::Data, len: u32::MAX },
        );
        check([21, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], FrameError::Oversize { kind: Kind::Fin, len: 1 });
        let len = CONTROL_BODY_BYTES_MAX as u32 + 1;
        check([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1], FrameError::Oversize { kind: Kind::Hello, len });
        check([16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 1], FrameError::Oversize { kind: Kind::Open, len });
        // One less is not judged before its body came.
        let mut decoder = Decoder::default();
        decoder.push(Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]));
        assert_eq!(decoder.next_frame(), Ok(None));
    }
}
