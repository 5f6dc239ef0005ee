//! One stream of a tunnel, in the hands of the connection that it is joined to.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Tunnel;
use crate::proto::frame::{Opened, ResetCode};
use crate::proto::session::{Event, Refused, Session, StreamId};
use crate::rt::Handle;

/// Who is told that there is news of a stream.
#[derive(Clone)]
pub enum Watcher {
    /// A connection: it is woken.
    Connection(Handle),
    /// Something without a connection of its own: the carrier calls it, with no lock held.
    Call(Arc<dyn StreamWatcher>),
}

/// See [`Watcher::Call`].
pub trait StreamWatcher: Send + Sync {
    /// There is news of this stream.
    fn on_stream(&self, id: StreamId);
}

/// What happened to a stream apart from its bytes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    answer: Option<Result<Opened, Refused>>,
    broken: Option<Broken>,
    closed: bool,
}

impl Notes {
    pub(super) fn note(&mut self, event: Event, session_over: bool) {
        match event {
            Event::Accepted(_, opened) => self.answer = Some(Ok(opened)),
            Event::Refused(_, refused) => self.answer = Some(Err(refused)),
            Event::Reset(_, code) => self.broken = Some(Broken::Reset(code)),
            Event::Stopped(_, code) => self.broken = Some(Broken::Stopped(code)),
            Event::Closed(_) => {
                self.closed = true;
                // A session that ends takes its streams along, and says no more of each than this.
                if session_over {
                    self.broken.get_or_insert(Broken::Lost);
                }
            }
            _ => {}
        }
    }

    pub(super) fn lose(&mut self, how: Broken) {
        self.broken = Some(how);
        self.closed = true;
    }
}

/// How a stream came to an end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The other side broke it off.
    Reset(ResetCode),
    /// The other side wants no more of what this side sends.
    Stopped(ResetCode),
    /// The tunnel is gone.
    Lost,
}

/// One stream, owned by the connection that it is joined to.
pub struct Stream {
    tunnel: Arc<Tunnel>,
    id: StreamId,
    notes: Arc<Mutex<Notes>>,
    /// Both directions have ended: what is left goes out by itself.
    left: bool,
}

impl Stream {
    pub(super) fn new(tunnel: Arc<Tunnel>, id: StreamId, notes: Arc<Mutex<Notes>>) -> Stream {
        Stream { tunnel, id, notes, left: false }
    }

    /// The stream's number in its session.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The tunnel that it goes through.
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    /// The target's answer, when it has come: given once.
    pub fn take_answer(&self) -> Option<Result<Opened, Refused>> {
        self.notes.lock().answer.take()
    }

    /// Whether it broke.
    pub fn broken(&self) -> Option<Broken> {
        self.notes.lock().broken
    }

    /// Whether it has left the session's table.
    pub fn is_closed(&self) -> bool {
        self.notes.lock().closed
    }

    /// News of this stream goes there from now on. Look at it once afterwards: there may have been news before.
    pub fn watch(&self, watcher: Watcher) {
        self.tunnel.watch(self.id, watcher);
    }

    /// Uses the session on behalf of this stream.
    pub fn exchange<R>(&self, with: impl FnOnce(&mut Session, StreamId) -> R) -> R {
        let id = self.id;
        self.tunnel.exchange(|session| with(session, id))
    }

    /// Lets go of a stream of which both directions have ended: what is queued still goes out.
    pub fn leave(&mut self) {
        self.left = true;
    }

    /// Breaks it off, unless it was left before.
    pub fn abandon(&self, code: ResetCode) {
        if !self.left {
            self.reset(code);
        }
    }

    /// Breaks it off behind what is queued, unless it was left before. What is queued still goes out by itself.
    pub fn abandon_behind(&mut self, code: ResetCode) {
        if !std::mem::replace(&mut self.left, true) && !self.is_closed() {
            self.exchange(|session, id| session.reset_behind(id, code));
        }
    }

    /// Breaks it off.
    pub fn reset(&self, code: ResetCode) {
        if !self.is_closed() {
            self.exchange(|session, id| session.reset(id, code));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.left {
            self.reset(ResetCode::Cancelled);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} {})", self.tunnel.label(), self.id)
    }
}
