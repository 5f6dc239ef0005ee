//! Dialed connections: the same phases, and the ways in which a dial fails.

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use poller::{DialOptions, EventLoop, Fault, Handle, Limit, Reason, SendError};
use support::gate::hold;
use support::*;

// proves L-01, L-02, L-03 for dialed connections
#[test]
fn a_dialed_connection_passes_the_phases_in_order() {
    let event_loop = event_loop();
    let (addr, server_log) = Probe::echo().serve(&event_loop);
    let (probe, log) = Probe::new(|at, conn| {
        match at {
            At::Connect => conn.output().write(b"question"),
            At::Request if conn.input().len() == 8 => conn.close(),
            _ => {}
        }
        Ok(())
    })
    .start();
    let handle = event_loop.dial(addr, PATIENCE, probe).expect("dialed");
    log.expect(&[At::Prepare, At::Connect]);
    let closed = log.closed();
    assert_eq!((closed.id, closed.peer), (handle.id(), Some(addr)));
    assert_eq!((closed.reason, closed.bytes_in, closed.bytes_out), (Reason::User, 8, 8));
    assert!(closed.connected && closed.local.is_some());
    log.expect(&[At::Dropped]);
    assert_eq!(server_log.closed().reason, Reason::Peer);
    wait_until_none(&event_loop);
}

// proves L-32, L-18
#[test]
fn a_refused_dial_keeps_its_errno() {
    let event_loop = event_loop();
    let (probe, log) = Probe::echo().start();
    event_loop.dial(closed_port(), PATIENCE, probe).expect("begun");
    log.expect(&[At::Prepare]);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    let fault = Fault { kind: std::io::ErrorKind::ConnectionRefused, errno: Some(libc::ECONNREFUSED) };
    assert_eq!((closed.reason, closed.connected), (Reason::Error(fault), false));
    log.expect(&[At::Dropped]);
    wait_until_none(&event_loop);
}

// proves L-32, L-11
#[test]
fn a_dial_times_out_when_it_says() {
    let event_loop = event_loop();
    let (addr, _listener, _streams) = full_listener();
    let timeout = Duration::from_millis(30);
    let start = Instant::now();
    let (probe, log) = Probe::echo().start();
    event_loop.dial(addr, timeout, probe).expect("begun");
    log.expect(&[At::Prepare]);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    assert_eq!((closed.reason, closed.connected), (Reason::Timeout(Limit::Connect), false));
    assert!(start.elapsed() >= timeout);
    wait_until_none(&event_loop);
}

// proves L-12, L-18: closing a dial that is under way
#[test]
fn a_dial_can_be_given_up() {
    for abort in [false, true] {
        let event_loop = event_loop();
        let (addr, _listener, _streams) = full_listener();
        let (probe, log) = Probe::echo().start();
        let handle = event_loop.dial(addr, PATIENCE, probe).expect("begun");
        match abort {
            false => handle.close(),
            true => handle.abort(),
        }
        log.expect(&[At::Prepare]);
        let closed = log.expect(&[At::Close]).closed.expect("told");
        assert_eq!((closed.reason, closed.connected), (Reason::User, false));
        log.expect(&[At::Dropped]);
    }
}

// proves L-23, L-03: what was sent to a dial leaves before it closes, behind what `on_connect` writes; an abort drops it
#[test]
fn a_close_sends_what_was_sent_during_a_dial() {
    for abort in [false, true] {
        let event_loop = one_poll();
        let (addr, listener, streams) = full_listener();
        let (probe, log) = greeting();
        let handle = event_loop.dial(addr, PATIENCE, probe).expect("begun");
        handle.send(Bytes::from_static(b"early")).expect("open");
        // The poll has seen the dial, which waits, and then the close.
        let (echo_addr, _echo_log) = Probe::echo().serve(&event_loop);
        ask(&mut connect(echo_addr), b"barrier");
        match abort {
            false => handle.close(),
            true => handle.abort(),
        }
        assert!(matches!(handle.send(Bytes::from_static(b"late")), Err(SendError::Closed(_))));
        log.expect(&[At::Prepare]);
        if !abort {
            ask(&mut connect(echo_addr), b"barrier");
            assert!(log.rest().is_empty(), "it waits");
            let mut target = accept_until(&listener, &log, streams);
            assert_eq!(read_all(&mut target), b"hello, early");
        }
        let closed = log.expect(&[At::Close]).closed.expect("told");
        let want = if abort { (false, 0, 5) } else { (true, 12, 0) };
        assert_eq!((closed.connected, closed.bytes_out, closed.unsent), want);
        assert_eq!(closed.reason, Reason::User);
        log.expect(&[At::Dropped]);
    }
}

