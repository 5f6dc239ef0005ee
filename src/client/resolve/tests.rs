//! Resolving by somebody who answers when the test says so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::limits::LOOKUPS_MAX;
use crate::rt::EventLoop;

const PATIENCE: Duration = Duration::from_secs(60);

/// A resolver whose look-ups hang until they are let go.
struct Held {
    event_loop: EventLoop,
    resolver: Resolver,
    begun: Receiver<String>,
    /// Dropped, it lets every look-up go.
    gate: Option<Sender<()>>,
    lookups: Arc<AtomicUsize>,
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn held(threads_max: usize) -> Held {
    let event_loop = EventLoop::builder().polls(1).build().expect("there are threads");
    let (gate, closed) = channel::<()>();
    let (begin, begun) = channel();
    let (closed, lookups) = (Mutex::new(closed), Arc::new(AtomicUsize::new(0)));
    let counted = lookups.clone();
    let look_up = move |name: &str| {
        counted.fetch_add(1, Ordering::SeqCst);
        begin.send(name.to_owned()).ok();
        // Nothing is ever sent: this is the end of the gate.
        closed.lock().recv().ok();
        Ok(vec![address(0)])
    };
    let resolver = Resolver::new(event_loop.remote(), threads_max, Names::new(), look_up);
    Held { event_loop, resolver, begun, gate: Some(gate), lookups }
}

impl Held {
    fn resolve(&self, name: &str, port: u16) -> Receiver<Result<Vec<SocketAddr>, NoAddress>> {
        let (sink, answer) = channel();
        let target = Target::new(name, port).expect("a target of ours");
        self.resolver.resolve(&target, move |found| {
            sink.send(found).ok();
        });
        answer
    }
}

#[test]
fn one_look_up_answers_everybody_who_asked_for_the_name() {
    let mut held = held(8);
    let waiting: Vec<_> = (1..=50).map(|port| (port, held.resolve("name", port))).collect();
    assert_eq!(held.begun.recv_timeout(PATIENCE).as_deref(), Ok("name"));
    held.gate = None;
    for (port, answer) in waiting {
        assert_eq!(answer.recv_timeout(PATIENCE), Ok(Ok(vec![address(port)])), "with its own port");
    }
    assert_eq!(held.resolve("NAME.", 7).try_recv(), Ok(Ok(vec![address(7)])), "known, and at once");
    assert_eq!(held.lookups.load(Ordering::SeqCst), 1);
}

// Sixteen names that hang once held every thread that tasks run on.
#[test]
fn look_ups_that_hang_hold_up_no_tasks_and_no_other_resolver() {
    let (mut hung, mut other) = (held(4), held(1));
    let waiting: Vec<_> = (0..40).map(|n| hung.resolve(&format!("n{n}.example"), 1)).collect();
    for _ in 0..4 {
        hung.begun.recv_timeout(PATIENCE).expect("each of four threads begins with one");
    }
    let (sink, ran) = channel();
    hung.event_loop.remote().spawn_blocking(move || sink.send(()).expect("the test waits")).expect("room");
    ran.recv_timeout(PATIENCE).expect("tasks run");
    other.gate = None;
    assert_eq!(other.resolve("gateway", 1).recv_timeout(PATIENCE), Ok(Ok(vec![address(1)])));
    assert_eq!(hung.lookups.load(Ordering::SeqCst), 4, "no thread more");
    hung.gate = None;
    for answer in waiting {
        let answer = answer.recv_timeout(PATIENCE).expect("everybody is answered");
        // The last ones may have waited for too long, on a busy machine.
        assert!(matches!(answer, Ok(_) | Err(NoAddress::Timeout)));
    }
}

#[test]
fn who_waits_for_a_name_that_hangs_is_told_in_time() {
    let held = held(1);
    let (first, second) = (held.resolve("one", 1), held.resolve("two", 1));
    assert_eq!(first.recv_timeout(PATIENCE), Ok(Err(NoAddress::Timeout)));
    assert_eq!(second.recv_timeout(PATIENCE), Ok(Err(NoAddress::Timeout)), "though no thread came to it");
    assert_eq!(held.lookups.load(Ordering::SeqCst), 1);
}

#[test]
fn one_name_too_many_is_refused_at_once() {
    let held = held(1);
    let waiting: Vec<_> = (0..LOOKUPS_MAX).map(|n| held.resolve(&format!("n{n}.example"), 1)).collect();
    assert_eq!(held.resolve("more", 1).try_recv(), Ok(Err(NoAddress::Busy)));
    assert_eq!(held.resolve("127.1", 9).try_recv(), Ok(Ok(vec!["127.0.0.1:9".parse().expect("an address")])));
    drop(waiting);
}

#[test]
fn with_the_resolver_everybody_who_waits_is_let_go() {
    let Held { resolver, begun, gate, event_loop, .. } = held(1);
    let (sink, answer) = channel::<()>();
    let target = Target::new("name", 1).expect("a target of ours");
    let shared = Arc::downgrade(&resolver.shared);
    resolver.resolve(&target, move |_found| drop(sink));
    begun.recv_timeout(PATIENCE).expect("a thread begins with it");
    drop(resolver);
    assert!(answer.recv_timeout(PATIENCE).is_err(), "nobody holds the other end, though the look-up hangs");
    drop(gate);
    assert_eq!(begun.recv_timeout(PATIENCE), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    assert!(event_loop.shutdown(PATIENCE));
    assert!(shared.upgrade().is_none(), "and the thread has ended");
}

// RESOLVER_IDLE_MS: a client that is not asked for names has no threads for them.
#[test]
fn a_thread_without_names_ends_and_another_begins_with_the_next() {
    let mut held = held(1);
    held.gate = None;
    assert_eq!(held.resolve("one", 1).recv_timeout(PATIENCE), Ok(Ok(vec![address(1)])));
    let threads = || held.resolver.shared.state.lock().threads;
    assert_eq!(threads(), 1, "it waits for the next");
    let begun = rt::now();
    while threads() > 0 {
        assert!(rt::since(begun) < PATIENCE, "it waits for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(held.resolve("two", 2).recv_timeout(PATIENCE), Ok(Ok(vec![address(2)])));
    assert_eq!(held.lookups.load(Ordering::SeqCst), 2);
}

// RESOLVE_ADDRESSES_MAX: a name with many addresses costs as many dials as are allowed, and the same one is no second.
#[test]
fn of_a_names_addresses_only_the_first_are_tried() {
    let of = |ports: &[u16]| ports.iter().copied().map(address).collect::<Vec<_>>();
    let twice = (0..100).flat_map(|port| [address(port), address(port / 2)]);
    let first: Vec<u16> = (0..).take(RESOLVE_ADDRESSES_MAX).collect();
    assert_eq!(first_distinct(twice), of(&first));
    assert_eq!(first_distinct([3, 3, 1].into_iter().map(address)), of(&[3, 1]));
}
