//! Which client a stream goes to, with tunnels that have no carrier.

use super::forward::Word;
use super::*;
use crate::limits::{PEER_LINES_MAX, REFUSED_PORTS_MAX, STREAMS_MAX};
use crate::logfmt::Stamp;
use crate::proto::auth::{Prover, Transcript, prove};
use crate::proto::credentials::Secret;
use crate::proto::frame::{Frame, GoAway, Hello, Network, Opened, PortRequest};
use crate::proto::session::{ClientConfig, Error, StreamId, VERSION_NEWEST, VERSION_OLDEST};
use crate::rt::{self, EventLoop};
use crate::tunnel::{Broken, StreamWatcher};
use bytes::Bytes;
use linkbuffer::LinkBuffer;
use std::io::{Read as _, Write as _};

const GROUP: &str = "g";

struct Nobody;

impl StreamWatcher for Nobody {
    fn on_stream(&self, _id: StreamId) {}
}

/// A client that takes so many streams, and has proved itself.
fn member(instance: u64, streams_max: u32) -> Member {
    let credentials = Arc::new(Credentials::new());
    let config = GatewayConfig { credentials, session_id: instance, nonce: [2; 32] };
    let tunnel = Tunnel::new(Session::gateway(config, rt::now()), format!("t{instance}"));
    let say = |frame: &Bytes| {
        tunnel.exchange(|session| {
            let mut answer = LinkBuffer::new();
            session.handle_input(frame.clone(), rt::now()).expect("what a client says");
            let bytes = session.poll_transmit(usize::MAX, &mut answer, rt::now());
            answer.read_bytes(bytes).expect("all of it")
        })
    };
    let hello = Frame::Hello(Hello {
        version_min: VERSION_OLDEST,
        version_max: VERSION_NEWEST,
        features: 0,
        instance,
        generation: 1,
        streams_max,
        nonce: [1; 32],
        group: String::new(),
        name: "c".into(),
    });
    let hello = hello.encode(0);
    let welcome = say(&hello);
    let transcript = Transcript { hello, welcome, binding: None };
    say(&Frame::Auth(prove(None, Prover::Client, &transcript)).encode(0));
    assert!(tunnel.exchange(|session| session.is_up()));
    Member { tunnel, name: "c".into(), instance, generation: 1 }
}

/// A gateway, and what it runs on, with these clients.
fn gateway(members: &[&Member]) -> (EventLoop, Gateway) {
    let event_loop = EventLoop::builder().polls(1).build().expect("there are threads");
    let localhost = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        tunnel: localhost,
        http: localhost,
        socks: None,
        clients: Arc::default(),
        users: Arc::default(),
        group: GROUP.into(),
        times: Times::default(),
        access: AccessLog::start(Box::new(io::sink()), Stamp::Time).expect("there are threads"),
        windows: Arc::default(),
        tls: None,
        streams_max: STREAMS_MAX,
    };
    let gateway = Gateway::start(event_loop.remote(), config).expect("loopback has free ports");
    for member in members {
        let joined = gateway.shared.registry.join(GROUP, (*member).clone());
        assert!(matches!(joined, Joined::First | Joined::Another));
    }
    (event_loop, gateway)
}

fn open(gateway: &Gateway) -> Result<Stream, NoStream> {
    let request =
        OpenRequest { network: Network::Tcp, host: "target".into(), port: 1, conn_id: 0, user_addr: None };
    let watcher = Watcher::Call(Arc::new(Nobody));
    gateway.shared.open(GROUP, None, request, watcher).map(|opening| opening.stream)
}

// A client that takes no streams has none, and so is the least busy one for ever.
#[test]
fn streams_go_to_clients_that_have_room() {
    let (none, two, three) = (member(1, 0), member(2, 2), member(3, 3));
    let (_event_loop, gateway) = gateway(&[&none, &two, &three]);
    let mut streams: Vec<Stream> = (0..5).map(|_| open(&gateway).expect("there is room")).collect();
    let counts = [&none, &two, &three].map(|member| member.tunnel.stream_count());
    assert_eq!(counts, [0, 2, 3]);
    assert_eq!(open(&gateway).err(), Some(NoStream::Limit));
    // Whoever is full has room again when a stream ends.
    let ended = streams.swap_remove(0).tunnel().clone();
    let next = open(&gateway).expect("there is room");
    assert!(Arc::ptr_eq(next.tunnel(), &ended));
}