/// Writes a greeting in `on_connect`.
fn greeting() -> (std::sync::Arc<Probe>, Log) {
    Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"hello, ");
        }
        Ok(())
    })
    .start()
}

// proves L-23 for several addresses, and for a close that comes before the poll has seen the dial
#[test]
fn a_close_sends_what_was_sent_to_whichever_address_works() {
    let event_loop = one_poll();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (probe, log) = greeting();
    let handle = event_loop.dial(vec![closed_port(), addr], PATIENCE, probe).expect("begun");
    handle.send(Bytes::from_static(b"early")).expect("open");
    handle.close();
    log.until(At::Connect);
    let (mut target, _) = listener.accept().expect("connected");
    target.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(read_all(&mut target), b"hello, early");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent, closed.peer), (Reason::User, 0, Some(addr)));
}

// proves L-23, L-32, L-29: it waits no longer than the dial may take, and not for one that fails or is stopped
#[test]
fn a_close_with_something_sent_waits_no_longer_than_its_dial() {
    let (silent, _listener, _streams) = full_listener();
    let short = Duration::from_millis(30);
    for (addr, timeout, stops) in
        [(silent, short, false), (closed_port(), PATIENCE, false), (silent, PATIENCE, true)]
    {
        // With nobody to stand in, the dial does not fail before the close.
        let event_loop = EventLoop::builder().polls(1).standby_max(0).build().expect("an event loop");
        let (probe, log) = greeting();
        let gate = hold(&event_loop);
        let handle = event_loop.dial(addr, timeout, probe).expect("begun");
        handle.send(Bytes::from_static(b"early")).expect("open");
        handle.close();
        gate.open();
        if stops {
            assert!(event_loop.shutdown(PATIENCE));
        }
        log.expect(&[At::Prepare]);
        let closed = log.expect(&[At::Close]).closed.expect("told");
        assert_eq!((closed.reason, closed.unsent, closed.connected), (Reason::User, 5, false));
        assert!(timeout != short || closed.lifetime >= short);
        log.expect(&[At::Dropped]);
    }
}

// proves L-29: a dial that is under way does not hold up the stopping
#[test]
fn a_dial_under_way_ends_with_the_event_loop() {
    let event_loop = event_loop();
    let (addr, _listener, _streams) = full_listener();
    let (probe, log) = Probe::echo().start();
    event_loop.dial(addr, PATIENCE, probe).expect("begun");
    assert!(event_loop.shutdown(PATIENCE));
    assert_eq!(log.closed().reason, Reason::Shutdown);
}

// What is sent or asked for before the connection stands is not forgotten when it does.
#[test]
fn sends_and_wakes_during_a_dial_are_kept() {
    let event_loop = one_poll();
    let (addr, listener, streams) = full_listener();
    let (probe, log) = Probe::echo().start();
    let handle = event_loop.dial(addr, PATIENCE, probe).expect("begun");
    // The poll has seen the dial, which waits, and lets others take the connection.
    let (echo_addr, _echo_log) = Probe::echo().serve(&event_loop);
    ask(&mut connect(echo_addr), b"barrier");
    handle.send(Bytes::from_static(b"early")).expect("open");
    handle.wake();
    ask(&mut connect(echo_addr), b"barrier");
    log.expect(&[At::Prepare]);
    assert!(log.rest().is_empty());
    let local = accept_until(&listener, &log, streams);
    log.until(At::Request);
    let mut local = local;
    let mut early = [0; 5];
    std::io::Read::read_exact(&mut local, &mut early).expect("sent");
    assert_eq!(&early, b"early");
}

/// Accepts until the dial has connected; gives its other end.
fn accept_until(listener: &socket2::Socket, log: &Log, streams: Vec<socket2::Socket>) -> TcpStream {
    let others: Vec<_> = streams.iter().filter_map(|stream| stream.local_addr().ok()?.as_socket()).collect();
    drop(streams);
    loop {
        let (stream, peer) = listener.accept().expect("accepted");
        if peer.as_socket().is_some_and(|peer| !others.contains(&peer)) {
            log.until(At::Connect);
            let stream = TcpStream::from(stream);
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            return stream;
        }
    }
}

// proves L-02 for dialed connections
#[test]
fn a_dial_refused_in_on_prepare_leaves_nothing() {
    let event_loop = event_loop();
    let (addr, _log) = Probe::echo().serve(&event_loop);
    let (probe, log) = Probe::echo().before(|_| Err("not there".into())).start();
    let error = event_loop.dial(addr, PATIENCE, probe).expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    log.expect(&[At::Prepare]);
    assert_eq!(event_loop.connections(), 0);
}

