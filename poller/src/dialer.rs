//! Dialed connections: the same life cycle as accepted ones, with a connect limit in front.
//!
//! ```text
//!   on_prepare ──▶ first address ──▶ connected ──▶ on_connect, once, with the address that worked
//!                     │   ▲
//!        failed, or its share of the time passed
//!                     ▼   │ as long as there is one
//!                  next address              none left ──▶ on_close, with what the last one came to
//! ```
//! Each address gets an equal share of the time that is left. Every attempt has a socket and a token of its own, so no
//! late event of one is taken for another's.

use crate::sync::Mutex;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::close::Fault;
use crate::handle::{Handle, Shared};
use crate::handler::{Handler, Prepare, caught, prepare};
use crate::job::Job;
use crate::kept::Phase;
use crate::poll::PollShared;
use crate::service::{Entry, Service};
use crate::state::{Closer, News};
use crate::tcp;
use crate::timer;
use crate::watch;

/// What to dial: an address, several that are tried in turn, or the path of a Unix socket.
#[derive(Clone, Debug)]
pub struct Targets(VecDeque<Target>);

#[derive(Clone, Debug)]
enum Target {
    Ip(SocketAddr),
    Path(PathBuf),
}

impl Target {
    fn ip(&self) -> Option<SocketAddr> {
        match self {
            Target::Ip(addr) => Some(*addr),
            Target::Path(_) => None,
        }
    }
}

impl From<SocketAddr> for Targets {
    fn from(addr: SocketAddr) -> Targets {
        Targets([Target::Ip(addr)].into())
    }
}

impl From<&[SocketAddr]> for Targets {
    fn from(addrs: &[SocketAddr]) -> Targets {
        Targets(addrs.iter().copied().map(Target::Ip).collect())
    }
}

impl From<Vec<SocketAddr>> for Targets {
    fn from(addrs: Vec<SocketAddr>) -> Targets {
        addrs.as_slice().into()
    }
}

impl From<&Path> for Targets {
    fn from(path: &Path) -> Targets {
        Targets([Target::Path(path.to_owned())].into())
    }
}

type Configure = Arc<dyn Fn(&Socket) -> io::Result<()> + Send + Sync>;

/// How to dial; see [`dial_with`](crate::Remote::dial_with).
#[derive(Clone)]
pub struct DialOptions {
    pub(crate) timeout: Duration,
    pub(crate) near: Option<Handle>,
    bind: Option<SocketAddr>,
    configure: Option<Configure>,
}

impl DialOptions {
    /// Gives up after `timeout`, which the addresses share.
    pub fn new(timeout: Duration) -> DialOptions {
        DialOptions { timeout, near: None, bind: None, configure: None }
    }

    /// On the poll of `near`: bytes that go from one to the other then cross no thread.
    pub fn near(mut self, near: &Handle) -> DialOptions {
        self.near = Some(near.clone());
        self
    }

    /// From this address (port 0 for any port). A target of another family fails then.
    pub fn bind(mut self, local: SocketAddr) -> DialOptions {
        self.bind = Some(local);
        self
    }

    /// Sets options on the socket of each attempt before it connects. What
    /// [`on_prepare`](crate::Handler::on_prepare) sets holds for the first address alone. An error or a panic in it fails
    /// that attempt.
    pub fn configure(
        mut self,
        configure: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> DialOptions {
        self.configure = Some(Arc::new(configure));
        self
    }
}

impl std::fmt::Debug for DialOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (timeout, bind) = (self.timeout, self.bind);
        f.debug_struct("DialOptions").field("timeout", &timeout).field("bind", &bind).finish_non_exhaustive()
    }
}

/// A dial that has addresses left. Whoever makes the connection, and then its owner, goes from one to the next; anybody may
/// ask who the peer is, also the user's `configure`, so no lock is held while that runs.
pub(crate) struct Dialing {
    /// The connection's number.
    id: u64,
    targets: Mutex<VecDeque<Target>>,
    until: Instant,
    bind: Option<SocketAddr>,
    configure: Option<Configure>,
    /// The address that is tried, or that worked.
    peer: Mutex<Option<SocketAddr>>,
}

impl Dialing {
    pub(crate) fn is_over(&self) -> bool {
        self.targets.lock().is_empty()
    }

