//! The chain itself: what holds at all times, and the few moves that everything else is made of.

use crate::limits::{
    COMPACT_RATIO_MIN, GROWTH_RATIO_MAX, KEEP_RATIO_MAX, NODE_BYTES_MIN, NODE_POOLED_BYTES_MAX,
    WRITE_NODE_BYTES_MIN,
};
use crate::piece::{Block, Piece, Spine};
use crate::{Node, pool};
use std::fmt;
use std::mem;

/// A queue of bytes in linked pieces: written at one end, read at the other, with as few copies as may be.
///
/// See the [crate documentation](crate) for the picture and for which call to choose.
///
/// # Examples
/// ```
/// use linkbuffer::LinkBuffer;
/// let mut buffer = LinkBuffer::new();
/// buffer.write(b"GET / HTTP/1.1\r\n");
/// assert_eq!(buffer.until(b' '), Some(&b"GET "[..]));
/// assert_eq!(buffer.peek(1), Ok(&b"/"[..]));
/// assert_eq!(buffer.len(), 12);
/// ```
#[doc(alias = "Reader")]
#[doc(alias = "Writer")]
pub struct LinkBuffer {
    /// `Piece::NONE` when there is none. Empty while later pieces are not: only between `next` and the following call.
    pub(crate) first: Piece,
    /// The pieces after the first. Invariant: never an empty spine; each piece has bytes, except a last one that is lent or
    /// holds a reservation.
    pub(crate) rest: Option<Box<Spine>>,
    /// Invariant: the sum of the lengths of all pieces.
    pub(crate) len: usize,
    /// Bytes handed out by `reserve` and not yet committed, right behind the readable ones of the last piece.
    /// Invariant: reserved == 0, or the last piece is a block and reserved <= its room.
    pub(crate) reserved: u32,
    /// What `next` consumed of a shared first piece that the following call lets go of: a `Bytes` cannot show what it has
    /// advanced over. Invariant: spent == 0, or the first piece is shared and spent <= its length.
    pub(crate) spent: u32,
}

impl LinkBuffer {
    /// An empty buffer. It owns no memory. O(1).
    ///
    /// # Examples
    /// ```
    /// assert!(linkbuffer::LinkBuffer::new().is_empty());
    /// ```
    #[doc(alias = "NewLinkBuffer")]
    pub const fn new() -> Self {
        Self { first: Piece::NONE, rest: None, len: 0, reserved: 0, spent: 0 }
    }

