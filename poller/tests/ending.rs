//! Ends that come while nobody reads, answers of an `on_connect` that fails, and what is known of a connection afterwards.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use poller::{EventLoop, Limit, Reason, SendError, limits};
use support::gate::hold;
use support::*;

// proves L-15, L-14: a reset ends a pause; what came before it is handed over first
#[test]
fn a_reset_is_noticed_while_reading_is_paused() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.pause();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    user.write_all(b"12345").expect("written");
    reset(user);
    assert_eq!(log.until(At::Request).input, 5);
    log.until(At::Disconnect);
    let closed = log.closed();
    let Reason::Error(fault) = closed.reason else { panic!("{}", closed.reason) };
    assert_eq!((fault.errno, closed.bytes_in), (Some(libc::ECONNRESET), 5));
}

// proves L-15, L-09: also while the input is full and nobody consumes it
#[test]
fn a_reset_is_noticed_while_the_input_is_full() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|_, _| Ok(())).serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(&vec![1; limits::INPUT_HIGH_BYTES + limits::READ_BYTES_MAX]).expect("taken");
    log.find(|event| event.input >= limits::INPUT_HIGH_BYTES);
    reset(user);
    log.until(At::Disconnect);
    assert!(matches!(log.closed().reason, Reason::Error(_)));
}

// proves L-15, L-14: also when the turn that was told of it had more to read than it may, and the next one pauses
#[test]
fn a_reset_behind_more_than_a_turn_reads_is_noticed() {
    // More than a turn reads, by as little as a kernel whose buffers are bounded narrowly holds too.
    const TOTAL: usize = limits::TURN_BYTES_MAX + limits::READ_BYTES_MAX;
    let event_loop = one_poll();
    let (give, socket) = crossbeam_channel::bounded(1);
    let sum = AtomicUsize::new(0);
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request {
            let before = sum.fetch_add(conn.input().len(), Ordering::Relaxed);
            conn.input().clear();
            // In the second turn, once.
            if (limits::TURN_BYTES_MAX..TOTAL).contains(&before) {
                conn.pause();
            }
        }
        Ok(())
    })
    .before(move |conn| {
        conn.socket().set_recv_buffer_size(4 * TOTAL)?;
        give.send(conn.socket().try_clone()?).expect("awaited");
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    let socket: TcpStream = socket.recv_timeout(PATIENCE).expect("prepared").into();
    let gate = hold(&event_loop);
    user.write_all(&vec![1; TOTAL]).expect("taken");
    let mut all = vec![0; TOTAL];
    wait_until("all is in the kernel", || socket.peek(&mut all).expect("there is some") == TOTAL);
    reset(user);
    wait_until("the reset is there", || socket.peer_addr().is_err());
    drop((socket, gate));
    log.until(At::Disconnect);
    let closed = log.closed();
    let Reason::Error(fault) = closed.reason else { panic!("{}", closed.reason) };
    assert_eq!((fault.errno, closed.bytes_in), (Some(libc::ECONNRESET), TOTAL as u64));
}

// proves L-14, L-09: the peer's end waits behind what a pause left unread
#[test]
fn the_peers_end_waits_for_the_end_of_a_pause() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        match at {
            At::Connect => conn.pause(),
            At::Timer => conn.resume(),
            _ => {}
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"123").expect("written");
    user.shutdown(Shutdown::Write).expect("shut down");
    // The same poll serves both, so when this is answered, the news of the first has been looked at.
    let (other, _log) = Probe::echo().serve(&event_loop);
    ask(&mut connect(other), b"barrier");
    assert!(!handle.is_closed() && log.rest().is_empty());
    handle.set_timer(Duration::ZERO).expect("open");
    log.expect(&[At::Timer, At::Request]);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-08, L-23: who refuses in on_connect may say why, however much that is
#[test]
fn what_an_on_connect_that_fails_has_written_is_sent() {
    const TOTAL: usize = 8 << 20;
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write_bytes(Bytes::from(vec![4; TOTAL]));
            return Err("too many".into());
        }
        Ok(())
    })
    .serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)).len(), TOTAL);
    log.expect(&[At::Prepare, At::Connect]);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    assert_eq!(closed.reason, Reason::Handler("too many".into()));
    assert_eq!((closed.connected, closed.unsent, closed.bytes_out), (false, 0, TOTAL as u64));
}

