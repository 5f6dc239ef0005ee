//! What is used wrongly says so, and says what would be right; what a callback does wrong hurts its connection alone and is one
//! line in the log.
//!
//! What cannot be written at all is shown in the documentation by examples that do not compile.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::Level;
use poller::{
    Builder, Connection, DatagramHandler, Datagrams, EventLoop, Handler, Prepare, Reason, Reject, Remote,
};
use support::*;

/// An event loop with a name of its own, whose lines in the log can be told from others'.
fn named(name: &str) -> EventLoop {
    logs::keep();
    EventLoop::builder().name(name).polls(1).build().expect("an event loop")
}

#[track_caller]
fn check_refused(what: &str, outcome: std::io::Result<()>, says: &str) {
    let error = outcome.expect_err(what).to_string();
    assert!(error.contains(says), "{what}: {error:?} does not say {says:?}");
}

// proves that a limit of zero is refused with a word about what is needed
#[test]
fn settings_of_zero_are_refused() {
    type Zero = fn(Builder) -> Builder;
    let zeros: [(&str, Zero); 5] = [
        ("leave it out for one per core", |builder| builder.polls(0)),
        ("say 1", |builder| builder.tasks_max(0)),
        ("leave it out, or do not serve", |builder| builder.connections_max(0)),
        ("abort the connection", |builder| builder.close_stall(Duration::ZERO)),
        ("give it time", |builder| builder.wait_limit(Duration::ZERO)),
    ];
    for (says, zero) in zeros {
        check_refused(says, zero(EventLoop::builder()).build().map(drop), says);
    }
    // None beside the polls' own is a choice.
    EventLoop::builder().standby_max(0).build().expect("an event loop");
}

struct Deaf;

impl DatagramHandler for Deaf {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        assert_ne!(data, b"panic", "on purpose");
        socket.send_to(data, from).expect("sent");
    }
}

// proves L-29: an event loop that has stopped takes nothing more, and says why
#[test]
fn a_stopped_event_loop_says_so() {
    let event_loop = one_poll();
    let remote = event_loop.remote();
    assert!(event_loop.shutdown(PATIENCE));
    type Use = fn(&Remote) -> std::io::Result<()>;
    let uses: [(&str, Use); 5] = [
        ("serve", |remote| {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            remote.serve(listener, Probe::echo().start().0).map(drop)
        }),
        ("dial", |remote| remote.dial(closed_port(), PATIENCE, Probe::echo().start().0).map(drop)),
        ("datagrams", |remote| remote.datagrams(UdpSocket::bind("127.0.0.1:0")?, Deaf).map(drop)),
        ("after", |remote| remote.after(Duration::ZERO, || ()).map(drop)),
        ("spawn_blocking", |remote| remote.spawn_blocking(|| ())),
    ];
    for (what, using) in uses {
        check_refused(what, using(&remote), "the event loop is stopping");
    }
}

// proves S-30 and that stopping from within is refused in words, before anything waits for itself; and that what was dropped by it
// ends all the same
#[test]
fn a_handler_that_stops_its_own_event_loop_is_told() {
    let event_loop = named("stops itself");
    let (addr, log) = Probe::echo().serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    let remote = event_loop.remote();
    let (told, text) = crossbeam_channel::bounded(1);
    let task = move || {
        let stopping = std::panic::AssertUnwindSafe(|| event_loop.shutdown(PATIENCE));
        let panic = std::panic::catch_unwind(stopping).expect_err("refused");
        told.send(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("listened to");
    };
    remote.after(Duration::ZERO, task).expect("a timer");
    let text = text.recv_timeout(PATIENCE).expect("ran").expect("in words");
    assert!(text.contains("cannot be stopped from one of its own threads"), "{text}");
    assert_eq!(log.closed().reason, Reason::Shutdown);
    // By the handler, which was asked first, or cut off.
    assert!(!matches!(user.read(&mut [0]), Ok(1..)));
}

// proves L-08, L-12: writing after one's own end breaks the connection, and that is its reason
#[test]
fn writing_after_the_end_of_ones_own_stream_is_an_error() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.shutdown_write();
            conn.flush()?;
            conn.output().write(b"too late");
        }
        Ok(())
    })
    .serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"");
    let closed = log.closed();
    assert!(matches!(closed.reason, Reason::Error(fault) if fault.errno == Some(libc::EPIPE)), "{closed:?}");
    assert_eq!((closed.bytes_out, closed.unsent), (0, 8));
}