#[test]
fn a_group_without_room_says_the_best_of_its_reasons() {
    for (count, why) in
        [(3, NoStream::Limit), (2, NoStream::Draining), (1, NoStream::NoClient), (0, NoStream::NoClient)]
    {
        let (gone, leaving, full) = (member(3, 1), member(2, 1), member(1, 0));
        let (_event_loop, gateway) = gateway(&[&gone, &leaving, &full][..count]);
        leaving.tunnel.exchange(Session::drain);
        gone.tunnel.exchange(|session| session.close(GoAwayCode::Stop, ""));
        assert_eq!(open(&gateway).err(), Some(why));
    }
}

// The client was picked, and then could not: that is no answer for a user while there is another.
#[test]
fn a_client_that_leaves_when_it_is_asked_leaves_the_stream_to_the_next() {
    let goaway = |code| Frame::GoAway(GoAway { code, reason: String::new() }).encode(0);
    for code in [GoAwayCode::Drain, GoAwayCode::Stop] {
        let (first, second, third) = (member(1, 9), member(2, 9), member(3, 9));
        let (_event_loop, gateway) = gateway(&[&first, &second, &third]);
        for leaving in [&first, &second] {
            leaving.tunnel.unsettled(|session| session.handle_input(goaway(code), rt::now())).expect("legal");
            assert!(leaving.tunnel.takes_streams(), "nobody has looked since");
        }
        let stream = open(&gateway).expect("the third is there");
        assert!(Arc::ptr_eq(stream.tunnel(), &third.tunnel));
        assert!(!first.tunnel.takes_streams() && !second.tunnel.takes_streams());
    }
}

// proves S-71: the right to what had come as a whole can be taken away, though its tunnel has gone
#[test]
fn what_outlives_its_tunnel_ends_with_its_key() {
    for (leaves, renewed) in [(false, true), (true, true), (true, false)] {
        let member = member(1, 9);
        let (_event_loop, gateway) = gateway(&[&member]);
        let stream = open(&gateway).expect("there is room");
        let opened =
            Frame::OpenOk { opened: Opened { addr: None, resolve_us: 0, connect_us: 0 }, window: 1 << 16 };
        let goaway = Frame::GoAway(GoAway { code: GoAwayCode::Stop, reason: String::new() });
        let said =
            [opened.encode(1), Frame::Data(Bytes::from_static(b"whole")).encode(1), Frame::Fin.encode(1)];
        stream.exchange(|session, id| {
            for frame in said {
                session.handle_input(frame, rt::now()).expect("what a client says");
            }
            session.finish(id);
            session.poll_transmit(usize::MAX, &mut LinkBuffer::new(), rt::now());
        });
        stream.exchange(|session, _| session.handle_input(goaway.encode(0), rt::now())).expect("legal");
        assert!(!stream.is_closed() && stream.broken().is_none(), "it is there to be read");
        if leaves {
            assert_eq!(gateway.shared.registry.leave(GROUP, &member.tunnel), Some(0));
        }
        if renewed {
            let mut credentials = Credentials::new();
            credentials.insert(GROUP, Secret::new("another").expect("it is short")).expect("it is the first");
            assert_eq!(gateway.renew(credentials), 1);
        }
        assert_eq!(stream.broken(), renewed.then_some(Broken::Lost), "{leaves}");
        let mut bytes = LinkBuffer::new();
        let read = stream.exchange(|session, id| session.read(id, &mut bytes, 9)).map(|read| read.bytes);
        assert_eq!(read.ok(), (!renewed).then_some(5));
        // Nobody is remembered for longer than there is something to read.
        assert_eq!(gateway.shared.registry.everybody().len(), usize::from(!leaves));
    }
}

// A host that died without a word: its tunnel is there until enough PINGs are missed, with fewer and fewer streams.
#[test]
fn a_client_that_does_not_answer_is_asked_only_when_there_is_no_other() {
    let (silent, other) = (member(1, 2), member(2, 2));
    let (_event_loop, gateway) = gateway(&[&silent, &other]);
    let doubt = rt::now() + std::time::Duration::from_millis(crate::limits::PING_IDLE_MS);
    silent.tunnel.exchange(|session| session.handle_timeout(doubt)).expect("it has time to answer");
    let streams: Vec<Stream> = (0..2).map(|_| open(&gateway).expect("there is room")).collect();
    assert!(streams.iter().all(|stream| Arc::ptr_eq(stream.tunnel(), &other.tunnel)));
    assert!(!silent.tunnel.takes_streams());
    let last = open(&gateway).expect("better than none");
    assert!(Arc::ptr_eq(last.tunnel(), &silent.tunnel));
    // One word, and it is as good as any other.
    drop(streams);
    let pong = Frame::Pong(1).encode(0);
    silent.tunnel.exchange(|session| session.handle_input(pong, doubt)).expect("legal");
    assert!(silent.tunnel.takes_streams());
}

