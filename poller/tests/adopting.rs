//! Connections that come from elsewhere: the same life, and nothing is lost on the way.

mod support;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use poller::{Detached, EventLoop, Fault, LinkBuffer, Reason, Reject, Remote};
use socket2::{Domain, Socket, Type};
use support::gate::hold;
use support::*;

/// A user's stream and its other end.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let user = connect(listener.local_addr().expect("bound"));
    (user, listener.accept().expect("waits").0)
}

fn with_bytes(stream: TcpStream, input: &'static [u8], unsent: &'static [u8]) -> Detached {
    Detached { socket: stream.into(), input: LinkBuffer::from(input), unsent: LinkBuffer::from(unsent) }
}

// proves L-01, L-02, L-03, L-18 for adopted connections, and that both addresses are known
#[test]
fn a_stream_is_adopted_and_lives_like_any_other() {
    let event_loop = event_loop();
    let (mut user, stream) = pair();
    let (probe, log) = Probe::echo()
        .before(|conn| {
            assert!(conn.socket().tcp_nodelay().expect("an option"));
            Ok(())
        })
        .start();
    let handle = event_loop.adopt(stream, probe).expect("adopted");
    ask(&mut user, b"question");
    log.expect(&[At::Prepare, At::Connect, At::Request]);
    assert_eq!(handle.peer_addr(), Some(user.local_addr().expect("bound")));
    assert_eq!(event_loop.connections(), 1);
    let local = user.peer_addr().expect("connected");
    drop(user);
    log.until(At::Disconnect);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    assert_eq!((closed.reason, closed.connected, closed.id), (Reason::Peer, true, handle.id()));
    assert_eq!((closed.local, closed.bytes_in, closed.bytes_out), (Some(local), 8, 8));
    log.expect(&[At::Dropped]);
    wait_until_none(&event_loop);
}

// proves L-01, L-14 for what came before the connection was here: no event tells of it
#[test]
fn what_was_said_before_the_adoption_is_heard() {
    let event_loop = one_poll();
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(b"question").expect("written");
    theirs.shutdown(Shutdown::Write).expect("ended");
    let (probe, log) = Probe::echo().start();
    event_loop.adopt(OwnedFd::from(ours), probe).expect("adopted");
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).expect("answered");
    assert_eq!(answer, b"question");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.peer, closed.local), (Reason::Peer, None, None));
}

// proves L-28: bytes that were read and written before come first, and what was read is a request of its own
#[test]
fn bytes_that_come_along_come_first() {
    let event_loop = one_poll();
    let (probe, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            assert_eq!(conn.input().chunk(), b"read before");
            conn.output().write(b", written here, ");
        }
        echo(at, conn)
    })
    .start();
    let (mut user, stream) = pair();
    event_loop.adopt(with_bytes(stream, b"read before", b"written before"), probe.clone()).expect("adopted");
    let mut all = [0; 41];
    user.read_exact(&mut all).expect("sent");
    assert_eq!(&all, b"written before, written here, read before");
    let (at, input) = (log.expect(&[At::Prepare, At::Connect]), log.expect(&[At::Request]));
    assert_eq!((at.input, input.input), (11, 0));
    // With more behind it that has come already, it is one request.
    let (mut user, stream) = pair();
    user.write_all(b" and after").expect("written");
    event_loop.adopt(with_bytes(stream, b"read before", b""), probe).expect("adopted");
    let mut all = [0; 37];
    user.read_exact(&mut all).expect("sent");
    assert_eq!(&all, b", written here, read before and after");
    user.shutdown(Shutdown::Write).expect("ended");
    drop(user);
    log.expect(&[At::Prepare, At::Connect, At::Request]);
}

/// Hands every third request over to the other event loop, and echoes the others.
struct Wanderer {
    requests: AtomicUsize,
    moves: AtomicUsize,
    /// The two event loops, and the handler itself. Taken at the end, because they hold each other.
    road: Mutex<Option<([Remote; 2], Arc<Probe>)>>,
}

