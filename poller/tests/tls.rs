//! TLS over loopback, against rustls' own blocking streams.

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
use poller::tls::{Client, Engine, Server};
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
    (event_loop.dial::<Probe>(addr, PATIENCE, probe).expect("dialed"), log)
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

#[test]
fn an_echo_in_pieces_of_every_size() {
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    for piece in (1..40).chain([64, 100, 333, 1000, 5000]) {
        let mut user = chopped_user(addr, &client, piece);
        ask_user(&mut user, b"question");
        ask_user(&mut user, &vec![piece as u8; 3000]);
        user.conn.send_close_notify();
        user.flush().expect("flushed");
        assert_eq!(ends_properly(&mut user), b"");
        let closed = log.closed();
        assert_eq!((closed.reason, closed.unsent, closed.connected), (Reason::Peer, 0, true));
        assert!(closed.bytes_in > 3008 && closed.bytes_out > 3008, "records are counted");
    }
}

#[test]
fn handlers_see_what_was_agreed_upon_and_both_ends_export_the_same() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let mut client = ClientConfig::clone(&client);
    client.alpn_protocols = vec![b"other".to_vec(), b"echo".to_vec()];
    let (told, when_told) = crossbeam_channel::unbounded();
    let (addr, _log) = secret(
        Probe::new(move |at, conn| {
            if at == At::Connect {
                let tls = conn.tls().expect("there is TLS");
                let mut key = [0; 32];
                tls.export_keying_material(&mut key, b"EXPORTER-poller", b"context")?;
                assert!(!tls.is_handshaking());
                told.send((tls.protocol_version(), tls.alpn().map(<[u8]>::to_vec), key)).ok();
                assert_eq!((tls.server_name(), tls.peer_certificates()), (Some("localhost"), None));
            }
            echo(at, conn)
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &Arc::new(client));
    ask_user(&mut user, b"question");
    let key =
        user.conn.export_keying_material([0; 32], b"EXPORTER-poller", Some(b"context")).expect("exported");
    let agreed = when_told.recv_timeout(PATIENCE).expect("told");
    assert_eq!(agreed, (Some(ProtocolVersion::TLSv1_3), Some(b"echo".to_vec()), key));
}

#[test]
fn a_plain_connection_of_the_same_program_has_no_tls() {
    let event_loop = one_poll();
    let (addr, _log) = Probe::new(|at, conn| {
        assert!(conn.tls().is_none());
        echo(at, conn)
    })
    .serve(&event_loop);
    ask(&mut connect(addr), b"plain");
}

// proves L-09 with TLS: 64 MiB through an echo whose reader starts late
#[test]
fn a_slow_reader_slows_the_sender_and_memory_stays_bounded() {
    const TOTAL: usize = 64 << 20;
    let event_loop = event_loop();
    let (server, client) = configs();
    let (congested, when_congested) = crossbeam_channel::unbounded();
    let most = Arc::new(AtomicUsize::new(0));
    let (addr, log) = secret(
        Probe::new({
            let most = most.clone();
            move |at, conn| {
                echo(at, conn)?;
                if conn.is_congested() {
                    congested.send(()).ok();
                }
                let (input, output) = conn.buffers();
                most.fetch_max(input.len() + output.len(), Ordering::Relaxed);
                Ok(())
            }
        }),
        &server,
    )
    .serve(&event_loop);
    // rustls' stream is one object, so the two directions share it by halves: a connection, and a socket for each.
    let mut stream = user(addr, &client);
    ask_user(&mut stream, b"begin");
    let StreamOwned { conn, sock } = stream;
    let conn = Arc::new(parking_lot::Mutex::new(conn));
    let writer = std::thread::spawn({
        let (conn, mut socket) = (conn.clone(), sock.0.try_clone().expect("a second handle"));
        move || {
            let mut at = 0;
            while at < TOTAL {
                let block: Vec<u8> = (at..at + 16_384).map(pattern).collect();
                at += block.len();
                let mut records = Vec::new();
                {
                    let mut conn = conn.lock();
                    conn.writer().write_all(&block).expect("taken");
                    while conn.wants_write() {
                        conn.write_tls(&mut records).expect("sealed");
                    }
                }
                socket.write_all(&records).expect("written");
            }
        }
    });
    when_congested.recv_timeout(PATIENCE).expect("the output reaches its high watermark");
    let (mut at, mut socket, mut block) = (0, sock.0, vec![0; 65_536]);
    while at < TOTAL {
        let n = socket.read(&mut block).expect("read");
        assert_ne!(n, 0, "the stream ended after {at} bytes");
        let mut records = &block[..n];
        while !records.is_empty() {
            let mut conn = conn.lock();
            conn.read_tls(&mut records).expect("taken");
            conn.process_new_packets().expect("records");
            let mut plain = [0; 16_384];
            while let Ok(n @ 1..) = conn.reader().read(&mut plain) {
                assert!(
                    plain[..n].iter().enumerate().all(|(i, byte)| *byte == pattern(at + i)),
                    "within {n} of {at}"
                );
                at += n;
            }
        }
    }
    writer.join().expect("all was taken");
    drop(socket);
    let closed = log.closed();
    assert!(closed.bytes_in > TOTAL as u64 && closed.bytes_out > TOTAL as u64);
    // Cut off, as nobody said that it would end.
    assert_eq!(closed.reason, Reason::Error(Fault { kind: ErrorKind::UnexpectedEof, errno: None }));
    let most = most.load(Ordering::Relaxed);
    assert!(most <= limits::OUTPUT_HIGH_BYTES + 2 * limits::READ_BYTES_MAX, "bounded: {most}");
}

// proves L-22 with TLS, the peer's end first
#[test]
fn the_peers_close_notify_is_the_end_of_its_stream_and_the_answer_still_goes_out() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request && conn.input_ended() {
                conn.output().write(&vec![7; 1 << 20]);
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"question").expect("written");
    user.conn.send_close_notify();
    user.flush().expect("flushed");
    user.sock.0.shutdown(Shutdown::Write).expect("FIN behind it");
    assert_eq!(ends_properly(&mut user), vec![7; 1 << 20]);
    log.expect(&[At::Prepare, At::Connect]);
    assert_eq!(log.find(|event| event.at == At::Request && event.ended).input, 8);
    let rest = log.rest();
    assert!(rest.iter().all(|event| event.at != At::Request), "once");
    let closed = rest.iter().find_map(|event| event.closed.clone()).unwrap_or_else(|| log.closed());
    assert_eq!(closed.reason, Reason::Peer);
}

