//! An event loop as its users see it: what can be asked of it from anywhere.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use crate::adopt;
use crate::detach::Detached;
use crate::dialer::{self, DialOptions, Targets};
use crate::handle::Handle;
use crate::handler::Handler;
use crate::insight::{PollStats, WorkerStats};
use crate::job::Job;
use crate::limits;
use crate::listener::{Listener, ListenerShared};
use crate::live::Live;
use crate::monitor::Monitor;
use crate::options::ListenOptions;
use crate::poll::PollShared;
use crate::pool::{Pool, Work};
use crate::socket::{DatagramSocket, Listen, Registered, check_datagrams, check_listener};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::timer::{self, Key};
use crate::udp::{DatagramHandler, Datagrams, UdpShared};

/// What all parts of an event loop share.
pub(crate) struct Runtime {
    pub(crate) polls: Vec<Arc<PollShared>>,
    pub(crate) next: AtomicUsize,
    pub(crate) workers: Arc<Pool>,
    pub(crate) tasks: Arc<Pool>,
    pub(crate) live: Arc<Live>,
    pub(crate) registered: Arc<Registered>,
    /// Timers that are not a connection's, which wait. Invariant: at most TASK_TIMERS_MAX, but for those being refused.
    pub(crate) timers: Arc<AtomicUsize>,
    /// `None` without standby workers, and once it has ended.
    pub(crate) monitor: Mutex<Option<Monitor>>,
    pub(crate) stopping: AtomicBool,
}

/// An event loop as its users see it: cheap to clone, and kept by handlers.
#[derive(Clone)]
pub struct Remote {
    pub(crate) runtime: Arc<Runtime>,
}

/// A handler by value, or one that is shared already.
pub trait IntoHandler {
    /// The handler itself.
    type Handler: Handler;

    /// The handler, shared from now on.
    fn into_handler(self) -> Arc<Self::Handler>;
}

impl<H: Handler> IntoHandler for H {
    type Handler = H;

    fn into_handler(self) -> Arc<H> {
        Arc::new(self)
    }
}

impl<H: Handler> IntoHandler for Arc<H> {
    type Handler = H;

    fn into_handler(self) -> Arc<H> {
        self
    }
}

/// A timer that was set with [`Remote::after`]. Dropping it does not take it back.
pub struct Timer {
    poll: Arc<PollShared>,
    key: Key,
}

impl Timer {
    /// Takes the timer back; says whether it had not fired.
    pub fn cancel(self) -> bool {
        self.poll.disarm(self.key)
    }
}

