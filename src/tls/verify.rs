//! Who is the gateway: verifiers that say what to do about a refusal.

use std::fmt;
use std::sync::Arc;

use crate::rt::tls::rustls::client::WebPkiServerVerifier;
use crate::rt::tls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use crate::rt::tls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use crate::rt::tls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use crate::rt::tls::rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::Pin;

/// Why a certificate is not accepted, and what to do.
#[derive(Debug)]
struct Advice(String);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Advice {}

fn refuse(why: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Advice(why)))))
}

/// Takes a gateway, or says why not.
#[derive(Debug)]
pub(super) struct Verifier {
    whom: Whom,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Whom {
    /// Who has one of these keys. Invariant: not empty.
    Pins(Vec<Pin>),
    /// Who has a certificate of theirs that is good: issuer, name and dates.
    Authorities(Arc<WebPkiServerVerifier>, From),
}

/// Where the authorities are from that vouch for a gateway.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    /// Those that everybody knows.
    Roots,
    /// `--ca`.
    File,
}

impl Verifier {
    /// By the key alone.
    pub(super) fn pinned(pins: Vec<Pin>, provider: Arc<CryptoProvider>) -> Verifier {
        assert!(!pins.is_empty(), "without a pin nobody could be the gateway");
        Verifier { whom: Whom::Pins(pins), provider }
    }

    /// By the certificate; `verifier` has the same provider.
    pub(super) fn explained(
        verifier: Arc<WebPkiServerVerifier>,
        from: From,
        provider: Arc<CryptoProvider>,
    ) -> Verifier {
        Verifier { whom: Whom::Authorities(verifier, from), provider }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (verifier, from) = match &self.whom {
            Whom::Pins(pins) => return by_key(pins, end_entity),
            Whom::Authorities(verifier, from) => (verifier, *from),
        };
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match error {
            Error::InvalidCertificate(error) => explain(&error, from),
            error => error,
        })
    }

    /// A certificate is public: only the signature shows that its key is there.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn by_key(pins: &[Pin], end_entity: &CertificateDer<'_>) -> Result<ServerCertVerified, Error> {
    let shown = Pin::of(end_entity)?;
    if pins.contains(&shown) {
        return Ok(ServerCertVerified::assertion());
    }
    Err(refuse(format!(
        "the gateway has the key {shown}, which no --pin names: if its key was changed on purpose give this one, \
         otherwise somebody else is answering in its place"
    )))
}

fn explain(error: &CertificateError, from: From) -> Error {
    use CertificateError as C;
    let advice = match (error, from) {
        (C::UnknownIssuer | C::BadSignature, From::Roots) => {
            "no public authority vouches for it: name its authority with --ca, or its key with --pin"
        }
        (C::UnknownIssuer | C::BadSignature, From::File) => {
            "nobody in the file of --ca vouches for it: name its own authority there, or its key with --pin"
        }
        (C::NotValidForName | C::NotValidForNameContext { .. }, _) => {
            "dial the gateway by a name that is in its certificate, or have that name put into it"
        }
        (C::Expired | C::ExpiredContext { .. }, _) => {
            "the gateway needs a new certificate, unless this host's clock is wrong"
        }
        (C::NotValidYet | C::NotValidYetContext { .. }, _) => "is this host's clock right?",
        _ => "the gateway needs another certificate",
    };
    refuse(format!("{error}; {advice}"))
}