// proves L-22 with TLS, our end first
#[test]
fn our_stream_can_end_and_reading_goes_on() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Connect {
                conn.set_half_close(true);
                conn.output().write(b"last words");
                conn.shutdown_write();
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    assert_eq!(ends_properly(&mut user), b"last words");
    user.write_all(b"still here").expect("written");
    user.flush().expect("flushed");
    assert_eq!(log.find(|event| event.input == 10).at, At::Request);
    user.conn.send_close_notify();
    user.flush().expect("flushed");
    assert_eq!(log.closed().reason, Reason::Peer);
}

// proves L-14 with TLS: what came before the cut is handed over, and the cut is no end
#[test]
fn a_stream_that_is_cut_off_is_an_error() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::new(|_, _| Ok(())), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"half a mess").expect("written");
    user.flush().expect("flushed");
    log.find(|event| event.at == At::Request && event.input == 11);
    user.sock.0.shutdown(Shutdown::Write).expect("shut down");
    let mut seen = Vec::new();
    let closed = loop {
        let event = log.next();
        seen.push((event.at, event.ended));
        if let Some(closed) = event.closed {
            break closed;
        }
    };
    assert_eq!(seen, [(At::Disconnect, false)]);
    assert_eq!(closed.reason, Reason::Error(Fault { kind: ErrorKind::UnexpectedEof, errno: None }));
}

// proves L-23 with TLS: a graceful close sends what is queued, then close_notify
#[test]
fn a_close_sends_what_is_queued_and_ends_the_stream_properly() {
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request {
                conn.output().write_bytes(Bytes::from(vec![9; 8 << 20]));
                conn.close();
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"go").expect("written");
    user.flush().expect("flushed");
    assert_eq!(ends_properly(&mut user), vec![9; 8 << 20]);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
}

