//! One connection's exchanges: what is under way, and what to do when bytes, room or time have come.

use std::time::Duration;

use linkbuffer::LinkBuffer;

use super::Times;
use super::answer::{self, Answer, Date, Persist, Ready};
use super::routes::{Route, pattern_piece};
use crate::limits::http::{FIELDS_MAX_BYTES, METHOD_MAX_BYTES, TARGET_MAX_BYTES};
use crate::limits::{
    SERVE_AHEAD_BYTES_MAX, SERVE_HEAD_BYTES_MAX, SERVE_STALL_BODY_BYTES_MIN, SERVE_UNSENT_BYTES_MAX,
};
use crate::proto::http::{
    BodyReader, BodyWriter, Framing, HeadScan, Reject, RequestHead, Version, empty_slots, parse_request,
};
use crate::rt::Connection;
use crate::rt::limits::OUTPUT_HIGH_BYTES;

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    state: State,
    /// How far the head has been looked at that stands at the beginning of the input.
    scan: HeadScan,
    watch: Watch,
    /// The event loop stops: the next answer is the last.
    stopping: bool,
}

#[derive(Debug, Default)]
enum State {
    /// Waits for a head, or the rest of one.
    #[default]
    Head,
    /// Sends the pattern: `left` bytes from `position` on.
    Bytes { position: u64, left: u64, ends: bool },
    /// Sends back what comes.
    Echo(Box<Echo>),
    /// Waits before it answers.
    Delay { delay: Duration, persist: Persist, head_only: bool },
    /// The last answer is written.
    Last,
    /// Reads on, for a moment.
    Linger,
}

#[derive(Debug)]
struct Echo {
    framing: Framing,
    reader: BodyReader,
    writer: BodyWriter,
    persist: Persist,
    /// The head of the answer is written. It waits for the first bytes of the body: before them, an error can still be
    /// told.
    begun: bool,
}

/// Why an echo stopped.
enum Moved {
    /// The body is over.
    Over,
    /// All that has come is moved.
    Hungry,
    /// The output is full.
    Full,
}

/// What the connection's timer is set for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Watch {
    #[default]
    Off,
    /// The head has to be whole.
    Head,
    /// Something has to have moved; this is what had until the timer was set.
    Stall {
        sent: u64,
        received: u64,
    },
    Delay,
    Linger,
}

/// What a state has to say after a step.
enum Step {
    /// The next one is ready to go.
    More,
    /// Nothing to do before something comes.
    Wait,
    /// The peer has to take something first.
    Full,
}

impl Exchange {
    /// Goes as far as input and room for output allow.
    pub(super) fn advance(&mut self, times: &Times, conn: &mut Connection) {
        let date = Date::now();
        loop {
            let full = conn.output().len() > OUTPUT_HIGH_BYTES;
            let step = match &mut self.state {
                State::Head | State::Bytes { .. } | State::Echo(_) if full => Step::Full,
                State::Head => self.head(conn, &date),
                State::Bytes { position, left, ends } => {
                    let piece = pattern_piece(*position, *left);
                    *position += piece.len() as u64;
                    *left -= piece.len() as u64;
                    conn.output().write_bytes(piece);
                    if *left == 0 {
                        self.state = if *ends { State::Last } else { State::Head };
                        // What is left in the kernel's hands meanwhile is looked at again.
                        conn.wake_on_progress();
                    }
                    Step::More
                }
                State::Echo(echo) => match echo.step(conn, &date) {
                    Ok(Moved::Over) => {
                        let ends = echo.persist == Persist::Close;
                        self.state = if ends { State::Last } else { State::Head };
                        Step::More
                    }
                    Ok(Moved::Hungry) => Step::Wait,
                    Ok(Moved::Full) => Step::Full,
                    Err(reject) => {
                        if !echo.begun {
                            refuse(conn.output(), &date, reject);
                        }
                        self.state = State::Last;
                        Step::More
                    }
                },
                State::Delay { delay, .. } => {
                    if self.watch != Watch::Delay {
                        self.watch = Watch::Delay;
                        conn.set_timer(*delay);
                    }
                    if conn.input().len() > SERVE_AHEAD_BYTES_MAX {
                        conn.pause();
                    }
                    Step::Wait
                }
                State::Last => {
                    self.last(times, conn);
                    Step::More
                }
                State::Linger => {
                    conn.input().clear();
                    if conn.input_ended() {
                        conn.close();
                    }
                    Step::Wait
                }
            };
            match step {
                Step::More => {}
                Step::Wait => break,
                Step::Full => {
                    conn.wake_on_progress();
                    break;
                }
            }
        }
        self.watch(times, conn);
    }

