//! One user's connection to the HTTP proxy port, as a state machine that does no I/O.
//!
//! * `handle_*` takes what happened: bytes arrived, an end of stream, a deadline passed. What it cannot use yet
//!   it leaves in the input: that is back-pressure, and the caller stops reading.
//! * [`opened`](HttpProxy::opened), [`refused`](HttpProxy::refused) answer an [`Event::Open`],
//!   [`verified`](HttpProxy::verified) an [`Event::Verify`].
//! * [`poll_event`](HttpProxy::poll_event) returns what to do next. Call it until `None`, after every `handle_*`;
//!   then send what is in [`to_user`](HttpProxy::to_user) and [`to_upstream`](HttpProxy::to_upstream).
//! * Input that was left over (and a user's end of stream, even with empty input) is given again after each
//!   `verified` and `opened`, each [`Event::Done`], and whenever output has drained: [`wants_user`](HttpProxy::wants_user) and
//!   [`wants_upstream`](HttpProxy::wants_upstream) say whether that is of use.
//!
//! ```text
//!       head with a password     verified          opened            both sides done
//!   Idle ─────────▶ Verifying ───────────▶ Opening ─────────▶ Moving ─────────────────▶ Idle
//!    │ bad head        │ 407, 429             │ refused          │ 101, or CONNECT          │ close asked
//!    ▼                 ▼                      ▼                  ▼                          ▼
//!  Closed ◀── answer ── Idle/Closed     Idle/Closed            Tunnel                     Closed
//! ```
//!
//! Every request gets an upstream of its own, so at most one is open: `handle_upstream` is always about the one
//! that was opened last. An upstream's bytes after [`Event::CloseUpstream`] are dropped by the caller.
//!
//! A response is never made to look complete when it is not: where the upstream ends early, the user's connection is
//! aborted, or is told 502 while nothing has been sent.

mod contract;
mod exchange;
mod request;
mod response;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linkbuffer::LinkBuffer;

pub use contract::{Clock, End, Event, ExchangeRecord, Proven, ProxyConfig, Refusal};
use exchange::{Exchange, HeadBuffer};
use request::Asked;

use super::Reject;
use super::write::{Outgoing, http_date, write_error};
use crate::limits::http::{EVENTS_MAX, OUTPUT_MAX_BYTES, PIECE_MAX_BYTES, REQUEST_HEAD_MAX_MS};

/// One user's connection to the HTTP proxy port. It does no I/O: the caller moves bytes and does what the events say.
///
/// After every `handle_*`, `opened` and `refused`: poll events until `None`, send what is in `to_user` and `to_upstream`.
/// Input that was left over, and a user's end of stream, are given again after `opened`, after each [`Event::Done`], and
/// when output has drained.
///
/// # Examples
/// ```
/// use anyproxy::proto::http::{Clock, Event, HttpProxy, ProxyConfig};
/// use linkbuffer::LinkBuffer;
/// use std::{sync::Arc, time::{Instant, SystemTime}};
///
/// let clock = Clock { now: Instant::now(), wall: SystemTime::now() };
/// let config = Arc::new(ProxyConfig { auth: false, via: "gw1".to_string() });
/// let mut proxy = HttpProxy::new(config, clock.now);
///
/// let mut from_user = LinkBuffer::from(&b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n"[..]);
/// proxy.handle_user(&mut from_user, clock);
/// let event = proxy.poll_event();
/// assert!(matches!(event, Some(Event::Open { host, port: 80, connect: false, .. }) if host == "a"));
///
/// proxy.opened(clock);
/// let sent = std::mem::take(proxy.to_upstream());
/// assert!(sent.chunk().starts_with(b"GET /x HTTP/1.1\r\nHost: a\r\n"));
///
/// let mut from_target = LinkBuffer::from(&b"HTTP/1.1 204 No Content\r\n\r\n"[..]);
/// proxy.handle_upstream(&mut from_target, false, clock);
/// assert_eq!(proxy.poll_event(), Some(Event::CloseUpstream { abort: false }));
/// assert!(matches!(proxy.poll_event(), Some(Event::Done(record)) if record.code == 204));
/// assert!(proxy.is_idle());
/// ```
pub struct HttpProxy {
    config: Arc<ProxyConfig>,
    phase: Phase,
    /// The request head under way.
    head: HeadBuffer,
    /// When its first byte came. `None` also once it is complete.
    head_begun: Option<Instant>,
    /// Until when it must be complete.
    head_deadline: Option<Instant>,
    to_user: LinkBuffer,
    to_upstream: LinkBuffer,
    /// Invariant: no request is begun while events.len() >= EVENTS_MAX.
    events: VecDeque<Event>,
    user_ended: bool,
    stopping: bool,
    /// `CloseUser` has been said.
    closed: bool,
}

