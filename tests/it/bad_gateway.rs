//! A gateway that does not keep to the protocol, before the real client: it is told so by the close code, said in the log, and
//! tried again.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyproxy::limits::TUNNELS_LEFT_MAX;
use anyproxy::proto::frame::{
    AuthErr, AuthErrCode, Frame, GoAway, GoAwayCode, Kind, Network, OpenRequest, PortError, PortRequest,
    Welcome,
};

use crate::garbage::{broken_messages, broken_websockets};
use crate::support::{Origin, Peer, Program, Wire, until};

/// Where the log says that no tunnel came of it, and waiting may help; that it did not and somebody has to mend it; that one is lost.
const AGAIN: &str = "event=connect";
const FOR_GOOD: &str = "event=tun_auth_fail";
const LOST: &str = "event=tun_down";

/// A gateway, from its listener on; where it still has the connection then, it is told of the end.
type Does = Box<dyn FnOnce(&TcpListener) -> Option<Peer> + Send>;

/// What one gateway does to the first connection of a client of its own, and what that makes of it.
struct Case {
    name: String,
    does: Does,
    /// The close code that the gateway is told, where it comes to that.
    code: Option<u16>,
    /// The kind of line that says so, and words of it.
    event: &'static str,
    says: &'static str,
}

fn case(
    name: impl Into<String>,
    code: u16,
    event: &'static str,
    says: &'static str,
    does: impl FnOnce(&TcpListener) -> Peer + Send + 'static,
) -> Case {
    let does = Box::new(|listener: &TcpListener| Some(does(listener)));
    Case { name: name.into(), does, code: Some(code), event, says }
}

impl Case {
    /// Gives the client's log.
    fn check(self) -> Vec<String> {
        let Case { name, does, code, event, says } = self;
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
        let client = Program::start(&["client", "--gateway", &url, "--allow", "127.0.0.1"]);
        if let Some(peer) = does(&listener) {
            let farewell = peer.farewell();
            assert_eq!(farewell.code, code, "{name}: {farewell:?}");
        }
        // It comes back, and is as good as new.
        let echo = Origin::echo();
        let mut peer = Peer::gateway(&listener).up();
        client.wait_nth(&["event=tun_up"], if event == LOST { 2 } else { 1 });
        let id = opened(&mut peer, echo.addr().port());
        peer.say(&[(Frame::Data(bytes::Bytes::from_static(b"hello")), id)]);
        let (frame, _) = peer.until(|frame| matches!(frame, Frame::Data(_)));
        assert_eq!(frame, Frame::Data(bytes::Bytes::from_static(b"hello")), "{name}");
        peer.say(&[(Frame::Fin, id)]);
        peer.until(|frame| matches!(frame, Frame::Fin));
        let lines = client.stop_but_for(&[event]);
        let stop = lines.iter().position(|line| line.contains(" event=stop ")).expect("it was stopped");
        let is_said = |line: &&String| line.contains(event) && line.contains(says);
        let said: Vec<_> = lines[..stop].iter().filter(is_said).collect();
        assert_eq!(said.len(), 1, "{name}: {}", lines.join("\n"));
        lines
    }
}

/// All at once: most of it is waiting.
fn check_all(cases: Vec<Case>) {
    std::thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(|| case.check())).collect();
        for one in running {
            one.join().expect("it shows what is wrong");
        }
    });
}

/// Opens the first stream of a tunnel to this port here, and waits until it is there.
fn opened(peer: &mut Peer, port: u16) -> u32 {
    let request =
        OpenRequest { network: Network::Tcp, host: "127.0.0.1".into(), port, conn_id: 1, user_addr: None };
    peer.say(&[(Frame::Open { request, window: 1 << 20 }, 1)]);
    peer.until(|frame| frame.kind() == Kind::OpenOk).1
}

// proves S-16, S-26, S-57: what comes instead of an upgrade
#[test]
fn what_is_no_gateway_is_tried_again() {
    let answer = |name: &str, answer: &'static str, says: &'static str| Case {
        name: name.into(),
        does: Box::new(move |listener| {
            let mut wire = Wire::accept(listener);
            wire.head();
            wire.send(answer);
            wire.read_to_end();
            None
        }),
        code: None,
        event: AGAIN,
        says,
    };
    check_all(vec![
        answer(
            "a page",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            "answered 200 and not 101; is that its port for tunnels?",
        ),
        answer("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n", "bad upgrade: the answer is not HTTP"),
        answer("101 of something else", "HTTP/1.1 101 X\r\n\r\n", "bad upgrade"),
        answer(
            "another key's answer",
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "the answer is to another key",
        ),
        Case {
            name: "junk of any length".into(),
            does: Box::new(|listener| {
                let mut wire = Wire::accept(listener);
                wire.head();
                // It may have had enough.
                wire.writer().write_all(&[0xa5; 1 << 20]).ok();
                wire.read_to_end();
                None
            }),
            code: None,
            event: AGAIN,
            says: "bad upgrade",
        },
    ]);
}

