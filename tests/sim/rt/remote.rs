//! An event loop as src sees it: here, a process of the simulated world.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::connection::{Body, Handle, News, Phase};
use super::handler::{Callbacks, IntoHandler, Prepare};
use super::kernel::{self, Counts, Kernel, What};
use super::net::Door;
use super::udp::{DatagramHandler, Datagrams, UdpSocket};
use std::sync::Arc;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    proc: u32,
    run: u64,
}

/// What to dial: an address, or several that are tried in turn.
#[derive(Clone, Debug)]
pub struct Targets(VecDeque<SocketAddr>);

impl From<SocketAddr> for Targets {
    fn from(addr: SocketAddr) -> Targets {
        Targets([addr].into())
    }
}

impl From<&[SocketAddr]> for Targets {
    fn from(addrs: &[SocketAddr]) -> Targets {
        Targets(addrs.iter().copied().collect())
    }
}

impl From<Vec<SocketAddr>> for Targets {
    fn from(addrs: Vec<SocketAddr>) -> Targets {
        Targets(addrs.into())
    }
}

/// A socket that listens and was not given to an event loop yet.
#[derive(Debug)]
pub struct TcpListener {
    addr: SocketAddr,
    run: u64,
    kept: bool,
}

impl TcpListener {
    /// Takes an address; port 0 is any that is free.
    ///
    /// # Errors
    /// When somebody has it.
    pub fn bind(mut addr: SocketAddr) -> io::Result<TcpListener> {
        let bound = kernel::with(|k| {
            while addr.port() == 0 {
                addr.set_port(k.random.range(20_000, 39_999) as u16);
                if k.doors.contains_key(&addr) {
                    addr.set_port(0);
                }
            }
            take(k, addr)
        });
        let run = bound.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))?;
        Ok(TcpListener { addr, run, kept: false })
    }

    /// Takes every port of an address that nobody else has.
    ///
    /// # Errors
    /// When somebody has.
    pub fn bind_all(addr: Ipv4Addr) -> io::Result<TcpListener> {
        let addr = SocketAddr::new(addr.into(), 0);
        let run = kernel::with(|k| take(k, addr)).unwrap_or_else(|| Err(io::ErrorKind::Other.into()))?;
        Ok(TcpListener { addr, run, kept: false })
    }
}

fn take(k: &mut Kernel, addr: SocketAddr) -> io::Result<u64> {
    if k.doors.contains_key(&addr) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    k.doors.insert(addr, Door { proc: None, handler: None });
    Ok(k.run)
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if !self.kept {
            drop(kernel::with(|k| if k.run == self.run { k.doors.remove(&self.addr) } else { None }));
        }
    }
}

/// A listener of an event loop.
#[derive(Clone, Debug)]
pub struct Listener {
    addr: SocketAddr,
    proc: u32,
    run: u64,
}

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops accepting and frees the port.
    pub fn close(&self) {
        let door = kernel::with(|k| {
            let ours =
                k.run == self.run && k.doors.get(&self.addr).is_some_and(|door| door.proc == Some(self.proc));
            ours.then(|| k.doors.remove(&self.addr))
        });
        drop(door);
    }
}

/// A timer that was set with [`Remote::after`].
#[derive(Debug)]
pub struct Timer {
    id: u64,
    run: u64,
}

impl Timer {
    /// Takes the timer back; says whether it had not fired.
    pub fn cancel(self) -> bool {
        let job = kernel::with(|k| if k.run == self.run { k.take_task(self.id) } else { None }).flatten();
        job.is_some()
    }
}

fn stopping() -> io::Error {
    io::Error::other("the event loop is stopping")
}

/// What src asks of it, as the poller's.
#[allow(clippy::missing_errors_doc, missing_docs, reason = "they are the poller's")]
impl Remote {
    fn with<R>(&self, what: impl FnOnce(&mut Kernel) -> io::Result<R>) -> io::Result<R> {
        kernel::with(|k| {
            if k.run != self.run || k.proc(self.proc).stopping {
                return Err(stopping());
            }
            what(k)
        })
        .unwrap_or_else(|| Err(stopping()))
    }

    pub fn is_stopping(&self) -> bool {
        self.with(|_| Ok(())).is_err()
    }

