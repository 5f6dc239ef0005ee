//! The command line: from words to a [`Command`] whose every field is valid, or one line that says what is wrong.
//!
//! Nothing here opens a socket. Password files are read here, because a file that cannot be used is a fault of the
//! command line like any other, and the exit status of all of those is 2.

mod check;
mod fault;
mod passwd;
mod password;
mod times;
mod tls;
mod values;

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use tls::{RawClientTls, RawGatewayTls};

pub use check::Check;
pub use passwd::{Passwd, PasswordFrom, Whose};
pub use password::Password;
pub use tls::{ClientTls, GatewayTls};
pub use values::{Forward, GatewayUrl, Name, Network};

use crate::limits::{
    CERTIFICATE_DAYS_MAX, CERTIFICATE_NAMES_MAX, CLI_RULES_MAX, GATEWAYS_MAX, REPLICAS_MAX, STREAMS_MAX,
};
use crate::logfmt;
use crate::proto::target::Target;
use crate::secret_file;
use crate::times::Times;
use crate::tls::Identity;

/// What the program was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Gateway, client and origin in one process, on loopback.
    Standalone(Standalone),
    /// The public side.
    Gateway(Gateway),
    /// The private side.
    Client(Client),
    /// The origin for load tests.
    Serve(Serve),
    /// What the rules make of targets.
    Check(Check),
    /// The summary of logs.
    Logs(Logs),
    /// A certificate for the tunnel.
    Cert(Cert),
    /// A line for the file of keys.
    Passwd(Passwd),
}

/// `anyproxy standalone`. Invariant: every address is a loopback one.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Standalone {
    /// Where the HTTP proxy listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8088", value_parser = values::addr)]
    pub http: SocketAddr,
    /// Where the SOCKS5 proxy listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1080", value_parser = values::addr)]
    pub socks: SocketAddr,
    /// Where the origin for load tests listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = values::addr)]
    pub serve: SocketAddr,
    /// Where the gateway takes its own client's tunnel
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = values::addr)]
    pub tunnel: SocketAddr,
}

/// `anyproxy gateway`. Invariant: without a group and keys, every address is a loopback one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where clients' tunnels arrive.
    pub tunnel: SocketAddr,
    /// Where the HTTP proxy listens.
    pub http: SocketAddr,
    /// Where the SOCKS5 proxy listens, if anywhere.
    pub socks: Option<SocketAddr>,
    /// The group that clients and users belong to.
    pub group: Option<Group>,
    /// The file of keys that clients and users have.
    pub keys: Option<PathBuf>,
    /// The TLS of clients' tunnels.
    pub tls: Option<GatewayTls>,
    /// Streams that one tunnel may have open at once. Invariant: 1 to [`STREAMS_MAX`].
    pub streams_max: usize,
    /// How long users are waited for.
    pub times: Times,
}

/// `anyproxy client`. Invariant: there is TLS if a gateway's URL says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The gateways to dial. Invariant: 1 to [`GATEWAYS_MAX`], all different.
    pub gateways: Vec<GatewayUrl>,
    /// Tunnels to keep. Invariant: 1 to [`REPLICAS_MAX`].
    pub replicas: usize,
    /// The TLS of the tunnels to those gateways whose URL has it.
    pub tls: Option<ClientTls>,
    /// The group to join.
    pub group: Option<Group>,
    /// This client's name in the gateway's logs.
    pub name: Option<Name>,
    /// Targets to be reached besides public ones, as written.
    pub allow: Vec<String>,
    /// Targets never to be reached, as written.
    pub deny: Vec<String>,
    /// Ports to be opened on the gateway.
    pub forwards: Vec<Forward>,
    /// Streams that the tunnel may have open at once. Invariant: 1 to [`STREAMS_MAX`].
    pub streams_max: usize,
    /// How long targets are waited for.
    pub times: Times,
}

/// `anyproxy serve`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Where the origin listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = values::addr)]
    pub listen: SocketAddr,
}

/// `anyproxy logs`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// Files to read, in order; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `anyproxy cert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cert {
    /// Make a certificate.
    Issue {
        /// Names and addresses that it is for. Invariant: not empty.
        names: Vec<String>,
        /// How long it is valid.
        days: u32,
        /// Where it goes.
        identity: Identity,
    },
    /// Print the fingerprint of the first certificate in this file.
    Show(PathBuf),
}

/// A group's name and what proves membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name: also the user name that the proxies ask for.
    pub name: Name,
    /// The password that goes with it.
    pub password: Password,
    /// The file that has it.
    pub file: PathBuf,
}

/// Why there is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or the version was asked for: print it, exit status 0.
    Show(String),
    /// One line that names the fault and where it is: exit status 2.
    Usage(String),
}

