//! Tunnels that come, are replaced, stop and go.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyproxy::client;
use anyproxy::limits::{PRE_AUTH_MAX, PRE_AUTH_PER_ADDRESS_MAX, STOP_HEARD_MS, TUNNEL_GOODBYE_MS};
use anyproxy::proto::frame::{Network, Opened, PortError, PortRequest};
use anyproxy::proto::session::Event;

use linkbuffer::LinkBuffer;

use crate::streams::silent_address;
use crate::support::*;

/// CPU time of one event loop's threads, by their name.
fn cpu_ticks(name: &str) -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        if let Some((head, rest)) = stat.rsplit_once(')')
            && head.contains(name)
        {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}

// A gateway that takes the connection and is silent must not keep the client busy.
#[test]
fn a_client_that_waits_for_its_upgrade_rests() {
    let (_listener, addr) = listen();
    let event_loop = poller::EventLoop::builder().name("resting").polls(1).build().unwrap();
    client::start(event_loop.remote(), client_of(vec![target(addr).into()])).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    let ticks = cpu_ticks("resting");
    assert!(ticks < 20, "{ticks} ticks of 10 ms in 600 ms");
}

// proves S-38, S-11: who is replaced tells the users that waited for an answer through it
#[test]
fn a_user_who_waits_for_an_answer_hears_that_the_tunnel_was_replaced() {
    let world = World::new();
    let mut first = Puppet::new(&world, 1, 1);
    until("the client", || world.gateway.client_count() == 1);
    let (_listener, addr) = listen();
    let mut user = world.connect(addr);
    assert!(matches!(first.next(), Event::Opened(..)));
    let _second = Puppet::new(&world, 1, 2);
    assert!(head(&mut user).starts_with("HTTP/1.1 502 "));
    assert_eq!(value(&world.lines.first(), "end"), "TC");
    // The clean-up of the old one touches nothing of the new one.
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(world.gateway.client_count(), 1);
}

// proves S-56: the ports of a connection that was replaced are free at once, not when it has gone
#[test]
fn a_port_goes_over_to_the_newer_connection() {
    let world = World::new();
    let port = listen().1.port();
    let request = PortRequest { network: Network::Tcp, port, host: "127.0.0.1".into(), target_port: 1 };
    let mut first = Puppet::new(&world, 1, 1);
    first.session.request_port(request.clone()).unwrap();
    assert_eq!(first.next(), Event::PortOpened { network: Network::Tcp, port, actual: port });
    let mut second = Puppet::new(&world, 1, 2);
    let begun = Instant::now();
    loop {
        second.session.request_port(request.clone()).unwrap();
        match second.next() {
            Event::PortOpened { .. } => break,
            Event::PortRefused { error: PortError::InUse, .. } => {
                std::thread::sleep(Duration::from_millis(5))
            }
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < PATIENCE, "the port is still the old connection's");
    }
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    TcpStream::connect(("127.0.0.1", port)).expect("the port stays open when the old connection goes");
}

// proves T17: strangers at the tunnel's port are bounded, and one that leaves makes room
#[test]
fn strangers_at_the_tunnels_port_are_bounded() {
    let world = World::new();
    let addr = world.gateway.tunnel_addr();
    // As many from each address as one may have.
    let from = |n: usize| dial_from([127, 1, 0, u8::try_from(n / PRE_AUTH_PER_ADDRESS_MAX).unwrap()], addr);
    let strangers: Vec<TcpStream> = (0..PRE_AUTH_MAX).map(from).collect();
    until("the strangers", || world.gateway_loop.connections() == PRE_AUTH_MAX);
    is_turned_away(&mut dial(addr));
    drop(strangers);
    until("room", || world.gateway_loop.connections() == 0);
    Puppet::new(&world, 1, 1);
}

