//! A forwarded UDP port: each user's address is a flow, and each flow a stream to the port's target.
//!
//! A flow begins with its first datagram, answers go back to that address alone, and it ends when nothing has passed for
//! [`UDP_IDLE_MS`], or with the port. One lock holds the flows of a port; the tunnel's lock may be taken under it, and no
//! lock is held by whoever calls in here.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Way;
use crate::gateway::ingress::{Gate, Journey, broken_end, opened};
use crate::limits::{UDP_EARLY_MAX, UDP_FLOWS_MAX, UDP_IDLE_MS, UDP_SWEEP_MS};
use crate::proto::frame::{Network, ResetCode};
use crate::proto::session::StreamId;
use crate::record::{End, Phase, Proto, Who};
use crate::refused::Refusals;
use crate::rt::{self, DatagramHandler, Datagrams};
use crate::tunnel::{Stream, StreamWatcher, Watcher};

/// A forwarded UDP port.
pub(super) struct Udp {
    way: Way,
    flows: Mutex<Flows>,
    /// Datagrams of users for whom there was no flow.
    full: Refusals,
}

#[derive(Default)]
struct Flows {
    /// Invariant: by_user.len() <= UDP_FLOWS_MAX, and `by_stream` names the same flows.
    by_user: BTreeMap<SocketAddr, UdpFlow>,
    by_stream: BTreeMap<StreamId, SocketAddr>,
    socket: Option<Datagrams>,
    /// A sweep is due.
    sweeping: bool,
    closed: bool,
}

/// One user's address.
struct UdpFlow {
    stream: Stream,
    /// `None` once its line is written.
    journey: Option<Journey>,
    /// What came before the target was ready. `None` once it is. Invariant: len <= UDP_EARLY_MAX.
    early: Option<VecDeque<Bytes>>,
    last: Instant,
    /// Bytes that the tunnel took.
    up: u64,
    /// Bytes that came out of it.
    down: u64,
}

/// Takes what users send.
pub(super) struct Receiver(pub(super) Arc<Udp>);

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
}

impl UdpFlow {
    /// Gives datagrams to the tunnel, and counts those that it takes, without the older ones that it drops for them.
    fn send(&mut self, datagrams: impl IntoIterator<Item = Bytes>) {
        let up = &mut self.up;
        self.stream.exchange(|session, id| {
            for data in datagrams {
                let len = data.len() as u64;
                if let Some(dropped) = session.send_datagram(id, data) {
                    *up = *up + len - dropped as u64;
                }
            }
        });
    }

    /// Whoever has taken the flow out of the table writes its line.
    fn end(self, gate: &Gate, end: End) {
        self.stream.reset(if end.who == Who::Killed { ResetCode::Stopping } else { ResetCode::Cancelled });
        if let Some(journey) = self.journey {
            journey.end(gate, None, (self.up, self.down), end);
        }
    }
}

impl Udp {
    pub(super) fn new(way: Way) -> Arc<Udp> {
        Arc::new(Udp { way, flows: Mutex::default(), full: Refusals::default() })
    }

    /// The port is closed: its flows end.
    pub(super) fn close(&self) {
        let flows = {
            let flows = &mut *self.flows.lock();
            flows.closed = true;
            flows.socket = None;
            flows.by_stream.clear();
            std::mem::take(&mut flows.by_user)
        };
        for (_, flow) in flows {
            flow.end(&self.way.gate, End::new(Who::Killed, Phase::Data, "port_closed"));
        }
    }

    fn from_user(self: &Arc<Udp>, socket: &Datagrams, user: SocketAddr, data: Bytes) {
        let mut flows = self.flows.lock();
        if flows.closed {
            return;
        }
        if !flows.by_user.contains_key(&user) {
            if flows.by_user.len() >= UDP_FLOWS_MAX {
                drop(flows);
                // Whoever sends could otherwise fill the log, a line a datagram: they count as one, whatever address they name.
                if let Some(count) = self.full.note(None, rt::now()).said {
                    log::warn!(event = "limit_hit", limit = "udp_flows", addr:% = socket.local_addr(), count;
                        "the port has as many users as it may, and drops what others send");
                }
                return;
            }
            let watcher = Watcher::Call(self.clone() as Arc<dyn StreamWatcher>);
            let mut journey = self.way.journey(Proto::Udp, Some(user));
            let stream = match self.way.open(Network::Udp, Some(user), watcher, &mut journey) {
                Ok(stream) => stream,
                Err(verdict) => {
                    // No flow, no line: whoever sends could otherwise fill the log, a line a datagram.
                    log::debug!(event = "limit_hit", cli:% = user; "a datagram is dropped: {}", verdict.end.why);
                    return;
                }
            };
            flows.by_stream.insert(stream.id(), user);
            flows.socket.get_or_insert_with(|| socket.clone());
            let flow = UdpFlow {
                stream,
                journey: Some(journey),
                early: Some(VecDeque::new()),
                last: rt::now(),
                up: 0,
                down: 0,
            };
            flows.by_user.insert(user, flow);
            self.sweep_later(&mut flows);
        }
        let Some(flow) = flows.by_user.get_mut(&user) else { return };
        flow.last = rt::now();
        match &mut flow.early {
            Some(early) => {
                if early.len() >= UDP_EARLY_MAX {
                    early.pop_front();
                }
                early.push_back(data);
            }
            None => flow.send([data]),
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
        let users: Vec<SocketAddr> = flows
            .by_user
            .iter()
            .filter(|(_, flow)| rt::since(flow.last) >= idle)
            .map(|(user, _)| *user)
            .collect();
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
        if flow.early.is_some() {
            match opened(&flow.stream, &mut flow.journey) {
                Some(Ok(_)) => {
                    let early = flow.early.take().unwrap_or_default();
                    flow.send(early);
                }
                Some(Err(verdict)) => end = Some(verdict.end),
                None => {}
            }
        }
        while let Some(data) = flow.stream.exchange(|session, id| session.read_datagram(id)) {
            flow.last = rt::now();
            if let Some(journey) = &mut flow.journey {
                journey.first_byte();
            }
            flow.down += data.len() as u64;
            let sent = socket.as_ref().map(|socket| socket.send_to(&data, user));
            if let Some(Err(error)) = sent {
                log::debug!(event = "udp", cli:% = user; "a datagram is dropped: {error}");
            }
        }
        if end.is_none() && flow.stream.is_closed() {
            end = Some(flow.stream.broken().map_or(End::EOF, |broken| broken_end(broken, Phase::Data)));
        }
        if let Some(end) = end
            && let Some(flow) = flows.remove(user)
        {
            flow.end(&self.way.gate, end);
        }
    }
}
