//! One poll: a selector, its operators and timers, and the lead over it that worker threads hand on.
//!
//! ```text
//!            ┌──────────────────────────── the lead (one owner at a time) ───────────────────────────┐
//!   wait ──▶ batch of events ──▶ jobs ──▶ due timers ──▶ wait
//!    takes        │               ▲            │ a lone event, after many of them: once more, those that have come
//!    the jobs     │               └────────────┘
//!    that came    │ for each: put the lead into the slot ── run the operator ── take it out again
//!                 │                                             │ blocking(), or found to block: a standby worker takes it
//!                 └─────────────────────────────────────────────┘
//! ```
//! Jobs are what other threads leave and what the leader's own work leaves; they wait for the end of the batch.
//!
//! The lead lies in a slot while a callback runs (see `handover`); the worker that comes back and finds it gone
//! finishes the connection that it owns, and stands by.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Registry, Waker};

use crate::busy::Scratch;
use crate::clock::Clock;
use crate::handle::Shared;
use crate::handover::{Handover, Reclaim};
use crate::hint::{Dialed, Hint};
use crate::insight::Insight;
use crate::job::{Job, Jobs};
use crate::limits;
use crate::listener::ListenerShared;
use crate::live::Live;
use crate::monitor::Watch;
use crate::operator::Operator;
use crate::pool::{Pool, contain};
use crate::state::News;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use crate::sync::{self, Mutex, RwLock};
use crate::timer::{Due, Key, Timers};
use crate::token::{Table, Token, WAKER};
use crate::udp::UdpShared;
use crate::watch::NEVER;
use crate::worker;

/// A poll as every thread sees it.
pub(crate) struct PollShared {
    pub(crate) workers: Arc<Pool>,
    pub(crate) live: Arc<Live>,
    /// Connections that live here.
    connections: AtomicUsize,
    /// What registers with the selector and wakes it. `None` once the poll has stopped: handles may be kept for long
    /// and keep no descriptor with them.
    selector: RwLock<Option<(Registry, Waker)>>,
    pub(crate) lead: Handover<Lead>,
    /// The thread that led last, by the number that the system gave it.
    pub(crate) leader: AtomicU32,
    watch: Arc<Watch>,
    pub(crate) insight: Insight,
    pub(crate) dialed: Dialed,
    jobs: Mutex<Jobs>,
    /// The leader waits in the kernel, or is about to.
    asleep: AtomicBool,
    timers: Mutex<Timers>,
    pub(crate) clock: Clock,
    /// How long a graceful close waits for output that does not move.
    pub(crate) close_stall: Duration,
}

/// What the leader, and nobody else, may touch.
pub(crate) struct Lead {
    poll: mio::Poll,
    events: Events,
    /// What the last wait brought, the first event last.
    batch: Vec<(Token, News)>,
    jobs: VecDeque<Job>,
    pub(crate) operators: Table<Operator>,
    /// Waits in a row that brought one event each, but for those that brought nothing but jobs.
    lone_waits: usize,
    /// The jobs that the last wait's event leaves are taken without asking the selector first. After many lone events there
    /// is hardly another one that could share in what the jobs send, and who waits for it would wait longer. Once for each
    /// wait, so that jobs that leave jobs keep no event waiting.
    goes_on: bool,
    /// When the last wait ended. Timers that are armed later wait for the next one, so none starves the events.
    now: u64,
    /// Connections are told to end.
    pub(crate) stopping: bool,
    /// Connections are ended.
    pub(crate) killing: bool,
    pub(crate) stopped: bool,
}

/// The next thing to run with the lead in the slot.
pub(crate) enum Work {
    Connection(Arc<Shared>, News),
    /// The first turn of an accepted connection.
    First(Arc<Shared>),
    Listener(Arc<ListenerShared>),
    Udp(Arc<UdpShared>),
    Task(Box<dyn FnOnce() + Send>),
    /// Let go of a tenant, perhaps as the last: its handler is dropped with it, which is the user's code.
    Drop(Operator),
    Stop,
}