impl Wanderer {
    fn act(&self, at: At, conn: &mut poller::Connection) -> poller::Result {
        if at != At::Request || self.requests.fetch_add(1, Ordering::SeqCst) % 3 != 2 || conn.input_ended() {
            return echo(at, conn);
        }
        // Half of what has come is answered here.
        let (input, output) = conn.buffers();
        output.append(input.split_to(input.len() / 2)?);
        let moves = self.moves.fetch_add(1, Ordering::SeqCst);
        let road = self.road.lock().expect("no panic");
        let ([first, second], probe) = road.as_ref().expect("it is under way");
        // Also from one poll to another of the same event loop.
        let next = if moves.is_multiple_of(3) { second } else { first };
        next.adopt(conn.detach()?, probe.clone())?;
        Ok(())
    }
}

// proves L-28: a connection goes from one event loop to another and back, and not a byte is lost or out of its place
#[test]
fn a_connection_wanders_between_event_loops_without_losing_a_byte() {
    const TOTAL: usize = 8 << 20;
    let loops = [event_loop(), one_poll()];
    let wanderer = Arc::new(Wanderer {
        requests: AtomicUsize::new(0),
        moves: AtomicUsize::new(0),
        road: Mutex::new(None),
    });
    let (probe, log) = Probe::new({
        let wanderer = wanderer.clone();
        move |at, conn| wanderer.act(at, conn)
    })
    .start();
    let remotes = loops.each_ref().map(|event_loop| event_loop.remote());
    *wanderer.road.lock().expect("no panic") = Some((remotes, probe.clone()));
    let (mut user, stream) = pair();
    loops[0].adopt(stream, probe).expect("adopted");
    let mut writer = user.try_clone().expect("a second handle");
    let writing = thread::spawn(move || {
        let all: Vec<u8> = (0..TOTAL).map(pattern).collect();
        writer.write_all(&all).expect("taken");
        writer.shutdown(Shutdown::Write).expect("ended");
    });
    let all = read_all(&mut user);
    writing.join().expect("no panic");
    assert_eq!(all.len(), TOTAL);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
    let moves = wanderer.moves.load(Ordering::SeqCst);
    assert!(moves > 2, "{moves}");
    // The last one may be told before the one that it came from.
    let (handed_over, ended): (Vec<_>, Vec<_>) =
        (0..=moves).map(|_| log.closed().reason).partition(|reason| *reason == Reason::Detached);
    assert_eq!((handed_over.len(), ended), (moves, vec![Reason::Peer]));
    loops.iter().for_each(|event_loop| wait_until_none(event_loop));
    wanderer.road.lock().expect("no panic").take();
}

fn was_reset() -> Reason {
    Reason::Error(Fault { kind: ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) })
}

// proves L-14, L-15 for adopted connections: what a peer said before its reset is handed over, whenever that came
#[test]
fn a_stream_that_was_reset_hands_over_what_came_before() {
    let event_loop = one_poll();
    // Before the adoption: with bytes that came along, with some in the kernel, with none.
    let cases: [(&[u8], &[u8]); 3] = [(b"early ", b"12345"), (b"early ", b""), (b"", b"12345")];
    for (input, rest) in cases {
        let (probe, log) = Probe::quiet().start();
        let (mut user, stream) = pair();
        user.write_all(rest).expect("written");
        reset(user);
        event_loop.adopt(with_bytes(stream, input, b"lost"), probe).expect("adopted");
        log.expect(&[At::Prepare, At::Connect]);
        assert_eq!(log.expect(&[At::Request]).input, input.len() + rest.len());
        log.expect(&[At::Disconnect]);
        let closed = log.closed();
        assert_eq!((closed.reason, closed.connected, closed.unsent), (was_reset(), true, 4));
    }
    // Between the adoption and the first turn.
    let (probe, log) = Probe::quiet().start();
    let (user, stream) = pair();
    let gate = hold(&event_loop);
    event_loop.adopt(with_bytes(stream, b"early", b""), probe).expect("adopted");
    reset(user);
    drop(gate);
    log.expect(&[At::Prepare, At::Connect]);
    assert_eq!(log.expect(&[At::Request]).input, 5);
    log.expect(&[At::Disconnect]);
    assert_eq!(log.closed().reason, was_reset());
    wait_until_none(&event_loop);
}

