//! Heads: from bytes to [`RequestHead`] and [`ResponseHead`], strictly and without allocation.
//!
//! ```text
//!   GET /a HTTP/1.1 CRLF  Host: x CRLF  ... CRLF  CRLF
//!   └── first line ────┘  └─ field lines ──────┘  └─ end
//!        checked by us       split by httparse
//!   └──────────────── searched once by HeadScan ─────┘
//! ```
//!
//! [`HeadScan`] looks at every byte of a head once, however many pieces it arrives in, and finds what httparse would
//! let pass: bare LF and CR, control bytes, folded lines, sizes above the limits. The first line is checked as soon as
//! it is complete, so that HTTP/0.9 or a wrong version is answered and not waited for. What was found first in
//! the order of the bytes is what is reported, whatever the pieces.

use super::fields::{Facts, is_tchar};
use super::{Field, Framing, Reject, Target, Version};
use crate::limits::http::{
    EMPTY_LINES_MAX, FIELDS_MAX, FIELDS_MAX_BYTES, METHOD_MAX_BYTES, STATUS_LINE_MAX_BYTES, TARGET_MAX_BYTES,
};

/// Room for the fields of one head, lent to the parser by its caller.
pub type FieldSlots<'a> = [Field<'a>; FIELDS_MAX];

/// Empty [`FieldSlots`].
pub const fn empty_slots<'a>() -> FieldSlots<'a> {
    [httparse::EMPTY_HEADER; FIELDS_MAX]
}

/// The head of a request. Borrows from the input and from the slots.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'h, 'a> {
    /// The method, as written: methods are case-sensitive.
    pub method: &'a str,
    /// What it is for.
    pub target: Target<'a>,
    /// The version of the message.
    pub version: Version,
    /// Every field, in order.
    pub fields: &'h [Field<'a>],
    /// Where its body ends. Invariant: not `UntilClose`.
    pub body: Framing,
    /// The connection goes on after this exchange, as far as the sender is concerned.
    pub keep_alive: bool,
    /// The sender waits for `100 Continue`, or for a final answer, before it sends the body.
    pub expect_continue: bool,
    /// The sender offers to change the protocol, named in `Upgrade`.
    pub upgrade: bool,
}

/// The head of a response. Borrows from the input and from the slots.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'h, 'a> {
    /// The status code. Invariant: 100 <= status <= 999.
    pub status: u16,
    /// The reason phrase, possibly empty.
    pub reason: &'a [u8],
    /// The version of the message.
    pub version: Version,
    /// Every field, in order.
    pub fields: &'h [Field<'a>],
    /// Where its body ends, given the method of the request.
    pub body: Framing,
    /// The connection goes on after this exchange, as far as the sender is concerned.
    pub keep_alive: bool,
}

/// How far the search for the end of one head has got.
///
/// Lives as long as the head is incomplete; the input that it is given may only grow. Reset it (`= default()`)
/// for the next head.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// First byte not looked at. Invariant: line <= at.
    at: usize,
    /// Where the line that `at` stands in begins.
    line: usize,
    /// Empty lines skipped. Invariant: empty_lines <= EMPTY_LINES_MAX.
    empty_lines: usize,
    /// The first line, once it is complete and checked.
    first: Option<FirstLine>,
    /// Complete field lines. Invariant: fields <= FIELDS_MAX.
    fields: usize,
    /// Bytes looked at, to show that the work is linear.
    #[cfg(test)]
    pub(super) steps: usize,
}

/// Offsets into the input: no borrow, so that it lives between calls.
#[derive(Clone, Copy, Debug)]
struct FirstLine {
    /// The method or the status code.
    start: usize,
    /// The blank after it.
    middle: usize,
    /// One past the target or the reason.
    end: usize,
    /// The first field line, or the empty line.
    fields: usize,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
}

