//! An event loop as its users see it: what can be asked of it from anywhere.

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::dialer;
use crate::handle::{Handle, Service};
use crate::handler::Handler;
use crate::job::Job;
use crate::limits;
use crate::listener::{Listener, ListenerShared};
use crate::live::Live;
use crate::poll::PollShared;
use crate::pool::{Pool, Work};
use crate::timer::{self, Key};
use crate::udp::{DatagramHandler, Datagrams, UdpShared};

/// What all parts of an event loop share.
pub(crate) struct Runtime {
    pub(crate) polls: Vec<Arc<PollShared>>,
    pub(crate) next: AtomicUsize,
    pub(crate) workers: Arc<Pool>,
    pub(crate) tasks: Arc<Pool>,
    pub(crate) live: Arc<Live>,
    pub(crate) stopping: AtomicBool,
}

/// An event loop as its users see it: cheap to clone, and kept by handlers.
#[derive(Clone)]
pub struct Remote {
    pub(crate) runtime: Arc<Runtime>,
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
        let handler: Arc<H> = handler.into();
        let serve = |poll: &Arc<PollShared>| Service { poll: poll.clone(), callbacks: handler.clone() };
        let mut services: Vec<_> = self.runtime.polls.iter().map(|poll| Arc::new(serve(poll))).collect();
        let turn = self.runtime.next.fetch_add(1, Ordering::Relaxed);
        services.rotate_left(turn % self.runtime.polls.len());
        let shared = ListenerShared::new(listener, services)?;
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
        dialer::dial(near.shared().poll(), addr, timeout, &handler.into())
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
