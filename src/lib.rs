//! AnyProxy: a gateway on a public host and clients in private networks, joined by WebSocket tunnels.
#![forbid(unsafe_code)]

pub mod access;
pub mod cli;
pub mod client;
pub mod limits;
pub mod logfmt;
pub mod logging;
pub mod logs;
pub mod proto;
pub mod record;
pub mod service;
