//! The other end's address in sixteen bytes: most are IPv4, and the others are worth a box.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

/// An address that is kept for as long as a connection lives.
#[derive(Debug)]
pub(crate) enum Peer {
    None,
    V4(Ipv4Addr, u16),
    V6(Box<SocketAddrV6>),
}

impl From<Option<SocketAddr>> for Peer {
    fn from(addr: Option<SocketAddr>) -> Peer {
        match addr {
            None => Peer::None,
            Some(SocketAddr::V4(addr)) => Peer::V4(*addr.ip(), addr.port()),
            Some(SocketAddr::V6(addr)) => Peer::V6(Box::new(addr)),
        }
    }
}

impl Peer {
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        match self {
            Peer::None => None,
            Peer::V4(ip, port) => Some(SocketAddr::from((*ip, *port))),
            Peer::V6(addr) => Some(SocketAddr::V6(**addr)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        let scoped = SocketAddr::V6(SocketAddrV6::new([0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), 7, 3, 9));
        for addr in [None, Some("127.0.0.1:65535".parse().expect("IPv4")), Some(scoped)] {
            assert_eq!(Peer::from(addr).addr(), addr);
        }
        assert_eq!(size_of::<Peer>(), 16);
    }
}
