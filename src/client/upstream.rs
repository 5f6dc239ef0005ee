//! Streams that the gateway opened, on their way to their targets.
//!
//! ```text
//!   OPEN ──▶ rules on the name ──▶ resolve ──▶ rules on each address ──▶ dial the first that is allowed
//!                │ no                 │ no            │ none                 │ failed: the next, or
//!                └────────────────────┴───────────────┴──────────────────────┴──▶ OPEN_ERR with the reason
//!                                                                    connected ──▶ OPEN_OK, relay
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use poller::{
    Closed, Connection, DatagramHandler, Datagrams, Handle, Handler, Prepare, Reason, Reject, Remote,
};

use super::resolve::{NoAddress, resolve};
use crate::limits::CONNECT_TIMEOUT_MS;
use crate::proto::frame::{Network, OpenRequest, Opened, RefuseCode, ResetCode};
use crate::proto::session::StreamId;
use crate::proto::target::{Rules, Target};
use crate::relay::{Flow, Relay};
use crate::tunnel::{Broken, Stream, StreamWatcher, Tunnel, Watcher};

/// A stream whose target is being reached.
struct Reaching {
    remote: Remote,
    tunnel: Arc<Tunnel>,
    id: StreamId,
    network: Network,
    conn_id: u64,
    target: Target,
    begun: Instant,
    resolve_us: u32,
    dialing: Instant,
    /// Allowed addresses that were not tried.
    left: VecDeque<SocketAddr>,
    deadline: Instant,
    /// The dial that is under way, for whoever learns that nobody waits for it any more.
    dialed: Arc<Mutex<Option<Handle>>>,
}

/// Ends a dial that nobody waits for any more: the user has left, or the tunnel is gone.
struct Leaver {
    tunnel: Arc<Tunnel>,
    dialed: Arc<Mutex<Option<Handle>>>,
}

impl StreamWatcher for Leaver {
    fn on_stream(&self, id: StreamId) {
        if !self.tunnel.contains(id)
            && let Some(dialed) = &*self.dialed.lock()
        {
            dialed.abort();
        }
    }
}

/// Reaches the target of a stream.
pub fn reach(remote: &Remote, rules: &Arc<Rules>, tunnel: &Arc<Tunnel>, id: StreamId, request: OpenRequest) {
    let now = Instant::now();
    let refuse = |code| tunnel.exchange(|session| answered(session.refuse(id, code, 0, 0)));
    let target = match Target::new(&request.host, request.port) {
        Ok(target) => target,
        Err(error) => {
            log::debug!(event = "refuse", conn_id = crate::conn_label(request.conn_id); "{error}");
            return refuse(RefuseCode::Dns);
        }
    };
    let verdict = rules.name(&target);
    if !verdict.allowed {
        log_forbidden(&target, request.conn_id, &verdict);
        return refuse(RefuseCode::Forbidden);
    }
    let mut reaching = Reaching {
        remote: remote.clone(),
        tunnel: tunnel.clone(),
        id,
        network: request.network,
        conn_id: request.conn_id,
        target: target.clone(),
        begun: now,
        resolve_us: 0,
        dialing: now,
        left: VecDeque::new(),
        deadline: now + Duration::from_millis(CONNECT_TIMEOUT_MS),
        dialed: Arc::default(),
    };
    tunnel.watch(id, Arc::new(Leaver { tunnel: tunnel.clone(), dialed: reaching.dialed.clone() }));
    let rules = rules.clone();
    resolve(remote, &target, move |found| {
        reaching.resolve_us = micros(reaching.begun);
        reaching.dialing = Instant::now();
        match found {
            Err(why) => reaching.refuse(match why {
                NoAddress::NotFound => RefuseCode::Dns,
                NoAddress::Timeout => RefuseCode::Timeout,
                NoAddress::Busy => RefuseCode::Limit,
            }),
            Ok(addresses) => {
                for address in addresses {
                    let verdict = rules.address(&reaching.target, address);
                    if verdict.allowed {
                        reaching.left.push_back(address);
                    } else {
                        log_forbidden(&reaching.target, reaching.conn_id, &verdict);
                    }
                }
                match reaching.left.is_empty() {
                    true => reaching.refuse(RefuseCode::Forbidden),
                    false => reaching.next(RefuseCode::Unreachable),
                }
            }
        }
    });
}

