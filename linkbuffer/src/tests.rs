//! The buffer against a queue of bytes, and by hand where random operations seldom go.

use crate::limits::{
    LINK_BYTES_MIN, NODE_POOLED_BYTES_MAX, RESERVED_BYTES_MAX, SPENT_BYTES_MAX, ZERO_COPY_BYTES_MIN,
};
use crate::{LinkBuffer, Node, ReadStringError, Short};
use bytes::{Buf, Bytes};
use std::io::{BufRead, IoSlice, Read, Write};

mod model;

/// `len` bytes that tell their place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
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

/// Runs `test` on the same bytes cut into two pieces at every place, and on the one piece, shared and not.
#[track_caller]
fn check_every_split(bytes: &[u8], test: impl Fn(LinkBuffer)) {
    let mut whole = LinkBuffer::new();
    whole.write(bytes);
    test(whole);
    for cut in 0..=bytes.len() {
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

#[test]
fn every_reading_call_over_every_split() {
    let bytes = b"GET /index HTTP/1.1\r\n\r\n";
    check_every_split(bytes, |mut buffer| {
        assert_eq!(buffer.find(b'/'), Some(4));
        assert_eq!(buffer.find_from(5, b'/'), Some(15));
        assert_eq!(buffer.find(b'?'), None);
        assert_eq!(buffer.find_slice(b"\r\n\r\n"), Some(19));
        assert_eq!(buffer.find_slice_from(20, b"\r\n"), Some(21));
        assert_eq!(buffer.find_slice(b"\r\n\r\n\r"), None);
        assert_eq!(buffer.find_slice(b""), Some(0));
        assert_eq!(buffer.peek(0), Ok(&b""[..]));
        for n in 0..=bytes.len() {
            assert_eq!(buffer.peek(n), Ok(&bytes[..n]));
        }
        assert_eq!(buffer.peek(bytes.len() + 1), Err(short(24, 23)));
        assert_eq!(buffer.until(b' '), Some(&b"GET "[..]));
        assert_eq!(buffer.len(), 19);
        assert_eq!(buffer.read_string(6).as_deref(), Ok("/index"));
        assert_eq!(buffer.skip(1), Ok(()));
        assert_eq!(buffer.read_bytes(4).as_deref(), Ok(&b"HTTP"[..]));
        assert_eq!(buffer.read_u8(), Ok(b'/'));
        assert_eq!(buffer.read_u16(), Ok(0x312e));
        assert_eq!(buffer.read_u32(), Ok(0x310d_0a0d));
        assert_eq!(buffer.read_u64(), Err(short(8, 1)));
        assert_eq!(buffer.next(1), Ok(&b"\n"[..]));
        assert_eq!(buffer.until(b'\n'), None);
        assert!(buffer.is_empty() && buffer.chunk().is_empty());
    });
}

#[test]
fn every_take_at_every_split() {
    let bytes = pattern(40);
    for n in 0..=40 {
        check_every_split(&bytes, |mut buffer| {
            let mut head = buffer.split_to(n).expect("n bytes are there");
            assert_eq!((head.len(), buffer.len()), (n, 40 - n));
            assert_eq!(head.read_vec(n).as_deref(), Ok(&bytes[..n]));
            assert_eq!(buffer.read_vec(40 - n).as_deref(), Ok(&bytes[n..]));
        });
        check_every_split(&bytes, |mut buffer| {
            assert_eq!(buffer.next(n), Ok(&bytes[..n]));
            assert_eq!(buffer.chunks().flatten().copied().collect::<Vec<_>>(), &bytes[n..]);
            assert_eq!(buffer.chunk().is_empty(), n == 40);
            assert_eq!(buffer.read_bytes(40 - n).as_deref(), Ok(&bytes[n..]));
        });
        check_every_split(&bytes, |mut buffer| {
            let mut target = [0; 40];
            assert_eq!(buffer.copy_to_slice(&mut target[..n]), Ok(()));
            assert_eq!(target[..n], bytes[..n]);
            assert_eq!(
                buffer.copy_to_slice(&mut target),
                if n == 0 { Ok(()) } else { Err(short(40, 40 - n)) }
            );
        });
    }
}

#[test]
fn an_empty_buffer_answers_everything() {
    let mut buffer = LinkBuffer::new();
    assert_eq!(buffer.chunk(), b"");
    assert_eq!(buffer.chunks().count(), 0);
    assert_eq!(buffer.peek(0), Ok(&b""[..]));
    assert_eq!(buffer.next(0), Ok(&b""[..]));
    assert_eq!(buffer.next(1), Err(short(1, 0)));
    assert_eq!(buffer.peek(usize::MAX), Err(short(usize::MAX, 0)));
    assert_eq!(buffer.skip(usize::MAX), Err(short(usize::MAX, 0)));
    assert_eq!(buffer.read_vec(usize::MAX), Err(short(usize::MAX, 0)));
    assert_eq!(buffer.read_bytes(usize::MAX), Err(short(usize::MAX, 0)));
    assert_eq!(buffer.split_to(1).err(), Some(short(1, 0)));
    assert_eq!(buffer.read_string(1), Err(ReadStringError::Short(short(1, 0))));
    assert_eq!(buffer.read_bytes(0), Ok(Bytes::new()));
    assert_eq!(buffer.read_chunk(9), None);
    assert_eq!(buffer.find_from(usize::MAX, 0), None);
    assert_eq!(buffer.find_slice_from(usize::MAX, b"x"), None);
    assert!(buffer.inputs().is_empty());
    assert!(buffer.reclaim().is_none());
    assert_eq!(buffer.io_slices(&mut [IoSlice::new(&[])]), 0);
    buffer.input_ack(0);
    buffer.output_ack(0);
    buffer.commit(0);
    buffer.write(b"");
    buffer.write_bytes(Bytes::new());
    buffer.append(LinkBuffer::new());
    assert!(buffer.reserve(0).is_empty());
    assert!(buffer.rest.is_none() && buffer.first.len() == 0);
}

// proves L-27: nothing is held once everything was consumed.
#[test]
fn an_emptied_buffer_owns_nothing() {
    let mut buffer = pieces(&[&pattern(10), &pattern(5000)]);
    buffer.write(&pattern(100_000));
    buffer.output_ack(105_010);
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 0, reserved: 0, pieces: [] }");
    assert!(buffer.rest.is_none());
}

#[test]
fn the_shape_is_shown_and_the_bytes_are_not() {
    let mut buffer = pieces(&[b"secret"]);
    buffer.lend(Node::take(512));
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 6, reserved: 0, pieces: [shared 6, lent 0/512] }");
}

