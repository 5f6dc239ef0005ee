//! How much memory a few bytes keep: never much more than themselves.

use super::*;
use crate::limits::{
    HELD_RATIO_MAX, KEEP_RATIO_MAX, NODE_BYTES_MIN, NODE_POOLED_BYTES_MAX, ZERO_COPY_BYTES_MIN,
};
use bytes::Bytes;

/// The sizes of the nodes that the buffer alone holds, and whether it holds others' memory too.
fn held(buffer: &LinkBuffer) -> (usize, bool) {
    (buffer.pieces().map(|piece| piece.capacity()).sum(), buffer.pieces().any(|piece| piece.is_shared()))
}

/// `len` bytes joined into one node that is larger than the pool keeps.
fn joined(len: usize) -> LinkBuffer {
    let bytes = pattern(len);
    let (front, back) = bytes.split_at(len / 2);
    let mut buffer = pieces(&[front, back]);
    assert!(buffer.peek(len).is_ok());
    buffer
}

#[test]
fn an_owned_read_keeps_sixteen_times_its_size_at_most() {
    let len = 2 * NODE_POOLED_BYTES_MAX;
    let bytes = pattern(len);
    let enough = len / HELD_RATIO_MAX;
    for (n, is_shared) in [(ZERO_COPY_BYTES_MIN, false), (enough - 1, false), (enough, true)] {
        let mut buffer = joined(len);
        let address = buffer.chunk().as_ptr();
        let owned = buffer.read_bytes(n).expect("n bytes are there");
        assert_eq!(owned, bytes[..n]);
        assert_eq!(owned.as_ptr() == address, is_shared, "{n} of {len}");

        // What remains of a node that is shared already remembers how large that is, also on the other side of a cut.
        let mut buffer = joined(len);
        let address = buffer.chunk().as_ptr();
        drop(buffer.read_bytes(enough).expect("they are there"));
        let mut head = buffer.split_to(2 * enough).expect("they are there");
        for (buffer, at) in [(&mut head, enough), (&mut buffer, 3 * enough)] {
            let owned = buffer.read_bytes(n).expect("n bytes are there");
            assert_eq!(owned, bytes[at..at + n]);
            assert_eq!(owned.as_ptr() == address.wrapping_add(at), is_shared, "{n} of {len} at {at}");
        }
    }
}

#[test]
fn linked_memory_is_its_owners_to_judge() {
    let bytes = Bytes::from(vec![7; 4 * NODE_POOLED_BYTES_MAX]);
    let mut buffer = LinkBuffer::from(bytes.clone());
    let owned = buffer.read_bytes(ZERO_COPY_BYTES_MIN).expect("they are there");
    assert_eq!(owned.as_ptr(), bytes.as_ptr());
}

#[test]
fn a_few_bytes_left_in_a_large_node_move_out_when_the_turn_ends() {
    let len = ZERO_COPY_BYTES_MIN + 1;
    // Of a lent node that was given out.
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(len));
    let owned = buffer.read_bytes(len - 1).expect("they are there");
    assert!(buffer.reclaim().is_none());
    assert_eq!(held(&buffer), (NODE_BYTES_MIN, false), "{buffer:?}");
    assert_eq!((buffer.chunk(), owned), (&pattern(len)[len - 1..], Bytes::from(pattern(len - 1))));

    // The same, with another node lent behind it: the first byte no longer lies in the shared one either.
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(len));
    let _owned = buffer.read_bytes(len - 1).expect("they are there");
    buffer.lend(Node::take(NODE_POOLED_BYTES_MAX));
    buffer.inputs()[0] = 7;
    buffer.input_ack(1);
    assert!(buffer.reclaim().is_some());
    assert!(!held(&buffer).1, "{buffer:?}");
    assert_eq!(buffer.read_vec(2), Ok(vec![pattern(len)[len - 1], 7]));

    // Of a node that the buffer kept.
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(NODE_POOLED_BYTES_MAX));
    assert!(buffer.reclaim().is_none());
    buffer.skip(NODE_POOLED_BYTES_MAX - 1).expect("they are there");
    assert!(buffer.reclaim().is_none());
    assert_eq!(held(&buffer), (NODE_BYTES_MIN, false), "{buffer:?}");

    // And what fits its node stays where it is.
    let mut buffer = LinkBuffer::new();
    buffer.write(&pattern(NODE_BYTES_MIN * KEEP_RATIO_MAX));
    buffer.write(&pattern(1000));
    let before = buffer.chunk().as_ptr();
    assert!(buffer.reclaim().is_none());
    assert_eq!(buffer.chunk().as_ptr(), before);
}

#[test]
fn a_few_bytes_do_not_carry_a_large_node_away() {
    let own = || {
        let mut buffer = LinkBuffer::new();
        buffer.reserve(NODE_POOLED_BYTES_MAX)[..10].copy_from_slice(b"0123456789");
        buffer.commit(10);
        buffer
    };
    let shared = || {
        let mut buffer =
            lent(NODE_POOLED_BYTES_MAX, &[&pattern(ZERO_COPY_BYTES_MIN)[..], b"0123456789"].concat());
        drop(buffer.read_bytes(ZERO_COPY_BYTES_MIN).expect("they are there"));
        buffer
    };
    for make in [own as fn() -> LinkBuffer, shared] {
        for n in [1, 9, 10] {
            for behind in [&b""[..], &pattern(5000)] {
                let mut buffer = make();
                buffer.append(LinkBuffer::from(behind.to_vec()));
                let mut head = buffer.split_to(n).expect("n bytes are there");
                assert_eq!(held(&head), (NODE_BYTES_MIN, false), "{head:?}");
                assert_eq!(head.read_vec(n).as_deref(), Ok(&b"0123456789"[..n]));
                assert_eq!(buffer.len(), 10 - n + behind.len());
            }
        }
        let mut buffer = make();
        buffer.append(LinkBuffer::from(pattern(5000)));
        let mut head = buffer.split_to(5010).expect("they are there");
        assert_eq!(head.next(10), Ok(&b"0123456789"[..]));
        assert_eq!(head.read_vec(5000), Ok(pattern(5000)));
        assert!(buffer.first.is_none());
    }
}

// Found by the model: a shared piece that ends before its `Bytes` does.
#[test]
fn what_a_cut_left_of_shared_memory_ends_at_the_cut() {
    let len = 2 * ZERO_COPY_BYTES_MIN;
    let mut buffer = LinkBuffer::from(pattern(len));
    let mut head = buffer.split_to(len - 1).expect("they are there");
    assert_eq!(head.read_chunk(usize::MAX).as_deref(), Some(&pattern(len)[..len - 1]));
    assert_eq!(buffer.read_chunk(usize::MAX).as_deref(), Some(&pattern(len)[len - 1..]));
}
