//! The whole runtime: polls, workers, and how it is started, used and stopped.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::dialer;
use crate::handle::Handle;
use crate::handler::Handler;
use crate::job::Job;
use crate::limits;
use crate::listener::{Listener, ListenerShared};
use crate::live::Live;
use crate::poll::PollShared;
use crate::pool::{Pool, Work};
use crate::timer::{self, Key};
use crate::udp::{DatagramHandler, Datagrams, UdpShared};
use crate::worker;

/// Settings of an event loop.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    polls: usize,
    standby_max: usize,
    tasks_max: usize,
    connections_max: usize,
    close_stall: Duration,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            name: "poller".into(),
            polls: std::thread::available_parallelism().map_or(1, |n| n.get()),
            standby_max: limits::STANDBY_MAX,
            tasks_max: limits::TASKS_MAX,
            connections_max: limits::CONNECTIONS_MAX,
            close_stall: Duration::from_millis(limits::CLOSE_STALL_MS),
        }
    }
}

impl Builder {
    /// Names the threads.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = name.into();
        self
    }

    /// Selectors, each led by one thread at a time. By default one per core that the process may use.
    pub fn polls(mut self, polls: usize) -> Builder {
        self.polls = polls;
        self
    }

    /// Threads beyond one per poll that take over while handlers block.
    pub fn standby_max(mut self, threads: usize) -> Builder {
        self.standby_max = threads;
        self
    }

    /// Threads for [`Remote::spawn_blocking`].
    pub fn tasks_max(mut self, threads: usize) -> Builder {
        self.tasks_max = threads;
        self
    }

    /// Connections, accepted and dialed together. One more is closed at once, or not dialed, and accepting rests a while.
    pub fn connections_max(mut self, connections: usize) -> Builder {
        self.connections_max = connections;
        self
    }

    /// How long a close waits for unsent output to leave while nothing of it moves.
    pub fn close_stall(mut self, limit: Duration) -> Builder {
        self.close_stall = limit;
        self
    }

    /// Starts the event loop.
    ///
    /// # Errors
    /// When a number is zero, or the system gives no selector or thread.
    pub fn build(self) -> io::Result<EventLoop> {
        if self.polls == 0 || self.tasks_max == 0 || self.connections_max == 0 {
            let what = "an event loop needs at least one poll, one task thread and one connection";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let workers = Pool::new(self.name.clone(), self.polls + self.standby_max, usize::MAX);
        let tasks = Pool::new(format!("{}-task", self.name), self.tasks_max, limits::TASK_QUEUE_MAX);
        let live = Live::new(self.connections_max);
        let polls = (0..self.polls)
            .map(|_| PollShared::new(workers.clone(), live.clone(), self.close_stall))
            .collect::<io::Result<Vec<_>>>()?;
        for poll in &polls {
            if workers.submit(Work::Lead(poll.clone())).is_err() {
                return Err(io::Error::other("no worker thread"));
            }
        }
        let next = AtomicUsize::new(0);
        let runtime = Runtime { polls, next, workers, tasks, live, stopping: AtomicBool::new(false) };
        Ok(EventLoop { remote: Remote { runtime: Arc::new(runtime) } })
    }
}

struct Runtime {
    polls: Vec<Arc<PollShared>>,
    next: AtomicUsize,
    workers: Arc<Pool>,
    tasks: Arc<Pool>,
    live: Arc<Live>,
    stopping: AtomicBool,
}

/// A running event loop. Dropping it stops it at once; [`shutdown`](EventLoop::shutdown) stops it gracefully.
///
/// Everything but the stopping is done through [`Remote`], to which this dereferences.
pub struct EventLoop {
    remote: Remote,
}

impl std::ops::Deref for EventLoop {
    type Target = Remote;

    fn deref(&self) -> &Remote {
        &self.remote
    }
}

impl EventLoop {
    /// An event loop with the default settings.
    ///
    /// # Errors
    /// When the system gives no selector or thread.
    pub fn new() -> io::Result<EventLoop> {
        EventLoop::builder().build()
    }

    /// Settings to choose.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The side of the event loop that handlers may keep.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Stops: listeners close, every connection gets `on_shutdown`, and what is open after `grace` is cut off: its peer
    /// sees a reset, because it was in the middle of something.
    /// Returns when every worker thread has ended; says whether all connections had ended by themselves.
    ///
    /// Blocking tasks that are still running after `grace` go on by themselves and are not waited for.
    ///
    /// # Panics
    /// When a handler calls it: it would wait for itself.
    pub fn shutdown(self, grace: Duration) -> bool {
        self.stop(grace)
    }

