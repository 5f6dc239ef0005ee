//! A client's tunnels: what [`Slots`] decides is done here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::keyring::{Ask, Keyring};
use super::missed::Missed;
use super::reconnect::Ended;
use super::resolve::Resolver;
use super::slots::{Attempt, Slots};
use super::stats;
use super::upstream::{self, Ways};
use super::{Config, Gateway};
use crate::limits::{
    GATEWAY_CONNECT_TIMEOUT_MS, GATEWAYS_MAX, PORT_RETRY_MAX_MS, PORT_RETRY_MS, TARGET_LOOKUP_THREADS_MAX,
    TUNNELS_LEFT_MAX,
};
use crate::proto::derive::{Recipe, derive};
use crate::proto::frame::{GoAwayCode, Network, PortError, PortRequest};
use crate::proto::session::{ClientConfig, Event, Peer, Session};
use crate::proto::ws::{TUNNEL_PATH, WebSocket};
use crate::refused::Refusals;
use crate::rt::{self, Remote, Timer};
use crate::tls::{self, Tls};
use crate::tunnel::{Carrier, Down, Side, Totals, Tunnel};

/// Everything that the tunnels of a client share.
pub(super) struct Fleet {
    pub(super) remote: Remote,
    config: Config,
    ways: Arc<Ways>,
    /// The keys that were derived of the secret.
    keys: Mutex<Keyring<Weak<Tunnel>>>,
    /// Looks up gateways.
    resolver: Resolver,
    state: Mutex<State>,
    /// By gateway: what was said of one that cannot be had.
    missed: Vec<Mutex<Missed>>,
    /// By gateway: how often each port was refused in a row. Invariant: as many entries as there are forwards, at most.
    refusals: Vec<Mutex<HashMap<(Network, u16), Refusal>>>,
    /// What all tunnels counted.
    totals: Totals,
}

/// What came of asking a gateway for a port.
#[derive(Default)]
struct Refusal {
    /// How often it said no since the tunnel is there.
    count: u32,
    /// Asks again, if it has not yet.
    again: Option<Timer>,
}

struct State {
    slots: Slots,
    /// By slot: what ends its wait. Its attempt's number tells whether that is still the wait.
    timers: Vec<Option<(u64, Timer)>>,
    /// By slot: its tunnel, while that is up.
    tunnels: Vec<Option<Arc<Tunnel>>>,
    /// Tunnels that are up, also those that their slots have left behind.
    alive: Vec<Arc<Tunnel>>,
}

/// Starts all tunnels of a client.
pub(super) fn start(remote: Remote, config: Config) -> io::Result<()> {
    // Each tells its tunnels from those of the others, and of the process that ran before this one.
    let instances = (0..config.replicas).map(|_| rt::random()).collect::<io::Result<Vec<u64>>>()?;
    let (replicas, gateways) = (config.replicas, config.gateways.len());
    let state = State {
        slots: Slots::new(gateways, instances),
        timers: (0..replicas).map(|_| None).collect(),
        tunnels: vec![None; replicas],
        alive: Vec::new(),
    };
    let fleet = Arc::new(Fleet {
        ways: Arc::new(Ways {
            remote: remote.clone(),
            rules: config.rules.clone(),
            times: config.times,
            resolver: Resolver::system(remote.clone(), TARGET_LOOKUP_THREADS_MAX),
            forbidden: Refusals::default(),
            without_socket: Refusals::default(),
        }),
        // Not behind names of targets nor one behind another, and asked for anew each time: a gateway may have moved.
        resolver: Resolver::system_uncached(remote.clone(), GATEWAYS_MAX),
        keys: Mutex::default(),
        state: Mutex::new(state),
        missed: (0..gateways).map(|_| Mutex::default()).collect(),
        refusals: (0..gateways).map(|_| Mutex::default()).collect(),
        totals: Totals::default(),
        config,
        remote,
    });
    stats::watch(&fleet, stats::Line::default());
    let waiting = fleet.state.lock().slots.waiting();
    waiting.into_iter().for_each(|after| fleet.connect(after));
    Ok(())
}

