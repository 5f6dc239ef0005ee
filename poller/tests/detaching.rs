//! A connection that is handed over: nothing of it is lost, nothing of it stays behind.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use poller::{Detached, Reason, SendError, limits};
use support::*;

/// The socket as everybody knows it.
fn stream(detached: &Detached) -> TcpStream {
    detached.socket.set_nonblocking(false).expect("blocking");
    TcpStream::from(detached.socket.try_clone().expect("a second handle"))
}

// proves L-28, L-18: the unread bytes and the descriptor go over, clean-up runs once, the peer notices nothing
#[test]
fn a_detached_connection_lives_on_elsewhere() {
    let event_loop = one_poll();
    let (told, taken) = crossbeam_channel::unbounded();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request {
            conn.input().skip(8)?;
            conn.output().write(b"switching ");
            told.send(conn.detach()?).expect("listened to");
            assert_eq!(conn.detach().expect_err("once").kind(), ErrorKind::NotConnected);
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"upgrade!and more").expect("written");
    let mut detached: Detached = taken.recv_timeout(PATIENCE).expect("handed over");
    log.expect(&[At::Request]);
    let closed = log.expect(&[At::Close]).closed.expect("told");
    log.expect(&[At::Dropped]);
    assert_eq!((closed.reason, closed.local, closed.unsent), (Reason::Detached, Some(addr), 0));
    assert!(closed.connected);
    assert!(matches!(handle.send(Bytes::from_static(b"late")), Err(SendError::Closed(_))));
    wait_until_none(&event_loop);
    assert_eq!(detached.input.read_vec(8).as_deref(), Ok(&b"and more"[..]));
    assert!(detached.unsent.is_empty(), "it was sent before");
    // Longer than the event loop.
    assert!(event_loop.shutdown(PATIENCE));
    let mut there = stream(&detached);
    there.write_all(b"protocols").expect("written");
    drop(detached);
    let mut all = [0; 19];
    user.read_exact(&mut all).expect("sent");
    assert_eq!(&all, b"switching protocols");
    user.write_all(b"?").expect("written");
    there.read_exact(&mut [0]).expect("read by its new owner");
    drop(there);
    assert_eq!(read_all(&mut user), b"");
    assert!(log.rest().is_empty());
}

// proves L-28, L-23: what the kernel did not take goes over too, also what handles sent
#[test]
fn unsent_bytes_are_handed_over() {
    const TOTAL: usize = 32 << 20;
    let event_loop = one_poll();
    let (told, taken) = crossbeam_channel::unbounded();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request {
            conn.output().write_bytes(Bytes::from(vec![7; TOTAL]));
            conn.handle().send(Bytes::from_static(b"and by a handle")).expect("open");
            told.send(conn.detach()?).expect("listened to");
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"?").expect("written");
    let mut detached: Detached = taken.recv_timeout(PATIENCE).expect("handed over");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::Detached, 0));
    assert_eq!(closed.bytes_out + detached.unsent.len() as u64, TOTAL as u64 + 15);
    assert!(detached.unsent.len() > limits::OUTPUT_HIGH_BYTES);
    let mut there = stream(&detached);
    drop(detached.socket);
    let sender = std::thread::spawn(move || std::io::copy(&mut detached.unsent, &mut there).expect("sent"));
    let all = read_all(&mut user);
    sender.join().expect("no panic");
    assert_eq!(all.len(), TOTAL + 15);
    assert!(all.ends_with(b"\x07and by a handle"));
}

// proves L-12: what is closing is not handed over
#[test]
fn a_closing_connection_cannot_be_detached() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.close();
            assert_eq!(conn.detach().expect_err("closing").kind(), ErrorKind::NotConnected);
        }
        Ok(())
    })
    .serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"");
    assert_eq!(log.closed().reason, Reason::User);
}

// proves L-28: who writes after the handing over is told of it at once, and holds nothing up
#[test]
fn what_is_written_after_the_handing_over_is_dropped() {
    let event_loop = one_poll();
    let (told, taken) = crossbeam_channel::unbounded();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request {
            told.send(conn.detach()?).expect("listened to");
            conn.output().write(b"too late");
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"?").expect("written");
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::Detached, 8));
    drop(taken);
    assert!(event_loop.shutdown(PATIENCE), "nothing is left to wait for");
}