    /// How many bytes can be read. O(1).
    ///
    /// # Examples
    /// ```
    /// assert_eq!(linkbuffer::LinkBuffer::from(&b"abc"[..]).len(), 3);
    /// ```
    #[doc(alias = "Len")]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to read. O(1).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// buffer.reserve(10);
    /// assert!(buffer.is_empty());
    /// ```
    #[doc(alias = "IsEmpty")]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops everything readable and reserved. A lent node stays lent. O(pieces).
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"left over"[..]);
    /// buffer.clear();
    /// assert!(buffer.is_empty());
    /// ```
    #[doc(alias = "Close")]
    #[doc(alias = "Release")]
    pub fn clear(&mut self) {
        self.drop_reservation();
        self.consume(self.len);
    }

    /// The readable bytes, piece by piece. Empty pieces are left out. Copies nothing; O(1) a piece.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"one"[..]);
    /// buffer.append(linkbuffer::LinkBuffer::from(vec![b'2'; 5000]));
    /// assert_eq!(buffer.chunks().map(<[u8]>::len).collect::<Vec<_>>(), [3, 5000]);
    /// ```
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let later = self.rest.iter().flat_map(|spine| spine.iter()).map(Piece::readable);
        std::iter::once(self.first_readable()).chain(later).filter(|bytes| !bytes.is_empty())
    }

    #[inline]
    pub(crate) fn first_readable(&self) -> &[u8] {
        &self.first.readable()[self.spent as usize..]
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        std::iter::once(&self.first).chain(self.rest.iter().flat_map(|spine| spine.iter()))
    }

    #[inline]
    pub(crate) fn last(&self) -> &Piece {
        self.rest.as_ref().and_then(|spine| spine.back()).unwrap_or(&self.first)
    }

    #[inline]
    pub(crate) fn last_mut(&mut self) -> &mut Piece {
        match &mut self.rest {
            Some(spine) => spine.back_mut().expect("a spine is never empty"),
            None => &mut self.first,
        }
    }

    /// Lets go of consumed pieces. Every call that changes the buffer starts with it, so that afterwards the first piece has
    /// bytes, or is the only one and is empty, lent or reserved.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if self.first.len() == 0 || self.spent > 0 {
            self.settle_first();
        }
    }

    fn settle_first(&mut self) {
        self.first.advance(mem::take(&mut self.spent) as usize);
        while self.first.len() == 0 && self.rest.is_some() {
            drop(self.pop_front());
        }
        if self.first.len() > 0 || self.reserved > 0 {
            return;
        }
        match &mut self.first {
            Piece::Block(block) if block.lent => {
                block.start = 0;
                block.end = 0;
            }
            other => *other = Piece::NONE,
        }
    }

    /// Consumes `n <= len` bytes.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len, "no more is consumed than there is");
        self.settle();
        self.len -= n;
        if n < self.first.len() {
            self.first.advance(n);
        } else {
            self.consume_pieces(n);
        }
        self.check();
    }

    /// Consumes the whole first piece and goes on to `n` bytes in all. Pieces are dropped as they are, not byte by byte.
    fn consume_pieces(&mut self, n: usize) {
        let mut left = n - self.first.len();
        let Some(spine) = &mut self.rest else {
            self.first.advance(n);
            return self.settle_first();
        };
        let mut whole = 0;
        for piece in spine.iter() {
            // The last piece stays, as the first: it may be lent or hold a reservation.
            if left < piece.len() || whole + 1 == spine.len() {
                break;
            }
            left -= piece.len();
            whole += 1;
        }
        if whole > 0 {
            drop(spine.drain(..whole));
        }
        self.first = spine.pop_front().expect("a spine is never empty");
        self.first.advance(left);
        self.drop_empty_spine();
        self.settle();
    }

    pub(crate) fn pop_front(&mut self) -> Piece {
        let following = match &mut self.rest {
            Some(spine) => spine.pop_front().expect("a spine is never empty"),
            None => Piece::NONE,
        };
        self.drop_empty_spine();
        mem::replace(&mut self.first, following)
    }

    pub(crate) fn pop_back(&mut self) -> Piece {
        match &mut self.rest {
            Some(spine) => {
                let piece = spine.pop_back().expect("a spine is never empty");
                self.drop_empty_spine();
                piece
            }
            None => mem::replace(&mut self.first, Piece::NONE),
        }
    }

    pub(crate) fn drop_empty_spine(&mut self) {
        if let Some(spine) = self.rest.take_if(|spine| spine.is_empty()) {
            pool::give_spine(spine);
        }
    }

    /// Forgets what is reserved, and the node that was taken for it alone.
    #[inline]
    pub(crate) fn drop_reservation(&mut self) {
        if self.reserved > 0 {
            self.drop_reserved();
        }
    }

    #[cold]
    fn drop_reserved(&mut self) {
        self.reserved = 0;
        if self.last().len() == 0 && !self.last().is_lent() {
            drop(self.pop_back());
        }
    }

    /// Hangs a piece behind the last one and counts its bytes. A lent node that would no longer be last
    /// is no longer lent, and an open reservation is dropped.
    #[inline]
    pub(crate) fn push(&mut self, piece: Piece) {
        self.drop_reservation();
        self.settle();
        if self.last().is_lent() {
            drop(self.take_lent());
        }
        self.grow(piece.len());
        if self.first.len() == 0 {
            self.first = piece;
        } else {
            self.rest.get_or_insert_with(pool::take_spine).push_back(piece);
        }
    }

    /// Counts what was added. Only a `Bytes` linked again and again gets near the end of the counter, and only where it has
    /// 32 bits.
    #[inline]
    pub(crate) fn grow(&mut self, n: usize) {
        self.len = self.len.checked_add(n).expect("a buffer's length fits a usize");
    }

    /// Ends the lending: see [`LinkBuffer::reclaim`].
    pub(crate) fn take_lent(&mut self) -> Option<Node> {
        self.drop_reservation();
        self.settle();
        if !self.last().is_lent() {
            return None;
        }
        let Piece::Block(mut block) = self.pop_back() else { return None };
        if block.len() == 0 {
            return Some(block.node);
        }
        self.len -= block.len();
        if block.len() >= block.node.capacity().div_ceil(KEEP_RATIO_MAX) {
            // Moving the bytes would cost more than it gives back.
            block.lent = false;
            self.push(Piece::Block(block));
            return None;
        }
        self.pack(block.readable(), NODE_BYTES_MIN);
        Some(block.node)
    }

    /// Copies bytes behind the last ones: into the room of the last node first, then into new nodes. `floor` is the least
    /// size of a new one.
    #[inline]
    pub(crate) fn pack(&mut self, bytes: &[u8], floor: usize) {
        if self.reserved == 0
            && self.spent == 0
            && let Piece::Block(block) = self.last_mut()
            && block.start < block.end
            && let Some(room) = block.node.bytes_mut().get_mut(block.end..block.end + bytes.len())
        {
            room.copy_from_slice(bytes);
            block.end += bytes.len();
            self.grow(bytes.len());
        } else {
            self.pack_on(bytes, floor);
        }
    }

    fn pack_on(&mut self, bytes: &[u8], floor: usize) {
        self.drop_reservation();
        self.settle();
        let mut left = bytes;
        if let Piece::Block(block) = self.last_mut() {
            // A queue that moves along keeps its node: what is readable goes to the front, a small part of what went by.
            if block.room() < left.len() && block.start / COMPACT_RATIO_MIN >= block.len() {
                block.compact();
            }
            let (now, later) = left.split_at(left.len().min(block.room()));
            block.put(now);
            left = later;
            self.grow(now.len());
        }
        while !left.is_empty() {
            let mut block = Block::new(Node::take(self.next_capacity(left.len(), floor)));
            let (now, later) = left.split_at(left.len().min(block.room()));
            block.put(now);
            self.push(Piece::Block(block));
            left = later;
        }
    }

    /// The size of the node that takes `n` more bytes: GROWTH_RATIO times a full node, small behind a linked `Bytes` (a frame
    /// head between two bodies), one pooled node at most.
    pub(crate) fn next_capacity(&self, n: usize, floor: usize) -> usize {
        let grown = match self.last() {
            Piece::Block(block) => block.node.capacity().saturating_mul(GROWTH_RATIO_MAX),
            Piece::Shared(bytes) if bytes.is_empty() => floor,
            Piece::Shared(_) => NODE_BYTES_MIN,
        };
        n.max(grown).min(NODE_POOLED_BYTES_MAX)
    }

    /// As [`LinkBuffer::pack`], for what an owner writes.
    #[inline]
    pub(crate) fn pack_written(&mut self, bytes: &[u8]) {
        self.pack(bytes, WRITE_NODE_BYTES_MIN);
    }

    /// Asserts the invariants in debug builds.
    #[inline]
    pub(crate) fn check(&self) {
        if cfg!(debug_assertions) {
            self.invariants();
        }
    }

    /// Panics where an invariant does not hold. O(pieces).
    pub(crate) fn invariants(&self) {
        let total: usize = self.pieces().map(Piece::len).sum();
        assert_eq!(self.len, total - self.spent as usize, "len is the sum of the pieces");
        assert!(self.spent == 0 || matches!(self.first, Piece::Shared(_)), "only a shared piece is spent");
        let after_first = self.rest.as_ref().map_or(0, |spine| spine.len());
        assert!(self.rest.is_none() || after_first > 0, "a spine is never empty");
        for (index, piece) in self.pieces().enumerate() {
            let is_last = index == after_first;
            if let Piece::Block(block) = piece {
                assert!(
                    block.start <= block.end && block.end <= block.node.capacity(),
                    "a block lies in its node"
                );
                assert!(!block.lent || is_last, "only the last piece is lent");
            }
            let may_be_empty = index == 0 || is_last && (piece.is_lent() || self.reserved > 0);
            assert!(piece.len() > 0 || may_be_empty, "piece {index} of {after_first} is empty: {self:?}");
        }
        if self.reserved > 0 {
            assert!(self.reserved as usize <= self.last().room(), "a reservation lies in the last node");
        }
    }
}

impl Default for LinkBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LinkBuffer {
    fn drop(&mut self) {
        if let Some(mut spine) = self.rest.take() {
            spine.clear();
            pool::give_spine(spine);
        }
    }
}

/// Shows the shape, never the bytes: `LinkBuffer { len: 5003, reserved: 0, pieces: [shared 3, node 5000/8192] }`.
impl fmt::Debug for LinkBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces: Vec<&Piece> = self.pieces().filter(|piece| !piece.is_none()).collect();
        f.debug_struct("LinkBuffer")
            .field("len", &self.len)
            .field("reserved", &self.reserved)
            .field("pieces", &pieces)
            .finish()
    }
}

impl Piece {
    fn is_none(&self) -> bool {
        matches!(self, Self::Shared(bytes) if bytes.is_empty())
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => {
                let kind = if block.lent { "lent" } else { "node" };
                write!(f, "{kind} {}/{}", block.len(), block.node.capacity())
            }
            Self::Shared(bytes) => write!(f, "shared {}", bytes.len()),
        }
    }
}
