//! Every way in which a connection ends: one reason, one clean-up, and nobody else notices.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use bytes::Bytes;
use poller::{Fault, Handle, Reason, SendError};
use support::gate::gate;
use support::*;

// proves L-18, L-19, L-21: closing again in the last callbacks changes nothing, a panic there skips no other
#[test]
fn a_panic_in_the_last_callbacks_leaves_the_others_their_turn() {
    for panics in [At::Disconnect, At::Close] {
        let event_loop = one_poll();
        let kept = Arc::new(Mutex::new(None::<Handle>));
        let (told, callbacks) = crossbeam_channel::unbounded();
        let (addr, log) = Probe::new({
            let kept = kept.clone();
            move |at, conn| {
                if at == At::Connect {
                    let told = told.clone();
                    let handle = conn.handle();
                    handle.add_close_callback(move |_| told.send("first").expect("listened to"))?;
                    handle.add_close_callback(|_| panic!("on purpose, in a close callback"))?;
                    *kept.lock().expect("no panic") = Some(conn.handle());
                }
                echo(at, conn)
            }
        })
        .after({
            let kept = kept.clone();
            move |at, _| {
                let handle = kept.lock().expect("no panic").clone().expect("connected");
                handle.close();
                handle.abort();
                handle.wake();
                assert!(matches!(handle.send(Bytes::from_static(b"late")), Err(SendError::Closed(_))));
                if at == panics {
                    panic!("on purpose");
                }
            }
        })
        .serve(&event_loop);
        drop(connect(addr));
        log.until(At::Disconnect);
        log.expect(&[At::Close, At::Dropped]);
        assert_eq!(callbacks.recv_timeout(PATIENCE), Ok("first"));
        ask(&mut connect(addr), b"others live");
    }
}

// proves L-14: every byte before the end first, then on_disconnect, then the close callbacks
#[test]
fn all_that_the_peer_sent_before_its_end_is_handed_over_first() {
    const TOTAL: usize = 3 << 20;
    let event_loop = event_loop();
    let seen = Arc::new(AtomicUsize::new(0));
    let (addr, log) = Probe::new({
        let seen = seen.clone();
        move |_, conn| {
            seen.fetch_add(conn.input().len(), Ordering::SeqCst);
            conn.input().clear();
            Ok(())
        }
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(&vec![1; TOTAL]).expect("written");
    drop(user);
    log.until(At::Disconnect);
    assert_eq!(seen.load(Ordering::SeqCst), TOTAL);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    assert_eq!((closed.reason, closed.bytes_in), (Reason::Peer, TOTAL as u64));
}

// proves L-15: a reset keeps its errno, and what came before it is handed over
#[test]
fn a_reset_keeps_its_errno() {
    let event_loop = event_loop();
    let (addr, log) = Probe::quiet().serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"12345").expect("written");
    log.until(At::Request);
    reset(user);
    log.expect(&[At::Disconnect]);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    let fault = Fault { kind: std::io::ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) };
    assert_eq!((closed.reason, closed.bytes_in), (Reason::Error(fault), 5));
}

// proves L-14, L-15: also when sending finds out first
#[test]
fn input_before_a_reset_survives_that_sending_fails() {
    let event_loop = one_poll();
    let (stop, gate) = gate();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Connect {
            stop.wait_announced();
            conn.output().write(b"nobody takes this any more");
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"12345").expect("written");
    reset(user);
    gate.open();
    assert_eq!(log.until(At::Request).input, 5);
    log.expect(&[At::Disconnect]);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    let fault = Fault { kind: std::io::ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) };
    assert_eq!((closed.reason, closed.bytes_in, closed.unsent), (Reason::Error(fault), 5, 26));
    log.expect(&[At::Dropped]);
}

// proves L-15, L-12: a handler that passes on what its flush said is not the one who closed
#[test]
fn a_flush_that_fails_is_the_connections_fault() {
    let event_loop = one_poll();
    let (stop, gate) = gate();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Connect {
            stop.wait_announced();
            conn.output().write(b"nobody takes this any more");
            conn.flush()?;
        }
        Ok(())
    })
    .serve(&event_loop);
    reset(connect(addr));
    gate.open();
    let closed = log.until(At::Close).closed.expect("told");
    let fault = Fault { kind: std::io::ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) };
    assert_eq!(closed.reason, Reason::Error(fault));
}

