//! One connection's TLS as a state machine that does no I/O.
//!
//! ```text
//!                                      close()                      the peer's close_notify
//!   Handshake ──▶ Open ────────────────────▶ our stream ended ──────────────────────────▶ Closed
//!       │          │ the peer's close_notify                                                 ▲
//!       │          └────────────────────────▶ its stream ended ─────────── close() ──────────┘
//!       │          │
//!       └──────────┴──▶ Failed: the alert is in the sealed output, and nothing else will follow
//! ```
//! * [`receive`](Engine::receive) takes bytes that arrived, behind those that [`rejoin`](Engine::rejoin) put back.
//! * [`end`](Engine::end) takes the end of the TCP stream, and says whether it was the end of the peer's.
//! * [`seal`](Engine::seal) turns output into records; [`close`](Engine::close) ends our own stream.
//!
//! Whatever is to be sent is found in the sealed output afterwards, also when the call failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use linkbuffer::LinkBuffer;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::tls13::OkmBlock;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus, WriteTraffic,
};
use rustls::{
    ClientConfig, CommonState, HandshakeKind, InvalidMessage, ProtocolVersion, ServerConfig,
    SupportedCipherSuite,
};

use super::{Error, seen};
use crate::handler::caught;
use crate::limits;

/// One connection's TLS: made by [`Server::accept`](super::Server::accept) or [`Client::connect`](super::Client::connect), given to
/// [`Prepare::set_tls`](crate::Prepare::set_tls), and shown by [`Connection::tls`](crate::Connection::tls).
pub struct Engine {
    side: Side,
    /// The peer's bytes from the first incomplete record or handshake message on. Empty for an idle connection.
    /// Invariant: backlog.len() <= TLS_BACKLOG_BYTES_MAX.
    pub(super) backlog: Vec<u8>,
    /// The peer's close_notify has arrived.
    ended: bool,
    /// Our close_notify is in the sealed output.
    closed: bool,
    /// The first call came: a client has said hello.
    begun: bool,
    /// Bytes have arrived, so the peer has shown what it speaks.
    heard: bool,
    failed: Option<Error>,
    /// What a callback of the configuration said when it panicked. rustls is not asked again then: `failed` is set too.
    panicked: Option<String>,
    /// Bytes of plaintext that have arrived.
    pub(crate) opened: u64,
    server_name: Option<Box<str>>,
    exporter: Option<OkmBlock>,
    pub(crate) handshake_timeout: Duration,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// rustls' two kinds of connection, as far as they differ.
trait Records {
    type Data;
    fn process<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn wants_write(&self) -> bool;
}

impl Records for UnbufferedConnectionCommon<ServerConnectionData> {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(arrived)
    }
    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl Records for UnbufferedConnectionCommon<ClientConnectionData> {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, arrived: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(arrived)
    }
    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

/// What one pass over rustls' states has to do.
struct Pass<'a> {
    /// Where plaintext goes.
    input: &'a mut LinkBuffer,
    /// Where records go.
    sealed: &'a mut LinkBuffer,
    /// What is sealed, as soon as rustls lets us, and until `sealed` holds so much.
    output: Option<(&'a mut LinkBuffer, usize)>,
    close: bool,
    /// Out: the peer's close_notify was met.
    ended: bool,
}

impl Engine {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Engine, Error> {
        Ok(Engine::new(Side::Server(Box::new(UnbufferedServerConnection::new(config)?)), None))
    }

    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Engine, Error> {
        let text = name.to_str().into_owned().into_boxed_str();
        Ok(Engine::new(Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?)), Some(text)))
    }

    fn new(side: Side, server_name: Option<Box<str>>) -> Engine {
        Engine {
            side,
            backlog: Vec::new(),
            ended: false,
            closed: false,
            begun: false,
            heard: false,
            failed: None,
            panicked: None,
            opened: 0,
            server_name,
            exporter: None,
            handshake_timeout: Duration::from_millis(limits::TLS_HANDSHAKE_MS),
        }
    }

    /// The same with another limit for the handshake than [`TLS_HANDSHAKE_MS`](limits::TLS_HANDSHAKE_MS). It runs from the
    /// time at which the connection is made, or, for a dialed one, connected.
    ///
    /// # Errors
    /// [`Error::NoTime`] when the limit is zero.
    ///
    /// # Examples
    /// ```
    /// # use poller::tls::{Client, Engine, Error, rustls};
    /// # use std::time::Duration;
    /// fn engine(client: &Client, name: &str) -> Result<Engine, Error> {
    ///     client.connect(name)?.with_handshake_timeout(Duration::from_secs(2))
    /// }
    /// # let roots = rustls::RootCertStore::empty();
    /// # let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    /// # engine(&Client::new(config), "localhost")?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Result<Engine, Error> {
        if timeout.is_zero() {
            return Err(Error::NoTime);
        }
        self.handshake_timeout = timeout;
        Ok(self)
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Server(records) => records,
            Side::Client(records) => records,
        }
    }

    /// Whether the handshake is not over. It is in every callback of a connection.
    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// The version that was agreed upon.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.common().protocol_version()
    }

    /// The cipher suite that was agreed upon.
    pub fn cipher_suite(&self) -> Option<SupportedCipherSuite> {
        self.common().negotiated_cipher_suite()
    }

    /// The application protocol that was agreed upon (ALPN), such as `b"http/1.1"`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The name that the client asks for (SNI); on the client's side the name that it dialed.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The peer's certificates, its own first: the server's, or the client's where the configuration asks for one.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.common().peer_certificates()
    }

    /// Whether a former session was taken up again.
    pub fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Fills `out` with keying material that both ends of this connection can make, and nobody between them (RFC 8446,
    /// section 7.5).
    ///
    /// # Errors
    /// [`Error::Export`] when the handshake is not over, TLS 1.2 is spoken, or `out` is empty or longer than 255 hashes.
    pub fn export_keying_material(&self, out: &mut [u8], label: &[u8], context: &[u8]) -> Result<(), Error> {
        let Some(SupportedCipherSuite::Tls13(suite)) = self.cipher_suite() else { return Err(Error::Export) };
        let (Some(secret), false) = (&self.exporter, self.is_handshaking() || out.is_empty()) else {
            return Err(Error::Export);
        };
        let hash = suite.common.hash_provider;
        let info = |len: usize, label: &[u8], hash: &[u8]| {
            let len = u16::try_from(len).map_err(|_| Error::Export)?.to_be_bytes();
            let label_len = u8::try_from(b"tls13 ".len() + label.len()).map_err(|_| Error::Export)?;
            let hash_len = u8::try_from(hash.len()).map_err(|_| Error::Export)?;
            Ok::<_, Error>([&len, &[label_len][..], b"tls13 ", label, &[hash_len], hash].concat())
        };
        let derived = suite.hkdf_provider.expander_for_okm(secret).expand_block(&[&info(
            hash.output_len(),
            label,
            hash.hash(&[]).as_ref(),
        )?]);
        suite
            .hkdf_provider
            .expander_for_okm(&derived)
            .expand_slice(&[&info(out.len(), b"exporter", hash.hash(context).as_ref())?], out)
            .map_err(|_| Error::Export)
    }

    /// Puts what waits for the rest of its record to the front of `space`, and says how much that is. What arrives next
    /// goes behind it.
    pub(crate) fn rejoin(&self, space: &mut [u8]) -> usize {
        space[..self.backlog.len()].copy_from_slice(&self.backlog);
        self.backlog.len()
    }

    /// Begins the handshake, once: a client says hello.
    ///
    /// # Errors
    /// When rustls cannot.
    pub(crate) fn begin(&mut self, sealed: &mut LinkBuffer) -> Result<(), Error> {
        if std::mem::replace(&mut self.begun, true) { Ok(()) } else { self.speak(sealed, None, false) }
    }

    /// Takes what has arrived: the backlog and what was read behind it.
    ///
    /// # Errors
    /// When the peer is not to be talked to any further. What it had sent before is in `input`.
    pub(crate) fn receive(
        &mut self,
        arrived: &mut [u8],
        input: &mut LinkBuffer,
        sealed: &mut LinkBuffer,
    ) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.ended {
            // What follows a close_notify must be ignored (RFC 8446, section 6.1).
            return Ok(());
        }
        debug_assert!(arrived.starts_with(&self.backlog), "the backlog goes first");
        let begins = !self.heard;
        self.heard |= !arrived.is_empty();
        let had = input.len();
        let mut pass = Pass { input, sealed, output: None, close: false, ended: false };
        let outcome = self.pass(arrived, &mut pass);
        self.opened += (pass.input.len() - had) as u64;
        let used = match outcome {
            Ok(used) => used,
            Err(Error::Protocol(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
                if begins =>
            {
                return Err(self.fail(Error::NotTls));
            }
            Err(error) => return Err(self.fail(error)),
        };
        let left = if self.ended { &[] } else { &arrived[used..] };
        if left.len() > limits::TLS_BACKLOG_BYTES_MAX {
            return Err(self.fail(Error::TooLong));
        }
        self.keep(left);
        Ok(())
    }

    fn keep(&mut self, left: &[u8]) {
        if left.is_empty() {
            self.backlog = Vec::new();
        } else {
            self.backlog.clear();
            self.backlog.extend_from_slice(left);
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(error.clone());
        self.backlog = Vec::new();
        error
    }

    /// Why there will be no more.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// The text of the panic that was the failure, once.
    pub(crate) fn take_panic(&mut self) -> Option<String> {
        self.panicked.take()
    }

    /// Whether the peer's stream has ended in an orderly manner.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a server is still going to send something unasked: the tickets that come behind its part of the handshake (RFC 8446,
    /// section 4.6.1). One that sends none lets the answer be yes for ever.
    pub(crate) fn awaits_tickets(&self) -> bool {
        match &self.side {
            Side::Client(conn) => {
                conn.protocol_version() == Some(ProtocolVersion::TLSv1_3)
                    && conn.tls13_tickets_received() == 0
            }
            Side::Server(_) => false,
        }
    }

    /// The TCP stream has ended.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the peer had not said that it would.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.ended => Ok(()),
            None => Err(self.fail(Error::Truncated)),
        }
    }

    /// Seals `output` until it is empty, or until `sealed` holds `room` bytes (and one record more at most). During
    /// the handshake it waits.
    ///
    /// # Errors
    /// When our stream has ended, or the keys are used up, which takes 2^23 records with TLS 1.2.
    pub(crate) fn seal(
        &mut self,
        output: &mut LinkBuffer,
        sealed: &mut LinkBuffer,
        room: usize,
    ) -> Result<(), Error> {
        if output.is_empty() || sealed.len() >= room {
            return Ok(());
        }
        if self.closed {
            return Err(Error::Ended);
        }
        self.speak(sealed, Some((output, room)), false)
    }

    /// Ends our stream: close_notify goes behind what has been sealed. Before the end of the handshake there is nothing
    /// that could be ended, and after a failure the alert has said so.
    ///
    /// # Errors
    /// As [`receive`](Engine::receive).
    pub(crate) fn close(&mut self, sealed: &mut LinkBuffer) -> Result<(), Error> {
        if self.closed || self.failed.is_some() || self.is_handshaking() {
            return Ok(());
        }
        self.closed = true;
        self.speak(sealed, None, true)
    }

    fn speak(
        &mut self,
        sealed: &mut LinkBuffer,
        output: Option<(&mut LinkBuffer, usize)>,
        close: bool,
    ) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // rustls is shown the backlog again, because it remembers places in it.
        let mut backlog = std::mem::take(&mut self.backlog);
        let mut input = LinkBuffer::new();
        let mut pass = Pass { input: &mut input, sealed, output, close, ended: false };
        match self.pass(&mut backlog, &mut pass) {
            Ok(used) => {
                debug_assert!(input.is_empty(), "whole records were opened when they arrived");
                self.backlog = backlog;
                self.backlog.drain(..used);
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// One pass, and what it lets us see. Says how much of `arrived` is done with.
    fn pass(&mut self, arrived: &mut [u8], pass: &mut Pass<'_>) -> Result<usize, Error> {
        let handshaking = self.is_handshaking();
        let side = &mut self.side;
        // rustls calls what the user has configured: certificate resolvers, verifiers, key logs, stores of sessions.
        let run = || match side {
            Side::Server(records) => pass.run(&mut ***records, arrived),
            Side::Client(records) => pass.run(&mut ***records, arrived),
        };
        let used = caught(run).unwrap_or_else(|text| {
            self.panicked = Some(text);
            Err(rustls::Error::General("a callback of the configuration panicked".into()).into())
        });
        self.ended |= pass.ended;
        if handshaking {
            let seen = seen::take();
            self.server_name = seen.server_name.or(self.server_name.take());
            self.exporter = seen.exporter.or(self.exporter.take());
        }
        used
    }
}

impl Pass<'_> {
    fn run<R: Records>(&mut self, records: &mut R, arrived: &mut [u8]) -> Result<usize, Error> {
        let mut used = 0;
        let outcome = loop {
            let UnbufferedStatus { mut discard, state } = records.process(&mut arrived[used..]);
            let step = match state {
                Ok(state) => self.step(state, &mut discard),
                Err(error) => break Err(error.into()),
            };
            used += discard;
            match step {
                Ok(true) => {}
                Ok(false) => break Ok(used),
                Err(error) => break Err(error),
            }
        };
        if outcome.is_err() {
            // The alert that says why. rustls gives it out before it looks at what has arrived.
            while records.wants_write() {
                let UnbufferedStatus { mut discard, state } = records.process(&mut arrived[used..]);
                if !matches!(state.map(|state| self.step(state, &mut discard)), Ok(Ok(true))) {
                    break;
                }
            }
        }
        outcome
    }

    /// Acts on one state; says whether there may be another.
    fn step<D>(&mut self, state: ConnectionState<'_, '_, D>, discard: &mut usize) -> Result<bool, Error> {
        match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    self.input.write(record.payload);
                    *discard += record.discard;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                // Asked with nothing, rustls says how much it takes.
                let mut room = 0;
                loop {
                    match data.encode(self.sealed.reserve(room)) {
                        Ok(len) => {
                            self.sealed.commit(len);
                            break;
                        }
                        Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                            self.sealed.commit(0);
                            room = size.required_size;
                        }
                        Err(error) => {
                            self.sealed.commit(0);
                            return Err(rustls::Error::General(error.to_string()).into());
                        }
                    }
                }
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => self.ended = true,
            ConnectionState::WriteTraffic(mut traffic) => {
                self.write(&mut traffic)?;
                return Ok(false);
            }
            ConnectionState::BlockedHandshake | ConnectionState::Closed => return Ok(false),
            // The configuration does not take early data, and no other state is known.
            state => return Err(rustls::Error::General(format!("unexpected state: {state:?}")).into()),
        }
        Ok(true)
    }

    fn write<D>(&mut self, traffic: &mut WriteTraffic<'_, D>) -> Result<(), Error> {
        if let Some((output, room)) = &mut self.output {
            while !output.is_empty() && self.sealed.len() < *room {
                let mut piece = output.chunk();
                let joined = output.len().min(limits::TLS_RECORD_BYTES_MAX);
                if piece.len() < limits::TLS_JOIN_BYTES_MIN && piece.len() < joined {
                    piece = output.peek(joined).expect("a buffer holds its own length");
                }
                let piece = &piece[..piece.len().min(limits::TLS_RECORD_BYTES_MAX)];
                encrypt(self.sealed, piece.len(), |space| traffic.encrypt(piece, space))?;
                let sealed = piece.len();
                output.output_ack(sealed);
            }
        }
        if self.close {
            encrypt(self.sealed, 0, |space| traffic.queue_close_notify(space))?;
        }
        Ok(())
    }
}

/// Lets `encrypt` write into the sealed output, and gives it the space that it asks for.
fn encrypt(
    sealed: &mut LinkBuffer,
    len: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    let mut room = len + limits::TLS_RECORD_EXTRA_BYTES_MAX;
    loop {
        match encrypt(sealed.reserve(room)) {
            Ok(written) => {
                sealed.commit(written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                sealed.commit(0);
                room = size.required_size;
            }
            Err(error) => {
                sealed.commit(0);
                return Err(rustls::Error::General(error.to_string()).into());
            }
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("server_name", &self.server_name)
            .field("version", &self.protocol_version())
            .field("ended", &self.ended)
            .field("closed", &self.closed)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
