//! Names to addresses, off the event loop: `getaddrinfo` on threads of its own.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use poller::Remote;

use crate::limits::{RESOLVE_ADDRESSES_MAX, RESOLVE_TIMEOUT_MS};
use crate::proto::target::{Host, Target};

/// Why a name gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAddress {
    /// There is no such name.
    NotFound,
    /// The resolver did not answer in time.
    Timeout,
    /// Too many names are being looked up.
    Busy,
}

/// Looks up a target; `then` runs once, on some thread of the event loop, at once when there is nothing to look up.
pub fn resolve(
    remote: &Remote,
    target: &Target,
    then: impl FnOnce(Result<Vec<SocketAddr>, NoAddress>) + Send + 'static,
) {
    let (name, port) = match target.host() {
        Host::Address(address) => return then(Ok(vec![SocketAddr::new(*address, target.port())])),
        Host::Name(name) => (name.clone(), target.port()),
    };
    // Whoever comes first takes it: the answer, or the clock.
    let then = Arc::new(Mutex::new(Some(then)));
    let answer = {
        let then = then.clone();
        move || {
            let found = look_up(&name, port);
            if let Some(then) = take(&then) {
                then(found);
            }
        }
    };
    if remote.spawn_blocking(answer).is_err() {
        if let Some(then) = take(&then) {
            then(Err(NoAddress::Busy));
        }
        return;
    }
    let late = then.clone();
    let clock = remote.after(Duration::from_millis(RESOLVE_TIMEOUT_MS), move || {
        if let Some(then) = take(&late) {
            then(Err(NoAddress::Timeout));
        }
    });
    if clock.is_err()
        && let Some(then) = take(&then)
    {
        then(Err(NoAddress::Busy));
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().take()
}

fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, NoAddress> {
    match (name, port).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if addresses.len() < RESOLVE_ADDRESSES_MAX && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() { Err(NoAddress::NotFound) } else { Ok(addresses) }
        }
        Err(error) => {
            log::debug!(event = "resolve", name; "{error}");
            Err(if error.kind() == io::ErrorKind::TimedOut { NoAddress::Timeout } else { NoAddress::NotFound })
        }
    }
}
