//! The whole event loop under shuttle: polls, workers, connections and handles as they are, on real sockets.
//!
//! Shuttle decides at each lock, atomic operation and wait which thread goes on: at random, or by priorities that change at
//! a few random places (PCT), which finds what needs few but well-placed changes. A schedule that fails is printed and
//! can be replayed. A thread that waits for what nobody will do is a deadlock or a model without end, and said as such.
//!
//! Shuttle's atomics are sequentially consistent; what weaker orders allow is loom's business, beside each algorithm.
//!
//! `SHUTTLE_ITERATIONS` is the number of schedules of each kind; `SHUTTLE_RANDOM_SEED` chooses others.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

use crate::handle::{Handle, SendError, Shared};
use crate::handler::{Wishes, prepare};
use crate::job::Job;
use crate::kept::Phase;
use crate::service::Service;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, thread};
use crate::{Closed, Connection, EventLoop, Handler, Prepare, Reason, Reject};

/// Schedules of each kind when nothing else is asked for.
const ITERATIONS: usize = 1000;

/// Priority changes within one schedule, and one more.
const PCT_DEPTH: usize = 3;

/// Steps after which a schedule is one in which somebody waits for ever.
const STEPS_MAX: usize = 50_000;

/// A seed for each night of its own comes from the environment.
const SEED: u64 = 0x616e_7970_726f_7879;

/// Runs a model under both kinds of schedules.
pub(crate) fn explore(name: &str, model: fn()) {
    let iterations = match std::env::var("SHUTTLE_ITERATIONS") {
        Ok(text) => text.parse().expect("SHUTTLE_ITERATIONS is a number"),
        Err(_) => ITERATIONS,
    };
    run(name, "random", model, iterations, RandomScheduler::new_from_seed(SEED, iterations));
    run(name, "PCT", model, iterations, PctScheduler::new_from_seed(SEED, PCT_DEPTH, iterations));
}

fn run(name: &str, kind: &str, model: fn(), iterations: usize, scheduler: impl Scheduler + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = 256 * 1024;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    let began = Instant::now();
    let count = shuttle::Runner::new(scheduler, config).run(model);
    assert_eq!(count, iterations, "every schedule was run");
    println!("shuttle: {name}: {count} {kind} schedules in {:.1} s", began.elapsed().as_secs_f64());
}

/// What the callbacks of one connection saw.
#[derive(Default)]
struct Log {
    connects: usize,
    requests: usize,
    read: Vec<u8>,
    closes: Vec<Closed>,
}

struct Watch {
    log: Mutex<Log>,
    changed: Condvar,
    inside: AtomicBool,
    /// What the handler of a request does beside reading.
    then: Box<dyn Fn() + Send + Sync>,
}

impl Watch {
    fn new(then: impl Fn() + Send + Sync + 'static) -> Arc<Watch> {
        Arc::new(Watch {
            log: Mutex::new(Log::default()),
            changed: Condvar::new(),
            inside: AtomicBool::new(false),
            then: Box::new(then),
        })
    }

    /// Runs as a callback, of which there is one at a time. A failure here is a panic of the handler, and the reason for
    /// which the connection closes.
    fn callback(&self, note: impl FnOnce(&mut Log)) {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "two callbacks at once");
        note(&mut self.log.lock());
        self.changed.notify_all();
        assert!(self.inside.swap(false, Ordering::SeqCst), "two callbacks at once");
    }

    fn wait(&self, until: impl Fn(&Log) -> bool) {
        let mut log = self.log.lock();
        while !until(&log) {
            self.changed.wait(&mut log);
        }
    }
}

struct Watched(Arc<Watch>);

impl Handler for Watched {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_connect(&self, (): &mut (), _: &mut Connection) -> crate::Result {
        self.0.callback(|log| log.connects += 1);
        Ok(())
    }

    fn on_request(&self, (): &mut (), conn: &mut Connection) -> crate::Result {
        let n = conn.input().len();
        let bytes = conn.input().read_bytes(n)?;
        self.0.callback(|log| {
            log.requests += 1;
            log.read.extend_from_slice(&bytes);
        });
        (self.0.then)();
        Ok(())
    }

    fn on_close(&self, (): &mut (), info: &Closed) {
        self.0.callback(|log| log.closes.push(info.clone()));
    }
}

fn start() -> EventLoop {
    EventLoop::builder().polls(1).standby_max(1).build().expect("an event loop")
}

/// A connection on the loop's poll, as a listener opens it, and its other end.
fn open(event_loop: &EventLoop, watch: &Arc<Watch>) -> (Handle, UnixStream) {
    open_with(event_loop, Arc::new(Watched(watch.clone())))
}

