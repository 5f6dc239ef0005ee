//! What a user wants to reach, and whether a user may.
//!
//! ```text
//!   text ──▶ Target ──▶ Rules::name ──▶ resolve ──▶ Rules::address ──▶ dial that very address
//!            one spelling     │ denied                    │ denied
//!                             ▼                           ▼
//! ```
//!
//! A [`Target`] has one spelling only: names in lower case without the dot at their end, addresses
//! as addresses however they were written. `2130706433`, `0177.0.0.1`, `0x7f.1` and `127.1` are what
//! `inet_aton` makes of them, which is 127.0.0.1, so that no spelling gets past a rule.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::limits::{HOST_LABEL_BYTES_MAX, HOST_NAME_BYTES_MAX};

mod class;
mod rules;

pub use class::Class;
pub use rules::{RuleError, Rules, Verdict, Why};

/// A host and a port to reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    host: Host,
    /// Invariant: port >= 1.
    port: u16,
}

/// The host of a [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name to resolve: lower case, letters, digits, hyphens, underscores and dots.
    Name(String),
    /// An address; one that maps IPv4 into IPv6 is the IPv4 address.
    Address(IpAddr),
}

impl Target {
    /// Takes a host and a port apart from each other, as SOCKS5 and the tunnel have them. An IPv6
    /// address may stand in brackets.
    ///
    /// # Errors
    /// When the host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Target, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        Ok(Target { host: host.parse()?, port })
    }

    /// Takes an address.
    ///
    /// # Errors
    /// When the port is 0.
    pub fn from_address(address: IpAddr, port: u16) -> Result<Target, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        Ok(Target { host: Host::Address(address.to_canonical()), port })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// Takes `host:port` or `[v6]:port`; the port is never left out.
    fn from_str(text: &str) -> Result<Target, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(TargetError::Brackets);
        }
        Target::new(host, parse_port(port).ok_or(TargetError::Port)?)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl FromStr for Host {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Host, TargetError> {
        // The usual spelling of an address needs no look at its labels: four decimal numbers without a zero in front.
        if let Ok(address) = text.parse() {
            return Ok(Host::Address(IpAddr::V4(address)));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(TargetError::Brackets)?;
            return parse_v6(inner);
        }
        if text.contains(':') {
            return parse_v6(text);
        }
        if !text.is_ascii() {
            return Err(TargetError::NotAscii);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(TargetError::Empty);
        }
        if name.len() > HOST_NAME_BYTES_MAX {
            return Err(TargetError::TooLong);
        }
        if !name.split('.').all(is_label) {
            return Err(TargetError::Label);
        }
        let name = name.to_ascii_lowercase();
        // A name that ends in a number is what the system's resolver takes for an address.
        if name.rsplit('.').next().is_some_and(is_number) {
            let address = parse_v4(&name).ok_or(TargetError::Number)?;
            return Ok(Host::Address(IpAddr::V4(address)));
        }
        Ok(Host::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

/// Why a target was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// There is no host.
    Empty,
    /// There is no colon and port behind the host.
    NoPort,
    /// The port is not a number from 1 to 65535.
    Port,
    /// An IPv6 address with a port wants brackets, and nothing else does.
    Brackets,
    /// What should be an IPv6 address is none; a zone is not taken either.
    Address,
    /// The name is longer than a name can be.
    TooLong,
    /// A part of the name is empty, too long, or has characters that names do not have.
    Label,
    /// The name ends in a number and is no IPv4 address in any spelling.
    Number,
    /// A name beyond ASCII has to come in its `xn--` form.
    NotAscii,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetError::Empty => "the host is empty",
            TargetError::NoPort => "there is no port",
            TargetError::Port => "the port is not a number from 1 to 65535",
            TargetError::Brackets => "an IPv6 address with a port is written [address]:port",
            TargetError::Address => "not an IPv6 address",
            TargetError::TooLong => "the host name is too long",
            TargetError::Label => "not a host name",
            TargetError::Number => "the host ends in a number and is no IPv4 address",
            TargetError::NotAscii => "the host name is not ASCII (write it in its xn-- form)",
        })
    }
}

impl std::error::Error for TargetError {}

/// A port as decimal digits, without a sign; 0 is none.
fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&port| port != 0)
}

fn parse_v6(text: &str) -> Result<Host, TargetError> {
    let address: Ipv6Addr = text.parse().map_err(|_| TargetError::Address)?;
    Ok(Host::Address(address.to_canonical()))
}

/// Letters, digits, hyphens within, and underscores, which service names have.
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=HOST_LABEL_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
        || label.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// IPv4 as `inet_aton` reads it: one to four numbers, each decimal, octal (`0..`) or hexadecimal
/// (`0x..`), the last of which fills all the bytes that are left.
fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(parse_part).collect::<Option<Vec<u64>>>()?;
    let last = parts.pop()?;
    if parts.len() > 3 || parts.iter().any(|&part| part > 255) {
        return None;
    }
    let bits_left = 32 - 8 * parts.len();
    if last >> bits_left != 0 {
        return None;
    }
    let head = parts.iter().zip([24, 16, 8]).fold(0, |sum, (&part, shift)| sum | part << shift);
    u32::try_from(head | last).ok().map(Ipv4Addr::from_bits)
}

fn parse_part(part: &str) -> Option<u64> {
    if let Some(hex) = part.strip_prefix("0x") {
        // `0x` alone is zero to some readers and an error to others: refused.
        u64::from_str_radix(hex, 16).ok()
    } else if part.len() > 1 && part.starts_with('0') {
        u64::from_str_radix(part, 8).ok()
    } else {
        part.parse().ok()
    }
}

#[cfg(test)]
mod tests;
