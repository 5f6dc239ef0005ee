//! Over loopback, with clients that know nothing of the server's insides.
// proves S-43, K-06

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use poller::{EventLoop, Listener};

use super::routes::pattern_piece;
use super::*;

const HELLO: &str = "Hello, World!";
const MIB: u64 = 1 << 20;
/// So long that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn running(serve: Serve) -> (EventLoop, Listener) {
    let event_loop = EventLoop::builder().polls(1).build().unwrap();
    let listener = event_loop.serve(TcpListener::bind("127.0.0.1:0").unwrap(), serve).unwrap();
    (event_loop, listener)
}

fn connect(listener: &Listener) -> TcpStream {
    let stream = TcpStream::connect(listener.local_addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything up to the server's end of stream, which has to be an orderly one, with the dates taken out.
fn until_end(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !(line.starts_with("Date: ") && line.ends_with(" GMT\r\n"))).collect()
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nServer: anyproxy\r\n{fields}\r\n\r\n{body}")
}

fn hello(connection: &str) -> String {
    answer("200 OK", &format!("{connection}Content-Type: text/plain\r\nContent-Length: 13"), HELLO)
}

/// Sends `request`, ends that side, and compares everything that comes.
#[track_caller]
fn check(listener: &Listener, request: &str, want: &str) {
    let mut stream = connect(listener);
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(until_end(&stream), want, "to {request:?}");
}

/// One head off the stream, and what it says the length is.
fn read_head(stream: &mut impl Read) -> (String, Option<u64>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.map(|digits| digits.parse().unwrap());
    (head, length)
}

#[test]
fn every_route_and_method() {
    let (_event_loop, listener) = running(Serve::default());
    let text = "Content-Type: text/plain; charset=utf-8\r\n";
    let close = "Connection: close\r\n";
    let no = "the Allow field says with which methods this goes";
    let nothing = "there is nothing here; / lists what there is";
    let json = "Content-Type: application/json\r\nContent-Length: 27";
    let bin = "Content-Type: application/octet-stream\r\n";
    let not_found = answer("404 Not Found", &format!("{text}Content-Length: 44"), nothing);
    let table = [
        ("GET /plaintext", "", hello("")),
        ("GET http://x/plaintext?a=b", "", hello("")),
        ("HEAD /plaintext", "", hello("").replace(HELLO, "")),
        ("GET /json", "", answer("200 OK", json, r#"{"message":"Hello, World!"}"#)),
        ("HEAD /json", "", answer("200 OK", json, "")),
        ("GET /healthz", "", answer("200 OK", &format!("{text}Content-Length: 2"), "ok")),
        ("GET /delay/1", "", answer("200 OK", &format!("{text}Content-Length: 13"), "here you are\n")),
        ("HEAD /delay/1", "", answer("200 OK", &format!("{text}Content-Length: 13"), "")),
        (
            "HEAD /bytes/18446744073709551615",
            "",
            answer("200 OK", &format!("{bin}Content-Length: {}", u64::MAX), ""),
        ),
        ("GET /bytes/0", "", answer("200 OK", &format!("{bin}Content-Length: 0"), "")),
        ("GET /nothing", "", not_found.clone()),
        ("POST /nothing", "", not_found.clone()),
        ("HEAD /nothing", "", not_found.replace(nothing, "")),
        (
            "OPTIONS *",
            "",
            answer("200 OK", &format!("{text}Allow: GET, HEAD, POST\r\nContent-Length: 0"), ""),
        ),
        (
            "GET /delay/600001",
            "",
            answer(
                "400 Bad Request",
                &format!("{text}Content-Length: 34"),
                "that is longer than any delay here",
            ),
        ),
        (
            "DELETE /plaintext",
            "",
            answer("405 Method Not Allowed", &format!("{text}Allow: GET, HEAD\r\nContent-Length: 49"), no),
        ),
        (
            "GET /echo",
            "",
            answer("405 Method Not Allowed", &format!("{text}Allow: POST\r\nContent-Length: 49"), no),
        ),
        (
            "HEAD /echo",
            "",
            answer("405 Method Not Allowed", &format!("{text}Allow: POST\r\nContent-Length: 49"), ""),
        ),
        ("POST /echo", "", answer("200 OK", &format!("{bin}Content-Length: 0"), "")),
        (
            "POST /plaintext",
            "Content-Length: 3\r\n",
            answer(
                "405 Method Not Allowed",
                &format!("{close}{text}Allow: GET, HEAD\r\nContent-Length: 49"),
                no,
            ),
        ),
        ("GET /plaintext", "Connection: close\r\n", hello(close)),
        // A body that nobody wants ends the connection, and is not taken for a request.
        ("GET /plaintext", "Content-Length: 26\r\n", hello(close)),
    ];
    for (line, fields, want) in table {
        check(&listener, &format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), &want);
    }
    for (request, want) in [
        ("GET /plaintext HTTP/1.0\r\n\r\nGET /plaintext HTTP/1.0\r\n\r\n", hello(close)),
        (
            "GET /plaintext HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /plaintext HTTP/1.0\r\n\r\n",
            hello("Connection: keep-alive\r\n") + &hello(close),
        ),
        ("", String::new()),
        ("GET /plaintext HTTP/1.1\r\nHo", String::new()),
    ] {
        check(&listener, request, &want);
    }
}

#[test]
fn the_page_names_every_route() {
    let (_event_loop, listener) = running(Serve::default());
    let mut stream = connect(&listener);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let page = until_end(&stream);
    assert!(page.contains("Content-Type: text/html; charset=utf-8\r\n"), "{page}");
    for route in ["/plaintext", "/json", "/bytes/", "/echo", "/delay/", "/healthz"] {
        assert!(page.contains(route), "{route} is not on the page");
    }
}

#[test]
fn refused_requests_get_their_status_and_the_end() {
    let (_event_loop, listener) = running(Serve::default());
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(8 << 10));
    let wide = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(33 << 10));
    let much = "x".repeat(1 << 20);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nBad Header : x\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\nHost: x\n\n", "400 Bad Request"),
        ("GET / HTTP/0.9\r\n\r\n", "505 HTTP Version Not Supported"),
        (long.as_str(), "414 URI Too Long"),
        (wide.as_str(), "431 Request Header Fields Too Large"),
        ("GET / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", "417 Expectation Failed"),
        (
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: brotli, chunked\r\n\r\n",
            "501 Not Implemented",
        ),
        ("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400 Bad Request"),
        (
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
            "400 Bad Request",
        ),
    ] {
        let mut stream = connect(&listener);
        stream.write_all(request.as_bytes()).unwrap();
        // What follows is read and dropped: with it unread, a reset could overtake the answer.
        let mut more = stream.try_clone().unwrap();
        let much = much.clone();
        let writer = std::thread::spawn(move || more.write_all(much.as_bytes()).is_ok());
        let got = until_end(&stream);
        let start = format!("HTTP/1.1 {status}\r\nServer: anyproxy\r\nConnection: close\r\n");
        assert!(got.starts_with(&start), "to {:.60?}: {got}", request);
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
        assert!(writer.join().unwrap(), "{status}: the connection was cut while it was written to");
    }
}