    pub fn serve(&self, mut listener: TcpListener, handler: impl IntoHandler) -> io::Result<Listener> {
        let handler: Arc<dyn Callbacks> = handler.into_handler();
        self.with(|k| {
            k.doors.insert(listener.addr, Door { proc: Some(self.proc), handler: Some(handler) });
            Ok(())
        })?;
        listener.kept = true;
        Ok(Listener { addr: listener.addr, proc: self.proc, run: self.run })
    }

    pub fn dial(
        &self,
        targets: impl Into<Targets>,
        timeout: Duration,
        handler: impl IntoHandler,
    ) -> io::Result<Handle> {
        self.with(|_| Ok(()))?;
        let mut targets = targets.into().0;
        let addr = targets.pop_front().ok_or(io::ErrorKind::InvalidInput)?;
        let handler: Arc<dyn Callbacks> = handler.into_handler();
        let mut prepare = Prepare::new(Some(addr));
        let context = handler
            .prepare(&mut prepare)
            .map_err(|reject| io::Error::new(io::ErrorKind::PermissionDenied, reject.0))?;
        let mut body = Body::new(handler, context, Phase::Dialing, &prepare);
        self.with(|k| {
            let local = k.port_of(self.proc);
            body.dial_until = k.now + timeout.as_nanos() as u64;
            body.connect_at = k.now + timeout.as_nanos() as u64 / (targets.len() as u64 + 1);
            body.targets = targets;
            let id = k.enter(self.proc, body, Some(addr), Some(local));
            k.trace.note(k.now, "dial", u64::from(id), u64::from(addr.port()));
            let at = k.soon();
            k.push(at, What::Syn(id));
            // Its first turn arms the limit.
            k.notify(id, News::NONE);
            Ok(Handle { id, run: self.run })
        })
    }

    pub fn dial_near(
        &self,
        _near: &Handle,
        targets: impl Into<Targets>,
        timeout: Duration,
        handler: impl IntoHandler,
    ) -> io::Result<Handle> {
        self.dial(targets, timeout, handler)
    }

    pub fn datagrams(&self, socket: UdpSocket, handler: impl DatagramHandler) -> io::Result<Datagrams> {
        self.with(|_| Ok(()))?;
        let (addr, run) = socket.keep();
        let handler: Arc<dyn DatagramHandler> = Arc::new(handler);
        let peer = self.with(|k| {
            let end = k.udp.get_mut(&addr).ok_or_else(stopping)?;
            (end.proc, end.handler) = (Some(self.proc), Some(handler));
            Ok(end.peer)
        })?;
        Ok(Datagrams::new(run, addr, peer))
    }

    pub fn after(&self, delay: Duration, task: impl FnOnce() + Send + 'static) -> io::Result<Timer> {
        self.with(|k| {
            let at = k.late(k.now + delay.as_nanos() as u64);
            let id = k.add_task(self.proc, at, true, Box::new(task));
            Ok(Timer { id, run: self.run })
        })
    }

    pub fn spawn_blocking(&self, task: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.with(|k| {
            let takes = if k.chance.one_in(64) { 8_000_000_000 } else { 20_000_000 };
            let at = k.now + k.chance.below(takes);
            k.add_task(self.proc, at, false, Box::new(task));
            Ok(())
        })
    }
}

// ---- for those who make the world

/// A new process, whose dials come from this address.
pub fn spawn(name: &'static str, ip: Ipv4Addr) -> Remote {
    let (proc, run) = kernel::with(|k| (k.spawn(name, ip), k.run)).expect("a world was begun");
    Remote { proc, run }
}

/// Stops a process as a signal does: what is left after `grace` is cut.
pub fn stop(process: &Remote, grace: Duration) {
    drop(kernel::with(|k| k.stop(process.proc, grace)));
}

/// Kills a process; `silently` when its host dies with it.
pub fn kill(process: &Remote, silently: bool) {
    drop(kernel::with(|k| k.kill(process.proc, silently)));
}

/// What a process has.
pub fn counts(process: &Remote) -> Counts {
    kernel::with(|k| k.counts(process.proc)).unwrap_or_default()
}

/// Looks at what belongs to each connection of a process, as its handler has it. The world stands still meanwhile.
pub fn contexts(process: &Remote, mut look: impl FnMut(&(dyn Any + Send))) {
    kernel::with(|k| k.contexts(process.proc).for_each(&mut look));
}

/// What a process is called.
pub fn name_of(process: &Remote) -> &'static str {
    kernel::with(|k| k.proc(process.proc).name).unwrap_or("gone")
}
