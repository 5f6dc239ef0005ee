//! Either end is killed, again and again; the other says so, goes on, and works again once there are two.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::{Ended, Origin, PATIENCE, Program, Wire, field, full, gateway};

const ROUNDS: usize = 10;
/// No other test listens here and no connection begins here, so that a port stays free while its owner is dead.
const HOST: &str = "127.0.77.1";

fn free_port() -> u16 {
    let listener = TcpListener::bind((HOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

fn greeter() -> Origin {
    Origin::http(|request, wire| {
        wire.send(crate::support::ok(&request.path));
        crate::support::Talk::Goes
    })
}

fn gateway_at(tunnel: &str, http: &str) -> Program {
    let program = Program::start(&["gateway", "--tunnel", tunnel, "--http", http]);
    program.wait(&["event=ready"]);
    program
}

#[track_caller]
fn loud(program: &Program) -> Vec<String> {
    let loud = |line: &String| line.contains(" level=WARN ") || line.contains(" level=ERROR ");
    let lines = program.lines(&[]);
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{}", lines.join("\n"));
    lines.into_iter().filter(loud).collect()
}

/// A stream of which neither side says a word: what becomes of it is told on both ends.
fn held(http: SocketAddr, target: &Origin) -> Wire {
    let before = target.accepted();
    let wire = Wire::http_connect(http, target.addr());
    target.wait_accepted(before + 1);
    wire
}

// proves S-35, S-57, S-32, S-27, S-16: the client says so once, comes back by itself, and serves as before
#[test]
fn a_killed_gateway_is_missed_once_and_found_again() {
    let (sink, ends) = std::sync::mpsc::channel();
    let (origin, silent) = (greeter(), Origin::silent(sink));
    let (tunnel, http) = (format!("{HOST}:{}", free_port()), format!("{HOST}:{}", free_port()));
    let http_addr: SocketAddr = http.parse().expect("an address of ours");
    let forwarded = free_port();
    let mut gateway = gateway_at(&tunnel, &http);
    let forward = format!("{forwarded}:{}", origin.addr());
    let client = gateway.client(&["--allow", "127.0.0.1", "--forward", &forward]);
    let mut slowest = Duration::ZERO;
    for round in 1..=ROUNDS {
        client.wait_nth(&["event=fwd_open"], round);
        assert_eq!(Wire::connect(http_addr).get(&origin.url("/a")).text(), "/a");
        let mut user = held(http_addr, &silent);
        gateway.signal("KILL");
        gateway.ended();
        user.read_to_end();
        client.wait_nth(&["event=tun_down"], round);
        // The stream's target hears of it, too: nothing is left hanging.
        ends.recv_timeout(PATIENCE).expect("the target's connection ends with its tunnel");

        gateway = gateway_at(&tunnel, &http);
        let ready = Instant::now();
        client.wait_nth(&["event=tun_up"], round + 1);
        slowest = slowest.max(ready.elapsed());
        assert_eq!(Wire::connect(http_addr).get(&origin.url("/b")).text(), "/b");
    }
    client.wait_nth(&["event=fwd_open"], ROUNDS + 1);
    let addr: SocketAddr = format!("{HOST}:{forwarded}").parse().expect("an address of ours");
    assert_eq!(Wire::connect(addr).get("/through").text(), "/through");
    println!("a restarted gateway is found within {slowest:?} (slowest of {ROUNDS})");
    if full() {
        assert!(slowest <= Duration::from_secs(2), "{slowest:?}");
    }
    // On a machine that takes five seconds for a restart the client says that it is missed, too.
    let said: Vec<_> = loud(&client).into_iter().filter(|line| !line.contains("event=connect")).collect();
    assert_eq!(said.len(), ROUNDS, "{said:#?}");
    assert!(said.iter().all(|line| line.contains(" event=tun_down ")), "{said:#?}");
    client.stop_but_for(&["event=tun_down"]);
    gateway.stop_but_for(&[]);
}

// proves S-35, S-56, S-32, S-38, S-16: the gateway says so once, answers 503, frees the ports, takes the next client
#[test]
fn a_killed_client_is_said_once_and_its_ports_are_free() {
    let (sink, ends) = std::sync::mpsc::channel();
    let (origin, silent) = (greeter(), Origin::silent(sink));
    let gateway = gateway_at(&format!("{HOST}:0"), &format!("{HOST}:0"));
    let http = gateway.addr("http");
    let forwarded: SocketAddr = format!("{HOST}:{}", free_port()).parse().expect("an address of ours");
    let forward = format!("{}:{}", forwarded.port(), origin.addr());
    for round in 1..=ROUNDS {
        let mut client = gateway.client(&["--allow", "127.0.0.1", "--forward", &forward]);
        client.wait(&["event=fwd_open"]);
        assert_eq!(Wire::connect(http).get(&origin.url("/a")).text(), "/a");
        assert_eq!(Wire::connect(forwarded).get("/b").text(), "/b");
        let mut user = held(http, &silent);
        let mut idle = Wire::connect(forwarded);
        assert_eq!(idle.get("/c").text(), "/c");

        client.signal("KILL");
        client.ended();
        gateway.wait_nth(&["event=tun_down", "level=WARN"], round);
        assert_eq!(user.read_to_end().1, Ended::Reset, "nobody may take this for all there was");
        idle.read_to_end();
        ends.recv_timeout(PATIENCE).expect("the target's connection ends with the process");
        // The user's stream is told of after the ports are closed, but their log line may come first.
        gateway.wait_nth(&["event=fwd_close"], round);
        drop(TcpListener::bind(forwarded).expect("the port is free again"));
        assert_eq!(Wire::connect(http).get(&origin.url("/d")).code, 503);
    }
    let said = loud(&gateway);
    let downs = said.iter().filter(|line| line.contains(" event=tun_down ")).count();
    assert_eq!((downs, said.len()), (ROUNDS, ROUNDS), "{said:#?}");
    gateway.stop_but_for(&["event=tun_down"]);
}

// proves S-35, S-57: whoever reads the client's log at its default level learns that the gateway stays away, and that it is back
#[test]
fn a_gateway_that_stays_away_is_missed_aloud() {
    for signal in ["TERM", "KILL"] {
        let (tunnel, http) = (format!("{HOST}:{}", free_port()), format!("{HOST}:0"));
        let mut gateway = gateway_at(&tunnel, &http);
        let client = gateway.client(&[]);
        gateway.signal(signal);
        gateway.ended();
        let line = client.wait(&["level=WARN", "event=connect", &format!("gateway={tunnel}")]);
        assert!(line.contains("no tunnel is up; trying again"), "{line}");
        let gateway = gateway_at(&tunnel, &http);
        client.wait_nth(&["level=INFO", "event=tun_up"], 2);
        assert_eq!(client.lines(&["event=connect"]).len(), 1, "{:#?}", client.lines(&[]));
        client.stop_but_for(&["event=tun_down", "event=connect"]);
        gateway.stop();
    }
}

// proves S-57: a client that starts before its gateway says so once and waits for it
#[test]
fn a_client_may_start_first() {
    let (tunnel, http) = (format!("{HOST}:{}", free_port()), format!("{HOST}:0"));
    let client = Program::start_with(
        &["client", "--gateway", &format!("ws://{tunnel}"), "--allow", "127.0.0.1"],
        &[("ANYPROXY_LOG", "debug")],
    );
    client.wait_nth(&["event=connect"], 3);
    let gateway = gateway_at(&tunnel, &http);
    client.wait(&["event=tun_up"]);
    let origin = greeter();
    assert_eq!(Wire::connect(gateway.addr("http")).get(&origin.url("/a")).text(), "/a");
    let said = loud(&client);
    assert_eq!(said.len(), 1, "{said:#?}");
    client.stop_but_for(&["event=connect"]);
    gateway.stop();
}

// proves S-39, S-23: one of two clients dies, the other's streams do not notice
#[test]
fn the_death_of_one_client_is_nothing_to_another() {
    let gateway = gateway(&[]);
    let echo = Origin::echo();
    let clients = [gateway.client(&["--allow", "127.0.0.1"]), gateway.client(&["--allow", "127.0.0.1"])];
    // In turns, so each client has some.
    let mut users: Vec<Wire> =
        (0..6).map(|_| Wire::http_connect(gateway.addr("http"), echo.addr())).collect();
    let [mut dying, staying] = clients;
    dying.signal("KILL");
    dying.ended();
    gateway.wait(&["event=tun_down"]);
    let mut alive = 0;
    for user in &mut users {
        // The connection may be gone already.
        if user.try_send("still here?").is_ok() && user.has_more() {
            assert_eq!(user.take(11), b"still here?");
            alive += 1;
        }
    }
    assert_eq!(alive, 3);
    assert!(TcpStream::connect(gateway.addr("http")).is_ok());
    let mut next = Wire::http_connect(gateway.addr("http"), echo.addr());
    next.send("new");
    assert_eq!(next.take(3), b"new");
    drop((users, next));
    staying.stop_but_for(&[]);
    gateway.stop_but_for(&["event=tun_down", "event=group_empty"]);
}

/// What is said of the lives of tunnels: the event of each line, by the tunnel.
fn lives(program: &Program) -> BTreeMap<String, Vec<String>> {
    let mut lives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in program.lines(&[]).into_iter().filter(|line| line.contains(" event=tun_")) {
        lives.entry(field(&line, "tun").to_owned()).or_default().push(field(&line, "event").to_owned());
    }
    lives
}

// proves S-32: connecting, up, draining and lost are said of each tunnel, on the end that can know it
#[test]
fn the_life_of_a_tunnel_is_told_on_both_ends() {
    let echo = Origin::echo();
    let (tunnel, http) = (format!("{HOST}:{}", free_port()), format!("{HOST}:{}", free_port()));
    let http_addr: SocketAddr = http.parse().expect("an address of ours");
    let mut first = gateway_at(&tunnel, &http);
    let url = format!("ws://{tunnel}");
    let mut client = Program::start_with(
        &["client", "--gateway", &url, "--allow", "127.0.0.1", "--name", "edge"],
        &[("ANYPROXY_LOG", "debug")],
    );
    let dials = |level: &str, count| client.wait_nth(&["event=tun_dial", level], count);
    dials("level=DEBUG", 1);
    client.wait(&["event=tun_up"]);

    // A loss: the attempt behind it is news, those that follow are not.
    first.signal("KILL");
    first.ended();
    client.wait(&["event=tun_down", "level=WARN"]);
    let again = dials("level=INFO", 1);
    assert_eq!(field(&again, "gateway"), tunnel);
    dials("level=DEBUG", 2);
    assert_eq!(client.lines(&["event=tun_dial", "level=INFO"]).len(), 1);

    // The gateway leaves, and later the client; each time a stream keeps the tunnel for a while.
    let mut second = gateway_at(&tunnel, &http);
    client.wait_nth(&["event=tun_up"], 2);
    let held = Wire::http_connect(http_addr, echo.addr());
    second.signal("TERM");
    client.wait(&["event=tun_drain", "level=INFO"]);
    dials("level=INFO", 2);
    drop(held);
    second.ended();
    let third = gateway_at(&tunnel, &http);
    client.wait_nth(&["event=tun_up"], 3);
    let held = Wire::http_connect(http_addr, echo.addr());
    client.signal("TERM");
    let drain = third.wait(&["event=tun_drain", "level=INFO"]);
    assert_eq!(field(&drain, "via"), "edge");
    drop(held);
    client.ended();
    third.wait(&["event=tun_down", "level=INFO"]);

    assert_eq!(lives(&third).into_values().collect::<Vec<_>>(), [["tun_up", "tun_drain", "tun_down"]]);
    let lived: Vec<_> = lives(&client).into_values().filter(|life| life.len() > 1).collect();
    let mut want = [
        vec!["tun_dial", "tun_up", "tun_down"],
        vec!["tun_dial", "tun_up", "tun_drain", "tun_down"],
        vec!["tun_dial", "tun_up", "tun_down"],
    ];
    let mut lived: Vec<Vec<&str>> =
        lived.iter().map(|life| life.iter().map(String::as_str).collect()).collect();
    want.sort_unstable();
    lived.sort_unstable();
    assert_eq!(lived, want);
    third.stop();
}