// proves L-14, L-15 for adopted connections: the peer had said its last word and left, and then ours was not taken
#[test]
fn a_stream_that_broke_behind_the_peers_end_hands_over_what_came_before() {
    let event_loop = one_poll();
    for said in [&b"bye"[..], b""] {
        let (probe, log) = Probe::quiet().start();
        let (mut user, mut stream) = pair();
        user.write_all(said).expect("written");
        drop(user);
        stream.write_all(b"too late").expect("taken by the kernel");
        wait_until("the reset is there", || stream.peer_addr().is_err());
        event_loop.adopt(with_bytes(stream, b"", b"lost"), probe).expect("adopted");
        log.expect(&[At::Prepare, At::Connect]);
        if !said.is_empty() {
            assert_eq!(log.expect(&[At::Request]).input, said.len());
        }
        log.expect(&[At::Disconnect]);
        let closed = log.closed();
        let broke = Fault { kind: ErrorKind::BrokenPipe, errno: Some(libc::EPIPE) };
        assert_eq!(
            (closed.reason, closed.bytes_in, closed.unsent),
            (Reason::Error(broke), said.len() as u64, 4)
        );
    }
    wait_until_none(&event_loop);
}

// proves L-14 for adopted connections: both streams had ended before
#[test]
fn a_stream_that_was_over_on_both_sides_hands_over_what_came_before() {
    let event_loop = one_poll();
    for said in [&b"answer"[..], b""] {
        let (probe, log) = Probe::quiet().start();
        let (mut user, stream) = pair();
        stream.shutdown(Shutdown::Write).expect("ended");
        assert_eq!(read_all(&mut user), b"");
        user.write_all(said).expect("written");
        drop(user);
        wait_until("the connection is over", || stream.peer_addr().is_err());
        event_loop.adopt(stream, probe).expect("adopted");
        log.expect(&[At::Prepare, At::Connect]);
        let request = log.find(|event| event.at != At::Request || event.ended);
        assert_eq!((request.at, request.input), (At::Request, said.len()));
        log.expect(&[At::Disconnect]);
        let closed = log.closed();
        assert_eq!((closed.reason, closed.bytes_in), (Reason::Peer, said.len() as u64));
    }
    wait_until_none(&event_loop);
}

// proves what the module of sockets promises: two that drain one socket would take from each other what they wait for
#[test]
fn a_stream_is_adopted_once_at_a_time() {
    let event_loop = one_poll();
    let (probe, log) = Probe::new(|at, conn| {
        if at == At::Request && conn.input().chunk().ends_with(b"!") {
            conn.input().clear();
            assert!(conn.detach()?.input.is_empty());
            return Ok(());
        }
        echo(at, conn)
    })
    .start();
    let (mut user, stream) = pair();
    let again = || stream.try_clone().expect("a second handle");
    let adopt = || event_loop.adopt(again(), probe.clone());
    let handle = adopt().expect("adopted");
    let error = adopt().expect_err("it is there already");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with("this stream is with this event loop already"), "{error}");
    ask(&mut user, b"the first lives on");
    assert_eq!(event_loop.connections(), 1);
    // It may come back when it has been handed over, or was refused, while the former handle is still there.
    user.write_all(b"!").expect("written");
    assert_eq!(log.closed().reason, Reason::Detached);
    let refusing = Probe::quiet().before(|_| Err(Reject::from("not now"))).start().0;
    event_loop.adopt(again(), refusing).expect_err("refused");
    let second = adopt().expect("adopted again");
    ask(&mut user, b"question");
    // And when it has closed here, as long as somebody else has it.
    second.close();
    assert_eq!(log.closed().reason, Reason::User);
    wait_until_none(&event_loop);
    let third = adopt().expect("adopted a third time");
    ask(&mut user, b"question");
    assert_eq!((handle.is_closed(), second.is_closed(), third.is_closed()), (true, true, false));
}

