//! What has no business here, at every door: the right answer or none, and nobody else notices.

use std::net::SocketAddr;
use std::time::Instant;

use anyproxy::limits::{PRE_AUTH_PER_ADDRESS_MAX, TUNNEL_MESSAGE_BYTES};
use anyproxy::proto::frame::{Frame, GoAway, GoAwayCode, Network};
use anyproxy::proto::session::{ClientConfig, Session};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use linkbuffer::LinkBuffer;

use crate::support::{Origin, Program, Wire, gateway, gateway_that_says};

const TLS_HELLO: &[u8] =
    b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x20bbbb";
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00";

/// Says something and ends its stream; gives what came back, up to the end. That is one in order or by reset, but it comes.
fn say(addr: SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut wire = Wire::connect(addr);
    // It may have heard enough before the end.
    if wire.try_send(words).is_ok() && wire.writer().shutdown(std::net::Shutdown::Write).is_err() {
        return Vec::new();
    }
    wire.read_to_end().0
}

/// An answer with one of these codes, or just an end where `end` allows it.
#[track_caller]
fn check(addr: SocketAddr, words: &[u8], codes: &[u16], end: bool) {
    let answer = say(addr, words);
    let text = String::from_utf8_lossy(&answer);
    let shown = String::from_utf8_lossy(&words[..words.len().min(60)]);
    let code = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    match code {
        Some(code) => assert!(codes.contains(&code), "{shown:?}: {text}"),
        None => assert!(end && answer.is_empty(), "{shown:?}: {text:?}"),
    }
}

/// What HTTP servers hear from strangers.
fn http_noise() -> Vec<(Vec<u8>, &'static [u16], bool)> {
    let noise = |seed: u64| (0..5000u64).map(|i| (i.wrapping_mul(seed) >> 13) as u8).collect::<Vec<u8>>();
    vec![
        (TLS_HELLO.to_vec(), &[400], true),
        (HTTP2.to_vec(), &[400, 405, 501, 505], false),
        // The answer may be overtaken by the reset that what follows it causes.
        (vec![0; 1 << 20], &[400], true),
        (noise(0x9e37_79b9_7f4a_7c15), &[400, 414, 501], true),
        (b"\r\n\r\n\r\n\r\n\r\n".to_vec(), &[400], false),
        (b"GET".to_vec(), &[400], true),
        (b"GET / HTTP/1.1\r\nHost: a".to_vec(), &[400], true),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[400], false),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_vec(), &[400, 505], false),
        (b"GET / HTTP/1.1\nHost: a\n\n".to_vec(), &[400], false),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(), &[400], false),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
            &[400],
            false,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_vec(), &[400], false),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), &[400, 501], true),
        ([b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), &[414], true),
        (
            [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &[b'a'; 100_000], b"\r\n\r\n"].concat(),
            &[431],
            true,
        ),
    ]
}

/// The upgrade, as a client asks for it.
fn upgrade() -> (WebSocket, Vec<u8>) {
    let mut ws = WebSocket::client("gateway", TUNNEL_PATH, [7; 32]);
    let bytes = output(&mut ws);
    (ws, bytes)
}

fn output(ws: &mut WebSocket) -> Vec<u8> {
    let mut bytes = LinkBuffer::new();
    ws.poll_output(&mut bytes);
    let len = bytes.len();
    bytes.read_vec(len).expect("there are so many")
}

/// Upgrades, says something, and waits for the end.
#[track_caller]
fn check_upgraded(tunnel: SocketAddr, name: &str, words: impl FnOnce(&mut WebSocket) -> Vec<u8>) {
    let (mut ws, ask) = upgrade();
    let mut wire = Wire::connect(tunnel);
    wire.send(ask);
    let answer = wire.head();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{name}: {answer}");
    let mut input = LinkBuffer::new();
    input.write(answer.as_bytes());
    ws.handle_input(&mut input).expect("the answer is one");
    let words = words(&mut ws);
    // It may have heard enough before the end.
    wire.try_send(words).ok();
    wire.read_to_end();
}

/// A client's frame with the mask 0, which changes nothing.
fn frame(first: u8, len: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | 127];
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

fn message(ws: &mut WebSocket, bytes: &[u8]) -> Vec<u8> {
    let mut message = LinkBuffer::new();
    message.write(bytes);
    ws.send(message).expect("it is open");
    output(ws)
}

