//! Handles: sends from many threads, and what meets the owner there.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use bytes::Bytes;
use poller::{SendError, limits};
use support::gate::gate;
use support::*;

// proves DESIGN 2.3: each thread's order is kept and nothing is lost, while the peer asks and the owner answers
#[test]
fn sends_from_eight_threads_keep_their_order() {
    const THREADS: usize = 8;
    const SENDS: u32 = 5_000;
    let event_loop = event_loop();
    let (addr, log) = Probe::new(|_, conn| {
        conn.input().clear();
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    let mut asking = user.try_clone().expect("a second handle");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..THREADS as u32 {
            let handle = handle.clone();
            scope.spawn(move || {
                for n in 0..SENDS {
                    let mut record = Vec::from(thread.to_be_bytes());
                    record.extend(n.to_be_bytes());
                    let mut record = Bytes::from(record);
                    while let Err(error) = handle.send(record) {
                        match error {
                            SendError::WouldBlock(back) => record = back,
                            SendError::Closed(_) => panic!("nobody closed"),
                        }
                        std::thread::yield_now();
                    }
                }
            });
        }
        // News of other kinds, so that senders and the poll take the connection from each other.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                asking.write_all(b"?").expect("written");
            }
        });
        let mut next: HashMap<u32, u32> = HashMap::new();
        let mut record = [0; 8];
        for _ in 0..THREADS as u32 * SENDS {
            user.read_exact(&mut record).expect("nothing is lost");
            let thread = u32::from_be_bytes(record[..4].try_into().expect("four bytes"));
            let n = u32::from_be_bytes(record[4..].try_into().expect("four bytes"));
            let want = next.entry(thread).or_default();
            assert_eq!(n, *want, "of thread {thread}");
            *want += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    handle.close();
    let closed = log.closed();
    assert_eq!((closed.bytes_out, closed.unsent), (THREADS as u64 * u64::from(SENDS) * 8, 0));
}

// proves L-07, L-04: a sender that takes the connection at the very moment of an event leaves the event to the poll
#[test]
fn a_sender_does_not_swallow_the_peers_question() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // An empty send takes the connection and lets go, and nothing more.
                    handle.send(Bytes::new()).expect("open");
                }
            });
        }
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..20_000 {
                ask(&mut user, b"?");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        asked.expect("every question is answered");
    });
}

// proves L-09: a waiter that registers while another thread has the bytes in its hands is not forgotten
#[test]
fn a_waiter_is_woken_by_the_sender_that_empties_the_output() {
    let event_loop = event_loop();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let wakes = Arc::new(AtomicUsize::new(0));
    let (waiter_addr, waiter_log) = Probe::new({
        let wakes = wakes.clone();
        move |at, _| {
            wakes.fetch_add(usize::from(at == At::Request), Ordering::SeqCst);
            Ok(())
        }
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    let _waiting = connect(waiter_addr);
    let waiter = waiter_log.handle();
    // Below the high watermark, above the low one: the kernel takes it at once.
    let block = Bytes::from(vec![1; limits::OUTPUT_LOW_BYTES + 1]);
    for _ in 0..2_000 {
        let before = wakes.load(Ordering::SeqCst);
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                handle.wake_on_drain(&waiter);
            });
            barrier.wait();
            handle.send(block.clone()).expect("there is room");
        });
        let mut taken = vec![0; block.len()];
        user.read_exact(&mut taken).expect("sent");
        wait_until("the waiter is woken", || wakes.load(Ordering::SeqCst) > before);
    }
}

// proves L-09: the outbox is bounded while the owner is busy
#[test]
fn sends_to_a_busy_connection_are_bounded() {
    let event_loop = event_loop();
    let (stop, gate) = gate();
    let (addr, log) = Probe::new(move |at, conn| {
        if at == At::Request && !conn.input().is_empty() {
            conn.input().clear();
            stop.wait_announced();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    let handle = log.handle();
    user.write_all(b"?").expect("written");
    let block = Bytes::from(vec![1; 4096]);
    let mut sent = 0;
    while handle.send(block.clone()).is_ok() {
        sent += block.len();
        assert!(sent < 64 << 20, "bounded");
    }
    gate.open();
    let mut all = vec![0; sent];
    user.read_exact(&mut all).expect("what was taken is sent");
    wait_until("there is room again", || handle.send(Bytes::from_static(b"!")).is_ok());
}

// proves DESIGN 2.7: bytes pass from one connection to the other, waiting where the other is slow
#[test]
fn two_connections_relay_to_each_other() {
    const TOTAL: usize = 16 << 20;
    let event_loop = event_loop();
    let (other_addr, other_log) = Probe::quiet().serve(&event_loop);
    let mut sink = connect(other_addr);
    let other = other_log.handle();
    let (addr, log) = Probe::new(move |at, conn| {
        while at == At::Request
            && let Some(bytes) = conn.input().read_chunk(65_536)
        {
            if let Err(SendError::WouldBlock(bytes)) = other.send(bytes) {
                conn.pause();
                conn.input().write_bytes_front(bytes);
                other.wake_on_drain(&conn.handle());
                return Ok(());
            }
        }
        conn.resume();
        if conn.input_ended() {
            other.close();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    std::thread::scope(|scope| {
        scope.spawn(move || user.write_all(&vec![3; TOTAL]).expect("taken"));
        assert_eq!(read_all(&mut sink).len(), TOTAL);
    });
    assert_eq!(log.closed().bytes_in, TOTAL as u64);
}

trait Front {
    fn write_bytes_front(&mut self, bytes: Bytes);
}

impl Front for poller::LinkBuffer {
    /// What could not be passed on goes back to where it came from.
    fn write_bytes_front(&mut self, bytes: Bytes) {
        let rest = std::mem::replace(self, poller::LinkBuffer::from(bytes));
        self.append(rest);
    }
}