// proves T17: one address does not keep the others out
#[test]
fn strangers_of_one_address_leave_room_for_others() {
    let world = World::new();
    let addr = world.gateway.tunnel_addr();
    let mut strangers: Vec<TcpStream> = (0..PRE_AUTH_PER_ADDRESS_MAX).map(|_| dial(addr)).collect();
    until("the strangers", || world.gateway_loop.connections() == PRE_AUTH_PER_ADDRESS_MAX);
    is_turned_away(&mut dial(addr));
    let _other = dial_from([127, 1, 0, 1], addr);
    until("the other", || world.gateway_loop.connections() == PRE_AUTH_PER_ADDRESS_MAX + 1);
    // Who has proved itself is no stranger any more, and who has gone none either.
    strangers.truncate(PRE_AUTH_PER_ADDRESS_MAX - 1);
    until("room", || world.gateway_loop.connections() == PRE_AUTH_PER_ADDRESS_MAX);
    let mut puppets = Vec::new();
    for instance in 1..=5 {
        puppets.push(Puppet::new(&world, instance, 1));
    }
    assert_eq!(world.gateway.client_count(), 5);
}

fn is_turned_away(stranger: &mut TcpStream) {
    match stranger.read(&mut [0]) {
        Ok(n) => assert_eq!(n, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

// proves T17: who has not proved itself cannot make the gateway hold much
#[test]
fn a_stranger_who_talks_too_much_is_cut_off() {
    let world = World::new();
    let mut stranger = dial(world.gateway.tunnel_addr());
    stranger
        .write_all(
            b"GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: anyproxy.1\r\n\r\n",
        )
        .unwrap();
    assert!(head(&mut stranger).starts_with("HTTP/1.1 101 "));
    // One message of a megabyte is announced, and never ends.
    stranger.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x0f, 0, 0, 1, 2, 3, 4]).unwrap();
    for _ in 0..64 {
        if stranger.write_all(&[0; 8 << 10]).is_err() {
            break;
        }
    }
    until("its end", || world.gateway_loop.connections() == 0);
}

// proves S-44: what is being opened when the client is told to stop gets its answer
#[test]
fn a_stopping_client_finishes_what_is_being_opened() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    let mut user = world.connected(addr);
    let mut target = accept(&listener);
    let stopping = std::thread::spawn(move || clients.shutdown(Duration::from_secs(5)));
    // A stream that is open goes on; the gateway opens no other through a client that stops. Nobody listens there: the target's
    // refusal is another one.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    until("the client to stop", || head(&mut world.connect(nobody)).starts_with("HTTP/1.1 503 "));
    target.write_all(b"still here").unwrap();
    let mut words = [0; 10];
    user.read_exact(&mut words).unwrap();
    drop((user, target));
    assert!(stopping.join().unwrap(), "everything had ended by itself");
    until("the line of what came too late", || {
        world.lines.all().iter().any(|line| value(line, "why") == "drain")
    });
}

// proves S-34, S-44: the dial of a stream that is being opened is given up when its client stops, and the user hears that, not that
// the tunnel was lost
#[test]
fn a_stopping_client_answers_what_it_gives_up() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (addr, _kept) = silent_address();
    let mut user = world.connect(addr);
    until("the dial", || clients.connections() == 2);
    assert!(clients.shutdown(PATIENCE), "nothing had to be closed by force");
    assert!(head(&mut user).starts_with("HTTP/1.1 503 "));
    let line = world.lines.first();
    assert_eq!((value(&line, "end"), value(&line, "why")), ("PQ", "drain"));
}

// proves S-34, S-44: how the last stream ended is said before the tunnel leaves behind it
#[test]
fn a_stopping_client_passes_the_last_streams_reset_on() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    let mut user = world.connected(addr);
    let target = accept(&listener);
    let stopping = std::thread::spawn(move || clients.shutdown(PATIENCE));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    until("the client to stop", || head(&mut world.connect(nobody)).starts_with("HTTP/1.1 503 "));
    reset(target);
    assert_eq!(user.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(stopping.join().unwrap(), "everything had ended by itself");
    let why = |line: &String| (value(line, "end").to_owned(), value(line, "why").to_owned());
    until("its line", || world.lines.all().iter().map(why).any(|why| why == ("SD".into(), "rst".into())));
}

