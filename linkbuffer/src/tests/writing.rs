//! Writing: packing, linking, reservations.

use super::*;
use crate::limits::{
    COMPACT_RATIO_MIN, GROWTH_RATIO_MAX, LINK_BYTES_MIN, NODE_POOLED_BYTES_MAX, RESERVED_BYTES_MAX,
    WRITE_NODE_BYTES_MIN,
};
use bytes::Bytes;

// proves L-27: nothing is held once everything was consumed.
#[test]
fn an_emptied_buffer_owns_nothing() {
    let mut buffer = pieces(&[&pattern(10), &pattern(5000)]);
    buffer.write(&pattern(100_000));
    buffer.output_ack(105_010);
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 0, reserved: 0, pieces: [] }");
    assert!(buffer.first.is_none());
}

#[test]
fn small_bytes_are_packed_and_large_ones_linked() {
    for (len, linked) in [(LINK_BYTES_MIN - 1, false), (LINK_BYTES_MIN, true)] {
        let bytes = Bytes::from(pattern(len));
        let mut buffer = LinkBuffer::new();
        buffer.write(b"head");
        buffer.write_bytes(bytes.clone());
        buffer.write(b"tail");
        assert_eq!(buffer.chunks().any(|chunk| chunk.as_ptr() == bytes.as_ptr()), linked);
        assert_eq!(buffer.chunks().count(), if linked { 3 } else { 1 });
        assert_eq!(buffer.len(), len + 8);
    }
}

#[test]
fn a_reservation_grows_and_stays_in_order() {
    for first in [1, 4000, 4096, 5000] {
        let mut buffer = LinkBuffer::new();
        buffer.write(b"before");
        buffer.reserve(first).fill(b'1');
        buffer.reserve(70_000).fill(b'2');
        assert_eq!(buffer.reserved_len(), first + 70_000);
        assert_eq!(buffer.chunks().flatten().count(), 6, "nothing of it can be read yet");
        buffer.commit(first + 1);
        assert_eq!(buffer.reserved_len(), 0);
        let read = buffer.read_vec(buffer.len()).expect("all of it");
        assert_eq!(read, [b"before".to_vec(), vec![b'1'; first], vec![b'2']].concat());
    }
}

#[test]
fn a_reservation_survives_reading_and_not_writing() {
    let mut buffer = LinkBuffer::from(&b"head"[..]);
    buffer.reserve(4).copy_from_slice(b"tail");
    assert_eq!(buffer.next(4), Ok(&b"head"[..]));
    assert_eq!(buffer.peek(0), Ok(&b""[..]));
    buffer.commit(4);
    assert_eq!(buffer.chunk(), b"tail");

    for change in [
        (|buffer| buffer.write(b"x")) as fn(&mut LinkBuffer),
        |buffer| buffer.append(LinkBuffer::from(&b"x"[..])),
        |buffer| buffer.write_bytes(Bytes::from_static(&[b'x'; LINK_BYTES_MIN])),
        |buffer| buffer.lend(Node::take(512)),
        |buffer| drop(buffer.reclaim()),
        |buffer| assert!(buffer.inputs().is_empty()),
        LinkBuffer::clear,
    ] {
        let mut buffer = LinkBuffer::from(&b"head"[..]);
        buffer.reserve(4);
        change(&mut buffer);
        buffer.invariants();
        assert_eq!(buffer.reserved_len(), 0);
    }
}

#[test]
#[should_panic(expected = "commit: 5 bytes wanted, 4 available")]
fn committing_more_than_reserved_is_a_mistake() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(4);
    buffer.commit(5);
}

#[test]
#[should_panic(expected = "reserve: ")]
fn reserving_beyond_the_limit_is_a_mistake() {
    LinkBuffer::new().reserve(RESERVED_BYTES_MAX + 1);
}

#[test]
fn a_reservation_survives_a_cut_through_its_node() {
    for n in [1, 900, 4500, 5000] {
        let mut buffer = LinkBuffer::new();
        buffer.write(&pattern(5000));
        buffer.reserve(10).copy_from_slice(b"0123456789");
        let head = buffer.split_to(n).expect("n bytes are there");
        assert_eq!(head.chunks().flatten().copied().collect::<Vec<_>>(), pattern(5000)[..n]);
        buffer.commit(10);
        assert_eq!(buffer.read_vec(5010 - n), Ok([&pattern(5000)[n..], b"0123456789"].concat()));
    }
}

#[test]
fn many_small_buffers_share_nodes() {
    let mut buffer = LinkBuffer::new();
    for _ in 0..cut(1000, 60) {
        let mut small = LinkBuffer::new();
        small.write(b"ten bytes.");
        buffer.append(small);
    }
    assert_eq!(buffer.len(), cut(10_000, 600));
    assert!(buffer.chunks().count() <= 3, "{buffer:?}");
}

#[test]
fn the_most_that_can_be_reserved() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(10).fill(b'x');
    let most = RESERVED_BYTES_MAX - 10;
    assert_eq!(buffer.try_reserve(most + 1).err(), Some(short(most + 1, most)));
    assert_eq!(buffer.try_reserve(usize::MAX).err(), Some(short(usize::MAX, most)));
    assert_eq!(buffer.reserved_len(), 10, "what was reserved stays so");
    if cfg!(miri) {
        return; // There the gigabyte would be touched.
    }
    // The system gives the memory when it is touched, and it is not.
    assert_eq!(buffer.try_reserve(most).map(|space| space.len()), Ok(most));
    assert_eq!(buffer.try_reserve(1).err(), Some(short(1, 0)));
    assert_eq!(
        buffer.try_commit(RESERVED_BYTES_MAX + 1),
        Err(short(RESERVED_BYTES_MAX + 1, RESERVED_BYTES_MAX))
    );
    buffer.commit(10);
    assert_eq!(buffer.chunk(), [b'x'; 10]);
}