/// Reads the head of a request from the beginning of `input`: the head and its length in bytes, or `None` while
/// it is incomplete.
///
/// # Errors
/// When the head is malformed, ambiguous or above a limit. The connection is then to be closed after the answer.
///
/// # Examples
/// ```
/// use anyproxy::proto::http::{Framing, HeadScan, Target, empty_slots, parse_request};
///
/// let input = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
/// let (mut scan, mut slots) = (HeadScan::default(), empty_slots());
/// // Half of it: not yet.
/// assert!(parse_request(&input[..20], &mut scan, &mut slots)?.is_none());
/// // All of it, with the same scan, which goes on where it stopped.
/// let mut slots = empty_slots();
/// let (head, len) = parse_request(input, &mut scan, &mut slots)?.expect("complete");
/// assert_eq!(head.target, Target::Origin("/echo"));
/// assert_eq!(head.body, Framing::Length(2));
/// assert_eq!(&input[len..], b"hi");
///
/// let twice = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
/// let reject = parse_request(twice, &mut HeadScan::default(), &mut empty_slots()).expect_err("two hosts");
/// assert_eq!((reject.status, reject.why), (400, "more than one Host"));
/// # Ok::<(), anyproxy::proto::http::Reject>(())
/// ```
pub fn parse_request<'h, 'a>(
    input: &'a [u8],
    scan: &mut HeadScan,
    slots: &'h mut FieldSlots<'a>,
) -> Result<Option<(RequestHead<'h, 'a>, usize)>, Reject> {
    let Some(end) = scan.advance(input, Kind::Request)? else { return Ok(None) };
    let first = scan.first.expect("a complete head has a first line");
    let fields = split(&input[first.fields..end], slots)?;
    let version = first.version;
    let method =
        str::from_utf8(&input[first.start..first.middle]).expect("a method was checked to be a token");
    let target = Target::parse(method, &input[first.middle + 1..first.end])?;
    let facts = Facts::gather(fields)?;
    let body = facts.framing(version)?.unwrap_or(Framing::None);
    let body = if body == Framing::Length(0) { Framing::None } else { body };
    if body != Framing::None && matches!(method, "CONNECT" | "TRACE") {
        return Err(Reject::bad("CONNECT and TRACE have no body"));
    }
    facts.check_host(version, &target)?;
    let head = RequestHead {
        method,
        target,
        version,
        fields,
        body,
        keep_alive: facts.persists(version),
        expect_continue: facts.expect_continue && version == Version::Http11 && body != Framing::None,
        upgrade: facts.upgrade_field && facts.upgrade_option && version == Version::Http11,
    };
    Ok(Some((head, end)))
}

/// Reads the head of a response to a request with `method`, as [`parse_request`] does.
///
/// # Errors
/// When the head is malformed, ambiguous or above a limit; the status is always 502.
pub fn parse_response<'h, 'a>(
    input: &'a [u8],
    method: &str,
    scan: &mut HeadScan,
    slots: &'h mut FieldSlots<'a>,
) -> Result<Option<(ResponseHead<'h, 'a>, usize)>, Reject> {
    response(input, method, scan, slots).map_err(|reject| Reject { status: 502, ..reject })
}

