//! The target's side of an exchange: interim heads, the final head, the body, and ends that come too early.

use super::super::fields::decimal;
use super::super::forward::{ToUser, trailers_passed_on, values, write_response};
use super::super::{BodyReader, BodyWriter, Framing, ResponseHead, Version, empty_slots, parse_response};
use super::*;
use crate::limits::http::INTERIM_MAX;

/// What a response head led to.
enum Step {
    /// An interim response: another head follows.
    Interim,
    /// The final one: its body follows.
    Final,
    /// 101 that was asked for.
    Switched,
}

impl HttpProxy {
    pub(super) fn response_input(&mut self, input: &mut LinkBuffer, end: bool, clock: Clock) {
        if !input.is_empty()
            && let Phase::Moving(exchange) = &mut self.phase
        {
            exchange.record.answered.get_or_insert(clock.now);
        }
        while let Phase::Moving(exchange) = &mut self.phase {
            if exchange.response.is_some() {
                self.response_body(input, end, clock);
                break;
            }
            if self.to_user.len() >= OUTPUT_MAX_BYTES {
                break;
            }
            match self.response_head(input, clock) {
                Ok(Some(Step::Interim | Step::Final)) => {}
                Ok(Some(Step::Switched)) => {
                    let Some(exchange) = self.take_moving() else { return };
                    self.tunnel(exchange, clock);
                    return;
                }
                Ok(None) => {
                    if end {
                        let text = "the target closed the connection before it answered";
                        self.fail(text, End::new('S', 'H'), "eof", clock);
                    }
                    break;
                }
                Err(reject) => {
                    let text = format!("the target's answer is not HTTP: {}", reject.why);
                    self.fail(&text, End::new('S', 'H'), "bad_response", clock);
                    break;
                }
            }
        }
        if !matches!(self.phase, Phase::Moving(_) | Phase::Tunnel) {
            // Nothing is kept of what an upstream sent beyond its response.
            input.clear();
        }
    }

    fn fail(&mut self, text: &str, end: End, why: &'static str, clock: Clock) {
        if let Some(exchange) = self.take_moving() {
            self.upstream_failed(exchange, text, end, why, clock);
        }
    }

    /// Takes one response head, and writes it to the user.
    fn response_head(&mut self, input: &mut LinkBuffer, clock: Clock) -> Result<Option<Step>, Reject> {
        let Phase::Moving(exchange) = &mut self.phase else { return Ok(None) };
        let (stopping, via, out) = (self.stopping, &self.config.via, &mut self.to_user);
        let mut head_buffer = std::mem::take(&mut exchange.response_head);
        let found = head_buffer.fill(input, |bytes, scan| {
            let mut slots = empty_slots();
            let method = if exchange.head_only { "HEAD" } else { "GET" };
            match parse_response(bytes, method, scan, &mut slots)? {
                Some((head, end)) => Ok(Some((exchange.respond(&head, out, via, stopping, clock)?, end))),
                None => Ok(None),
            }
        });
        exchange.response_head = head_buffer;
        found
    }

    fn response_body(&mut self, input: &mut LinkBuffer, end: bool, clock: Clock) {
        let Phase::Moving(exchange) = &mut self.phase else { return };
        let Some((reader, writer)) = &mut exchange.response else { return };
        while self.to_user.len() < OUTPUT_MAX_BYTES {
            match reader.read(input, PIECE_MAX_BYTES) {
                Ok(Some(piece)) => writer
                    .write(piece, &mut self.to_user)
                    .expect("a body is written with the length that it is read with"),
                Ok(None) => break,
                Err(_) => {
                    self.fail("", End::new('S', 'D'), "bad_response", clock);
                    return;
                }
            }
        }
        if end && input.is_empty() && reader.end().is_err() {
            self.fail("", End::new('S', 'D'), "eof", clock);
            return;
        }
        if reader.is_done() {
            self.response_done(clock);
        }
    }

    /// The response is complete: the exchange is over, whatever is left of the request.
    fn response_done(&mut self, clock: Clock) {
        let Some(mut exchange) = self.take_moving() else { return };
        let (reader, writer) = exchange.response.take().expect("a response that is done has begun");
        let trailers = trailers_passed_on(reader.trailers());
        writer
            .finish(&trailers, &mut self.to_user)
            .expect("a body is written with the length that it is read with");
        exchange.record.down = reader.payload_len();
        let read = exchange.request_writer.is_none();
        let keep_alive = exchange.keep_alive && read && !self.stopping;
        // A request of which the end was not sent must not look whole to the target.
        let abort = !read || !self.to_upstream.is_empty();
        self.to_upstream.clear();
        self.events.push_back(Event::CloseUpstream { abort });
        self.done(exchange, End::NORMAL, "eof", clock);
        if keep_alive {
            self.phase = Phase::Idle;
        } else {
            self.close(true);
        }
    }
}

impl Exchange {
    /// Passes one response head on.
    fn respond(
        &mut self,
        head: &ResponseHead<'_, '_>,
        out: &mut LinkBuffer,
        via: &str,
        stopping: bool,
        clock: Clock,
    ) -> Result<Step, Reject> {
        let wall = clock.wall;
        if head.status == 101 {
            if !self.upgrade {
                return Err(Reject::new(502, "it changed the protocol unasked"));
            }
            self.record.code = 101;
            write_response(out, head, &ToUser { body: Framing::None, keep_alive: true, wall, via });
            return Ok(Step::Switched);
        }
        if head.status < 200 {
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(Reject::new(502, "too many interim responses"));
            }
            if self.version == Version::Http11 {
                write_response(out, head, &ToUser { body: Framing::None, keep_alive: true, wall, via });
            }
            return Ok(Step::Interim);
        }
        let body = match head.body {
            Framing::Chunked | Framing::UntilClose if self.version == Version::Http10 => Framing::UntilClose,
            Framing::UntilClose => Framing::Chunked,
            body => body,
        };
        // While the user is still sending, nobody knows whether the rest will ever come.
        self.keep_alive &= !stopping && body != Framing::UntilClose && self.request_writer.is_none();
        let shown = match body {
            // The length of what would have been sent: metadata, with no body to frame.
            Framing::None if self.head_only || head.status == 304 => declared_length(head),
            Framing::None if head.status == 204 => Framing::None,
            Framing::None => Framing::Length(0),
            body => body,
        };
        self.record.code = head.status;
        write_response(out, head, &ToUser { body: shown, keep_alive: self.keep_alive, wall, via });
        self.response = Some((BodyReader::new(head.body), BodyWriter::new(body)));
        Ok(Step::Final)
    }
}

fn declared_length(head: &ResponseHead<'_, '_>) -> Framing {
    match values(head.fields, "content-length").next().and_then(decimal) {
        Some(n) => Framing::Length(n),
        None => Framing::None,
    }
}
