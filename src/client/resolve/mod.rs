//! Names to addresses, off the event loop: `getaddrinfo` on a few threads of its own.
//!
//! ```text
//!            known (cache) ─────────────────────────────▶ answered at once
//!   name ──▶ asked already ──▶ waits with the others ──┐
//!            new ──▶ queue ──▶ thread ── getaddrinfo ──┴▶ answered, all of them together
//!            too many asked, or too many wait ──────────▶ refused: Busy
//!                     each of them after RESOLVE_TIMEOUT_MS ──▶ Timeout
//! ```
//! * A look-up cannot be broken off. One that hangs keeps its thread and no other's; who waits for it is told after
//!   [`RESOLVE_TIMEOUT_MS`], and whoever asks for the same name meanwhile waits with it instead of taking a thread more.
//! * A [`Resolver`] has threads, queue and cache of its own, so names of gateways are not behind names of targets.
//! * Threads begin with the first name and end when there was none for [`RESOLVER_IDLE_MS`], or with the resolver.

mod names;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{collections::VecDeque, fmt};

use parking_lot::Mutex;

use crate::limits::{RESOLVE_ADDRESSES_MAX, RESOLVE_TIMEOUT_MS, RESOLVER_IDLE_MS};
use crate::proto::target::{Host, Target};
use crate::rt::{self, Condvar, Remote};
use names::{Asked, Found, Names};

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

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAddress::NotFound => "there is no such name",
            NoAddress::Timeout => "its name was not resolved in time",
            NoAddress::Busy => "too many names are being looked up",
        })
    }
}

/// Looks names up. Dropped, it lets go of everybody who waits.
pub struct Resolver {
    remote: Remote,
    shared: Arc<Shared>,
}

type Then = Box<dyn FnOnce(Result<Vec<SocketAddr>, NoAddress>) + Send>;
type LookUp = dyn Fn(&str) -> Result<Vec<SocketAddr>, NoAddress> + Send + Sync;

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    look_up: Box<LookUp>,
    threads_max: usize,
}

struct State {
    names: Names<Waiting>,
    /// Names that no thread has begun with. Invariant: every one of them is asked for in `names`.
    queue: VecDeque<Arc<str>>,
    /// Invariant: idle <= threads <= threads_max.
    threads: usize,
    /// Threads that wait for a name.
    idle: usize,
    /// Nobody asks any more.
    closed: bool,
}

/// Who asked, and for which port.
struct Waiting {
    port: u16,
    then: Then,
}

impl Waiting {
    fn answer(self, found: &Found) {
        let with_port = |mut address: SocketAddr| {
            address.set_port(self.port);
            address
        };
        (self.then)(found.clone().map(|addresses| addresses.iter().copied().map(with_port).collect()));
    }
}

impl Resolver {
    /// Asks the system, on at most so many threads.
    pub fn system(remote: Remote, threads_max: usize) -> Resolver {
        Resolver::new(remote, threads_max, Names::new(), look_up)
    }

    /// As [`Resolver::system`], and asks again each time: for names that are seldom asked for and have to be right.
    pub fn system_uncached(remote: Remote, threads_max: usize) -> Resolver {
        Resolver::new(remote, threads_max, Names::uncached(), look_up)
    }

    fn new(
        remote: Remote,
        threads_max: usize,
        names: Names<Waiting>,
        look_up: impl Fn(&str) -> Result<Vec<SocketAddr>, NoAddress> + Send + Sync + 'static,
    ) -> Resolver {
        let state = State { names, queue: VecDeque::new(), threads: 0, idle: 0, closed: false };
        let (state, work) = (Mutex::new(state), Condvar::new());
        Resolver { remote, shared: Arc::new(Shared { state, work, look_up: Box::new(look_up), threads_max }) }
    }

