//! Every closing scenario in every dispatch situation: one reason, one clean-up, in one order, and nobody else notices.
//!
//! A scenario is a row of `scenario.rs`: what ends the connection, and what must follow. `stage.rs` has the situations, `play.rs`
//! brings a row about. `check` holds everything that can be seen against the row: the callbacks in their order, the reason that
//! each is told, the bytes, what the peer sees, the lines in the log, the connections that are left, and what a handle that was
//! kept says, also when the slot has a new tenant.
#![allow(unreachable_pub)]

mod play;
mod scenario;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use log::Level;
use poller::{Closed, Handle, Reason, SendError};

use play::{Cast, Scene, Subject};
use scenario::{Deed, Scenario, Sees, WORDS, Why};
use stage::{SITUATIONS, Situation, Stage};
use support::*;

/// Plays each scenario in each situation.
fn check_all(scenarios: Vec<Scenario>) {
    logs::keep();
    for scenario in &scenarios {
        for situation in SITUATIONS {
            // Seen when the test fails.
            println!("{:?}, {situation:?}", scenario.deed);
            check(scenario, situation);
        }
    }
}

#[track_caller]
fn check(scenario: &Scenario, situation: Situation) {
    let stage = Stage::new(situation);
    let others = stage.remote.connections();
    let (subject, gate) = Subject::new(scenario.deed, &stage);
    let (probe, log) = subject.probe().start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = stage.remote.serve(listener, probe.clone()).expect("served").local_addr();
    let cast = Cast::default();
    let mut scene = Scene { stage: &stage, subject: &subject, gate, probe, log, addr, cast };
    scene.play();
    let Scene { log, mut cast, .. } = scene;
    check_user(scenario.sees, &mut cast);
    let closed = check_events(scenario, &mut cast, &log);
    if let Some((_, waiter)) = &cast.waiter {
        waiter.expect(&[At::Request]);
    }
    let left = match cast.waiter {
        _ if stage.remote.is_stopping() => 0,
        Some(_) => others + 1,
        None => others,
    };
    wait_until("the connection is counted out", || stage.remote.connections() == left);
    assert!(log.rest().is_empty(), "nothing comes after the end");
    if let Some(closed) = &closed {
        check_counts(scenario, closed, &subject);
    }
    check_log(scenario, &stage, closed.as_ref());
    if !stage.remote.is_stopping() {
        stage.bystander.is_served();
    }
    if let (Some(handle), Some(closed)) = (&cast.handle, &closed) {
        check_stale(&stage, handle, closed);
    }
}

/// What the user's socket sees in the end.
#[track_caller]
fn check_user(sees: Sees, cast: &mut Cast) {
    let seen = cast.user.as_mut().map(|user| user.read_to_end(&mut Vec::new()).map_err(|error| error.kind()));
    match sees {
        Sees::Nothing => assert_eq!(seen, None),
        Sees::End => assert!(matches!(seen, Some(Ok(_))), "{seen:?}"),
        Sees::Reset => assert_eq!(seen, Some(Err(std::io::ErrorKind::ConnectionReset))),
    }
}

/// The callbacks, in order, each with the same reason; what the last ones were told.
#[track_caller]
fn check_events(scenario: &Scenario, cast: &mut Cast, log: &Log) -> Option<Closed> {
    let at = |cast: &Cast| cast.seen.iter().map(|event| event.at).collect::<Vec<At>>();
    if scenario.why == Why::Untold {
        cast.seen.push(log.next());
        assert_eq!(at(cast), scenario.callbacks[0]);
        return None;
    }
    while cast.seen.last().is_none_or(|event| event.at != At::Dropped) {
        cast.seen.push(log.next());
    }
    let told: Vec<&Closed> = cast.seen.iter().filter_map(|event| event.closed.as_ref()).collect();
    let closed = told[0];
    assert!(scenario.why.allows(&closed.reason), "{:?} is not {:?}", closed.reason, scenario.why);
    assert!(told.iter().all(|other| other.reason == closed.reason && other.id == closed.id), "{told:?}");
    let disconnected = scenario.connected && matches!(closed.reason, Reason::Peer | Reason::Error(_));
    let mut last = Vec::new();
    last.extend(disconnected.then_some(At::Disconnect));
    // Those that on_connect added.
    let met = cast.seen.iter().any(|event| event.at == At::Connect);
    last.extend([At::Callback; 2].iter().filter(|_| met));
    last.extend([At::Close, At::Dropped]);
    let wanted: Vec<Vec<At>> =
        scenario.callbacks.iter().map(|callbacks| [&callbacks[..], &last].concat()).collect();
    assert!(wanted.contains(&at(cast)), "{:?} is none of {wanted:?}", at(cast));
    assert_eq!(closed.connected, scenario.connected);
    Some(closed.clone())
}