// proves CLOSE_CALLBACKS_MAX: as many as there may be all run, one more is refused
#[test]
fn close_callbacks_are_bounded() {
    let event_loop = one_poll();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let user = connect(addr);
    let handle = log.handle();
    let (told, ran) = crossbeam_channel::unbounded();
    let mut added = 0;
    let refused = loop {
        let told = told.clone();
        match handle.add_close_callback(move |_| told.send(()).expect("listened to")) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    let free = limits::CLOSE_CALLBACKS_MAX - added;
    assert!(free <= 1, "but for one of the handler's own: {added}");
    assert_eq!(refused.kind(), std::io::ErrorKind::QuotaExceeded);
    drop((user, told));
    log.until(At::Dropped);
    assert_eq!(ran.iter().count(), added);
}

// proves what a handle knows of its connection, while it lives and afterwards
#[test]
fn a_handle_knows_the_life_of_its_connection() {
    let event_loop = one_poll();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    assert!(handle.closed().is_none());
    wait_until("it has been quiet for a while", || handle.quiet() >= Duration::from_millis(50));
    assert!(handle.lifetime() >= handle.quiet() - Duration::from_millis(10));
    let before = handle.quiet();
    ask(&mut user, b"12345");
    wait_until("a byte has moved", || handle.quiet() < before);
    assert_eq!(handle.bytes_in(), 5);
    wait_until("the sending was counted", || handle.bytes_out() == 5);
    drop(user);
    log.until(At::Dropped);
    let closed = handle.closed().expect("it is over");
    assert_eq!((&closed.reason, closed.bytes_in), (&Reason::Peer, 5));
    assert!(closed.quiet <= closed.lifetime + Duration::from_millis(10));
}

// proves L-23: what was sent arrives also where the peer was still sending when the connection was closed
#[test]
fn a_close_in_the_middle_of_an_upload_loses_no_output() {
    const ANSWER: usize = 4 << 20;
    const UPLOAD: usize = 2 * limits::LINGER_BYTES_MAX;
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Request {
            conn.output().write_bytes(Bytes::from(vec![4; ANSWER]));
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let mut uploads = user.try_clone().expect("a descriptor");
    let upload = std::thread::spawn(move || {
        // The end of it may be refused: nobody wants it.
        let _refused = uploads.write_all(&vec![1; UPLOAD]);
        let _gone = uploads.shutdown(Shutdown::Write);
    });
    assert_eq!(read_all(&mut user).len(), ANSWER);
    upload.join().expect("no panic");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
}

// proves LINGER_MS and LINGER_BYTES_MAX: a peer that goes on for ever is read and waited for no longer
#[test]
fn a_peer_that_does_not_end_its_stream_does_not_hold_a_closed_connection() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Request {
            conn.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let block = [1; limits::READ_BYTES_MAX];
    // To the end of the connection, which is a reset.
    while user.write_all(&block).is_ok() {}
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::User);
    let most = limits::LINGER_BYTES_MAX + 2 * limits::READ_BYTES_MAX;
    assert!(closed.bytes_in <= most as u64, "{closed:?}");
}

// proves L-23, L-11: nor does a limit that closes in the middle of one, after the handler has said why
#[test]
fn a_limit_that_passes_in_the_middle_of_an_upload_loses_no_output() {
    let event_loop = one_poll();
    let (stop, gate) = gate::gate();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request {
            let error = conn.wait_for(16).expect_err("too slow");
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
            stop.wait_announced();
            conn.output().write(b"408");
        }
        Ok(())
    })
    .before(|conn| {
        Ok(conn.set_read_timeout(Some(Duration::from_millis(20))).map_err(|error| error.to_string())?)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"half").expect("written");
    gate.reached();
    user.write_all(b" a message").expect("written");
    gate.open();
    assert_eq!(read_all(&mut user), b"408");
    drop(user);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::Timeout(Limit::Read), 0));
}

