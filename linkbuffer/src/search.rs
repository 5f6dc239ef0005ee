//! Searching, over the edges of pieces.

use crate::LinkBuffer;

/// Bytes compared at a time: a whole number of vector registers, and the loop below has no branch inside.
const LANES: usize = 32;

/// Where `byte` first stands in `bytes`.
fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    let mut start = 0;
    for lanes in bytes.chunks_exact(LANES) {
        if lanes.iter().fold(false, |found, &here| found | (here == byte)) {
            break;
        }
        start += LANES;
    }
    bytes[start..].iter().position(|&here| here == byte).map(|at| start + at)
}

impl LinkBuffer {
    /// Where `byte` first stands, counted from the first readable byte. O(bytes looked at), copies nothing.
    ///
    /// # Examples
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"key=value"[..]);
    /// assert_eq!(buffer.find(b'='), Some(3));
    /// assert_eq!(buffer.find(b'?'), None);
    /// ```
    #[doc(alias = "indexByte")]
    pub fn find(&self, byte: u8) -> Option<usize> {
        self.find_from(0, byte)
    }

    /// As [`find`](Self::find), not looking before `start`: with what was searched already as `start`, a line that arrives in
    /// many pieces is searched once. The answer still counts from the first readable byte.
    ///
    /// # Examples
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"a=b=c"[..]);
    /// assert_eq!(buffer.find_from(2, b'='), Some(3));
    /// ```
    pub fn find_from(&self, start: usize, byte: u8) -> Option<usize> {
        let mut before = 0;
        for chunk in self.chunks() {
            let from = start.saturating_sub(before).min(chunk.len());
            if let Some(at) = position(&chunk[from..], byte) {
                return Some(before + from + at);
            }
            before += chunk.len();
        }
        None
    }

    /// Where `needle` first stands; an empty one stands everywhere. O(bytes looked at × `needle.len()`) at worst, copies nothing.
    ///
    /// # Examples
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"a: b\r\n\r\nbody"[..]);
    /// assert_eq!(buffer.find_slice(b"\r\n\r\n"), Some(4));
    /// ```
    pub fn find_slice(&self, needle: &[u8]) -> Option<usize> {
        self.find_slice_from(0, needle)
    }

    /// As [`find_slice`](Self::find_slice), for a needle that begins at `start` or later. Search on from
    /// `len - (needle.len() - 1)` when more bytes have come.
    ///
    /// # Examples
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"--a--b"[..]);
    /// assert_eq!(buffer.find_slice_from(1, b"--"), Some(3));
    /// ```
    pub fn find_slice_from(&self, start: usize, needle: &[u8]) -> Option<usize> {
        let Some((&first, tail)) = needle.split_first() else {
            return (start <= self.len()).then_some(start);
        };
        let mut before = 0;
        for chunk in self.chunks() {
            let mut from = start.saturating_sub(before).min(chunk.len());
            while let Some(at) = position(&chunk[from..], first) {
                from += at + 1;
                if follows(&chunk[from..], tail, || self.chunks_after(before + chunk.len())) {
                    return Some(before + from - 1);
                }
            }
            before += chunk.len();
        }
        None
    }

    /// The chunks behind the first `skipped` bytes, which end a chunk.
    fn chunks_after(&self, skipped: usize) -> impl Iterator<Item = &[u8]> {
        let mut before = 0;
        self.chunks().skip_while(move |chunk| {
            let is_before = before < skipped;
            before += chunk.len();
            is_before
        })
    }

    /// Reads through the first `byte`, which is included; `None`, and nothing consumed, when it is not there.
    ///
    /// O(bytes looked at), plus one copy when the bytes lie in several pieces.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"one\ntw"[..]);
    /// assert_eq!(buffer.until(b'\n'), Some(&b"one\n"[..]));
    /// assert_eq!(buffer.until(b'\n'), None);
    /// ```
    #[doc(alias = "Until")]
    pub fn until(&mut self, byte: u8) -> Option<&[u8]> {
        let at = self.find(byte)?;
        self.next(at + 1).ok()
    }
}

/// Whether `tail` begins `here` and, where `here` is too short, goes on in the chunks behind.
fn follows<'a, I: Iterator<Item = &'a [u8]>>(here: &[u8], tail: &[u8], behind: impl FnOnce() -> I) -> bool {
    let n = here.len().min(tail.len());
    if here[..n] != tail[..n] {
        return false;
    }
    let mut left = &tail[n..];
    if left.is_empty() {
        return true;
    }
    for chunk in behind() {
        let n = chunk.len().min(left.len());
        if chunk[..n] != left[..n] {
            return false;
        }
        left = &left[n..];
        if left.is_empty() {
            return true;
        }
    }
    false
}