#[test]
fn requests_cut_at_every_byte_are_the_same_requests() {
    let (_event_loop, listener) = running(Serve::default());
    let bin = "Content-Type: application/octet-stream\r\n";
    let requests = [
        ("GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n", hello("")),
        (
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde",
            answer("200 OK", &format!("{bin}Content-Length: 5"), "abcde"),
        ),
        (
            "GET /bytes/0 HTTP/1.1\r\nHost: x\r\n\r\n",
            answer("200 OK", &format!("{bin}Content-Length: 0"), ""),
        ),
    ];
    let last = "GET /plaintext HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (request, want) in requests {
        for cut in 1..request.len() {
            let mut stream = connect(&listener);
            let all = format!("{request}{last}");
            let (one, other) = all.as_bytes().split_at(cut);
            stream.write_all(one).unwrap();
            stream.write_all(other).unwrap();
            let want = format!("{want}{}", hello("Connection: close\r\n"));
            assert_eq!(until_end(&stream), want, "cut at {cut}");
        }
    }
    // Byte by byte, the pieces of a chunked answer follow those of the request.
    let mut stream = connect(&listener);
    let request = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: t\r\n\r\n";
    for byte in request.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    let got = until_end(&stream);
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with("Transfer-Encoding: chunked"), "{head}");
    assert_eq!(unchunk(body.as_bytes()), b"abcde");
}

