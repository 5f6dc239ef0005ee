//! The access log: one line per finished stream, written off the hot path.
//!
//! ```text
//!  any thread ── write ──▶ bounded queue ──▶ one writer thread ── one write(2) for what has queued ──▶ out
//!                   │ full or closed: dropped and counted        └── then a pause of ACCESS_PAUSE_MS, in which it gathers
//! ```
//! Whoever ends a stream never waits: [`AccessLog::write`] formats nothing, makes no system call of its own and
//! blocks on nothing. While the writer pauses nobody wakes it, so that many streams share a wake-up as they share a
//! write. Lines are whole and in the order in which their records were queued. Every record offered is
//! either written or counted in [`AccessLog::dropped`]; but a process that is killed (SIGKILL) takes along what has queued, which
//! is up to ACCESS_PAUSE_MS of lines more than a writer that never paused would have lost.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::limits::{ACCESS_BATCH_BYTES_MAX, ACCESS_CLOSE_MS, ACCESS_PAUSE_MS, ACCESS_QUEUE_LEN_MAX};
use crate::logfmt::Stamp;
use crate::record::AccessRecord;

/// A handle on the access log. Clones are cheap and write to the same queue.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once closed. The writer ends when this, the only sender, is gone and the queue is empty.
    queue: RwLock<Option<Sender<Box<AccessRecord>>>>,
    pause: Arc<Pause>,
    /// The writer, until somebody has waited for it.
    writer: Mutex<Option<Writer>>,
    dropped: Arc<AtomicU64>,
}

struct Writer {
    thread: thread::JoinHandle<()>,
    /// Disconnects when the writer has written its last line.
    done: Receiver<()>,
}

/// What the writer rests in between two writes, until the log is closed.
#[derive(Default)]
struct Pause {
    closed: Mutex<bool>,
    ended: Condvar,
}

impl Pause {
    fn rest(&self) {
        let mut closed = self.closed.lock();
        if !*closed {
            self.ended.wait_for(&mut closed, Duration::from_millis(ACCESS_PAUSE_MS));
        }
    }

    fn end(&self) {
        *self.closed.lock() = true;
        self.ended.notify_one();
    }
}

impl AccessLog {
    /// Starts the writer thread, which owns `out` from now on.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(out: Box<dyn Write + Send>, stamp: Stamp) -> io::Result<AccessLog> {
        let (sender, queue) = bounded(ACCESS_QUEUE_LEN_MAX);
        let (done_sender, done) = bounded(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let pause = Arc::new(Pause::default());
        let rests = pause.clone();
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || {
            let _done: Sender<()> = done_sender;
            write_all(&queue, out, stamp, &rests, &lost);
        })?;
        Ok(AccessLog {
            shared: Arc::new(Shared {
                queue: RwLock::new(Some(sender)),
                pause,
                writer: Mutex::new(Some(Writer { thread, done })),
                dropped,
            }),
        })
    }

    /// Queues a record. Never blocks: when the queue is full or the log is closed, the record is dropped and counted.
    pub fn write(&self, record: Box<AccessRecord>) {
        let queued = match &*self.shared.queue.read() {
            Some(queue) => queue.try_send(record),
            None => Err(TrySendError::Disconnected(record)),
        };
        if queued.is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records dropped so far: the queue was full, the log closed, or the destination refused the bytes.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Stops taking records and waits until those queued are written, at most [`ACCESS_CLOSE_MS`]. Says whether
    /// they were; a destination that does not take them in time is left to its fate. Closing again does nothing.
    pub fn close(&self) -> bool {
        drop(self.shared.queue.write().take());
        self.shared.pause.end();
        // The lock is held while waiting, so that a second closer returns when all is written, too.
        let mut writer = self.shared.writer.lock();
        let Some(Writer { thread, done }) = writer.take() else { return true };
        let timeout = Duration::from_millis(ACCESS_CLOSE_MS);
        if done.recv_timeout(timeout) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            log::warn!(event = "log_drop", left_ms = ACCESS_CLOSE_MS; "the access log's destination is stuck");
            return false;
        }
        thread.join().is_ok()
    }
}

