//! Out of descriptors: accepting rests, does not spin, and goes on.
//!
//! The limit of descriptors holds for a whole process, so the test runs itself again in a child whose limit is low.

mod support;

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use poller::limits;
use socket2::{Domain, Socket, Type};
use support::*;

const CHILD: &str = "POLLER_TEST_FEW_DESCRIPTORS";

/// All descriptors that there are.
fn take_all() -> Vec<File> {
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!files.is_empty(), "there were some");
    files
}

/// A socket of a user, made while there are descriptors.
fn socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// Counts what is said at WARN.
struct Counter;

impl log::Log for Counter {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Warn && record.target().starts_with("poller::listener") {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn flush(&self) {}
}

/// The processor time that this process has used, in clock ticks. The file was opened while that was possible.
fn ticks(stat: &File) -> u64 {
    let mut text = [0; 1024];
    let n = stat.read_at(&mut text, 0).expect("readable");
    let text = String::from_utf8_lossy(&text[..n]).into_owned();
    let fields: Vec<&str> = text.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    [11, 12].iter().map(|n| fields[*n].parse::<u64>().expect("a number")).sum()
}

fn in_the_child() {
    log::set_logger(&Counter).expect("the first logger");
    log::set_max_level(log::LevelFilter::Warn);
    let event_loop = one_poll();
    let (addr, log) = Probe::echo().serve(&event_loop);
    let mut first = connect(addr);
    ask(&mut first, b"before");
    log.until(At::Connect);
    let stat = File::open("/proc/self/stat").expect("readable");
    for round in 1..=2 {
        let users: Vec<Socket> = (0..4).map(|_| socket()).collect();
        let hoard = take_all();
        // The kernel connects them; nobody can accept them.
        users.iter().for_each(|user| user.connect(&addr.into()).expect("connected"));
        ask(&mut first, b"those that live go on");
        wait_until("accepting rests", || WARNINGS.load(Ordering::SeqCst) >= 1);
        // Time is what this is about: what is tried again and again meanwhile must cost nothing that could be seen.
        let busy = ticks(&stat);
        std::thread::sleep(3 * Duration::from_millis(limits::ACCEPT_PAUSE_MS));
        let busy = ticks(&stat) - busy;
        assert!(busy <= 5, "{busy} ticks of 10 ms in 300 ms of waiting");
        assert!(log.rest().iter().all(|event| event.at != At::Connect), "nobody was accepted");
        drop(hoard);
        for user in users {
            ask(&mut TcpStream::from(user), format!("accepted in round {round}").as_bytes());
        }
        (0..4).for_each(|_| drop(log.handle()));
        (0..4).for_each(|_| drop(log.closed()));
    }
    assert!(WARNINGS.load(Ordering::SeqCst) == 1, "said once, not each time");
    drop(first);
}

// proves L-30 (twice in a row), and that ACCEPT_PAUSE_MS and ACCEPT_WARN_MS hold
#[test]
fn accepting_rests_without_descriptors_and_goes_on_with_them() {
    if std::env::var_os(CHILD).is_some() {
        return in_the_child();
    }
    let test = std::env::current_exe().expect("this program");
    let script = "ulimit -n 64 || exit 77; exec \"$0\" --exact \"$1\" --nocapture";
    let mut child = Command::new("sh");
    child.args(["-c", script]).arg(test).arg("accepting_rests_without_descriptors_and_goes_on_with_them");
    let output = child.env(CHILD, "1").output().expect("a shell");
    if output.status.code() == Some(77) {
        eprintln!("SKIPPED: the limit of descriptors cannot be set here");
        return;
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
}