/// The payload of a whole chunked body.
fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    loop {
        let line = body.windows(2).position(|end| end == b"\r\n").unwrap();
        let size = usize::from_str_radix(str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        payload.extend_from_slice(&body[line + 2..line + 2 + size]);
        assert_eq!(&body[line + 2 + size..line + 4 + size], b"\r\n");
        body = &body[line + 4 + size..];
        if size == 0 {
            assert!(body.is_empty(), "{} bytes after the body", body.len());
            return payload;
        }
    }
}

#[test]
fn pipelines_are_answered_in_order() {
    let (_event_loop, listener) = running(Serve::default());
    let (mut requests, mut want) = (String::new(), String::new());
    for i in 0..50 {
        let (line, fields, body) = match i % 5 {
            0 => ("GET /plaintext", "text/plain\r\nContent-Length: 13", HELLO),
            1 => ("GET /json", "application/json\r\nContent-Length: 27", r#"{"message":"Hello, World!"}"#),
            2 => ("GET /delay/1", "text/plain; charset=utf-8\r\nContent-Length: 13", "here you are\n"),
            3 => ("HEAD /bytes/7", "application/octet-stream\r\nContent-Length: 7", ""),
            _ => ("POST /echo", "application/octet-stream\r\nContent-Length: 4", "1234"),
        };
        let length = if i % 5 == 4 { "Content-Length: 4\r\n\r\n1234" } else { "\r\n" };
        requests += &format!("{line} HTTP/1.1\r\nHost: x\r\n{length}");
        want += &answer("200 OK", &format!("Content-Type: {fields}"), body);
    }
    check(&listener, &requests, &want);
    // Far more than one read takes and than the output may hold.
    let many = 20_000;
    let stream = connect(&listener);
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all("GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n".repeat(many).as_bytes()).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(until_end(&stream).matches(HELLO).count(), many);
    sending.join().unwrap();
}

/// The sum of what a stream holds from here on, and how long it is.
fn sum(mut stream: impl Read, pause_each: Option<Duration>) -> (u64, u64) {
    let (mut hash, mut len, mut block) = (0xcbf2_9ce4_8422_2325u64, 0, vec![0; 40_000]);
    loop {
        let n = stream.read(&mut block).unwrap();
        if n == 0 {
            return (hash, len);
        }
        for byte in &block[..n] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        len += n as u64;
        if let Some(pause) = pause_each {
            std::thread::sleep(pause);
        }
    }
}

fn pattern(len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        bytes.extend_from_slice(&pattern_piece(bytes.len() as u64, len - bytes.len() as u64));
    }
    bytes
}

