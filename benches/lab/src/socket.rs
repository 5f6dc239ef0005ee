//! Sockets on the loopback interface, as every program of the lab wants them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::option;

/// As long a queue as the system gives.
const BACKLOG: i32 = 4096;
/// How long a connection that blocks waits for its peer. Nothing that is measured takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listening socket that does not block. Its connections send without delay; with `defer` they come when they speak.
///
/// # Errors
/// What the system says.
pub fn listen(port: u16, defer: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if defer {
        option::set_defer_accept(&socket)?;
    }
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A blocking connection that sends without delay, from `source` (any of 127.0.0.0/8) or from the system's choice.
///
/// Connecting, reading and writing fail after half a minute, so that a peer that says nothing is seen. A connection that is
/// made non-blocking afterwards has none of this.
///
/// # Errors
/// What the system says.
pub fn connect(port: u16, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    if let Some(source) = source {
        option::set_bind_address_no_port(&socket)?;
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
    }
    socket.connect(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket.into())
}

/// The `n`th of the addresses from which many connections come, because one address has too few ports.
pub fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (n % 200) as u8)
}