    /// Answers one request, if its head is whole.
    fn head(&mut self, conn: &mut Connection, date: &Date) -> Step {
        let (input, output) = conn.buffers();
        if input.is_empty() {
            return self.starved(conn);
        }
        let mut slots = empty_slots();
        match parse_request(input.chunk(), &mut self.scan, &mut slots) {
            Ok(Some((head, len))) => {
                self.state = begin(&head, self.stopping, output, date, input.len() > len);
                self.scan = HeadScan::default();
                // What follows has its own time.
                self.watch = Watch::Off;
                input.skip(len).expect("the head was read from these bytes");
                Step::More
            }
            Ok(None) => {
                let seen = input.chunk().len();
                let want = input.len().min(SERVE_HEAD_BYTES_MAX);
                if seen < want {
                    input.peek(want).expect("so much is there");
                    return Step::More;
                }
                self.starved(conn)
            }
            Err(reject) => {
                refuse(output, date, reject);
                self.state = State::Last;
                Step::More
            }
        }
    }

    /// No whole head is there.
    fn starved(&mut self, conn: &mut Connection) -> Step {
        if conn.input_ended() {
            self.state = State::Last;
            return Step::More;
        }
        Step::Wait
    }

    /// Ends our side, and lingers.
    fn last(&mut self, times: &Times, conn: &mut Connection) {
        self.state = State::Linger;
        conn.resume();
        conn.shutdown_write();
        self.watch = Watch::Linger;
        conn.set_timer(times.linger);
    }

    /// Sets the timer that the state asks for.
    fn watch(&mut self, times: &Times, conn: &mut Connection) {
        if matches!(self.state, State::Delay { .. } | State::Linger | State::Last) {
            return;
        }
        let under_way = !matches!(self.state, State::Head);
        if !under_way && !conn.input().is_empty() && conn.output().len() <= OUTPUT_HIGH_BYTES {
            if self.watch != Watch::Head {
                self.watch = Watch::Head;
                conn.set_timer(times.head);
            }
            return;
        }
        if !under_way && conn.output().len() > SERVE_UNSENT_BYTES_MAX {
            // The event loop finds the same error when this returns, and closes.
            if conn.flush().is_err() {
                return;
            }
        }
        if under_way || conn.output().len() > SERVE_UNSENT_BYTES_MAX {
            if !matches!(self.watch, Watch::Stall { .. }) {
                self.watch_for_stall(times, conn);
            }
        } else if self.watch != Watch::Off {
            self.watch = Watch::Off;
            conn.clear_timer();
        }
    }

    fn watch_for_stall(&mut self, times: &Times, conn: &mut Connection) {
        self.watch = Watch::Stall { sent: conn.bytes_out(), received: self.received() };
        conn.set_timer(times.stall);
    }

    /// Payload of the request's body so far.
    fn received(&self) -> u64 {
        match &self.state {
            State::Echo(echo) => echo.reader.payload_len(),
            _ => 0,
        }
    }

    /// The time has come that the timer was set for.
    pub(super) fn timer(&mut self, times: &Times, conn: &mut Connection) {
        match (std::mem::take(&mut self.watch), &self.state) {
            (Watch::Delay, State::Delay { persist, head_only, .. }) => {
                let ends = *persist == Persist::Close;
                Answer::DELAYED.write(conn.output(), &Date::now(), *persist, *head_only);
                self.state = if ends { State::Last } else { State::Head };
                conn.resume();
                self.advance(times, conn);
            }
            (Watch::Head, State::Head) => {
                refuse(conn.output(), &Date::now(), TOO_SLOW);
                self.state = State::Last;
                self.advance(times, conn);
            }
            (Watch::Linger, _) => conn.close(),
            (Watch::Stall { sent, received }, _) => self.stalled(times, conn, sent, received),
            _ => {}
        }
    }

    /// Looks whether an exchange has moved since `sent` and `received`.
    fn stalled(&mut self, times: &Times, conn: &mut Connection, sent: u64, received: u64) {
        if !conn.output().is_empty() {
            // It is the peer who has to take something.
            if conn.bytes_out() == sent {
                conn.abort();
            } else {
                self.watch_for_stall(times, conn);
            }
            return;
        }
        if let State::Echo(echo) = &self.state
            && echo.reader.payload_len().saturating_sub(received) < SERVE_STALL_BODY_BYTES_MIN
        {
            if !echo.begun {
                refuse(conn.output(), &Date::now(), TOO_SLOW);
            }
            self.state = State::Last;
            self.advance(times, conn);
            return;
        }
        self.watch(times, conn);
    }

