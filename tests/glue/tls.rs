//! Tunnels under TLS, in both of its versions, and somebody in the middle of them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::session::{Event, GatewayConfig, Session};
use anyproxy::proto::ws::WebSocket;
use anyproxy::tls::{self, Identity, Tls};
use anyproxy::tunnel::{Carrier, Down, Side, Tunnel};
use crossbeam_channel::{Receiver, Sender, unbounded};
use poller::tls::rustls::pki_types::PrivateKeyDer;
use poller::tls::rustls::pki_types::pem::PemObject as _;
use poller::tls::rustls::version::{TLS12, TLS13};
use poller::tls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};

use crate::support::*;

/// A certificate for this machine, and its key.
struct Certificate {
    _dir: tempfile::TempDir,
    identity: Identity,
}

impl Certificate {
    fn new() -> Certificate {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { cert: dir.path().join("cert"), key: dir.path().join("key") };
        let issued = tls::issue(&["127.0.0.1".into()], 1, SystemTime::now()).unwrap();
        issued.write(&identity).unwrap();
        Certificate { _dir: dir, identity }
    }

    fn server(&self) -> tls::Server {
        tls::Server::new(&self.identity, None, None).unwrap()
    }
}

/// Trusts all of these, and speaks one version.
fn config(trusted: &[&Certificate], version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(tls::certificates(&certificate.identity.cert).unwrap().remove(0)).unwrap();
    }
    ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth()
}

// proves T26: both versions carry a tunnel, and every byte arrives
#[test]
fn a_tunnel_works_under_both_versions() {
    for version in [&TLS12, &TLS13] {
        let certificate = Certificate::new();
        let world = World::with_tls(certificate.server());
        let client_loop = event_loop();
        let client = tls::Client::with(config(&[&certificate], version), "127.0.0.1");
        world.client_at(world.gateway.tunnel_addr(), &client_loop, Vec::new(), Some(client));
        until("the tunnel", || world.gateway.client_count() == 1);
        let (listener, addr) = listen();
        let mut user = world.connected(addr);
        let mut target = accept(&listener);
        let mut random = fastrand::Rng::with_seed(5);
        let sent: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3 << 20).collect();
        let (up, down) = (sent.clone(), sent.clone());
        let echo = std::thread::spawn(move || {
            let mut came = vec![0; up.len()];
            target.read_exact(&mut came).unwrap();
            target.write_all(&came).unwrap();
            assert!(came == up, "{} bytes up", up.len());
        });
        user.write_all(&sent).unwrap();
        let mut came = vec![0; down.len()];
        user.read_exact(&mut came).unwrap();
        assert!(came == down, "{} bytes down under {version:?}", down.len());
        echo.join().unwrap();
    }
}

/// A gateway's end that reports how its tunnels went.
struct Secure {
    tls: Option<tls::Server>,
    credentials: Arc<Credentials>,
    begun: Arc<AtomicUsize>,
    ends: Sender<Result<(), String>>,
}

impl Side for Secure {
    fn tls(&self) -> Result<Option<Tls>, poller::tls::Error> {
        self.tls.as_ref().map_or(Err(poller::tls::Error::NoTime), |tls| tls.accept().map(Some))
    }

    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let config = GatewayConfig { credentials: self.credentials.clone(), session_id: 1, nonce: [1; 32] };
        Ok((WebSocket::server(), Tunnel::new(Session::gateway(config, Instant::now()), "secure".into())))
    }

    fn on_up(self: &Arc<Self>, _tunnel: &Arc<Tunnel>) {
        self.ends.send(Ok(())).ok();
    }

    fn on_event(self: &Arc<Self>, _tunnel: &Arc<Tunnel>, _event: Event) {}

    fn on_down(self: &Arc<Self>, _tunnel: &Arc<Tunnel>, down: &Down) {
        self.ends.send(Err(down.why.clone())).ok();
    }
}

