//! The command line: from words to a [`Command`] whose every field is valid, or one line that says what is wrong.
//!
//! Nothing here opens a socket. Password files are read here, because a file that cannot be used is a fault of the
//! command line like any other, and the exit status of all of those is 2.

mod check;
mod password;
mod values;

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

pub use check::Check;
pub use password::Password;
pub use values::{Forward, GatewayUrl, Name, Network};

use crate::limits::{CLI_RULES_MAX, GATEWAYS_MAX, REPLICAS_MAX};
use crate::logfmt;

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

/// `anyproxy gateway`. Invariant: without a group, every address is a loopback one.
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
}

/// `anyproxy client`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The gateways to dial. Invariant: 1 to [`GATEWAYS_MAX`], all different.
    pub gateways: Vec<GatewayUrl>,
    /// Tunnels to keep. Invariant: 1 to [`REPLICAS_MAX`].
    pub replicas: usize,
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

/// A group's name and what proves membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name: also the user name that the proxies ask for.
    pub name: Name,
    /// The password that goes with it.
    pub password: Password,
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
    let command = match Raw::try_parse_from(words) {
        Ok(raw) => Command::try_from(raw.command),
        Err(error) if !error.use_stderr() => return Err(Stop::Show(error.to_string())),
        Err(error) => Err(one_line(&error)),
    };
    // What was typed may hold anything, a control character included.
    command.map_err(|line| Stop::Usage(logfmt::printable(&line)))
}

/// The first paragraph of clap's message; what follows it is advice.
fn one_line(error: &clap::Error) -> String {
    use clap::error::ErrorKind;
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "anyproxy: no command given (standalone, gateway, client, serve, check, logs); see anyproxy --help"
            .into();
    }
    let text = error.to_string();
    let paragraph = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    format!("anyproxy: {}; see anyproxy --help", words.join(" "))
}

/// Reaches services in private networks through one public gateway.
#[derive(Parser)]
#[command(name = "anyproxy", version, about, subcommand_required = true, disable_help_subcommand = true)]
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
}

#[derive(Args)]
struct RawClient {
    /// A gateway to dial; may be repeated
    #[arg(long = "gateway", required = true, value_name = "ws://HOST:PORT")]
    gateways: Vec<GatewayUrl>,
    /// Tunnels to keep, to different gateways where there are several [default: 1, or 2 with several gateways]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX as i64))]
    replicas: Option<u8>,
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
        }
    }
}

impl TryFrom<RawGateway> for Gateway {
    type Error = String;

    fn try_from(raw: RawGateway) -> Result<Gateway, String> {
        let RawGateway { tunnel, http, socks, group } = raw;
        if group.group.is_none() {
            let listeners = [("tunnel", Some(tunnel)), ("http", Some(http)), ("socks", socks)];
            for (flag, addr) in listeners {
                let why = "without --group and --password-file it would be open to everyone";
                addr.map_or(Ok(()), |addr| loopback(flag, addr, why))?;
            }
        }
        Ok(Gateway { tunnel, http, socks, group: group.read()? })
    }
}

impl TryFrom<RawClient> for Client {
    type Error = String;

    fn try_from(raw: RawClient) -> Result<Client, String> {
        let RawClient { gateways, replicas, group, name, allow, deny, forwards } = raw;
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
        Ok(Client { gateways, replicas, group: group.read()?, name, allow, deny, forwards })
    }
}

impl RawGroup {
    fn read(self) -> Result<Option<Group>, String> {
        // clap saw to it that both are there or neither.
        let (Some(name), Some(path)) = (self.group, self.password_file) else { return Ok(None) };
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        match Password::read(&path, credentials.as_deref().map(Path::new)) {
            Ok(password) => Ok(Some(Group { name, password })),
            Err(fault) => Err(format!("anyproxy: --password-file {}: {fault}", path.display())),
        }
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
