//! One run: a gateway, clients, users and targets, what goes wrong, and what must hold all the same.
//!
//! ```text
//!   talk ── users come, things go wrong ──▶ calm ── all are back ──▶ probes: each way in works
//!        ──▶ rest ── nothing is left of any stream ──▶ stop ── nothing is left at all
//! ```
//! | it must hold | looked at |
//! |---|---|
//! | what is heard is what was said, in order, and after a clean end all of it | with every byte |
//! | no stream is broken without a reason | at its end |
//! | frames keep the rules of the protocol (see `tap`) | with every frame |
//! | everything comes to an end in time | all along |
//! | after what went wrong, each way in works again | at the probes |
//! | no process has more timers than it has uses for, or bytes in buffers and sessions than it may | all along, now and then |
//! | no stream, connection or timer is left, and no byte in a buffer | at rest, and after the stop |

pub(crate) mod bytes;
pub(crate) mod flood;
pub(crate) mod logins;
mod people;
mod plan;
mod tap;
mod udp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use simulated::access::AccessLog;
use simulated::client;
use simulated::gateway::{self, Gateway};
use simulated::limits::STREAMS_MAX;
use simulated::proto::credentials::Credentials;
use simulated::proto::frame::{Network, PortRequest};
use simulated::proto::target::{Rules, Target as Address};
use simulated::rt::{self, Remote, TcpListener, Weather};
use simulated::times::Times;
use simulated::tunnel::CarrierContext;

use people::{StreamState, Target, User};
use plan::{Fault, Plan, StreamPlan, Way};
use tap::Tap;

const fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const TUNNEL: SocketAddr = at(GATEWAY, 8443);
const HTTP: SocketAddr = at(GATEWAY, 8088);
const SOCKS: SocketAddr = at(GATEWAY, 1080);
const FORWARD: SocketAddr = at(GATEWAY, 7000);
const FORWARD_UDP: SocketAddr = at(GATEWAY, 7001);
/// Each port of it is the target of one stream.
const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const TARGET_ALL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const PORT_FIRST: u16 = 10_000;
/// The target of the forwarded ports.
const FORWARD_TARGET: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

fn target_name() -> String {
    "target.test".into()
}

/// So often the processes are looked at.
const LOOK_STEPS: u64 = 64;
/// What a connection may have in its buffers: above the marks of relay and tunnel, what one turn brings.
const BUFFERED_BYTES: usize = 512 * 1024;
/// A PING, or its answer, that is under way in pieces.
const PING_BYTES: usize = 64;
/// No run takes more steps; one that does goes round in circles.
const STEPS: u64 = 3_000_000;
/// By then all streams of a run have come to an end.
const TALK: Duration = Duration::from_secs(400);
/// By then a client is back after the worst.
const CALM: Duration = Duration::from_secs(100);
/// By then a probe is through.
const PROBE: Duration = Duration::from_secs(20);
/// By then nothing is left: what lingers longest is an idle flow of UDP.
const REST: Duration = Duration::from_secs(90);
const GRACE: Duration = Duration::from_millis(500);

/// What the people of a run have in common.
pub(crate) struct Shared {
    streams: Mutex<Vec<StreamState>>,
    finding: Mutex<Option<String>>,
}

impl Shared {
    fn stream<R>(&self, id: u32, with: impl FnOnce(&mut StreamState) -> R) -> R {
        with(&mut self.streams.lock()[id as usize])
    }

    fn try_stream<R>(&self, id: u32, with: impl FnOnce(&mut StreamState) -> R) -> Option<R> {
        self.streams.lock().get_mut(id as usize).map(with)
    }

    /// Something that must not be. The first one counts.
    fn finding(&self, what: String) {
        self.finding.lock().get_or_insert(what);
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) finding: Option<String>,
    /// The number that stands for everything that happened, and how much that was.
    pub(crate) trace: (u64, u64),
    /// Streams that came to their end in both directions; all of them; bytes that were heard.
    pub(crate) whole: usize,
    pub(crate) streams: usize,
    pub(crate) bytes: u64,
}

