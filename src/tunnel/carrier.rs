//! The connection that carries a session: from the socket through the WebSocket into the session, and back.
//!
//! ```text
//!   [TLS] ─▶ on_connect ─▶ upgrade ─▶ handshake ─▶ up ─▶ ... ─▶ an end is known ─▶ last words ─▶ heard ─▶ closed ─▶ streams, side told
//!                            └──────────┴─ bytes bounded                                │          │
//!                                                             at most TUNNEL_GOODBYE_MS ┘          └ STOP_HEARD_MS from the stop on
//! ```
//! A side that stops stays until the peer has heard it and ended the connection too: what the peer sends meanwhile would meet a socket
//! that is gone, and the system's reset would take what the kernel has not sent yet.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linkbuffer::LinkBuffer;

use super::{Broken, Tunnel};
use crate::limits::{
    PRE_AUTH_BYTES_MAX, STOP_HEARD_MS, TUNNEL_GOODBYE_MS, TUNNEL_MESSAGE_BYTES, TUNNEL_OUTPUT_BYTES,
    TUNNEL_STALL_MS, TUNNEL_TURN_BYTES_MAX,
};
use crate::proto::frame::{GoAwayCode, ResetCode};
use crate::proto::session::{self, Event};
use crate::proto::ws::{self, WebSocket};
use crate::rt::{self, Closed, Connection, Handler, Prepare, Reject};
use crate::tls::{self, Tls};

/// What is different between the two ends of a tunnel.
pub trait Side: Send + Sync + Sized + 'static {
    /// The TLS of a new carrier, where this side speaks it. Asked before [`begin`](Side::begin), so that a carrier that
    /// cannot have it was never begun.
    ///
    /// # Errors
    /// When there is none to be had; the connection is then refused.
    fn tls(&self) -> Result<Option<Tls>, rt::tls::Error> {
        Ok(None)
    }

    /// Makes the two machines for a new carrier.
    ///
    /// # Errors
    /// When the system gives no random numbers; the connection is then refused.
    fn begin(&self, peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)>;

    /// Both sides have proved themselves.
    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>);

    /// An event that is not about a stream with a watcher: a stream that the peer opened, or a port.
    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event);

    /// The peer is leaving: it takes no new streams, and closes after the last one.
    fn on_draining(self: &Arc<Self>, _tunnel: &Arc<Tunnel>) {}

    /// The event loop is stopping: no new streams; the tunnel leaves after the last one.
    fn on_stopping(self: &Arc<Self>, _tunnel: &Arc<Tunnel>) {}

    /// The carrier is gone; every stream has been told. Called once for every tunnel that was begun and registered.
    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, down: &Down);
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct Down {
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// Whether it had been up.
    pub was_up: bool,
    /// How long it had been there, from its connection on.
    pub lived: Duration,
    /// Why, for people.
    pub why: String,
    /// One of the two sides ended it on purpose.
    pub on_purpose: bool,
    /// It was this side that did.
    pub by_us: bool,
    /// One of them broke the protocol of a tunnel that was up.
    pub fault: bool,
    /// Trying again is pointless until somebody changes something.
    pub fatal: bool,
    /// Bytes sent and received by the carrier.
    pub bytes: (u64, u64),
    /// What the session counted.
    pub stats: session::Stats,
    /// Control frames of the WebSocket that came.
    pub ws_control: u64,
}

/// The carrier's handler, for either side.
pub struct Carrier<S>(pub Arc<S>);

/// What belongs to one carrier.
pub struct CarrierContext {
    ws: WebSocket,
    /// This side's own certificate, as the proofs are bound to it.
    own: Option<[u8; 32]>,
    tunnel: Arc<Tunnel>,
    up: bool,
    /// Why it ends, as soon as that is known.
    end: Option<End>,
    /// The last words are on their way; until then they may be.
    goodbye: Option<Instant>,
    /// The event loop is stopping, since then.
    stopping: Option<Instant>,
}