// Bad input: what is no connected stream is refused by its name, and nobody hears of it
#[test]
fn what_is_no_connected_stream_is_refused() {
    let event_loop = one_poll();
    let (probe, log) = Probe::echo().start();
    let check = |socket: OwnedFd, says: &str| {
        let error = event_loop.adopt(socket, probe.clone()).expect_err("no connected stream");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let want = format!("the descriptor is {says}; wanted is a connected stream socket (TCP or Unix)");
        assert_eq!(error.to_string(), want);
    };
    let socket = |domain, kind| OwnedFd::from(Socket::new(domain, kind, None).expect("a socket"));
    check(socket(Domain::IPV4, Type::STREAM), "a TCP socket that is not connected");
    check(socket(Domain::UNIX, Type::STREAM), "a Unix stream socket that is not connected");
    check(TcpListener::bind("127.0.0.1:0").expect("a port").into(), "a TCP socket that listens");
    check(UdpSocket::bind("127.0.0.1:0").expect("a port").into(), "a UDP socket");
    check(File::open("/dev/null").expect("there").into(), "a device");
    check(io::pipe().expect("a pipe").0.into(), "a pipe");
    let path = std::env::temp_dir().join(format!("poller-{}-adopted", std::process::id()));
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path).expect("a path of our own");
    check(listener.into(), "a Unix stream socket that listens");
    std::fs::remove_file(path).expect("ours");
    let (probe, _) = Probe::echo().start();
    let (addr, _listener, streams) = full_listener();
    let error = event_loop.adopt(OwnedFd::from(under_way(addr)), probe).expect_err("not connected yet");
    assert!(error.to_string().contains("that is not connected"), "{error}");
    drop(streams);
    let (probe, _) = Probe::echo().start();
    event_loop.adopt(OwnedFd::from(under_way(closed_port())), probe).expect_err("refused, or about to be");
    assert!(log.rest().is_empty());
    assert_eq!(event_loop.connections(), 0);
}

/// A socket that waits to be connected.
fn under_way(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("non-blocking");
    socket.connect(&addr.into()).expect_err("it waits");
    socket
}

// proves that connections_max holds for adopted ones too, and that one that is refused is not counted
#[test]
fn adopted_connections_are_bounded_and_may_be_refused() {
    logs::keep();
    let event_loop = EventLoop::builder().polls(1).connections_max(1).build().expect("an event loop");
    let (probe, log) = Probe::echo().before(|_| Err(Reject::from("not today"))).start();
    let (mut user, stream) = pair();
    let error = event_loop.adopt(stream, probe).expect_err("refused");
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::PermissionDenied, "not today".to_owned()));
    assert_eq!(read_all(&mut user), b"", "it is closed");
    log.expect(&[At::Prepare]);
    let (probe, _log) = Probe::echo().before(|_| panic!("on purpose")).start();
    event_loop.adopt(pair().1, probe).expect_err("it panics");
    assert_eq!(event_loop.connections(), 0);

    let (probe, log) = Probe::echo().start();
    let (mut user, stream) = pair();
    event_loop.adopt(stream, probe.clone()).expect("the only one");
    ask(&mut user, b"question");
    let error = event_loop.adopt(pair().1, probe.clone()).expect_err("one too many");
    assert_eq!(error.to_string(), "there are 1 connections already");
    ask(&mut user, b"the first lives on");
    let remote = event_loop.remote();
    assert!(event_loop.shutdown(PATIENCE));
    assert_eq!(log.closed().reason, Reason::Shutdown);
    let error = remote.adopt(pair().1, probe).expect_err("stopped");
    assert!(error.to_string().contains("stopping"), "{error}");
}

// proves L-29: what is adopted while the event loop stops ends with it
#[test]
fn an_adoption_under_way_ends_with_the_event_loop() {
    let event_loop = one_poll();
    let (probe, log) = Probe::echo().start();
    let (mut user, stream) = pair();
    let gate = hold(&event_loop);
    event_loop.adopt(stream, probe).expect("adopted");
    let stopping = thread::spawn(move || event_loop.shutdown(PATIENCE));
    drop(gate);
    assert!(stopping.join().expect("no panic"));
    assert_eq!(read_all(&mut user), b"");
    assert_eq!(log.closed().reason, Reason::Shutdown);
}

// proves L-03, L-23: what was sent to a connection that was closed before anybody looked leaves behind what `on_connect` writes
#[test]
fn a_close_right_after_the_adoption_sends_what_was_sent() {
    let event_loop = one_poll();
    let (mut user, stream) = pair();
    let (probe, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"hello, ");
        }
        Ok(())
    })
    .start();
    let held = hold(&event_loop);
    let handle = event_loop.adopt(stream, probe).expect("adopted");
    handle.send(Bytes::from_static(b"early")).expect("open");
    handle.close();
    drop(held);
    assert_eq!(read_all(&mut user), b"hello, early");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent, closed.connected), (Reason::User, 0, true));
}
