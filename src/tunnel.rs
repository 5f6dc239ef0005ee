//! A session and the connection that carries it.
//!
//! ```text
//!   user's or target's           Stream                Tunnel                    carrier (this file's handler)
//!   connection ──────────▶ exchange(|session| ..) ─▶ lock ─▶ session ─▶ wake ─▶ poll_transmit ─▶ WebSocket ─▶ socket
//!              ◀────────── wake ◀──── settle ◀─────── lock ◀─ session ◀──────── handle_input ◀── WebSocket ◀─ socket
//! ```
//! * The session stands behind one short lock that is never held over I/O or a callback. Whoever has used it settles
//!   what came of that: streams are woken, events for the side are queued, the carrier is woken to send.
//! * A [`Stream`] is owned by the one connection that it is joined to. Dropping it resets what is left of it.
//! * The carrier's connection owns the WebSocket. When it closes, for whatever reason, every stream is told, and then
//!   the side, once.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use linkbuffer::LinkBuffer;
use parking_lot::Mutex;
use poller::{Closed, Connection, Handle, Handler, Prepare, Reject};

use crate::limits::{TUNNEL_MESSAGE_BYTES, TUNNEL_OUTPUT_BYTES, TUNNEL_TURN_BYTES_MAX};
use crate::proto::frame::{GoAwayCode, OpenRequest, Opened, ResetCode};
use crate::proto::session::{self, Event, OpenError, Refused, Session, StreamId};
use crate::proto::ws::{self, WebSocket};

/// A session, as everyone who has a stream in it sees it.
pub struct Tunnel {
    inner: Mutex<Inner>,
    carrier: OnceLock<Handle>,
    label: String,
    started: Instant,
}

struct Inner {
    session: Session,
    streams: HashMap<StreamId, Entry>,
    /// What the side has to be told, in order. The session bounds how many events a peer can cause.
    events: VecDeque<Event>,
    /// Watchers that the carrier has to call.
    calls: Vec<(StreamId, Arc<dyn StreamWatcher>)>,
    /// No new streams, and the carrier closes after the last one.
    stopping: bool,
    /// The carrier is gone.
    lost: bool,
}

struct Entry {
    watcher: Watcher,
    notes: Arc<Mutex<Notes>>,
}

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
struct Notes {
    answer: Option<Result<Opened, Refused>>,
    broken: Option<Broken>,
    closed: bool,
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

/// What settling left to do once the lock is released.
struct Settled {
    woken: Vec<Handle>,
    /// The carrier has something to send, or its side something to hear.
    carrier: bool,
}

impl Inner {
    fn settle(&mut self) -> Settled {
        let mut woken = Vec::new();
        let mut last = None;
        while let Some(event) = self.session.poll_event() {
            let Some(id) = subject(&event) else {
                self.events.push_back(event);
                continue;
            };
            let Some(entry) = self.streams.get(&id) else {
                // A stream that the peer opened: the side attaches a watcher when it takes it on.
                if matches!(event, Event::Opened(..)) {
                    self.events.push_back(event);
                }
                continue;
            };
            {
                let mut notes = entry.notes.lock();
                match event {
                    Event::Accepted(_, opened) => notes.answer = Some(Ok(opened)),
                    Event::Refused(_, refused) => notes.answer = Some(Err(refused)),
                    Event::Reset(_, code) => notes.broken = Some(Broken::Reset(code)),
                    Event::Stopped(_, code) => notes.broken = Some(Broken::Stopped(code)),
                    Event::Closed(_) => {
                        notes.closed = true;
                        if self.session.end().is_some() {
                            // The session took it along: nobody said anything about the stream itself.
                            notes.broken.get_or_insert(Broken::Lost);
                        }
                    }
                    _ => {}
                }
            }
            // Several events in a row are one piece of news.
            if last.replace(id) != Some(id) {
                match &entry.watcher {
                    Watcher::Connection(handle) => woken.push(handle.clone()),
                    Watcher::Call(watcher) => self.calls.push((id, watcher.clone())),
                }
            }
            if matches!(event, Event::Closed(_)) {
                self.streams.remove(&id);
            }
        }
        let carrier = self.session.wants_transmit()
            || !self.events.is_empty()
            || !self.calls.is_empty()
            || self.is_done();
        Settled { woken, carrier }
    }

