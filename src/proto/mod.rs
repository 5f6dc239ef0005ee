//! Protocol code that does no I/O: bytes and events in, bytes and events out.
//!
//! Nothing here knows a socket, a thread or a clock; the linter holds that line.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod auth;
pub mod budget;
pub mod credentials;
pub mod derive;
pub mod flow;
pub mod frame;
pub mod http;
pub mod ids;
pub mod keys;
pub mod rate;
pub mod session;
pub mod socks5;
mod stream;
pub mod target;
pub mod wire;
pub mod ws;
