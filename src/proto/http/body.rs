//! Bodies: the payload out of its framing, and into another one.
//!
//! The payload is never copied: pieces of the input leave as [`Bytes`] and go out as such.

use bytes::Bytes;
use linkbuffer::LinkBuffer;

use super::chunked::ChunkReader;
use super::{Framing, Reject};

/// The connection ended before the body did: what was received is not the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutShort;

/// More payload, or less, than the announced length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miscount;

/// Takes the payload of one body from a connection's input, however the input is cut.
///
/// Bytes behind the end of the body are left where they are.
///
/// # Examples
/// ```
/// use anyproxy::proto::http::{BodyReader, Framing};
/// use linkbuffer::LinkBuffer;
///
/// let mut input = LinkBuffer::from(&b"5\r\nhello\r\n0\r\n\r\nGET /"[..]);
/// let mut body = BodyReader::new(Framing::Chunked);
/// let mut payload = Vec::new();
/// while let Some(piece) = body.read(&mut input, usize::MAX)? {
///     payload.extend_from_slice(&piece);
/// }
/// assert!(body.is_done());
/// assert_eq!((payload.as_slice(), input.len()), (&b"hello"[..], 5));
/// # Ok::<(), anyproxy::proto::http::Reject>(())
/// ```
#[derive(Debug)]
pub struct BodyReader {
    form: Reading,
    payload: u64,
}

#[derive(Debug)]
enum Reading {
    Length(u64),
    Chunked(Box<ChunkReader>),
    UntilClose,
    Closed,
}

impl BodyReader {
    /// A reader for a body framed so.
    pub fn new(framing: Framing) -> Self {
        let form = match framing {
            Framing::None => Reading::Length(0),
            Framing::Length(n) => Reading::Length(n),
            Framing::Chunked => Reading::Chunked(Box::default()),
            Framing::UntilClose => Reading::UntilClose,
        };
        Self { form, payload: 0 }
    }

    /// The next piece of payload, of at most `max` bytes. `None`: done, or the input is used up.
    ///
    /// # Errors
    /// When the chunked framing is broken; then nothing after it can be read.
    pub fn read(&mut self, input: &mut LinkBuffer, max: usize) -> Result<Option<Bytes>, Reject> {
        loop {
            let available = input.chunk();
            if available.is_empty() {
                return Ok(None);
            }
            let left = match &mut self.form {
                Reading::Length(left) => *left,
                Reading::Chunked(chunks) => {
                    let (framing, left) = chunks.framing(available)?;
                    let more = framing < available.len();
                    if framing > 0 {
                        input.skip(framing).expect("framing was read from these bytes");
                    }
                    if left == 0 && !chunks.is_done() {
                        continue;
                    }
                    if !more {
                        // The payload, if any, begins in the next piece.
                        if left == 0 || input.is_empty() {
                            return Ok(None);
                        }
                    }
                    left
                }
                Reading::UntilClose => u64::MAX,
                Reading::Closed => 0,
            };
            if left == 0 {
                return Ok(None);
            }
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(max);
            let Some(piece) = input.read_chunk(want) else { return Ok(None) };
            let n = piece.len() as u64;
            match &mut self.form {
                Reading::Length(left) => *left -= n,
                Reading::Chunked(chunks) => chunks.taken(n),
                Reading::UntilClose | Reading::Closed => {}
            }
            self.payload += n;
            return Ok(Some(piece));
        }
    }

    /// The body is complete.
    pub fn is_done(&self) -> bool {
        match &self.form {
            Reading::Length(left) => *left == 0,
            Reading::Chunked(chunks) => chunks.is_done(),
            Reading::UntilClose => false,
            Reading::Closed => true,
        }
    }

    /// The connection ended, and everything it carried has been read.
    ///
    /// # Errors
    /// [`CutShort`] when the body was not complete.
    pub fn end(&mut self) -> Result<(), CutShort> {
        if matches!(self.form, Reading::UntilClose) {
            self.form = Reading::Closed;
        }
        if self.is_done() { Ok(()) } else { Err(CutShort) }
    }

    /// Payload read so far, in bytes.
    pub fn payload_len(&self) -> u64 {
        self.payload
    }

    /// Trailer lines as received, CRLF included, once the body is done.
    pub fn trailers(&self) -> &[u8] {
        match &self.form {
            Reading::Chunked(chunks) => chunks.trailers(),
            _ => &[],
        }
    }
}

/// Puts payload into the framing of an outgoing message.
#[derive(Debug)]
pub enum BodyWriter {
    /// So many bytes are still announced.
    Length(u64),
    /// Chunks of our own: one per piece.
    Chunked,
    /// As it is, until the connection closes.
    Raw,
}

impl BodyWriter {
    /// A writer for a message framed so.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked,
            Framing::UntilClose => Self::Raw,
        }
    }

    /// Writes one piece of payload.
    ///
    /// # Errors
    /// [`Miscount`] when that is more than was announced; nothing is written then.
    pub fn write(&mut self, payload: Bytes, out: &mut LinkBuffer) -> Result<(), Miscount> {
        if payload.is_empty() {
            // A chunk of size zero would end the body.
            return Ok(());
        }
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(payload.len() as u64).ok_or(Miscount)?;
                out.write_bytes(payload);
            }
            Self::Chunked => {
                let mut line = [0; 18];
                out.write(size_line(payload.len(), &mut line));
                out.write_bytes(payload);
                out.write(b"\r\n");
            }
            Self::Raw => out.write_bytes(payload),
        }
        Ok(())
    }

    /// Ends the body. `trailers` are whole lines, and only chunks have room for them.
    ///
    /// # Errors
    /// [`Miscount`] when less than was announced has been written.
    pub fn finish(self, trailers: &[u8], out: &mut LinkBuffer) -> Result<(), Miscount> {
        match self {
            Self::Length(0) | Self::Raw => Ok(()),
            Self::Length(_) => Err(Miscount),
            Self::Chunked => {
                out.write(b"0\r\n");
                out.write(trailers);
                out.write(b"\r\n");
                Ok(())
            }
        }
    }
}

/// `size` in hexadecimal and CRLF.
fn size_line(size: usize, line: &mut [u8; 18]) -> &[u8] {
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = size;
    loop {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return &line[at..];
        }
    }
}

#[cfg(test)]
mod tests;
