//! Both ends of a tunnel in one thread, under a virtual clock.

mod errors;
mod handshake;
mod life;
mod pair;
mod random;
mod splits;
mod streams;
mod turns;
mod windows;

use super::*;
use crate::proto::credentials::{Credentials, Secret};
use crate::proto::frame::{Network, OpenRequest, Opened, RefuseCode, ResetCode};
use linkbuffer::LinkBuffer;
use pair::{CLIENT, Cut, GATEWAY, Pair};
use std::sync::Arc;

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text).expect("a good secret"))
}

fn client_config() -> ClientConfig {
    ClientConfig {
        name: "edge04".into(),
        group: "prod".into(),
        secret: secret("s3cret"),
        instance: 77,
        generation: 3,
        nonce: [1; 32],
    }
}

fn gateway_config() -> GatewayConfig {
    let mut credentials = Credentials::new();
    credentials.insert("prod", secret("s3cret").expect("given")).expect("a good name");
    GatewayConfig { credentials: Arc::new(credentials), session_id: 9, nonce: [2; 32] }
}

fn tcp(host: &str, port: u16) -> OpenRequest {
    OpenRequest { network: Network::Tcp, host: host.into(), port, conn_id: 42, user_addr: None }
}

fn udp(host: &str, port: u16) -> OpenRequest {
    OpenRequest { network: Network::Udp, ..tcp(host, port) }
}

fn buffer(bytes: &[u8]) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    buffer.write(bytes);
    buffer
}

fn bytes_of(buffer: &mut LinkBuffer) -> Vec<u8> {
    let n = buffer.len();
    buffer.read_bytes(n).expect("all of it").to_vec()
}

// A session is driven by whichever thread holds its lock.
#[test]
fn a_session_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Session>();
}