    /// The event loop stops: an idle connection closes, any other one with its next answer.
    pub(super) fn shutdown(&mut self, conn: &mut Connection) {
        self.stopping = true;
        let full = conn.output().len() > OUTPUT_HIGH_BYTES;
        match &mut self.state {
            // When it is full, whole requests may wait behind it.
            State::Head if !full => conn.close(),
            State::Bytes { ends, .. } => *ends = true,
            State::Echo(echo) => echo.persist = Persist::Close,
            State::Delay { persist, .. } => *persist = Persist::Close,
            State::Head | State::Last | State::Linger => {}
        }
    }
}

/// The parser gives its verdict before that many bytes: method, target and fields with the text between them.
const _: () = assert!(METHOD_MAX_BYTES + TARGET_MAX_BYTES + FIELDS_MAX_BYTES + 64 <= SERVE_HEAD_BYTES_MAX);

const TOO_SLOW: Reject = Reject { status: 408, why: "the request took too long to arrive" };

fn refuse(out: &mut LinkBuffer, date: &Date, reject: Reject) {
    Answer::error(reject.status, reject.why).write(out, date, Persist::Close, false);
}

/// Answers a request, or begins to.
fn begin(
    head: &RequestHead<'_, '_>,
    stopping: bool,
    out: &mut LinkBuffer,
    date: &Date,
    body_has_come: bool,
) -> State {
    let route = Route::of(&head.target);
    let allowed = route.allows(head.method);
    let takes_body = route == Route::Echo && allowed;
    let head_only = head.method == "HEAD";
    // A body that nobody wants is not read: the connection ends instead.
    let persist = if stopping || !head.keep_alive || head.body != Framing::None && !takes_body {
        Persist::Close
    } else if head.version == Version::Http10 {
        Persist::KeepAlive
    } else {
        Persist::Implied
    };
    let answer = match route {
        _ if !allowed => Answer::not_allowed(route.allow()),
        Route::Plaintext | Route::Json if persist == Persist::Implied && !head_only => {
            let ready = if route == Route::Json { Ready::JSON } else { Ready::PLAINTEXT };
            ready.write(out, date);
            return State::Head;
        }
        Route::Plaintext => Answer::PLAINTEXT,
        Route::Json => Answer::JSON,
        Route::Page => Answer::PAGE,
        Route::Health => Answer::HEALTH,
        Route::Server => Answer::OPTIONS,
        Route::Unknown | Route::Tunnel => Answer::NOT_FOUND,
        Route::DelayTooLong => Answer::error(400, "that is longer than any delay here"),
        Route::Delay(delay) => return State::Delay { delay, persist, head_only },
        Route::Bytes(left) => {
            answer::head(out, date, persist, &Answer::BINARY, Framing::Length(left));
            let ends = persist == Persist::Close;
            return match left {
                _ if head_only && ends => State::Last,
                _ if head_only => State::Head,
                left => State::Bytes { position: 0, left, ends },
            };
        }
        Route::Echo => {
            if head.expect_continue && !body_has_come {
                out.write(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            let (reader, writer) = (BodyReader::new(head.body), BodyWriter::new(head.body));
            return State::Echo(Box::new(Echo { framing: head.body, reader, writer, persist, begun: false }));
        }
    };
    answer.write(out, date, persist, head_only);
    if persist == Persist::Close { State::Last } else { State::Head }
}

impl Echo {
    /// Moves what has come, up to the high watermark; says why it stopped.
    fn step(&mut self, conn: &mut Connection, date: &Date) -> Result<Moved, Reject> {
        let ended = conn.input_ended();
        let (input, output) = conn.buffers();
        while output.len() <= OUTPUT_HIGH_BYTES {
            let piece = self.reader.read(input, OUTPUT_HIGH_BYTES)?;
            let done = self.reader.is_done();
            if (piece.is_some() || done) && !self.begun {
                self.begun = true;
                answer::head(output, date, self.persist, &Answer::BINARY, self.framing);
            }
            if let Some(piece) = piece {
                self.writer.write(piece, output).expect("no more is read than was announced");
            } else if !done {
                return if ended { Err(CUT_SHORT) } else { Ok(Moved::Hungry) };
            }
            if done {
                let writer = std::mem::replace(&mut self.writer, BodyWriter::Raw);
                writer.finish(&[], output).expect("all that was announced has been read");
                return Ok(Moved::Over);
            }
        }
        Ok(Moved::Full)
    }
}

const CUT_SHORT: Reject = Reject { status: 400, why: "the body ends before its end" };
