//! What may be given to an event loop: listeners, streams and datagram sockets of the standard library, and descriptors that
//! another program passed on.
//!
//! What a descriptor is, is asked of the kernel and not believed. A wrong kind is an error that says what it is, and so
//! is a socket that was given to this event loop already, by whatever descriptor: two operators that drain one socket would
//! take from each other what they wait for.

use crate::sync::Mutex;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::close::Fault;
use crate::tcp;

/// Where a socket is, whatever its kind.
#[derive(Clone, Debug)]
pub enum Address {
    /// An address and a port.
    Ip(SocketAddr),
    /// A path, a name of the abstract kind, or nothing at all.
    Unix(UnixAddr),
}

impl Address {
    pub(crate) fn of(socket: &Socket) -> io::Result<Address> {
        let addr = socket.local_addr()?;
        match (addr.as_socket(), addr.as_unix()) {
            (Some(ip), _) => Ok(Address::Ip(ip)),
            (None, Some(unix)) => Ok(Address::Unix(unix)),
            (None, None) => Err(wrong("a listener or a UDP socket", &describe(socket))),
        }
    }

    /// The address and port, which a Unix socket has not.
    pub fn as_ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(addr) => Some(*addr),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(addr) => addr.fmt(f),
            Address::Unix(addr) => match addr.as_pathname() {
                Some(path) => path.display().fmt(f),
                None => write!(f, "{addr:?}"),
            },
        }
    }
}

/// What [`serve`](crate::Remote::serve) takes: a [`TcpListener`], a [`UnixListener`], or an [`OwnedFd`] that is one of
/// the two.
///
/// The socket is made non-blocking. A path that a Unix socket is bound to stays when it closes; whoever made it removes it.
pub trait Listen: sealed::Listen {
    /// What [`Listener::local_addr`](crate::Listener::local_addr) gives.
    type Addr: Clone + fmt::Debug + Send + Sync + 'static;

    #[doc(hidden)]
    fn addr(address: Address) -> Option<Self::Addr>;
}

mod sealed {
    pub trait Listen: Into<socket2::Socket> {
        /// Its queue was chosen by whoever passed it on, and stays.
        const ADOPTED: bool = false;
    }
    impl Listen for std::net::TcpListener {}
    impl Listen for std::os::unix::net::UnixListener {}
    impl Listen for std::os::fd::OwnedFd {
        const ADOPTED: bool = true;
    }
}

impl Listen for TcpListener {
    type Addr = SocketAddr;

    fn addr(address: Address) -> Option<SocketAddr> {
        address.as_ip()
    }
}

impl Listen for UnixListener {
    type Addr = UnixAddr;

    fn addr(address: Address) -> Option<UnixAddr> {
        match address {
            Address::Unix(addr) => Some(addr),
            Address::Ip(_) => None,
        }
    }
}

impl Listen for OwnedFd {
    type Addr = Address;

    fn addr(address: Address) -> Option<Address> {
        Some(address)
    }
}

/// What [`datagrams`](crate::Remote::datagrams) takes: a [`UdpSocket`], or an [`OwnedFd`] that is one.
#[derive(Debug)]
pub struct DatagramSocket(pub(crate) Socket);

impl From<UdpSocket> for DatagramSocket {
    fn from(socket: UdpSocket) -> DatagramSocket {
        DatagramSocket(socket.into())
    }
}

impl From<OwnedFd> for DatagramSocket {
    fn from(socket: OwnedFd) -> DatagramSocket {
        DatagramSocket(socket.into())
    }
}

/// A TCP listener whose port other listeners of the same user may share: the kernel spreads connections over them by a
/// hash of the two addresses. Serve each with [`Placement::Own`](crate::Placement::Own).
///
/// Two things to know before choosing it over one listener for all polls: the hash is uneven when connections are few,
/// so one poll may get twice the work of another and none helps it; and what waits in the queue of a listener that
/// closes is reset, although the others could have taken it.
///
/// # Errors
/// When the address cannot be had, as when somebody holds it without sharing.
pub fn bind_shared(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(crate::limits::LISTEN_BACKLOG_MAX)?;
    Ok(socket.into())
}

/// A socket that is to accept stream connections, and where it listens.
pub(crate) fn check_listener<L: Listen>(listener: L) -> io::Result<(Socket, Address, L::Addr)> {
    let wanted = "a listening stream socket (TCP or Unix)";
    let socket = check_socket(listener.into(), wanted)?;
    let fits = socket.r#type()? == Type::STREAM && socket.is_listener()?;
    let address = if fits { Address::of(&socket)? } else { return Err(wrong(wanted, &describe(&socket))) };
    match L::addr(address.clone()) {
        Some(addr) => Ok((socket, address, addr)),
        None => Err(wrong("what its type says", &describe(&socket))),
    }
}

