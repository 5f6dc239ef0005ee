//! Times that were asked for: a peer that reads nothing, a user on whom nothing moves, a target that is not there.

use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyproxy::limits::{LINGER_MS, SOCKS5_HANDSHAKE_MS};

use crate::forwards::{ask, udp_target};
use crate::statuses::FullBacklog;
use crate::support::{Ended, Origin, PATIENCE, Program, Wire, field, gateway, pattern, skipped, until};

/// More than lies between a target and a user who reads nothing.
const FLOOD: usize = 64 << 20;

/// A target that sends without end, and says how much it was sent when that has ended.
fn flood(sink: mpsc::Sender<usize>) -> Origin {
    Origin::new(move |mut wire| {
        let mut writer = wire.writer();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n");
        let sending = std::thread::spawn(move || {
            let piece = [7; 64 << 10];
            // Whoever is given up takes no more: that ends it.
            let sent = writer.write_all(head.as_bytes());
            sent.and_then(|()| (0..FLOOD / piece.len()).try_for_each(|_| writer.write_all(&piece))).is_err()
        });
        // How it ended is told to the one who sends.
        let (bytes, _) = wire.read_to_end();
        assert!(sending.join().expect("no panic"), "nobody takes {FLOOD} bytes");
        sink.send(bytes.len()).ok();
    })
}

#[track_caller]
fn stop(gateway: Program, client: Program) {
    client.stop();
    gateway.stop();
}

// proves S-52, S-65, S-49, S-50, T1, T19: a user who has stopped reading is given up, and what it sends is taken until then
#[test]
fn a_user_who_reads_nothing_is_given_up() {
    let (sink, ends) = mpsc::channel();
    let origin = flood(sink);
    let gateway = gateway(&["--write-stall-timeout", "2s"]);
    let forward = format!("0:{}", origin.addr());
    let client = gateway.client(&["--allow", "127.0.0.1", "--forward", &forward]);
    let actual = field(&client.wait(&["event=fwd_open"]), "actual").to_owned();
    let forwarded = format!("127.0.0.1:{actual}").parse().expect("an address");
    let http = gateway.addr("http");
    let mut plain = Wire::connect(http);
    plain.send(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", origin.url("/")));
    let joined = [
        ("connect", Wire::http_connect(http, origin.addr())),
        ("socks5", Wire::socks_connect(gateway.addr("socks"), "127.0.0.1", origin.addr().port())),
        ("tcp", Wire::connect(forwarded)),
    ];
    let bytes = pattern(50_000);
    let mut held = Vec::new();
    for (proto, mut wire) in joined {
        wire.send(&bytes);
        held.push((proto, wire));
    }
    for (proto, _) in &held {
        let line = gateway.wait(&["event=access", &format!("proto={proto}"), "end=cD", "why=timeout"]);
        assert_eq!(field(&line, "up"), "50000", "{line}");
    }
    gateway.wait(&["event=access", "proto=http", "why=timeout"]);
    let mut taken: Vec<usize> =
        (0..4).map(|_| ends.recv_timeout(PATIENCE).expect("each target hears of it")).collect();
    taken.sort_unstable();
    assert!(taken[0] < 1000 && taken[1..] == [50_000; 3], "a request, and all that was sent: {taken:?}");
    drop((held, plain));
    stop(gateway, client);
}

// proves S-52, S-65: a target that has stopped reading is given up by the client
#[test]
fn a_target_that_reads_nothing_is_given_up() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::new(move |_wire| {
        held.lock().expect("one at a time").recv().ok();
    });
    let gateway = gateway(&[]);
    let client = gateway.client(&["--allow", "127.0.0.1", "--write-stall-timeout", "1s"]);
    let mut user = Wire::http_connect(gateway.addr("http"), origin.addr());
    let bytes = vec![7; FLOOD];
    assert!(user.try_send(&bytes).is_err(), "nobody takes {FLOOD} bytes");
    gateway.wait(&["event=access", "end=sD", "why=timeout"]);
    drop(release);
    stop(gateway, client);
}

// proves S-53, S-65, S-66: users on whom nothing moves are closed where that was asked for, and nowhere else
#[test]
fn idle_users_are_closed_by_the_kind_of_their_stream() {
    std::thread::scope(|scope| {
        for kind in ["http", "socks", "forward"] {
            scope.spawn(move || idle_users_are_closed(kind));
        }
    });
}

