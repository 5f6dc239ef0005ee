//! The types of a checker in the shape of those that an ordinary build has.
//!
//! Time does not pass in a checker: no wait ends by its deadline. A wait for readiness asks the kernel again and again, and
//! lets the others run in between; a wait that nobody ends is then a model that never ends, which shuttle says.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[cfg(poller_loom)]
pub(crate) use loom as checker;
#[cfg(poller_shuttle)]
pub(crate) use shuttle as checker;

pub(crate) use checker::sync::atomic;
pub(crate) use checker::thread;

/// As `std::thread_local`, for what a constant initialises: one of each for every thread of the checker.
macro_rules! locals {
    ($($(#[$attribute:meta])* static $name:ident: $kind:ty = const { $value:expr };)*) => {
        $crate::sync::checked::checker::thread_local! { $($(#[$attribute])* static $name: $kind = $value;)* }
    };
}
pub(crate) use locals as thread_local;

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

/// As `parking_lot::MutexGuard`. `None` only while a condition is waited for.
pub(crate) struct MutexGuard<'a, T>(Option<checker::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("nobody looks while a condition is waited for")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("nobody looks while a condition is waited for")
    }
}

/// As `parking_lot::RwLock`.
#[derive(Default)]
pub(crate) struct RwLock<T>(checker::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(checker::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> checker::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> checker::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `parking_lot::Condvar`.
pub(crate) struct Condvar(checker::sync::Condvar);

/// As `parking_lot::WaitTimeoutResult`.
pub(crate) struct WaitTimeoutResult;

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        false
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(checker::sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.0.take().expect("a guard holds its lock");
        guard.0 = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        _deadline: Instant,
    ) -> WaitTimeoutResult {
        self.wait(guard);
        WaitTimeoutResult
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// What `std::thread::LocalKey` offers for cells.
pub(crate) trait LocalCell<T> {
    fn set(&'static self, value: T);
    fn get(&'static self) -> T
    where
        T: Copy;
    fn replace(&'static self, value: T) -> T;
}

impl<T: 'static> LocalCell<T> for thread::LocalKey<Cell<T>> {
    fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }

    fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

/// What `std::thread::LocalKey` offers for borrowed cells.
pub(crate) trait LocalRefCell<T> {
    fn set(&'static self, value: T);
    fn with_borrow<R>(&'static self, look: impl FnOnce(&T) -> R) -> R;
}

impl<T: 'static> LocalRefCell<T> for thread::LocalKey<RefCell<T>> {
    fn set(&'static self, value: T) {
        drop(self.with(|cell| cell.replace(value)));
    }

    fn with_borrow<R>(&'static self, look: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| look(&cell.borrow()))
    }
}

/// Any time is a possible one: others run meanwhile.
pub(crate) fn park_timeout(_timeout: Duration) {
    thread::yield_now();
}

/// Waits for readiness, while others run.
pub(crate) fn select(
    poll: &mut mio::Poll,
    events: &mut mio::Events,
    timeout: Option<Duration>,
) -> io::Result<()> {
    loop {
        poll.poll(events, Some(Duration::ZERO))?;
        if !events.is_empty() || timeout == Some(Duration::ZERO) {
            return Ok(());
        }
        thread::yield_now();
    }
}

/// Every interleaving of a model, but those with more preemptions than the bound (`LOOM_MAX_PREEMPTIONS`, or 3). Nothing
/// else cuts it short, so a model that ends well was searched completely.
#[cfg(all(test, poller_loom))]
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("loom: {} executions", count.load(std::sync::atomic::Ordering::Relaxed));
}