/// Bytes in the sessions of a process, all of them within their limits.
fn carried(process: &Remote) -> Held<usize> {
    let mut held = Ok(0);
    rt::contexts(process, |context| {
        if let (Some(carrier), Ok(sum)) = (context.downcast_ref::<CarrierContext>(), &mut held) {
            match carrier.held_bytes() {
                Ok(bytes) => *sum += bytes,
                Err(what) => held = Err(format!("a session holds too much: {what}")),
            }
        }
    });
    held
}

/// A process that can be there or not.
struct Place {
    process: Option<Remote>,
    /// When it comes back.
    back_at: Option<u64>,
}

struct World {
    plan: Plan,
    shared: Arc<Shared>,
    people: Remote,
    gateway: Place,
    /// The gateway's own, while it runs.
    running: Option<Gateway>,
    clients: Vec<Place>,
    access: AccessLog,
    tap: Tap,
    udp: udp::Users,
    steps: u64,
}

type Held<T = ()> = Result<T, String>;

/// A client of that gateway.
fn client_config(gateway: SocketAddr, name: &str, replicas: usize) -> Held<client::Config> {
    let allow = ["10.1.0.0/16".to_owned(), "target.test".to_owned()];
    let forward = |network, port: SocketAddr, target_port| PortRequest {
        network,
        port: port.port(),
        host: FORWARD_TARGET.to_string(),
        target_port,
    };
    Ok(client::Config {
        gateways: vec![client::Gateway {
            target: Address::from_address(gateway.ip(), gateway.port()).map_err(|error| error.to_string())?,
            tls: None,
        }],
        replicas,
        times: Times::default(),
        streams_max: STREAMS_MAX,
        group: String::new(),
        secret: None,
        name: name.into(),
        rules: Rules::parse(&allow, &[]).map_err(|error| error.to_string())?,
        forwards: vec![forward(Network::Tcp, FORWARD, 9000), forward(Network::Udp, FORWARD_UDP, 9001)],
        windows: Arc::default(),
        on_up: Box::new(|| rt::note("up", 0, 0)),
    })
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, prints: bool) -> Outcome {
    rt::begin(seed);
    if prints {
        rt::print_trace();
    }
    let plan = Plan::draw(seed);
    if prints {
        eprintln!("{plan:#?}");
    }
    let shared = Arc::new(Shared { streams: Mutex::default(), finding: Mutex::default() });
    let held = catch_unwind(AssertUnwindSafe(|| World::new(plan, shared.clone()).live()));
    let finding = match held {
        Ok(Ok(())) => None,
        Ok(Err(finding)) => Some(finding),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Some(format!("panicked: {text}"))
        }
    };
    let trace = rt::trace();
    rt::end();
    let streams = shared.streams.lock();
    Outcome {
        finding,
        trace,
        whole: streams.iter().filter(|state| state.is_whole()).count(),
        streams: streams.len(),
        bytes: streams.iter().map(|state| state.up.received + state.down.received).sum(),
    }
}

impl World {
    fn new(plan: Plan, shared: Arc<Shared>) -> World {
        let people = rt::spawn("people", Ipv4Addr::new(10, 9, 0, 1));
        rt::set_name(&target_name(), &[TARGET]);
        rt::set_late_max(plan.late);
        rt::set_weather(TUNNEL, Weather { tapped: true, ..plan.tunnel.clone() });
        for addr in [HTTP, SOCKS, FORWARD] {
            rt::set_weather(addr, plan.users.clone());
        }
        for addr in [at(TARGET_ALL, 0), at(FORWARD_TARGET, 9000)] {
            rt::set_weather(addr, plan.targets.clone());
        }
        let clients = (0..plan.clients).map(|_| Place { process: None, back_at: None }).collect();
        World {
            tap: Tap::default(),
            udp: udp::Users::new(&plan, people.clone()),
            plan,
            shared,
            people,
            gateway: Place { process: None, back_at: None },
            running: None,
            clients,
            access: AccessLog::default(),
            steps: 0,
        }
    }