    /// It is stopping, and no stream is left, not even one whose target is still being reached.
    fn is_done(&self) -> bool {
        self.stopping && self.session.stream_count() == 0
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

impl Settled {
    fn wake_streams(self) {
        self.woken.iter().for_each(Handle::wake);
    }
}

impl Tunnel {
    /// A tunnel whose carrier is about to be registered.
    pub fn new(session: Session, label: String) -> Arc<Tunnel> {
        let inner = Inner {
            session,
            streams: HashMap::new(),
            events: VecDeque::new(),
            calls: Vec::new(),
            stopping: false,
            lost: false,
        };
        Arc::new(Tunnel {
            inner: Mutex::new(inner),
            carrier: OnceLock::new(),
            label,
            started: Instant::now(),
        })
    }

    /// The session's label in the logs.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The connection that carries it, once there is one.
    pub fn carrier(&self) -> Option<&Handle> {
        self.carrier.get()
    }

    /// Streams that are open.
    pub fn stream_count(&self) -> usize {
        self.inner.lock().streams.len()
    }

    /// Whether a stream can be opened: it is up, and neither side is stopping.
    pub fn takes_streams(&self) -> bool {
        let inner = self.inner.lock();
        !inner.stopping && inner.session.is_up() && !inner.session.is_draining()
    }

    /// Uses the session, then wakes whomever that concerns.
    pub fn exchange<R>(&self, with: impl FnOnce(&mut Session) -> R) -> R {
        let (result, settled) = {
            let mut inner = self.inner.lock();
            let result = with(&mut inner.session);
            (result, inner.settle())
        };
        self.finish(settled);
        result
    }

    fn finish(&self, settled: Settled) {
        if settled.carrier
            && let Some(carrier) = self.carrier.get()
        {
            carrier.wake();
        }
        settled.wake_streams();
    }

    /// Opens a stream to a target behind the client.
    ///
    /// # Errors
    /// As [`Session::open`]; a tunnel that is stopping or gone is not up.
    pub fn open(self: &Arc<Tunnel>, request: OpenRequest, watcher: Watcher) -> Result<Stream, OpenError> {
        let (stream, settled) = {
            let mut inner = self.inner.lock();
            if inner.lost {
                return Err(OpenError::NotUp);
            }
            if inner.stopping {
                return Err(OpenError::Draining);
            }
            let id = inner.session.open(request)?;
            (self.enter(&mut inner, id, watcher), inner.settle())
        };
        self.finish(settled);
        Ok(stream)
    }

    /// Takes on a stream that the peer opened; `None` when it has gone meanwhile.
    pub fn take_on(self: &Arc<Tunnel>, id: StreamId, watcher: Watcher) -> Option<Stream> {
        let mut inner = self.inner.lock();
        if inner.lost || !inner.session.contains(id) {
            return None;
        }
        Some(self.enter(&mut inner, id, watcher))
    }

    /// Whether the session still has this stream.
    pub fn contains(&self, id: StreamId) -> bool {
        self.inner.lock().session.contains(id)
    }

    /// Tells `watcher` of a stream that the peer opened, until somebody takes it on.
    pub fn watch(&self, id: StreamId, watcher: Arc<dyn StreamWatcher>) {
        let mut inner = self.inner.lock();
        if !inner.lost && inner.session.contains(id) {
            inner.streams.insert(id, Entry { watcher: Watcher::Call(watcher), notes: Arc::default() });
        }
    }

    fn enter(self: &Arc<Tunnel>, inner: &mut Inner, id: StreamId, watcher: Watcher) -> Stream {
        let notes = Arc::new(Mutex::new(Notes::default()));
        inner.streams.insert(id, Entry { watcher, notes: notes.clone() });
        Stream { tunnel: self.clone(), id, notes, left: false }
    }

    /// The carrier is gone: every stream is told.
    fn lose(&self) {
        let (woken, calls) = {
            let inner = &mut *self.inner.lock();
            inner.lost = true;
            // First, so that closing the session finds no stream to speak of.
            let mut woken = Vec::new();
            for (id, entry) in inner.streams.drain() {
                let mut notes = entry.notes.lock();
                notes.broken = Some(Broken::Lost);
                notes.closed = true;
                match entry.watcher {
                    Watcher::Connection(handle) => woken.push(handle),
                    Watcher::Call(watcher) => inner.calls.push((id, watcher)),
                }
            }
            inner.session.close(GoAwayCode::Stop, "");
            (woken, std::mem::take(&mut inner.calls))
        };
        woken.iter().for_each(Handle::wake);
        calls.iter().for_each(|(id, watcher)| watcher.on_stream(*id));
    }
}

impl Stream {
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

    /// News of this stream goes to this connection from now on; it is woken at once, in case there was news before.
    pub fn watch(&self, handle: &Handle) {
        if let Some(entry) = self.tunnel.inner.lock().streams.get_mut(&self.id) {
            entry.watcher = Watcher::Connection(handle.clone());
        }
        handle.wake();
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
        write!(f, "Stream({} {})", self.tunnel.label, self.id)
    }
}

/// What is different between the two ends of a tunnel.
pub trait Side: Send + Sync + Sized + 'static {
    /// Makes the two machines for a new carrier.
    ///
    /// # Errors
    /// When the system gives no random numbers; the connection is then refused.
    fn begin(&self, peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)>;

    /// Both sides have proved themselves.
    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>);

