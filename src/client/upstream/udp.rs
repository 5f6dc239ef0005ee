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

/// Joins a stream to a socket of its own, or goes on to the next address.
pub(super) fn join(reaching: Reaching, addr: SocketAddr) {
    let any: SocketAddr =
        if addr.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = match UdpSocket::bind(any) {
        Ok(socket) => socket,
        Err(error) => return reaching.without_socket(addr, &error),
    };
    // Connected, so that the kernel drops what comes from anybody else.
    if let Err(error) = socket.connect(addr) {
        log::debug!(event = "stream", conn_id = crate::conn_label(reaching.conn_id), ip:% = addr; "{error}");
        return reaching.next(RefuseCode::Unreachable);
    }
    let target = Arc::new(UdpTarget {
        conn_id: reaching.conn_id,
        addr,
        stream: Mutex::new(None),
        socket: Mutex::new(None),
    });
    let socket = match reaching.ways.remote.datagrams(socket, UdpReceiver(target.clone())) {
        Ok(socket) => socket,
        Err(error) => return reaching.without_socket(addr, &error),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use linkbuffer::LinkBuffer;

    use super::*;
    use crate::client::resolve::Resolver;
    use crate::client::upstream::{Attempt, Ways};
    use crate::proto::frame::{Network, OpenRequest, Opened};
    use crate::proto::session::{ClientConfig, Event, GatewayConfig, Refused, Session};
    use crate::proto::target::{Rules, Target};
    use crate::refused::Refusals;
    use crate::rt::{self, EventLoop, Remote};
    use crate::times::Times;
    use crate::tunnel::Tunnel;

    /// Where no socket of ours may be connected to; the system says so at once, and nothing is sent.
    const CLOSED: ([u8; 4], u16) = ([255, 255, 255, 255], 9);

    /// A gateway that has asked for a stream, the client's tunnel, without a carrier, and where the client's targets are.
    struct World {
        gateway: Session,
        tunnel: Arc<Tunnel>,
        id: StreamId,
        ways: Arc<Ways>,
    }

    fn event_loop() -> EventLoop {
        EventLoop::builder().polls(1).build().expect("there are threads")
    }

    fn said(session: &mut Session) -> Bytes {
        let mut all = LinkBuffer::new();
        let bytes = session.poll_transmit(usize::MAX, &mut all, rt::now());
        all.read_bytes(bytes).expect("all of it")
    }

    impl World {
        fn new(remote: Remote) -> World {
            let client = ClientConfig {
                name: "c".into(),
                group: String::new(),
                secret: None,
                instance: 1,
                generation: 1,
                nonce: [1; 32],
            };
            let gateway = GatewayConfig { credentials: Arc::default(), session_id: 1, nonce: [2; 32] };
            let ways = Ways {
                remote: remote.clone(),
                rules: Rules::open_local(),
                times: Times::default(),
                resolver: Resolver::system(remote, 1),
                forbidden: Refusals::default(),
                without_socket: Refusals::default(),
            };
            let mut world = World {
                gateway: Session::gateway(gateway, rt::now()),
                tunnel: Tunnel::new(Session::client(client, rt::now()), "t1".into()),
                id: StreamId(0),
                ways: Arc::new(ways),
            };
            world.carry();
            let request =
                OpenRequest { network: Network::Udp, host: "a".into(), port: 1, conn_id: 1, user_addr: None };
            world.id = world.gateway.open(request).expect("the tunnel is up");
            world.carry();
            world
        }

        /// Takes to each side what the other says, until neither says any more.
        fn carry(&mut self) {
            loop {
                let (up, down) = (self.tunnel.exchange(said), said(&mut self.gateway));
                if up.is_empty() && down.is_empty() {
                    return;
                }
                self.gateway.handle_input(up, rt::now()).expect("what a client says");
                self.tunnel
                    .exchange(|session| session.handle_input(down, rt::now()))
                    .expect("a gateway's words");
            }
        }

        /// The stream, its name resolved to these addresses, all of them allowed.
        fn reaching(&self, addresses: &[SocketAddr]) -> Reaching {
            let attempt = Arc::new(Attempt::default());
            let stream = self.tunnel.take_on(self.id, Watcher::Call(attempt.clone())).expect("it is there");
            let now = rt::now();
            Reaching {
                ways: self.ways.clone(),
                stream,
                attempt,
                network: Network::Udp,
                conn_id: 1,
                target: Target::new("a", 1).expect("a target"),
                begun: now,
                resolve_us: 0,
                dialing: now,
                left: addresses.iter().copied().collect(),
                deadline: now + Duration::from_secs(60),
            }
        }

        /// What the gateway is answered.
        #[track_caller]
        fn answer(&mut self) -> Result<Opened, Refused> {
            self.carry();
            let answer = std::iter::from_fn(|| self.gateway.poll_event()).find_map(|event| match event {
                Event::Accepted(_, opened) => Some(Ok(opened)),
                Event::Refused(_, refused) => Some(Err(refused)),
                _ => None,
            });
            answer.expect("an answer")
        }
    }

    #[test]
    fn the_next_address_of_a_name_is_tried() {
        let open = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let (open, event_loop) = (open.expect("loopback has free ports"), event_loop());
        let mut world = World::new(event_loop.remote());
        world.reaching(&[CLOSED.into(), open]).next(RefuseCode::Unreachable);
        assert_eq!(world.answer().expect("the second is reached").addr, Some(open));

        let mut world = World::new(event_loop.remote());
        world.reaching(&[CLOSED.into(), CLOSED.into()]).next(RefuseCode::Dns);
        assert_eq!(world.answer().expect_err("there is no way").code, RefuseCode::Unreachable);

        // On a host without IPv6 there is not even a socket for such an address.
        let mut world = World::new(event_loop.remote());
        let error = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        world.reaching(&[open]).without_socket(CLOSED.into(), &error);
        assert_eq!(world.answer().expect("the second is reached").addr, Some(open));
    }

    #[test]
    fn a_client_without_sockets_says_so_and_asks_for_no_more() {
        let event_loop = event_loop();
        let mut world = World::new(event_loop.remote());
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        world.reaching(&[CLOSED.into()]).without_socket(CLOSED.into(), &error);
        assert_eq!(world.answer().expect_err("there are none").code, RefuseCode::Limit);
        assert_eq!(world.ways.without_socket.total(), 1);
    }

    #[test]
    fn a_client_that_stops_says_so() {
        let event_loop = event_loop();
        let mut world = World::new(event_loop.remote());
        let reaching = world.reaching(&[([127, 0, 0, 1], 9).into()]);
        event_loop.shutdown(Duration::ZERO);
        reaching.next(RefuseCode::Unreachable);
        assert_eq!(world.answer().expect_err("it stops").code, RefuseCode::Draining);
    }
}