impl PollShared {
    /// A new poll, and the lead over it.
    pub(crate) fn new(
        workers: Arc<Pool>,
        live: Arc<Live>,
        watch: Arc<Watch>,
        close_stall: Duration,
    ) -> io::Result<Arc<PollShared>> {
        let poll = mio::Poll::new()?;
        let lead = Lead {
            events: Events::with_capacity(limits::EVENTS_MAX),
            batch: Vec::with_capacity(limits::EVENTS_MAX),
            jobs: VecDeque::new(),
            operators: Table::new(),
            lone_waits: 0,
            goes_on: false,
            now: 0,
            stopping: false,
            killing: false,
            stopped: false,
            poll,
        };
        Ok(Arc::new(PollShared {
            selector: RwLock::new(Some((
                lead.poll.registry().try_clone()?,
                Waker::new(lead.poll.registry(), WAKER)?,
            ))),
            workers,
            live,
            connections: AtomicUsize::new(0),
            lead: Handover::new(Box::new(lead)),
            leader: AtomicU32::new(0),
            watch,
            insight: Insight::default(),
            dialed: Dialed::default(),
            jobs: Mutex::new(Jobs::default()),
            asleep: AtomicBool::new(false),
            timers: Mutex::new(Timers::default()),
            clock: Clock::new(),
            close_stall,
        }))
    }

    /// Leaves a job for the leader, and wakes it if it sleeps.
    pub(crate) fn push(&self, job: Job) {
        {
            let mut jobs = self.jobs.lock();
            if !jobs.ended {
                jobs.queue.push_back(job);
                self.insight.queued.store(jobs.queue.len(), Ordering::Relaxed);
                drop(jobs);
                return self.wake();
            }
        }
        job.discard();
    }

    fn wake(&self) {
        // The leader sets the flag before it looks at the jobs for the last time, so one of the two sees the other.
        if !self.asleep.swap(false, Ordering::SeqCst) {
            return;
        }
        self.clock.look();
        if let Some((_, waker)) = &*self.selector.read()
            && let Err(error) = waker.wake()
        {
            log::error!(event = "waker"; "a poll could not be woken: {error}");
        }
    }

    /// Does something with the selector's registry.
    pub(crate) fn registry(&self, change: impl FnOnce(&Registry) -> io::Result<()>) -> io::Result<()> {
        match &*self.selector.read() {
            Some((registry, _)) => change(registry),
            None => Err(io::Error::other("the event loop has stopped")),
        }
    }

    /// Takes a socket out of the selector that is closed next. A selector that looks at it in this moment would be the last
    /// to let go of it, and its port would be free only then.
    pub(crate) fn forget(&self, socket: &impl AsRawFd) {
        let fd = socket.as_raw_fd();
        if let Err(error) = self.registry(|registry| registry.deregister(&mut SourceFd(&fd))) {
            log::debug!(event = "close", fd = fd; "was not with the selector: {error}");
        }
    }

    /// The time, as good as it is known without looking: a leader that is not asleep has looked a moment ago.
    pub(crate) fn now(&self) -> u64 {
        match self.asleep.load(Ordering::Relaxed) {
            true => self.clock.look(),
            false => self.clock.seen(),
        }
    }

    /// When a graceful close whose output does not move from now on is over; `limit` (nanoseconds) is its connection's.
    pub(crate) fn close_stalled(&self, limit: u64) -> u64 {
        let stall = u64::try_from(self.close_stall.as_nanos()).unwrap_or(NEVER);
        self.clock.look().saturating_add(stall.min(limit))
    }

    /// Arms a deadline in the place of its former entry.
    pub(crate) fn arm(&self, former: Option<Key>, at: Instant, due: Due) -> Key {
        self.arm_at(former, self.clock.at(at), due)
    }

    /// As [`arm`](PollShared::arm), on the poll's clock.
    pub(crate) fn arm_at(&self, former: Option<Key>, at: u64, due: Due) -> Key {
        let (key, earliest) = {
            let mut timers = self.timers.lock();
            if let Some(former) = former {
                timers.remove(former);
            }
            timers.insert(at, due)
        };
        if earliest {
            self.wake();
        }
        key
    }

