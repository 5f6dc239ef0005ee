//! Big transfers: whole, in little memory, and in nobody's way.
//!
//! The plain run moves 32 MiB each way; `ANYPROXY_FULL=1` moves 256 MiB, and holds the times as well.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::support::{self, Ended, Origin, Program, Request, SetOnDrop, Talk, Wire, ok, pattern};

/// What the bytes are made of; of a length that no buffer has.
const BLOCK_LEN: usize = 1_000_003;

fn total() -> usize {
    if support::full() { 256 << 20 } else { 32 << 20 }
}

/// `len` bytes of a transfer, handed to `take` in pieces.
fn pieces(len: usize, mut take: impl FnMut(&[u8])) {
    let block = pattern(BLOCK_LEN);
    let mut left = len;
    while left > 0 {
        let piece = left.min(BLOCK_LEN);
        take(&block[..piece]);
        left -= piece;
    }
}

/// Reads `len` bytes and gives their SHA-256; `pace` is called with the bytes so far.
#[track_caller]
fn digest(wire: &mut Wire, len: usize, mut pace: impl FnMut(usize)) -> String {
    let mut sum = Sha256::new();
    let mut came = 0;
    while came < len {
        let piece = wire.read_some().expect("it goes on");
        assert!(!piece.is_empty(), "it ended after {came} of {len} bytes");
        came += piece.len();
        sum.update(&piece);
        pace(came);
    }
    assert_eq!(came, len);
    format!("{:x?}", sum.finalize())
}

fn want(len: usize) -> String {
    let mut sum = Sha256::new();
    pieces(len, |piece| sum.update(piece));
    format!("{:x?}", sum.finalize())
}

/// Not faster than `bytes_per_s`: this is the slow side itself, not a wait for something.
fn paced(bytes_per_s: f64) -> impl FnMut(usize) {
    let begun = Instant::now();
    move |bytes| {
        let due = Duration::from_secs_f64(bytes as f64 / bytes_per_s);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}

/// `GET /N` has N bytes; `PUT /N` takes N, without a body of which the test's HTTP would make one piece, and answers
/// with their digest. `/slow/N` is the same with a side that takes 1 MB/s.
fn origin() -> Origin {
    Origin::new(|mut wire| {
        let head = wire.head();
        let mut words = head.split(' ');
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        let len: usize =
            path.rsplit('/').next().expect("split gives one at least").parse().expect("a length");
        if method == "GET" {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"));
            pieces(len, |piece| wire.send(piece));
        } else {
            let sum = match path.starts_with("/slow/") {
                true => digest(&mut wire, len, paced(1e6)),
                false => digest(&mut wire, len, |_| {}),
            };
            wire.send(ok(&sum));
        }
        // Not before the other side.
        wire.finish();
        assert_eq!(wire.read_to_end().1, Ended::Fin);
    })
}

struct Memory {
    before: Vec<u64>,
}

impl Memory {
    /// Well below what is moved, in the short run too.
    const GROWTH_KIB: u64 = 16 << 10;

    /// After something has passed, so that what is needed once is there.
    fn of(programs: &[&Program]) -> Memory {
        Memory { before: programs.iter().map(|program| program.rss_kib()).collect() }
    }

    #[track_caller]
    fn check(&self, programs: &[&Program]) {
        for (before, program) in self.before.iter().zip(programs) {
            let most = program.rss_peak_kib();
            assert!(most < before + Memory::GROWTH_KIB, "from {before} KiB to {most} KiB");
        }
    }
}

fn download(mut wire: Wire, prefix: &str, addr: SocketAddr, len: usize, pace: impl FnMut(usize)) -> String {
    wire.send(format!("GET {prefix}/{len} HTTP/1.1\r\nHost: {addr}\r\n\r\n"));
    assert_eq!(wire.response_head().code, 200);
    digest(&mut wire, len, pace)
}

fn upload(mut wire: Wire, prefix: &str, addr: SocketAddr, len: usize) -> String {
    wire.send(format!("PUT {prefix}/{len} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {len}\r\n\r\n"));
    pieces(len, |piece| wire.send(piece));
    wire.response("PUT").text()
}

// proves S-62, and that memory does not grow with what passes
#[test]
fn a_large_file_arrives_whole_in_little_memory() {
    let (gateway, client) = support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let origin = origin();
    let (addr, http, socks, len) = (origin.addr(), gateway.addr("http"), gateway.addr("socks"), total());
    let url = format!("http://{addr}");
    assert_eq!(download(Wire::connect(http), &url, addr, 1000, |_| {}), want(1000));
    let memory = Memory::of(&[&gateway, &client]);
    let sum = want(len);
    let timed = |way: &str, run: &dyn Fn() -> String| {
        let begun = Instant::now();
        assert_eq!(run(), sum, "{way}");
        println!("{way}: {:.0} MB/s", len as f64 / begun.elapsed().as_secs_f64() / 1e6);
        memory.check(&[&gateway, &client]);
    };
    timed("plain, down", &|| download(Wire::connect(http), &url, addr, len, |_| {}));
    timed("plain, up", &|| upload(Wire::connect(http), &url, addr, len));
    timed("CONNECT, down", &|| download(Wire::http_connect(http, addr), "", addr, len, |_| {}));
    timed("CONNECT, up", &|| upload(Wire::http_connect(http, addr), "", addr, len));
    let by_socks = || Wire::socks_connect(socks, "127.0.0.1", addr.port());
    timed("SOCKS5, down", &|| download(by_socks(), "", addr, len, |_| {}));
    gateway.wait_nth(&["event=access", "end=--", &format!("down={len}")], 1);
    gateway.wait_nth(&["event=access", "end=--"], 6);
    client.stop();
    gateway.stop();
}

/// Runs `slow` and, until it is done, one small request after the other through the same tunnel. None of them may take
/// 50 ms, where `timed`.
fn beside(gateway: &Program, timed: bool, slow: impl FnOnce() + Send) {
    let http = gateway.addr("http");
    let page = Origin::http(|request: &Request, wire: &mut Wire| {
        wire.send(ok(&request.path));
        Talk::Goes
    });
    let done = AtomicBool::new(false);
    let done = &done;
    let (mut count, mut longest) = (0u32, Duration::ZERO);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Also when it panics, so that the others end.
            let _done = SetOnDrop(done);
            slow();
        });
        let mut wire = Wire::connect(http);
        while !done.load(Ordering::SeqCst) {
            let begun = Instant::now();
            assert_eq!(wire.get(&page.url("/quick")).text(), "/quick");
            longest = longest.max(begun.elapsed());
            count += 1;
        }
    });
    println!("{count} requests beside it, the longest took {longest:?}");
    assert!(count >= 10, "{count} requests");
    if timed {
        assert!(longest < Duration::from_millis(50), "{longest:?}");
    }
}

