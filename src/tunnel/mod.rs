//! A session and the connection that carries it.
//!
//! ```text
//!   user's or target's           Stream                Tunnel                    Carrier
//!   connection ──────────▶ exchange(|session| ..) ─▶ lock ─▶ session ─▶ wake ─▶ poll_transmit ─▶ WebSocket ─▶ socket
//!              ◀────────── wake ◀──── settle ◀─────── lock ◀─ session ◀──────── handle_input ◀── WebSocket ◀─ socket
//! ```
//! * The session stands behind one short lock that is never held over I/O or a callback. Whoever has used it settles
//!   what came of that: streams are woken, events for the side are queued, the carrier is woken to send.
//! * A [`Stream`] is owned by the one connection that it is joined to. Dropping it resets what is left of it.
//! * The carrier's connection owns the WebSocket. When it closes, for whatever reason, every stream is told, and then
//!   the side, once. A stream whose session ended is [`Broken::Lost`], whichever of the two it hears of first; but one that has
//!   ended both ways on the wire can be read to its end, however long that takes.
//! * Stopping: the session drains, so that the peer opens no more streams; the carrier leaves after the last one, behind
//!   all that there was to say of it.

mod carrier;
mod rest;
mod stream;
mod tally;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::proto::frame::{GoAwayCode, OpenRequest};
use crate::proto::ids::IdMap;
use crate::proto::session::{Event, OpenError, Session, StreamId};
use crate::rt::{self, Handle};

pub use carrier::{Carrier, CarrierContext, Down, Side};
use rest::{Rest, Waiting};
use stream::Notes;
pub use stream::{Broken, Stream, StreamWatcher, Watcher};
pub use tally::{Tally, Totals};

/// A session, as everyone who has a stream in it sees it.
pub struct Tunnel {
    inner: Mutex<Inner>,
    carrier: OnceLock<Handle>,
    label: Arc<str>,
    /// Copies of what stands behind the lock, for those who choose between tunnels.
    stream_count: AtomicUsize,
    room: AtomicU8,
}

/// What is to be expected of asking a tunnel for a stream, from the worst on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// It is not up, or it is a client's end.
    Gone,
    /// One of its sides is about to leave.
    Leaving,
    /// It has as many streams as it may, or too much to say.
    Full,
    /// There is room, but the peer has not answered for a while and may be gone.
    Doubtful,
    /// There is room.
    Free,
}

impl Room {
    /// By their numbers.
    const ALL: [Room; 5] = [Room::Gone, Room::Leaving, Room::Full, Room::Doubtful, Room::Free];
}

struct Inner {
    session: Session,
    /// When there was a connection to carry it; when it was made, until then.
    started: Instant,
    /// Streams that somebody owns. Those that the peer opened and nobody has taken on yet are in the session alone.
    streams: IdMap<Entry>,
    /// What the side has to be told, in order. The session bounds how many events a peer can cause.
    events: VecDeque<Event>,
    /// Watchers that the carrier has to call.
    calls: Vec<(StreamId, Arc<dyn StreamWatcher>)>,
    rest: Rest,
    /// No new streams, and the carrier closes after the last one.
    stopping: bool,
    /// The carrier is gone.
    lost: bool,
    /// The session has said that it is over: a stream that closes after that has outlived it.
    told_over: bool,
    /// Control frames of the WebSocket that came.
    ws_control: u64,
    /// What was counted when that was asked for last.
    told: Tally,
}

struct Entry {
    watcher: Watcher,
    notes: Arc<Mutex<Notes>>,
}

/// What settling left to do once the lock is released.
struct Settled {
    woken: Vec<Handle>,
    /// The carrier has something to send, or its side something to hear.
    carrier: bool,
}

impl Inner {
    /// Nothing keeps a carrier that stops.
    fn is_done(&self) -> bool {
        self.stopping && self.streams.is_empty() && self.session.stream_count() == 0
    }

    /// What there is for the carrier.
    fn waiting(&self) -> Waiting {
        Waiting {
            output: self.session.wants_transmit(),
            news: !self.events.is_empty() || !self.calls.is_empty() || self.is_done(),
        }
    }

