//! Time: a quiet tunnel, a frozen peer, a long transfer, a user who does not read. Minutes of it only when asked for.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::{Ended, Origin, Program, Talk, Wire, field, gateway, skipped};

fn debug_gateway() -> Program {
    let any = "127.0.0.1:0";
    let args = ["gateway", "--tunnel", any, "--http", any, "--socks", any];
    let program = Program::start_with(&args, &[("ANYPROXY_LOG", "debug")]);
    program.wait(&["event=ready"]);
    program
}

fn debug_client(gateway: &Program, more: &[&str]) -> Program {
    let url = format!("ws://{}", gateway.addr("tunnel"));
    let args = [&["client", "--gateway", &url, "--allow", "127.0.0.1"], more].concat();
    let program = Program::start_with(&args, &[("ANYPROXY_LOG", "debug")]);
    program.wait(&["event=tun_up"]);
    program
}

#[track_caller]
fn echoes(wire: &mut Wire, words: &str) {
    wire.send(words);
    assert_eq!(wire.take(words.len()), words.as_bytes());
}

/// Lines that somebody reads.
fn loud(program: &Program) -> usize {
    program.lines(&[]).iter().filter(|line| !line.contains(" level=DEBUG ")).count()
}

// proves S-24, S-25, S-60, S-63: nothing happens to what nobody uses
#[test]
fn a_quiet_tunnel_and_its_quiet_streams_are_left_alone() {
    if skipped("65 s of silence") {
        return;
    }
    let echo = Origin::echo();
    let gateway = debug_gateway();
    let client = debug_client(&gateway, &["--forward", &format!("0:{}", echo.addr())]);
    let line = gateway.wait(&["event=fwd_open"]);
    let forwarded: SocketAddr = field(&line, "addr").parse().expect("an address");
    client.wait(&["event=fwd_open"]);
    let mut users = [
        Wire::http_connect(gateway.addr("http"), echo.addr()),
        Wire::socks_connect(gateway.addr("socks"), "127.0.0.1", echo.addr().port()),
        Wire::connect(forwarded),
    ];
    users.iter_mut().for_each(|user| echoes(user, "before"));
    // That there are three of them is the last that both have to say.
    for program in [&gateway, &client] {
        program.wait(&["event=stats", "conns=3"]);
    }
    let before = [loud(&gateway), loud(&client)];
    // The silence is what is tested.
    std::thread::sleep(Duration::from_secs(65));
    users.iter_mut().for_each(|user| echoes(user, "after"));
    assert_eq!([loud(&gateway), loud(&client)], before, "nothing was said above DEBUG");
    assert_eq!(client.lines(&["event=tun_up"]).len(), 1, "no reconnect");
    drop(users);
    client.stop();
    gateway.stop();
}

/// Freezes the client, with this many users whose bytes nobody takes any more.
fn freeze(writers: usize) {
    let (echo, gateway) = (Origin::echo(), gateway(&[]));
    let client = gateway.client(&["--allow", "127.0.0.1"]);
    let http = gateway.addr("http");
    let mut users: Vec<Wire> = (0..=writers).map(|_| Wire::http_connect(http, echo.addr())).collect();
    users.iter_mut().for_each(|user| echoes(user, "hello"));
    client.signal("STOP");
    let frozen = Instant::now();
    std::thread::scope(|scope| {
        for user in &users[1..] {
            let mut writer = user.writer();
            scope.spawn(move || while writer.write_all(&[b'x'; 65536]).is_ok() {});
        }
        let line = gateway.wait(&["event=tun_down", "level=WARN"]);
        let found = frozen.elapsed();
        println!("a frozen client, {writers} writers: found after {found:?}: {line}");
        assert!(found <= Duration::from_secs(45), "{found:?}");
        assert_eq!(users[0].read_to_end().1, Ended::Reset);
        // Of a reset, only one of those who use a socket is told.
        users[1..].iter_mut().for_each(|user| assert!(user.read_to_end().0.is_empty()));
    });
    assert_eq!(Wire::connect(http).get(&format!("http://{}/", echo.addr())).code, 503);
    client.signal("CONT");
    client.wait_nth(&["event=tun_up"], 2);
    let mut user = Wire::http_connect(http, echo.addr());
    echoes(&mut user, "hello again");
    assert_eq!(gateway.lines(&["event=tun_down"]).len(), 1, "said once");
    assert_eq!(client.lines(&["event=tun_down", "level=WARN"]).len(), 1, "said once");
    drop((users, user));
    client.stop_but_for(&["event=tun_down"]);
    gateway.stop_but_for(&["event=tun_down", "event=group_empty"]);
}

// proves S-27, S-28, S-56, S-57: a peer that is there and does nothing is found by the tunnel's own question
#[test]
fn a_frozen_client_is_found_and_comes_back() {
    if !skipped("a frozen client") {
        freeze(0);
    }
}

// proves S-28, S-37: also when the way to it is full of unsent bytes
#[test]
fn a_frozen_client_is_found_behind_unsent_bytes() {
    if !skipped("a frozen client and a full way to it") {
        freeze(60);
    }
}