/// One of the timers that wait for no connection, over all polls.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// # Errors
    /// When [`TASK_TIMERS_MAX`](limits::TASK_TIMERS_MAX) wait already.
    fn new(timers: &Arc<AtomicUsize>) -> io::Result<Waiting> {
        let waiting = timers.fetch_add(1, Ordering::Relaxed);
        let entered = Waiting(timers.clone());
        match waiting < limits::TASK_TIMERS_MAX {
            true => Ok(entered),
            false => Err(io::Error::other(format!("{} timers wait already", limits::TASK_TIMERS_MAX))),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn stopping() -> io::Error {
    io::Error::other("the event loop is stopping")
}

impl Remote {
    fn next_poll(&self) -> &Arc<PollShared> {
        let turn = self.runtime.next.fetch_add(1, Ordering::Relaxed);
        &self.runtime.polls[turn % self.runtime.polls.len()]
    }

    /// The poll of a connection of this event loop.
    fn poll_of<'a>(&self, near: &'a Handle) -> io::Result<&'a Arc<PollShared>> {
        let poll = near.shared().poll();
        if Arc::ptr_eq(&poll.live, &self.runtime.live) {
            return Ok(poll);
        }
        let what = "`near` is a connection of another event loop: dial from that one, or leave `near` out";
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    fn check_running(&self) -> io::Result<()> {
        match self.runtime.stopping.load(Ordering::Acquire) {
            true => Err(stopping()),
            false => Ok(()),
        }
    }

    /// Serves what connects to `listener`: a `TcpListener`, a `UnixListener`, or an `OwnedFd` that is one of them.
    ///
    /// The handler is given by value, or as an `Arc` when others share it.
    ///
    /// # Errors
    /// When the descriptor is no listener (it is closed then), this event loop has it already, its options cannot be
    /// set, or the event loop is stopping.
    ///
    /// # Examples
    /// ```
    /// # use poller::{Connection, EventLoop, Handler, Prepare, Reject};
    /// # struct Nothing;
    /// # impl Handler for Nothing {
    /// #     type Context = ();
    /// #     fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> { Ok(()) }
    /// #     fn on_request(&self, _: &mut (), _: &mut Connection) -> poller::Result { Ok(()) }
    /// # }
    /// # let event_loop = EventLoop::builder().polls(1).build()?;
    /// let handler = std::sync::Arc::new(Nothing);
    /// let tcp = event_loop.serve(std::net::TcpListener::bind("127.0.0.1:0")?, handler.clone())?;
    /// println!("port {}", tcp.local_addr().port());
    /// # let path = std::env::temp_dir().join(format!("poller-serve-{}", std::process::id()));
    /// let unix = event_loop.serve(std::os::unix::net::UnixListener::bind(&path)?, handler)?;
    /// println!("path {:?}", unix.local_addr().as_pathname());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "Serve")]
    pub fn serve<L: Listen>(&self, listener: L, handler: impl IntoHandler) -> io::Result<Listener<L::Addr>> {
        self.serve_with(listener, ListenOptions::new(), handler)
    }

    /// As [`serve`](Remote::serve), with a say in how connections are accepted and where they go.
    ///
    /// # Errors
    /// As [`serve`](Remote::serve), and for options of zero.
    pub fn serve_with<L: Listen>(
        &self,
        listener: L,
        options: ListenOptions,
        handler: impl IntoHandler,
    ) -> io::Result<Listener<L::Addr>> {
        self.check_running()?;
        options.check()?;
        let (socket, address, addr) = check_listener(listener)?;
        let registration = self.runtime.registered.enter(&socket, "listener")?;
        // The listener lives on one poll, the next one's on the next.
        let mut polls = self.runtime.polls.clone();
        let turn = self.runtime.next.fetch_add(1, Ordering::Relaxed);
        polls.rotate_left(turn % self.runtime.polls.len());
        let callbacks = handler.into_handler();
        let shared =
            ListenerShared::new((socket, registration), address, L::ADOPTED, &options, polls, callbacks)?;
        shared.poll().push(Job::Listen(shared.clone()));
        Ok(Listener { shared, addr })
    }

    /// Connects to an address, to the first of several that works, or to the path of a Unix socket. The handle is there
    /// at once; `on_connect` or `on_close` says how it went, the latter with `connected: false` and the errno that the
    /// last address came to, or [`Reason::Timeout`](crate::Reason::Timeout) after `timeout`.
    ///
    /// Several addresses share the timeout: each gets an equal part of what is left when its turn comes, and
    /// `on_prepare` runs once, before the first.
    ///
    /// # Errors
    /// When `timeout` is zero, there is no address, no socket to be had, too many connections are open, `on_prepare` refuses
    /// (`PermissionDenied`), or the event loop is stopping.
    #[doc(alias = "DialConnection")]
    pub fn dial(
        &self,
        targets: impl Into<Targets>,
        timeout: Duration,
        handler: impl IntoHandler,
    ) -> io::Result<Handle> {
        self.dial_with(targets, DialOptions::new(timeout), handler)
    }

    /// As [`dial`](Remote::dial), on the poll of `near`: bytes that go from one to the other then cross no thread.
    ///
    /// # Errors
    /// As [`dial`](Remote::dial), and `InvalidInput` when `near` is a connection of another event loop.
    pub fn dial_near(
        &self,
        near: &Handle,
        targets: impl Into<Targets>,
        timeout: Duration,
        handler: impl IntoHandler,
    ) -> io::Result<Handle> {
        self.dial_with(targets, DialOptions::new(timeout).near(near), handler)
    }

    /// As [`dial`](Remote::dial), with a say in where it lives, where it comes from and the options of its sockets.
    ///
    /// # Errors
    /// As [`dial_near`](Remote::dial_near).
    pub fn dial_with(
        &self,
        targets: impl Into<Targets>,
        options: DialOptions,
        handler: impl IntoHandler,
    ) -> io::Result<Handle> {
        self.check_running()?;
        let poll = match &options.near {
            None => self.next_poll(),
            Some(near) => self.poll_of(near)?,
        };
        let poll = poll.clone();
        dialer::dial(&poll, targets.into(), options, &handler.into_handler())
    }

    /// Takes a connection that is there already: a `TcpStream`, a `UnixStream`, an `OwnedFd` that is one of them, or what
    /// another event loop gave out ([`Connection::detach`](crate::Connection::detach)). It passes the same life cycle as an
    /// accepted one. The polls get those that are adopted in turn.
    ///
    /// Bytes of a [`Detached`] come first: its `input` is in the connection's input before
    /// [`on_connect`](Handler::on_connect) and makes a request, and its `unsent` leaves before what the handler writes. Where
    /// `on_prepare` asks for TLS, the input is the beginning of the peer's records, and `unsent` leaves as it is: so a
    /// connection goes over from plain text to TLS. Limits, the timer and half-close do not come along.
    ///
    /// # Errors
    /// When the descriptor is no connected stream socket (it is closed then), this event loop has adopted its socket already
    /// (`AlreadyExists`), too many connections are open, `on_prepare` refuses (`PermissionDenied`), or the event loop is
    /// stopping. One that the peer has reset, or that both sides have ended, is taken: what the peer had sent before is handed
    /// over, and then it closes.
    ///
    /// # Examples
    /// ```
    /// # use poller::{Connection, EventLoop, Handler, Prepare, Reject};
    /// # struct Greeter;
    /// # impl Handler for Greeter {
    /// #     type Context = ();
    /// #     fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> { Ok(()) }
    /// #     fn on_connect(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
    /// #         conn.output().write(b"hello");
    /// #         Ok(())
    /// #     }
    /// #     fn on_request(&self, _: &mut (), _: &mut Connection) -> poller::Result { Ok(()) }
    /// # }
    /// use std::io::Read;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let event_loop = EventLoop::new()?;
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// event_loop.adopt(ours, Greeter)?;
    /// let mut greeting = [0; 5];
    /// theirs.read_exact(&mut greeting)?;
    /// assert_eq!(&greeting, b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "NewFDConnection")]
    pub fn adopt(&self, socket: impl Into<Detached>, handler: impl IntoHandler) -> io::Result<Handle> {
        self.check_running()?;
        let registered = &self.runtime.registered;
        adopt::adopt(self.next_poll(), socket.into(), &handler.into_handler(), registered)
    }

    /// Receives what comes to a UDP socket, connected or not: a `UdpSocket`, or an `OwnedFd` that is one.
    ///
    /// # Errors
    /// When the descriptor is no UDP socket (it is closed then), this event loop has it already, its options cannot be
    /// set, or the event loop is stopping.
    pub fn datagrams(
        &self,
        socket: impl Into<DatagramSocket>,
        handler: impl DatagramHandler,
    ) -> io::Result<Datagrams> {
        self.check_running()?;
        let (socket, local_addr) = check_datagrams(socket.into())?;
        let registration = self.runtime.registered.enter(&SockRef::from(&socket), "UDP socket")?;
        let poll = self.next_poll();
        let shared = UdpShared::new(socket, local_addr, registration, poll.clone(), Box::new(handler))?;
        poll.push(Job::Datagram(shared.clone()));
        Ok(Datagrams(shared))
    }

    /// Runs `task` after `delay` on a worker thread, as short as a handler. It is dropped when the event loop stops
    /// first.
    ///
    /// # Errors
    /// When [`TASK_TIMERS_MAX`](limits::TASK_TIMERS_MAX) timers wait already, or the event loop is stopping.
    pub fn after(&self, delay: Duration, task: impl FnOnce() + Send + 'static) -> io::Result<Timer> {
        self.check_running()?;
        let waiting = Waiting::new(&self.runtime.timers)?;
        let poll = self.next_poll().clone();
        // It has ceased to wait when it runs, or is dropped without.
        let task = move || {
            drop(waiting);
            task();
        };
        match poll.arm_task(timer::later(delay), Box::new(task)) {
            Some(key) => Ok(Timer { poll, key }),
            None => Err(stopping()),
        }
    }

    /// Runs `task`, which may block, on a thread apart from the polls.
    ///
    /// # Errors
    /// When [`TASK_QUEUE_MAX`](limits::TASK_QUEUE_MAX) tasks wait already, or the event loop is stopping.
    pub fn spawn_blocking(&self, task: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.check_running()?;
        self.runtime
            .tasks
            .submit(Work::Task(Box::new(task)))
            .map_err(|_| io::Error::other(format!("{} blocking tasks wait already", limits::TASK_QUEUE_MAX)))
    }

    /// Connections that live now, accepted and dialed.
    pub fn connections(&self) -> usize {
        self.runtime.live.count()
    }

    /// A look at each poll: how busy it is, and whether callbacks block.
    ///
    /// # Examples
    /// ```
    /// let event_loop = poller::EventLoop::new()?;
    /// let longest = event_loop.polls().map(|poll| poll.longest_turn).max();
    /// assert!(longest.is_some());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn polls(&self) -> impl ExactSizeIterator<Item = PollStats> {
        self.runtime.polls.iter().map(|poll| poll.insight.stats(poll.lead.runs()))
    }

    /// A look at the worker threads: how many stand by to take over from callbacks that block.
    pub fn workers(&self) -> WorkerStats {
        self.runtime.workers.stats()
    }

    /// Whether the event loop has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.runtime.stopping.load(Ordering::Acquire)
    }
}
