//! The reading side, borrowed: slices that end with their borrow, and integers.

use crate::{LinkBuffer, Short, pool};
use std::mem;

macro_rules! read_integer {
    ($($(#[$alias:meta])? $name:ident $kind:ty, $bits:literal;)*) => { $(
        $(#[$alias])?
        #[doc = concat!("Reads a ", $bits, "-bit unsigned integer, the most significant byte first. O(1); copies its bytes.")]
        ///
        /// Signed ones and those with the least significant byte first are read through [`bytes::Buf`], by calls such as
        /// [`try_get_i32_le`](bytes::Buf::try_get_i32_le).
        ///
        /// # Errors
        /// When fewer bytes are there; nothing is consumed then.
        ///
        /// # Examples
        /// ```
        /// let mut buffer = linkbuffer::LinkBuffer::from(&[0, 0, 0, 0, 0, 0, 0, 0][..]);
        #[doc = concat!("assert_eq!(buffer.", stringify!($name), "(), Ok(0));")]
        /// ```
        #[inline]
        pub fn $name(&mut self) -> Result<$kind, Short> {
            self.read_array().map(<$kind>::from_be_bytes)
        }
    )* };
}

impl LinkBuffer {
    /// The first contiguous readable bytes. Never copies; empty only when the buffer is empty. O(1).
    ///
    /// # Examples
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// assert_eq!(buffer.chunk(), b"abc");
    /// ```
    #[inline]
    pub fn chunk(&self) -> &[u8] {
        let bytes = self.first_readable();
        if bytes.is_empty() { self.chunks().next().unwrap_or_default() } else { bytes }
    }

    /// The first `n` bytes, contiguous and not consumed.
    ///
    /// O(1) when the first piece holds them. Otherwise they are joined, once: the bytes that the first piece lacks are copied
    /// behind it, and peeking the same bytes again costs nothing.
    ///
    /// # Errors
    /// When fewer than `n` bytes are there.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Short};
    /// let mut buffer = LinkBuffer::from(&b"abc"[..]);
    /// assert_eq!(buffer.peek(2), Ok(&b"ab"[..]));
    /// assert_eq!(buffer.peek(4), Err(Short { wanted: 4, available: 3 }));
    /// ```
    /// A slice ends with its borrow: it cannot be kept over a call that changes the buffer.
    /// ```compile_fail,E0499
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// let head = buffer.peek(2);
    /// buffer.clear();
    /// assert!(head.is_ok());
    /// ```
    /// Nor can it be kept when the buffer is gone.
    /// ```compile_fail,E0505
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// let head = buffer.peek(2);
    /// drop(buffer);
    /// assert!(head.is_ok());
    /// ```
    #[doc(alias = "Peek")]
    #[inline]
    pub fn peek(&mut self, n: usize) -> Result<&[u8], Short> {
        self.make_contiguous(n)?;
        Ok(&self.first_readable()[..n])
    }

    /// The first `n` bytes, contiguous and consumed. Costs what [`peek`](Self::peek) costs.
    ///
    /// # Errors
    /// When fewer than `n` bytes are there; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// assert_eq!(buffer.next(2), Ok(&b"ab"[..]));
    /// assert_eq!(buffer.len(), 1);
    /// ```
    #[doc(alias = "Next")]
    #[inline]
    pub fn next(&mut self, n: usize) -> Result<&[u8], Short> {
        self.make_contiguous(n)?;
        self.len -= n;
        if let Some(first) = &mut self.first {
            first.start += n;
        }
        self.check_unsettled();
        // The consumed bytes stay where they are until the next call that changes the buffer: the borrow ends before it.
        Ok(self.first.as_ref().map_or(&[], |first| &first.bytes()[first.start - n..first.start]))
    }

    /// Consumes `n` bytes without looking at them. O(pieces dropped).
    ///
    /// # Errors
    /// When fewer than `n` bytes are there; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// assert_eq!(buffer.skip(2), Ok(()));
    /// assert_eq!(buffer.chunk(), b"c");
    /// ```
    #[doc(alias = "Skip")]
    #[inline]
    pub fn skip(&mut self, n: usize) -> Result<(), Short> {
        self.want(n)?;
        self.consume(n);
        Ok(())
    }

    /// Fills `target` with the first bytes, over any number of pieces. O(`target.len()`).
    ///
    /// # Errors
    /// When fewer than `target.len()` bytes are there; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// let mut two = [0; 2];
    /// assert_eq!(buffer.copy_to_slice(&mut two), Ok(()));
    /// assert_eq!(&two, b"ab");
    /// ```
    #[inline]
    pub fn copy_to_slice(&mut self, target: &mut [u8]) -> Result<(), Short> {
        self.want(target.len())?;
        let mut left = &mut target[..];
        for chunk in self.chunks() {
            let n = chunk.len().min(left.len());
            let (now, later) = left.split_at_mut(n);
            now.copy_from_slice(&chunk[..n]);
            left = later;
            if left.is_empty() {
                break;
            }
        }
        self.consume(target.len());
        Ok(())
    }

    read_integer! {
        #[doc(alias = "ReadByte")]
        read_u8 u8, 8;
        read_u16 u16, 16;
        read_u32 u32, 32;
        read_u64 u64, 64;
    }

    #[inline]
    fn read_array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let mut array = [0; N];
        if let Some(bytes) = self.first_readable().first_chunk() {
            array = *bytes;
            self.consume(N);
        } else {
            self.copy_to_slice(&mut array)?;
        }
        Ok(array)
    }

    #[inline]
    pub(crate) fn want(&self, n: usize) -> Result<(), Short> {
        if n <= self.len { Ok(()) } else { Err(Short { wanted: n, available: self.len }) }
    }

    /// Sees to it that the first piece holds `n` bytes.
    #[inline]
    fn make_contiguous(&mut self, n: usize) -> Result<(), Short> {
        if self.first.as_ref().is_none_or(|first| n > first.len()) {
            self.settle_and_join(n)?;
        }
        self.check_unsettled();
        Ok(())
    }

    fn settle_and_join(&mut self, n: usize) -> Result<(), Short> {
        self.want(n)?;
        self.settle();
        if self.first.as_ref().is_some_and(|first| n > first.len()) {
            self.join(n);
        }
        Ok(())
    }

    /// Copies what the first piece lacks of `n` bytes behind it: into its own node when they fit there.
    fn join(&mut self, n: usize) {
        let Some(first) = &mut self.first else { return };
        if first.room() < n - first.len() {
            if first.capacity() >= n {
                first.compact();
            } else {
                // Room to grow, so that peeking further and further does not copy again and again.
                let mut node = pool::take(n.next_power_of_two().min(isize::MAX as usize));
                node.put_all(first.readable());
                pool::give(first.replace(node));
            }
        }
        let mut rest = mem::take(&mut first.rest);
        while first.len() < n {
            let lacks = n - first.len();
            let is_last = rest.len() == 1;
            let piece = rest.front_mut().expect("len is the sum of the pieces");
            let step = lacks.min(piece.len());
            first.put_all(&piece.readable()[..step]);
            piece.start += step;
            if piece.is_empty()
                && !(is_last && (piece.lent || first.reserved > 0))
                && let Some(piece) = rest.pop_front()
            {
                pool::give(piece);
            }
        }
        first.rest = rest;
    }
}
