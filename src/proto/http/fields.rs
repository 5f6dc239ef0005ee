//! What header fields mean for framing and for the connection.

use super::{Authority, Field, Framing, Reject, Target, Version};
use crate::limits::http::CONNECTION_MAX_BYTES;

/// The elements of a comma-separated list, trimmed. Empty ones are given too: the caller knows whether they matter.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// Without blanks and tabs at either end.
pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// A character of a token (RFC 9110 section 5.6.2).
pub(crate) fn is_tchar(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_tchar(b))
}

/// What the fields of a head say about it, gathered in one pass.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) content_length: Option<u64>,
    pub(crate) coding: Coding,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade_option: bool,
    pub(crate) upgrade_field: bool,
    pub(crate) expect_continue: bool,
    pub(crate) host: Option<&'a [u8]>,
    /// Invariant: connection_len <= CONNECTION_MAX_BYTES.
    connection_len: usize,
}

/// What Transfer-Encoding said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Coding {
    #[default]
    Absent,
    /// Ends in `chunked`, and that is all of it.
    Chunked,
    /// Ends in `chunked`, after codings that are not ours to undo.
    ForeignChunked,
    /// Known codings, and `chunked` has not come.
    Foreign,
    /// A coding of no register.
    Unknown,
}

impl<'a> Facts<'a> {
    pub(crate) fn gather(fields: &[Field<'a>]) -> Result<Self, Reject> {
        let mut facts = Self::default();
        for field in fields {
            facts.take(field)?;
        }
        Ok(facts)
    }

    fn take(&mut self, field: &Field<'a>) -> Result<(), Reject> {
        let name = field.name;
        // The length sorts out most fields before any comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                only_once(&mut self.host, field.value, "more than one Host")?;
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reject::new(417, "unknown expectation"));
                }
                self.expect_continue = true;
            }
            7 if name.eq_ignore_ascii_case("upgrade") => self.upgrade_field = true,
            10 if name.eq_ignore_ascii_case("connection") => {
                self.connection_len += field.value.len();
                if self.connection_len > CONNECTION_MAX_BYTES {
                    return Err(Reject::new(431, "Connection too long"));
                }
                for option in list(field.value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let length = decimal(field.value).ok_or(Reject::bad("bad Content-Length"))?;
                only_once(&mut self.content_length, length, "more than one Content-Length")?;
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                for coding in list(field.value) {
                    self.coding = self.coding.then(coding)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The framing that the fields ask for; `Ok(None)` where they are silent.
    ///
    /// A coding that cannot be undone is 501, and everything that could be read in two ways is 400.
    pub(crate) fn framing(&self, version: Version) -> Result<Option<Framing>, Reject> {
        if self.coding != Coding::Absent {
            if self.content_length.is_some() {
                return Err(Reject::bad("both Transfer-Encoding and Content-Length"));
            }
            if version == Version::Http10 {
                return Err(Reject::bad("Transfer-Encoding in HTTP/1.0"));
            }
        }
        match self.coding {
            Coding::Absent => Ok(self.content_length.map(Framing::Length)),
            Coding::Chunked => Ok(Some(Framing::Chunked)),
            Coding::Foreign => Err(Reject::bad("Transfer-Encoding does not end in chunked")),
            Coding::ForeignChunked | Coding::Unknown => Err(Reject::new(501, "unknown transfer coding")),
        }
    }

    pub(crate) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Host against the rules of RFC 9112 section 3.2.
    pub(crate) fn check_host(&self, version: Version, target: &Target<'_>) -> Result<(), Reject> {
        match self.host {
            None if version == Version::Http11 => Err(Reject::bad("no Host")),
            None => Ok(()),
            Some(b"") if matches!(target, Target::Origin(_)) => Err(Reject::bad("empty Host")),
            Some(b"") => Ok(()),
            Some(host) => Authority::parse(host).map(|_| ()).map_err(|_| Reject::bad("bad Host")),
        }
    }
}

impl Coding {
    fn then(self, coding: &[u8]) -> Result<Self, Reject> {
        if !is_token(coding) {
            return Err(Reject::bad("malformed Transfer-Encoding"));
        }
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        let known = [&b"gzip"[..], b"x-gzip", b"compress", b"x-compress", b"deflate"];
        let known = known.iter().any(|name| coding.eq_ignore_ascii_case(name));
        match self {
            Coding::Chunked | Coding::ForeignChunked if chunked => Err(Reject::bad("chunked twice")),
            Coding::Chunked | Coding::ForeignChunked => {
                Err(Reject::bad("Transfer-Encoding does not end in chunked"))
            }
            Coding::Absent if chunked => Ok(Coding::Chunked),
            Coding::Foreign if chunked => Ok(Coding::ForeignChunked),
            Coding::Unknown if chunked => Ok(Coding::ForeignChunked),
            Coding::Absent | Coding::Foreign if known => Ok(Coding::Foreign),
            Coding::Absent | Coding::Foreign | Coding::Unknown => Ok(Coding::Unknown),
        }
    }
}

/// Fills an empty place. A second value is refused, even an equal one: which of two readers takes which is not known.
fn only_once<T>(place: &mut Option<T>, value: T, why: &'static str) -> Result<(), Reject> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Reject::bad(why)),
    }
}

/// Digits and nothing else: no sign, no blank, no list; `None` also above u64.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}
