//! A carrier and those who want something of it, under shuttle: whatever the order, the carrier does all that there is to do, and then
//! rests. One that sleeps over something is a deadlock.
//!
//! The decisions are the program's; the model has what surrounds them: the lock, a wake-up that is kept until somebody waits for it
//! (as the poller's are), and a socket that takes a piece at a time.
//!
//! `SHUTTLE_ITERATIONS` is the number of schedules of each kind; `SHUTTLE_RANDOM_SEED` chooses others.

use std::sync::Arc;

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::{Condvar, Mutex, MutexGuard};
use shuttle::thread;

use super::{Rest, Waiting};

/// Schedules of each kind when nothing else is asked for.
const ITERATIONS: usize = 1000;

/// Priority changes within one schedule, and one more.
const PCT_DEPTH: usize = 3;

/// Steps after which a schedule is one in which somebody never rests.
const STEPS_MAX: usize = 10_000;

const SEED: u64 = 0x616e_7970_726f_7879;

/// What each of the two has for the carrier.
const EACH: usize = 3;

/// What stands behind the tunnel's lock.
struct Inner {
    rest: Rest,
    /// Frames to be sent.
    output: usize,
    /// Events to be told.
    news: usize,
}

impl Inner {
    fn waiting(&self) -> Waiting {
        Waiting { output: self.output > 0, news: self.news > 0 }
    }
}

/// The carrier's connection, as far as the poller keeps it.
#[derive(Default)]
struct Conn {
    woken: bool,
    /// A piece that the peer has not taken.
    unsent: bool,
    /// To be woken when it has.
    watched: bool,
    /// News that the carrier has told.
    told: usize,
}

struct World {
    inner: Mutex<Inner>,
    conn: Mutex<Conn>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody has panicked")
}

impl World {
    fn wake(&self) {
        lock(&self.conn).woken = true;
        self.changed.notify_all();
    }

    /// As `Tunnel::change`.
    fn change(&self, with: impl FnOnce(&mut Inner)) {
        let wakes = {
            let inner = &mut *lock(&self.inner);
            with(inner);
            let waiting = inner.waiting();
            inner.rest.offer(waiting)
        };
        if wakes {
            self.wake();
        }
    }

    /// What happened is told, as in `news`.
    fn tell(&self) {
        loop {
            let news = {
                let inner = &mut *lock(&self.inner);
                inner.rest.begin();
                std::mem::take(&mut inner.news)
            };
            if news == 0 {
                return;
            }
            lock(&self.conn).told += news;
            self.changed.notify_all();
        }
    }

    /// One turn of the carrier, as `advance`: says what it has sent.
    fn turn(&self) -> usize {
        let mut sent = 0;
        self.tell();
        while !lock(&self.conn).unsent {
            let inner = &mut *lock(&self.inner);
            if inner.output == 0 {
                break;
            }
            inner.output -= 1;
            sent += 1;
            lock(&self.conn).unsent = true;
            self.changed.notify_all();
        }
        let blocked = {
            let conn = &mut *lock(&self.conn);
            conn.watched = conn.unsent;
            conn.unsent
        };
        let again = {
            let inner = &mut *lock(&self.inner);
            let waiting = inner.waiting();
            inner.rest.rest(waiting, blocked)
        };
        if again {
            self.wake();
        }
        sent
    }

    fn carry(&self) {
        let mut sent = 0;
        while sent < EACH || lock(&self.conn).told < EACH {
            let mut conn = lock(&self.conn);
            while !std::mem::take(&mut conn.woken) {
                conn = self.changed.wait(conn).expect("nobody has panicked");
            }
            drop(conn);
            sent += self.turn();
        }
    }

    /// The peer takes one piece after the other; perhaps none before all news was told, which is not to wait for a peer that does not
    /// read.
    fn take(&self) {
        let mut conn = lock(&self.conn);
        if shuttle::rand::thread_rng().r#gen::<bool>() {
            while conn.told < EACH {
                conn = self.changed.wait(conn).expect("nobody has panicked");
            }
        }
        drop(conn);
        for _ in 0..EACH {
            let mut conn = lock(&self.conn);
            while !std::mem::take(&mut conn.unsent) {
                conn = self.changed.wait(conn).expect("nobody has panicked");
            }
            let wakes = std::mem::take(&mut conn.watched);
            drop(conn);
            if wakes {
                self.wake();
            }
        }
    }
}

fn wakes() {
    let world = Arc::new(World {
        inner: Mutex::new(Inner { rest: Rest::Idle, output: 0, news: 0 }),
        conn: Mutex::default(),
        changed: Condvar::new(),
    });
    let changes: [fn(&mut Inner); 2] = [|inner| inner.output += 1, |inner| inner.news += 1];
    let mut threads = vec![{
        let world = world.clone();
        thread::spawn(move || world.carry())
    }];
    for change in changes {
        let world = world.clone();
        threads.push(thread::spawn(move || (0..EACH).for_each(|_| world.change(change))));
    }
    world.take();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Runs a model under one kind of schedules.
fn explore(name: &str, kind: &str, model: fn(), iterations: usize, scheduler: impl Scheduler + 'static) {
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    let count = shuttle::Runner::new(scheduler, config).run(model);
    assert_eq!(count, iterations, "every schedule was run");
    println!("shuttle: {name}: {count} {kind} schedules");
}

// proves S-19 (the carrier's wake-up): nothing that is left for it is slept over
#[test]
fn shuttle_carrier_wakes() {
    let iterations = match std::env::var("SHUTTLE_ITERATIONS") {
        Ok(text) => text.parse().expect("SHUTTLE_ITERATIONS is a number"),
        Err(_) => ITERATIONS,
    };
    let random = RandomScheduler::new_from_seed(SEED, iterations);
    explore("carrier", "random", wakes, iterations, random);
    explore("carrier", "PCT", wakes, iterations, PctScheduler::new_from_seed(SEED, PCT_DEPTH, iterations));
}