impl Fleet {
    fn gateway(&self, attempt: Attempt) -> &Gateway {
        &self.config.gateways[attempt.gateway]
    }

    /// How it goes.
    pub(super) fn line(&self) -> stats::Line {
        let alive = self.state.lock().alive.clone();
        alive.iter().for_each(|tunnel| self.totals.take(tunnel));
        stats::Line {
            conns: alive.iter().map(|tunnel| tunnel.stream_count()).sum(),
            tun: alive.len(),
            tally: self.totals.get(),
            forbidden: self.ways.forbidden.total(),
        }
    }

    /// The next attempt of a slot that waits since that one, if it still does.
    fn connect(self: &Arc<Fleet>, after: Attempt) {
        if self.remote.is_stopping() {
            return;
        }
        let (attempt, timer) = {
            let state = &mut *self.state.lock();
            let Some(attempt) = state.slots.begin(after) else { return };
            (attempt, state.timers[attempt.slot].take())
        };
        if let Some((_, timer)) = timer {
            timer.cancel();
        }
        // One of many is nobody's news; that a lost tunnel is on its way back is.
        let level = if attempt.returns { log::Level::Info } else { log::Level::Debug };
        log::log!(level, event = "tun_dial", tun = label(attempt).as_str(), gateway:% = self.gateway(attempt).target; "connecting");
        let fleet = self.clone();
        self.resolver.resolve(&self.gateway(attempt).target, move |found| match found {
            Ok(addresses) => fleet.dial(attempt, addresses),
            Err(why) => fleet.failed(attempt, &format!("the gateway's name gave no address: {why}"), false),
        });
    }

    fn dial(self: &Arc<Fleet>, attempt: Attempt, mut addresses: Vec<SocketAddr>) {
        // All of them in one attempt, and another one first each time.
        let first = attempt.number as usize % addresses.len();
        addresses.rotate_left(first);
        let timeout = Duration::from_millis(GATEWAY_CONNECT_TIMEOUT_MS);
        let side = Arc::new(ClientSide { fleet: self.clone(), attempt });
        if let Err(error) = self.remote.dial(addresses, timeout, Carrier(side)) {
            self.failed(
                attempt,
                &format!("no connection to {}: {error}", self.gateway(attempt).target),
                false,
            );
        }
    }

    /// No tunnel came of it: says so where it is news, and tries again later.
    fn failed(self: &Arc<Fleet>, attempt: Attempt, why: &str, fatal: bool) {
        let gateway = &self.gateway(attempt).target;
        let news = !self.remote.is_stopping() && self.missed[attempt.gateway].lock().fails(fatal, rt::now());
        let left = if self.state.lock().alive.is_empty() { "; no tunnel is up" } else { "" };
        match (news, fatal) {
            (false, _) => log::debug!(event = "connect", gateway:% = gateway; "{why}"),
            (true, true) => {
                log::error!(event = "tun_auth_fail", gateway:% = gateway; "{why}{left}; trying again, but somebody has to mend this")
            }
            (true, false) => log::warn!(event = "connect", gateway:% = gateway; "{why}{left}; trying again"),
        }
        self.again(attempt, if fatal { Ended::Refused } else { Ended::Failed });
    }

    /// An attempt has ended, one way or another: another one follows.
    fn again(self: &Arc<Fleet>, attempt: Attempt, ended: Ended) {
        self.stops_asking(attempt);
        let (then, asks) = {
            let state = &mut *self.state.lock();
            // A tunnel that was left behind has its successor.
            let Some(then) = state.slots.ended(attempt, ended, jitter()) else { return };
            state.tunnels[attempt.slot] = None;
            let asks = then.asks.and_then(|slot| state.tunnels[slot].clone());
            (then, asks)
        };
        if self.remote.is_stopping() {
            return;
        }
        if let Some(tunnel) = asks {
            self.request_ports(attempt.gateway, &tunnel);
        }
        self.connect_after(then.wait, attempt, then.waiting);
    }

