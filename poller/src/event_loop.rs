//! The whole runtime, and how it is stopped.

use std::io;
use std::time::{Duration, Instant};

use crate::builder::Builder;
use crate::job::Job;
use crate::remote::{Remote, Runtime};
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use crate::timer;
use crate::worker;

/// A running event loop. Dropping it stops it at once; [`shutdown`](EventLoop::shutdown) stops it gracefully.
///
/// Everything but the stopping is done through [`Remote`], to which this dereferences.
pub struct EventLoop {
    pub(crate) remote: Remote,
}

impl std::ops::Deref for EventLoop {
    type Target = Remote;

    fn deref(&self) -> &Remote {
        &self.remote
    }
}

impl EventLoop {
    /// An event loop with the default settings.
    ///
    /// # Errors
    /// When the system gives no selector or thread.
    pub fn new() -> io::Result<EventLoop> {
        EventLoop::builder().build()
    }

    /// Settings to choose.
    #[doc(alias = "NewEventLoop")]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The side of the event loop that handlers may keep.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Stops: listeners close, every connection gets `on_shutdown`, and what is open after `grace` is cut off: its peer
    /// sees a reset, because it was in the middle of something.
    /// Returns when every worker thread has ended; says whether all connections had ended by themselves.
    ///
    /// Blocking tasks that are still running after `grace` go on by themselves and are not waited for.
    ///
    /// # Panics
    /// When a handler or a blocking task of this event loop calls it: it would wait for itself. The event loop is dropped
    /// then, as below. Two event loops that stop each other from their handlers do wait for each other.
    #[doc(alias = "Shutdown")]
    pub fn shutdown(self, grace: Duration) -> bool {
        assert!(!self.is_within(), "an event loop cannot be stopped from one of its own threads");
        stop(&self.remote.runtime, grace)
    }

    /// Whether the calling thread is one of those that the stopping waits for.
    fn is_within(&self) -> bool {
        let runtime = &self.remote.runtime;
        worker::is_in(&runtime.workers) || worker::is_in(&runtime.tasks)
    }
}

/// Stops for once and all; says whether all connections had ended by themselves.
fn stop(runtime: &Runtime, grace: Duration) -> bool {
    if runtime.stopping.swap(true, Ordering::AcqRel) {
        return true;
    }
    let deadline = timer::later(grace);
    let tell = |job: fn() -> Job| runtime.polls.iter().for_each(|poll| poll.push(job()));
    tell(|| Job::Shutdown);
    let graceful = runtime.live.wait_until_none(deadline);
    tell(|| Job::Kill);
    while !(runtime.live.wait_until_none(Instant::now() + Duration::from_secs(1)) && runtime.live.close()) {
        // Connections that were still being opened meanwhile, and handlers that block.
        log::warn!(event = "stop", conns = runtime.live.count(); "waiting for handlers to return");
        tell(|| Job::Kill);
    }
    tell(|| Job::Stop);
    runtime.workers.close(None);
    // After the workers, whose callbacks it may have had to relieve.
    let monitor = runtime.monitor.lock().take();
    if let Some(monitor) = monitor {
        monitor.stop();
    }
    let left = runtime.tasks.close(Some(deadline));
    if left > 0 {
        log::info!(event = "stop", tasks = left; "blocking tasks were left behind");
    }
    graceful
}

impl Drop for EventLoop {
    /// Cuts off what is open. Where one of its own threads drops it, a thread is started to do so.
    fn drop(&mut self) {
        let runtime = self.remote.runtime.clone();
        if !self.is_within() || runtime.stopping.load(Ordering::Acquire) {
            stop(&runtime, Duration::ZERO);
        } else if let Err(error) = thread::Builder::new().spawn(move || stop(&runtime, Duration::ZERO)) {
            log::error!(event = "stop"; "no thread to stop an event loop that one of its own threads dropped: {error}");
        }
    }
}