    fn settle(&mut self) -> Settled {
        let mut woken = Vec::new();
        let mut last = None;
        while let Some(event) = self.session.poll_event() {
            let Some(id) = subject(&event) else {
                self.told_over |= matches!(event, Event::Lost(_));
                self.events.push_back(event);
                continue;
            };
            let Some(entry) = self.streams.get(&id.0) else {
                // A stream that the peer opened: the side attaches a watcher when it takes it on.
                if matches!(event, Event::Opened(..)) {
                    self.events.push_back(event);
                }
                continue;
            };
            let closed = matches!(event, Event::Closed(_));
            entry.notes.lock().note(event, self.session.end().is_some() && !self.told_over);
            // Several events in a row are one piece of news.
            if last.replace(id) != Some(id) {
                match &entry.watcher {
                    Watcher::Connection(handle) => woken.push(handle.clone()),
                    Watcher::Call(watcher) => self.calls.push((id, watcher.clone())),
                }
            }
            if closed {
                self.streams.remove(&id.0);
            }
        }
        let waiting = self.waiting();
        Settled { woken, carrier: self.rest.offer(waiting) }
    }
}

/// The stream that an event is about.
fn subject(event: &Event) -> Option<StreamId> {
    match event {
        Event::Opened(id, _)
        | Event::Accepted(id, _)
        | Event::Refused(id, _)
        | Event::Readable(id)
        | Event::Writable(id)
        | Event::Stopped(id, _)
        | Event::Reset(id, _)
        | Event::Closed(id) => Some(*id),
        _ => None,
    }
}

impl Tunnel {
    /// A tunnel whose carrier is about to be registered.
    pub fn new(session: Session, label: String) -> Arc<Tunnel> {
        let inner = Inner {
            session,
            started: rt::now(),
            streams: IdMap::default(),
            events: VecDeque::new(),
            calls: Vec::new(),
            // Its first turn looks at everything.
            rest: Rest::Awake,
            stopping: false,
            lost: false,
            told_over: false,
            ws_control: 0,
            told: Tally::default(),
        };
        Arc::new(Tunnel {
            inner: Mutex::new(inner),
            carrier: OnceLock::new(),
            label: label.into(),
            stream_count: AtomicUsize::new(0),
            room: AtomicU8::new(Room::Gone as u8),
        })
    }

    /// There is a connection: its time begins. What the dial took is no part of the handshake's time, nor of a life.
    fn begin(&self, now: Instant) {
        let inner = &mut *self.inner.lock();
        inner.started = now;
        inner.session.begin(now);
    }

    /// The session's label in the logs.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The same, to be kept.
    pub fn shared_label(&self) -> &Arc<str> {
        &self.label
    }

    /// The connection that carries it, once there is one.
    pub fn carrier(&self) -> Option<&Handle> {
        self.carrier.get()
    }

    /// How long its connection has been there.
    pub fn lived(&self) -> Duration {
        rt::since(self.inner.lock().started)
    }

    /// Streams that are open.
    pub fn stream_count(&self) -> usize {
        self.stream_count.load(Ordering::Relaxed)
    }

    /// What was counted since this was asked for last.
    fn tally(&self) -> Tally {
        let inner = &mut *self.inner.lock();
        let counted = Tally::new(&inner.session.stats(), inner.ws_control);
        counted - std::mem::replace(&mut inner.told, counted)
    }

    /// Whether it is worth asking for a stream: it is up, neither side is leaving, and it is not full.
    pub fn takes_streams(&self) -> bool {
        self.room() == Room::Free
    }

    /// What is to be expected of asking for a stream.
    pub fn room(&self) -> Room {
        Room::ALL[usize::from(self.room.load(Ordering::Relaxed))]
    }

    /// Uses the session, then wakes whomever that concerns.
    pub fn exchange<R>(&self, with: impl FnOnce(&mut Session) -> R) -> R {
        self.change(|inner| with(&mut inner.session))
    }

    /// Uses the session as a carrier does between two looks at it: nobody has heard of it yet.
    #[cfg(test)]
    pub(crate) fn unsettled<R>(&self, with: impl FnOnce(&mut Session) -> R) -> R {
        with(&mut self.inner.lock().session)
    }

    /// Whether a stream is still in the session.
    pub fn has_stream(&self, id: StreamId) -> bool {
        self.inner.lock().session.contains(id)
    }

