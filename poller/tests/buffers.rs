//! What the buffers promise to handlers: bytes that outlive everything, and connections that own nothing while they are idle.
//!
//! That a borrowed slice cannot outlive its bytes (L-25) is shown where it does not compile: in the documentation of the crate
//! and of `LinkBuffer::peek`. The buffer's own tests count its allocations.

mod support;

use std::io::{Read, Write};

use bytes::Bytes;
use poller::limits;
use support::*;

// proves L-26, L-25: owned slices outlive the handler, the connection and the event loop, on another thread
#[test]
fn bytes_that_a_handler_takes_outlive_the_connection_and_the_event_loop() {
    const TOTAL: usize = 3 * limits::READ_BYTES_MAX + 7;
    let event_loop = event_loop();
    let (keep, kept) = crossbeam_channel::unbounded::<Bytes>();
    let (addr, log) = Probe::new(move |at, conn| {
        while at == At::Request
            && let Some(bytes) = conn.input().read_chunk(10_000)
        {
            keep.send(bytes)?;
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(&(0..TOTAL).map(pattern).collect::<Vec<u8>>()).expect("written");
    drop(user);
    assert_eq!(log.closed().bytes_in, TOTAL as u64);
    // The memory that the pieces lie in is not used again while they are there.
    let mut other = connect(addr);
    other.write_all(&vec![0xaa; TOTAL]).expect("written");
    drop(other);
    log.closed();
    assert!(event_loop.shutdown(PATIENCE));
    let check = move || {
        let all: Vec<u8> = kept.try_iter().flatten().collect();
        assert_eq!(all.len(), 2 * TOTAL);
        assert!((0..TOTAL).all(|i| all[i] == pattern(i) && all[TOTAL + i] == 0xaa));
    };
    std::thread::spawn(check).join().expect("the same bytes, on another thread");
}

/// Resident memory in KiB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("there is one");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

// proves L-27: a hundred connections with half a megabyte of unread input each, then the next hundred beside the former, who are
// idle: the memory is the same. What an allocator keeps for itself does not count that way.
#[test]
fn an_idle_connection_owns_no_buffer() {
    const CONNECTIONS: usize = 100;
    const EACH: usize = 512 * 1024;
    // One thread, because what an allocator keeps for itself it keeps for each thread that has led.
    let event_loop = poller::EventLoop::builder().polls(1).standby_max(0).build().expect("an event loop");
    let (addr, log) = Probe::new(|at, conn| {
        // Left lying until all of it is there, and then until the wake.
        if at == At::Request && conn.input().len() == EACH + 1 {
            conn.input().clear();
            conn.output().write(b"!");
        }
        Ok(())
    })
    .serve(&event_loop);
    let block = vec![7; EACH];
    let start = resident_kb();
    let mut peaks = Vec::new();
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut users: Vec<_> = (0..CONNECTIONS).map(|_| connect(addr)).collect();
        users.iter_mut().for_each(|user| user.write_all(&block).expect("taken"));
        (0..CONNECTIONS).for_each(|_| drop(log.find(|event| event.input == EACH)));
        peaks.push(resident_kb() - start);
        for user in &mut users {
            user.write_all(b"?").expect("written");
            user.read_exact(&mut [0]).expect("it was eaten");
        }
        idle.extend(users);
    }
    eprintln!("KiB above the start, each time that {CONNECTIONS} are loaded: {peaks:?}");
    let full = (EACH * CONNECTIONS / 1024) as u64;
    assert!(peaks[0] >= full * 9 / 10, "all of it lies in memory: {peaks:?} of {full} KiB");
    assert!(peaks[3] <= peaks[0] + full / 4, "those who are idle hold some of it: {peaks:?}");
}
