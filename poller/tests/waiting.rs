//! Blocking reads and flushes: the thread that waits is woken by all that concerns it, and nobody else waits for it.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use poller::{Connection, EventLoop, Limit, Reason, limits};
use socket2::{Domain, Socket, Type};
use support::*;

/// What a wait came to.
type Outcome = Result<(), (ErrorKind, String)>;

/// A handler that waits with `wait` at the first bytes of each connection, after it has told so, and tells how that ended.
fn waiting(
    event_loop: &EventLoop,
    wait: impl Fn(&mut Connection) -> std::io::Result<()> + Send + Sync + 'static,
) -> (std::net::SocketAddr, Log, Receiver<()>, Receiver<Outcome>) {
    let (began, begun) = crossbeam_channel::unbounded();
    let (told, outcomes) = crossbeam_channel::unbounded();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request && !conn.input().is_empty() {
            began.send(()).ok();
            let outcome = wait(conn).map_err(|error| (error.kind(), error.to_string()));
            told.send(outcome).ok();
            conn.input().clear();
        }
        Ok(())
    })
    .serve(event_loop);
    (addr, log, begun, outcomes)
}

/// A user who has sent `bytes`, and whose handler has begun to wait.
fn begin(addr: std::net::SocketAddr, bytes: &[u8], begun: &Receiver<()>) -> TcpStream {
    let mut user = connect(addr);
    user.write_all(bytes).expect("written");
    begun.recv_timeout(PATIENCE).expect("begun");
    user
}

#[track_caller]
fn outcome(outcomes: &Receiver<Outcome>) -> Outcome {
    outcomes.recv_timeout(PATIENCE).expect("woken")
}

// proves L-10: messages read from beginning to end, while others are served by the same poll
#[test]
fn a_handler_reads_whole_messages_while_others_are_served() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        while at == At::Request && !conn.input().is_empty() {
            conn.wait_for(4)?;
            let len = conn.input().read_u32()? as usize;
            conn.wait_for(len)?;
            let message = conn.input().read_bytes(len)?;
            conn.output().write_bytes(message);
        }
        Ok(())
    })
    .serve(&event_loop);
    let (echo_addr, _echo_log) = Probe::echo().serve(&event_loop);
    let mut other = connect(echo_addr);
    let mut user = connect(addr);
    for len in [1usize, 100, limits::READ_BYTES_MAX + 1, 300_000] {
        let message: Vec<u8> = (0..len).map(pattern).collect();
        let mut bytes = Vec::from((len as u32).to_be_bytes());
        bytes.extend(&message);
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        user.write_all(&head[..1]).expect("written");
        ask(&mut other, b"in between");
        user.write_all(&head[1..]).expect("written");
        ask(&mut other, b"in between");
        user.write_all(tail).expect("written");
        let mut answer = vec![0; len];
        user.read_exact(&mut answer).expect("answered");
        assert!(answer == message, "{len} bytes came back as they were");
    }
    drop(user);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves that a wait at the end of the stream says how far it came, and that the handler is told of the end as ever
#[test]
fn the_end_of_the_stream_ends_a_wait() {
    let event_loop = one_poll();
    let (addr, log, begun, outcomes) = waiting(&event_loop, |conn| conn.wait_for(4));
    let user = begin(addr, b"12", &begun);
    user.shutdown(Shutdown::Write).expect("shut down");
    let (kind, text) = outcome(&outcomes).expect_err("not enough");
    assert_eq!((kind, text.as_str()), (ErrorKind::UnexpectedEof, "the stream ended after 2 of 4 bytes"));
    assert!(log.find(|event| event.at == At::Request && event.ended).ended);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-07: a handler that waits on at the end of the stream is told of that end once, and not without end
#[test]
fn a_wait_behind_the_end_of_the_stream_does_not_wake_its_own_handler() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Request {
            let error = conn.wait_for(4).expect_err("there are two");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
        Ok(())
    })
    .half_close()
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"12").expect("written");
    user.shutdown(Shutdown::Write).expect("shut down");
    // In the first the wait found the end, in the second the handler was told of it.
    log.expect(&[At::Request, At::Request]);
    for _ in 0..3 {
        handle.set_timer(Duration::ZERO).expect("open");
        log.expect(&[At::Timer]);
    }
    handle.wake();
    log.expect(&[At::Request]);
    handle.close();
    assert_eq!(log.expect(&[At::Close]).closed.expect("told").reason, Reason::User);
}

