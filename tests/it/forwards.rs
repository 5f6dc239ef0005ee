//! Ports that a client opens on the gateway.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use anyproxy::proto::frame::{Frame, Kind, Network, PortRequest};

use crate::statuses::FullBacklog;
use crate::support::{self, Ended, Origin, PATIENCE, Peer, Program, Wire, field, pattern};

/// A client that opens a port of the gateway's choice for `target`, and that port.
fn forward(gateway: &Program, target: SocketAddr, network: &str) -> (Program, SocketAddr) {
    let flag = format!("0:{target}{}", if network == "udp" { "/udp" } else { "" });
    let client = gateway.client(&["--allow", "127.0.0.1", "--forward", &flag]);
    let port = field(&client.wait(&["event=fwd_open"]), "actual").parse().expect("a port");
    (client, SocketAddr::from(([127, 0, 0, 1], port)))
}

#[test]
fn bytes_go_both_ways_and_each_direction_ends_for_itself() {
    let gateway = support::gateway(&[]);
    let echo = Origin::echo();
    let (client, port) = forward(&gateway, echo.addr(), "tcp");
    std::thread::scope(|scope| {
        for n in 0..10 {
            scope.spawn(move || {
                let mut wire = Wire::connect(port);
                let mut writer = wire.writer();
                let bytes = pattern(100_000 + n);
                let sending = bytes.clone();
                let sender = std::thread::spawn(move || {
                    std::io::Write::write_all(&mut writer, &sending)
                        .and_then(|()| writer.shutdown(std::net::Shutdown::Write))
                });
                let (came, ended) = wire.read_to_end();
                assert!(came == bytes, "{} bytes", came.len());
                assert_eq!(ended, Ended::Fin);
                sender.join().expect("no panic").expect("all is taken");
            });
        }
    });
    gateway.wait_nth(&["event=access", "proto=tcp", "in=forward", "end=--", "why=eof"], 10);
    client.stop();

    let (sink, ends) = mpsc::channel();
    let first = Origin::first_to_end(sink);
    let (client, port) = forward(&gateway, first.addr(), "tcp");
    let mut wire = Wire::connect(port);
    assert_eq!(wire.read_to_end(), (b"hello".to_vec(), Ended::Fin));
    wire.send("and yet");
    wire.finish();
    assert_eq!(ends.recv_timeout(PATIENCE), Ok((b"and yet".to_vec(), Ended::Fin)));
    gateway.wait(&["event=access", "proto=tcp", "up=7", "down=5", "end=--"]);
    client.stop();
    gateway.stop();
}

#[test]
fn a_break_on_one_side_is_a_break_on_the_other() {
    let gateway = support::gateway(&[]);
    let breaks = Origin::breaks(5);
    let (client, port) = forward(&gateway, breaks.addr(), "tcp");
    let mut wire = Wire::connect(port);
    wire.send("hello");
    assert_eq!(wire.read_to_end(), (vec![], Ended::Reset));
    gateway.wait(&["event=access", "end=SD", "why=rst"]);
    client.stop();

    let (sink, ends) = mpsc::channel();
    let welcoming = Origin::greets("welcome", sink);
    let (client, port) = forward(&gateway, welcoming.addr(), "tcp");
    let mut wire = Wire::connect(port);
    // From here on the break is one of an open stream, and not of a dial.
    assert_eq!(wire.take(7), b"welcome");
    wire.reset();
    assert_eq!(ends.recv_timeout(PATIENCE).expect("the target sees it").1, Ended::Reset);
    gateway.wait(&["event=access", "end=CD", "why=rst"]);
    client.stop();
    gateway.stop();
}

#[test]
fn a_target_that_refuses_is_a_break_for_the_user() {
    let gateway = support::gateway(&[]);
    let (_held, addr) = crate::statuses::refusing();
    let (client, port) = forward(&gateway, addr, "tcp");
    let mut wire = Wire::connect(port);
    assert_eq!(wire.read_to_end(), (vec![], Ended::Reset));
    gateway.wait(&["event=access", "proto=tcp", "end=SC", "why=refused"]);
    client.stop();
    gateway.stop();
}

// proves S-63, S-24: nothing happens for a while, and then both directions still work
#[test]
fn a_quiet_connection_stays() {
    let quiet = Duration::from_secs(if support::full() { 35 } else { 1 });
    let gateway = support::gateway(&[]);
    let echo = Origin::echo();
    let (client, port) = forward(&gateway, echo.addr(), "tcp");
    let mut wire = Wire::connect(port);
    for _ in 0..2 {
        wire.send("still there?");
        assert_eq!(wire.take(12), b"still there?");
        // The silence is what is tested.
        std::thread::sleep(quiet);
    }
    wire.finish();
    assert_eq!(wire.read_to_end(), (vec![], Ended::Fin));
    assert_eq!(gateway.lines(&["event=tun_down"]).len(), 0);
    client.stop();
    gateway.stop();
}