// proves S-44: the end of a stream that ended in time is not lost over what the gateway is told while it leaves
#[test]
fn a_stopping_gateway_is_heard_to_its_end() {
    const SIZE: usize = 240_000;
    // Whether the last of it is with the gateway's system when the puppet speaks is for the system to say.
    for _ in 0..8 {
        let world = World::new();
        let mut puppet = Puppet::new(&world, 1, 1);
        until("the client", || world.gateway.client_count() == 1);
        let (_listener, addr) = listen();
        let mut user = world.connect(addr);
        let Event::Opened(id, _) = puppet.next() else { panic!("a stream is next") };
        let opened = Opened { addr: None, resolve_us: 0, connect_us: 0 };
        puppet.session.accept(id, opened).unwrap();
        puppet.session.finish(id);
        puppet.send();
        assert!(head(&mut user).starts_with("HTTP/1.1 200 "));
        let World { gateway_loop, gateway: _gateway, .. } = world;
        let stopping = std::thread::spawn(move || gateway_loop.shutdown(PATIENCE));
        while puppet.next() != Event::Draining {}
        user.write_all(&[7; SIZE]).unwrap();
        user.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut received, mut whole) = (0, false);
        while !whole {
            let mut bytes = LinkBuffer::new();
            let read = puppet.session.read(id, &mut bytes, SIZE).unwrap();
            (received, whole) = (received + read.bytes, read.end);
            // What it read is room for more, which the gateway is told.
            puppet.session.delivered(id, received as u64);
            if !whole {
                puppet.next();
            }
        }
        assert_eq!(received, SIZE);
        drop(puppet);
        assert!(stopping.join().unwrap(), "nothing had to be closed by force");
    }
}

// proves S-43: a client that has heard that its gateway stops, and does not leave, keeps it for a while and no longer
#[test]
fn a_stopping_gateway_does_not_wait_for_a_client_that_stays() {
    let world = World::new();
    let _puppet = Puppet::new(&world, 1, 1);
    until("the client", || world.gateway.client_count() == 1);
    let begun = Instant::now();
    assert!(world.gateway_loop.shutdown(PATIENCE), "nothing had to be closed by force");
    assert!(
        begun.elapsed() >= Duration::from_millis(STOP_HEARD_MS),
        "it is waited for: {:?}",
        begun.elapsed()
    );
}

// proves S-45, S-47: a gateway with nothing but idle connections stops at once
#[test]
fn a_gateway_with_idle_users_stops_at_once() {
    let world = World::new();
    let clients = event_loop();
    let port = listen().1.port();
    let request = PortRequest { network: Network::Udp, port, host: "127.0.0.1".into(), target_port: 1 };
    world.client(&clients, vec![request]);
    let socket = std::net::UdpSocket::bind(localhost()).unwrap();
    until("a flow", || {
        socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
        world.gateway.stream_count() == 1
    });
    let _idle = dial(world.gateway.http_addr());
    let World { gateway_loop, gateway: _gateway, lines, .. } = world;
    // Nothing had to be closed by force, however long that would have been waited for.
    assert!(gateway_loop.shutdown(PATIENCE));
    assert_eq!(value(&lines.first(), "end"), "KD");
}

