//! The public side: takes clients' tunnels in, and users.
//!
//! ```text
//!   users ──▶ HTTP proxy, SOCKS5, forwarded ports ──▶ registry ──▶ a client's tunnel ──▶ (client) ──▶ target
//! ```

pub mod forward;
pub mod ingress;
pub mod registry;
mod stats;
mod strangers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::access::AccessLog;
use crate::limits::{CLIENTS_PER_GROUP_MAX, PEER_LINES_MAX};
use crate::logins::Logins;
use crate::proto::budget::WindowBudget;
use crate::proto::credentials::Credentials;
use crate::proto::frame::{AuthErrCode, GoAwayCode, OpenRequest};
use crate::proto::session::{Event, GatewayConfig, OpenError, Peer, Session};
use crate::proto::ws::WebSocket;
use crate::refused::{Noted, Refusals};
use crate::rt::{self, Listener, Remote, TcpListener};
use crate::times::Times;
use crate::tls::{self, Tls};
use crate::tunnel::{Carrier, Down, Side, Stream, Totals, Tunnel, Watcher};
use forward::Forwards;
use registry::{Joined, Member, Registry, is_elsewhere};
use stats::Stats;
use strangers::Strangers;

/// Where a gateway listens, and for whom.
pub struct Config {
    /// Clients' tunnels.
    pub tunnel: SocketAddr,
    /// The HTTP proxy.
    pub http: SocketAddr,
    /// The SOCKS5 proxy.
    pub socks: Option<SocketAddr>,
    /// What clients prove; open when there is no group.
    pub clients: Arc<Credentials>,
    /// What users are asked for; nothing when there is no group.
    pub users: Arc<Credentials>,
    /// The group whose clients serve users that are not asked.
    pub group: String,
    /// The TLS of clients' tunnels.
    pub tls: Option<tls::Server>,
    /// Streams that one tunnel may have open at once.
    pub streams_max: usize,
    /// How long users are waited for.
    pub times: Times,
    /// Where access lines go.
    pub access: AccessLog,
    /// What all tunnels of this process may be allowed to send.
    pub windows: Arc<WindowBudget>,
}

/// A running gateway. Its connections end with the event loop that it runs on.
pub struct Gateway {
    shared: Arc<Shared>,
    tunnel: Listener,
    http: Listener,
    socks: Option<Listener>,
}

/// What the gateway's connections share.
pub struct Shared {
    /// The event loop.
    pub remote: Remote,
    /// Connected clients.
    pub registry: Registry,
    /// What users are asked for, and who answers for it.
    pub logins: Logins,
    /// What clients prove now; see [`Gateway::renew`].
    clients: Mutex<Arc<Credentials>>,
    group: String,
    tls: Option<tls::Server>,
    streams_max: usize,
    /// How long users are waited for.
    pub times: Times,
    /// Where access lines go.
    pub access: AccessLog,
    forwards: Forwards,
    sessions: AtomicU64,
    refusals: Refusals,
    /// Users who wanted to go where they may not.
    forbidden: Refusals,
    /// Clients that proved themselves, and for which there was no place.
    unplaced: Refusals,
    /// Clients that broke the protocol.
    faults: Refusals,
    /// Clients that were in two places.
    namesakes: Refusals,
    /// What clients have said by coming and going.
    comings: Refusals,
    /// What all tunnels of this process may be allowed to send.
    windows: Arc<WindowBudget>,
    strangers: Strangers,
    stats: Stats,
    /// What all tunnels counted.
    totals: Totals,
    /// Starts every conn_id of this process, so that a restart does not repeat them.
    seed: u64,
    streams: AtomicU64,
}

