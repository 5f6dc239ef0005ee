//! What netpoll's buffer promises, held against this one: the behaviour of its test cases, in our words and with our calls.
//! Where the two differ on purpose, the test says so.

use super::*;
use crate::limits::{LINK_BYTES_MIN, NODE_BYTES_MIN, WRITE_NODE_BYTES_MIN, ZERO_COPY_BYTES_MIN};
use bytes::Bytes;
use std::io::IoSlice;

#[test]
fn what_is_reserved_is_seen_once_it_is_flushed() {
    let mut buffer = LinkBuffer::new();
    assert_eq!(buffer.next(10), Err(short(10, 0)));
    buffer.reserve(128).fill(1);
    assert!(buffer.is_empty());
    assert_eq!(buffer.peek(10), Err(short(10, 0)));
    buffer.flush();
    assert_eq!(buffer.len(), 128);
    assert_eq!(buffer.next(28), Ok(&[1; 28][..]));
    assert_eq!(buffer.peek(90), Ok(&[1; 90][..]));
    assert_eq!(buffer.len(), 100);

    // A read comes behind it. The little that was there moves along, so it is one piece to send.
    buffer.lend(Node::take(8192));
    buffer.inputs()[..1024].fill(2);
    assert_eq!(buffer.len(), 100, "what is read is not seen before it is acknowledged");
    buffer.input_ack(1024);
    assert_eq!(buffer.io_slices(&mut [IoSlice::new(&[]); 16]), 1);
    assert_eq!(buffer.skip(1024), Ok(()));
    assert_eq!(buffer.read_vec(100), Ok(vec![2; 100]));
}

#[test]
fn nothing_is_asked_for_again_and_again() {
    let mut buffer = LinkBuffer::new();
    for _ in 0..5 {
        assert!(buffer.reserve(0).is_empty());
        buffer.write(b"");
        buffer.write_bytes(Bytes::new());
        assert_eq!(buffer.insert(Bytes::new(), 0), Ok(()));
        buffer.append(LinkBuffer::new());
        assert_eq!(buffer.try_commit(0), Ok(()));
        buffer.flush();
        buffer.lend(Node::take(0));
        assert_eq!(buffer.try_input_ack(0), Ok(()));
        assert_eq!(buffer.next(0), Ok(&b""[..]));
        assert_eq!(buffer.peek(0), Ok(&b""[..]));
        assert_eq!(buffer.skip(0), Ok(()));
        assert_eq!(buffer.read_string(0).as_deref(), Ok(""));
        assert_eq!(buffer.read_vec(0), Ok(Vec::new()));
        assert!(buffer.read_bytes(0).is_ok_and(|bytes| bytes.is_empty()));
        assert!(buffer.split_to(0).is_ok_and(|head| head.is_empty()));
        assert_eq!(buffer.io_slices(&mut []), 0);
        drop(buffer.reclaim());
        buffer.clear();
        assert_eq!((buffer.len(), buffer.reserved_len()), (0, 0));
    }
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 0, reserved: 0, pieces: [] }");
}

#[test]
fn a_walk_over_many_nodes() {
    // Nodes of every size from 1 to 600, read in strides that fall on and beside their edges.
    for stride in [1, 2, 7, 64, 599, 600, 601, 5000] {
        let longest = cut(600, 30);
        let parts: Vec<Vec<u8>> = (1..=longest).map(|len| vec![(len % 251) as u8; len]).collect();
        let mut buffer = pieces(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let all = parts.concat();
        let mut at = 0;
        while at < all.len() {
            let n = stride.min(all.len() - at);
            assert_eq!(buffer.peek(n), Ok(&all[at..at + n]));
            assert_eq!(buffer.next(n), Ok(&all[at..at + n]));
            at += n;
        }
        assert!(buffer.is_empty());
    }
}

#[test]
fn peeks_that_grow_and_shrink() {
    let bytes = pattern(20_000);
    let mut buffer = pieces(&bytes.chunks(777).collect::<Vec<_>>());
    for n in (0..20_000)
        .step_by(cut(333, 5000))
        .chain((0..20_000).rev().step_by(cut(444, 6000)))
        .chain([20_000, 1, 20_000])
    {
        assert_eq!(buffer.peek(n), Ok(&bytes[..n]));
        assert_eq!(buffer.len(), 20_000, "a peek takes nothing");
    }
    assert_eq!(buffer.next(19_999), Ok(&bytes[..19_999]));
    assert_eq!(buffer.peek(1), Ok(&bytes[19_999..]));
}

#[test]
fn one_node_and_one_byte_more() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(8192).fill(1);
    assert_eq!(buffer.peek(1), Err(short(1, 0)), "looking before the flush is no mistake");
    buffer.flush();
    let address = buffer.chunk().as_ptr();
    assert_eq!(buffer.peek(8192).map(<[u8]>::as_ptr), Ok(address), "it lies in one node");
    assert_eq!(buffer.peek(8193), Err(short(8193, 8192)));
}

