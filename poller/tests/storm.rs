//! A thousand connections that open, talk and end in every way, from both sides, and what is left afterwards: nothing.
//!
//! A test binary of its own, because it counts the descriptors and the threads of the whole process. `STORM_CONNECTIONS`
//! and `STORM_SEED` make it longer and different.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use poller::{DatagramHandler, Datagrams, EventLoop, Handle, LinkBuffer, Listener, Prepare, Remote};
use support::*;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("a directory of the process").count()
}

/// The first byte of what came says what to do.
fn obey(at: At, conn: &mut poller::Connection) -> poller::Result {
    if at == At::Shutdown {
        conn.close();
    }
    if at != At::Request {
        return Ok(());
    }
    if conn.input_ended() {
        // Half-closed ones have said their last word then.
        conn.shutdown_write();
    }
    let Some(&first) = conn.input().chunk().first() else { return Ok(()) };
    match first {
        b'c' => conn.close(),
        b'a' => conn.abort(),
        b'f' => return Err("on purpose".into()),
        b'h' => conn.handle().close(),
        b'w' => conn.shutdown_write(),
        b't' => conn.set_timer(Duration::from_millis(1)),
        b'l' => conn.output().write_bytes(Bytes::from(vec![1; 300_000])),
        _ => {}
    }
    let input: LinkBuffer = std::mem::take(conn.input());
    conn.output().append(input);
    Ok(())
}

fn options(conn: &mut Prepare<'_>) -> Result<(), poller::Reject> {
    conn.set_half_close(conn.peer_addr().is_some_and(|peer| peer.port() % 2 == 0));
    match conn.peer_addr().is_some_and(|peer| peer.port() % 17 == 0) {
        true => Err("an unlucky port".into()),
        false => Ok(()),
    }
}

/// One user's connection, in one of the ways in which users behave.
fn user(addr: SocketAddr, random: &mut fastrand::Rng) {
    let mut stream = connect(addr);
    for _ in 0..random.usize(0..4) {
        let word = *random.choice(b"cafhwtl........").expect("not empty");
        let mut bytes = vec![word; random.usize(1..20_000)];
        bytes[0] = word;
        if stream.write_all(&bytes).is_err() {
            break;
        }
        if random.bool() && stream.read(&mut bytes).is_err() {
            break;
        }
    }
    match random.u8(0..4) {
        0 => drop(stream),
        1 => reset(stream),
        2 => {
            // Fails when the other side was faster.
            stream.shutdown(Shutdown::Write).ok();
            stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            stream.read_to_end(&mut Vec::new()).ok();
        }
        _ => {
            stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
            stream.read_to_end(&mut Vec::new()).ok();
            reset(stream);
        }
    }
}

struct Nothing;

impl DatagramHandler for Nothing {
    fn on_datagram(&self, _: &Datagrams, _: SocketAddr, _: &[u8]) {}
}

/// The events of one life, in order: the phases, no more than once each, and one end.
#[track_caller]
fn check_life(id: u64, life: &[At]) {
    let times = |at| life.iter().filter(|seen| **seen == at).count();
    let last = life.len() - 1;
    assert_eq!((times(At::Close), times(At::Dropped)), (1, 1), "{id}: {life:?}");
    assert_eq!((life[last - 1], life[last]), (At::Close, At::Dropped), "{id}: {life:?}");
    assert!(times(At::Connect) <= 1 && times(At::Disconnect) <= 1, "{id}: {life:?}");
    if times(At::Connect) == 1 {
        assert_eq!(life[0], At::Connect, "{id}: {life:?}");
    } else {
        assert_eq!(life.len(), 2, "{id}: no other callback: {life:?}");
    }
    if times(At::Disconnect) == 1 {
        assert_eq!(life[last - 2], At::Disconnect, "{id}: {life:?}");
    }
}

/// What users may keep when the event loop has stopped: no descriptor hangs on it.
type Kept = (Remote, Vec<Handle>, Listener, Datagrams);

fn storm(connections: u64, seed: u64) -> Kept {
    let event_loop = EventLoop::builder().polls(2).build().expect("an event loop");
    let (probe, log) = Probe::new(obey).before(options).start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listener = event_loop.serve::<Probe>(listener, probe.clone()).expect("served");
    let addr = listener.local_addr();
    let mut handles = Vec::new();
    let socket =
        event_loop.datagrams(UdpSocket::bind("127.0.0.1:0").expect("a port"), Nothing).expect("given");
    event_loop.after(Duration::MAX, || ()).expect("a timer that never fires");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + thread);
                for _ in 0..connections / 5 {
                    user(addr, &mut random);
                }
            });
        }
        // And some from the inside, which close from the handle's side.
        let mut random = fastrand::Rng::with_seed(seed + 4);
        for _ in 0..connections / 5 {
            let Ok(handle) = event_loop.dial::<Probe>(addr, PATIENCE, probe.clone()) else { continue };
            for word in [&b"."[..], b"l", b"t"] {
                handle.send(Bytes::from_static(word)).ok();
            }
            match random.u8(0..3) {
                0 => handle.close(),
                1 => handle.abort(),
                _ => {
                    handle.send(Bytes::from_static(b"c")).ok();
                    handle.wake();
                }
            }
            // Two echoes would talk to each other for ever.
            handle.add_close_callback(|info| assert!(info.id > 0));
            handle.close();
            handles.push(handle);
        }
    });
    let remote = event_loop.remote();
    wait_until("no connection is left", || event_loop.connections() == 0);
    assert!(event_loop.shutdown(PATIENCE));
    drop(probe);
    let mut lives: HashMap<u64, Vec<At>> = HashMap::new();
    let mut prepared = 0;
    let mut unborn = 0;
    for event in log.rest() {
        match (event.id, event.at) {
            (_, At::Prepare) => prepared += 1,
            // Its context never learnt a number: `on_connect` did not run.
            (0, At::Dropped) => unborn += 1,
            (id, at) => lives.entry(id).or_default().push(at),
        }
    }
    for (id, mut life) in lives {
        if life[0] != At::Connect {
            assert_eq!(life, [At::Close], "{id}");
            unborn -= 1;
            life.push(At::Dropped);
        }
        check_life(id, &life);
    }
    assert_eq!(unborn, 0, "every context was dropped with its connection");
    assert!(prepared >= connections / 2);
    (remote, handles, listener, socket)
}

// proves L-01, L-16, L-18, L-19, L-29: one life, one end, and no descriptor, thread or connection is left
#[test]
fn a_storm_leaves_nothing_behind() {
    let seed = setting("STORM_SEED", 7);
    let connections = setting("STORM_CONNECTIONS", 1_000);
    eprintln!("STORM_SEED={seed} STORM_CONNECTIONS={connections}");
    // What the first use of anything opens for good is not counted.
    drop(storm(20, seed));
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    let kept = storm(connections, seed);
    // A joined thread may be listed for a moment more.
    wait_until("the threads are gone", || count("/proc/self/task") <= before.1);
    assert_eq!(count("/proc/self/fd"), before.0, "descriptors");
    drop(kept);
}
