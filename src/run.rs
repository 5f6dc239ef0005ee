//! The roles of the program: what each starts, in which order, and how it stops.
//!
//! ```text
//!   bind every listener ──▶ ready ──▶ wait for a signal ──▶ stopping ──▶ grace ──▶ flush the access log ──▶ exit 0
//!                             ▲             │ SIGHUP
//!                             └── reload ◀──┘ (what is not a gateway has nothing to load again, and says so;
//!                                              in a terminal that is gone it stops instead)
//! ```

mod files;

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{bounded, select};

use crate::access::AccessLog;
use crate::cli;
use crate::client;
use crate::gateway::{self, Gateway};
use crate::limits::{FIRST_TUNNEL_MS, STOP_GRACE_MS, STREAMS_MAX};
use crate::logfmt::{Stamp, printable};
use crate::proto::budget::WindowBudget;
use crate::proto::credentials::{Credentials, Secret};
use crate::proto::derive::{Derived, Recipe, derive};
use crate::proto::frame::{Network, PortRequest};
use crate::proto::target::{Host, Rules, Target};
use crate::rt::{self, EventLoop};
use crate::secret_file;
use crate::serve;
use crate::service::{descriptors, signals, systemd};
use crate::times::Times;
use crate::tls;
use files::Files;

/// Why a role did not start, or ended badly.
#[derive(Debug)]
pub enum Fault {
    /// What was asked for makes no sense: exit status 2.
    Usage(String),
    /// Something failed: exit status 1.
    Failed(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Failed(error.to_string())
    }
}

/// What every role has: an event loop, an access log, and signals that end it.
struct Program {
    event_loop: EventLoop,
    access: AccessLog,
    /// What all tunnels of this process may be allowed to send: one budget, also where it is both gateway and client.
    windows: Arc<WindowBudget>,
    wishes: signals::Wishes,
    /// Kept to the end: without it, signals would be taken and ignored.
    _watch: signals::Watch,
}

impl Program {
    /// One that loads nothing again.
    fn start(role: &'static str) -> io::Result<Program> {
        Program::start_with(role, signals::Hangup::of_stdin())
    }

    fn start_with(role: &'static str, hangup: signals::Hangup) -> io::Result<Program> {
        // First, so that a signal during the start is not lost.
        let (watch, wishes) = signals::watch(hangup)?;
        let event_loop = EventLoop::builder().name("anyproxy").build()?;
        let access = AccessLog::start(Box::new(io::stderr()), Stamp::of_stderr())?;
        let raised = descriptors::raise();
        let nofile = descriptors::limit().map_or_else(|| "unlimited".into(), |limit| limit.to_string());
        let version = env!("CARGO_PKG_VERSION");
        log::info!(event = "start", role, version, pid = std::process::id(), nofile = nofile.as_str(); "");
        if let Err(error) = raised {
            log::warn!(event = "start", nofile = nofile.as_str(); "the limit of descriptors cannot be raised: {error}");
        }
        Ok(Program { event_loop, access, windows: Arc::default(), wishes, _watch: watch })
    }

    /// Works until a signal, then stops gracefully.
    fn run(self, status: &str) {
        self.run_with(status, || {
            log::info!(event = "reload"; "nothing to load again: only a gateway reads its files again");
        });
    }

    /// As [`Program::run`], with what is to be done at each SIGHUP that does not stop it.
    fn run_with(self, status: &str, reload: impl Fn()) {
        log::info!(event = "ready"; "{status}");
        systemd::ready(status);
        // The watch lives as long as this, so there is always somebody to send.
        let stopped = loop {
            select! {
                recv(self.wishes.stop) -> stopped => break stopped,
                recv(self.wishes.reload) -> _ => reload(),
            }
        };
        if let Ok(signal) = stopped {
            log::info!(event = "stop", signal = signal.name(); "stopping");
        }
        systemd::stopping();
        let graceful = self.event_loop.shutdown(Duration::from_millis(STOP_GRACE_MS));
        if !self.access.close() || self.access.dropped() > 0 {
            log::warn!(event = "stop", log_drop = self.access.dropped(); "access lines were lost");
        }
        match graceful {
            true => log::info!(event = "stopped"; "everything had ended by itself"),
            false => log::info!(event = "stopped"; "what was open after {STOP_GRACE_MS} ms was closed"),
        }
    }
}

/// `anyproxy serve`.
///
/// # Errors
/// When it cannot start.
pub fn serve(config: &cli::Serve) -> Result<(), Fault> {
    let program = Program::start("serve")?;
    let listener = serve::start(&program.event_loop, config.listen)?;
    crate::announce("serve", listener.local_addr());
    let status = format!("serving http://{}/", listener.local_addr());
    program.run(&status);
    Ok(())
}

