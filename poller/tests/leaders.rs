//! The lead of a poll is handed on when a handler blocks.

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use poller::{EventLoop, PollStats, Reason, limits};
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

/// A handler that blocks on a channel when it is asked to ("b", or "p" and then it panics), and tells nobody before.
fn secret_blocker() -> (Probe, Sender<()>, Receiver<()>) {
    let (go, wait) = crossbeam_channel::unbounded::<()>();
    let (began, begun) = crossbeam_channel::unbounded::<()>();
    let probe = Probe::new(move |at, conn| {
        let panics = conn.input().chunk() == b"p";
        if at == At::Request && (panics || conn.input().chunk() == b"b") {
            began.send(()).expect("listened to");
            wait.recv_timeout(PATIENCE)?;
            assert!(!panics, "on purpose");
        }
        echo(at, conn)
    });
    (probe, go, begun)
}

fn stats(event_loop: &EventLoop) -> PollStats {
    event_loop.polls().next().expect("there is a poll")
}

// proves L-10 without any hint: the monitor finds the handler, and its listener is hinted from then on
#[test]
fn a_handler_that_blocks_unannounced_is_found_and_remembered() {
    let event_loop = one_poll();
    let (probe, go, begun) = secret_blocker();
    let (addr, _log) = probe.serve(&event_loop);
    let (other, _other_log) = Probe::echo().serve(&event_loop);
    let mut users: Vec<_> = (0..10).map(|n| connect(if n % 2 == 0 { addr } else { other })).collect();
    users.iter_mut().for_each(|user| ask(user, b"before"));
    assert_eq!(stats(&event_loop).hinted, 0);
    // On a machine that is busy a thread may have waited for a core when it was looked at: then it is relieved all the
    // same, and not remembered. Once it is, it is looked at sooner, which is to be seen as well.
    let mut rounds = 0;
    while stats(&event_loop).suspected < 3 {
        rounds += 1;
        assert!(rounds <= 1000, "found to block: {:?}", stats(&event_loop));
        let mut blocked = connect(addr);
        blocked.write_all(b"b").expect("written");
        begun.recv_timeout(PATIENCE).expect("it blocks");
        users.iter_mut().for_each(|user| ask(user, b"not stopped"));
        ask(&mut connect(addr), b"nor is accepting");
        go.send(()).expect("waited for");
        let mut answer = [0];
        blocked.read_exact(&mut answer).expect("and it goes on itself");
        assert!(stats(&event_loop).takeovers >= rounds);
    }
    wait_until("it is remembered", || stats(&event_loop).hinted == 1);
    assert_eq!(event_loop.workers().starved, 0);
}

// proves that dialed handlers are remembered by their type: the second dial finds the hint of the first
#[test]
fn a_dialed_handler_that_blocks_unannounced_is_remembered() {
    let event_loop = one_poll();
    let (server, _log) = Probe::echo().serve(&event_loop);
    let mut rounds = 0;
    while stats(&event_loop).suspected < 2 {
        rounds += 1;
        assert!(rounds <= 1000, "found to block: {:?}", stats(&event_loop));
        let (probe, go, begun) = secret_blocker();
        let (probe, log) = probe.start();
        let handle = event_loop.dial(server, PATIENCE, probe).expect("dialed");
        log.until(At::Connect);
        handle.send("b".into()).expect("sent");
        begun.recv_timeout(PATIENCE).expect("it blocks");
        ask(&mut connect(server), b"not stopped");
        go.send(()).expect("waited for");
        log.until(At::Request);
        handle.abort();
    }
    assert_eq!(stats(&event_loop).hinted, 1);
}

