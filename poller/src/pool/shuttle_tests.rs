//! The pool under more threads than loom can enumerate.

use shuttle::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::shuttle_tests::explore;

fn pool(threads_max: usize, queue_max: usize) -> Arc<Pool> {
    Pool::new(String::new(), threads_max, queue_max)
}

/// Three threads submit to two, of which one may be started, waiting, on its way or busy, while the pool closes or after:
/// what was taken runs, once; the rest was refused.
fn submit_and_close() {
    let pool = pool(2, 1);
    let ran = Arc::new(AtomicUsize::new(0));
    let submitters: Vec<_> = (0..3)
        .map(|_| {
            let (pool, ran) = (pool.clone(), ran.clone());
            thread::spawn(move || {
                let taken = (0..2).filter(|_| {
                    let ran = ran.clone();
                    let work = Work::Task(Box::new(move || {
                        ran.fetch_add(1, Ordering::Relaxed);
                    }));
                    pool.submit(work).is_ok()
                });
                taken.count()
            })
        })
        .collect();
    let mut taken = 0;
    let mut submitters = submitters.into_iter();
    taken += submitters.next().map_or(0, |first| first.join().expect("no panic"));
    assert_eq!(pool.close(None), 0);
    taken += submitters.map(|other| other.join().expect("no panic")).sum::<usize>();
    assert_eq!(ran.load(Ordering::Relaxed), taken);
    assert_eq!(pool.submit(Work::Task(Box::new(|| ()))), Err(Full));
}

#[test]
fn shuttle_pool_submit_and_close() {
    explore("pool, submit and close", submit_and_close);
}

/// As many pieces of work as there are threads, each of which waits for all the others, in two rounds: the first starts the
/// threads, the second calls them when they are on their way back.
fn meet() {
    const THREADS: usize = 3;
    let pool = pool(THREADS, 1);
    let meeting = Arc::new((Mutex::new(0), Condvar::new()));
    for round in 1..=2 {
        for _ in 0..THREADS {
            let meeting = meeting.clone();
            let work = Work::Task(Box::new(move || {
                let (count, changed) = &*meeting;
                let mut count = count.lock();
                *count += 1;
                changed.notify_all();
                while *count < round * THREADS {
                    changed.wait(&mut count);
                }
            }));
            // Those of the first round may not be back: then one waits for the first that is.
            while round == 2 && pool.state.lock().idle == 0 {
                thread::yield_now();
            }
            assert_eq!(pool.submit(work), Ok(()));
        }
        let (count, changed) = &*meeting;
        let mut count = count.lock();
        while *count < round * THREADS {
            changed.wait(&mut count);
        }
    }
    assert_eq!(pool.close(None), 0);
}

#[test]
fn shuttle_pool_meet() {
    explore("pool, meet", meet);
}

/// Work that submits work to the only thread there is, which is busy with it: it runs all the same, also when the pool
/// closes meanwhile, or it was refused.
fn chain() {
    let pool = pool(1, 2);
    let ran = Arc::new(AtomicUsize::new(0));
    let taken = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let outer = {
            let (pool, ran, taken) = (pool.clone(), ran.clone(), taken.clone());
            Work::Task(Box::new(move || {
                ran.fetch_add(1, Ordering::Relaxed);
                let inner = Work::Task(Box::new(move || {
                    ran.fetch_add(1, Ordering::Relaxed);
                }));
                taken.fetch_add(usize::from(pool.submit(inner).is_ok()), Ordering::Relaxed);
            }))
        };
        taken.fetch_add(usize::from(pool.submit(outer).is_ok()), Ordering::Relaxed);
    }
    assert_eq!(pool.close(None), 0);
    assert!(taken.load(Ordering::Relaxed) >= 2);
    assert_eq!(ran.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
}

#[test]
fn shuttle_pool_chain() {
    explore("pool, chain", chain);
}
