//! Every limit of the crate, in one place; the unit ends the name.
//!
//! Below each stands what was measured for it: best of nine rounds on one core of a server's processor, by
//! `cargo bench -p linkbuffer --bench buffer` with the limit changed, unless another way is named. There a copy of 16 KiB within
//! the cache costs 120 ns. Figures of one sentence come from one series of runs; they were taken before pieces had boxes of their
//! own, and not again since.
//!
//! ```
//! use linkbuffer::limits::{LINK_BYTES_MIN, NODE_BYTES_MIN, NODE_POOLED_BYTES_MAX};
//! assert!(NODE_BYTES_MIN < LINK_BYTES_MIN && LINK_BYTES_MIN < NODE_POOLED_BYTES_MAX);
//! ```

/// The smallest node. A partial request line of an otherwise idle connection fits in it.
///
/// Messages that cross reads take as long with 128 B as with 2 KiB (248 and 244 ns a read), so memory alone decides: it is
/// what an idle connection with a partial head holds.
pub const NODE_BYTES_MIN: usize = 512;

/// The largest node that the pool keeps, and the largest that `write` takes: what one read of a socket is given.
/// A larger one is allocated to measure and freed when it is dropped.
///
/// A message of 64 KiB in and out: 1,654 ns with nodes of 16 KiB at most, which have to be joined, 558 ns with 64 KiB, 557 ns
/// with 256 KiB. From the pool a node costs 7 ns whatever its size; one of 64 KiB from the allocator 640 ns.
pub const NODE_POOLED_BYTES_MAX: usize = 64 * 1024;

/// Pooled nodes come in powers of two from [`NODE_BYTES_MIN`] to [`NODE_POOLED_BYTES_MAX`].
pub const NODE_CLASSES_LEN: usize = (NODE_POOLED_BYTES_MAX / NODE_BYTES_MIN).ilog2() as usize + 1;

/// The first node of an empty buffer that is written to: a few small answers share it, and so one slice sends them.
///
/// 64 KiB in pieces of 1 KiB: 1,379 ns beginning with 1 KiB, 1,305 ns with 4 KiB, 1,380 ns with 16 KiB; 1,256 ns with 64 KiB,
/// which every small answer that waits for its receiver would hold.
pub const WRITE_NODE_BYTES_MIN: usize = 4 * 1024;

/// How much larger the node behind a full one is.
///
/// 64 KiB in pieces of 1 KiB: 1,458 ns when nodes double, 1,329 ns at four times, 1,259 ns at sixteen times, where an answer of
/// 5 KiB would hold 68.
pub const GROWTH_RATIO_MAX: usize = 4;

/// A full node is written from its front again when this many times the readable bytes were consumed from it: moving them
/// costs less than an eighth of the copy that brought them.
///
/// A message of 1 KiB in and out, one waiting: 12.0 ns at twice, 12.9 ns at eight times, 12.8 ns at 32 times, within the noise
/// of runs; what decides is the bound on the copying.
pub const COMPACT_RATIO_MIN: usize = 8;

/// A lent node that is this part full of unread bytes is kept by the buffer; from a less full one the bytes are moved.
///
/// Messages of 40,000 bytes in reads of 16 KiB: 312 ns a read when only half-full nodes are kept (each read is moved), 217 ns
/// at a quarter, 206 ns at an eighth, where a connection would hold eight times what it waits with.
pub const KEEP_RATIO_MAX: usize = 4;

/// Free nodes that one thread keeps.
///
/// Chosen as a bound on memory: sixteen nodes of the largest size. Beyond them a node costs what the shared overflow or the
/// allocator takes (640 ns for 64 KiB, where the pool takes 7 ns).
pub const POOL_THREAD_BYTES_MAX: usize = 1024 * 1024;

/// Of [`POOL_THREAD_BYTES_MAX`], what is set aside for the spares: the node of each size that came back last.
///
/// It follows from the sizes. To take a node and give it back are 68 instructions where it is the spare, 186 from a shelf.
pub const POOL_SPARES_BYTES_MAX: usize = 2 * NODE_POOLED_BYTES_MAX - NODE_BYTES_MIN;

/// Free nodes that all threads together keep beyond their own: where one thread takes and another gives back.
///
/// Chosen as a bound on memory, four threads' worth: after a burst of 64 MiB no more than this and [`POOL_THREAD_BYTES_MAX`] is held
/// (`tests/allocations.rs`).
pub const POOL_SHARED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often a thread uses its pool between two looks at what it did not need (see [`crate::trim`]).
///
/// A look that frees nothing costs 21 ns, so this is 0.02 ns a node. Each frees half of what was not needed: after ten of them
/// a thousandth of a burst is left.
pub const POOL_TRIM_CALLS: u32 = 1024;

/// Spare shells (what a linked `Bytes` hangs in, 88 bytes each) that one thread keeps.
///
/// Chosen as a bound on memory, several times what one send takes.
pub const SHELLS_LEN_MAX: usize = 256;

/// The list of the pieces behind a first one stays with that when it goes back to the pool, unless it grew beyond this many:
/// at most 512 bytes beside a node or in a shell, on top of what the other limits count.
pub const REST_PIECES_MAX: usize = 64;

/// Owned reads of at least this many bytes share the node's memory, unless [`HELD_RATIO_MAX`] is against it; smaller ones are
/// copied.
///
/// Read into a lent node and taken out: 39 ns for 512 B, 67 ns for 2 KiB and 83 ns for 4 KiB when they are copied, 49 ns for any
/// size when the node is shared. Time alone would share from 1 KiB on, and keep 64 times as much alive.
pub const ZERO_COPY_BYTES_MIN: usize = 4 * 1024;

/// An owned read that is less than this part of a node is copied, however large it is: a `Bytes` that came from a node keeps at
/// most this many times its own size alive.
///
/// Not measured: up to [`NODE_POOLED_BYTES_MAX`] it is what [`ZERO_COPY_BYTES_MIN`] says already, and it says the same of the
/// larger nodes that joined or reserved bytes lie in.
pub const HELD_RATIO_MAX: usize = NODE_POOLED_BYTES_MAX / ZERO_COPY_BYTES_MIN;

/// A `Bytes` of at least this size is linked by `write_bytes`; a smaller one is packed into the tail node.
///
/// 64 pieces written and sent: at 1 KiB 1,748 ns linked and 1,342 ns packed, at 2 KiB 1,766 ns linked and 2,015 ns packed.
pub const LINK_BYTES_MIN: usize = 2 * 1024;

/// The most that can be reserved and not committed. A reservation is one contiguous node, and a process ends where there is no
/// memory for it, as with a `Vec`: so a length from outside may not ask for more than any machine has to spare.
///
/// Not measured: no message that is written in one piece comes near. It is a power of two, because reservations grow by
/// doubling, and it fits its counter of 32 bits.
pub const RESERVED_BYTES_MAX: usize = 64 * 1024 * 1024;
