//! What has no business here, at every door: the right answer or none, and nobody else notices.

use std::net::SocketAddr;
use std::time::Instant;

use anyproxy::limits::{PRE_AUTH_PER_ADDRESS_MAX, TUNNEL_MESSAGE_BYTES};
use anyproxy::proto::frame::{AuthErrCode, Frame, GoAway, GoAwayCode, Hello, Network, Opened, ResetCode};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use linkbuffer::LinkBuffer;

use crate::support::{Ended, Origin, Peer, Program, Wire, gateway, gateway_that_says};

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
fn upgrade() -> String {
    let (mut ws, mut bytes) = (WebSocket::client("gateway", TUNNEL_PATH, [7; 32]), LinkBuffer::new());
    ws.poll_output(&mut bytes);
    let len = bytes.len();
    String::from_utf8(bytes.read_vec(len).expect("there are so many")).expect("heads are text")
}

/// Upgrades, proves itself if `up`, says something, and compares the close code; gives the frames that were said last.
#[track_caller]
fn check_closed(
    tunnel: SocketAddr,
    up: bool,
    name: &str,
    code: u16,
    words: impl FnOnce(&mut Peer),
) -> Vec<Frame> {
    let mut peer = Peer::client(tunnel);
    if up {
        peer = peer.up();
    }
    words(&mut peer);
    let farewell = peer.farewell();
    assert_eq!(farewell.code, Some(code), "{name}, up: {up}: {farewell:?}");
    farewell.frames
}

/// A frame of a WebSocket, with the mask 0, which changes nothing.
fn frame(masked: bool, first: u8, len: u64, body: &[u8]) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => vec![first, mask | len],
        (_, Ok(len)) => [&[first, mask | 126][..], &len.to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &len.to_be_bytes()].concat(),
    };
    if masked {
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes.extend_from_slice(body);
    bytes
}

/// What breaks the WebSocket, from the side that masks or from the other, and the close code for it.
pub(crate) fn broken_websockets(masked: bool) -> Vec<(&'static str, Vec<u8>, u16)> {
    let frame = |first, len, body: &[u8]| frame(masked, first, len, body);
    vec![
        ("text", frame(0x81, 5, b"hello"), 1003),
        ("oversize", frame(0x82, u64::MAX >> 1, b""), 1009),
        ("above the limit", frame(0x82, 1 << 24, &[0; 1000]), 1009),
        ("the wrong side's mask", self::frame(!masked, 0x82, 5, b"hello"), 1002),
        ("reserved bits", frame(0xf2, 5, b"hello"), 1002),
        ("a reserved kind", frame(0x83, 5, b"hello"), 1002),
        ("a continuation of nothing", frame(0x80, 5, b"hello"), 1002),
        ("a long ping", frame(0x89, 126, &[0; 126]), 1002),
        ("half a close", frame(0x88, 1, b"x"), 1002),
        ("a reason that is no text", frame(0x88, 4, &[3, 232, 0xff, 0xfe]), 1007),
        ("pings without end", frame(0x89, 0, b"").repeat(300), 1008),
    ]
}

/// What breaks the session whatever is expected of it, as the bytes of one message, and the close code for it.
pub(crate) fn broken_messages() -> Vec<(&'static str, Vec<u8>, u16)> {
    let data = Frame::Data(bytes::Bytes::from_static(b"hello"));
    vec![
        ("no frame of ours", vec![0xff; 100], 1002),
        ("a message of zeros", vec![0; TUNNEL_MESSAGE_BYTES], 1002),
        ("a flag", [6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8].to_vec(), 1002),
        ("a length that is only claimed", [8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff].to_vec(), 1009),
        ("half a frame", Frame::Ping(1).encode(0)[..15].to_vec(), 1002),
        ("DATA on no stream", data.encode(1).to_vec(), 1002),
        (
            "an answer to nothing",
            Frame::OpenOk { opened: Opened::default(), window: 1 }.encode(1).to_vec(),
            1002,
        ),
        ("a proof out of turn", Frame::AuthOk([0; 32]).encode(0).to_vec(), 1002),
    ]
}

