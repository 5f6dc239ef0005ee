//! A piece of the chain: memory that this buffer alone owns, or a `Bytes` that may be shared.
//!
//! ```text
//!   Own     node:  [ consumed | readable | (reserved) | room ]      memory is ours alone: writable
//!   Shared  Bytes: [ consumed | readable ]                          memory may be seen elsewhere: never written
//!                             start      end
//! ```
//! Memory of our own turns into `Shared` when bytes of it are given out without a copy, and never back: that is why memory
//! which a `Bytes` shows is never written again, and the compiler holds it.
//!
//! A piece is boxed and stays in its box from the pool to the buffer and back: a node that is lent, moved to another buffer or
//! given back is one pointer that moves. The first piece of a buffer carries the pieces behind it, so that the buffer
//! itself is one pointer too.

use crate::limits::{HELD_RATIO_MAX, KEEP_RATIO_MAX, NODE_BYTES_MIN, NODE_CLASSES_LEN, ZERO_COPY_BYTES_MIN};
use crate::{Node, pool};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::mem;

/// The pieces behind the first.
pub(crate) type Rest = VecDeque<Box<Piece>>;

/// Some memory and the range of it that is readable.
pub(crate) struct Piece {
    memory: Memory,
    /// Invariant: start <= end <= the length of the memory.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The node belongs to the reactor, which wants it back. Invariant: only in a buffer's last piece, and only of our own.
    pub(crate) lent: bool,
    /// Where the `Bytes` shows one of our nodes: that holds `1 << node_bits` bytes at most. 0 in all other pieces.
    node_bits: u8,
    /// The size of a node as the pool counts sizes; `NODE_CLASSES_LEN` for what the pool has no shelf for, and for a `Bytes`.
    class: u8,
    /// Bytes handed out by `reserve` and not yet committed, right behind the readable ones of the buffer's last piece.
    /// Invariant: 0 in all but a buffer's first piece; there it is <= the room of the last.
    pub(crate) reserved: u32,
    /// Invariant: empty in all but a buffer's first piece.
    pub(crate) rest: Rest,
}

enum Memory {
    Own(Box<[u8]>),
    Shared(Bytes),
}

/// How many times 1 is doubled to hold `node_len`; 0 for no node.
fn bits_for(node_len: usize) -> u8 {
    node_len.checked_next_power_of_two().map_or(usize::BITS - 1, usize::ilog2) as u8
}

/// Gives out the readable bytes of a node; dropping the last `Bytes` drops it, and so the node goes back to the pool.
struct SharedNode(Node);

impl AsRef<[u8]> for SharedNode {
    fn as_ref(&self) -> &[u8] {
        self.0.readable()
    }
}

impl Piece {
    /// A node; nothing of it is readable.
    pub(crate) fn node(memory: Box<[u8]>) -> Self {
        Self { class: pool::class_of(memory.len()), memory: Memory::Own(memory), ..Self::shell() }
    }

    /// A piece for a `Bytes` to come.
    pub(crate) fn shell() -> Self {
        Self {
            memory: Memory::Shared(Bytes::new()),
            start: 0,
            end: 0,
            lent: false,
            node_bits: 0,
            class: NODE_CLASSES_LEN as u8,
            reserved: 0,
            rest: Rest::new(),
        }
    }

    #[inline]
    pub(crate) fn class(&self) -> u8 {
        self.class
    }

    /// A piece that shows all of `bytes`.
    pub(crate) fn shared(bytes: Bytes) -> Box<Self> {
        let mut piece = pool::take_shell();
        piece.end = bytes.len();
        piece.memory = Memory::Shared(bytes);
        piece
    }

    /// As `shared`, for bytes that lie in a node of ours of `node_len` bytes, or in none of ours if that is 0.
    pub(crate) fn shared_of_node(bytes: Bytes, node_len: usize) -> Box<Self> {
        let mut piece = Self::shared(bytes);
        piece.node_bits = bits_for(node_len);
        piece
    }

