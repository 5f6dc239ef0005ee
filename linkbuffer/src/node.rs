//! One block of memory.

use crate::limits::RESERVED_BYTES_MAX;
use crate::piece::Piece;
use crate::{Short, pool};
use std::fmt;

/// One block of initialised memory, taken from the pool and given back when dropped.
///
/// The bytes are *some* bytes: a node that was used before still holds what was written to it then, perhaps by another
/// connection. They become readable through what says that they were written: [`commit`](crate::LinkBuffer::commit) and
/// [`input_ack`](crate::LinkBuffer::input_ack) believe their caller. So acknowledge no more than was written; where the one who
/// writes may lie about how much, fill the space with zeroes before.
///
/// # Examples
/// ```
/// use linkbuffer::Node;
/// let node = Node::take(64 * 1024);
/// assert_eq!(node.capacity(), 64 * 1024);
/// ```
pub struct Node {
    /// Invariant: `Some` until it is dropped or becomes a buffer's; a node, nothing behind it, neither lent nor reserved.
    piece: Option<Box<Piece>>,
}

impl Node {
    /// A node of at least `capacity` bytes: from this thread's pool, or else new.
    ///
    /// O(1) and without an allocation when the pool has one. Sizes up to 64 KiB are rounded up to a power of two (512 at
    /// least); larger ones are exact and never pooled.
    ///
    /// The capacity is the program's own choice: where there is no such memory, it ends as it does for a `Vec`. One that
    /// somebody else chose goes to [`try_take`](Self::try_take).
    ///
    /// # Panics
    /// Beyond `isize::MAX` bytes, which no memory can have.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::Node;
    /// assert_eq!(Node::take(1).capacity(), 512);
    /// assert_eq!(Node::take(100_000).capacity(), 100_000);
    /// ```
    pub fn take(capacity: usize) -> Self {
        Self::from_piece(pool::take(capacity))
    }

    /// As [`take`](Self::take), for a capacity from outside. Beyond 64 KiB it writes all of the new memory once: O(`capacity`).
    ///
    /// # Errors
    /// Above [`RESERVED_BYTES_MAX`]: the error says how much may be taken.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::Node;
    /// assert!(Node::try_take(100_000).is_ok());
    /// assert!(Node::try_take(usize::MAX).is_err());
    /// ```
    pub fn try_take(capacity: usize) -> Result<Self, Short> {
        match capacity {
            0..=RESERVED_BYTES_MAX => Ok(Self::take(capacity)),
            _ => Err(Short { wanted: capacity, available: RESERVED_BYTES_MAX }),
        }
    }

    /// How many bytes it can hold. O(1).
    ///
    /// # Examples
    /// ```
    /// assert_eq!(linkbuffer::Node::take(5000).capacity(), 8192);
    /// ```
    pub fn capacity(&self) -> usize {
        self.piece.as_ref().map_or(0, |piece| piece.capacity())
    }

    #[inline]
    pub(crate) fn from_piece(piece: Box<Piece>) -> Self {
        debug_assert!(
            piece.is_alone(),
            "a node has nothing behind it, and is neither lent nor reserved nor shared"
        );
        Self { piece: Some(piece) }
    }

    #[inline]
    pub(crate) fn into_piece(mut self) -> Option<Box<Piece>> {
        self.piece.take()
    }

    pub(crate) fn readable(&self) -> &[u8] {
        self.piece.as_ref().map_or(&[], |piece| piece.readable())
    }
}

impl Drop for Node {
    #[inline]
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            pool::give(piece);
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.capacity())
    }
}
