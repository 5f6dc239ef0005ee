//! The chain itself: what holds at all times, and the few moves that everything else is made of.

use crate::limits::{
    COMPACT_RATIO_MIN, GROWTH_RATIO_MAX, NODE_BYTES_MIN, NODE_POOLED_BYTES_MAX, WRITE_NODE_BYTES_MIN,
};
use crate::piece::Piece;
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
    /// The first piece, which carries those behind it. Invariant: each has bytes, except the first from `next` until the next
    /// call that writes, moves or consumes bytes, and a last one that is lent or holds a reservation.
    pub(crate) first: Option<Box<Piece>>,
    /// Invariant: the sum of the lengths of all pieces, and <= `isize::MAX`.
    pub(crate) len: usize,
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
        Self { first: None, len: 0 }
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
        self.pieces().map(Piece::readable).filter(|bytes| !bytes.is_empty())
    }

    #[inline]
    pub(crate) fn first_readable(&self) -> &[u8] {
        self.first.as_ref().map_or(&[], |first| first.readable())
    }

    #[inline]
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let first = self.first.as_deref();
        first.into_iter().chain(first.into_iter().flat_map(|first| first.rest.iter().map(|piece| &**piece)))
    }

    #[inline]
    pub(crate) fn last(&self) -> Option<&Piece> {
        let first = self.first.as_deref()?;
        Some(first.rest.back().map_or(first, |last| last))
    }

    #[inline]
    pub(crate) fn last_mut(&mut self) -> Option<&mut Piece> {
        let first = self.first.as_deref_mut()?;
        if first.rest.is_empty() { Some(first) } else { first.rest.back_mut().map(|last| &mut **last) }
    }

    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.last().is_some_and(|last| last.lent)
    }

    #[inline]
    pub(crate) const fn reserved(&self) -> usize {
        match &self.first {
            Some(first) => first.reserved as usize,
            None => 0,
        }
    }

    /// Lets go of consumed pieces. Every call that changes the buffer starts with it, so that afterwards the first piece has
    /// bytes, or is the only one and is lent or reserved.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if let Some(first) = &self.first
            && first.is_empty()
        {
            self.settle_first();
        }
    }

    fn settle_first(&mut self) {
        while let Some(first) = &mut self.first
            && first.is_empty()
        {
            if first.rest.is_empty() {
                return self.settle_last(0);
            }
            self.drop_front();
        }
    }

    /// Lets go of the only piece, whose last `n` bytes were consumed; of one that is lent, all is room again.
    #[inline]
    fn settle_last(&mut self, n: usize) {
        if let Some(first) = &mut self.first {
            if first.reserved > 0 {
                first.start += n;
            } else if first.lent {
                first.start = 0;
                first.end = 0;
            } else if let Some(first) = self.first.take() {
                pool::give(first);
            }
        }
    }

    /// Consumes `n <= len` bytes.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len, "no more is consumed than there is");
        self.len -= n;
        if let Some(first) = &mut self.first
            && n < first.len()
        {
            first.start += n;
        } else {
            self.consume_pieces(n);
        }
        self.check();
    }

    /// Consumes the whole first piece and goes on to `n` bytes in all.
    fn consume_pieces(&mut self, n: usize) {
        if self.first.as_ref().is_some_and(|first| first.rest.is_empty()) {
            // What was read or is to be sent, whole: the only node is room again, or goes back.
            return self.settle_last(n);
        }
        let mut left = n;
        while let Some(first) = &mut self.first {
            let step = left.min(first.len());
            first.start += step;
            left -= step;
            if !first.is_empty() {
                return;
            }
            // The last piece stays, as the first: it may be lent or hold a reservation.
            if first.rest.is_empty() {
                return self.settle_last(0);
            }
            self.drop_front();
        }
    }

    /// Takes the first piece out, alone. A reservation is the last piece's, and goes on to the next.
    pub(crate) fn pop_front(&mut self) -> Option<Box<Piece>> {
        let mut piece = self.first.take()?;
        if let Some(mut next) = piece.rest.pop_front() {
            mem::swap(&mut next.rest, &mut piece.rest);
            next.reserved = mem::take(&mut piece.reserved);
            self.first = Some(next);
        }
        Some(piece)
    }

    #[inline]
    fn drop_front(&mut self) {
        if let Some(piece) = self.pop_front() {
            pool::give(piece);
        }
    }

    pub(crate) fn pop_back(&mut self) -> Option<Box<Piece>> {
        match &mut self.first {
            Some(first) if !first.rest.is_empty() => first.rest.pop_back(),
            _ => self.first.take(),
        }
    }

    /// Forgets what is reserved, and the node that was taken for it alone.
    #[inline]
    pub(crate) fn drop_reservation(&mut self) {
        if let Some(first) = &mut self.first
            && first.reserved > 0
        {
            first.reserved = 0;
            self.drop_reserved();
        }
    }

    #[cold]
    fn drop_reserved(&mut self) {
        if self.last().is_some_and(|last| last.is_empty() && !last.lent)
            && let Some(piece) = self.pop_back()
        {
            pool::give(piece);
        }
    }

    /// Hangs a piece behind the last one and counts its bytes. A lent node that would no longer be last
    /// is no longer lent, and an open reservation is dropped.
    #[inline]
    pub(crate) fn push(&mut self, piece: Box<Piece>) {
        if self.first.is_none() {
            debug_assert_eq!(self.len, 0, "without a piece there is nothing");
            self.len = piece.len();
            self.first = Some(piece);
        } else {
            self.push_behind(piece);
        }
    }

    fn push_behind(&mut self, piece: Box<Piece>) {
        self.drop_reservation();
        self.settle();
        if self.is_lent() {
            drop(self.take_lent());
        }
        self.grow(piece.len());
        match &mut self.first {
            None => self.first = Some(piece),
            Some(first) => first.rest.push_back(piece),
        }
    }

    /// Counts what was added. Only a `Bytes` linked again and again gets near the end of the counter; beyond `isize::MAX` no
    /// slice or vector could show it all.
    #[inline]
    pub(crate) fn grow(&mut self, n: usize) {
        // Neither is more than `isize::MAX`: the sum does not wrap.
        self.len += n;
        assert!(self.len <= isize::MAX as usize, "a buffer's length fits an isize");
    }

    /// Takes the lent node out where the buffer holds nothing else, with what is unread in it.
    #[inline]
    pub(crate) fn pop_only_lent(&mut self) -> Option<Box<Piece>> {
        self.first.take_if(|first| first.lent && first.rest.is_empty() && first.reserved == 0)
    }

    /// As `move_unread` for the piece of `pop_only_lent`: the length stays.
    #[inline]
    pub(crate) fn keep_only_unread(&mut self, mut piece: Box<Piece>) -> Option<Node> {
        if !piece.is_empty() {
            if piece.stays_with_unread() {
                piece.lent = false;
                self.first = Some(piece);
                return None;
            }
            let mut small = pool::take(piece.len());
            small.put_all(piece.readable());
            self.first = Some(small);
        }
        piece.reset();
        Some(Node::from_piece(piece))
    }

    /// Ends the lending: see [`LinkBuffer::reclaim`].
    #[inline(never)]
    pub(crate) fn take_lent(&mut self) -> Option<Node> {
        self.first.as_ref()?;
        self.drop_reservation();
        if !self.is_lent() {
            self.settle();
            return None;
        }
        if let Some(piece) = self.pop_only_lent() {
            return self.keep_only_unread(piece);
        }
        let mut piece = self.pop_back()?;
        if !piece.is_empty() {
            return self.move_unread(piece);
        }
        self.settle();
        piece.reset();
        Some(Node::from_piece(piece))
    }

    /// Keeps what is unread of a node that was lent behind others: in it, or elsewhere.
    fn move_unread(&mut self, mut piece: Box<Piece>) -> Option<Node> {
        self.len -= piece.len();
        if piece.stays_with_unread() {
            piece.lent = false;
            self.push(piece);
            return None;
        }
        // No larger a node than what is unread in all: it may stay for long.
        let node_len_max = 1 << (self.len + piece.len()).ilog2();
        self.pack_on(piece.readable(), node_len_max);
        piece.reset();
        Some(Node::from_piece(piece))
    }

    /// Copies bytes behind the last ones, and takes no larger node for it than they need.
    pub(crate) fn pack_small(&mut self, bytes: &[u8]) {
        if let Some(last) = self.last_mut()
            && last.put(bytes)
        {
            return self.grow(bytes.len());
        }
        let mut node = pool::take(bytes.len());
        node.put_all(bytes);
        self.push(node);
    }

    /// Moves what little is left in the first piece into a small node, so that it does not keep a large one.
    pub(crate) fn shrink_first(&mut self) {
        if let Some(first) = &mut self.first
            && first.is_leftover()
            && !first.is_empty()
        {
            let mut small = pool::take(first.len());
            small.put_all(first.readable());
            pool::give(first.replace(small));
        }
    }

    /// Copies bytes that an owner writes behind the last ones: into the room of the last node first, then into new nodes.
    #[inline]
    pub(crate) fn pack(&mut self, bytes: &[u8]) {
        if let Some(first) = &mut self.first
            && first.reserved == 0
            && !first.is_empty()
        {
            let last = if first.rest.is_empty() { Some(first) } else { first.rest.back_mut() };
            if last.is_some_and(|last| last.put(bytes)) {
                return self.grow(bytes.len());
            }
        }
        self.pack_behind(bytes);
    }

    /// As `pack` where there is no room in a last node.
    #[inline(never)]
    fn pack_behind(&mut self, bytes: &[u8]) {
        let Some(first) = &mut self.first else { return self.pack_first(bytes) };
        if first.is_empty() && first.rest.is_empty() && first.reserved == 0 {
            // `next` consumed all of it: it is written from its front again.
            first.start = 0;
            first.end = 0;
            if first.put(bytes) {
                return self.grow(bytes.len());
            }
        }
        self.pack_on(bytes, NODE_POOLED_BYTES_MAX);
    }

    /// As `pack` for an empty buffer: what fits the first node needs nothing else.
    #[inline]
    fn pack_first(&mut self, bytes: &[u8]) {
        if bytes.len() > WRITE_NODE_BYTES_MIN {
            return self.pack_on(bytes, NODE_POOLED_BYTES_MAX);
        }
        let mut node = pool::take(WRITE_NODE_BYTES_MIN);
        node.put_all(bytes);
        self.len = bytes.len();
        self.first = Some(node);
    }

    /// As `pack`, over the room of the last node, into nodes of `node_len_max` at most.
    #[inline(never)]
    fn pack_on(&mut self, bytes: &[u8], node_len_max: usize) {
        self.drop_reservation();
        self.settle();
        let mut left = bytes;
        if let Some(last) = self.last_mut() {
            // A queue that moves along keeps its node: what is readable goes to the front, a small part of what went by.
            if last.room() < left.len() && last.start / COMPACT_RATIO_MIN >= last.len() {
                last.compact();
            }
            left = last.fill(left);
            self.grow(bytes.len() - left.len());
        }
        while !left.is_empty() {
            let mut node = pool::take(self.next_capacity(left.len()).min(node_len_max));
            left = node.fill(left);
            self.push(node);
        }
    }

    /// The size of the node that takes `n` more bytes: GROWTH_RATIO times a full node, small behind a linked `Bytes` (a frame
    /// head between two bodies), one pooled node at most.
    pub(crate) fn next_capacity(&self, n: usize) -> usize {
        let grown = match self.last() {
            Some(piece) => piece.capacity().saturating_mul(GROWTH_RATIO_MAX).max(NODE_BYTES_MIN),
            None => WRITE_NODE_BYTES_MIN,
        };
        n.max(grown).min(NODE_POOLED_BYTES_MAX)
    }

    /// Asserts the invariants in debug builds.
    #[inline]
    pub(crate) fn check(&self) {
        if cfg!(debug_assertions) {
            self.invariants();
            let is_kept = self.first.as_ref().is_none_or(|first| {
                !first.is_empty() || first.rest.is_empty() && (first.lent || first.reserved > 0)
            });
            assert!(is_kept, "the first piece was consumed and is still there: {self:?}");
        }
    }

    /// As `check`, where `next` may have consumed the first piece and nothing has let go of it since.
    #[inline]
    pub(crate) fn check_unsettled(&self) {
        if cfg!(debug_assertions) {
            self.invariants();
        }
    }

    /// Panics where an invariant does not hold. O(pieces).
    pub(crate) fn invariants(&self) {
        assert!(self.len <= isize::MAX as usize, "a slice could show all of it");
        let total: usize = self.pieces().map(Piece::len).sum();
        assert_eq!(self.len, total, "len is the sum of the pieces");
        let after_first = self.first.as_ref().map_or(0, |first| first.rest.len());
        for (index, piece) in self.pieces().enumerate() {
            let is_last = index == after_first;
            assert!(
                piece.start <= piece.end && piece.end <= piece.bytes().len(),
                "the readable bytes lie in the memory"
            );
            assert!(
                !piece.lent || is_last && !piece.is_shared(),
                "only the last piece is lent, and is a node"
            );
            let may_be_empty = index == 0 || is_last && (piece.lent || self.reserved() > 0);
            assert!(!piece.is_empty() || may_be_empty, "piece {index} of {after_first} is empty: {self:?}");
            if index > 0 {
                assert!(piece.rest.is_empty() && piece.reserved == 0, "the first piece carries all others");
            }
        }
        let room = self.last().map_or(0, Piece::room);
        assert!(self.reserved() <= room, "a reservation lies in the last node");
    }
}

impl Default for LinkBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LinkBuffer {
    #[inline]
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            drop_pieces(first);
        }
    }
}

fn drop_pieces(mut first: Box<Piece>) {
    first.rest.drain(..).for_each(pool::give);
    pool::give(first);
}

/// Shows the shape, never the bytes: `LinkBuffer { len: 5003, reserved: 0, pieces: [shared 3, node 5000/8192] }`.
impl fmt::Debug for LinkBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces: Vec<&Piece> =
            self.pieces().filter(|piece| !piece.is_empty() || !piece.is_shared()).collect();
        f.debug_struct("LinkBuffer")
            .field("len", &self.len)
            .field("reserved", &self.reserved())
            .field("pieces", &pieces)
            .finish()
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shared() {
            return write!(f, "shared {}", self.len());
        }
        let kind = if self.lent { "lent" } else { "node" };
        write!(f, "{kind} {}/{}", self.len(), self.capacity())
    }
}