struct Gate {
    event_loop: poller::EventLoop,
    addr: SocketAddr,
    begun: Arc<AtomicUsize>,
    ends: Receiver<Result<(), String>>,
}

fn gate(world: &World, tls: Option<tls::Server>) -> Gate {
    let event_loop = event_loop();
    let (listener, addr) = listen();
    let (ends_tx, ends) = unbounded();
    let begun = Arc::new(AtomicUsize::new(0));
    let mut credentials = Credentials::new();
    credentials.insert(GROUP, world.secret.clone().unwrap()).unwrap();
    let credentials = Arc::new(credentials);
    let side = Secure { tls, credentials, begun: begun.clone(), ends: ends_tx };
    event_loop.serve(listener, Carrier(Arc::new(side))).unwrap();
    Gate { event_loop, addr, begun, ends }
}

// A count that begins with a carrier would never end otherwise.
#[test]
fn a_carrier_that_gets_no_tls_was_never_begun() {
    let world = World::new();
    let gate = gate(&world, None);
    let mut refused = dial(gate.addr);
    let mut byte = [0];
    // Closed or reset: in either case there is nothing.
    assert_eq!(refused.read(&mut byte).unwrap_or(0), 0);
    assert_eq!(gate.begun.load(Ordering::SeqCst), 0);
    assert!(gate.ends.is_empty());
    drop(gate.event_loop);
}

/// Takes one connection, opens another to `to`, and passes on what it reads of both: plaintext, for it is trusted by both.
fn middle(listener: TcpListener, certificate: &Certificate, to: SocketAddr, config: ClientConfig) {
    let cert = tls::certificates(&certificate.identity.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&certificate.identity.key).unwrap();
    let own = ServerConfig::builder().with_no_client_auth().with_single_cert(cert, key).unwrap();
    std::thread::spawn(move || {
        let client = accept(&listener);
        let gateway = dial(to);
        for side in [&client, &gateway] {
            side.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        }
        let mut client = StreamOwned::new(ServerConnection::new(Arc::new(own)).unwrap(), client);
        let name = "127.0.0.1".try_into().unwrap();
        let mut gateway = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), gateway);
        while pass(&mut client, &mut gateway) && pass(&mut gateway, &mut client) {}
    });
}

/// False at the end.
fn pass(from: &mut impl Read, to: &mut impl Write) -> bool {
    let mut piece = [0; 4096];
    match from.read(&mut piece) {
        Ok(0) => false,
        Ok(bytes) => to.write_all(&piece[..bytes]).and_then(|()| to.flush()).is_ok(),
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}

// proves T10: who is taken for the gateway by mistake cannot pass the proofs on to the real one
#[test]
fn a_proof_that_is_passed_on_is_worth_nothing() {
    for version in [&TLS12, &TLS13] {
        let (ours, theirs) = (Certificate::new(), Certificate::new());
        let world = World::new();
        let gate = gate(&world, Some(ours.server()));
        let trusting = || config(&[&ours, &theirs], version);

        // Straight on it works, also with a session that is taken up again: the two share what they know of sessions.
        let shared = trusting();
        for _ in 0..2 {
            let client_loop = event_loop();
            let client = tls::Client::with(shared.clone(), "127.0.0.1");
            world.client_at(gate.addr, &client_loop, Vec::new(), Some(client));
            assert_eq!(gate.ends.recv_timeout(PATIENCE).unwrap(), Ok(()), "{version:?}");
            drop(client_loop);
            assert!(gate.ends.recv_timeout(PATIENCE).unwrap().is_err(), "it left");
        }

        let (listener, between) = listen();
        middle(listener, &theirs, gate.addr, trusting());
        let client_loop = event_loop();
        let client = tls::Client::with(trusting(), "127.0.0.1");
        world.client_at(between, &client_loop, Vec::new(), Some(client));
        let end = gate.ends.recv_timeout(PATIENCE).unwrap();
        assert_eq!(end, Err("the group or its secret is wrong".into()), "{version:?}");
        drop(client_loop);
        drop(gate.event_loop);
    }
}