impl Gateway {
    /// Binds every listener and starts to serve.
    ///
    /// # Errors
    /// When an address cannot be bound; the error names it.
    pub fn start(remote: Remote, config: Config) -> io::Result<Gateway> {
        let tunnel = bind("tunnel", config.tunnel)?;
        let http = bind("http", config.http)?;
        let socks = config.socks.map(|addr| bind("socks", addr)).transpose()?;
        let shared = Arc::new(Shared {
            forwards: Forwards::new(config.tunnel.ip()),
            registry: Registry::default(),
            logins: Logins::new(config.users)?,
            clients: Mutex::new(config.clients),
            group: config.group,
            tls: config.tls,
            streams_max: config.streams_max,
            times: config.times,
            access: config.access,
            sessions: AtomicU64::new(1),
            refusals: Refusals::default(),
            forbidden: Refusals::default(),
            unplaced: Refusals::default(),
            faults: Refusals::default(),
            namesakes: Refusals::default(),
            comings: Refusals::speaking(PEER_LINES_MAX),
            windows: config.windows,
            strangers: Strangers::default(),
            stats: Stats::default(),
            totals: Totals::default(),
            seed: rt::random()?,
            streams: AtomicU64::new(0),
            remote: remote.clone(),
        });
        stats::watch(&shared);
        let side = Arc::new(GatewaySide(shared.clone()));
        let gateway = Gateway {
            tunnel: remote.serve(tunnel, Carrier(side))?,
            http: remote.serve(http, ingress::http::Http::new(shared.clone()))?,
            socks: match socks {
                Some(socks) => Some(remote.serve(socks, ingress::socks::Socks::new(shared.clone()))?),
                None => None,
            },
            shared,
        };
        Ok(gateway)
    }

    /// Says where it listens.
    pub fn announce(&self) {
        crate::announce("tunnel", self.tunnel_addr());
        crate::announce("http", self.http_addr());
        if let Some(addr) = self.socks_addr() {
            crate::announce("socks", addr);
        }
    }

    /// Puts these in the place of what clients and users were held against: new logins and new tunnels are, and tunnels that would
    /// not be there any more are ended, with their streams and ports. Says how many those were.
    ///
    /// That concerns a client whose key was taken out or changed, and all clients of a group whose password or whose users' key was: so
    /// what such users have under way ends as well. A client that still has a key is back at once.
    pub fn renew(&self, mut credentials: Credentials) -> usize {
        let shared = &self.shared;
        let (former, current) = {
            let mut clients = shared.clients.lock();
            credentials.succeed(&clients);
            let current = Arc::new(credentials);
            (std::mem::replace(&mut *clients, current.clone()), current)
        };
        shared.logins.renew(current.clone());
        // Who joins from here on is held against the new ones once more when it has.
        let mut ended = 0;
        for (group, name, tunnel) in shared.registry.everybody() {
            let admits =
                |peer: &Peer| current.admits((&name, &group), peer.grant.as_ref(), peer.secret.as_deref());
            let admitted = tunnel.exchange(|session| session.peer().map_or(Ok(()), admits));
            let why = if let Err(why) = admitted {
                why
            } else if current.bars_users_of(&group, &former) {
                "the password or the key of its group's users was taken out or changed"
            } else {
                continue;
            };
            ended += 1;
            log::info!(event = "tun_revoke", tun = tunnel.label(), via = &*name, group = group.as_str();
                "{why}: the tunnel is ended, with its streams");
            shared.revoke(&tunnel, why);
        }
        ended
    }

    /// Shows another certificate to new tunnels from now on; those that are there stay. Does nothing without TLS.
    pub fn renew_tls(&self, tls: tls::Server) {
        if let Some(current) = &self.shared.tls {
            current.renew(tls);
        }
    }

    /// Where clients' tunnels arrive.
    pub fn tunnel_addr(&self) -> SocketAddr {
        self.tunnel.local_addr()
    }

    /// Where the HTTP proxy listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Where the SOCKS5 proxy listens.
    pub fn socks_addr(&self) -> Option<SocketAddr> {
        self.socks.as_ref().map(Listener::local_addr)
    }

    /// Clients that are connected.
    pub fn client_count(&self) -> usize {
        self.shared.registry.client_count()
    }

    /// Streams that are open.
    pub fn stream_count(&self) -> usize {
        self.shared.registry.stream_count()
    }
}

/// Binds a listener; an error names it and its address.
pub(crate) fn bind(name: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen for {name} on {addr}: {error}")))
}