    /// Runs `task` at `at` on a worker thread; `None` when the poll has stopped.
    pub(crate) fn arm_task(&self, at: Instant, task: Box<dyn FnOnce() + Send>) -> Option<Key> {
        let (key, earliest) = {
            let mut timers = self.timers.lock();
            if timers.ended {
                return None;
            }
            timers.insert(self.clock.at(at), Due::Task(task))
        };
        if earliest {
            self.wake();
        }
        Some(key)
    }

    /// Takes an entry back; says whether it had not fired.
    pub(crate) fn disarm(&self, key: Key) -> bool {
        // Bound first: a task is anybody's closure and is dropped with the lock off.
        let due = self.timers.lock().remove(key);
        due.is_some()
    }

    /// Counts a new connection, and numbers it; `None` when the event loop has as many as it may.
    pub(crate) fn enter(&self) -> Option<u64> {
        let id = self.live.enter()?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(id)
    }

    /// A connection has gone.
    pub(crate) fn leave(&self) {
        // Before the count of all, after whose end nobody looks here.
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.live.leave();
    }

    /// How many connections live here.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether the leader waits in the kernel, or is about to.
    pub(crate) fn is_waiting(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Runs a callback while the lead lies in the slot.
    #[inline]
    fn lend(&self, lead: Box<Lead>, hint: Option<&Hint>, run: impl FnOnce()) -> Option<Box<Lead>> {
        let number = self.lead.lend(lead, hint.is_some_and(Hint::is_on));
        worker::lent(number, run);
        match self.lead.reclaim(number) {
            Reclaim::Kept(lead) => Some(lead),
            Reclaim::Lost { suspected } => {
                // The callback took long.
                self.clock.look();
                if suspected {
                    self.learn(hint);
                }
                None
            }
        }
    }

    /// A callback was found to block, and had not announced it.
    #[cold]
    fn learn(&self, hint: Option<&Hint>) {
        self.insight.suspected();
        if hint.is_some_and(Hint::learn) {
            self.insight.hinted();
            log::debug!(event = "hint"; "a callback blocked without announcing it: from now on others of its kind \
                are looked at more closely");
        }
    }
}

/// Leads until the lead is lost or the poll stops. What the last work left for the leader is still with `scratch` then.
pub(crate) fn lead(poll: &Arc<PollShared>, mut lead: Box<Lead>, scratch: &mut Scratch) {
    loop {
        let work = lead.next(poll);
        let kept = match work {
            Work::Stop => return lead.dismiss(),
            Work::Connection(shared, news) => {
                poll.lend(lead, Some(&shared.service.hint), || shared.run(news, scratch))
            }
            Work::First(shared) => poll.lend(lead, Some(&shared.service.hint), || shared.first(scratch)),
            Work::Listener(listener) => poll.lend(lead, Some(listener.hint()), || listener.run(scratch)),
            Work::Udp(socket) => poll.lend(lead, Some(&socket.hint), || socket.run(scratch)),
            Work::Task(task) => poll.lend(lead, None, task),
            Work::Drop(tenant) => poll.lend(lead, None, || drop(tenant)),
        };
        match kept {
            Some(kept) => lead = kept,
            None => return,
        }
        if !scratch.jobs.is_empty() {
            match lead.jobs.is_empty() {
                true => std::mem::swap(&mut lead.jobs, &mut scratch.jobs),
                false => lead.jobs.append(&mut scratch.jobs),
            }
        }
    }
}

impl Lead {
    fn next(&mut self, poll: &Arc<PollShared>) -> Work {
        loop {
            while let Some((token, news)) = self.batch.pop() {
                if let Some(work) = self.event(token, news) {
                    return work;
                }
            }
            while let Some(job) = self.jobs.pop_front() {
                if let Some(work) = self.job(poll, job) {
                    return work;
                }
            }
            loop {
                // Bound first: the timers must not stay locked while an entry is looked at.
                let due = poll.timers.lock().pop(self.now);
                let Some(due) = due else { break };
                if let Some(work) = due.work() {
                    return work;
                }
            }
            if self.stopped {
                if self.end(poll) {
                    return Work::Stop;
                }
                continue;
            }
            if !std::mem::take(&mut self.goes_on) || !self.take_jobs(poll) {
                self.wait(poll);
            }
        }
    }

