//! What the protocol code costs without sockets: `cargo bench`.
//!
//! One line a figure, best and median of [`ROUNDS`] rounds. The machine is shared with whatever else runs on it, so
//! figures are compared within one run only.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{Network, OpenRequest, Opened};
use anyproxy::proto::http::{HeadScan, empty_slots, parse_request};
use anyproxy::proto::session::{ClientConfig, Event, GatewayConfig, Session, StreamId};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use linkbuffer::{LinkBuffer, Node};

const ROUNDS: usize = 7;

fn main() {
    let heads = 200_000;
    report("parse a small request head", "ns", || per(heads, 1e9, || parse(heads)));
    let megabytes = 512;
    report("move one stream through a session", "ns/KiB", || per(megabytes << 10, 1e9, || bulk(megabytes)));
    report("carry one stream over a WebSocket, up", "ns/KiB", || {
        per(megabytes << 10, 1e9, || carried(megabytes, true))
    });
    report("carry one stream over a WebSocket, down", "ns/KiB", || {
        per(megabytes << 10, 1e9, || carried(megabytes, false))
    });
    let streams = 20_000;
    report("open, answer and end a stream", "us", || per(streams, 1e6, || churn(streams)));
}

fn per(count: usize, unit: f64, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * unit / count as f64
}

fn report(what: &str, unit: &str, mut run: impl FnMut() -> f64) {
    let mut figures: Vec<f64> = (0..ROUNDS).map(|_| run()).collect();
    figures.sort_by(f64::total_cmp);
    println!("{what:36} best {:8.2}  median {:8.2}  {unit}", figures[0], figures[ROUNDS / 2]);
}

fn parse(heads: usize) {
    let head = b"GET /plaintext HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
    for _ in 0..heads {
        let mut slots = empty_slots();
        let parsed = parse_request(black_box(head), &mut HeadScan::default(), &mut slots);
        assert!(matches!(black_box(parsed), Ok(Some((_, end))) if end == head.len()));
    }
}

/// Two sessions that are up, and a clock that stands still.
struct Pair {
    gateway: Session,
    client: Session,
    now: Instant,
}

impl Pair {
    fn new() -> Pair {
        let now = Instant::now();
        let gateway =
            GatewayConfig { credentials: Arc::new(Credentials::new()), session_id: 1, nonce: [1; 32] };
        let client = ClientConfig {
            name: "bench".into(),
            group: String::new(),
            secret: None,
            instance: 1,
            generation: 1,
            nonce: [2; 32],
        };
        let mut pair =
            Pair { gateway: Session::gateway(gateway, now), client: Session::client(client, now), now };
        for _ in 0..4 {
            pair.carry();
        }
        assert!(pair.gateway.is_up() && pair.client.is_up());
        pair
    }

    /// Carries what each side has to say to the other, and hears what that led to.
    fn carry(&mut self) {
        one_way(&mut self.client, &mut self.gateway, self.now);
        one_way(&mut self.gateway, &mut self.client, self.now);
    }

    fn open(&mut self) -> StreamId {
        let request = OpenRequest {
            network: Network::Tcp,
            host: "target.example".into(),
            port: 80,
            conn_id: 1,
            user_addr: None,
        };
        let id = self.gateway.open(request).expect("a stream is to be had");
        self.carry();
        let opened = Opened { addr: None, resolve_us: 0, connect_us: 0 };
        self.client.accept(id, opened).expect("the stream waits for its answer");
        self.carry();
        id
    }
}

fn one_way(from: &mut Session, to: &mut Session, now: Instant) {
    let mut wire = LinkBuffer::new();
    while from.poll_transmit(64 << 10, &mut wire, now) > 0 {}
    while let Some(bytes) = wire.read_chunk(usize::MAX) {
        to.handle_input(bytes, now).expect("both sides keep the protocol");
    }
    while let Some(event) = to.poll_event() {
        assert!(!matches!(event, Event::Lost(_)));
    }
}

