//! A client with several tunnels, before gateways that do what they are told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyproxy::client;
use anyproxy::limits::{GATEWAYS_MAX, REPLICAS_MAX};
use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{GoAwayCode, Network, PortError, PortRequest};
use anyproxy::proto::session::{Event, GatewayConfig, Session};
use anyproxy::proto::ws::WebSocket;
use anyproxy::tunnel::{Carrier, Down, Side, Tunnel};
use crossbeam_channel::{Receiver, Sender, unbounded};
use poller::EventLoop;

use crate::support::*;

/// A gateway that only listens, and tells.
struct Told {
    sessions: AtomicU64,
    news: Sender<News>,
}

enum News {
    Up(Arc<Tunnel>),
    Port(Arc<Tunnel>, PortRequest),
    Down(Arc<Tunnel>),
}

impl Side for Told {
    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let session_id = self.sessions.fetch_add(1, Ordering::SeqCst);
        let config = GatewayConfig { credentials: Arc::new(Credentials::new()), session_id, nonce: [1; 32] };
        let tunnel = Tunnel::new(Session::gateway(config, Instant::now()), format!("t{session_id}"));
        Ok((WebSocket::server(), tunnel))
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        self.news.send(News::Up(tunnel.clone())).ok();
    }

    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event) {
        if let Event::PortRequested(request) = event {
            self.news.send(News::Port(tunnel.clone(), request)).ok();
        }
    }

    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, _down: &Down) {
        self.news.send(News::Down(tunnel.clone())).ok();
    }
}

struct Gateway {
    addr: SocketAddr,
    news: Receiver<News>,
}

impl Gateway {
    fn new(event_loop: &EventLoop) -> Gateway {
        let (listener, addr) = listen();
        let (news, hears) = unbounded();
        let side = Told { sessions: AtomicU64::new(1), news };
        event_loop.serve(listener, Carrier(Arc::new(side))).unwrap();
        Gateway { addr, news: hears }
    }

    fn next(&self) -> News {
        self.news.recv_timeout(PATIENCE).expect("the client does something")
    }

    #[track_caller]
    fn up(&self) -> Arc<Tunnel> {
        match self.next() {
            News::Up(tunnel) => tunnel,
            News::Port(..) => panic!("a port is asked for instead"),
            News::Down(_) => panic!("a tunnel goes instead"),
        }
    }

    #[track_caller]
    fn port(&self) -> (Arc<Tunnel>, u16) {
        match self.next() {
            News::Port(tunnel, request) => (tunnel, request.port),
            News::Up(_) => panic!("a tunnel comes instead"),
            News::Down(_) => panic!("a tunnel goes instead"),
        }
    }

    #[track_caller]
    fn down(&self) -> Arc<Tunnel> {
        match self.next() {
            News::Down(tunnel) => tunnel,
            News::Up(_) => panic!("a tunnel comes instead"),
            News::Port(..) => panic!("a port is asked for instead"),
        }
    }
}

fn client(event_loop: &EventLoop, gateways: &[&Gateway], replicas: usize, ports: &[u16]) {
    let forward = |port: &u16| {
        let host = "127.0.0.1".to_owned();
        PortRequest { network: Network::Tcp, port: *port, host, target_port: 1 }
    };
    let gateways = gateways.iter().map(|gateway| target(gateway.addr).into()).collect();
    let forwards = ports.iter().map(forward).collect();
    let config = client::Config { replicas, forwards, ..client_of(gateways) };
    client::start(event_loop.remote(), config).unwrap();
}

/// Who the client says it is.
fn identity(tunnel: &Tunnel) -> (u64, u64) {
    let peer = tunnel.exchange(|session| session.peer().cloned()).expect("it is up");
    (peer.instance, peer.generation)
}

#[test]
fn a_client_wants_a_gateway_and_a_tunnel_and_not_too_many() {
    let event_loop = event_loop();
    let gateways = |count: usize| (0..count).map(|_| target(localhost_at(1)).into()).collect();
    for (count, replicas, starts) in [(0, 1, false), (1, 0, false), (17, 1, false), (1, 65, false)] {
        let config = client::Config { replicas, ..client_of(gateways(count)) };
        assert_eq!(client::start(event_loop.remote(), config).is_ok(), starts, "{count}, {replicas}");
    }
}

fn localhost_at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn two_tunnels_go_to_different_gateways() {
    let event_loop = event_loop();
    let (one, two) = (Gateway::new(&event_loop), Gateway::new(&event_loop));
    client(&event_loop, &[&one, &two], 2, &[7]);
    let tunnels = [one.up(), two.up()];
    // Each gateway is asked for the port: users may come to either.
    for (gateway, tunnel) in [&one, &two].into_iter().zip(&tunnels) {
        assert!(Arc::ptr_eq(&gateway.port().0, tunnel));
    }
    assert_ne!(identity(&tunnels[0]).0, identity(&tunnels[1]).0);
}