/// `anyproxy gateway`.
///
/// # Errors
/// When it cannot start.
pub fn gateway(config: cli::Gateway) -> Result<(), Fault> {
    let files = Files { group: config.group, keys: config.keys, tls: config.tls };
    let (credentials, tls) = files.load()?;
    let (credentials, is_secret) = (Arc::new(credentials), tls.is_some());
    let program = Program::start_with("gateway", signals::Hangup::Reload)?;
    let gateway = Gateway::start(
        program.event_loop.remote(),
        gateway::Config {
            tunnel: config.tunnel,
            http: config.http,
            socks: config.socks,
            clients: credentials.clone(),
            users: credentials,
            group: String::new(),
            tls,
            streams_max: config.streams_max,
            times: config.times,
            access: program.access.clone(),
            windows: program.windows.clone(),
        },
    )?;
    warn_of_plain(config.tunnel.ip().to_canonical().is_loopback(), is_secret);
    gateway.announce();
    let status = format!("clients at {}, HTTP proxy at {}", gateway.tunnel_addr(), gateway.http_addr());
    program.run_with(&status, || {
        systemd::reloading();
        files.reload(&gateway);
        systemd::ready(&status);
    });
    Ok(())
}

/// `anyproxy check`: the explanations, and whether every target would be reached.
///
/// # Errors
/// When the rules cannot be read.
pub fn check(config: &cli::Check) -> Result<(String, bool), Fault> {
    let rules = rules(&config.allow, &config.deny)?;
    if config.explain.is_empty() {
        return Ok(("the rules can be read\n".into(), true));
    }
    let explain = |target| client::explain::explain(&rules, target, client::resolve::look_up);
    let explained: Vec<_> = config.explain.iter().map(explain).collect();
    let text = explained.iter().map(|explained| explained.text.as_str()).collect();
    Ok((text, explained.iter().all(|explained| explained.reached)))
}

fn rules(allow: &[String], deny: &[String]) -> Result<Rules, Fault> {
    Rules::parse(allow, &[]).map_err(|error| Fault::Usage(format!("--allow: {error}")))?;
    Rules::parse(allow, deny).map_err(|error| Fault::Usage(format!("--deny: {error}")))
}

/// A gateway as it is dialed.
fn gateway_of(url: &cli::GatewayUrl, tls: Option<&cli::ClientTls>) -> Result<client::Gateway, Fault> {
    let target = Target::new(&url.host, url.port);
    let target = target.map_err(|error| Fault::Usage(format!("--gateway: {error}")))?;
    let tls = tls.filter(|_| url.tls).map(|cli::ClientTls { trust, identity }| {
        let credentials = secret_file::credentials_directory();
        tls::Client::new(&url.host, trust, identity.as_ref(), credentials.as_deref()).map_err(Fault::Usage)
    });
    Ok(client::Gateway { target, tls: tls.transpose()? })
}

/// `anyproxy client`.
///
/// # Errors
/// When it cannot start, or a forward leads where its rules do not.
pub fn client(config: &cli::Client) -> Result<(), Fault> {
    let rules = rules(&config.allow, &config.deny)?;
    let forwards = config.forwards.iter().map(|forward| port_request(forward, &rules));
    let forwards = forwards.collect::<Result<Vec<_>, _>>().map_err(Fault::Usage)?;
    let gateways = config.gateways.iter().map(|url| gateway_of(url, config.tls.as_ref()));
    let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
    let (group, secret) = match &config.group {
        Some(group) => (group.name.as_str().to_owned(), Some(secret(&group.password)?)),
        None => (String::new(), None),
    };
    let name = match &config.name {
        Some(name) => name.as_str().to_owned(),
        None => host_name(),
    };
    let program = Program::start("client")?;
    let plain = gateways.iter().find(|gateway| gateway.tls.is_none() && !is_local(&gateway.target));
    warn_of_plain(plain.is_none(), false);
    let names: Vec<String> = gateways.iter().map(|gateway| gateway.target.to_string()).collect();
    let status = format!("a client of {}", names.join(", "));
    let (replicas, streams_max, times) = (config.replicas, config.streams_max, config.times);
    let on_up = Box::new(|| systemd::status("the tunnel is up"));
    client::start(
        program.event_loop.remote(),
        client::Config {
            gateways,
            replicas,
            group,
            secret,
            name,
            rules,
            forwards,
            streams_max,
            times,
            windows: program.windows.clone(),
            on_up,
        },
    )?;
    program.run(&status);
    Ok(())
}

