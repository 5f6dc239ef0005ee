//! Reading and writing the fields of a frame's body: big-endian integers, short texts, addresses.
//!
//! [`Reader`] is the only thing that looks into bytes from the peer. It never reads past the end, never allocates for a
//! length that was only claimed, and [`Reader::end`] refuses what is left over, so that each value has one encoding.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The body ended within a field.
    Short,
    /// Bytes were left after the last field.
    Trailing,
    /// A text was not UTF-8, held a control character, or was longer or shorter than its field allows.
    Text,
    /// A number stood for nothing.
    Value,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireError::Short => "the body ends within a field",
            WireError::Trailing => "bytes are left after the last field",
            WireError::Text => "a text is not valid for its field",
            WireError::Value => "a number stands for nothing",
        })
    }
}

impl std::error::Error for WireError {}

/// A cursor over the body of one frame.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first byte of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`WireError::Short`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`WireError::Short`] at the end.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`WireError::Short`] at the end.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`WireError::Short`] at the end.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// [`WireError::Short`] at the end.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A text with its length in one byte, of at most `max` bytes and without control characters.
    ///
    /// # Errors
    /// [`WireError::Short`] at the end, [`WireError::Text`] for a text that may not stand here.
    pub fn text(&mut self, max: usize) -> Result<&'a str, WireError> {
        let len = usize::from(self.u8()?);
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short)?;
        self.rest = rest;
        let text = std::str::from_utf8(head).map_err(|_| WireError::Text)?;
        if is_text(text, max) { Ok(text) } else { Err(WireError::Text) }
    }

    /// An address that may be missing.
    ///
    /// # Errors
    /// [`WireError::Short`] at the end, [`WireError::Value`] for an unknown family.
    pub fn addr(&mut self) -> Result<Option<SocketAddr>, WireError> {
        let ip = match self.u8()? {
            0 => return Ok(None),
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(WireError::Value),
        };
        Ok(Some(SocketAddr::new(ip, self.u16()?)))
    }

    /// Checks that everything was read.
    ///
    /// # Errors
    /// [`WireError::Trailing`] when it was not.
    pub fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

/// Whether `text` may stand in a field of at most `max` bytes: short enough, and without control characters, because
/// names end up in logs.
pub fn is_text(text: &str, max: usize) -> bool {
    text.len() <= max.min(usize::from(u8::MAX)) && !text.chars().any(char::is_control)
}

/// Appends a text behind its length. What [`is_text`] refuses is cut to what it allows: our side checks names where they
/// enter, so only a free-form reason is ever shortened here.
pub fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let max = max.min(usize::from(u8::MAX));
    if is_text(text, max) {
        out.push(u8::try_from(text.len()).expect("a text is at most 255 bytes"));
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let at = out.len();
    out.push(0);
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() - at - 1 + c.len_utf8() > max {
            break;
        }
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out[at] = u8::try_from(out.len() - at - 1).expect("the text was held to 255 bytes");
}

/// Appends an address that may be missing.
pub fn put_addr(out: &mut Vec<u8>, addr: Option<SocketAddr>) {
    match addr.map(|addr| (addr.ip(), addr.port())) {
        None => out.push(0),
        Some((IpAddr::V4(ip), port)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&port.to_be_bytes());
        }
        Some((IpAddr::V6(ip), port)) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&port.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_big_endian_and_never_read_past_the_end() {
        let mut r = Reader::new(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((r.u8(), r.u16(), r.u32()), (Ok(1), Ok(0x0203), Ok(0x0405_0607)));
        assert_eq!(
            (r.u8(), r.u64(), r.array::<3>()),
            (Err(WireError::Short), Err(WireError::Short), Err(WireError::Short))
        );
        assert_eq!(r.end(), Ok(()));
        assert_eq!(Reader::new(&[0]).end(), Err(WireError::Trailing));
    }

    #[test]
    fn texts_are_checked() {
        #[track_caller]
        fn check(bytes: &[u8], want: Result<&str, WireError>) {
            assert_eq!(Reader::new(bytes).text(4), want);
        }
        check(b"\x03abc", Ok("abc"));
        check(b"\x00", Ok(""));
        check(b"\x04abc", Err(WireError::Short));
        check(b"\x05abcde", Err(WireError::Text));
        check(b"\x02\xff\xfe", Err(WireError::Text));
        check(b"\x03a\nb", Err(WireError::Text));
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let mut out = Vec::new();
        put_text(&mut out, "aä\nöü", 4);
        assert_eq!(Reader::new(&out).text(4), Ok("aä"));
        let mut out = Vec::new();
        put_text(&mut out, &"x".repeat(1000), 1000);
        assert_eq!(out.len(), 256);
    }

    #[test]
    fn addresses_round_trip() {
        for addr in [
            None,
            Some("10.1.2.3:80".parse().expect("an address")),
            Some("[fe80::1]:65535".parse().expect("an address")),
        ] {
            let mut out = Vec::new();
            put_addr(&mut out, addr);
            assert_eq!(Reader::new(&out).addr(), Ok(addr));
        }
        assert_eq!(Reader::new(&[5, 0, 0]).addr(), Err(WireError::Value));
    }
}