fn open_with<H: Handler>(event_loop: &EventLoop, handler: Arc<H>) -> (Handle, UnixStream) {
    let (near, far) = UnixStream::pair().expect("two sockets");
    near.set_nonblocking(true).expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    let poll = &event_loop.remote.runtime.polls[0];
    let service = Arc::new(Service {
        poll: poll.clone(),
        callbacks: handler.clone(),
        hint: Arc::default(),
        quota: None,
        local: None,
        dialing: None,
        adopted: None,
    });
    let id = service.enter().expect("room for a connection");
    let socket = socket2::Socket::from(near);
    let mut preparing = Prepare::new(&socket, None);
    let context = prepare(&*handler, id, &mut preparing).expect("prepared");
    let prepared = (socket, None, Wishes::default());
    let shared = Shared::create(id, prepared, service, context, Phase::Connecting);
    poll.push(Job::First(shared.clone()));
    (Handle::new(shared), far)
}

/// All that is there, after the near end has closed.
fn received(mut far: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match far.read_to_end(&mut bytes) {
            Ok(_) => return bytes,
            // The near end had not read all of what was sent to it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the far end: {error}"),
        }
    }
}

/// Sends two bytes, one by one, and says how many were taken.
fn send_two(handle: &Handle, two: &'static [u8; 2]) -> u64 {
    let mut taken = 0;
    for byte in two.chunks(1) {
        match handle.send(Bytes::from_static(byte)) {
            Ok(()) => taken += 1,
            Err(SendError::Closed(bytes)) => assert_eq!(bytes.len(), 1, "the bytes come back"),
            Err(SendError::WouldBlock(_)) => panic!("two bytes are no flood"),
        }
    }
    taken
}

/// Two threads send to, wake and close a connection while its peer sends; another connection takes its place while they may
/// still be at it.
///
/// No wake and no byte is lost, no two callbacks run at once, there is one clean-up, what was taken was delivered or is
/// counted as unsent, and who holds the former connection's handle reaches nobody.
fn wake_close_reuse() {
    let event_loop = start();
    let first = Watch::new(|| ());
    let (handle, mut far) = open(&event_loop, &first);
    let sender = {
        let handle = handle.clone();
        thread::spawn(move || send_two(&handle, b"ab"))
    };
    let closer = {
        let handle = handle.clone();
        thread::spawn(move || {
            handle.wake();
            let taken = send_two(&handle, b"cd");
            match shuttle::rand::thread_rng().r#gen::<bool>() {
                true => handle.close(),
                false => handle.abort(),
            }
            assert!(matches!(handle.send(Bytes::from_static(b"a")), Err(SendError::Closed(_))));
            taken
        })
    };
    // It may be closed by now.
    if let Err(error) = far.write_all(b"p") {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
    first.wait(|log| !log.closes.is_empty());

    let second = Watch::new(|| ());
    let (successor, successors_far) = open(&event_loop, &second);
    handle.wake();
    handle.abort();
    assert!(matches!(handle.send(Bytes::from_static(b"a")), Err(SendError::Closed(_))));
    assert_eq!(successor.send(Bytes::from_static(b"b")), Ok(()));
    successor.wake();
    second.wait(|log| log.requests == 1);
    while successor.bytes_out() == 0 {
        thread::yield_now();
    }
    successor.close();
    second.wait(|log| !log.closes.is_empty());
    let taken = sender.join().expect("no panic") + closer.join().expect("no panic");
    assert!(event_loop.shutdown(Duration::from_secs(3600)), "nothing is left to cut off");

    let log = first.log.lock();
    assert_eq!(log.closes.len(), 1);
    let info = &log.closes[0];
    assert_eq!((&info.reason, log.connects), (&Reason::User, usize::from(info.connected)));
    assert_eq!(info.bytes_out + info.unsent, taken, "taken is sent or counted as unsent");
    let received_first = received(far);
    assert_eq!(received_first.len() as u64, info.bytes_out);
    for two in [b"ab", b"cd"] {
        let from_one = received_first.iter().copied().filter(|byte| two.contains(byte));
        assert!(
            two.starts_with(&from_one.collect::<Vec<_>>()),
            "{received_first:?}: each sender's bytes in order"
        );
    }
    let log = second.log.lock();
    assert_eq!((log.connects, log.requests, log.closes.len()), (1, 1, 1));
    assert_eq!((&log.closes[0].reason, log.closes[0].unsent), (&Reason::User, 0));
    assert_eq!(received(successors_far), b"b");
}

// proves L-04, L-07, L-12, L-16, L-18, L-24
#[test]
fn shuttle_wake_close_reuse() {
    explore("wake, close, reuse", wake_close_reuse);
}

