//! TLS on the tunnel: which certificate the gateway shows, whom a client takes for its gateway, and what the proofs of
//! both are bound to.
//!
//! ```text
//!   client                                          gateway
//!   Trust: public roots, --ca, or --pin             Server: --tls-cert, --tls-key
//!     └─▶ a verifier, always                          └─ --client-ca: asks for a client's certificate, always
//! ```
//! * There is no way to do without verification. A pin looks at the key alone, neither at names nor at dates; that the
//!   gateway *has* this key is proved by the signature of the handshake, which is checked in every case.
//! * What is refused says in words what to do about it.
//! * [`binding`] is what both ends of one TLS connection know and nobody between them can bring about: the
//!   exporter of TLS 1.3 (RFC 9266, RFC 8446 section 7.5). With TLS 1.2, where there is none to be had here, it is the
//!   gateway's certificate (RFC 5929, section 4): somebody between shows another one, or lacks its key.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::rt::tls::rustls::client::WebPkiServerVerifier;
use crate::rt::tls::rustls::crypto::{CryptoProvider, ring};
use crate::rt::tls::rustls::pki_types::pem::PemObject as _;
use crate::rt::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use crate::rt::tls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use crate::rt::tls::rustls::{self, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig};
use crate::rt::tls::{self, Engine};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};

use crate::limits::{CERTIFICATES_BYTES_MAX, CERTIFICATES_MAX, PRIVATE_KEY_BYTES_MAX};
use crate::secret_file;

mod issue;
mod verify;

pub use issue::{Issued, issue};

/// The fingerprint of a certificate's key: SHA-256 of its SubjectPublicKeyInfo. Written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// Of the key in this certificate.
    ///
    /// # Errors
    /// When it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        Ok(Pin(Sha256::digest(parsed.subject_public_key_info()).into()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Pin {
    type Err = String;

    /// Also takes the form that curl has for the same: `sha256//` and base64.
    fn from_str(text: &str) -> Result<Pin, String> {
        let wrong = || "want sha256: and 64 hexadecimal digits, as anyproxy cert prints it".to_owned();
        let bytes = if let Some(words) = text.strip_prefix("sha256//") {
            STANDARD.decode(words).map_err(|_fault| wrong())?
        } else {
            let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            let pair = |at| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
            (0..digits.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>().ok_or_else(wrong)?
        };
        Ok(Pin(bytes.try_into().map_err(|_length| wrong())?))
    }
}

/// Whom a client takes for its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever the public certificate authorities vouch for.
    Roots,
    /// Whoever the certificates in this file vouch for.
    File(std::path::PathBuf),
    /// Whoever has one of these keys.
    Pins(Vec<Pin>),
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate in PEM, and behind it those between it and its authority.
    pub cert: std::path::PathBuf,
    /// Its private key in PEM, readable by its owner alone.
    pub key: std::path::PathBuf,
}

/// The TLS of one carrier.
pub struct Tls {
    engine: Engine,
    /// This side's own certificate, where it is the server's.
    own: Option<[u8; 32]>,
}

impl Tls {
    /// The engine for the connection, and what [`binding`] wants of this side later.
    pub fn into_parts(self) -> (Engine, Option<[u8; 32]>) {
        (self.engine, self.own)
    }
}

/// What the proofs of the two ends of this connection are bound to, once its handshake is over. `own` is from
/// [`Tls::into_parts`].
pub fn binding(engine: &Engine, own: Option<[u8; 32]>) -> Option<[u8; 32]> {
    if engine.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        let mut out = [0; 32];
        engine.export_keying_material(&mut out, b"EXPORTER-AnyProxy-Tunnel", b"").ok()?;
        return Some(out);
    }
    own.or_else(|| engine.peer_certificates()?.first().map(end_point))
}

fn end_point(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::new_with_prefix(b"anyproxy tunnel certificate\0").chain_update(certificate).finalize().into()
}

/// The gateway's side.
pub struct Server {
    current: RwLock<Shown>,
}

/// What new carriers get.
struct Shown {
    config: tls::Server,
    /// The certificate, as the proofs are bound to it.
    own: [u8; 32],
    pin: Pin,
}