// proves LINGER_MS: also where an older deadline fires together with the last of the output
#[test]
fn a_deadline_that_fires_as_the_output_leaves_does_not_take_the_lingering_its_end() {
    // Nobody stands in while one of the two that fire is still on its way.
    let event_loop = EventLoop::builder().polls(1).standby_max(0).build().expect("an event loop");
    let remote = event_loop.remote();
    let user_slot = Arc::new(Mutex::new(None::<TcpStream>));
    let slot = user_slot.clone();
    let (addr, log) = Probe::new(move |at, conn| {
        match conn.input().chunk() {
            b"begin" => {
                conn.input().clear();
                let (handle, slot) = (conn.handle(), slot.clone());
                // This fires together with the timer, and is the earlier one. Its wake puts the connection off for a turn in
                // which it then finds the timer and room for the output at once.
                let both = move || {
                    let mut slot = slot.lock().expect("no panic");
                    let user = slot.as_mut().expect("connected");
                    user.read_exact(&mut vec![0; handle.bytes_out() as usize]).expect("sent");
                    user.write_all(b"nobody reads this").expect("written");
                    handle.wake();
                };
                let delay = Duration::from_millis(50);
                remote.after(delay, both)?;
                conn.set_timer(delay);
                // For one more turn, which comes before them.
                conn.handle().wake();
            }
            b"" if at == At::Request => {
                while conn.unsent() == 0 {
                    conn.output().write(&[1; 4096]);
                    conn.flush()?;
                }
                conn.close();
            }
            _ => {}
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    *user_slot.lock().expect("no panic") = Some(user.try_clone().expect("a descriptor"));
    user.write_all(b"begin").expect("written");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
    // Where nothing would bring the end about, a debug build finds that when it is armed, and ends the connection at once.
    assert!(
        closed.lifetime >= Duration::from_millis(limits::LINGER_MS),
        "it lingered for {:?}",
        closed.lifetime
    );
}

// proves L-15: also a reset that comes together with the data whose handler pauses
#[test]
fn a_reset_that_comes_with_data_is_noticed_behind_a_pause() {
    let event_loop = one_poll();
    let (stop, gate) = gate::gate();
    let (addr, log) = Probe::new(move |at, conn| {
        match conn.input().chunk() {
            b"hold" => stop.wait(),
            b"12345" if at == At::Request => conn.pause(),
            _ => {}
        }
        Ok(())
    })
    .serve(&event_loop);
    let (mut user, mut other) = (connect(addr), connect(addr));
    log.until(At::Connect);
    log.until(At::Connect);
    // While the poll is held up, data and reset become one event.
    other.write_all(b"hold").expect("written");
    gate.reached();
    user.write_all(b"12345").expect("written");
    reset(user);
    drop(gate);
    log.until(At::Disconnect);
    assert!(matches!(log.closed().reason, Reason::Error(_)));
}

// proves L-23, L-08: what handles had sent goes out with what an `on_connect` that fails has written
#[test]
fn what_handles_had_sent_is_sent_when_on_connect_fails() {
    let event_loop = one_poll();
    let (addr, _log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"bye, ");
            conn.handle().send(Bytes::from_static(b"and thanks")).expect("open");
            return Err("not today".into());
        }
        Ok(())
    })
    .serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"bye, and thanks");
}

// proves that a close waits for nobody who has sent nothing: it comes before a timer that was set just then
#[test]
fn a_peer_that_says_nothing_is_not_waited_for() {
    let event_loop = one_poll();
    let remote = event_loop.remote();
    let (told, order) = crossbeam_channel::unbounded();
    let closes = told.clone();
    let (addr, _log) = Probe::new(move |at, conn| {
        if at == At::Connect {
            let told = told.clone();
            let fires = move || told.send("the timer").expect("listened to");
            remote.after(Duration::from_millis(limits::LINGER_MS / 2), fires)?;
            conn.output().write(b"full");
            conn.close();
        }
        Ok(())
    })
    .after(move |at, _| {
        if at == At::Close {
            closes.send("the close").expect("listened to");
        }
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    assert_eq!(read_all(&mut user), b"full");
    assert_eq!(order.recv_timeout(PATIENCE), Ok("the close"));
}

// proves that an abort sends nothing of what was written, in whatever order
#[test]
fn an_abort_drops_what_its_callback_has_written() {
    for early in [false, true] {
        let event_loop = one_poll();
        let (addr, log) = Probe::new(move |at, conn| {
            if at == At::Request {
                if early {
                    conn.abort();
                }
                conn.output().write(b"not to be seen");
                conn.abort();
            }
            Ok(())
        })
        .serve(&event_loop);
        let mut user = connect(addr);
        user.write_all(b"?").expect("written");
        let error = user.read(&mut [0]).expect_err("cut off, with nothing before it");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let closed = log.closed();
        assert_eq!((closed.reason, closed.unsent, closed.bytes_out), (Reason::User, 14, 0));
    }
}

// proves L-07 for handles: our stream ends after what was written and sent, once, and reading goes on
#[test]
fn a_handle_ends_our_stream_after_what_was_sent() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"first, ");
            conn.handle().send(Bytes::from_static(b"then this")).expect("open");
            conn.handle().shutdown_write();
            conn.handle().shutdown_write();
        }
        Ok(())
    })
    .half_close()
    .serve(&event_loop);
    let mut user = connect(addr);
    assert_eq!(read_all(&mut user), b"first, then this");
    let handle = log.handle();
    assert_eq!(handle.send(Bytes::from_static(b"late")), Err(SendError::Closed(Bytes::from_static(b"late"))));
    user.write_all(b"still heard").expect("written");
    assert_eq!(log.until(At::Request).input, 11);
    assert!(!handle.is_closed());
    drop(user);
    assert_eq!(log.closed().reason, Reason::Peer);
}
