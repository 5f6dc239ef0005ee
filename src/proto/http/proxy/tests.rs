//! Conversations as data, with the input cut into pieces of every size.

use super::*;
use crate::proto::credentials::Login;
use crate::proto::http::{BodyReader, Framing};
use bytes::Bytes;
use std::time::SystemTime;

/// One line of a conversation. In texts `\n` stands for CRLF.
#[derive(Clone)]
enum Step {
    User(String),
    UserEnd,
    UserReset,
    Opened,
    Refused(u16),
    Up(String),
    UpEnd,
    UpReset,
    Wait(u64),
    Stop,
    /// What reached the user since the last such step. `D` is the Date, and a chunked body is `payload|`.
    ToUser(String),
    /// What reached the target since the last such step.
    ToUp(String),
    /// The events since the last such step, in short.
    Events(&'static str),
}
use Step::{Events, Opened, Refused, Stop, UpEnd, UpReset, UserEnd, UserReset, Wait};

fn user(text: &str) -> Step {
    Step::User(text.replace('\n', "\r\n"))
}
fn up(text: &str) -> Step {
    Step::Up(text.replace('\n', "\r\n"))
}
fn to_user(text: &str) -> Step {
    Step::ToUser(text.to_string())
}
fn to_up(text: &str) -> Step {
    Step::ToUp(text.to_string())
}

/// Knows `prod`, whose password has a colon in it.
fn proven(login: &Login) -> Proven {
    match login.user == "prod" && login.password.as_bytes() == b"secret:1" {
        true => Proven::Yes,
        false => Proven::No,
    }
}

/// A proxy with both its sides, as the caller drives it.
struct Run {
    proxy: HttpProxy,
    user: LinkBuffer,
    up: LinkBuffer,
    up_open: bool,
    up_ended: bool,
    user_ended: bool,
    clock: Clock,
    sent_user: Vec<u8>,
    sent_up: Vec<u8>,
    events: Vec<String>,
    /// The password is answered for by hand.
    by_hand: bool,
}

impl Run {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other first Instant; from here on it is moved by hand"
    )]
    fn new(auth: bool) -> Self {
        let clock = Clock { now: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let config = Arc::new(ProxyConfig { auth, via: "gw1".to_string() });
        Self {
            proxy: HttpProxy::new(config, clock.now),
            user: LinkBuffer::new(),
            up: LinkBuffer::new(),
            up_open: false,
            up_ended: false,
            user_ended: false,
            clock,
            sent_user: Vec::new(),
            sent_up: Vec::new(),
            events: Vec::new(),
            by_hand: false,
        }
    }

    /// Gives input and takes output and events until nothing moves.
    fn settle(&mut self) {
        loop {
            if self.user_ended {
                self.proxy.handle_user_end(&mut self.user, self.clock);
            } else {
                self.proxy.handle_user(&mut self.user, self.clock);
            }
            if self.up_open {
                self.proxy.handle_upstream(&mut self.up, self.up_ended, self.clock);
            }
            let mut moved = false;
            while let Some(event) = self.proxy.poll_event() {
                moved = true;
                match &event {
                    Event::Verify(login) if !self.by_hand => self.proxy.verified(proven(login), self.clock),
                    event => {
                        self.take(event);
                        self.events.push(show(event));
                    }
                }
            }
            moved |= drain(self.proxy.to_user(), &mut self.sent_user);
            if self.up_open {
                moved |= drain(self.proxy.to_upstream(), &mut self.sent_up);
            }
            if !moved {
                return;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Open { .. } => assert!(!self.up_open, "one upstream at a time"),
            Event::CloseUpstream { .. } => {
                (self.up_open, self.up_ended) = (false, false);
                self.up.clear();
            }
            _ => {}
        }
    }

    fn step(&mut self, step: &Step, piece: usize) {
        match step {
            Step::User(text) => {
                for part in text.as_bytes().chunks(piece) {
                    self.user.write_bytes(Bytes::copy_from_slice(part));
                    self.settle();
                }
            }
            Step::Up(text) => {
                for part in text.as_bytes().chunks(piece) {
                    self.up.write_bytes(Bytes::copy_from_slice(part));
                    self.settle();
                }
            }
            Step::UserEnd => self.user_ended = true,
            Step::UserReset => self.proxy.handle_user_reset(self.clock),
            Step::Opened => {
                self.up_open = true;
                self.proxy.opened(self.clock);
            }
            Step::Refused(status) => {
                let end = End::new('S', 'C');
                let refusal = Refusal { status: *status, text: "refused", end, why: "refused" };
                self.proxy.refused(refusal, self.clock);
            }
            Step::UpEnd => self.up_ended = true,
            Step::UpReset => self.proxy.handle_upstream_reset(End::new('S', 'D'), "rst", self.clock),
            Step::Wait(ms) => {
                self.clock.now += Duration::from_millis(*ms);
                self.proxy.handle_timeout(self.clock);
            }
            Step::Stop => self.proxy.stop(),
            Step::ToUser(want) => {
                let got = normal(&std::mem::take(&mut self.sent_user));
                assert_eq!(got, *want, "to the user, in pieces of {piece}");
            }
            Step::ToUp(want) => {
                let got = normal(&std::mem::take(&mut self.sent_up));
                assert_eq!(got, *want, "to the target, in pieces of {piece}");
            }
            Step::Events(want) => {
                let got = std::mem::take(&mut self.events).join(", ");
                assert_eq!(got, *want, "in pieces of {piece}");
            }
        }
        self.settle();
    }
}

fn drain(from: &mut LinkBuffer, into: &mut Vec<u8>) -> bool {
    let before = into.len();
    while let Some(piece) = from.read_chunk(usize::MAX) {
        into.extend_from_slice(&piece);
    }
    into.len() > before
}

fn show(event: &Event) -> String {
    match event {
        Event::Verify(login) => format!("verify {}", login.user),
        Event::Open { host, port, connect, user } => {
            let verb = if *connect { "connect" } else { "open" };
            let user = user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
            format!("{verb} {host} {port}{user}")
        }
        Event::CloseUpstream { abort } => if *abort { "abort-up" } else { "close-up" }.to_string(),
        Event::Tunnel(record) => format!("tunnel {}", record.code),
        Event::Done(record) => {
            let ExchangeRecord { code, up, down, end, why, .. } = &**record;
            format!("done {code} up={up} down={down} {}{} {why}", end.who, end.phase)
        }
        Event::CloseUser { after_output } => if *after_output { "close" } else { "abort" }.to_string(),
    }
}

/// Output in the form of the scripts: independent of how bodies were cut into chunks.
fn normal(sent: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = sent;
    while let Some(at) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
        let (head, body) = rest.split_at(at + 4);
        let head = str::from_utf8(head).expect("heads are text");
        text += &head.replace("Date: Thu, 01 Jan 1970 00:00:00 GMT", "D");
        rest = body;
        if head.contains("Transfer-Encoding: chunked") {
            let mut reader = BodyReader::new(Framing::Chunked);
            let mut input = LinkBuffer::new();
            input.write(body);
            while let Some(piece) = reader.read(&mut input, usize::MAX).expect("our chunks are good") {
                text += str::from_utf8(&piece).expect("text");
            }
            text += str::from_utf8(reader.trailers()).expect("text");
            text += if reader.is_done() { "|" } else { "..." };
            rest = &body[body.len() - input.len()..];
        }
    }
    text += str::from_utf8(rest).expect("text");
    text.replace("\r\n", "\n")
}

