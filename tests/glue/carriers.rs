//! Single carriers, with a side that only listens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyproxy::limits::{SEND_QUEUE_BYTES_MAX, TUNNEL_OUTPUT_BYTES, TUNNEL_STALL_MS};
use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{GoAwayCode, Network, OpenRequest, Opened};
use anyproxy::proto::session::{ClientConfig, Event, GatewayConfig, Lost, Session, StreamId};
use anyproxy::proto::ws::WebSocket;
use anyproxy::tunnel::{Carrier, Down, Side, Stream, StreamWatcher, Tunnel, Watcher};
use crossbeam_channel::{Receiver, Sender, unbounded};
use poller::EventLoop;

use crate::support::*;

/// A gateway's end without a gateway.
struct Plain {
    /// What getting ready takes.
    delay: Duration,
    ready: Sender<Instant>,
    ups: Sender<Arc<Tunnel>>,
    downs: Sender<Ended>,
}

/// How a tunnel ended.
struct Ended {
    lived: Duration,
    why: String,
    on_purpose: bool,
    /// When that was said.
    said: Instant,
}

impl Side for Plain {
    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let config =
            GatewayConfig { credentials: Arc::new(Credentials::new()), session_id: 1, nonce: [1; 32] };
        let tunnel = Tunnel::new(Session::gateway(config, Instant::now()), "plain".into());
        std::thread::sleep(self.delay);
        self.ready.send(Instant::now()).ok();
        Ok((WebSocket::server(), tunnel))
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        self.ups.send(tunnel.clone()).ok();
    }

    fn on_event(self: &Arc<Self>, _tunnel: &Arc<Tunnel>, _event: Event) {}

    fn on_down(self: &Arc<Self>, _tunnel: &Arc<Tunnel>, down: &Down) {
        let Down { lived, on_purpose, .. } = *down;
        self.downs.send(Ended { lived, why: down.why.clone(), on_purpose, said: Instant::now() }).ok();
    }
}

struct Bench {
    event_loop: EventLoop,
    addr: SocketAddr,
    ready: Receiver<Instant>,
    ups: Receiver<Arc<Tunnel>>,
    downs: Receiver<Ended>,
}

impl Bench {
    fn puppet(&self) -> Puppet {
        let config = ClientConfig {
            name: "puppet".into(),
            group: String::new(),
            secret: None,
            instance: 1,
            generation: 1,
            nonce: [7; 32],
        };
        Puppet::at(self.addr, config)
    }
}

/// A plain side whose sockets hold little.
fn bench(delay: Duration) -> Bench {
    let event_loop = event_loop();
    let (listener, addr) = listen();
    socket2::SockRef::from(&listener).set_send_buffer_size(4 << 10).unwrap();
    let ((ready_tx, ready), (ups_tx, ups), (downs_tx, downs)) = (unbounded(), unbounded(), unbounded());
    let side = Plain { delay, ready: ready_tx, ups: ups_tx, downs: downs_tx };
    event_loop.serve(listener, Carrier(Arc::new(side))).unwrap();
    Bench { event_loop, addr, ready, ups, downs }
}

/// Passes on that there is news.
struct Tells(Sender<()>);

impl StreamWatcher for Tells {
    fn on_stream(&self, _id: StreamId) {
        self.0.send(()).ok();
    }
}

/// Opens streams and writes into them until the socket is full, and as much waits before it as may.
fn fill(tunnel: &Arc<Tunnel>, puppet: &mut Puppet) -> (Vec<Stream>, Receiver<()>) {
    const STREAMS: usize = 6;
    let (told, hears) = unbounded();
    let watcher = Arc::new(Tells(told));
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let request =
            OpenRequest { network: Network::Tcp, host: "x".into(), port: 1, conn_id: 1, user_addr: None };
        streams.push(tunnel.open(request, Watcher::Call(watcher.clone())).unwrap());
        let Event::Opened(id, _) = puppet.next() else { panic!("not what was asked for") };
        puppet.session.accept(id, Opened::default()).unwrap();
        puppet.send();
        hears.recv_timeout(PATIENCE).unwrap();
    }
    for stream in &streams {
        let mut bytes = vec![0; SEND_QUEUE_BYTES_MAX].into();
        stream.exchange(|session, id| session.write(id, &mut bytes)).unwrap();
    }
    let carrier = tunnel.carrier().unwrap();
    let counts = || (tunnel.exchange(|session| session.stats().bytes_out), carrier.bytes_out());
    until("a full socket, and as much before it as may be", || {
        let before = counts();
        // Each time it tries again.
        carrier.wake();
        std::thread::sleep(Duration::from_millis(10));
        before == counts() && before.0 >= before.1 + TUNNEL_OUTPUT_BYTES as u64
    });
    (streams, hears)
}

