//! Back-pressure, watermarks and half-close: what moves, what waits, and that it goes on.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use poller::{Connection, EventLoop, Reason, SendError, limits};
use socket2::SockRef;
use support::gate::hold;
use support::*;

/// Writes `total` bytes of the pattern.
fn write_pattern(mut to: impl Write, total: usize) {
    let mut at = 0;
    while at < total {
        let end = (at + 65_536).min(total);
        let block: Vec<u8> = (at..end).map(pattern).collect();
        to.write_all(&block).expect("written");
        at = end;
    }
}

/// Reads `total` bytes and holds them against the pattern.
#[track_caller]
fn read_pattern(mut from: impl Read, total: usize) {
    let mut block = vec![0; 65_536];
    let mut at = 0;
    while at < total {
        let n = from.read(&mut block).expect("read");
        assert_ne!(n, 0, "the stream ended after {at} of {total} bytes");
        assert!(
            block[..n].iter().enumerate().all(|(i, byte)| *byte == pattern(at + i)),
            "within {n} from {at}"
        );
        at += n;
    }
}

// proves L-09: 64 MiB through an echo whose reader starts late and reads in small pieces
#[test]
fn a_slow_reader_slows_the_sender_and_memory_stays_bounded() {
    const TOTAL: usize = 64 << 20;
    let event_loop = event_loop();
    let most = Arc::new(AtomicUsize::new(0));
    let (congested, when_congested) = crossbeam_channel::unbounded();
    let (addr, log) = Probe::new({
        let most = most.clone();
        move |at, conn: &mut Connection| {
            echo(at, conn)?;
            if conn.is_congested() {
                congested.send(()).ok();
            }
            let (input, output) = conn.buffers();
            most.fetch_max(input.len() + output.len(), Ordering::Relaxed);
            Ok(())
        }
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let writer = user.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || write_pattern(writer, TOTAL));
    when_congested.recv_timeout(PATIENCE).expect("the output reaches its high watermark");
    read_pattern(&mut user, TOTAL);
    writer.join().expect("all was taken");
    drop(user);
    let closed = log.closed();
    assert_eq!((closed.bytes_in, closed.bytes_out), (TOTAL as u64, TOTAL as u64));
    let most = most.load(Ordering::Relaxed);
    assert!(most > limits::OUTPUT_HIGH_BYTES, "the watermark was reached: {most}");
    assert!(most <= limits::OUTPUT_HIGH_BYTES + limits::READ_BYTES_MAX, "bounded: {most}");
}

// proves L-09, L-07: the input's high watermark stops the reading, a wake that makes room starts it again
#[test]
fn input_above_its_watermark_waits_for_a_wake_and_then_goes_on() {
    let event_loop = event_loop();
    let total = limits::INPUT_HIGH_BYTES + 512 * 1024;
    let (go, eat) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (addr, log) = Probe::new({
        let (go, eat) = (go.clone(), eat.clone());
        move |at, conn| {
            if at == At::Request && go.load(Ordering::SeqCst) > 0 {
                eat.fetch_add(conn.input().len(), Ordering::SeqCst);
                conn.input().clear();
            }
            Ok(())
        }
    })
    .serve(&event_loop);
    let user = connect(addr);
    let handle = log.handle();
    let writer = std::thread::spawn(move || {
        write_pattern(&user, total);
        user
    });
    let full = log.find(|event| event.input >= limits::INPUT_HIGH_BYTES);
    assert!(full.input < limits::INPUT_HIGH_BYTES + limits::READ_BYTES_MAX, "bounded: {}", full.input);
    // All that there is lies in the kernel: no further edge will come.
    let user = writer.join().expect("all was taken");
    go.store(1, Ordering::SeqCst);
    handle.wake();
    wait_until("the rest was read", || eat.load(Ordering::SeqCst) == total);
    drop(user);
    assert_eq!(log.closed().bytes_in, total as u64);
}

// proves L-09 with `pause`: nothing is read, and `resume` from a wake reads without a new edge
#[test]
fn a_paused_connection_reads_again_when_it_is_resumed_by_a_wake() {
    let event_loop = one_poll();
    let requests = AtomicUsize::new(0);
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request {
            match requests.fetch_add(1, Ordering::Relaxed) {
                0 => conn.pause(),
                _ => conn.resume(),
            }
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"1").expect("written");
    assert_eq!(log.expect(&[At::Request]).input, 1);
    user.write_all(b"23").expect("written");
    user.shutdown(Shutdown::Write).expect("shut down");
    // The same poll serves both, so when this is answered, the news of the first has been looked at.
    let (other, _log) = Probe::echo().serve(&event_loop);
    ask(&mut connect(other), b"barrier");
    handle.wake();
    log.find(|event| event.input == 3);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-09: who fills the output until it is congested is told to go on, also when the kernel took all of it
#[test]
fn a_producer_that_stops_when_congested_is_drained_to_the_end() {
    const TOTAL: usize = 8 << 20;
    for kernel_bytes in [None, Some(16 * 1024)] {
        let event_loop = event_loop();
        let made = AtomicUsize::new(0);
        let (addr, log) = Probe::new(move |at, conn| {
            if matches!(at, At::Connect | At::Drain) {
                let mut at = made.load(Ordering::Relaxed);
                while at < TOTAL && !conn.is_congested() {
                    let block: Vec<u8> = (at..at + 4096).map(pattern).collect();
                    conn.output().write(&block);
                    at += block.len();
                }
                made.store(at, Ordering::Relaxed);
                if at == TOTAL {
                    conn.close();
                }
            }
            Ok(())
        })
        .before(move |conn| {
            if let Some(bytes) = kernel_bytes {
                conn.socket().set_send_buffer_size(bytes).expect("a size");
            }
            Ok(())
        })
        .serve(&event_loop);
        let mut user = connect(addr);
        read_pattern(&mut user, TOTAL);
        assert_eq!(read_all(&mut user), b"");
        let closed = log.closed();
        assert_eq!((closed.reason, closed.bytes_out, closed.unsent), (Reason::User, TOTAL as u64, 0));
    }
}

// proves L-09 for handles: WouldBlock above the watermark, and a wake when there is room
#[test]
fn a_handle_is_told_to_wait_and_woken_when_there_is_room() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let (waiter_addr, waiter_log) = Probe::echo().serve(&event_loop);
    let mut slow = connect(addr);
    let handle = log.handle();
    let _waiting_user = connect(waiter_addr);
    let waiter = waiter_log.handle();
    let block = Bytes::from((0..65_536).map(pattern).collect::<Vec<u8>>());
    let mut sent = 0;
    let refused = loop {
        let block = Bytes::from((sent..sent + block.len()).map(pattern).collect::<Vec<u8>>());
        match handle.send(block) {
            Ok(()) => sent += 65_536,
            Err(SendError::WouldBlock(bytes)) => break bytes,
            Err(SendError::Closed(_)) => panic!("nobody closed"),
        }
    };
    assert_eq!(refused.len(), block.len(), "what was not taken comes back");
    handle.wake_on_drain(&waiter);
    assert!(waiter_log.rest().is_empty(), "not yet: nothing was read");
    read_pattern(&mut slow, sent);
    waiter_log.expect(&[At::Request]);
    handle.send(refused).expect("there is room again");
}

// proves L-09, L-07: whoever waits is woken when there is room and not before, however many wait and however often they ask
#[test]
fn all_who_wait_for_room_are_woken_once() {
    const WAITERS: usize = 3 * limits::DRAIN_SWEEP_MIN;
    let event_loop = one_poll();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let (waiter_addr, waiter_log) = Probe::quiet().serve(&event_loop);
    let mut slow = connect(addr);
    let handle = log.handle();
    let mut other = connect(addr);
    let users: Vec<TcpStream> = (0..WAITERS).map(|_| connect(waiter_addr)).collect();
    let waiters: Vec<_> = users.iter().map(|_| waiter_log.handle()).collect();
    let mut sent = 0;
    while handle.send(Bytes::from((sent..sent + 65_536).map(pattern).collect::<Vec<u8>>())).is_ok() {
        sent += 65_536;
    }
    for waiter in waiters.iter().chain(&waiters) {
        handle.wake_on_drain(waiter);
    }
    for _ in 0..100 * WAITERS {
        handle.wake_on_drain(&waiters[0]);
    }
    // The same poll serves all, and takes what it is asked for with the next events at the latest.
    ask(&mut other, b"barrier");
    ask(&mut other, b"barrier");
    assert_eq!(waiter_log.rest().len(), 0, "nobody is woken while there is no room");
    read_pattern(&mut slow, sent);
    let mut woken: Vec<u64> = waiters.iter().map(|_| waiter_log.expect(&[At::Request]).id).collect();
    woken.sort_unstable();
    let mut want: Vec<u64> = waiters.iter().map(|waiter| waiter.id()).collect();
    want.sort_unstable();
    assert_eq!(woken, want);
    ask(&mut other, b"barrier");
    ask(&mut other, b"barrier");
    assert_eq!(waiter_log.rest().len(), 0, "once");
}

// proves DESIGN 2.7: a wake at the next progress of the output
#[test]
fn wake_on_progress_calls_when_the_kernel_takes_more() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write_bytes(Bytes::from(vec![1; 16 << 20]));
            conn.flush()?;
            conn.wake_on_progress();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    let mut some = vec![0; 8 << 20];
    user.read_exact(&mut some).expect("the first half");
    log.expect(&[At::Request]);
}

