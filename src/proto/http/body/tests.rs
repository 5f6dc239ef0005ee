//! Bodies as data, in pieces of every size.

use super::*;
use crate::limits::http::{
    CHUNK_EXCESS_MAX_BYTES, CHUNK_EXTENSION_MAX_BYTES, CHUNK_FREE_BYTES, TRAILERS_MAX, TRAILERS_MAX_BYTES,
};

type Read = Result<(Vec<u8>, bool, usize), Reject>;

/// Reads `input`, given in pieces of `piece` bytes: the payload, whether it is done, and what was left over.
fn read(framing: Framing, input: &[u8], piece: usize) -> Read {
    let mut reader = BodyReader::new(framing);
    let mut buffer = LinkBuffer::new();
    let mut payload = Vec::new();
    for part in input.chunks(piece) {
        buffer.write_bytes(Bytes::copy_from_slice(part));
        while let Some(bytes) = reader.read(&mut buffer, 3)? {
            assert!((1..=3).contains(&bytes.len()), "a piece is neither empty nor above the maximum");
            payload.extend_from_slice(&bytes);
        }
        assert!(reader.is_done() || buffer.is_empty(), "all input is used until the body is done");
    }
    assert_eq!(reader.payload_len(), payload.len() as u64);
    Ok((payload, reader.is_done(), buffer.len()))
}

#[track_caller]
fn check(framing: Framing, input: impl AsRef<[u8]>, want: Result<(&str, bool, usize), (u16, &str)>) {
    let input = input.as_ref();
    let want = want.map(|(payload, done, left)| (payload.as_bytes().to_vec(), done, left));
    let sizes = if input.len() > 2_000 {
        vec![1, 2, 3, 7, 1_000, input.len()]
    } else {
        (1..=input.len().max(1)).collect()
    };
    for piece in sizes {
        let got = read(framing, input, piece).map_err(|reject| (reject.status, reject.why));
        assert_eq!(got, want, "in pieces of {piece}: {:?}", input.escape_ascii().to_string());
    }
}

#[track_caller]
fn chunked(input: impl AsRef<[u8]>, want: Result<(&str, bool, usize), (u16, &str)>) {
    check(Framing::Chunked, input, want);
}

// THREATS T3: chunk sizes and extensions.
#[test]
fn chunks_are_read_strictly() {
    for input in [
        "3\r\nabc\r\n0\r\n\r\n",
        "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3;n\r\nabc\r\n0;a=b\r\n\r\n",
        "3;n=v;m=\"a;\\\"b\"\r\nabc\r\n0\r\n\r\n",
        "3 ; n = v ;m\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nA: b\r\nC:\r\n\r\n",
    ] {
        chunked(input, Ok(("abc", true, 0)));
    }
    chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", Ok(("01234567890123456789", true, 0)));
    chunked("0\r\n\r\nGET /", Ok(("", true, 5)));
    chunked("5\r\nab", Ok(("ab", false, 0)));
    chunked("ffffffffffffffff\r\nab", Ok(("ab", false, 0)));
    let size = "bad chunk size";
    let extension = "bad chunk extension";
    let crlf = "CR without LF in chunked body";
    for (why, input) in [
        (size, "\r\nabc\r\n"),
        (size, "x\r\n"),
        (size, "0x3\r\nabc\r\n"),
        (size, "+3\r\nabc\r\n"),
        (size, "-3\r\nabc\r\n"),
        (size, " 3\r\nabc\r\n"),
        (size, "3\nabc\r\n"),
        (size, "3_0\r\n"),
        (size, "3,\r\n"),
        (size, "3\0\r\n"),
        (size, ";a\r\n"),
        (extension, "3 \r\nabc\r\n"),
        (extension, "3;\r\nabc\r\n"),
        (extension, "3;a \r\nabc\r\n"),
        (extension, "3;a=\r\nabc\r\n"),
        (extension, "3;=a\r\nabc\r\n"),
        (extension, "3;a\nabc\r\n"),
        (extension, "3;a=\"b\r\nabc\r\n"),
        (extension, "3;a=\"b\"c\r\nabc\r\n"),
        (extension, "3;a\0\r\nabc\r\n"),
        (crlf, "3\rabc\r\n"),
        (crlf, "3;a\rb\r\n"),
        (crlf, "3\r\nabc\r0\r\n\r\n"),
        (crlf, "0\r\n\rX"),
        ("chunk longer than its size", "3\r\nabcd\r\n"),
        ("chunk longer than its size", "3\r\nabc\n0\r\n\r\n"),
        ("chunk longer than its size", "3\r\nabc0\r\n\r\n"),
        ("chunk size too large", "10000000000000000\r\n"),
        ("chunk size too large", "00000000000000003\r\n"),
        ("bad trailer field", "0\r\n A: b\r\n\r\n"),
        ("bad trailer field", "0\r\nA : b\r\n\r\n"),
        ("bad trailer field", "0\r\n: b\r\n\r\n"),
        ("bad trailer field", "0\r\nA: b\n\r\n"),
        ("bad trailer field", "0\r\nA: b\r\n c\r\n\r\n"),
        ("bad trailer field", "0\r\nA\r\n\r\n"),
        ("bad trailer field", "0\r\nA: \0\r\n\r\n"),
        ("bad trailer field", "0\r\n\n"),
        ("bad trailer field", "0\r\nGET / HTTP/1.1\r\n\r\n"),
        (crlf, "0\r\nA: b\rc\r\n\r\n"),
    ] {
        chunked(input, Err((400, why)));
    }
}

