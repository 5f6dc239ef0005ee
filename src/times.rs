//! How long the two ends of a stream wait for the connection beside it.
//!
//! | what | counts | default |
//! |---|---|---|
//! | connect | reaching a target, all its addresses together | 30 s |
//! | write stall | output that waits while the kernel takes not one byte of it | 30 s |
//! | idle | not one byte either way, on the user's side | for ever |
//!
//! A transfer that moves is never cut, however slow it is. A peer that has stopped reading is given up, and what it still
//! sends is taken until then.

use std::io;
use std::time::Duration;

use crate::limits::{CONNECT_TIMEOUT_MS, WRITE_STALL_MS};
use crate::record::Ingress;
use crate::rt::{Connection, Prepare};

/// Whether a deadline can be armed on a stream's connection: one that somebody has closed meanwhile has none. That is no fault:
/// it is said at DEBUG, and the caller returns, since nothing but the last callback follows.
#[must_use]
pub(crate) fn can_arm(conn: &Connection, conn_id: Option<u64>) -> bool {
    let closed = conn.handle().is_closed();
    if closed && let Some(conn_id) = conn_id {
        log::debug!(event = "stream", conn_id = crate::conn_label(conn_id); "no deadline: it is closed already");
    }
    !closed
}

/// The times of one end. None of them is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For reaching a target.
    pub connect: Duration,
    /// For output that waits.
    pub write_stall: Duration,
    /// For users' connections on which nothing moves.
    pub idle: Idle,
}

/// When a user's connection is closed because nothing moves on it, by the way it came; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// The HTTP proxy: between requests, during one, and behind CONNECT.
    pub http: Option<Duration>,
    /// The SOCKS5 proxy.
    pub socks: Option<Duration>,
    /// Forwarded TCP ports.
    pub forward: Option<Duration>,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            connect: Duration::from_millis(CONNECT_TIMEOUT_MS),
            write_stall: Duration::from_millis(WRITE_STALL_MS),
            idle: Idle::default(),
        }
    }
}

impl Idle {
    /// That of one way in.
    pub fn of(&self, ingress: Ingress) -> Option<Duration> {
        match ingress {
            Ingress::Http => self.http,
            Ingress::Socks => self.socks,
            Ingress::Forward => self.forward,
        }
    }
}

impl Times {
    /// What a user's connection is given from the start.
    ///
    /// # Errors
    /// When a time is zero.
    pub(crate) fn prepare(&self, ingress: Ingress, conn: &mut Prepare<'_>) -> io::Result<()> {
        // A limit costs an idle connection memory: one that is not asked for is not set.
        match self.idle.of(ingress) {
            Some(idle) => conn.set_idle_timeout(Some(idle)),
            None => Ok(()),
        }
    }
}

/// Gives a peer up that reads nothing: a limit that is there only while there is something to read.
#[derive(Debug)]
pub(crate) struct Stall {
    limit: Duration,
    set: bool,
}

impl Stall {
    pub(crate) fn new(times: &Times) -> Stall {
        Stall { limit: times.write_stall, set: false }
    }

    /// To be called when the output has grown, or the kernel has taken of it. Says whether the connection is there still: the
    /// limit of one that is closed [cannot be armed](can_arm), and its handler returns.
    ///
    /// # Errors
    /// When the time is zero.
    pub(crate) fn follow(&mut self, conn: &mut Connection, conn_id: Option<u64>) -> io::Result<bool> {
        let waits = conn.unsent() > 0;
        if std::mem::replace(&mut self.set, waits) != waits {
            if waits && !can_arm(conn, conn_id) {
                return Ok(false);
            }
            conn.set_write_stall_timeout(waits.then_some(self.limit))?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{self, Closed, EventLoop, Handler, Reject, TcpListener};
    use crossbeam_channel::{Receiver, Sender, unbounded};
    use std::net::TcpStream;
    use std::sync::Mutex;

    /// What the lines of streams said in this process, each behind its conn_id.
    struct Lines;

    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    impl log::Log for Lines {
        fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if let Some(conn_id) = record.key_values().get("conn_id".into()) {
                let line = format!("{} {conn_id} {}", record.level(), record.args());
                LINES.lock().expect("no holder panics").push(line);
            }
        }

        fn flush(&self) {}
    }

    /// Sends more than the kernel takes, and is closed by somebody else before it looks how long that may wait.
    struct Overtaken(Sender<io::Result<bool>>);

    impl Handler for Overtaken {
        type Context = Stall;

        fn on_prepare(&self, _conn: &mut Prepare<'_>) -> Result<Stall, Reject> {
            Ok(Stall::new(&Times::default()))
        }

        fn on_connect(&self, stall: &mut Stall, conn: &mut Connection) -> rt::Result {
            conn.output().write_bytes(vec![0; 64 << 20].into());
            conn.flush()?;
            assert!(conn.unsent() > 0, "the kernel has room for less");
            let handle = conn.handle();
            std::thread::scope(|scope| scope.spawn(move || handle.abort()).join()).expect("no panic");
            for conn_id in [Some(ID), None] {
                self.0.send(stall.follow(conn, conn_id)).expect("the test listens");
            }
            Ok(())
        }

        fn on_request(&self, _stall: &mut Stall, _conn: &mut Connection) -> rt::Result {
            Err("it is closed".into())
        }

        fn on_close(&self, _stall: &mut Stall, info: &Closed) {
            assert_eq!(info.reason, rt::Reason::User);
            self.0.send(Ok(false)).expect("the test listens");
        }
    }

    /// No other test here has it.
    const ID: u64 = 0x5_04;

    fn next(told: &Receiver<io::Result<bool>>) -> bool {
        told.recv_timeout(Duration::from_secs(60)).expect("it goes on").expect("the limit is not zero")
    }

    // proves S-04: a deadline that cannot be armed is no fault: one line at DEBUG that says of which stream, and the end
    #[test]
    fn a_deadline_on_what_somebody_has_closed_is_one_quiet_line() {
        log::set_logger(&Lines).expect("no other test of the library has one");
        log::set_max_level(log::LevelFilter::Debug);
        let event_loop = EventLoop::builder().polls(1).build().expect("there are threads");
        let (tell, told) = unbounded();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let addr = event_loop.serve(listener, Overtaken(tell)).expect("it runs").local_addr();
        let user = TcpStream::connect(addr).expect("it listens");
        assert!(!next(&told), "it is closed");
        assert!(next(&told), "whoever asks again has nothing to arm");
        assert!(!next(&told), "and that is the end");
        drop(user);
        assert!(event_loop.shutdown(Duration::from_secs(60)));
        let label = crate::conn_label(ID);
        let lines = LINES.lock().expect("no holder panics").clone();
        let said: Vec<&String> = lines.iter().filter(|line| line.contains(&label)).collect();
        assert_eq!(said, [&format!("DEBUG {label} no deadline: it is closed already")]);
    }
}
