//! What TCP sockets are told: two options have no setter in the standard library or in `socket2`.
//!
//! Their setters are made by a macro of `nix`, whose one unsafe block (a call of `setsockopt`) stands in the macro and
//! is compiled here. What it rests on is chosen on the lines below: both options take a C `int`, and the macro passes
//! `bool` and `usize` as a C `int` with its size. One second is the shortest time that `TCP_DEFER_ACCEPT` can be told.

use std::io;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SetBool, SetUsize};
use socket2::Socket;

use crate::limits;

/// The option as `nix` wants it: a type that names it.
#[derive(Clone, Copy, Debug)]
struct DeferAccept;

nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, bool, SetBool);

/// As above.
#[derive(Clone, Copy, Debug)]
struct NotSentLowAt;

nix::setsockopt_impl!(NotSentLowAt, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, usize, SetUsize);

/// What every TCP socket is told, whoever made it; what a listener is told, the sockets that it accepts inherit.
/// * `TCP_NODELAY`: what was written leaves at once. Output is gathered here, where it is known when a turn ends.
/// * `TCP_NOTSENT_LOWAT`: what the peer cannot take yet waits here and not in the kernel
///   ([`KERNEL_UNSENT_BYTES`](limits::KERNEL_UNSENT_BYTES)).
pub(crate) fn configure(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match setsockopt(socket, NotSentLowAt, &limits::KERNEL_UNSENT_BYTES) {
        // A system that stands in for Linux and does not know it, or MPTCP in its place, works as well with a long queue.
        Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => Ok(()),
        told => told.map_err(io::Error::from),
    }
}

/// Lets the kernel keep a connection to itself until it has bytes, or for a second.
pub(crate) fn defer_accept(listener: &Socket) -> io::Result<()> {
    setsockopt(listener, DeferAccept, &true).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Duration;

    use nix::sys::socket::getsockopt;
    use nix::sys::socket::sockopt::{GetBool, GetUsize};

    use super::*;
    use crate::{Connection, EventLoop, Handler, Prepare, Reject};

    nix::getsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, bool, GetBool);
    nix::getsockopt_impl!(NotSentLowAt, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, usize, GetUsize);

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not know the option")]
    fn the_kernel_was_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert_eq!(getsockopt(&listener, DeferAccept), Ok(false));
        let listener = Socket::from(listener);
        defer_accept(&listener).expect("set");
        assert_eq!(getsockopt(&listener, DeferAccept), Ok(true));
    }

    /// Tells what the socket was told.
    struct Asks(mpsc::Sender<(bool, usize)>);

    impl Handler for Asks {
        type Context = ();

        fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<(), Reject> {
            let told = getsockopt(&conn.socket(), NotSentLowAt).expect("asked");
            self.0.send((conn.socket().tcp_nodelay().expect("asked"), told)).expect("heard");
            Ok(())
        }

        fn on_request(&self, _: &mut (), _: &mut Connection<'_>) -> crate::Result {
            Ok(())
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not know the options")]
    fn accepted_dialed_and_adopted_sockets_were_told_both() {
        let event_loop = EventLoop::new().expect("an event loop");
        let (asks, told) = mpsc::channel();
        let told = || told.recv_timeout(Duration::from_secs(60)).expect("told");
        let expected = (true, limits::KERNEL_UNSENT_BYTES);
        let listener =
            event_loop.serve(TcpListener::bind("127.0.0.1:0").expect("a port"), Asks(asks.clone()));
        let addr = listener.expect("listens").local_addr();
        let plain = TcpStream::connect(addr).expect("connected");
        assert_eq!(told(), expected, "accepted");
        assert_ne!(getsockopt(&plain, NotSentLowAt), Ok(expected.1), "the option is ours alone");
        event_loop.adopt(plain, Asks(asks.clone())).expect("adopted");
        assert_eq!(told(), expected, "adopted");
        event_loop.dial(addr, Duration::from_secs(60), Asks(asks)).expect("dialed");
        assert_eq!((told(), told()), (expected, expected), "dialed, and accepted");
    }
}
