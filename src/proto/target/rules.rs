//! Which targets a user may reach.
//!
//! Two lists of patterns. A pattern is `exact.name`, `*.suffix` (what lies below the suffix, not the
//! suffix itself), an address, a network (`10.0.0.0/8`), or `*`; each with `:port` or `:low-high`
//! behind it, or for every port (an IPv6 address with a port stands in brackets).
//!
//! ```text
//!   deny names it          no   who was named, by name or by address
//!   a port of our own      yes  only where allow has that very host and that very port
//!   metadata address       yes  only where allow has that very address
//!   loopback, link-local   yes  only where allow has that very name, or addresses of that kind alone
//!   not public otherwise   yes  only where allow names it; `*` names nothing
//!   public                 yes
//! ```
//! A suffix and a network that holds everything name no host: whoever owns one name below the suffix would have the
//! loopback for the asking.
//!
//! The name is judged before it is resolved, and each address before it is dialed: who checks the
//! name only is led to the loopback by whoever owns the name.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Host, Target,
    class::{Class, embedded},
    parse_port,
};
use crate::limits::RULES_MAX;

/// The host rules of a client or a gateway.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    /// Whether what is not public may be reached without being named (metadata may not).
    local: bool,
    /// Where this very process listens: a way that leads back to itself.
    own: Vec<SocketAddr>,
}

impl Rules {
    /// Reads the two lists. With both empty, public addresses may be reached and no others.
    ///
    /// # Errors
    /// With the first pattern that means nothing, or when there are too many.
    pub fn parse(allow: &[String], deny: &[String]) -> Result<Rules, RuleError> {
        let list = |patterns: &[String]| {
            if patterns.len() > RULES_MAX {
                return Err(RuleError::TooMany);
            }
            patterns.iter().map(|text| Pattern::parse(text)).collect()
        };
        Ok(Rules { allow: list(allow)?, deny: list(deny)?, ..Rules::default() })
    }

    /// The rules of the standalone program, which reaches what its own user reaches anyway:
    /// everything but the metadata addresses.
    pub fn open_local() -> Rules {
        Rules { local: true, ..Rules::default() }
    }

    /// The same rules for a process that listens at these addresses itself.
    #[must_use]
    pub fn with_own(self, own: Vec<SocketAddr>) -> Rules {
        Rules { own, ..self }
    }

    /// Judges a target before its name is resolved. "Allowed" is not the last word: every address
    /// that the name resolves to has to pass [`Rules::address`] too.
    pub fn name(&self, target: &Target) -> Verdict {
        let name = match target.host() {
            Host::Address(address) => return self.address(target, SocketAddr::new(*address, target.port())),
            Host::Name(name) => name,
        };
        let port = target.port();
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches_name(name, port)) {
            return Verdict::no(Why::Rule(rule.text.clone()));
        }
        match self.allow.iter().find(|rule| rule.matches_name(name, port)) {
            Some(rule) => Verdict::yes(Why::Rule(rule.text.clone())),
            // What it turns out to be decides.
            None => Verdict::yes(Why::Default),
        }
    }

    /// Judges one address that a target's name resolved to, whole: the caller dials that very
    /// address, or none. The port is the target's.
    pub fn address(&self, target: &Target, address: SocketAddr) -> Verdict {
        let port = target.port();
        // An IPv6 address that carries an IPv4 address is judged as both.
        let seen = Seen::new(target, address.ip());
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches(&seen, port)) {
            return Verdict::no(Why::Rule(rule.text.clone()));
        }
        let class = Class::of(address.ip());
        let own = self.own.iter().find(|own| seen.is_at(own, class, port));
        let opens = |rule: &Pattern, port| match class {
            _ if own.is_some() => rule.is_host_and_port(&seen, port),
            Class::Metadata => rule.is_address(&seen, port),
            Class::Loopback | Class::LinkLocal | Class::Unspecified => rule.means(&seen, class, port),
            Class::Public => rule.matches(&seen, port),
            _ => rule.host != HostPattern::Any && rule.matches(&seen, port),
        };
        let closed = || {
            let but_for_port = self.allow.iter().any(|rule| opens(rule, *rule.ports.start()));
            let port = but_for_port.then_some(port);
            Verdict::no(Why::Class { address: address.ip(), class, port })
        };
        match self.allow.iter().find(|rule| opens(rule, port)) {
            Some(rule) => Verdict::yes(Why::Rule(rule.text.clone())),
            None if own.is_some() => Verdict::no(Why::Own(SocketAddr::new(address.ip(), port))),
            None if class == Class::Metadata => closed(),
            None if self.local => Verdict::yes(Why::Default),
            None if class != Class::Public => closed(),
            None => Verdict::yes(Why::Default),
        }
    }
}

