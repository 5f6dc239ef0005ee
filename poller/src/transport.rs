//! The socket under a connection: every byte that a connection reads or sends passes through here.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::Socket;

/// A connected (or connecting) stream socket that never blocks.
#[derive(Debug)]
pub(crate) struct Transport(Socket);

impl Transport {
    pub(crate) fn new(socket: Socket) -> Transport {
        Transport(socket)
    }

    /// One read: zero at the end of the stream.
    pub(crate) fn recv(&self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            match net::recv(&self.0, &mut *space, RecvFlags::empty()) {
                Ok((n, _)) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One send; how many bytes the kernel took.
    pub(crate) fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let sent = match pieces {
                [piece] => net::send(&self.0, piece, SendFlags::NOSIGNAL),
                pieces => {
                    net::sendmsg(&self.0, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
                }
            };
            match sent {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends our stream.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// The error that the system keeps for the socket. It tells each once.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()?.as_socket()
    }

    /// The peer sees a reset when the socket is closed.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        self.0.set_linger(Some(Duration::ZERO))
    }

    /// The socket itself, for others.
    pub(crate) fn into_socket(self) -> Socket {
        self.0
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
