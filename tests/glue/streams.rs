//! The ends of streams: what each side sees of the other's, and what is written down.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::time::Duration;

use anyproxy::limits::{UDP_EARLY_MAX, UDP_FLOWS_MAX, WINDOW_INITIAL_BYTES};
use anyproxy::proto::frame::{Network, Opened, PortRequest, RefuseCode, ResetCode};
use anyproxy::proto::session::Event;
use poller::EventLoop;
use socket2::{Domain, Socket, Type};

use crate::support::*;

// proves S-16: a client that cannot dial says so, and the user gets an answer
#[test]
fn a_dial_that_cannot_even_begin_is_answered() {
    let world = World::new();
    // Room for the tunnel alone.
    let clients = EventLoop::builder().polls(1).connections_max(1).build().unwrap();
    world.client(&clients, Vec::new());
    let (_listener, addr) = listen();
    let mut user = world.connect(addr);
    assert!(head(&mut user).starts_with("HTTP/1.1 503 "));
    assert_eq!(value(&world.lines.first(), "end"), "RQ");
}

/// An address at which SYNs are not answered, and what keeps it so.
pub(crate) fn silent_address() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&localhost().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut kept = vec![listener];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        // In progress, or established: it fills the backlog either way.
        filler.connect(&addr.into()).ok();
        kept.push(filler);
    }
    (addr, kept)
}

// proves S-17, T15: opening and leaving in a loop leaves no dials behind
#[test]
fn a_user_who_leaves_takes_the_dial_along() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (addr, _kept) = silent_address();
    let user = world.connect(addr);
    until("the dial", || clients.connections() == 2);
    reset(user);
    until("the dial's end", || clients.connections() == 1);
    assert_eq!(value(&world.lines.first(), "end"), "CC");
}

// proves S-09: a reset is passed on as one, so that half an upload is not taken for all of it
#[test]
fn the_target_of_a_user_who_resets_sees_a_reset() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    let mut user = world.connected(addr);
    let mut target = accept(&listener);
    user.write_all(b"half").unwrap();
    let mut half = [0; 4];
    target.read_exact(&mut half).unwrap();
    reset(user);
    assert_eq!(target.read(&mut half).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let line = world.lines.first();
    assert_eq!((value(&line, "end"), value(&line, "why"), value(&line, "up")), ("CD", "rst", "4"));
}

// proves S-09: nor is what a user had said before the target's answer, when it breaks off, an empty stream that ended in order
#[test]
fn a_user_who_resets_while_the_target_is_reached_resets_the_stream() {
    let world = World::new();
    let mut client = Puppet::new(&world, 1, 1);
    let port = listen().1.port();
    let request = PortRequest { network: Network::Tcp, port, host: "127.0.0.1".into(), target_port: 1 };
    client.session.request_port(request).unwrap();
    assert_eq!(client.next(), Event::PortOpened { network: Network::Tcp, port, actual: port });
    let doors: [(SocketAddr, &[u8]); 3] = [
        (world.gateway.http_addr(), b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nearly words"),
        (world.gateway.socks_addr().unwrap(), b"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x01early words"),
        (([127, 0, 0, 1], port).into(), b"early words"),
    ];
    for (door, words) in doors {
        let mut user = dial(door);
        user.write_all(words).unwrap();
        let Event::Opened(id, _) = client.next() else { panic!("a stream is asked for") };
        reset(user);
        assert_eq!(client.next(), Event::Reset(id, ResetCode::Reset), "{door}");
        assert_eq!(client.next(), Event::Closed(id));
    }
}

// proves T16: the sum of the windows has a limit for the process, also one that is gateway and client at once
#[test]
fn both_ends_in_one_process_share_its_budget_of_windows() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    assert_eq!(world.windows.used(), 0);
    let users = [world.connected(addr), world.connected(addr)];
    let targets = [accept(&listener), accept(&listener)];
    assert_eq!(
        world.windows.used(),
        4 * u64::from(WINDOW_INITIAL_BYTES),
        "a first window for each end of each"
    );
    drop((users, targets));
    until("all of it back", || world.windows.used() == 0);
}

