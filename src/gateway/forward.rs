//! Ports that clients open on the gateway: TCP connections and UDP flows, each a stream to the target behind the
//! client that opened the port.
//!
//! * A port belongs to the tunnel that asked for it. When the tunnel goes, its ports are closed and free again.
//! * A UDP flow is one user's address: its first datagram opens a stream, answers go back to that address alone, and
//!   it ends when nothing has passed for [`UDP_IDLE_MS`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use poller::{Closed, Connection, DatagramHandler, Datagrams, Handler, Listener, Prepare, Reject};

use super::Opening;
use super::ingress::{Gate, Journey, Verdict, broken_end, closed_end};
use crate::limits::{PORTS_MAX, UDP_EARLY_MAX, UDP_FLOWS_MAX, UDP_IDLE_MS, UDP_SWEEP_MS};
use crate::proto::frame::{Network, OpenRequest, PortError, PortRequest, ResetCode};
use crate::proto::session::StreamId;
use crate::record::{End, Ingress, Phase, Proto, Who};
use crate::relay::{Flow, Relay};
use crate::tunnel::{Stream, StreamWatcher, Tunnel, Watcher};

/// The ports of all tunnels.
pub(super) struct Forwards {
    /// Where ports are opened: the address that tunnels arrive at.
    ip: IpAddr,
    /// The session bounds how many ports a client may have.
    open: Mutex<Vec<Open>>,
    /// Refusals that were said: clients ask again and again. Invariant: len <= PORTS_MAX.
    refused: Mutex<Vec<(Arc<Tunnel>, Network, u16)>>,
}

struct Open {
    tunnel: Arc<Tunnel>,
    network: Network,
    /// As it was asked for.
    port: u16,
    door: Door,
}

enum Door {
    Tcp(Listener),
    Udp(Datagrams, Arc<Udp>),
}

impl Door {
    fn close(&self) {
        match self {
            Door::Tcp(listener) => listener.close(),
            Door::Udp(socket, udp) => {
                socket.close();
                udp.flows.lock().close(&udp.way.gate);
            }
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Door::Tcp(listener) => listener.local_addr(),
            Door::Udp(socket, _) => socket.local_addr(),
        }
    }
}

impl Forwards {
    pub(super) fn new(ip: IpAddr) -> Forwards {
        Forwards { ip, open: Mutex::default(), refused: Mutex::default() }
    }

    /// Opens a port for a tunnel and answers the client.
    pub(super) fn open(&self, gate: &Gate, tunnel: &Arc<Tunnel>, request: PortRequest) {
        let PortRequest { network, port, .. } = request;
        let to = super::ingress::dst(&request.host, request.target_port);
        let answer = match self.bind(gate, tunnel, request) {
            Ok(door) => {
                let addr = door.addr();
                self.refused.lock().retain(|refused| !is_port(refused, tunnel, network, port));
                self.open.lock().push(Open { tunnel: tunnel.clone(), network, port, door });
                log::info!(event = "fwd_open", tun = tunnel.label(), net = word(network), addr:% = addr, dst = to; "a port is open");
                Ok(addr.port())
            }
            Err(error) => {
                let level = if self.is_news(tunnel, network, port) { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, event = "refuse", tun = tunnel.label(), net = word(network), port; "a client's port cannot be opened: {error}");
                Err(match error.kind() {
                    io::ErrorKind::AddrInUse => PortError::InUse,
                    io::ErrorKind::PermissionDenied => PortError::Forbidden,
                    _ => PortError::Failed,
                })
            }
        };
        if tunnel.exchange(|session| session.answer_port(network, port, answer)).is_err() {
            self.close(tunnel, network, port);
        }
    }

    /// Whether this refusal was not said before.
    fn is_news(&self, tunnel: &Arc<Tunnel>, network: Network, port: u16) -> bool {
        let mut refused = self.refused.lock();
        let is_known = refused.iter().any(|known| is_port(known, tunnel, network, port));
        let is_news = !is_known && refused.len() < PORTS_MAX;
        if is_news {
            refused.push((tunnel.clone(), network, port));
        }
        is_news
    }