    fn live(mut self) -> Held {
        let targets = TcpListener::bind_all(TARGET_ALL).map_err(|error| error.to_string())?;
        let target = || Target { shared: self.shared.clone() };
        self.people.serve(targets, target()).map_err(|error| error.to_string())?;
        let forwards = TcpListener::bind(at(FORWARD_TARGET, 9000)).map_err(|error| error.to_string())?;
        self.people.serve(forwards, target()).map_err(|error| error.to_string())?;
        self.udp.serve(at(FORWARD_TARGET, 9001))?;
        self.start_gateway()?;
        for which in 0..self.clients.len() {
            self.start_client(which)?;
        }
        self.talk()?;
        self.calm()?;
        self.probe()?;
        self.rest()?;
        self.stop()
    }

    // ---- the parts of a run

    /// Users come, and things go wrong.
    fn talk(&mut self) -> Held {
        let mut begins: Vec<(Duration, StreamPlan)> =
            std::mem::take(&mut self.plan.streams).into_iter().map(|plan| (plan.begins, plan)).collect();
        begins.sort_by_key(|(begins, _)| std::cmp::Reverse(*begins));
        let mut faults = std::mem::take(&mut self.plan.faults);
        faults.sort_by_key(|(begins, _)| std::cmp::Reverse(*begins));
        let end = TALK.as_nanos() as u64;
        loop {
            let next = |begins: Option<Duration>| begins.map_or(u64::MAX, |begins| begins.as_nanos() as u64);
            let stream = next(begins.last().map(|(begins, _)| *begins));
            let fault = next(faults.last().map(|(begins, _)| *begins));
            let until = stream.min(fault).min(self.udp.next_at());
            let busy = until < u64::MAX || !self.is_quiet();
            if !busy {
                return Ok(());
            }
            if rt::now_ns() > end {
                return Err(format!("stuck: {}", self.undone()));
            }
            if until > rt::now_ns() && self.step_until(until)? {
                continue;
            }
            rt::advance_to(until.min(rt::next_at().unwrap_or(until)));
            if until == u64::MAX {
                continue;
            }
            if stream == until
                && let Some((_, plan)) = begins.pop()
            {
                self.begin_stream(plan);
            } else if fault == until
                && let Some((_, fault)) = faults.pop()
            {
                self.happen(fault);
            } else {
                self.udp.send();
            }
        }
    }

    /// Everybody comes back, and there is time to see that.
    fn calm(&mut self) -> Held {
        rt::clear_up();
        let end = rt::now_ns() + CALM.as_nanos() as u64;
        while self.step_until(end)? {}
        Ok(())
    }

    /// Each way in works again.
    fn probe(&mut self) -> Held {
        let first = self.shared.streams.lock().len();
        for way in [Way::Connect, Way::Socks, Way::Forward] {
            self.begin_stream(plan::probe(way));
        }
        let end = rt::now_ns() + PROBE.as_nanos() as u64;
        while !self.is_quiet() && self.step_until(end)? {}
        for (id, state) in self.shared.streams.lock().iter().enumerate().skip(first) {
            if !state.is_whole() {
                let why = state.refused.as_deref().unwrap_or("it hangs");
                return Err(format!(
                    "stream {id}, a probe by {:?}, did not come through: {why}",
                    state.plan.way
                ));
            }
        }
        Ok(())
    }

    /// Nothing is left of any stream.
    fn rest(&mut self) -> Held {
        let end = rt::now_ns() + REST.as_nanos() as u64;
        while self.step_until(end)? {}
        let gateway = self.gateway.process.as_ref().ok_or("the gateway is there")?;
        let streams = self.running.as_ref().map_or(0, Gateway::stream_count);
        let counts = rt::counts(gateway);
        let carriers = self.clients.len() * self.plan.replicas;
        // One timer says now and then how it goes.
        let held = carried(gateway)?;
        if streams > 0
            || counts.connections != carriers
            || counts.timers > 1
            || counts.buffered + held > PING_BYTES * carriers
        {
            return Err(format!(
                "the gateway at rest has {streams} streams, {carriers} tunnels with {held} bytes and {counts:?}"
            ));
        }
        for client in &self.clients {
            let process = client.process.as_ref().ok_or("the client is there")?;
            let (counts, held) = (rt::counts(process), carried(process)?);
            // As the gateway; and one client asks again and again for the ports that the other one has.
            let asks = if self.clients.len() > 1 { 2 } else { 0 };
            if counts.connections != self.plan.replicas
                || counts.timers > 1 + asks
                || counts.tasks > 0
                || counts.buffered + held > PING_BYTES * self.plan.replicas
            {
                return Err(format!("a client at rest has {held} bytes in its tunnels and {counts:?}"));
            }
        }
        self.tap.at_rest()?;
        self.check_access()
    }