#[test]
fn slices_outlive_a_reset() {
    for len in [1, ZERO_COPY_BYTES_MIN] {
        let mut buffer = LinkBuffer::new();
        buffer.write(&vec![1; len]);
        let mut slice = buffer.split_to(len).expect("they are there");
        let (one, other) = (vec![2; len], vec![3; len]);
        buffer.write(&one);
        let owned = buffer.read_bytes(len).expect("they are there");
        buffer.clear();
        buffer.write(&other);
        drop(buffer);
        assert_eq!(slice.read_vec(len), Ok(vec![1; len]));
        assert_eq!(owned, one);
    }
}

#[test]
fn a_slice_of_what_another_buffer_wrote() {
    let mut written = LinkBuffer::new();
    written.write(&pattern(8192));
    written.write(b"seven b");
    let mut buffer = LinkBuffer::new();
    buffer.append(written);
    assert_eq!(buffer.next(5), Ok(&pattern(5)[..]));
    let mut slice = buffer.split_to(4).expect("they are there");
    assert_eq!((slice.len(), buffer.len()), (4, 8190));
    assert_eq!(slice.next(4), Ok(&pattern(9)[5..]));
    drop(slice);
    assert_eq!(buffer.skip(8192 - 9), Ok(()));
    assert_eq!(buffer.peek(7), Ok(&b"seven b"[..]));
}

#[test]
fn buffers_in_a_row() {
    let mut buffer = LinkBuffer::new();
    for byte in [2, 3] {
        let mut other = LinkBuffer::new();
        other.reserve(1)[0] = byte;
        other.flush();
        buffer.append(other);
    }
    assert_eq!(buffer.peek(2), Ok(&[2, 3][..]));
}

#[test]
fn a_flush_again_changes_nothing() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(4).copy_from_slice(b"1.2.");
    for _ in 0..3 {
        buffer.flush();
        assert_eq!(buffer.chunk(), b"1.2.");
    }
    assert_eq!(buffer.skip(2), Ok(()));
    buffer.flush();
    buffer.reserve(2).copy_from_slice(b"3.");
    assert_eq!(buffer.chunk(), b"2.");
    buffer.flush();
    assert_eq!(buffer.chunk(), b"2.3.");
}

#[test]
fn memory_of_the_caller_is_never_written() {
    for len in [9, LINK_BYTES_MIN] {
        let whole = Bytes::from(vec![0; 2 * len]);
        let mut buffer = LinkBuffer::new();
        buffer.write_bytes(whole.slice(..len));
        // The caller's memory goes on behind what was linked; what is written next does not go there.
        buffer.write(b"\x01");
        buffer.reserve(1).fill(2);
        buffer.flush();
        assert_eq!(buffer.peek(len + 2), Ok(&[&vec![0; len][..], &[1, 2]].concat()[..]));
        assert_eq!(whole, vec![0; 2 * len]);
    }
}

// netpoll keeps the slice that was reserved and lets it be written between the inserts; a borrow cannot, so it is written
// before, or through `reserved_mut`.
#[test]
fn inserts_into_one_reservation() {
    let mut buffer = LinkBuffer::new();
    buffer.reserve(32)[..2].copy_from_slice(b"ab");
    let mut left = 30;
    for (inserted, next) in [("cdef", b'g'), ("hijkl", b'm'), ("nopqrst", b'u')] {
        assert_eq!(buffer.insert(Bytes::from(inserted), left), Ok(()));
        buffer.reserved_mut()[0] = next;
        left -= 1;
    }
    assert_eq!(buffer.insert(Bytes::from("vwxyz"), left), Ok(()));
    assert_eq!(buffer.reserved_len(), 27);
    buffer.reserved_mut().copy_from_slice(b"abcdefghijklmnopqrstuvwxyza");
    assert_eq!(buffer.insert(Bytes::from("bcd"), 0), Ok(()));
    assert_eq!(buffer.reserved_len(), 0);
    buffer.flush();
    let want = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcd";
    assert_eq!(buffer.read_string(want.len()).as_deref(), Ok(want));
    assert!(buffer.is_empty());
}