/// Why no stream was opened for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// No client of the group is connected.
    NoClient,
    /// As many streams are open as may be, through every client that could take one.
    Limit,
    /// Every client of the group is about to leave.
    Draining,
    /// The host is no name that the tunnel carries.
    Host,
    /// The key that the user's login was held against was taken out or changed since.
    Barred,
}

impl From<OpenError> for NoStream {
    fn from(error: OpenError) -> NoStream {
        match error {
            OpenError::NotUp | OpenError::Role => NoStream::NoClient,
            OpenError::Limit | OpenError::Exhausted => NoStream::Limit,
            OpenError::Draining => NoStream::Draining,
            OpenError::Host => NoStream::Host,
        }
    }
}

/// Who carries a stream, for the access line.
pub struct Opening {
    /// The stream.
    pub stream: Stream,
    /// The client that carries it.
    pub via: Arc<str>,
    /// Its label in the logs, on both sides.
    pub conn_id: u64,
}

impl Shared {
    /// How loudly something is said that clients of this address can have said as often as they like: as it deserves, up to
    /// so many lines in a minute.
    fn aloud(&self, peer: Option<SocketAddr>, level: log::Level) -> log::Level {
        let Noted { said, .. } = self.comings.note(peer, rt::now());
        match said {
            Some(1) => level,
            Some(count) => {
                log::warn!(event = "limit_hit", limit = "peer_lines", peer = crate::shown(peer), count = count - 1;
                    "so many lines about clients of this address are at DEBUG alone");
                level
            }
            None => log::Level::Debug,
        }
    }

