//! The reactor's side: lending, owned bytes of lent memory, relays, sending.

use super::*;
use crate::limits::{
    ALONG_BYTES_MAX, ALONG_RATIO_MIN, KEEP_RATIO_MAX, NODE_POOLED_BYTES_MAX, ZERO_COPY_BYTES_MIN,
};
use std::io::IoSlice;

// proves L-06: inputs, one read, input_ack; and L-27: the node goes back, the rest fits its size.
#[test]
fn a_lent_node_comes_back() {
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, b"GET / HTTP/1.1\r\n\r\nGET");
    assert_eq!(buffer.next(18).map(<[u8]>::len), Ok(18));
    let node = buffer.reclaim().expect("nothing was taken out of it");
    assert_eq!(node.capacity(), NODE_POOLED_BYTES_MAX);
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 3, reserved: 0, pieces: [node 3/512] }");

    // The next read goes on behind what was left, and a peek joins the two.
    buffer.lend(node);
    buffer.inputs()[..4].copy_from_slice(b" /x\n");
    buffer.input_ack(4);
    assert_eq!(buffer.until(b'\n'), Some(&b"GET /x\n"[..]));
    assert!(buffer.reclaim().is_some());
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 0, reserved: 0, pieces: [] }");
}

#[test]
fn a_partial_message_grows_in_one_node() {
    let mut buffer = LinkBuffer::new();
    for byte in 0..cut(200, 20) as u8 {
        buffer.lend(Node::take(NODE_POOLED_BYTES_MAX));
        buffer.inputs()[0] = byte;
        buffer.input_ack(1);
        assert!(buffer.reclaim().is_some());
    }
    assert_eq!(
        format!("{buffer:?}"),
        format!("LinkBuffer {{ len: {len}, reserved: 0, pieces: [node {len}/512] }}", len = cut(200, 20))
    );
}

#[test]
fn unread_bytes_take_no_larger_node_than_all_that_is_unread() {
    let kept = 16 * 1024;
    let mut buffer = lent(kept, &pattern(kept));
    assert!(buffer.reclaim().is_none(), "it is full");
    buffer.lend(Node::take(NODE_POOLED_BYTES_MAX));
    buffer.inputs()[..100].copy_from_slice(&pattern(100));
    buffer.input_ack(100);
    assert!(buffer.reclaim().is_some());
    assert!(
        format!("{buffer:?}").ends_with(&format!("[node {kept}/{kept}, node 100/{kept}] }}")),
        "{buffer:?}"
    );
}

#[test]
fn a_node_full_enough_is_kept() {
    let enough = NODE_POOLED_BYTES_MAX / KEEP_RATIO_MAX;
    assert!(lent(NODE_POOLED_BYTES_MAX, &pattern(enough - 1)).reclaim().is_some());
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(enough));
    let before = buffer.chunk().as_ptr();
    assert!(buffer.reclaim().is_none());
    assert_eq!(buffer.chunk().as_ptr(), before, "the bytes did not move");
    assert!(buffer.inputs().is_empty(), "it is the buffer's now");
}

#[test]
fn inputs_are_full_again_once_all_was_read() {
    let mut buffer = lent(512, &pattern(512));
    assert!(buffer.inputs().is_empty());
    buffer.skip(512).expect("they are there");
    assert_eq!(buffer.inputs().len(), 512);
}

// proves L-26: owned bytes outlive the buffer and the thread, and the node is not used again while they live.
#[test]
fn owned_bytes_stay_as_they_are() {
    let bytes = pattern(3 * ZERO_COPY_BYTES_MIN);
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &bytes);
    let address = buffer.chunk().as_ptr();
    let owned = buffer.read_bytes(ZERO_COPY_BYTES_MIN).expect("they are there");
    assert_eq!(owned.as_ptr(), address, "shared, not copied");
    assert!(buffer.inputs().is_empty(), "shared memory is not written");
    assert!(buffer.reclaim().is_none());
    assert_eq!(buffer.len(), 2 * ZERO_COPY_BYTES_MIN, "what was not taken is still there");
    let rest = buffer.read_chunk(usize::MAX).expect("it is not empty");
    drop(buffer);
    for _ in 0..4 {
        let mut other = lent(NODE_POOLED_BYTES_MAX, &[0xff; NODE_POOLED_BYTES_MAX]);
        other.clear();
        assert!(other.reclaim().is_some());
    }
    std::thread::spawn(move || {
        assert_eq!(owned, bytes[..ZERO_COPY_BYTES_MIN]);
        assert_eq!(rest, bytes[ZERO_COPY_BYTES_MIN..]);
    })
    .join()
    .expect("they are as they were");
}

#[test]
fn a_small_owned_read_does_not_keep_the_node() {
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(10_000));
    let owned = buffer.read_bytes(ZERO_COPY_BYTES_MIN - 1).expect("they are there");
    let chunk = buffer.read_chunk(ZERO_COPY_BYTES_MIN - 1).expect("it is not empty");
    let split = buffer.split_to(100).expect("they are there");
    assert!(buffer.reclaim().is_some());
    assert_eq!(owned.len() + chunk.len() + split.len() + buffer.len(), 10_000);
}