/// A decision and what decided it; displayed, it is an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// Whether the target may be reached.
    pub allowed: bool,
    /// What decided.
    pub why: Why,
}

/// What decided a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// This pattern, as it was written.
    Rule(Arc<str>),
    /// The address is not public (or is a metadata address), and nothing in the allow list names it, or not with this port.
    Class {
        /// The address.
        address: IpAddr,
        /// What kind of address that is.
        class: Class,
        /// The target's port, where something in the allow list does name the address, for other ports.
        port: Option<u16>,
    },
    /// This very process listens there, and nothing in the allow list is that host and that port.
    Own(SocketAddr),
    /// No rule speaks of it, and what no rule speaks of is allowed.
    Default,
}

impl Verdict {
    fn yes(why: Why) -> Verdict {
        Verdict { allowed: true, why }
    }

    fn no(why: Why) -> Verdict {
        Verdict { allowed: false, why }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = if self.allowed { "allowed" } else { "denied" };
        match &self.why {
            Why::Rule(rule) => write!(f, "{decision} by the rule {rule}"),
            Why::Class { address, class, port } => {
                let names = if *class == Class::Metadata { "is that address" } else { "names it" };
                write!(f, "{decision}: {address} is {class}, and no allow rule {names}")?;
                port.map_or(Ok(()), |port| write!(f, " with port {port}"))
            }
            Why::Own(address) => {
                write!(f, "{decision}: {address} is this process, and no allow rule is that host and port")
            }
            Why::Default => write!(f, "{decision}: no rule speaks of it"),
        }
    }
}

/// Why the rules were not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// The pattern is no name, address, network or `*`.
    Host(String),
    /// What stands behind the colon is no port and no range of ports.
    Port(String),
    /// The network has bits set beyond its prefix; the one that it lies in is named.
    Bits(String, IpNet),
    /// The list is too long.
    TooMany,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Host(rule) => write!(f, "{rule:?} is no name, *.suffix, address, network or *"),
            RuleError::Port(rule) => {
                write!(f, "{rule:?} does not end in a port, or a range of ports with the lower one first")
            }
            RuleError::Bits(rule, net) => write!(f, "{rule:?} has bits beyond its prefix: is {net} meant?"),
            RuleError::TooMany => write!(f, "a list has more than {RULES_MAX} rules"),
        }
    }
}

impl std::error::Error for RuleError {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    host: HostPattern,
    ports: RangeInclusive<u16>,
    /// As it was written, for explaining.
    text: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    Name(String),
    /// With the dot in front of it, which no name begins with: the suffix itself does not match.
    Suffix(String),
    /// A single address is the network of all its bits. Invariant: no bits beyond the prefix.
    Net(IpNet),
}

/// What there is to match: the name, the address, and the IPv4 address that it may carry.
struct Seen<'a> {
    name: Option<&'a str>,
    address: IpAddr,
    carried: Option<IpAddr>,
}

