//! In which order things end, which of two ends comes first, and that an end from several sides at once is one end.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyproxy::client;
use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{GoAwayCode, Network, OpenRequest, Opened};
use anyproxy::proto::session::{ClientConfig, Event, GatewayConfig, Session, StreamId};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use anyproxy::times::Times;
use anyproxy::tunnel::{Carrier, Down, Side, Stream, StreamWatcher, Tunnel, Watcher};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::streams::silent_address;
use crate::support::*;

/// What one end says, in the order in which it happens.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Up,
    /// A stream that was open has ended.
    Stream(StreamId),
    /// The tunnel is down.
    Down,
    /// Whoever held the side, the listener or the dial, has let go of it.
    Owner,
}

/// Either end of a tunnel: it takes on what it is offered, and says what ends.
struct End {
    said: Sender<Said>,
    tunnels: Sender<Arc<Tunnel>>,
    /// Those that were offered.
    streams: Mutex<Vec<Stream>>,
    config: Option<ClientConfig>,
}

/// Says when its stream has ended.
struct Follows {
    said: Sender<Said>,
    tunnel: Arc<Tunnel>,
}

impl StreamWatcher for Follows {
    fn on_stream(&self, id: StreamId) {
        if !self.tunnel.has_stream(id) {
            self.said.send(Said::Stream(id)).ok();
        }
    }
}

impl End {
    fn watcher(&self, tunnel: &Arc<Tunnel>) -> Watcher {
        Watcher::Call(Arc::new(Follows { said: self.said.clone(), tunnel: tunnel.clone() }))
    }
}

impl Side for End {
    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let now = Instant::now();
        Ok(match &self.config {
            Some(config) => {
                let ws = WebSocket::client("gateway", TUNNEL_PATH, [7; 32]);
                (ws, Tunnel::new(Session::client(config.clone(), now), "client".into()))
            }
            None => {
                let credentials = Arc::new(Credentials::new());
                let config = GatewayConfig { credentials, session_id: 1, nonce: [1; 32] };
                (WebSocket::server(), Tunnel::new(Session::gateway(config, now), "gateway".into()))
            }
        })
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        self.said.send(Said::Up).ok();
        self.tunnels.send(tunnel.clone()).ok();
    }

    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event) {
        let Event::Opened(id, _) = event else { return };
        let stream = tunnel.take_on(id, self.watcher(tunnel)).unwrap();
        stream.exchange(|session, id| session.accept(id, Opened::default())).unwrap();
        self.streams.lock().unwrap().push(stream);
    }

    fn on_down(self: &Arc<Self>, _tunnel: &Arc<Tunnel>, _down: &Down) {
        self.said.send(Said::Down).ok();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.said.send(Said::Owner).ok();
    }
}

fn end(config: Option<ClientConfig>) -> (Arc<End>, Receiver<Said>, Receiver<Arc<Tunnel>>) {
    let ((said, says), (tunnels, ups)) = (unbounded(), unbounded());
    (Arc::new(End { said, tunnels, streams: Mutex::default(), config }), says, ups)
}

fn puppet_config() -> ClientConfig {
    ClientConfig {
        name: "puppet".into(),
        group: String::new(),
        secret: None,
        instance: 1,
        generation: 1,
        nonce: [7; 32],
    }
}

fn request() -> OpenRequest {
    OpenRequest { network: Network::Tcp, host: "x".into(), port: 1, conn_id: 1, user_addr: None }
}

/// All that is said up to the end of the owner, behind which nothing may come.
#[track_caller]
fn all(says: &Receiver<Said>) -> Vec<Said> {
    let mut said = Vec::new();
    while said.last() != Some(&Said::Owner) {
        let next = says.recv_timeout(PATIENCE);
        said.push(next.unwrap_or_else(|_| panic!("only {said:?} is said")));
    }
    said.extend(says.try_iter());
    said
}

/// Stops one end while a stream is open: by force at the deadline, or when the stream has ended by itself.
#[track_caller]
fn check_order(gateway_stops: bool, by_force: bool) {
    let [gateway_loop, client_loop] = [event_loop(), event_loop()];
    let (listener, addr) = listen();
    let (gateway, gateway_says, gateway_ups) = end(None);
    let (client, client_says, client_ups) = end(Some(puppet_config()));
    gateway_loop.serve(listener, Carrier(gateway.clone())).unwrap();
    client_loop.remote().dial(addr, PATIENCE, Carrier(client.clone())).unwrap();
    let tunnel = gateway_ups.recv_timeout(PATIENCE).unwrap();
    client_ups.recv_timeout(PATIENCE).unwrap();
    let stream = tunnel.open(request(), gateway.watcher(&tunnel)).unwrap();
    until("the stream", || !client.streams.lock().unwrap().is_empty());
    let id = stream.id();

    let taken = client.streams.lock().unwrap().pop().unwrap();
    // What a side holds is what its connections hold from here on.
    drop((gateway, client));
    let (first, second) =
        if gateway_stops { (gateway_loop, client_loop) } else { (client_loop, gateway_loop) };
    let grace = if by_force { Duration::from_millis(50) } else { PATIENCE };
    let stopping = std::thread::spawn(move || first.shutdown(grace));
    let mut taken = Some(taken);
    if !by_force {
        // Whichever end lets go: the other one hears of it, and the tunnel has nothing left to wait for.
        until("the stop to be known", || !tunnel.takes_streams());
        drop(taken.take());
    }
    assert_eq!(stopping.join().unwrap(), !by_force);
    assert!(second.shutdown(PATIENCE), "the other end has nothing left either");
    drop((tunnel, stream, taken));
    for (name, says) in [("gateway", gateway_says), ("client", client_says)] {
        let mut said = all(&says);
        // A stream's last news may be told more than once.
        said.dedup();
        assert_eq!(
            said,
            [Said::Up, Said::Stream(id), Said::Down, Said::Owner],
            "{name}, gateway stops: {gateway_stops}, by force: {by_force}"
        );
    }
}

