//! The writing side. What is written can be read at once: the buffer has one owner, so there is nothing to publish.

use crate::limits::{LINK_BYTES_MIN, RESERVED_BYTES_MAX};
use crate::piece::Piece;
use crate::{LinkBuffer, Short, pool};
use bytes::Bytes;
use std::mem;

impl LinkBuffer {
    /// Copies bytes in, behind the last ones, filling the tail node before another one is taken. O(`bytes.len()`).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.write(b"HTTP/1.1 ");
    /// buffer.write(b"200 OK\r\n");
    /// assert_eq!(buffer.chunk(), b"HTTP/1.1 200 OK\r\n");
    /// ```
    #[doc(alias = "WriteBinary")]
    #[doc(alias = "WriteString")]
    #[doc(alias = "WriteByte")]
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.pack(bytes);
        self.check();
    }

    /// Links owned bytes in, behind the last ones, without a copy: O(1). Under 2 KiB ([`LINK_BYTES_MIN`]) they are copied as
    /// [`write`](Self::write) does it, which is quicker than one more piece.
    ///
    /// # Examples
    /// ```
    /// let page = bytes::Bytes::from(vec![b'x'; 4000]);
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.write_bytes(page.clone());
    /// assert_eq!(buffer.chunk().as_ptr(), page.as_ptr());
    /// ```
    #[inline]
    pub fn write_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < LINK_BYTES_MIN {
            return self.write(&bytes);
        }
        self.push(Piece::shared(bytes));
        self.check();
    }

    /// Moves another buffer's bytes behind the last ones. O(1) into an empty buffer, otherwise O(pieces moved).
    ///
    /// Pieces move as they are, except that one of less than 2 KiB is copied where the last node has room for it: so many
    /// small buffers do not end as many nodes that hold little.
    ///
    /// A node lent to `other` is no longer lent, nor is one lent to this buffer once a piece hangs behind it.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"head"[..]);
    /// buffer.append(linkbuffer::LinkBuffer::from(&b"body"[..]));
    /// assert_eq!(buffer.peek(8), Ok(&b"headbody"[..]));
    /// ```
    #[doc(alias = "Append")]
    #[doc(alias = "WriteBuffer")]
    pub fn append(&mut self, mut other: LinkBuffer) {
        if other.is_empty() {
            return;
        }
        if other.is_lent() {
            drop(other.take_lent());
        }
        other.settle();
        self.drop_reservation();
        self.settle();
        if self.is_empty() {
            mem::swap(self, &mut other);
        } else {
            other.len = 0;
            while let Some(piece) = other.pop_front() {
                let is_small = piece.len() < LINK_BYTES_MIN;
                if is_small && self.last().is_some_and(|last| last.room() >= piece.len()) {
                    self.pack(piece.readable());
                    pool::give(piece);
                } else {
                    self.push(piece);
                }
            }
        }
        self.check();
    }

    /// Space for `n` more bytes, contiguous, to be written and then made readable by [`commit`](Self::commit).
    ///
    /// Reserving again before the commit adds space behind what is reserved already, and one `commit` serves both. The space
    /// holds some bytes, not zeroes: commit what was written and no more. Every other call that writes, moves or reads from
    /// outside drops an open reservation; looking at and consuming bytes do not, except where they take the last node's memory
    /// out as `Bytes`. O(1); where what is reserved has to move to a larger node, that one has twice the room, so that each
    /// reserved byte moves once on average however a reservation grows.
    ///
    /// # Panics
    /// Beyond [`RESERVED_BYTES_MAX`]: a length that somebody else chose goes to [`try_reserve`](Self::try_reserve).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(16)[..5].copy_from_slice(b"hello");
    /// assert!(buffer.is_empty());
    /// buffer.commit(5);
    /// assert_eq!(buffer.chunk(), b"hello");
    /// ```
    /// The space implements [`bytes::BufMut`], which counts what is put into it.
    /// ```
    /// use bytes::BufMut;
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// let mut space = buffer.reserve(16);
    /// space.put_u16(3);
    /// space.put_slice(b"abc");
    /// let left = space.len();
    /// buffer.commit(16 - left);
    /// assert_eq!(buffer.chunk(), b"\x00\x03abc");
    /// ```
    #[doc(alias = "Malloc")]
    #[doc(alias = "BufMut")]
    #[inline]
    #[track_caller]
    pub fn reserve(&mut self, n: usize) -> &mut [u8] {
        match self.try_reserve(n) {
            Ok(space) => space,
            Err(short) => panic!("reserve: {short}"),
        }
    }

    /// As [`reserve`](Self::reserve), for a length from outside.
    ///
    /// # Errors
    /// When more than [`RESERVED_BYTES_MAX`] would be reserved; what is reserved already stays so, and the error says how much
    /// more can be.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// assert_eq!(buffer.try_reserve(3).map(|space| space.len()), Ok(3));
    /// let short = buffer.try_reserve(usize::MAX).map(|space| space.len()).unwrap_err();
    /// assert_eq!(short.available, linkbuffer::limits::RESERVED_BYTES_MAX - 3);
    /// ```
    pub fn try_reserve(&mut self, n: usize) -> Result<&mut [u8], Short> {
        let reserved = self.reserved();
        let available = RESERVED_BYTES_MAX - reserved;
        if n > available {
            return Err(Short { wanted: n, available });
        }
        if n == 0 {
            return Ok(&mut []);
        }
        self.settle();
        let total = reserved + n;
        if self.last().map_or(0, Piece::room) < total {
            self.move_reservation(total);
        }
        self.set_reserved(total);
        self.check();
        Ok(&mut self.reserved_mut()[reserved..])
    }

    /// Takes a node for `total` reserved bytes and moves those that are reserved already.
    fn move_reservation(&mut self, total: usize) {
        let reserved = self.reserved();
        // One that grows doubles at least, so that growing it bit by bit does not copy again and again.
        let capacity = if reserved > 0 { total.next_power_of_two() } else { total };
        let mut node = pool::take(capacity.max(self.next_capacity(total)));
        node.room_mut()[..reserved].copy_from_slice(self.reserved_mut());
        self.push(node);
    }

    #[inline]
    fn set_reserved(&mut self, n: usize) {
        if let Some(first) = &mut self.first {
            first.reserved = n as u32;
        }
    }

    /// What is reserved and not yet committed, to be written. O(1).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(2);
    /// buffer.reserve(2);
    /// buffer.reserved_mut().copy_from_slice(b"both");
    /// buffer.flush();
    /// assert_eq!(buffer.chunk(), b"both");
    /// ```
    #[inline]
    pub fn reserved_mut(&mut self) -> &mut [u8] {
        let reserved = self.reserved();
        match self.last_mut() {
            Some(last) => &mut last.room_mut()[..reserved],
            None => &mut [],
        }
    }

    /// Puts owned bytes ahead of the last `before` reserved ones, without a copy from 2 KiB on: a body between a head and a
    /// trailer that were reserved together.
    ///
    /// What is reserved ahead of them is committed with them; the last `before` bytes stay reserved, with what was written to
    /// them. So insert from front to back. O(`before`): those bytes move, to another node unless few bytes are inserted and
    /// the node has room for them. With nothing reserved it is [`write_bytes`](Self::write_bytes).
    ///
    /// # Errors
    /// When fewer than `before` bytes are reserved; nothing changes then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(6).copy_from_slice(b"<b></b");
    /// buffer.insert("bold".into(), 3)?;
    /// assert_eq!((buffer.len(), buffer.reserved_len()), (7, 3));
    /// buffer.flush();
    /// assert_eq!(buffer.peek(10), Ok(&b"<b>bold</b"[..]));
    /// # Ok::<(), linkbuffer::Short>(())
    /// ```
    #[doc(alias = "WriteDirect")]
    pub fn insert(&mut self, bytes: Bytes, before: usize) -> Result<(), Short> {
        let available = self.reserved();
        let Some(ahead) = available.checked_sub(before) else {
            return Err(Short { wanted: before, available });
        };
        if before == 0 {
            self.commit(ahead);
            self.write_bytes(bytes);
        } else if bytes.is_empty() {
            self.commit_some(ahead);
        } else if bytes.len() < LINK_BYTES_MIN
            && let Some(last) = self.last_mut()
            && !last.lent
            && let Some(space) = last.room_mut().get_mut(ahead..available + bytes.len())
        {
            // In place: what lies behind makes room.
            space.copy_within(..before, bytes.len());
            space[..bytes.len()].copy_from_slice(&bytes);
            self.set_reserved(available + bytes.len());
            self.commit_some(ahead + bytes.len());
        } else {
            let mut behind = pool::take(before);
            behind.room_mut()[..before].copy_from_slice(&self.reserved_mut()[ahead..]);
            self.commit(ahead);
            self.write_bytes(bytes);
            self.push(behind);
            self.set_reserved(before);
        }
        self.check_unsettled();
        Ok(())
    }

    /// Makes the first `n` reserved bytes readable and forgets the others. O(1).
    ///
    /// # Panics
    /// When fewer than `n` bytes are reserved: a length that somebody else chose goes to [`try_commit`](Self::try_commit).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(4).copy_from_slice(b"head");
    /// buffer.reserve(4).copy_from_slice(b"body");
    /// buffer.commit(8);
    /// assert_eq!(buffer.chunk(), b"headbody");
    /// ```
    #[doc(alias = "MallocAck")]
    #[inline]
    #[track_caller]
    pub fn commit(&mut self, n: usize) {
        if let Err(short) = self.try_commit(n) {
            panic!("commit: {short}");
        }
    }

    /// As [`commit`](Self::commit), for a length from outside.
    ///
    /// # Errors
    /// When fewer than `n` bytes are reserved; they stay so then, and the error says how many.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Short};
    /// let mut buffer = LinkBuffer::new();
    /// buffer.reserve(4).copy_from_slice(b"head");
    /// assert_eq!(buffer.try_commit(5), Err(Short { wanted: 5, available: 4 }));
    /// assert_eq!(buffer.try_commit(4), Ok(()));
    /// ```
    #[inline]
    pub fn try_commit(&mut self, n: usize) -> Result<(), Short> {
        let available = self.reserved();
        if n > available {
            return Err(Short { wanted: n, available });
        }
        if n > 0 {
            self.commit_some(n);
            self.set_reserved(0);
        }
        self.drop_reservation();
        self.check_unsettled();
        Ok(())
    }

    /// Makes the first `n <= reserved` reserved bytes readable and leaves the others reserved.
    #[inline]
    fn commit_some(&mut self, n: usize) {
        self.set_reserved(self.reserved() - n);
        self.grow(n);
        if let Some(last) = self.last_mut() {
            last.end += n;
        }
    }

    /// Makes everything reserved readable; again, or with nothing reserved, it does nothing. O(1).
    ///
    /// What is *written* needs no flush: it can be read at once.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(4).copy_from_slice(b"head");
    /// buffer.flush();
    /// buffer.flush();
    /// assert_eq!(buffer.chunk(), b"head");
    /// ```
    #[doc(alias = "Flush")]
    #[inline]
    pub fn flush(&mut self) {
        self.commit(self.reserved_len());
    }

    /// How many bytes are reserved and not committed. O(1).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(100);
    /// assert_eq!(buffer.reserved_len(), 100);
    /// ```
    #[doc(alias = "MallocLen")]
    #[inline]
    pub const fn reserved_len(&self) -> usize {
        self.reserved()
    }
}