#[test]
fn a_reservation_that_grows_bit_by_bit_moves_seldom() {
    let mut buffer = LinkBuffer::new();
    let (mut moves, mut address) = (0, std::ptr::null());
    let len = cut(4 << 20, 100_000);
    while buffer.reserved_len() < len {
        buffer.reserve(1000).fill(b'x');
        let now = buffer.reserved_mut().as_ptr();
        moves += usize::from(now != address);
        address = now;
    }
    assert!(moves <= 12, "{moves} times");
    buffer.flush();
    assert!(buffer.chunk() == vec![b'x'; buffer.len()]);
}

#[test]
fn an_acknowledgement_that_fails_changes_nothing() {
    let mut buffer = lent(512, b"read");
    buffer.reserve(8).copy_from_slice(b"reserved");
    for wanted in [509, usize::MAX] {
        assert_eq!(buffer.try_input_ack(wanted), Err(short(wanted, 508)));
        assert_eq!(buffer.reserved_mut(), b"reserved");
    }
    buffer.skip(4).expect("they are there");
    assert_eq!(buffer.try_input_ack(513), Err(short(513, 512)), "what `inputs` would show");
    assert_eq!(buffer.reserved_mut(), b"reserved");
    buffer.flush();
    assert_eq!(buffer.chunk(), b"reserved");
}

#[test]
fn a_small_insert_stays_in_its_node_where_there_is_room() {
    let inserted = pattern(1000);
    for (lacks, nodes) in [(0, 1), (1, 2)] {
        let mut buffer = LinkBuffer::new();
        buffer.write(&vec![b'x'; WRITE_NODE_BYTES_MIN - 32 - inserted.len() + lacks]);
        buffer.reserve(32).fill(b'r');
        assert_eq!(buffer.insert(Bytes::from(inserted.clone()), 30), Ok(()));
        assert_eq!((buffer.reserved_len(), buffer.reserved_mut()), (30, &mut [b'r'; 30][..]));
        buffer.reserved_mut().fill(b'R');
        buffer.flush();
        assert_eq!(buffer.chunks().count(), nodes);
        let all = buffer.read_vec(buffer.len()).expect("all of it");
        assert!(all.ends_with(&[b"xrr", &inserted[..], &[b'R'; 30]].concat()));
    }
}

#[test]
fn writing_nothing_changes_nothing() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(8);
    buffer.write(b"");
    buffer.write_bytes(Bytes::new());
    buffer.append(LinkBuffer::new());
    assert_eq!(buffer.reserved_len(), 8);
}

#[test]
fn what_was_consumed_of_the_only_node_is_room_again() {
    let mut buffer = LinkBuffer::new();
    buffer.write(&pattern(100));
    let address = buffer.chunk().as_ptr();
    for _ in 0..cut(1000, 50) {
        assert_eq!(buffer.next(100), Ok(&pattern(100)[..]));
        buffer.write(&pattern(100));
        assert_eq!(buffer.chunk().as_ptr(), address);
    }
}

#[test]
#[should_panic(expected = "a buffer's length fits an isize")]
fn a_length_that_no_slice_has_is_a_mistake() {
    let mut buffer = LinkBuffer { first: None, len: isize::MAX as usize };
    buffer.grow(1);
}

#[test]
fn a_node_that_cannot_be_had_is_an_error() {
    for capacity in [0, 512, 513, NODE_POOLED_BYTES_MAX, NODE_POOLED_BYTES_MAX + 1] {
        let node = Node::try_take(capacity).expect("there is so much");
        assert_eq!(node.capacity(), Node::take(capacity).capacity());
    }
    for capacity in [isize::MAX as usize, isize::MAX as usize + 1, usize::MAX] {
        assert!(Node::try_take(capacity).is_err());
    }
}

#[test]
fn a_queue_that_moves_along_keeps_its_node() {
    let mut buffer = LinkBuffer::new();
    buffer.write(&[b'x'; 100]);
    for _ in 0..cut(1000, 100) {
        buffer.write(&[b'x'; 100]);
        assert_eq!(buffer.next(100), Ok(&[b'x'; 100][..]));
    }
    assert_eq!(buffer.chunks().count(), 1);
    assert!(format!("{buffer:?}").ends_with(&format!("[node 100/{WRITE_NODE_BYTES_MIN}] }}")), "{buffer:?}");

    // With more in the queue the copy would cost: nodes follow each other, each larger.
    let mut buffer = LinkBuffer::new();
    buffer.write(&[b'x'; WRITE_NODE_BYTES_MIN]);
    buffer.skip(WRITE_NODE_BYTES_MIN / COMPACT_RATIO_MIN).expect("they are there");
    buffer.write(b"x");
    let second = WRITE_NODE_BYTES_MIN * GROWTH_RATIO_MAX;
    assert!(format!("{buffer:?}").ends_with(&format!(", node 1/{second}] }}")), "{buffer:?}");
}
