//! The limits in time: what each of them ends, what keeps it from passing, and that it can be changed while it runs.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use poller::{Connection, EventLoop, Limit, Reason, SendError};
use support::*;

const SHORT: Duration = Duration::from_millis(60);
/// Half of it passes between two steps of a test, which a busy machine may hold up for longer than `SHORT`.
const ROOMY: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(3600);

/// Returns when a poll that nobody keeps busy has had time for everything that is due within `delay`.
fn let_pass(event_loop: &EventLoop, delay: Duration) {
    let (told, passed) = crossbeam_channel::bounded(1);
    event_loop.after(delay, move || told.send(()).expect("listened to")).expect("a timer");
    passed.recv_timeout(PATIENCE).expect("time passes");
}

/// Answers messages of four bytes; what a user sends in other sizes waits in the input.
fn fours(at: At, conn: &mut Connection) -> poller::Result {
    if at == At::Request {
        let (input, output) = conn.buffers();
        while let Ok(message) = input.next(4) {
            output.write(message);
        }
    }
    Ok(())
}

// proves L-11: a connection on which nothing moves ends, counted from the last byte
#[test]
fn an_idle_connection_ends_when_nothing_moved_for_so_long() {
    let event_loop = one_poll();
    let (addr, log) = Probe::echo()
        .before(|conn| Ok(conn.set_idle_timeout(Some(ROOMY)).map_err(|error| error.to_string())?))
        .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    // The entry that was armed at first is early then: it has to find nothing due.
    let_pass(&event_loop, ROOMY / 2);
    let last = Instant::now();
    ask(&mut user, b"a byte");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Timeout(Limit::Idle));
    assert!(last.elapsed() >= ROOMY, "the byte started it again");
    assert_eq!(read_all(&mut user), b"");
    wait_until_none(&event_loop);
}

// proves L-11: a message that stands still ends its connection, one that is whole does not
#[test]
fn a_message_that_does_not_go_on_ends_its_connection() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(fours)
        .before(|conn| Ok(conn.set_read_timeout(Some(SHORT)).map_err(|error| error.to_string())?))
        .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    ask(&mut user, b"full");
    let_pass(&event_loop, 2 * SHORT);
    assert!(!handle.is_closed(), "between messages there is no limit");
    user.write_all(b"fullha").expect("written");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.bytes_in), (Reason::Timeout(Limit::Read), 10));
    assert_eq!(read_all(&mut user), b"full");
}

// proves L-11: bytes that come, and are not consumed, do not keep a message alive; one that is consumed does
#[test]
fn the_read_limit_starts_again_with_each_message_and_not_with_each_byte() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(fours)
        .before(|conn| Ok(conn.set_read_timeout(Some(ROOMY)).map_err(|error| error.to_string())?))
        .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    user.write_all(b"f").expect("written");
    log.until(At::Request);
    let_pass(&event_loop, ROOMY / 2);
    let last = Instant::now();
    user.write_all(b"ullh").expect("written");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.bytes_out), (Reason::Timeout(Limit::Read), 4));
    assert!(last.elapsed() >= ROOMY, "a new message had begun");
}

// proves L-11, L-09: who pauses the connection does not blame the peer
#[test]
fn the_read_limit_does_not_run_while_the_connection_is_paused() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        match (at, conn.input().len()) {
            (At::Connect, _) => conn.set_read_timeout(Some(SHORT))?,
            (At::Request, 2) => conn.pause(),
            (At::Timer, _) => conn.resume(),
            _ => {}
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"12").expect("written");
    log.until(At::Request);
    let_pass(&event_loop, 2 * SHORT);
    assert!(!handle.is_closed());
    handle.set_timer(Duration::ZERO).expect("open");
    log.until(At::Timer);
    assert_eq!(log.closed().reason, Reason::Timeout(Limit::Read));
}

// proves L-11: output of which nothing moves ends the connection, and the peer can tell that it was cut off
#[test]
fn output_that_does_not_move_ends_the_connection() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.set_write_stall_timeout(Some(SHORT))?;
            conn.output().write_bytes(Bytes::from(vec![0; 32 << 20]));
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    let_pass(&event_loop, SHORT / 2);
    // As much as makes the kernel take more: from then on it counts again.
    let last = Instant::now();
    user.read_exact(&mut vec![0; 8 << 20]).expect("sent so far");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Timeout(Limit::WriteStall));
    assert!(closed.unsent > 0);
    assert!(last.elapsed() >= SHORT, "a transfer that moves is not cut");
    let error = user.read_to_end(&mut Vec::new()).expect_err("cut off, and it shows");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

