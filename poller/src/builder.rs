//! How an event loop is started: its settings, and the threads that must be there before it is handed out.

use crate::sync::atomic::{AtomicBool, AtomicUsize};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::event_loop::EventLoop;
use crate::limits;
use crate::live::Live;
use crate::poll::PollShared;
use crate::pool::{Pool, Work};
use crate::remote::{Remote, Runtime};

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
        let registered = Arc::default();
        let runtime =
            Runtime { polls, next, workers, tasks, live, registered, stopping: AtomicBool::new(false) };
        Ok(EventLoop { remote: Remote { runtime: Arc::new(runtime) } })
    }
}
