//! A gateway and clients inside this process, and what their users and targets need.

use std::io::{self, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyproxy::access::AccessLog;
use anyproxy::client;
use anyproxy::gateway::{self, Gateway};
use anyproxy::limits::STREAMS_MAX;
use anyproxy::logfmt::Stamp;
use anyproxy::proto::budget::WindowBudget;
use anyproxy::proto::credentials::{Credentials, Secret};
use anyproxy::proto::frame::{Frame, PortRequest};
use anyproxy::proto::session::{ClientConfig, Event, Lost, Session};
use anyproxy::proto::target::{Rules, Target};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use anyproxy::times::Times;
use anyproxy::tls;
use linkbuffer::LinkBuffer;
use poller::EventLoop;

pub(crate) const GROUP: &str = "g";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Where the access lines go.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn all(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits for the first access line.
    #[track_caller]
    pub(crate) fn first(&self) -> String {
        until("an access line", || !self.all().is_empty());
        self.all().remove(0)
    }
}

/// The value of a key in an access line.
pub(crate) fn value<'a>(line: &'a str, key: &str) -> &'a str {
    let key = format!(" {key}=");
    let from = line.find(&key).unwrap_or_else(|| panic!("no {key} in {line}")) + key.len();
    line[from..].split(' ').next().unwrap()
}

#[track_caller]
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A gateway on an event loop of its own. Fields drop in order: connections end first.
pub(crate) struct World {
    pub(crate) gateway_loop: EventLoop,
    pub(crate) gateway: Gateway,
    pub(crate) lines: Lines,
    pub(crate) secret: Option<Secret>,
    pub(crate) windows: Arc<WindowBudget>,
}

pub(crate) fn localhost() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

impl World {
    /// A gateway that asks its users for nothing.
    pub(crate) fn new() -> World {
        World::with(false, None)
    }

    /// A gateway whose tunnels have TLS.
    pub(crate) fn with_tls(tls: tls::Server) -> World {
        World::with(false, Some(tls))
    }

    /// A gateway that asks its users for the group's name and password.
    pub(crate) fn with_users() -> World {
        World::with(true, None)
    }

    fn with(ask: bool, tls: Option<tls::Server>) -> World {
        let secret = Secret::new("secret").unwrap();
        let mut clients = Credentials::new();
        clients.insert(GROUP, secret.clone()).unwrap();
        let clients = Arc::new(clients);
        let users = if ask { clients.clone() } else { Arc::new(Credentials::new()) };
        let (lines, windows) = (Lines::default(), Arc::<WindowBudget>::default());
        let gateway_loop = EventLoop::builder().polls(1).build().unwrap();
        let config = gateway::Config {
            tunnel: localhost(),
            http: localhost(),
            socks: Some(localhost()),
            clients,
            users,
            group: GROUP.into(),
            times: Times::default(),
            access: AccessLog::start(Box::new(lines.clone()), Stamp::Time).unwrap(),
            tls,
            streams_max: STREAMS_MAX,
            windows: windows.clone(),
        };
        let gateway = Gateway::start(gateway_loop.remote(), config).unwrap();
        World { gateway_loop, gateway, lines, secret: Some(secret), windows }
    }

    /// A client that reaches everything on this machine.
    pub(crate) fn client(&self, event_loop: &EventLoop, forwards: Vec<PortRequest>) {
        let before = self.gateway.client_count();
        self.client_at(self.gateway.tunnel_addr(), event_loop, forwards, None);
        until("the tunnel", || self.gateway.client_count() > before);
    }

    /// A client that dials the gateway by another address.
    pub(crate) fn client_at(
        &self,
        addr: SocketAddr,
        event_loop: &EventLoop,
        forwards: Vec<PortRequest>,
        tls: Option<tls::Client>,
    ) {
        let config = client::Config {
            group: GROUP.into(),
            secret: self.secret.clone(),
            forwards,
            windows: self.windows.clone(),
            ..client_of(vec![client::Gateway { target: target(addr), tls }])
        };
        client::start(event_loop.remote(), config).unwrap();
    }

    /// A user who has asked for a CONNECT.
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        let mut user = dial(self.gateway.http_addr());
        write!(user, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
        user
    }

    /// A user who is joined to the target.
    pub(crate) fn connected(&self, to: SocketAddr) -> TcpStream {
        let mut user = self.connect(to);
        assert!(head(&mut user).starts_with("HTTP/1.1 200 "));
        user
    }
}

/// A client without a group that reaches everything on this machine, with one tunnel and no ports.
pub(crate) fn client_of(gateways: Vec<client::Gateway>) -> client::Config {
    client::Config {
        gateways,
        replicas: 1,
        group: String::new(),
        secret: None,
        name: "c".into(),
        rules: Rules::open_local(),
        forwards: Vec::new(),
        streams_max: STREAMS_MAX,
        times: Times::default(),
        windows: Arc::default(),
        on_up: Box::new(|| ()),
    }
}