/// A socket that is to receive UDP datagrams, and where it is bound.
pub(crate) fn check_datagrams(socket: DatagramSocket) -> io::Result<(UdpSocket, SocketAddr)> {
    let wanted = "a UDP socket";
    let socket = check_socket(socket.0, wanted)?;
    let addr = socket.local_addr()?.as_socket();
    match addr {
        Some(addr) if socket.r#type()? == Type::DGRAM => Ok((socket.into(), addr)),
        _ => Err(wrong(wanted, &describe(&socket))),
    }
}

/// A socket that is connected, or was when it was last heard of.
pub(crate) struct Stream {
    pub(crate) socket: Socket,
    pub(crate) peer: Option<SocketAddr>,
    /// It broke. What the peer sent before may still be there.
    pub(crate) fault: Option<Fault>,
}

/// A stream socket that is to be a connection, made ready for that.
pub(crate) fn check_stream(socket: Socket) -> io::Result<Stream> {
    let wanted = "a connected stream socket (TCP or Unix)";
    let socket = check_socket(socket, wanted)?;
    let is_ip = matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6);
    if socket.r#type()? != Type::STREAM
        || socket.is_listener()?
        || !(is_ip || socket.domain()? == Domain::UNIX)
    {
        return Err(wrong(wanted, &describe(&socket)));
    }
    let (peer, fault) = match socket.peer_addr() {
        Ok(peer) => (peer.as_socket(), None),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => match how_it_ended(&socket)? {
            Some(fault) => (None, fault),
            None => return Err(wrong(wanted, &format!("{} that is not connected", kind(&socket)))),
        },
        Err(error) => return Err(error),
    };
    socket.set_nonblocking(true)?;
    if is_ip {
        tcp::configure(&socket)?;
    }
    Ok(Stream { socket, peer, fault })
}

/// What broke a stream that has no peer any more, or no fault where both sides had ended it; `None` when there never was one.
///
/// # Errors
/// Why it could not be connected.
fn how_it_ended(socket: &Socket) -> io::Result<Option<Option<Fault>>> {
    let error = socket.take_error()?;
    let mut byte = [MaybeUninit::uninit()];
    // What is there to read, or the end of it, tells a stream that is over from one that has not begun.
    let held = socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
    match (error, held) {
        (None, held) => Ok(held.is_ok().then_some(None)),
        (Some(error), Ok(1..)) => Ok(Some(Some(Fault::from(&error)))),
        (Some(error), _) if is_reset(&error) => Ok(Some(Some(Fault::from(&error)))),
        (Some(error), _) => Err(error),
    }
}

/// Whether the peer refused what was sent, before its end or after it: a reset is told so.
fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn check_socket(socket: Socket, wanted: &str) -> io::Result<Socket> {
    match socket.r#type() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
            let kind = File::from(OwnedFd::from(socket)).metadata()?.file_type();
            let what = match () {
                () if kind.is_file() => "a file",
                () if kind.is_dir() => "a directory",
                () if kind.is_fifo() => "a pipe",
                () if kind.is_char_device() || kind.is_block_device() => "a device",
                () => "no socket",
            };
            Err(wrong(wanted, what))
        }
        Err(error) => Err(error),
        Ok(_) => Ok(socket),
    }
}

fn wrong(wanted: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the descriptor is {what}; wanted is {wanted}"))
}

/// What a socket is, in words.
fn describe(socket: &Socket) -> String {
    let listens = match (socket.r#type(), socket.is_listener()) {
        (Ok(Type::STREAM | Type::SEQPACKET), Ok(false)) => " that does not listen",
        (_, Ok(true)) => " that listens",
        _ => "",
    };
    format!("{}{listens}", kind(socket))
}

fn kind(socket: &Socket) -> String {
    let family = match socket.domain() {
        Ok(Domain::IPV4 | Domain::IPV6) => "",
        Ok(Domain::UNIX) => "Unix ",
        _ => "other ",
    };
    let kind = match socket.r#type() {
        Ok(Type::STREAM) if family.is_empty() => "TCP socket",
        Ok(Type::STREAM) => "stream socket",
        Ok(Type::DGRAM) if family.is_empty() => "UDP socket",
        Ok(Type::DGRAM) => "datagram socket",
        Ok(Type::SEQPACKET) => "seqpacket socket",
        _ => "raw socket",
    };
    format!("a {family}{kind}")
}

/// The sockets that an event loop has, by the kernel's number for each: descriptors may be several for one socket.
#[derive(Default)]
pub(crate) struct Registered(Mutex<HashSet<u64>>);

impl Registered {
    /// # Errors
    /// `AlreadyExists` when the socket is there already.
    pub(crate) fn enter(self: &Arc<Registered>, socket: &Socket, what: &str) -> io::Result<Registration> {
        let cookie = socket.cookie()?;
        if self.0.lock().insert(cookie) {
            return Ok(Registration { cookie, registered: self.clone() });
        }
        let text = format!("this {what} is with this event loop already; it uses all polls, so give it once");
        Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
    }
}

/// Held beside a socket for as long as the event loop has it.
pub(crate) struct Registration {
    cookie: u64,
    registered: Arc<Registered>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registered.0.lock().remove(&self.cookie);
    }
}
