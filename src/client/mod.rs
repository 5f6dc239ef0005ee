//! The private side: keeps a tunnel to the gateway, and reaches targets for it.
//!
//! ```text
//!   connect ──▶ up ──▶ lost ──┐
//!      ▲  └── failed ─────────┤
//!      └──── wait, jittered ◀─┘      for ever, until the event loop stops
//! ```

pub mod explain;
pub mod reconnect;
pub mod resolve;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits::{
    GATEWAY_CONNECT_TIMEOUT_MS, PORT_RETRY_MAX_MS, PORT_RETRY_MS, TARGET_LOOKUP_THREADS_MAX,
};
use crate::proto::budget::WindowBudget;
use crate::proto::credentials::Secret;
use crate::proto::frame::{Network, PortError, PortRequest};
use crate::proto::session::{ClientConfig, Event, Session};
use crate::proto::target::{Rules, Target};
use crate::proto::ws::{TUNNEL_PATH, WebSocket};
use crate::rt::{self, Remote};
use crate::tunnel::{Carrier, Down, Side, Tunnel};
use reconnect::{Ended, Reconnect};
use resolve::Resolver;
use upstream::Ways;

/// Which gateway a client serves, and what it lets the gateway's users reach.
pub struct Config {
    /// The gateway.
    pub gateway: Target,
    /// The group to join; empty for an open gateway.
    pub group: String,
    /// The group's secret.
    pub secret: Option<Secret>,
    /// This client's name in the logs.
    pub name: String,
    /// Which targets may be reached.
    pub rules: Rules,
    /// Ports to be opened on the gateway.
    pub forwards: Vec<PortRequest>,
    /// Called each time that the tunnel is up.
    pub on_up: Box<dyn Fn() + Send + Sync>,
}

/// Starts a client; it works until the event loop stops.
///
/// # Errors
/// When the system gives no random numbers.
pub fn start(remote: Remote, config: Config) -> io::Result<()> {
    let side = Arc::new(ClientSide {
        ways: Arc::new(Ways {
            remote: remote.clone(),
            rules: config.rules.clone(),
            resolver: Resolver::system(remote.clone(), TARGET_LOOKUP_THREADS_MAX),
        }),
        // Not behind names of targets, and asked for anew each time: the gateway may have moved.
        gateways: Resolver::system_uncached(remote.clone(), 1),
        instance: rt::random()?,
        generation: AtomicU64::new(0),
        windows: Arc::default(),
        attempts: AtomicU64::new(0),
        reconnect: Mutex::new(Reconnect::new()),
        said: AtomicU8::new(SAID_NOTHING),
        waits_for_ports: Mutex::default(),
        config,
        remote,
    });
    side.connect();
    Ok(())
}

/// The client's end of its tunnels: one at a time.
struct ClientSide {
    remote: Remote,
    config: Config,
    ways: Arc<Ways>,
    /// Looks up the gateway.
    gateways: Resolver,
    /// Tells this process from the one that ran before it.
    instance: u64,
    generation: AtomicU64,
    /// What all gateways together may be allowed to send.
    windows: Arc<WindowBudget>,
    attempts: AtomicU64,
    reconnect: Mutex<Reconnect>,
    /// How much was said of a gateway that cannot be had, while nothing has changed: one of the `SAID`s.
    said: AtomicU8,
    /// How often each port was refused in a row. Invariant: as many entries as there are forwards, at most.
    waits_for_ports: Mutex<HashMap<(Network, u16), u32>>,
}

const SAID_NOTHING: u8 = 0;
/// That the gateway is not there.
const SAID_GONE: u8 = 1;
/// That it does not let this client in, which is worse, because waiting does not help.
const SAID_REFUSED: u8 = 2;

impl ClientSide {
    fn connect(self: &Arc<ClientSide>) {
        let side = self.clone();
        self.gateways.resolve(&self.config.gateway, move |found| match found {
            Ok(addresses) => side.dial(&addresses),
            Err(why) => side.failed(&format!("the gateway's name gave no address: {why}"), false),
        });
    }

