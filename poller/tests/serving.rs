//! Listeners of every kind, what else may be given for one, and where their connections go.

mod support;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use poller::{Connection, EventLoop, ListenOptions, Placement, Prepare, Reason, Reject, bind_shared};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use support::gate::hold;
use support::*;

/// A path for a Unix socket, gone when the test is over.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("poller-{}-{name}", std::process::id()));
        std::fs::remove_file(&path).ok();
        Place(path)
    }

    fn listener(&self) -> UnixListener {
        UnixListener::bind(&self.0).expect("a path of our own")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.0).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

#[track_caller]
fn ask_unix(user: &mut UnixStream, question: &[u8]) {
    user.write_all(question).expect("written");
    let mut answer = vec![0; question.len()];
    user.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, question);
}

// proves L-01, L-14, L-18 for Unix sockets
#[test]
fn a_unix_socket_is_served_like_any_other() {
    let event_loop = event_loop();
    let place = Place::new("served");
    let (probe, log) = Probe::echo().start();
    let listener = event_loop.serve(place.listener(), probe).expect("served");
    assert_eq!(listener.local_addr().as_pathname(), Some(place.0.as_path()));
    let mut user = place.connect();
    log.expect(&[At::Prepare]);
    let connected = log.expect(&[At::Connect]).handle.expect("told");
    assert_eq!(connected.peer_addr(), None);
    ask_unix(&mut user, &vec![7; 100_000]);
    drop(user);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.peer, closed.local), (Reason::Peer, None, None));
    assert_eq!((closed.bytes_in, closed.bytes_out), (100_000, 100_000));
    listener.close();
    wait_until("nobody listens", || UnixStream::connect(&place.0).is_err());
    assert!(place.0.exists(), "who made the path removes it");
}

// proves L-06, L-14: a read that stops at a message with a descriptor has not drained the socket
#[test]
fn what_stands_behind_a_passed_descriptor_is_read() {
    let event_loop = one_poll();
    let place = Place::new("passing");
    let (probe, log) = Probe::quiet().start();
    event_loop.serve(place.listener(), probe.clone()).expect("served");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    event_loop.adopt(ours, probe).expect("adopted");
    let users = [place.connect(), theirs];
    for _ in &users {
        log.until(At::Connect);
    }
    for user in users {
        let gate = hold(&event_loop);
        for (bytes, passes) in [(&b"abc"[..], true), (b"defg", true), (b"h", false)] {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut passed = SendAncillaryBuffer::new(&mut space);
            let descriptors = [user.as_fd()];
            assert!(!passes || passed.push(SendAncillaryMessage::ScmRights(&descriptors)));
            let sent = sendmsg(&user, &[IoSlice::new(bytes)], &mut passed, SendFlags::empty());
            assert_eq!(sent.expect("sent"), bytes.len());
        }
        drop(gate);
        log.find(|event| event.input == 8);
    }
}

#[test]
fn a_descriptor_that_was_passed_on_is_served_as_what_it_is() {
    let event_loop = event_loop();
    let place = Place::new("adopted");
    let (probe, _log) = Probe::echo().start();
    let listener = event_loop.serve(OwnedFd::from(tcp()), probe.clone()).expect("served");
    ask(&mut connect(listener.local_addr().as_ip().expect("an address")), b"over TCP");
    let listener = event_loop.serve(OwnedFd::from(place.listener()), probe).expect("served");
    assert_eq!(listener.local_addr().as_ip(), None);
    assert_eq!(listener.local_addr().to_string(), place.0.to_str().expect("plain"));
    ask_unix(&mut place.connect(), b"over a path");
}

// Bad input: a descriptor of the wrong kind is an error that says what it is.
#[test]
fn what_is_no_listener_is_refused_by_its_name() {
    #[track_caller]
    fn check(fd: OwnedFd, says: &str) {
        let event_loop = one_poll();
        let (probe, _log) = Probe::echo().start();
        let error = event_loop.serve(fd, probe).expect_err("no listener");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let want = format!("the descriptor is {says}; wanted is a listening stream socket (TCP or Unix)");
        assert_eq!(error.to_string(), want);
    }
    let socket = |domain, kind| OwnedFd::from(Socket::new(domain, kind, None).expect("a socket"));
    check(socket(Domain::IPV4, Type::STREAM), "a TCP socket that does not listen");
    check(socket(Domain::UNIX, Type::STREAM), "a Unix stream socket that does not listen");
    check(socket(Domain::UNIX, Type::SEQPACKET), "a Unix seqpacket socket that does not listen");
    check(UdpSocket::bind("127.0.0.1:0").expect("a port").into(), "a UDP socket");
    check(UnixDatagram::unbound().expect("a socket").into(), "a Unix datagram socket");
    check(File::open("/dev/null").expect("there").into(), "a device");
    check(File::open("/").expect("there").into(), "a directory");
    check(File::open(std::env::current_exe().expect("this")).expect("there").into(), "a file");
    check(io::pipe().expect("a pipe").0.into(), "a pipe");
    let listener = tcp();
    let _waits = TcpStream::connect(listener.local_addr().expect("bound")).expect("queued");
    let (stream, _) = listener.accept().expect("waits");
    check(stream.into(), "a TCP socket that does not listen");

    let event_loop = one_poll();
    let (probe, _log) = Probe::echo().start();
    let disguised = UnixListener::from(OwnedFd::from(tcp()));
    let error = event_loop.serve(disguised, probe).expect_err("no Unix socket");
    assert_eq!(
        error.to_string(),
        "the descriptor is a TCP socket that listens; wanted is what its type says"
    );
}