enum Phase {
    /// Between exchanges, or in the middle of a request head.
    Idle,
    /// The password is being looked at; then this is to be done.
    Verifying(Box<Asked>),
    /// The upstream was asked for.
    Opening(Box<Exchange>),
    /// Bytes move.
    Moving(Box<Exchange>),
    /// Handed over to the caller.
    Tunnel,
    /// Nothing more is read.
    Closed,
}

impl HttpProxy {
    /// A connection that was just accepted. Its first head is due [`REQUEST_HEAD_MAX_MS`] from `now`.
    pub fn new(config: Arc<ProxyConfig>, now: Instant) -> Self {
        Self {
            config,
            phase: Phase::Idle,
            head: HeadBuffer::default(),
            head_begun: None,
            head_deadline: Some(now + Duration::from_millis(REQUEST_HEAD_MAX_MS)),
            to_user: LinkBuffer::new(),
            to_upstream: LinkBuffer::new(),
            events: VecDeque::new(),
            user_ended: false,
            stopping: false,
            closed: false,
        }
    }

    /// Takes bytes from the user, as many as can be used now.
    pub fn handle_user(&mut self, input: &mut LinkBuffer, clock: Clock) {
        loop {
            match self.phase {
                Phase::Idle => {
                    if self.events.len() >= EVENTS_MAX || self.to_user.len() >= OUTPUT_MAX_BYTES {
                        return;
                    }
                    if self.stopping || input.is_empty() && self.user_ended {
                        self.close(true);
                    } else if input.is_empty() {
                        return;
                    } else {
                        self.request_input(input, clock);
                    }
                }
                Phase::Moving(_) => {
                    self.request_body(input, clock);
                    // A response that was already complete may end the exchange here, and the next request follows.
                    if matches!(self.phase, Phase::Moving(_)) {
                        return;
                    }
                }
                Phase::Closed => {
                    // Read and dropped, so that an unread byte does not turn our close into a reset.
                    input.clear();
                    return;
                }
                Phase::Verifying(_) | Phase::Opening(_) | Phase::Tunnel => return,
            }
        }
    }

    /// The user has sent everything: `input` is the rest of it.
    pub fn handle_user_end(&mut self, input: &mut LinkBuffer, clock: Clock) {
        self.user_ended = true;
        self.handle_user(input, clock);
    }

    /// The user's connection broke.
    pub fn handle_user_reset(&mut self, clock: Clock) {
        if matches!(self.phase, Phase::Tunnel) {
            return;
        }
        if let Some(asked) = self.take_verifying() {
            self.done(asked.into_exchange(), End::new('C', 'A'), "rst", clock);
        } else if let Some(exchange) = self.take_opening() {
            self.events.push_back(Event::CloseUpstream { abort: true });
            self.done(exchange, End::new('C', 'C'), "rst", clock);
        } else if let Some(exchange) = self.take_moving() {
            let phase = exchange.phase_letter();
            self.events.push_back(Event::CloseUpstream { abort: true });
            self.done(exchange, End::new('C', phase), "rst", clock);
        }
        self.close(false);
    }