// proves L-23 with TLS: an abort drops what is queued, and the peer cannot take it for an end
#[test]
fn an_abort_is_not_taken_for_an_end() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Request {
                conn.output().write_bytes(Bytes::from(vec![9; 1 << 20]));
                conn.abort();
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"go").expect("written");
    user.flush().expect("flushed");
    let error = user.read_to_end(&mut Vec::new()).expect_err("nobody said that this is all");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::User);
}

// proves L-11 with TLS: a handshake that never ends, silent or slow, meets its limit
#[test]
fn a_handshake_that_does_not_end_times_out() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let server = Server::new(server).expect("a server");
    let short = move || server.accept().expect("an engine").with_handshake_timeout(Duration::from_millis(30));
    let (addr, log) = with_tls(Probe::echo(), short).serve(&event_loop);
    for first in [0, 1, 100] {
        let mut hello = Vec::new();
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(client.clone(), name)
            .expect("a client")
            .write_tls(&mut hello)
            .expect("a hello");
        let mut user = connect(addr);
        user.write_all(&hello[..first]).expect("written");
        let closed = log.closed();
        assert_eq!(
            (closed.reason, closed.connected, closed.bytes_in),
            (Reason::Timeout(Limit::Handshake), false, first as u64)
        );
        assert_eq!(read_all(&mut user), b"");
    }
    // The dialed side, with a server that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dialer = Client::new(client);
    let short = move || {
        dialer.connect("localhost").expect("an engine").with_handshake_timeout(Duration::from_millis(30))
    };
    let addr = silent.local_addr().expect("an address");
    let (_, log) = dial(&event_loop, addr, with_tls(Probe::echo(), short));
    let closed = log.closed();
    assert_eq!((closed.reason, closed.connected), (Reason::Timeout(Limit::Handshake), false));
}

#[test]
fn a_limit_that_was_met_does_not_strike_later() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let server = Server::new(server).expect("a server");
    let limit = Duration::from_millis(500);
    let (addr, log) =
        with_tls(Probe::echo(), move || server.accept().expect("an engine").with_handshake_timeout(limit))
            .serve(&event_loop);
    let mut user = user(addr, &client);
    ask_user(&mut user, b"question");
    // A timer of the same poll that is due after the limit.
    let (passed, when_passed) = crossbeam_channel::unbounded();
    event_loop.after(limit, move || passed.send(()).expect("awaited")).expect("a timer");
    when_passed.recv_timeout(PATIENCE).expect("the time passes");
    ask_user(&mut user, b"another");
    assert!(log.rest().iter().all(|event| event.closed.is_none()));
}

// proves T26: plain HTTP on the TLS port is a clean close
#[test]
fn plain_text_is_told_off_and_closed() {
    let event_loop = one_poll();
    let (server, _) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut user = connect(addr);
    user.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
    assert_eq!(read_all(&mut user), [21, 3, 3, 0, 2, 2, 50], "an alert and an end");
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Tls("the peer does not speak TLS".to_owned()));
    assert_eq!(closed.reason.to_string(), "TLS: the peer does not speak TLS");
    assert!(!closed.connected);

    // The dialed side, to a server of plain text.
    let (plain, _log) = Probe::new(|at, conn| {
        if at == At::Connect {
            conn.output().write(b"220 ready\r\n");
        }
        Ok(())
    })
    .serve(&event_loop);
    let (_, log) = dial(&event_loop, plain, dialing(Probe::echo(), &configs().1, "localhost"));
    assert_eq!(log.closed().reason, Reason::Tls("the peer does not speak TLS".to_owned()));
}

#[test]
fn a_peer_that_vanishes_in_the_handshake_is_an_error() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    for with_reset in [false, true] {
        let mut hello = Vec::new();
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(client.clone(), name)
            .expect("a client")
            .write_tls(&mut hello)
            .expect("a hello");
        let mut user = connect(addr);
        user.write_all(&hello[..50]).expect("written");
        if with_reset {
            reset(user)
        } else {
            drop(user)
        }
        let closed = log.closed();
        let eof = Reason::Error(Fault { kind: ErrorKind::UnexpectedEof, errno: None });
        let reset = Reason::Error(Fault { kind: ErrorKind::ConnectionReset, errno: Some(libc::ECONNRESET) });
        assert_eq!((closed.reason, closed.connected), (if with_reset { reset } else { eof }, false));
    }
    let rest = log.rest();
    assert!(rest.iter().all(|event| !matches!(event.at, At::Connect | At::Disconnect)), "{rest:?}");
}