#[test]
fn a_commit_after_an_insert() {
    for inserted in [1, 512, LINK_BYTES_MIN - 1, LINK_BYTES_MIN, 9000] {
        for (ahead, behind) in
            [(4096, 4096), (1, 1), (0, 16), (16, 0), (1, 70_000), (70_000, 1)].into_iter().take(cut(6, 4))
        {
            let mut buffer = LinkBuffer::new();
            let space = buffer.reserve(ahead + behind);
            space[..ahead].fill(b'a');
            space[ahead..].fill(b'c');
            let linked = Bytes::from(vec![b'b'; inserted]);
            assert_eq!(
                buffer.insert(linked.clone(), behind + ahead + 1),
                Err(short(behind + ahead + 1, ahead + behind))
            );
            assert_eq!(buffer.insert(linked.clone(), behind), Ok(()));
            buffer.invariants();
            assert_eq!((buffer.len(), buffer.reserved_len()), (ahead + inserted, behind));
            let is_linked = buffer.chunks().any(|chunk| chunk.as_ptr() == linked.as_ptr());
            assert_eq!(is_linked, inserted >= LINK_BYTES_MIN);
            let kept = behind.min(16);
            buffer.commit(kept);
            buffer.write(b"dd");
            let want = [vec![b'a'; ahead], vec![b'b'; inserted], vec![b'c'; kept], b"dd".to_vec()].concat();
            assert_eq!(buffer.read_vec(buffer.len()), Ok(want));
        }
    }
}

#[test]
fn an_insert_into_a_lent_node() {
    let mut buffer = lent(4096, b"read");
    buffer.reserve(6).copy_from_slice(b"<b></b");
    assert_eq!(buffer.insert(Bytes::from("bold"), 3), Ok(()));
    buffer.flush();
    assert_eq!(buffer.read_vec(14), Ok(b"read<b>bold</b".to_vec()));
    assert!(buffer.inputs().is_empty());
}

#[test]
fn the_same_big_peeks_take_no_more_nodes() {
    let len = cut(1 << 20, 1 << 15);
    let mut buffer = pieces(&pattern(len).chunks(4096).collect::<Vec<_>>());
    assert!(buffer.peek(len).is_ok());
    let shape = format!("{buffer:?}");
    for n in 0..cut(1000, 50) {
        assert!(buffer.peek(len - n).is_ok());
    }
    assert_eq!(format!("{buffer:?}"), shape, "one node, peeked a thousand times");
}

#[test]
fn a_search_while_bytes_come() {
    let mut buffer = LinkBuffer::new();
    for round in 0..cut(200, 8) {
        let space = buffer.reserve(1002);
        space.fill(b'x');
        space[500] = b'\n';
        space[1001] = b'\n';
        let last = round * 1002;
        assert_eq!(buffer.find_from(last, b'\n'), None, "what is reserved is not searched");
        buffer.flush();
        assert_eq!(buffer.find_from(last, b'\n'), Some(last + 500));
        assert_eq!(buffer.find_from(last + 500, b'\n'), Some(last + 500));
        assert_eq!(buffer.find_from(last + 501, b'\n'), Some(last + 1001));
        assert_eq!(buffer.find_from(last + 1002, b'\n'), None);
        assert_eq!(buffer.find_slice_from(last + 500, b"\nx"), Some(last + 500));
    }
}

#[test]
fn integrity_from_128_mib_down_to_one_byte() {
    let mut size = cut(128 << 20, 128 << 10);
    let block = pattern(251 * cut(1024, 64));
    let mut buffer = LinkBuffer::new();
    while size > 0 {
        let mut left = size;
        while left > 0 {
            let n = left.min(block.len());
            match left % 3 {
                0 => buffer.write(&block[..n]),
                1 => buffer.write_bytes(Bytes::copy_from_slice(&block[..n])),
                _ => {
                    buffer.reserve(n).copy_from_slice(&block[..n]);
                    buffer.flush();
                }
            }
            left -= n;
        }
        assert_eq!(buffer.len(), size);
        // The pattern repeats with every block: a read of one block's size fits it wherever the nodes end.
        while !buffer.is_empty() {
            let n = buffer.len().min(block.len());
            assert!(buffer.next(n) == Ok(&block[..n]), "the bytes differ in a message of {size}");
        }
        size /= 8;
    }
}

#[test]
fn boundaries_of_nodes() {
    // One byte around the sizes at which nodes end, written at once and byte by byte, cut at every such place.
    let sizes = [NODE_BYTES_MIN, WRITE_NODE_BYTES_MIN, 2 * WRITE_NODE_BYTES_MIN, 5 * WRITE_NODE_BYTES_MIN];
    let sizes = &sizes[..cut(sizes.len(), 1)];
    for len in sizes.iter().flat_map(|size| size - 1..=size + 1) {
        let bytes = pattern(len);
        for cut in sizes.iter().flat_map(|size| size - 1..=size + 1).filter(|&cut| cut <= len) {
            let mut whole = LinkBuffer::new();
            whole.write(&bytes);
            let mut slow = LinkBuffer::new();
            bytes.iter().for_each(|&byte| slow.write(&[byte]));
            for mut buffer in [whole, slow] {
                let mut head = buffer.split_to(cut).expect("they are there");
                assert_eq!(head.read_vec(cut).as_deref(), Ok(&bytes[..cut]));
                assert_eq!(buffer.next(len - cut), Ok(&bytes[cut..]));
            }
        }
    }
}