#[derive(Debug)]
enum End {
    Session(session::Error),
    WebSocket(ws::Error),
    /// The gateway hung up on an upgrade that came without TLS.
    Plain,
    /// The peer said goodbye.
    Peer(String, Parting),
    /// This side did.
    Purpose,
    /// Bytes without end from somebody who has not proved anything.
    Stranger,
}

/// How the peer said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// It meant to.
    Purpose,
    /// Something has happened to it, or to the way.
    Trouble,
    /// It says that this side broke the protocol.
    Blame,
}

impl End {
    fn is_fault(&self) -> bool {
        use session::Error::{HandshakeTimeout, PeerLost, Refused};
        match self {
            End::Session(error) => !matches!(error, HandshakeTimeout | PeerLost | Refused { .. }),
            End::WebSocket(error) => error.close_code().is_some(),
            End::Peer(_, parting) => *parting == Parting::Blame,
            End::Plain | End::Purpose | End::Stranger => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Session(error) => error.fmt(f),
            End::WebSocket(error) => error.fmt(f),
            End::Plain => write!(f, "{}; does it want wss://?", ws::Error::Unanswered),
            End::Peer(words, _) => f.write_str(words),
            End::Purpose => f.write_str("closed by this side"),
            End::Stranger => f.write_str("too many bytes before the handshake was done"),
        }
    }
}

impl<S: Side> Handler for Carrier<S> {
    type Context = CarrierContext;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<CarrierContext, Reject> {
        let (engine, own) = self.0.tls()?.map(Tls::into_parts).unzip();
        // A peer that sends and never reads answers no PING, but its frames say that it lives.
        let stall = Duration::from_millis(TUNNEL_STALL_MS);
        conn.set_write_stall_timeout(Some(stall)).map_err(|error| Reject(error.to_string()))?;
        let (ws, tunnel) = self.0.begin(conn.peer_addr()).map_err(|error| Reject(error.to_string()))?;
        // Nothing fails from here on: who was begun is told of the end.
        if let Some(engine) = engine {
            conn.set_tls(engine);
        }
        let own = own.flatten();
        Ok(CarrierContext { ws, own, tunnel, up: false, end: None, goodbye: None, stopping: None })
    }

    fn on_connect(&self, cx: &mut CarrierContext, conn: &mut Connection) -> rt::Result {
        if cx.tunnel.carrier.set(conn.handle()).is_err() {
            return Err("a tunnel has one carrier".into());
        }
        if let Some(engine) = conn.tls() {
            let (version, suite) = (engine.protocol_version(), engine.cipher_suite());
            let binding = tls::binding(engine, cx.own).ok_or("there is nothing to bind the proofs to")?;
            cx.tunnel.exchange(|session| session.bind(binding));
            log::debug!(event = "tls", tun = cx.tunnel.label(); "{version:?} {suite:?}");
        }
        cx.tunnel.begin(rt::now());
        self.advance(cx, conn)
    }

    fn on_request(&self, cx: &mut CarrierContext, conn: &mut Connection) -> rt::Result {
        if cx.end.is_none() {
            cx.receive(conn);
        }
        self.advance(cx, conn)
    }

    fn on_timer(&self, cx: &mut CarrierContext, conn: &mut Connection) -> rt::Result {
        let outcome = cx.tunnel.inner.lock().session.handle_timeout(rt::now());
        if let Err(error) = outcome {
            cx.end.get_or_insert(End::Session(error));
        }
        self.advance(cx, conn)
    }

    fn on_shutdown(&self, cx: &mut CarrierContext, conn: &mut Connection) -> rt::Result {
        cx.stopping = Some(rt::now());
        cx.tunnel.stop();
        self.0.on_stopping(&cx.tunnel);
        self.advance(cx, conn)
    }