    /// The one way to use what stands behind the lock: settled before it is released, told after.
    fn change<R>(&self, with: impl FnOnce(&mut Inner) -> R) -> R {
        let (result, settled) = {
            let inner = &mut *self.inner.lock();
            let result = with(inner);
            (result, self.settle(inner))
        };
        if settled.carrier
            && let Some(carrier) = self.carrier.get()
        {
            carrier.wake();
        }
        settled.woken.iter().for_each(Handle::wake);
        result
    }

    fn settle(&self, inner: &mut Inner) -> Settled {
        let settled = inner.settle();
        let room = match inner.session.room() {
            _ if inner.lost => Room::Gone,
            Err(OpenError::NotUp | OpenError::Role | OpenError::Host) => Room::Gone,
            Err(OpenError::Draining) => Room::Leaving,
            _ if inner.stopping => Room::Leaving,
            Err(OpenError::Limit | OpenError::Exhausted) => Room::Full,
            Ok(_) if inner.session.is_doubtful() => Room::Doubtful,
            Ok(_) => Room::Free,
        };
        self.stream_count.store(inner.streams.len(), Ordering::Relaxed);
        self.room.store(room as u8, Ordering::Relaxed);
        settled
    }

    /// Opens a stream to a target behind the client.
    ///
    /// # Errors
    /// As [`Session::open`]; a tunnel that is stopping or gone is not up.
    pub fn open(self: &Arc<Tunnel>, request: OpenRequest, watcher: Watcher) -> Result<Stream, OpenError> {
        self.change(|inner| {
            if inner.lost {
                return Err(OpenError::NotUp);
            }
            if inner.stopping {
                return Err(OpenError::Draining);
            }
            let id = inner.session.open(request)?;
            Ok(self.enter(inner, id, watcher))
        })
    }

    /// Takes on a stream that the peer opened; `None` when it has gone meanwhile.
    pub fn take_on(self: &Arc<Tunnel>, id: StreamId, watcher: Watcher) -> Option<Stream> {
        self.change(|inner| {
            let there = !inner.lost && inner.session.contains(id);
            there.then(|| self.enter(inner, id, watcher))
        })
    }

    fn enter(self: &Arc<Tunnel>, inner: &mut Inner, id: StreamId, watcher: Watcher) -> Stream {
        let notes = Arc::new(Mutex::new(Notes::default()));
        inner.streams.insert(id.0, Entry { watcher, notes: notes.clone() });
        Stream::new(self.clone(), id, notes)
    }

    /// News of a stream goes elsewhere from now on.
    fn watch(&self, id: StreamId, watcher: Watcher) {
        if let Some(entry) = self.inner.lock().streams.get_mut(&id.0) {
            entry.watcher = watcher;
        }
    }

    /// Ends the session, and every stream with it: also those that [outlive](Session::outlives) a session are lost, and nobody reads
    /// them on.
    pub fn revoke(&self, code: GoAwayCode, reason: &str) {
        self.change(|inner| {
            // Those that close now are lost, though the session may have said long ago that it is over.
            inner.told_over = false;
            inner.session.revoke(code, reason);
        });
    }

    /// No new streams from either side; the carrier leaves after the last one.
    fn stop(&self) {
        self.change(|inner| {
            inner.stopping = true;
            inner.session.drain();
        });
    }

    /// The carrier is gone: every stream is told how.
    fn lose(&self, how: Broken) {
        let (woken, calls) = {
            let inner = &mut *self.inner.lock();
            inner.lost = true;
            // First, so that closing the session finds no stream to speak of.
            let mut woken = Vec::new();
            let session = &inner.session;
            let mut streams: Vec<_> =
                inner.streams.extract_if(|id, _| !session.outlives(StreamId(*id))).collect();
            streams.sort_unstable_by_key(|(id, _)| *id);
            for (id, entry) in streams {
                entry.notes.lock().lose(how);
                match entry.watcher {
                    Watcher::Connection(handle) => woken.push(handle),
                    Watcher::Call(watcher) => inner.calls.push((StreamId(id), watcher)),
                }
            }
            inner.session.close(GoAwayCode::Stop, "");
            woken.extend(self.settle(inner).woken);
            (woken, std::mem::take(&mut inner.calls))
        };
        woken.iter().for_each(Handle::wake);
        calls.iter().for_each(|(id, watcher)| watcher.on_stream(*id));
    }
}