    /// All are told to stop; nothing is left at all.
    fn stop(&mut self) -> Held {
        let processes: Vec<Remote> =
            self.clients.iter().chain([&self.gateway]).filter_map(|place| place.process.clone()).collect();
        processes.iter().for_each(|process| rt::stop(process, GRACE));
        let end = rt::now_ns() + 4 * GRACE.as_nanos() as u64;
        while self.step_until(end)? {}
        for process in &processes {
            let counts = rt::counts(process);
            if counts != rt::Counts::default() {
                return Err(format!("{} has stopped and has {counts:?}", rt::name_of(process)));
            }
        }
        Ok(())
    }

    // ---- what happens

    /// One step, unless the next is later than that; then the world is as it was.
    fn step_until(&mut self, until: u64) -> Held<bool> {
        let back = self.clients.iter().chain([&self.gateway]).filter_map(|place| place.back_at).min();
        let back = back.unwrap_or(u64::MAX);
        let next = rt::next_at().unwrap_or(u64::MAX);
        if back <= next.min(until) {
            self.come_back(back)?;
            return Ok(true);
        }
        if next >= until {
            return Ok(false);
        }
        rt::step();
        self.steps += 1;
        if self.steps > STEPS {
            return Err("it goes round in circles".into());
        }
        self.tap.look()?;
        if self.steps.is_multiple_of(LOOK_STEPS) {
            self.look_at_processes()?;
        }
        if let Some(finding) = self.udp.finding() {
            return Err(finding);
        }
        match self.shared.finding.lock().take() {
            Some(finding) => Err(finding),
            None => Ok(true),
        }
    }

    fn begin_stream(&mut self, plan: StreamPlan) {
        let door = User::door(plan.way);
        let stream = {
            let mut streams = self.shared.streams.lock();
            streams.push(StreamState::new(plan));
            streams.len() as u32 - 1
        };
        rt::note("begin", u64::from(stream), 0);
        let user = User { shared: self.shared.clone(), stream };
        if let Err(error) = self.people.dial(door, Duration::from_secs(20), user) {
            self.shared.finding(format!("a user cannot dial: {error}"));
        }
    }

    fn happen(&mut self, fault: Fault) {
        let now = rt::now_ns();
        let nanos = |time: Duration| now + time.as_nanos() as u64;
        match fault {
            Fault::Lose => rt::links_to(TUNNEL).into_iter().for_each(rt::lose),
            Fault::Silence => rt::links_to(TUNNEL).into_iter().for_each(rt::silence),
            Fault::Stall(time) => rt::links_to(TUNNEL).into_iter().for_each(|link| rt::stall(link, time)),
            Fault::LoseAt(bytes) => {
                rt::change_weather(TUNNEL, |weather| weather.loses = Some(bytes));
                rt::links_to(TUNNEL).into_iter().for_each(rt::lose);
            }
            Fault::LoseUserAt(bytes) => rt::change_weather(HTTP, |weather| weather.loses = Some(bytes)),
            Fault::LoseTargetAt(bytes) => {
                rt::change_weather(at(FORWARD_TARGET, 9000), |weather| weather.loses = Some(bytes));
            }
            Fault::KillGateway { silently, back } => {
                if let Some(process) = self.gateway.process.take() {
                    self.running = None;
                    rt::kill(&process, silently);
                    self.gateway.back_at = Some(nanos(back));
                }
            }
            Fault::KillClient { which, silently, back } => {
                if let Some(process) = self.clients[which].process.take() {
                    rt::kill(&process, silently);
                    self.clients[which].back_at = Some(nanos(back));
                }
            }
            Fault::StopGateway { back } => {
                if let Some(process) = self.gateway.process.take() {
                    self.running = None;
                    rt::stop(&process, GRACE);
                    self.gateway.back_at = Some(nanos(back.max(2 * GRACE)));
                }
            }
            Fault::StopClient { which, back } => {
                if let Some(process) = self.clients[which].process.take() {
                    rt::stop(&process, GRACE);
                    self.clients[which].back_at = Some(nanos(back.max(2 * GRACE)));
                }
            }
            Fault::Refuse(dials) => rt::change_weather(TUNNEL, |weather| weather.refusals = dials),
        }
    }

