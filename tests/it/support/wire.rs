//! A user, byte by byte: what is sent is what the test says, what comes is kept as it came.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use base64::Engine as _;

use super::PATIENCE;

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Received and not yet looked at.
    input: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// In order.
    Fin,
    /// Broken off: nobody may take what came for all there was.
    Reset,
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) code: u16,
    /// In the order they came, the names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The one field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let first = found.next();
        assert_eq!(found.next(), None, "two of {name}");
        first
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The value of `Proxy-Authorization` and its like.
pub(crate) fn basic(user: &str, password: &str) -> String {
    let words = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {words}")
}

/// One read. A process that was stopped and goes on finds a read with a timeout interrupted.
fn read(stream: &mut TcpStream, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn short_len(text: &str) -> u8 {
    u8::try_from(text.len()).expect("short enough")
}

impl Wire {
    #[track_caller]
    pub(crate) fn connect(addr: SocketAddr) -> Wire {
        match TcpStream::connect_timeout(&addr, PATIENCE) {
            Ok(stream) => Wire::new(stream),
            Err(error) => panic!("{addr}: {error}"),
        }
    }

    /// The next one that comes.
    #[track_caller]
    pub(crate) fn accept(listener: &TcpListener) -> Wire {
        Wire::new(listener.accept().expect("somebody comes").0)
    }

    pub(crate) fn new(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_nodelay(true).expect("it is TCP");
        Wire { stream, input: Vec::new() }
    }

    /// Connected through an HTTP proxy to `target`.
    #[track_caller]
    pub(crate) fn http_connect(proxy: SocketAddr, target: impl std::fmt::Display) -> Wire {
        let mut wire = Wire::connect(proxy);
        wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let answer = wire.response("CONNECT");
        assert_eq!(answer.code, 200, "{answer:?}");
        wire
    }

    /// Connected through a SOCKS5 proxy to a target that is named, not resolved here.
    #[track_caller]
    pub(crate) fn socks_connect(proxy: SocketAddr, host: &str, port: u16) -> Wire {
        let mut wire = Wire::connect(proxy);
        assert_eq!(wire.socks(None, host, port), 0);
        wire
    }

    /// A SOCKS5 handshake up to the answer: the reply's code; 0xff when no method or password was taken.
    #[track_caller]
    pub(crate) fn socks(&mut self, user: Option<(&str, &str)>, host: &str, port: u16) -> u8 {
        match self.socks_login(user) {
            0 => self.socks_request(host, port),
            code => code,
        }
    }

    /// The part of it before the request: 0 when that may come.
    #[track_caller]
    pub(crate) fn socks_login(&mut self, user: Option<(&str, &str)>) -> u8 {
        match user {
            None => {
                self.send([5, 1, 0]);
                match self.take(2)[..] {
                    [5, code] => code,
                    ref other => panic!("{other:?}"),
                }
            }
            Some((name, password)) => {
                self.send([5, 1, 2]);
                assert_eq!(self.take(2), [5, 2]);
                let mut message = vec![1, short_len(name)];
                message.extend_from_slice(name.as_bytes());
                message.push(short_len(password));
                message.extend_from_slice(password.as_bytes());
                self.send(message);
                match self.take(2)[..] {
                    [1, 0] => 0,
                    [1, _] => 0xff,
                    ref other => panic!("{other:?}"),
                }
            }
        }
    }

    /// The rest of it.
    #[track_caller]
    pub(crate) fn socks_request(&mut self, host: &str, port: u16) -> u8 {
        let mut message = vec![5, 1, 0, 3, short_len(host)];
        message.extend_from_slice(host.as_bytes());
        message.extend_from_slice(&port.to_be_bytes());
        self.send(message);
        let head = self.take(4);
        assert_eq!((head[0], head[2]), (5, 0));
        let rest = if head[3] == 4 { 18 } else { 6 };
        self.take(rest);
        head[1]
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the other side takes it");
    }

    /// Sends to somebody who may have had enough.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Ends this direction.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("it is connected");
    }

    /// Breaks the connection off.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("it is a socket");
    }

    /// Another handle on the same connection, to write while somebody reads.
    pub(crate) fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("there are descriptors")
    }

    /// Its own address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("it is connected")
    }

    /// One read: what came, or nothing at the end.
    pub(crate) fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if !self.input.is_empty() {
            return Ok(std::mem::take(&mut self.input));
        }
        let mut piece = vec![0; 64 << 10];
        let read = read(&mut self.stream, &mut piece)?;
        piece.truncate(read);
        Ok(piece)
    }

    /// Exactly `len` bytes.
    #[track_caller]
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        while self.input.len() < len {
            self.more();
        }
        let rest = self.input.split_off(len);
        std::mem::replace(&mut self.input, rest)
    }

    #[track_caller]
    fn more(&mut self) {
        let mut piece = [0; 16 << 10];
        match read(&mut self.stream, &mut piece) {
            Ok(0) => panic!("ended after {:?}", String::from_utf8_lossy(&self.input)),
            Ok(read) => self.input.extend_from_slice(&piece[..read]),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.input)),
        }
    }

    /// Whether another byte comes before the end.
    pub(crate) fn has_more(&mut self) -> bool {
        match self.read_some() {
            Ok(piece) => self.input = piece,
            Err(_) => return false,
        }
        !self.input.is_empty()
    }

    /// Whether nothing has come, and no end, up to this moment.
    pub(crate) fn is_quiet(&self) -> bool {
        self.stream.set_nonblocking(true).expect("it is a socket");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("it is a socket");
        self.input.is_empty() && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Everything up to the end, and which kind of end it was.
    #[track_caller]
    #[allow(clippy::wrong_self_convention, reason = "to the end of what comes, not to another type")]
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, Ended) {
        let mut bytes = Vec::new();
        loop {
            match self.read_some() {
                Ok(piece) if piece.is_empty() => return (bytes, Ended::Fin),
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (bytes, Ended::Reset),
                Err(error) => panic!("{error} after {} bytes", bytes.len()),
            }
        }
    }

    /// Up to and with the first empty line.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        self.until(b"\r\n\r\n")
    }

    #[track_caller]
    fn until(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|window| window == end) {
                return String::from_utf8(self.take(at + end.len())).expect("heads are text");
            }
            self.more();
        }
    }

    /// The next response's head, without its body.
    #[track_caller]
    pub(crate) fn response_head(&mut self) -> Response {
        let head = self.head();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().expect("split gives one at least");
        assert!(status.starts_with("HTTP/1.1 "), "{head}");
        let code = status[9..12].parse().expect("a status has three digits");
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{head}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Response { code, fields: lines.map(field).collect(), body: Vec::new() }
    }

    /// The next response, whole, to a request of this method.
    #[track_caller]
    pub(crate) fn response(&mut self, method: &str) -> Response {
        let mut response = self.response_head();
        let connected = method == "CONNECT" && response.code / 100 == 2;
        if method == "HEAD" || connected || matches!(response.code, 100..=199 | 204 | 304) {
            return response;
        }
        response.body = if response.field("transfer-encoding").is_some_and(|value| value == "chunked") {
            self.chunks()
        } else if let Some(len) = response.field("content-length") {
            self.take(len.parse().expect("a length is a number"))
        } else {
            let (body, ended) = self.read_to_end();
            assert_eq!(ended, Ended::Fin);
            body
        };
        response
    }

    #[track_caller]
    pub(crate) fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n");
            let len = usize::from_str_radix(line.trim(), 16).expect("a chunk begins with its size");
            if len == 0 {
                while self.until(b"\r\n") != "\r\n" {}
                return body;
            }
            body.extend(self.take(len));
            assert_eq!(self.take(2), b"\r\n");
        }
    }

    /// A request in absolute form without a body, and its answer.
    #[track_caller]
    pub(crate) fn get(&mut self, url: &str) -> Response {
        let host = url.trim_start_matches("http://").split('/').next().expect("split gives one at least");
        self.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.response("GET")
    }
}