// Bad input: registering twice
#[test]
fn the_same_listener_is_served_once() {
    let (first, second) = (one_poll(), one_poll());
    let (probe, _log) = Probe::echo().start();
    let listener = tcp();
    let copies: Vec<_> = (0..3).map(|_| listener.try_clone().expect("a copy")).collect();
    let [again, elsewhere, later] = copies.try_into().expect("three");
    let served = first.serve(listener, probe.clone()).expect("served");
    let error = first.serve(again, probe.clone()).expect_err("twice");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    // Two event loops may share it: whoever is first accepts.
    second.serve(elsewhere, probe.clone()).expect("another event loop");
    served.close();
    first.serve(later, probe).expect("the first has been closed");
}

// Bad input: options of zero say what to do instead
#[test]
fn options_of_zero_are_refused() {
    let event_loop = one_poll();
    let (probe, _log) = Probe::echo().start();
    let options = ListenOptions::new;
    for (options, says) in [
        (options().accept_turn_max(0), "accept_turn_max(0)"),
        (options().connections_max(0), "connections_max(0)"),
        (options().backlog(0), "backlog(0)"),
    ] {
        let error = event_loop.serve_with(tcp(), options, probe.clone()).expect_err("zero");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with(says), "{error}");
    }
}

/// Three polls, whose connections begin by saying which thread they are on: nobody takes over, so that is their poll.
struct Placed {
    event_loop: EventLoop,
    addr: SocketAddr,
}

impl Placed {
    fn new(placement: Placement) -> Placed {
        let event_loop = EventLoop::builder().polls(3).standby_max(0).build().expect("an event loop");
        let say = |at, conn: &mut Connection| {
            if at == At::Connect {
                conn.output().write(format!("{:?}\n", std::thread::current().id()).as_bytes());
            }
            Ok(())
        };
        let options = ListenOptions::new().placement(placement);
        let addr =
            event_loop.serve_with(tcp(), options, Probe::new(say).start().0).expect("served").local_addr();
        Placed { event_loop, addr }
    }

    /// Connects one after the other; gives each with its thread.
    fn connect(&self, count: usize) -> Vec<(TcpStream, String)> {
        let connect = |_| {
            let mut line = String::new();
            let stream = connect(self.addr);
            BufReader::new(&stream).read_line(&mut line).expect("said");
            (stream, line)
        };
        (0..count).map(connect).collect()
    }
}

