//! Who closes a listener or a datagram socket has its port back when the call returns.

mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};

use poller::{DatagramHandler, Datagrams};
use support::*;

struct Nothing;

impl DatagramHandler for Nothing {
    fn on_datagram(&self, _socket: &Datagrams, _from: SocketAddr, _data: &[u8]) {}
}

#[test]
fn a_closed_listener_has_given_its_port_back() {
    let event_loop = event_loop();
    let mut addr: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    for round in 0..500 {
        let socket = TcpListener::bind(addr).unwrap_or_else(|error| panic!("round {round}: {addr}: {error}"));
        addr = socket.local_addr().expect("it is bound");
        let (probe, _log) = Probe::echo().start();
        let listener = event_loop.serve(socket, probe).expect("it is running");
        // Now before, now after the event loop has taken it on.
        if round % 2 == 0 {
            ask(&mut connect(addr), b"hello");
        }
        listener.close();
    }
    assert!(event_loop.shutdown(PATIENCE));
}

#[test]
fn a_closed_datagram_socket_has_given_its_port_back() {
    let event_loop = event_loop();
    let mut addr: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    for round in 0..500 {
        let socket = UdpSocket::bind(addr).unwrap_or_else(|error| panic!("round {round}: {addr}: {error}"));
        addr = socket.local_addr().expect("it is bound");
        let socket = event_loop.datagrams(socket, Nothing).expect("it is running");
        socket.send_to(b"to itself", addr).expect("loopback takes it");
        socket.close();
    }
    assert!(event_loop.shutdown(PATIENCE));
}