// THREATS T2, T3: what costs us without being payload is bounded.
#[test]
fn chunk_framing_is_bounded() {
    let extension = |n: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(n - 1));
    chunked(extension(CHUNK_EXTENSION_MAX_BYTES), Ok(("a", true, 0)));
    chunked(extension(CHUNK_EXTENSION_MAX_BYTES + 1), Err((400, "chunk extension too long")));
    chunked(extension(64 << 10), Err((400, "chunk extension too long")));

    // Each chunk leaves 200 bytes of extension unpaid but for its one byte of payload.
    let chunk = format!("1;{}\r\na\r\n", "e".repeat(210));
    let enough = CHUNK_EXCESS_MAX_BYTES as usize / 200 + 2;
    chunked(chunk.repeat(enough), Err((400, "too much chunk framing for its payload")));
    // What is free, with the one that the byte of payload pays, costs nothing however often it comes; one more adds up.
    let framed = |bytes: u64| format!("1;{}\r\na\r\n", "e".repeat(bytes as usize - 6));
    let many = CHUNK_EXCESS_MAX_BYTES as usize + 2;
    chunked(framed(CHUNK_FREE_BYTES + 1).repeat(many), Ok((&"a".repeat(many), false, 0)));
    chunked(framed(CHUNK_FREE_BYTES + 2).repeat(many), Err((400, "too much chunk framing for its payload")));
    // A long body of small, plain chunks is nobody's attack.
    chunked("1\r\na\r\n".repeat(20_000), Ok((&"a".repeat(20_000), false, 0)));

    let trailers = |n: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(n));
    chunked(trailers(TRAILERS_MAX), Ok(("", true, 0)));
    chunked(trailers(TRAILERS_MAX + 1), Err((431, "trailers too large")));
    let block = |n: usize| format!("0\r\nA: {}\r\n\r\n", "b".repeat(n - 5));
    chunked(block(TRAILERS_MAX_BYTES), Ok(("", true, 0)));
    chunked(block(TRAILERS_MAX_BYTES + 1), Err((431, "trailers too large")));
}

#[test]
fn lengths_and_closes_end_bodies() {
    check(Framing::None, "next", Ok(("", true, 4)));
    check(Framing::Length(3), "abcnext", Ok(("abc", true, 4)));
    check(Framing::Length(5), "abc", Ok(("abc", false, 0)));
    check(Framing::UntilClose, "abc", Ok(("abc", false, 0)));
    for (framing, end) in [
        (Framing::None, Ok(())),
        (Framing::Length(1), Err(CutShort)),
        (Framing::Chunked, Err(CutShort)),
        (Framing::UntilClose, Ok(())),
    ] {
        let mut reader = BodyReader::new(framing);
        assert_eq!(reader.end(), end, "{framing:?}");
        assert_eq!(reader.is_done(), end.is_ok(), "{framing:?}");
    }
}

#[test]
fn trailers_are_kept_as_they_came() {
    let mut reader = BodyReader::new(Framing::Chunked);
    let mut input = LinkBuffer::new();
    input.write(b"0\r\nA: b\r\nC: d\r\n\r\n");
    assert_eq!(reader.read(&mut input, 9), Ok(None));
    assert_eq!(reader.trailers(), b"A: b\r\nC: d\r\n");
}

#[track_caller]
fn writes(framing: Framing, pieces: &[&'static str], want: Result<&str, Miscount>) {
    let mut out = LinkBuffer::new();
    let mut writer = BodyWriter::new(framing);
    let got = pieces
        .iter()
        .try_for_each(|piece| writer.write(Bytes::from_static(piece.as_bytes()), &mut out))
        .and_then(|()| writer.finish(b"T: u\r\n", &mut out));
    let mut text = String::new();
    while let Some(piece) = out.read_chunk(usize::MAX) {
        text.push_str(str::from_utf8(&piece).expect("text in, text out"));
    }
    assert_eq!(got.map(|()| text.as_str()), want);
}

#[test]
fn writers_frame_and_count() {
    writes(Framing::None, &[], Ok(""));
    writes(Framing::None, &["a"], Err(Miscount));
    writes(Framing::Length(3), &["a", "", "bc"], Ok("abc"));
    writes(Framing::Length(3), &["a"], Err(Miscount));
    writes(Framing::Length(3), &["a", "bcd"], Err(Miscount));
    writes(
        Framing::Chunked,
        &["a", "", "0123456789abcdef"],
        Ok("1\r\na\r\n10\r\n0123456789abcdef\r\n0\r\nT: u\r\n\r\n"),
    );
    writes(Framing::UntilClose, &["a", "bc"], Ok("abc"));
}
