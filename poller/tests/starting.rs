//! What it takes to start an event loop, and what is left when it has stopped.
//!
//! Descriptors and threads are counted for the whole process, so what counts them is one test, or runs in a child.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use poller::{Builder, EventLoop};
use support::*;

const CHILD: &str = "POLLER_TEST_LITTLE_MEMORY";

// Bad input: a setting of zero is an error that says what to do instead
#[test]
fn settings_of_zero_are_refused() {
    type Set = fn(Builder) -> Builder;
    let settings: [(Set, &str); 4] = [
        (|builder| builder.polls(0), "polls(0) watches nothing: leave it out for one per core, or say 1"),
        (
            |builder| builder.tasks_max(0),
            "tasks_max(0) runs no task: say 1; a thread starts with the first task",
        ),
        (
            |builder| builder.connections_max(0),
            "connections_max(0) lets nobody in: leave it out, or do not serve",
        ),
        (
            |builder| builder.close_stall(Duration::ZERO),
            "close_stall(0) sends nothing that waits: to close so, abort the connection",
        ),
    ];
    for (set, says) in settings {
        let error = set(EventLoop::builder()).build().err().expect("zero");
        assert_eq!((error.kind(), error.to_string()), (std::io::ErrorKind::InvalidInput, says.into()));
    }
    let error = EventLoop::builder().name("a\0b").build().err().expect("no name for a thread");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    EventLoop::builder().polls(1).standby_max(0).build().expect("nobody has to stand by");
}

/// Runs a test of this file again, alone, after a line of the shell that restricts it.
fn in_a_child(name: &str, restriction: &str) {
    let script = format!("{restriction} || exit 77; exec \"$0\" --exact \"$1\" --nocapture --test-threads 1");
    let test = std::env::current_exe().expect("this program");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(test)
        .arg(name)
        .env(CHILD, "1")
        // Large stacks and one heap: where there is no room for another thread, there is for all else.
        .env("RUST_MIN_STACK", (256 << 20).to_string())
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .expect("a shell");
    if output.status.code() == Some(77) {
        eprintln!("SKIPPED: the limit cannot be set here");
        return;
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
}

/// Open descriptors and threads.
fn count() -> (usize, usize) {
    let entries = |dir| std::fs::read_dir(dir).expect("Linux").count();
    (entries("/proc/self/fd"), entries("/proc/self/task"))
}

// An event loop whose threads cannot start is none, and leaves nothing.
#[test]
fn an_event_loop_without_threads_does_not_start() {
    if std::env::var_os(CHILD).is_none() {
        // Addresses for seven stacks, and for 100 MiB and more beside them.
        return in_a_child("an_event_loop_without_threads_does_not_start", "ulimit -v 2000000");
    }
    let before = count();
    let error = EventLoop::builder().polls(500).build().err().expect("there is no room for so many stacks");
    assert!(error.to_string().starts_with("a poll has no thread, of 500 wanted: "), "{error}");
    wait_until("all has gone", || count() == before);
    // What is left is enough for a small one.
    let event_loop = one_poll();
    let (addr, _log) = Probe::echo().serve(&event_loop);
    ask(&mut connect(addr), b"hello");
}

// proves L-29: threads, descriptors and timers go with the event loop
#[test]
fn a_stopped_event_loop_leaves_nothing() {
    if std::env::var_os(CHILD).is_none() {
        return in_a_child("a_stopped_event_loop_leaves_nothing", "true");
    }
    let before = count();
    let witness = Arc::new(());
    let (event_loop, other) = (one_poll(), one_poll());
    let kept = witness.clone();
    let (probe, log) = Probe::new(move |at, conn| {
        let _kept = &kept;
        conn.set_timer(Duration::from_secs(3600));
        echo(at, conn)
    })
    .start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listener = event_loop.serve(listener, probe.clone()).expect("served");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let udp = event_loop.datagrams(udp, Deaf).expect("given");
    let mut user = connect(listener.local_addr());
    ask(&mut user, b"from outside");
    let handle = log.handle();
    let dialed = other.dial(listener.local_addr(), PATIENCE, probe).expect("dialed");
    log.until(At::Connect);
    let of_the_timer = witness.clone();
    let timer = event_loop.after(Duration::from_secs(3600), move || drop(of_the_timer)).expect("armed");
    let (blocks, blocked) = crossbeam_channel::bounded(1);
    let of_the_task = witness.clone();
    let task = move || {
        blocks.send(()).expect("listened to");
        drop(of_the_task);
    };
    event_loop.spawn_blocking(task).expect("a task");
    blocked.recv_timeout(PATIENCE).expect("it ran");
    let remote = event_loop.remote();
    assert!(count().1 > before.1 && count().0 > before.0);

    // Everything that can be kept is kept.
    assert!(event_loop.shutdown(PATIENCE));
    assert!(other.shutdown(PATIENCE));
    drop(log);
    assert!(!timer.cancel(), "the timer has gone");
    assert!(handle.is_closed() && dialed.is_closed() && remote.is_stopping());
    assert!(handle.send(Bytes::from_static(b"late")).is_err() && udp.send(b"late").is_err());
    let holders = Arc::strong_count(&witness);
    assert_eq!(holders, 2, "the timer and the task are dropped; what is kept keeps the handler");
    drop((listener, handle, dialed));
    assert_eq!(Arc::strong_count(&witness), 1, "nothing else keeps the handler");
    drop(user);
    // A thread that was joined may stand in the directory a moment longer.
    wait_until("threads and descriptors are as before", || count() == before);
}

/// Hears nothing.
struct Deaf;

impl poller::DatagramHandler for Deaf {
    fn on_datagram(&self, _: &poller::Datagrams, _: std::net::SocketAddr, _: &[u8]) {}
}

// proves that event loops live side by side: they talk to each other, and each ends alone
#[test]
fn event_loops_talk_to_each_other_and_end_alone() {
    let mut event_loops: Vec<EventLoop> = (0..4).map(|_| event_loop()).collect();
    let served: Vec<_> = event_loops.iter().map(|event_loop| Probe::echo().serve(event_loop)).collect();
    for event_loop in &event_loops {
        for (addr, _) in &served {
            let (probe, log) = Probe::new(|at, conn| {
                match at {
                    At::Connect => conn.output().write(b"question"),
                    At::Shutdown => conn.close(),
                    _ => {}
                }
                Ok(())
            })
            .start();
            event_loop.dial(*addr, PATIENCE, probe).expect("dialed");
            log.find(|event| event.at == At::Request && event.input == 8);
        }
    }
    while let Some(event_loop) = event_loops.pop() {
        let others = event_loops.len();
        // Each of those that are left has dialed all, and been dialed by all.
        assert_eq!(event_loop.connections(), 2 * (others + 1));
        assert!(event_loop.shutdown(PATIENCE));
        wait_until("the others have seen it", || {
            event_loops.iter().all(|other| other.connections() == 2 * others)
        });
    }
}
