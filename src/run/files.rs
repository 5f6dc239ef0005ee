//! What a gateway reads from files: at its start, and again when it is asked to.
//!
//! All of it or nothing: where one file is bad, what was loaded before stays, also of those that are good.

use std::fmt;
use std::path::PathBuf;

use super::{Fault, secret};
use crate::cli;
use crate::gateway::Gateway;
use crate::limits::KEYS_BYTES_MAX;
use crate::proto::credentials::Credentials;
use crate::proto::keys;
use crate::secret_file;
use crate::tls;

/// Where it is, and what does not change.
pub(super) struct Files {
    pub(super) group: Option<cli::Group>,
    pub(super) keys: Option<PathBuf>,
    pub(super) tls: Option<cli::GatewayTls>,
}

impl Files {
    /// Reads all of it.
    ///
    /// # Errors
    /// When a file cannot be read, or makes no sense: which, and in which line.
    pub(super) fn load(&self) -> Result<(Credentials, Option<tls::Server>), Fault> {
        let mut credentials = Credentials::new();
        if let Some(group) = &self.group {
            let password = cli::Group::read(&group.file).map_err(Fault::Usage)?;
            credentials
                .insert(group.name.as_str(), secret(&password)?)
                .map_err(|error| Fault::Usage(format!("--group: {error}")))?;
        }
        let directory = secret_file::credentials_directory();
        if let Some(path) = &self.keys {
            let named = |why: &dyn fmt::Display| Fault::Usage(format!("--keys {}: {why}", path.display()));
            let bytes = secret_file::read(path, directory.as_deref(), KEYS_BYTES_MAX);
            let bytes = bytes.map_err(|fault| named(&fault))?;
            let text = std::str::from_utf8(&bytes).map_err(|_fault| named(&"it is no text"))?;
            keys::add(&mut credentials, text).map_err(|why| named(&why))?;
        }
        let tls = self.tls.as_ref().map(|cli::GatewayTls { identity, client_ca }| {
            tls::Server::new(identity, client_ca.as_deref(), directory.as_deref()).map_err(Fault::Usage)
        });
        Ok((credentials, tls.transpose()?))
    }

    /// Reads all of it again and gives it to the gateway; says what came of it, in one line.
    pub(super) fn reload(&self, gateway: &Gateway) {
        let has_credentials = self.group.is_some() || self.keys.is_some();
        if !has_credentials && self.tls.is_none() {
            return log::info!(event = "reload"; "nothing to load again: there is no --password-file, --keys or --tls-cert");
        }
        match self.load() {
            Ok((credentials, tls)) => {
                let (users, clients) = credentials.key_counts();
                let pin = tls.as_ref().map_or_else(|| "-".into(), |tls| tls.pin().to_string());
                let ended = if has_credentials { gateway.renew(credentials) } else { 0 };
                if let Some(tls) = tls {
                    gateway.renew_tls(tls);
                }
                log::info!(event = "reload", users, clients, pin = pin.as_str(), ended; "loaded {self}");
            }
            Err(Fault::Usage(why) | Fault::Failed(why)) => {
                log::error!(event = "reload_fail"; "{why}; what was loaded before stays");
            }
        }
    }
}

/// What is loaded again.
impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut paths: Vec<_> = self.group.iter().map(|group| &group.file).chain(&self.keys).collect();
        if let Some(cli::GatewayTls { identity: tls::Identity { cert, key }, client_ca }) = &self.tls {
            paths.extend([cert, key]);
            paths.extend(client_ca);
        }
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&names.join(", "))
    }
}