// proves L-15: a reset wakes the waiter with its errno
#[test]
fn a_reset_ends_a_wait() {
    let event_loop = one_poll();
    let (addr, log, begun, outcomes) = waiting(&event_loop, |conn| conn.wait_for(4));
    reset(begin(addr, b"12", &begun));
    assert_eq!(outcome(&outcomes).expect_err("reset").0, ErrorKind::ConnectionReset);
    assert!(matches!(log.closed().reason, Reason::Error(_)));
}

// proves L-13: pending readers and writers wake with an error when the connection is closed, gracefully or not
#[test]
fn a_close_from_elsewhere_wakes_readers_and_writers() {
    type Wait = fn(&mut Connection) -> std::io::Result<()>;
    let read: Wait = |conn| conn.wait_for(4);
    let write: Wait = |conn| {
        conn.output().write_bytes(Bytes::from(vec![0; 32 << 20]));
        conn.flush_all()
    };
    for wait in [read, write] {
        for abort in [false, true] {
            let event_loop =
                EventLoop::builder().polls(1).close_stall(Duration::from_millis(20)).build().expect("a loop");
            let (addr, log, begun, outcomes) = waiting(&event_loop, wait);
            let _user = begin(addr, b"1", &begun);
            let handle = log.handle();
            match abort {
                true => handle.abort(),
                false => handle.close(),
            }
            assert_eq!(outcome(&outcomes).expect_err("closed").0, ErrorKind::ConnectionAborted);
            assert_eq!(log.closed().reason, Reason::User);
        }
    }
}

// proves L-29: a handler that waits does not hold up the end of the event loop
#[test]
fn the_end_of_the_event_loop_wakes_a_waiter() {
    let event_loop = one_poll();
    let (addr, log, begun, outcomes) = waiting(&event_loop, |conn| conn.wait_for(4));
    let _user = begin(addr, b"1", &begun);
    assert!(!event_loop.shutdown(Duration::ZERO), "it was in the middle of something");
    assert_eq!(outcome(&outcomes).expect_err("closed").0, ErrorKind::ConnectionAborted);
    assert_eq!(log.closed().reason, Reason::Shutdown);
}

// proves L-11: the limits run while a handler waits
#[test]
fn a_limit_that_passes_ends_a_wait() {
    let short = Some(Duration::from_millis(40));
    let event_loop = one_poll();
    let (addr, log, begun, outcomes) = waiting(&event_loop, move |conn| match conn.input().chunk()[0] {
        b'r' => {
            conn.input().clear();
            conn.set_read_timeout(short)?;
            conn.wait_for(1)
        }
        b'i' => {
            conn.set_idle_timeout(short)?;
            conn.wait_for(9)
        }
        _ => {
            conn.set_write_stall_timeout(short)?;
            conn.output().write_bytes(Bytes::from(vec![0; 32 << 20]));
            conn.flush_all()
        }
    });
    for (first, limit) in [(b"r", Limit::Read), (b"i", Limit::Idle), (b"w", Limit::WriteStall)] {
        let _user = begin(addr, first, &begun);
        assert_eq!(outcome(&outcomes).expect_err("too long").0, ErrorKind::TimedOut);
        assert_eq!(log.closed().reason, Reason::Timeout(limit));
    }
}

// proves L-11: who waits for output to leave waits for no message, so the read limit does not run meanwhile
#[test]
fn the_read_limit_does_not_run_while_output_is_waited_for() {
    const BUFFER: usize = 16_384;
    const TOTAL: usize = limits::OUTPUT_HIGH_BYTES;
    let limit = Duration::from_millis(20);
    let event_loop = one_poll();
    let (told, outcomes) = crossbeam_channel::unbounded();
    let (began, begun) = crossbeam_channel::unbounded();
    let (probe, _log) = Probe::new(move |at, conn| {
        if at == At::Request && conn.input().len() == 1 {
            conn.set_read_timeout(Some(limit))?;
            conn.output().write_bytes(Bytes::from(vec![7; TOTAL]));
            began.send(()).ok();
            // What is in the input stays there, as the beginning of a message.
            let outcome = conn.flush_all().map_err(|error| (error.kind(), error.to_string()));
            conn.input().clear();
            told.send(outcome).ok();
        }
        Ok(())
    })
    .start();
    // So little that the kernel cannot take it all, which accepted sockets inherit.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket2::SockRef::from(&listener).set_send_buffer_size(BUFFER).expect("a buffer");
    let addr = event_loop.serve(listener, probe).expect("served").local_addr();
    let user = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    user.set_recv_buffer_size(BUFFER).expect("a buffer");
    user.connect(&addr.into()).expect("connected");
    user.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut user = TcpStream::from(user);
    user.write_all(b"1").expect("written");
    begun.recv_timeout(PATIENCE).expect("begun");
    let (fires, passed) = crossbeam_channel::bounded(1);
    event_loop.after(4 * limit, move || fires.send(()).expect("listened to")).expect("a timer");
    passed.recv_timeout(PATIENCE).expect("time passes");
    assert!(outcomes.is_empty(), "the peer has not taken it, and no limit is about that");
    user.read_exact(&mut vec![0; TOTAL]).expect("all of it");
    assert_eq!(outcome(&outcomes), Ok(()));
}

