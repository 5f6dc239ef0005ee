//! The phases of a connection, in order, and what a handler may rely on in each.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use poller::{Connection, Handler, Prepare, Reason, Reject, limits};
use support::gate::gate;
use support::*;

// proves L-01, L-02, L-03, L-14, L-20
#[test]
fn an_accepted_connection_passes_the_phases_in_order() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"welcome");
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let mut welcome = [0; 7];
    user.read_exact(&mut welcome).expect("on_connect may write");
    assert_eq!(&welcome, b"welcome");
    ask(&mut user, b"12345");
    let local = user.local_addr().expect("an address");
    drop(user);
    log.expect(&[At::Prepare, At::Connect, At::Request]);
    assert!(log.expect(&[At::Request]).ended);
    log.expect(&[At::Disconnect]);
    let closed = log.expect(&[At::Close]).closed.expect("told why");
    log.expect(&[At::Dropped]);
    assert_eq!(closed.reason, Reason::Peer);
    assert_eq!((closed.peer, closed.local), (Some(local), Some(addr)));
    assert_eq!((closed.bytes_in, closed.bytes_out, closed.unsent), (5, 12, 0));
    assert!(closed.connected);
    wait_until_none(&event_loop);
    assert!(log.rest().is_empty());
}

// proves L-02
#[test]
fn a_connection_refused_in_on_prepare_gets_no_other_callback() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().before(|_| Err("not today".into())).serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"");
    log.expect(&[At::Prepare]);
    wait_until_none(&event_loop);
    event_loop.shutdown(PATIENCE);
    assert!(log.rest().is_empty());
}

// proves L-02, L-21
#[test]
fn a_panic_in_on_prepare_refuses_that_connection_alone() {
    let event_loop = one_poll();
    let first = AtomicBool::new(true);
    let (addr, log) = Probe::echo()
        .before(move |_| match first.swap(false, Ordering::Relaxed) {
            true => panic!("on purpose"),
            false => Ok(()),
        })
        .serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"");
    ask(&mut connect(addr), b"the next one lives");
    log.expect(&[At::Prepare, At::Prepare, At::Connect, At::Request]);
}

/// Counts requests, from what `on_connect` puts in the place of what `on_prepare` made.
struct Counting;

impl Handler for Counting {
    type Context = u8;
    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<u8, Reject> {
        Ok(b'x')
    }
    fn on_connect(&self, cx: &mut u8, _: &mut Connection) -> poller::Result {
        *cx = b'a';
        Ok(())
    }
    fn on_request(&self, cx: &mut u8, conn: &mut Connection) -> poller::Result {
        conn.input().clear();
        conn.output().write(&[*cx]);
        *cx += 1;
        Ok(())
    }
}

// proves L-03, L-05
#[test]
fn on_connect_may_replace_the_context_that_every_request_gets() {
    let event_loop = event_loop();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = event_loop.serve(listener, Counting).expect("served").local_addr();
    let mut user = connect(addr);
    for want in [b'a', b'b', b'c'] {
        user.write_all(b"?").expect("written");
        let mut answer = [0];
        user.read_exact(&mut answer).expect("answered");
        assert_eq!(answer[0], want);
    }
}

// proves L-07
#[test]
fn what_was_not_consumed_brings_no_call_by_itself() {
    let event_loop = event_loop();
    let (addr, log) = Probe::quiet().serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    for total in 1..=3 {
        user.write_all(b"x").expect("written");
        assert_eq!(log.expect(&[At::Request]).input, total);
    }
    handle.wake();
    // Would a busy loop call, more requests stood here.
    assert_eq!(log.expect(&[At::Request]).input, 3);
    drop(user);
    let end = log.expect(&[At::Request]);
    assert!(end.ended && end.input == 3);
    log.expect(&[At::Disconnect, At::Close, At::Dropped]);
}

