//! A bounded set of threads: the workers that lead the polls and stand by to take over, and those for blocking tasks.
//!
//! ```text
//!   submit ──▶ somebody is on the way and finds it   (queue.len() < coming)
//!          ├─▶ call a thread that waits              idle, coming:  n, m ──▶ n - 1, m + 1
//!          ├─▶ start a thread                        coming + 1
//!          └─▶ all are busy: counted, said once; whoever has done its work looks into the queue before it waits
//!
//!   thread: wait to be called ──▶ work until the queue is empty ──▶ idle + 1 ──▶ wait ...
//! ```
//! All of it is under one lock, so a look into the queue and the decision to wait are one step. A call is a number and
//! not a name: whichever thread wakes first answers it, and one that wakes without a call goes on waiting.
//!
//! The buffers for work lie with the pool and not with its threads, the last used on top: a lead that goes round among
//! threads finds them warm, and there are as many as there was work at the same time, whichever threads did it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::busy::Scratch;
use crate::handler::caught;
use crate::insight::WorkerStats;
use crate::limits;
use crate::poll::PollShared;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};
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
    /// Work that waits while no thread is on the way to it.
    queue_max: usize,
    state: Mutex<PoolState>,
    /// A thread is called, or the pool is closed.
    called: Condvar,
    /// A thread has come to its end.
    ended: Condvar,
    insight: PoolInsight,
}

/// The numbers of the state that anybody may read. Written under its lock.
#[derive(Default)]
struct PoolInsight {
    threads: AtomicUsize,
    idle: AtomicUsize,
    starved: AtomicU64,
}

impl PoolInsight {
    fn show(&self, state: &PoolState) {
        self.threads.store(state.threads.len(), Relaxed);
        self.idle.store(state.idle, Relaxed);
        self.starved.store(state.starved, Relaxed);
    }

    fn stats(&self) -> WorkerStats {
        WorkerStats {
            threads: self.threads.load(Relaxed),
            standby: self.idle.load(Relaxed),
            starved: self.starved.load(Relaxed),
        }
    }
}

#[derive(Default)]
struct PoolState {
    /// Work that no thread has taken. Invariant: queue.len() <= coming + queue_max, and with work that nobody comes for
    /// (queue.len() > coming) no thread is idle.
    queue: VecDeque<Work>,
    /// Threads that wait and were not called. Invariant: idle + coming <= threads.len() <= threads_max.
    idle: usize,
    /// Threads that were called or started and have not come.
    coming: usize,
    threads: Vec<JoinHandle<()>>,
    /// The numbers of the threads that have come to their end.
    ended: Vec<usize>,
    closed: bool,
    /// Work that found no thread free and none to start. The first of it was said.
    starved: u64,
    /// What is lent for work and is not in use. Invariant: as many as there are threads, at most.
    scratches: Vec<Scratch>,
}