// proves that connections_max holds for dialed and accepted connections, and that accepting goes on afterwards
#[test]
fn connections_are_bounded() {
    let event_loop = EventLoop::builder().polls(1).connections_max(2).build().expect("an event loop");
    let (addr, _log) = Probe::echo().serve(&event_loop);
    let mut first = connect(addr);
    ask(&mut first, b"one");
    let mut second = connect(addr);
    ask(&mut second, b"two");
    let (probe, _dial_log) = Probe::echo().start();
    assert!(event_loop.dial(addr, PATIENCE, probe).is_err());
    assert_eq!(read_all(&mut connect(addr)), b"", "the third is closed at once");
    assert_eq!(event_loop.connections(), 2);
    drop(first);
    wait_until("one has gone", || event_loop.connections() == 1);
    ask(&mut connect(addr), b"there is room again");
    ask(&mut second, b"and the others live");
}

// proves DESIGN 2.6: a dialed connection on the poll of another
#[test]
fn a_connection_can_be_dialed_near_another() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let _user = connect(addr);
    let near = log.handle();
    let (probe, dial_log) = Probe::echo().start();
    event_loop.dial_near(&near, addr, PATIENCE, probe).expect("dialed");
    dial_log.until(At::Connect);
}

// Misuse: a connection of another event loop is near to nothing here, and the other one would run what this one stops
#[test]
fn near_is_within_one_event_loop() {
    let (here, elsewhere) = (one_poll(), one_poll());
    let (addr, log) = Probe::echo().serve(&elsewhere);
    let _user = connect(addr);
    let near = log.handle();
    let (probe, dial_log) = Probe::echo().start();
    let options = DialOptions::new(PATIENCE).near(&near);
    for dialed in
        [here.dial_near(&near, addr, PATIENCE, probe.clone()), here.dial_with(addr, options, probe.clone())]
    {
        let error = dialed.expect_err("another event loop's");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("dial from that one"), "it says what to do: {error}");
    }
    assert!(dial_log.rest().is_empty());
    assert_eq!((here.connections(), elsewhere.connections()), (0, 1));
}

// proves L-14, L-15 for dialed connections: a target that answers and resets before anybody looks was connected all the same
#[test]
fn a_target_that_resets_at_once_was_connected() {
    let event_loop = one_poll();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (probe, log) = Probe::quiet().start();
    let remote = event_loop.remote();
    // On the only poll, so that the dial is looked at when all of it is over.
    let all_at_once = move || {
        remote.dial(addr, PATIENCE, probe).expect("dialed");
        let (mut target, _) = listener.accept().expect("the kernel has connected it");
        std::io::Write::write_all(&mut target, b"12345").expect("written");
        reset(target);
    };
    event_loop.after(Duration::ZERO, all_at_once).expect("armed");
    log.expect(&[At::Prepare, At::Connect]);
    assert_eq!(log.expect(&[At::Request]).input, 5);
    log.expect(&[At::Disconnect]);
    let closed = log.closed();
    let fault = Fault { kind: std::io::ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) };
    assert_eq!((closed.reason, closed.bytes_in, closed.connected), (Reason::Error(fault), 5, true));
    log.expect(&[At::Dropped]);
}

// proves L-01, L-18, L-32 for several addresses: one life, and the address that worked
#[test]
fn a_dial_goes_on_to_the_address_that_works() {
    let event_loop = event_loop();
    let (addr, _server_log) = Probe::echo().serve(&event_loop);
    let targets = vec![closed_port(), closed_port(), addr, closed_port()];
    let (probe, log) = Probe::echo().start();
    let handle = event_loop.dial(targets, PATIENCE, probe).expect("begun");
    log.expect(&[At::Prepare, At::Connect]);
    assert_eq!(handle.peer_addr(), Some(addr));
    handle.close();
    let closed = log.expect(&[At::Close]).closed.expect("told");
    assert_eq!((closed.reason, closed.peer, closed.connected), (Reason::User, Some(addr), true));
    log.expect(&[At::Dropped]);
    assert!(log.rest().is_empty());
    wait_until_none(&event_loop);
}

