//! The private side: keeps tunnels to its gateways, and reaches targets for them.
//!
//! ```text
//!   slots (which gateway, when) ──▶ resolve ──▶ dial ──▶ ClientSide: one tunnel ──▶ upstream: its streams' targets
//!      ▲                              │ none      │ failed     │ lost, or the gateway is leaving
//!      └── wait, jittered ◀───────────┴───────────┴────────────┘      for ever, until the event loop stops
//! ```

pub mod explain;
mod fleet;
mod keyring;
mod missed;
pub mod reconnect;
pub mod resolve;
mod slots;
mod stats;
mod upstream;

use std::io;
use std::sync::Arc;

use crate::limits::{GATEWAYS_MAX, REPLICAS_MAX};
use crate::proto::budget::WindowBudget;
use crate::proto::credentials::Secret;
use crate::proto::frame::PortRequest;
use crate::proto::target::{Rules, Target};
use crate::rt::Remote;
use crate::times::Times;
use crate::tls;

/// Which gateways a client serves, and what it lets their users reach.
pub struct Config {
    /// The gateways. Invariant: 1 to [`GATEWAYS_MAX`].
    pub gateways: Vec<Gateway>,
    /// Tunnels to keep, to different gateways as far as there are several. Invariant: 1 to [`REPLICAS_MAX`].
    pub replicas: usize,
    /// The group to join; empty for an open gateway.
    pub group: String,
    /// The group's secret.
    pub secret: Option<Secret>,
    /// This client's name in the logs.
    pub name: String,
    /// Which targets may be reached.
    pub rules: Rules,
    /// Ports to be opened on each gateway.
    pub forwards: Vec<PortRequest>,
    /// Streams that one tunnel may have open at once.
    pub streams_max: usize,
    /// How long targets are waited for.
    pub times: Times,
    /// What all tunnels of this process may be allowed to send.
    pub windows: Arc<WindowBudget>,
    /// Called each time that a tunnel is up.
    pub on_up: Box<dyn Fn() + Send + Sync>,
}

/// A gateway to dial.
pub struct Gateway {
    /// Where it is.
    pub target: Target,
    /// The TLS of its tunnels.
    pub tls: Option<tls::Client>,
}

/// Without TLS.
impl From<Target> for Gateway {
    fn from(target: Target) -> Gateway {
        Gateway { target, tls: None }
    }
}

/// Starts a client; it works until the event loop stops.
///
/// # Errors
/// When there is no gateway or no tunnel to keep, or too many, or the system gives no random numbers.
pub fn start(remote: Remote, config: Config) -> io::Result<()> {
    let gateways = config.gateways.len();
    if !(1..=GATEWAYS_MAX).contains(&gateways) || !(1..=REPLICAS_MAX).contains(&config.replicas) {
        let why = format!("{gateways} gateways and {} tunnels", config.replicas);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    fleet::start(remote, config)
}
