//! The log as people follow it: one stream's life by its conn_id, on both ends; and nothing for each piece of a transfer.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use crate::forwards::{ask, udp_target};
use crate::support::{Ended, Origin, Peer, Program, Talk, Wire, field, ok, pattern};

fn debug(args: &[&str], level: &str) -> Program {
    Program::start_with(args, &[("ANYPROXY_LOG", level)])
}

/// A gateway and a client that say everything, and what the client's forwards listen on.
fn talkative(level: &str, forwards: &[&str]) -> (Program, Program, Vec<SocketAddr>) {
    const ANY: &str = "127.0.0.1:0";
    let gateway = debug(&["gateway", "--tunnel", ANY, "--http", ANY, "--socks", ANY], level);
    let url = format!("ws://{}", gateway.addr("tunnel"));
    let mut args = vec!["client", "--gateway", &url, "--allow", "127.0.0.1"];
    forwards.iter().for_each(|forward| args.extend(["--forward", forward]));
    let client = debug(&args, level);
    client.wait(&["event=tun_up"]);
    let opened = |n: usize| {
        let line = client.wait_nth(&["event=fwd_open"], n + 1);
        SocketAddr::from(([127, 0, 0, 1], field(&line, "actual").parse().expect("a port")))
    };
    let ports = (0..forwards.len()).map(opened).collect();
    (gateway, client, ports)
}

/// What is said of each stream, in order, by its conn_id.
fn lives(lines: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut lives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.contains(" event=stream ") || line.contains(" event=access "))
    {
        let what = match line.split_once(" msg=") {
            Some((_, words)) => words.trim_matches('"').split([':', ' ']).next().unwrap_or_default(),
            None => field(line, "event"),
        };
        lives.entry(field(line, "conn_id").to_owned()).or_default().push(what.to_owned());
    }
    lives
}

// proves S-18: every line of a life has its conn_id, and the lives can be followed, the same on both ends
#[test]
fn a_streams_life_can_be_followed_by_its_conn_id() {
    let echo = Origin::echo();
    let page = Origin::http(|request, wire| {
        wire.send(ok(&request.path));
        Talk::Goes
    });
    let breaks = Origin::breaks(5);
    let forward = format!("0:{}", echo.addr());
    let (gateway, client, ports) = talkative("debug", &[&forward]);
    let (http, socks) = (gateway.addr("http"), gateway.addr("socks"));
    let mut plain = Wire::connect(http);
    assert_eq!(plain.get(&page.url("/a")).code, 200);
    assert_eq!(plain.get(&page.url("/b")).code, 200);
    let ways: [Wire; 3] = [
        Wire::http_connect(http, echo.addr()),
        Wire::socks_connect(socks, "127.0.0.1", echo.addr().port()),
        Wire::connect(ports[0]),
    ];
    for mut wire in ways {
        wire.send("hello");
        wire.finish();
        assert_eq!(wire.read_to_end(), (b"hello".to_vec(), Ended::Fin));
    }
    let mut reset = Wire::http_connect(http, echo.addr());
    reset.send("hello");
    assert_eq!(reset.take(5), b"hello");
    reset.reset();
    let mut broken = Wire::http_connect(http, breaks.addr());
    broken.send("hello");
    assert_eq!(broken.read_to_end().1, Ended::Reset);
    drop(plain);
    gateway.wait_nth(&["event=access"], 7);
    client.wait_nth(&["event=stream", "closed"], 7);
    let (at_client, at_gateway) = (client.stop(), gateway.stop());
    let (at_client, at_gateway) = (lives(&at_client), lives(&at_gateway));
    assert_eq!(at_gateway.len(), 7, "{at_gateway:#?}");
    assert_eq!(
        at_gateway.keys().collect::<Vec<_>>(),
        at_client.keys().collect::<Vec<_>>(),
        "the same on both ends"
    );
    for (conn_id, life) in at_gateway {
        assert_eq!(life, ["established", "closing", "access"], "{conn_id} at the gateway");
        assert_eq!(at_client[&conn_id], ["established", "closing", "closed"], "{conn_id} at the client");
    }
}

// proves S-18: so can a flow of datagrams, and a stream that was refused, of which each end says why
#[test]
fn a_flow_and_a_refusal_can_be_followed_by_their_conn_id() {
    let forward = format!("0:{}/udp", udp_target());
    let (gateway, client, ports) = talkative("debug", &[&forward]);
    let user = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    ask(&user, ports[0], b"question");
    let mut wire = Wire::connect(gateway.addr("http"));
    assert_eq!(wire.get("http://127.0.0.2:1/").code, 403);
    drop(wire);
    let of = |line: String| field(&line, "conn_id").to_owned();
    let refused = of(gateway.wait(&["event=access", "code=403", "why=acl"]));
    client.wait(&["event=refuse", &format!("conn_id={refused}")]);
    // The flow has no end of its own: it ends with its port.
    let at_client = client.stop();
    let flow = of(gateway.wait(&["event=access", "proto=udp"]));
    let at_gateway = gateway.stop_but_for(&["event=refuse"]);
    let (at_client, at_gateway) = (lives(&at_client), lives(&at_gateway));
    assert_eq!(at_gateway[&flow], ["established", "closing", "access"], "{at_gateway:#?}");
    assert_eq!(at_client[&flow], ["established", "closing", "closed"], "{at_client:#?}");
    assert_eq!(at_gateway[&refused], ["closing", "access"], "{at_gateway:#?}");
    // It never was a connection at the client, which said above why.
    assert_eq!((at_gateway.len(), at_client.len()), (2, 1), "{at_gateway:#?} {at_client:#?}");
}

