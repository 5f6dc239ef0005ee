//! What rests costs: resident memory of both ends for each idle stream and each idle tunnel.
//!
//! The design that this one replaces needed 71 KB for an idle stream, both ends together; this one is to need 35 in a
//! hundred less, and the figures are printed.

use crate::support::{Origin, Program, Wire, full, gateway, gateway_and_client};

/// 65 in a hundred of what the older design needs.
const STREAM_BYTES: u64 = 71_000 * 65 / 100;
/// An idle tunnel has a connection, a session and no stream.
const TUNNEL_BYTES: u64 = 71_000;
/// What was reached, and half as much again for the pages that an allocator holds: of so many streams 2,700 bytes, and of so few
/// tunnels 29,000, most of which are the first one's of each thread.
const FULL_STREAM_BYTES: u64 = 4_096;
const FULL_TUNNEL_BYTES: u64 = 44_000;
/// Not more than may come from one address at once.
const TUNNELS: usize = 40;

fn rss(programs: [&Program; 2]) -> u64 {
    programs.iter().map(|program| program.rss_kib() * 1024).sum()
}

// proves S-59, L-27: memory of an idle stream
#[test]
fn an_idle_stream_costs_little() {
    let streams = if full() { 2000 } else { 300 };
    let echo = Origin::echo();
    let (gateway, client) = gateway_and_client(&["--allow", "127.0.0.1"]);
    let http = gateway.addr("http");
    let open = || {
        let mut wire = Wire::http_connect(http, echo.addr());
        wire.send("x");
        assert_eq!(wire.take(1), b"x");
        wire
    };
    // What the first ones bring along is not theirs.
    let mut held: Vec<Wire> = (0..20).map(|_| open()).collect();
    let before = rss([&gateway, &client]);
    held.extend((0..streams).map(|_| open()));
    let bytes = rss([&gateway, &client]).saturating_sub(before) / streams;
    println!("an idle stream, both ends: {bytes} bytes of resident memory ({streams} streams)");
    let most = if full() { FULL_STREAM_BYTES } else { STREAM_BYTES };
    assert!(bytes <= most, "{bytes} bytes, at most {most}");
    drop(held);
    client.stop();
    gateway.stop();
}

// proves S-59: memory of an idle tunnel
#[test]
fn an_idle_tunnel_costs_little() {
    let gateway = gateway(&[]);
    let one = gateway.client(&[]);
    let before = rss([&gateway, &one]);
    let many = gateway.client_unready(&["--replicas", &(TUNNELS + 1).to_string()]);
    many.wait_nth(&["event=tun_up"], TUNNELS + 1);
    gateway.wait_nth(&["event=tun_up"], TUNNELS + 2);
    // Both clients have one tunnel; the rest is the other's.
    let bytes = rss([&gateway, &many]).saturating_sub(before) / TUNNELS as u64;
    println!("an idle tunnel, both ends: {bytes} bytes of resident memory ({TUNNELS} tunnels)");
    let most = if full() { FULL_TUNNEL_BYTES } else { TUNNEL_BYTES };
    assert!(bytes <= most, "{bytes} bytes, at most {most}");
    one.stop();
    many.stop();
    gateway.stop();
}