// The newer connection of a client closed the older one's ports while that one was still asking for another.
#[test]
fn a_port_for_a_tunnel_that_was_replaced_meanwhile_is_not_kept() {
    let replaced = member(1, 1);
    let (_event_loop, gateway) = gateway(&[&replaced]);
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = free.local_addr().expect("it is bound").port();
    drop(free);
    let request = PortRequest { network: Network::Tcp, port, host: "target".into(), target_port: 1 };
    let ask = Frame::PortOpen(request.clone()).encode(0);
    replaced.tunnel.exchange(|session| session.handle_input(ask, rt::now())).expect("legal");
    replaced.tunnel.exchange(|session| session.close(GoAwayCode::Replaced, ""));
    gateway.shared.forwards.open(&gateway.shared, &replaced.tunnel, request);
    let patience = rt::now() + std::time::Duration::from_secs(60);
    while TcpListener::bind(("127.0.0.1", port)).is_err() {
        assert!(rt::now() < patience, "the port is still held");
        std::thread::yield_now();
    }
}

fn of(member: &Member, name: &str, instance: u64, generation: u64) -> Member {
    Member { name: name.into(), instance, generation, ..member.clone() }
}

// proves T10: nobody takes a place in a group that is not its own, whatever it has heard of who is there
#[test]
fn a_place_is_taken_over_by_a_newer_connection_of_the_same_client_alone() {
    let registry = Registry::default();
    let (first, other) = (member(7, 1), member(7, 1));
    assert!(matches!(registry.join(GROUP, of(&first, "edge", 7, 2)), Joined::First));
    for generation in [1, 2] {
        let Joined::Stale(newer) = registry.join(GROUP, of(&other, "edge", 7, generation)) else {
            panic!("generation {generation} is not newer");
        };
        assert!(Arc::ptr_eq(&newer.tunnel, &first.tunnel));
    }
    assert!(matches!(registry.join(GROUP, of(&other, "else", 7, 3)), Joined::Another));
    assert!(matches!(registry.join("another", of(&other, "edge", 7, 3)), Joined::First));
    assert_eq!(registry.client_count(), 3);
    let Joined::Replaced(former) = registry.join(GROUP, of(&other, "edge", 7, 3)) else {
        panic!("a newer connection of the same client");
    };
    assert!(Arc::ptr_eq(&former.tunnel, &first.tunnel));
    // One that has gone meanwhile takes nothing.
    first.tunnel.exchange(|session| session.close(GoAwayCode::Stop, ""));
    assert!(matches!(registry.join(GROUP, of(&first, "edge", 7, 4)), Joined::Gone));
    assert!(matches!(registry.join("third", of(&first, "edge", 7, 4)), Joined::Gone));
    assert_eq!(registry.client_count(), 3);
}

#[test]
fn a_group_takes_so_many_clients_and_who_is_there_may_still_come_back() {
    let registry = Registry::default();
    let tunnel = member(0, 1);
    let most = CLIENTS_PER_GROUP_MAX as u64;
    for instance in 0..most {
        let joined = registry.join(GROUP, of(&tunnel, "edge", instance, 1));
        assert!(matches!(joined, Joined::First | Joined::Another));
    }
    assert!(matches!(registry.join(GROUP, of(&tunnel, "edge", most, 1)), Joined::Full));
    assert!(matches!(registry.join(GROUP, of(&tunnel, "edge", 0, 2)), Joined::Replaced(_)));
    assert!(matches!(registry.join("another", of(&tunnel, "edge", most, 1)), Joined::First));
    assert_eq!(registry.client_count(), CLIENTS_PER_GROUP_MAX + 1);
}

/// What a client with this identity hears when it comes to an open gateway.
fn dial(gateway: &Gateway, instance: u64, generation: u64) -> Result<(), Error> {
    let mut socket = std::net::TcpStream::connect(gateway.tunnel_addr()).expect("it listens");
    let mut ws = WebSocket::client("gateway", crate::proto::ws::TUNNEL_PATH, [7; 32]);
    let (name, group) = ("c".into(), String::new());
    let config = ClientConfig { name, group, secret: None, instance, generation, nonce: [1; 32] };
    let mut session = Session::client(config, rt::now());
    let mut input = LinkBuffer::new();
    while !session.is_up() {
        let (mut output, mut message) = (LinkBuffer::new(), LinkBuffer::new());
        if ws.is_open() && session.poll_transmit(usize::MAX, &mut message, rt::now()) > 0 {
            ws.send(message).expect("it is open");
        }
        ws.poll_output(&mut output);
        let bytes = output.read_vec(output.len()).expect("there are so many");
        socket.write_all(&bytes).expect("it reads until the end");
        let mut bytes = [0; 4096];
        let count = socket.read(&mut bytes).expect("it ends in order");
        assert!(count > 0, "it ends with a word");
        input.write(&bytes[..count]);
        ws.handle_input(&mut input).expect("a gateway's words");
        while let Some(part) = ws.poll_payload() {
            session.handle_input(part.bytes, rt::now())?;
        }
    }
    Ok(())
}