// proves T11: last words that do not leave hold nobody up
#[test]
fn a_goodbye_to_a_peer_that_does_not_read_is_short() {
    const USERS: usize = 48;
    let world = World::new();
    let mut first = Puppet::new(&world, 1, 1);
    let (_listener, addr) = listen();
    let mut users = Vec::new();
    while users.len() < USERS {
        let mut user = world.connect(addr);
        let id = loop {
            if let Event::Opened(id, _) = first.next() {
                break id;
            }
        };
        let opened = Opened { addr: None, resolve_us: 0, connect_us: 0 };
        first.session.accept(id, opened).unwrap();
        first.send();
        head(&mut user);
        users.push(user);
    }
    // More than the sockets between gateway and puppet hold.
    users.iter().for_each(|user| user.set_nonblocking(true).unwrap());
    let mut moved = Instant::now();
    while moved.elapsed() < Duration::from_millis(300) {
        for user in &mut users {
            if user.write(&[0; 64 << 10]).is_ok() {
                moved = Instant::now();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // A blocked socket takes a last piece after all when it is tried again: each ping has it tried.
    for _ in 0..10 {
        first.ping();
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    let _second = Puppet::new(&world, 1, 2);
    until("the old connection's end", || world.gateway_loop.connections() == 1);
    let (took, goodbye) = (begun.elapsed(), Duration::from_millis(TUNNEL_GOODBYE_MS));
    // Without the limit it takes as long as any close whose output does not move.
    assert!(took < Duration::from_millis(poller::limits::CLOSE_STALL_MS) / 2, "{took:?}");
    assert!(took >= goodbye / 2, "the socket was not full: {took:?} proves nothing");
}

// proves S-33, S-44: what is open at the deadline is cut off, and nobody takes it for a whole
#[test]
fn a_stream_that_is_open_at_the_deadline_is_reset_on_both_sides() {
    let world = World::new();
    let clients = event_loop();
    world.client(&clients, Vec::new());
    let (listener, addr) = listen();
    let mut user = world.connected(addr);
    let mut target = accept(&listener);
    let World { gateway_loop, lines, .. } = world;
    assert!(!gateway_loop.shutdown(Duration::from_millis(100)));
    for side in [&mut user, &mut target] {
        assert_eq!(side.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    let line = lines.first();
    assert_eq!((value(&line, "end"), value(&line, "why")), ("KD", "drain"));
    assert_eq!(lines.all().len(), 1);
}

// The same port twice, by two clients: the second is told once, the first is left alone.
// proves S-69
#[test]
fn a_port_that_is_taken_stays_with_its_owner() {
    let world = World::new();
    let port = listen().1.port();
    let request = PortRequest { network: Network::Tcp, port, host: "127.0.0.1".into(), target_port: 1 };
    let mut first = Puppet::new(&world, 1, 1);
    first.session.request_port(request.clone()).unwrap();
    assert_eq!(first.next(), Event::PortOpened { network: Network::Tcp, port, actual: port });
    let mut second = Puppet::new(&world, 2, 1);
    second.session.request_port(request).unwrap();
    let refused = Event::PortRefused { network: Network::Tcp, port, error: PortError::InUse };
    assert_eq!(second.next(), refused);
    drop(second);
    until("the second's end", || world.gateway.client_count() == 1);
    TcpStream::connect(("127.0.0.1", port)).expect("the owner still has it");
}

// proves T9, T10: who proves itself while its key is taken out is here no longer than it takes to see that
#[test]
fn a_key_that_is_taken_out_in_the_middle_of_a_handshake_lets_nobody_in() {
    use anyproxy::limits::DERIVE_MEMORY_KIB_MIN;
    use anyproxy::proto::credentials::{Credentials, Secret};
    use anyproxy::proto::derive::{Cost, Derived, Recipe, derive};
    use anyproxy::proto::keys::Grant;
    let secret = Secret::new("another").unwrap();
    let recipe = Recipe { salt: [1; 16], cost: Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).unwrap() };
    let derived = Derived::new(recipe, &derive(&secret, &recipe).expect("there is memory"));
    let grant = std::sync::Arc::new(Grant::parse(GROUP, "").unwrap());
    let world = World::new();
    let mut puppet = Puppet::welcomed(&world, 1, 1);
    // The group's secret was good for a client of any name; now this one wants its own key.
    let mut keys = Credentials::new();
    keys.insert(GROUP, world.secret.clone().unwrap()).unwrap();
    keys.insert_client("puppet", derived, grant).unwrap();
    assert_eq!(world.gateway.renew(keys), 0, "nobody is here yet");
    let why = puppet.turned_away();
    assert!(why.contains("its name has a key of its own now"), "{why}");
    until("its end", || world.gateway.client_count() == 0);
}

// proves T9, T10: the same for who proves itself by a password of its group that is another one by then
#[test]
fn a_password_that_is_changed_in_the_middle_of_a_handshake_lets_nobody_in() {
    use anyproxy::proto::credentials::{Credentials, Secret};
    let world = World::new();
    let mut puppet = Puppet::welcomed(&world, 1, 1);
    let mut credentials = Credentials::new();
    credentials.insert(GROUP, Secret::new("another").unwrap()).unwrap();
    assert_eq!(world.gateway.renew(credentials), 0, "nobody is here yet");
    let why = puppet.turned_away();
    assert!(why.contains("the password of its group was changed"), "{why}");
    until("its end", || world.gateway.client_count() == 0);
}
