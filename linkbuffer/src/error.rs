//! What a reading call says when it cannot.

use std::error::Error;
use std::fmt;
use std::str::Utf8Error;

/// Fewer bytes are there than were asked for: to read, or reserved, or free. Nothing was consumed or changed; more may help.
///
/// # Examples
/// ```
/// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
/// let short = buffer.next(4).unwrap_err();
/// assert_eq!((short.wanted, short.available), (4, 3));
/// assert_eq!(short.to_string(), "4 bytes wanted, 3 available");
/// assert_eq!(std::io::Error::from(short).kind(), std::io::ErrorKind::UnexpectedEof);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// How many bytes were asked for.
    pub wanted: usize,
    /// How many are there.
    pub available: usize,
}

/// Why [`read_string`](crate::LinkBuffer::read_string) read nothing.
///
/// # Examples
/// ```
/// use linkbuffer::{LinkBuffer, ReadStringError};
/// let mut buffer = LinkBuffer::from(&b"\xff"[..]);
/// assert!(matches!(buffer.read_string(1), Err(ReadStringError::Utf8(_))));
/// assert!(matches!(buffer.read_string(2), Err(ReadStringError::Short(_))));
/// let error = buffer.read_string(1).map_err(std::io::Error::from).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadStringError {
    /// The bytes are not all there.
    Short(Short),
    /// The bytes are there and are not UTF-8.
    Utf8(Utf8Error),
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes wanted, {} available", self.wanted, self.available)
    }
}

impl Error for Short {}

impl fmt::Display for ReadStringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(short) => short.fmt(f),
            Self::Utf8(error) => error.fmt(f),
        }
    }
}

impl Error for ReadStringError {}
