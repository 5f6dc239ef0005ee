//! Protocol code that does no I/O: bytes and events in, bytes and events out.
//!
//! Nothing here knows a socket, a thread or a clock; the linter holds that line.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod credentials;
pub mod socks5;
pub mod target;
pub mod ws;
pub mod http;
pub mod auth;
pub mod flow;
pub mod frame;
pub mod session;
mod stream;
pub mod wire;