    /// Who is due comes back.
    fn come_back(&mut self, due: u64) -> Held {
        rt::advance_to(due);
        if self.gateway.back_at.take_if(|at| *at <= due).is_some() {
            self.start_gateway()?;
        }
        for which in 0..self.clients.len() {
            if self.clients[which].back_at.take_if(|at| *at <= due).is_some() {
                self.start_client(which)?;
            }
        }
        Ok(())
    }

    fn start_gateway(&mut self) -> Held {
        let process = rt::spawn("gateway", GATEWAY);
        let config = gateway::Config {
            tunnel: TUNNEL,
            http: HTTP,
            socks: Some(SOCKS),
            clients: Arc::new(Credentials::new()),
            users: Arc::new(Credentials::new()),
            group: String::new(),
            tls: None,
            streams_max: STREAMS_MAX,
            times: Times::default(),
            access: self.access.clone(),
            windows: Arc::default(),
        };
        self.running =
            Some(Gateway::start(process.clone(), config).map_err(|error| format!("the gateway: {error}"))?);
        self.gateway.process = Some(process);
        Ok(())
    }

    fn start_client(&mut self, which: usize) -> Held {
        let process = rt::spawn("client", Ipv4Addr::new(10, 2, 0, which as u8 + 1));
        let config = client_config(TUNNEL, &format!("client{which}"), self.plan.replicas)?;
        client::start(process.clone(), config).map_err(|error| format!("a client: {error}"))?;
        self.clients[which].process = Some(process);
        Ok(())
    }

    // ---- looking

    /// No process has more timers, or more bytes in the buffers of its connections and in its sessions, than what it is doing
    /// accounts for.
    fn look_at_processes(&self) -> Held {
        for process in self.clients.iter().chain([&self.gateway]).filter_map(|place| place.process.as_ref()) {
            let counts = rt::counts(process);
            carried(process)?;
            // A forwarded UDP port has one, for a while also when it is closed; look-ups, retries and the next tunnel have theirs;
            // and one says how it goes.
            let timers =
                if rt::name_of(process) == "gateway" { 8 } else { 6 + self.shared.streams.lock().len() };
            let buffered = counts.connections * BUFFERED_BYTES;
            if counts.timers > timers || counts.buffered > buffered {
                return Err(format!("a {} has {counts:?}", rt::name_of(process)));
            }
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        self.shared.streams.lock().iter().all(StreamState::is_done)
    }

    fn undone(&self) -> String {
        let streams = self.shared.streams.lock();
        let undone = streams.iter().enumerate().filter(|(_, state)| !state.is_done());
        undone.map(|(id, state)| format!("stream {id}: {state:?}")).collect::<Vec<_>>().join("; ")
    }

    /// Every stream that came to its end has one line, and it says how many bytes there were.
    fn check_access(&self) -> Held {
        let lines = self.access.take();
        for (id, state) in self.shared.streams.lock().iter().enumerate().filter(|(_, state)| state.is_whole())
        {
            let mut found = lines.iter().filter(|line| line.cli.is_some() && line.cli == state.user);
            let Some(line) = found.next() else { return Err(format!("stream {id} has no line")) };
            if found.next().is_some() {
                return Err(format!("stream {id} has two lines"));
            }
            if (line.up, line.down) != (state.up.sent, state.down.sent) {
                let (up, down) = (state.up.sent, state.down.sent);
                return Err(format!("stream {id}: {up} up and {down} down, and its line says {line:?}"));
            }
        }
        Ok(())
    }
}
