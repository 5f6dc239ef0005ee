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

/// Takes a gateway by its key alone.
#[derive(Debug)]
pub(super) struct Pinned {
    /// Invariant: not empty.
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(super) fn new(pins: Vec<Pin>, provider: Arc<CryptoProvider>) -> Pinned {
        assert!(!pins.is_empty(), "without a pin nobody could be the gateway");
        Pinned { pins, provider }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Pin::of(end_entity)?;
        if self.pins.contains(&shown) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(refuse(format!(
            "the gateway has the key {shown}, which no --pin names: if its key was changed on purpose give this one, \
             otherwise somebody else is answering in its place"
        )))
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

/// Where the authorities are from that vouch for a gateway.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    /// Those that everybody knows.
    Roots,
    /// `--ca`.
    File,
}

/// Takes a gateway by its certificate: issuer, name and dates.
#[derive(Debug)]
pub(super) struct Explained {
    verifier: Arc<WebPkiServerVerifier>,
    from: From,
}

impl Explained {
    pub(super) fn new(verifier: Arc<WebPkiServerVerifier>, from: From) -> Explained {
        Explained { verifier, from }
    }

    fn explain(&self, error: CertificateError) -> Error {
        use CertificateError as C;
        let advice = match (&error, self.from) {
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
}

impl ServerCertVerifier for Explained {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match error {
            Error::InvalidCertificate(error) => self.explain(error),
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