// proves L-11's ground: a timer that is set by a callback that closes never fires
#[test]
fn a_timer_of_a_closing_connection_does_not_fire() {
    let event_loop = one_poll();
    let (addr, log) = Probe::new(|at, conn| {
        if at == At::Connect {
            // The close waits for the output, for long enough that a timer would fire.
            conn.output().write_bytes(bytes::Bytes::from(vec![0; 16 << 20]));
            conn.close();
            conn.set_timer(Duration::ZERO);
        }
        Ok(())
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    log.until(At::Connect);
    let (told, fired) = crossbeam_channel::bounded(1);
    let later = move || told.send(()).expect("listened to");
    event_loop.after(Duration::from_millis(5), later).expect("a timer");
    fired.recv_timeout(PATIENCE).expect("fired");
    assert_eq!(read_all(&mut user).len(), 16 << 20);
    log.expect(&[At::Close, At::Dropped]);
}

// proves L-21: one ERROR line, with the connection's number and the panic's text, whatever the panic carries
#[test]
fn a_panic_is_one_line_with_the_connections_number() {
    let event_loop = named("panics");
    let (addr, log) = Probe::new(|at, conn| match conn.input().chunk() {
        b"text" => panic!("on purpose, with {} words", "formatted"),
        b"thing" => std::panic::panic_any(7),
        _ => echo(at, conn),
    })
    .serve(&event_loop);
    for (word, says) in [("text", "on purpose, with formatted words"), ("thing", "(no text)")] {
        let mut user = connect(addr);
        user.write_all(word.as_bytes()).expect("written");
        assert!(user.read_to_end(&mut Vec::new()).is_err(), "cut off");
        let closed = log.closed();
        assert_eq!(closed.reason, Reason::Panic);
        let line = logs::lines("panics", Level::Error).pop().expect("a line");
        assert_eq!((line.value("event"), line.value("conn")), (Some("panic"), Some(&*closed.id.to_string())));
        assert!(line.text.contains(says), "{line:?}");
    }
    assert_eq!(logs::lines("panics", Level::Error).len(), 2, "one each");
    ask(&mut connect(addr), b"others live");
}

// proves L-21 for what is no connection yet, and has its number already
#[test]
fn a_panic_in_on_prepare_is_one_line_with_the_number() {
    let event_loop = named("unprepared");
    let (addr, _log) = Probe::echo().before(|_| panic!("on purpose")).serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"");
    let line = logs::lines("unprepared", Level::Error).pop().expect("a line");
    assert!(line.value("conn").is_some() && line.text.contains("on purpose"), "{line:?}");
}

// proves L-21 for what is no connection: datagrams name their socket, tasks their text
#[test]
fn panics_elsewhere_are_one_line_each() {
    let event_loop = named("elsewhere");
    let errors = || logs::lines("elsewhere", Level::Error);
    let socket = event_loop.datagrams(UdpSocket::bind("127.0.0.1:0").expect("a port"), Deaf).expect("given");
    let user = UdpSocket::bind("127.0.0.1:0").expect("a port");
    user.send_to(b"panic", socket.local_addr()).expect("sent");
    wait_until("the panic is told", || errors().len() == 1);
    assert_eq!(errors()[0].value("addr"), Some(&*socket.local_addr().to_string()));
    // It costs that datagram alone.
    user.send_to(b"harmless", socket.local_addr()).expect("sent");
    user.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(user.recv(&mut [0; 100]).expect("answered"), b"harmless".len());
    event_loop.after(Duration::ZERO, || panic!("on purpose, in a timer")).expect("a timer");
    wait_until("the panic is told", || errors().len() == 2);
    assert!(errors()[1].text.contains("on purpose, in a timer"));
    event_loop.spawn_blocking(|| panic!("on purpose, in a task")).expect("room");
    wait_until("the panic is told", || logs::lines("elsewhere-task", Level::Error).len() == 1);
}

// proves that a bound that was reached is said, with its name and number, and not once for each
#[test]
fn a_lack_of_workers_is_one_warning() {
    logs::keep();
    let event_loop = EventLoop::builder().name("few").polls(1).standby_max(0).build().expect("an event loop");
    let (addr, _log) = Probe::new(|at, conn| {
        poller::blocking(|| ());
        echo(at, conn)
    })
    .serve(&event_loop);
    let mut user = connect(addr);
    for _ in 0..10 {
        ask(&mut user, b"again");
    }
    let warnings = logs::lines("few", Level::Warn);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].value("max"), Some("1"));
}

// What `Closed::id` and `Handle::id` promise: no two connections of a process have the same number.
#[test]
fn connections_of_two_event_loops_have_different_numbers() {
    let loops = [one_poll(), one_poll()];
    let ids = loops.each_ref().map(|event_loop| {
        let (addr, log) = Probe::echo().serve(event_loop);
        let _user = connect(addr);
        log.handle().id()
    });
    assert_ne!(ids[0], ids[1]);
}

// A handler cannot stop its own event loop, and any other one it can.
#[test]
fn a_handler_may_stop_another_event_loop() {
    let (inner, outer) = (one_poll(), one_poll());
    let (told, stopped) = crossbeam_channel::bounded(1);
    let task = move || told.send(inner.shutdown(PATIENCE)).expect("listened to");
    outer.after(Duration::ZERO, task).expect("a timer");
    assert_eq!(stopped.recv_timeout(PATIENCE), Ok(true));
}

/// An error that cannot even be told.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("on purpose, while it is told");
    }
}

impl std::error::Error for Unspeakable {}

