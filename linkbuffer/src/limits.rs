//! Every limit of the crate, in one place; the unit ends the name.
//!
//! Below each stands what was measured for it, by `cargo bench -p linkbuffer --bench buffer` with the limit changed: the better of two
//! runs, each the best of 288 rounds, on one core of a server that was busy with other work too, where the same run differs by
//! five in a hundred. Figures of one sentence come from one series. Or there stands why it was not measured.
//!
//! ```
//! use linkbuffer::limits::{LINK_BYTES_MIN, NODE_BYTES_MIN, NODE_POOLED_BYTES_MAX};
//! assert!(NODE_BYTES_MIN < LINK_BYTES_MIN && LINK_BYTES_MIN < NODE_POOLED_BYTES_MAX);
//! ```

/// The smallest node. A partial request line of an otherwise idle connection fits in it.
///
/// Messages that cross reads take 252 ns a read with 128 B, 254 ns with 512 B and 237 ns with 2 KiB, so memory decides: it is what an
/// idle connection with a partial head holds.
pub const NODE_BYTES_MIN: usize = 512;

/// The largest node that the pool keeps, and the largest that `write` takes: what one read of a socket is given.
/// A larger one is allocated to measure and freed when it is dropped.
///
/// A message of 64 KiB in and out: 3,228 ns with nodes of 16 KiB at most, which have to be joined, 1,216 ns with 64 KiB, 1,167 ns
/// with 256 KiB.
pub const NODE_POOLED_BYTES_MAX: usize = 64 * 1024;

/// Pooled nodes come in powers of two from [`NODE_BYTES_MIN`] to [`NODE_POOLED_BYTES_MAX`].
pub const NODE_CLASSES_LEN: usize = (NODE_POOLED_BYTES_MAX / NODE_BYTES_MIN).ilog2() as usize + 1;

/// The first node of an empty buffer that is written to: a few small answers share it, and so one slice sends them.
///
/// 64 KiB in pieces of 1 KiB: 1,448 ns beginning with 1 KiB, 1,325 ns with 4 KiB, 1,347 ns with 16 KiB, 1,426 ns with 64 KiB, and
/// every small answer that waits for its receiver holds one.
pub const WRITE_NODE_BYTES_MIN: usize = 4 * 1024;

/// How much larger the node behind a full one is.
///
/// 64 KiB in pieces of 1 KiB: 1,489 ns when nodes double, 1,346 ns at four times, 1,297 ns at sixteen times, where an answer of
/// 5 KiB would hold 68.
pub const GROWTH_RATIO_MAX: usize = 4;

/// A full node is written from its front again when this many times the readable bytes were consumed from it: moving them
/// costs less than an eighth of the copy that brought them.
///
/// A message of 1 KiB in and out, one waiting: 19.3 ns at twice, 17.8 ns at eight times, 17.3 ns at 32 times, where a queue would
/// seldom keep its node.
pub const COMPACT_RATIO_MIN: usize = 8;

/// A lent node that is this part full of unread bytes is kept by the buffer; from a less full one the bytes are moved.
///
/// Messages of 40,000 bytes in reads of 16 KiB: 473 ns a read when only half-full nodes are kept (each read is moved), 321 ns
/// at a quarter, 301 ns at an eighth, where a connection would hold eight times what it waits with.
pub const KEEP_RATIO_MAX: usize = 4;

/// Unread bytes up to this many move into the front of a node that is lent behind them, if they are not more than
/// [`ALONG_RATIO_MIN`] allows. More are joined by whoever wants them in one piece, or never.
///
/// It is what [`ZERO_COPY_BYTES_MIN`] says of owned reads: less is copied.
pub const ALONG_BYTES_MAX: usize = ZERO_COPY_BYTES_MIN;

/// A lent node is at least this many times the unread bytes that move into its front: most of it stays for the read.
pub const ALONG_RATIO_MIN: usize = 4;

/// Free nodes that one thread keeps.
///
/// Not measured, because no figure of one thread speaks against more: it bounds what a program with many threads holds for
/// nothing. Fourteen nodes of the largest size and a spare of each: more than an event loop has on its way at a time.
pub const POOL_THREAD_BYTES_MAX: usize = 1024 * 1024;

/// Of [`POOL_THREAD_BYTES_MAX`], what is set aside for the spares: the node of each size that came back last.
///
/// It follows from the sizes. To take a node and give it back are 68 instructions where it is the spare, 186 from a shelf.
pub const POOL_SPARES_BYTES_MAX: usize = 2 * NODE_POOLED_BYTES_MAX - NODE_BYTES_MIN;

/// Free nodes that all threads together keep beyond their own: where one thread takes and another gives back.
///
/// Not measured, for the same reason: it bounds what a program holds, four threads' worth. After a burst of 64 MiB no more than
/// this and [`POOL_THREAD_BYTES_MAX`] is held (`tests/allocations.rs`).
pub const POOL_SHARED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often a thread uses its pool between two looks at what it did not need (see [`crate::trim`]).
///
/// In the benchmark it vanishes: a look that frees nothing is 648 instructions, less than one a call. Each frees half of what was not needed: after ten of them a thousandth of a burst is left.
pub const POOL_TRIM_CALLS: u32 = 1024;

/// Spare shells (what a linked `Bytes` hangs in, 88 bytes each) that one thread keeps.
///
/// Not measured, because it bounds memory, 22 KiB: several times the pieces that one send takes, so that a shell is an allocation
/// only where more wait.
pub const SHELLS_LEN_MAX: usize = 256;

/// The list of the pieces behind a first one stays with that when it goes back to the pool, unless it grew beyond this many:
/// at most 512 bytes beside a node or in a shell, on top of what the other limits count.
///
/// Not measured, because it bounds that memory; it is as many pieces as one send usually takes, so that sending them and
/// beginning again allocates nothing.
pub const REST_PIECES_MAX: usize = 64;

/// Owned reads of at least this many bytes share the node's memory, unless [`HELD_RATIO_MAX`] is against it; smaller ones are
/// copied.
///
/// Read into a lent node, taken out and dropped, by a loop of its own: 43 ns for 512 B, 44 ns for 2 KiB and 70 ns for 4,095 B, which
/// are copied, 62 ns for 4 KiB, which are shared.
pub const ZERO_COPY_BYTES_MIN: usize = 4 * 1024;

/// An owned read that is less than this part of a node is copied, however large it is: a `Bytes` that came from a node keeps at
/// most this many times its own size alive.
///
/// Not measured: up to [`NODE_POOLED_BYTES_MAX`] it is what [`ZERO_COPY_BYTES_MIN`] says already, and it says the same of the
/// larger nodes that joined or reserved bytes lie in.
pub const HELD_RATIO_MAX: usize = NODE_POOLED_BYTES_MAX / ZERO_COPY_BYTES_MIN;

/// A `Bytes` of at least this size is linked by `write_bytes`; a smaller one is packed into the tail node.
///
/// 64 pieces written and shown to a send: at 1 KiB 1,256 ns linked and 1,355 ns packed, at 2 KiB 1,266 ns linked and 2,054 ns packed.
/// At 1 KiB the kernel decides, which is given three slices in place of 64.
pub const LINK_BYTES_MIN: usize = 2 * 1024;

/// The most that can be reserved and not committed. A reservation is one contiguous node, and a process ends where there is no
/// memory for it, as with a `Vec`: so a length from outside may not ask for more than any machine has to spare.
///
/// Not measured: no message that is written in one piece comes near. It is a power of two, because reservations grow by
/// doubling, and it fits its counter of 32 bits.
pub const RESERVED_BYTES_MAX: usize = 64 * 1024 * 1024;