#[test]
fn a_certificate_is_replaced_while_the_server_runs() {
    let event_loop = event_loop();
    let (old_server, old_client) = configs();
    let (new_server, new_client) = configs();
    let server = Arc::new(Server::new(old_server).expect("a server"));
    let (addr, log) = with_tls(Probe::echo(), {
        let server = server.clone();
        move || server.accept().expect("an engine")
    })
    .serve(&event_loop);
    let mut first = user(addr, &old_client);
    ask_user(&mut first, b"first");
    server.replace(new_server).expect("replaced");
    ask_user(&mut user(addr, &new_client), b"second");
    let error = user(addr, &old_client).write_all(b"third").expect_err("it trusts the former one alone");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    let refused =
        log.find(|event| matches!(event.closed.as_ref().map(|it| &it.reason), Some(Reason::Tls(_))));
    let reason = refused.closed.expect("it is closed").reason;
    assert_eq!(reason, Reason::Tls("received fatal alert: UnknownCA".to_owned()));
    ask_user(&mut first, b"the first lives on");
}

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

#[test]
fn a_dialed_connection_speaks_tls_and_handles_send_through_it() {
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, thread) = serve_one(&server, |stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("close_notify came");
        all
    });
    let (handle, log) = dial(&event_loop, addr, dialing(Probe::new(|_, _| Ok(())), &client, "localhost"));
    // Perhaps before the handshake is over: it waits for that.
    handle.send(Bytes::from_static(b"early ")).expect("taken");
    log.handle();
    let mut want = b"early ".to_vec();
    for round in 0..200usize {
        let mut bytes = Bytes::from(vec![round as u8; 10_000]);
        want.extend_from_slice(&bytes);
        while let Err(error) = handle.send(bytes) {
            let SendError::WouldBlock(back) = error else { panic!("it is open") };
            bytes = back;
            std::thread::yield_now();
        }
    }
    handle.close();
    assert!(thread.join().expect("served") == want);
    let closed = log.closed();
    assert_eq!((closed.reason, closed.unsent), (Reason::User, 0));
}

#[test]
fn a_dial_to_the_wrong_name_or_to_nobody_says_so() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, thread) =
        serve_one(&server, |stream| stream.read(&mut [0; 1]).expect_err("it is refused").to_string());
    let (_, log) = dial(&event_loop, addr, dialing(Probe::echo(), &client, "example.org"));
    let Reason::Tls(why) = log.closed().reason else { panic!("TLS is the reason") };
    assert!(why.contains("not valid for name") && why.contains("example.org"), "{why}");
    assert!(thread.join().expect("served").contains("BadCertificate"), "the alert arrives");

    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (_, log) = dial(&event_loop, free, dialing(Probe::echo(), &client, "localhost"));
    let refused = Fault { kind: ErrorKind::ConnectionRefused, errno: Some(libc::ECONNREFUSED) };
    assert_eq!(log.closed().reason, Reason::Error(refused));
}

#[test]
fn both_ends_can_be_ours_and_many() {
    const CONNECTIONS: usize = 60;
    let event_loop = event_loop();
    let (server, client) = configs();
    let (addr, served) = secret(Probe::echo(), &server).serve(&event_loop);
    let asking = Probe::new(|at, conn| {
        match at {
            At::Connect => conn.output().write(&[5; 40_000]),
            At::Request if conn.input().len() == 40_000 => {
                assert!(conn.input().chunks().all(|chunk| chunk.iter().all(|byte| *byte == 5)));
                conn.close();
            }
            _ => {}
        }
        Ok(())
    });
    let (probe, log) = dialing(asking, &client, "localhost").start();
    for _ in 0..CONNECTIONS {
        event_loop.dial::<Probe>(addr, PATIENCE, probe.clone()).expect("dialed");
    }
    for _ in 0..CONNECTIONS {
        assert_eq!(log.closed().reason, Reason::User);
        assert_eq!(served.closed().reason, Reason::Peer);
    }
    wait_until_none(&event_loop);
}

