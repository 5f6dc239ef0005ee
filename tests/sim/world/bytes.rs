//! The bytes of a stream: any of them can be told from its place alone.

fn word(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z ^ (z >> 29)
}

/// What the `index`th word of a stream in one direction is. The first word says which stream it is.
fn word_at(stream: u32, up: bool, index: u64) -> u64 {
    match index {
        0 => u64::from(stream) << 1 | u64::from(up),
        _ => word(u64::from(stream) << 1 | u64::from(up), index),
    }
}

/// The bytes of the first word.
pub(crate) const NAME_SIZE: u64 = 8;

/// The stream that begins with these bytes, and its direction.
pub(crate) fn named(first: [u8; NAME_SIZE as usize]) -> (u32, bool) {
    let word = u64::from_le_bytes(first);
    ((word >> 1) as u32, word & 1 == 1)
}

/// Appends `len` bytes from `at` on.
pub(crate) fn write(stream: u32, up: bool, at: u64, len: usize, out: &mut Vec<u8>) {
    let end = at + len as u64;
    for index in at / 8..end.div_ceil(8) {
        let bytes = word_at(stream, up, index).to_le_bytes();
        let from = at.saturating_sub(index * 8).min(8) as usize;
        let to = (end - index * 8).min(8) as usize;
        out.extend_from_slice(&bytes[from..to]);
    }
}

/// The first of `bytes`, which are to be those from `at` on, that is wrong.
pub(crate) fn first_wrong(stream: u32, up: bool, at: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = at;
    let mut rest = bytes;
    while !rest.is_empty() {
        let want = word_at(stream, up, at / 8).to_le_bytes();
        let from = (at % 8) as usize;
        let n = (8 - from).min(rest.len());
        if rest[..n] != want[from..from + n] {
            return Some(at);
        }
        (at, rest) = (at + n as u64, &rest[n..]);
    }
    None
}

#[test]
fn every_byte_has_its_place() {
    let mut whole = Vec::new();
    write(7, true, 0, 1000, &mut whole);
    for (at, len) in [(0, 1), (3, 1), (3, 9), (8, 8), (1, 999), (500, 77)] {
        let mut part = Vec::new();
        write(7, true, at as u64, len, &mut part);
        assert_eq!(part, whole[at..at + len]);
        assert_eq!(first_wrong(7, true, at as u64, &part), None);
    }
    whole[777] ^= 1;
    assert!(first_wrong(7, true, 0, &whole).is_some_and(|at| at / 8 == 777 / 8));
    assert_eq!(named(whole[..8].try_into().expect("eight")), (7, true));
}