// proves L-11 for handles: their sends are under the same limit, from any thread
#[test]
fn what_a_handle_has_sent_is_under_the_write_stall_limit() {
    let event_loop = one_poll();
    let (addr, log) = Probe::echo()
        .before(|conn| Ok(conn.set_write_stall_timeout(Some(SHORT)).map_err(|error| error.to_string())?))
        .serve(&event_loop);
    let _user = connect(addr);
    let handle = log.handle();
    let block = Bytes::from(vec![0; 65_536]);
    // Once too much waits for the owner, then for the kernel, and then the limit has passed.
    while !matches!(handle.send(block.clone()), Err(SendError::Closed(_))) {
        std::thread::yield_now();
    }
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Timeout(Limit::WriteStall));
    assert!(closed.unsent > 0);
}

// proves that the write-stall limit holds for a close that waits for its output, too
#[test]
fn a_close_waits_no_longer_than_the_write_stall_limit() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.set_write_stall_timeout(Some(SHORT))?;
            conn.output().write_bytes(Bytes::from(vec![0; 16 << 20]));
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let _user = connect(addr);
    // The event loop's own limit is longer than this test waits.
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::User);
    assert!(closed.unsent > 0);
}

// proves L-11: a limit that waits can be made shorter, and taken off
#[test]
fn a_limit_can_be_changed_while_it_waits() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        match conn.input().chunk() {
            b"" if at == At::Connect => conn.set_idle_timeout(Some(LONG))?,
            b"short" => conn.set_idle_timeout(Some(SHORT))?,
            b"none" => conn.set_idle_timeout(None)?,
            _ => {}
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    ask(&mut user, b"short");
    ask(&mut user, b"none");
    let_pass(&event_loop, 2 * SHORT);
    assert!(!handle.is_closed(), "taken off");
    ask(&mut user, b"short");
    assert_eq!(log.closed().reason, Reason::Timeout(Limit::Idle));
}

// proves that misuse says what to do instead
#[test]
fn a_limit_of_zero_and_a_timer_of_a_closed_connection_are_errors() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            let zero = Some(Duration::ZERO);
            for refused in
                [conn.set_read_timeout(zero), conn.set_write_stall_timeout(zero), conn.set_idle_timeout(zero)]
            {
                assert_eq!(refused.expect_err("zero").kind(), std::io::ErrorKind::InvalidInput);
            }
        }
        Ok(())
    })
    .before(|conn| match conn.set_idle_timeout(Some(Duration::ZERO)) {
        Ok(()) => Err("zero was taken".into()),
        Err(_) => Ok(()),
    })
    .serve(&event_loop);
    let user = connect(addr);
    let handle = log.handle();
    let (probe, _dial_log) = Probe::echo().start();
    let error = event_loop.dial(addr, Duration::ZERO, probe).expect_err("zero");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    handle.set_timer(Duration::ZERO).expect("open");
    log.until(At::Timer);
    drop(user);
    assert_eq!(log.closed().reason, Reason::Peer);
    let error = handle.set_timer(Duration::ZERO).expect_err("closed");
    assert!(error.to_string().contains("Remote::after"), "it says what to do: {error}");
}

// proves that a limit that was taken off leaves nothing behind, not even for the next connection that gets its memory
#[test]
fn a_limit_that_was_taken_off_does_not_end_another_connection() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        match at {
            At::Connect => conn.set_idle_timeout(Some(SHORT))?,
            At::Request => conn.set_idle_timeout(None)?,
            _ => {}
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    // It says nothing in its first turn, so that the limit has begun to run.
    let mut first = connect(addr);
    log.until(At::Connect);
    ask(&mut first, b"no limit any more");
    let_pass(&event_loop, 2 * SHORT);
    let mut second = connect(addr);
    log.until(At::Connect);
    ask(&mut second, b"is there");
    ask(&mut first, b"so is the first");
    drop((first, second));
    assert_eq!(log.closed().reason, Reason::Peer);
    assert_eq!(log.closed().reason, Reason::Peer);
}