    /// Looks up a target. `then` runs once: at once when there is nothing to look up, or later on a thread that may be
    /// used for a moment, but not be blocked.
    pub fn resolve(
        &self,
        target: &Target,
        then: impl FnOnce(Result<Vec<SocketAddr>, NoAddress>) + Send + 'static,
    ) {
        let name: Arc<str> = match target.host() {
            Host::Address(address) => return then(Ok(vec![SocketAddr::new(*address, target.port())])),
            Host::Name(name) => name.as_str().into(),
        };
        let waiting = Waiting { port: target.port(), then: Box::new(then) };
        let asked = self.shared.state.lock().names.ask(&name, waiting, rt::now());
        let (number, first) = match asked {
            Asked::Known(waiting, found) => return waiting.answer(&found),
            Asked::Busy(waiting) => {
                log::debug!(event = "limit_hit", limit = "lookups", name = &*name; "");
                return waiting.answer(&Err(NoAddress::Busy));
            }
            Asked::First(number) => (number, true),
            Asked::Another(number) => (number, false),
        };
        let (shared, late) = (Arc::downgrade(&self.shared), name.clone());
        let clock = self.remote.after(Duration::from_millis(RESOLVE_TIMEOUT_MS), move || {
            if let Some(shared) = shared.upgrade() {
                shared.give_up(&late, number, NoAddress::Timeout);
            }
        });
        match clock {
            Ok(clock) => self.shared.state.lock().names.times(&name, number, clock),
            Err(error) => {
                log::debug!(event = "limit_hit", limit = "lookups"; "{error}");
                self.shared.give_up(&name, number, NoAddress::Busy);
            }
        }
        if first {
            self.shared.enqueue(name);
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let left = {
            let state = &mut *self.shared.state.lock();
            state.closed = true;
            state.queue.clear();
            std::mem::take(&mut state.names)
        };
        self.shared.work.notify_all();
        // Not with the lock held: they may own much.
        drop(left);
    }
}

impl Shared {
    /// One of those who wait does so no longer.
    fn give_up(&self, name: &str, number: u64, why: NoAddress) {
        // Bound first: nobody is called with the lock held.
        let waiting = self.state.lock().names.give_up(name, number);
        if let Some(waiting) = waiting {
            waiting.answer(&Err(why));
        }
    }

    fn enqueue(self: &Arc<Shared>, name: Arc<str>) {
        let begins = {
            let state = &mut *self.state.lock();
            state.queue.push_back(name);
            let begins = state.queue.len() > state.idle && state.threads < self.threads_max;
            state.threads += usize::from(begins);
            begins
        };
        if !begins {
            self.work.notify_one();
            return;
        }
        let shared = self.clone();
        if let Err(error) = rt::spawn_thread("resolver", move || shared.work()) {
            log::debug!(event = "limit_hit", limit = "threads"; "no thread to look names up: {error}");
            let abandoned = {
                let state = &mut *self.state.lock();
                state.threads -= 1;
                // With a thread left, that one comes to it.
                if state.threads == 0 { std::mem::take(&mut state.queue) } else { VecDeque::new() }
            };
            for name in abandoned {
                self.answer(&name, Err(NoAddress::Busy));
            }
        }
    }

    /// What a thread does, until there has been nothing to do for a while.
    fn work(self: &Arc<Shared>) {
        let mut counted = Counted { shared: self, in_count: true };
        while let Some(name) = self.next() {
            let found = (self.look_up)(&name);
            self.answer(&name, found);
        }
        counted.in_count = false;
    }

    /// The next name; with none for a while the thread is no longer counted, so that the next name begins another.
    fn next(&self) -> Option<Arc<str>> {
        let state = &mut self.state.lock();
        loop {
            if state.closed {
                state.threads -= 1;
                return None;
            }
            while let Some(name) = state.queue.pop_front() {
                if state.names.begin(&name) {
                    return Some(name);
                }
            }
            state.idle += 1;
            let waited = self.work.wait_for(state, Duration::from_millis(RESOLVER_IDLE_MS));
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }

    fn answer(&self, name: &str, found: Result<Vec<SocketAddr>, NoAddress>) {
        let found: Found = found.map(Into::into);
        let waiting = self.state.lock().names.found(name, found.clone(), rt::now());
        for waiting in waiting {
            waiting.answer(&found);
        }
    }
}

/// Counts a thread out that ended by a panic of somebody whom it answered.
struct Counted<'a> {
    shared: &'a Shared,
    in_count: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.in_count {
            self.shared.state.lock().threads -= 1;
        }
    }
}

/// Asks the system, on this thread. The addresses' ports are 0.
///
/// # Errors
/// When there is no address.
pub fn look_up(name: &str) -> Result<Vec<SocketAddr>, NoAddress> {
    match rt::look_up(name, 0) {
        Ok(found) => {
            let addresses = first_distinct(found);
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

/// The first addresses of a name, each once, and no more than are tried.
fn first_distinct(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if addresses.len() < RESOLVE_ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