// proves S-05, S-58: who writes to a user that has gone finds a user's reset, not a fault of ours
#[test]
fn a_send_that_fails_is_the_users_reset() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    for turn in 0..8 {
        let mut user = world.connected(addr);
        let mut target = accept(&listener);
        let flood = std::thread::spawn(move || while target.write_all(&[7; 64 << 10]).is_ok() {});
        let mut some = [0; 32 << 10];
        user.read_exact(&mut some).unwrap();
        reset(user);
        flood.join().unwrap();
        until("the line", || world.lines.all().len() > turn);
    }
    for line in world.lines.all() {
        assert_eq!(value(&line, "end"), "CD", "{line}");
    }
}

// proves L-22 for relays: the target ends first, the user has said all, and some of it still waits for the window
#[test]
fn what_a_user_sent_before_its_end_arrives_after_the_targets_end() {
    const BYTES: usize = 2 << 20;
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    let mut user = dial(world.gateway.http_addr());
    // Everything behind the request at once, so that it waits in the gateway when the target answers.
    let mut all = format!("CONNECT {addr} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    all.resize(all.len() + BYTES, b'x');
    let sender = {
        let mut user = user.try_clone().unwrap();
        std::thread::spawn(move || {
            user.write_all(&all).unwrap();
            user.shutdown(Shutdown::Write).unwrap();
        })
    };
    let mut target = accept(&listener);
    target.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut got = 0;
    let mut some = vec![0; 64 << 10];
    loop {
        match target.read(&mut some).unwrap() {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, BYTES);
    sender.join().unwrap();
    head(&mut user);
    assert_eq!(user.read(&mut some).unwrap(), 0);
    let line = world.lines.first();
    assert_eq!((value(&line, "end"), value(&line, "up")), ("--", "2097152"));
}

/// What one SOCKS5 user's words come to in the access log.
#[track_caller]
fn check_socks(words: &[u8], want: Option<(&str, &str, &str)>) {
    let world = World::with_users();
    let mut user = dial(world.gateway.socks_addr().unwrap());
    user.write_all(words).unwrap();
    user.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    user.read_to_end(&mut answer).unwrap();
    drop(user);
    until("the user's end", || world.gateway_loop.connections() == 0);
    match want {
        Some(want) => {
            let line = world.lines.first();
            assert_eq!((value(&line, "code"), value(&line, "end"), value(&line, "why")), want);
        }
        None => {
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(world.lines.all(), [""; 0]);
        }
    }
}

#[test]
fn socks_handshakes_that_come_to_nothing_are_written_down_in_the_words_of_the_log() {
    // A health check made no stream.
    check_socks(b"", None);
    check_socks(b"\x05", Some(("-", "CR", "eof")));
    check_socks(b"\x04\x01", Some(("-", "PR", "bad_request")));
    check_socks(b"\x05\x01\x00", Some(("-", "PA", "no_method")));
    check_socks(b"\x05\x01\x02\x01\x01g\x05wrong", Some(("-", "PA", "auth")));
    check_socks(
        b"\x05\x01\x02\x01\x01g\x06secret\x05\x02\x00\x01\0\0\0\0\0\0",
        Some(("7", "PR", "bad_command")),
    );
}

// Of a UDP flow, only what went into the tunnel went up.
#[test]
fn datagrams_that_were_dropped_are_not_counted() {
    let world = World::new();
    let mut puppet = Puppet::new(&world, 1, 1);
    let request = PortRequest { network: Network::Udp, port: 0, host: "127.0.0.1".into(), target_port: 1 };
    puppet.session.request_port(request).unwrap();
    let Event::PortOpened { actual, .. } = puppet.next() else { panic!("not what was asked for") };
    let port = SocketAddr::from(([127, 0, 0, 1], actual));
    let [user, other] = [(); 2].map(|()| UdpSocket::bind(localhost()).unwrap());

    // Four more than can wait; that the other's first datagram is seen shows that all of these were.
    for n in 0..UDP_EARLY_MAX + 4 {
        user.send_to(&vec![7; n + 1], port).unwrap();
    }
    other.send_to(b"refused", port).unwrap();
    let mut opened = || loop {
        if let Event::Opened(id, request) = puppet.next() {
            return (id, request.user_addr.unwrap());
        }
    };
    let (first, second) = (opened(), opened());
    assert_eq!((first.1, second.1), (user.local_addr().unwrap(), other.local_addr().unwrap()));
    puppet.session.refuse(second.0, RefuseCode::Refused, 0, 0).unwrap();
    puppet.session.accept(first.0, Opened::default()).unwrap();
    puppet.send();
    let line = world.lines.first();
    assert_eq!((value(&line, "end"), value(&line, "up")), ("SC", "0"), "nothing of it went anywhere");

    let mut lens = Vec::new();
    while lens.len() < UDP_EARLY_MAX {
        puppet.next();
        while let Some(datagram) = puppet.session.read_datagram(first.0) {
            lens.push(datagram.len());
        }
    }
    assert_eq!(lens, (5..=UDP_EARLY_MAX + 4).collect::<Vec<_>>());
    puppet.session.reset(first.0, ResetCode::Reset);
    puppet.send();
    until("the second line", || world.lines.all().len() == 2);
    assert_eq!(value(&world.lines.all()[1], "up"), lens.iter().sum::<usize>().to_string());
}

// UDP_FLOWS_MAX: whoever sends from one address after the other cannot make the gateway hold more, and one that ends makes room.
#[test]
fn a_port_has_so_many_flows_and_not_one_more() {
    let world = World::new();
    let mut puppet = Puppet::new(&world, 1, 1);
    let request = PortRequest { network: Network::Udp, port: 0, host: "127.0.0.1".into(), target_port: 1 };
    puppet.session.request_port(request).unwrap();
    let Event::PortOpened { actual, .. } = puppet.next() else { panic!("not what was asked for") };
    let port = SocketAddr::from(([127, 0, 0, 1], actual));
    // Each from another address.
    let send = |n: usize| {
        let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
        let socket = UdpSocket::bind(SocketAddr::from(([127, 2, high, low], 0))).unwrap();
        socket.send_to(b"x", port).unwrap();
        socket
    };
    let mut flows = Vec::new();
    for n in 0..UDP_FLOWS_MAX {
        let user = send(n);
        let Event::Opened(id, opened) = puppet.next() else { panic!("a stream is asked for") };
        assert_eq!(opened.user_addr, Some(user.local_addr().unwrap()));
        // Two users are heard of again; of the others it is enough that they had an address.
        flows.push((id, (n < 2).then_some(user)));
    }
    assert_eq!(world.gateway.stream_count(), UDP_FLOWS_MAX);
    // A datagram behind the one too many shows that this one was seen, and was dropped.
    send(UDP_FLOWS_MAX);
    let (id, Some(user)) = &flows[1] else { panic!("one of the two") };
    puppet.session.accept(*id, Opened::default()).unwrap();
    user.send_to(b"behind", port).unwrap();
    let mut words = Vec::new();
    while words.last().is_none_or(|words| *words != b"behind"[..]) {
        let event = puppet.next();
        assert!(matches!(event, Event::Readable(_)), "{event:?}");
        words.extend(std::iter::from_fn(|| puppet.session.read_datagram(*id)));
    }
    puppet.session.refuse(flows[0].0, RefuseCode::Refused, 0, 0).unwrap();
    puppet.send();
    // Behind its line there is room.
    world.lines.first();
    let user = send(UDP_FLOWS_MAX + 1).local_addr().unwrap();
    let opened = loop {
        if let Event::Opened(_, opened) = puppet.next() {
            break opened;
        }
    };
    assert_eq!(opened.user_addr, Some(user));
}