// What comes after AUTH_OK would be a tunnel that came up, for a client that is told at once to go.
#[test]
fn a_client_without_a_place_is_told_so_before_it_is_up_and_may_try_again() {
    let (_event_loop, gateway) = gateway(&[]);
    let (tunnel, most) = (member(0, 1), CLIENTS_PER_GROUP_MAX as u64);
    for instance in 0..most {
        let joined = gateway.shared.registry.join("", of(&tunnel, "c", instance, 2));
        assert!(matches!(joined, Joined::First | Joined::Another));
    }
    for (instance, generation, expected) in
        [(most, 1, AuthErrCode::Limit), (1, 2, AuthErrCode::Replaced), (most, 2, AuthErrCode::Limit)]
    {
        match dial(&gateway, instance, generation) {
            Err(Error::Refused { retry: true, code, .. }) => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((gateway.client_count() as u64, gateway.shared.unplaced.total()), (most, 3));
    assert_eq!(dial(&gateway, 1, 3), Ok(()), "its own place is there");
    // Nobody is left at the door, and none of them was counted as a stranger.
    assert_eq!(gateway.shared.refusals.total(), 0);
}

/// Says this of the tunnel's ports; how many lines of it are aloud.
fn aloud(gateway: &Gateway, tunnel: &Arc<Tunnel>, words: impl IntoIterator<Item = Word>) -> usize {
    let level = |word| gateway.shared.forwards.level(&gateway.shared, tunnel, word);
    words.into_iter().map(level).filter(|level| *level == log::Level::Info).count()
}

// A client asks again and again for a port that it did not get; and another one asks for all that there are, or opens one for ever.
#[test]
fn what_clients_of_one_address_do_is_said_aloud_so_often() {
    const MOST: usize = PEER_LINES_MAX as usize;
    let (one, two) = (member(1, 9), member(2, 9));
    let (_event_loop, gateway) = gateway(&[&one, &two]);
    let (one, two) = (&one.tunnel, &two.tunnel);
    let refused = |port| Word::Refused(Network::Tcp, port);
    assert_eq!(aloud(&gateway, one, [refused(1), refused(1), Word::Refused(Network::Udp, 1), refused(1)]), 2);
    assert_eq!(aloud(&gateway, one, [Word::Opened(Network::Tcp, 1), Word::Closed, refused(1)]), 3);
    assert_eq!(aloud(&gateway, one, (2..=u16::MAX).map(refused)), MOST - 5);
    assert_eq!(aloud(&gateway, one, (2..=u16::MAX).map(refused)), 0);
    // Another connection from there begins where that one ended. These have no address, and so the same.
    let shared = &gateway.shared;
    shared.forwards.close_all(shared, one);
    let often = (0..MOST).flat_map(|_| [Word::Opened(Network::Udp, 5), Word::Closed]);
    assert_eq!(aloud(&gateway, two, often), 0);
    assert_eq!(shared.aloud(None, log::Level::Warn), log::Level::Debug);
    assert_eq!(shared.aloud(Some(([192, 0, 2, 1], 1).into()), log::Level::Warn), log::Level::Warn);
}

// Nothing is kept of those who left.
#[test]
fn refused_ports_are_remembered_so_long_and_so_many() {
    let one = member(1, 9);
    let (_event_loop, gateway) = gateway(&[&one]);
    let (tunnel, shared) = (&one.tunnel, &gateway.shared);
    let refused = |port| Word::Refused(Network::Tcp, port);
    let most = u16::try_from(REFUSED_PORTS_MAX).expect("fewer than there are ports");
    assert_eq!(aloud(&gateway, tunnel, (1..=most).map(refused)), REFUSED_PORTS_MAX);
    assert_eq!(aloud(&gateway, tunnel, (1..=most).map(refused)), 0);
    // What is not remembered is news each time, as long as lines are left.
    assert_eq!(aloud(&gateway, tunnel, [refused(most + 1), refused(most + 1), refused(most)]), 2);
    assert_eq!(shared.forwards.refused_count(), 1);
    shared.forwards.close_all(shared, tunnel);
    assert_eq!(shared.forwards.refused_count(), 0);
}