// proves S-74: what is said of a stream does not grow with its bytes (sizes stand in one file: see tests/tidy.rs)
#[test]
fn nothing_is_said_of_each_piece() {
    let echo = Origin::echo();
    let (gateway, client, _) = talkative("debug", &[]);
    let mut said = Vec::new();
    for len in [1 << 10, 8 << 20] {
        let lines = || gateway.lines(&["conn_id"]).len() + client.lines(&["conn_id"]).len();
        let all = || gateway.lines(&[]).len() + client.lines(&[]).len();
        let (before, before_all) = (lines(), all());
        let access = gateway.lines(&["event=access"]).len();
        let bytes = pattern(len);
        let mut wire = Wire::http_connect(gateway.addr("http"), echo.addr());
        let mut writer = wire.writer();
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &sent));
        assert!(wire.take(len) == bytes);
        sending.join().expect("no panic").expect("all of it is taken");
        drop(wire);
        gateway.wait_nth(&["event=access"], access + 1);
        client.wait_nth(&["event=stream", "closed"], access + 1);
        said.push((lines() - before, all() - before_all));
    }
    assert_eq!(said[0].0, said[1].0, "the same lines for a kilobyte and for megabytes: {said:?}");
    // What lies below the streams is as silent.
    assert!(said[1].1 <= said[0].1 + 10, "{said:?}");
    client.stop();
    gateway.stop();
}

// proves S-67: total, active, time-out errors, successful transfers, average latency, in one line
#[test]
fn a_gateway_says_how_it_goes() {
    let echo = Origin::echo();
    let (gateway, client) = crate::support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let mut held = Wire::http_connect(gateway.addr("http"), echo.addr());
    for _ in 0..3 {
        let mut wire = Wire::http_connect(gateway.addr("http"), echo.addr());
        wire.send("hello");
        wire.finish();
        assert_eq!(wire.read_to_end(), (b"hello".to_vec(), Ended::Fin));
    }
    held.send("x");
    assert_eq!(held.take(1), b"x");
    let line = gateway.wait(&["event=stats", "conn_tot=3"]);
    for pair in ["level=INFO", "conns=1", "ok=3", "timeouts=0", "tun=1", "log_drop=0"] {
        assert!(line.split(' ').any(|word| word == pair), "{pair}: {line}");
    }
    assert!(field(&line, "latency_ms").parse::<u64>().is_ok(), "{line}");
    drop(held);
    client.stop();
    gateway.stop();
}

// What is harmless in small numbers can be watched while its tunnel is there, and is not lost with it.
#[test]
fn what_tunnels_counted_and_who_was_turned_away_is_in_the_line() {
    let gateway = crate::support::gateway(&[]);
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    let mut one = Peer::client(gateway.addr("tunnel")).up();
    (0..3).for_each(|_| one.raw(&ping));
    let mut stranger = Wire::connect(gateway.addr("tunnel"));
    stranger.send("nothing that is known here\r\n\r\n");
    stranger.read_to_end();
    let line = gateway.wait(&["event=stats", "ws_ctl=3", "strangers=1"]);
    for pair in ["refused=0", "late=0", "dgram_drop=0"] {
        assert!(line.split(' ').any(|word| word == pair), "{pair}: {line}");
    }
    one.hang_up();
    gateway.wait(&["event=tun_down"]);
    let mut two = Peer::client(gateway.addr("tunnel")).up();
    (0..2).for_each(|_| two.raw(&ping));
    gateway.wait(&["event=stats", "ws_ctl=5"]);
    drop((one, two));
    gateway.stop_but_for(&["event=tun_down"]);
}

#[test]
fn a_client_says_how_it_goes() {
    let echo = Origin::echo();
    let (gateway, client) = crate::support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let held = Wire::http_connect(gateway.addr("http"), echo.addr());
    assert_eq!(Wire::connect(gateway.addr("http")).get("http://127.0.0.2:1/").code, 403);
    let line = client.wait(&["event=stats", "streams=2", "forbidden=1"]);
    for pair in ["level=INFO", "conns=1", "tun=1", "refused=0", "late=0", "dgram_drop=0", "ws_ctl=0"] {
        assert!(line.split(' ').any(|word| word == pair), "{pair}: {line}");
    }
    drop(held);
    client.stop();
    gateway.stop_but_for(&["event=refuse"]);
}

// A tunnel's bytes go the way that users see, on both ends: what they send goes up, what they get comes down.
#[test]
fn the_end_of_a_tunnel_has_its_bytes_the_way_users_see_them() {
    const MUCH: usize = 1 << 20;
    let source = Origin::new(|mut wire| {
        wire.send(pattern(MUCH));
        wire.finish();
        wire.read_to_end();
    });
    let (gateway, client) = crate::support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let mut wire = Wire::http_connect(gateway.addr("http"), source.addr());
    assert_eq!(wire.read_to_end().0.len(), MUCH);
    drop(wire);
    let lines = client.stop();
    let of_client = lines.into_iter().find(|line| line.contains("event=tun_down")).expect("it was up");
    for line in [of_client, gateway.wait(&["event=tun_down"])] {
        let bytes = |key| field(&line, key).parse::<usize>().expect("a number");
        assert!(bytes("down") >= MUCH && bytes("up") < MUCH / 2, "{line}");
    }
    gateway.stop();
}