// proves L-10 with TLS
#[test]
fn a_blocked_handler_stops_nobody_else() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (go, may_go) = crossbeam_channel::bounded::<()>(1);
    let (addr, log) = secret(
        Probe::new(move |at, conn| {
            if at == At::Request && conn.input().chunk() == b"wait" {
                poller::blocking(|| may_go.recv_timeout(PATIENCE))?;
            }
            echo(at, conn)
        }),
        &server,
    )
    .serve(&event_loop);
    let mut slow = user(addr, &client);
    slow.write_all(b"wait").expect("written");
    slow.flush().expect("flushed");
    log.handle();
    for _ in 0..3 {
        // A handshake and an answer, while the other one waits.
        ask_user(&mut user(addr, &client), b"at once");
    }
    go.send(()).expect("awaited");
    let mut answer = [0; 4];
    slow.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"wait");
}

// proves L-07 with TLS: what came with the end of the handshake is a request, though no event tells of it
#[test]
fn a_question_that_comes_with_the_handshake_is_answered() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    user.conn.writer().write_all(b"question").expect("it waits for the handshake");
    let mut answer = [0; 8];
    user.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"question");
    user.conn.send_close_notify();
    user.flush().expect("flushed");
    log.expect(&[At::Prepare, At::Connect, At::Request]);
    assert_eq!(log.closed().reason, Reason::Peer);
}

#[test]
fn a_server_may_speak_first_and_progress_is_told() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (progress, when) = crossbeam_channel::unbounded();
    let (addr, _log) = secret(
        Probe::new(move |at, conn| {
            match at {
                At::Connect => {
                    conn.output().write(&[1; 100]);
                    conn.wake_on_progress();
                }
                At::Request => progress.send((conn.input().len(), conn.bytes_out())).expect("awaited"),
                _ => {}
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    let mut greeting = [0; 100];
    user.read_exact(&mut greeting).expect("greeted");
    let (input, sent) = when.recv_timeout(PATIENCE).expect("woken");
    assert_eq!(input, 0);
    assert!(sent > 100, "records: {sent}");
}

// proves L-29 with TLS: a handshake does not hold up the end, and open connections end properly
#[test]
fn a_stopping_event_loop_ends_handshakes_and_says_goodbye() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::echo(), &server).serve(&event_loop);
    let mut open = user(addr, &client);
    ask_user(&mut open, b"question");
    let mut silent = connect(addr);
    wait_until("both are there", || event_loop.connections() == 2);
    event_loop.shutdown(PATIENCE);
    assert_eq!(ends_properly(&mut open), b"");
    silent.read_to_end(&mut Vec::new()).ok();
    for _ in 0..2 {
        assert_eq!(log.closed().reason, Reason::Shutdown);
    }
}

// proves L-11 with TLS: a message that goes on by records, and is not consumed, does not move the read limit
#[test]
fn records_do_not_count_as_consumed() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(
        Probe::new(|at, conn| {
            if at == At::Connect {
                conn.set_read_timeout(Some(Duration::from_millis(100)))?;
            }
            Ok(())
        }),
        &server,
    )
    .serve(&event_loop);
    let mut user = user(addr, &client);
    // A byte in a record, for as long as anybody takes them.
    while user.write_all(b"x").and_then(|()| user.flush()).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(log.closed().reason, Reason::Timeout(Limit::Read));
}

/// A peer that breaks the protocol in the middle of a stream: what came before is handed over, the alert goes out.
#[test]
fn damage_is_an_error_with_an_alert_and_what_came_before_is_handed_over() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::new(|_, _| Ok(())), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    user.write_all(b"good").expect("written");
    user.flush().expect("flushed");
    log.find(|event| event.at == At::Request && event.input == 4);
    user.conn.writer().write_all(b"more").expect("taken");
    let mut records = Vec::new();
    user.conn.write_tls(&mut records).expect("sealed");
    let good = records.len();
    user.conn.writer().write_all(b"damaged").expect("taken");
    user.conn.write_tls(&mut records).expect("sealed");
    records[good + 10] ^= 1;
    user.sock.0.write_all(&records).expect("written");
    log.find(|event| event.input == 8);
    let closed = log.closed();
    assert_eq!(closed.reason, Reason::Tls("cannot decrypt peer's message".to_owned()));
    let error = user.read(&mut [0; 1]).expect_err("an alert");
    let alert = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)));
}
