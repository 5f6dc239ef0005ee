//! Timers of connections and of the event loop.

mod support;

use std::time::{Duration, Instant};

use poller::{Connection, limits};
use support::*;

const NEVER: Duration = Duration::MAX;

// proves L-11's ground: a timer fires once, not before its time, and may be set again from itself
#[test]
fn a_timer_fires_and_may_be_set_again() {
    let event_loop = event_loop();
    let delay = Duration::from_millis(5);
    let left = std::sync::atomic::AtomicUsize::new(3);
    let (addr, log) = Probe::new(move |at, conn| {
        let again = at == At::Timer && left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 1;
        if at == At::Connect || again {
            conn.set_timer(delay);
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let start = Instant::now();
    let mut user = connect(addr);
    log.expect(&[At::Prepare, At::Connect, At::Timer, At::Timer, At::Timer]);
    assert!(start.elapsed() >= 3 * delay);
    ask(&mut user, b"still there");
    log.expect(&[At::Request]);
}

// proves L-11: set later, set earlier, taken back, while it waits
#[test]
fn a_timer_can_be_moved_and_taken_back_while_it_waits() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        match conn.input().chunk() {
            b"later" => conn.set_timer(NEVER),
            b"sooner" => conn.set_timer(Duration::ZERO),
            b"soon" => conn.set_timer(Duration::from_millis(1)),
            b"soon and not" => {
                conn.set_timer(Duration::from_millis(1));
                conn.clear_timer();
            }
            _ => {}
        }
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.expect(&[At::Prepare, At::Connect]);
    ask(&mut user, b"later");
    log.expect(&[At::Request]);
    ask(&mut user, b"sooner");
    log.expect(&[At::Request, At::Timer]);
    ask(&mut user, b"soon and not");
    log.expect(&[At::Request]);
    // A task that is due after the timer would be: the timer has had its time.
    let (told, fired) = crossbeam_channel::bounded(1);
    let task = move || told.send(()).expect("listened to");
    event_loop.after(Duration::from_millis(10), task).expect("a timer");
    fired.recv_timeout(PATIENCE).expect("fired");
    assert!(log.rest().is_empty());
    // What was armed for the timer that was taken back does not keep a new one from firing.
    ask(&mut user, b"soon");
    log.expect(&[At::Request, At::Timer]);
}

/// A connection that sets its timer again and again, as `set` does, leaves the events their turn, and the end too.
#[track_caller]
fn check_others_have_their_turn(set: fn(&mut Connection)) {
    let event_loop = one_poll();
    let (addr, _log) = Probe::new(move |at, conn| {
        if matches!(at, At::Connect | At::Timer) {
            set(conn);
        }
        Ok(())
    })
    .serve(&event_loop);
    let (echo_addr, _echo_log) = Probe::echo().serve(&event_loop);
    let _restless = connect(addr);
    let mut user = connect(echo_addr);
    for _ in 0..10 {
        ask(&mut user, b"in between");
    }
    drop(user);
    assert!(!event_loop.shutdown(Duration::ZERO), "the restless one was cut off");
}

// proves L-31 for timers: one that is due again at once
#[test]
fn a_timer_without_delay_does_not_starve_the_others() {
    check_others_have_their_turn(|conn| conn.set_timer(Duration::ZERO));
}

// proves L-31 for timers that are late: an instant that has passed is no way round the events
#[test]
fn a_timer_at_an_instant_that_has_passed_does_not_starve_the_others() {
    check_others_have_their_turn(|conn| conn.set_timer_at(Instant::now() - Duration::from_millis(1)));
}

#[test]
fn tasks_run_in_the_order_of_their_time_and_can_be_cancelled() {
    let event_loop = one_poll();
    let (told, fired) = crossbeam_channel::unbounded();
    let task = |name: &'static str| {
        let told = told.clone();
        move || told.send(name).expect("listened to")
    };
    event_loop.after(Duration::from_millis(20), task("second")).expect("a timer");
    let cancelled = event_loop.after(Duration::from_millis(15), task("cancelled")).expect("a timer");
    let first = event_loop.after(Duration::from_millis(10), task("first")).expect("a timer");
    assert!(cancelled.cancel());
    assert_eq!(fired.recv_timeout(PATIENCE), Ok("first"));
    assert_eq!(fired.recv_timeout(PATIENCE), Ok("second"));
    assert!(!first.cancel(), "it has fired");
}

// proves L-21 for tasks
#[test]
fn a_task_that_panics_hurts_nobody() {
    let event_loop = one_poll();
    let (told, fired) = crossbeam_channel::bounded(1);
    event_loop.after(Duration::ZERO, || panic!("on purpose")).expect("a timer");
    event_loop.after(Duration::ZERO, move || told.send(()).expect("listened to")).expect("a timer");
    fired.recv_timeout(PATIENCE).expect("the next one runs");
}

// proves that TASK_TIMERS_MAX holds for all polls together, and frees what is cancelled
#[test]
fn tasks_that_wait_are_bounded() {
    let event_loop = event_loop();
    let timers: Vec<_> =
        (0..limits::TASK_TIMERS_MAX).map(|_| event_loop.after(NEVER, || ()).expect("room")).collect();
    let error = event_loop.after(NEVER, || ()).err().expect("one too many");
    assert!(error.to_string().contains("65536 timers wait already"), "{error}");
    for timer in timers {
        assert!(timer.cancel());
    }
    let (told, fired) = crossbeam_channel::unbounded();
    let remote = event_loop.remote();
    let again = move || told.send(remote.after(NEVER, || ()).is_ok()).expect("listened to");
    let _others: Vec<_> =
        (1..limits::TASK_TIMERS_MAX).map(|_| event_loop.after(NEVER, || ()).expect("room again")).collect();
    event_loop.after(Duration::ZERO, again).expect("room for one");
    assert_eq!(fired.recv_timeout(PATIENCE), Ok(true), "one that has fired makes room for what it does");
}

/// Does something with timers when it is dropped, as a user's guard may.
struct Restless(poller::Remote);

impl Drop for Restless {
    fn drop(&mut self) {
        if let Ok(timer) = self.0.after(NEVER, || ()) {
            timer.cancel();
        }
    }
}

// Dropping a task runs anybody's code, which must not meet a lock of ours.
#[test]
fn a_task_may_use_timers_when_it_is_dropped() {
    let event_loop = one_poll();
    for cancels in [true, false] {
        let guard = Restless(event_loop.remote());
        let timer = event_loop.after(NEVER, move || drop(guard)).expect("a timer");
        if cancels {
            assert!(timer.cancel());
        }
    }
    assert!(event_loop.shutdown(PATIENCE));
}

// A delay that no clock can hold is as good as never, everywhere.
#[test]
fn no_delay_is_too_long() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        conn.set_timer(NEVER);
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    ask(&mut user, b"alive");
    let (probe, dial_log) = Probe::echo().start();
    event_loop.dial(addr, NEVER, probe).expect("dialed");
    dial_log.until(At::Connect);
    drop(user);
    log.closed();
    assert!(event_loop.shutdown(NEVER));
}