#[track_caller]
fn is_protocol(name: &str, frames: &[Frame]) {
    let last = frames.last().unwrap_or_else(|| panic!("{name}: no frame"));
    assert!(matches!(last, Frame::GoAway(GoAway { code: GoAwayCode::Protocol, .. })), "{name}: {last:?}");
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

    let ask = upgrade();
    check(tunnel, ask.replace(TUNNEL_PATH, "/chat").as_bytes(), &[404], false);
    check(tunnel, ask.replace("Version: 13", "Version: 8").as_bytes(), &[400, 426], false);
    check(tunnel, ask.replace("GET ", "POST ").as_bytes(), &[400, 405], false);
    check(tunnel, ask.replace("websocket", "h2c").as_bytes(), &[400, 426], false);
    check(tunnel, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", &[400, 404, 426], false);

    for (name, bytes, code) in broken_websockets(true) {
        check_closed(tunnel, false, name, code, |peer| peer.raw(&bytes));
    }
    for (name, bytes, code) in broken_messages() {
        is_protocol(name, &check_closed(tunnel, false, name, code, |peer| peer.message(&bytes)));
    }
    let goaway = |code| Frame::GoAway(GoAway { code, reason: "x".into() });
    for (name, first) in [
        ("too early a PING", Frame::Ping(1)),
        ("a proof before hello", Frame::Auth([0; 32])),
        ("nothing new before hello", goaway(GoAwayCode::Drain)),
    ] {
        is_protocol(name, &check_closed(tunnel, false, name, 1002, |peer| peer.say(&[(first, 0)])));
    }
    check_closed(tunnel, false, "goodbye before hello", 1000, |peer| {
        peer.say(&[(goaway(GoAwayCode::Stop), 0)])
    });
    let hello = |version| {
        let hello = Hello {
            version_min: version,
            version_max: version,
            features: 0,
            instance: 1,
            generation: 1,
            streams_max: 1,
            nonce: [0; 32],
            group: String::new(),
            name: "stranger".into(),
        };
        (Frame::Hello(hello), 0)
    };
    for (name, frames, close, code) in [
        ("another version", &[hello(2)][..], 1002, AuthErrCode::Version),
        ("a wrong proof", &[hello(1), (Frame::Auth([0; 32]), 0)], 1008, AuthErrCode::Credentials),
    ] {
        let said = check_closed(tunnel, false, name, close, |peer| peer.say(frames));
        let last = said.last();
        let refused = matches!(last, Some(Frame::AuthErr(error)) if error.code == code && !error.retry);
        assert!(refused, "{name}: {last:?}");
    }
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
        let before = gateway.lines(&["event=refuse"]).len();
        strangers.extend((0..PRE_AUTH_PER_ADDRESS_MAX + 5).map(|_| Wire::connect(tunnel)));
        gateway.wait_nth(&["event=refuse"], before + 1);
    }
    gateway.wait(&TURNED_AWAY);
    let count = strangers.len();
    drop(strangers);
    gateway.wait(&["event=refuse", &format!("total={count}")]);
    gateway.wait_nth(&["event=refuse"], count);
    let aloud = gateway.lines(&["event=refuse", "level=INFO"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(aloud.len() as u64)), "{aloud:?}");
    assert_eq!(gateway.lines(&["event=refuse"]).len(), count);
    gateway.stop();
}

// Counters that nobody could read: the protocol says that late frames are counted (S-70: and a port of nobody is not closed).
#[test]
fn the_end_of_a_tunnel_says_what_was_odd_about_it() {
    let gateway = gateway(&[]);
    let mut peer = Peer::client(gateway.addr("tunnel")).up();
    peer.say(&[9, 10].map(|port| (Frame::PortClose { network: Network::Tcp, port }, 0)));
    // A PING of the WebSocket's own.
    peer.raw(&[0x89, 0x80, 0, 0, 0, 0]);
    peer.say(&[(Frame::GoAway(GoAway { code: GoAwayCode::Stop, reason: String::new() }), 0)]);
    peer.farewell();
    let counts = ["streams=0", "late=2", "dgram_drop=0", "ws_ctl=1"];
    gateway.wait(&[&["event=tun_down", "level=INFO", "via=peer"], &counts[..]].concat());
    gateway.stop();
}

// proves S-07: who has proved itself and then breaks the protocol is one ERROR, and not one for each time that it comes back
#[test]
fn a_client_that_breaks_the_protocol_is_an_error_once() {
    let begun = Instant::now();
    let gateway = gateway(&[]);
    let tunnel = gateway.addr("tunnel");
    for _ in 0..3 {
        let mut peer = Peer::client(tunnel).up();
        peer.message(&[0xff; 100]);
        peer.farewell();
    }
    // By the WebSocket's rules as well, and an end without a word is none.
    let mut peer = Peer::client(tunnel).up();
    peer.raw(&frame(true, 0x81, 5, b"hello"));
    peer.farewell();
    drop(Peer::client(tunnel).up());
    gateway.wait_nth(&["event=tun_down", "via=peer"], 5);
    let errors = gateway.lines(&["level=ERROR"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(errors.len() as u64)), "{errors:?}");
    assert!(errors.iter().all(|line| line.contains(" event=tun_down ")), "{errors:?}");
    // All of them are counted.
    gateway.wait(&["event=stats", "faults=4"]);
    gateway.stop_but_for(&["event=tun_down"]);
}

