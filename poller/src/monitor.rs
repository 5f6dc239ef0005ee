//! The safety net for callbacks that block, or take long, without saying so.
//!
//! ```text
//!            every leader has waited for events since the last look
//!   ticking ───────────────────────────────────────────────────────▶ parked, with no timer at all
//!      ▲ ◀─────────────────────────────────────────────────────────────┘
//!      │      a leader comes back from waiting: one load, and an unpark if somebody is parked
//!      │
//!      └─ each tick, for each poll: is a callback under way? the same as before, or one that is hinted?
//!         its thread sleeps, or has run for long ──▶ a standby worker is called and takes the lead
//! ```
//! * **A tick** comes every two milliseconds while nothing blocks, and more often the more callbacks are found to block:
//!   `T = sqrt(10 µs / (1.5 r))` for `r` a second, at least 100 µs: below that a tick costs more than it saves.
//! * **A look** touches no lead: the number of the callback says whether it is the same one as before. Linux says
//!   whether its thread sleeps (`/proc/self/task/TID/stat`); a thread that runs, or waits for a core, gets ten
//!   milliseconds. Elsewhere the number alone must do.
//! * **One look is enough for a hinted origin** whose thread sleeps, two are needed for others.
//! * **While many block, the monitor yields its core instead of sleeping**, and looks at hinted callbacks each time it
//!   gets it back. On a busy core that is when the leader blocks, at no cost before; a timer would leave the core idle
//!   until it fires. A yield that comes back at once says that the core is free, or is another one than the leader's: a
//!   quarter of the time may go by like that, then the timer is used.
//! * **The thread is a patient one**: a low priority and little timer slack. On a busy core a tick then takes nothing
//!   from the leader: the monitor waits for the core, and gets it exactly when the leader blocks. It must not start
//!   threads, which would inherit both; each worker that takes a lead sees to it that another one stands by.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::handover::{Call, Run};
use crate::limits;
use crate::poll::PollShared;
use crate::pool::{Work, contain};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::park_timeout;
use crate::sync::thread::{self, JoinHandle, Thread};

