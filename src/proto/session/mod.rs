//! One tunnel between one client and the gateway, as a state machine that does no I/O.
//!
//! * `handle_*` takes what happened: bytes arrived, a deadline passed.
//! * `open`, `write`, `reset`, ... take what the application wants.
//! * `poll_*` gives what to do next: bytes to send, events, the next deadline. Call them after each of the above until they give nothing.
//! * The rest looks and changes nothing.
//!
//! ```text
//!   client      AwaitWelcome ──WELCOME / AUTH──▶ AwaitAuthOk ──AUTH_OK──▶ Up
//!   gateway     AwaitHello ──HELLO / WELCOME──▶ AwaitAuth ──AUTH──▶ AwaitPlace ──admit / AUTH_OK──▶ Up
//!
//!   any ──close, GOAWAY, an error──▶ over: each stream is Closed, then the session Lost; a stream that `outlives` is Closed later
//! ```
//!
//! The stream table has one owner, this. A stream leaves it in `Session::remove` and nowhere else: look-up and removal are one step, and
//! the clean-up is what that step found. The numbers of streams only grow, each one more than the last by two, so a number below the
//! next one that is not in the table belongs to a stream that was closed: late frames are told from wrong ones without a memory.

mod control;
mod datagrams;
mod event;
mod handshake;
mod held;
mod liveness;
mod ports;
mod streams;
#[cfg(test)]
mod tests;
mod transmit;

pub use event::{Error, Event, Flood, Lost, OpenError, Refused, StreamError, StreamId};
pub use handshake::{
    Binding, ClientConfig, FEATURE_BINDING, FEATURES, GatewayConfig, Peer, VERSION_NEWEST, VERSION_OLDEST,
};
pub use streams::Read;

use super::budget::{WindowBudget, Windows};
use super::frame::{AuthErr, AuthErrCode, Decoder, Frame, GoAway, GoAwayCode, Head, Kind, Piece};
use super::ids::IdMap;
use super::rate::Rate;
use super::stream::{Sending, Stream};
use crate::limits::{
    EVENT_QUEUE_LEN_MAX, HANDSHAKE_MS, PORT_OPENS_PER_S_MAX, SMALL_CREDITS_PER_S_MAX, STREAMS_MAX,
};
use bytes::Bytes;
use control::ControlQueue;
use datagrams::Holdings;
use handshake::Phase;
use liveness::Liveness;
use ports::Ports;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which end of the tunnel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Dials the gateway and reaches targets.
    Client,
    /// Takes tunnels and opens streams.
    Gateway,
}

/// What a session counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that arrived on the tunnel.
    pub bytes_in: u64,
    /// Bytes that were given out to be sent.
    pub bytes_out: u64,
    /// Frames that arrived.
    pub frames_in: u64,
    /// Frames that were given out to be sent.
    pub frames_out: u64,
    /// Streams that were opened.
    pub streams_opened: u64,
    /// Streams that left the table.
    pub streams_closed: u64,
    /// OPENs that the client refused because of a limit, or because it was leaving.
    pub streams_refused: u64,
    /// Frames for streams and ports that were gone already.
    pub late_frames: u64,
    /// Datagrams that made room for newer ones.
    pub datagrams_dropped: u64,
}

/// One side of a tunnel.
#[derive(Debug)]
pub struct Session {
    role: Role,
    phase: Phase,
    /// How the session ended, once it has. Invariant: then the ports and all queues but `control` and `events` are
    /// empty, and in the table are only streams that [outlive](Self::outlives) it.
    end: Option<Lost>,
    handshake_deadline: Instant,
    liveness: Liveness,
    decoder: Decoder,
    peer: Option<Peer>,
    /// The application says whether there is a place for the peer.
    asks_for_place: bool,

    /// The streams. Boxed, because up to half of a table is empty. Invariant: every number in it is odd and less than `next_id`.
    table: IdMap<Box<Stream>>,
    /// Gateway: the number of the next stream. Client: the number that the next OPEN must have.
    next_id: u64,
    streams_max: usize,
    /// Streams that have something to send, in the order of their turns. One that left the table is passed over when its turn comes:
    /// its number is never another stream's. Invariant: those in the table are marked `scheduled`, and listed once.
    turns: VecDeque<u32>,
    /// Streams that have credit to give, as above; marked `credit_queued`.
    credits: VecDeque<u32>,
    ports: Ports,
    /// PORT_OPENs of the peer.
    port_opens: Rate,
    draining: bool,
    peer_draining: bool,
    datagrams: Holdings,
    /// Of the budgets. Invariant: as much is used as the windows of the streams in the table hold.
    windows: Windows,
    /// WINDOWs of the peer with hardly any credit.
    small_credits: Rate,

