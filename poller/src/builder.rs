//! How an event loop is started: its settings, and the threads that must be there before it is handed out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::event_loop::EventLoop;
use crate::job::Job;
use crate::limits;
use crate::live::Live;
use crate::monitor::{Monitor, Watch};
use crate::options::positive;
use crate::poll::PollShared;
use crate::pool::{Pool, Work};
use crate::remote::{Remote, Runtime};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize};

/// Settings of an event loop.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    polls: usize,
    standby_max: usize,
    tasks_max: usize,
    connections_max: usize,
    close_stall: Duration,
    wait_limit: Duration,
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
            wait_limit: Duration::from_millis(limits::WAIT_MS),
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
    #[doc(alias = "SetNumLoops")]
    pub fn polls(mut self, polls: usize) -> Builder {
        self.polls = polls;
        self
    }

    /// Threads beyond one per poll that take over while handlers block. With none a handler that blocks holds up the
    /// other connections of its poll.
    #[doc(alias = "SetRunner")]
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

    /// How long [`Connection::wait_for`](crate::Connection::wait_for) waits where no limit of the connection bounds it.
    pub fn wait_limit(mut self, limit: Duration) -> Builder {
        self.wait_limit = limit;
        self
    }

    /// Starts the event loop. Every poll has its thread when this returns.
    ///
    /// # Errors
    /// When a setting is zero that must not be (the error says what to do instead) or the name cannot be a thread's,
    /// and when the system gives no selector or thread; nothing is left behind then.
    pub fn build(self) -> io::Result<EventLoop> {
        self.check()?;
        let workers = Pool::new(self.name.clone(), self.polls.saturating_add(self.standby_max), usize::MAX);
        let tasks = Pool::new(format!("{}-task", self.name), self.tasks_max, limits::TASK_QUEUE_MAX);
        let live = Live::new(self.connections_max, self.standby_max, self.wait_limit);
        let watch = Arc::<Watch>::default();
        let polls = (0..self.polls)
            .map(|_| PollShared::new(workers.clone(), live.clone(), watch.clone(), self.close_stall))
            .collect::<io::Result<Vec<_>>>()?;
        let started = polls.iter().try_for_each(|poll| workers.start_for(Work::Lead(poll.clone())));
        let started =
            started.map_err(|error| (format!("a poll has no thread, of {} wanted", self.polls), error));
        let monitor = started.and_then(|()| {
            let monitor = self.start_monitor(watch, &workers, &polls);
            monitor.map_err(|error| ("the monitor has no thread".into(), error))
        });
        let monitor = match monitor {
            Ok(monitor) => Mutex::new(monitor),
            Err((what, error)) => {
                polls.iter().for_each(|poll| poll.push(Job::Stop));
                workers.close(None);
                return Err(io::Error::new(error.kind(), format!("{what}: {error}")));
            }
        };
        let next = AtomicUsize::new(0);
        let registered = Arc::default();
        let timers = Arc::new(AtomicUsize::new(0));
        let stopping = AtomicBool::new(false);
        let runtime = Runtime { polls, next, workers, tasks, live, registered, timers, monitor, stopping };
        Ok(EventLoop { remote: Remote { runtime: Arc::new(runtime) } })
    }

    /// Whoever finds blocked callbacks, and the first worker that stands by for it.
    fn start_monitor(
        &self,
        watch: Arc<Watch>,
        workers: &Arc<Pool>,
        polls: &[Arc<PollShared>],
    ) -> io::Result<Option<Monitor>> {
        // Loom would run it for ever: it takes ticks for steps. What it calls is checked with the hand-over.
        if self.standby_max == 0 || cfg!(poller_loom) {
            return Ok(None);
        }
        workers.ensure_standby();
        Monitor::start(format!("{}-monitor", self.name), watch, polls.to_vec()).map(Some)
    }

    fn check(&self) -> io::Result<()> {
        positive(self.polls, "polls(0) watches nothing: leave it out for one per core, or say 1")?;
        positive(self.tasks_max, "tasks_max(0) runs no task: say 1; a thread starts with the first task")?;
        positive(self.connections_max, "connections_max(0) lets nobody in: leave it out, or do not serve")?;
        let stall = self.close_stall.as_nanos().min(1) as usize;
        positive(stall, "close_stall(0) sends nothing that waits: to close so, abort the connection")?;
        let wait = self.wait_limit.as_nanos().min(1) as usize;
        positive(wait, "wait_limit(0) lets no handler wait: give it time, or do not call `wait_for`")?;
        match self.name.contains('\0') {
            true => Err(io::Error::new(io::ErrorKind::InvalidInput, "a thread's name has no zero byte")),
            false => Ok(()),
        }
    }
}