/// Every byte is accounted for.
#[track_caller]
fn check_counts(scenario: &Scenario, closed: &Closed, subject: &Subject) {
    assert_eq!(closed.bytes_out + closed.unsent, subject.written.load(Ordering::SeqCst));
    match scenario.deed {
        Deed::Peer(_) => assert_eq!(closed.bytes_in, WORDS.len() as u64, "all that was said before the end"),
        Deed::In(At::Request | At::Timer, _) => assert_eq!(closed.bytes_in, 1),
        _ => assert_eq!(closed.bytes_in, 0),
    }
    if scenario.sees == Sees::End {
        assert_eq!(closed.unsent, 0, "an end that looks orderly is one");
    }
    assert!(closed.local.is_some() && closed.peer.is_some());
}

/// A panic is one ERROR line with the connection's number, and nothing else is one.
#[track_caller]
fn check_log(scenario: &Scenario, stage: &Stage, closed: Option<&Closed>) {
    let errors = logs::lines(&stage.name, Level::Error);
    assert_eq!(errors.len(), scenario.errors, "{errors:?}");
    for line in &errors {
        assert!(line.text.contains("on purpose"), "{line:?}");
        match closed {
            Some(closed) => assert_eq!(line.value("conn"), Some(closed.id.to_string().as_str()), "{line:?}"),
            None => assert_eq!(line.value("callback"), Some("on_prepare"), "{line:?}"),
        }
    }
}

/// A handle that was kept says Closed, and does nothing to the connection that has its slot now.
#[track_caller]
fn check_stale(stage: &Stage, handle: &Handle, closed: &Closed) {
    let stopped = stage.remote.is_stopping();
    let mut next = (!stopped).then(|| connect(stage.echo_addr));
    if let Some(next) = &mut next {
        ask(next, b"the slot's next tenant");
        stage.hold();
    }
    assert!(handle.is_closed());
    let stray = Bytes::from_static(b"stray");
    assert_eq!(handle.send(stray.clone()), Err(SendError::Closed(stray)));
    handle.wake();
    handle.close();
    handle.abort();
    handle.wake_on_drain(handle);
    assert!(handle.set_timer(Duration::ZERO).is_err(), "nobody would be told");
    let (told, late) = crossbeam_channel::bounded(1);
    let tell = move |info: &poller::Closed| told.send(info.reason.clone()).expect("listened to");
    handle.add_close_callback(tell).expect("room");
    assert_eq!(late.try_recv().as_ref(), Ok(&closed.reason), "a late callback runs at once");
    if let Some(next) = &mut next {
        stage.release();
        ask(next, b"is not touched");
    }
}

// proves L-08, L-12, L-17, L-18, L-19, L-21, L-24: a callback closes, fails or panics
#[test]
fn a_callback_ends_its_connection() {
    check_all(scenario::in_callbacks());
}

// proves L-02, L-18, L-21
#[test]
fn a_panic_in_the_first_or_the_last_callbacks_changes_nothing_else() {
    check_all(scenario::in_the_first_and_the_last());
}

// proves L-12, L-13, L-14, L-15, L-18, L-24
#[test]
fn the_user_or_the_peer_ends_it() {
    check_all(scenario::from_outside());
}

// proves L-12, L-16, L-18: in many rounds, because only some of them are a tie
#[test]
fn both_end_it_at_once() {
    for _ in 0..10 {
        check_all(scenario::both_at_once());
    }
}

// proves L-18: also when the peer leaves before, during and right at the end of `on_connect`
#[test]
fn the_peer_leaves_around_on_connect() {
    check_all(scenario::around_on_connect());
}

// proves L-12, L-18, L-29
#[test]
fn the_event_loop_stops() {
    check_all(scenario::while_the_event_loop_stops());
}

// proves L-09, L-13, L-15, L-18: whoever waits for room is woken by the end, too
#[test]
fn it_ends_while_a_writer_waits() {
    check_all(scenario::while_a_writer_waits());
}

// proves L-11, L-12, L-18: a limit in time passes
#[test]
fn a_limit_passes() {
    check_all(scenario::limits_in_time());
}

// proves L-01, L-11, L-12, L-18, L-32
#[test]
fn a_dial_comes_to_nothing() {
    check_all(scenario::dials());
}