/// `anyproxy passwd`: a line for the file of keys goes to `out`.
///
/// # Errors
/// When there is no password to be read, or none to be made, or the line cannot be written: then a file that was to have the
/// password is not there either.
pub fn passwd(config: &cli::Passwd, out: &mut dyn Write) -> Result<(), Fault> {
    use cli::PasswordFrom;
    let named = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let secret = match &config.password {
        PasswordFrom::File(path) => {
            let password = if path.as_os_str() == "-" {
                // Not by the buffer that the process keeps to its end.
                cli::Password::read_from(File::from(io::stdin().as_fd().try_clone_to_owned()?))
            } else {
                cli::Password::read(path, secret_file::credentials_directory().as_deref())
            };
            let password = password.map_err(|fault| Fault::Usage(named(path, &fault)))?;
            Secret::new(password.as_bytes()).map_err(|error| Fault::Usage(named(path, &error)))?
        }
        PasswordFrom::Generate(path) => {
            let text: String = rt::nonce()?[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            let made = secret_file::create(path, 0o600, format!("{text}\n").as_bytes());
            made.map_err(|error| Fault::Usage(named(path, &error)))?;
            Secret::new(text).map_err(|error| Fault::Failed(error.to_string()))?
        }
    };
    let printed = key_line(config, &secret).and_then(|line| {
        let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| Fault::Failed(format!("standard output: {error}")))
    });
    if let (Err(_), PasswordFrom::Generate(path)) = (&printed, &config.password) {
        // A password without its line would stand in the way of the next try.
        std::fs::remove_file(path).map_err(|left| Fault::Failed(named(path, &left)))?;
    }
    printed
}

fn key_line(config: &cli::Passwd, secret: &Secret) -> Result<String, Fault> {
    use cli::Whose;
    let mut salt = [0; 16];
    rt::fill_random(&mut salt)?;
    let recipe = Recipe { salt, cost: config.cost };
    let derived = derive(secret, &recipe).map_err(|error| Fault::Failed(error.to_string()))?;
    let key = Derived::new(recipe, &derived).written();
    Ok(match &config.whose {
        Whose::User(name) => format!("user {} {key}\n", name.as_str()),
        Whose::Client(name, grant) => format!("client {} {key} {grant}\n", name.as_str()),
    })
}

/// `anyproxy cert`: the line to print is the fingerprint, and nothing else, for scripts; the rest goes to standard error.
///
/// # Errors
/// When there is no certificate to be shown or made.
pub fn cert(config: &cli::Cert) -> Result<String, Fault> {
    match config {
        cli::Cert::Show(path) => {
            let certificates = tls::certificates(path).map_err(Fault::Usage)?;
            let first = certificates.first().ok_or_else(|| Fault::Usage("no certificate".into()))?;
            let pin = tls::Pin::of(first);
            Ok(pin.map_err(|error| Fault::Usage(format!("{}: {error}", path.display())))?.to_string())
        }
        cli::Cert::Issue { names, days, identity } => {
            let issued = tls::issue(names, *days, SystemTime::now()).map_err(Fault::Usage)?;
            issued.write(identity).map_err(|error| Fault::Usage(error.to_string()))?;
            let tls::Identity { cert, key } = identity;
            let (cert, key) = (cert.display(), key.display());
            eprintln!(
                "{}",
                printable(&format!("{cert} and {key} are valid for {days} days, for {}", names.join(" ")))
            );
            Ok(issued.pin.to_string())
        }
    }
}

