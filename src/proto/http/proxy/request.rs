//! The user's side of an exchange: heads in, bodies up.

use base64::Engine as _;

use super::super::fields::decimal;
use super::super::forward::{asks_upgrade, passed_through, values, write_request};
use super::super::{
    Authority, BodyReader, BodyWriter, Framing, RequestHead, Target, Version, empty_slots, parse_request,
};
use super::*;
use crate::proto::credentials::Login;

/// The port of `http` URIs.
const HTTP_PORT: u16 = 80;

const USAGE: &str = "this is an HTTP proxy: ask it for a whole URL (GET http://host/ ...) or CONNECT host:port, \
                     as in curl -x http://THIS-HOST:PORT http://host/";

/// What goes with 407 (RFC 9110 section 11.7.1).
pub(super) const CHALLENGE: &[(&str, &str)] =
    &[("Proxy-Authenticate", "Basic realm=\"anyproxy\", charset=\"UTF-8\"")];

/// A request whose password is looked at.
pub(super) struct Asked {
    user: String,
    verdict: Verdict,
}

impl Asked {
    pub(super) fn exchange_mut(&mut self) -> &mut Exchange {
        match &mut self.verdict {
            Verdict::Open(exchange) | Verdict::Answer { exchange, .. } => exchange,
        }
    }

    /// The user is proved.
    pub(super) fn into_verdict(mut self) -> Verdict {
        self.exchange_mut().record.user = Some(std::mem::take(&mut self.user));
        self.verdict
    }

    /// It is not, or has left.
    pub(super) fn into_exchange(self) -> Box<Exchange> {
        match self.verdict {
            Verdict::Open(exchange) | Verdict::Answer { exchange, .. } => exchange,
        }
    }
}

/// What is to become of a request.
pub(super) enum Verdict {
    /// Ask for an upstream.
    Open(Box<Exchange>),
    /// Answer it ourselves.
    Answer {
        exchange: Box<Exchange>,
        status: u16,
        text: &'static str,
        fields: &'static [(&'static str, &'static str)],
        end: End,
        why: &'static str,
    },
}

impl HttpProxy {
    /// Takes bytes of a request head.
    pub(super) fn request_input(&mut self, input: &mut LinkBuffer, clock: Clock) {
        let begun = *self.head_begun.get_or_insert(clock.now);
        self.head_deadline.get_or_insert(begun + Duration::from_millis(REQUEST_HEAD_MAX_MS));
        let config = &self.config;
        let found = self.head.fill(input, |bytes, scan| {
            let mut slots = empty_slots();
            let head = parse_request(bytes, scan, &mut slots)?;
            Ok(head.map(|(head, end)| (judge(&head, config, begun, clock.now), end)))
        });
        let (verdict, login) = match found {
            Ok(Some(judged)) => judged,
            Ok(None) => return,
            Err(reject) => {
                self.reject(reject, End::new('P', 'R'), "bad_request", clock);
                return;
            }
        };
        self.head_begun = None;
        self.head_deadline = None;
        match login {
            Some(login) => {
                self.phase = Phase::Verifying(Box::new(Asked { user: login.user.clone(), verdict }));
                self.events.push_back(Event::Verify(login));
            }
            None => self.act(verdict, clock),
        }
    }

    /// Does what was decided on a request, its user being known.
    pub(super) fn act(&mut self, verdict: Verdict, clock: Clock) {
        match verdict {
            Verdict::Open(exchange) => {
                self.events.push_back(Event::Open {
                    host: exchange.record.host.clone(),
                    port: exchange.record.port,
                    connect: exchange.connect,
                    user: exchange.record.user.clone(),
                });
                self.phase = Phase::Opening(exchange);
            }
            Verdict::Answer { exchange, status, text, fields, end, why } => {
                self.answer(exchange, Answer { status, text, fields }, end, why, clock);
            }
        }
    }

    /// Moves the request's body on.
    pub(super) fn request_body(&mut self, input: &mut LinkBuffer, clock: Clock) {
        let Phase::Moving(exchange) = &mut self.phase else { return };
        let Some(writer) = &mut exchange.request_writer else { return };
        let mut fault = None;
        while self.to_upstream.len() < OUTPUT_MAX_BYTES {
            match exchange.request.read(input, PIECE_MAX_BYTES) {
                Ok(Some(piece)) => writer
                    .write(piece, &mut self.to_upstream)
                    .expect("a body is written with the length that it is read with"),
                Ok(None) => break,
                Err(reject) => {
                    fault = Some((reject, End::new('P', 'D'), "bad_request"));
                    break;
                }
            }
        }
        if fault.is_none() && exchange.request.is_done() {
            let trailers = super::super::forward::trailers_passed_on(exchange.request.trailers());
            let writer = exchange.request_writer.take().expect("it was there above");
            writer
                .finish(&trailers, &mut self.to_upstream)
                .expect("a body is written with the length that it is read with");
            return;
        }
        if fault.is_none() && self.user_ended && input.is_empty() {
            fault = Some((Reject::bad("the request body is incomplete"), End::new('C', 'D'), "eof"));
        }
        let Some((reject, end, why)) = fault else { return };
        let Some(mut exchange) = self.take_moving() else { return };
        exchange.keep_alive = false;
        self.events.push_back(Event::CloseUpstream { abort: true });
        if exchange.response.is_some() {
            self.done(exchange, end, why, clock);
            self.close(false);
        } else {
            self.answer(
                exchange,
                Answer { status: reject.status, text: reject.why, fields: &[] },
                end,
                why,
                clock,
            );
        }
    }
}

