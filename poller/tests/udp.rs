//! Datagram sockets.

mod support;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

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

// proves L-21 for datagram sockets: whoever may send to one cannot end it
#[test]
fn a_panic_costs_that_datagram_alone() {
    let event_loop = one_poll();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    let user = socket();
    user.send_to(b"", echo.local_addr()).expect("sent");
    ask_datagram(&user, echo.local_addr(), b"alive");
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

/// Tells of the errors that the system reports on the socket, and of what comes.
struct Told(crossbeam_channel::Sender<Result<Vec<u8>, Option<i32>>>);

impl DatagramHandler for Told {
    fn on_datagram(&self, _: &Datagrams, _: SocketAddr, data: &[u8]) {
        self.0.send(Ok(data.to_vec())).expect("listened to");
    }
    fn on_error(&self, _: &Datagrams, error: &io::Error) {
        self.0.send(Err(error.raw_os_error())).expect("listened to");
    }
}

// proves L-32 for datagrams: the errno is kept, and the socket stays
#[test]
fn an_error_on_the_socket_is_told_and_the_socket_stays() {
    let event_loop = event_loop();
    let (told, events) = crossbeam_channel::unbounded();
    let gone = socket().local_addr().expect("an address");
    let ours = socket();
    ours.connect(gone).expect("connected");
    let ours = event_loop.datagrams(ours, Told(told)).expect("given");
    assert_eq!(ours.peer_addr(), Some(gone));
    for _ in 0..2 {
        // The second send may be told the error of the first.
        wait_until("sent", || ours.send(b"anybody?").is_ok());
        assert_eq!(events.recv_timeout(PATIENCE), Ok(Err(Some(libc::ECONNREFUSED))));
    }
    let there = UdpSocket::bind(gone).expect("still free");
    there.connect(ours.local_addr()).expect("connected");
    there.send(b"now I am").expect("sent");
    assert_eq!(events.recv_timeout(PATIENCE), Ok(Ok(b"now I am".to_vec())));
}

#[test]
fn a_connected_socket_hears_its_peer_alone_and_sends_without_an_address() {
    let event_loop = event_loop();
    let (told, events) = crossbeam_channel::unbounded();
    let (ours, peer, stranger) = (socket(), socket(), socket());
    let addr = ours.local_addr().expect("an address");
    ours.connect(peer.local_addr().expect("an address")).expect("connected");
    let ours = event_loop.datagrams(ours, Told(told)).expect("given");
    stranger.send_to(b"may I?", addr).expect("sent");
    peer.send_to(b"hello", addr).expect("sent");
    assert_eq!(events.recv_timeout(PATIENCE), Ok(Ok(b"hello".to_vec())));
    assert!(events.is_empty());
    // Any thread sends, while the handler may receive.
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| ours.send(b"from any thread").expect("sent"))));
    });
    for _ in 0..4 {
        let mut answer = [0; 100];
        let (n, from) = peer.recv_from(&mut answer).expect("arrived");
        assert_eq!((from, &answer[..n]), (addr, &b"from any thread"[..]));
    }
}

#[test]
fn a_socket_without_a_peer_wants_an_address() {
    let event_loop = event_loop();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    assert_eq!(echo.peer_addr(), None);
    let error = echo.send(b"to whom?").expect_err("nobody");
    assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ));
}

#[test]
fn a_descriptor_that_was_passed_on_is_served_when_it_is_a_udp_socket() {
    #[track_caller]
    fn check(fd: OwnedFd, says: &str) {
        let error = one_poll().datagrams(fd, Echo).expect_err("no UDP socket");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), format!("the descriptor is {says}; wanted is a UDP socket"));
    }
    let event_loop = event_loop();
    let echo = event_loop.datagrams(OwnedFd::from(socket()), Echo).expect("given");
    ask_datagram(&socket(), echo.local_addr(), b"passed on");
    check(UnixDatagram::unbound().expect("a socket").into(), "a Unix datagram socket");
    check(TcpListener::bind("127.0.0.1:0").expect("a port").into(), "a TCP socket that listens");
    check(std::fs::File::open("/dev/null").expect("there").into(), "a device");
}

// Bad input: registering twice
#[test]
fn the_same_socket_is_given_once() {
    let event_loop = event_loop();
    let first = socket();
    let copies = (first.try_clone().expect("a copy"), first.try_clone().expect("a copy"));
    let given = event_loop.datagrams(first, Echo).expect("given");
    let error = event_loop.datagrams(copies.0, Echo).expect_err("twice");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    given.close();
    event_loop.datagrams(copies.1, Echo).expect("the first has been closed");
}

// proves L-29 for datagram sockets
#[test]
fn a_stopped_event_loop_frees_the_port_although_the_socket_is_kept() {
    let event_loop = event_loop();
    let echo = event_loop.datagrams(socket(), Echo).expect("given");
    assert!(event_loop.shutdown(PATIENCE));
    UdpSocket::bind(echo.local_addr()).expect("the port is free");
}