// proves L-11, L-32 for several addresses: one that does not answer takes no more than its share, and what was sent meanwhile is kept
#[test]
fn a_dial_gives_each_address_its_share_of_the_time() {
    let event_loop = event_loop();
    let (addr, _server_log) = Probe::echo().serve(&event_loop);
    let (silent, _listener, _streams) = full_listener();
    let (probe, log) = Probe::new(|_, _| Ok(())).start();
    let start = Instant::now();
    let handle = event_loop.dial(&[silent, addr][..], Duration::from_secs(1), probe).expect("begun");
    assert_eq!(handle.peer_addr(), Some(silent));
    handle.send(Bytes::from_static(b"early")).expect("kept");
    log.expect(&[At::Prepare, At::Connect]);
    assert!(start.elapsed() >= Duration::from_millis(500), "half of it is the first one's");
    log.find(|event| event.at == At::Request && event.input == 5);
    assert_eq!(handle.peer_addr(), Some(addr));
}

// proves L-32, L-18 for several addresses: one end, with what the last one came to
#[test]
fn a_dial_that_finds_no_address_that_works_ends_once() {
    let event_loop = event_loop();
    let timeout = Duration::from_millis(60);
    let (silent, _listener, _streams) = full_listener();
    let refused =
        Reason::Error(Fault { kind: std::io::ErrorKind::ConnectionRefused, errno: Some(libc::ECONNREFUSED) });
    let cases =
        [(vec![closed_port(), closed_port()], refused.clone()), (vec![silent, closed_port()], refused)];
    for (targets, reason) in cases {
        let last = targets.last().copied();
        let (probe, log) = Probe::echo().start();
        event_loop.dial(targets, timeout, probe).expect("begun");
        log.expect(&[At::Prepare]);
        let closed = log.expect(&[At::Close]).closed.expect("told");
        assert_eq!((closed.reason, closed.peer, closed.connected), (reason, last, false));
        log.expect(&[At::Dropped]);
    }
    let start = Instant::now();
    let (probe, log) = Probe::echo().start();
    event_loop.dial(vec![closed_port(), silent], timeout, probe).expect("begun");
    let closed = log.closed();
    assert!(matches!(closed.reason, Reason::Timeout(_)), "{:?}", closed.reason);
    assert!(start.elapsed() >= timeout);
    wait_until_none(&event_loop);
}

// proves L-12, L-29 for several addresses: given up, or stopped, while the second is tried
#[test]
fn a_dial_can_be_given_up_at_any_address() {
    for stop in [false, true] {
        let event_loop = event_loop();
        let (silent, _listener, _streams) = full_listener();
        let (probe, log) = Probe::echo().start();
        let handle = event_loop.dial(vec![closed_port(), silent], PATIENCE, probe).expect("begun");
        wait_until("the second is tried", || handle.peer_addr() == Some(silent));
        match stop {
            false => handle.abort(),
            true => assert!(event_loop.shutdown(PATIENCE)),
        }
        let reason = if stop { Reason::Shutdown } else { Reason::User };
        assert_eq!(log.closed().reason, reason);
        log.expect(&[At::Dropped]);
    }
}

// Bad input: no address at all
#[test]
fn a_dial_wants_an_address() {
    let event_loop = event_loop();
    let (probe, log) = Probe::echo().start();
    let error = event_loop.dial(vec![], PATIENCE, probe).expect_err("nowhere");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(log.rest().is_empty() && event_loop.connections() == 0);
}

// proves L-01, L-32 for Unix sockets
#[test]
fn a_unix_socket_is_dialed_by_its_path() {
    let event_loop = event_loop();
    let path = std::env::temp_dir().join(format!("poller-{}-dialed", std::process::id()));
    std::fs::remove_file(&path).ok();
    let (probe, log) = Probe::new(|_, _| Ok(())).start();
    event_loop.dial(path.as_path(), PATIENCE, probe.clone()).expect("begun");
    let fault = Fault { kind: std::io::ErrorKind::NotFound, errno: Some(libc::ENOENT) };
    assert_eq!(log.closed().reason, Reason::Error(fault));
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a path of our own");
    event_loop.serve(listener, Probe::echo().start().0).expect("served");
    let handle = event_loop.dial(path.as_path(), PATIENCE, probe).expect("begun");
    handle.send(Bytes::from_static(b"hello")).expect("open");
    log.find(|event| event.at == At::Request && event.input == 5);
    assert_eq!(handle.peer_addr(), None);
    std::fs::remove_file(&path).expect("ours");
}