    /// Opens a stream through the least busy client of a group that has room. `under` is what the user's login was held against,
    /// where there was one.
    ///
    /// # Errors
    /// See [`NoStream`].
    pub fn open(
        &self,
        group: &str,
        under: Option<&Arc<Credentials>>,
        mut request: OpenRequest,
        watcher: Watcher,
    ) -> Result<Opening, NoStream> {
        let conn_id = self.next_conn_id();
        request.conn_id = conn_id;
        let mut why = NoStream::NoClient;
        // One that was picked may have filled or begun to leave since. Then it is known to have no room, and is not picked
        // again: each of them is asked once, unless room comes and goes while this looks.
        for _ in 0..CLIENTS_PER_GROUP_MAX {
            let member = self.registry.pick(group)?;
            // Behind the pick: where keys are replaced after this, the tunnel is there to be ended, see [`Gateway::renew`].
            if under.is_some_and(|under| self.logins.bars(group, under)) {
                return Err(NoStream::Barred);
            }
            match member.tunnel.open(request.clone(), watcher.clone()) {
                Ok(stream) => return Ok(Opening { stream, via: member.name, conn_id }),
                // That is the same with every client.
                Err(OpenError::Host) => return Err(NoStream::Host),
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }

    /// The group of a user: the one that was proved, or the one for users that are not asked.
    pub fn group_of<'a>(&'a self, user: Option<&'a str>) -> &'a str {
        user.unwrap_or(&self.group)
    }

    /// Ends a tunnel that has no right to be there any more, and all that its users have under way.
    fn revoke(&self, tunnel: &Arc<Tunnel>, why: &str) {
        self.end(tunnel, |tunnel| tunnel.revoke(GoAwayCode::Stop, why));
    }

    /// Ends a tunnel that a newer one of the same client takes the place of.
    fn replace(&self, former: &Arc<Tunnel>) {
        self.end(former, |tunnel| {
            tunnel.exchange(|session| session.close(GoAwayCode::Replaced, "a newer connection"));
        });
    }

    /// Ends a tunnel, and frees its ports at once: its connection may be a dead one that takes long to close.
    fn end(&self, tunnel: &Arc<Tunnel>, close: impl FnOnce(&Tunnel)) {
        // The session first: a port that it has just asked for is then refused, or is open already and closed here.
        close(tunnel);
        self.forwards.close_all(self, tunnel);
    }

    /// A label that no other stream of this process has, and hardly one of another.
    pub fn next_conn_id(&self) -> u64 {
        // An odd multiplier runs through all numbers before it repeats one.
        let turn = self.streams.fetch_add(1, Ordering::Relaxed);
        self.seed.wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// The gateway's end of the tunnels.
struct GatewaySide(Arc<Shared>);

impl GatewaySide {
    /// Says so where a client is in two places: it took its own place from somewhere else, or somebody else has the key that goes
    /// with its name. A host may have moved; or the key was copied, or stolen.
    fn warn_of_namesake(
        &self,
        tunnel: &Tunnel,
        peer: &Peer,
        addr: Option<SocketAddr>,
        former: Option<SocketAddr>,
    ) {
        let former = former.filter(|former| is_elsewhere(*former, addr));
        let namesake = || self.0.registry.namesake(&peer.name, peer.instance, addr);
        let (other, why) = match former {
            Some(former) => (former, "the client took the place of its own connection from another address"),
            // Without a key of its own a name is no more than what somebody called it.
            None => match peer.grant.as_ref().and_then(|_| namesake()) {
                Some(other) => (other, "another client with the same key is here, from another address"),
                None => return,
            },
        };
        if self.0.namesakes.note(addr, rt::now()).said.is_some() {
            log::warn!(event = "tun_twice", tun = tunnel.label(), peer = crate::shown(addr), other:% = other,
                via = peer.name.as_str(), group = peer.group.as_str(); "{why}: see who has its key");
        }
    }

    /// Finds a place in its group for a client that has proved itself, or turns it away.
    fn place(&self, tunnel: &Arc<Tunnel>) {
        let addr = tunnel.carrier().and_then(rt::Handle::peer_addr);
        let Some(peer) = tunnel.exchange(|session| session.peer().cloned()) else { return };
        let (via, group) = (peer.name.as_str(), peer.group.as_str());
        let (name, instance, generation) = (via.into(), peer.instance, peer.generation);
        let joined =
            self.0.registry.join(group, Member { tunnel: tunnel.clone(), name, instance, generation });
        let former_addr = match &joined {
            Joined::First => {
                log::log!(self.0.aloud(addr, log::Level::Info), event = "group_up", group; "the group's first client is here");
                None
            }
            Joined::Replaced(former) => {
                // This one wants the same ports.
                self.0.replace(&former.tunnel);
                former.addr()
            }
            Joined::Stale(newer) => newer.addr(),
            Joined::Another | Joined::Full | Joined::Gone => None,
        };
        let turned_away = match joined {
            Joined::First | Joined::Another | Joined::Replaced(_) => None,
            Joined::Stale(_) => {
                Some((AuthErrCode::Replaced, "a connection of this client is there that is not older"))
            }
            Joined::Full => Some((AuthErrCode::Limit, "the group has as many clients as it may")),
            // Of which its end says more.
            Joined::Gone => return,
        };
        // It may have proved itself by a key that was taken out meanwhile. Looked at once everybody can see that it is here.
        let current = self.0.clients.lock().clone();
        let admitted = current.admits((via, group), peer.grant.as_ref(), peer.secret.as_deref());
        let why = match (turned_away, admitted) {
            (Some((code, why)), _) => {
                tunnel.exchange(|session| session.turn_away(code, why));
                why
            }
            (None, Err(why)) => {
                self.0.revoke(tunnel, why);
                why
            }
            (None, Ok(())) => {
                log::log!(self.0.aloud(addr, log::Level::Info), event = "tun_up", tun = tunnel.label(), peer = crate::shown(addr), via, group,
                    version = peer.version, tls = peer.has_tls(), generation; "a client is here");
                return self.warn_of_namesake(tunnel, &peer, addr, former_addr);
            }
        };
        let Noted { said, total } = self.0.unplaced.note(addr, rt::now());
        let level = if said.is_some() { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, event = "refuse", tun = tunnel.label(), peer = crate::shown(addr), via, group,
            other = crate::shown(former_addr), count = said.unwrap_or(1), total; "{why}");
    }

    /// Counts a stranger at the door, or a client that may not in, and says so once for each address and minute: no reason to
    /// wake anybody, and whoever wants in can come as often as he likes.
    fn refused(
        &self,
        peer: Option<SocketAddr>,
        via: &str,
        tun: &str,
        fatal: bool,
        why: &dyn std::fmt::Display,
    ) {
        let Noted { said, total } = self.0.refusals.note(peer, rt::now());
        let level = if said.is_some() { log::Level::Info } else { log::Level::Debug };
        let event = if fatal { "tun_auth_fail" } else { "refuse" };
        log::log!(level, event, tun, peer = crate::shown(peer), via, count = said.unwrap_or(1), total; "{why}");
    }
}

impl Side for GatewaySide {
    fn tls(&self) -> Result<Option<Tls>, rt::tls::Error> {
        self.0.tls.as_ref().map(tls::Server::accept).transpose()
    }

    fn begin(&self, peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let nonce = rt::nonce()?;
        self.0.strangers.enter(peer).map_err(|full| {
            self.refused(peer, "-", "-", false, &full);
            io::Error::other(full.to_string())
        })?;
        let number = self.0.sessions.fetch_add(1, Ordering::Relaxed);
        let config = GatewayConfig { credentials: self.0.clients.lock().clone(), session_id: number, nonce };
        let mut session = Session::gateway(config, rt::now()).with_budget(self.0.windows.clone());
        session.limit_streams(self.0.streams_max);
        session.ask_for_place();
        Ok((WebSocket::server(), Tunnel::new(session, format!("t{number}"))))
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        self.0.strangers.leave(tunnel.carrier().and_then(rt::Handle::peer_addr));
    }

    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event) {
        match event {
            Event::Proved => self.place(tunnel),
            Event::PortRequested(request) => self.0.forwards.open(&self.0, tunnel, request),
            Event::PortClosed { network, port } => self.0.forwards.close(&self.0, tunnel, network, port),
            event => log::debug!(event = "tunnel", tun = tunnel.label(); "not for a gateway: {event:?}"),
        }
    }

    fn on_draining(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        let peer = tunnel.exchange(|session| session.peer().cloned());
        let (via, group) = peer.as_ref().map_or(("-", ""), |peer| (peer.name.as_str(), peer.group.as_str()));
        let addr = tunnel.carrier().and_then(rt::Handle::peer_addr);
        log::log!(self.0.aloud(addr, log::Level::Info), event = "tun_drain", tun = tunnel.label(), via, group; "the client is leaving");
    }

    fn on_stopping(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        // Flows have no end of their own that could be waited for.
        self.0.forwards.close_all(&self.0, tunnel);
    }

    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, down: &Down) {
        self.0.forwards.close_all(&self.0, tunnel);
        self.0.totals.take(tunnel);
        let peer = tunnel.exchange(|session| session.peer().cloned());
        let group = peer.as_ref().map_or("", |peer| peer.group.as_str());
        let left = self.0.registry.leave(group, tunnel);
        let via = peer.as_ref().map_or("-", |peer| peer.name.as_str());
        // What goes to the client goes up.
        let (up, received) = down.bytes;
        if !down.was_up {
            self.0.strangers.leave(down.peer);
            // Whom this side turned away was spoken of then, and nobody is refused by a gateway that stops.
            if !down.by_us {
                self.refused(down.peer, via, tunnel.label(), down.fatal, &down.why);
            }
            return;
        }
        // Without groups everybody is a client: an ERROR for each time would be a way to fill the log with them.
        let level = match down.on_purpose {
            _ if down.fault && self.0.faults.note(down.peer, rt::now()).said.is_some() => log::Level::Error,
            true => self.0.aloud(down.peer, log::Level::Info),
            false => self.0.aloud(down.peer, log::Level::Warn),
        };
        log::log!(level, event = "tun_down", tun = tunnel.label(), peer = crate::shown(down.peer), via, group,
            dur_ms = down.lived.as_millis() as u64, up, down = received, streams = down.stats.streams_opened,
            refused = down.stats.streams_refused, late = down.stats.late_frames,
            dgram_drop = down.stats.datagrams_dropped, ws_ctl = down.ws_control; "{}", down.why);
        if left == Some(0) {
            // The loss was said above, as loudly as it deserves.
            log::log!(self.0.aloud(down.peer, log::Level::Info), event = "group_empty", group; "no client is left");
        }
    }
}

#[cfg(test)]
mod tests;