    /// An event that is not about a stream with a watcher: a stream that the peer opened, or a port.
    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event);

    /// The carrier is gone; every stream has been told.
    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, down: &Down);
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct Down {
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// Whether it had been up.
    pub was_up: bool,
    /// How long it had been there.
    pub lived: Duration,
    /// Why, for people.
    pub why: String,
    /// One of the two sides ended it on purpose.
    pub on_purpose: bool,
    /// Trying again is pointless until somebody changes something.
    pub fatal: bool,
    /// Bytes sent and received by the carrier.
    pub bytes: (u64, u64),
}

/// The carrier's handler, for either side.
pub struct Carrier<S>(pub Arc<S>);

/// What belongs to one carrier.
pub struct CarrierContext {
    ws: WebSocket,
    tunnel: Arc<Tunnel>,
    up: bool,
    /// Why it ends, as soon as that is known.
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Session(session::Error),
    WebSocket(ws::Error),
    /// The peer said goodbye.
    Peer(String),
    /// This side did.
    Purpose,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Session(error) => error.fmt(f),
            End::WebSocket(error) => error.fmt(f),
            End::Peer(words) => f.write_str(words),
            End::Purpose => f.write_str("closed by this side"),
        }
    }
}

impl<S: Side> Handler for Carrier<S> {
    type Context = CarrierContext;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<CarrierContext, Reject> {
        let (ws, tunnel) = self.0.begin(conn.peer_addr()).map_err(|error| Reject(error.to_string()))?;
        Ok(CarrierContext { ws, tunnel, up: false, end: None })
    }

    fn on_connect(&self, cx: &mut CarrierContext, conn: &mut Connection) -> poller::Result {
        if cx.tunnel.carrier.set(conn.handle()).is_err() {
            return Err("a tunnel has one carrier".into());
        }
        self.advance(cx, conn)
    }

    fn on_request(&self, cx: &mut CarrierContext, conn: &mut Connection) -> poller::Result {
        if cx.end.is_none() {
            cx.receive(conn);
        }
        self.advance(cx, conn)
    }

    fn on_timer(&self, cx: &mut CarrierContext, conn: &mut Connection) -> poller::Result {
        let outcome = cx.tunnel.inner.lock().session.handle_timeout(Instant::now());
        if let Err(error) = outcome {
            cx.end.get_or_insert(End::Session(error));
        }
        self.advance(cx, conn)
    }

    fn on_shutdown(&self, cx: &mut CarrierContext, conn: &mut Connection) -> poller::Result {
        {
            let mut inner = cx.tunnel.inner.lock();
            inner.stopping = true;
            // The other side is told, so that it asks for nothing that would not be done any more.
            inner.session.drain();
        }
        self.advance(cx, conn)
    }

    fn on_close(&self, cx: &mut CarrierContext, info: &Closed) {
        cx.tunnel.lose();
        let fatal = match &cx.end {
            Some(End::Session(error)) => !error.retry(),
            _ => false,
        };
        let said = cx.tunnel.inner.lock().session.is_draining();
        let on_purpose = said
            || matches!(cx.end, Some(End::Purpose | End::Peer(_)))
            || info.reason == poller::Reason::Shutdown;
        let why = match &cx.end {
            Some(end) => end.to_string(),
            None => info.reason.to_string(),
        };
        let lived = cx.tunnel.started.elapsed();
        let bytes = (info.bytes_out, info.bytes_in);
        self.0.on_down(
            &cx.tunnel,
            &Down { peer: info.peer, was_up: cx.up, lived, why, on_purpose, fatal, bytes },
        );
    }
}

