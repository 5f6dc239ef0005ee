//! Searching, over the edges of pieces.
//!
//! A needle is sought by its first and its last byte at once, 32 places at a time: in a head whose lines end in `\r\n`, the
//! two ends of `\r\n\r\n` stand that far apart only where the head ends, so that almost nothing is looked at twice.

use crate::LinkBuffer;

/// Places compared at a time: a whole number of vector registers, and the loop over them has no branch inside.
const LANES: usize = 32;
/// How far one byte is sought so, before a search with more of a beginning takes over: most lines end there.
const NEAR: usize = 4 * LANES;

/// Whether there is a place where `heads` has `first` and `tails` has `last`.
#[inline]
fn is_among(heads: &[u8; LANES], tails: &[u8; LANES], first: u8, last: u8) -> bool {
    let pairs = heads.iter().zip(tails);
    pairs.fold(false, |found, (&head, &tail)| found | ((head == first) & (tail == last)))
}

/// The first place, of eight, where `heads` has `first` and `tails` has `last`.
#[inline]
fn position_in_word(heads: &[u8; 8], tails: &[u8; 8], first: u8, last: u8) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let heads = u64::from_le_bytes(*heads) ^ (ONES * u64::from(first));
    let tails = u64::from_le_bytes(*tails) ^ (ONES * u64::from(last));
    // A byte is zero where both are equal. The lowest of the bits that the subtraction leaves stands in the first such byte.
    let differs = heads | tails;
    let places = differs.wrapping_sub(ONES) & !differs & HIGHS;
    (places != 0).then(|| places.trailing_zeros() as usize / 8)
}

/// The first place where `first` stands and, `gap` bytes further on, `last`.
fn position_pair(bytes: &[u8], first: u8, last: u8, gap: usize) -> Option<usize> {
    let tails = bytes.get(gap..)?;
    let heads = &bytes[..tails.len()];
    let mut start = 0;
    for (heads, tails) in heads.as_chunks().0.iter().zip(tails.as_chunks().0) {
        if is_among(heads, tails, first, last) {
            break;
        }
        start += LANES;
    }
    for (heads, tails) in heads[start..].as_chunks().0.iter().zip(tails[start..].as_chunks().0) {
        if let Some(at) = position_in_word(heads, tails, first, last) {
            return Some(start + at);
        }
        start += 8;
    }
    if let (Some(heads_last), Some(tails_last)) = (heads.last_chunk(), tails.last_chunk()) {
        // The last places, and some again in which it was not.
        return position_in_word(heads_last, tails_last, first, last).map(|at| heads.len() - 8 + at);
    }
    heads.iter().zip(tails).position(|(&head, &tail)| head == first && tail == last)
}

/// Whether `byte` stands in `block`.
#[inline]
fn holds(block: &[u8; LANES], byte: u8) -> bool {
    block.iter().fold(false, |found, &here| found | (here == byte))
}

/// Where `byte` first stands in `bytes`: as `position_pair`, with half of the comparisons. What seldom happens is a function of
/// its own, so that this one, which every line calls, saves no registers.
fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    let mut start = 0;
    for block in bytes.as_chunks().0 {
        if start == NEAR {
            return position_far(bytes, byte);
        }
        if holds(block, byte) {
            return position_in_block(block, byte).map(|at| start + at);
        }
        start += LANES;
    }
    position_end(bytes, byte)
}

/// As `position`, by words.
#[inline]
fn position_in_block(block: &[u8; LANES], byte: u8) -> Option<usize> {
    let mut words = block.as_chunks().0.iter().enumerate();
    words.find_map(|(index, word)| position_in_word(word, word, byte, byte).map(|at| 8 * index + at))
}

/// As `position`, where the first `NEAR` bytes are others: by `memchr`, which lines are too short for.
#[inline(never)]
fn position_far(bytes: &[u8], byte: u8) -> Option<usize> {
    memchr::memchr(byte, &bytes[NEAR..]).map(|at| NEAR + at)
}

/// As `position`, where no whole block holds it.
#[inline(never)]
fn position_end(bytes: &[u8], byte: u8) -> Option<usize> {
    let mut start = bytes.len() / LANES * LANES;
    for word in bytes[start..].as_chunks().0 {
        if let Some(at) = position_in_word(word, word, byte, byte) {
            return Some(start + at);
        }
        start += 8;
    }
    if let Some(last) = bytes.last_chunk() {
        // The last places, and some again in which it was not.
        return position_in_word(last, last, byte, byte).map(|at| bytes.len() - 8 + at);
    }
    bytes.iter().position(|&here| here == byte)
}