fn idle_users_are_closed(kind: &str) {
    // Each has a target of its own, so that it is known whose end it is.
    let kinds = [("http", "connect"), ("socks", "socks5"), ("forward", "tcp")].map(|(kind, proto)| {
        let (sink, ends) = mpsc::channel();
        (kind, proto, Origin::silent(sink), ends)
    });
    let [(.., http, _), (.., socks, _), (.., forwarded, _)] = &kinds;
    let gateway = gateway(&["--idle-timeout", &format!("{kind}=1s")]);
    let client = gateway.client(&["--allow", "127.0.0.1", "--forward", &format!("0:{}", forwarded.addr())]);
    let actual = field(&client.wait(&["event=fwd_open"]), "actual").to_owned();
    let mut users = [
        Wire::http_connect(gateway.addr("http"), http.addr()),
        Wire::socks_connect(gateway.addr("socks"), "127.0.0.1", socks.addr().port()),
        Wire::connect(format!("127.0.0.1:{actual}").parse().expect("an address")),
    ];
    forwarded.wait_accepted(1);
    let (at, (_, proto, _, ends)) =
        kinds.iter().enumerate().find(|(_, (of, ..))| *of == kind).expect("one of these");
    gateway.wait(&["event=access", &format!("proto={proto}"), "end=cD", "why=timeout"]);
    users[at].read_to_end();
    assert_eq!(ends.recv_timeout(PATIENCE).expect("its target hears of it").1, Ended::Reset);
    for (user, (of, _, _, ends)) in users.iter_mut().zip(&kinds).filter(|(_, (of, ..))| *of != kind) {
        assert!(user.is_quiet(), "{of} is idle, and there, with {kind}=1s");
        user.finish();
        assert_eq!(ends.recv_timeout(PATIENCE).expect("its target hears of it").1, Ended::Fin);
    }
    drop(users);
    stop(gateway, client);
}

// proves S-65, S-48: how long a target is waited for is what was asked for
#[test]
fn a_target_that_does_not_answer_is_given_up_when_it_was_asked_for() {
    let full = FullBacklog::new();
    let gateway = gateway(&[]);
    let client = gateway.client(&["--allow", "127.0.0.1", "--connect-timeout", "500ms"]);
    let mut user = Wire::connect(gateway.addr("http"));
    assert_eq!(user.get(&format!("http://{}/", full.addr)).code, 504);
    gateway.wait(&["event=access", "end=sC", "why=timeout", "code=504"]);
    drop(user);
    stop(gateway, client);
}

// proves S-54: targets that do not answer delay nobody: neither the next user's connection nor a datagram
#[test]
fn dials_that_hang_delay_nobody() {
    const HANGING: usize = 50;
    let (full, echo) = (FullBacklog::new(), Origin::echo());
    let gateway = gateway(&[]);
    let client = gateway.client(&["--allow", "127.0.0.1", "--forward", &format!("0:{}/udp", udp_target())]);
    let port = field(&client.wait(&["event=fwd_open"]), "actual").parse().expect("a port");
    let before = client.descriptors();
    let mut hanging: Vec<Wire> = (0..HANGING).map(|_| Wire::connect(gateway.addr("http"))).collect();
    for user in &mut hanging {
        user.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", full.addr));
    }
    let deadline = Instant::now() + PATIENCE;
    while client.descriptors() < before + HANGING {
        assert!(Instant::now() < deadline, "each has a dial of its own");
        std::thread::yield_now();
    }
    let mut good = Wire::http_connect(gateway.addr("http"), echo.addr());
    good.send("hello");
    assert_eq!(good.take(5), b"hello");
    let user = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    ask(&user, ([127, 0, 0, 1], port).into(), b"question");
    assert!(hanging.iter().all(Wire::is_quiet), "while all the others wait");
    drop((hanging, good));
    stop(gateway, client);
}

// proves T17: a user has as long for what he wants to say as the limit says
#[test]
fn a_user_who_does_not_finish_its_request_is_let_go() {
    if skipped("10 s of a request that is not finished") {
        return;
    }
    let gateway = gateway(&[]);
    let begun = Instant::now();
    let mut user = Wire::connect(gateway.addr("socks"));
    user.send([5]);
    assert_eq!(user.read_to_end().0, b"");
    assert!(begun.elapsed() >= Duration::from_millis(SOCKS5_HANDSHAKE_MS), "{:?}", begun.elapsed());
    gateway.wait(&["event=access", "in=socks", "end=cR", "why=timeout"]);
    gateway.stop();
}

// proves T17: a user who was answered, and stays, is left behind as soon as the limit says
#[test]
fn a_user_who_does_not_leave_after_the_last_answer_is_let_go() {
    let gateway = gateway(&[]);
    gateway.wait(&["event=ready"]);
    let base = gateway.descriptors();
    let begun = Instant::now();
    let mut user = Wire::connect(gateway.addr("socks"));
    user.send([5, 1, 0]);
    assert_eq!(user.take(2), [5, 0]);
    // Nobody listens for others here.
    user.send([5, 2, 0, 1, 127, 0, 0, 1, 0, 80]);
    assert_eq!(user.take(10)[..2], [5, 7]);
    assert_eq!(user.read_to_end(), (vec![], Ended::Fin));
    until("the end of who stays", || gateway.descriptors() == base);
    assert!(begun.elapsed() >= Duration::from_millis(LINGER_MS), "{:?}", begun.elapsed());
    drop(user);
    gateway.stop();
}
