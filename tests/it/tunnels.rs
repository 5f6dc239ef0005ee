//! CONNECT and SOCKS5: two connections joined, each direction ending for itself, and a break staying a break.

use std::sync::mpsc;

use crate::statuses::FullBacklog;
use crate::support::{self, Ended, Origin, PATIENCE, Program, Wire, pattern};

/// The two ways to a target that is named by an address.
const WAYS: [fn(&Program, &Origin) -> Wire; 2] = [
    |gateway, origin| Wire::http_connect(gateway.addr("http"), origin.addr()),
    |gateway, origin| Wire::socks_connect(gateway.addr("socks"), "127.0.0.1", origin.addr().port()),
];

fn start() -> (Program, Program) {
    support::gateway_and_client(&["--allow", "127.0.0.1"])
}

fn stop((gateway, client): (Program, Program)) {
    client.stop();
    gateway.stop();
}

#[test]
fn a_user_ends_its_direction_and_still_gets_everything() {
    let origin = Origin::after_end();
    let programs = start();
    for way in WAYS {
        let mut wire = way(&programs.0, &origin);
        let bytes = pattern(400_000);
        wire.send(&bytes);
        wire.finish();
        let (came, ended) = wire.read_to_end();
        assert!(came == bytes, "{} bytes", came.len());
        assert_eq!(ended, Ended::Fin);
    }
    programs.0.wait_nth(&["event=access", "up=400000", "down=400000", "end=--", "why=eof"], 2);
    stop(programs);
}

#[test]
fn a_target_ends_its_direction_and_still_gets_everything() {
    let (sink, ends) = mpsc::channel();
    let origin = Origin::first_to_end(sink);
    let programs = start();
    for way in WAYS {
        let mut wire = way(&programs.0, &origin);
        assert_eq!(wire.read_to_end(), (b"hello".to_vec(), Ended::Fin));
        let bytes = pattern(400_000);
        wire.send(&bytes);
        wire.finish();
        let (came, ended) = ends.recv_timeout(PATIENCE).expect("the target sees its end");
        assert!(came == bytes, "{} bytes", came.len());
        assert_eq!(ended, Ended::Fin);
    }
    programs.0.wait_nth(&["event=access", "up=400000", "down=5", "end=--", "why=eof"], 2);
    stop(programs);
}

// proves S-05: a reset is logged as an ending, not as a fault
#[test]
fn a_target_that_breaks_off_is_a_break_for_the_user() {
    let origin = Origin::breaks(5);
    let programs = start();
    for way in WAYS {
        let mut wire = way(&programs.0, &origin);
        wire.send("hello");
        assert_eq!(wire.read_to_end(), (vec![], Ended::Reset));
    }
    programs.0.wait_nth(&["event=access", "end=SD", "why=rst"], 2);
    stop(programs);
}

// proves S-05, S-58: also where much is on its way to it, and on the side that writes to it
#[test]
fn a_target_that_breaks_off_under_a_transfer_is_no_fault_of_the_client() {
    const LEN: usize = 1 << 20;
    let origin = Origin::breaks(1000);
    let (gateway, client) = start();
    for (way, n) in WAYS.into_iter().zip(1..) {
        let mut wire = way(&gateway, &origin);
        // It may hear of the end before it has said everything.
        wire.try_send(vec![b'x'; LEN]).ok();
        assert_eq!(wire.read_to_end(), (vec![], Ended::Reset));
        gateway.wait_nth(&["event=access", "end=SD", "why=rst"], n);
    }
    let lines = client.stop();
    let up = lines.iter().position(|line| line.contains(" event=tun_up ")).expect("it was up");
    let down = lines.iter().position(|line| line.contains(" event=stop")).unwrap_or(lines.len());
    assert!(lines[up + 1..down].is_empty(), "nobody reads of it at this level: {lines:?}");
    gateway.stop();
}

// proves S-05
#[test]
fn a_user_who_breaks_off_is_a_break_for_the_target() {
    let (sink, ends) = mpsc::channel();
    let origin = Origin::silent(sink);
    let programs = start();
    for way in WAYS {
        let mut wire = way(&programs.0, &origin);
        wire.send("hello");
        wire.reset();
        let (came, ended) = ends.recv_timeout(PATIENCE).expect("the target sees its end");
        assert_eq!(ended, Ended::Reset, "after {} bytes", came.len());
    }
    programs.0.wait_nth(&["event=access", "end=CD", "why=rst"], 2);
    stop(programs);
}