#[test]
fn text_that_is_none_stays() {
    let mut buffer = pieces(&[b"\xff", b"a"]);
    assert!(matches!(buffer.read_string(2), Err(ReadStringError::Utf8(_))));
    assert_eq!(buffer.next(2), Ok(&b"\xffa"[..]));
}

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
    for byte in 0..200 {
        buffer.lend(Node::take(NODE_POOLED_BYTES_MAX));
        buffer.inputs()[0] = byte;
        buffer.input_ack(1);
        assert!(buffer.reclaim().is_some());
    }
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 200, reserved: 0, pieces: [node 200/512] }");
}

#[test]
fn a_node_half_full_is_kept() {
    let half = NODE_POOLED_BYTES_MAX / 2;
    assert!(lent(NODE_POOLED_BYTES_MAX, &pattern(half - 1)).reclaim().is_some());
    let mut buffer = lent(NODE_POOLED_BYTES_MAX, &pattern(half));
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
fn next_shows_linked_bytes_without_a_copy() {
    let bytes = Bytes::from(pattern(4 * SPENT_BYTES_MAX));
    let mut buffer = LinkBuffer::from(bytes.clone());
    assert_eq!(buffer.next(SPENT_BYTES_MAX).map(<[u8]>::as_ptr), Ok(bytes.as_ptr()));
    assert_eq!(buffer.len(), 3 * SPENT_BYTES_MAX);
    assert_eq!(buffer.chunk(), &bytes[SPENT_BYTES_MAX..]);
    assert_eq!(buffer.find(bytes[SPENT_BYTES_MAX]), Some(0));
    // Beyond what the counter holds it is a copy, and right all the same.
    assert_eq!(buffer.next(SPENT_BYTES_MAX + 1), Ok(&bytes[SPENT_BYTES_MAX..2 * SPENT_BYTES_MAX + 1]));
    assert_eq!(buffer.read_bytes(buffer.len()).as_deref(), Ok(&bytes[2 * SPENT_BYTES_MAX + 1..]));
}

#[test]
fn the_same_big_peek_costs_no_memory() {
    let bytes = pattern(100_000);
    let mut buffer = pieces(&[&bytes[..30_000], &bytes[30_000..70_000], &bytes[70_000..]]);
    let address = buffer.peek(90_000).map(<[u8]>::as_ptr);
    for n in (0..=90_000).step_by(1000) {
        assert_eq!(buffer.peek(n).map(<[u8]>::as_ptr), address);
    }
    assert_eq!(buffer.peek(100_000).map(<[u8]>::as_ptr), address, "it grows in its node");
    assert_eq!(buffer.peek(100_000), Ok(&bytes[..]));
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
#[should_panic(expected = "5 bytes are committed, 4 are reserved")]
fn committing_more_than_reserved_is_a_mistake() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(4);
    buffer.commit(5);
}

#[test]
#[should_panic(expected = "at most 4 GiB")]
fn reserving_beyond_the_limit_is_a_mistake() {
    LinkBuffer::new().reserve(RESERVED_BYTES_MAX + 1);
}

#[test]
#[should_panic(expected = "513 bytes were read into 512")]
fn acknowledging_more_input_than_space_is_a_mistake() {
    lent(512, b"").input_ack(513);
}

#[test]
#[should_panic(expected = "2 bytes were sent of 1")]
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
fn the_traits_say_the_same() {
    let mut buffer = pieces(&[b"one\ntwo", b"\nthree"]);
    let mut line = String::new();
    assert_eq!(buffer.read_line(&mut line).expect("it never fails"), 4);
    assert_eq!(buffer.read_line(&mut line).expect("it never fails"), 4);
    assert_eq!(line, "one\ntwo\n");
    let mut two = [0; 2];
    buffer.read_exact(&mut two).expect("they are there");
    assert_eq!(buffer.remaining(), 3);
    assert_eq!(Buf::copy_to_bytes(&mut buffer, 2), "re");
    Buf::advance(&mut buffer, 1);
    assert_eq!(Read::read(&mut buffer, &mut two).expect("it never fails"), 0);
    write!(buffer, "{}-{}", 1, 2).expect("it never fails");
    let sent = buffer.write_vectored(&[IoSlice::new(b"a"), IoSlice::new(b"b")]).expect("it never fails");
    assert_eq!(sent, 2);
    assert_eq!(buffer.chunk(), b"1-2ab");
    assert_eq!(std::io::Error::from(short(2, 1)).to_string(), "2 bytes wanted, 1 available");
}

#[test]
fn a_needle_that_begins_again_within_itself() {
    check_every_split(b"aaab-aab", |buffer| {
        assert_eq!(buffer.find_slice(b"aab"), Some(1));
        assert_eq!(buffer.find_slice_from(2, b"aab"), Some(5));
        assert_eq!(buffer.find_slice(b"aabb"), None);
    });
    let long = pieces(&[&[b'-'; 100], &[b'-'; 31], b"x"]);
    assert_eq!(long.find(b'x'), Some(131));
    assert_eq!(long.find_slice(b"-x"), Some(130));
    assert_eq!(pieces(&[b"a", b"b", b"c", b"d"]).find_slice(b"bcd"), Some(1));
}