    /// Whether it is a node that belongs to no buffer.
    pub(crate) fn is_alone(&self) -> bool {
        !self.is_shared() && self.rest.is_empty() && !self.lent && self.reserved == 0
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.memory, Memory::Shared(_))
    }

    /// All of its memory: also what was consumed, and what is room.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(memory) => memory,
            Memory::Shared(bytes) => bytes,
        }
    }

    #[inline]
    pub(crate) fn readable(&self) -> &[u8] {
        &self.bytes()[self.start..self.end]
    }

    /// How many bytes a node holds; 0 for a `Bytes`.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Own(memory) => memory.len(),
            Memory::Shared(_) => 0,
        }
    }

    /// How large the node of ours is that this piece keeps alive, to the next power of two at most; 0 when there is none.
    pub(crate) fn node_len(&self) -> usize {
        match (&self.memory, self.node_bits) {
            (Memory::Own(memory), _) => memory.len(),
            (Memory::Shared(_), 0) => 0,
            (Memory::Shared(_), bits) => 1 << bits,
        }
    }

    /// Whether `n` bytes are enough to keep this piece's memory alive for them. What others linked is theirs to judge:
    /// of that, only very few bytes are not.
    #[inline]
    pub(crate) fn may_share(&self, n: usize) -> bool {
        n >= ZERO_COPY_BYTES_MIN && n >= self.node_len() / HELD_RATIO_MAX
    }

    /// Whether what is readable is too little to keep so much memory for it, and is better moved into a smaller node.
    #[inline]
    pub(crate) fn is_leftover(&self) -> bool {
        let held = self.bytes().len().max(self.node_len());
        held > self.len().max(NODE_BYTES_MIN) * KEEP_RATIO_MAX && !self.may_share(self.len())
    }

    /// Whether a lent node stays with what is unread of it: moving that would cost more than it gives back.
    #[inline]
    pub(crate) fn stays_with_unread(&self) -> bool {
        self.len() >= self.capacity().div_ceil(KEEP_RATIO_MAX)
    }

    /// How many bytes can be written behind the readable ones; none into shared memory.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.capacity().saturating_sub(self.end)
    }

    #[inline]
    pub(crate) fn room_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own(memory) => &mut memory[self.end..],
            Memory::Shared(_) => &mut [],
        }
    }

    /// Appends all of `bytes`, or nothing where there is too little room.
    #[inline]
    #[must_use]
    pub(crate) fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.room_mut().get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.end += bytes.len();
        true
    }

    /// Appends all of `bytes`, for which there is room.
    #[inline]
    pub(crate) fn put_all(&mut self, bytes: &[u8]) {
        let fits = self.put(bytes);
        debug_assert!(fits, "{} bytes were put into a room of {}", bytes.len(), self.room());
    }

    /// Appends as many of `bytes` as there is room for, and returns the others.
    pub(crate) fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(self.room()));
        self.put_all(now);
        later
    }

    /// Moves the readable bytes to the front of the node: all of the rest is room.
    pub(crate) fn compact(&mut self) {
        if let Memory::Own(memory) = &mut self.memory
            && self.start > 0
        {
            memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Forgets what was readable.
    #[inline]
    pub(crate) fn reset(&mut self) {
        self.start = 0;
        self.end = 0;
        self.lent = false;
    }

    /// Makes a shell of what shows a `Bytes`; a node stays one.
    pub(crate) fn let_go(&mut self) {
        if let Memory::Shared(bytes) = &mut self.memory {
            drop(mem::take(bytes));
            self.node_bits = 0;
        }
    }

    /// Puts `other` into the place of a first piece, with all that hangs behind it, and returns the piece alone.
    pub(crate) fn replace(self: &mut Box<Self>, mut other: Box<Self>) -> Box<Self> {
        mem::swap(&mut self.rest, &mut other.rest);
        other.reserved = mem::take(&mut self.reserved);
        mem::replace(self, other)
    }

    /// Takes the first `n <= len()` bytes out as `Bytes`, without copying. A node becomes shared by it.
    pub(crate) fn split_shared(self: &mut Box<Self>, n: usize) -> Bytes {
        if !self.is_shared() {
            let mut node = self.replace(pool::take_shell());
            node.lent = false;
            self.end = node.len();
            self.node_bits = bits_for(node.capacity());
            self.memory = Memory::Shared(Bytes::from_owner(SharedNode(Node::from_piece(node))));
        }
        let is_all = n == self.len();
        let Memory::Shared(bytes) = &mut self.memory else { return Bytes::new() };
        if !is_all {
            let head = bytes.slice(self.start..self.start + n);
            self.start += n;
            return head;
        }
        let mut all = mem::take(bytes);
        all.advance(self.start);
        all.truncate(n);
        self.node_bits = 0;
        self.reset();
        all
    }
}
