//! `TCP_DEFER_ACCEPT`, for which neither the standard library nor `socket2` has a setter.
//!
//! The setter is made by a macro of `nix`, whose one unsafe block (a call of `setsockopt`) stands in the macro and is
//! compiled here. What it rests on is chosen on the line below: the option takes a C `int`, and the macro's `bool`
//! is passed as a C `int` of 0 or 1 with its size. One second is the shortest time that can be said.

use std::io;

use nix::sys::socket::{setsockopt, sockopt::SetBool};
use socket2::Socket;

/// The option as `nix` wants it: a type that names it.
#[derive(Clone, Copy, Debug)]
struct DeferAccept;

nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, bool, SetBool);

/// Lets the kernel keep a connection to itself until it has bytes, or for a second.
pub(crate) fn defer_accept(listener: &Socket) -> io::Result<()> {
    setsockopt(listener, DeferAccept, &true).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{getsockopt, sockopt::GetBool};

    use super::*;

    nix::getsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, bool, GetBool);

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not know the option")]
    fn the_kernel_was_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        assert_eq!(getsockopt(&listener, DeferAccept), Ok(false));
        let listener = Socket::from(listener);
        defer_accept(&listener).expect("set");
        assert_eq!(getsockopt(&listener, DeferAccept), Ok(true));
    }
}