    fn stop(&self, grace: Duration) -> bool {
        let runtime = &self.remote.runtime;
        if runtime.stopping.swap(true, Ordering::AcqRel) {
            return true;
        }
        assert!(!worker::is_worker(), "an event loop cannot be stopped from one of its own threads");
        let deadline = timer::later(grace);
        let tell = |job: fn() -> Job| runtime.polls.iter().for_each(|poll| poll.push(job()));
        tell(|| Job::Shutdown);
        let graceful = runtime.live.wait_until_none(deadline);
        tell(|| Job::Kill);
        while !(runtime.live.wait_until_none(Instant::now() + Duration::from_secs(1)) && runtime.live.close())
        {
            // Connections that were still being opened meanwhile, and handlers that block.
            log::warn!(event = "stop", conns = runtime.live.count(); "waiting for handlers to return");
            tell(|| Job::Kill);
        }
        tell(|| Job::Stop);
        runtime.workers.close(None);
        let left = runtime.tasks.close(Some(deadline));
        if left > 0 {
            log::info!(event = "stop", tasks = left; "blocking tasks were left behind");
        }
        graceful
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// An event loop as its users see it: cheap to clone, and kept by handlers.
#[derive(Clone)]
pub struct Remote {
    runtime: Arc<Runtime>,
}

/// A timer that was set with [`Remote::after`].
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

impl Remote {
    fn next_poll(&self) -> &Arc<PollShared> {
        let turn = self.runtime.next.fetch_add(1, Ordering::Relaxed);
        &self.runtime.polls[turn % self.runtime.polls.len()]
    }

    fn check_running(&self) -> io::Result<()> {
        match self.runtime.stopping.load(Ordering::Acquire) {
            true => Err(io::Error::other("the event loop is stopping")),
            false => Ok(()),
        }
    }

    /// Serves what connects to `listener`.
    ///
    /// # Errors
    /// When the listener's options cannot be set, or the event loop is stopping.
    pub fn serve<H: Handler>(
        &self,
        listener: TcpListener,
        handler: impl Into<Arc<H>>,
    ) -> io::Result<Listener> {
        self.check_running()?;
        // The listener lives on one poll, its connections go round all of them.
        let mut targets = self.runtime.polls.clone();
        let turn = self.runtime.next.fetch_add(1, Ordering::Relaxed);
        targets.rotate_left(turn % self.runtime.polls.len());
        let shared = ListenerShared::new(listener, targets, Box::new(handler.into()))?;
        shared.poll().push(Job::Listen(shared.clone()));
        Ok(Listener(shared))
    }

    /// Connects to `addr`. The handle is there at once; `on_connect` or `on_close` says how it went, the latter
    /// with `connected: false` and the errno, or [`Reason::Timeout`](crate::Reason::Timeout) after `timeout`.
    ///
    /// # Errors
    /// When there is no socket to be had, too many connections are open, `on_prepare` refuses, or the event loop is
    /// stopping.
    pub fn dial<H: Handler>(
        &self,
        addr: SocketAddr,
        timeout: Duration,
        handler: impl Into<Arc<H>>,
    ) -> io::Result<Handle> {
        self.check_running()?;
        dialer::dial(self.next_poll(), addr, timeout, &handler.into())
    }

    /// As [`dial`](Remote::dial), on the poll of `near`: bytes that go from one to the other then cross no thread.
    ///
    /// # Errors
    /// As [`dial`](Remote::dial).
    pub fn dial_near<H: Handler>(
        &self,
        near: &Handle,
        addr: SocketAddr,
        timeout: Duration,
        handler: impl Into<Arc<H>>,
    ) -> io::Result<Handle> {
        self.check_running()?;
        dialer::dial(&near.shared().poll, addr, timeout, &handler.into())
    }

    /// Receives what comes to a datagram socket.
    ///
    /// # Errors
    /// When the socket's options cannot be set, or the event loop is stopping.
    pub fn datagrams(&self, socket: UdpSocket, handler: impl DatagramHandler) -> io::Result<Datagrams> {
        self.check_running()?;
        let poll = self.next_poll();
        let shared = UdpShared::new(socket, poll.clone(), Box::new(handler))?;
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
        let poll = self.next_poll().clone();
        match poll.arm_task(timer::later(delay), Box::new(task)) {
            Some(key) => Ok(Timer { poll, key }),
            None => Err(io::Error::other(format!("{} timers wait already", limits::TASK_TIMERS_MAX))),
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

    /// Whether the event loop has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.runtime.stopping.load(Ordering::Acquire)
    }
}
