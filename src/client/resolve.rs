//! Names to addresses, off the event loop: `getaddrinfo` on threads of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits::{RESOLVE_ADDRESSES_MAX, RESOLVE_TIMEOUT_MS};
use crate::proto::target::{Host, Target};
use crate::rt::{self, Remote};

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
    let slot = Arc::new(Mutex::new(Some(then)));
    let late = slot.clone();
    let clock = remote.after(Duration::from_millis(RESOLVE_TIMEOUT_MS), move || {
        give(&late, || Err(NoAddress::Timeout));
    });
    let clock = match clock {
        Ok(clock) => clock,
        Err(error) => {
            log::debug!(event = "limit_hit", limit = "lookups"; "{error}");
            return give(&slot, || Err(NoAddress::Busy));
        }
    };
    let answer = slot.clone();
    let looked = remote.spawn_blocking(move || {
        // Nobody waits for a lookup that stood in the queue for too long.
        if answer.lock().is_some() {
            let found = look_up(&name, port);
            clock.cancel();
            give(&answer, || found);
        }
    });
    if let Err(error) = looked {
        log::debug!(event = "limit_hit", limit = "lookups"; "{error}");
        give(&slot, || Err(NoAddress::Busy));
    }
}

/// Calls whoever waits in the slot, if nobody has before.
fn give<T>(slot: &Mutex<Option<impl FnOnce(T)>>, what: impl FnOnce() -> T) {
    // Bound first: nothing is called with the lock held.
    let then = slot.lock().take();
    if let Some(then) = then {
        then(what());
    }
}

fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, NoAddress> {
    match rt::look_up(name, port) {
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
            Err(if error.kind() == io::ErrorKind::TimedOut {
                NoAddress::Timeout
            } else {
                NoAddress::NotFound
            })
        }
    }
}