// proves S-16, S-26, S-57, T11: a gateway that breaks the protocol before it has proved itself
#[test]
fn a_gateway_that_breaks_the_handshake_is_told_and_tried_again() {
    let mut cases = Vec::new();
    for (name, bytes, code) in broken_websockets(false) {
        cases.push(case(name, code, AGAIN, "", move |listener| {
            let mut peer = Peer::gateway(listener);
            peer.raw(&bytes);
            peer
        }));
    }
    for (name, bytes, code) in broken_messages() {
        cases.push(case(name, code, AGAIN, "", move |listener| {
            let mut peer = Peer::gateway(listener);
            peer.message(&bytes);
            peer
        }));
    }
    let welcome =
        |version| Welcome { version, features: 0, session_id: 1, ports_max: 1, nonce: [0; 32], recipe: None };
    let says = |frames: Vec<Frame>| {
        move |listener: &TcpListener| {
            let mut peer = Peer::gateway(listener);
            peer.until(|frame| frame.kind() == Kind::Hello);
            for frame in frames {
                peer.say(&[(frame, 0)]);
            }
            peer
        }
    };
    let goaway = |code| Frame::GoAway(GoAway { code, reason: "why".into() });
    let auth_err = |retry, code| Frame::AuthErr(AuthErr { retry, code, reason: "no room".into() });
    let proof = Frame::AuthOk([0; 32]);
    cases.extend([
        case(
            "another version",
            1002,
            FOR_GOOD,
            "the peer speaks versions 2 to 2",
            says(vec![Frame::Welcome(welcome(2))]),
        ),
        case(
            "no proof at all",
            1008,
            FOR_GOOD,
            "secret is wrong",
            says(vec![Frame::Welcome(welcome(1)), proof]),
        ),
        case("two welcomes", 1002, AGAIN, "Welcome frame", says(vec![Frame::Welcome(welcome(1)); 2])),
        case("nothing new", 1002, AGAIN, "GoAway frame", says(vec![goaway(GoAwayCode::Drain)])),
        case("a goodbye", 1000, AGAIN, "closed by the peer: Stop: why", says(vec![goaway(GoAwayCode::Stop)])),
        case("a refusal", 1008, AGAIN, "no room", says(vec![auth_err(true, AuthErrCode::Limit)])),
        case("for good", 1008, FOR_GOOD, "no room", says(vec![auth_err(false, AuthErrCode::Credentials)])),
    ]);
    check_all(cases);
}