// A gateway that says it is leaving has a successor before it has left, and what goes through the old tunnel goes on.
#[test]
fn a_gateway_that_leaves_is_followed_while_it_is_still_there() {
    let event_loop = event_loop();
    let (one, two) = (Gateway::new(&event_loop), Gateway::new(&event_loop));
    client(&event_loop, &[&one, &two], 1, &[7]);
    let old = one.up();
    assert!(Arc::ptr_eq(&one.port().0, &old));
    old.exchange(Session::drain);
    let new = two.up();
    assert!(Arc::ptr_eq(&two.port().0, &new));
    assert_ne!(identity(&old).0, identity(&new).0, "nobody is to take the one's place for the other's");
    assert_eq!(identity(&new).1, 1);
    assert!(one.news.is_empty(), "the old tunnel is there");
    old.exchange(|session| session.close(GoAwayCode::Stop, ""));
    assert!(Arc::ptr_eq(&one.down(), &old));
    // It had its successor: the end of the old one is no reason for another.
    new.exchange(|session| session.close(GoAwayCode::Stop, ""));
    assert!(Arc::ptr_eq(&two.down(), &new));
    let third = two.up();
    assert_eq!(identity(&third), (identity(&new).0, 2));
    assert!(one.news.is_empty());
}

// proves S-69, S-70: of several tunnels to one gateway one asks for the ports, and the next one when that is lost
#[test]
fn one_tunnel_of_a_gateway_asks_for_its_ports() {
    let event_loop = event_loop();
    let gateway = Gateway::new(&event_loop);
    client(&event_loop, &[&gateway], 2, &[7, 8]);
    let (mut ups, mut asked) = (Vec::new(), Vec::new());
    while ups.len() < 2 || asked.len() < 2 {
        match gateway.next() {
            News::Up(tunnel) => ups.push(tunnel),
            News::Port(tunnel, request) => asked.push((tunnel, request.port)),
            News::Down(_) => panic!("nothing ends"),
        }
    }
    let first = asked[0].0.clone();
    assert!(asked.iter().all(|(tunnel, _)| Arc::ptr_eq(tunnel, &first)), "one of them asks, and one alone");
    assert_eq!(asked.iter().map(|(_, port)| *port).collect::<Vec<_>>(), [7, 8]);
    let second = ups.into_iter().find(|tunnel| !Arc::ptr_eq(tunnel, &first)).expect("there are two");
    first.exchange(|session| session.close(GoAwayCode::Stop, ""));
    let (mut asked, mut third, mut down) = (Vec::new(), None, false);
    while asked.len() < 2 || third.is_none() || !down {
        match gateway.next() {
            News::Port(tunnel, request) => {
                assert!(Arc::ptr_eq(&tunnel, &second), "the one that is left asks");
                asked.push(request.port);
            }
            News::Up(tunnel) => third = Some(tunnel),
            News::Down(tunnel) => {
                assert!(Arc::ptr_eq(&tunnel, &first));
                down = true;
            }
        }
    }
    assert_eq!(asked, [7, 8]);
    let third = third.expect("it has come");
    assert_eq!(identity(&third), (identity(&first).0, 2), "the same slot, a newer generation");
}

// A port that was refused is asked for again, by a tunnel that is there.
#[test]
fn a_refused_port_is_asked_for_again_by_who_asks_now() {
    let event_loop = event_loop();
    let gateway = Gateway::new(&event_loop);
    client(&event_loop, &[&gateway], 1, &[7]);
    let first = gateway.up();
    let (asking, port) = gateway.port();
    assert!(Arc::ptr_eq(&asking, &first));
    first.exchange(|session| session.answer_port(Network::Tcp, port, Err(PortError::InUse))).unwrap();
    assert!(Arc::ptr_eq(&gateway.port().0, &first));
    first.exchange(|session| session.answer_port(Network::Tcp, port, Err(PortError::InUse))).unwrap();
    first.exchange(|session| session.close(GoAwayCode::Stop, ""));
    assert!(Arc::ptr_eq(&gateway.down(), &first));
    let second = gateway.up();
    assert!(Arc::ptr_eq(&gateway.port().0, &second), "at once, and not when the other's time has come");
}

// proves S-73: what a client cannot work with is said at once, and by its number
#[test]
fn a_client_with_no_gateway_or_too_many_is_not_started() {
    let event_loop = event_loop();
    let start = |gateways: usize, replicas: usize| {
        let gateways = (0..gateways).map(|_| target(([127, 0, 0, 1], 9).into()).into()).collect();
        client::start(event_loop.remote(), client::Config { replicas, ..client_of(gateways) })
    };
    for (gateways, replicas) in
        [(0, 1), (GATEWAYS_MAX + 1, 1), (1, 0), (1, REPLICAS_MAX + 1), (0, 0), (usize::from(u16::MAX), 1)]
    {
        let error = start(gateways, replicas).expect_err("it cannot work");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), format!("{gateways} gateways and {replicas} tunnels"));
    }
}