// proves L-10 for handlers that compute: they are relieved, and not taken for handlers that block
#[test]
fn a_handler_that_runs_for_long_stops_its_connection_only() {
    let event_loop = one_poll();
    let end = Arc::new(AtomicBool::new(false));
    let (began, begun) = crossbeam_channel::unbounded::<()>();
    let (addr, _log) = Probe::new({
        let end = end.clone();
        move |at, conn| {
            if at == At::Request && conn.input().chunk() == b"b" {
                began.send(()).expect("listened to");
                let start = Instant::now();
                while !end.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                    std::hint::spin_loop();
                }
            }
            echo(at, conn)
        }
    })
    .serve(&event_loop);
    let mut other = connect(addr);
    ask(&mut other, b"before");
    let mut busy = connect(addr);
    busy.write_all(b"b").expect("written");
    begun.recv_timeout(PATIENCE).expect("it computes");
    ask(&mut other, b"not stopped");
    end.store(true, Ordering::Relaxed);
    let mut answer = [0];
    busy.read_exact(&mut answer).expect("answered");
    assert!(stats(&event_loop).takeovers >= 1);
    #[cfg(target_os = "linux")]
    assert_eq!((stats(&event_loop).suspected, stats(&event_loop).hinted), (0, 0));
}

// proves L-21 for handlers that block unannounced: the panic comes when another has the lead
#[test]
fn a_panic_after_an_unannounced_block_hurts_one_connection() {
    let event_loop = one_poll();
    let (probe, go, begun) = secret_blocker();
    let (addr, log) = probe.serve(&event_loop);
    for _ in 0..3 {
        let mut user = connect(addr);
        user.write_all(b"p").expect("written");
        begun.recv_timeout(PATIENCE).expect("it blocks");
        ask(&mut connect(addr), b"led by somebody else");
        go.send(()).expect("waited for");
        log.find(|event| event.closed.as_ref().is_some_and(|closed| closed.reason == Reason::Panic));
    }
    ask(&mut connect(addr), b"led by somebody");
}

// proves L-21 where nobody takes the lead: it comes back from under the panic
#[test]
fn a_panic_while_the_lead_lies_there_does_not_lose_it() {
    let event_loop = EventLoop::builder().polls(1).standby_max(0).build().expect("an event loop");
    let (addr, log) = Probe::new(|_, conn| {
        assert!(conn.input().chunk() != b"p", "on purpose");
        Ok(())
    })
    .serve(&event_loop);
    for _ in 0..3 {
        let mut user = connect(addr);
        user.write_all(b"p").expect("written");
        assert_eq!(log.closed().reason, Reason::Panic);
    }
    let (told, done) = crossbeam_channel::bounded(1);
    event_loop.after(Duration::ZERO, || panic!("on purpose")).expect("a timer");
    event_loop.after(Duration::from_millis(1), move || told.send(()).expect("listened to")).expect("a timer");
    done.recv_timeout(PATIENCE).expect("the poll is led");
    assert_eq!(event_loop.workers().threads, 1);
}

// proves the bound: the last standby worker blocks too, that is counted, and the rest waits and goes on
#[test]
fn when_all_block_unannounced_it_is_counted_and_work_waits() {
    let event_loop = EventLoop::builder().polls(1).standby_max(1).build().expect("an event loop");
    let (probe, go, begun) = secret_blocker();
    let (addr, log) = probe.serve(&event_loop);
    let mut users: Vec<_> = (0..3).map(|_| connect(addr)).collect();
    let handles: Vec<_> = users.iter().map(|_| log.handle()).collect();
    users.iter_mut().for_each(|user| user.write_all(b"b").expect("written"));
    for _ in 0..2 {
        begun.recv_timeout(PATIENCE).expect("as many block as there are threads");
    }
    wait_until("it is counted", || event_loop.workers().starved == 1);
    assert!(begun.try_recv().is_err(), "and no more than that");
    handles.iter().for_each(poller::Handle::wake);
    assert_eq!(stats(&event_loop).queued, 1, "the connection that is not blocked waits in the queue");
    assert_eq!((event_loop.workers().threads, event_loop.workers().standby), (2, 0));
    for _ in &users {
        go.send(()).expect("waited for");
    }
    let mut answer = [0];
    users.iter_mut().for_each(|user| user.read_exact(&mut answer).expect("answered in the end"));
    ask(&mut connect(addr), b"everything is as before");
    assert_eq!(stats(&event_loop).queued, 0);
}