/// Where `needle`, which is not empty, first stands in `bytes` as a whole.
#[inline]
fn position_slice(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, &last) = (needle.first()?, needle.last()?);
    let gap = needle.len() - 1;
    let mut from = 0;
    loop {
        let at = from + position_pair(&bytes[from..], first, last, gap)?;
        if bytes[at..][..=gap] == *needle {
            return Some(at);
        }
        from = at + 1;
    }
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
    #[inline]
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
    #[inline]
    pub fn find_from(&self, start: usize, byte: u8) -> Option<usize> {
        let first = self.first_readable();
        if let Some(bytes) = first.get(start..)
            && let Some(at) = position(bytes, byte)
        {
            return Some(start + at);
        }
        if first.len() == self.len { None } else { self.find_behind(start, byte) }
    }

    /// As `find_from`, where it is not in the first piece.
    fn find_behind(&self, start: usize, byte: u8) -> Option<usize> {
        let first = self.first.as_ref()?;
        let mut before = first.len();
        for piece in &first.rest {
            let bytes = piece.readable();
            if let Some(bytes) = bytes.get(start.saturating_sub(before)..)
                && let Some(at) = position(bytes, byte)
            {
                return Some(start.max(before) + at);
            }
            before += bytes.len();
        }
        None
    }

    /// Where `needle` first stands; an empty one stands everywhere. Copies nothing.
    ///
    /// O(bytes looked at) where the needle's first and last byte seldom stand as far apart as in the needle; at worst, in bytes
    /// made for it, O(bytes looked at × `needle.len()`). At the end of each piece the needle is looked for over the edge, which
    /// takes O(pieces) for each place where its first byte stands there.
    ///
    /// # Examples
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"a: b\r\n\r\nbody"[..]);
    /// assert_eq!(buffer.find_slice(b"\r\n\r\n"), Some(4));
    /// ```
    #[inline]
    pub fn find_slice(&self, needle: &[u8]) -> Option<usize> {
        self.find_slice_from(0, needle)
    }

    /// As [`find_slice`](Self::find_slice), for a needle that begins at `start` or later. When it was not there and more bytes have
    /// come, search on where it may have begun: all of the needle but a byte before what was the end.
    ///
    /// # Examples
    /// ```
    /// let end = b"\r\n\r\n";
    /// let mut buffer = linkbuffer::LinkBuffer::new();
    /// let mut searched = 0;
    /// let found = [&b"a"[..], b": b\r\n\r", b"\nbody"].iter().find_map(|read| {
    ///     buffer.write(read);
    ///     let found = buffer.find_slice_from(searched, end);
    ///     searched = buffer.len().saturating_sub(end.len() - 1);
    ///     found
    /// });
    /// assert_eq!(found, Some(4));
    /// ```
    /// ```
    /// let buffer = linkbuffer::LinkBuffer::from(&b"--a--b"[..]);
    /// assert_eq!(buffer.find_slice_from(1, b"--"), Some(3));
    /// ```
    #[inline]
    pub fn find_slice_from(&self, start: usize, needle: &[u8]) -> Option<usize> {
        let bytes = self.first_readable();
        if bytes.len() == self.len && start <= bytes.len() && !needle.is_empty() {
            return position_slice(&bytes[start..], needle).map(|at| start + at);
        }
        self.find_over_pieces(start, needle)
    }

    fn find_over_pieces(&self, start: usize, needle: &[u8]) -> Option<usize> {
        let Some((&first, tail)) = needle.split_first() else {
            return (start <= self.len()).then_some(start);
        };
        let mut before = 0;
        for chunk in self.chunks() {
            let mut from = start.saturating_sub(before).min(chunk.len());
            if let Some(at) = position_slice(&chunk[from..], needle) {
                return Some(before + from + at);
            }
            // Where it would go on in the chunks behind.
            from = from.max(chunk.len().saturating_sub(tail.len()));
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
    /// O(bytes looked at), plus one copy when the bytes lie in several pieces. It looks from the front each time: where a line
    /// comes in many reads, [`find_from`](Self::find_from) and [`next`](Self::next) search each byte once.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"one\ntw"[..]);
    /// assert_eq!(buffer.until(b'\n'), Some(&b"one\n"[..]));
    /// assert_eq!(buffer.until(b'\n'), None);
    /// ```
    #[doc(alias = "Until")]
    #[inline]
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
