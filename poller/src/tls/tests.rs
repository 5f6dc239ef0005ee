//! The engine against rustls' own buffered connections, in memory.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use linkbuffer::LinkBuffer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, PeerIncompatible,
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
};

use super::{Client, Engine, Error, Server};
use crate::limits;

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A certificate of its own making, for `localhost`, and its key.
fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    // An issuer of its own, so that it is unknown and not an impostor.
    let issuer = format!("issuer {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    params.distinguished_name.push(rcgen::DnType::CommonName, issuer);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().into(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn trusting(cert: &CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    roots
}

fn configs(versions: &[&'static SupportedProtocolVersion]) -> (ServerConfig, ClientConfig) {
    let (cert, key) = certificate();
    let client = ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(trusting(&cert))
        .with_no_client_auth();
    let server = ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    (server, client)
}

fn peer_client(config: ClientConfig) -> Connection {
    Connection::Client(
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap(),
    )
}

fn peer_server(config: ServerConfig) -> Connection {
    Connection::Server(ServerConnection::new(Arc::new(config)).unwrap())
}

/// The engine with its buffers, as a connection holds them.
struct Ours {
    engine: Engine,
    input: LinkBuffer,
    output: LinkBuffer,
    sealed: LinkBuffer,
}

impl Ours {
    fn new(engine: Engine) -> Ours {
        let mut ours =
            Ours { engine, input: LinkBuffer::new(), output: LinkBuffer::new(), sealed: LinkBuffer::new() };
        ours.engine.begin(&mut ours.sealed).unwrap();
        ours
    }

    fn take(&mut self, arrived: &[u8]) -> Result<(), Error> {
        let mut space = vec![0; limits::TLS_BACKLOG_BYTES_MAX + arrived.len()];
        let before = self.engine.rejoin(&mut space);
        space[before..before + arrived.len()].copy_from_slice(arrived);
        self.engine.receive(&mut space[..before + arrived.len()], &mut self.input, &mut self.sealed)
    }

    fn seal(&mut self) -> Result<(), Error> {
        self.engine.seal(&mut self.output, &mut self.sealed, usize::MAX)
    }

    fn sealed(&mut self) -> Vec<u8> {
        self.sealed.read_vec(self.sealed.len()).unwrap()
    }

    fn read(&mut self) -> Vec<u8> {
        self.input.read_vec(self.input.len()).unwrap()
    }
}

/// Everything that the peer has to send.
fn sent_by(peer: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn give(peer: &mut Connection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        peer.process_new_packets()?;
        let mut block = [0; 4096];
        while let Ok(n @ 1..) = peer.reader().read(&mut block) {
            plain.extend_from_slice(&block[..n]);
        }
    }
    Ok(plain)
}

/// Carries bytes to and fro in pieces until both are silent; what the peer read is returned.
fn talk(ours: &mut Ours, peer: &mut Connection, piece: usize) -> Result<Vec<u8>, Error> {
    let mut read = Vec::new();
    loop {
        let theirs = sent_by(peer);
        for piece in theirs.chunks(piece) {
            ours.take(piece)?;
            // In between, as a handler on another thread would.
            ours.seal()?;
        }
        ours.seal()?;
        let mine = ours.sealed();
        if theirs.is_empty() && mine.is_empty() {
            return Ok(read);
        }
        for piece in mine.chunks(piece) {
            read.extend(give(peer, piece)?);
        }
    }
}

/// Our server and rustls' client, our client and rustls' server, in each version.
fn each_side(mut check: impl FnMut(Ours, Connection, ProtocolVersion)) {
    for version in BOTH {
        let (server, client) = configs(&[version]);
        let ours = Ours::new(Server::new(server.clone()).unwrap().accept().unwrap());
        check(ours, peer_client(client.clone()), version.version);
        let ours = Ours::new(Client::new(client).connect("localhost").unwrap());
        check(ours, peer_server(server), version.version);
    }
}

/// As `each_side`, after the handshake.
fn each_open(mut check: impl FnMut(Ours, Connection)) {
    each_side(|mut ours, mut peer, _| {
        talk(&mut ours, &mut peer, usize::MAX).unwrap();
        check(ours, peer);
    });
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

#[test]
fn a_question_and_its_answer_arrive_in_pieces_of_every_size() {
    // The longest flight, with the certificate, has some 1,200 bytes.
    let pieces: Vec<usize> = (1..100).chain((100..1400).step_by(13)).collect();
    for piece in pieces {
        each_side(|mut ours, mut peer, version| {
            peer.writer().write_all(b"question").unwrap();
            ours.output.write(b"first");
            assert_eq!(talk(&mut ours, &mut peer, piece).unwrap(), b"first", "in pieces of {piece}");
            assert!(!ours.engine.is_handshaking());
            assert_eq!(ours.engine.protocol_version(), Some(version));
            assert_eq!(ours.read(), b"question");
            ours.output.write(b"answer");
            assert_eq!(talk(&mut ours, &mut peer, piece).unwrap(), b"answer");
            assert_eq!(ours.engine.backlog.capacity(), 0, "nothing is kept when nothing is incomplete");
        });
    }
}

#[test]
fn both_ends_can_be_ours() {
    let (server, client) = configs(&BOTH);
    let mut server = Ours::new(Server::new(server).unwrap().accept().unwrap());
    let mut client = Ours::new(Client::new(client).connect("localhost").unwrap());
    client.output.write(b"question");
    server.output.write(b"answer");
    loop {
        client.seal().unwrap();
        let asked = client.sealed();
        server.take(&asked).unwrap();
        server.seal().unwrap();
        let answered = server.sealed();
        if asked.is_empty() && answered.is_empty() {
            break;
        }
        client.take(&answered).unwrap();
    }
    assert_eq!((server.read(), client.read()), (b"question".to_vec(), b"answer".to_vec()));
    assert_eq!(client.engine.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn megabytes_pass_both_ways() {
    let all = pattern(3 << 20);
    for piece in [1000, 16_384, 16_406, 65_536, 1 << 20] {
        each_open(|mut ours, mut peer| {
            peer.set_buffer_limit(None);
            peer.writer().write_all(&all).unwrap();
            // In parts of all kinds: linked, copied, tiny.
            let mut rest = Bytes::from(all.clone());
            for len in [1, 100, 2048, 5000, 16_384, 16_385, 100_000, usize::MAX] {
                ours.output.write_bytes(rest.split_to(len.min(rest.len())));
            }
            let read = talk(&mut ours, &mut peer, piece).unwrap();
            assert!(read == all && ours.read() == all, "in pieces of {piece}");
        });
    }
}

#[test]
fn small_pieces_share_a_record_and_a_full_buffer_waits() {
    each_open(|mut ours, mut peer| {
        for _ in 0..100 {
            ours.output.write_bytes(Bytes::from(pattern(2048)));
        }
        assert!(ours.output.chunks().count() > 50, "they are pieces");
        ours.seal().unwrap();
        let sealed = ours.sealed();
        let mut records = 0;
        let mut at = 0;
        while at < sealed.len() {
            at += 5 + usize::from(u16::from_be_bytes([sealed[at + 3], sealed[at + 4]]));
            records += 1;
        }
        assert_eq!(records, (100 * 2048usize).div_ceil(limits::TLS_RECORD_BYTES_MAX));
        assert_eq!(give(&mut peer, &sealed).unwrap(), pattern(2048).repeat(100));

        ours.output.write_bytes(Bytes::from(pattern(1 << 20)));
        ours.engine.seal(&mut ours.output, &mut ours.sealed, 50_000).unwrap();
        let record = limits::TLS_RECORD_BYTES_MAX + limits::TLS_RECORD_EXTRA_BYTES_MAX;
        assert!((50_000..50_000 + record).contains(&ours.sealed.len()), "{}", ours.sealed.len());
        assert_eq!(talk(&mut ours, &mut peer, usize::MAX).unwrap(), pattern(1 << 20));
    });
}

#[test]
fn the_peers_close_notify_is_the_end_of_its_stream_and_ours_goes_on() {
    each_open(|mut ours, mut peer| {
        peer.writer().write_all(b"last").unwrap();
        peer.send_close_notify();
        let bytes = sent_by(&mut peer);
        for piece in bytes.chunks(1) {
            assert!(!ours.engine.has_ended());
            ours.take(piece).unwrap();
        }
        assert!(ours.engine.has_ended());
        assert_eq!(ours.read(), b"last");
        // What follows is ignored, whatever it is.
        ours.take(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(ours.engine.end(), Ok(()));

        ours.output.write(b"still here");
        ours.seal().unwrap();
        ours.engine.close(&mut ours.sealed).unwrap();
        let sealed = ours.sealed();
        // rustls' connection reads on after its own close_notify.
        let mut rest = &sealed[..];
        peer.read_tls(&mut rest).unwrap();
        assert!(peer.process_new_packets().unwrap().peer_has_closed());
        let mut text = String::new();
        peer.reader().read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    });
}

#[test]
fn our_close_notify_comes_once_behind_what_was_sealed_and_reading_goes_on() {
    each_open(|mut ours, mut peer| {
        ours.output.write(b"last");
        ours.seal().unwrap();
        ours.engine.close(&mut ours.sealed).unwrap();
        let sealed = ours.sealed();
        ours.engine.close(&mut ours.sealed).unwrap();
        assert!(ours.sealed.is_empty(), "once");
        let mut rest = &sealed[..];
        peer.read_tls(&mut rest).unwrap();
        assert!(peer.process_new_packets().unwrap().peer_has_closed());

        ours.output.write(b"too late");
        assert_eq!(ours.seal(), Err(Error::Ended));
        peer.writer().write_all(b"answer").unwrap();
        ours.take(&sent_by(&mut peer)).unwrap();
        assert_eq!(ours.read(), b"answer");
        assert!(!ours.engine.has_ended());
        peer.send_close_notify();
        ours.take(&sent_by(&mut peer)).unwrap();
        assert!(ours.engine.has_ended());
        assert!(ours.engine.close(&mut ours.sealed).is_ok() && ours.sealed.is_empty());
    });
}

#[test]
fn a_stream_that_breaks_off_is_not_taken_for_ended() {
    each_side(|mut ours, _, _| assert_eq!(ours.engine.end(), Err(Error::Truncated)));
    each_open(|mut ours, mut peer| {
        peer.writer().write_all(b"half").unwrap();
        ours.take(&sent_by(&mut peer)).unwrap();
        peer.send_close_notify();
        let notify = sent_by(&mut peer);
        ours.take(&notify[..notify.len() - 1]).unwrap();
        assert_eq!(ours.read(), b"half");
        assert!(!ours.engine.has_ended());
        assert_eq!(ours.engine.end(), Err(Error::Truncated));
        assert_eq!(
            ours.engine.receive(&mut [], &mut ours.input, &mut ours.sealed),
            Err(Error::Truncated),
            "for good"
        );
    });
}

#[test]
fn plain_text_is_told_from_tls_and_answered_with_an_alert() {
    let (server, client) = configs(&BOTH);
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut ours = Ours::new(Server::new(server).unwrap().accept().unwrap());
    assert_eq!(ours.take(http), Err(Error::NotTls));
    assert_eq!(ours.sealed(), [21, 3, 3, 0, 2, 2, 50], "a fatal alert: decode_error");
    assert_eq!(ours.take(http), Err(Error::NotTls), "for good");

    let mut ours = Ours::new(Client::new(client).connect("localhost").unwrap());
    assert_eq!(ours.take(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Err(Error::NotTls));
    assert!(ours.sealed.len() > 7, "a hello and an alert");
}

/// The alert reaches the peer as what it is.
#[track_caller]
fn check_alert(ours: &mut Ours, peer: &mut Connection, want: AlertDescription) {
    let alert = ours.sealed();
    assert_eq!(give(peer, &alert).unwrap_err(), rustls::Error::AlertReceived(want));
}

#[test]
fn a_certificate_that_nobody_vouches_for_or_for_another_name_is_refused() {
    for version in BOTH {
        let (server, client) = configs(&[version]);
        let (_, stranger) = configs(&[version]);
        let mut peer = peer_server(server.clone());
        let mut ours = Ours::new(Client::new(stranger).connect("localhost").unwrap());
        let wrong = talk(&mut ours, &mut peer, usize::MAX).unwrap_err();
        assert_eq!(wrong, Error::Protocol(CertificateError::UnknownIssuer.into()));
        assert_eq!(wrong.to_string(), "invalid peer certificate: UnknownIssuer");
        check_alert(&mut ours, &mut peer, AlertDescription::UnknownCA);

        let mut peer = peer_server(server);
        let mut ours = Ours::new(Client::new(client).connect("example.org").unwrap());
        let wrong = talk(&mut ours, &mut peer, usize::MAX).unwrap_err();
        assert!(wrong.to_string().contains("example.org"), "{wrong}");
        check_alert(&mut ours, &mut peer, AlertDescription::BadCertificate);
    }
}

#[test]
fn the_peers_refusal_is_the_error() {
    for version in BOTH {
        let (server, _) = configs(&[version]);
        let (_, stranger) = configs(&[version]);
        let mut ours = Ours::new(Server::new(server).unwrap().accept().unwrap());
        let mut peer = peer_client(stranger);
        ours.take(&sent_by(&mut peer)).unwrap();
        give(&mut peer, &ours.sealed()).unwrap_err();
        let error = ours.take(&sent_by(&mut peer)).unwrap_err();
        assert_eq!(error, Error::Protocol(rustls::Error::AlertReceived(AlertDescription::UnknownCA)));
    }
}

#[test]
fn versions_that_do_not_meet_say_so() {
    let (server, _) = configs(&[&TLS13]);
    let (_, client) = configs(&[&TLS12]);
    let mut ours = Ours::new(Server::new(server).unwrap().accept().unwrap());
    let mut peer = peer_client(client);
    let wrong = talk(&mut ours, &mut peer, usize::MAX).unwrap_err();
    assert_eq!(wrong, Error::Protocol(PeerIncompatible::Tls12NotOfferedOrEnabled.into()));
    check_alert(&mut ours, &mut peer, AlertDescription::ProtocolVersion);
}

#[test]
fn keys_change_while_data_flows() {
    let (server, client) = configs(&[&TLS13]);
    for ours_serves in [true, false] {
        let (mut ours, mut peer) = if ours_serves {
            (Server::new(server.clone()).unwrap().accept(), peer_client(client.clone()))
        } else {
            (Client::new(client.clone()).connect("localhost"), peer_server(server.clone()))
        };
        let mut ours = Ours::new(std::mem::replace(&mut ours, Err(Error::NotTls)).unwrap());
        talk(&mut ours, &mut peer, usize::MAX).unwrap();
        for round in 0..20 {
            // The peer asks for ours, too: the answer goes out ahead of what we write next.
            peer.refresh_traffic_keys().unwrap();
            peer.writer().write_all(b"question").unwrap();
            ours.output.write_bytes(Bytes::from(pattern(20_000)));
            assert_eq!(talk(&mut ours, &mut peer, 1 + round * 7).unwrap(), pattern(20_000));
            assert_eq!(ours.read(), b"question");
        }
    }
}

#[test]
fn sessions_are_taken_up_again_and_a_replaced_certificate_is_the_next_ones() {
    for version in BOTH {
        let (server_config, client_config) = configs(&[version]);
        let server = Server::new(server_config).unwrap();
        let meet = |config: &ClientConfig| {
            let mut ours = Ours::new(server.accept().unwrap());
            let mut peer = peer_client(config.clone());
            talk(&mut ours, &mut peer, usize::MAX).map(|_| (ours, peer))
        };
        let (mut old, mut old_peer) = meet(&client_config).unwrap();
        assert!(!old.engine.is_resumed());
        assert!(meet(&client_config).unwrap().0.engine.is_resumed());

        let (other_server, other_client) = configs(&[version]);
        server.replace(other_server).unwrap();
        assert!(!meet(&other_client).unwrap().0.engine.is_resumed());
        assert!(meet(&client_config).is_err(), "who trusts the former one alone");
        old.output.write(b"lives on");
        assert_eq!(talk(&mut old, &mut old_peer, usize::MAX).unwrap(), b"lives on");

        // The other way round.
        let client = Client::new(configs(&[version]).1);
        assert!(client.connect("localhost").is_ok());
        let (server_config, client_config) = configs(&[version]);
        let client = Client::new(client_config);
        let server_config = Arc::new(server_config);
        for resumed in [false, true] {
            let mut ours = Ours::new(client.connect("localhost").unwrap());
            let mut peer = Connection::Server(ServerConnection::new(server_config.clone()).unwrap());
            talk(&mut ours, &mut peer, usize::MAX).unwrap();
            assert_eq!(ours.engine.is_resumed(), resumed);
        }
    }
}

#[test]
fn both_ends_export_the_same_and_nothing_where_that_is_not_safe() {
    each_side(|mut ours, mut peer, version| {
        let mut mine = [0; 100];
        assert_eq!(
            ours.engine.export_keying_material(&mut mine, b"label", b""),
            Err(Error::Export),
            "too early"
        );
        talk(&mut ours, &mut peer, usize::MAX).unwrap();
        if version == ProtocolVersion::TLSv1_2 {
            assert_eq!(ours.engine.export_keying_material(&mut mine, b"label", b""), Err(Error::Export));
            return;
        }
        for (label, context) in
            [(&b"EXPORTER-test"[..], &b""[..]), (b"EXPORTER-other", b"context"), (b"", b"c")]
        {
            ours.engine.export_keying_material(&mut mine, label, context).unwrap();
            assert_eq!(mine, peer.export_keying_material([0; 100], label, Some(context)).unwrap());
        }
        assert_eq!(ours.engine.export_keying_material(&mut [], b"label", b""), Err(Error::Export));
        assert_eq!(ours.engine.export_keying_material(&mut [0; 70_000], b"label", b""), Err(Error::Export));
        assert_eq!(ours.engine.export_keying_material(&mut mine, &[b'l'; 250], b""), Err(Error::Export));
    });
}

#[test]
fn names_protocols_and_certificates_are_told() {
    for version in BOTH {
        let (cert, key) = certificate();
        let (my_cert, my_key) = certificate();
        let mut client = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(trusting(&cert))
            .with_client_auth_cert(vec![my_cert.clone()], my_key)
            .unwrap();
        client.alpn_protocols = vec![b"none".to_vec(), b"http/1.1".to_vec()];
        let verifier = WebPkiClientVerifier::builder(Arc::new(trusting(&my_cert))).build().unwrap();
        let mut server = ServerConfig::builder_with_protocol_versions(&[version])
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let mut ours = Ours::new(Server::new(server.clone()).unwrap().accept().unwrap());
        talk(&mut ours, &mut peer_client(client.clone()), usize::MAX).unwrap();
        assert_eq!(ours.engine.server_name(), Some("localhost"));
        assert_eq!(ours.engine.alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(ours.engine.peer_certificates(), Some(&[my_cert][..]));
        assert!(ours.engine.cipher_suite().is_some());

        // A client without a name asks for none, on the thread that has just noted one.
        client.enable_sni = false;
        let mut ours = Ours::new(Server::new(server.clone()).unwrap().accept().unwrap());
        talk(&mut ours, &mut peer_client(client.clone()), usize::MAX).unwrap();
        assert_eq!(ours.engine.server_name(), None);

        let mut ours = Ours::new(Client::new(client).connect("localhost").unwrap());
        talk(&mut ours, &mut peer_server(server), usize::MAX).unwrap();
        assert_eq!(ours.engine.server_name(), Some("localhost"));
        assert_eq!(ours.engine.alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(ours.engine.peer_certificates(), Some(&[cert][..]));
    }
}

#[test]
fn early_data_and_impossible_names_are_refused() {
    let (mut server, client) = configs(&BOTH);
    let running = Server::new(server.clone()).unwrap();
    server.max_early_data_size = 1;
    assert_eq!(running.replace(server.clone()).unwrap_err(), Error::EarlyData);
    assert!(running.accept().is_ok());
    assert_eq!(Server::new(server).unwrap_err(), Error::EarlyData);
    let client = Client::new(client);
    assert_eq!(client.connect("no name").unwrap_err(), Error::Name("no name".to_owned()));
    assert_eq!(client.connect("127.0.0.1").unwrap().server_name(), Some("127.0.0.1"));
}

#[test]
fn a_handshake_in_tiny_records_passes_and_an_endless_one_does_not() {
    for version in BOTH {
        let (mut server, mut client) = configs(&[version]);
        (server.max_fragment_size, client.max_fragment_size) = (Some(32), Some(32));
        let mut peer = peer_client(client.clone());
        let mut ours = Ours::new(Server::new(server.clone()).unwrap().accept().unwrap());
        ours.output.write(&pattern(5000));
        assert_eq!(talk(&mut ours, &mut peer, 1).unwrap(), pattern(5000));
        let mut peer = peer_server(server.clone());
        let mut ours = Ours::new(Client::new(client).connect("localhost").unwrap());
        ours.output.write(&pattern(5000));
        assert_eq!(talk(&mut ours, &mut peer, 1).unwrap(), pattern(5000));

        // A hello of 60,000 bytes, one in each record.
        let mut ours = Ours::new(Server::new(server).unwrap().accept().unwrap());
        ours.take(&[22, 3, 1, 0, 4, 1, 0, 0xea, 0x60]).unwrap();
        let records = (0..).find_map(|n| ours.take(&[22, 3, 1, 0, 1, 0]).err().map(|error| (n, error)));
        let (records, error) = records.unwrap();
        assert_eq!(error, Error::TooLong);
        // The first record has 9 bytes, the others 6; the one that went beyond is `records` behind it.
        let beyond = 9 + (records + 1) * 6;
        assert!((1..=6).contains(&(beyond - limits::TLS_BACKLOG_BYTES_MAX)), "{records}");
    }
}

/// Whatever arrives, the engine answers with an error or waits; it never panics and never loses what it was given before.
#[test]
fn damaged_streams_are_errors() {
    for version in BOTH {
        let (server, client) = configs(&[version]);
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ours = Ours::new(Server::new(server.clone()).unwrap().accept().unwrap());
            let mut peer = peer_client(client.clone());
            let mut to_go = random.usize(..2000);
            let mut failed = None;
            peer.writer().write_all(&pattern(1000)).unwrap();
            while failed.is_none() {
                let mut bytes = sent_by(&mut peer);
                if let Some(byte) = bytes.get_mut(to_go) {
                    *byte ^= random.u8(1..);
                }
                to_go = to_go.saturating_sub(bytes.len());
                for piece in bytes.chunks(random.usize(1..500)) {
                    failed = failed.or(ours.take(piece).and_then(|()| ours.seal()).err());
                }
                let answer = ours.sealed();
                if bytes.is_empty() && answer.is_empty() {
                    break;
                }
                if give(&mut peer, &answer).is_err() {
                    break;
                }
            }
            let read = ours.read();
            assert!(pattern(1000).starts_with(&read), "seed {seed}: nothing damaged is let through");
        }
    }
}