/// Reads the command line, the program's own name first.
///
/// # Errors
/// When there is nothing to run: see [`Stop`].
pub fn parse(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Command, Stop> {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let command = match Raw::try_parse_from(&words) {
        Ok(raw) => Command::try_from(raw.command),
        Err(error) if !error.use_stderr() => return Err(Stop::Show(error.to_string())),
        Err(error) => Err(fault::one_line(&error, &words)),
    };
    // What was typed may hold anything, a control character included.
    command.map_err(|line| Stop::Usage(logfmt::printable(&line)))
}

/// Reaches services in private networks through one public gateway.
#[derive(Parser)]
#[command(name = "anyproxy", version, propagate_version = true, about, subcommand_required = true)]
struct Raw {
    #[command(subcommand)]
    command: RawCommand,
}

#[derive(Subcommand)]
enum RawCommand {
    /// Run gateway, client and origin in one process on loopback: nothing to configure
    Standalone(Standalone),
    /// Run the public side: takes clients' tunnels and users
    Gateway(RawGateway),
    /// Run the private side: dials a gateway and reaches targets
    Client(RawClient),
    /// Run the HTTP origin for load tests
    Serve(Serve),
    /// Read a client's rules and explain what they make of targets, without connecting anywhere
    Check(Check),
    /// Summarize logs on one screen
    Logs(Logs),
    /// Make a certificate for the tunnel, and print the fingerprint of its key
    Cert(RawCert),
    /// Print a line for the gateway's file of keys (--keys), made of a password
    Passwd(passwd::RawPasswd),
}

#[derive(Args)]
struct RawGateway {
    /// Where clients' tunnels arrive
    #[arg(long, value_name = "ADDR", value_parser = values::addr)]
    tunnel: SocketAddr,
    /// Where the HTTP proxy listens
    #[arg(long, value_name = "ADDR", value_parser = values::addr)]
    http: SocketAddr,
    /// Where the SOCKS5 proxy listens
    #[arg(long, value_name = "ADDR", value_parser = values::addr)]
    socks: Option<SocketAddr>,
    #[command(flatten)]
    group: RawGroup,
    /// The file of keys that anyproxy passwd makes, readable by its owner alone; read again at SIGHUP
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    tls: RawGatewayTls,
    #[command(flatten)]
    streams: RawStreams,
    #[command(flatten)]
    times: times::RawGatewayTimes,
}

/// A stream is a user's connection, or one request of it.
#[derive(Args)]
struct RawStreams {
    /// Streams that one tunnel may have open at once
    #[arg(long, value_name = "N", default_value_t = STREAMS_MAX as u32, value_parser = clap::value_parser!(u32).range(1..=STREAMS_MAX as i64))]
    streams_max: u32,
}

#[derive(Args)]
struct RawCert {
    /// A name or address that clients dial the gateway by; may be repeated [default: localhost 127.0.0.1 ::1]
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
    /// How long it is valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=i64::from(CERTIFICATE_DAYS_MAX)))]
    days: u32,
    /// Where the certificate goes; nothing may be there yet
    #[arg(long, value_name = "FILE", default_value = "cert.pem")]
    cert: PathBuf,
    /// Where its private key goes, readable by its owner alone; nothing may be there yet
    #[arg(long, value_name = "FILE", default_value = "key.pem")]
    key: PathBuf,
    /// Make nothing: print the fingerprint of the certificate in FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["names", "days", "cert", "key"])]
    show: Option<PathBuf>,
}

#[derive(Args)]
struct RawClient {
    /// A gateway to dial, with ws:// in place of wss:// where nothing is to be encrypted; without PORT it is 443, or 80 with ws://;
    /// may be repeated
    #[arg(long = "gateway", required = true, value_name = "wss://HOST[:PORT]")]
    gateways: Vec<GatewayUrl>,
    /// Tunnels to keep, to different gateways where there are several [default: 1, or 2 with several gateways]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX as i64))]
    replicas: Option<u8>,
    #[command(flatten)]
    tls: RawClientTls,
    #[command(flatten)]
    group: RawGroup,
    /// This client's name in the gateway's logs
    #[arg(long)]
    name: Option<Name>,
    /// Also reach targets that match (private, loopback and link-local ones only this way); may be repeated
    #[arg(long, alias = "allowed-hosts", value_name = "PATTERN", value_parser = values::pattern)]
    allow: Vec<String>,
    /// Never reach targets that match; may be repeated
    #[arg(long, alias = "forbidden-hosts", value_name = "PATTERN", value_parser = values::pattern)]
    deny: Vec<String>,
    /// Open PORT on the gateway for HOST:PORT behind this client; may be repeated
    #[arg(long = "forward", value_name = "PORT:HOST:PORT[/udp]")]
    forwards: Vec<Forward>,
    #[command(flatten)]
    streams: RawStreams,
    #[command(flatten)]
    times: times::RawClientTimes,
}

#[derive(Args)]
struct RawGroup {
    /// The group, which is also the proxies' user name
    #[arg(long, value_name = "NAME", requires = "password_file")]
    group: Option<Name>,
    /// The file with the group's password, readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "group")]
    password_file: Option<PathBuf>,
}

impl TryFrom<RawCommand> for Command {
    type Error = String;

    fn try_from(raw: RawCommand) -> Result<Command, String> {
        match raw {
            RawCommand::Standalone(s) => {
                for (flag, addr) in
                    [("http", s.http), ("socks", s.socks), ("serve", s.serve), ("tunnel", s.tunnel)]
                {
                    loopback(flag, addr, "standalone listens on loopback only")?;
                }
                Ok(Command::Standalone(s))
            }
            RawCommand::Gateway(raw) => raw.try_into().map(Command::Gateway),
            RawCommand::Client(raw) => raw.try_into().map(Command::Client),
            RawCommand::Serve(serve) => Ok(Command::Serve(serve)),
            RawCommand::Check(check) => check.bounded().map(Command::Check),
            RawCommand::Logs(logs) => Ok(Command::Logs(logs)),
            RawCommand::Cert(raw) => raw.try_into().map(Command::Cert),
            RawCommand::Passwd(raw) => raw.try_into().map(Command::Passwd),
        }
    }
}

impl TryFrom<RawGateway> for Gateway {
    type Error = String;

    fn try_from(raw: RawGateway) -> Result<Gateway, String> {
        let RawGateway { tunnel, http, socks, group, keys, tls, streams, times } = raw;
        if group.group.is_none() && keys.is_none() {
            let listeners = [("tunnel", Some(tunnel)), ("http", Some(http)), ("socks", socks)];
            for (flag, addr) in listeners {
                let why = "without --keys, or --group and --password-file, it would be open to everyone";
                addr.map_or(Ok(()), |addr| loopback(flag, addr, why))?;
            }
        }
        let streams_max = streams.streams_max as usize;
        Ok(Gateway {
            tunnel,
            http,
            socks,
            group: group.read()?,
            keys,
            tls: tls.read(),
            streams_max,
            times: times.into(),
        })
    }
}

impl TryFrom<RawCert> for Cert {
    type Error = String;

    fn try_from(raw: RawCert) -> Result<Cert, String> {
        let RawCert { mut names, days, cert, key, show } = raw;
        if let Some(path) = show {
            return Ok(Cert::Show(path));
        }
        if names.len() > CERTIFICATE_NAMES_MAX {
            let given = names.len();
            return Err(format!("anyproxy: --name: given {given} times, at most {CERTIFICATE_NAMES_MAX}"));
        }
        if names.is_empty() {
            names = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
        }
        for name in &names {
            let host = name.strip_prefix("*.").unwrap_or(name);
            Target::new(host, 443).map_err(|error| format!("anyproxy: --name {name:?}: {error}"))?;
        }
        if cert == key {
            return Err(format!("anyproxy: --cert, --key: one file cannot be both, {}", cert.display()));
        }
        Ok(Cert::Issue { names, days, identity: Identity { cert, key } })
    }
}

impl TryFrom<RawClient> for Client {
    type Error = String;

    fn try_from(raw: RawClient) -> Result<Client, String> {
        let RawClient { gateways, replicas, tls, group, name, allow, deny, forwards, streams, times } = raw;
        for (flag, len) in [("allow", allow.len()), ("deny", deny.len()), ("forward", forwards.len())] {
            if len > CLI_RULES_MAX {
                return Err(format!("anyproxy: --{flag}: given {len} times, at most {CLI_RULES_MAX}"));
            }
        }
        if gateways.len() > GATEWAYS_MAX {
            let given = gateways.len();
            return Err(format!("anyproxy: --gateway: given {given} times, at most {GATEWAYS_MAX}"));
        }
        if let Some((_, twice)) = gateways.iter().enumerate().find(|(i, url)| gateways[..*i].contains(url)) {
            return Err(format!("anyproxy: --gateway {}:{}: given twice", twice.host, twice.port));
        }
        let replicas = replicas.map_or(gateways.len().min(2), usize::from);
        // A port has one target, and is spoken of by its number.
        let mut ports = HashSet::new();
        for Forward { network, port, .. } in &forwards {
            if !ports.insert((*network, *port)) {
                return Err(format!("anyproxy: --forward {port}: given twice for {network}"));
            }
        }
        let (tls, group) = (tls.read(&gateways)?, group.read()?);
        let times = times.into();
        let streams_max = streams.streams_max as usize;
        Ok(Client { gateways, replicas, tls, group, name, allow, deny, forwards, streams_max, times })
    }
}

impl RawGroup {
    fn read(self) -> Result<Option<Group>, String> {
        // clap saw to it that both are there or neither.
        let (Some(name), Some(file)) = (self.group, self.password_file) else { return Ok(None) };
        let password = Group::read(&file).map_err(|why| format!("anyproxy: {why}"))?;
        Ok(Some(Group { name, password, file }))
    }
}

impl Group {
    /// The password that is in the file now.
    ///
    /// # Errors
    /// When there is none: why.
    pub fn read(file: &Path) -> Result<Password, String> {
        Password::read(file, secret_file::credentials_directory().as_deref())
            .map_err(|fault| format!("--password-file {}: {fault}", file.display()))
    }
}

/// Nobody shall run an open proxy without having asked for it (T7).
fn loopback(flag: &str, addr: SocketAddr, why: &str) -> Result<(), String> {
    if addr.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(format!("anyproxy: --{flag} {addr} is not a loopback address: {why}"))
    }
}

#[cfg(test)]
mod tests;
