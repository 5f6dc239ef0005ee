//! A zero-copy linked buffer: bytes in linked pieces, written at one end and read at the other.
//!
//! ```text
//!            first piece            spine (only when there is more than one piece)
//!   read ◀─ [node ░░▓▓▓▓▓▓▓▓] ──▶ [Bytes ▓▓▓▓▓▓] ──▶ [node ▓▓▓▓▓······] ◀─ write, reserve, read(2) into a lent node
//!             consumed ░  readable ▓                    room ·
//! ```
//! * One owner, no locks, no threads, no I/O, no `unsafe`. What is written can be read at once.
//! * A borrowed slice ends with its borrow, which the compiler holds; there is no release to forget. An owned `Bytes` lives as
//!   long as it likes, its memory is never written again, and dropping the last one gives the node back to the pool.
//! * An empty buffer owns no memory. Nodes come from a pool per thread that is bounded and gives memory back after a burst.
//! * No call panics on a length from outside: what is not there is a [`Short`]. Acknowledging more than was offered
//!   (`commit`, `input_ack`, `output_ack`) is a mistake of the caller and panics.
//!
//! | I want | call | copies | allocates |
//! |---|---|---|---|
//! | to look at what is there | [`chunk`](LinkBuffer::chunk), [`chunks`](LinkBuffer::chunks), [`find`](LinkBuffer::find), [`find_slice`](LinkBuffer::find_slice) | no | no |
//! | `n` bytes in one slice | [`peek`](LinkBuffer::peek), [`next`](LinkBuffer::next), [`until`](LinkBuffer::until) | once, over several pieces | a pooled node, then |
//! | to keep `n` bytes | [`read_bytes`](LinkBuffer::read_bytes) | under 4 KiB or over several pieces | the `Bytes` |
//! | to keep what comes, in any pieces | [`read_chunk`](LinkBuffer::read_chunk) | under 4 KiB | the `Bytes` |
//! | to pass `n` bytes on to another buffer | [`split_to`](LinkBuffer::split_to), [`append`](LinkBuffer::append) | under 4 KiB at the cut, small pieces into room | only where a piece is cut in two |
//! | to write a few bytes | [`write`](LinkBuffer::write), [`reserve`](LinkBuffer::reserve) and [`commit`](LinkBuffer::commit) | yes | a pooled node when the last is full |
//! | to write what I own | [`write_bytes`](LinkBuffer::write_bytes) | under 1 KiB | no |
//! | to send | [`io_slices`](LinkBuffer::io_slices), [`output_ack`](LinkBuffer::output_ack) | no | no |
//! | to receive | [`lend`](LinkBuffer::lend), [`inputs`](LinkBuffer::inputs), [`input_ack`](LinkBuffer::input_ack), [`reclaim`](LinkBuffer::reclaim) | what was left unread | a pooled node for that |
//!
//! "Allocates a pooled node" means: not after warm-up.
#![forbid(unsafe_code)]

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
    assert!(size_of::<LinkBuffer>() <= 64, "an idle connection has two of them");
    const fn is_send<T: Send>() {}
    is_send::<LinkBuffer>();
    is_send::<Node>();
};