    /// The address that is tried, or that worked.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        *self.peer.lock()
    }

    /// When the attempt that has begun has used up its share of the time.
    pub(crate) fn share(&self) -> Instant {
        let now = Instant::now();
        let attempts = u32::try_from(self.targets.lock().len() + 1).unwrap_or(u32::MAX);
        now + self.until.saturating_duration_since(now) / attempts
    }

    /// Takes the next target for which there is a socket.
    fn open(&self) -> io::Result<(Socket, Target)> {
        loop {
            let target = self.targets.lock().pop_front();
            let Some(target) = target else {
                let text = "there is no address to dial: give at least one";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            };
            match self.socket(&target) {
                Err(_) if !self.is_over() => {}
                opened => return opened.map(|socket| (socket, target)),
            }
        }
    }

    fn socket(&self, target: &Target) -> io::Result<Socket> {
        *self.peer.lock() = target.ip();
        let kind = Type::STREAM.nonblocking();
        match target {
            Target::Ip(addr) => {
                let socket = Socket::new(Domain::for_address(*addr), kind, None)?;
                tcp::configure(&socket)?;
                Ok(socket)
            }
            Target::Path(_) => Socket::new(Domain::UNIX, kind, None),
        }
    }

    /// Begins to connect; whether it is connected already.
    fn connect(&self, socket: &Socket, target: &Target) -> io::Result<bool> {
        self.configure(socket)?;
        if let Some(local) = self.bind {
            socket.bind(&local.into())?;
        }
        let addr = match target {
            Target::Ip(addr) => SockAddr::from(*addr),
            Target::Path(path) => SockAddr::unix(path)?,
        };
        match socket.connect(&addr) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn configure(&self, socket: &Socket) -> io::Result<()> {
        let Some(configure) = &self.configure else { return Ok(()) };
        caught(|| configure(socket)).unwrap_or_else(|text| {
            log::error!(event = "panic", conn = self.id, callback = "configure"; "a callback panicked: {text}");
            Err(io::Error::other(format!("the callback `configure` panicked: {text}")))
        })
    }

    /// Begins with the next target that does not fail at once; the error is that of the last.
    pub(crate) fn next(&self) -> io::Result<(Socket, bool)> {
        loop {
            let (socket, target) = self.open()?;
            match self.connect(&socket, &target) {
                Err(_) if !self.is_over() => {}
                begun => return begun.map(|connected| (socket, connected)),
            }
        }
    }
}

/// Starts to connect. What goes wrong after `on_prepare` reaches `on_close`, at once or later.
pub(crate) fn dial<H: Handler>(
    poll: &Arc<PollShared>,
    targets: Targets,
    options: DialOptions,
    handler: &Arc<H>,
) -> io::Result<Handle> {
    watch::nanos(Some(options.timeout))?;
    let DialOptions { timeout, bind, configure, .. } = options;
    let entry = Entry::new(poll)?;
    let (id, until) = (entry.id, timer::later(timeout));
    let targets = Mutex::new(targets.0);
    let dialing = Dialing { id, targets, until, bind, configure, peer: Mutex::new(None) };
    let (socket, target) = dialing.open()?;
    let mut conn = Prepare::new(&socket, dialing.peer());
    let context = prepare(&**handler, id, &mut conn)
        .map_err(|reject| io::Error::new(io::ErrorKind::PermissionDenied, reject.0))?;
    let wishes = conn.wishes;
    let (socket, begun) = match dialing.connect(&socket, &target) {
        Err(_) if !dialing.is_over() => match dialing.next() {
            Ok((socket, connected)) => (socket, Ok(connected)),
            Err(error) => (socket, Err(error)),
        },
        begun => (socket, begun),
    };
    let (share, more) = (dialing.share(), !dialing.is_over());
    // While there are more, who the peer is stands beside them.
    let peer = dialing.peer().filter(|_| !more);
    let (callbacks, hint) = (handler.clone(), poll.dialed.hint::<H>());
    let dialing = more.then(|| Box::new(dialing));
    let service = Arc::new(Service {
        poll: poll.clone(),
        callbacks,
        hint,
        quota: None,
        local: None,
        dialing,
        adopted: None,
    });
    let shared = Shared::create(id, (socket, peer, wishes), service, context, Phase::Dialing);
    entry.stay();
    match begun {
        // Some systems connect at once on loopback: the first turn then finds no error and goes on.
        Ok(true) => {
            shared.state.note_as_owner(News::WRITABLE);
        }
        Ok(false) => {
            shared.core.lock().busy().deadlines.connect = poll.clock.at(share);
        }
        Err(error) => {
            shared.core.lock().busy().details.fault = Some(Fault::from(&error));
            shared.state.close_as_owner(Closer::Error, true);
        }
    }
    poll.push(Job::Open(shared.clone()));
    Ok(Handle::new(shared))
}

#[cfg(all(test, not(any(poller_loom, poller_shuttle))))]
mod tests {
    use std::net::TcpListener;

    use crossbeam_channel::{Sender, bounded};

    use super::*;
    use crate::{Connection, EventLoop, Reject};

    struct Dialer(Sender<()>);

    impl Handler for Dialer {
        type Context = ();

        fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
            Ok(())
        }

        fn on_connect(&self, _: &mut (), _: &mut Connection<'_>) -> crate::Result {
            self.0.send(())?;
            Ok(())
        }

        fn on_request(&self, _: &mut (), _: &mut Connection<'_>) -> crate::Result {
            Ok(())
        }
    }

    // proves L-27 of a dialed connection: its dial leaves nothing behind while its limit has not passed
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no sockets")]
    fn a_dial_that_is_over_keeps_nothing() {
        let event_loop = EventLoop::new().expect("an event loop");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("its address");
        let (connected, told) = bounded(1);
        let handle = event_loop.dial(addr, Duration::from_secs(3600), Dialer(connected)).expect("begun");
        told.recv().expect("on_connect ran");
        // The lock is free when that turn is over.
        let core = handle.shared().core.lock();
        assert!(core.busy.is_none(), "it is as small as an accepted one");
        drop(core);
        let service = size_of::<Service>();
        assert!(service <= 128, "each dial has a service of its own, of {service} bytes");
    }
}
