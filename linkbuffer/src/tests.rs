//! The buffer against a queue of bytes, and by hand where random operations seldom go.

use crate::{LinkBuffer, Node, Short};

mod holding;
mod model;
mod netpoll;
mod ops;
mod reactor;
mod reading;
mod writing;

/// How much of something a test does: less under Miri, which is some hundred times slower and looks at each access, not at
/// how many there are. What remains goes the same ways: over the edges of nodes, from one size of node to the next.
pub(crate) const fn cut(full: usize, under_miri: usize) -> usize {
    if cfg!(miri) { under_miri } else { full }
}

/// `len` bytes that tell their place.
fn pattern(len: usize) -> Vec<u8> {
    // By copying: one by one it is long work for Miri.
    let mut bytes = Vec::from_iter(0..251).repeat(len / 251 + 1);
    bytes.truncate(len);
    bytes
}

/// A buffer of one piece for each of the given parts, whatever their size.
fn pieces(parts: &[&[u8]]) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    for part in parts {
        buffer.append(LinkBuffer::from(part.to_vec()));
    }
    buffer.invariants();
    buffer
}

/// Runs `test` on the same bytes cut into two pieces at every place (under Miri at some), and on the one piece, shared and not.
#[track_caller]
fn check_every_split(bytes: &[u8], test: impl Fn(LinkBuffer)) {
    let mut whole = LinkBuffer::new();
    whole.write(bytes);
    test(whole);
    for cut in (0..=bytes.len()).step_by(cut(1, 9)) {
        test(pieces(&[&bytes[..cut], &bytes[cut..]]));
        let mut copied = pieces(&[&bytes[..cut]]);
        copied.write(&bytes[cut..]);
        test(copied);
        let mut lent = pieces(&[&bytes[..cut]]);
        lent.lend(Node::take(512));
        lent.inputs()[..bytes.len() - cut].copy_from_slice(&bytes[cut..]);
        lent.input_ack(bytes.len() - cut);
        test(lent);
    }
}

/// What a read of `bytes` into a lent node leaves.
fn lent(capacity: usize, bytes: &[u8]) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    buffer.lend(Node::take(capacity));
    buffer.inputs()[..bytes.len()].copy_from_slice(bytes);
    buffer.input_ack(bytes.len());
    buffer
}

fn short(wanted: usize, available: usize) -> Short {
    Short { wanted, available }
}