    /// Ends the wait after an attempt when `wait` has passed, and with it what `others` wait.
    fn connect_after(self: &Arc<Fleet>, wait: Duration, attempt: Attempt, others: Vec<Attempt>) {
        let fleet = self.clone();
        let connect = move || {
            fleet.connect(attempt);
            others.into_iter().for_each(|after| fleet.connect(after));
        };
        if wait.is_zero() {
            return connect();
        }
        match self.remote.after(wait, connect) {
            Ok(timer) => self.state.lock().keep(attempt, timer),
            // Only an event loop that is stopping has no timer for it.
            Err(error) => log::debug!(event = "connect"; "not trying again: {error}"),
        }
    }

    fn request_ports(&self, gateway: usize, tunnel: &Arc<Tunnel>) {
        self.forget_refusals(gateway);
        for request in &self.config.forwards {
            request_port(tunnel, request.clone());
        }
    }

    /// A tunnel is gone, or about to: if it was the one that asks for ports, it does not ask again.
    fn stops_asking(&self, attempt: Attempt) {
        let asked = self.state.lock().slots.asks(attempt);
        if asked {
            self.forget_refusals(attempt.gateway);
        }
    }

    /// Whoever asked is gone, or asks for all of them anew.
    fn forget_refusals(&self, gateway: usize) {
        let refusals = std::mem::take(&mut *self.refusals[gateway].lock());
        refusals.into_values().filter_map(|refusal| refusal.again).for_each(|timer| {
            timer.cancel();
        });
    }

    /// Says so once, and asks again, less and less often.
    fn port_refused(
        self: &Arc<Fleet>,
        attempt: Attempt,
        tunnel: &Arc<Tunnel>,
        request: PortRequest,
        error: PortError,
    ) {
        let port = request.port;
        if !self.state.lock().slots.asks(attempt) {
            // It was asked for before the gateway said that it leaves: whoever asks now is answered by another.
            return log::debug!(event = "fwd_fail", tun = tunnel.label(), port; "the gateway did not open the port: {error}; it is leaving");
        }
        let refusals = {
            let mut refusals = self.refusals[attempt.gateway].lock();
            let refusal = refusals.entry((request.network, port)).or_default();
            refusal.count = refusal.count.saturating_add(1);
            refusal.count
        };
        let level = if refusals == 1 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, event = "fwd_fail", tun = tunnel.label(), port; "the gateway did not open the port: {error}; trying again");
        let wait_ms = (PORT_RETRY_MS << (refusals - 1).min(16)).min(PORT_RETRY_MAX_MS);
        // A tunnel that is gone by then is gone: this is no reason to keep what it had.
        let (fleet, tunnel, key) = (self.clone(), Arc::downgrade(tunnel), (request.network, port));
        let again = move || {
            if let Some(tunnel) = Weak::upgrade(&tunnel)
                && fleet.state.lock().slots.asks(attempt)
            {
                request_port(&tunnel, request);
            }
        };
        match self.remote.after(Duration::from_millis(wait_ms), again) {
            Ok(timer) => {
                // Where it was forgotten meanwhile, the timer finds that nobody asks any more.
                if let Some(refusal) = self.refusals[attempt.gateway].lock().get_mut(&key) {
                    refusal.again = Some(timer);
                }
            }
            Err(error) => log::debug!(event = "fwd_fail", port; "not trying again: {error}"),
        }
    }
}

impl State {
    /// The oldest of the tunnels that were left behind, where there are too many of them: their gateways said that they leave.
    fn one_too_many(&self) -> Option<Arc<Tunnel>> {
        let is_left =
            |tunnel: &&Arc<Tunnel>| !self.tunnels.iter().flatten().any(|used| Arc::ptr_eq(used, tunnel));
        let mut left = self.alive.iter().filter(is_left);
        let oldest = left.next()?.clone();
        // One of each slot may be left at once, where all their gateways stop together.
        (left.count() >= TUNNELS_LEFT_MAX.max(self.tunnels.len())).then_some(oldest)
    }

