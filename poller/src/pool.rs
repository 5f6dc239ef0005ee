//! A bounded set of threads: the workers that lead the polls and stand by to take over, and those for blocking tasks.
//!
//! Idle threads wait on one channel. Threads are started when work comes and none is idle, up to a bound;
//! beyond it the work waits in the channel, which is counted and said once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::busy::Scratch;
use crate::handler::panic_text;
use crate::limits;
use crate::poll::PollShared;
use crate::worker;

/// Work for a thread of a pool.
pub(crate) enum Work {
    /// Take the lead of this poll, if it is still to be had.
    Lead(Arc<PollShared>),
    Task(Box<dyn FnOnce() + Send>),
}

/// A bounded set of threads that start on demand.
pub(crate) struct Pool {
    name: String,
    threads_max: usize,
    queue_max: usize,
    receiver: Receiver<Work>,
    state: Mutex<PoolState>,
    /// Work that found no thread free and none to start.
    starved: AtomicU64,
}

struct PoolState {
    /// `None` once the pool is closed.
    sender: Option<Sender<Work>>,
    /// Threads that wait and that no work in the channel is meant for. Invariant: idle <= threads.len() <= threads_max.
    idle: usize,
    /// Work in the channel that no thread has been found for. Invariant: idle == 0 or unclaimed == 0.
    unclaimed: usize,
    threads: Vec<JoinHandle<()>>,
}

/// The pool has as much work as it takes, or is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Pool {
    pub(crate) fn new(name: String, threads_max: usize, queue_max: usize) -> Arc<Pool> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let state =
            Mutex::new(PoolState { sender: Some(sender), idle: 0, unclaimed: 0, threads: Vec::new() });
        Arc::new(Pool { name, threads_max, queue_max, receiver, state, starved: AtomicU64::new(0) })
    }

    pub(crate) fn submit(self: &Arc<Pool>, work: Work) -> Result<(), Full> {
        let mut state = self.state.lock();
        let Some(sender) = &state.sender else { return Err(Full) };
        if state.unclaimed >= self.queue_max || sender.send(work).is_err() {
            return Err(Full);
        }
        if state.idle > 0 {
            state.idle -= 1;
            return Ok(());
        }
        if state.threads.len() < self.threads_max {
            let pool = self.clone();
            let name = format!("{}-{}", self.name, state.threads.len());
            match std::thread::Builder::new().name(name).spawn(move || pool.run()) {
                Ok(thread) => {
                    state.threads.push(thread);
                    return Ok(());
                }
                Err(error) => log::warn!(event = "limit_hit", limit = "threads"; "no thread: {error}"),
            }
        }
        state.unclaimed += 1;
        if self.starved.fetch_add(1, Ordering::Relaxed) == 0 {
            let max = self.threads_max;
            log::warn!(event = "limit_hit", limit = self.name.as_str(), max = max;
                "all {max} threads are busy: work waits for the first to be free");
        }
        Ok(())
    }

    /// The life of one thread.
    fn run(self: Arc<Pool>) {
        worker::enter();
        let mut scratch = Scratch::default();
        loop {
            // The thread was started for one piece of work, or that piece counted it out of the idle ones.
            let Ok(work) = self.receiver.recv() else { return };
            let run = || match work {
                Work::Lead(poll) => worker::lead(&poll, &mut scratch),
                Work::Task(task) => task(),
            };
            contain(run);
            let mut state = self.state.lock();
            if state.unclaimed > 0 {
                state.unclaimed -= 1;
            } else {
                state.idle += 1;
            }
        }
    }

    /// Takes no more work; what is queued is dropped or done. Waits for the threads until `deadline` (for ever
    /// without one); says how many were still busy then and go on by themselves.
    pub(crate) fn close(&self, deadline: Option<Instant>) -> usize {
        let threads = {
            let mut state = self.state.lock();
            state.sender = None;
            std::mem::take(&mut state.threads)
        };
        // Threads with nothing to do end at once, but not in no time.
        let deadline = deadline.map(|at| at.max(Instant::now() + Duration::from_millis(limits::JOIN_MS)));
        let mut left = 0;
        for thread in threads {
            while deadline.is_some_and(|deadline| Instant::now() < deadline) && !thread.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if deadline.is_some() && !thread.is_finished() {
                left += 1;
                continue;
            }
            if thread.join().is_err() {
                log::error!(event = "panic"; "a worker thread had panicked");
            }
        }
        left
    }
}

/// Callbacks contain their own panics; what arrives here is an invariant of this crate that does not hold.
pub(crate) fn contain(run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        log::error!(event = "panic"; "a worker thread panicked: {}", panic_text(panic.as_ref()));
    }
}
