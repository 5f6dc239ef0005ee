//! A client of two gateways: one goes, the other serves, and the one that comes back is served again.

use std::net::{SocketAddr, TcpListener};

use crate::support::{Origin, Program, Wire};

/// No other test listens here and no connection begins here, so that a port stays free while its owner is dead.
const HOST: &str = "127.0.79.1";

struct Gateway {
    tunnel: SocketAddr,
    http: SocketAddr,
    program: Option<Program>,
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((HOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound")
}

impl Gateway {
    fn new() -> Gateway {
        let mut gateway = Gateway { tunnel: free_addr(), http: free_addr(), program: None };
        gateway.start();
        gateway
    }

    fn start(&mut self) {
        let (tunnel, http) = (self.tunnel.to_string(), self.http.to_string());
        let program = Program::start(&["gateway", "--tunnel", &tunnel, "--http", &http]);
        program.wait(&["event=ready"]);
        self.program = Some(program);
    }

    fn program(&self) -> &Program {
        self.program.as_ref().expect("it runs")
    }

    fn url(&self) -> String {
        format!("ws://{}", self.tunnel)
    }

    /// This gateway in the client's log.
    fn word(&self) -> String {
        format!("gateway={}", self.tunnel)
    }
}

#[track_caller]
fn serves(gateway: &Gateway, echo: &Origin) -> Wire {
    let mut wire = Wire::http_connect(gateway.http, echo.addr());
    wire.send("hello");
    assert_eq!(wire.take(5), b"hello");
    wire
}

// proves S-35, S-39, S-57: what happens to one gateway is nothing to the streams of the other
#[test]
fn one_of_two_gateways_is_killed_and_comes_back() {
    let echo = Origin::echo();
    let (mut one, two) = (Gateway::new(), Gateway::new());
    let client =
        Program::start(&["client", "--gateway", &one.url(), "--gateway", &two.url(), "--allow", "127.0.0.1"]);
    client.wait(&["event=tun_up", &one.word()]);
    client.wait(&["event=tun_up", &two.word()]);
    let mut held = serves(&two, &echo);
    for round in 1..=3 {
        drop(serves(&one, &echo));
        let mut killed = one.program.take().expect("it runs");
        killed.signal("KILL");
        killed.ended();
        client.wait_nth(&["event=tun_down", &one.word()], round);
        held.send("still here");
        assert_eq!(held.take(10), b"still here");
        drop(serves(&two, &echo));
        one.start();
        client.wait_nth(&["event=tun_up", &one.word()], round + 1);
    }
    drop((serves(&one, &echo), held));
    assert_eq!(
        client.lines(&["event=tun_up", &two.word()]).len(),
        1,
        "the other tunnel is the same all along"
    );
    client.stop_but_for(&["event=tun_down"]);
    for gateway in [one, two] {
        gateway.program.expect("it runs").stop();
    }
}

// proves S-43, S-44: a gateway that stops says so, and the client has another before it has gone
#[test]
fn a_gateway_that_stops_has_a_successor() {
    let echo = Origin::echo();
    let (mut one, two) = (Gateway::new(), Gateway::new());
    let client = Program::start(&[
        "client",
        "--gateway",
        &one.url(),
        "--gateway",
        &two.url(),
        "--replicas",
        "1",
        "--allow",
        "127.0.0.1",
    ]);
    client.wait(&["event=tun_up", &one.word()]);
    // A stream that keeps the tunnel for as long as the gateway lets it.
    let held = serves(&one, &echo);
    one.program().signal("TERM");
    client.wait(&["event=tun_drain", "level=INFO", &one.word()]);
    client.wait(&["event=tun_up", &two.word()]);
    drop(serves(&two, &echo));
    one.program.take().expect("it runs").ended();
    client.wait(&["event=tun_down", "level=INFO", &one.word()]);
    drop(held);
    drop(serves(&two, &echo));
    assert_eq!(
        client.lines(&["event=tun_up"]).len(),
        2,
        "the end of the old tunnel is no reason for another"
    );
    client.stop();
    two.program.expect("it runs").stop();
}

// proves S-57: what is not there at first is found, and told of once for each gateway
#[test]
fn a_client_serves_the_gateway_that_is_there() {
    let echo = Origin::echo();
    let two = Gateway::new();
    let missing = format!("ws://{}", free_addr());
    let client = Program::start(&[
        "client",
        "--gateway",
        &missing,
        "--gateway",
        &two.url(),
        "--replicas",
        "1",
        "--allow",
        "127.0.0.1",
    ]);
    client.wait(&["event=connect", "level=WARN"]);
    client.wait(&["event=tun_up", &two.word()]);
    drop(serves(&two, &echo));
    client.stop_but_for(&["event=connect"]);
    two.program.expect("it runs").stop();
}
