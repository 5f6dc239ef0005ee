//! What goes wrong within TLS: callbacks of rustls' configuration that panic, and damage behind what was good.

use std::io::{Read, Write};

use log::Level;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, KeyLog, NamedGroup, SignatureScheme};

use super::*;

/// Panics whatever it is asked.
#[derive(Debug)]
struct Clumsy;

impl ResolvesServerCert for Clumsy {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        panic!("on purpose, in the resolver")
    }
}

impl KeyLog for Clumsy {
    fn log(&self, _: &str, _: &[u8], _: &[u8]) {
        panic!("on purpose, in the key log")
    }
}

impl ServerCertVerifier for Clumsy {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        panic!("on purpose, in the verifier")
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("on purpose, in the verifier")
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("on purpose, in the verifier")
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientSessionStore for Clumsy {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        panic!("on purpose, in the store of sessions")
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

// proves L-21 with TLS: what rustls calls may panic, on either side, and that is the end of one connection
#[test]
fn a_panic_in_what_rustls_calls_ends_its_connection_alone() {
    logs::keep();
    let event_loop = EventLoop::builder().name("clumsy").polls(1).build().expect("an event loop");
    let (server, client) = configs();
    let (good, good_log) = secret(Probe::echo(), &server).serve(&event_loop);
    let ends = |log: &Log, connected: bool, says: &str| {
        let closed = log.closed();
        assert_eq!((&closed.reason, closed.connected), (&Reason::Panic, connected), "{says}");
        let lines = logs::lines("clumsy", Level::Error);
        let of = |line: &&logs::Line| line.value("conn") == Some(&*closed.id.to_string());
        let lines: Vec<_> = lines.iter().filter(of).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((lines[0].value("event"), lines[0].value("callback")), (Some("panic"), Some("tls")));
        assert!(lines[0].text.contains(says), "{lines:?}");
    };

    let mut config = ServerConfig::clone(&server);
    config.cert_resolver = Arc::new(Clumsy);
    let (addr, log) = secret(Probe::echo(), &Arc::new(config)).serve(&event_loop);
    user(addr, &client).write_all(b"?").expect_err("cut off");
    ends(&log, false, "on purpose, in the resolver");

    let mut config = ServerConfig::clone(&server);
    config.key_log = Arc::new(Clumsy);
    let (addr, log) = secret(Probe::echo(), &Arc::new(config)).serve(&event_loop);
    user(addr, &client).read(&mut [0]).expect_err("cut off");
    ends(&log, false, "on purpose, in the key log");

    let mut config = ClientConfig::clone(&client);
    config.dangerous().set_certificate_verifier(Arc::new(Clumsy));
    let (_, log) = dial(&event_loop, good, dialing(Probe::echo(), &Arc::new(config), "localhost"));
    ends(&log, false, "on purpose, in the verifier");
    good_log.closed();

    // Long after the handshake, when the server sends a ticket.
    let mut config = ClientConfig::clone(&client);
    config.resumption = Resumption::store(Arc::new(Clumsy));
    let (_, log) = dial(&event_loop, good, dialing(Probe::echo(), &Arc::new(config), "localhost"));
    ends(&log, true, "on purpose, in the store of sessions");
    good_log.closed();

    ask_user(&mut user(good, &client), b"others live");
    wait_until_none(&event_loop);
    assert!(event_loop.shutdown(PATIENCE));
}

/// What is to be sent, of which the last record is damaged.
fn damage(conn: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    conn.writer().write_all(b"good").expect("taken");
    while conn.wants_write() {
        conn.write_tls(&mut records).expect("sealed");
    }
    let good = records.len();
    conn.writer().write_all(b"damaged").expect("taken");
    conn.write_tls(&mut records).expect("sealed");
    records[good + 10] ^= 1;
    records
}

/// Serves a user whose good record and damaged one arrive together, and gives what its end was.
fn damaged(act: impl Fn(At, &mut poller::Connection) -> poller::Result + Send + Sync + 'static) -> Reason {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::new(act), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    while user.conn.is_handshaking() {
        user.conn.complete_io(&mut user.sock).expect("agreed");
    }
    log.until(At::Connect);
    let records = damage(&mut user.conn);
    user.sock.0.write_all(&records).expect("written");
    assert_eq!(log.find(|event| event.at == At::Request).input, 4);
    let error = user.read_to_end(&mut Vec::new()).expect_err("an alert");
    let alert = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)));
    log.closed().reason
}

fn tampered() -> Reason {
    Reason::Tls("cannot decrypt peer's message".to_owned())
}

// proves L-15 with TLS: damage ends the connection, whether or not anybody reads on
#[test]
fn damage_behind_what_was_good_ends_a_paused_connection() {
    let reason = damaged(|at, conn| {
        if at == At::Request {
            conn.pause();
        }
        Ok(())
    });
    assert_eq!(reason, tampered());
}

// proves L-15, L-11 with TLS: there is nothing to wait for when the connection is damaged
#[test]
fn damage_behind_what_was_good_ends_a_wait() {
    for swallows in [false, true] {
        let reason = damaged(move |at, conn| {
            if at == At::Request {
                conn.output().write(b"an answer");
                match conn.flush_all().expect_err("nobody takes it") {
                    _ if swallows => {}
                    error => return Err(error.into()),
                }
            }
            Ok(())
        });
        assert_eq!(reason, tampered());
    }
    let reason = damaged(|at, conn| {
        if at == At::Request {
            conn.wait_for(5)?;
        }
        Ok(())
    });
    assert_eq!(reason, tampered());
}

// proves L-14, L-15 with TLS: what came with the end of the handshake is handed over, though it was damaged behind that
#[test]
fn damage_in_the_same_flight_as_the_handshakes_end_comes_after_what_was_good() {
    let event_loop = one_poll();
    let (server, client) = configs();
    let (addr, log) = secret(Probe::quiet(), &server).serve(&event_loop);
    let mut user = user(addr, &client);
    while user.conn.is_handshaking() {
        // Never the last flight, which is sent with the rest.
        match user.conn.wants_write() {
            true => user.conn.write_tls(&mut user.sock).expect("written"),
            false => user.conn.read_tls(&mut user.sock).expect("read"),
        };
        user.conn.process_new_packets().expect("agreed");
    }
    let records = damage(&mut user.conn);
    user.sock.0.write_all(&records).expect("written");
    log.expect(&[At::Prepare, At::Connect]);
    assert_eq!(log.expect(&[At::Request]).input, 4);
    log.expect(&[At::Disconnect]);
    assert_eq!(log.closed().reason, tampered());
}
