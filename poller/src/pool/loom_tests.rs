//! Every interleaving of those who submit, the threads, and the one who closes.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::sync::checked::explore;

struct Seen {
    ran: AtomicUsize,
    taken: AtomicUsize,
}

impl Seen {
    fn new() -> Arc<Seen> {
        Arc::new(Seen { ran: AtomicUsize::new(0), taken: AtomicUsize::new(0) })
    }

    fn submit(self: &Arc<Seen>, pool: &Arc<Pool>) -> bool {
        let seen = self.clone();
        let work = Work::Task(Box::new(move || {
            seen.ran.fetch_add(1, Ordering::Relaxed);
        }));
        let taken = pool.submit(work).is_ok();
        self.taken.fetch_add(usize::from(taken), Ordering::Relaxed);
        taken
    }

    /// What was taken has run, all of it and nothing twice.
    fn check(&self) {
        assert_eq!(self.ran.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
    }
}

fn pool(threads_max: usize, queue_max: usize) -> Arc<Pool> {
    Pool::new(String::new(), threads_max, queue_max)
}

// Two submit, one thread works, and the pool closes when both are done: work that comes while the thread goes to wait is
// not left behind.
#[test]
fn loom_one_thread_does_all_that_two_submit() {
    explore(|| {
        let (pool, seen) = (pool(1, 2), Seen::new());
        let other = {
            let (pool, seen) = (pool.clone(), seen.clone());
            loom::thread::spawn(move || assert!(seen.submit(&pool)))
        };
        assert!(seen.submit(&pool));
        other.join().expect("no panic");
        assert_eq!(pool.close(None), 0);
        seen.check();
    });
}

// proves L-29 (the pool's part): closing while work arrives
#[test]
fn loom_work_runs_or_is_refused_when_the_pool_closes() {
    explore(|| {
        let (pool, seen) = (pool(1, 1), Seen::new());
        assert!(seen.submit(&pool));
        let other = {
            let (pool, seen) = (pool.clone(), seen.clone());
            loom::thread::spawn(move || seen.submit(&pool))
        };
        assert_eq!(pool.close(None), 0);
        other.join().expect("no panic");
        assert!(!seen.submit(&pool), "closed");
        seen.check();
    });
}

// Two pieces of work that wait for each other need two threads: one that was called and has not come does not count as one
// that is free, or the second piece would wait behind the first for ever.
#[test]
fn loom_two_pieces_of_work_that_wait_for_each_other_meet() {
    explore(|| {
        let pool = pool(2, 0);
        let meeting = Arc::new((Mutex::new(0), Condvar::new()));
        for _ in 0..2 {
            let meeting = meeting.clone();
            let work = Work::Task(Box::new(move || {
                let (count, changed) = &*meeting;
                let mut count = count.lock();
                *count += 1;
                changed.notify_all();
                while *count < 2 {
                    changed.wait(&mut count);
                }
            }));
            assert_eq!(pool.submit(work), Ok(()));
        }
        assert_eq!(pool.close(None), 0);
    });
}