/// What leaders know of the monitor.
#[derive(Default)]
pub(crate) struct Watch {
    /// The monitor sleeps without a timer until a leader comes back from waiting.
    parked: AtomicBool,
    stopping: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Watch {
    /// A leader has come back from waiting. It says so in its own flag first, sequentially consistent, and the monitor
    /// parks before it looks at that flag for the last time: so one of the two sees the other.
    #[inline]
    pub(crate) fn leader_is_back(&self) {
        if self.parked.load(Ordering::SeqCst) {
            self.unpark();
        }
    }

    #[cold]
    fn unpark(&self) {
        if self.parked.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// The running monitor of one event loop.
pub(crate) struct Monitor {
    watch: Arc<Watch>,
    thread: JoinHandle<()>,
}

impl Monitor {
    pub(crate) fn start(
        name: String,
        watch: Arc<Watch>,
        polls: Vec<Arc<PollShared>>,
    ) -> std::io::Result<Monitor> {
        let rounds = Rounds {
            watch: watch.clone(),
            polls: polls.into_iter().map(Watched::new).collect(),
            states: States::default(),
            pace: Pace::default(),
            looked: Instant::now(),
            spare: Spare::default(),
        };
        let thread = thread::Builder::new().name(name).spawn(move || {
            be_patient();
            contain(|| rounds.run());
        })?;
        watch.thread.get_or_init(|| thread.thread().clone());
        Ok(Monitor { watch, thread })
    }

    /// Ends it. Blocked callbacks must have returned before: nobody finds them any more.
    pub(crate) fn stop(self) {
        self.watch.stopping.store(true, Ordering::SeqCst);
        self.watch.parked.store(false, Ordering::SeqCst);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            log::error!(event = "panic"; "the monitor had panicked");
        }
    }
}

#[cfg(all(target_os = "linux", not(poller_shuttle)))]
fn be_patient() {
    use rustix::process::{getpriority_process, setpriority_process};
    // Of this thread alone: Linux keeps both per thread.
    let lower = getpriority_process(None)
        .and_then(|now| setpriority_process(None, (now + limits::MONITOR_NICE).min(limits::NICE_MAX)));
    let slack = std::num::NonZeroU64::new(limits::MONITOR_SLACK_NS);
    if let Err(error) = lower.and_then(|()| rustix::thread::set_current_timer_slack(slack)) {
        log::debug!(event = "monitor"; "it runs like any other thread: {error}");
    }
}

// Nor in a checker, whose threads are all one to the system.
#[cfg(not(all(target_os = "linux", not(poller_shuttle))))]
fn be_patient() {}

/// The monitor's own thread.
struct Rounds {
    watch: Arc<Watch>,
    polls: Vec<Watched>,
    states: States,
    pace: Pace,
    /// When callbacks that are not hinted were looked at.
    looked: Instant,
    spare: Spare,
}

impl Rounds {
    fn run(mut self) {
        let mut last = Instant::now();
        while !self.watch.stopping.load(Ordering::SeqCst) {
            let now = Instant::now();
            self.pace.pass(now - last);
            self.spare.earn(now - last);
            last = now;
            // Two looks at one that is not hinted are a tick apart, however often the others are looked at.
            let all = !self.pace.is_quick() || now - self.looked >= self.pace.tick();
            if all {
                self.looked = now;
            }
            let (mut idle, mut called) = (all, false);
            for poll in &mut self.polls {
                if all {
                    idle &= poll.is_idle();
                }
                if poll.look(now, all, &mut self.states) {
                    self.pace.count();
                    called = true;
                }
            }
            if idle {
                self.park();
                // The pause tells nothing about how often callbacks block.
                last = Instant::now();
            } else if !(self.pace.is_quick() && self.give_way(now, called)) {
                park_timeout(self.pace.tick());
            }
        }
    }

    /// Gives the core to any thread that wants it, at the end of a round. Says whether that is better than to sleep.
    fn give_way(&mut self, began: Instant, called: bool) -> bool {
        let before = Instant::now();
        thread::yield_now();
        let after = Instant::now();
        // A standby worker that was called had it before that already.
        if !called && after - before < Duration::from_micros(limits::YIELD_US) {
            self.spare.spend(after - began);
        }
        !self.spare.is_used_up()
    }

    fn park(&mut self) {
        self.watch.parked.store(true, Ordering::SeqCst);
        if !self.polls.iter_mut().all(Watched::is_idle) {
            self.watch.parked.store(false, Ordering::SeqCst);
        }
        // An idle process keeps no descriptors for it.
        self.states.files.clear();
        while self.watch.parked.load(Ordering::SeqCst) && !self.watch.stopping.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

/// One poll, and what was seen of it last.
struct Watched {
    poll: Arc<PollShared>,
    waits: u64,
    run: Run,
    since: Instant,
}

impl Watched {
    fn new(poll: Arc<PollShared>) -> Watched {
        Watched { poll, waits: 0, run: Run::NONE, since: Instant::now() }
    }

    /// Whether the leader has been waiting for events since the last look.
    fn is_idle(&mut self) -> bool {
        let waits = self.poll.insight.turns();
        std::mem::replace(&mut self.waits, waits) == waits && self.poll.is_waiting()
    }

    /// Looks at the callback under way, if it is hinted or `all` are looked at. Says whether a standby worker was called.
    fn look(&mut self, now: Instant, all: bool, states: &mut States) -> bool {
        let Some(run) = self.poll.lead.look() else {
            self.run = Run::NONE;
            return false;
        };
        // Where the system does not tell who sleeps, two looks must be a tick apart for hinted ones too.
        if !(all || run.is_hinted() && states.tell) {
            return false;
        }
        let again = run == self.run;
        if !again {
            self.run = run;
            self.since = now;
        }
        if !again && !run.is_hinted() {
            return false;
        }
        let blocks = match states.of(self.poll.leader.load(Ordering::Relaxed)) {
            ThreadState::Sleeps => true,
            ThreadState::Runs if now - self.since >= Duration::from_micros(limits::RUN_LONG_US) => false,
            ThreadState::Runs => return false,
            ThreadState::Unknown => again,
        };
        if !blocks && !again {
            return false;
        }
        match self.poll.lead.suspect(run, blocks) {
            Call::Ask => self.poll.workers.call(Work::Lead(self.poll.clone())).is_ok(),
            Call::Asked => false,
        }
    }
}

/// Time of a core that may be spent yielding to nobody: one part in `YIELD_PARTS` of all time, and not much at once.
#[derive(Default)]
struct Spare(Duration);

impl Spare {
    fn earn(&mut self, time: Duration) {
        self.0 = (self.0 + time / limits::YIELD_PARTS).min(Duration::from_micros(limits::YIELD_SPARE_US));
    }

    fn spend(&mut self, time: Duration) {
        self.0 = self.0.saturating_sub(time);
    }

    fn is_used_up(&self) -> bool {
        self.0.is_zero()
    }
}

/// How often callbacks block, and how often to look for it.
#[derive(Default)]
struct Pace {
    /// Callbacks that were found to block, a second; forgotten with the time constant `PACE_MS`.
    rate: f64,
}

impl Pace {
    const MEMORY: Duration = Duration::from_millis(limits::PACE_MS);

    fn pass(&mut self, time: Duration) {
        self.rate *= (1.0 - time.as_secs_f64() / Pace::MEMORY.as_secs_f64()).max(0.0);
    }

    fn count(&mut self) {
        self.rate += 1.0 / Pace::MEMORY.as_secs_f64();
    }

    fn tick(&self) -> Duration {
        let micros = (limits::MONITOR_COST_US as f64 * 1e6 / (1.5 * self.rate)).sqrt();
        // Infinite while nothing blocks.
        Duration::from_micros(micros.min(limits::TICK_MAX_US as f64) as u64)
            .max(Duration::from_micros(limits::TICK_MIN_US))
    }

    /// Whether a timer would be too slow.
    fn is_quick(&self) -> bool {
        self.tick() <= Duration::from_micros(limits::TICK_YIELD_US)
    }
}

/// What the system says about a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThreadState {
    /// It waits for something other than a core.
    Sleeps,
    Runs,
    Unknown,
}

/// Asks the system about threads of this process.
#[derive(Default)]
struct States {
    /// Invariant: as many as there are worker threads, at most.
    files: HashMap<u32, std::fs::File>,
    /// The last question had an answer.
    tell: bool,
}

impl States {
    /// The state of the thread with this number in the system; zero for a number that is not known.
    fn of(&mut self, thread: u32) -> ThreadState {
        let state = self.read(thread);
        self.tell = state != ThreadState::Unknown;
        state
    }

    fn read(&mut self, thread: u32) -> ThreadState {
        if !cfg!(target_os = "linux") || cfg!(poller_shuttle) || thread == 0 {
            return ThreadState::Unknown;
        }
        let file = match self.files.entry(thread) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                match std::fs::File::open(format!("/proc/self/task/{thread}/stat")) {
                    Ok(file) => entry.insert(file),
                    Err(_) => return ThreadState::Unknown,
                }
            }
        };
        let mut text = [0; limits::THREAD_STAT_BYTES];
        match std::os::unix::fs::FileExt::read_at(file, &mut text, 0) {
            Ok(n) => state_of(&text[..n]),
            Err(_) => ThreadState::Unknown,
        }
    }
}

/// `TID (name) STATE ...`, where the name may hold anything, and only numbers follow the state.
fn state_of(stat: &[u8]) -> ThreadState {
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    match state {
        Some(b'S' | b'D') => ThreadState::Sleeps,
        Some(b'R') => ThreadState::Runs,
        _ => ThreadState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_behind_the_name_whatever_that_is() {
        for (stat, state) in [
            ("7 (http-0) S 1 7 0", ThreadState::Sleeps),
            ("7 (http-0) D 1 7 0", ThreadState::Sleeps),
            ("7 (S) R 1 7 0", ThreadState::Runs),
            ("7 () S (x) R) R 1 7 0", ThreadState::Runs),
            ("7 (http-0) Z 1 7 0", ThreadState::Unknown),
            ("7 (http-0)", ThreadState::Unknown),
            ("", ThreadState::Unknown),
        ] {
            assert_eq!(state_of(stat.as_bytes()), state, "{stat}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "Miri's threads are not the system's")]
    fn the_system_says_who_sleeps_and_who_runs() {
        let mut states = States::default();
        assert_eq!(states.of(crate::worker::thread_id()), ThreadState::Runs);
        let (told, tell) = crossbeam_channel::bounded(1);
        let (end, wait) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::spawn(move || {
            told.send(crate::worker::thread_id()).expect("listened to");
            assert!(wait.recv().is_err());
        });
        let sleeper = tell.recv().expect("told");
        while states.of(sleeper) != ThreadState::Sleeps {
            std::thread::yield_now();
        }
        drop(end);
        thread.join().expect("no panic");
        assert!(states.tell);
        assert_eq!(states.of(0), ThreadState::Unknown);
        assert!(!states.tell);
        assert_eq!(states.files.len(), 2);
    }

    #[test]
    fn a_quarter_of_the_time_may_be_yielded_to_nobody() {
        let us = Duration::from_micros;
        let mut spare = Spare::default();
        assert!(spare.is_used_up());
        spare.earn(us(400));
        spare.spend(us(99));
        assert!(!spare.is_used_up());
        spare.spend(us(2));
        assert!(spare.is_used_up());
        spare.earn(Duration::from_secs(60));
        assert_eq!(spare.0, us(limits::YIELD_SPARE_US));
    }

    #[test]
    fn ticks_come_as_often_as_it_pays() {
        let mut pace = Pace::default();
        assert_eq!(pace.tick(), Duration::from_micros(limits::TICK_MAX_US));
        assert!(!pace.is_quick());
        for _ in 0..20 {
            pace.count();
        }
        // 20 in a tenth of a second: sqrt(10 µs / (1.5 * 200 / s)) = 182 µs
        assert_eq!(pace.tick(), Duration::from_micros(182));
        assert!(pace.is_quick());
        for _ in 0..10_000 {
            pace.count();
        }
        assert_eq!(pace.tick(), Duration::from_micros(limits::TICK_MIN_US));
        pace.pass(Duration::from_secs(2));
        assert_eq!(pace.tick(), Duration::from_micros(limits::TICK_MAX_US));
        assert!(!pace.is_quick());
    }
}
