//! Threads that src runs beside the event loop: here, tasks.

use std::io;
use std::time::Duration;

use super::kernel;

/// Runs `work` a little later: a thread is busy for a while before it comes to an end. What it would wait for on the way has to be
/// there by then, so it never waits.
///
/// # Errors
/// Never here.
pub fn spawn_thread(_name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let _ = kernel::with(|k| {
        let takes = if k.chance.one_in(64) { 8_000_000_000 } else { 20_000_000 };
        let at = k.now + k.chance.below(takes);
        k.add_task(k.current, at, false, Box::new(work));
    });
    Ok(())
}

/// What a thread waits with; nobody here can wait, so whoever does is told that it was in vain.
#[derive(Debug, Default)]
pub struct Condvar;

/// How a wait ended.
#[derive(Debug)]
pub struct Waited;

impl Waited {
    /// That nothing came.
    pub fn timed_out(&self) -> bool {
        true
    }
}

#[allow(missing_docs, reason = "they are parking_lot's")]
impl Condvar {
    pub fn new() -> Condvar {
        Condvar
    }

    pub fn notify_one(&self) {}

    pub fn notify_all(&self) {}

    pub fn wait_for<T: ?Sized>(&self, _: &mut parking_lot::MutexGuard<'_, T>, _: Duration) -> Waited {
        Waited
    }
}
