//! What a reading call says when it cannot.

use std::error::Error;
use std::fmt;
use std::str::Utf8Error;

/// Fewer bytes are readable than were asked for. Nothing was consumed; more bytes may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// How many bytes were asked for.
    pub wanted: usize,
    /// How many are there.
    pub available: usize,
}

/// Why [`read_string`](crate::LinkBuffer::read_string) read nothing.
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