// proves S-56
#[test]
fn when_its_client_goes_a_port_is_free_and_its_connections_are_closed() {
    for signal in ["TERM", "KILL"] {
        let gateway = support::gateway(&[]);
        let echo = Origin::echo();
        let (mut client, port) = forward(&gateway, echo.addr(), "tcp");
        let mut wire = Wire::connect(port);
        wire.send("hello");
        assert_eq!(wire.take(5), b"hello");
        client.signal(signal);
        client.ended();
        assert_eq!(wire.read_to_end().0, b"");
        gateway.wait(&["event=fwd_close"]);
        drop(TcpListener::bind(port).unwrap_or_else(|error| panic!("after {signal}: {port}: {error}")));
        gateway.wait(&["event=access", "proto=tcp", "up=5", "down=5"]);
        gateway.stop_but_for(&["event=tun_down", "event=group_empty"]);
    }
}

// proves S-69, S-70: refused with a reason, the owner unaffected; and the port goes to the next when it is free
#[test]
fn a_port_has_one_owner() {
    let gateway = support::gateway(&[]);
    let echo = Origin::echo();
    let (owner, port) = forward(&gateway, echo.addr(), "tcp");
    let mut before = Wire::connect(port);
    let flag = format!("{}:{}", port.port(), echo.addr());
    let second = gateway.client(&["--allow", "127.0.0.1", "--forward", &flag]);
    let refused = second.wait(&["event=fwd_fail", &format!("port={}", port.port())]);
    assert!(refused.contains("in use"), "it says why: {refused}");
    // Connections of before and of now go to the owner's target.
    before.send("hello");
    assert_eq!(before.take(5), b"hello");
    let mut after = Wire::connect(port);
    after.send("hello");
    assert_eq!(after.take(5), b"hello");
    drop((before, after));
    gateway.wait_nth(&["event=access", "end=--"], 2);
    owner.stop();
    second.wait(&["event=fwd_open"]);
    let mut wire = Wire::connect(port);
    wire.send("hello");
    assert_eq!(wire.take(5), b"hello");
    drop(wire);
    gateway.wait_nth(&["event=access", "end=--"], 3);
    second.stop_but_for(&["event=fwd_fail"]);
    gateway.stop();
}

/// Answers each datagram with the same bytes behind `re: `, until the test's end.
pub(crate) fn udp_target() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let addr = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let answer = [b"re: ", &buffer[..len]].concat();
            // Too long for a datagram with those four bytes more: no answer then.
            socket.send_to(&answer, from).ok();
        }
    });
    addr
}

/// Asks once and waits for the answer to it.
#[track_caller]
pub(crate) fn ask(user: &UdpSocket, port: SocketAddr, question: &[u8]) {
    user.set_read_timeout(Some(PATIENCE)).expect("not zero");
    user.send_to(question, port).expect("loopback takes it");
    let mut buffer = vec![0; 70_000];
    let (len, from) = user.recv_from(&mut buffer).expect("an answer comes");
    assert_eq!(from, port);
    assert!(buffer[..len] == [b"re: ", question].concat(), "{len} bytes");
}

#[test]
fn datagrams_are_answered_and_each_user_gets_its_own_answers_alone() {
    let gateway = support::gateway(&[]);
    let (client, port) = forward(&gateway, udp_target(), "udp");
    std::thread::scope(|scope| {
        for user in 0..4u8 {
            scope.spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
                for n in 0..100u8 {
                    ask(&socket, port, &[user, n]);
                }
                for len in [0, 1, 1_000, 1_025, 20_000, 60_000] {
                    ask(&socket, port, &vec![user; len]);
                }
            });
        }
    });
    client.stop();
    gateway.wait(&["event=fwd_close", "net=udp"]);
    gateway.wait_nth(&["event=access", "proto=udp", "in=forward", "up=82226", "down=82650"], 4);
    drop(UdpSocket::bind(port).expect("the port is free again"));
    gateway.stop();
}

// proves S-72
#[test]
fn tcp_and_udp_may_share_a_number() {
    let gateway = support::gateway(&[]);
    let echo = Origin::echo();
    let (one, port) = forward(&gateway, echo.addr(), "tcp");
    let flag = format!("{}:{}/udp", port.port(), udp_target());
    let two = gateway.client(&["--allow", "127.0.0.1", "--forward", &flag]);
    assert_eq!(field(&two.wait(&["event=fwd_open"]), "actual"), port.port().to_string());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    ask(&socket, port, b"question");
    let mut wire = Wire::connect(port);
    wire.send("hello");
    assert_eq!(wire.take(5), b"hello");
    drop(wire);
    gateway.wait(&["event=access", "proto=tcp", "end=--"]);
    one.stop();
    // The other one's port is no business of the first.
    ask(&socket, port, b"again");
    two.stop();
    gateway.stop();
}

