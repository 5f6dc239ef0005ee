//! A thousand connections at a time that open, talk and end in every way, from both sides and from other threads, and what is
//! left afterwards: nothing.
//!
//! A test binary of its own, because it counts the descriptors, the threads and the memory of the whole process. It is short by
//! itself; `scripts/storm` makes it last. `STORM_SECONDS`, `STORM_CONNECTIONS` and `STORM_SEED` are its settings.
//!
//! ```text
//!   users (4 threads)   open, write, read, half-close, reset, leave ──┐
//!   closers (2 threads) send, wake, close, abort through handles ─────┼──▶ event loop ──▶ auditor (1 thread)
//!   dialer (1 thread)   dials from the inside, gives up, closes ──────┘    callbacks      one life, one end, for each
//! ```
//!
//! Memory is told twice. The bytes that are allocated and not freed are exact: what a connection leaves is in them, and nothing
//! else. Resident memory is the whole, with stacks and what the allocator cannot give back; what it can is asked for first.
#![allow(unsafe_code)] // `GlobalAlloc` is an unsafe trait; this one only counts and forwards. `malloc_trim` is a C function.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use poller::{DatagramHandler, Datagrams, EventLoop, Handle, LinkBuffer, Listener, Prepare, Remote};
use support::*;

/// Resident memory by which a storm may leave the process larger than the storms before it did: what the allocator cannot give
/// back. Up to 3 MiB were seen.
const GROWTH_KB_MAX: u64 = 8 * 1024;

/// Bytes by which the heap may have grown when everything is dropped: what the standard library and the test make once. A leak
/// of a byte in every tenth connection is beyond it in five minutes.
const GROWTH_BYTES_MAX: i64 = 64 * 1024;

/// Handles that closers remember, most of them of connections that have ended.
const HANDLES_MAX: usize = 512;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("a directory of the process").count()
}

static HEAP_BYTES: AtomicI64 = AtomicI64::new(0);

struct Counting;