// proves S-16, S-26, S-57, T11, T15, T16: and after it has
#[test]
fn a_gateway_that_breaks_the_protocol_is_told_and_tried_again() {
    let mut cases = Vec::new();
    for (name, bytes, code) in broken_websockets(false) {
        cases.push(case(name, code, LOST, "", move |listener| {
            let mut peer = Peer::gateway(listener).up();
            peer.raw(&bytes);
            peer
        }));
    }
    for (name, bytes, code) in broken_messages() {
        cases.push(case(name, code, LOST, "", move |listener| {
            let mut peer = Peer::gateway(listener).up();
            peer.message(&bytes);
            peer
        }));
    }
    let says = |frame: Frame, stream: u32| {
        move |listener: &TcpListener| {
            let mut peer = Peer::gateway(listener).up();
            peer.say(&[(frame, stream)]);
            peer
        }
    };
    let request = PortRequest { network: Network::Tcp, port: 80, host: "h".into(), target_port: 80 };
    let port = Frame::PortOk { network: Network::Tcp, port: 80, actual: 80 };
    cases.extend([
        case("a port that nobody asked for", 1002, LOST, "PortOk frame", says(port, 0)),
        case("a port of its own", 1002, LOST, "PortOpen frame", says(Frame::PortOpen(request), 0)),
    ]);
    // On a stream that is there, with a target that is there.
    let on_stream = |name: &str, says: &'static str, frames: Vec<Frame>| {
        case(name, 1002, LOST, says, move |listener| {
            let echo = Origin::echo();
            let mut peer = Peer::gateway(listener).up();
            let id = opened(&mut peer, echo.addr().port());
            peer.say(&frames.into_iter().map(|frame| (frame, id)).collect::<Vec<_>>());
            peer
        })
    };
    cases.extend([
        on_stream("too much credit", "more credit on stream 1", vec![Frame::Window(u32::MAX)]),
        on_stream("no credit", "nothing in it", vec![Frame::Window(0)]),
        on_stream(
            "a second answer",
            "OpenErr frame",
            vec![Frame::OpenErr {
                code: anyproxy::proto::frame::RefuseCode::Refused,
                resolve_us: 0,
                connect_us: 0,
            }],
        ),
        on_stream("a datagram", "Dgram frame", vec![Frame::Dgram(bytes::Bytes::new())]),
        on_stream("an end after the end", "after its FIN", vec![Frame::Fin, Frame::Fin]),
    ]);
    cases.push(case("more than the window", 1002, LOST, "than its window allows", |listener| {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let deaf = Origin::new(move |_wire| {
            held.lock().expect("one at a time").recv().ok();
        });
        let mut peer = Peer::gateway(listener).up();
        let id = opened(&mut peer, deaf.addr().port());
        let piece = (Frame::Data(vec![0; 16 << 10].into()), id);
        // What the kernel holds for a target is credit as well.
        let all = (0..64).all(|_| peer.try_say(&vec![piece.clone(); 63]));
        assert!(!all, "nobody takes 64 MiB");
        drop(release);
        peer
    }));
    check_all(cases);
}

// proves S-06: a tunnel whose connection just ends is no error, on either end
#[test]
fn a_tunnel_that_ends_without_a_word_is_no_error() {
    let client = Case {
        name: "the gateway hangs up".into(),
        does: Box::new(|listener| {
            let mut peer = Peer::gateway(listener).up();
            peer.hang_up();
            peer.farewell();
            None
        }),
        code: None,
        event: LOST,
        says: "the connection ended without a close",
    };
    let is_error = |line: &String| line.contains(" level=ERROR ");
    let lines = client.check();
    assert!(!lines.iter().any(is_error), "{lines:?}");

    let gateway = crate::support::gateway(&[]);
    let mut peer = Peer::client(gateway.addr("tunnel")).up();
    peer.hang_up();
    peer.farewell();
    let line = gateway.wait(&[LOST]);
    assert!(line.contains("the connection ended without a close"), "{line}");
    let lines = gateway.stop_but_for(&[LOST]);
    assert!(!lines.iter().any(is_error), "{lines:?}");
}