// proves that WAIT_MS, or what the builder has in its place, ends a wait that no limit of the connection bounds
#[test]
fn a_wait_without_limits_is_bounded() {
    let bound = Duration::from_millis(40);
    let event_loop = EventLoop::builder().polls(1).wait_limit(bound).build().expect("a loop");
    let (addr, log, begun, outcomes) = waiting(&event_loop, |conn| conn.wait_for(4));
    let _user = begin(addr, b"1", &begun);
    assert_eq!(outcome(&outcomes).expect_err("too long").0, ErrorKind::TimedOut);
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Timeout(Limit::Read));
    assert!(closed.lifetime >= bound);
}

// proves that output leaves before a wait, and that what handles send leaves during it
#[test]
fn output_leaves_while_the_handler_waits() {
    let event_loop = one_poll();
    let (addr, log, begun, outcomes) = waiting(&event_loop, |conn| {
        conn.output().write(b"more? ");
        conn.wait_for(6)
    });
    let mut user = begin(addr, b"1", &begun);
    let mut question = [0; 6];
    user.read_exact(&mut question).expect("sent before the wait");
    log.handle().send(Bytes::from_static(b"please")).expect("open");
    user.read_exact(&mut question).expect("sent during the wait");
    assert_eq!(&question, b"please");
    user.write_all(b"23456").expect("written");
    assert_eq!(outcome(&outcomes), Ok(()));
}

// proves that a blocking flush returns when the kernel has taken everything, and not before
#[test]
fn a_flush_waits_until_all_is_taken() {
    const TOTAL: usize = 32 << 20;
    let event_loop = one_poll();
    let left = std::sync::Arc::new(Mutex::new(None));
    let (addr, log, begun, outcomes) = waiting(&event_loop, {
        let left = left.clone();
        move |conn| {
            conn.output().write_bytes(Bytes::from(vec![7; TOTAL]));
            let outcome = conn.flush_all();
            *left.lock().expect("no panic") = Some((conn.output().len(), conn.bytes_out()));
            outcome
        }
    });
    let mut user = begin(addr, b"1", &begun);
    user.read_exact(&mut vec![0; TOTAL]).expect("all of it");
    assert_eq!(outcome(&outcomes), Ok(()));
    assert_eq!(*left.lock().expect("no panic"), Some((0, TOTAL as u64)));
    drop(user);
    log.closed();
}

// proves that as many handlers wait as there are standby workers, and that one more is told so
#[test]
fn handlers_that_wait_are_bounded() {
    let event_loop = EventLoop::builder().polls(1).standby_max(2).build().expect("a loop");
    let (addr, _log, begun, outcomes) = waiting(&event_loop, |conn| conn.wait_for(4));
    let mut waiting: Vec<TcpStream> = (0..2).map(|_| begin(addr, b"1", &begun)).collect();
    let _one_more = begin(addr, b"1", &begun);
    assert_eq!(outcome(&outcomes).expect_err("too many").0, ErrorKind::ResourceBusy);
    for user in &mut waiting {
        user.write_all(b"234").expect("written");
        assert_eq!(outcome(&outcomes), Ok(()));
    }
    let mut again = begin(addr, b"1", &begun);
    again.write_all(b"234").expect("written");
    assert_eq!(outcome(&outcomes), Ok(()), "there is room again");
}

// proves that nobody waits for what never fits
#[test]
fn more_than_an_input_holds_is_not_waited_for() {
    let event_loop = one_poll();
    let (addr, _log, begun, outcomes) =
        waiting(&event_loop, |conn| conn.wait_for(limits::INPUT_HIGH_BYTES + 1));
    let _user = begin(addr, b"1", &begun);
    assert_eq!(outcome(&outcomes).expect_err("too much").0, ErrorKind::InvalidInput);
}

// proves L-11 within on_connect: its waits are under the limits that it has set
#[test]
fn limits_run_while_on_connect_waits() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.set_read_timeout(Some(Duration::from_millis(50)))?;
            let error = conn.wait_for(16).expect_err("nobody says anything");
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        }
        Ok(())
    })
    .serve(&event_loop);
    let _user = connect(addr);
    assert_eq!(log.closed().reason, Reason::Timeout(Limit::Read));
}
