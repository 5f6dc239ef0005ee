//! The flags of TLS, for either side of the tunnel.

use std::path::PathBuf;

use clap::Args;

use super::GatewayUrl;
use crate::limits::PINS_MAX;
use crate::tls::{Identity, Pin, Trust};

/// The gateway's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayTls {
    /// What it shows to clients.
    pub identity: Identity,
    /// Who vouches for clients, where they have to show a certificate.
    pub client_ca: Option<PathBuf>,
}

/// The client's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whom it takes for its gateway.
    pub trust: Trust,
    /// What it shows to a gateway that asks for a certificate.
    pub identity: Option<Identity>,
}

#[derive(Args)]
struct RawIdentity {
    /// The certificate to show, in PEM; anyproxy cert makes one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM, readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct RawGatewayTls {
    #[command(flatten)]
    identity: RawIdentity,
    /// Only take clients with a certificate that those in this file vouch for
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct RawClientTls {
    /// wss:// only: who vouches for the gateway's certificate, in PEM, in place of the public authorities
    #[arg(long, value_name = "FILE", conflicts_with = "pins")]
    ca: Option<PathBuf>,
    /// wss:// only: the fingerprint of the gateway's key, in place of any authority; may be repeated
    #[arg(long = "pin", value_name = "sha256:HEX")]
    pins: Vec<Pin>,
    #[command(flatten)]
    identity: RawIdentity,
}

impl RawIdentity {
    /// clap saw to it that both are there or neither.
    fn both(self) -> Option<Identity> {
        Some(Identity { cert: self.tls_cert?, key: self.tls_key? })
    }
}

impl RawGatewayTls {
    pub(super) fn read(self) -> Option<GatewayTls> {
        let client_ca = self.client_ca;
        self.identity.both().map(|identity| GatewayTls { identity, client_ca })
    }
}

impl RawClientTls {
    pub(super) fn read(self, gateways: &[GatewayUrl]) -> Result<Option<ClientTls>, String> {
        let RawClientTls { ca, pins, identity } = self;
        let identity = identity.both();
        if !gateways.iter().any(|gateway| gateway.tls) {
            let given = [("ca", ca.is_some()), ("pin", !pins.is_empty()), ("tls-cert", identity.is_some())];
            return match given.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(format!("anyproxy: --{flag}: no gateway's URL has TLS: use wss://")),
                None => Ok(None),
            };
        }
        if pins.len() > PINS_MAX {
            return Err(format!("anyproxy: --pin: given {} times, at most {PINS_MAX}", pins.len()));
        }
        let trust = match ca {
            Some(path) => Trust::File(path),
            None if pins.is_empty() => Trust::Roots,
            None => Trust::Pins(pins),
        };
        Ok(Some(ClientTls { trust, identity }))
    }
}