fn bulk(megabytes: usize) {
    let mut pair = Pair::new();
    let id = pair.open();
    let block = bytes::Bytes::from(vec![7; 64 << 10]);
    let (total, mut written, mut read) = ((megabytes << 20) as u64, 0, 0);
    let mut waiting = LinkBuffer::new();
    while read < total {
        if waiting.is_empty() && written < total {
            waiting.write_bytes(block.clone());
        }
        written += pair.client.write(id, &mut waiting).expect("the stream is open") as u64;
        pair.carry();
        let mut arrived = LinkBuffer::new();
        read += pair.gateway.read(id, &mut arrived, usize::MAX).expect("the stream is open").bytes as u64;
        pair.gateway.delivered(id, read);
        pair.carry();
    }
}

/// As [`bulk`], over a WebSocket whose bytes arrive in nodes of 64 KiB, as a socket's do.
fn carried(megabytes: usize, up: bool) {
    let mut pair = Pair::new();
    let id = pair.open();
    let (mut client_ws, mut server_ws) = (WebSocket::client("gw", TUNNEL_PATH, [7; 32]), WebSocket::server());
    let mut wire = LinkBuffer::new();
    client_ws.poll_output(&mut wire);
    server_ws.handle_input(&mut wire).expect("a request");
    server_ws.poll_output(&mut wire);
    client_ws.handle_input(&mut wire).expect("an answer");
    let now = pair.now;
    let (from, to, from_ws, to_ws) = match up {
        true => (&mut pair.client, &mut pair.gateway, &mut client_ws, &mut server_ws),
        false => (&mut pair.gateway, &mut pair.client, &mut server_ws, &mut client_ws),
    };
    let (total, mut written, mut read) = ((megabytes << 20) as u64, 0, 0);
    let (mut waiting, mut socket) = (LinkBuffer::new(), LinkBuffer::new());
    while read < total {
        while waiting.len() < 64 << 10 && written < total {
            // What a target sends arrives in a node as well.
            fill(&mut waiting, |space| space.fill(7));
        }
        written += from.write(id, &mut waiting).expect("the stream is open") as u64;
        let mut message = LinkBuffer::new();
        while from.poll_transmit(64 << 10, &mut message, now) > 0 {
            from_ws.send(std::mem::take(&mut message)).expect("it is open");
        }
        from_ws.poll_output(&mut socket);
        while !socket.is_empty() {
            let mut input = LinkBuffer::new();
            input.lend(Node::take(64 << 10));
            let space = input.inputs();
            let n = space.len().min(socket.len());
            socket.copy_to_slice(&mut space[..n]).expect("there are so many");
            input.input_ack(n);
            to_ws.handle_input(&mut input).expect("both sides keep the protocol");
            while let Some(part) = to_ws.poll_payload() {
                to.handle_input(part.bytes, now).expect("both sides keep the protocol");
            }
        }
        let mut arrived = LinkBuffer::new();
        read += to.read(id, &mut arrived, usize::MAX).expect("the stream is open").bytes as u64;
        to.delivered(id, read);
        one_way(to, from, now);
        while to.poll_event().is_some() {}
    }
}

fn fill(buffer: &mut LinkBuffer, with: impl FnOnce(&mut [u8])) {
    let space = buffer.reserve(64 << 10);
    let len = space.len();
    with(space);
    buffer.commit(len);
}

fn churn(streams: usize) {
    let mut pair = Pair::new();
    for _ in 0..streams {
        let id = pair.open();
        pair.client.finish(id);
        pair.gateway.finish(id);
        pair.carry();
        let mut nothing = LinkBuffer::new();
        for side in [&mut pair.gateway, &mut pair.client] {
            assert!(side.read(id, &mut nothing, 1).expect("the end is still to be read").end);
        }
        pair.carry();
    }
    assert_eq!((pair.gateway.stream_count(), pair.client.stream_count()), (0, 0));
}