    fn bind(&self, gate: &Gate, tunnel: &Arc<Tunnel>, request: PortRequest) -> io::Result<Door> {
        let addr = SocketAddr::new(self.ip, request.port);
        let peer = tunnel.exchange(|session| session.peer().cloned());
        let (via, group) = peer.map(|peer| (peer.name.as_str().into(), peer.group)).unwrap_or_default();
        let (host, port) = (request.host, request.target_port);
        let way = Way { gate: gate.clone(), tunnel: tunnel.clone(), via, group, host, port };
        match request.network {
            Network::Tcp => {
                let listener = std::net::TcpListener::bind(addr)?;
                Ok(Door::Tcp(gate.remote.serve(listener, Tcp(way))?))
            }
            Network::Udp => {
                let socket = UdpSocket::bind(addr)?;
                let udp = Arc::new(Udp { way, flows: Mutex::default() });
                let socket = gate.remote.datagrams(socket, Receiver(udp.clone()))?;
                Ok(Door::Udp(socket, udp))
            }
        }
    }

    /// Closes one port; only the tunnel that opened it can.
    pub(super) fn close(&self, tunnel: &Arc<Tunnel>, network: Network, port: u16) {
        self.close_where(|open| {
            Arc::ptr_eq(&open.tunnel, tunnel) && open.network == network && open.port == port
        });
    }

    /// Closes all ports of a tunnel.
    pub(super) fn close_all(&self, tunnel: &Arc<Tunnel>) {
        self.close_where(|open| Arc::ptr_eq(&open.tunnel, tunnel));
        self.refused.lock().retain(|(of, ..)| !Arc::ptr_eq(of, tunnel));
    }

    fn close_where(&self, which: impl Fn(&Open) -> bool) {
        let closed: Vec<Open> = self.open.lock().extract_if(.., |open| which(open)).collect();
        for open in closed {
            open.door.close();
            log::info!(event = "fwd_close", tun = open.tunnel.label(), net = word(open.network),
                addr:% = open.door.addr(); "a port is closed");
        }
    }
}

fn is_port((of, net, number): &(Arc<Tunnel>, Network, u16), tunnel: &Arc<Tunnel>, network: Network, port: u16) -> bool {
    Arc::ptr_eq(of, tunnel) && *net == network && *number == port
}

fn word(network: Network) -> &'static str {
    match network {
        Network::Tcp => "tcp",
        Network::Udp => "udp",
    }
}

/// From a port to its target.
struct Way {
    gate: Gate,
    tunnel: Arc<Tunnel>,
    via: Arc<str>,
    group: String,
    host: String,
    port: u16,
}

impl Way {
    fn open(&self, network: Network, user: Option<SocketAddr>, watcher: Watcher) -> Result<(Stream, Journey), End> {
        let proto = if network == Network::Tcp { Proto::Tcp } else { Proto::Udp };
        let mut journey = Journey::new(proto, Ingress::Forward, user, Instant::now());
        journey.asked(&self.host, self.port, None);
        let conn_id = self.gate.next_conn_id();
        let request =
            OpenRequest { network, host: self.host.clone(), port: self.port, conn_id, user_addr: user };
        match self.tunnel.open(request, watcher) {
            Ok(stream) => {
                let opening = Opening { stream, via: self.via.clone(), conn_id };
                let stream = journey.opening(opening, &self.group);
                Ok((stream, journey))
            }
            Err(error) => {
                let end = Verdict::from(super::NoStream::from(error)).end;
                journey.end(&self.gate, None, (0, 0), end);
                Err(end)
            }
        }
    }
}

/// A forwarded TCP port.
struct Tcp(Way);

/// One user of it.
struct TcpUser {
    stage: Stage,
    journey: Option<Journey>,
}

enum Stage {
    Start,
    Opening(Stream),
    Relaying(Relay),
    Over,
}

impl Handler for Tcp {
    type Context = TcpUser;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<TcpUser, Reject> {
        conn.set_half_close(true);
        Ok(TcpUser { stage: Stage::Start, journey: None })
    }

    fn on_connect(&self, cx: &mut TcpUser, conn: &mut Connection) -> poller::Result {
        // What the user says before the target is there stays in the kernel.
        conn.pause();
        match self.0.open(Network::Tcp, conn.peer_addr(), Watcher::Connection(conn.handle())) {
            Ok((stream, journey)) => {
                cx.journey = Some(journey);
                cx.stage = Stage::Opening(stream);
            }
            Err(_) => conn.abort(),
        }
        Ok(())
    }

