//! A piece of the chain: a node that this buffer alone owns, or a `Bytes` that may be shared.
//!
//! ```text
//!   Block   node: [ consumed | readable | (reserved) | room ]      memory is ours alone: writable
//!                            start      end                capacity
//!   Shared  Bytes: [ readable ]                                    memory may be seen elsewhere: never written
//! ```
//! A `Block` turns into `Shared` when bytes of it are given out without a copy, and never back: that is why memory which a
//! `Bytes` shows is never written again, and the compiler holds it.

use crate::Node;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::mem;

/// The pieces after the first. Boxed and pooled, so that an empty buffer is small and a busy one does not allocate.
pub(crate) type Spine = VecDeque<Piece>;

/// A node and the range of it that is readable.
pub(crate) struct Block {
    pub(crate) node: Node,
    /// Invariant: start <= end <= node.capacity().
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The node belongs to the reactor, which wants it back. Invariant: only in a buffer's last piece.
    pub(crate) lent: bool,
}

pub(crate) enum Piece {
    Block(Block),
    Shared(Bytes),
}

/// Gives out the readable bytes of a block; dropping the last `Bytes` drops it, and so the node goes back to the pool.
struct SharedBlock(Block);

impl AsRef<[u8]> for SharedBlock {
    fn as_ref(&self) -> &[u8] {
        self.0.readable()
    }
}

impl Block {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, start: 0, end: 0, lent: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn readable(&self) -> &[u8] {
        &self.node.bytes()[self.start..self.end]
    }

    /// The bytes behind the readable ones.
    pub(crate) fn room(&self) -> usize {
        self.node.capacity() - self.end
    }

    pub(crate) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.node.bytes_mut()[self.end..]
    }

    /// Appends. The caller has seen to `bytes.len() <= room()`.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.room_mut()[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Moves the readable bytes to the front of the node: all of the rest is room.
    pub(crate) fn compact(&mut self) {
        if self.start > 0 {
            self.node.bytes_mut().copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

impl Piece {
    /// What a buffer without pieces holds; owns nothing.
    pub(crate) const NONE: Self = Self::Shared(Bytes::new());

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Block(block) => block.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    #[inline]
    pub(crate) fn readable(&self) -> &[u8] {
        match self {
            Self::Block(block) => block.readable(),
            Self::Shared(bytes) => bytes,
        }
    }

    /// How many bytes can be written behind the readable ones; none into shared memory.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Block(block) => block.room(),
            Self::Shared(_) => 0,
        }
    }

    /// Consumes the first `n <= len()` bytes.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        match self {
            Self::Block(block) => {
                debug_assert!(n <= block.len(), "a piece is consumed to its end at most");
                block.start += n;
            }
            Self::Shared(bytes) => bytes.advance(n),
        }
    }

    pub(crate) fn is_lent(&self) -> bool {
        matches!(self, Self::Block(block) if block.lent)
    }

    pub(crate) fn end_lending(&mut self) {
        if let Self::Block(block) = self {
            block.lent = false;
        }
    }

    /// Takes the first `n <= len()` bytes out as `Bytes`, without copying. A block becomes shared by it.
    pub(crate) fn split_shared(&mut self, n: usize) -> Bytes {
        match mem::replace(self, Self::NONE) {
            Self::Block(block) => {
                let mut bytes = Bytes::from_owner(SharedBlock(block));
                if n == bytes.len() {
                    return bytes;
                }
                let head = bytes.split_to(n);
                *self = Self::Shared(bytes);
                head
            }
            Self::Shared(bytes) if n == bytes.len() => bytes,
            Self::Shared(mut bytes) => {
                let head = bytes.split_to(n);
                *self = Self::Shared(bytes);
                head
            }
        }
    }
}