// proves S-71: a forward to what the client's own rules forbid is a fault of its command line
#[test]
fn a_forward_that_the_rules_forbid_is_said_at_the_start() {
    let gateway = support::gateway(&[]);
    let mut client = gateway.client_unready(&["--forward", "0:127.0.0.1:9"]);
    assert_eq!(client.ended().code(), Some(2));
    let lines = client.lines(&[]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("add --allow 127.0.0.1:9"), "{lines:?}");
    gateway.stop();
}

// proves S-70: who names a port that is another's, by whichever number, closes its own or none
#[test]
fn only_its_owner_closes_a_port() {
    let gateway = support::gateway(&[]);
    let echo = Origin::echo();
    let (owner, port) = forward(&gateway, echo.addr(), "tcp");
    let udp = format!("0:{}/udp", udp_target());
    let more = gateway.client(&["--allow", "127.0.0.1", "--forward", &udp]);
    let actual = field(&more.wait(&["event=fwd_open"]), "actual").parse().expect("a port");
    let udp = SocketAddr::from(([127, 0, 0, 1], actual));
    let mut before = Wire::connect(port);
    before.send("hello");
    assert_eq!(before.take(5), b"hello");

    let mut other = Peer::client(gateway.addr("tunnel")).up();
    // Its own has the same name as the other two: any port.
    let any = PortRequest { network: Network::Tcp, port: 0, host: "h".into(), target_port: 80 };
    other.say(&[(Frame::PortOpen(any), 0)]);
    let (own, _) = other.until(|frame| frame.kind() == Kind::PortOk);
    let Frame::PortOk { actual: own, .. } = own else { panic!("{own:?}") };
    let close = |network, port| (Frame::PortClose { network, port }, 0);
    let named = [Network::Tcp, Network::Udp]
        .map(|network| [port.port(), udp.port(), 0].map(|port| close(network, port)))
        .concat();
    other.say(&named);
    other.say(&[(Frame::Ping(77), 0)]);
    other.until(|frame| *frame == Frame::Pong(77));
    gateway.wait(&["event=fwd_close", &format!("addr=127.0.0.1:{own}")]);

    assert_eq!(gateway.lines(&["event=fwd_close"]).len(), 1, "its own and no other");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    ask(&socket, udp, b"question");
    for wire in [&mut before, &mut Wire::connect(port)] {
        wire.send("again");
        assert_eq!(wire.take(5), b"again");
    }
    drop((before, other));
    gateway.wait(&["event=tun_down", "via=peer"]);
    owner.stop();
    more.stop();
    gateway.stop_but_for(&["event=tun_down"]);
}

// proves S-71: where a name leads is looked at when somebody wants to go there, for ports as for proxies
#[test]
fn a_forwarded_name_that_leads_where_the_rules_forbid_is_a_break_for_the_user() {
    let gateway = support::gateway(&[]);
    let origin = Origin::new(|_| panic!("it is not to be reached"));
    let asked = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let udp = asked.local_addr().expect("it is bound").port();
    let flags = [format!("0:localhost:{}", origin.addr().port()), format!("0:localhost:{udp}/udp")];
    let client = gateway.client(&["--forward", &flags[0], "--forward", &flags[1]]);
    let port = |net: &str| {
        let actual = field(&client.wait(&["event=fwd_open", &format!("net={net}")]), "actual").parse();
        SocketAddr::from(([127, 0, 0, 1], actual.expect("a port")))
    };
    let mut wire = Wire::connect(port("tcp"));
    assert_eq!(wire.read_to_end(), (vec![], Ended::Reset));
    gateway.wait(&["event=access", "proto=tcp", "in=forward", "end=PC", "why=acl"]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.send_to(b"question", port("udp")).expect("loopback takes it");
    gateway.wait(&["event=access", "proto=udp", "in=forward", "end=PC", "why=acl"]);
    asked.set_nonblocking(true).expect("it is a socket");
    assert!(asked.recv(&mut [0; 100]).is_err(), "nothing got there");
    assert_eq!(origin.accepted(), 0);
    client.stop();
    gateway.stop_but_for(&["rules forbid"]);
}

// proves S-49, S-65: a forwarded port waits for its target as long as a proxy does
#[test]
fn a_forwarded_target_that_does_not_answer_is_given_up() {
    let full = FullBacklog::new();
    let gateway = support::gateway(&[]);
    let flag = format!("0:{}", full.addr);
    let client = gateway.client(&["--allow", "127.0.0.1", "--connect-timeout", "500ms", "--forward", &flag]);
    let port: u16 = field(&client.wait(&["event=fwd_open"]), "actual").parse().expect("a port");
    let mut wire = Wire::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(wire.read_to_end(), (vec![], Ended::Reset));
    gateway.wait(&["event=access", "proto=tcp", "in=forward", "end=sC", "why=timeout"]);
    client.stop();
    gateway.stop();
}