// Options hold for each attempt: where it comes from, and what its socket is told before it connects.
#[test]
fn a_dial_comes_from_where_it_was_told() {
    let event_loop = event_loop();
    let (addr, server_log) = Probe::echo().serve(&event_loop);
    let attempts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = attempts.clone();
    let options =
        DialOptions::new(PATIENCE).bind(SocketAddr::from(([127, 0, 0, 2], 0))).configure(move |_| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        });
    let (probe, log) = Probe::echo().start();
    event_loop.dial_with(vec![closed_port(), addr], options, probe).expect("begun");
    log.until(At::Connect);
    let seen = server_log.handle().peer_addr().expect("TCP");
    assert_eq!(seen.ip().to_string(), "127.0.0.2");
    assert_eq!(attempts.load(std::sync::atomic::Ordering::SeqCst), 2);
}

/// Whether the attempt of this number panics when its socket is configured.
type Panics = fn(usize) -> bool;

// proves L-21, L-32: a panic in `configure` is an error of that attempt, told in one line, and nobody is counted who is gone
#[test]
fn a_panic_while_a_socket_is_configured_fails_that_attempt() {
    logs::keep();
    let event_loop = EventLoop::builder().name("configure").polls(1).build().expect("an event loop");
    let (addr, _server_log) = Probe::echo().serve(&event_loop);
    let failed = Reason::Error(Fault { kind: std::io::ErrorKind::Other, errno: None });
    let cases: [(Vec<SocketAddr>, Panics, usize, Option<&Reason>); 4] = [
        // At the first attempt, which the caller begins: the only one, the first of two, each of two.
        (vec![addr], |_| true, 1, Some(&failed)),
        (vec![addr, addr], |attempt| attempt == 0, 1, None),
        (vec![addr, addr], |_| true, 2, Some(&failed)),
        // At a later one, which the owner begins.
        (vec![closed_port(), addr], |attempt| attempt == 1, 1, Some(&failed)),
    ];
    let mut told = 0;
    for (targets, panics, lines, reason) in cases {
        let attempts = std::sync::atomic::AtomicUsize::new(0);
        let options = DialOptions::new(PATIENCE).configure(move |_| {
            let attempt = attempts.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            assert!(!panics(attempt), "on purpose, at attempt {attempt}");
            Ok(())
        });
        let (probe, log) = Probe::echo().start();
        let (dialed, when_dialed) = crossbeam_channel::bounded(1);
        // By a thread whose lines in the log can be told from others'.
        let remote = event_loop.remote();
        let dial = move || dialed.send(remote.dial_with(targets, options, probe)).expect("awaited");
        event_loop.after(Duration::ZERO, dial).expect("a timer");
        let handle = when_dialed.recv_timeout(PATIENCE).expect("returns").expect("begun");
        if reason.is_none() {
            log.until(At::Connect);
            handle.close();
        }
        let closed = log.closed();
        assert_eq!(closed.reason, *reason.unwrap_or(&Reason::User));
        told += lines;
        let errors = logs::lines("configure", log::Level::Error);
        assert_eq!(errors.len(), told, "{errors:?}");
        let line = errors.last().expect("a line");
        assert_eq!((line.value("callback"), line.value("event")), (Some("configure"), Some("panic")));
        assert_eq!(line.value("conn"), Some(&*closed.id.to_string()));
        assert!(line.text.contains("on purpose, at attempt"), "{line:?}");
    }
    wait_until("nobody is counted", || event_loop.connections() == 0);
    assert!(event_loop.shutdown(PATIENCE));
}

// proves L-32, S-30: who configures a socket may ask the connection about itself, and is told what is tried now
#[test]
fn a_socket_is_configured_without_a_lock_that_its_handle_needs() {
    let event_loop = one_poll();
    let (addr, _server_log) = Probe::echo().serve(&event_loop);
    let (give, handle) = crossbeam_channel::bounded::<Handle>(1);
    let (tell, told) = crossbeam_channel::bounded(1);
    let attempts = AtomicUsize::new(0);
    let options = DialOptions::new(PATIENCE).configure(move |_| {
        if attempts.fetch_add(1, Ordering::SeqCst) == 1 {
            // The owner begins the second attempt, so this waits for the caller of the first.
            let handle = handle.recv_timeout(PATIENCE).expect("given");
            tell.send((handle.peer_addr(), format!("{handle:?}"))).expect("awaited");
        }
        Ok(())
    });
    let (probe, log) = Probe::echo().start();
    let handle = event_loop.dial_with(vec![closed_port(), addr], options, probe).expect("begun");
    give.send(handle.clone()).expect("awaited");
    let (peer, text) = told.recv_timeout(PATIENCE).expect("the handle answers");
    assert_eq!(peer, Some(addr));
    assert!(text.contains(&addr.to_string()), "{text}");
    assert_eq!(log.handle().peer_addr(), Some(addr));
}
