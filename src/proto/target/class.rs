//! What kind of network an address belongs to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The kind of network that an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Anything that is nothing of the below.
    Public,
    /// This very host: 127.0.0.0/8, ::1.
    Loopback,
    /// No address, which many systems take for this host: 0.0.0.0/8, ::.
    Unspecified,
    /// RFC 1918, fc00::/7 and the older fec0::/10.
    Private,
    /// Behind a carrier's address translation: 100.64.0.0/10.
    Shared,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// Set aside: 192.0.0.0/24, 198.18.0.0/15, 240.0.0.0/4, 64:ff9b:1::/48.
    Reserved,
    /// Where clouds hand out a machine's credentials.
    Metadata,
}

impl Class {
    /// The class of an address. One that only carries an IPv4 address inside (mapped, NAT64, 6to4)
    /// has the class of that one.
    pub fn of(address: IpAddr) -> Class {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => embedded(address).map_or_else(|| of_v6(address), of_v4),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Public => "a public address",
            Class::Loopback => "a loopback address",
            Class::Unspecified => "an unspecified address",
            Class::Private => "a private address",
            Class::Shared => "a carrier's shared address",
            Class::LinkLocal => "a link-local address",
            Class::Multicast => "a multicast address",
            Class::Broadcast => "the broadcast address",
            Class::Reserved => "a reserved address",
            Class::Metadata => "a cloud's metadata address",
        })
    }
}

fn of_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        // Nearly everybody's; a container's task role, and a pod's; three that have one of their own.
        [169, 254, 169, 254] | [169, 254, 170, 2 | 23] => Class::Metadata,
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Class::Metadata,
        [127, ..] => Class::Loopback,
        [0, ..] => Class::Unspecified,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::Shared,
        [169, 254, ..] => Class::LinkLocal,
        [255, 255, 255, 255] => Class::Broadcast,
        [224..=239, ..] => Class::Multicast,
        [240..=255, ..] | [192, 0, 0, _] | [198, 18..=19, ..] => Class::Reserved,
        _ => Class::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> Class {
    match address.segments() {
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23] => Class::Metadata,
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Class::Metadata,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Class::Private,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xff00..=0xffff, ..] => Class::Multicast,
        [0x64, 0xff9b, 1, ..] => Class::Reserved,
        _ => Class::Public,
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (::ffff:0:0/96), compatible (::/96
/// without :: and ::1), NAT64 (64:ff9b::/96), 6to4 (2002::/16).
pub(super) fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => (high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}
