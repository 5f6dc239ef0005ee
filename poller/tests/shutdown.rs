//! Graceful shutdown, and what is left after it.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use poller::{Reason, SendError};
use support::gate::gate;
use support::*;

// proves L-29, L-12: idle connections close at once, and that is the reason
#[test]
fn idle_connections_close_at_once() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let mut users: Vec<_> = (0..20).map(|_| connect(addr)).collect();
    users.iter_mut().for_each(|user| ask(user, b"hello"));
    assert!(event_loop.shutdown(PATIENCE), "nothing had to be forced");
    users.iter_mut().for_each(|user| assert_eq!(read_all(user), b""));
    let closed: Vec<_> = log.rest().into_iter().filter(|event| event.at == At::Close).collect();
    assert_eq!(closed.len(), 20);
    for event in closed {
        assert_eq!(event.closed.expect("told").reason, Reason::Shutdown);
    }
}

// proves L-29: what is under way is finished within the grace
#[test]
fn busy_connections_finish() {
    let event_loop = event_loop();
    let (stop, gate) = gate();
    let (addr, _log) = Probe::new(move |at, conn| {
        if at == At::Request && !conn.input_ended() {
            stop.wait_announced();
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"a long answer").expect("written");
    gate.reached();
    let remote = event_loop.remote();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| event_loop.shutdown(PATIENCE));
        wait_until("it is stopping", || remote.is_stopping());
        gate.open();
        assert_eq!(read_all(&mut user), b"a long answer");
        assert!(stopped.join().expect("no panic"), "nothing had to be forced");
    });
    assert!(
        remote.serve(TcpListener::bind("127.0.0.1:0").expect("a port"), Probe::echo().start().0).is_err()
    );
    assert!(remote.dial(addr, PATIENCE, Probe::echo().start().0).is_err());
    assert!(remote.after(Duration::ZERO, || ()).is_err());
    assert!(remote.spawn_blocking(|| ()).is_err());
}

// proves L-29, L-12, L-23: who does not end is ended at the deadline, and its unsent output is dropped
#[test]
fn what_does_not_end_is_forced_at_the_deadline() {
    let event_loop = event_loop();
    let (addr, log) = Probe::filled(32 << 20).serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    assert!(!event_loop.shutdown(Duration::from_millis(20)), "it had to be forced");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Shutdown);
    assert!(closed.unsent > 0);
    assert!(user.read_to_end(&mut Vec::new()).is_err(), "cut off, and it shows");
    assert!(matches!(handle.send(Bytes::new()), Err(SendError::Closed(_))));
}

// proves L-29, L-23: that it was ended by force shows also when nothing was left to be sent
#[test]
fn a_forced_end_looks_like_none() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| match at {
        At::Shutdown => Ok(()),
        _ => echo(at, conn),
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    ask(&mut user, b"the first half");
    assert!(!event_loop.shutdown(Duration::from_millis(20)), "it had to be forced");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::Shutdown, 0));
    let error = user.read_to_end(&mut Vec::new()).expect_err("nobody may take this for all there was");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

// proves L-29: on_shutdown may go on until its work is done
#[test]
fn on_shutdown_may_finish_its_work_first() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        match at {
            At::Shutdown => conn.output().write(b"last words?"),
            At::Request if !conn.input_ended() => {
                conn.input().clear();
                conn.output().write(b"goodbye");
                conn.close();
            }
            _ => {}
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| event_loop.shutdown(PATIENCE));
        let mut question = [0; 11];
        user.read_exact(&mut question).expect("on_shutdown writes");
        user.write_all(b"none").expect("written");
        assert_eq!(read_all(&mut user), b"goodbye");
        assert!(stopped.join().expect("no panic"));
    });
}

// proves L-29: no port stays taken, also when the listener is kept and when nothing ever connected
#[test]
fn a_stopped_event_loop_listens_no_more() {
    for _ in 0..50 {
        let event_loop = event_loop();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let kept = event_loop.serve(listener, Probe::echo().start().0).expect("served");
        drop(event_loop);
        let refused = TcpStream::connect(kept.local_addr()).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_closed_listener_frees_its_port_and_its_connections_live_on() {
    let event_loop = event_loop();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listener = event_loop.serve(listener, Probe::echo().start().0).expect("served");
    let mut user = connect(listener.local_addr());
    ask(&mut user, b"before");
    listener.close();
    wait_until("the port is closed", || TcpStream::connect(listener.local_addr()).is_err());
    ask(&mut user, b"after");
}

// proves L-29, L-18: connections that open while everything stops are ended like all others, and none is forgotten
#[test]
fn connections_that_open_during_the_stopping_are_ended_too() {
    for round in 0..60 {
        let event_loop = event_loop();
        let (addr, log) = Probe::echo().serve(&event_loop);
        let (probe, dial_log) = Probe::echo().start();
        let remote = event_loop.remote();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // Both may fail: the event loop stops.
                        TcpStream::connect(addr).ok();
                        remote.dial(addr, PATIENCE, probe.clone()).ok();
                    }
                });
            }
            log.until(At::Connect);
            event_loop.shutdown(Duration::from_millis(round % 3));
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(remote.connections(), 0);
        for log in [log, dial_log] {
            let count = |at, events: &[Event]| events.iter().filter(|event| event.at == at).count();
            let events = log.rest();
            // One Connect of the server was looked at above.
            assert!(count(At::Close, &events) >= count(At::Connect, &events));
            assert_eq!(count(At::Close, &events), count(At::Dropped, &events));
        }
    }
}

// proves L-29: a panic in on_shutdown ends that connection
#[test]
fn a_panic_in_on_shutdown_does_not_hold_up_the_stopping() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        assert_ne!(at, At::Shutdown, "on purpose");
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    ask(&mut user, b"hello");
    assert!(event_loop.shutdown(PATIENCE));
    assert_eq!(log.closed().reason, Reason::Panic);
}

// proves that two event loops live side by side
#[test]
fn two_event_loops_know_nothing_of_each_other() {
    let (first, second) = (event_loop(), event_loop());
    let (addr, _log) = Probe::echo().serve(&first);
    let (other, _other_log) = Probe::echo().serve(&second);
    let mut user = connect(other);
    ask(&mut connect(addr), b"one");
    assert!(first.shutdown(PATIENCE));
    ask(&mut user, b"two");
}
