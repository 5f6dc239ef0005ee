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

    /// To be called when the output has grown, or the kernel has taken of it.
    ///
    /// # Errors
    /// When the time is zero.
    pub(crate) fn follow(&mut self, conn: &mut Connection) -> io::Result<()> {
        let waits = conn.unsent() > 0;
        if std::mem::replace(&mut self.set, waits) != waits {
            conn.set_write_stall_timeout(waits.then_some(self.limit))?;
        }
        Ok(())
    }
}