// proves S-62, S-54: a slow reader holds up itself, costs little memory, and gets everything
#[test]
fn a_slow_side_is_in_nobodys_way() {
    let (gateway, client) = support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let origin = origin();
    let (addr, http) = (origin.addr(), gateway.addr("http"));
    // At 1 MB/s; more than what the kernel and the windows between hold.
    let len = if support::full() { 32 << 20 } else { 8 << 20 };
    let url = format!("http://{addr}");
    assert_eq!(download(Wire::connect(http), &url, addr, 1000, |_| {}), want(1000));
    let memory = Memory::of(&[&gateway, &client]);
    let sum = want(len);
    beside(&gateway, support::full(), || {
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(download(Wire::connect(http), &url, addr, len, paced(1e6)), sum));
            scope.spawn(|| {
                assert_eq!(download(Wire::http_connect(http, addr), "", addr, len, paced(1e6)), sum);
            });
            scope.spawn(|| assert_eq!(upload(Wire::connect(http), &format!("{url}/slow"), addr, len), sum));
            scope.spawn(|| assert_eq!(upload(Wire::http_connect(http, addr), "/slow", addr, len), sum));
        });
    });
    memory.check(&[&gateway, &client]);
    client.stop();
    gateway.stop();
}

// Transfers at full speed leave room for others as well.
#[test]
fn fast_transfers_leave_room_for_small_requests() {
    let (gateway, client) = support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let origin = origin();
    let (addr, http, len) = (origin.addr(), gateway.addr("http"), total());
    let sum = want(len);
    // Unoptimized, the program and this test want more than there are cores.
    let timed = support::full() && !cfg!(debug_assertions);
    beside(&gateway, timed, || {
        assert_eq!(download(Wire::http_connect(http, addr), "", addr, len, |_| {}), sum);
        assert_eq!(upload(Wire::http_connect(http, addr), "", addr, len), sum);
    });
    client.stop();
    gateway.stop();
}
