//! Conversations as data, with the input cut into pieces of every size.

use super::*;
use crate::limits::http::INTERIM_MAX;
use bytes::Bytes;

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
struct Known;
impl Verifier for Known {
    fn verify(&self, user: &[u8], password: &[u8]) -> bool {
        user == b"prod" && password == b"secret:1"
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
}

impl Run {
    fn new(auth: bool) -> Self {
        let clock = Clock { now: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let auth: Option<Arc<dyn Verifier>> = if auth { Some(Arc::new(Known)) } else { None };
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
                self.take(&event);
                self.events.push(show(&event));
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
            let mut reader = BodyReader::new(crate::proto::http::Framing::Chunked);
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

// proves S-61 in its sans-IO part
#[test]
fn a_request_goes_through_and_the_connection_stays() {
    let response = "HTTP/1.1 200 OK\nContent-Length: 5\nX: y\n\nhello";
    let back = "HTTP/1.1 200 OK\nX: y\nVia: 1.1 gw1\nD\nContent-Length: 5\n\nhello";
    let round = [up(response), to_user(back), Events("close-up, done 200 up=0 down=5 -- eof")];
    check(&[asked(), round.to_vec(), asked(), round.to_vec()].concat());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    check(&[
        user(&GET.repeat(2)),
        Events("open a 80"),
        Opened,
        to_up(GET_UP),
        up("HTTP/1.1 204 No\n\n"),
        to_user("HTTP/1.1 204 No\nVia: 1.1 gw1\nD\n\n"),
        Events("close-up, done 204 up=0 down=0 -- eof, open a 80"),
        Refused(502),
        to_user(
            "HTTP/1.1 502 Bad Gateway\nD\nContent-Type: text/plain; charset=utf-8\nCache-Control: no-store\nContent-Length: 25\n\n502 Bad Gateway: refused\n",
        ),
        Events("done 502 up=0 down=0 SC refused"),
        UserEnd,
        Events("close"),
    ]);
}

#[test]
fn bodies_go_both_ways_in_a_framing_of_our_own() {
    check(&[
        user("POST http://a/ HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello"),
        Events("open a 80"),
        Opened,
        to_up("POST / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nContent-Length: 5\nConnection: close\n\nhello"),
        up(
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: A\n\n2;x=y\nab\n1\nc\n0\nA: b\nContent-Length: 9\n\n",
        ),
        to_user("HTTP/1.1 200 OK\nTrailer: A\nVia: 1.1 gw1\nD\nTransfer-Encoding: chunked\n\nabcA: b\n|"),
        Events("close-up, done 200 up=5 down=3 -- eof"),
        user(
            "PUT http://a/ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n5\nhello\n0\nB: c\nHost: evil\n\n",
        ),
        Events("open a 80"),
        Opened,
        to_up(
            "PUT / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nTransfer-Encoding: chunked\nConnection: close\n\nhelloB: c\n|",
        ),
        up("HTTP/1.0 200 OK\nDate: then\n\nuntil close"),
        UpEnd,
        to_user("HTTP/1.1 200 OK\nDate: then\nVia: 1.0 gw1\nTransfer-Encoding: chunked\n\nuntil close|"),
        Events("close-up, done 200 up=5 down=11 -- eof"),
        user("POST http://a/ HTTP/1.1\nHost: a\nContent-Length: 0\n\n"),
        Events("open a 80"),
        Opened,
        to_up("POST / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nContent-Length: 0\nConnection: close\n\n"),
        up("HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 0\n\n"),
        Events("close-up, done 200 up=0 down=0 -- eof"),
    ]);
}

#[test]
fn responses_without_a_body_have_none() {
    check(&[
        user("HEAD http://a/ HTTP/1.1\nHost: a\n\n"),
        Opened,
        up("HTTP/1.1 200 OK\nContent-Length: 5\n\n"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 5\n\n"),
        user(GET),
        Opened,
        up("HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n"),
        to_user("HTTP/1.1 304 Not Modified\nVia: 1.1 gw1\nD\nContent-Length: 5\n\n"),
        user("HEAD http://a/ HTTP/1.1\nHost: a\n\n"),
        Refused(504),
        to_user(
            "HTTP/1.1 504 Gateway Timeout\nD\nContent-Type: text/plain; charset=utf-8\nCache-Control: no-store\nContent-Length: 29\n\n",
        ),
        to_up(
            "HEAD / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nConnection: close\n\nGET /x HTTP/1.1\nHost: a\nVia: 1.1 gw1\nConnection: close\n\n",
        ),
        Events(
            "open a 80, close-up, done 200 up=0 down=0 -- eof, open a 80, close-up, done 304 up=0 down=0 -- eof, open a 80, done 504 up=0 down=0 SC refused",
        ),
    ]);
}

// THREATS T23
#[test]
fn what_concerns_one_hop_stays_there() {
    check(&[
        user(
            "GET HTTP://A.example:8080?q HTTP/1.1\nHost: evil\nConnection: X-Secret, keep-alive\nX-Secret: 1\nX-Open: 2\n\
             Proxy-Connection: keep-alive\nKeep-Alive: 5\nTE: trailers\nProxy-Authorization: Basic eA==\nVia: 1.0 other\n\
             Upgrade: h2c\nExpect: 100-continue\nMax-Forwards: 3\n\n",
        ),
        Events("open a.example 8080"),
        Opened,
        to_up(
            "GET /?q HTTP/1.1\nHost: A.example:8080\nX-Open: 2\nVia: 1.0 other\nVia: 1.1 gw1\nConnection: close\n\n",
        ),
        up(
            "HTTP/1.1 200 OK\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: 5\nProxy-Authenticate: Basic\nContent-Length: 0\n\n",
        ),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 0\n\n"),
        Events("close-up, done 200 up=0 down=0 -- eof"),
    ]);
    check(&[
        user("OPTIONS http://[::1] HTTP/1.1\nHost: a\nMax-Forwards: 1\n\n"),
        Events("open ::1 80"),
        Opened,
        to_up("OPTIONS * HTTP/1.1\nHost: [::1]\nMax-Forwards: 0\nVia: 1.1 gw1\nConnection: close\n\n"),
    ]);
}

/// A request that is answered by us, and what becomes of the connection.
#[track_caller]
fn answered(auth: bool, request: &str, status: u16, says: &str, events: &str) {
    let mut run = Run::new(auth);
    run.step(&user(request), usize::MAX);
    let got = normal(&run.sent_user);
    assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {got}");
    assert!(got.contains(says), "{request:?}: {got}");
    assert_eq!(run.events.join(", "), events, "{request:?}");
}

// THREATS T3, T8, T22, T23
#[test]
fn what_is_not_forwarded_is_answered_with_the_reason() {
    let host = "HTTP/1.1\nHost: a\n\n";
    answered(false, &format!("GET / {host}"), 400, "curl -x", "done 400 up=0 down=0 LR not_proxy_form");
    answered(false, &format!("OPTIONS * {host}"), 400, "curl -x", "done 400 up=0 down=0 LR not_proxy_form");
    answered(false, &format!("TRACE http://a/ {host}"), 405, "Allow: ", "done 405 up=0 down=0 PR method");
    let via = "GET http://a/ HTTP/1.1\nHost: a\nVia: 1.0 x, 1.1 GW1 (y)\n\n";
    answered(false, via, 508, "already passed", "done 508 up=0 down=0 PR loop");
    let last = "OPTIONS http://a/ HTTP/1.1\nHost: a\nMax-Forwards: 0\n\n";
    answered(false, last, 200, "Allow: ", "done 200 up=0 down=0 LR max_forwards");
    let bad = "done 400 up=0 down=0 PR bad_request, close";
    answered(false, "GET / HTTP/1.1\n\n", 400, "no Host", bad);
    answered(false, "CONNECT a:0 HTTP/1.1\nHost: a\n\n", 400, "bad port", bad);
    answered(false, "GET http://a/ HTTP/1.1\nHost: a\nHost: b\n\nGET", 400, "Connection: close", bad);
    let unfinished = "POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\n";
    answered(false, unfinished, 400, "Connection: close", "done 400 up=0 down=0 LR not_proxy_form, close");
}

#[test]
fn a_group_is_asked_for_and_proven() {
    let get = |field: &str| format!("GET http://a/ HTTP/1.1\nHost: a\n{field}\n");
    for field in [
        "",
        "Proxy-Authorization: Basic\n",
        "Proxy-Authorization: Basic !\n",
        "Proxy-Authorization: Basic cHJvZA==\n",
        "Proxy-Authorization: Basic cHJvZDp3cm9uZw==\n",
        "Proxy-Authorization: Basic bm9ib2R5OnNlY3JldDox\n",
        "Proxy-Authorization: Bearer cHJvZDpzZWNyZXQ6MQ==\n",
        "Authorization: Basic cHJvZDpzZWNyZXQ6MQ==\n",
        "Proxy-Authorization: Basic cHJvZDpzZWNyZXQ6MQ==\nProxy-Authorization: Basic cHJvZDpzZWNyZXQ6MQ==\n",
    ] {
        answered(true, &get(field), 407, "Proxy-Authenticate: Basic realm=", "done 407 up=0 down=0 PA auth");
        let connect = get(field).replace("GET http://a/", "CONNECT a:1");
        answered(true, &connect, 407, "Proxy-Authenticate: Basic realm=", "done 407 up=0 down=0 PA auth");
    }
    check_with(
        true,
        &[
            user(&get("proxy-authorization: bASIC  cHJvZDpzZWNyZXQ6MQ==\n")),
            Events("open a 80 as prod"),
            Opened,
            to_up("GET / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nConnection: close\n\n"),
        ],
    );
}

// THREATS T4
#[test]
fn connect_waits_for_the_target_and_then_is_out_of_the_way() {
    let ask = "CONNECT A:443 HTTP/1.1\nHost: a:443\n\n";
    check(&[
        user(&format!("{ask}early bytes")),
        Events("connect a 443"),
        to_user(""),
        Opened,
        to_user("HTTP/1.1 200 Connection established\n\n"),
        Events("tunnel 200"),
        user("more"),
        to_up(""),
        UserEnd,
        Events(""),
    ]);
    for piece in [1, 7, 100] {
        let mut run = Run::new(false);
        run.step(&user(&format!("{ask}early")), piece);
        run.step(&Opened, piece);
        assert_eq!(run.user.len(), 5, "early bytes stay in the user's input");
    }
    check(&[
        user(ask),
        Events("connect a 443"),
        Refused(403),
        to_user(
            "HTTP/1.1 403 Forbidden\nD\nContent-Type: text/plain; charset=utf-8\nCache-Control: no-store\nContent-Length: 23\n\n403 Forbidden: refused\n",
        ),
        Events("done 403 up=0 down=0 SC refused"),
    ]);
}

// THREATS T4
#[test]
fn an_upgrade_is_raw_only_after_101() {
    let ask = "GET http://a/ HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\nX: y\n\n";
    let asked = "GET / HTTP/1.1\nHost: a\nX: y\nVia: 1.1 gw1\nUpgrade: websocket\nConnection: upgrade\n\n";
    check(&[
        user(&format!("{ask}\x01frames")),
        Events("open a 80"),
        Opened,
        to_up(asked),
        up("HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\nY: z\n\n\x02raw"),
        to_user(
            "HTTP/1.1 101 Switching Protocols\nY: z\nVia: 1.1 gw1\nUpgrade: websocket\nConnection: upgrade\n\n",
        ),
        Events("tunnel 101"),
    ]);
    check(&[
        user(&format!("{ask}{GET}")),
        Events("open a 80"),
        Opened,
        to_up(asked),
        up("HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 1\n\nx"),
        Events("close-up, done 200 up=0 down=1 -- eof, open a 80"),
    ]);
}

#[test]
fn expectations_and_interim_responses_pass() {
    check(&[
        user("PUT http://a/ HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 2\n\n"),
        Events("open a 80"),
        Opened,
        to_up(
            "PUT / HTTP/1.1\nHost: a\nExpect: 100-continue\nVia: 1.1 gw1\nContent-Length: 2\nConnection: close\n\n",
        ),
        up("HTTP/1.1 100 Continue\n\n"),
        to_user("HTTP/1.1 100 Continue\nVia: 1.1 gw1\n\n"),
        user("ok"),
        to_up("ok"),
        up("HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 201 Created\nContent-Length: 0\n\n"),
        to_user(
            "HTTP/1.1 103 Early Hints\nLink: x\nVia: 1.1 gw1\n\nHTTP/1.1 201 Created\nVia: 1.1 gw1\nD\nContent-Length: 0\n\n",
        ),
        Events("close-up, done 201 up=2 down=0 -- eof"),
    ]);
    // A final answer instead: the body may never come, so the connection ends.
    check(&[
        user("PUT http://a/ HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 2\n\n"),
        Opened,
        to_up(
            "PUT / HTTP/1.1\nHost: a\nExpect: 100-continue\nVia: 1.1 gw1\nContent-Length: 2\nConnection: close\n\n",
        ),
        up("HTTP/1.1 403 No\nContent-Length: 0\n\n"),
        to_user("HTTP/1.1 403 No\nVia: 1.1 gw1\nD\nContent-Length: 0\nConnection: close\n\n"),
        Events("open a 80, abort-up, done 403 up=0 down=0 -- eof, close"),
        user("ok"),
    ]);
}

#[test]
fn http_1_0_users_get_neither_chunks_nor_interim_responses() {
    check(&[
        user("GET http://a/ HTTP/1.0\nConnection: keep-alive\n\n"),
        Opened,
        to_up("GET / HTTP/1.1\nHost: a\nVia: 1.0 gw1\nConnection: close\n\n"),
        up("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nConnection: close\n\nabc"),
        Events("open a 80, close-up, done 200 up=0 down=3 -- eof, close"),
    ]);
}

/// A failure before anything was sent: 502, and the connection stays.
fn told(text: &str, why: &'static str) -> Vec<Step> {
    let body = format!("502 Bad Gateway: {text}\n");
    let head =
        "HTTP/1.1 502 Bad Gateway\nD\nContent-Type: text/plain; charset=utf-8\nCache-Control: no-store";
    vec![to_user(&format!("{head}\nContent-Length: {}\n\n{body}", body.len())), Events(why)]
}

// THREATS T27
#[test]
fn a_broken_response_is_502_or_an_abort_and_never_looks_whole() {
    let not_http = |fault: &str| {
        told(
            &format!("the target's answer is not HTTP: {fault}"),
            "abort-up, done 502 up=0 down=0 SH bad_response",
        )
    };
    let closed = || {
        told("the target closed the connection before it answered", "abort-up, done 502 up=0 down=0 SH eof")
    };
    after_asking(&[vec![UpEnd], closed()].concat());
    after_asking(&[vec![up("HTTP/1.1 200 OK\nContent-Le"), UpEnd], closed()].concat());
    after_asking(&[vec![up("SSH-2.0-x\n")], not_http("bad HTTP version")].concat());
    after_asking(
        &[vec![up("HTTP/1.1 101 Switching Protocols\n\n")], not_http("it changed the protocol unasked")]
            .concat(),
    );
    after_asking(
        &[vec![UpReset], told("the connection to the target broke", "abort-up, done 502 up=0 down=0 SD rst")]
            .concat(),
    );

    let interim = "HTTP/1.1 102 Processing\n\n";
    let shown = "HTTP/1.1 102 Processing\nVia: 1.1 gw1\n\n".repeat(INTERIM_MAX as usize);
    after_asking(
        &[
            vec![up(&interim.repeat(INTERIM_MAX as usize)), to_user(&shown), up(interim)],
            not_http("too many interim responses"),
        ]
        .concat(),
    );

    let begun = "HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\n";
    let length = [
        up("HTTP/1.1 200 OK\nContent-Length: 5\n\nabc"),
        to_user(&format!("{begun}Content-Length: 5\n\nabc")),
    ];
    let chunked = |chunks: &str, payload: &str| {
        let head = format!("{begun}Transfer-Encoding: chunked\n\n{payload}...");
        vec![up(&format!("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n{chunks}")), to_user(&head)]
    };
    let cut = Events("abort-up, done 200 up=0 down=3 SD eof, abort");
    let broke = Events("abort-up, done 200 up=0 down=3 SD rst, abort");
    after_asking(&[length.to_vec(), vec![UpEnd, cut.clone()]].concat());
    after_asking(&[length.to_vec(), vec![UpReset, broke.clone()]].concat());
    after_asking(&[chunked("3\nabc\n", "abc"), vec![UpEnd, cut.clone()]].concat());
    after_asking(&[chunked("3\nabc\n0\n", "abc"), vec![UpEnd, cut]].concat());
    after_asking(
        &[
            chunked("3\nabc\n", "abc"),
            vec![up("x"), Events("abort-up, done 200 up=0 down=3 SD bad_response, abort")],
        ]
        .concat(),
    );
    // The end of the stream ends this body, a reset does not.
    let open =
        [up("HTTP/1.1 200 OK\n\nabc"), to_user(&format!("{begun}Transfer-Encoding: chunked\n\nabc..."))];
    after_asking(&[open.to_vec(), vec![UpReset, broke]].concat());
}

#[test]
fn what_an_upstream_sends_beyond_its_response_is_dropped() {
    after_asking(&[
        up("HTTP/1.1 200 OK\nContent-Length: 1\n\nxHTTP/1.1 200 OK\n\nevil"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 1\n\nx"),
        Events("close-up, done 200 up=0 down=1 -- eof"),
    ]);
}

#[test]
fn a_user_that_breaks_off_leaves_no_upstream() {
    let post = "POST http://a/ HTTP/1.1\nHost: a\nContent-Length: 5\n\nab";
    let post_up = "POST / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nContent-Length: 5\nConnection: close\n\nab";
    let opened = [user(post), Events("open a 80"), Opened, to_up(post_up)];
    let body = "400 Bad Request: the request body is incomplete\n";
    let head =
        "HTTP/1.1 400 Bad Request\nD\nContent-Type: text/plain; charset=utf-8\nCache-Control: no-store";
    let told = format!("{head}\nContent-Length: {}\nConnection: close\n\n{body}", body.len());
    check(
        &[
            opened.to_vec(),
            vec![UserEnd, to_user(&told), Events("abort-up, done 400 up=2 down=0 CD eof, close")],
        ]
        .concat(),
    );
    check(&[opened.to_vec(), vec![UserReset, Events("abort-up, done 0 up=2 down=0 CD rst, abort")]].concat());
    check(&[
        user(GET),
        Events("open a 80"),
        UserReset,
        Events("abort-up, done 0 up=0 down=0 CC rst, abort"),
        Opened,
    ]);
    after_asking(&[UserReset, Events("abort-up, done 0 up=0 down=0 CH rst, abort"), UserReset]);
    check(&[UserEnd, Events("close")]);
    check(&[user("GET htt"), UserEnd, Events("close")]);
    // Half-closed, and still listening.
    after_asking(&[
        UserEnd,
        up("HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 1\n\nx"),
        Events("close-up, done 200 up=0 down=1 -- eof, close"),
    ]);
    // A broken chunk.
    let body = "400 Bad Request: bad chunk size\n";
    let told = format!("{head}\nContent-Length: {}\nConnection: close\n\n{body}", body.len());
    check(&[
        user("POST http://a/ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n2\nab\n"),
        Opened,
        to_up(
            "POST / HTTP/1.1\nHost: a\nVia: 1.1 gw1\nTransfer-Encoding: chunked\nConnection: close\n\nab...",
        ),
        user("x"),
        to_user(&told),
        Events("open a 80, abort-up, done 400 up=2 down=0 PD bad_request, close"),
    ]);
}

// THREATS T1
#[test]
fn a_head_has_its_time() {
    let body = "408 Request Timeout: the request head took too long\n";
    let head =
        "HTTP/1.1 408 Request Timeout\nD\nContent-Type: text/plain; charset=utf-8\nCache-Control: no-store";
    let told = format!("{head}\nContent-Length: {}\nConnection: close\n\n{body}", body.len());
    check(&[
        user("GET http://a/ HTTP/1.1\n"),
        Wait(REQUEST_HEAD_MAX_MS - 1),
        user("Host: a\n"),
        Wait(1),
        to_user(&told),
        Events("done 408 up=0 down=0 cR timeout, close"),
    ]);
    check(&[Wait(REQUEST_HEAD_MAX_MS - 1), Wait(1), Events("close")]);
    after_asking(&[Wait(10 * REQUEST_HEAD_MAX_MS), Events("")]);
    // Between requests there is no deadline, and the next head has its own.
    after_asking(&[
        up("HTTP/1.1 204 No\n\n"),
        to_user("HTTP/1.1 204 No\nVia: 1.1 gw1\nD\n\n"),
        Events("close-up, done 204 up=0 down=0 -- eof"),
        Wait(10 * REQUEST_HEAD_MAX_MS),
        user("G"),
        Wait(REQUEST_HEAD_MAX_MS),
        to_user(&told),
        Events("done 408 up=0 down=0 cR timeout, close"),
    ]);
}

// proves S-44 in its sans-IO part
#[test]
fn stopping_finishes_what_is_under_way() {
    check(&[Stop, Events("close")]);
    after_asking(&[
        Stop,
        up("HTTP/1.1 200 OK\nContent-Length: 1\n\nx"),
        to_user("HTTP/1.1 200 OK\nVia: 1.1 gw1\nD\nContent-Length: 1\nConnection: close\n\nx"),
        Events("close-up, done 200 up=0 down=1 -- eof, close"),
        user(GET),
    ]);
}

#[test]
fn a_side_that_does_not_take_its_output_stops_the_other() {
    let mut run = Run::new(false);
    let long = 1 << 20;
    run.step(&user(&format!("POST http://a/ HTTP/1.1\nHost: a\nContent-Length: {long}\n\n")), usize::MAX);
    run.proxy.opened(run.clock);
    run.user.write(&vec![b'x'; long]);
    run.proxy.handle_user(&mut run.user, run.clock);
    let waiting = run.proxy.to_upstream().len();
    assert!((OUTPUT_MAX_BYTES..OUTPUT_MAX_BYTES + PIECE_MAX_BYTES).contains(&waiting), "{waiting}");
    assert!(!run.proxy.wants_user());
    run.up_open = true;
    run.settle();

    run.up.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {long}\r\n\r\n").as_bytes());
    run.up.write(&vec![b'y'; long]);
    run.proxy.handle_upstream(&mut run.up, true, run.clock);
    let waiting = run.proxy.to_user().len();
    assert!((OUTPUT_MAX_BYTES..OUTPUT_MAX_BYTES + PIECE_MAX_BYTES).contains(&waiting), "{waiting}");
    assert!(!run.proxy.wants_upstream());

    run.up_ended = true;
    run.settle();
    assert_eq!(run.sent_up.iter().filter(|&&b| b == b'x').count(), long);
    assert_eq!(run.sent_user.iter().filter(|&&b| b == b'y').count(), long);
    assert_eq!(run.events.join(", "), "open a 80, close-up, done 200 up=1048576 down=1048576 -- eof");
}

#[test]
fn pipelined_errors_wait_for_their_answers_to_leave() {
    let mut run = Run::new(false);
    let count = EVENTS_MAX * 3;
    run.user.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count).as_bytes());
    run.proxy.handle_user(&mut run.user, run.clock);
    assert_eq!(run.proxy.events.len(), EVENTS_MAX);
    assert!(!run.proxy.wants_user());
    run.settle();
    assert_eq!(run.events.len(), count);
}
