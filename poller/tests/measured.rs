//! The two examples that are measured, as processes: what they answer, in pieces and in bulk, and what they refuse.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use support::built::examples;
use support::*;

/// A running example, which has no end of its own.
struct Example {
    child: Child,
    addr: SocketAddr,
}

impl Example {
    #[track_caller]
    fn start(name: &str, flags: &[&str]) -> Example {
        let mut command = Command::new(examples().join(name));
        command.args(["--port", "0", "--proto", name]).args(flags);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a first line");
        let addr = line.split([' ', '/', '\n']).find_map(|word| word.parse().ok());
        Example { child, addr: addr.unwrap_or_else(|| panic!("no address in {line:?}")) }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.child.kill().expect("it has not ended by itself");
        self.child.wait().expect("it ends");
    }
}

/// Sends `input` in pieces, each a read of its own where the system lets it, and wants `answers` and then `end`.
#[track_caller]
fn check(example: &Example, input: &[u8], piece: usize, want: &[u8]) {
    let mut user = connect(example.addr);
    user.set_nodelay(true).expect("an option");
    for piece in input.chunks(piece) {
        user.write_all(piece).expect("sent");
    }
    let mut got = vec![0; want.len()];
    user.read_exact(&mut got).expect("as many bytes");
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want));
    user.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut user), b"", "nothing more");
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nServer: poller\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const HELLO_LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\nHello, World!";
const PLAIN: &str = "GET /plaintext HTTP/1.1\r\nHost: here\r\nX:\ty\r\n\r\n";

#[test]
fn http_answers_requests_in_pieces_and_in_bulk() {
    let http = Example::start("http", &[]);
    for piece in 1..=PLAIN.len() {
        check(&http, PLAIN.as_bytes(), piece, HELLO.as_bytes());
    }
    let requests = 10_000;
    let (input, want) = (PLAIN.repeat(requests), HELLO.repeat(requests));
    let mut user = connect(http.addr);
    let mut writer = user.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(input.as_bytes()).expect("sent"));
        let mut got = vec![0; want.len()];
        user.read_exact(&mut got).expect("all answers");
        assert!(got == want.as_bytes(), "an answer differs");
    });
}

#[test]
fn http_ends_after_what_it_cannot_go_on_from() {
    let http = Example::start("http", &["--hint"]);
    let last = "GET /slow HTTP/1.1\r\nconnection: CLOSE\r\nHost: here\r\n\r\n";
    let missing = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let post = "POST /plaintext HTTP/1.1\r\nContent-Length: 2\r\n\r\n";
    for (input, want) in [
        ([PLAIN, "GET / HTTP/1.1\r\n\r\n"].concat(), [HELLO, missing].concat()),
        ([PLAIN, last].concat(), [HELLO, HELLO_LAST].concat()),
        ([PLAIN, post].concat(), [HELLO, missing].concat()),
        ("\r\n\r\n".to_owned(), missing.to_owned()),
    ] {
        check(&http, input.as_bytes(), input.len(), want.as_bytes());
    }
    // What would be answered behind the last request is not.
    let mut user = connect(http.addr);
    user.write_all([last, PLAIN].concat().as_bytes()).expect("sent");
    let mut got = vec![0; HELLO_LAST.len()];
    user.read_exact(&mut got).expect("one answer");
    assert_ended(&mut user);
}

#[test]
fn rpc_sends_messages_back_in_pieces_and_in_bulk() {
    let rpc = Example::start("rpc", &["--hint"]);
    let message = |payload: &[u8]| [&(payload.len() as u32).to_be_bytes(), payload].concat();
    let few = [message(b""), message(b"one"), message(b"Slow"), message(&[b'x'; 100])].concat();
    for piece in [1, 3, 5, 7, 100, few.len()] {
        check(&rpc, &few, piece, &few);
    }
    let longest = message(&vec![b'y'; poller::limits::INPUT_HIGH_BYTES - 4]);
    let mut user = connect(rpc.addr);
    for _ in 0..2 {
        user.write_all(&longest).expect("sent");
        let mut got = vec![0; longest.len()];
        user.read_exact(&mut got).expect("sent back");
        assert!(got == longest, "it came back changed");
    }
}

#[test]
fn what_is_too_long_ends_the_connection() {
    let rpc = Example::start("rpc", &[]);
    let mut user = connect(rpc.addr);
    let length = poller::limits::INPUT_HIGH_BYTES as u32 - 3;
    user.write_all(&length.to_be_bytes()).expect("sent");
    assert_ended(&mut user);
    let http = Example::start("http", &[]);
    let mut user = connect(http.addr);
    user.write_all(&[b'x'; 8 * 1024 + 1]).expect("sent");
    assert_ended(&mut user);
}

/// The server has ended the connection, orderly or not, and said nothing more.
#[track_caller]
fn assert_ended(user: &mut TcpStream) {
    let mut rest = Vec::new();
    match user.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(rest, b"");
}