/// `anyproxy standalone`: gateway, client and origin in one process, over a real tunnel.
///
/// # Errors
/// When it cannot start, or its own tunnel does not come up.
pub fn standalone(config: &cli::Standalone) -> Result<(), Fault> {
    const GROUP: &str = "standalone";
    let program = Program::start("standalone")?;
    // The tunnel's port is on loopback, but other users of this machine are no clients of ours.
    let secret = Secret::new(rt::nonce()?).map_err(|error| Fault::Failed(error.to_string()))?;
    let mut clients = Credentials::new();
    clients.insert(GROUP, secret.clone()).map_err(|error| Fault::Failed(error.to_string()))?;
    let remote = program.event_loop.remote();
    let gateway = Gateway::start(
        remote.clone(),
        gateway::Config {
            tunnel: config.tunnel,
            http: config.http,
            socks: Some(config.socks),
            clients: Arc::new(clients),
            users: Arc::new(Credentials::new()),
            group: GROUP.into(),
            tls: None,
            streams_max: STREAMS_MAX,
            times: Times::default(),
            access: program.access.clone(),
            windows: program.windows.clone(),
        },
    )?;
    let serve = serve::start(&remote, config.serve)?;
    // What leads back into this process would go round in it for ever; the origin is there to be reached.
    let mut own = vec![gateway.tunnel_addr(), gateway.http_addr()];
    own.extend(gateway.socks_addr());
    let (up, is_up) = bounded(1);
    client::start(
        remote,
        client::Config {
            gateways: vec![target_of(gateway.tunnel_addr())?.into()],
            replicas: 1,
            group: GROUP.into(),
            secret: Some(secret),
            name: "local".into(),
            rules: Rules::open_local().with_own(own),
            forwards: Vec::new(),
            streams_max: STREAMS_MAX,
            times: Times::default(),
            windows: program.windows.clone(),
            // Only the first time is waited for.
            on_up: Box::new(move || {
                up.try_send(()).ok();
            }),
        },
    )?;
    if is_up.recv_timeout(Duration::from_millis(FIRST_TUNNEL_MS)).is_err() {
        return Err(Fault::Failed("the tunnel inside this process did not come up".into()));
    }
    gateway.announce();
    crate::announce("serve", serve.local_addr());
    let (status, page) = standalone_status(&gateway, serve.local_addr());
    // Nobody has to read it: whoever closes the pipe runs it for something else.
    if let Err(error) = io::stdout().write_all(page.as_bytes())
        && !crate::logging::quiet(&error)
    {
        log::warn!(event = "start"; "standard output: {error}");
    }
    program.run(&status);
    Ok(())
}

/// The status in one line, and for the person who started it what listens where and a line to try.
fn standalone_status(gateway: &Gateway, serve: SocketAddr) -> (String, String) {
    let http = gateway.http_addr();
    let mut lines = vec![
        format!("HTTP proxy   http://{http}"),
        format!("page to try  http://{serve}/"),
        String::new(),
        format!("  curl -x http://{http} http://{serve}/"),
    ];
    if let Some(socks) = gateway.socks_addr() {
        lines.insert(1, format!("SOCKS5       {socks}"));
        lines.push(format!("  curl --socks5-hostname {socks} http://{serve}/"));
    }
    (format!("HTTP proxy at {http}, page at http://{serve}/"), lines.join("\n") + "\n\n")
}

fn target_of(addr: SocketAddr) -> Result<Target, Fault> {
    Target::from_address(addr.ip(), addr.port()).map_err(|error| Fault::Failed(error.to_string()))
}

fn secret(password: &cli::Password) -> Result<Secret, Fault> {
    Secret::new(password.as_bytes()).map_err(|error| Fault::Usage(format!("--password-file: {error}")))
}

/// A forward as the gateway is asked for it. One that leads to an address that the rules forbid can never work.
fn port_request(forward: &cli::Forward, rules: &Rules) -> Result<PortRequest, String> {
    let cli::Forward { network, port, host, target_port } = forward;
    let target = Target::new(host, *target_port).map_err(|error| format!("--forward {port}: {error}"))?;
    let verdict = rules.name(&target);
    if !verdict.allowed {
        let add = match target.host() {
            Host::Address(_) => format!("; add --allow {target} if it may be reached"),
            Host::Name(_) => String::new(),
        };
        return Err(format!("--forward {port} leads to {target}: {verdict}{add}"));
    }
    let network = match network {
        cli::Network::Tcp => Network::Tcp,
        cli::Network::Udp => Network::Udp,
    };
    Ok(PortRequest { network, port: *port, host: host.clone(), target_port: *target_port })
}

/// Says that a tunnel is not encrypted, where that leaves this machine. Said once, at the start: it may be meant, inside a network
/// that is trusted.
fn warn_of_plain(is_local: bool, tls: bool) {
    if !is_local && !tls {
        log::warn!(event = "start"; "a tunnel without TLS can be read on its way: see --tls-cert of the gateway, and wss://");
    }
}

/// Whether it is on this machine, as far as its name says.
fn is_local(target: &Target) -> bool {
    match target.host() {
        Host::Address(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => name.as_str() == "localhost",
    }
}

/// This machine's name, as far as a client's name may hold it. Asked of the kernel: a service may not see what stands in `/proc/sys`.
fn host_name() -> String {
    let system = rustix::system::uname();
    match system.nodename().to_string_lossy().parse::<cli::Name>() {
        Ok(name) => name.as_str().to_owned(),
        Err(_) => "client".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_machine_is_local() {
        #[track_caller]
        fn check(host: &str, want: bool) {
            assert_eq!(is_local(&Target::new(host, 1).expect("a target")), want, "{host}");
        }
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1"] {
            check(host, true);
        }
        for host in ["localhost.example", "10.0.0.1", "192.0.2.1", "fd00::1"] {
            check(host, false);
        }
    }
}
