//! The lead of a poll is handed on when a handler blocks.

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use poller::{EventLoop, Reason, limits};
use support::*;

/// A handler that blocks on a channel when it is asked to ("b"), and echoes everything else.
fn blocker() -> (Probe, Sender<()>, Receiver<()>) {
    let (go, wait) = crossbeam_channel::unbounded::<()>();
    let (began, begun) = crossbeam_channel::unbounded::<()>();
    let probe = Probe::new(move |at, conn| {
        if at == At::Request && conn.input().chunk() == b"b" {
            began.send(()).expect("listened to");
            poller::blocking(|| wait.recv_timeout(PATIENCE))?;
        }
        echo(at, conn)
    });
    (probe, go, begun)
}

// proves L-10: one poll, one handler that blocks, everybody else goes on
#[test]
fn a_handler_that_blocks_stops_its_connection_only() {
    let event_loop = one_poll();
    let (probe, go, begun) = blocker();
    let (addr, log) = probe.serve(&event_loop);
    let mut others: Vec<_> = (0..10).map(|_| connect(addr)).collect();
    let mut blocked = connect(addr);
    blocked.write_all(b"b").expect("written");
    begun.recv_timeout(PATIENCE).expect("it blocks");
    for _ in 0..3 {
        others.iter_mut().for_each(|user| ask(user, b"not stopped"));
    }
    ask(&mut connect(addr), b"nor is accepting");
    go.send(()).expect("waited for");
    let mut answer = [0];
    blocked.read_exact(&mut answer).expect("and it goes on itself");
    drop(blocked);
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-10: timers, dials and tasks are the poll's business too
#[test]
fn timers_fire_while_a_handler_blocks() {
    let event_loop = one_poll();
    let (probe, go, begun) = blocker();
    let (addr, _log) = probe.serve(&event_loop);
    let mut blocked = connect(addr);
    blocked.write_all(b"b").expect("written");
    begun.recv_timeout(PATIENCE).expect("it blocks");
    let (told, fired) = crossbeam_channel::bounded(1);
    event_loop
        .after(std::time::Duration::ZERO, move || told.send(()).expect("listened to"))
        .expect("a timer");
    fired.recv_timeout(PATIENCE).expect("fired");
    go.send(()).expect("waited for");
    let mut answer = [0];
    blocked.read_exact(&mut answer).expect("answered");
}

// proves L-10 with its bound: when all stand-ins block too, work waits and then goes on
#[test]
fn when_no_worker_stands_by_work_waits_and_goes_on() {
    for standby in [0, 1, 3] {
        let event_loop = EventLoop::builder().polls(1).standby_max(standby).build().expect("an event loop");
        let (probe, go, begun) = blocker();
        let (addr, _log) = probe.serve(&event_loop);
        let mut users: Vec<_> = (0..standby + 3).map(|_| connect(addr)).collect();
        for user in &mut users {
            user.write_all(b"b").expect("written");
        }
        for _ in 0..=standby {
            begun.recv_timeout(PATIENCE).expect("as many block as there are threads");
        }
        assert!(begun.try_recv().is_err(), "and no more");
        for _ in &users {
            go.send(()).expect("waited for");
        }
        let mut answer = [0];
        users.iter_mut().for_each(|user| user.read_exact(&mut answer).expect("answered in the end"));
        ask(&mut connect(addr), b"everything is as before");
    }
}

// proves DESIGN 2.4: blocking again and again hands the lead on again and again, and it is never lost
#[test]
fn the_lead_survives_many_hand_overs() {
    let event_loop = EventLoop::builder().polls(1).standby_max(4).build().expect("an event loop");
    let threads = Arc::new(Mutex::new(HashSet::new()));
    let (addr, _log) = Probe::new({
        let threads = threads.clone();
        move |at, conn| {
            poller::blocking(std::thread::yield_now);
            poller::blocking(std::thread::yield_now);
            threads.lock().expect("no panic").insert(std::thread::current().id());
            echo(at, conn)
        }
    })
    .serve(&event_loop);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut user = connect(addr);
                for _ in 0..500 {
                    ask(&mut user, b"who leads?");
                }
            });
        }
    });
    let threads = threads.lock().expect("no panic").len();
    assert!((2..=5).contains(&threads), "{threads} threads led one poll, of five that may");
}

// proves L-21 for handlers that block
#[test]
fn a_panic_while_the_lead_is_with_another_hurts_one_connection() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if conn.input().chunk() == b"p" {
            poller::blocking(|| panic!("on purpose"));
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    for _ in 0..10 {
        let mut user = connect(addr);
        user.write_all(b"p").expect("written");
        assert_eq!(log.closed().reason, Reason::Panic);
    }
    ask(&mut connect(addr), b"led by somebody");
}

#[test]
fn blocking_outside_a_handler_just_runs() {
    assert_eq!(poller::blocking(|| 7), 7);
}

// proves that the queue of blocking tasks is bounded, and that all of it is done
#[test]
fn blocking_tasks_are_bounded() {
    let event_loop = EventLoop::builder().polls(1).tasks_max(1).build().expect("an event loop");
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let (began, begun) = crossbeam_channel::bounded::<()>(1);
    let first = move || {
        began.send(()).expect("listened to");
        wait.recv_timeout(PATIENCE).expect("let go");
    };
    event_loop.spawn_blocking(first).expect("room");
    begun.recv_timeout(PATIENCE).expect("the only thread is busy");
    let (told, done) = crossbeam_channel::unbounded();
    for n in 0..limits::TASK_QUEUE_MAX {
        let told = told.clone();
        event_loop.spawn_blocking(move || told.send(n).expect("listened to")).expect("room");
    }
    assert!(event_loop.spawn_blocking(|| ()).is_err());
    go.send(()).expect("waited for");
    for n in 0..limits::TASK_QUEUE_MAX {
        assert_eq!(done.recv_timeout(PATIENCE), Ok(n));
    }
    event_loop.spawn_blocking(|| panic!("on purpose")).expect("room again");
    event_loop.spawn_blocking(move || told.send(0).expect("listened to")).expect("room again");
    assert_eq!(done.recv_timeout(PATIENCE), Ok(0), "a panic hurts no other task");
}
