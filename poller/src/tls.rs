//! TLS between the socket and the handler, which sees plaintext only.
//!
//! ```text
//!    socket ──read──▶ thread's buffer ──opened in place──▶ input ──▶ handler
//!    socket ◀──send── sealed output ◀──sealed record by record── output ◀── handler
//! ```
//! A handler asks for it before its connection is registered, with [`Prepare::set_tls`](crate::Prepare::set_tls). The handshake comes before
//! `on_connect`, within [`TLS_HANDSHAKE_MS`](crate::limits::TLS_HANDSHAKE_MS).
//!
//! * [`Server`] holds the configuration of accepted connections, and takes another one while it runs.
//! * [`Client`] holds that of dialed ones; the name that the certificate must bear is given with each dial.
//! * [`Engine`] is one connection's TLS. [`Connection::tls`](crate::Connection::tls) shows what was agreed upon.
//!
//! # How a connection ends
//! * The peer's `close_notify` is the end of its stream: [`input_ended`](crate::Connection::input_ended), as with plain
//!   TCP. Whatever follows it is ignored.
//! * A stream that ends without `close_notify` may have been cut by anybody on the way. It is no end of stream but an
//!   error: [`Reason::Error`](crate::Reason::Error) with [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof).
//! * [`shutdown_write`](crate::Connection::shutdown_write) sends what is queued, `close_notify` and FIN; reading goes on. A graceful close sends
//!   the same and then closes; an abort sends nothing more.
//! * What the peer did wrong is answered with the alert that says so, and the connection closes with
//!   [`Reason::Tls`](crate::Reason::Tls). What it had sent before is handed over first, and then nobody is waited
//!   for: neither a handler that pauses nor one that waits.
//! * A callback of rustls' configuration that panics, such as a certificate resolver, ends this connection with
//!   [`Reason::Panic`](crate::Reason::Panic).
//!
//! TLS 1.2 and 1.3 are spoken, by [rustls]; nothing falls back to plaintext, and nothing here turns verification off.
//!
//! # What it costs
//! A record is opened where it arrived; rustls copies the plaintext out, and it is copied once more, into the input. Sealing
//! reads from the output and writes through rustls into the memory that is sent. An idle connection holds its keys and
//! rustls' state, about 5 KiB for each end, and no buffer. Each thread that reads keeps 128 KiB for records.
//! Without the feature nothing of this is compiled; with it a plain connection looks once before each read and each send
//! whether it has TLS.

use std::fmt;
use std::sync::Arc;

pub use rustls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::sync::RwLock;

pub(crate) mod carry;
mod engine;
mod seen;
#[cfg(test)]
mod tests;

pub use engine::Engine;

/// The server's side: the configuration that the next accepted connection gets.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use poller::tls::rustls::{ServerConfig, pki_types::PrivateKeyDer};
///
/// let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der())?;
/// let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![issued.cert.into()], key)?;
/// let server = Arc::new(poller::tls::Server::new(config)?);
/// // In a handler: `fn on_prepare(&self, conn: &mut Prepare<'_>)` calls `conn.set_tls(self.server.accept()?)`.
/// let engine = server.accept()?;
/// assert!(engine.is_handshaking());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    config: RwLock<Arc<ServerConfig>>,
}

impl Server {
    /// A server with this configuration.
    ///
    /// # Errors
    /// When the configuration takes early data: anybody on the way can send it a second time.
    pub fn new(config: impl Into<Arc<ServerConfig>>) -> Result<Server, Error> {
        Ok(Server { config: RwLock::new(seen::server_config(config.into())?) })
    }

    /// Replaces the configuration, for instance a certificate that is about to expire. Connections that were accepted
    /// before keep the one that they began with.
    ///
    /// # Errors
    /// As [`new`](Server::new). The former configuration stays then.
    pub fn replace(&self, config: impl Into<Arc<ServerConfig>>) -> Result<(), Error> {
        let config = seen::server_config(config.into())?;
        // Bound first: the last user of the former configuration drops it with the lock off.
        let former = std::mem::replace(&mut *self.config.write(), config);
        drop(former);
        Ok(())
    }

