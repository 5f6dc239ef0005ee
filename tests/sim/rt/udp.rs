//! Datagrams.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::kernel;
use super::net::{Packet, UdpEnd};

/// As the poller's.
#[allow(missing_docs, reason = "they are the poller's")]
pub trait DatagramHandler: Send + Sync + 'static {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]);

    fn on_error(&self, _socket: &Datagrams, _error: &io::Error) {}
}

/// A UDP socket that was not given to an event loop yet.
#[derive(Debug)]
pub struct UdpSocket {
    addr: SocketAddr,
    run: u64,
    kept: bool,
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "they are the standard library's")]
impl UdpSocket {
    pub fn bind(mut addr: SocketAddr) -> io::Result<UdpSocket> {
        let bound = kernel::with(|k| {
            if addr.ip().is_unspecified() {
                addr.set_ip(Ipv4Addr::new(10, 255, 0, 1).into());
            }
            while addr.port() == 0 || (k.udp.contains_key(&addr) && addr.ip().to_string() == "10.255.0.1") {
                addr.set_port(k.random.range(20_000, 65_000) as u16);
            }
            if k.udp.contains_key(&addr) {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            k.udp.insert(addr, UdpEnd { proc: None, handler: None, peer: None });
            Ok(k.run)
        });
        let run = bound.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))?;
        Ok(UdpSocket { addr, run, kept: false })
    }

    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let _ = kernel::with(|k| {
            if let Some(end) = k.udp.get_mut(&self.addr) {
                end.peer = Some(peer);
            }
        });
        Ok(())
    }

    pub(super) fn keep(mut self) -> (SocketAddr, u64) {
        self.kept = true;
        (self.addr, self.run)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if !self.kept {
            drop(kernel::with(|k| if k.run == self.run { k.udp.remove(&self.addr) } else { None }));
        }
    }
}

/// A UDP socket of an event loop.
#[derive(Clone)]
pub struct Datagrams {
    run: u64,
    addr: SocketAddr,
    peer: Option<SocketAddr>,
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "they are the poller's")]
impl Datagrams {
    pub(super) fn new(run: u64, addr: SocketAddr, peer: Option<SocketAddr>) -> Datagrams {
        Datagrams { run, addr, peer }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let sent = kernel::with(|k| {
            let open = k.run == self.run && k.udp.contains_key(&self.addr);
            if open {
                k.send_packet(Packet { from: self.addr, to, data: Some(Bytes::copy_from_slice(data)) });
            }
            open
        });
        if sent == Some(true) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        match self.peer {
            Some(peer) => self.send_to(data, peer),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub fn close(&self) {
        drop(kernel::with(|k| if k.run == self.run { k.udp.remove(&self.addr) } else { None }));
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams")
            .field("addr", &self.addr)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
