//! The bytes of answers.
//!
//! ```text
//!   HTTP/1.1 200 OK CRLF  Server  Date  [Connection]  Content-Type  Content-Length | Transfer-Encoding  [Allow]  CRLF
//! ```
//! The two routes that load tests hammer have theirs ready made, and only the date is put in.

use std::cell::Cell;
use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use linkbuffer::LinkBuffer;

use crate::proto::http::Framing;
use crate::rt;

/// `Thu, 01 Jan 1970 00:00:00 GMT`
const DATE_WIDTH: usize = 29;
/// The last second of the year 9999: what the format can say.
const LAST_SECOND: u64 = 253_402_300_799;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const PAGE: &[u8] = include_bytes!("page.html");
const HELLO: &[u8] = b"Hello, World!";
const HELLO_JSON: &[u8] = br#"{"message":"Hello, World!"}"#;

/// The value of a Date field.
#[derive(Clone, Copy)]
pub(super) struct Date([u8; DATE_WIDTH]);

impl Date {
    /// Now; formatted once a second on each thread.
    pub(super) fn now() -> Date {
        thread_local! {
            static LATEST: Cell<(u64, Date)> = const { Cell::new((u64::MAX, Date([0; DATE_WIDTH]))) };
        }
        let second = rt::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (latest, date) = LATEST.get();
        if latest == second {
            return date;
        }
        let date = Date::at(second);
        LATEST.set((second, date));
        date
    }

    pub(super) fn at(second: u64) -> Date {
        let time = UNIX_EPOCH + Duration::from_secs(second.min(LAST_SECOND));
        let mut date = [0; DATE_WIDTH];
        write!(&mut date[..], "{}", httpdate::HttpDate::from(time)).expect("every date is 29 bytes long");
        Date(date)
    }
}

/// What becomes of the connection after an answer, and whether the answer has to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persist {
    /// It goes on, as every one of HTTP/1.1 does.
    Implied,
    /// It goes on, which HTTP/1.0 has to be told.
    KeepAlive,
    /// It ends.
    Close,
}

/// An answer whose body is at hand.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// The methods of the resource, for 405.
    pub(super) allow: Option<&'static str>,
    pub(super) body: &'a [u8],
}

impl Answer<'static> {
    const fn ok(content_type: &'static str, body: &'static [u8]) -> Self {
        Answer { status: 200, content_type, allow: None, body }
    }

    pub(super) const PAGE: Self = Answer::ok("text/html; charset=utf-8", PAGE);
    pub(super) const PLAINTEXT: Self = Answer::ok("text/plain", HELLO);
    pub(super) const JSON: Self = Answer::ok("application/json", HELLO_JSON);
    /// Its body follows from elsewhere.
    pub(super) const BINARY: Self = Answer::ok("application/octet-stream", b"");
    pub(super) const HEALTH: Self = Answer::ok(TEXT, b"ok");
    pub(super) const DELAYED: Self = Answer::ok(TEXT, b"here you are\n");
    pub(super) const NOT_FOUND: Self = Answer::error(404, "there is nothing here; / lists what there is");
    /// For the server as a whole (`OPTIONS *`).
    pub(super) const OPTIONS: Self =
        Answer { status: 200, content_type: TEXT, allow: Some("GET, HEAD, POST"), body: b"" };

    pub(super) const fn error(status: u16, why: &'static str) -> Self {
        Answer { status, content_type: TEXT, allow: None, body: why.as_bytes() }
    }

    pub(super) const fn not_allowed(allow: &'static str) -> Self {
        let body = b"the Allow field says with which methods this goes";
        Answer { status: 405, content_type: TEXT, allow: Some(allow), body }
    }
}

impl Answer<'_> {
    /// Writes the answer; to HEAD without its body.
    pub(super) fn write(&self, out: &mut LinkBuffer, date: &Date, persist: Persist, head_only: bool) {
        let length = Framing::Length(self.body.len() as u64);
        head(out, date, persist, self, length);
        if !head_only {
            out.write(self.body);
        }
    }
}

/// Writes the head of an answer whose body follows, framed so; `answer.body` is not looked at.
pub(super) fn head(out: &mut LinkBuffer, date: &Date, persist: Persist, answer: &Answer<'_>, body: Framing) {
    let (status, reason) = (answer.status, reason(answer.status));
    put(out, format_args!("HTTP/1.1 {status} {reason}\r\nServer: anyproxy\r\nDate: "));
    out.write(&date.0);
    out.write(match persist {
        Persist::Implied => b"\r\nContent-Type: ",
        Persist::KeepAlive => b"\r\nConnection: keep-alive\r\nContent-Type: ",
        Persist::Close => b"\r\nConnection: close\r\nContent-Type: ",
    });
    out.write(answer.content_type.as_bytes());
    if let Some(allow) = answer.allow {
        put(out, format_args!("\r\nAllow: {allow}"));
    }
    match body {
        Framing::Length(length) => put(out, format_args!("\r\nContent-Length: {length}\r\n\r\n")),
        Framing::None => out.write(b"\r\nContent-Length: 0\r\n\r\n"),
        Framing::Chunked => out.write(b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Framing::UntilClose => out.write(b"\r\n\r\n"),
    }
}

fn put(out: &mut LinkBuffer, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a buffer takes whatever is written to it");
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

/// A whole answer to GET over HTTP/1.1, but for its date.
pub(super) struct Ready(&'static [u8]);

macro_rules! ready {
    ($type:literal, $length:literal, $body:literal) => {
        Ready(
            concat!(
                "HTTP/1.1 200 OK\r\nServer: anyproxy\r\nDate: .............................\r\nContent-Type: ",
                $type,
                "\r\nContent-Length: ",
                $length,
                "\r\n\r\n",
                $body
            )
            .as_bytes(),
        )
    };
}

impl Ready {
    /// Where the date belongs.
    const DATE_AT: usize = "HTTP/1.1 200 OK\r\nServer: anyproxy\r\nDate: ".len();
    pub(super) const PLAINTEXT: Ready = ready!("text/plain", "13", "Hello, World!");
    pub(super) const JSON: Ready = ready!("application/json", "27", r#"{"message":"Hello, World!"}"#);

    #[inline]
    pub(super) fn write(&self, out: &mut LinkBuffer, date: &Date) {
        let room = out.reserve(self.0.len());
        room.copy_from_slice(self.0);
        room[Ready::DATE_AT..Ready::DATE_AT + DATE_WIDTH].copy_from_slice(&date.0);
        out.commit(self.0.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_made_answers_are_those_that_would_be_made() {
        for (ready, answer) in [(Ready::PLAINTEXT, Answer::PLAINTEXT), (Ready::JSON, Answer::JSON)] {
            let date = Date::at(784_111_777);
            let (mut one, mut other) = (LinkBuffer::new(), LinkBuffer::new());
            ready.write(&mut one, &date);
            answer.write(&mut other, &date, Persist::Implied, false);
            assert_eq!(one.chunk().escape_ascii().to_string(), other.chunk().escape_ascii().to_string());
        }
    }

    #[test]
    fn dates_are_those_of_the_standard() {
        assert_eq!(&Date::at(784_111_777).0, b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&Date::at(u64::MAX).0, b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