    /// The timer that ends the wait after an attempt, unless something else has ended it already.
    fn keep(&mut self, after: Attempt, timer: Timer) {
        if self.slots.waits(after) {
            self.timers[after.slot] = Some((after.number, timer));
        }
    }
}

/// An evenly drawn number for a wait.
fn jitter() -> u32 {
    match rt::random() {
        Ok(random) => random as u32,
        Err(error) => {
            log::debug!(event = "connect"; "no random numbers, no jitter: {error}");
            u32::MAX / 2
        }
    }
}

/// What a tunnel is called in the logs, from its attempt on.
fn label(attempt: Attempt) -> String {
    format!("g{}", attempt.number)
}

fn request_port(tunnel: &Arc<Tunnel>, request: PortRequest) {
    let port = request.port;
    let asked = tunnel.exchange(|session| session.is_up().then(|| session.request_port(request)));
    // A tunnel that has gone has a successor that asks.
    if let Some(Err(error)) = asked {
        log::warn!(event = "fwd_fail", port; "a port cannot be asked for: {error:?}");
    }
}

/// The client's end of one tunnel.
struct ClientSide {
    fleet: Arc<Fleet>,
    attempt: Attempt,
}

impl ClientSide {
    fn gateway(&self) -> &Gateway {
        self.fleet.gateway(self.attempt)
    }
}

impl ClientSide {
    /// Derives the keys that a gateway asks for, unless that is done or under way, and hands them to the session.
    fn derive(&self, tunnel: &Arc<Tunnel>, recipe: Recipe) {
        let Some(secret) = self.fleet.config.secret.clone() else { return };
        let asked = self.fleet.keys.lock().ask(recipe, Arc::downgrade(tunnel));
        match asked {
            Ask::Known(keys) => return tunnel.exchange(|session| session.derived(&recipe, &keys)),
            Ask::Wait => return,
            Ask::Full => {
                return log::debug!(event = "limit_hit", limit = "derivations", tun = tunnel.label();
                    "too many keys are being derived");
            }
            Ask::Derive => {}
        }
        let fleet = self.fleet.clone();
        let task = move || {
            let keys = match derive(&secret, &recipe) {
                Ok(keys) => keys,
                Err(error) => {
                    // Whoever waits has its handshake's limit, and asks again the next time.
                    fleet.keys.lock().given_up(recipe);
                    return log::warn!(event = "connect"; "no key for the gateway: {error}");
                }
            };
            let waiting = fleet.keys.lock().derived(recipe, keys.clone());
            for tunnel in waiting.iter().filter_map(Weak::upgrade) {
                tunnel.exchange(|session| session.derived(&recipe, &keys));
            }
        };
        if let Err(error) = self.fleet.remote.spawn_blocking(task) {
            self.fleet.keys.lock().given_up(recipe);
            log::debug!(event = "connect", tun = tunnel.label(); "no key for the gateway: {error}");
        }
    }
}