// Frames that arrive say that the peer lives, and so nothing would ever end what it does not read.
#[test]
fn a_peer_that_speaks_and_never_reads_is_given_up() {
    if std::env::var_os("ANYPROXY_FULL").is_none_or(|value| value != "1") {
        println!("skipped without ANYPROXY_FULL=1: a peer that never reads, for 40 s");
        return;
    }
    let bench = bench(Duration::ZERO);
    let mut puppet = bench.puppet();
    let tunnel = bench.ups.recv_timeout(PATIENCE).unwrap();
    let (streams, _hears) = fill(&tunnel, &mut puppet);
    let begun = Instant::now();
    let ended = loop {
        match bench.downs.recv_timeout(Duration::from_secs(1)) {
            Ok(ended) => break ended,
            Err(_) => puppet.ask(),
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "it is never given up");
    };
    assert!(ended.why.contains("takes nothing"), "{}", ended.why);
    assert!(begun.elapsed() > Duration::from_millis(TUNNEL_STALL_MS / 2), "{:?}", begun.elapsed());
    assert!(streams.iter().all(Stream::is_closed));
}

// Who is replaced must not take it for a fault and come back, however much waits for its socket.
#[test]
fn the_last_words_come_behind_all_that_waits() {
    let bench = bench(Duration::ZERO);
    let mut puppet = bench.puppet();
    let tunnel = bench.ups.recv_timeout(PATIENCE).unwrap();
    let (_streams, hears) = fill(&tunnel, &mut puppet);
    hears.try_iter().count();
    tunnel.exchange(|session| session.close(GoAwayCode::Replaced, "another"));
    // Its one thread tells the streams, says goodbye, and looks at its timers then.
    hears.recv_timeout(PATIENCE).unwrap();
    let (told, turned) = unbounded();
    let turn = bench.event_loop.remote().after(Duration::ZERO, move || told.send(()).unwrap()).unwrap();
    turned.recv_timeout(PATIENCE).unwrap();
    drop(turn);
    let lost = loop {
        if let Event::Lost(lost) = puppet.next() {
            break lost;
        }
    };
    assert_eq!(lost, Lost::PeerClosed(GoAwayCode::Replaced, "another".into()));
}

// proves S-57: what came before the connection is no part of the tunnel's life, which can earn it a quick return
#[test]
fn a_tunnel_lives_from_its_connection_on() {
    let bench = bench(Duration::from_millis(50));
    drop(dial(bench.addr));
    let ready = bench.ready.recv_timeout(PATIENCE).unwrap();
    let Ended { lived, said, .. } = bench.downs.recv_timeout(PATIENCE).unwrap();
    assert!(lived <= said - ready, "{lived:?} of {:?}", said - ready);
}

/// How the other end is seen to have ended when all of its last words arrive at once.
#[track_caller]
fn check_last_words(say: impl FnOnce(&mut Puppet), why: &str, on_purpose: bool) {
    let bench = bench(Duration::ZERO);
    let mut puppet = bench.puppet();
    bench.ups.recv_timeout(PATIENCE).unwrap();
    say(&mut puppet);
    puppet.send();
    let ended = bench.downs.recv_timeout(PATIENCE).unwrap();
    assert_eq!((ended.why.as_str(), ended.on_purpose), (why, on_purpose));
}

#[test]
fn the_reason_of_a_goodbye_counts_and_not_the_close_that_comes_with_it() {
    let goodbye = |code| {
        move |puppet: &mut Puppet| {
            puppet.session.close(code, "enough");
            puppet.close(1001);
        }
    };
    check_last_words(goodbye(GoAwayCode::Stop), "closed by the peer: Stop: enough", true);
    check_last_words(goodbye(GoAwayCode::Internal), "closed by the peer: Internal: enough", false);
    let silent = |puppet: &mut Puppet| {
        puppet.session.close(GoAwayCode::Stop, "");
        puppet.close(1001);
    };
    check_last_words(silent, "closed by the peer: it is stopping", true);
    // A peer that gave this side up says only this, and nobody has wanted it.
    check_last_words(|puppet| puppet.close(1001), "closed by the peer: 1001", false);
    check_last_words(|puppet| puppet.close(1000), "closed by the peer: 1000", true);
}
