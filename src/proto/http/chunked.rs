//! The chunked coding (RFC 9112 section 7.1), read strictly, one byte of framing at a time.
//!
//! ```text
//!   1a;name="value" CRLF  <26 bytes> CRLF  ...  0 CRLF  Trailer: x CRLF  CRLF
//!   Size    Ext     Lf      Data    DataCr..    Size     Trailer..       End
//! ```
//!
//! Only CRLF ends a line, only hexadecimal digits are a size, extensions follow the grammar. What an attacker can make
//! us read without payload is bounded: one extension by its length, all framing together by the *excess*, which
//! grows with every framing byte and is paid off by payload, so that a long honest body never reaches it.

use super::Reject;
use super::fields::is_tchar;
use crate::limits::http::{
    CHUNK_EXCESS_MAX_BYTES, CHUNK_EXTENSION_MAX_BYTES, CHUNK_FREE_BYTES, CHUNK_SIZE_MAX_DIGITS, TRAILERS_MAX,
    TRAILERS_MAX_BYTES,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    BlankAfterSize,
    BeforeName,
    Name,
    BlankAfterName,
    BeforeValue,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Line,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Takes chunked framing apart.
#[derive(Debug, Default)]
pub(crate) struct ChunkReader {
    state: State,
    /// The size while it is read, then what is left of the chunk.
    left: u64,
    /// Digits of the size. Invariant: digits <= CHUNK_SIZE_MAX_DIGITS.
    digits: u8,
    /// Bytes of the extension of this chunk. Invariant: extension <= CHUNK_EXTENSION_MAX_BYTES.
    extension: usize,
    /// Framing not yet paid off. Invariant: excess <= CHUNK_EXCESS_MAX_BYTES.
    excess: u64,
    /// Complete trailer fields. Invariant: trailer_count <= TRAILERS_MAX.
    trailer_count: usize,
    /// Trailer lines as they came, CRLF included. Invariant: trailers.len() <= TRAILERS_MAX_BYTES.
    trailers: Vec<u8>,
}

impl ChunkReader {
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The trailer lines; complete once the body is done.
    pub(crate) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Reads framing from the beginning of `input`: how many bytes of it, and how many bytes of payload may follow.
    pub(crate) fn framing(&mut self, input: &[u8]) -> Result<(usize, u64), Reject> {
        for (at, &byte) in input.iter().enumerate() {
            if matches!(self.state, State::Data | State::Done) {
                return Ok((at, self.left));
            }
            self.state = self.step(byte)?;
        }
        Ok((input.len(), self.left_now()))
    }

    fn left_now(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    /// `n` bytes of payload were taken.
    pub(crate) fn taken(&mut self, n: u64) {
        debug_assert!(self.state == State::Data && n <= self.left, "payload taken was offered");
        self.left -= n;
        self.excess = self.excess.saturating_sub(n);
        if self.left == 0 {
            self.state = State::DataCr;
        }
    }

    fn step(&mut self, byte: u8) -> Result<State, Reject> {
        use State::*;
        let next = match (self.state, byte) {
            (Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.digits == CHUNK_SIZE_MAX_DIGITS {
                    return Err(Reject::bad("chunk size too large"));
                }
                self.digits += 1;
                let digit = (byte as char).to_digit(16).expect("the pattern names hexadecimal digits");
                self.left = self.left << 4 | u64::from(digit);
                return Ok(Size);
            }
            (Size, _) if self.digits == 0 => return Err(Reject::bad("bad chunk size")),
            (Size | Name | Value | AfterQuoted, b'\r') => return Ok(SizeLf),
            (SizeLf, b'\n') => return self.size_done(),

            (Size | Value | AfterQuoted | BlankAfterSize, b' ' | b'\t') => BlankAfterSize,
            (Size | Name | Value | AfterQuoted | BlankAfterSize | BlankAfterName, b';') => BeforeName,
            (BeforeName, b' ' | b'\t') => BeforeName,
            (BeforeName | Name, _) if is_tchar(byte) => Name,
            (Name | BlankAfterName, b'=') => BeforeValue,
            (Name | BlankAfterName, b' ' | b'\t') => BlankAfterName,
            (BeforeValue, b' ' | b'\t') => BeforeValue,
            (BeforeValue, b'"') => Quoted,
            (BeforeValue | Value, _) if is_tchar(byte) => Value,
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | b' '..=b'~' | 0x80..) => Quoted,

            (DataCr, b'\r') => return Ok(DataLf),
            (DataLf, b'\n') => return Ok(Size),

            (Line, b'\r') => return Ok(EndLf),
            (EndLf, b'\n') => return Ok(Done),
            (Line, _) if is_tchar(byte) => return self.trailer(byte, TrailerName),
            (TrailerName, b':') => return self.trailer(byte, TrailerValue),
            (TrailerName, _) if is_tchar(byte) => return self.trailer(byte, TrailerName),
            (TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => return self.trailer(byte, TrailerValue),
            (TrailerValue, b'\r') => return self.trailer(byte, TrailerLf),
            (TrailerLf, b'\n') => {
                self.trailer_count += 1;
                return self.trailer(byte, Line);
            }

            (Size, _) => return Err(Reject::bad("bad chunk size")),
            (SizeLf | DataLf | EndLf | TrailerLf, _) => {
                return Err(Reject::bad("CR without LF in chunked body"));
            }
            (DataCr, _) => return Err(Reject::bad("chunk longer than its size")),
            (Line | TrailerName | TrailerValue, _) => return Err(Reject::bad("bad trailer field")),
            _ => return Err(Reject::bad("bad chunk extension")),
        };
        self.extension += 1;
        if self.extension > CHUNK_EXTENSION_MAX_BYTES {
            return Err(Reject::bad("chunk extension too long"));
        }
        Ok(next)
    }

    fn size_done(&mut self) -> Result<State, Reject> {
        self.excess += u64::from(self.digits) + self.extension as u64 + 4;
        self.excess = self.excess.saturating_sub(CHUNK_FREE_BYTES);
        if self.excess > CHUNK_EXCESS_MAX_BYTES {
            return Err(Reject::bad("too much chunk framing for its payload"));
        }
        (self.digits, self.extension) = (0, 0);
        Ok(if self.left == 0 { State::Line } else { State::Data })
    }

    fn trailer(&mut self, byte: u8, next: State) -> Result<State, Reject> {
        if self.trailers.len() == TRAILERS_MAX_BYTES || self.trailer_count > TRAILERS_MAX {
            return Err(Reject::new(431, "trailers too large"));
        }
        self.trailers.push(byte);
        Ok(next)
    }
}
