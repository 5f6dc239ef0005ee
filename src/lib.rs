//! AnyProxy: a gateway on a public host and clients in private networks, joined by WebSocket tunnels.
#![forbid(unsafe_code)]

#[cfg_attr(anyproxy_sim, path = "../tests/sim/rt/access.rs")]
pub mod access;
#[cfg(not(anyproxy_sim))]
pub mod cli;
pub mod client;
pub mod gateway;
pub mod limits;
pub mod logfmt;
#[cfg(not(anyproxy_sim))]
pub mod logging;
pub mod logins;
#[cfg(not(anyproxy_sim))]
pub mod logs;
pub mod proto;
pub mod record;
mod refused;
pub mod relay;
#[cfg_attr(anyproxy_sim, path = "../tests/sim/rt/mod.rs")]
pub mod rt;
#[cfg(not(anyproxy_sim))]
pub mod run;
pub mod secret_file;
#[cfg(not(anyproxy_sim))]
pub mod serve;
#[cfg(not(anyproxy_sim))]
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
    conn_text(conn_id).iter().copied().map(char::from).collect()
}

/// The bytes of that: a `c` and sixteen hexadecimal digits. Every stream has it in a line, so this does without `fmt`.
pub(crate) fn conn_text(conn_id: u64) -> [u8; 17] {
    std::array::from_fn(|at| match at {
        0 => b'c',
        at => b"0123456789abcdef"[(conn_id >> (64 - 4 * at)) as usize % 16],
    })
}

#[cfg(all(test, anyproxy_sim))]
compile_error!(
    "these tests run in the package anyproxy: cargo test --workspace --lib --exclude anyproxy-sim"
);

#[cfg(test)]
mod tests {
    #[test]
    fn a_stream_has_all_digits_of_its_number_in_its_label() {
        for conn_id in [0, 0xf, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(super::conn_label(conn_id), format!("c{conn_id:016x}"));
        }
    }
}