// proves S-28, S-57: the other way round
#[test]
fn a_frozen_gateway_is_found_and_comes_back() {
    if skipped("a frozen gateway") {
        return;
    }
    let (echo, gateway) = (Origin::echo(), gateway(&[]));
    let client = gateway.client(&["--allow", "127.0.0.1"]);
    let mut user = Wire::http_connect(gateway.addr("http"), echo.addr());
    echoes(&mut user, "hello");
    gateway.signal("STOP");
    let line = client.wait(&["event=tun_down", "level=WARN"]);
    println!("a frozen gateway: {line}");
    gateway.signal("CONT");
    client.wait_nth(&["event=tun_up"], 2);
    drop(user);
    let mut user = Wire::http_connect(gateway.addr("http"), echo.addr());
    echoes(&mut user, "hello again");
    assert_eq!(client.lines(&["event=tun_down"]).len(), 1, "said once");
    drop(user);
    client.stop_but_for(&["event=tun_down", "event=connect"]);
    gateway.stop_but_for(&["event=tun_down", "event=group_empty"]);
}

// proves S-48, S-49, S-50, S-51: an answer that begins after 29 s, and a transfer that takes 40
#[test]
fn a_long_transfer_completes_by_every_way() {
    if skipped("transfers of 40 s") {
        return;
    }
    let late = Origin::slow(Duration::from_secs(29));
    let long = Origin::http(|_request, wire| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n");
        for _ in 0..40 {
            // The time is what is tested.
            std::thread::sleep(Duration::from_secs(1));
            wire.send([b'x'; 10]);
        }
        Talk::Goes
    });
    let gateway = gateway(&[]);
    // The system has just had it.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.expect("loopback has free ports").port();
    let forwards = [format!("0:{}", late.addr()), format!("{free}:{}", long.addr())];
    let client =
        gateway.client(&["--allow", "127.0.0.1", "--forward", &forwards[0], "--forward", &forwards[1]]);
    let [http, socks] = ["http", "socks"].map(|name| gateway.addr(name));
    let forwarded = |origin: &Origin| -> SocketAddr {
        let line = gateway.wait(&["event=fwd_open", &format!("dst={}", origin.addr())]);
        field(&line, "addr").parse().expect("an address")
    };
    std::thread::scope(|scope| {
        for (origin, want) in [(&late, 5), (&long, 400)] {
            let url = origin.url("/long");
            let addr = origin.addr();
            scope.spawn(move || assert_eq!(Wire::connect(http).get(&url).body.len(), want));
            scope.spawn(move || assert_eq!(Wire::http_connect(http, addr).get("/long").body.len(), want));
            let mut by_socks = Wire::socks_connect(socks, "127.0.0.1", addr.port());
            scope.spawn(move || assert_eq!(by_socks.get("/long").body.len(), want));
            let mut by_port = Wire::connect(forwarded(origin));
            scope.spawn(move || assert_eq!(by_port.get("/long").body.len(), want));
        }
    });
    client.stop();
    gateway.stop();
}

// proves S-39, S-52, S-62: who does not read holds back himself, and loses nothing
#[test]
fn a_user_who_does_not_read_disturbs_nobody() {
    let serve = Program::start(&["serve", "--listen", "127.0.0.1:0"]);
    let gateway = gateway(&[]);
    let client = gateway.client(&["--allow", "127.0.0.1"]);
    let (http, serve_addr) = (gateway.addr("http"), serve.addr("serve"));
    let size = 32 << 20;
    let big = format!("http://{serve_addr}/bytes/{size}");
    let want = Wire::connect(serve_addr).get(&big).body;
    assert_eq!(want.len(), size);
    let mut sleepers: Vec<Wire> = (0..3).map(|_| Wire::connect(http)).collect();
    for sleeper in &mut sleepers {
        sleeper.send(format!("GET {big} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(sleeper.response_head().code, 200);
    }
    for _ in 0..50 {
        assert_eq!(
            Wire::connect(http).get(&format!("http://{serve_addr}/plaintext")).text(),
            "Hello, World!"
        );
    }
    assert!(Wire::connect(http).get(&big).body == want, "a neighbour's download is whole");
    for sleeper in &mut sleepers {
        assert!(sleeper.take(size) == want, "not a byte is lost");
    }
    drop(sleepers);
    client.stop();
    gateway.stop();
    serve.stop();
}

// proves S-56, S-57, S-69: a port that is taken is complained about once, asked for again, and opened when it is free
#[test]
fn a_refused_port_is_said_once() {
    let echo = Origin::echo();
    let gateway = debug_gateway();
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let addr = taken.local_addr().expect("it is bound");
    let client = debug_client(&gateway, &["--forward", &format!("{}:{}", addr.port(), echo.addr())]);
    client.wait_nth(&["event=fwd_fail"], 3);
    for (program, event, level) in
        [(&gateway, "event=refuse", "level=INFO"), (&client, "event=fwd_fail", "level=WARN")]
    {
        assert_eq!(program.lines(&[event, level]).len(), 1, "{event}");
    }
    drop(taken);
    gateway.wait(&["event=fwd_open", &format!("addr={addr}")]);
    echoes(&mut Wire::connect(addr), "it is open");
    client.stop_but_for(&["event=fwd_fail"]);
    gateway.stop();
}
