//! The traits of `bytes` and `std::io`, and conversions.

use crate::piece::Piece;
use crate::{LinkBuffer, ReadStringError, Short};
use bytes::{Buf, Bytes};
use std::io::{self, BufRead, IoSlice, Read, Write};

/// `advance` and `copy_to_bytes` panic beyond [`remaining`](Buf::remaining): the trait asks for it. [`LinkBuffer::skip`] and
/// [`LinkBuffer::read_bytes`] say instead how much there is.
///
/// `BufMut` is an unsafe trait, which a crate without unsafe code cannot implement. [`LinkBuffer::reserve`] and
/// [`LinkBuffer::commit`] serve its purpose, and so does [`io::Write`] for everything that formats.
impl Buf for LinkBuffer {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        LinkBuffer::chunk(self)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.io_slices(slices)
    }

    fn advance(&mut self, n: usize) {
        if let Err(short) = self.skip(n) {
            panic!("{short}");
        }
    }

    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        match self.read_bytes(n) {
            Ok(bytes) => bytes,
            Err(short) => panic!("{short}"),
        }
    }
}

/// Never fails and never waits: `Ok(0)` means that the buffer is empty.
impl Read for LinkBuffer {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let n = target.len().min(self.len());
        self.copy_to_slice(&mut target[..n])?;
        Ok(n)
    }
}

/// `consume` goes to the end of what is there at most.
impl BufRead for LinkBuffer {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.settle();
        self.check();
        Ok(LinkBuffer::chunk(self))
    }

    fn consume(&mut self, n: usize) {
        LinkBuffer::consume(self, n.min(self.len()));
    }
}

/// Never fails and never writes less than all.
impl Write for LinkBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LinkBuffer::write(self, bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.iter().for_each(|slice| LinkBuffer::write(self, slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        LinkBuffer::flush(self);
        Ok(())
    }
}

/// Links the bytes, whatever their number.
impl From<Bytes> for LinkBuffer {
    fn from(bytes: Bytes) -> Self {
        let mut buffer = Self::new();
        if !bytes.is_empty() {
            buffer.push(Piece::shared(bytes));
        }
        buffer.check();
        buffer
    }
}

impl From<Vec<u8>> for LinkBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<&'static [u8]> for LinkBuffer {
    fn from(bytes: &'static [u8]) -> Self {
        Self::from(Bytes::from_static(bytes))
    }
}

/// Text that is none is `InvalidData`.
impl From<ReadStringError> for io::Error {
    fn from(error: ReadStringError) -> Self {
        match error {
            ReadStringError::Short(short) => short.into(),
            ReadStringError::Utf8(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// `UnexpectedEof`, as reading calls say it in `std::io`. Where it came from a call that writes, say there what it means.
impl From<Short> for io::Error {
    fn from(short: Short) -> Self {
        io::Error::new(io::ErrorKind::UnexpectedEof, short)
    }
}