    fn on_close(&self, cx: &mut CarrierContext, info: &Closed) {
        let shutdown = info.reason == rt::Reason::Shutdown;
        // What still was open at the deadline was ended by us and not by a fault of the tunnel.
        cx.tunnel.lose(if shutdown { Broken::Reset(ResetCode::Stopping) } else { Broken::Lost });
        let (fatal, on_purpose) = match &cx.end {
            Some(End::Session(error)) => (!error.retry(), false),
            Some(End::Peer(_, parting)) => (false, *parting == Parting::Purpose),
            Some(End::Purpose) => (false, true),
            Some(End::WebSocket(_) | End::Plain | End::Stranger) => (false, false),
            // A handshake that came to nothing over what it was about: a certificate, or no TLS at all. What a server
            // makes of a client's certificate is heard after the client's own handshake is over.
            None => (matches!(info.reason, rt::Reason::Tls(_)) && !cx.up, false),
        };
        let why = match &cx.end {
            Some(end) => end.to_string(),
            None => info.reason.to_string(),
        };
        let bytes = (info.bytes_out, info.bytes_in);
        // Who has said that it is leaving is not missed, however it leaves in the end.
        let ws_control = cx.ws.control_frames();
        let (announced, lived, stats) = {
            let inner = &mut *cx.tunnel.inner.lock();
            inner.ws_control = ws_control;
            (inner.session.is_draining(), rt::since(inner.started), inner.session.stats())
        };
        let fault = cx.up && cx.end.as_ref().is_some_and(End::is_fault);
        let on_purpose = on_purpose || shutdown || announced;
        let by_us = shutdown || matches!(cx.end, Some(End::Purpose));
        self.0.on_down(
            &cx.tunnel,
            &Down {
                peer: info.peer,
                was_up: cx.up,
                lived,
                why,
                on_purpose,
                by_us,
                fault,
                fatal,
                bytes,
                stats,
                ws_control,
            },
        );
    }
}