fn log_forbidden(target: &Target, conn_id: u64, verdict: &crate::proto::target::Verdict) {
    log::info!(event = "refuse", conn_id = crate::conn_label(conn_id), dst:% = target; "forbidden: {verdict}");
}

/// A stream that has gone meanwhile wants no answer.
fn answered<T, E: std::fmt::Display>(outcome: Result<T, E>) {
    if let Err(gone) = outcome {
        log::trace!(event = "refuse"; "{gone}");
    }
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

impl Reaching {
    fn refuse(&self, code: RefuseCode) {
        let (resolve_us, connect_us) = (self.resolve_us, micros(self.dialing));
        log::debug!(event = "stream", conn_id = crate::conn_label(self.conn_id), dst:% = self.target; "not reached: {code:?}");
        self.tunnel.exchange(|session| answered(session.refuse(self.id, code, resolve_us, connect_us)));
    }

    fn opened(&self, addr: SocketAddr) -> Opened {
        Opened { addr: Some(addr), resolve_us: self.resolve_us, connect_us: micros(self.dialing) }
    }

    /// Tries the next address; `code` is what the last one came to.
    fn next(mut self, code: RefuseCode) {
        if !self.tunnel.contains(self.id) {
            return;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let Some(addr) = self.left.pop_front().filter(|_| !left.is_zero()) else {
            return self.refuse(code);
        };
        if self.network == Network::Udp {
            return udp(self, addr);
        }
        let Some(carrier) = self.tunnel.carrier().cloned() else { return };
        let (remote, tunnel, id) = (self.remote.clone(), self.tunnel.clone(), self.id);
        let (conn_id, resolve_us, dialed) = (self.conn_id, self.resolve_us, self.dialed.clone());
        match remote.dial_near(&carrier, addr, left, Dial(Mutex::new(Some((self, addr))))) {
            Ok(handle) => {
                *dialed.lock() = Some(handle);
                // The stream may have gone before there was anything to end.
                Leaver { tunnel, dialed }.on_stream(id);
            }
            Err(error) => {
                // What would have answered went with the dial.
                let (level, code) = match remote.is_stopping() {
                    true => (log::Level::Debug, RefuseCode::Draining),
                    false => (log::Level::Warn, RefuseCode::Limit),
                };
                log::log!(level, event = "limit_hit", conn_id = crate::conn_label(conn_id), dst:% = addr; "no connection to a target: {error}");
                tunnel.exchange(|session| answered(session.refuse(id, code, resolve_us, 0)));
            }
        }
    }
}

/// The handler of one dialed target.
struct Dial(Mutex<Option<(Reaching, SocketAddr)>>);

/// A target's connection.
struct TargetConn {
    stage: Stage,
    conn_id: u64,
}

enum Stage {
    Dialing(Reaching, SocketAddr),
    Relaying(Relay),
    Over,
}

impl Handler for Dial {
    type Context = TargetConn;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<TargetConn, Reject> {
        conn.set_half_close(true);
        let Some((reaching, addr)) = self.0.lock().take() else {
            return Err("a target is dialed once".into());
        };
        let conn_id = reaching.conn_id;
        Ok(TargetConn { stage: Stage::Dialing(reaching, addr), conn_id })
    }

    fn on_connect(&self, cx: &mut TargetConn, conn: &mut Connection) -> poller::Result {
        let Stage::Dialing(reaching, addr) = std::mem::replace(&mut cx.stage, Stage::Over) else {
            return Ok(());
        };
        let watcher = Watcher::Connection(conn.handle());
        let Some(stream) = reaching.tunnel.take_on(reaching.id, watcher) else {
            // The user left before the target was reached.
            conn.close();
            return Ok(());
        };
        let opened = reaching.opened(addr);
        log::debug!(event = "stream", conn_id = crate::conn_label(cx.conn_id), dst:% = reaching.target, ip:% = addr; "established");
        stream.exchange(|session, id| answered(session.accept(id, opened)));
        cx.stage = Stage::Relaying(Relay::new(stream));
        self.pump(cx, conn)
    }

    fn on_request(&self, cx: &mut TargetConn, conn: &mut Connection) -> poller::Result {
        self.pump(cx, conn)
    }

    fn on_shutdown(&self, _cx: &mut TargetConn, _conn: &mut Connection) -> poller::Result {
        // It may be in the middle of something: it has until the deadline.
        Ok(())
    }

    fn on_close(&self, cx: &mut TargetConn, info: &Closed) {
        match std::mem::replace(&mut cx.stage, Stage::Over) {
            Stage::Dialing(reaching, _) => {
                let code = match &info.reason {
                    Reason::Timeout => RefuseCode::Timeout,
                    Reason::Error(fault) => match fault.kind {
                        io::ErrorKind::ConnectionRefused => RefuseCode::Refused,
                        io::ErrorKind::TimedOut => RefuseCode::Timeout,
                        _ => RefuseCode::Unreachable,
                    },
                    Reason::Shutdown => RefuseCode::Draining,
                    _ => RefuseCode::Unreachable,
                };
                reaching.next(code);
            }
            Stage::Relaying(relay) => relay.abandon(&info.reason),
            Stage::Over => {}
        }
        log::debug!(event = "stream", conn_id = crate::conn_label(cx.conn_id), up = info.bytes_out, down = info.bytes_in; "closed: {}", info.reason);
    }
}

impl Dial {
    fn pump(&self, cx: &mut TargetConn, conn: &mut Connection) -> poller::Result {
        let Stage::Relaying(relay) = &mut cx.stage else { return Ok(()) };
        match relay.pump(conn)? {
            Flow::Open => return Ok(()),
            Flow::Done => conn.close(),
            // Not needed any more is no reason to tell the target of a fault.
            Flow::Broken(Broken::Reset(ResetCode::Cancelled)) => conn.close(),
            Flow::Broken(_) => conn.abort(),
        }
        cx.stage = Stage::Over;
        Ok(())
    }
}

/// A UDP target: one socket a stream.
struct UdpTarget {
    addr: SocketAddr,
    /// `None` once closed.
    stream: Mutex<Option<Stream>>,
    socket: Mutex<Option<Datagrams>>,
}

fn udp(reaching: Reaching, addr: SocketAddr) {
    let any: SocketAddr =
        if addr.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let target = Arc::new(UdpTarget { addr, stream: Mutex::new(None), socket: Mutex::new(None) });
    // Connected, so that the kernel drops what comes from anybody else.
    let socket = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(addr).map(|()| socket))
        .and_then(|socket| reaching.remote.datagrams(socket, UdpReceiver(target.clone())));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            log::debug!(event = "stream", conn_id = crate::conn_label(reaching.conn_id), ip:% = addr; "{error}");
            return reaching.refuse(RefuseCode::Unreachable);
        }
    };
    let watcher = Watcher::Call(target.clone() as Arc<dyn StreamWatcher>);
    match reaching.tunnel.take_on(reaching.id, watcher) {
        None => socket.close(),
        Some(stream) => {
            *target.socket.lock() = Some(socket);
            let opened = reaching.opened(addr);
            let id = stream.id();
            *target.stream.lock() = Some(stream);
            reaching.tunnel.exchange(|session| answered(session.accept(id, opened)));
        }
    }
}