    fn on_request(&self, cx: &mut TcpUser, conn: &mut Connection) -> poller::Result {
        if let Stage::Opening(stream) = &cx.stage {
            let failed = match (stream.take_answer(), stream.broken()) {
                (Some(answer), _) => {
                    if let Some(journey) = &mut cx.journey {
                        journey.answer(&answer);
                    }
                    answer.err().map(|refused| Verdict::from(refused.code).end)
                }
                (None, Some(broken)) => Some(broken_end(broken, Phase::Connect)),
                (None, None) => return Ok(()),
            };
            match (failed, std::mem::replace(&mut cx.stage, Stage::Over)) {
                (None, Stage::Opening(stream)) => {
                    conn.resume();
                    cx.stage = Stage::Relaying(Relay::new(stream));
                }
                (failed, _) => {
                    self.end(cx, (0, 0), failed.unwrap_or(End::EOF));
                    conn.abort();
                }
            }
        }
        let Stage::Relaying(relay) = &mut cx.stage else { return Ok(()) };
        let flow = relay.pump(conn)?;
        let bytes = (relay.bytes_sent(), relay.bytes_read());
        if bytes.1 > 0
            && let Some(journey) = &mut cx.journey
        {
            journey.first_byte();
        }
        match flow {
            Flow::Open => {}
            Flow::Done => {
                self.end(cx, bytes, End::EOF);
                conn.close();
            }
            Flow::Broken(broken) => {
                self.end(cx, bytes, broken_end(broken, Phase::Data));
                conn.abort();
            }
        }
        Ok(())
    }

    fn on_shutdown(&self, _cx: &mut TcpUser, _conn: &mut Connection) -> poller::Result {
        // It may be in the middle of something: it has until the deadline.
        Ok(())
    }

    fn on_close(&self, cx: &mut TcpUser, info: &Closed) {
        let (phase, bytes) = match &cx.stage {
            Stage::Relaying(relay) => {
                relay.abandon(&info.reason);
                (Phase::Data, (relay.bytes_sent(), relay.bytes_read()))
            }
            _ => (Phase::Connect, (0, 0)),
        };
        self.end(cx, bytes, closed_end(&info.reason, phase));
    }
}

impl Tcp {
    fn end(&self, cx: &mut TcpUser, bytes: (u64, u64), end: End) {
        if let Some(journey) = cx.journey.take() {
            journey.end(&self.0.gate, None, bytes, end);
        }
    }
}

/// A forwarded UDP port.
struct Udp {
    way: Way,
    flows: Mutex<Flows>,
}

#[derive(Default)]
struct Flows {
    /// Invariant: by_user.len() <= UDP_FLOWS_MAX, and `by_stream` names the same flows.
    by_user: HashMap<SocketAddr, UdpFlow>,
    by_stream: HashMap<StreamId, SocketAddr>,
    socket: Option<Datagrams>,
    /// A sweep is due.
    sweeping: bool,
    closed: bool,
}

/// One user's address.
struct UdpFlow {
    stream: Stream,
    journey: Journey,
    /// What came before the target was ready. `None` once it is. Invariant: len <= UDP_EARLY_MAX.
    early: Option<VecDeque<Bytes>>,
    last: Instant,
    up: u64,
    down: u64,
}

/// Takes what users send.
struct Receiver(Arc<Udp>);

impl DatagramHandler for Receiver {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        self.0.from_user(socket, from, Bytes::copy_from_slice(data));
    }

    fn on_error(&self, socket: &Datagrams, error: &io::Error) {
        log::debug!(event = "udp", addr:% = socket.local_addr(); "{error}");
    }
}

impl Flows {
    fn remove(&mut self, user: SocketAddr) -> Option<UdpFlow> {
        let flow = self.by_user.remove(&user)?;
        self.by_stream.remove(&flow.stream.id());
        Some(flow)
    }

    fn close(&mut self, gate: &Gate) {
        self.closed = true;
        self.socket = None;
        for (_, flow) in self.by_user.drain() {
            flow.end(gate, End::new(Who::TunnelLost, Phase::Data, "port_closed"));
        }
        self.by_stream.clear();
    }
}