    /// Takes the jobs that have come; says whether there were any.
    fn take_jobs(&mut self, poll: &PollShared) -> bool {
        let mut jobs = poll.jobs.lock();
        std::mem::swap(&mut self.jobs, &mut jobs.queue);
        poll.insight.queued.store(0, Ordering::Relaxed);
        !self.jobs.is_empty()
    }

    /// Ends the poll, unless there is work left from the stopping, which is taken.
    fn end(&mut self, poll: &PollShared) -> bool {
        {
            let mut jobs = poll.jobs.lock();
            std::mem::swap(&mut self.jobs, &mut jobs.queue);
            if !self.jobs.is_empty() {
                return false;
            }
            jobs.ended = true;
        }
        poll.selector.write().take();
        // Bound first: tasks are dropped with the lock off, each by itself, because it is the user's code.
        let dropped = poll.timers.lock().end();
        dropped.for_each(|due| contain(|| drop(due)));
        true
    }

    /// Lets go of the tenants that are left: they have ended, but came too late to have their slots freed. Each may be the
    /// last that keeps its handler, which is the user's code, so that a panic in one drop is none in the others.
    fn dismiss(self) {
        self.operators.into_tenants().for_each(|tenant| contain(|| drop(tenant)));
    }

    /// Waits for events, or for a job, or for the next deadline; then takes the jobs that have come.
    fn wait(&mut self, poll: &PollShared) {
        let now = poll.clock.look();
        poll.insight.turn(Duration::from_nanos(now - self.now));
        poll.asleep.store(true, Ordering::SeqCst);
        let timeout = if poll.jobs.lock().queue.is_empty() {
            let longest = Duration::from_millis(limits::WAIT_MS_MAX);
            let next = poll.timers.lock().next();
            next.map(|at| Duration::from_nanos(at.saturating_sub(now)).min(longest))
        } else {
            Some(Duration::ZERO)
        };
        let polled = sync::select(&mut self.poll, &mut self.events, timeout);
        // Before the others take it for granted.
        self.now = poll.clock.look();
        poll.asleep.store(false, Ordering::SeqCst);
        poll.watch.leader_is_back();
        match polled {
            Ok(()) => {
                for event in &self.events {
                    if event.token() == WAKER {
                        continue;
                    }
                    let mut news = News::NONE;
                    if event.is_readable() {
                        news = news.with(News::READABLE);
                    }
                    if event.is_writable() {
                        news = news.with(News::WRITABLE);
                    }
                    if event.is_read_closed() || event.is_error() {
                        news = news.with(News::HUP);
                    }
                    if event.is_priority() {
                        news = news.with(News::URGENT);
                    }
                    self.batch.push((Token::from_mio(event.token()), news));
                }
                self.batch.reverse();
                match self.batch.len() {
                    0 => {}
                    1 => self.lone_waits = self.lone_waits.saturating_add(1),
                    _ => self.lone_waits = 0,
                }
                self.goes_on = self.batch.len() == 1 && self.lone_waits >= limits::LONE_WAITS_MIN;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The selector itself is broken, which no input can bring about.
            Err(error) => panic!("the selector failed: {error}"),
        }
        self.take_jobs(poll);
    }

    /// What an event asks for: nothing when its tenant has left, or another thread owns it and will look again.
    fn event(&self, token: Token, news: News) -> Option<Work> {
        match self.operators.find(token)? {
            Operator::Connection(shared) => {
                shared.acquire(news).map(|news| Work::Connection(shared.clone(), news))
            }
            Operator::Listener(listener) => {
                listener.state.acquire(news).map(|_| Work::Listener(listener.clone()))
            }
            Operator::Udp(socket) => socket.state.acquire(news).map(|_| Work::Udp(socket.clone())),
        }
    }
}

#[cfg(all(test, not(any(poller_loom, poller_shuttle))))]
mod tests;