#[test]
fn a_target_that_stops_reading_holds_up_its_own_user_alone() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::new(move |mut wire| {
        held.lock().expect("one at a time").recv().expect("the test says when");
        let (bytes, ended) = wire.read_to_end();
        assert_eq!(ended, Ended::Fin);
        wire.send((bytes.len() as u64).to_be_bytes());
    });
    let echo = Origin::echo();
    let programs = start();
    for way in WAYS {
        let mut wire = way(&programs.0, &origin);
        let mut writer = wire.writer();
        let bytes = pattern(16 << 20);
        let sent = bytes.len() as u64;
        let pushing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
        for n in 0..50 {
            let mut other = way(&programs.0, &echo);
            other.send(pattern(1000 + n));
            other.finish();
            assert_eq!(other.read_to_end(), (pattern(1000 + n), Ended::Fin));
        }
        assert!(!pushing.is_finished(), "16 MiB do not fit into what lies between");
        release.send(()).expect("the target waits");
        pushing.join().expect("no panic").expect("all of it is taken");
        wire.finish();
        assert_eq!(wire.read_to_end(), (sent.to_be_bytes().to_vec(), Ended::Fin));
    }
    stop(programs);
}

#[test]
fn success_is_said_only_when_the_target_has_answered() {
    let origin = Origin::echo();
    let programs = start();
    let full = FullBacklog::new();
    let mut connect = Wire::connect(programs.0.addr("http"));
    connect.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", full.addr));
    let mut socks = Wire::connect(programs.0.addr("socks"));
    socks.send([5, 1, 0]);
    assert_eq!(socks.take(2), [5, 0]);
    socks.send([&[5, 1, 0, 1, 127, 0, 0, 1][..], &full.addr.port().to_be_bytes()].concat());
    // What is asked for later comes through, so the others have had their chance.
    for way in WAYS {
        let mut wire = way(&programs.0, &origin);
        wire.send("x");
        assert_eq!(wire.take(1), b"x");
    }
    assert!(connect.is_quiet() && socks.is_quiet(), "nothing is promised yet");
    let listener = full.listener;
    std::thread::spawn(move || {
        // Those that filled the backlog, and then those that waited: taken, and let go.
        listener.incoming().for_each(drop);
    });
    assert_eq!(connect.response("CONNECT").code, 200);
    assert_eq!(socks.take(4), [5, 0, 0, 1]);
    drop((connect, socks));
    stop(programs);
}

#[test]
fn a_user_who_leaves_before_the_target_answers_is_forgotten() {
    let programs = start();
    let full = FullBacklog::new();
    let mut connect = Wire::connect(programs.0.addr("http"));
    connect.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", full.addr));
    let mut plain = Wire::connect(programs.0.addr("http"));
    plain.send(format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", full.addr));
    let mut socks = Wire::connect(programs.0.addr("socks"));
    socks.send([5, 1, 0]);
    assert_eq!(socks.take(2), [5, 0]);
    socks.send([&[5, 1, 0, 1, 127, 0, 0, 1][..], &full.addr.port().to_be_bytes()].concat());
    // A later one comes through, so these have been passed on.
    let origin = Origin::echo();
    for way in WAYS {
        drop(way(&programs.0, &origin));
    }
    for wire in [connect, plain, socks] {
        wire.reset();
    }
    for proto in ["proto=connect", "proto=http", "proto=socks5"] {
        programs.0.wait(&["event=access", proto, "end=CC", "why=rst"]);
    }
    programs.0.wait_nth(&["event=access"], 5);
    stop(programs);
}

#[test]
fn what_a_user_says_before_the_answer_reaches_the_target() {
    let origin = Origin::echo();
    let programs = start();
    let addr = origin.addr();
    let mut connect = Wire::connect(programs.0.addr("http"));
    connect.send(format!("CONNECT {addr} HTTP/1.1\r\nHost: {addr}\r\n\r\nearly words"));
    assert_eq!(connect.response("CONNECT").code, 200);
    assert_eq!(connect.take(11), b"early words");
    // Even the end may come early.
    let mut socks = Wire::connect(programs.0.addr("socks"));
    socks.send(
        [&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &addr.port().to_be_bytes(), b"early words"].concat(),
    );
    socks.finish();
    assert_eq!(socks.take(2), [5, 0]);
    assert_eq!(socks.take(10)[..2], [5, 0]);
    assert_eq!(socks.read_to_end(), (b"early words".to_vec(), Ended::Fin));
    drop(connect);
    stop(programs);
}