/// Frames for the stream of this number.
type FramesOn<'a> = &'a dyn Fn(u32) -> Vec<(Frame, u32)>;

/// A user that has asked for a target, and the number of the stream for it.
#[track_caller]
fn stream(http: SocketAddr, peer: &mut Peer) -> (Wire, u32) {
    let mut user = Wire::connect(http);
    user.send("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    let (_, id) = peer.until(|frame| matches!(frame, Frame::Open { .. }));
    (user, id)
}

// proves S-16, S-33, T11, T15, T16: who has proved itself and then breaks the protocol is told how, and takes nobody with it
#[test]
fn a_client_that_breaks_the_protocol_is_told_by_the_close_code() {
    let gateway = gateway(&[]);
    let echo = Origin::echo();
    let [http, tunnel] = ["http", "tunnel"].map(|name| gateway.addr(name));
    let mut sessions = 0;
    let mut closed = |name: &str, code: u16, words: &dyn Fn(&mut Peer)| {
        sessions += 1;
        let frames = check_closed(tunnel, true, name, code, words);
        gateway.wait_nth(&["event=tun_down"], sessions);
        frames
    };
    for (name, bytes, code) in broken_websockets(true) {
        closed(name, code, &|peer| peer.raw(&bytes));
    }
    for (name, bytes, code) in broken_messages() {
        is_protocol(name, &closed(name, code, &|peer| peer.message(&bytes)));
    }
    is_protocol("PINGs", &closed("PINGs", 1008, &|peer| peer.say(&vec![(Frame::Ping(1), 0); 200])));

    // On a stream: its user hears of it as well.
    let accept = |window| Frame::OpenOk { opened: Opened::default(), window };
    let cases: [(&str, FramesOn<'_>); 5] = [
        ("too much credit at first", &|id| vec![(accept(u32::MAX), id)]),
        ("too much credit", &|id| vec![(accept(1), id), (Frame::Window(u32::MAX), id)]),
        ("more than the window", &|id| {
            // What the kernel holds for a user that does not read is credit as well, as it comes.
            let piece = Frame::Data(vec![0; 16 << 10].into());
            [vec![(accept(1), id)], vec![(piece, id); 64 * 63]].concat()
        }),
        ("bytes before the answer", &|id| vec![(Frame::Data(vec![0; 1].into()), id)]),
        ("an end after the end", &|id| vec![(accept(1), id), (Frame::Fin, id), (Frame::Fin, id)]),
    ];
    for (name, frames) in cases {
        let mut users = Vec::new();
        let user = std::sync::Mutex::new(&mut users);
        let said = closed(name, 1002, &|peer| {
            let (wire, id) = stream(http, peer);
            user.lock().expect("no holder panics").push(wire);
            // A message has 1 MiB at most, and not all of them may be taken.
            frames(id).chunks(63).all(|frames| peer.try_say(frames));
        });
        is_protocol(name, &said);
        let mut wire = users.remove(0);
        // Who was only answered may ask again; who was reset is gone.
        wire.writer().shutdown(std::net::Shutdown::Write).ok();
        let heard = wire.read_to_end();
        let answer = String::from_utf8_lossy(&heard.0).into_owned();
        assert!(heard.1 == Ended::Reset || answer.starts_with("HTTP/1.1 502 "), "{name}: {heard:?}");
    }

    // A user that breaks off is told to the client by the code.
    let mut peer = Peer::client(tunnel).up();
    let (mut user, id) = stream(http, &mut peer);
    peer.say(&[(accept(1 << 20), id)]);
    assert_eq!(user.response("CONNECT").code, 200);
    user.reset();
    let told = peer.until(|frame| matches!(frame, Frame::Rst(_)));
    assert_eq!(told, (Frame::Rst(ResetCode::Reset), id));
    drop(peer);

    let client = gateway.client(&["--allow", "127.0.0.1"]);
    let mut user = Wire::http_connect(http, echo.addr());
    user.send("and yet");
    assert_eq!(user.take(7), b"and yet");
    drop(user);
    client.stop();
    gateway.stop_but_for(&["event=tun_down"]);
}