/// The user, the peer and the end of the event loop close one connection at once.
fn three_closers() {
    let event_loop = start();
    let watch = Watch::new(|| ());
    let (handle, mut far) = open(&event_loop, &watch);
    let user = {
        let handle = handle.clone();
        thread::spawn(move || {
            let taken = u64::from(handle.send(Bytes::from_static(b"a")).is_ok());
            handle.close();
            taken
        })
    };
    let peer = thread::spawn(move || {
        // It may be closed by now.
        if far.write_all(b"p").is_ok()
            && let Err(error) = far.shutdown(std::net::Shutdown::Write)
        {
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
        far
    });
    event_loop.shutdown(Duration::from_secs(3600));
    let taken = user.join().expect("no panic");
    let far = peer.join().expect("no panic");
    let log = watch.log.lock();
    assert_eq!(log.closes.len(), 1);
    let info = &log.closes[0];
    assert!(matches!(info.reason, Reason::User | Reason::Peer | Reason::Shutdown), "{:?}", info.reason);
    assert_eq!(log.connects, usize::from(info.connected));
    assert_eq!(info.bytes_out + info.unsent, taken);
    assert_eq!(received(far).len() as u64, info.bytes_out);
    if info.reason == Reason::Peer {
        assert_eq!(log.read, b"p", "what the peer said before it left is handed over first");
    }
    assert!(matches!(handle.send(Bytes::from_static(b"a")), Err(SendError::Closed(_))));
}

// proves L-12, L-14, L-16, L-18, L-29
#[test]
fn shuttle_three_closers() {
    explore("three closers", three_closers);
}

/// A handler that blocks until another connection of the same poll was served, which needs another leader.
fn block_and_serve(block: impl Fn(&Watch) + Send + Sync + 'static) {
    let event_loop = start();
    let served = Watch::new(|| ());
    let blocked = {
        let served = served.clone();
        Watch::new(move || block(&served))
    };
    let (blocker, blockers_far) = open(&event_loop, &blocked);
    let (other, others_far) = open(&event_loop, &served);
    let waker = {
        let other = other.clone();
        thread::spawn(move || other.wake())
    };
    blocker.wake();
    blocked.wait(|log| log.requests > 0);
    waker.join().expect("no panic");
    served.wait(|log| log.requests > 0);
    // Whoever leads now, both are served still.
    blocker.wake();
    other.wake();
    blocker.close();
    other.close();
    for watch in [&blocked, &served] {
        watch.wait(|log| !log.closes.is_empty());
    }
    assert!(event_loop.shutdown(Duration::from_secs(3600)));
    for (watch, far) in [(blocked, blockers_far), (served, others_far)] {
        let log = watch.log.lock();
        assert_eq!((log.connects, log.closes.len(), &log.closes[0].reason), (1, 1, &Reason::User));
        assert!(received(far).is_empty());
    }
}

fn lead() {
    block_and_serve(|other| crate::blocking(|| other.wait(|log| log.requests > 0)));
}

// proves L-04, L-10, L-29
#[test]
fn shuttle_lead() {
    explore("lead", lead);
}

fn lead_unannounced() {
    block_and_serve(|other| other.wait(|log| log.requests > 0));
}

// proves L-10 (the monitor finds who does not say so)
#[test]
fn shuttle_unannounced_lead() {
    explore("lead, unannounced", lead_unannounced);
}

/// A handler that waits for a message of three bytes, while they come one by one, handles send and wake, and perhaps the
/// connection is closed from elsewhere.
fn wait_for() {
    struct Messages(Arc<Watch>);
    impl Handler for Messages {
        type Context = ();

        fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
            Ok(())
        }

        fn on_connect(&self, (): &mut (), _: &mut Connection) -> crate::Result {
            self.0.callback(|log| log.connects += 1);
            Ok(())
        }

        fn on_request(&self, (): &mut (), conn: &mut Connection) -> crate::Result {
            if conn.input().is_empty() {
                return Ok(());
            }
            conn.wait_for(3)?;
            let bytes = conn.input().read_bytes(3)?;
            self.0.callback(|log| log.read.extend_from_slice(&bytes));
            Ok(())
        }

        fn on_close(&self, (): &mut (), info: &Closed) {
            self.0.callback(|log| log.closes.push(info.clone()));
        }
    }
    let event_loop = start();
    let watch = Watch::new(|| ());
    let (handle, mut far) = open_with(&event_loop, Arc::new(Messages(watch.clone())));
    let closes = shuttle::rand::thread_rng().r#gen::<bool>();
    let other = {
        let handle = handle.clone();
        thread::spawn(move || {
            let taken = send_two(&handle, b"ab");
            handle.wake();
            if closes {
                handle.close();
            }
            taken
        })
    };
    for _ in 0..3 {
        if let Err(error) = far.write_all(b"p") {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        thread::yield_now();
    }
    if !closes {
        watch.wait(|log| log.read == b"ppp");
    }
    let taken = other.join().expect("no panic");
    handle.close();
    watch.wait(|log| !log.closes.is_empty());
    assert!(event_loop.shutdown(Duration::from_secs(3600)));
    let log = watch.log.lock();
    assert_eq!(log.closes.len(), 1);
    let info = &log.closes[0];
    assert!(matches!(info.reason, Reason::User), "{:?}", info.reason);
    assert_eq!(info.bytes_out + info.unsent, taken);
    assert_eq!(received(far).len() as u64, info.bytes_out);
}

// proves L-04, L-12, L-13 (waiting handlers)
#[test]
fn shuttle_handler_that_waits() {
    explore("a handler that waits", wait_for);
}