    /// Whole frames that go out before any DATA. Invariant: control.len() ≤ CONTROL_QUEUE_LEN_MAX.
    control: ControlQueue,
    /// The answer to the last PING; an older one that was not sent yet is not worth sending.
    pong: Option<u64>,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Session {
    fn new(role: Role, phase: Phase, now: Instant) -> Self {
        Self {
            role,
            phase,
            end: None,
            handshake_deadline: now + Duration::from_millis(HANDSHAKE_MS),
            liveness: Liveness::new(role, now),
            decoder: Decoder::default(),
            peer: None,
            asks_for_place: false,
            table: IdMap::default(),
            next_id: 1,
            streams_max: STREAMS_MAX,
            turns: VecDeque::new(),
            credits: VecDeque::new(),
            ports: Ports::new(),
            port_opens: Rate::new(PORT_OPENS_PER_S_MAX),
            draining: false,
            peer_draining: false,
            datagrams: Holdings::default(),
            windows: Windows::default(),
            small_credits: Rate::new(SMALL_CREDITS_PER_S_MAX),
            control: ControlQueue::default(),
            pong: None,
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Lets the windows of this session count against a budget that it shares with others, instead of one of its own. To be called
    /// before there are streams.
    pub fn with_budget(mut self, budget: Arc<WindowBudget>) -> Self {
        debug_assert!(self.windows.used() == 0, "no stream has a window yet");
        self.windows = Windows::new(budget);
        self
    }

    // ---- what happened

    /// Says that the connection to the peer is there, where the session was made before: the handshake has all of its
    /// time from now on. Does nothing once the handshake is done.
    pub fn begin(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Up) {
            self.handshake_deadline = now + Duration::from_millis(HANDSHAKE_MS);
            self.liveness = Liveness::new(self.role, now);
        }
    }

    /// Takes bytes that arrived from the peer, in order, cut anywhere. Bytes after the end of the session are dropped.
    ///
    /// # Errors
    /// When the peer broke the protocol, could not prove itself, or refused us. The session is over: the caller sends what
    /// [`poll_transmit`](Self::poll_transmit) still gives and drops the connection.
    pub fn handle_input(&mut self, input: Bytes, now: Instant) -> Result<(), Error> {
        if let Some(end) = &self.end {
            return if let Lost::Failed(error) = end { Err(error.clone()) } else { Ok(()) };
        }
        self.stats.bytes_in += input.len() as u64;
        self.decoder.push(input);
        while self.end.is_none() {
            match self.handle_next_frame(now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(())
    }

    /// Takes the end of a message of the carrier. What came since the last one was whole frames.
    ///
    /// # Errors
    /// When it was not. The session is over.
    pub fn handle_message_end(&mut self) -> Result<(), Error> {
        match self.end.is_some() || self.decoder.is_between_frames() {
            true => Ok(()),
            false => Err(self.fail(Error::Cut)),
        }
    }

    /// Looks at the clock; to be called when [`poll_timeout`](Self::poll_timeout) says, and harmless at any other time.
    ///
    /// # Errors
    /// When the peer did not finish the handshake in time or does not answer any more. The session is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(end) = &self.end {
            return if let Lost::Failed(error) = end { Err(error.clone()) } else { Ok(()) };
        }
        let result = match self.phase {
            Phase::Up => self.liveness.handle_timeout(now),
            _ if now >= self.handshake_deadline => Err(Error::HandshakeTimeout),
            _ => Ok(()),
        };
        result.map_err(|error| self.fail(error))
    }

    // ---- what the application wants of the session as a whole

    /// Says that no new streams are wanted; those that are open go on. OPENs that cross this are refused.
    pub fn drain(&mut self) {
        if self.is_up() && !self.draining {
            self.draining = true;
            self.control(&Frame::GoAway(GoAway { code: GoAwayCode::Drain, reason: String::new() }), 0);
        }
    }

    /// Ends the session and its streams: one farewell is still to be sent, and nothing after it. What the streams had queued is
    /// dropped. Does nothing when the session is over. Streams that [want nothing more of the peer](Self::outlives) can be read on.
    ///
    /// # Panics
    /// Never with a code that ends a session; `Drain` is [`drain`](Self::drain).
    pub fn close(&mut self, code: GoAwayCode, reason: &str) {
        assert!(code != GoAwayCode::Drain, "draining does not end a session");
        let refusal = match code {
            GoAwayCode::Replaced => Some(AuthErrCode::Replaced),
            GoAwayCode::Stop => Some(AuthErrCode::Stopping),
            _ => None,
        };
        let reason = reason.to_owned();
        let farewell = match refusal {
            Some(code) if self.role == Role::Gateway && !self.is_up() => {
                Frame::AuthErr(AuthErr { retry: true, code, reason })
            }
            _ => Frame::GoAway(GoAway { code, reason }),
        };
        self.finish_session(Lost::Closed(code), Some(farewell));
    }

    /// As [`close`](Self::close), but nothing of any stream is given to anybody any more: the peer, or who uses its streams, has lost
    /// the right to them.
    ///
    /// # Panics
    /// As `close`.
    pub fn revoke(&mut self, code: GoAwayCode, reason: &str) {
        self.end_streams(false);
        self.close(code, reason);
    }

    /// Turns a client away that is not up, because there is no place for it. It may try again.
    pub fn turn_away(&mut self, code: AuthErrCode, reason: &str) {
        let farewell = AuthErr { retry: true, code, reason: reason.to_owned() };
        if self.role == Role::Gateway && !self.is_up() {
            self.finish_session(Lost::Closed(GoAwayCode::Stop), Some(Frame::AuthErr(farewell)));
        }
    }

    // ---- what to do next

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop_front()?;
            match event {
                Event::Readable(id) => match self.table.get_mut(&id.0) {
                    Some(stream) => stream.readable_queued = false,
                    None => continue,
                },
                Event::Writable(id) => match self.table.get_mut(&id.0) {
                    Some(stream) => {
                        stream.writable_queued = false;
                        if stream.sending != Sending::Open {
                            continue;
                        }
                    }
                    None => continue,
                },
                _ => {}
            }
            return Some(event);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (&self.end, &self.phase) {
            (Some(_), _) => None,
            (None, Phase::Up) => Some(self.liveness.timeout()),
            (None, _) => Some(self.handshake_deadline),
        }
    }

    // ---- looking

    /// Whether both sides have proved themselves and the session goes on.
    pub fn is_up(&self) -> bool {
        self.end.is_none() && matches!(self.phase, Phase::Up)
    }

    /// Whether the peer was asked something, a PING at last, and has not sent a frame since. It may be gone.
    pub fn is_doubtful(&self) -> bool {
        self.is_up() && self.liveness.doubts()
    }

    /// How the session ended, if it has.
    pub fn end(&self) -> Option<&Lost> {
        self.end.as_ref()
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who is on the other side, as far as it has said so; proven once the session [is up](Self::is_up).
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Whether this stream is in the table.
    pub fn contains(&self, id: StreamId) -> bool {
        self.table.contains_key(&id.0)
    }

    /// Whether the end of the session changes nothing for this stream: both directions have ended on the wire, and what came waits
    /// here to be read. Who said it may leave, and the session with it; who is to get it may be slow.
    pub fn outlives(&self, id: StreamId) -> bool {
        self.table.get(&id.0).is_some_and(|stream| stream.is_whole())
    }

    /// Streams that are in the table.
    pub fn stream_count(&self) -> usize {
        self.table.len()
    }

    /// Whether either side has said that it wants no new streams.
    pub fn is_draining(&self) -> bool {
        self.draining || self.peer_draining
    }

    /// The time that the last PING took to come back.
    pub fn rtt(&self) -> Option<Duration> {
        self.liveness.rtt
    }

    /// Bytes that the peer is allowed to send by all windows together, as they count against the budget.
    pub fn window_bytes(&self) -> u64 {
        self.windows.used()
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    // ---- inside

    /// Handles one frame, or a part of one; false when there is none.
    fn handle_next_frame(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(Piece { head, body, first }) = self.decoder.next_piece()? else { return Ok(false) };
        self.stats.frames_in += u64::from(first);
        self.liveness.received(now);
        if matches!(self.phase, Phase::Up) {
            match head.kind {
                Kind::Data => self.on_data(StreamId(head.stream), head.len, body, first, now)?,
                _ => self.on_frame(head, body, now)?,
            }
        } else {
            self.on_handshake_frame(Frame::read(head, body)?, now)?;
        }
        if self.events.len() > EVENT_QUEUE_LEN_MAX && self.end.is_none() {
            return Err(Error::Flood(Flood::Events));
        }
        Ok(true)
    }

    fn on_frame(&mut self, head: Head, body: Bytes, now: Instant) -> Result<(), Error> {
        match Frame::read(head, body)? {
            Frame::Ping(number) => {
                self.liveness.count(now)?;
                self.pong = Some(number);
                Ok(())
            }
            Frame::Pong(number) => {
                self.liveness.count(now)?;
                self.liveness.pong(number, now);
                Ok(())
            }
            Frame::GoAway(goaway) => {
                self.on_goaway(goaway);
                Ok(())
            }
            Frame::Open { request, window } => self.on_open(StreamId(head.stream), request, window),
            Frame::PortOpen(request) => self.on_port_open(request, now),
            Frame::PortOk { network, port, actual } => {
                self.on_port_answer(Kind::PortOk, network, port, Ok(actual))
            }
            Frame::PortErr { network, port, error } => {
                self.on_port_answer(Kind::PortErr, network, port, Err(error))
            }
            Frame::PortClose { network, port } => {
                self.on_port_close(network, port);
                Ok(())
            }
            frame if head.kind.is_stream() => self.on_stream_frame(StreamId(head.stream), frame, now),
            _ => Err(Error::Unexpected(head.kind)),
        }
    }

    fn on_goaway(&mut self, goaway: GoAway) {
        if goaway.code != GoAwayCode::Drain {
            return self.finish_session(Lost::PeerClosed(goaway.code, goaway.reason), None);
        }
        if !self.peer_draining {
            self.peer_draining = true;
            self.events.push_back(Event::Draining);
        }
    }

    /// Ends the session over an error, with the farewell that belongs to it.
    fn fail(&mut self, error: Error) -> Error {
        let reason = error.to_string();
        let refusal = match error {
            Error::Credentials | Error::Group => Some(AuthErrCode::Credentials),
            Error::Binding => Some(AuthErrCode::Binding),
            Error::Version { .. } => Some(AuthErrCode::Version),
            _ => None,
        };
        let farewell = match (refusal, &error) {
            (Some(code), _) if self.role == Role::Gateway => {
                Some(Frame::AuthErr(AuthErr { retry: false, code, reason }))
            }
            (_, Error::Refused { .. } | Error::PeerLost) => None,
            _ => Some(Frame::GoAway(GoAway { code: GoAwayCode::Protocol, reason })),
        };
        self.finish_session(Lost::Failed(error.clone()), farewell);
        error
    }

    /// The one place where a session ends; a second end finds nothing to do.
    fn finish_session(&mut self, lost: Lost, farewell: Option<Frame>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(lost.clone());
        self.decoder.clear();
        self.control.clear();
        self.pong = None;
        self.liveness.quiet();
        self.ports.clear();
        self.turns.clear();
        self.credits.clear();
        // Of frames that broke the protocol nothing more is given to anybody.
        self.end_streams(!matches!(&lost, Lost::Failed(error) if *error != Error::PeerLost));
        self.events.push_back(Event::Lost(lost));
        if let Some(farewell) = farewell {
            self.control(&farewell, 0);
        }
    }

    /// Takes all streams out of the table, in order, or those that are not whole.
    fn end_streams(&mut self, keeps_whole: bool) {
        let ends = |stream: &Stream| !(keeps_whole && stream.is_whole());
        let mut ids: Vec<u32> =
            self.table.iter().filter(|(_, stream)| ends(stream)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            self.remove(StreamId(id));
        }
    }

    /// Takes a stream out of the table, if it is there, and cleans up after it.
    fn remove(&mut self, id: StreamId) -> Option<Box<Stream>> {
        self.change_datagrams(id, Stream::drop_datagrams);
        let stream = self.table.remove(&id.0)?;
        self.windows.give(stream.receive_window.held());
        self.stats.streams_closed += 1;
        self.events.push_back(Event::Closed(id));
        Some(stream)
    }

    /// Queues a control frame.
    fn control(&mut self, frame: &Frame, stream: u32) {
        self.control.push(frame, stream);
    }
}