impl CarrierContext {
    /// Bytes that wait in the session and in the WebSocket.
    ///
    /// # Errors
    /// As [`Session::held_bytes`](session::Session::held_bytes).
    pub fn held_bytes(&self) -> Result<usize, &'static str> {
        Ok(self.tunnel.inner.lock().session.held_bytes()? + self.ws.held_bytes())
    }

    /// From the socket through the WebSocket into the session.
    fn receive(&mut self, conn: &mut Connection) {
        let now = rt::now();
        let ended = conn.input_ended();
        if conn.input().is_empty() && !ended {
            return;
        }
        let taken = self.ws.handle_input(conn.input()).and_then(|()| self.ws.handle_time(now));
        while let Some(part) = self.ws.poll_payload() {
            let outcome = {
                let session = &mut self.tunnel.inner.lock().session;
                session.handle_input(part.bytes, now).and_then(|()| match part.ends {
                    true => session.handle_message_end(),
                    false => Ok(()),
                })
            };
            if let Err(error) = outcome {
                self.end.get_or_insert(End::Session(error));
                return;
            }
        }
        let over = {
            let inner = &mut *self.tunnel.inner.lock();
            inner.ws_control = self.ws.control_frames();
            inner.session.end().is_some()
        };
        if over {
            // Its event says how; what the WebSocket says behind a farewell is only the end of that.
            return;
        }
        let taken = match ended {
            true => taken.and_then(|()| self.ws.handle_end()),
            false => taken,
        };
        if let Err(error) = taken {
            // Which is all that a gateway with TLS says to who speaks without.
            let plain = error == ws::Error::Unanswered && conn.tls().is_none();
            self.end.get_or_insert(if plain { End::Plain } else { End::WebSocket(error) });
        } else if self.ws.is_closed() {
            let (words, parting) = match self.ws.peer_close() {
                Some((code, words)) => (
                    format!("closed by the peer: {code} {words}").trim_end().to_owned(),
                    // Who means to leave says GOAWAY, and 1001 behind it; alone it says that nobody answered.
                    match code {
                        1000 => Parting::Purpose,
                        1002 | 1003 | 1007..=1009 => Parting::Blame,
                        _ => Parting::Trouble,
                    },
                ),
                None => ("closed by the peer".into(), Parting::Purpose),
            };
            self.end.get_or_insert(End::Peer(words, parting));
        } else if !self.up
            && conn.handle().bytes_in() > PRE_AUTH_BYTES_MAX
            && !self.tunnel.inner.lock().session.is_up()
        {
            self.end.get_or_insert(End::Stranger);
        }
    }

    /// From the session through the WebSocket to the socket, as far as the kernel takes it; says how many bytes of the
    /// session's. A send that fails needs nothing here: the connection knows, and closes with that error.
    fn transmit(&mut self, conn: &mut Connection) -> Result<usize, ws::Error> {
        let mut sent = 0;
        loop {
            self.ws.poll_output(conn.output());
            let mut more = self.ws.is_open();
            while more && conn.unsent() < TUNNEL_OUTPUT_BYTES {
                let bytes = self.transmit_message(conn)?;
                more = bytes > 0;
                sent += bytes;
            }
            if conn.flush().is_err() || conn.unsent() > 0 || !more || sent >= TUNNEL_TURN_BYTES_MAX {
                return Ok(sent);
            }
        }
    }

    /// Puts the session's next message behind the output; says how many bytes of the session's, 0 when there is none.
    fn transmit_message(&mut self, conn: &mut Connection) -> Result<usize, ws::Error> {
        let mut message = LinkBuffer::new();
        let bytes = {
            let session = &mut self.tunnel.inner.lock().session;
            if !session.wants_transmit() {
                return Ok(0);
            }
            session.poll_transmit(TUNNEL_MESSAGE_BYTES, &mut message, rt::now())
        };
        if bytes > 0 {
            self.ws.send(message)?;
            self.ws.poll_output(conn.output());
        }
        Ok(bytes)
    }

    /// Puts all that the session has to say behind the output, whatever the kernel takes. Of a session without streams
    /// that is not more than its control frames.
    fn transmit_rest(&mut self, conn: &mut Connection) -> Result<(), ws::Error> {
        while self.ws.is_open() && self.transmit_message(conn)? > 0 {}
        Ok(())
    }

    /// Rests until there is news, unless there is some already: then another turn follows, after the others'.
    fn rest(&mut self, conn: &mut Connection) {
        let blocked = conn.unsent() > 0;
        if blocked {
            conn.wake_on_progress();
        }
        let (settled, deadline, again) = {
            let inner = &mut *self.tunnel.inner.lock();
            let settled = self.tunnel.settle(inner);
            let mut waiting = inner.waiting();
            // Nothing can be sent before the upgrade is done.
            waiting.output &= self.ws.is_open();
            let again = inner.rest.rest(waiting, blocked);
            (settled, inner.session.poll_timeout(), again)
        };
        settled.woken.iter().for_each(rt::Handle::wake);
        match deadline {
            Some(at) => conn.set_timer_at(at),
            None => conn.clear_timer(),
        }
        if again {
            conn.handle().wake();
        }
    }

    /// Says the last words, such as why a client is refused, and closes when they have left, or late.
    fn part(&mut self, conn: &mut Connection, end: &End) -> rt::Result {
        let now = rt::now();
        let until = match self.goodbye {
            Some(until) => until,
            None => {
                let (code, words) = match end {
                    End::Session(error) => (error.close_code(), error.to_string()),
                    End::Purpose => (1001, String::new()),
                    End::Stranger => (1008, String::new()),
                    End::WebSocket(_) | End::Plain | End::Peer(..) => (1000, String::new()),
                };
                self.transmit(conn)?;
                if matches!(end, End::Purpose) {
                    // How the last streams ended, such as a dial that was given up, is the peer's to know: a session
                    // drops what it has queued when it is closed.
                    self.transmit_rest(conn)?;
                    self.tunnel.exchange(|session| session.close(GoAwayCode::Stop, ""));
                }
                // A session that is over has nothing left but its farewell, which says more than the close frame:
                // it goes out before that, however much waits already.
                if self.tunnel.inner.lock().session.end().is_some() {
                    self.transmit_rest(conn)?;
                }
                self.ws.close(code, &words);
                self.ws.poll_output(conn.output());
                let until = now + Duration::from_millis(TUNNEL_GOODBYE_MS);
                *self.goodbye.insert(until)
            }
        };
        if conn.flush().is_err() {
            // It closes with that error.
            return Ok(());
        }
        // Who does not answer does not listen either.
        let late = now >= until || matches!(end, End::Session(session::Error::PeerLost));
        match (conn.unsent() == 0, late) {
            (true, _) => self.wait_until_heard(conn, end, now),
            (false, true) => conn.abort(),
            (false, false) => {
                conn.set_timer_at(until);
                conn.wake_on_progress();
            }
        }
        Ok(())
    }

    /// Closes when the peer has ended the connection, as it does behind this side's last words, or late.
    fn wait_until_heard(&mut self, conn: &mut Connection, end: &End, now: Instant) {
        let until = self.stopping.map(|stopping| stopping + Duration::from_millis(STOP_HEARD_MS));
        match until.filter(|until| now < *until) {
            // Any other end cuts the streams off in any case, and who was never up had none.
            Some(until) if self.up && matches!(end, End::Purpose) && !conn.input_ended() => {
                conn.shutdown_write();
                conn.input().clear();
                conn.set_timer_at(until);
            }
            _ => conn.close(),
        }
    }
}