fn response<'h, 'a>(
    input: &'a [u8],
    method: &str,
    scan: &mut HeadScan,
    slots: &'h mut FieldSlots<'a>,
) -> Result<Option<(ResponseHead<'h, 'a>, usize)>, Reject> {
    let Some(end) = scan.advance(input, Kind::Response)? else { return Ok(None) };
    let first = scan.first.expect("a complete head has a first line");
    let fields = split(&input[first.fields..end], slots)?;
    let version = first.version;
    let code = &input[first.start..first.middle];
    let status = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let reason = input.get(first.middle + 1..first.end).unwrap_or_default();
    let facts = Facts::gather(fields)?;
    let declared = facts.framing(version)?;
    let bodiless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
    let body = match declared {
        _ if bodiless => Framing::None,
        _ if method == "CONNECT" && matches!(status, 200..=299) => Framing::None,
        Some(Framing::Length(0)) => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    let keep_alive = facts.persists(version) && body != Framing::UntilClose;
    Ok(Some((ResponseHead { status, reason, version, fields, body, keep_alive }, end)))
}

/// Splits the field lines, which the scan has already cleared of everything httparse lets pass.
fn split<'h, 'a>(block: &'a [u8], slots: &'h mut FieldSlots<'a>) -> Result<&'h [Field<'a>], Reject> {
    match httparse::parse_headers(block, slots) {
        Ok(httparse::Status::Complete((_, fields))) => Ok(fields),
        Ok(httparse::Status::Partial) => Err(Reject::bad("incomplete header field")),
        Err(httparse::Error::HeaderName) => Err(Reject::bad("bad header field name")),
        Err(httparse::Error::TooManyHeaders) => Err(Reject::new(431, "too many header fields")),
        Err(_) => Err(Reject::bad("bad header field value")),
    }
}

impl HeadScan {
    /// Looks at the bytes of `input` not yet looked at; the length of the head once it is complete.
    fn advance(&mut self, input: &[u8], kind: Kind) -> Result<Option<usize>, Reject> {
        loop {
            let stop = self.skip_text(input);
            self.check_sizes(stop, input, kind)?;
            let Some(&byte) = input.get(stop) else { return Ok(None) };
            match byte {
                b'\t' if self.first.is_some() => self.at = stop + 1,
                b'\r' => match input.get(stop + 1) {
                    None => return Ok(None),
                    Some(b'\n') => {
                        if let Some(end) = self.line_end(stop, input, kind)? {
                            return Ok(Some(end));
                        }
                    }
                    Some(_) => return Err(Reject::bad("CR without LF")),
                },
                b'\n' => return Err(Reject::bad("LF without CR")),
                _ => return Err(Reject::bad("control character in the head")),
            }
        }
    }

    /// Moves `at` to the next control byte, or to the end.
    fn skip_text(&mut self, input: &[u8]) -> usize {
        const ONES: u64 = u64::MAX / 255;
        let from = self.at;
        let mut at = from;
        // Eight bytes a step: a byte below 0x20 borrows into its own top bit, one above 0x7f is masked out again.
        while let Some(eight) = input[at..].first_chunk::<8>() {
            let word = u64::from_le_bytes(*eight);
            let low = word.wrapping_sub(ONES * 0x20) & !word & (ONES * 0x80);
            if low != 0 {
                at += (low.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        while input.get(at).is_some_and(|&byte| byte >= 0x20) {
            at += 1;
        }
        #[cfg(test)]
        {
            self.steps += at - from + 1;
        }
        self.at = at;
        at
    }

    /// Limits and foldings, for the line that has been seen up to `stop`.
    fn check_sizes(&self, stop: usize, input: &[u8], kind: Kind) -> Result<(), Reject> {
        let Some(first) = self.first else {
            let line = &input[self.line..stop];
            return match kind {
                Kind::Request => first_line_sizes(line),
                Kind::Response if line.len() > STATUS_LINE_MAX_BYTES => {
                    Err(Reject::bad("status line too long"))
                }
                Kind::Response => Ok(()),
            };
        };
        // What can be told from a line's first byte comes before what can be told from its length, so that the
        // verdict does not depend on the pieces.
        if stop > self.line {
            if matches!(input[self.line], b' ' | b'\t') {
                return Err(Reject::bad("folded header field"));
            }
            if self.fields == FIELDS_MAX {
                return Err(Reject::new(431, "too many header fields"));
            }
        }
        if stop - first.fields > FIELDS_MAX_BYTES {
            return Err(Reject::new(431, "header fields too large"));
        }
        Ok(())
    }

    /// A line ends at `cr`. Gives the length of the head if that was its last.
    fn line_end(&mut self, cr: usize, input: &[u8], kind: Kind) -> Result<Option<usize>, Reject> {
        let (line, next) = (self.line, cr + 2);
        self.at = next;
        self.line = next;
        if self.first.is_none() {
            if line == cr {
                self.empty_lines += 1;
                if kind == Kind::Response || self.empty_lines > EMPTY_LINES_MAX {
                    return Err(Reject::bad("empty line where a message should begin"));
                }
                return Ok(None);
            }
            self.first = Some(match kind {
                Kind::Request => request_line(&input[line..cr], line)?,
                Kind::Response => status_line(&input[line..cr], line)?,
            });
            return Ok(None);
        }
        if line == cr {
            return Ok(Some(next));
        }
        self.fields += 1;
        Ok(None)
    }
}

/// The sizes of an unfinished or finished request line.
fn first_line_sizes(line: &[u8]) -> Result<(), Reject> {
    let head = &line[..line.len().min(METHOD_MAX_BYTES + 1)];
    let Some(method) = head.iter().position(|&b| !is_tchar(b)) else {
        return match head.len() > METHOD_MAX_BYTES {
            true => Err(Reject::new(501, "method too long")),
            false => Ok(()),
        };
    };
    if line[method] != b' ' || method == 0 {
        return Err(Reject::bad("bad method"));
    }
    if line.len() - method - 1 <= TARGET_MAX_BYTES {
        return Ok(());
    }
    let target = &line[method + 1..];
    if target[..=TARGET_MAX_BYTES].contains(&b' ') {
        // The target itself is short enough; what follows it can only be a version.
        return match target.len() > TARGET_MAX_BYTES + " HTTP/1.1".len() {
            true => Err(Reject::bad("bad request line")),
            false => Ok(()),
        };
    }
    Err(Reject::new(414, "request target too long"))
}

fn request_line(line: &[u8], start: usize) -> Result<FirstLine, Reject> {
    let method = line.iter().position(|&b| !is_tchar(b)).ok_or(Reject::bad("no request target"))?;
    if method == 0 || line[method] != b' ' {
        return Err(Reject::bad("bad method"));
    }
    let rest = &line[method + 1..];
    let target = rest.iter().position(|&b| b == b' ').ok_or(Reject::bad("no HTTP version"))?;
    if target == 0 {
        return Err(Reject::bad("more than one blank in the request line"));
    }
    let version = version(&rest[target + 1..])?;
    Ok(FirstLine {
        start,
        middle: start + method,
        end: start + method + 1 + target,
        fields: start + line.len() + 2,
        version,
    })
}

fn status_line(line: &[u8], start: usize) -> Result<FirstLine, Reject> {
    let bad = Reject::bad("bad status line");
    let (name, rest) = line.split_at_checked("HTTP/1.1".len()).ok_or(bad)?;
    let version = version(name)?;
    match rest {
        [b' ', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']
        | [b' ', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', ..] => {}
        _ => return Err(bad),
    }
    let code = start + name.len() + 1;
    if rest.contains(&0x7f) {
        return Err(bad);
    }
    Ok(FirstLine {
        start: code,
        middle: code + 3,
        end: start + line.len(),
        fields: start + line.len() + 2,
        version,
    })
}

fn version(text: &[u8]) -> Result<Version, Reject> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0' | b'2'..=b'9', b'.', b'0'..=b'9'] => {
            Err(Reject::new(505, "HTTP version not supported"))
        }
        _ => Err(Reject::bad("bad HTTP version")),
    }
}

#[cfg(test)]
mod tests;
