//! The reading side, owned: what outlives the buffer, without a copy where that pays.
//!
//! ```text
//!   read_bytes(n), n >= 4 KiB:   [node ▓▓▓▓▓▓▓▓▓▓] becomes shared ──▶ Bytes ▓▓▓▓▓ + [Bytes ▓▓▓▓▓]   one node, two views of it
//!   read_bytes(n), n <  4 KiB:   [node ▓▓▓▓▓▓▓▓▓▓]  stays ours    ──▶ Bytes ▓ (copied)
//!   split_to(n), whole pieces:   they move as they are
//! ```

use crate::limits::ZERO_COPY_BYTES_MIN;
use crate::piece::Piece;
use crate::{LinkBuffer, ReadStringError, Short, pool};
use bytes::Bytes;

impl LinkBuffer {
    /// Reads `n` bytes as `Bytes`, which stay valid whatever becomes of the buffer.
    ///
    /// From 4 KiB ([`limits`](crate::limits)) on the memory is shared, when one piece holds them all; fewer bytes are copied, and
    /// so is less than a sixteenth of a larger node, so that they never keep much memory alive. Bytes of several pieces are
    /// copied too (see [`split_to`](Self::split_to) and [`read_chunk`](Self::read_chunk) for reads that leave pieces apart).
    /// Memory that was linked, not written, is shared from 4 KiB on whatever its size: it is its owner's. O(1), O(`n`) where it copies.
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
    #[doc(alias = "ReadBinary")]
    pub fn read_bytes(&mut self, n: usize) -> Result<Bytes, Short> {
        self.want(n)?;
        self.settle();
        if let Some(first) = &self.first
            && n <= first.len()
            && first.may_share(n)
        {
            return Ok(self.share_first(n));
        }
        if let Some(bytes) = self.first_readable().get(..n) {
            let bytes = Bytes::copy_from_slice(bytes);
            self.consume(n);
            return Ok(bytes);
        }
        self.read_vec(n).map(Bytes::from)
    }

    /// Reads the first piece, `max` bytes of it at most, as `Bytes`; `None` when there is nothing or `max` is 0.
    ///
    /// Never joins pieces; shares memory where [`read_bytes`](Self::read_bytes) does, and costs what that costs.
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
        self.check();
        let n = self.first_readable().len().min(max);
        if n == 0 {
            return None;
        }
        self.read_bytes(n).ok()
    }

    /// Reads `n` bytes into a new vector. O(`n`).
    ///
    /// # Errors
    /// When fewer than `n` bytes are there; nothing is consumed then.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"abc"[..]);
    /// assert_eq!(buffer.read_vec(2), Ok(b"ab".to_vec()));
    /// ```
    #[doc(alias = "ReadBinary")]
    pub fn read_vec(&mut self, n: usize) -> Result<Vec<u8>, Short> {
        self.want(n)?;
        let bytes = self.gather(n);
        self.consume(n);
        Ok(bytes)
    }

    /// A copy of the first `n <= len` bytes.
    fn gather(&self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n);
        for chunk in self.chunks() {
            let left = n - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(left)]);
            if bytes.len() == n {
                break;
            }
        }
        bytes
    }

    /// Reads `n` bytes of UTF-8, over pieces without joining them first. O(`n`).
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
        self.want(n).map_err(ReadStringError::Short)?;
        let text = match self.first_readable().get(..n) {
            // Before it is copied.
            Some(bytes) => std::str::from_utf8(bytes).map_err(ReadStringError::Utf8)?.to_owned(),
            None => String::from_utf8(self.gather(n))
                .map_err(|error| ReadStringError::Utf8(error.utf8_error()))?,
        };
        self.consume(n);
        Ok(text)
    }

    /// Moves the first `n` bytes into a buffer of their own.
    ///
    /// Whole pieces move as they are: nothing is copied, counted or allocated. The piece in which the cut lies is shared by
    /// both sides, or its smaller part is copied when that is under 4 KiB, and so is a few bytes' piece of a large node. The last
    /// piece is copied where a reservation lies behind it. O(pieces), and O(bytes copied).
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
        if n == self.len && self.reserved() == 0 && self.may_leave() && !self.has_leftover() {
            std::mem::swap(self, &mut head);
            if let Some(last) = head.last_mut() {
                last.lent = false;
            }
            self.check();
            head.check();
            return Ok(head);
        }
        let mut left = n;
        while left > 0 {
            let Some(first) = &self.first else { break };
            let first_len = first.len();
            if left < first_len {
                self.cut_first(left, &mut head);
                break;
            }
            left -= first_len;
            if first.rest.is_empty() && (first.reserved > 0 || !self.may_leave()) {
                self.cut_first(first_len, &mut head);
                break;
            }
            self.len -= first_len;
            if let Some(mut piece) = self.pop_front() {
                piece.lent = false;
                if piece.is_leftover() {
                    head.pack_small(piece.readable());
                    pool::give(piece);
                } else {
                    head.push(piece);
                }
            }
        }
        self.settle();
        self.check();
        head.check();
        Ok(head)
    }

    /// Whether the last piece can move to another buffer as it is: a lent node is too large to leave for a few bytes.
    fn may_leave(&self) -> bool {
        self.last().is_none_or(|last| !last.lent || last.len() >= ZERO_COPY_BYTES_MIN)
    }

    /// Whether a piece holds too little for its memory to leave as it is.
    #[inline]
    fn has_leftover(&self) -> bool {
        self.first.as_ref().is_some_and(|first| {
            first.is_leftover()
                || !first.rest.is_empty() && first.rest.iter().any(|piece| piece.is_leftover())
        })
    }

    /// Moves the first `n <= first.len()` bytes to `head`: by sharing the piece where both parts are large, otherwise by
    /// copying the smaller one.
    fn cut_first(&mut self, n: usize, head: &mut LinkBuffer) {
        let Some(first) = &mut self.first else { return };
        let stays = first.len() - n;
        if !first.may_share(n) || first.reserved > 0 && first.rest.is_empty() {
            head.pack_small(&first.readable()[..n]);
            self.consume(n);
        } else if !first.may_share(stays) {
            let mut small = pool::take(stays);
            small.put_all(&first.readable()[n..]);
            first.end = first.start + n;
            first.lent = false;
            self.len -= n;
            head.push(first.replace(small));
        } else {
            let node_len = first.node_len();
            head.push(Piece::shared_of_node(self.share_first(n), node_len));
        }
    }

    /// Takes `n <= first.len()` bytes out of the first piece without a copy.
    fn share_first(&mut self, n: usize) -> Bytes {
        if self.first.as_ref().is_some_and(|first| first.rest.is_empty()) {
            self.drop_reservation();
        }
        let bytes = self.first.as_mut().map_or_else(Bytes::new, |first| first.split_shared(n));
        self.len -= n;
        self.settle();
        self.check();
        bytes
    }
}