#[test]
fn a_relay_moves_the_node_itself() {
    let bytes = pattern(16 * 1024);
    let mut input = lent(16 * 1024, &bytes);
    let address = input.chunk().as_ptr();
    let mut output = LinkBuffer::new();
    output.write(b"frame head");
    output.append(input.split_to(bytes.len()).expect("all of it is there"));
    assert!(input.reclaim().is_none());
    output.output_ack(10);
    assert_eq!(output.chunk().as_ptr(), address);
    assert_eq!(output.chunk(), bytes);
    assert!(output.inputs().is_empty(), "nothing is read into what was moved");
}

#[test]
fn a_cut_shares_large_parts_and_copies_small_ones() {
    let bytes = pattern(3 * ZERO_COPY_BYTES_MIN);
    for n in
        [1, ZERO_COPY_BYTES_MIN - 1, ZERO_COPY_BYTES_MIN, bytes.len() - ZERO_COPY_BYTES_MIN, bytes.len() - 1]
    {
        let mut buffer = lent(NODE_POOLED_BYTES_MAX, &bytes);
        let address = buffer.chunk().as_ptr();
        let head = buffer.split_to(n).expect("n bytes are there");
        assert_eq!(head.chunk(), &bytes[..n]);
        assert_eq!(buffer.chunk(), &bytes[n..]);
        assert_eq!(head.chunk().as_ptr() == address, n >= ZERO_COPY_BYTES_MIN, "{n}");
        assert_eq!(
            buffer.chunk().as_ptr() == address.wrapping_add(n),
            bytes.len() - n >= ZERO_COPY_BYTES_MIN,
            "{n}"
        );
    }
}

#[test]
#[should_panic(expected = "input_ack(513): there is space for 512")]
fn acknowledging_more_input_than_space_is_a_mistake() {
    lent(512, b"").input_ack(513);
}

#[test]
#[should_panic(expected = "output_ack(2): 1 bytes are there")]
fn acknowledging_more_output_than_there_was_is_a_mistake() {
    LinkBuffer::from(&b"x"[..]).output_ack(2);
}

#[test]
fn slices_fill_as_many_as_fit() {
    let buffer = pieces(&[b"a", b"bb", b"ccc"]);
    for room in 0..5 {
        let mut slices = vec![IoSlice::new(&[]); room];
        let count = buffer.io_slices(&mut slices);
        assert_eq!(count, room.min(3));
        assert_eq!(
            slices[..count].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>(),
            b"abbccc"[..[0, 1, 3, 6, 6][room]]
        );
    }
}

#[test]
fn inputs_are_full_again_once_all_was_joined() {
    let mut buffer = pieces(&[&[b'l'; 200]]);
    buffer.lend(Node::take(512));
    buffer.input_ack(100);
    assert_eq!(buffer.peek(300).map(<[u8]>::len), Ok(300));
    assert_eq!(buffer.inputs().len(), 512, "the joined bytes lie in the other node");
    assert_eq!(buffer.reclaim().map(|node| node.capacity()), Some(512));
    assert_eq!(buffer.len(), 300);
}

#[test]
fn the_beginning_of_a_message_moves_into_the_front_of_what_is_lent() {
    let quarter = 16_384 / ALONG_RATIO_MIN;
    for (unread, moves) in [(1, true), (quarter, true), (quarter + 1, false), (ALONG_BYTES_MAX + 1, false)] {
        let text = vec![b't'; unread];
        let mut buffer = LinkBuffer::new();
        buffer.write(&text);
        buffer.lend(Node::take(16_384));
        assert_eq!(buffer.inputs().len(), if moves { 16_384 - unread } else { 16_384 }, "{unread} bytes");
        buffer.inputs()[..3].copy_from_slice(b"end");
        buffer.input_ack(3);
        assert_eq!(buffer.chunk().len(), if moves { unread + 3 } else { unread });
        assert_eq!(buffer.read_vec(unread + 3), Ok([&text[..], b"end"].concat()));
        assert_eq!(buffer.reclaim().map(|node| node.capacity()), Some(16_384));
    }
    // Several pieces, or what is reserved, stay where they are.
    let mut buffer = pieces(&[b"one", b"two"]);
    buffer.lend(Node::take(4096));
    assert_eq!((buffer.inputs().len(), buffer.chunk()), (4096, &b"one"[..]));
}

#[test]
fn what_was_moved_is_not_lent() {
    for before in [&b""[..], b"before"] {
        let mut buffer = pieces(&[before]);
        buffer.append(lent(512, b"moved"));
        assert!(buffer.inputs().is_empty());
        assert_eq!(buffer.len(), before.len() + 5);
    }
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(ZERO_COPY_BYTES_MIN + 1));
    for n in [ZERO_COPY_BYTES_MIN, 1] {
        assert!(buffer.split_to(n).expect("n bytes are there").inputs().is_empty());
    }
}

#[test]
fn slices_beyond_what_one_call_takes() {
    const SLICES: usize = cut(1024, 16);
    let mut left = cut(3000, 40);
    let mut buffer = pieces(&vec![&b"xy"[..]; left]);
    while left > 0 {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = buffer.io_slices(&mut slices);
        assert_eq!(count, left.min(SLICES));
        buffer.output_ack(2 * count);
        left -= count;
    }
    assert!(buffer.is_empty());
}
