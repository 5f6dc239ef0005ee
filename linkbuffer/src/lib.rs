//! A zero-copy linked buffer: bytes in linked pieces, written at one end and read at the other.
//!
//! ```text
//!            first piece            pieces behind it
//!   read ◀─ [node ░░▓▓▓▓▓▓▓▓] ──▶ [Bytes ▓▓▓▓▓▓] ──▶ [node ▓▓▓▓▓······] ◀─ write, reserve, read(2) into a lent node
//!             consumed ░  readable ▓                    room ·
//! ```
//! * One owner, no locks, no threads, no I/O, no `unsafe`. What is written can be read at once.
//! * A borrowed slice ends with its borrow, which the compiler holds; there is no release to forget. An owned `Bytes` lives as
//!   long as it likes, its memory is never written again, and dropping the last one gives the node back to the pool.
//! * A buffer is a pointer and a length, and an empty one owns no memory. Nodes come from a pool per thread that is bounded
//!   and gives memory back after a burst.
//!
//! # Which call do I want?
//!
//! | I want | call | time | copies | allocates |
//! |---|---|---|---|---|
//! | to look at what is there | [`chunk`](LinkBuffer::chunk), [`chunks`](LinkBuffer::chunks) | O(1) a piece | no | no |
//! | to search | [`find`](LinkBuffer::find), [`find_from`](LinkBuffer::find_from), [`find_slice`](LinkBuffer::find_slice), [`find_slice_from`](LinkBuffer::find_slice_from) | O(bytes looked at), see there | no | no |
//! | `n` bytes in one slice, to stay | [`peek`](LinkBuffer::peek) | O(1), O(`n`) over several pieces | once, over several pieces | a pooled node, then |
//! | `n` bytes in one slice, consumed | [`next`](LinkBuffer::next), [`until`](LinkBuffer::until) | as `peek`, and the search | as `peek` | as `peek` |
//! | an integer | [`read_u8`](LinkBuffer::read_u8), [`read_u16`](LinkBuffer::read_u16), [`read_u32`](LinkBuffer::read_u32), [`read_u64`](LinkBuffer::read_u64) | O(1) | its bytes | no |
//! | to fill what I have | [`copy_to_slice`](LinkBuffer::copy_to_slice), [`Read`](std::io::Read) | O(`n`) | yes | no |
//! | to drop bytes | [`skip`](LinkBuffer::skip), [`clear`](LinkBuffer::clear) | O(pieces dropped) | no | no |
//! | to keep `n` bytes | [`read_bytes`](LinkBuffer::read_bytes) | O(1), O(`n`) where it copies | under 4 KiB, under a sixteenth of the node, or over several pieces | the `Bytes` |
//! | to keep what comes, in any pieces | [`read_chunk`](LinkBuffer::read_chunk) | as `read_bytes` | under 4 KiB, under a sixteenth of the node | the `Bytes` |
//! | to own a vector, or text | [`read_vec`](LinkBuffer::read_vec), [`read_string`](LinkBuffer::read_string) | O(`n`) | yes | what it returns |
//! | to take `n` bytes as a buffer | [`split_to`](LinkBuffer::split_to) | O(pieces) | under 4 KiB at the cut, a few bytes in a large node, and the last piece when something is reserved behind it | a pooled node for those, or what two pieces share |
//! | to pass a buffer on | [`append`](LinkBuffer::append) | O(pieces), O(1) into an empty one | pieces under 2 KiB, into room | the list of pieces when it grows |
//! | to write a few bytes | [`write`](LinkBuffer::write), [`Write`](std::io::Write) for what formats | O(`n`) | yes | a pooled node when the last is full |
//! | to write in place | [`reserve`](LinkBuffer::reserve), [`reserved_mut`](LinkBuffer::reserved_mut), [`commit`](LinkBuffer::commit), [`flush`](LinkBuffer::flush) | O(1) | what was reserved before, when it has to move to twice the room | a pooled node when the last is full |
//! | to write what I own | [`write_bytes`](LinkBuffer::write_bytes) | O(1) | under 2 KiB | as `write` under 2 KiB, else a pooled shell of 88 bytes |
//! | to put what I own between a head and a trailer | [`insert`](LinkBuffer::insert) | O(trailer) | the trailer, and under 2 KiB | as `write_bytes`, and a pooled node for the trailer where it moves |
//! | to send | [`io_slices`](LinkBuffer::io_slices), [`output_ack`](LinkBuffer::output_ack) | O(slices) | no | no |
//! | to receive | [`lend`](LinkBuffer::lend), [`inputs`](LinkBuffer::inputs), [`input_ack`](LinkBuffer::input_ack), [`reclaim`](LinkBuffer::reclaim) | O(1), O(unread) to reclaim | what was left unread, and a few bytes in a large node | a pooled node for that |
//! | to give memory back now | [`trim`] | O(nodes freed) | no | no |
//!
//! "A pooled node" or shell is an allocation only until the pool is warm; a node beyond 64 KiB always is one. The list of the pieces
//! behind the first one grows with them, and goes to the pool with that up to 64 pieces.
//!
//! # Lengths from outside
//!
//! No call panics on a length that somebody else chose: what is not there is a [`Short`], which says how much there is, and
//! nothing has changed. Some short forms take lengths that the caller has from this crate or from the kernel, and panic where
//! those are impossible; each has a form that answers:
//!
//! | of our own making | from outside |
//! |---|---|
//! | [`reserve`](LinkBuffer::reserve) | [`try_reserve`](LinkBuffer::try_reserve) |
//! | [`commit`](LinkBuffer::commit) | [`try_commit`](LinkBuffer::try_commit) |
//! | [`input_ack`](LinkBuffer::input_ack) | [`try_input_ack`](LinkBuffer::try_input_ack) |
//! | [`output_ack`](LinkBuffer::output_ack), [`Buf::advance`](bytes::Buf::advance) | [`skip`](LinkBuffer::skip) |
//! | [`Buf::copy_to_bytes`](bytes::Buf::copy_to_bytes) | [`read_bytes`](LinkBuffer::read_bytes) |
//! | [`Node::take`] | [`Node::try_take`] |
//!
//! # Invariants
//!
//! Debug builds assert them after every call that changes the buffer.
//! 1. The length is the sum of the readable bytes of all pieces, and at most `isize::MAX`.
//! 2. Every piece has readable bytes, except the first from [`next`](LinkBuffer::next) until the next call that writes, moves or
//!    consumes bytes, and a last one that is lent or holds a reservation.
//! 3. Only the last piece is lent or reserved, and a reservation lies in its room, right behind what is readable.
//! 4. A node whose memory somebody else can see, through a `Bytes`, is never written again: it is another type.
//!
//! # With other crates
//!
//! [`bytes::Buf`], [`Read`](std::io::Read), [`BufRead`](std::io::BufRead) and [`Write`](std::io::Write) are implemented, and
//! `From` for `Bytes`, `Vec<u8>` and `&'static [u8]`. `bytes::BufMut` is an unsafe trait, so a crate without unsafe code cannot
//! have it: [`reserve`](LinkBuffer::reserve) gives the space that it would, already initialised, and `Write` the formatting.
//!
//! ```
//! use bytes::Buf;
//! use linkbuffer::LinkBuffer;
//! use std::io::{BufRead, Write};
//! let mut buffer = LinkBuffer::from(&b"\x01\x02"[..]);
//! writeln!(buffer, "{} left", 3)?;
//! assert_eq!(buffer.get_u16(), 0x0102);
//! assert_eq!(buffer.lines().next().transpose()?.as_deref(), Some("3 left"));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Who knows netpoll finds its names by searching this page for them. What is different: there is no `Release`, a borrow ends by
//! itself; `Flush` is needed for reservations alone; and a write drops an open reservation. [`commit`](LinkBuffer::commit) after
//! [`insert`](LinkBuffer::insert) counts what is still reserved, where `MallocAck` after `WriteDirect` counts all since the last
//! `Flush`, the inserted bytes too.
#![forbid(unsafe_code)]

/// The examples of the README, as a reader would run them.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The operations that the model test and the fuzz target share name the crate as others do.
#[cfg(test)]
extern crate self as linkbuffer;

mod buffer;
mod error;
mod io;
pub mod limits;
mod node;
mod owned;
mod piece;
mod pool;
mod read;
mod search;
#[cfg(test)]
mod tests;
mod traits;
mod write;

pub use buffer::LinkBuffer;
pub use error::{ReadStringError, Short};
pub use node::Node;
pub use pool::trim;

const _: () = {
    assert!(size_of::<LinkBuffer>() <= 2 * size_of::<usize>(), "an idle connection has two of them");
    assert!(size_of::<piece::Piece>() <= 11 * size_of::<usize>(), "what a node costs beside its memory");
    const fn is_send<T: Send>() {}
    is_send::<LinkBuffer>();
    is_send::<Node>();
};