// proves that an idle event loop wakes up for nothing, its monitor included, and that it wakes up for something
#[test]
#[cfg(target_os = "linux")]
fn an_idle_event_loop_does_not_wake_up() {
    let idle = EventLoop::builder().polls(2).name("idle").build().expect("an event loop");
    let (addr, _log) = Probe::echo().serve(&idle);
    let elsewhere = one_poll();
    let (clock, _clock_log) = Probe::echo().serve(&elsewhere);
    let pause = || {
        let (told, done) = crossbeam_channel::bounded(1);
        elsewhere
            .after(Duration::from_millis(20), move || told.send(()).expect("listened to"))
            .expect("a timer");
        done.recv_timeout(PATIENCE).expect("fired");
        ask(&mut connect(clock), b"something happens elsewhere");
    };
    let wake_ups = || -> (Vec<u64>, Vec<u64>) {
        let turns = idle.polls().map(|poll| poll.turns).collect();
        (turns, switches("idle-"))
    };
    wait_until("two leaders, one that stands by, and the monitor have their names", || {
        switches("idle-").len() >= 4
    });
    for _ in 0..3 {
        ask(&mut connect(addr), b"busy for a moment");
        wait_until_none(&idle);
        // It ticks for a while, longer on a machine that is busy, and then it is left alone.
        wait_until("it rests while a tenth of a second passes", || {
            let before = wake_ups();
            (0..5).for_each(|_| pause());
            wake_ups() == before
        });
    }
}

/// How often each thread whose name begins so has gone to sleep.
#[cfg(target_os = "linux")]
fn switches(name: &str) -> Vec<u64> {
    let mut counts = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        // Threads of other tests end meanwhile.
        let Ok(status) = std::fs::read_to_string(thread.path().join("status")) else { continue };
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.expect("every thread has it").trim().to_owned()
        };
        if field("Name:").starts_with(name) {
            counts.push(field("voluntary_ctxt_switches:").parse().expect("a number"));
        }
    }
    counts
}

// proves that the numbers of a poll are those of what it did
#[test]
fn a_poll_tells_what_it_does() {
    let event_loop = one_poll();
    let before = stats(&event_loop);
    assert_eq!((before.takeovers, before.suspected, before.hinted), (0, 0, 0));
    let (addr, _log) = Probe::new(|at, conn| {
        if at == At::Request && conn.input().chunk() == b"take a while" {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(200) {
                std::hint::spin_loop();
            }
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    for _ in 0..10 {
        ask(&mut user, b"take a while");
    }
    let after = stats(&event_loop);
    assert!(after.runs >= before.runs + 10, "{after:?}");
    assert!(after.turns >= before.turns + 9, "{after:?}");
    assert!(after.longest_turn >= Duration::from_micros(200), "{after:?}");
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

// proves the bound of LONE_WAITS_MIN, and that one connection which wakes another costs no look at the selector in between
#[test]
fn what_a_lone_event_leaves_is_done_without_looking_for_another() {
    const TIMES: u64 = 100;
    let event_loop = one_poll();
    let (answering, answer_log) = Probe::new(|at, conn| {
        if at == At::Request {
            conn.output().write(b"!");
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut answered = connect(answering);
    let answers = answer_log.handle();
    let (asking, _log) = Probe::new(move |at, conn| {
        if at == At::Request {
            conn.input().clear();
            answers.wake();
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut asked = connect(asking);
    let mut turns = |times| {
        let before = stats(&event_loop).turns;
        for _ in 0..times {
            asked.write_all(b"?").expect("written");
            answered.read_exact(&mut [0]).expect("answered");
        }
        stats(&event_loop).turns - before
    };
    turns(limits::LONE_WAITS_MIN as u64 + 1);
    // A wait for each question; a look for events before each answer would make it two.
    let taken = turns(TIMES);
    assert!(taken < TIMES + TIMES / 2, "{taken}");
}