/// How the peer leaves.
fn leave(user: TcpStream, how: usize) {
    match how % 2 {
        0 => drop(user),
        _ => reset(user),
    }
}

// proves L-16, L-12
#[test]
fn user_and_peer_at_the_same_instant_is_one_reason_and_one_cleanup() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().serve(&event_loop);
    for round in 0..300 {
        let user = connect(addr);
        let handle = log.handle();
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                match round % 4 {
                    0 | 1 => handle.close(),
                    _ => handle.abort(),
                }
            });
            barrier.wait();
            leave(user, round);
        });
        let mut ends = Vec::new();
        loop {
            let event = log.next();
            match event.at {
                At::Request => assert!(event.ended),
                At::Dropped => break,
                at => ends.push((at, event.closed.expect("told").reason)),
            }
        }
        let (last, reason) = ends.last().expect("closed");
        assert_eq!(*last, At::Close);
        assert!(ends.len() <= 2 && ends.iter().all(|(_, other)| other == reason), "{ends:?}");
        assert!(matches!(reason, Reason::User | Reason::Peer | Reason::Error(_)), "{reason:?}");
        assert!(handle.is_closed());
    }
    wait_until_none(&event_loop);
}

// proves L-18: the peer is gone before, during and right at the end of on_connect
#[test]
fn a_peer_that_leaves_around_on_connect_costs_one_cleanup() {
    for when in [At::Prepare, At::Connect, At::Request] {
        for how in 0..2 {
            let event_loop = one_poll();
            let (stop, gate) = gate();
            let before = stop.clone();
            let (addr, log) = Probe::new(move |at, conn| {
                if at == At::Connect && when == At::Connect {
                    stop.wait_announced();
                }
                if at == At::Connect {
                    conn.output().write(b"welcome");
                }
                Ok(())
            })
            .before(move |_| {
                if when == At::Prepare {
                    before.wait_announced();
                }
                Ok(())
            })
            .serve(&event_loop);
            let user = connect(addr);
            if when == At::Request {
                log.until(At::Connect);
            }
            leave(user, how);
            if when != At::Request {
                gate.open();
            }
            let mut seen: Vec<At> = Vec::new();
            while seen.last() != Some(&At::Dropped) {
                seen.push(log.next().at);
            }
            let count = |at| seen.iter().filter(|seen| **seen == at).count();
            assert_eq!(count(At::Close), 1, "{when:?} {how}: {seen:?}");
            assert_eq!(count(At::Disconnect), 1, "{when:?} {how}: {seen:?}");
            wait_until_none(&event_loop);
            assert!(log.rest().is_empty());
        }
    }
}

// proves L-24, L-13
#[test]
fn a_handle_kept_after_the_close_says_closed_also_when_the_slot_is_taken_again() {
    let event_loop = one_poll();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let user = connect(addr);
    let old = log.handle();
    old.close();
    assert_eq!(log.closed().reason, Reason::User);
    wait_until_none(&event_loop);
    drop(user);
    let mut next = connect(addr);
    ask(&mut next, b"same slot");
    assert!(old.is_closed());
    assert_eq!(old.send(Bytes::from_static(b"stray")), Err(SendError::Closed(Bytes::from_static(b"stray"))));
    old.wake();
    old.close();
    old.abort();
    old.wake_on_drain(&old);
    ask(&mut next, b"untouched");
    drop(next);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.bytes_out), (Reason::Peer, 18));
}