// proves S-34, S-43: what waits for a gateway that reads nothing keeps a client that stops until the deadline, and no longer
#[test]
fn a_client_stops_though_its_gateway_reads_nothing() {
    let sent = Arc::new(AtomicU64::new(0));
    let counts = sent.clone();
    let flood = Origin::new(move |mut wire| {
        while wire.try_send([0; 4096]).is_ok() {
            counts.fetch_add(1, Ordering::SeqCst);
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    // Little, so that a gateway that does not read is felt soon.
    socket2::SockRef::from(&listener).set_recv_buffer_size(4 << 10).expect("any size is taken");
    let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
    let mut client = Program::start(&["client", "--gateway", &url, "--allow", "127.0.0.1"]);
    let mut peer = Peer::gateway(&listener).up();
    opened(&mut peer, flood.addr().port());
    // The socket is full, and all that may wait before it waits.
    let (mut last, mut quiet) = (0, 0);
    until("the target is held back", || {
        std::thread::sleep(Duration::from_millis(10));
        let sent = sent.load(Ordering::SeqCst);
        quiet = if sent > 0 && sent == last { quiet + 1 } else { 0 };
        last = sent;
        quiet == 20
    });
    client.signal("TERM");
    assert_eq!(client.ended().code(), Some(0));
    // Long before the gateway would have been given up for not reading.
    let down = client.wait(&["event=tun_down"]);
    assert!(down.contains(" level=INFO ") && !down.contains("takes nothing"), "{down}");
    drop(peer);
}

// proves S-44: the end of a stream that ended in time is not lost over what the client is told while it leaves
#[test]
fn a_client_that_stops_is_heard_to_its_end() {
    const SIZE: usize = 240_000;
    // Whether the last of it is with the client's system when the gateway speaks is for the system to say.
    for _ in 0..8 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        // So that the last of it is with the client's system when the client has said everything.
        socket2::SockRef::from(&listener).set_recv_buffer_size(16 << 10).expect("any size is taken");
        let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
        let mut client = Program::start(&["client", "--gateway", &url, "--allow", "127.0.0.1"]);
        let mut peer = Peer::gateway(&listener).up();
        let target = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let stream = opened(&mut peer, target.local_addr().expect("it is bound").port());
        peer.say(&[(Frame::Fin, stream)]);
        let mut target = Wire::accept(&target);
        client.signal("TERM");
        peer.until(|frame| frame.kind() == Kind::GoAway);
        target.send(vec![b'x'; SIZE]);
        drop(target);
        let mut received = 0;
        loop {
            match peer.next().expect("it says how it ends").0 {
                Frame::Data(bytes) => {
                    received += bytes.len();
                    // Behind that the WebSocket may have come to its end.
                    if received > SIZE * 3 / 4 {
                        continue;
                    }
                    peer.say(&[(Frame::Window(bytes.len() as u32), stream)]);
                }
                Frame::Fin => break,
                frame => assert!(matches!(frame, Frame::Stop(_) | Frame::Window(_)), "{frame:?}"),
            }
        }
        assert_eq!(received, SIZE);
        let farewell = peer.farewell();
        assert_eq!(farewell.code, Some(1001), "{farewell:?}");
        assert_eq!(client.ended().code(), Some(0));
    }
}

// Each time that it leaves it has a successor, and what it leaves behind it keeps. All tunnels of a client can be left behind at once.
#[test]
fn tunnels_of_a_gateway_that_leaves_again_and_again_have_an_end() {
    for replicas in [1, TUNNELS_LEFT_MAX + 3] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
        let replica_count = replicas.to_string();
        let client = Program::start(&[
            "client",
            "--gateway",
            &url,
            "--allow",
            "127.0.0.1",
            "--replicas",
            &replica_count,
        ]);
        // The client knows of it, so that it has the same order of them.
        let up = || {
            let mut peer = Peer::gateway(&listener).up();
            answers(&mut peer);
            peer
        };
        let leaves = |_| {
            let mut peer = up();
            leave(&mut peer);
            answers(&mut peer);
            peer
        };
        let mut left: Vec<Peer> = (0..=replicas.max(TUNNELS_LEFT_MAX)).map(leaves).collect();
        let mut last = up();
        let farewell = left.remove(0).farewell();
        assert_eq!(farewell.code, Some(1001), "{farewell:?}");
        left.iter_mut().for_each(answers);
        let echo = Origin::echo();
        opened(&mut last, echo.addr().port());
        drop((left, last));
        client.stop_but_for(&[LOST, AGAIN]);
    }
}

// A port is asked for by another tunnel whose gateway stops as well: what it says to that is nothing that anybody could mend.
#[test]
fn a_port_is_not_asked_for_again_where_the_gateway_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
    let args = [
        "client",
        "--gateway",
        &url,
        "--allow",
        "127.0.0.1",
        "--replicas",
        "2",
        "--forward",
        "7:127.0.0.1:9",
    ];
    let client = Program::start(&args);
    let is_asked = |frame: &Frame| frame.kind() == Kind::PortOpen;
    let mut first = Peer::gateway(&listener).up();
    first.until(is_asked);
    let mut second = Peer::gateway(&listener).up();
    answers(&mut second);
    leave(&mut first);
    second.until(is_asked);
    leave(&mut second);
    let refusal = Frame::PortErr { network: Network::Tcp, port: 7, error: PortError::Failed };
    for peer in [&mut first, &mut second] {
        peer.say(&[(refusal.clone(), 0)]);
        answers(peer);
    }
    assert_eq!(client.lines(&["event=fwd_fail"]), Vec::<String>::new());
    drop((first, second));
    client.stop_but_for(&[LOST, AGAIN]);
}

/// Says that this gateway wants no new streams.
fn leave(peer: &mut Peer) {
    peer.say(&[(Frame::GoAway(GoAway { code: GoAwayCode::Drain, reason: String::new() }), 0)]);
}

/// Whether the tunnel is still there.
fn answers(peer: &mut Peer) {
    peer.say(&[(Frame::Ping(7), 0)]);
    peer.until(|frame| *frame == Frame::Pong(7));
}