    /// Whether the user is who it says.
    pub fn verified(&mut self, proven: Proven, clock: Clock) {
        // `None`: the user left meanwhile.
        let Some(asked) = self.take_verifying() else { return };
        let (status, text, fields, why) = match proven {
            Proven::Yes => return self.act(asked.into_verdict(), clock),
            Proven::No => (407, "wrong user or password", request::CHALLENGE, "auth"),
            Proven::Later => {
                (429, "the login is not looked at now: wait a minute", RETRY_LATER, "auth_later")
            }
        };
        let answer = Answer { status, text, fields };
        self.answer(asked.into_exchange(), answer, End::new('P', 'A'), why, clock);
    }

    /// The upstream that was asked for is open.
    pub fn opened(&mut self, clock: Clock) {
        // `None`: the user left meanwhile, and `CloseUpstream` has been said.
        let Some(mut exchange) = self.take_opening() else { return };
        exchange.record.opened = Some(clock.now);
        if exchange.connect {
            exchange.record.code = 200;
            self.to_user.write(b"HTTP/1.1 200 Connection established\r\n\r\n");
            self.tunnel(exchange, clock);
            return;
        }
        self.to_upstream.append(std::mem::take(&mut exchange.request_head));
        self.phase = Phase::Moving(exchange);
    }

    /// The upstream that was asked for cannot be had.
    pub fn refused(&mut self, refusal: Refusal<'_>, clock: Clock) {
        let Some(exchange) = self.take_opening() else { return };
        self.answer(
            exchange,
            Answer { status: refusal.status, text: refusal.text, fields: &[] },
            refusal.end,
            refusal.why,
            clock,
        );
    }

    /// Takes bytes from the upstream, as many as can be used now. `end`: `input` is the last of it.
    pub fn handle_upstream(&mut self, input: &mut LinkBuffer, end: bool, clock: Clock) {
        self.response_input(input, end, clock);
    }

    /// The upstream broke: what it has sent may be incomplete. `end` and `why` are for the access log.
    pub fn handle_upstream_reset(&mut self, end: End, why: &'static str, clock: Clock) {
        if let Some(exchange) = self.take_moving() {
            self.upstream_failed(exchange, "the connection to the target broke", end, why, clock);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.head_deadline
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, clock: Clock) {
        if self.head_deadline.is_none_or(|deadline| clock.now < deadline) {
            return;
        }
        self.head_deadline = None;
        if self.head.is_empty() {
            // Nobody asked anything, so nobody waits for an answer.
            self.close(true);
            return;
        }
        self.reject(Reject::new(408, "the request head took too long"), End::new('c', 'R'), "timeout", clock);
    }

    /// Shutdown: the exchange under way is finished, none is begun.
    pub fn stop(&mut self) {
        self.stopping = true;
        match &mut self.phase {
            Phase::Idle => self.close(true),
            Phase::Verifying(asked) => asked.exchange_mut().keep_alive = false,
            Phase::Opening(exchange) | Phase::Moving(exchange) => exchange.keep_alive = false,
            Phase::Tunnel | Phase::Closed => {}
        }
    }

    /// No exchange is under way, and no part of a request has arrived.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.head.is_empty()
    }

    /// Whether bytes of the user can be used now: otherwise reading from it may as well pause.
    pub fn wants_user(&self) -> bool {
        match &self.phase {
            Phase::Idle => self.events.len() < EVENTS_MAX && self.to_user.len() < OUTPUT_MAX_BYTES,
            Phase::Moving(exchange) => {
                exchange.request_writer.is_some() && self.to_upstream.len() < OUTPUT_MAX_BYTES
            }
            Phase::Verifying(_) | Phase::Opening(_) | Phase::Tunnel => false,
            Phase::Closed => true,
        }
    }

    /// Whether bytes of the upstream can be used now.
    pub fn wants_upstream(&self) -> bool {
        matches!(self.phase, Phase::Moving(_)) && self.to_user.len() < OUTPUT_MAX_BYTES
    }

