//! The bounds of one turn: what is beyond them is done in the next one, and nothing is forgotten.
//!
//! Other files reach the other limits: `flow` the watermarks and `on_drain` calls, `closing` the stall of a
//! close, `timers` the tasks and the longest delay, `dialing` the connections, `leaders` the threads and blocking tasks,
//! `udp` the datagrams, `exhaustion` the pause and the silence of accepting.

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use poller::limits;
use support::gate::hold;
use support::*;

// proves that ACCEPT_TURN_MAX ends a turn and not the accepting, and that the backlog holds LISTEN_BACKLOG_MAX
#[test]
fn more_connections_than_a_turn_accepts_are_all_accepted() {
    let event_loop = one_poll();
    let (addr, _log) = Probe::echo().serve(&event_loop);
    ask(&mut connect(addr), b"listens");
    let gate = hold(&event_loop);
    // Beyond the 128 with which the standard library listens, too.
    let mut users: Vec<_> = (0..5 * limits::ACCEPT_TURN_MAX).map(|_| connect(addr)).collect();
    drop(gate);
    users.iter_mut().for_each(|user| ask(user, b"accepted"));
}

// proves that EVENTS_MAX ends a batch and not the events
#[test]
fn more_events_than_a_batch_holds_are_all_looked_at() {
    let event_loop = one_poll();
    let (addr, _log) = Probe::echo().serve(&event_loop);
    let mut users: Vec<_> = (0..limits::EVENTS_MAX + 50).map(|_| connect(addr)).collect();
    users.iter_mut().for_each(|user| ask(user, b"first"));
    let gate = hold(&event_loop);
    for user in &mut users {
        user.write_all(b"all at once").expect("written");
    }
    drop(gate);
    for user in &mut users {
        let mut answer = [0; 11];
        user.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"all at once");
    }
}

// proves that READ_BYTES_MAX bounds a read and TURN_BYTES_MAX a turn: others come in between, and the rest is read
#[test]
fn a_turn_reads_so_much_and_the_rest_in_the_next() {
    const TOTAL: usize = 4 * limits::TURN_BYTES_MAX;
    let event_loop = one_poll();
    let (sum, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (addr, log) = Probe::new({
        let (sum, most) = (sum.clone(), most.clone());
        move |_, conn| {
            sum.fetch_add(conn.input().len(), Ordering::SeqCst);
            most.fetch_max(conn.input().len(), Ordering::SeqCst);
            conn.input().clear();
            Ok(())
        }
    })
    .before(|conn| {
        conn.socket().set_recv_buffer_size(2 * TOTAL).expect("a size");
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    // As much as the kernel holds waits when the turn begins.
    let gate = hold(&event_loop);
    user.set_nonblocking(true).expect("non-blocking");
    let block = vec![1; TOTAL];
    let mut sent = 0;
    while sent < TOTAL
        && let Ok(n) = user.write(&block[sent..])
    {
        sent += n;
    }
    assert!(sent > limits::READ_BYTES_MAX, "more than one read takes");
    drop(gate);
    user.set_nonblocking(false).expect("blocking");
    user.write_all(&block[sent..]).expect("taken");
    wait_until("all was read", || sum.load(Ordering::SeqCst) == TOTAL);
    assert!(most.load(Ordering::SeqCst) <= limits::READ_BYTES_MAX);
    drop(user);
}

// proves that IO_SLICES_MAX bounds one send and not the sending
#[test]
fn more_pieces_than_one_send_takes_all_leave_in_order() {
    const PIECES: usize = 3 * limits::IO_SLICES_MAX + 1;
    const BYTES: usize = 2048;
    let event_loop = event_loop();
    let (addr, _log) = Probe::new(|at, conn| {
        if at == At::Connect {
            for n in 0..PIECES {
                // Large enough to be linked and not copied together.
                conn.output().write_bytes(Bytes::from(vec![n as u8; BYTES]));
            }
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let all = read_all(&mut connect(addr));
    assert_eq!(all.len(), PIECES * BYTES);
    assert!(all.chunks(BYTES).enumerate().all(|(n, piece)| piece.iter().all(|byte| *byte == n as u8)));
}

// proves that TURNS_MAX sends a connection with endless news to the back of the queue, and that it comes back
#[test]
fn a_connection_that_wakes_itself_for_ever_leaves_the_others_their_turn() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if matches!(at, At::Connect | At::Request) {
            conn.handle().wake();
        }
        Ok(())
    })
    .serve(&event_loop);
    let (echo_addr, _echo_log) = Probe::echo().serve(&event_loop);
    let _restless = connect(addr);
    for _ in 0..10 * limits::TURNS_MAX {
        log.until(At::Request);
    }
    ask(&mut connect(echo_addr), b"in between");
}
