//! Ports that clients open on the gateway: TCP connections and UDP flows, each a stream to the target behind the
//! client that opened the port.
//!
//! * A port belongs to the tunnel that asked for it. When the tunnel goes, stops, or is replaced by a newer one of the
//!   same client, its ports are closed and free again.
//! * TCP connections and UDP flows are in files of their own.

mod tcp;
mod udp;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::ingress::{Gate, Journey, Verdict};
use super::{NoStream, Opening, Shared};
use crate::limits::REFUSED_PORTS_MAX;
use crate::proto::frame::{Network, OpenRequest, PortError, PortRequest};
use crate::record::{Ingress, Proto, Text};
use crate::rt::{self, Datagrams, Listener, TcpListener, UdpSocket};
use crate::tunnel::{Stream, Tunnel, Watcher};
use tcp::Tcp;
use udp::{Receiver, Udp};

/// The ports of all tunnels.
pub(super) struct Forwards {
    /// Where ports are opened: the address that tunnels arrive at.
    ip: IpAddr,
    /// The session bounds how many ports a client may have.
    open: Mutex<Vec<Open>>,
    /// By the address of a tunnel: its ports that are known to have been refused, since clients ask again and again. Leaves with the
    /// tunnel. Invariant: at most `REFUSED_PORTS_MAX` of each.
    refused: Mutex<HashMap<usize, HashSet<(Network, u16)>>>,
}

struct Open {
    tunnel: Arc<Tunnel>,
    network: Network,
    /// As it was asked for.
    port: u16,
    door: Door,
}

/// What is said of a port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Opened(Network, u16),
    Refused(Network, u16),
    Closed,
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
                udp.close();
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
                self.open.lock().push(Open { tunnel: tunnel.clone(), network, port, door });
                log::log!(self.level(gate, tunnel, Word::Opened(network, port)), event = "fwd_open", tun = tunnel.label(), net = network.word(), addr:% = addr, dst = to; "a port is open");
                Ok(addr.port())
            }
            Err(error) => {
                log::log!(self.level(gate, tunnel, Word::Refused(network, port)), event = "refuse", tun = tunnel.label(), net = network.word(), port; "a client's port cannot be opened: {error}");
                Err(match error.kind() {
                    io::ErrorKind::AddrInUse => PortError::InUse,
                    io::ErrorKind::PermissionDenied => PortError::Forbidden,
                    _ => PortError::Failed,
                })
            }
        };
        if tunnel.exchange(|session| session.answer_port(network, port, answer)).is_err() {
            self.close(gate, tunnel, network, port);
        }
    }

    /// How loudly something is said of a tunnel's port. A client can have ports opened, refused and closed as often as it likes.
    pub(super) fn level(&self, shared: &Shared, tunnel: &Arc<Tunnel>, word: Word) -> log::Level {
        if self.is_news(tunnel, word) {
            shared.aloud(tunnel.carrier().and_then(rt::Handle::peer_addr), log::Level::Info)
        } else {
            log::Level::Debug
        }
    }

    /// Whether it was not said before.
    fn is_news(&self, tunnel: &Arc<Tunnel>, word: Word) -> bool {
        let mut refused = self.refused.lock();
        match word {
            Word::Opened(network, port) => {
                if let Some(refused) = refused.get_mut(&address(tunnel)) {
                    refused.remove(&(network, port));
                }
                true
            }
            Word::Refused(network, port) => {
                let refused = refused.entry(address(tunnel)).or_default();
                // What there is no room for is said each time, as often as the peer's lines allow.
                match refused.len() < REFUSED_PORTS_MAX {
                    true => refused.insert((network, port)),
                    false => !refused.contains(&(network, port)),
                }
            }
            Word::Closed => true,
        }
    }

    /// Tunnels of whose ports refusals are known.
    #[cfg(test)]
    pub(super) fn refused_count(&self) -> usize {
        self.refused.lock().len()
    }

    fn bind(&self, gate: &Gate, tunnel: &Arc<Tunnel>, request: PortRequest) -> io::Result<Door> {
        let addr = SocketAddr::new(self.ip, request.port);
        let peer = tunnel.exchange(|session| session.peer().cloned());
        let grant = peer.as_ref().and_then(|peer| peer.grant.as_ref());
        if grant.is_some_and(|grant| !grant.opens(request.port)) {
            let why = "the client's key does not list it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let (via, group) = peer.map(|peer| (peer.name.as_str().into(), peer.group)).unwrap_or_default();
        let (host, port) = (request.host, request.target_port);
        let (dst, group) = (Text::new(super::ingress::dst(&host, port)), Text::new(group));
        let way = Way { gate: gate.clone(), tunnel: tunnel.clone(), via, group, host, port, dst };
        match request.network {
            Network::Tcp => {
                let listener = TcpListener::bind(addr)?;
                Ok(Door::Tcp(gate.remote.serve(listener, Tcp(way))?))
            }
            Network::Udp => {
                let socket = UdpSocket::bind(addr)?;
                let udp = Udp::new(way);
                let socket = gate.remote.datagrams(socket, Receiver(udp.clone()))?;
                Ok(Door::Udp(socket, udp))
            }
        }
    }

    /// Closes one port; only the tunnel that opened it can.
    pub(super) fn close(&self, shared: &Shared, tunnel: &Arc<Tunnel>, network: Network, port: u16) {
        self.close_where(shared, |open| {
            Arc::ptr_eq(&open.tunnel, tunnel) && open.network == network && open.port == port
        });
    }

    /// Closes all ports of a tunnel.
    pub(super) fn close_all(&self, shared: &Shared, tunnel: &Arc<Tunnel>) {
        self.close_where(shared, |open| Arc::ptr_eq(&open.tunnel, tunnel));
        self.refused.lock().remove(&address(tunnel));
    }

    fn close_where(&self, shared: &Shared, which: impl Fn(&Open) -> bool) {
        let closed: Vec<Open> = self.open.lock().extract_if(.., |open| which(open)).collect();
        for open in closed {
            open.door.close();
            log::log!(self.level(shared, &open.tunnel, Word::Closed), event = "fwd_close", tun = open.tunnel.label(), net = open.network.word(),
                addr:% = open.door.addr(); "a port is closed");
        }
    }
}

/// What tells a tunnel from the others, while it is there.
fn address(tunnel: &Arc<Tunnel>) -> usize {
    Arc::as_ptr(tunnel).addr()
}

/// From a port to its target.
struct Way {
    gate: Gate,
    tunnel: Arc<Tunnel>,
    via: Arc<str>,
    group: Text,
    host: String,
    port: u16,
    /// The two as the log has them.
    dst: Text,
}

impl Way {
    fn journey(&self, proto: Proto, user: Option<SocketAddr>) -> Journey {
        let mut journey = Journey::new(proto, Ingress::Forward, user, rt::now());
        journey.asked(self.dst.clone(), None);
        journey
    }

    fn open(
        &self,
        network: Network,
        user: Option<SocketAddr>,
        watcher: Watcher,
        journey: &mut Journey,
    ) -> Result<Stream, Verdict> {
        let conn_id = self.gate.next_conn_id();
        let request =
            OpenRequest { network, host: self.host.clone(), port: self.port, conn_id, user_addr: user };
        match self.tunnel.open(request, watcher) {
            Ok(stream) => {
                let opening = Opening { stream, via: self.via.clone(), conn_id };
                Ok(journey.opening(opening, self.group.clone()))
            }
            Err(error) => Err(NoStream::from(error).into()),
        }
    }
}
