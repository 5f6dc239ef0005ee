//! UDP targets: a connected socket for each stream, gone with it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Reaching, answered};
use crate::proto::frame::RefuseCode;
use crate::proto::session::StreamId;
use crate::rt::{DatagramHandler, Datagrams, UdpSocket};
use crate::tunnel::{Stream, StreamWatcher, Watcher};

/// A UDP target: one socket a stream.
struct UdpTarget {
    conn_id: u64,
    addr: SocketAddr,
    /// `None` once closed.
    stream: Mutex<Option<Stream>>,
    socket: Mutex<Option<Datagrams>>,
}

/// Joins a stream to a socket of its own.
pub(super) fn join(reaching: Reaching, addr: SocketAddr) {
    let any: SocketAddr =
        if addr.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let target = Arc::new(UdpTarget {
        conn_id: reaching.conn_id,
        addr,
        stream: Mutex::new(None),
        socket: Mutex::new(None),
    });
    // Connected, so that the kernel drops what comes from anybody else.
    let socket = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(addr).map(|()| socket))
        .and_then(|socket| reaching.ways.remote.datagrams(socket, UdpReceiver(target.clone())));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            log::debug!(event = "stream", conn_id = crate::conn_label(reaching.conn_id), ip:% = addr; "{error}");
            return reaching.refuse(RefuseCode::Unreachable);
        }
    };
    *target.socket.lock() = Some(socket);
    let opened = reaching.opened(addr);
    log::debug!(event = "stream", conn_id = crate::conn_label(reaching.conn_id), dst:% = reaching.target, ip:% = addr; "established");
    let id = reaching.stream.id();
    {
        let mut slot = target.stream.lock();
        let stream = slot.insert(reaching.stream);
        stream.watch(Watcher::Call(target.clone() as Arc<dyn StreamWatcher>));
        stream.exchange(|session, id| answered(session.accept(id, opened)));
    }
    // The stream may have gone before there was anybody to hear of it.
    target.on_stream(id);
}

impl StreamWatcher for UdpTarget {
    fn on_stream(&self, _id: StreamId) {
        let mut slot = self.stream.lock();
        let Some(stream) = &*slot else { return };
        let socket = self.socket.lock().clone();
        while let Some(data) = stream.exchange(|session, id| session.read_datagram(id)) {
            let sent = socket.as_ref().map(|socket| socket.send_to(&data, self.addr));
            if let Some(Err(error)) = sent {
                log::debug!(event = "udp", ip:% = self.addr; "a datagram is dropped: {error}");
            }
        }
        if stream.is_closed() || stream.broken().is_some() {
            let conn_id = crate::conn_label(self.conn_id);
            log::debug!(event = "stream", conn_id = conn_id.as_str(); "closing: {:?}", stream.broken());
            *slot = None;
            if let Some(socket) = self.socket.lock().take() {
                socket.close();
            }
            log::debug!(event = "stream", conn_id = conn_id.as_str(); "closed");
        }
    }
}

/// Takes what a UDP target answers.
struct UdpReceiver(Arc<UdpTarget>);

impl DatagramHandler for UdpReceiver {
    fn on_datagram(&self, _socket: &Datagrams, _from: SocketAddr, data: &[u8]) {
        if let Some(stream) = &*self.0.stream.lock() {
            let data = bytes::Bytes::copy_from_slice(data);
            stream.exchange(|session, id| session.send_datagram(id, data));
        }
    }

    fn on_error(&self, _socket: &Datagrams, error: &io::Error) {
        log::debug!(event = "udp", ip:% = self.0.addr; "{error}");
    }
}