impl StreamWatcher for UdpTarget {
    fn on_stream(&self, _id: StreamId) {
        let mut slot = self.stream.lock();
        let Some(stream) = &*slot else { return };
        let socket = self.socket.lock().clone();
        while let Some(data) = stream.exchange(|session, id| session.read_datagram(id)) {
            let sent = socket.as_ref().map(|socket| socket.send_to(&data, self.addr));
            if let Some(Err(error)) = sent {
                log::debug!(event = "udp", ip:% = self.addr; "a datagram is dropped: {error}");
            }
        }
        if stream.is_closed() || stream.broken().is_some() {
            *slot = None;
            if let Some(socket) = self.socket.lock().take() {
                socket.close();
            }
        }
    }
}

/// Takes what a UDP target answers.
struct UdpReceiver(Arc<UdpTarget>);

impl DatagramHandler for UdpReceiver {
    fn on_datagram(&self, _socket: &Datagrams, _from: SocketAddr, data: &[u8]) {
        if let Some(stream) = &*self.0.stream.lock() {
            let data = bytes::Bytes::copy_from_slice(data);
            stream.exchange(|session, id| session.send_datagram(id, data));
        }
    }

    fn on_error(&self, _socket: &Datagrams, error: &io::Error) {
        log::debug!(event = "udp", ip:% = self.0.addr; "{error}");
    }
}
