//! Any bytes as frames: wherever they are cut they mean the same, each frame has one encoding, and a length that was only claimed costs nothing.
#![no_main]

use anyproxy::proto::frame::{Decoder, Frame, FrameError, HEAD_SIZE, Piece};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// All frames that came whole, and how it ended.
fn decode(input: &Bytes, mut piece: impl FnMut() -> usize) -> (Vec<(u8, u32, Vec<u8>)>, Option<FrameError>) {
    let (mut decoder, mut frames, mut fed) = (Decoder::default(), Vec::new(), 0);
    while fed < input.len() {
        let len = piece().clamp(1, input.len() - fed);
        decoder.push(input.slice(fed..fed + len));
        fed += len;
        loop {
            assert!(
                decoder.held_bytes() <= 2 * fed + 64,
                "memory for what arrived, not for what was claimed"
            );
            match decoder.next_frame() {
                Ok(Some((head, body))) => {
                    let frame = Frame::read(head, body.clone());
                    assert!(head.len == body.len(), "a head tells the length of its body");
                    if let Ok(frame) = frame {
                        let encoded = frame.encode(head.stream);
                        assert_eq!(&encoded[HEAD_SIZE..], &body[..], "one encoding for each value");
                        assert_eq!(encoded[..HEAD_SIZE], head.encode());
                    }
                    frames.push((head.kind as u8, head.stream, body.to_vec()));
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// As [`decode`], from the pieces that a session takes: nothing of a body waits.
fn join(input: &Bytes, mut piece: impl FnMut() -> usize) -> (Vec<(u8, u32, Vec<u8>)>, Option<FrameError>) {
    let (mut decoder, mut fed) = (Decoder::default(), 0);
    let mut frames: Vec<(u8, u32, Vec<u8>)> = Vec::new();
    // What the last frame still lacks.
    let mut lacks = 0;
    let mut error = None;
    while fed < input.len() && error.is_none() {
        let len = piece().clamp(1, input.len() - fed);
        decoder.push(input.slice(fed..fed + len));
        fed += len;
        while error.is_none() {
            match decoder.next_piece() {
                Ok(Some(Piece { head, body, first })) => {
                    assert!(first == (lacks == 0), "a frame ends before the next begins");
                    match frames.last_mut() {
                        Some(last) if !first => last.2.extend_from_slice(&body),
                        _ => frames.push((head.kind as u8, head.stream, body.to_vec())),
                    }
                    lacks = if first { head.len } else { lacks } - body.len();
                }
                Ok(None) => break,
                Err(found) => error = Some(found),
            }
        }
        assert!(lacks == 0 || error.is_none());
    }
    if lacks > 0 {
        frames.pop();
    }
    (frames, error)
}

fuzz_target!(|input: &[u8]| {
    let Some((&seed, bytes)) = input.split_first() else { return };
    let bytes = Bytes::copy_from_slice(bytes);
    let whole = decode(&bytes, || usize::MAX);
    let mut step = usize::from(seed);
    let pieces = decode(&bytes, || {
        step = step.wrapping_mul(5).wrapping_add(3) % 257;
        step % 23 + 1
    });
    assert_eq!(whole, pieces);
    assert_eq!(whole, decode(&bytes, || 1));
    assert_eq!(whole, join(&bytes, || usize::MAX));
    assert_eq!(whole, join(&bytes, || 7));
});
