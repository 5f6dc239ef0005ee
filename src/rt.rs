//! The one way from here to the world: the event loop, sockets, names, clocks and chance.
//!
//! All code outside [`crate::proto`] takes these from here and from nowhere else, and the protocol code is given them. So
//! everything that a gateway or a client does follows from what this room hands out, and a simulation that puts another room in its
//! place decides all of it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub use std::net::{TcpListener, UdpSocket};

pub use parking_lot::Condvar;
pub use poller::limits;
pub use poller::tls;
pub use poller::{
    Closed, Connection, DatagramHandler, Datagrams, EventLoop, Handle, Handler, Listener, Prepare, Reason,
    Reject, Remote, Result, Timer,
};

/// The clock that deadlines are held against.
pub fn now() -> Instant {
    Instant::now()
}

/// How long ago that was.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// The clock that people read.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Fills `bytes` with what nobody can guess.
///
/// # Errors
/// When the system gives no random numbers.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    Ok(getrandom::fill(bytes)?)
}

/// A number that nobody can guess.
///
/// # Errors
/// As [`fill_random`].
pub fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What a handshake is bound to, and what a WebSocket draws its masks from.
///
/// # Errors
/// As [`fill_random`].
pub fn nonce() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// Runs `work` on a thread of its own, which ends with it.
///
/// # Errors
/// When there is no thread to be had.
pub fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// The addresses of a name, as the system knows them. Blocks.
///
/// # Errors
/// When there are none, or nobody answers.
pub fn look_up(name: &str, port: u16) -> io::Result<impl Iterator<Item = SocketAddr>> {
    (name, port).to_socket_addrs()
}