fn counts(users: &[(TcpStream, String)]) -> Vec<usize> {
    let mut counts = HashMap::new();
    users.iter().for_each(|(_, thread)| *counts.entry(thread).or_default() += 1);
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

#[test]
fn connections_go_round_by_default() {
    let placed = Placed::new(Placement::default());
    let users = placed.connect(9);
    assert_eq!(counts(&users), [3, 3, 3]);
    let threads: Vec<_> = users.iter().map(|(_, thread)| thread).collect();
    assert_eq!(threads[..3], threads[3..6], "in turn");
}

#[test]
fn the_poll_with_the_fewest_connections_gets_the_next() {
    let placed = Placed::new(Placement::LeastConnections);
    let mut users = placed.connect(6);
    assert_eq!(counts(&users), [2, 2, 2]);
    let emptied = users[0].1.clone();
    users.retain(|(_, thread)| *thread != emptied);
    wait_until("they have gone", || placed.event_loop.connections() == 4);
    let next = placed.connect(2);
    assert!(next.iter().all(|(_, thread)| *thread == emptied), "{next:?}");
}

#[test]
fn random_placement_leaves_no_poll_out_and_keeps_no_order() {
    let placed = Placed::new(Placement::Random);
    let users = placed.connect(60);
    // One in 10^10 fails, and one in 10^9 keeps the order.
    assert_eq!(counts(&users).len(), 3);
    assert!((3..60).any(|n| users[n].1 != users[n - 3].1), "random is not in turn");
}

#[test]
fn a_listener_keeps_its_connections_when_told_to() {
    let placed = Placed::new(Placement::Own);
    assert_eq!(counts(&placed.connect(6)), [6]);
}

// One listener per poll on one port: each has its own connections.
#[test]
fn listeners_can_share_a_port() {
    let event_loop = event_loop();
    let first = bind_shared(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let addr = first.local_addr().expect("bound");
    let second = bind_shared(addr).expect("shared");
    let (probe, log) = Probe::echo().start();
    let options = ListenOptions::new().placement(Placement::Own);
    let first = event_loop.serve_with(first, options.clone(), probe.clone()).expect("served");
    event_loop.serve_with(second, options, probe).expect("served");
    (0..20).for_each(|_| ask(&mut connect(addr), b"any of the two"));
    (0..20).for_each(|_| drop(log.closed()));
    first.close();
    (0..20).for_each(|_| ask(&mut connect(addr), b"the other"));
    assert!(TcpListener::bind(addr).is_err(), "shared only with those who share");
}

// The turn of a listener ends after so many, and what else is ready has its own before the listener goes on.
#[test]
fn a_turn_of_accepting_is_as_long_as_it_was_told() {
    let event_loop = one_poll();
    let (probe, log) = Probe::echo().start();
    let options = ListenOptions::new().accept_turn_max(2);
    let crowd = event_loop.serve_with(tcp(), options, probe).expect("served").local_addr();
    let prepared = log.clone();
    let (told, before_the_other) = crossbeam_channel::bounded(1);
    let count = move |_: &mut Prepare<'_>| {
        let prepared = prepared.rest().iter().filter(|event| event.at == At::Prepare).count();
        told.send(prepared).map_err(|error| Reject::from(error.to_string()))
    };
    let other = event_loop.serve(tcp(), Probe::echo().before(count).start().0).expect("served").local_addr();
    // The poll has registered both, and is busy while all connect.
    ask(&mut connect(crowd), b"registered");
    log.closed();
    log.until(At::Dropped);
    let (go, wait) = crossbeam_channel::bounded::<()>(1);
    let (began, begun) = crossbeam_channel::bounded::<()>(1);
    let busy = move || {
        began.send(()).expect("listened to");
        wait.recv_timeout(PATIENCE).expect("let go");
    };
    event_loop.after(Duration::ZERO, busy).expect("a timer");
    begun.recv_timeout(PATIENCE).expect("runs");
    let mut users: Vec<_> = (0..9).map(|_| connect(crowd)).collect();
    let _other = connect(other);
    go.send(()).expect("waited for");
    assert_eq!(before_the_other.recv_timeout(PATIENCE), Ok(2), "two, and then the other listener's turn");
    users.iter_mut().for_each(|user| ask(user, b"and all are served"));
}

// More than `connections_max` wait in the kernel's queue, and one is served whenever one ends.
#[test]
fn connections_of_one_listener_are_bounded() {
    let event_loop = event_loop();
    let (probe, log) = Probe::echo().start();
    let options = ListenOptions::new().connections_max(2);
    let listener = event_loop.serve_with(tcp(), options, probe).expect("served");
    let addr = listener.local_addr();
    let mut users: VecDeque<_> = (0..6).map(|_| connect(addr)).collect();
    users.iter_mut().for_each(|user| user.write_all(b"x").expect("taken by the kernel"));
    let mut other = connect(Probe::echo().serve(&event_loop).0);
    while let Some(mut user) = users.pop_front() {
        user.read_exact(&mut [0]).expect("served");
        ask(&mut other, b"another listener is not bounded");
        drop(user);
    }
    drop(other);
    wait_until_none(&event_loop);
    // Each is told of before its place is free for another.
    let (mut open, mut prepared) = (0, 0);
    for event in log.rest() {
        match event.at {
            At::Prepare => (open, prepared) = (open + 1, prepared + 1),
            At::Close => open -= 1,
            _ => {}
        }
        assert!(open <= 2, "{open} are open after {prepared}");
    }
    assert_eq!((open, prepared), (0, 6));
}

/// How many may wait in the queue of a listener that accepts no more.
fn queue_len(listener: UnixListener, place: &Place, adopted: bool, options: ListenOptions) -> usize {
    let event_loop = one_poll();
    let (probe, log) = Probe::echo().start();
    let options = options.connections_max(1);
    match adopted {
        false => drop(event_loop.serve_with(listener, options, probe).expect("served")),
        true => drop(event_loop.serve_with(OwnedFd::from(listener), options, probe).expect("served")),
    }
    let _first = place.connect();
    log.until(At::Connect);
    let addr = SockAddr::unix(&place.0).expect("a path");
    let connect = |_| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        socket.connect(&addr).map(|()| socket)
    };
    let queue: Vec<Socket> = (0..20).map_while(|n| connect(n).ok()).collect();
    queue.len()
}