/// Decides on a request from its head alone, on the condition that the login is right, where there is one.
fn judge(
    head: &RequestHead<'_, '_>,
    config: &ProxyConfig,
    begun: Instant,
    now: Instant,
) -> (Verdict, Option<Login>) {
    // Who has not even asked a proxy is told so before anything else.
    let is_proxied = !matches!(head.target, Target::Origin(_) | Target::Asterisk);
    let login = (config.auth && is_proxied).then(|| authenticate(head));
    match login.transpose() {
        Ok(login) => (judge_known(head, config, None, begun, now), login),
        Err(text) => (judge_known(head, config, Some(text), begun, now), None),
    }
}

/// `stranger` says why the user is not known, and is told so, once it is clear where it wanted to go.
fn judge_known(
    head: &RequestHead<'_, '_>,
    config: &ProxyConfig,
    stranger: Option<&'static str>,
    begun: Instant,
    now: Instant,
) -> Verdict {
    let mut exchange = Box::new(Exchange::unknown(begun, now));
    exchange.record.method = head.method.to_string();
    exchange.version = head.version;
    exchange.head_only = head.method == "HEAD";
    // A proxy keeps no connection of an HTTP/1.0 user (RFC 9112 section 9.3).
    exchange.keep_alive = head.keep_alive && head.version == Version::Http11;
    exchange.request = BodyReader::new(head.body);
    exchange.request_writer = (head.body != Framing::None).then(|| BodyWriter::new(head.body));

    let answer = |exchange, status, text, who, phase, why| Verdict::Answer {
        exchange,
        status,
        text,
        fields: match status {
            407 => CHALLENGE,
            200 | 405 => &[("Allow", "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")],
            _ => &[],
        },
        end: End::new(who, phase),
        why,
    };
    let (authority, path_and_query): (Authority<'_>, _) = match head.target {
        Target::Authority(authority) => (authority, None),
        Target::Absolute { authority, path_and_query } => (authority, Some(path_and_query)),
        Target::Origin(_) | Target::Asterisk => {
            return answer(exchange, 400, USAGE, 'L', 'R', "not_proxy_form");
        }
    };
    exchange.record.host = authority.host.to_ascii_lowercase();
    exchange.record.port = authority.port.unwrap_or(HTTP_PORT);
    if let Some(text) = stranger {
        return answer(exchange, 407, text, 'P', 'A', "auth");
    }
    if passed_through(head.fields, &config.via) {
        return answer(exchange, 508, "the request has already passed through this proxy", 'P', 'R', "loop");
    }
    let Some(path_and_query) = path_and_query else {
        exchange.connect = true;
        return Verdict::Open(exchange);
    };
    if head.method == "TRACE" {
        return answer(exchange, 405, "TRACE is not forwarded", 'P', 'R', "method");
    }
    let max_forwards = match max_forwards(head) {
        Ok(Some(0)) => return answer(exchange, 200, "this is an HTTP proxy", 'L', 'R', "max_forwards"),
        Ok(Some(n)) => Some(n - 1),
        Ok(None) => None,
        Err(text) => return answer(exchange, 400, text, 'P', 'R', "bad_request"),
    };
    exchange.upgrade = asks_upgrade(head);
    write_request(&mut exchange.request_head, head, authority, path_and_query, max_forwards, &config.via);
    Verdict::Open(exchange)
}

/// How often an OPTIONS may still be forwarded; for other methods the field means nothing (RFC 9110 section 7.6.2).
fn max_forwards(head: &RequestHead<'_, '_>) -> Result<Option<u64>, &'static str> {
    if head.method != "OPTIONS" {
        return Ok(None);
    }
    let mut all = values(head.fields, "max-forwards");
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => decimal(value).map(Some).ok_or("bad Max-Forwards"),
        (Some(_), Some(_)) => Err("more than one Max-Forwards"),
    }
}

/// The name and password that came with the request.
fn authenticate(head: &RequestHead<'_, '_>) -> Result<Login, &'static str> {
    let mut all = values(head.fields, "proxy-authorization");
    let Some(value) = all.next() else { return Err("name the group as user, and its password") };
    if all.next().is_some() {
        return Err("more than one Proxy-Authorization");
    }
    let malformed = "Proxy-Authorization is not Basic with user:password";
    let (scheme, encoded) = value.split_at_checked(6).ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(malformed);
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(super::super::fields::trim(encoded))
        .map_err(|_| malformed)?;
    let colon = decoded.iter().position(|&b| b == b':').ok_or(malformed)?;
    Login::new(&decoded[..colon], &decoded[colon + 1..]).ok_or("wrong user or password")
}