#[test]
fn bytes_arrive_whole_at_quick_and_slow_readers() {
    let (_event_loop, listener) = running(Serve::default());
    for (len, pause) in [
        (1, None),
        (65_520, None),
        (65_522, None),
        (8 * MIB, None),
        (64 * MIB, None),
        (8 * MIB, Some(Duration::from_millis(1))),
    ] {
        let mut stream = connect(&listener);
        // The second exchange shows that the first has ended where it should.
        let requests = format!(
            "GET /bytes/{len} HTTP/1.1\r\nHost: x\r\n\r\n\
             GET /plaintext HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(requests.as_bytes()).unwrap();
        assert_eq!(read_head(&mut stream).1, Some(len));
        let want = sum(&pattern(len)[..], None);
        assert_eq!(sum((&stream).take(len), pause), want, "{len} bytes");
        assert_eq!(until_end(&stream), hello("Connection: close\r\n"));
    }
}

/// More than the input may hold comes while the output is full: it has to be read once the output is not.
#[test]
fn what_is_sent_ahead_of_a_download_is_answered_after_it() {
    let (_event_loop, listener) = running(Serve::default());
    let many = 80_000;
    for len in [1, MIB, 16 * MIB] {
        let mut stream = connect(&listener);
        let mut sender = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            sender.write_all(format!("GET /bytes/{len} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
            sender.write_all("GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n".repeat(many).as_bytes()).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(read_head(&mut stream).1, Some(len));
        assert_eq!(sum((&stream).take(len), None), sum(&pattern(len)[..], None));
        assert_eq!(until_end(&stream).matches(HELLO).count(), many, "after {len} bytes");
        sending.join().unwrap();
    }
}

/// As long as a head may be, and in many reads.
#[test]
fn the_longest_head_is_read() {
    let (_event_loop, listener) = running(Serve::default());
    let target = format!("/plaintext?{}", "q".repeat((8 << 10) - 11));
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let fields_len = request.len() - target.len() - "GET  HTTP/1.1\r\n".len();
    request += &format!("A: {}\r\n\r\n", "b".repeat((32 << 10) - fields_len - 5));
    let mut stream = connect(&listener);
    for piece in request.as_bytes().chunks(1_000) {
        stream.write_all(piece).unwrap();
    }
    assert_eq!(until_end(&stream), hello("Connection: close\r\n"));
}

#[test]
fn echo_gives_back_8_mib_in_either_framing() {
    let (_event_loop, listener) = running(Serve::default());
    let body = pattern(8 * MIB);
    for chunked in [false, true] {
        let mut stream = connect(&listener);
        let mut sender = stream.try_clone().unwrap();
        let sent = body.clone();
        let sending = std::thread::spawn(move || {
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", sent.len()),
            };
            let head = format!("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n\r\n");
            sender.write_all(head.as_bytes()).unwrap();
            if !chunked {
                return sender.write_all(&sent).unwrap();
            }
            for chunk in sent.chunks(70_001) {
                sender.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
                sender.write_all(chunk).unwrap();
                sender.write_all(b"\r\n").unwrap();
            }
            sender.write_all(b"0\r\n\r\n").unwrap();
        });
        let (head, length) = read_head(&mut stream);
        assert_eq!(length, (!chunked).then_some(8 * MIB), "{head}");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        let got = if chunked { unchunk(&got) } else { got };
        assert!(got == body, "chunked: {chunked}: the body came back otherwise");
        sending.join().unwrap();
    }
}

#[test]
fn expect_100_continue_is_answered_before_the_body_comes() {
    let (_event_loop, listener) = running(Serve::default());
    let mut stream = connect(&listener);
    let head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head).unwrap();
    assert_eq!(read_head(&mut stream).0, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").unwrap();
    let (head, length) = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && length == Some(2), "{head}");
    // Where no body is wanted the final answer comes at once.
    let mut stream = connect(&listener);
    let head = b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head).unwrap();
    assert!(until_end(&stream).starts_with("HTTP/1.1 405 "));
}

#[test]
fn a_body_cut_short_is_told_or_seen() {
    let (_event_loop, listener) = running(Serve::default());
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    let text = "Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 28";
    check(&listener, head, &answer("400 Bad Request", text, "the body ends before its end"));
    let text = "Content-Type: application/octet-stream\r\nContent-Length: 5";
    check(&listener, &format!("{head}abc"), &answer("200 OK", text, "abc"));
}

/// Times of which the one under test is short, and the others never come.
fn impatient(change: impl FnOnce(&mut Times)) -> Serve {
    let mut times = Times { head: PATIENCE * 2, stall: PATIENCE * 2, linger: PATIENCE * 2 };
    change(&mut times);
    Serve { times }
}