#[test]
fn the_queue_is_as_long_as_it_was_told() {
    let short = |place: &Place| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        socket.bind(&SockAddr::unix(&place.0).expect("a path")).expect("a path of our own");
        socket.listen(3).expect("listens");
        UnixListener::from(OwnedFd::from(socket))
    };
    let place = Place::new("queue");
    let check = |adopted, options, want| {
        std::fs::remove_file(&place.0).ok();
        // The kernel lets one more in than it was told.
        assert_eq!(queue_len(short(&place), &place, adopted, options), want);
    };
    check(false, ListenOptions::new().backlog(7), 8);
    check(true, ListenOptions::new().backlog(7), 8);
    check(true, ListenOptions::new(), 4);
    check(false, ListenOptions::new(), 20);
}

/// A listener with a user in its queue, who has said `question` already.
fn queued(question: &[u8]) -> (TcpListener, TcpStream) {
    let listener = tcp();
    let mut user = connect(listener.local_addr().expect("bound"));
    user.write_all(question).expect("taken by the kernel");
    (listener, user)
}

// proves L-01, L-03, L-14, L-22 for a connection that is over before it was ever waited for
#[test]
fn who_has_spoken_is_read_and_answered_at_once() {
    for deferred in [false, true] {
        let event_loop = event_loop();
        let (listener, mut user) = queued(b"all that I have to say");
        let addr = listener.local_addr().expect("bound");
        user.shutdown(Shutdown::Write).expect("the end of it");
        let (probe, log) = Probe::echo().start();
        event_loop.serve_with(listener, ListenOptions::new().deferred(deferred), probe).expect("served");
        assert_eq!(read_all(&mut user), b"all that I have to say");
        log.expect(&[At::Prepare, At::Connect, At::Request]);
        let closed = log.closed();
        assert_eq!((closed.reason, closed.bytes_in, closed.bytes_out), (Reason::Peer, 22, 22));
        assert_eq!(closed.local, Some(addr));
        wait_until_none(&event_loop);
    }
}

// proves L-23: what the first turn could not send leaves later, whether the connection goes on or has been closed
#[test]
fn a_first_turn_may_leave_output_behind() {
    const LEN: usize = 16 << 20;
    for close in [false, true] {
        let event_loop = one_poll();
        let (listener, mut user) = queued(b"much");
        let (probe, log) = Probe::new(move |at, conn| {
            if at == At::Request && !conn.input_ended() {
                conn.output().write_bytes(bytes::Bytes::from(vec![7; LEN]));
                if close {
                    conn.close();
                }
            }
            Ok(())
        })
        .start();
        event_loop.serve(listener, probe).expect("served");
        let mut answer = vec![0; LEN];
        user.read_exact(&mut answer).expect("all of it");
        drop(user);
        let closed = log.closed();
        assert_eq!(closed.reason, if close { Reason::User } else { Reason::Peer });
        assert_eq!((closed.bytes_out, closed.unsent), (LEN as u64, 0));
    }
}

// proves L-10: a handler that blocks in the first turn of its connection holds up neither its poll nor its listener
#[test]
fn a_first_turn_that_blocks_holds_up_no_accepting() {
    let event_loop = one_poll();
    let (listener, mut first) = queued(b"b");
    let addr = listener.local_addr().expect("bound");
    let (go, wait) = crossbeam_channel::bounded::<()>(1);
    let (probe, log) = Probe::new(move |at, conn| {
        if at == At::Request && conn.input().peek(1).is_ok_and(|first| first == b"b") {
            poller::blocking(|| wait.recv_timeout(PATIENCE))?;
        }
        echo(at, conn)
    })
    .start();
    event_loop.serve(listener, probe).expect("served");
    log.expect(&[At::Prepare, At::Connect]);
    ask(&mut connect(addr), b"while it blocks");
    go.send(()).expect("waited for");
    first.read_exact(&mut [0]).expect("answered");
}

// Bad input: an option that the socket has not
#[test]
fn deferred_is_for_tcp_alone() {
    let place = Place::new("deferred");
    let (probe, _log) = Probe::echo().start();
    let options = ListenOptions::new().deferred(true);
    let error = one_poll().serve_with(place.listener(), options, probe).expect_err("no TCP");
    assert_eq!(error.to_string(), "only TCP accepts deferred: leave it out for a Unix socket");
}