/// The pool has as much work as it takes, or is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Pool {
    pub(crate) fn new(name: String, threads_max: usize, queue_max: usize) -> Arc<Pool> {
        Arc::new(Pool {
            name,
            threads_max,
            queue_max,
            state: Mutex::new(PoolState::default()),
            called: Condvar::new(),
            ended: Condvar::new(),
            insight: PoolInsight::default(),
        })
    }

    /// Gives work to a thread. What was taken is run, also when the pool closes meanwhile.
    pub(crate) fn submit(self: &Arc<Pool>, work: Work) -> Result<(), Full> {
        self.give(work, true)
    }

    /// As [`submit`](Pool::submit), but starts no thread: one is about to stand by, unless there are as many as may be.
    pub(crate) fn call(self: &Arc<Pool>, work: Work) -> Result<(), Full> {
        self.give(work, false)
    }

    /// Starts a thread if none waits for work and there may be one more.
    pub(crate) fn ensure_standby(self: &Arc<Pool>) {
        let mut state = self.state.lock();
        let wanted = state.idle == 0 && state.coming <= state.queue.len();
        if !state.closed && wanted && state.threads.len() < self.threads_max {
            self.start_or_say(&mut state);
            self.insight.show(&state);
        }
    }

    pub(crate) fn stats(&self) -> WorkerStats {
        self.insight.stats()
    }

    fn give(self: &Arc<Pool>, work: Work, may_start: bool) -> Result<(), Full> {
        let mut state = self.state.lock();
        state.invariants(self);
        if state.closed {
            return Err(Full);
        }
        if state.queue.len() < state.coming {
            state.queue.push_back(work);
        } else if state.idle > 0 {
            state.idle -= 1;
            state.coming += 1;
            state.queue.push_back(work);
            self.called.notify_one();
        } else if may_start && state.threads.len() < self.threads_max && self.start_or_say(&mut state) {
            state.queue.push_back(work);
        } else if state.threads.is_empty() || state.queue.len() - state.coming >= self.queue_max {
            return Err(Full);
        } else {
            state.queue.push_back(work);
            let starved = may_start || state.threads.len() == self.threads_max;
            state.starved += u64::from(starved);
            if starved && state.starved == 1 {
                let max = self.threads_max;
                log::warn!(event = "limit_hit", limit = self.name.as_str(), max = max;
                    "all {max} threads are busy: work waits for the first to be free");
            }
        }
        self.insight.show(&state);
        Ok(())
    }

    /// Gives work to a thread that is started for it: who gets an Ok has one thread more.
    ///
    /// # Errors
    /// When the system gives no thread. The work is dropped then.
    pub(crate) fn start_for(self: &Arc<Pool>, work: Work) -> io::Result<()> {
        let mut state = self.state.lock();
        state.invariants(self);
        self.start(&mut state)?;
        state.queue.push_back(work);
        self.insight.show(&state);
        Ok(())
    }

    /// Starts a thread, which comes to the queue by itself.
    fn start(self: &Arc<Pool>, state: &mut PoolState) -> io::Result<()> {
        let pool = self.clone();
        let number = state.threads.len();
        let name = format!("{}-{number}", self.name);
        let thread = thread::Builder::new().name(name).spawn(move || pool.run(number))?;
        state.threads.push(thread);
        state.coming += 1;
        Ok(())
    }

    fn start_or_say(self: &Arc<Pool>, state: &mut PoolState) -> bool {
        let started = self.start(state);
        if let Err(error) = &started {
            log::warn!(event = "limit_hit", limit = "threads"; "no thread: {error}");
        }
        started.is_ok()
    }

    /// The life of one thread.
    fn run(self: Arc<Pool>, number: usize) {
        worker::enter(&self);
        let mut state = self.state.lock();
        loop {
            while state.coming == 0 && !state.closed {
                self.called.wait(&mut state);
            }
            state.coming = state.coming.saturating_sub(1);
            while let Some(work) = state.queue.pop_front() {
                let mut scratch = state.scratches.pop().unwrap_or_default();
                drop(state);
                let run = || match work {
                    Work::Lead(poll) => worker::lead(&poll, &mut scratch),
                    Work::Task(task) => task(),
                };
                contain(run);
                state = self.state.lock();
                if !state.closed {
                    state.scratches.push(scratch);
                }
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            self.insight.show(&state);
        }
        state.ended.push(number);
        self.ended.notify_all();
    }

    /// Takes no more work; what was taken is done. Waits for the threads until `deadline` (for ever without one);
    /// says how many were still busy then and go on by themselves.
    pub(crate) fn close(&self, deadline: Option<Instant>) -> usize {
        // Threads with nothing to do end at once, but not in no time.
        let deadline = deadline.map(|at| at.max(Instant::now() + Duration::from_millis(limits::JOIN_MS)));
        let mut state = self.state.lock();
        state.closed = true;
        self.called.notify_all();
        while state.ended.len() < state.threads.len() {
            match deadline {
                None => self.ended.wait(&mut state),
                Some(at) if self.ended.wait_until(&mut state, at).timed_out() => break,
                Some(_) => {}
            }
        }
        let threads = std::mem::take(&mut state.threads);
        let ended = std::mem::take(&mut state.ended);
        let scratches = std::mem::take(&mut state.scratches);
        drop(state);
        // Handles keep the pool for long, and no buffers with it.
        drop(scratches);
        let left = threads.len() - ended.len();
        for (number, thread) in threads.into_iter().enumerate() {
            // One that is still busy is let go.
            if ended.contains(&number) && thread.join().is_err() {
                log::error!(event = "panic"; "a worker thread had panicked");
            }
        }
        left
    }
}

impl PoolState {
    fn invariants(&self, pool: &Pool) {
        debug_assert!(self.closed || self.idle + self.coming <= self.threads.len());
        debug_assert!(self.threads.len() <= pool.threads_max);
        debug_assert!(self.queue.len() <= self.coming || self.idle == 0);
        debug_assert!(self.closed || self.scratches.len() <= self.threads.len());
    }
}

/// Callbacks contain their own panics; what arrives here is an invariant of this crate that does not hold.
pub(crate) fn contain(run: impl FnOnce()) {
    if let Err(text) = caught(run) {
        log::error!(event = "panic"; "a worker thread panicked: {text}");
    }
}

#[cfg(all(test, not(any(poller_loom, poller_shuttle))))]
mod tests;

#[cfg(all(test, poller_loom))]
mod loom_tests;

#[cfg(all(test, poller_shuttle))]
mod shuttle_tests;