    /// What is to be sent to the user.
    pub fn to_user(&mut self) -> &mut LinkBuffer {
        &mut self.to_user
    }

    /// What is to be sent to the upstream.
    pub fn to_upstream(&mut self) -> &mut LinkBuffer {
        &mut self.to_upstream
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The request whose password is looked at; the phase is then `Closed` until the caller sets another.
    fn take_verifying(&mut self) -> Option<Box<Asked>> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Verifying(asked) => Some(asked),
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// The exchange whose upstream is awaited; the phase is then `Closed` until the caller sets another.
    fn take_opening(&mut self) -> Option<Box<Exchange>> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Opening(exchange) => Some(exchange),
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// The exchange under way; the phase is then `Closed` until the caller sets another.
    fn take_moving(&mut self) -> Option<Box<Exchange>> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Moving(exchange) => Some(exchange),
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// From now on nothing is read. Said once.
    fn close(&mut self, after_output: bool) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.phase = Phase::Closed;
        self.head = HeadBuffer::default();
        self.head_deadline = None;
        self.to_upstream.clear();
        if !after_output {
            self.to_user.clear();
        }
        self.events.push_back(Event::CloseUser { after_output });
    }

    /// An exchange is over.
    fn done(&mut self, mut exchange: Box<Exchange>, end: End, why: &'static str, clock: Clock) {
        exchange.count();
        let mut record = exchange.record;
        record.ended = clock.now;
        record.end = end;
        record.why = why;
        self.events.push_back(Event::Done(Box::new(record)));
    }

    /// Hands the connection over to the caller.
    fn tunnel(&mut self, mut exchange: Box<Exchange>, clock: Clock) {
        exchange.count();
        let mut record = exchange.record;
        record.ended = clock.now;
        self.phase = Phase::Tunnel;
        self.events.push_back(Event::Tunnel(Box::new(record)));
    }

    /// Answers an exchange ourselves. What follows depends on whether the request is complete.
    fn answer(
        &mut self,
        mut exchange: Box<Exchange>,
        answer: Answer<'_>,
        end: End,
        why: &'static str,
        clock: Clock,
    ) {
        let keep_alive = exchange.keep_alive && exchange.request.is_done() && !self.stopping;
        exchange.record.code = answer.status;
        let date = http_date(clock.wall);
        let outgoing = Outgoing { version: exchange.version, keep_alive, date: &date };
        let (status, text) = (answer.status, answer.text);
        write_error(&mut self.to_user, status, text, answer.fields, exchange.head_only, outgoing);
        self.to_upstream.clear();
        self.done(exchange, end, why, clock);
        if keep_alive {
            self.phase = Phase::Idle;
        } else {
            self.close(true);
        }
    }

    /// Answers something that is not a request, or not one that we take, and closes.
    fn reject(&mut self, reject: Reject, end: End, why: &'static str, clock: Clock) {
        let begun = self.head_begun.take().unwrap_or(clock.now);
        let exchange = Exchange::unknown(begun, clock.now);
        self.answer(
            Box::new(exchange),
            Answer { status: reject.status, text: reject.why, fields: &[] },
            end,
            why,
            clock,
        );
    }

    /// The upstream gave no whole response.
    fn upstream_failed(
        &mut self,
        exchange: Box<Exchange>,
        text: &str,
        end: End,
        why: &'static str,
        clock: Clock,
    ) {
        self.events.push_back(Event::CloseUpstream { abort: true });
        if exchange.response.is_some() {
            self.done(exchange, end, why, clock);
            self.close(false);
        } else {
            self.answer(exchange, Answer { status: 502, text, fields: &[] }, end, why, clock);
        }
    }
}

/// With 429 (RFC 6585 section 4).
const RETRY_LATER: &[(&str, &str)] = &[("Retry-After", "60")];

/// An answer of our own.
struct Answer<'a> {
    status: u16,
    text: &'a str,
    fields: &'a [(&'a str, &'a str)],
}

#[cfg(test)]
mod tests;
