//! Datagram sockets.

mod support;

use std::io;
use std::net::{SocketAddr, UdpSocket};

use poller::{DatagramHandler, Datagrams, limits};
use support::gate::hold;
use support::*;

/// Sends back what comes; an empty datagram makes it panic.
struct Echo;

impl DatagramHandler for Echo {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        assert!(!data.is_empty(), "on purpose");
        socket.send_to(data, from).expect("sent");
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

#[track_caller]
fn ask_datagram(user: &UdpSocket, to: SocketAddr, question: &[u8]) {
    user.send_to(question, to).expect("sent");
    let mut answer = vec![0; limits::DATAGRAM_BYTES_MAX];
    let (n, from) = user.recv_from(&mut answer).expect("answered");
    assert_eq!((from, &answer[..n]), (to, question));
}

// proves that DATAGRAM_BYTES_MAX takes the largest that there is (65,507 bytes over IPv4)
#[test]
fn datagrams_of_every_size_come_whole() {
    let event_loop = event_loop();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    let user = socket();
    for size in [1, 2, 1472, 9000, 65_507] {
        ask_datagram(&user, echo.local_addr(), &vec![size as u8; size]);
    }
}

// proves that DATAGRAMS_TURN_MAX ends a turn and not the receiving
#[test]
fn more_datagrams_than_a_turn_takes_all_come() {
    let event_loop = one_poll();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    // The only worker that leads is busy, so all of them wait when their turn begins.
    let gate = hold(&event_loop);
    let user = socket();
    let count = 2 * limits::DATAGRAMS_TURN_MAX + 1;
    for n in 0..count {
        user.send_to(&[1, n as u8], echo.local_addr()).expect("sent");
    }
    gate.open();
    let mut answer = [0; 2];
    for n in 0..count {
        user.recv_from(&mut answer).expect("answered");
        assert_eq!(answer, [1, n as u8]);
    }
}

// proves L-21 for datagram sockets
#[test]
fn a_panic_closes_that_socket_alone() {
    let event_loop = one_poll();
    let first = event_loop.datagrams(socket(), Echo).expect("given");
    let second = event_loop.datagrams(socket(), Echo).expect("given");
    let user = socket();
    user.send_to(b"", first.local_addr()).expect("sent");
    wait_until("it is closed", || first.send_to(b"x", user.local_addr().expect("an address")).is_err());
    ask_datagram(&user_without_rest(), second.local_addr(), b"alive");
}

fn user_without_rest() -> UdpSocket {
    socket()
}

#[test]
fn a_closed_socket_frees_its_port_and_says_so() {
    let event_loop = event_loop();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    let addr = echo.local_addr();
    ask_datagram(&socket(), addr, b"open");
    echo.close();
    wait_until("the port is free", || UdpSocket::bind(addr).is_ok());
    let error = echo.send_to(b"late", addr).expect_err("closed");
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

/// Tells of the errors that the system reports on the socket.
struct Errors(crossbeam_channel::Sender<io::ErrorKind>);

impl DatagramHandler for Errors {
    fn on_datagram(&self, _: &Datagrams, _: SocketAddr, _: &[u8]) {}
    fn on_error(&self, _: &Datagrams, error: &io::Error) {
        self.0.send(error.kind()).expect("listened to");
    }
}

#[test]
fn an_error_on_the_socket_is_told_and_the_socket_stays() {
    let event_loop = event_loop();
    let (told, errors) = crossbeam_channel::unbounded();
    let gone = socket().local_addr().expect("an address");
    let ours = socket();
    ours.connect(gone).expect("connected");
    let ours = event_loop.datagrams(ours, Errors(told)).expect("given");
    for _ in 0..2 {
        // The second send may be told the error of the first.
        wait_until("sent", || ours.send_to(b"anybody?", gone).is_ok());
        assert_eq!(errors.recv_timeout(PATIENCE), Ok(io::ErrorKind::ConnectionRefused));
    }
}

// proves L-29 for datagram sockets
#[test]
fn a_stopped_event_loop_frees_the_port_although_the_socket_is_kept() {
    let event_loop = event_loop();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    assert!(event_loop.shutdown(PATIENCE));
    UdpSocket::bind(echo.local_addr()).expect("the port is free");
}
