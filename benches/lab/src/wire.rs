//! The two protocols of the lab.
//!
//! * `http`: requests without a body, ended by a blank line, answered by 13 bytes of text. `/slow` takes 5 ms.
//! * `rpc`: a length (32 bits, big-endian) and as many bytes, which come back as they were. A first byte `S` takes 5 ms.

use std::str::FromStr;
use std::time::Duration;

use memchr::memmem;

/// How long the handler of a slow request sleeps.
pub const SLOW: Duration = Duration::from_millis(5);
/// The answer to every request but the last of a connection.
pub const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: lab\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
/// The answer to a request that wants the connection to end.
pub const HELLO_LAST: &[u8] = b"HTTP/1.1 200 OK\r\nServer: lab\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: close\r\n\r\nHello, World!";
/// What every answer of `http` ends with.
pub const BODY: &[u8] = b"Hello, World!";
/// No request of `http` is shorter.
pub const REQUEST_MIN: usize = "GET / HTTP/1.1\r\n\r\n".len();
/// A server may refuse what is longer.
pub const MESSAGE_MAX: usize = 1 << 20;
/// The head of an `rpc` message.
const LENGTH: usize = 4;

/// Which protocol a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Plain text by HTTP/1.1.
    Http,
    /// Echo of messages with a length.
    Rpc,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Protocol, String> {
        match name {
            "http" => Ok(Protocol::Http),
            "rpc" => Ok(Protocol::Rpc),
            _ => Err("there are http and rpc".to_owned()),
        }
    }
}

/// One whole request at the front of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The bytes that it takes.
    pub len: usize,
    /// Its handler sleeps.
    pub slow: bool,
    /// The connection ends after its answer.
    pub last: bool,
}

/// Finds requests; built once, because preparing a search costs more than searching a short request.
#[derive(Debug)]
pub struct Splitter {
    protocol: Protocol,
    blank_line: memmem::Finder<'static>,
    close: memmem::Finder<'static>,
}

impl Splitter {
    /// Finds the requests of `protocol`.
    pub fn new(protocol: Protocol) -> Splitter {
        Splitter {
            protocol,
            blank_line: memmem::Finder::new(b"\r\n\r\n"),
            close: memmem::Finder::new(b"onnection: close\r\n"),
        }
    }

    /// The request at the front of `input`, if it is whole.
    ///
    /// # Errors
    /// When it is longer than [`MESSAGE_MAX`], or too short to be a request.
    #[inline]
    pub fn next(&self, input: &[u8]) -> Result<Option<Request>, Malformed> {
        match self.protocol {
            Protocol::Http => {
                let Some(end) = self.blank_line.find(input) else {
                    return if input.len() > MESSAGE_MAX { Err(Malformed) } else { Ok(None) };
                };
                let head = &input[..end + 4];
                if head.len() < REQUEST_MIN {
                    return Err(Malformed);
                }
                let slow = head.starts_with(b"GET /slow");
                let last = self.close.find(head).is_some();
                Ok(Some(Request { len: head.len(), slow, last }))
            }
            Protocol::Rpc => {
                let Some((length, rest)) = input.split_first_chunk::<LENGTH>() else { return Ok(None) };
                let len = u32::from_be_bytes(*length) as usize;
                if len > MESSAGE_MAX {
                    return Err(Malformed);
                }
                let whole = rest.len() >= len;
                let slow = len > 0 && rest.first() == Some(&b'S');
                Ok(whole.then_some(Request { len: LENGTH + len, slow, last: false }))
            }
        }
    }
}

/// What was received is no request, or longer than [`MESSAGE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A request as the client sends it; `size` is the length of an `rpc` message's payload.
pub fn request(protocol: Protocol, port: u16, size: usize, slow: bool, last: bool) -> Vec<u8> {
    match protocol {
        Protocol::Http => {
            let path = if slow { "/slow" } else { "/plaintext" };
            let close = if last { "Connection: close\r\n" } else { "" };
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{close}\r\n").into_bytes()
        }
        Protocol::Rpc => {
            let mut message = (size as u32).to_be_bytes().to_vec();
            message.resize(LENGTH + size, if slow { b'S' } else { b'f' });
            message
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(protocol: Protocol, input: &[u8], want: Option<Request>) {
        let splitter = Splitter::new(protocol);
        let mut whole = input.to_vec();
        whole.extend_from_slice(b"GET what comes after");
        let len = want.map_or(0, |request| request.len);
        assert_eq!(splitter.next(if want.is_some() { &whole } else { input }), Ok(want));
        for cut in 0..len {
            assert_eq!(splitter.next(&input[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn requests_are_found_whole_and_only_whole() {
        for protocol in [Protocol::Http, Protocol::Rpc] {
            for (slow, last) in [(false, false), (true, false), (false, true)] {
                let input = request(protocol, 8080, 100, slow, last);
                let last = last && protocol == Protocol::Http;
                check(protocol, &input, Some(Request { len: input.len(), slow, last }));
            }
        }
        check(Protocol::Rpc, &[0, 0, 0, 0], Some(Request { len: 4, slow: false, last: false }));
        check(Protocol::Http, b"GET / HTTP/1.1\r\n", None);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(Splitter::new(Protocol::Http).next(b"\r\n\r\n"), Err(Malformed));
        assert_eq!(Splitter::new(Protocol::Rpc).next(&[0xff; 4]), Err(Malformed));
        assert_eq!(Splitter::new(Protocol::Http).next(&vec![b'x'; MESSAGE_MAX + 1]), Err(Malformed));
    }
}