fn grow(bytes: usize) {
    HEAP_BYTES.fetch_add(bytes as i64, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it is; the counter is an atomic that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HEAP_BYTES.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as in `dealloc`; the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HEAP_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the memory came from the system's allocator with this layout, because all of it does.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keeps the system's allocator from raising by itself how much free memory it keeps at the end of each arena: it does so with
/// the largest block that it has ever freed, and there is an arena for each thread.
fn keep_little() {
    #[cfg(target_env = "gnu")]
    {
        const M_TRIM_THRESHOLD: i32 = -1;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: it may be called at any time from any thread, and takes any numbers.
        let set = unsafe { mallopt(M_TRIM_THRESHOLD, 128 * 1024) };
        assert_eq!(set, 1);
    }
}

/// Frees the nodes that are pooled, and gives the kernel back what the allocator has free then.
fn trim() {
    // Each call frees half of what is there.
    (0..32).for_each(|_| linkbuffer::trim());
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: as in `keep_little`.
        unsafe { malloc_trim(0) };
    }
}

/// Resident memory in KiB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("there is one");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Connections that the process has descriptors for: both ends are here.
fn affordable() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("readable");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("there is one");
    let soft = line.split_whitespace().nth(3).and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    soft.saturating_sub(200) / 3
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

/// What all threads of a storm share.
struct Weather {
    addr: SocketAddr,
    remote: Remote,
    /// When it may end.
    until: Instant,
    /// Connections that users hold at a time, and that they open at least.
    connections: u64,
    opened: AtomicU64,
    /// Connections that the handler has heard of.
    connected: AtomicU64,
    over: AtomicBool,
    handles: Mutex<Vec<Handle>>,
}

impl Weather {
    fn lasts(&self) -> bool {
        let enough = self.connected.load(Ordering::Relaxed) >= self.connections;
        if enough && Instant::now() >= self.until {
            self.over.store(true, Ordering::Relaxed);
        }
        !self.over.load(Ordering::Relaxed)
    }

    /// Some handle, old or new.
    fn handle(&self, random: &mut fastrand::Rng) -> Option<Handle> {
        let handles = self.handles.lock().expect("no panic");
        random.choice(handles.iter()).cloned()
    }

    fn remember(&self, handle: Handle, random: &mut fastrand::Rng) {
        let mut handles = self.handles.lock().expect("no panic");
        match handles.len() {
            HANDLES_MAX => handles[random.usize(0..HANDLES_MAX)] = handle,
            _ => handles.push(handle),
        }
    }
}

/// Users, all of one thread, in the ways in which users behave.
fn users(weather: &Weather, mut random: fastrand::Rng) {
    let mut streams: Vec<TcpStream> = Vec::new();
    let room = (weather.connections / 4) as usize;
    let mut block = vec![0; 20_000];
    while weather.lasts() {
        if streams.len() < room {
            match TcpStream::connect(weather.addr) {
                Ok(stream) => {
                    stream.set_nonblocking(true).expect("non-blocking");
                    streams.push(stream);
                    weather.opened.fetch_add(1, Ordering::Relaxed);
                }
                // It was there and has been aborted, before this thread could see it.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                // The ports of those that ended a moment ago are not free yet.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable),
            }
        }
        if streams.is_empty() {
            continue;
        }
        let which = random.usize(0..streams.len());
        // Whatever fails here does so because the other side was faster.
        match random.u8(0..16) {
            0 => drop(streams.swap_remove(which)),
            1 => reset(streams.swap_remove(which)),
            2 => drop(streams[which].shutdown(Shutdown::Write).ok()),
            3..8 => {
                let length = random.usize(1..block.len());
                block[0] = *random.choice(b"cafhwtl........").expect("not empty");
                if streams[which].write(&block[..length]).is_err() && random.bool() {
                    drop(streams.swap_remove(which));
                }
            }
            _ => {
                if let Ok(0) = streams[which].read(&mut block) {
                    drop(streams.swap_remove(which));
                }
            }
        }
    }
}

/// Closes and disturbs through handles, of connections that are there and of some that were.
fn closers(weather: &Weather, mut random: fastrand::Rng) {
    while weather.lasts() {
        let Some(handle) = weather.handle(&mut random) else {
            std::thread::yield_now();
            continue;
        };
        match random.u8(0..8) {
            0 => handle.close(),
            1 => handle.abort(),
            2 => handle.wake(),
            3 => handle.add_close_callback(|info| assert!(info.id > 0)).expect("room"),
            4 => {
                if let Some(waiter) = weather.handle(&mut random) {
                    handle.wake_on_drain(&waiter);
                }
            }
            _ => drop(handle.send(Bytes::from_static(b".......")).ok()),
        }
        // A thousand ends a second are enough; without this nobody would get to talk.
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Connections from the inside. Two echoes would talk to each other for ever, so each is closed after a while.
fn dialer(weather: &Weather, probe: &Arc<Probe>, mut random: fastrand::Rng) {
    let mut dialed = std::collections::VecDeque::new();
    while weather.lasts() {
        if let Ok(handle) = weather.remote.dial(weather.addr, PATIENCE, probe.clone()) {
            for word in [&b"."[..], b"l", b"t"] {
                handle.send(Bytes::from_static(word)).ok();
            }
            match random.u8(0..4) {
                0 => handle.close(),
                1 => handle.abort(),
                _ => dialed.push_back(handle),
            }
        }
        if dialed.len() > 20 {
            dialed.pop_front().expect("there are twenty").close();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    dialed.iter().for_each(Handle::close);
}

fn options(conn: &mut Prepare<'_>, listener: SocketAddr) -> Result<(), poller::Reject> {
    let peer = conn.peer_addr().expect("TCP has one");
    conn.set_half_close(peer.port().is_multiple_of(2));
    match peer != listener && peer.port().is_multiple_of(17) {
        true => Err("an unlucky port".into()),
        false => Ok(()),
    }
}

struct Nothing;

impl DatagramHandler for Nothing {
    fn on_datagram(&self, _: &Datagrams, _: SocketAddr, _: &[u8]) {}
}

/// Holds every life against the phases while it passes, and remembers those that have not ended.
#[derive(Default)]
struct Auditor {
    /// Callbacks by connection; the same one many times in a row stands there twice.
    lives: HashMap<u64, Vec<At>>,
    prepared: u64,
    connected: u64,
    ended: u64,
    /// Ends without `on_connect`, and contexts that never learnt a number.
    unborn: (u64, u64),
}

impl Auditor {
    fn look(&mut self, event: &Event) {
        match (event.id, event.at) {
            (_, At::Prepare) => self.prepared += 1,
            (0, At::Dropped) => self.unborn.1 += 1,
            (id, at) => {
                let life = self.lives.entry(id).or_default();
                if !life.ends_with(&[at, at]) {
                    life.push(at);
                }
                if life[..] == [At::Close] {
                    self.unborn.0 += 1;
                    self.lives.remove(&id);
                } else if at == At::Dropped {
                    check_life(id, life);
                    self.ended += 1;
                    self.lives.remove(&id);
                }
                self.connected += u64::from(at == At::Connect);
            }
        }
    }
}

/// The phases in order, no more than once each, and one end.
#[track_caller]
fn check_life(id: u64, life: &[At]) {
    let times = |at| life.iter().filter(|seen| **seen == at).count();
    let last = life.len() - 1;
    assert_eq!((times(At::Connect), life[0]), (1, At::Connect), "{id}: {life:?}");
    assert_eq!((times(At::Close), times(At::Dropped)), (1, 1), "{id}: {life:?}");
    assert_eq!((life[last - 1], life[last]), (At::Close, At::Dropped), "{id}: {life:?}");
    assert!(times(At::Disconnect) <= 1, "{id}: {life:?}");
    if times(At::Disconnect) == 1 {
        assert_eq!(life[last - 2], At::Disconnect, "{id}: {life:?}");
    }
}

/// What users may keep when the event loop has stopped: no descriptor hangs on it.
type Kept = (Remote, Vec<Handle>, Listener, Datagrams);

fn storm(connections: u64, lasts: Duration, seed: u64) -> Kept {
    let event_loop = EventLoop::builder().polls(2).build().expect("an event loop");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let refused = Arc::new(AtomicU64::new(0));
    let counter = refused.clone();
    let prepare = move |conn: &mut Prepare<'_>| {
        options(conn, addr).inspect_err(|_| {
            counter.fetch_add(1, Ordering::Relaxed);
        })
    };
    let (probe, log) = Probe::new(obey).before(prepare).start();
    let listener = event_loop.serve(listener, probe.clone()).expect("served");
    let socket =
        event_loop.datagrams(UdpSocket::bind("127.0.0.1:0").expect("a port"), Nothing).expect("given");
    event_loop.after(Duration::MAX, || ()).expect("a timer that never fires");
    let weather = Weather {
        addr,
        remote: event_loop.remote(),
        until: Instant::now() + lasts,
        connections,
        opened: AtomicU64::new(0),
        connected: AtomicU64::new(0),
        over: AtomicBool::new(false),
        handles: Mutex::new(Vec::new()),
    };
    let audit = |auditor: &mut Auditor, random: &mut fastrand::Rng, event: Event| {
        auditor.look(&event);
        if event.at == At::Connect {
            weather.connected.fetch_add(1, Ordering::Relaxed);
            weather.remember(event.handle.expect("on_connect has a connection"), random);
        }
    };
    let (mut resident, mut heap) = (Vec::new(), Vec::new());
    let (mut auditor, mut random) = (Auditor::default(), fastrand::Rng::with_seed(seed));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 0..7 {
            let (weather, probe) = (&weather, &probe);
            let random = fastrand::Rng::with_seed(seed + 1 + thread);
            threads.push(scope.spawn(move || match thread {
                0..4 => users(weather, random),
                4..6 => closers(weather, random),
                _ => dialer(weather, probe, random),
            }));
        }
        let mut look = Instant::now() + lasts / 10;
        while threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= look && !lasts.is_zero() {
                look += lasts / 10;
                resident.push(resident_kb());
                heap.push(HEAP_BYTES.load(Ordering::Relaxed) / 1024);
            }
            if let Some(event) = log.next_within(Duration::from_millis(10)) {
                audit(&mut auditor, &mut random, event);
            }
        }
    });
    wait_until("no connection is left", || event_loop.connections() == 0);
    assert!(event_loop.shutdown(PATIENCE));
    log.rest().into_iter().for_each(|event| audit(&mut auditor, &mut random, event));
    let Auditor { lives, prepared, connected, ended, unborn } = auditor;
    let (opened, refused) = (weather.opened.into_inner(), refused.load(Ordering::Relaxed));
    eprintln!(
        "opened {opened} from outside; prepared {prepared}, refused {refused}, connected {connected}, ended {ended}"
    );
    eprintln!("resident KiB at each tenth of the time: {resident:?}");
    eprintln!("heap KiB at each tenth of the time: {heap:?}");
    assert!(lives.is_empty(), "without an end: {lives:?}");
    assert_eq!(connected, ended, "on_connect that said Ok is followed by one clean-up");
    assert_eq!(unborn.0, unborn.1, "every context was dropped with its connection");
    assert_eq!(prepared, refused + connected + unborn.0, "each is accounted for");
    assert!(connected >= connections);
    (weather.remote, weather.handles.into_inner().expect("no panic"), listener, socket)
}

// proves L-01, L-16, L-18, L-19, L-29: one life, one end, and no descriptor, thread, connection or memory is left
#[test]
fn a_storm_leaves_nothing_behind() {
    let seed = setting("STORM_SEED", 7);
    let connections = setting("STORM_CONNECTIONS", 1_000).min(affordable());
    let lasts = Duration::from_secs(setting("STORM_SECONDS", 0));
    eprintln!("STORM_SEED={seed} STORM_CONNECTIONS={connections} STORM_SECONDS={}", lasts.as_secs());
    keep_little();
    // What the first use of anything opens or takes for good is not counted.
    for round in 0..2 {
        drop(storm(connections, lasts / 20, seed + 100 * round));
    }
    let counts = || {
        trim();
        (count("/proc/self/fd"), count("/proc/self/task"), resident_kb())
    };
    let heap = || {
        trim();
        HEAP_BYTES.load(Ordering::Relaxed)
    };
    let (before, heap_before) = (counts(), heap());
    let kept = storm(connections, lasts, seed);
    // A joined thread may be listed for a moment more.
    wait_until("the threads are gone", || count("/proc/self/task") <= before.1);
    let (after, heap_kept) = (counts(), heap());
    drop(kept);
    let heap_after = heap();
    eprintln!("descriptors, threads, resident KiB: {before:?} before, {after:?} after");
    eprintln!("heap bytes: {heap_before} before, {heap_kept} after, {heap_after} when no handle is left");
    assert_eq!(after.0, before.0, "descriptors");
    let growth = heap_after - heap_before;
    assert!(growth <= GROWTH_BYTES_MAX, "the heap grew from {heap_before} to {heap_after} bytes");
    let growth_kb_max = setting("STORM_GROWTH_KB", GROWTH_KB_MAX);
    assert!(after.2 <= before.2 + growth_kb_max, "resident memory grew from {} to {} KiB", before.2, after.2);
}