#[track_caller]
fn check_with(auth: bool, steps: &[Step]) {
    let longest = steps.iter().map(|step| match step {
        Step::User(text) | Step::Up(text) => text.len(),
        _ => 1,
    });
    let longest = longest.max().expect("a conversation has steps");
    let sizes: Vec<usize> =
        if longest > 2_000 { vec![1, 7, 1_000, longest] } else { (1..=longest).collect() };
    for piece in sizes {
        let mut run = Run::new(auth);
        for step in steps {
            run.step(step, piece);
        }
        // Whatever was not expected in so many words must not have happened after the last expectation.
        assert_eq!(
            (run.sent_user.len(), run.sent_up.len(), run.events.len()),
            (0, 0, 0),
            "left over: {:?}",
            run.events
        );
    }
}

#[track_caller]
fn check(steps: &[Step]) {
    check_with(false, steps);
}

/// A request that gets `Connection: close` and nothing else special.
const GET: &str = "GET http://a/x HTTP/1.1\nHost: a\n\n";
const GET_UP: &str = "GET /x HTTP/1.1\nHost: a\nVia: 1.1 gw1\nConnection: close\n\n";

/// Steps up to an open upstream that has got the plain request.
fn asked() -> Vec<Step> {
    vec![user(GET), Events("open a 80"), Opened, to_up(GET_UP)]
}

#[track_caller]
fn after_asking(steps: &[Step]) {
    check(&[asked(), steps.to_vec()].concat());
}

mod endings;
mod passing;
mod refusals;
