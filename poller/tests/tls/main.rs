//! TLS over loopback, against rustls' own blocking streams.

mod failures;
mod handshakes;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use poller::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use poller::tls::rustls::{
    self, ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned,
};
use poller::tls::{self, Client, Engine, Server};
use poller::{EventLoop, Fault, Limit, Reason, SendError, limits};
use support::*;

/// A rustls client's stream.
type User = StreamOwned<ClientConnection, Chopped>;

/// A server's configuration with a certificate of its own for `localhost`, and that of a client who trusts it.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let issuer = format!("issuer {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    params.distinguished_name.push(rcgen::DnType::CommonName, issuer);
    let key = rcgen::KeyPair::generate().expect("a key");
    let cert: CertificateDer<'static> = params.self_signed(&key).expect("a certificate").into();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).expect("a root");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut server =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key).expect("a server");
    server.alpn_protocols = vec![b"echo".to_vec()];
    (Arc::new(server), Arc::new(client))
}

/// A socket that takes at most so many bytes at a time.
struct Chopped(TcpStream, usize);

impl Read for Chopped {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.read(space)
    }
}

impl Write for Chopped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(self.1)])
    }
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.1 {
            usize::MAX => self.0.write_vectored(pieces),
            _ => self.write(pieces.iter().find(|piece| !piece.is_empty()).map_or(&[], |piece| piece)),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn chopped_user(addr: SocketAddr, config: &Arc<ClientConfig>, piece: usize) -> User {
    let name = ServerName::try_from("localhost").expect("a name");
    let socket = connect(addr);
    socket.set_nodelay(true).expect("an option");
    StreamOwned::new(ClientConnection::new(config.clone(), name).expect("a client"), Chopped(socket, piece))
}

fn user(addr: SocketAddr, config: &Arc<ClientConfig>) -> User {
    chopped_user(addr, config, usize::MAX)
}

/// A handler whose connections get an engine each.
fn with_tls(probe: Probe, engine: impl Fn() -> Engine + Send + Sync + 'static) -> Probe {
    probe.before(move |conn| {
        conn.set_tls(engine());
        Ok(())
    })
}

fn secret(probe: Probe, config: &Arc<ServerConfig>) -> Probe {
    let server = Server::new(config.clone()).expect("a server");
    with_tls(probe, move || server.accept().expect("an engine"))
}

fn dialing(probe: Probe, config: &Arc<ClientConfig>, name: &'static str) -> Probe {
    let client = Client::new(config.clone());
    with_tls(probe, move || client.connect(name).expect("an engine"))
}

fn dial(event_loop: &EventLoop, addr: SocketAddr, probe: Probe) -> (poller::Handle, Log) {
    let (probe, log) = probe.start();
    (event_loop.dial(addr, PATIENCE, probe).expect("dialed"), log)
}

fn ends_properly(user: &mut User) -> Vec<u8> {
    let mut all = Vec::new();
    user.read_to_end(&mut all).expect("close_notify came");
    all
}

fn ask_user(stream: &mut impl ReadWrite, question: &[u8]) {
    stream.write_all(question).expect("written");
    stream.flush().expect("flushed");
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, question);
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A rustls server on a thread of its own that serves one connection.
fn serve_one<T: Send + 'static>(
    config: &Arc<ServerConfig>,
    serve: impl FnOnce(&mut StreamOwned<ServerConnection, TcpStream>) -> T + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let config = config.clone();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("accepted");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let conn = ServerConnection::new(config).expect("a server");
        serve(&mut StreamOwned::new(conn, socket))
    });
    (addr, thread)
}