// proves L-22: the answer to the end still goes out, then the connection closes
#[test]
fn the_end_of_the_stream_is_answered_and_then_the_connection_closes() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Request && conn.input_ended() {
            let n = conn.input().len();
            conn.output().write(format!("{n} bytes").as_bytes());
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"12345").expect("written");
    user.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut user), b"5 bytes");
    assert_eq!(log.closed().reason, Reason::Peer);
    assert_eq!(log.rest().iter().filter(|event| event.ended).count(), 0);
}

// proves L-22: who asked to keep writing writes on, and the end is told once
#[test]
fn a_half_closed_connection_writes_on_until_it_ends_too() {
    let event_loop = event_loop();
    let (addr, log) = Probe::quiet().half_close().serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.shutdown(Shutdown::Write).expect("shut down");
    assert!(log.expect(&[At::Request]).ended);
    for _ in 0..3 {
        handle.send(Bytes::from_static(b"more ")).expect("still open");
    }
    let mut more = [0; 15];
    user.read_exact(&mut more).expect("written after the peer's end");
    handle.close();
    assert_eq!(read_all(&mut user), b"");
    log.expect(&[At::Close, At::Dropped]);
}

// proves L-22: our end first, then the peer's: both directions are over and nobody needs to say so
#[test]
fn a_connection_whose_two_directions_have_ended_closes() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Request && conn.input_ended() {
            conn.output().write(b"bye");
            conn.shutdown_write();
        }
        Ok(())
    })
    .half_close()
    .serve(&event_loop);
    let mut user = connect(addr);
    user.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut user), b"bye");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.bytes_out), (Reason::Peer, 3));
    wait_until_none(&event_loop);
}