impl CarrierContext {
    /// From the socket through the WebSocket into the session.
    fn receive(&mut self, conn: &mut Connection) {
        let now = Instant::now();
        let taken = self.ws.handle_input(conn.input());
        while let Some(message) = self.ws.poll_message() {
            let outcome = self.tunnel.inner.lock().session.handle_input(message, now);
            if let Err(error) = outcome {
                self.end.get_or_insert(End::Session(error));
                return;
            }
        }
        let ended = match conn.input_ended() {
            true => taken.and_then(|()| self.ws.handle_end()),
            false => taken,
        };
        if let Err(error) = ended {
            self.end.get_or_insert(End::WebSocket(error));
        } else if self.ws.is_closed() {
            let words = match self.ws.peer_close() {
                Some((code, words)) => format!("closed by the peer: {code} {words}"),
                None => "closed by the peer".into(),
            };
            self.end.get_or_insert(End::Peer(words));
        }
    }

    /// From the session through the WebSocket to the socket, as far as the kernel takes it.
    fn transmit(&mut self, conn: &mut Connection) -> poller::Result {
        let mut sent = 0;
        loop {
            self.ws.poll_output(conn.output());
            let mut more = self.ws.is_open();
            while more && conn.output().len() < TUNNEL_OUTPUT_BYTES {
                let mut message = LinkBuffer::new();
                let bytes =
                    self.tunnel.inner.lock().session.poll_transmit(TUNNEL_MESSAGE_BYTES, &mut message);
                more = bytes > 0;
                sent += bytes;
                if more {
                    self.ws.send(message)?;
                    self.ws.poll_output(conn.output());
                }
            }
            conn.flush()?;
            if !conn.output().is_empty() {
                conn.wake_on_progress();
                return Ok(());
            }
            if !more {
                return Ok(());
            }
            if sent >= TUNNEL_TURN_BYTES_MAX {
                // Others first.
                conn.handle().wake();
                return Ok(());
            }
        }
    }
}

impl<S: Side> Carrier<S> {
    /// Does everything that can be done now: tells the side, sends, sets the timer, ends.
    fn advance(&self, cx: &mut CarrierContext, conn: &mut Connection) -> poller::Result {
        loop {
            let (settled, events, calls) = {
                let mut inner = cx.tunnel.inner.lock();
                let settled = inner.settle();
                (settled, std::mem::take(&mut inner.events), std::mem::take(&mut inner.calls))
            };
            settled.wake_streams();
            if events.is_empty() && calls.is_empty() {
                break;
            }
            for (id, watcher) in calls {
                watcher.on_stream(id);
            }
            for event in events {
                self.tell(cx, event);
            }
        }
        if let Some(end) = &cx.end {
            let (code, words) = match end {
                End::Session(error) => (error.close_code(), error.to_string()),
                _ => (1000, String::new()),
            };
            // Last words, such as why a client is refused, go out before the close.
            cx.transmit(conn)?;
            cx.ws.close(code, &words);
            cx.ws.poll_output(conn.output());
            conn.flush()?;
            match conn.output().is_empty() {
                true => conn.close(),
                // Who does not read hears no last words. The side is told now, and not when the close gives up.
                false => conn.abort(),
            }
            return Ok(());
        }
        cx.transmit(conn)?;
        let (settled, deadline, done) = {
            let mut inner = cx.tunnel.inner.lock();
            let settled = inner.settle();
            (settled, inner.session.poll_timeout(), inner.is_done())
        };
        let events = settled.carrier;
        settled.wake_streams();
        match deadline {
            Some(at) => conn.set_timer_at(at),
            None => conn.clear_timer(),
        }
        if done {
            cx.end = Some(End::Purpose);
            cx.tunnel.inner.lock().session.close(GoAwayCode::Stop, "");
            cx.transmit(conn)?;
            cx.ws.close(1001, "stopping");
            cx.ws.poll_output(conn.output());
            conn.close();
        } else if events && conn.output().is_empty() {
            // Sending made room or news: look again.
            conn.handle().wake();
        }
        Ok(())
    }

    fn tell(&self, cx: &mut CarrierContext, event: Event) {
        match event {
            Event::Up => {
                cx.up = true;
                self.0.on_up(&cx.tunnel);
            }
            Event::Lost(session::Lost::PeerClosed(code, words)) => {
                cx.end.get_or_insert(End::Peer(format!("closed by the peer: {code:?} {words}")));
            }
            Event::Lost(session::Lost::Failed(error)) => {
                cx.end.get_or_insert(End::Session(error));
            }
            Event::Lost(session::Lost::Closed(_)) => {
                cx.end.get_or_insert(End::Purpose);
            }
            Event::Draining => {}
            event => self.0.on_event(&cx.tunnel, event),
        }
    }
}
