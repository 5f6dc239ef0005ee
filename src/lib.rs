//! AnyProxy: a gateway on a public host and clients in private networks, joined by WebSocket tunnels.
#![forbid(unsafe_code)]

pub mod access;
pub mod cli;
pub mod client;
pub mod gateway;
pub mod limits;
pub mod logfmt;
pub mod logging;
pub mod logins;
pub mod logs;
pub mod proto;
pub mod record;
pub mod relay;
pub mod rt;
pub mod run;
pub mod secret_file;
pub mod serve;
pub mod service;
pub mod times;
pub mod tls;
pub mod tunnel;

use std::net::SocketAddr;

/// Says where something listens: operators and scripts read it.
pub(crate) fn announce(name: &str, addr: SocketAddr) {
    log::info!(event = "listen", name, addr:% = addr; "");
}

/// An address for a log line; `-` when there is none.
pub(crate) fn shown(addr: Option<SocketAddr>) -> String {
    addr.map_or_else(|| "-".into(), |addr| addr.to_string())
}

/// A stream's label in the logs, the same on both sides of the tunnel.
pub(crate) fn conn_label(conn_id: u64) -> String {
    format!("c{conn_id:016x}")
}