    fn dial(self: &Arc<ClientSide>, addresses: &[SocketAddr]) {
        // Another of its addresses each time, should it have several.
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) as usize;
        let addr = addresses[attempt % addresses.len()];
        let timeout = Duration::from_millis(GATEWAY_CONNECT_TIMEOUT_MS);
        if let Err(error) = self.remote.dial(addr, timeout, Carrier(self.clone())) {
            self.failed(&format!("no connection to {addr}: {error}"), false);
        }
    }

    /// No tunnel came of it: says so once, and tries again later.
    fn failed(self: &Arc<ClientSide>, why: &str, fatal: bool) {
        let gateway = &self.config.gateway;
        let saying = if fatal { SAID_REFUSED } else { SAID_GONE };
        let news = self.said.fetch_max(saying, Ordering::Relaxed) < saying && !self.remote.is_stopping();
        match (news, fatal) {
            (false, _) => log::debug!(event = "connect", gateway:% = gateway; "{why}"),
            (true, true) => {
                log::error!(event = "tun_auth_fail", gateway:% = gateway; "{why}; trying again, but somebody has to mend this")
            }
            (true, false) => log::warn!(event = "connect", gateway:% = gateway; "{why}; trying again"),
        }
        self.again(Ended::Failed);
    }

    fn again(self: &Arc<ClientSide>, ended: Ended) {
        if self.remote.is_stopping() {
            return;
        }
        let random = match rt::random() {
            Ok(random) => random as u32,
            Err(error) => {
                log::debug!(event = "connect"; "no random numbers, no jitter: {error}");
                u32::MAX / 2
            }
        };
        let wait = self.reconnect.lock().wait(ended, random);
        let side = self.clone();
        if let Err(error) = self.remote.after(wait, move || side.connect()) {
            // Only an event loop that is stopping has no timer for it.
            log::debug!(event = "connect"; "not trying again: {error}");
        }
    }

    fn request_port(self: &Arc<ClientSide>, tunnel: &Arc<Tunnel>, request: PortRequest) {
        let port = request.port;
        let asked = tunnel.exchange(|session| session.is_up().then(|| session.request_port(request)));
        // A tunnel that has gone has a successor that asks.
        if let Some(Err(error)) = asked {
            log::warn!(event = "fwd_fail", port; "a port cannot be asked for: {error:?}");
        }
    }

    /// Says so once, and asks again, less and less often.
    fn port_refused(self: &Arc<ClientSide>, tunnel: &Arc<Tunnel>, request: PortRequest, error: PortError) {
        let port = request.port;
        let refusals = {
            let mut waits = self.waits_for_ports.lock();
            let refusals = waits.entry((request.network, port)).or_default();
            *refusals = refusals.saturating_add(1);
            *refusals
        };
        let level = if refusals == 1 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, event = "fwd_fail", tun = tunnel.label(), port; "the gateway did not open the port: {error}; trying again");
        let wait_ms = (PORT_RETRY_MS << (refusals - 1).min(16)).min(PORT_RETRY_MAX_MS);
        let (side, tunnel) = (self.clone(), tunnel.clone());
        let again = move || side.request_port(&tunnel, request);
        if let Err(error) = self.remote.after(Duration::from_millis(wait_ms), again) {
            log::debug!(event = "fwd_fail", port; "not trying again: {error}");
        }
    }
}

/// A side that refers to itself, because its tunnels outlive each other.
impl Side for ClientSide {
    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let config = ClientConfig {
            name: self.config.name.clone(),
            group: self.config.group.clone(),
            secret: self.config.secret.clone(),
            instance: self.instance,
            generation,
            nonce: rt::nonce()?,
        };
        let session = Session::client(config, rt::now()).with_budget(self.windows.clone());
        let ws = WebSocket::client(&self.config.gateway.to_string(), TUNNEL_PATH, rt::nonce()?);
        Ok((ws, Tunnel::new(session, format!("g{generation}"))))
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        self.said.store(SAID_NOTHING, Ordering::Relaxed);
        self.waits_for_ports.lock().clear();
        log::info!(event = "tun_up", tun = tunnel.label(), gateway:% = self.config.gateway,
            group = self.config.group.as_str(); "the gateway is there");
        for request in &self.config.forwards {
            self.request_port(tunnel, request.clone());
        }
        (self.config.on_up)();
    }

    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event) {
        match event {
            Event::Opened(id, request) => upstream::reach(&self.ways, tunnel, id, request),
            Event::PortOpened { network, port, actual } => {
                self.waits_for_ports.lock().remove(&(network, port));
                log::info!(event = "fwd_open", tun = tunnel.label(), net = network.word(), port, actual; "the gateway opened a port");
            }
            Event::PortRefused { network, port, error } => {
                let ours = |request: &&PortRequest| request.network == network && request.port == port;
                if let Some(request) = self.config.forwards.iter().find(ours) {
                    self.port_refused(tunnel, request.clone(), error);
                }
            }
            event => log::debug!(event = "tunnel", tun = tunnel.label(); "not for a client: {event:?}"),
        }
    }

    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, down: &Down) {
        if !down.was_up {
            return self.failed(&down.why, down.fatal);
        }
        let (up, received) = down.bytes;
        let expected = down.on_purpose || self.remote.is_stopping();
        let level = if expected { log::Level::Info } else { log::Level::Warn };
        log::log!(level, event = "tun_down", tun = tunnel.label(), gateway:% = self.config.gateway,
            dur_ms = down.lived.as_millis() as u64, up, down = received; "{}", down.why);
        // It was said that the gateway is gone; that it is still gone is not news.
        self.said.fetch_max(SAID_GONE, Ordering::Relaxed);
        self.again(Ended::Lost { lived: down.lived });
    }
}