fn write_all(
    queue: &Receiver<Box<AccessRecord>>,
    mut out: Box<dyn Write + Send>,
    stamp: Stamp,
    pause: &Pause,
    dropped: &AtomicU64,
) {
    let mut batch = Vec::new();
    let mut failing = false;
    while let Ok(record) = queue.recv() {
        batch.clear();
        record.write_line(stamp, &mut batch);
        let mut lines = 1;
        while batch.len() < ACCESS_BATCH_BYTES_MAX
            && let Ok(record) = queue.try_recv()
        {
            record.write_line(stamp, &mut batch);
            lines += 1;
        }
        match out.write_all(&batch).and_then(|()| out.flush()) {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.fetch_add(lines, Ordering::Relaxed);
                // Once per outage: a full disk must not fill the other log as well.
                if !std::mem::replace(&mut failing, true) {
                    log::warn!(event = "log_drop", error:% = error; "access lines cannot be written");
                }
            }
        }
        if batch.len() < ACCESS_BATCH_BYTES_MAX {
            pause.rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{End, Ingress, Proto};
    use std::time::{Instant, SystemTime};

    /// A destination that keeps each write apart and can be held.
    #[derive(Clone, Default)]
    struct Sink {
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        written: Arc<Condvar>,
        gate: Arc<Mutex<()>>,
        fails: bool,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock();
            if self.fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.writes.lock().push(bytes.to_vec());
            self.written.notify_all();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Only a failing test ever waits so long.
    const PATIENCE: Duration = Duration::from_secs(90);

    impl Sink {
        /// Waits until there are that many lines.
        fn wait_for(&self, lines: u64) {
            let count = |write: &Vec<u8>| write.iter().filter(|b| **b == b'\n').count() as u64;
            let mut writes = self.writes.lock();
            let missing = |writes: &mut Vec<Vec<u8>>| writes.iter().map(count).sum::<u64>() < lines;
            let waited = self.written.wait_while_for(&mut writes, missing, PATIENCE);
            assert!(!waited.timed_out(), "{lines} lines did not come");
        }

        fn lines(&self) -> Vec<String> {
            let text: Vec<u8> = self.writes.lock().concat();
            String::from_utf8(text).expect("log lines are UTF-8").lines().map(str::to_owned).collect()
        }
    }

    fn record(n: u32) -> Box<AccessRecord> {
        let mut r = AccessRecord::new(SystemTime::UNIX_EPOCH, Proto::Connect, Ingress::Http, End::EOF);
        r.conn_id = format!("c{n}").into();
        Box::new(r)
    }

    #[test]
    fn lines_are_whole_and_in_order_and_close_may_be_called_by_everyone() {
        let sink = Sink::default();
        let log = AccessLog::start(Box::new(sink.clone()), Stamp::Time).expect("a thread can start");
        for n in 0..1000 {
            log.write(record(n));
        }
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| assert!(log.close()));
            }
        });
        let lines = sink.lines();
        assert_eq!(lines.len(), 1000);
        for (n, line) in lines.iter().enumerate() {
            assert!(line.contains(&format!(" conn_id=c{n} ")) && line.ends_with(" why=eof"), "{line}");
        }
        assert!(sink.writes.lock().iter().all(|w| w.ends_with(b"\n")), "no write ends inside a line");
        assert_eq!(log.dropped(), 0);
        log.write(record(0));
        assert_eq!(log.dropped(), 1, "after the close a record is counted, not lost silently");
    }

    // What comes in the pause shares the next write, and no close waits for its end.
    #[test]
    fn the_writer_rests_between_two_writes_until_the_close() {
        /// Tells of each write when it was.
        struct Watched(Sender<Instant>);

        impl Write for Watched {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(Instant::now()).map_err(io::Error::other)?;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (sender, writes) = bounded(ACCESS_QUEUE_LEN_MAX);
        let log = AccessLog::start(Box::new(Watched(sender)), Stamp::Time).expect("a thread can start");
        log.write(record(1));
        let first = writes.recv().expect("it is written");
        log.write(record(2));
        let second = writes.recv().expect("it is written");
        assert!(second - first >= Duration::from_millis(ACCESS_PAUSE_MS));
        log.write(record(3));
        assert!(log.close());
        assert_eq!(writes.iter().count(), 1, "and so is the last one");
    }

    // proves the bound of ACCESS_QUEUE_LEN_MAX and that a full queue never blocks (T24)
    #[test]
    fn a_full_queue_drops_and_counts() {
        let sink = Sink::default();
        let held = sink.gate.lock();
        let log = AccessLog::start(Box::new(sink.clone()), Stamp::Time).expect("a thread can start");
        // What fits the queue, and what the writer may have taken into its batch at most.
        let offered = ACCESS_QUEUE_LEN_MAX + ACCESS_BATCH_BYTES_MAX / 100 + 500;
        for n in 0..offered {
            log.write(record(u32::try_from(n).expect("a small number")));
        }
        let dropped = log.dropped();
        assert!(dropped > 0);
        drop(held);
        // A close waits no longer than ACCESS_CLOSE_MS, and a slow machine may need more for so many.
        sink.wait_for(offered as u64 - dropped);
        assert!(log.close());
        assert_eq!(sink.lines().len() as u64 + dropped, offered as u64, "every record written or counted");
        let batch_max = ACCESS_BATCH_BYTES_MAX + 16 * crate::limits::LOG_VALUE_BYTES_MAX;
        assert!(sink.writes.lock().iter().all(|w| w.len() <= batch_max), "batches are bounded");
    }

    #[test]
    fn a_stuck_destination_does_not_hold_up_the_close() {
        let sink = Sink::default();
        let held = sink.gate.lock();
        let log = AccessLog::start(Box::new(sink.clone()), Stamp::Time).expect("a thread can start");
        log.write(record(1));
        let begin = std::time::Instant::now();
        assert!(!log.close());
        assert!(begin.elapsed() >= Duration::from_millis(ACCESS_CLOSE_MS));
        drop(held);
    }

    #[test]
    fn a_failing_destination_is_counted() {
        let sink = Sink { fails: true, ..Sink::default() };
        let log = AccessLog::start(Box::new(sink), Stamp::Time).expect("a thread can start");
        log.write(record(1));
        log.write(record(2));
        assert!(log.close());
        assert_eq!(log.dropped(), 2);
    }
}