// proves L-19, L-20
#[test]
fn close_callbacks_run_last_in_first_out_and_a_late_one_at_once() {
    let event_loop = event_loop();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (addr, log) = Probe::new({
        let order = order.clone();
        move |at, conn| {
            if at == At::Connect {
                for n in 0..3 {
                    let order = order.clone();
                    let add = move |info: &poller::Closed| {
                        assert_eq!((info.reason.clone(), info.bytes_in), (Reason::Peer, 4));
                        order.lock().expect("no panic").push(format!("callback {n}"));
                    };
                    conn.handle().add_close_callback(add)?;
                }
            }
            conn.input().clear();
            Ok(())
        }
    })
    .after({
        let order = order.clone();
        move |at, _| order.lock().expect("no panic").push(format!("{at:?}"))
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"1234").expect("written");
    drop(user);
    log.until(At::Dropped);
    let want = ["Disconnect", "callback 2", "callback 1", "callback 0", "Close"];
    assert_eq!(*order.lock().expect("no panic"), want);
    let (told, late) = crossbeam_channel::unbounded();
    let here = std::thread::current().id();
    handle
        .add_close_callback(move |info| {
            assert_eq!(std::thread::current().id(), here);
            told.send(info.reason.clone()).expect("listened to");
        })
        .expect("after the close it runs");
    assert_eq!(late.try_recv(), Ok(Reason::Peer));
}

// proves L-23: a close sends what is queued, by the handler and by handles, however much
#[test]
fn a_graceful_close_sends_what_is_queued() {
    const TOTAL: usize = 8 << 20;
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Request {
            conn.input().clear();
            conn.output().write_bytes(Bytes::from(vec![b'a'; TOTAL]));
            conn.handle().send(Bytes::from_static(b"and by a handle")).expect("open");
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"?").expect("written");
    let all = read_all(&mut user);
    assert_eq!(all.len(), TOTAL + 15);
    assert!(all.ends_with(b"aand by a handle"));
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent, closed.bytes_out), (Reason::User, 0, all.len() as u64));
}

// proves L-23, L-12: an abort drops it, also one that overtakes a graceful close, and the peer can tell
#[test]
fn an_abort_drops_what_is_queued_and_resets() {
    for graceful_first in [false, true] {
        let event_loop = event_loop();
        let (addr, log) = Probe::filled(32 << 20).serve(&event_loop);
        let mut user = connect(addr);
        let handle = log.handle();
        if graceful_first {
            handle.close();
        }
        handle.abort();
        let closed = log.closed();
        assert_eq!(closed.reason, Reason::User);
        assert_eq!(closed.unsent + closed.bytes_out, 32 << 20);
        assert!(closed.unsent > 0);
        let error = user.read_to_end(&mut Vec::new()).expect_err("cut off, and it shows");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

// proves L-23: the limit of a graceful close whose peer takes nothing
#[test]
fn a_graceful_close_gives_up_when_nothing_moves() {
    let event_loop =
        poller::EventLoop::builder().polls(1).close_stall(Duration::from_millis(20)).build().expect("a loop");
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write_bytes(Bytes::from(vec![0; 32 << 20]));
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::User);
    assert!(closed.unsent > 0 && closed.connected);
    let error = user.read_to_end(&mut Vec::new()).expect_err("cut off, and it shows");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

// proves L-23: and a slow peer that keeps taking gets everything, however long that takes
#[test]
fn a_graceful_close_waits_as_long_as_output_moves() {
    // Long beside what a busy machine does to this reader, and short beside the whole transfer.
    let stall = Duration::from_secs(1);
    let event_loop = poller::EventLoop::builder().polls(1).close_stall(stall).build().expect("a loop");
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write_bytes(Bytes::from(vec![0; 16 << 20]));
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let mut block = vec![0; 1 << 20];
    for _ in 0..16 {
        user.read_exact(&mut block).expect("still sent");
        // A slow reader is what this is about.
        std::thread::sleep(stall / 10);
    }
    assert_eq!(read_all(&mut user), b"");
    assert_eq!(log.closed().unsent, 0);
}

// proves L-12, L-22: the peer's end while a close waits for output changes neither the reason nor the sending
#[test]
fn the_peers_end_during_a_graceful_close_changes_nothing() {
    const TOTAL: usize = 8 << 20;
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write_bytes(Bytes::from(vec![5; TOTAL]));
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    user.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut user).len(), TOTAL);
    log.expect(&[At::Close, At::Dropped]);
}