impl Server {
    /// Shows the certificate of `identity`; with `client_ca` only clients get in that have a certificate which those in that
    /// file vouch for. `credentials` as for [`secret_file::read`].
    ///
    /// # Errors
    /// When a file has no certificate or key in it, or they do not belong together: a line that names the file.
    pub fn new(
        identity: &Identity,
        client_ca: Option<&Path>,
        credentials: Option<&Path>,
    ) -> Result<Server, String> {
        let (chain, key) = load(identity, credentials)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(path).map_err(|why| format!("--client-ca {why}"))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                let verifier = verifier.map_err(|error| format!("--client-ca {}", named(path, &error)));
                builder.with_client_cert_verifier(verifier?)
            }
        };
        let of_cert = |why: &dyn fmt::Display| format!("--tls-cert {}", named(&identity.cert, why));
        let first = chain.first().ok_or_else(|| of_cert(&"no certificate in it"))?;
        let (own, pin) = (end_point(first), Pin::of(first).map_err(|error| of_cert(&error))?);
        let config = builder.with_single_cert(chain, key).map_err(|error| misfit(identity, &error))?;
        let config = tls::Server::new(config).map_err(|error| error.to_string())?;
        Ok(Server { current: RwLock::new(Shown { config, own, pin }) })
    }

    /// Takes over what another one shows. Carriers that were accepted before keep what they began with.
    pub fn renew(&self, by: Server) {
        // Bound first: what was shown before is dropped with the lock off.
        let former = std::mem::replace(&mut *self.current.write(), by.current.into_inner());
        drop(former);
    }

    /// The fingerprint of its key.
    pub fn pin(&self) -> Pin {
        self.current.read().pin
    }

    /// The TLS of an accepted carrier.
    ///
    /// # Errors
    /// When rustls cannot work with the configuration.
    pub fn accept(&self) -> Result<Tls, tls::Error> {
        let current = self.current.read();
        Ok(Tls { engine: current.config.accept()?, own: Some(current.own) })
    }
}

/// The client's side.
pub struct Client {
    config: tls::Client,
    /// A name or an address.
    host: String,
}

impl Client {
    /// Dials `host`, and shows the certificate of `identity` where the gateway asks for one. `credentials` as for
    /// [`secret_file::read`].
    ///
    /// # Errors
    /// When a file has no certificate or key in it, or they do not belong together: a line that names the file.
    pub fn new(
        host: &str,
        trust: &Trust,
        identity: Option<&Identity>,
        credentials: Option<&Path>,
    ) -> Result<Client, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        // Never a verifier that does not verify: `verify` has no such one.
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier(trust)?);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = load(identity, credentials)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| misfit(identity, &error))?
            }
        };
        Ok(Client::with(config, host))
    }

    /// With a configuration of one's own, dialing `host`.
    pub fn with(config: ClientConfig, host: &str) -> Client {
        Client { config: tls::Client::new(config), host: host.to_owned() }
    }

    /// The TLS of a carrier that is about to be dialed.
    ///
    /// # Errors
    /// When the host is neither a name nor an address, or rustls cannot work with the configuration.
    pub fn connect(&self) -> Result<Tls, tls::Error> {
        Ok(Tls { engine: self.config.connect(&self.host)?, own: None })
    }
}

/// The cryptography: named, because a second provider somewhere in the tree would make the default a question.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn verifier(trust: &Trust) -> Result<Arc<dyn rustls::client::danger::ServerCertVerifier>, String> {
    let (roots, from) = match trust {
        Trust::Pins(pins) => return Ok(Arc::new(verify::Verifier::pinned(pins.clone(), provider()))),
        Trust::Roots => {
            (RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, verify::From::Roots)
        }
        Trust::File(path) => (authorities(path).map_err(|why| format!("--ca {why}"))?, verify::From::File),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    Ok(Arc::new(verify::Verifier::explained(verifier, from, provider())))
}

/// The certificates in a file that vouch for others.
fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| named(path, &error))?;
    }
    Ok(roots)
}

/// The certificates in a file. Invariant: 1 to `CERTIFICATES_MAX`.
///
/// # Errors
/// When it has none, too many, or cannot be read: a line that names it.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes =
        secret_file::read_public(path, CERTIFICATES_BYTES_MAX).map_err(|fault| named(path, &fault))?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| named(path, &format!("no PEM: {error}")))?;
    match found.len() {
        0 => Err(named(path, &"no certificate in it (want PEM)")),
        n if n > CERTIFICATES_MAX => {
            Err(named(path, &format!("{n} certificates, at most {CERTIFICATES_MAX}")))
        }
        _ => Ok(found),
    }
}

fn load(
    identity: &Identity,
    credentials: Option<&Path>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(&identity.cert).map_err(|why| format!("--tls-cert {why}"))?;
    let of_key = |why: &dyn fmt::Display| format!("--tls-key {}", named(&identity.key, why));
    let key = secret_file::read(&identity.key, credentials, PRIVATE_KEY_BYTES_MAX);
    let key = PrivateKeyDer::from_pem_slice(&key.map_err(|fault| of_key(&fault))?);
    Ok((chain, key.map_err(|_fault| of_key(&"no private key in it (want PEM)"))?))
}

fn misfit(Identity { cert, key }: &Identity, error: &rustls::Error) -> String {
    let (cert, key) = (cert.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("--tls-key {key}: the key does not belong to the certificate, --tls-cert {cert}")
        }
        error => format!("--tls-cert {cert}, --tls-key {key}: {error}"),
    }
}

fn named(path: &Path, what: &dyn fmt::Display) -> String {
    format!("{}: {what}", path.display())
}

#[cfg(test)]
mod tests;