impl Side for ClientSide {
    fn tls(&self) -> Result<Option<Tls>, rt::tls::Error> {
        self.gateway().tls.as_ref().map(tls::Client::connect).transpose()
    }

    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let Attempt { instance, generation, .. } = self.attempt;
        let config = &self.fleet.config;
        let config = ClientConfig {
            name: config.name.clone(),
            group: config.group.clone(),
            secret: config.secret.clone(),
            instance,
            generation,
            nonce: rt::nonce()?,
        };
        let mut session = Session::client(config, rt::now()).with_budget(self.fleet.config.windows.clone());
        session.limit_streams(self.fleet.config.streams_max);
        let ws = WebSocket::client(&self.gateway().target.to_string(), TUNNEL_PATH, rt::nonce()?);
        Ok((ws, Tunnel::new(session, label(self.attempt))))
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        let fleet = &self.fleet;
        fleet.missed[self.attempt.gateway].lock().is_back();
        let tls = tunnel.exchange(|session| session.peer().is_some_and(Peer::has_tls));
        log::info!(event = "tun_up", tun = tunnel.label(), gateway:% = self.gateway().target,
            group = fleet.config.group.as_str(), tls; "the gateway is there");
        let (up, left) = {
            let state = &mut *fleet.state.lock();
            state.alive.push(tunnel.clone());
            let up = state.slots.up(self.attempt);
            if up.is_some() {
                state.tunnels[self.attempt.slot] = Some(tunnel.clone());
            }
            (up, state.one_too_many())
        };
        if let Some(left) = left {
            left.exchange(|session| session.close(GoAwayCode::Stop, "too many tunnels are left behind"));
        }
        if let Some(up) = up {
            if up.asks {
                fleet.request_ports(self.attempt.gateway, tunnel);
            }
            up.waiting.into_iter().for_each(|after| fleet.connect(after));
        }
        (fleet.config.on_up)();
    }

    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event) {
        let fleet = &self.fleet;
        match event {
            Event::Derive(recipe) => self.derive(tunnel, recipe),
            Event::Opened(id, request) => upstream::reach(&fleet.ways, tunnel, id, request),
            Event::PortOpened { network, port, actual } => {
                fleet.refusals[self.attempt.gateway].lock().remove(&(network, port));
                log::info!(event = "fwd_open", tun = tunnel.label(), net = network.word(), port, actual; "the gateway opened a port");
            }
            Event::PortRefused { network, port, error } => {
                let ours = |request: &&PortRequest| request.network == network && request.port == port;
                if let Some(request) = fleet.config.forwards.iter().find(ours) {
                    fleet.port_refused(self.attempt, tunnel, request.clone(), error);
                }
            }
            event => log::debug!(event = "tunnel", tun = tunnel.label(); "not for a client: {event:?}"),
        }
    }

    fn on_draining(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        let fleet = &self.fleet;
        if fleet.remote.is_stopping() {
            return;
        }
        let instance = match rt::random() {
            Ok(instance) => instance,
            // Then the successor comes when the tunnel has gone.
            Err(error) => {
                return log::debug!(event = "connect"; "no random numbers, no successor yet: {error}");
            }
        };
        fleet.stops_asking(self.attempt);
        let (after, then, asks) = {
            let state = &mut *fleet.state.lock();
            let left = state.slots.drains(self.attempt, instance, tunnel.lived(), jitter());
            let Some((after, then)) = left else { return };
            state.tunnels[self.attempt.slot] = None;
            let asks = then.asks.and_then(|slot| state.tunnels[slot].clone());
            (after, then, asks)
        };
        log::info!(event = "tun_drain", tun = tunnel.label(), gateway:% = self.gateway().target; "the gateway is leaving");
        fleet.missed[self.attempt.gateway].lock().is_lost(rt::now());
        if let Some(tunnel) = asks {
            fleet.request_ports(self.attempt.gateway, &tunnel);
        }
        fleet.connect_after(then.wait, after, then.waiting);
    }

    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, down: &Down) {
        self.fleet.totals.take(tunnel);
        self.fleet.state.lock().alive.retain(|alive| !Arc::ptr_eq(alive, tunnel));
        if !down.was_up {
            return self.fleet.failed(self.attempt, &down.why, down.fatal);
        }
        // What goes to the gateway comes down.
        let (sent, up) = down.bytes;
        let expected = down.on_purpose || self.fleet.remote.is_stopping();
        let level = match expected {
            _ if down.fault => log::Level::Error,
            true => log::Level::Info,
            false => log::Level::Warn,
        };
        log::log!(level, event = "tun_down", tun = tunnel.label(), gateway:% = self.gateway().target,
            dur_ms = down.lived.as_millis() as u64, up, down = sent, streams = down.stats.streams_opened,
            refused = down.stats.streams_refused, late = down.stats.late_frames,
            dgram_drop = down.stats.datagrams_dropped, ws_ctl = down.ws_control; "{}", down.why);
        self.fleet.missed[self.attempt.gateway].lock().is_lost(rt::now());
        self.fleet.again(self.attempt, Ended::Lost { lived: down.lived });
    }
}