// proves S-16, S-07 (nothing of this is a fault of ours), S-39
#[test]
fn noise_at_every_door_is_answered_and_hurts_nobody() {
    let gateway = gateway(&[]);
    let echo = Origin::echo();
    let client = gateway.client(&["--allow", "127.0.0.1", "--forward", &format!("0:{}", echo.addr())]);
    let serve = Program::start(&["serve", "--listen", "127.0.0.1:0"]);
    let line = gateway.wait(&["event=fwd_open"]);
    let forwarded: SocketAddr = crate::support::field(&line, "addr").parse().expect("an address");
    let [http, socks, tunnel] = ["http", "socks", "tunnel"].map(|name| gateway.addr(name));
    let mut neighbour = Wire::http_connect(http, echo.addr());
    let mut still_there = |what: &str| {
        neighbour.send(what);
        assert_eq!(neighbour.take(what.len()), what.as_bytes());
    };

    for (words, codes, end) in http_noise() {
        check(http, &words, codes, end);
    }
    still_there("after the HTTP proxy");
    for (words, codes, end) in http_noise() {
        // Its own pages are there for the first form of target.
        check(serve.addr("serve"), &words, codes, end);
    }
    for (words, _, _) in http_noise() {
        // Whatever it is, it is no SOCKS5, or no whole request: there are no words for that.
        let answer = say(socks, &words);
        assert!(answer.len() <= 10, "{answer:?}");
        check(tunnel, &words, &[400, 404, 405, 414, 426, 431, 501, 505], true);
        // A port has no opinion.
        let mut wire = Wire::connect(forwarded);
        if words.len() < 10_000 {
            wire.send(&words);
            assert_eq!(wire.take(words.len()), words);
        }
    }
    for words in [
        &[4, 1, 0, 80, 1, 2, 3, 4, 0][..],
        &[5, 0],
        &[5, 1, 9],
        &[5, 1, 0, 5, 9, 0, 1],
        &[5, 1, 0, 5, 1, 0, 9],
        &[5],
    ] {
        let answer = say(socks, words);
        assert!(answer.len() <= 12, "{answer:?}");
    }
    still_there("after SOCKS5");

    let (_, ask) = upgrade();
    let ask = String::from_utf8(ask).expect("heads are text");
    check(tunnel, ask.replace(TUNNEL_PATH, "/chat").as_bytes(), &[404], false);
    check(tunnel, ask.replace("Version: 13", "Version: 8").as_bytes(), &[400, 426], false);
    check(tunnel, ask.replace("GET ", "POST ").as_bytes(), &[400, 405], false);
    check(tunnel, ask.replace("websocket", "h2c").as_bytes(), &[400, 426], false);
    check(tunnel, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", &[400, 404, 426], false);

    check_upgraded(tunnel, "text", |_| frame(0x81, 5, b"hello"));
    check_upgraded(tunnel, "oversize", |_| frame(0x82, u64::MAX >> 1, b""));
    check_upgraded(tunnel, "above the limit", |_| frame(0x82, 1 << 24, &[0; 1000]));
    check_upgraded(tunnel, "not masked", |_| b"\x82\x05hello".to_vec());
    check_upgraded(tunnel, "reserved bits", |_| frame(0xf2, 5, b"hello"));
    check_upgraded(tunnel, "a continuation of nothing", |_| frame(0x80, 5, b"hello"));
    check_upgraded(tunnel, "no frame of ours", |ws| message(ws, &[0xff; 100]));
    check_upgraded(tunnel, "too early a PING", |ws| message(ws, &Frame::Ping(1).encode(0)));
    check_upgraded(tunnel, "DATA before everything", |ws| {
        let data = Frame::Data(bytes::Bytes::from_static(b"hello"));
        message(ws, &data.encode(1))
    });
    check_upgraded(tunnel, "goodbye before hello", |ws| {
        let goodbye = Frame::GoAway(GoAway { code: GoAwayCode::Stop, reason: "x".into() });
        message(ws, &goodbye.encode(0))
    });
    check_upgraded(tunnel, "a message of zeros", |ws| message(ws, &vec![0; TUNNEL_MESSAGE_BYTES]));
    check_upgraded(tunnel, "half a close", |_| frame(0x88, 1, b"x"));
    still_there("after the tunnel's port");

    let mut next = Wire::http_connect(http, echo.addr());
    next.send("new");
    assert_eq!(next.take(3), b"new");
    drop((neighbour, next));
    assert_eq!(gateway.lines(&["event=tun_down", "level=WARN"]).len(), 0);
    client.stop();
    gateway.stop();
    serve.stop();
}

// proves T17 for the log: strangers are counted, each of them, and fill nobody's disk
#[test]
fn strangers_without_end_are_counted_and_said_once() {
    const TURNED_AWAY: [&str; 2] =
        ["event=refuse", "connections of this address have not proved themselves yet"];
    let begun = Instant::now();
    let gateway = gateway_that_says("info,anyproxy::gateway=debug", &[]);
    let tunnel = gateway.addr("tunnel");
    let mut strangers = Vec::new();
    // Once, unless that takes so long that the first have outstayed their time.
    for _ in 0..5 {
        if !gateway.lines(&TURNED_AWAY).is_empty() {
            break;
        }
        strangers.extend((0..PRE_AUTH_PER_ADDRESS_MAX + 5).map(|_| Wire::connect(tunnel)));
        gateway.wait_nth(&["event=refuse"], gateway.lines(&["event=refuse"]).len() + 1);
    }
    gateway.wait(&TURNED_AWAY);
    let count = strangers.len();
    drop(strangers);
    gateway.wait(&["event=refuse", &format!("total={count}")]);
    let aloud = gateway.lines(&["event=refuse", "level=INFO"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(aloud.len() as u64)), "{aloud:?}");
    assert_eq!(gateway.lines(&["event=refuse"]).len(), count);
    gateway.stop();
}

/// A client of an open gateway, whose tunnel is up.
fn puppet(tunnel: SocketAddr, instance: u64) -> (Wire, WebSocket) {
    let (mut ws, ask) = upgrade();
    let mut wire = Wire::connect(tunnel);
    wire.send(ask);
    let (name, group) = ("puppet".into(), String::new());
    let config = ClientConfig { name, group, secret: None, instance, generation: 1, nonce: [1; 32] };
    let mut session = Session::client(config, Instant::now());
    let mut input = LinkBuffer::new();
    loop {
        input.write(&wire.read_some().expect("it answers"));
        ws.handle_input(&mut input).expect("a gateway's words");
        while let Some(part) = ws.poll_payload() {
            session.handle_input(part.bytes, Instant::now()).expect("an open gateway");
        }
        if session.is_up() {
            return (wire, ws);
        }
        let mut words = LinkBuffer::new();
        if session.poll_transmit(usize::MAX, &mut words, Instant::now()) > 0 {
            ws.send(words).expect("it is open");
        }
        wire.send(output(&mut ws));
    }
}

// Counters that nobody could read: the protocol says that late frames are counted (S-70: and a port of nobody is not closed).
#[test]
fn the_end_of_a_tunnel_says_what_was_odd_about_it() {
    let gateway = gateway(&[]);
    let (mut wire, mut ws) = puppet(gateway.addr("tunnel"), 1);
    for port in [9, 10] {
        wire.send(message(&mut ws, &Frame::PortClose { network: Network::Tcp, port }.encode(0)));
    }
    // A PING of the WebSocket's own.
    wire.send([0x89, 0x80, 0, 0, 0, 0]);
    let goodbye = Frame::GoAway(GoAway { code: GoAwayCode::Stop, reason: String::new() });
    wire.send(message(&mut ws, &goodbye.encode(0)));
    wire.read_to_end();
    gateway.wait(&[
        "event=tun_down",
        "level=INFO",
        "via=puppet",
        "streams=0",
        "late=2",
        "dgram_drop=0",
        "ws_ctl=1",
    ]);
    gateway.stop();
}

// proves S-07: who has proved itself and then breaks the protocol is one ERROR, and not one for each time that it comes back
#[test]
fn a_client_that_breaks_the_protocol_is_an_error_once() {
    let begun = Instant::now();
    let gateway = gateway(&[]);
    for instance in 0..3 {
        let (mut wire, mut ws) = puppet(gateway.addr("tunnel"), instance);
        wire.send(message(&mut ws, &[0xff; 100]));
        wire.read_to_end();
    }
    // By the WebSocket's rules as well, and an end without a word is none.
    let (mut wire, _) = puppet(gateway.addr("tunnel"), 3);
    wire.send(frame(0x81, 5, b"hello"));
    wire.read_to_end();
    drop(puppet(gateway.addr("tunnel"), 4));
    gateway.wait_nth(&["event=tun_down", "via=puppet"], 5);
    let errors = gateway.lines(&["level=ERROR"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(errors.len() as u64)), "{errors:?}");
    assert!(errors.iter().all(|line| line.contains(" event=tun_down ")), "{errors:?}");
    gateway.stop_but_for(&["event=tun_down"]);
}
