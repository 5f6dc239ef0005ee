//! The values of flags, each with its own spelling.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::limits::{HOST_BYTES_MAX, NAME_BYTES_MAX};

/// What a forwarded port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Tcp => "tcp",
            Network::Udp => "udp",
        })
    }
}

/// A port on the gateway for a target behind the client: `PORT:HOST:PORT[/udp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP unless `/udp` or `/tcp` says it.
    pub network: Network,
    /// The port on the gateway; 0 lets the gateway choose.
    pub port: u16,
    /// The target's host: a name, or an address without brackets.
    pub host: String,
    /// The target's port, never 0.
    pub target_port: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Forward, String> {
        let (text, network) = match text.rsplit_once('/') {
            Some((text, "udp")) => (text, Network::Udp),
            Some((text, "tcp")) => (text, Network::Tcp),
            Some((_, other)) => return Err(format!("network {other:?} is neither udp nor tcp")),
            None => (text, Network::Tcp),
        };
        let (port, target) = text.split_once(':').ok_or("want PORT:HOST:PORT[/udp]")?;
        let port = port.parse().map_err(|_above| format!("port {port:?} is not 0 to 65535"))?;
        let (host, target_port) = host_and_port(target)?;
        let target_port = target_port.ok_or("want PORT:HOST:PORT[/udp]")?;
        Ok(Forward { network, port, host, target_port })
    }
}

/// A gateway as a client dials it: `ws://HOST[:PORT]` or `wss://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl {
    /// Whether it is `wss`.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// 80 unless given, 443 with TLS; never 0.
    pub port: u16,
}

impl FromStr for GatewayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<GatewayUrl, String> {
        let (tls, authority) = match text.split_once("://") {
            Some(("ws", rest)) => (false, rest),
            Some(("wss", rest)) => (true, rest),
            Some((scheme, _)) => return Err(format!("scheme {scheme:?} is neither wss nor ws")),
            None => return Err("want wss://HOST[:PORT] or ws://HOST[:PORT]".into()),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains('@') {
            return Err("no user or password in the URL: use --group and --password-file".into());
        }
        if authority.contains(['/', '?', '#']) {
            return Err("no path in the URL: want wss://HOST[:PORT] or ws://HOST[:PORT]".into());
        }
        let (host, port) = host_and_port(authority)?;
        Ok(GatewayUrl { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }) })
    }
}

/// The name of a group or a client: letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(format!("a name has 1 to {NAME_BYTES_MAX} characters"));
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
            // No colon above all: it parts user and password in HTTP's Basic credentials.
            Some(c) => Err(format!("{c:?} in a name: only letters, digits, '.', '_' and '-'")),
            None => Ok(Name(text.to_owned())),
        }
    }
}

/// An address to listen on.
pub(super) fn addr(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_fault| "want ADDRESS:PORT, as in 127.0.0.1:8088 or [::1]:0".into())
}

/// A pattern of targets: what it means is for the host rules to say, but it is one printable word.
pub(super) fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > HOST_BYTES_MAX {
        return Err(format!("a pattern has 1 to {HOST_BYTES_MAX} characters"));
    }
    if text.contains("://") {
        return Err("no scheme in a pattern: want a name, an address or a network".into());
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(c) => Err(format!("{c:?} in a pattern")),
        None => Ok(text.to_owned()),
    }
}

/// `HOST[:PORT]`, an IPv6 address in brackets.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("'[' without ']'")?;
            host.parse::<Ipv6Addr>().map_err(|_fault| format!("{host:?} is not an IPv6 address"))?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or("want ':' after ']'")?),
            };
            (host, port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.chars().all(is_host) {
                return Err(format!("{host:?} is not a host name"));
            }
            (host, port)
        }
    };
    match port.map(|port| (port, port.parse::<u16>())) {
        None => Ok((host.to_owned(), None)),
        Some((_, Ok(port))) if port > 0 => Ok((host.to_owned(), Some(port))),
        Some((port, _)) => Err(format!("port {port:?} is not 1 to 65535")),
    }
}