// proves L-22: our side shuts down writing and goes on reading; what a handle sent before still leaves
#[test]
fn our_end_follows_what_was_sent_and_reading_goes_on() {
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"first ");
            conn.handle().send(Bytes::from_static(b"second")).expect("open");
            conn.shutdown_write();
            let late = conn.handle().send(Bytes::from_static(b"late"));
            assert_eq!(late, Err(SendError::Closed(Bytes::from_static(b"late"))));
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    assert_eq!(read_all(&mut user), b"first second");
    user.write_all(b"still read").expect("written");
    assert_eq!(log.until(At::Request).input, 10);
    drop(user);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-15, L-22: a half-closed connection learns of a reset although it reads no more
#[test]
fn a_reset_after_the_peers_end_is_noticed() {
    let event_loop = event_loop();
    let (addr, log) = Probe::quiet().half_close().serve(&event_loop);
    let user = connect(addr);
    user.shutdown(Shutdown::Write).expect("shut down");
    assert!(log.until(At::Request).ended);
    reset(user);
    log.expect(&[At::Disconnect]);
    assert!(matches!(log.closed().reason, Reason::Error(_)));
}

/// Says `abc`, something urgent, and `efgh` at once, to who is kept from reading meanwhile, and again to who waits for it.
#[track_caller]
fn speak_urgently(
    user: &TcpStream,
    event_loop: &EventLoop,
    log: &Log,
    mut wanted: impl FnMut(&Event) -> bool,
) {
    let socket = SockRef::from(user);
    for round in 1.. {
        let gate = hold(event_loop);
        for (bytes, urgent) in [(&b"abc"[..], false), (b"!", true), (b"efgh", false)] {
            let sent = if urgent { socket.send_out_of_band(bytes) } else { socket.send(bytes) };
            assert_eq!(sent.expect("sent"), bytes.len());
        }
        drop(gate);
        log.find(&mut wanted);
        if round == 3 {
            return;
        }
    }
}

// proves L-06, L-14: a read that stops at urgent data has not drained the socket, however often
#[test]
fn what_stands_behind_urgent_data_is_read() {
    let event_loop = one_poll();
    let (addr, log) = Probe::quiet().serve(&event_loop);
    let user = connect(addr);
    log.until(At::Connect);
    let mut sum = 0;
    speak_urgently(&user, &event_loop, &log, |event| {
        let all = event.input == sum + 7;
        sum += if all { 7 } else { 0 };
        all
    });
    drop(user);
    assert_eq!(log.closed().bytes_in, 21);
}

// proves L-06: also before the selector knows of the connection
#[test]
fn what_stands_behind_urgent_data_is_read_in_the_first_turn() {
    let event_loop = one_poll();
    let (addr, log) = Probe::quiet().serve(&event_loop);
    let gate = hold(&event_loop);
    let user = connect(addr);
    let socket = SockRef::from(&user);
    socket.send(b"abc").expect("sent");
    socket.send_out_of_band(b"!").expect("sent");
    socket.send(b"efgh").expect("sent");
    drop(gate);
    log.find(|event| event.input == 7);
}

// proves L-06, L-10: and by who waits for it
#[test]
fn what_stands_behind_urgent_data_is_waited_for() {
    let event_loop = one_poll();
    let (tell, told) = crossbeam_channel::bounded(1);
    let (addr, log) = Probe::new(move |at, conn| {
        while at == At::Request && !conn.input().is_empty() {
            tell.send(()).expect("awaited");
            conn.wait_for(7)?;
            assert_eq!(conn.input().read_vec(7)?, b"abcefgh");
            conn.output().write(b"7");
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let socket = SockRef::from(&user);
    log.until(At::Connect);
    // The handler waits already when the mark comes: it has let others have the poll.
    socket.send(b"a").expect("sent");
    told.recv_timeout(PATIENCE).expect("it waits");
    let gate = hold(&event_loop);
    socket.send(b"bc").expect("sent");
    socket.send_out_of_band(b"!").expect("sent");
    socket.send(b"efgh").expect("sent");
    drop(gate);
    let mut answer = [0];
    user.read_exact(&mut answer).expect("answered");
}
