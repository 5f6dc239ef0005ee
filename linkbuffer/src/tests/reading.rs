//! Reading: every call, over every split.

use super::*;
use crate::ReadStringError;
use bytes::{Buf, Bytes};
use std::io::{BufRead, IoSlice, Read, Write};

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
    for n in (0..=40).step_by(cut(1, 13)) {
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
    assert!(buffer.first.is_none());
}

#[test]
fn the_shape_is_shown_and_the_bytes_are_not() {
    let mut buffer = pieces(&[&[b's'; 200]]);
    buffer.lend(Node::take(512));
    assert_eq!(
        format!("{buffer:?}"),
        "LinkBuffer { len: 200, reserved: 0, pieces: [shared 200, lent 0/512] }"
    );
}

#[test]
fn text_over_pieces_leaves_them_apart() {
    let mut buffer = pieces(&[b"gr\xc3", b"\xbcn and", &[b' '; 5000]]);
    assert_eq!(buffer.read_string(5).as_deref(), Ok("grün"));
    assert_eq!(buffer.chunks().map(<[u8]>::len).collect::<Vec<_>>(), [4, 5000]);
    assert!(
        matches!(pieces(&[b"a\xc3", b"b"]).read_string(3), Err(ReadStringError::Utf8(error)) if error.valid_up_to() == 1)
    );
}

#[test]
#[should_panic(expected = "2 bytes wanted, 1 available")]
fn advancing_beyond_the_end_panics_too() {
    Buf::advance(&mut LinkBuffer::from(&b"x"[..]), 2);
}

#[test]
fn text_that_is_none_stays() {
    let mut buffer = pieces(&[b"\xff", b"a"]);
    assert!(matches!(buffer.read_string(2), Err(ReadStringError::Utf8(_))));
    assert_eq!(buffer.next(2), Ok(&b"\xffa"[..]));
}

#[test]
fn next_shows_linked_bytes_without_a_copy() {
    let bytes = Bytes::from(pattern(4096));
    let mut buffer = LinkBuffer::from(bytes.clone());
    for at in [0, 1024, 2048] {
        assert_eq!(buffer.next(1024).map(<[u8]>::as_ptr), Ok(bytes[at..].as_ptr()));
        assert_eq!(buffer.len(), 3072 - at);
        assert_eq!(buffer.chunk(), &bytes[at + 1024..]);
        assert_eq!(buffer.find(bytes[at + 1024]), Some(0));
    }
    assert_eq!(buffer.read_bytes(buffer.len()).as_deref(), Ok(&bytes[3072..]));
}

#[test]
fn the_same_big_peek_costs_no_memory() {
    let bytes = pattern(100_000);
    let mut buffer = pieces(&[&bytes[..30_000], &bytes[30_000..70_000], &bytes[70_000..]]);
    let address = buffer.peek(90_000).map(<[u8]>::as_ptr);
    for n in (0..=90_000).step_by(cut(1000, 30_000)) {
        assert_eq!(buffer.peek(n).map(<[u8]>::as_ptr), address);
    }
    assert_eq!(buffer.peek(100_000).map(<[u8]>::as_ptr), address, "it grows in its node");
    assert_eq!(buffer.peek(100_000), Ok(&bytes[..]));
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
    write!(buffer, "").and_then(|()| Write::flush(&mut buffer)).expect("it never fails");
    assert_eq!(std::io::Error::from(short(2, 1)).to_string(), "2 bytes wanted, 1 available");
    assert_eq!(ReadStringError::Short(short(2, 1)).to_string(), "2 bytes wanted, 1 available");
    let text = LinkBuffer::from(&b"\xff"[..]).read_string(1).expect_err("it is no text");
    assert!(text.to_string().starts_with("invalid utf-8"));
    assert_eq!(Buf::chunk(&buffer), b"1-2ab");
    assert_eq!(Buf::chunks_vectored(&buffer, &mut [IoSlice::new(&[]); 2]), 1);
    BufRead::consume(&mut buffer, usize::MAX);
    assert!(buffer.is_empty(), "to the end of what is there at most");
    assert_eq!(format!("{:?}", Node::take(1)), "Node(512)");
}

#[test]
#[should_panic(expected = "2 bytes wanted, 1 available")]
fn the_trait_wants_a_panic_beyond_the_end() {
    Buf::copy_to_bytes(&mut LinkBuffer::from(&b"x"[..]), 2);
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

// Every length around the places compared at a time, the needle at every place and nowhere.
#[test]
fn a_search_finds_the_first_at_every_place() {
    for needle in [&b"\r"[..], b"\r\n", b"\r\n\r\n", b"\rxxxxxxxx\n"] {
        for len in needle.len()..=cut(75, 13) {
            // The ends of the needle without its middle, bytes that differ in one bit, and the high bit.
            let bytes: Vec<u8> = b"\r\x0c\x0b\n\r\x8d\x8a\n".iter().cycle().take(len).copied().collect();
            for at in 0..=len {
                let mut bytes = bytes.clone();
                if let Some(place) = bytes.get_mut(at..at + needle.len()) {
                    place.copy_from_slice(needle);
                }
                let buffer = pieces(&[&bytes]);
                for start in 0..=len {
                    let want = bytes[start..].windows(needle.len()).position(|here| here == needle);
                    let want = want.map(|found| start + found);
                    assert_eq!(buffer.find_slice_from(start, needle), want, "{len} {at}");
                    if let &[byte] = needle {
                        assert_eq!(buffer.find_from(start, byte), want, "{len} {at}");
                    }
                }
            }
        }
    }
}

// Beyond the first places larger blocks are compared: every place of theirs and around their edges, the byte after it too.
#[test]
fn a_byte_is_found_however_far_away() {
    for len in [127, 128, 129, 160, 255, 256, 257, 300, 391].into_iter().take(cut(9, 3)) {
        for at in (0..=len).step_by(cut(1, 13)) {
            // Bytes that differ in one bit.
            let mut bytes: Vec<u8> = b"\x0b\x0e\x8a\x08\x02".iter().cycle().take(len).copied().collect();
            bytes[at..].fill(b'\n');
            let want = (at < len).then_some(at);
            let halves = pieces(&[&bytes[..len / 2], &bytes[len / 2..]]);
            for start in [0, 1, len / 2, at.saturating_sub(1), at] {
                let want = want.map(|at| at.max(start)).filter(|&at| at < len);
                assert_eq!(pieces(&[&bytes]).find_from(start, b'\n'), want, "{start} {at} {len}");
                assert_eq!(halves.find_from(start, b'\n'), want, "{start} {at} {len}, in two pieces");
            }
        }
    }
}

#[test]
fn a_peek_joins_within_a_node_that_has_the_space() {
    let mut buffer = LinkBuffer::new();
    buffer.write(&pattern(4096));
    let address = buffer.chunk().as_ptr();
    buffer.skip(4000).expect("they are there");
    buffer.append(pieces(&[b"next"]));
    assert_eq!(buffer.peek(100), Ok(&[&pattern(4096)[4000..], b"next"].concat()[..]));
    assert_eq!(buffer.chunk().as_ptr(), address, "no other node was taken");
}