fn wait_until_none(event_loop: &EventLoop) {
    while event_loop.connections() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

const SHORT: Duration = Duration::from_millis(30);

#[test]
fn a_head_that_takes_too_long_is_408_and_an_idle_connection_stays() {
    let (_event_loop, listener) = running(impatient(|times| times.head = SHORT));
    let mut idle = connect(&listener);
    idle.write_all(b"GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = vec![0; read_head(&mut idle).1.unwrap() as usize];
    idle.read_exact(&mut answer).unwrap();
    let mut stream = connect(&listener);
    stream.write_all(b"GET /plaintext HTTP/1.1\r\nHost: x\r\n").unwrap();
    let got = until_end(&stream);
    assert!(
        got.starts_with("HTTP/1.1 408 Request Timeout\r\nServer: anyproxy\r\nConnection: close\r\n"),
        "{got}"
    );
    idle.write_all(b"GET /plaintext HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(until_end(&idle), hello("Connection: close\r\n"));
}

#[test]
fn exchanges_that_do_not_move_are_ended() {
    let (event_loop, listener) = running(impatient(|times| times.stall = SHORT));
    // A body that does not come.
    let mut stream = connect(&listener);
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert!(until_end(&stream).starts_with("HTTP/1.1 408 "));
    drop(stream);
    // A body that comes too slowly.
    let mut stream = connect(&listener);
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\na").unwrap();
    assert!(until_end(&stream).ends_with("Content-Length: 5\r\n\r\na"));
    drop(stream);
    // Answers that nobody takes: a large one, and many small ones.
    for requests in [
        "GET /bytes/1000000000000 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000),
    ] {
        let mut stream = connect(&listener);
        let ends_with = |stream: &mut TcpStream| {
            stream.write_all(requests.as_bytes())?;
            // It has been accepted once something is there; it is left there until the server gives up.
            stream.peek(&mut [0])?;
            wait_until_none(&event_loop);
            io::copy(stream, &mut io::sink())
        };
        let end = ends_with(&mut stream).map_err(|error| error.kind());
        let reset = matches!(end, Err(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
        assert!(reset, "the end looks orderly: {end:?}");
    }
}

#[test]
fn lingering_ends() {
    let (event_loop, listener) = running(impatient(|times| times.linger = SHORT));
    let mut stream = connect(&listener);
    stream.write_all(b"GET /plaintext HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(until_end(&stream), hello("Connection: close\r\n"));
    // The client keeps its side open; the server does not wait for ever.
    wait_until_none(&event_loop);
}

#[test]
fn a_delay_holds_up_its_own_connection_only_and_what_is_sent_ahead_waits() {
    let (event_loop, listener) = running(Serve::default());
    let mut waiting = connect(&listener);
    waiting.write_all(b"GET /delay/600000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    check(&listener, "GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n", &hello(""));
    // More than is read ahead.
    let many = 40_000;
    let mut stream = connect(&listener);
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(b"GET /delay/100 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        sender.write_all("GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n".repeat(many).as_bytes()).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut delayed = vec![0; read_head(&mut stream).1.unwrap() as usize];
    stream.read_exact(&mut delayed).unwrap();
    assert_eq!(until_end(&stream).matches(HELLO).count(), many);
    sending.join().unwrap();
    drop((waiting, event_loop));
}

#[test]
fn shutdown_lets_answers_finish_and_ends_idle_connections() {
    let (event_loop, listener) = running(Serve::default());
    let idle = connect(&listener);
    let mut delayed = connect(&listener);
    delayed.write_all(b"GET /delay/200 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut large = connect(&listener);
    large.write_all(format!("GET /bytes/{} HTTP/1.1\r\nHost: x\r\n\r\n", 64 * MIB).as_bytes()).unwrap();
    let mut echo = connect(&listener);
    echo.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na").unwrap();
    // All three are under way once this is there, and the delay began before.
    assert_eq!(read_head(&mut large).1, Some(64 * MIB));
    assert_eq!(read_head(&mut echo).1, Some(2));
    let stopping = std::thread::spawn(move || event_loop.shutdown(PATIENCE));
    assert_eq!(until_end(&idle), "");
    // On a busy machine the delay may be over before the stop: then the answer does not announce the end.
    let text = "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 13";
    let got = until_end(&delayed).replace("Connection: close\r\n", "");
    assert_eq!(got, answer("200 OK", text, "here you are\n"));
    echo.write_all(b"b").unwrap();
    assert_eq!(until_end(&echo), "ab");
    let len = sum(&large, None).1;
    assert_eq!(len, 64 * MIB);
    drop((delayed, large, echo, idle));
    assert!(stopping.join().unwrap(), "a connection did not end by itself");
    assert!(TcpStream::connect(listener.local_addr()).is_err());
}

#[test]
fn an_address_that_is_taken_is_named() {
    let event_loop = EventLoop::builder().polls(1).build().unwrap();
    let listener = start(&event_loop.remote(), "127.0.0.1:0".parse().unwrap()).unwrap();
    let error = match start(&event_loop.remote(), listener.local_addr()) {
        Err(error) => error,
        Ok(_) => panic!("two listeners on {}", listener.local_addr()),
    };
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&listener.local_addr().to_string()), "{error}");
}
