//! Responses of our own: heads, and errors that say why.

use std::time::SystemTime;

use linkbuffer::LinkBuffer;

use super::{Framing, Version};

/// What a response head of our own says besides its status.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The version of the request that is answered.
    pub version: Version,
    /// Whether the connection goes on after this response.
    pub keep_alive: bool,
    /// Now, as [`http_date`] writes it.
    pub date: &'a str,
}

/// `time` as the Date field wants it. Costs an allocation: keep it for a second.
pub fn http_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// Writes a head: status line, Date, `fields`, framing and, where it is not the default, Connection.
///
/// `Framing::None` writes `Content-Length: 0`, except for the statuses that have no body by definition.
pub fn write_head(
    out: &mut LinkBuffer,
    status: u16,
    fields: &[(&str, &str)],
    body: Framing,
    outgoing: Outgoing<'_>,
) {
    out.write(b"HTTP/1.1 ");
    out.write(decimal(u64::from(status), &mut [0; 20]));
    out.write(b" ");
    out.write(reason(status).as_bytes());
    out.write(b"\r\nDate: ");
    out.write(outgoing.date.as_bytes());
    out.write(b"\r\n");
    for (name, value) in fields {
        write_field(out, name, value.as_bytes());
    }
    match body {
        Framing::None if matches!(status, 100..=199 | 204 | 304) => {}
        Framing::None => write_length(out, 0),
        Framing::Length(n) => write_length(out, n),
        Framing::Chunked => out.write(b"Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => {}
    }
    match (outgoing.keep_alive && body != Framing::UntilClose, outgoing.version) {
        (true, Version::Http11) => {}
        (true, Version::Http10) => out.write(b"Connection: keep-alive\r\n"),
        (false, _) => out.write(b"Connection: close\r\n"),
    }
    out.write(b"\r\n");
}

/// Writes a whole error response: its body is the status, its name, and `why` in plain text.
///
/// `head_only` leaves the body out, for an answer to HEAD.
pub fn write_error(
    out: &mut LinkBuffer,
    status: u16,
    why: &str,
    fields: &[(&str, &str)],
    head_only: bool,
    outgoing: Outgoing<'_>,
) {
    let text = format!("{status} {}: {why}\n", reason(status));
    let mut all = vec![("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")];
    all.extend_from_slice(fields);
    write_head(out, status, &all, Framing::Length(text.len() as u64), outgoing);
    if !head_only {
        out.write(text.as_bytes());
    }
}

pub(super) fn write_field(out: &mut LinkBuffer, name: &str, value: &[u8]) {
    out.write(name.as_bytes());
    out.write(b": ");
    out.write(value);
    out.write(b"\r\n");
}

pub(super) fn write_length(out: &mut LinkBuffer, n: u64) {
    write_field(out, "Content-Length", decimal(n, &mut [0; 20]));
}

/// `n` in digits, at the end of `room`.
pub(super) fn decimal(n: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    let mut rest = n;
    loop {
        at -= 1;
        room[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            return &room[at..];
        }
    }
}

/// The usual words for a status; empty for one without.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut LinkBuffer)) -> String {
        let mut out = LinkBuffer::new();
        write(&mut out);
        let mut all = Vec::new();
        while let Some(piece) = out.read_chunk(usize::MAX) {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).expect("text")
    }

    #[test]
    fn heads_name_their_framing_and_what_becomes_of_the_connection() {
        for (status, body, version, keep_alive, want) in [
            (200, Framing::Length(13), Version::Http11, true, "Content-Length: 13\r\n"),
            (200, Framing::None, Version::Http11, true, "Content-Length: 0\r\n"),
            (204, Framing::None, Version::Http11, true, ""),
            (304, Framing::None, Version::Http11, false, "Connection: close\r\n"),
            (200, Framing::Chunked, Version::Http11, true, "Transfer-Encoding: chunked\r\n"),
            (
                200,
                Framing::Length(1),
                Version::Http10,
                true,
                "Content-Length: 1\r\nConnection: keep-alive\r\n",
            ),
            (200, Framing::UntilClose, Version::Http11, true, "Connection: close\r\n"),
            (
                200,
                Framing::Length(u64::MAX),
                Version::Http11,
                true,
                "Content-Length: 18446744073709551615\r\n",
            ),
        ] {
            let outgoing = Outgoing { version, keep_alive, date: "now" };
            let got = text(|out| write_head(out, status, &[("A", "b")], body, outgoing));
            assert_eq!(
                got,
                format!("HTTP/1.1 {status} {}\r\nDate: now\r\nA: b\r\n{want}\r\n", reason(status))
            );
        }
    }

    #[test]
    fn errors_say_why() {
        let outgoing = Outgoing { version: Version::Http11, keep_alive: false, date: "now" };
        let got = text(|out| write_error(out, 502, "refused", &[], false, outgoing));
        assert!(
            got.ends_with("Content-Length: 25\r\nConnection: close\r\n\r\n502 Bad Gateway: refused\n"),
            "{got}"
        );
        let got = text(|out| write_error(out, 502, "refused", &[], true, outgoing));
        assert!(got.ends_with("Content-Length: 25\r\nConnection: close\r\n\r\n"), "{got}");
    }

    #[test]
    fn dates_are_in_the_fixed_form() {
        assert_eq!(http_date(SystemTime::UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
