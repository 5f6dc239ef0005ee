//! Every limit of the crate, in one place; the unit ends the name.

/// The smallest node. A partial request line of an otherwise idle connection fits in it.
pub const NODE_BYTES_MIN: usize = 512;

/// The largest node that the pool keeps, and the largest that `write` takes: what one read of a socket is given.
/// A larger one is allocated to measure and freed when it is dropped.
pub const NODE_POOLED_BYTES_MAX: usize = 64 * 1024;

/// Pooled nodes come in powers of two from [`NODE_BYTES_MIN`] to [`NODE_POOLED_BYTES_MAX`].
pub const NODE_CLASSES_LEN: usize = (NODE_POOLED_BYTES_MAX / NODE_BYTES_MIN).ilog2() as usize + 1;

/// The first node of an empty buffer that is written to: a few small answers share it, and so one slice sends them.
pub const WRITE_NODE_BYTES_MIN: usize = 4 * 1024;

/// Free nodes that one thread keeps.
pub const POOL_THREAD_BYTES_MAX: usize = 1024 * 1024;

/// Free nodes that all threads together keep beyond their own: where one thread takes and another gives back.
pub const POOL_SHARED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many nodes a thread takes between two looks at what it did not need (see [`crate::trim`]).
pub const POOL_TRIM_TAKES: u32 = 1024;

/// Spare spines (the lists of buffers with several pieces) that one thread keeps.
pub const SPINES_LEN_MAX: usize = 64;

/// A spine that grew beyond this many pieces is freed, not kept.
pub const SPINE_PIECES_MAX: usize = 64;

/// Owned reads of at least this many bytes share the node's memory; smaller ones are copied. A `Bytes` therefore keeps at most
/// `NODE_POOLED_BYTES_MAX / ZERO_COPY_BYTES_MIN` = 16 times its own size alive.
pub const ZERO_COPY_BYTES_MIN: usize = 4 * 1024;

/// A `Bytes` of at least this size is linked by `write_bytes`; a smaller one is packed into the tail node.
pub const LINK_BYTES_MIN: usize = 2 * 1024;

/// The most that can be reserved and not committed. A reservation is one contiguous node: a length from outside that asks for
/// more is a mistake or an attack long before.
pub const RESERVED_BYTES_MAX: usize = 1 << 30;

/// The most that `next` shows of a linked `Bytes` without a copy: as much as its counter holds. Tests reach it at 1 KiB.
pub const SPENT_BYTES_MAX: usize = if cfg!(test) { 1024 } else { u32::MAX as usize };

/// A full node is written from its front again when this many times the readable bytes were consumed from it: moving them
/// costs less than an eighth of the copy that brought them.
pub const COMPACT_RATIO_MIN: usize = 8;

/// How much larger the node behind a full one is.
pub const GROWTH_RATIO_MAX: usize = 4;

/// A lent node that is this part full of unread bytes is kept by the buffer; from a less full one the bytes are moved.
pub const KEEP_RATIO_MAX: usize = 4;