impl<'a> Seen<'a> {
    fn new(target: &'a Target, address: IpAddr) -> Seen<'a> {
        let name = match target.host() {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) => None,
        };
        let carried = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => embedded(address).map(IpAddr::V4),
        };
        Seen { name, address, carried }
    }

    /// Whether a connection to the address ends at this listener.
    fn is_at(&self, own: &SocketAddr, class: Class, port: u16) -> bool {
        let ip = own.ip().to_canonical();
        let this_host = matches!(class, Class::Loopback | Class::Unspecified);
        // Listening everywhere, or asked for at no address in particular, which this host takes for itself.
        let anywhere = class == Class::Unspecified || (ip.is_unspecified() && this_host);
        own.port() == port && (anywhere || self.any_address(|address| *address == ip))
    }

    fn any_address(&self, matches: impl Fn(&IpAddr) -> bool) -> bool {
        matches(&self.address) || self.carried.as_ref().is_some_and(matches)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, RuleError> {
        let (host, ports) = split_ports(text).ok_or_else(|| RuleError::Port(text.to_owned()))?;
        let bad_host = || RuleError::Host(text.to_owned());
        let host = if host == "*" {
            HostPattern::Any
        } else if let Some(suffix) = host.strip_prefix("*.") {
            match suffix.parse().map_err(|_| bad_host())? {
                Host::Name(suffix) => HostPattern::Suffix(format!(".{suffix}")),
                Host::Address(_) => return Err(bad_host()),
            }
        } else if host.contains('/') {
            let net: IpNet = host.parse().map_err(|_| bad_host())?;
            if net != net.trunc() {
                return Err(RuleError::Bits(text.to_owned(), net.trunc()));
            }
            HostPattern::Net(canonical(net))
        } else {
            match host.parse().map_err(|_| bad_host())? {
                Host::Name(name) => HostPattern::Name(name),
                Host::Address(address) => HostPattern::Net(IpNet::from(address)),
            }
        };
        Ok(Pattern { host, ports, text: text.into() })
    }

    fn matches_name(&self, name: &str, port: u16) -> bool {
        self.ports.contains(&port)
            && match &self.host {
                HostPattern::Any => true,
                HostPattern::Name(wanted) => name == wanted,
                HostPattern::Suffix(suffix) => name.ends_with(suffix.as_str()),
                HostPattern::Net(_) => false,
            }
    }

    fn matches(&self, seen: &Seen<'_>, port: u16) -> bool {
        match &self.host {
            HostPattern::Any => self.ports.contains(&port),
            HostPattern::Net(net) => {
                self.ports.contains(&port) && seen.any_address(|address| net.contains(address))
            }
            _ => seen.name.is_some_and(|name| self.matches_name(name, port)),
        }
    }

    /// Whether the pattern is this very address and no larger network.
    fn is_address(&self, seen: &Seen<'_>, port: u16) -> bool {
        match &self.host {
            HostPattern::Net(net) => net.prefix_len() == net.max_prefix_len() && self.matches(seen, port),
            _ => false,
        }
    }

    /// Whether the pattern means the address itself and not only much that it is part of: it is the very name, or
    /// has addresses of this class alone.
    fn means(&self, seen: &Seen<'_>, class: Class, port: u16) -> bool {
        let means = match &self.host {
            HostPattern::Any | HostPattern::Suffix(_) => false,
            HostPattern::Name(_) => true,
            HostPattern::Net(net) => Class::of(net.network()) == class && Class::of(net.broadcast()) == class,
        };
        means && self.matches(seen, port)
    }

    /// Whether the pattern is this very host, by name or by address, and this very port.
    fn is_host_and_port(&self, seen: &Seen<'_>, port: u16) -> bool {
        let is_host = match &self.host {
            HostPattern::Name(_) => self.matches(seen, port),
            _ => self.is_address(seen, port),
        };
        is_host && self.ports == (port..=port)
    }
}

/// A network of mapped addresses is the IPv4 network, as a mapped address is the IPv4 address.
fn canonical(net: IpNet) -> IpNet {
    let length = net.prefix_len().checked_sub(96);
    let mapped = (net.network().to_canonical(), length);
    match (net, mapped) {
        (IpNet::V6(_), (address @ IpAddr::V4(_), Some(length))) => {
            IpNet::new(address, length).expect("a prefix of up to 128 less 96 fits into IPv4")
        }
        (net, _) => net,
    }
}

/// The host of a pattern, without the brackets that a port behind IPv6 needs, and its ports.
fn split_ports(text: &str) -> Option<(&str, RangeInclusive<u16>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        // What is not IPv6 has no business in brackets; the empty host is refused by the caller.
        let host = if host.contains(':') { host } else { "" };
        return match rest.strip_prefix(':') {
            Some(ports) => Some((host, parse_ports(ports)?)),
            None => rest.is_empty().then_some((host, EVERY_PORT)),
        };
    }
    match text.split_once(':') {
        // More than one colon without brackets: IPv6 for every port.
        Some((_, rest)) if rest.contains(':') => Some((text, EVERY_PORT)),
        Some((host, ports)) => Some((host, parse_ports(ports)?)),
        None => Some((text, EVERY_PORT)),
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let ports = parse_port(low)?..=parse_port(high)?;
    (!ports.is_empty()).then_some(ports)
}

const EVERY_PORT: RangeInclusive<u16> = 1..=u16::MAX;

#[cfg(test)]
mod tests;