impl UdpFlow {
    /// Whoever has taken the flow out of the table writes its line.
    fn end(self, gate: &Gate, end: End) {
        self.stream.reset(ResetCode::Cancelled);
        self.journey.end(gate, None, (self.up, self.down), end);
    }
}

impl Udp {
    fn from_user(self: &Arc<Udp>, socket: &Datagrams, user: SocketAddr, data: Bytes) {
        let mut flows = self.flows.lock();
        if flows.closed {
            return;
        }
        if !flows.by_user.contains_key(&user) {
            if flows.by_user.len() >= UDP_FLOWS_MAX {
                log::debug!(event = "limit_hit", limit = "udp_flows", addr:% = socket.local_addr(); "a datagram is dropped");
                return;
            }
            let watcher = Watcher::Call(self.clone() as Arc<dyn StreamWatcher>);
            let Ok((stream, journey)) = self.way.open(Network::Udp, Some(user), watcher) else { return };
            flows.by_stream.insert(stream.id(), user);
            flows.socket.get_or_insert_with(|| socket.clone());
            let flow = UdpFlow { stream, journey, early: Some(VecDeque::new()), last: Instant::now(), up: 0, down: 0 };
            flows.by_user.insert(user, flow);
            self.sweep_later(&mut flows);
        }
        let Some(flow) = flows.by_user.get_mut(&user) else { return };
        flow.last = Instant::now();
        flow.up += data.len() as u64;
        match &mut flow.early {
            Some(early) => {
                if early.len() >= UDP_EARLY_MAX {
                    early.pop_front();
                }
                early.push_back(data);
            }
            None => {
                flow.stream.exchange(|session, id| session.send_datagram(id, data));
            }
        }
    }

    fn sweep_later(self: &Arc<Udp>, flows: &mut Flows) {
        if flows.sweeping || flows.by_user.is_empty() {
            return;
        }
        let udp = self.clone();
        let delay = Duration::from_millis(UDP_SWEEP_MS);
        // An event loop that stops closes the port anyway.
        flows.sweeping = self.way.gate.remote.after(delay, move || udp.sweep()).is_ok();
    }

    fn sweep(self: &Arc<Udp>) {
        let mut flows = self.flows.lock();
        flows.sweeping = false;
        let idle = Duration::from_millis(UDP_IDLE_MS);
        let users: Vec<SocketAddr> =
            flows.by_user.iter().filter(|(_, flow)| flow.last.elapsed() >= idle).map(|(user, _)| *user).collect();
        for user in users {
            if let Some(flow) = flows.remove(user) {
                flow.end(&self.way.gate, End::new(Who::Normal, Phase::Done, "idle"));
            }
        }
        self.sweep_later(&mut flows);
    }
}

impl StreamWatcher for Udp {
    fn on_stream(&self, id: StreamId) {
        let mut flows = self.flows.lock();
        let Some(user) = flows.by_stream.get(&id).copied() else { return };
        let socket = flows.socket.clone();
        let Some(flow) = flows.by_user.get_mut(&user) else { return };
        let mut end = None;
        if let Some(answer) = flow.stream.take_answer() {
            flow.journey.answer(&answer);
            match answer {
                Ok(_) => {
                    let early = flow.early.take().unwrap_or_default();
                    flow.stream.exchange(|session, id| {
                        for data in early {
                            session.send_datagram(id, data);
                        }
                    });
                }
                Err(refused) => end = Some(Verdict::from(refused.code).end),
            }
        }
        while let Some(data) = flow.stream.exchange(|session, id| session.read_datagram(id)) {
            flow.last = Instant::now();
            flow.journey.first_byte();
            flow.down += data.len() as u64;
            let sent = socket.as_ref().map(|socket| socket.send_to(&data, user));
            if let Some(Err(error)) = sent {
                log::debug!(event = "udp", cli:% = user; "a datagram is dropped: {error}");
            }
        }
        if let Some(broken) = flow.stream.broken() {
            end = Some(broken_end(broken, Phase::Data));
        } else if flow.stream.is_closed() {
            end = end.or(Some(End::EOF));
        }
        if let Some(end) = end
            && let Some(flow) = flows.remove(user)
        {
            flow.end(&self.way.gate, end);
        }
    }
}