    /// The TLS of one accepted connection, for [`Prepare::set_tls`](crate::Prepare::set_tls).
    ///
    /// # Errors
    /// When rustls cannot work with the configuration.
    pub fn accept(&self) -> Result<Engine, Error> {
        let config = self.config.read().clone();
        Engine::server(config)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// The client's side: the configuration of dialed connections.
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// A client with this configuration.
    ///
    /// # Examples
    /// ```
    /// use poller::tls::rustls::{ClientConfig, RootCertStore};
    ///
    /// let mut roots = RootCertStore::empty();
    /// let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// roots.add(issued.cert.into())?;
    /// let client = poller::tls::Client::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    /// assert_eq!(client.connect("localhost")?.server_name(), Some("localhost"));
    /// assert!(client.connect("no name").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> Client {
        Client { config: seen::client_config(config.into()) }
    }

    /// The TLS of one dialed connection, for [`Prepare::set_tls`](crate::Prepare::set_tls). The server's certificate must be valid for
    /// `name`: a host name or an IP address.
    ///
    /// # Errors
    /// When `name` is neither, or rustls cannot work with the configuration.
    pub fn connect(&self, name: &str) -> Result<Engine, Error> {
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name(name.to_owned()))?;
        Engine::client(self.config.clone(), server_name)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What goes wrong with TLS.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The peer's first bytes are no TLS: often plain HTTP that was sent to the wrong port.
    NotTls,
    /// The peer broke the protocol, sent an alert, or has a certificate that is not accepted.
    Protocol(rustls::Error),
    /// The stream ended without `close_notify`: what arrived may not be all that was sent.
    Truncated,
    /// An incomplete record or handshake message is longer than [`TLS_BACKLOG_BYTES_MAX`](crate::limits::TLS_BACKLOG_BYTES_MAX).
    TooLong,
    /// More was written after our own end of stream.
    Ended,
    /// Early data is not supported: set `max_early_data_size` to 0.
    EarlyData,
    /// A limit of zero was asked for.
    NoTime,
    /// This is no host name and no address.
    Name(String),
    /// The keying material cannot be exported: the handshake is not over, TLS 1.2 is spoken, or the length is not possible.
    Export,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotTls => f.write_str("the peer does not speak TLS"),
            // What a verifier of the application has to say, without the names of the types that it comes wrapped in.
            Error::Protocol(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(why))) => {
                write!(f, "{why}")
            }
            Error::Protocol(error) => write!(f, "{error}"),
            Error::Truncated => f.write_str("the peer's stream broke off without close_notify"),
            Error::TooLong => f.write_str("the peer's handshake message is too long"),
            Error::Ended => f.write_str("written after the end of our own stream"),
            Error::EarlyData => f.write_str(
                "early data can be sent twice by anybody on the way: set max_early_data_size to 0",
            ),
            Error::NoTime => f.write_str(
                "a handshake of no time would end every connection at once: give it time, or leave the limit out",
            ),
            Error::Name(name) => write!(f, "{name:?} is neither a host name nor an address"),
            Error::Export => {
                f.write_str("keying material is exported after a TLS 1.3 handshake only, at most 8,160 bytes")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Protocol(error) => Some(error),
            _ => None,
        }
    }
}

/// So that `?` in `on_prepare` makes a [`Reject`](crate::Reject) of it.
impl From<Error> for String {
    fn from(error: Error) -> String {
        error.to_string()
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        let kind = match error {
            Error::Truncated => std::io::ErrorKind::UnexpectedEof,
            Error::Ended => std::io::ErrorKind::BrokenPipe,
            Error::NoTime | Error::Name(_) | Error::EarlyData => std::io::ErrorKind::InvalidInput,
            _ => std::io::ErrorKind::InvalidData,
        };
        std::io::Error::new(kind, error)
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Error {
        Error::Protocol(error)
    }
}
