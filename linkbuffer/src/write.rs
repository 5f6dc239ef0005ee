//! The writing side. What is written can be read at once: the buffer has one owner, so there is nothing to publish.

use crate::limits::{LINK_BYTES_MIN, RESERVED_BYTES_MAX, WRITE_NODE_BYTES_MIN};
use crate::piece::{Block, Piece};
use crate::{LinkBuffer, Node};
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
        self.pack_written(bytes);
        self.check();
    }

    /// Links owned bytes in, behind the last ones, without a copy: O(1). Under 1 KiB they are copied, which is quicker than one
    /// more slice to send.
    ///
    /// # Examples
    /// ```
    /// let page = bytes::Bytes::from(vec![b'x'; 4000]);
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.write_bytes(page.clone());
    /// assert_eq!(buffer.chunk().as_ptr(), page.as_ptr());
    /// ```
    #[doc(alias = "WriteDirect")]
    pub fn write_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < LINK_BYTES_MIN {
            self.pack_written(&bytes);
        } else {
            self.push(Piece::Shared(bytes));
        }
        self.check();
    }

    /// Moves another buffer's bytes behind the last ones. O(1) into an empty buffer, otherwise O(pieces moved).
    ///
    /// Pieces move as they are, except that one of less than 1 KiB is copied where the last node has room for it: so many
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
        drop(other.take_lent());
        other.settle();
        if other.is_empty() {
            return;
        }
        self.drop_reservation();
        self.settle();
        if self.is_empty() {
            mem::swap(self, &mut other);
        } else {
            while !other.is_empty() {
                let piece = other.pop_front();
                other.len -= piece.len();
                if piece.len() < LINK_BYTES_MIN && self.last().room() >= piece.len() {
                    self.pack_written(piece.readable());
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
    /// out as `Bytes`. O(`n`) at most, O(1) when the tail node has room.
    ///
    /// # Panics
    /// When more than 4 GiB are reserved, or memory is out.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(16)[..5].copy_from_slice(b"hello");
    /// assert!(buffer.is_empty());
    /// buffer.commit(5);
    /// assert_eq!(buffer.chunk(), b"hello");
    /// ```
    #[doc(alias = "Malloc")]
    pub fn reserve(&mut self, n: usize) -> &mut [u8] {
        if n == 0 {
            return &mut [];
        }
        self.settle();
        let reserved = self.reserved as usize;
        let total = reserved.saturating_add(n);
        assert!(total <= RESERVED_BYTES_MAX, "at most 4 GiB are reserved at a time");
        if self.last().room() < total {
            self.move_reservation(total);
        }
        self.reserved = total as u32;
        self.check();
        match self.last_mut() {
            Piece::Block(block) => &mut block.room_mut()[reserved..total],
            Piece::Shared(_) => &mut [],
        }
    }

    /// Takes a node for `total` reserved bytes and moves those that are reserved already.
    fn move_reservation(&mut self, total: usize) {
        let reserved = self.reserved as usize;
        let mut block = Block::new(Node::take(total.max(self.next_capacity(total, WRITE_NODE_BYTES_MIN))));
        if let Piece::Block(last) = self.last_mut() {
            block.room_mut()[..reserved].copy_from_slice(&last.room_mut()[..reserved]);
        }
        self.push(Piece::Block(block));
    }

    /// Makes the first `n` reserved bytes readable and forgets the others. O(1).
    ///
    /// # Panics
    /// When fewer than `n` bytes are reserved.
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
    #[doc(alias = "Flush")]
    pub fn commit(&mut self, n: usize) {
        assert!(n <= self.reserved as usize, "{n} bytes are committed, {} are reserved", self.reserved);
        if n > 0 {
            self.reserved = 0;
            self.len += n;
            if let Piece::Block(block) = self.last_mut() {
                block.end += n;
            }
        }
        self.drop_reservation();
        self.check();
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
    pub const fn reserved_len(&self) -> usize {
        self.reserved as usize
    }
}