impl<S: Side> Carrier<S> {
    /// Does everything that can be done now: tells the side, sends, sets the timer, ends.
    fn advance(&self, cx: &mut CarrierContext, conn: &mut Connection) -> rt::Result {
        self.news(cx);
        if cx.end.is_none() {
            // Sending may have ended the last stream.
            if cx.transmit(conn)? > 0 {
                self.news(cx);
            }
        }
        match cx.end.take() {
            None => cx.rest(conn),
            Some(end) => {
                let parted = cx.part(conn, &end);
                cx.end = Some(end);
                parted?;
            }
        }
        Ok(())
    }

    /// Tells streams and side what happened, until nothing has.
    fn news(&self, cx: &mut CarrierContext) {
        loop {
            let (settled, events, calls) = {
                let inner = &mut *cx.tunnel.inner.lock();
                inner.rest.begin();
                let settled = cx.tunnel.settle(inner);
                if inner.is_done() && cx.end.is_none() {
                    cx.end = Some(End::Purpose);
                }
                (settled, std::mem::take(&mut inner.events), std::mem::take(&mut inner.calls))
            };
            settled.woken.iter().for_each(rt::Handle::wake);
            if events.is_empty() && calls.is_empty() {
                return;
            }
            for (id, watcher) in calls {
                watcher.on_stream(id);
            }
            for event in events {
                self.tell(cx, event);
            }
        }
    }

    fn tell(&self, cx: &mut CarrierContext, event: Event) {
        match event {
            Event::Up => {
                cx.up = true;
                self.0.on_up(&cx.tunnel);
            }
            Event::Lost(session::Lost::PeerClosed(code, words)) => {
                let parting = match code {
                    GoAwayCode::Stop | GoAwayCode::Replaced => Parting::Purpose,
                    GoAwayCode::Protocol => Parting::Blame,
                    GoAwayCode::Drain | GoAwayCode::Internal => Parting::Trouble,
                };
                let why = session::Lost::PeerClosed(code, words).to_string();
                cx.end.get_or_insert(End::Peer(why, parting));
            }
            Event::Lost(session::Lost::Failed(error)) => {
                cx.end.get_or_insert(End::Session(error));
            }
            Event::Lost(session::Lost::Closed(_)) => {
                cx.end.get_or_insert(End::Purpose);
            }
            Event::Draining => self.0.on_draining(&cx.tunnel),
            event => self.0.on_event(&cx.tunnel, event),
        }
    }
}