// proves L-21, L-29: a panic outside of a callback ends its connection like any other
#[test]
fn an_error_that_panics_when_it_is_told_ends_its_connection() {
    let event_loop = named("unspeakable");
    let (addr, log) = Probe::new(|at, _| if at == At::Request { Err(Unspeakable.into()) } else { Ok(()) })
        .serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"?").expect("written");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Panic);
    let line = logs::lines("unspeakable", Level::Error).pop().expect("a line");
    assert_eq!(line.value("conn"), Some(&*closed.id.to_string()));
    assert!(event_loop.shutdown(PATIENCE));
}

/// A handler whose end is not harmless.
struct Sore;

impl Handler for Sore {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_request(&self, _: &mut (), _: &mut Connection<'_>) -> poller::Result {
        Ok(())
    }
}

impl Drop for Sore {
    fn drop(&mut self) {
        panic!("on purpose, when the last connection has gone");
    }
}

// proves L-21, L-06: the last connection drops its handler where a panic hurts nobody
#[test]
fn a_handler_that_panics_when_it_is_dropped_hurts_nobody() {
    let event_loop = named("sore");
    let (addr, _log) = Probe::echo().serve(&event_loop);
    let handle = event_loop.dial(addr, PATIENCE, Sore).expect("begun");
    ask(&mut connect(addr), b"others live");
    handle.close();
    drop(handle);
    wait_until("the panic is told", || logs::lines("sore", Level::Error).len() == 1);
    ask(&mut connect(addr), b"others live on");
    assert!(event_loop.shutdown(PATIENCE));
}

/// What a panic may carry; letting go of it is a panic too.
struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        panic!("on purpose, when what a panic carried is dropped");
    }
}

fn spring() -> ! {
    std::panic::panic_any(Trap)
}

/// Panics the first time.
fn springs_once() -> impl Fn() + Send + Sync + 'static {
    let sprung = AtomicBool::new(false);
    move || {
        if !sprung.swap(true, Ordering::SeqCst) {
            spring();
        }
    }
}

// proves L-21: what a panic carries is let go of where that hurts nobody either; the listener was never served again
#[test]
fn a_listener_outlives_what_a_panic_in_on_prepare_carries() {
    let event_loop = named("trap-prepare");
    let once = springs_once();
    let (addr, _log) = Probe::echo()
        .before(move |_| {
            once();
            Ok(())
        })
        .serve(&event_loop);
    assert_eq!(read_all(&mut connect(addr)), b"");
    ask(&mut connect(addr), b"others live");
    assert_eq!(logs::lines("trap-prepare", Level::Error).len(), 1);
    assert!(event_loop.shutdown(PATIENCE));
}

struct Springs<F>(F);

impl<F: Fn() + Send + Sync + 'static> DatagramHandler for Springs<F> {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        (self.0)();
        socket.send_to(data, from).expect("sent");
    }
}

// proves L-21: neither was a datagram socket
#[test]
fn a_datagram_socket_outlives_what_a_panic_carries() {
    let event_loop = named("trap-udp");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let socket = event_loop.datagrams(socket, Springs(springs_once())).expect("given");
    let user = UdpSocket::bind("127.0.0.1:0").expect("a port");
    user.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for word in ["one", "three"] {
        user.send_to(word.as_bytes(), socket.local_addr()).expect("sent");
    }
    assert_eq!(user.recv(&mut [0; 100]).expect("answered"), b"three".len());
    assert_eq!(logs::lines("trap-udp", Level::Error).len(), 1);
    assert!(event_loop.shutdown(PATIENCE));
}

// proves L-21, L-29: one line, one end, and the thread goes on
#[test]
fn a_connection_ends_once_whatever_its_panic_carries() {
    for at in [At::Connect, At::Request] {
        let name = format!("trap-{at:?}").to_lowercase();
        let event_loop = named(&name);
        let (addr, log) = Probe::new(move |now, conn| if now == at { spring() } else { echo(now, conn) })
            .serve(&event_loop);
        let mut user = connect(addr);
        // It may have been cut off already.
        user.write_all(b"?").ok();
        let closed = log.closed();
        assert_eq!(closed.reason, Reason::Panic);
        assert!(event_loop.shutdown(PATIENCE));
        let lines = logs::lines(&name, Level::Error);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}

// proves L-21: a thread that has run such a task runs the next one
#[test]
fn a_worker_outlives_what_the_panics_of_tasks_carry() {
    let event_loop =
        EventLoop::builder().name("trap-tasks").polls(1).tasks_max(1).build().expect("an event loop");
    logs::keep();
    for _ in 0..10 {
        let (told, done) = crossbeam_channel::bounded(1);
        event_loop.after(Duration::ZERO, || spring()).expect("a timer");
        event_loop.after(Duration::ZERO, move || told.send(()).expect("listened to")).expect("a timer");
        done.recv_timeout(PATIENCE).expect("timers go on");
        event_loop.spawn_blocking(|| spring()).expect("room");
        let (told, done) = crossbeam_channel::bounded(1);
        let told = std::sync::Arc::new(told);
        wait_until("there is room", || {
            let told = told.clone();
            event_loop.spawn_blocking(move || told.send(()).unwrap_or_default()).is_ok()
        });
        done.recv_timeout(PATIENCE).expect("tasks go on");
    }
    assert!(event_loop.shutdown(PATIENCE));
}
