//! Two options of Linux that no safe interface sets. The only `unsafe` of the lab.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A connection is accepted when its first bytes have come, or after a second.
///
/// # Errors
/// What the system says.
pub fn set_defer_accept(listener: &impl AsFd) -> io::Result<()> {
    set(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT)
}

/// A bind to port 0 leaves the choice of the port to `connect`, which may use one port for several destinations.
///
/// # Errors
/// What the system says.
pub fn set_bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// Sets an option whose value is an `int`, to 1.
#[allow(unsafe_code)]
fn set(socket: &impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel reads `length` bytes at the
    // pointer, which are those of `one`.
    let outcome =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const one).cast(), length) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
