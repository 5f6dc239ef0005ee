//! How many descriptors the program takes for itself.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use crate::forwards::udp_target;
use crate::support::{self, Origin, Program, Wire, field};

/// Soft and hard limit of a process.
fn limits(pid: u32) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("it has a limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    [words.next().expect("soft"), words.next().expect("hard")]
}

// proves T18: a soft limit of the shell's is no limit of ours
#[test]
fn the_program_takes_as_many_descriptors_as_it_may() {
    let program = Program::start_limited(200, &["serve", "--listen", "127.0.0.1:0"]);
    program.wait(&["event=ready"]);
    let [soft, hard] = limits(program.pid());
    assert_ne!(soft, "200");
    assert_eq!(soft, hard);
    assert_eq!(field(&program.wait(&["event=start"]), "nofile"), soft);
    program.stop();
}

// Whoever may use the proxy can have it ask for more sockets than there are, as often as he likes.
#[test]
fn a_client_without_descriptors_says_so_once_and_serves_again_when_it_has_some() {
    let begun = Instant::now();
    let (gateway, echo) = (support::gateway(&[]), Origin::echo());
    let url = format!("ws://{}", gateway.addr("tunnel"));
    let client = Program::start_bounded(64, &["client", "--gateway", &url, "--allow", "127.0.0.1"]);
    client.wait(&["event=tun_up"]);
    let connect = || {
        let mut wire = Wire::connect(gateway.addr("http"));
        wire.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.addr()));
        let code = wire.response("CONNECT").code;
        (wire, code)
    };
    let (served, refused): (Vec<_>, Vec<_>) = (0..100).map(|_| connect()).partition(|(_, code)| *code == 200);
    assert!(!served.is_empty() && refused.len() > 10, "{} of 100", served.len());
    assert!(refused.iter().all(|(_, code)| *code == 503));
    let said = client.lines(&["event=limit_hit"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(said.len() as u64)), "{said:?}");
    drop((served, refused));
    support::until("a connection where there are descriptors again", || connect().1 == 200);
    client.stop_but_for(&["event=limit_hit"]);
    gateway.stop();
}

// A UDP target takes a socket as any other does: who sends from one address after the other finds the same end of them.
#[test]
fn a_client_without_descriptors_says_so_of_udp_as_well() {
    const USERS: usize = 100;
    let begun = Instant::now();
    let gateway = support::gateway(&[]);
    let (url, target) = (format!("ws://{}", gateway.addr("tunnel")), format!("0:{}/udp", udp_target()));
    let flags = ["client", "--gateway", &url, "--allow", "127.0.0.1", "--forward", &target];
    let client = Program::start_bounded(64, &flags);
    let port = field(&client.wait(&["event=fwd_open"]), "actual").parse().expect("a port");
    let port = SocketAddr::from(([127, 0, 0, 1], port));
    let users: Vec<_> = (0..USERS).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
    for user in &users {
        user.set_nonblocking(true).expect("a socket");
        user.send_to(b"question", port).expect("loopback takes it");
    }
    let served = || users.iter().filter(|user| user.peek(&mut [0; 16]).is_ok()).count();
    let refused = || gateway.lines(&["event=access", "proto=udp", "end=RQ", "why=limit"]).len();
    support::until("an answer for each user", || served() + refused() == USERS);
    assert!(served() > 0 && refused() > 10, "{} of {USERS}", served());
    client.wait(&["event=limit_hit"]);
    let said = client.lines(&["event=limit_hit"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(said.len() as u64)), "{said:?}");
    client.stop_but_for(&["event=limit_hit"]);
    gateway.stop();
}