pub(crate) fn target(addr: SocketAddr) -> Target {
    Target::from_address(addr.ip(), addr.port()).unwrap()
}

pub(crate) fn event_loop() -> EventLoop {
    EventLoop::builder().polls(1).build().unwrap()
}

pub(crate) fn dial(addr: SocketAddr) -> TcpStream {
    let user = TcpStream::connect(addr).unwrap();
    user.set_read_timeout(Some(PATIENCE)).unwrap();
    user.set_write_timeout(Some(PATIENCE)).unwrap();
    user
}

/// From another address of this machine.
pub(crate) fn dial_from(ip: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(localhost()).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (target, _) = listener.accept().unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    target.set_write_timeout(Some(PATIENCE)).unwrap();
    target
}

/// Reads up to the empty line.
pub(crate) fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the head ended early: {head:?}");
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A client that does what it is told: the session over a blocking socket.
pub(crate) struct Puppet {
    socket: TcpStream,
    ws: WebSocket,
    pub(crate) session: Session,
}

impl Puppet {
    pub(crate) fn new(world: &World, instance: u64, generation: u64) -> Puppet {
        let mut puppet = Puppet::welcomed(world, instance, generation);
        assert_eq!(puppet.next(), Event::Up);
        puppet
    }

    /// One that was told how to prove itself, and has not yet.
    pub(crate) fn welcomed(world: &World, instance: u64, generation: u64) -> Puppet {
        let config = ClientConfig {
            name: "puppet".into(),
            group: GROUP.into(),
            secret: world.secret.clone(),
            instance,
            generation,
            nonce: [7; 32],
        };
        let mut puppet = Puppet::dial(world.gateway.tunnel_addr(), config);
        while puppet.session.peer().is_none() {
            puppet.turn();
        }
        puppet
    }

    /// One that comes to whoever speaks for a gateway there.
    pub(crate) fn at(gateway: SocketAddr, config: ClientConfig) -> Puppet {
        let mut puppet = Puppet::dial(gateway, config);
        assert_eq!(puppet.next(), Event::Up);
        puppet
    }

    fn dial(gateway: SocketAddr, config: ClientConfig) -> Puppet {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // Little, so that a puppet that does not read is felt soon.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&gateway.into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Puppet {
            socket: socket.into(),
            ws: WebSocket::client("gateway", TUNNEL_PATH, [7; 32]),
            session: Session::client(config, Instant::now()),
        }
    }

    /// Sends what there is to send.
    pub(crate) fn send(&mut self) {
        self.say();
        let mut out = LinkBuffer::new();
        self.ws.poll_output(&mut out);
        self.socket.write_all(&out.read_vec(out.len()).unwrap()).unwrap();
    }

    /// Makes a message of what the session has to say.
    fn say(&mut self) {
        let mut message = LinkBuffer::new();
        if self.ws.is_open() && self.session.poll_transmit(64 << 10, &mut message, Instant::now()) > 0 {
            self.ws.send(message).unwrap();
        }
    }

    /// Closes the WebSocket behind what the session has to say; nothing is sent yet.
    pub(crate) fn close(&mut self, code: u16) {
        self.say();
        self.ws.close(code, "");
    }

    /// Sends a PING of the session's, which is a frame like any other.
    pub(crate) fn ask(&mut self) {
        let mut message = LinkBuffer::new();
        message.write(&Frame::Ping(1).encode(0));
        self.ws.send(message).unwrap();
        let mut out = LinkBuffer::new();
        self.ws.poll_output(&mut out);
        // It may have been given up meanwhile.
        self.socket.write_all(&out.read_vec(out.len()).unwrap()).ok();
    }

    /// Sends a WebSocket ping, to which the gateway has to say something.
    pub(crate) fn ping(&mut self) {
        self.socket.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
    }

    /// Leaves with a reset, in the middle of everything.
    pub(crate) fn reset(self) {
        reset(self.socket);
    }

    /// Waits for the next event.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.session.poll_event() {
                return event;
            }
            self.turn();
        }
    }

    /// Waits for the gateway to end the session, and says in which words it does.
    #[track_caller]
    pub(crate) fn turned_away(&mut self) -> String {
        loop {
            match self.next() {
                Event::Up => {}
                Event::Lost(Lost::PeerClosed(_, why)) => return why,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends what there is to send, and takes in what comes then.
    #[track_caller]
    fn turn(&mut self) {
        self.send();
        let mut bytes = [0; 4096];
        let n = self.socket.read(&mut bytes).unwrap();
        assert!(n > 0, "the gateway has closed the tunnel");
        let mut input = LinkBuffer::new();
        input.write(&bytes[..n]);
        self.ws.handle_input(&mut input).unwrap();
        while let Some(part) = self.ws.poll_payload() {
            self.session.handle_input(part.bytes, Instant::now()).unwrap();
        }
    }
}