// proves S-23, S-33: streams end before their tunnel is down, and that before its side's owner has gone, on both ends
#[test]
fn users_of_a_thing_end_before_it() {
    for gateway_stops in [true, false] {
        for by_force in [true, false] {
            check_order(gateway_stops, by_force);
        }
    }
}

/// Stops a gateway while its client reaches for a target that never answers; says whether that ended in time, and how.
fn stopped_while_dialing(connect: Duration, grace: Duration) -> (bool, String) {
    let world = World::new();
    let clients = event_loop();
    let config = client::Config {
        group: GROUP.into(),
        secret: world.secret.clone(),
        times: Times { connect, ..Times::default() },
        ..client_of(vec![client::Gateway { target: target(world.gateway.tunnel_addr()), tls: None }])
    };
    client::start(clients.remote(), config).unwrap();
    until("the tunnel", || world.gateway.client_count() == 1);
    let (addr, _kept) = silent_address();
    let user = world.connect(addr);
    until("the dial", || clients.connections() == 2);
    let World { gateway_loop, lines, .. } = world;
    let graceful = gateway_loop.shutdown(grace);
    let line = lines.first();
    drop(user);
    (graceful, format!("{} {}", value(&line, "end"), value(&line, "why")))
}

// proves S-41: of two deadlines the earlier one ends what waits, whichever of the two that is
#[test]
fn the_earlier_of_two_deadlines_counts() {
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(60));
    // Long enough that the dial is seen before it is given up.
    let seen = Duration::from_secs(2);
    // A target that could be waited for a minute is given up with the time that the stop gives.
    assert_eq!(stopped_while_dialing(long, short), (false, "KC drain".into()));
    // A stop that could take a minute waits for the target only.
    assert_eq!(stopped_while_dialing(seen, long), (true, "sC timeout".into()));
}

/// Stops its tunnel from within a callback, each time that it hears anything.
struct Stops(Mutex<Option<Arc<Tunnel>>>);

impl StreamWatcher for Stops {
    fn on_stream(&self, _id: StreamId) {
        if let Some(tunnel) = &*self.0.lock().unwrap() {
            tunnel.exchange(|session| session.close(GoAwayCode::Stop, "from within"));
        }
    }
}

// proves S-30, S-37: a write that fails while others use the session ends the tunnel once, and nobody waits for anybody, also when
// the one who is told stops it from there
#[test]
fn a_write_that_fails_among_users_ends_the_tunnel_once() {
    const USERS: usize = 3;
    for _ in 0..20 {
        let event_loop = event_loop();
        let (listener, addr) = listen();
        let (side, says, ups) = end(None);
        event_loop.serve(listener, Carrier(side.clone())).unwrap();
        let mut puppet = Puppet::at(addr, puppet_config());
        let tunnel = ups.recv_timeout(PATIENCE).unwrap();
        let watcher = Arc::new(Stops(Mutex::default()));
        let mut streams = Vec::new();
        for _ in 0..USERS {
            streams.push(tunnel.open(request(), Watcher::Call(watcher.clone())).unwrap());
            let Event::Opened(id, _) = puppet.next() else { panic!("not what was asked for") };
            puppet.session.accept(id, Opened::default()).unwrap();
            puppet.send();
        }
        streams.iter().for_each(|stream| until("its answer", || stream.take_answer().is_some()));
        *watcher.0.lock().unwrap() = Some(tunnel.clone());
        let (begun, begins) = bounded(USERS);
        let writing: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let begun = begun.clone();
                std::thread::spawn(move || {
                    begun.send(()).unwrap();
                    let mut refused = false;
                    while !(stream.is_closed() && refused) {
                        let mut bytes = vec![7; 4 << 10].into();
                        refused = stream.exchange(|session, id| session.write(id, &mut bytes)).is_err();
                    }
                })
            })
            .collect();
        (0..USERS).for_each(|_| begins.recv_timeout(PATIENCE).unwrap());
        puppet.reset();
        assert_eq!(says.recv_timeout(PATIENCE).unwrap(), Said::Up);
        assert_eq!(says.recv_timeout(PATIENCE).unwrap(), Said::Down, "somebody waits for somebody");
        writing.into_iter().for_each(|thread| thread.join().unwrap());
        watcher.0.lock().unwrap().take();
        drop((tunnel, side));
        assert!(event_loop.shutdown(PATIENCE));
        assert_eq!(all(&says), [Said::Owner], "and nothing else is said");
    }
}
