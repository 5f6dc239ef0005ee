//! The pool's promises on threads of the system; the checkers run the same promises on theirs.

use std::sync::mpsc;

use super::*;

/// How long a broken pool is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn task(run: impl FnOnce() + Send + 'static) -> Work {
    Work::Task(Box::new(run))
}

fn pool(threads_max: usize, queue_max: usize) -> Arc<Pool> {
    Pool::new("test".to_owned(), threads_max, queue_max)
}

#[test]
fn threads_start_on_demand_up_to_the_bound_and_the_queue_has_one_too() {
    let pool = pool(2, 1);
    let (started, starts) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let blocked = || {
        let (started, released) = (started.clone(), released.clone());
        task(move || {
            started.send(()).expect("the test waits");
            // The test lets go of one by a message, of the others by its end.
            released.lock().expect("no panic").recv().ok();
        })
    };
    assert_eq!(pool.submit(blocked()), Ok(()));
    assert_eq!(pool.submit(blocked()), Ok(()));
    for _ in 0..2 {
        starts.recv().expect("two threads");
    }
    assert_eq!(pool.submit(blocked()), Ok(()), "waits");
    assert_eq!(pool.submit(blocked()), Err(Full), "one too many");
    release.send(()).expect("two wait");
    starts.recv().expect("the one that waited");
    drop(release);
    assert_eq!(pool.close(None), 0);
}

#[test]
fn a_thread_that_waits_is_called_before_one_is_started() {
    let pool = pool(2, 0);
    let (done, dones) = mpsc::channel();
    for _ in 0..100 {
        let done = done.clone();
        assert_eq!(pool.submit(task(move || done.send(()).expect("the test waits"))), Ok(()));
        dones.recv().expect("it ran");
        // Done is not idle yet.
        while pool.state.lock().idle == 0 {
            std::thread::yield_now();
        }
    }
    assert_eq!(pool.state.lock().threads.len(), 1);
    assert_eq!(pool.close(None), 0);
}

// proves L-29 (the pool's part)
#[test]
fn what_was_taken_is_done_and_what_comes_after_the_close_is_refused() {
    let pool = pool(1, usize::MAX);
    let (done, dones) = mpsc::channel();
    for i in 0..10 {
        let done = done.clone();
        assert_eq!(pool.submit(task(move || done.send(i).expect("the test waits"))), Ok(()));
    }
    assert_eq!(pool.close(None), 0);
    assert_eq!(dones.try_iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(pool.submit(task(|| ())), Err(Full));
    assert_eq!(pool.close(None), 0, "closing twice is closing once");
}

#[test]
fn a_thread_that_is_busy_at_the_deadline_is_counted_and_let_go() {
    let pool = pool(2, 0);
    let (release, released) = mpsc::channel::<()>();
    let (done, dones) = mpsc::channel();
    assert_eq!(pool.submit(task(|| ())), Ok(()));
    let busy = task(move || {
        assert!(released.recv().is_err(), "nothing is sent, the end of the test lets go");
        done.send(()).expect("the test waits");
    });
    assert_eq!(pool.submit(busy), Ok(()));
    assert_eq!(pool.close(Some(Instant::now())), 1);
    drop(release);
    dones.recv().expect("it goes on by itself");
}

#[test]
fn a_task_that_panics_leaves_its_thread_to_the_next() {
    let pool = pool(1, 1);
    let (done, dones) = mpsc::channel();
    assert_eq!(pool.submit(task(|| panic!("a task's own"))), Ok(()));
    assert_eq!(pool.submit(task(move || done.send(()).expect("the test waits"))), Ok(()));
    dones.recv().expect("the second one ran");
    assert_eq!(pool.close(None), 0);
}

// proves L-27 for what belongs to no connection: buffers are as many as there was work at the same time, not as there are threads
#[test]
fn buffers_go_from_thread_to_thread() {
    let pool = pool(3, 0);
    let (started, starts) = mpsc::channel();
    let busy = || {
        let (release, released) = mpsc::channel::<()>();
        let started = started.clone();
        let work = task(move || {
            started.send(()).expect("the test waits");
            assert!(released.recv().is_err(), "nothing is sent, its end lets go");
        });
        assert_eq!(pool.submit(work), Ok(()));
        starts.recv().expect("it runs");
        release
    };
    let are_idle = |threads| {
        let deadline = Instant::now() + PATIENCE;
        while pool.state.lock().idle < threads {
            assert!(Instant::now() < deadline, "{threads} threads do not rest");
            std::thread::yield_now();
        }
    };
    for _ in 0..3 {
        drop((busy(), busy()));
        are_idle(2);
        assert_eq!(pool.state.lock().scratches.len(), 2);
    }
    pool.start_for(task(|| ())).expect("a thread");
    for _ in 0..10 {
        are_idle(3);
        drop(busy());
    }
    are_idle(3);
    assert_eq!(pool.state.lock().threads.len(), 3);
    assert_eq!(pool.state.lock().scratches.len(), 2);
    assert_eq!(pool.close(None), 0);
    assert!(pool.state.lock().scratches.is_empty(), "a closed pool keeps none");
}
