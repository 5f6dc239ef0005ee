//! The reading side: borrowed slices, owned bytes, integers.

use crate::limits::{SPENT_BYTES_MAX, ZERO_COPY_BYTES_MIN};
use crate::piece::{Block, Piece};
use crate::{LinkBuffer, Node, ReadStringError, Short};
use bytes::Bytes;

macro_rules! read_integer {
    ($($name:ident $kind:ty, $bits:literal, $alias:literal;)*) => { $(
        #[doc = concat!("Reads a ", $bits, "-bit unsigned integer, the most significant byte first.")]
        ///
        /// # Errors
        /// When fewer bytes are there; nothing is consumed then.
        ///
        /// # Examples
        /// ```
        /// let mut buffer = linkbuffer::LinkBuffer::from(&[0, 0, 0, 0, 0, 0, 0, 0][..]);
        #[doc = concat!("assert_eq!(buffer.", stringify!($name), "(), Ok(0));")]
        /// ```
        #[doc(alias = $alias)]
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
        Ok(&self.first.readable()[..n])
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
    #[doc(alias = "ReadBinary")]
    #[inline]
    pub fn next(&mut self, n: usize) -> Result<&[u8], Short> {
        self.make_contiguous(n)?;
        if n > SPENT_BYTES_MAX {
            self.first.make_block();
        }
        self.len -= n;
        // The consumed bytes stay where they are until the next call that changes the buffer: the borrow ends before it.
        match &mut self.first {
            Piece::Block(block) => {
                let start = block.start;
                block.start += n;
                Ok(&block.node.bytes()[start..start + n])
            }
            Piece::Shared(bytes) => {
                self.spent = n as u32;
                Ok(&bytes[..n])
            }
        }
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

    /// Reads `n` bytes as `Bytes`, which stay valid whatever becomes of the buffer.
    ///
    /// From 4 KiB ([`limits`](crate::limits)) on the memory is shared, when one piece holds them all; fewer bytes are copied, so
    /// that they never keep a large node alive, and so are bytes of several pieces (see [`split_to`](Self::split_to) and
    /// [`read_chunk`](Self::read_chunk) for reads that leave pieces apart).
    ///
    /// # Errors
    /// When fewer than `n` bytes are there; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(vec![7; 10_000]);
    /// let owned = buffer.read_bytes(9_000)?;
    /// drop(buffer);
    /// assert_eq!(owned, vec![7; 9_000]);
    /// # Ok::<(), linkbuffer::Short>(())
    /// ```
    pub fn read_bytes(&mut self, n: usize) -> Result<Bytes, Short> {
        self.want(n)?;
        self.settle();
        if n >= ZERO_COPY_BYTES_MIN && n <= self.first.len() {
            return Ok(self.share_first(n));
        }
        if n <= self.first.len() {
            let bytes = Bytes::copy_from_slice(&self.first.readable()[..n]);
            self.consume(n);
            return Ok(bytes);
        }
        self.read_vec(n).map(Bytes::from)
    }

    /// Reads the first piece, `max` bytes of it at most, as `Bytes`; `None` when there is nothing or `max` is 0.
    ///
    /// Never joins pieces; shares memory from 4 KiB on, as [`read_bytes`](Self::read_bytes) does.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(vec![7; 10_000]);
    /// assert_eq!(buffer.read_chunk(6_000).map(|bytes| bytes.len()), Some(6_000));
    /// assert_eq!(buffer.read_chunk(6_000).map(|bytes| bytes.len()), Some(4_000));
    /// assert_eq!(buffer.read_chunk(6_000), None);
    /// ```
    pub fn read_chunk(&mut self, max: usize) -> Option<Bytes> {
        self.settle();
        let n = self.first.len().min(max);
        if n == 0 {
            return None;
        }
        self.read_bytes(n).ok()
    }

    /// Reads `n` bytes into a new vector.
    ///
    /// # Errors
    /// When fewer than `n` bytes are there; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// assert_eq!(buffer.read_vec(2), Ok(b"ab".to_vec()));
    /// ```
    pub fn read_vec(&mut self, n: usize) -> Result<Vec<u8>, Short> {
        self.want(n)?;
        let mut bytes = Vec::with_capacity(n);
        for chunk in self.chunks() {
            let left = n - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(left)]);
            if bytes.len() == n {
                break;
            }
        }
        self.consume(n);
        Ok(bytes)
    }

    /// Reads `n` bytes of UTF-8.
    ///
    /// # Errors
    /// When fewer than `n` bytes are there or they are not UTF-8; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from("grün".as_bytes());
    /// assert_eq!(buffer.read_string(5).as_deref(), Ok("grün"));
    /// ```
    #[doc(alias = "ReadString")]
    pub fn read_string(&mut self, n: usize) -> Result<String, ReadStringError> {
        let text = std::str::from_utf8(self.peek(n).map_err(ReadStringError::Short)?);
        let text = text.map_err(ReadStringError::Utf8)?.to_owned();
        self.consume(n);
        Ok(text)
    }

    /// Fills `target` with the first bytes.
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
        read_u8 u8, 8, "ReadByte";
        read_u16 u16, 16, "ReadUint16";
        read_u32 u32, 32, "ReadUint32";
        read_u64 u64, 64, "ReadUint64";
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

    /// Moves the first `n` bytes into a buffer of their own.
    ///
    /// Whole pieces move as they are: nothing is copied, counted or allocated. The piece in which the cut lies is shared by
    /// both sides, or its smaller part is copied when that is under 4 KiB. O(pieces).
    ///
    /// # Errors
    /// When fewer than `n` bytes are there; nothing is moved then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"headbody"[..]);
    /// let head = buffer.split_to(4)?;
    /// assert_eq!(head.chunk(), b"head");
    /// assert_eq!(buffer.chunk(), b"body");
    /// # Ok::<(), linkbuffer::Short>(())
    /// ```
    #[doc(alias = "Slice")]
    pub fn split_to(&mut self, n: usize) -> Result<LinkBuffer, Short> {
        self.want(n)?;
        self.settle();
        let mut head = LinkBuffer::new();
        let mut left = n;
        while left > 0 {
            let first_len = self.first.len();
            if left < first_len {
                self.cut_first(left, &mut head);
                break;
            }
            left -= first_len;
            let is_last = self.rest.is_none();
            if is_last && (self.reserved > 0 || self.first.is_lent() && first_len < ZERO_COPY_BYTES_MIN) {
                // The node has to stay, or is too large to leave for so little.
                self.cut_first(first_len, &mut head);
                break;
            }
            self.len -= first_len;
            let mut piece = self.pop_front();
            if let Piece::Block(block) = &mut piece {
                block.lent = false;
            }
            head.push(piece);
        }
        self.settle();
        self.check();
        head.check();
        Ok(head)
    }

    /// Moves the first `n <= first.len()` bytes to `head`: by sharing the piece where both parts are large, otherwise by
    /// copying the smaller one.
    fn cut_first(&mut self, n: usize, head: &mut LinkBuffer) {
        let stays = self.first.len() - n;
        if n < ZERO_COPY_BYTES_MIN || self.reserved > 0 && self.rest.is_none() {
            head.pack(&self.first.readable()[..n], n);
            self.consume(n);
        } else if stays < ZERO_COPY_BYTES_MIN
            && let Piece::Block(block) = &mut self.first
        {
            let mut small = Block::new(Node::take(stays));
            small.put(&block.readable()[n..]);
            block.end = block.start + n;
            block.lent = false;
            let large = std::mem::replace(&mut self.first, Piece::Block(small));
            self.len -= n;
            head.push(large);
        } else {
            head.push(Piece::Shared(self.share_first(n)));
        }
    }

    /// Takes `0 < n <= first.len()` bytes out of the first piece without a copy.
    fn share_first(&mut self, n: usize) -> Bytes {
        if self.rest.is_none() {
            self.drop_reservation();
        }
        let bytes = self.first.split_shared(n);
        self.len -= n;
        self.settle();
        self.check();
        bytes
    }

    #[inline]
    pub(crate) fn want(&self, n: usize) -> Result<(), Short> {
        if n <= self.len { Ok(()) } else { Err(Short { wanted: n, available: self.len }) }
    }

    /// Sees to it that the first piece holds `n` bytes.
    #[inline]
    fn make_contiguous(&mut self, n: usize) -> Result<(), Short> {
        self.settle();
        if n > self.first.len() {
            self.want(n)?;
            self.join(n);
        }
        Ok(())
    }

    /// Copies what the first piece lacks of `n` bytes behind it: into its own node when they fit there.
    fn join(&mut self, n: usize) {
        self.first.make_block_for(n);
        let Piece::Block(block) = &mut self.first else { return };
        let Some(spine) = &mut self.rest else { return };
        while block.len() < n {
            let lacks = n - block.len();
            let is_last = spine.len() == 1;
            let piece = spine.front_mut().expect("len is the sum of the pieces");
            let step = lacks.min(piece.len());
            block.put(&piece.readable()[..step]);
            piece.advance(step);
            if piece.len() == 0 && !(is_last && (piece.is_lent() || self.reserved > 0)) {
                spine.pop_front();
            }
        }
        self.drop_empty_spine();
        self.check();
    }
}

impl Piece {
    /// Turns the piece into a block with space for `n >= len()` readable bytes, moving as little as it can.
    fn make_block_for(&mut self, n: usize) {
        match self {
            Self::Block(block) if block.len() + block.room() >= n => {}
            Self::Block(block) if block.node.capacity() >= n => block.compact(),
            _ => {
                // Room to grow, so that peeking further and further does not copy again and again.
                let mut block = Block::new(Node::take(n.checked_next_power_of_two().unwrap_or(n)));
                block.put(self.readable());
                *self = Self::Block(block);
            }
        }
    }

    fn make_block(&mut self) {
        if matches!(self, Self::Shared(_)) {
            self.make_block_for(self.len());
        }
    }
}
