//! What rustls shows in passing: the name that a client asks for, and the secret that keying material is exported from.
//!
//! rustls' unbuffered connections have no question for either, but they ask the configuration's certificate resolver
//! and tell its key log, on the thread that works on the handshake. So each configuration gets both wrapped, once, and
//! the engine takes what they have noted when that piece of work is done.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::crypto::tls13::OkmBlock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, KeyLog, ServerConfig};

use super::Error;

/// The key log's name for the secret of RFC 8446, section 7.5.
const EXPORTER: &str = "EXPORTER_SECRET";

/// What was noted on this thread.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) server_name: Option<Box<str>>,
    /// Cleared from memory when it is dropped.
    pub(super) exporter: Option<OkmBlock>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Takes what has been noted since the last call.
pub(super) fn take() -> Seen {
    SEEN.take()
}

#[derive(Debug)]
struct Resolver(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(Box::from);
        SEEN.with_borrow_mut(|seen| seen.server_name = name);
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}

#[derive(Debug)]
struct Log(Arc<dyn KeyLog>);

impl KeyLog for Log {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if label == EXPORTER {
            SEEN.with_borrow_mut(|seen| seen.exporter = Some(OkmBlock::new(secret)));
        }
        if self.0.will_log(label) {
            self.0.log(label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER || self.0.will_log(label)
    }
}

/// The configuration with both wrapped; stores of sessions and everything else stay shared with the original.
pub(super) fn server_config(config: Arc<ServerConfig>) -> Result<Arc<ServerConfig>, Error> {
    if config.max_early_data_size > 0 {
        return Err(Error::EarlyData);
    }
    let mut config = Arc::unwrap_or_clone(config);
    config.cert_resolver = Arc::new(Resolver(config.cert_resolver));
    config.key_log = Arc::new(Log(config.key_log));
    Ok(Arc::new(config))
}

pub(super) fn client_config(config: Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(config);
    config.key_log = Arc::new(Log(config.key_log));
    Arc::new(config)
}