// proves L-04, L-07: every wake is followed by a request that sees what was left before it
#[test]
fn requests_never_overlap_and_no_wake_is_lost() {
    const THREADS: usize = 8;
    const ITEMS: usize = 2_000;
    let event_loop = event_loop();
    let inside = Arc::new(AtomicUsize::new(0));
    let todo = Arc::new(Mutex::new(Vec::new()));
    let done = Arc::new(AtomicUsize::new(0));
    let (addr, log) = Probe::new({
        let (inside, todo, done) = (inside.clone(), todo.clone(), done.clone());
        move |at, conn| {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two callbacks at once");
            let items: Vec<usize> = std::mem::take(&mut *todo.lock().expect("no panic"));
            done.fetch_add(items.len(), Ordering::SeqCst);
            let result = echo(at, conn);
            inside.fetch_sub(1, Ordering::SeqCst);
            result
        }
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for item in 0..ITEMS {
                    todo.lock().expect("no panic").push(item);
                    handle.wake();
                }
            });
        }
        for round in 0..500 {
            ask(&mut user, format!("round {round}").as_bytes());
        }
    });
    wait_until("every item was worked on", || done.load(Ordering::SeqCst) == THREADS * ITEMS);
    drop(user);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-04, L-19: the last callbacks wait for the handler that runs, whoever closes and wakes meanwhile
#[test]
fn the_last_callbacks_never_meet_a_handler() {
    let event_loop = event_loop();
    let inside = Arc::new(AtomicUsize::new(0));
    let alone = {
        let inside = inside.clone();
        move || {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two callbacks at once");
            // Longer inside than outside, or nobody would meet.
            (0..10).for_each(|_| std::thread::yield_now());
            inside.fetch_sub(1, Ordering::SeqCst);
        }
    };
    let (acts, ends) = (alone.clone(), alone);
    let (addr, log) = Probe::new(move |at, conn| {
        acts();
        echo(at, conn)
    })
    .after(move |_, _| ends())
    .close_callbacks(2)
    .serve(&event_loop);
    for _ in 0..30 {
        let user = connect(addr);
        let handle = log.handle();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !handle.is_closed() {
                        handle.wake();
                        std::thread::yield_now();
                    }
                });
            }
            log.until(At::Request);
            drop(user);
            handle.close();
        });
        log.until(At::Dropped);
    }
}

// proves L-06: what the handler writes leaves when it returns, all in one
#[test]
fn one_write_for_a_turn_of_pipelined_requests() {
    let event_loop = event_loop();
    let early = Arc::new(AtomicBool::new(false));
    let (addr, _log) = Probe::new({
        let early = early.clone();
        move |at, conn| {
            if at == At::Request {
                let before = conn.bytes_out();
                while conn.input().until(b'\n').is_some() {
                    conn.output().write(b"answer\n");
                    early.fetch_or(conn.bytes_out() != before, Ordering::Relaxed);
                }
            }
            Ok(())
        }
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(&b"question\n".repeat(16)).expect("written");
    let mut answers = [0; 7 * 16];
    user.read_exact(&mut answers).expect("answered");
    assert!(!early.load(Ordering::Relaxed), "something left before the handler returned");
}

// proves L-06: and earlier when it says so
#[test]
fn flush_sends_before_the_handler_returns() {
    let event_loop = event_loop();
    let (stop, gate) = gate();
    let (addr, _log) = Probe::new(move |at, conn| {
        if at == At::Connect {
            conn.output().write(b"early");
            conn.flush()?;
            stop.wait_announced();
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let mut answer = [0; 5];
    user.read_exact(&mut answer).expect("sent while the handler runs");
    gate.open();
    ask(&mut user, b"goes on");
}

// proves L-31
#[test]
fn one_that_sends_without_end_does_not_starve_a_hundred_that_ask() {
    let event_loop = one_poll();
    let (addr, _log) = Probe::echo().serve(&event_loop);
    let (sink, _sink_log) = Probe::new(|_, conn| {
        conn.input().clear();
        Ok(())
    })
    .serve(&event_loop);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut flood = connect(sink);
            let block = vec![7; limits::TURN_BYTES_MAX];
            while !stop.load(Ordering::Relaxed) {
                flood.write_all(&block).expect("taken");
            }
        });
        let mut users: Vec<_> = (0..100).map(|_| connect(addr)).collect();
        for _ in 0..3 {
            users.iter_mut().for_each(|user| ask(user, b"now and then"));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

// proves L-24's part for the owner: many connections side by side, each with its own bytes
#[test]
fn connections_do_not_see_each_others_bytes() {
    let event_loop = event_loop();
    let (addr, _log) = Probe::echo().serve(&event_loop);
    std::thread::scope(|scope| {
        for user in 0..8u8 {
            scope.spawn(move || {
                for round in 0..20 {
                    let mut stream = connect(addr);
                    ask(&mut stream, &vec![user; 1 + round * 997]);
                }
            });
        }
    });
}
