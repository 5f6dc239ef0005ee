use super::*;
use crate::proto::credentials::{Check, Credentials, Secret};
use std::sync::Arc;

const HELLO: &[u8] = b"\x05\x01\x00";
const HELLO_PASSWORD: &[u8] = b"\x05\x02\x00\x02";
const PASSWORD: &[u8] = b"\x01\x05alpha\x06s3cret";
const TO_V4: &[u8] = b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50";

fn open() -> Arc<Credentials> {
    Arc::new(Credentials::new())
}

fn guarded() -> Arc<Credentials> {
    let mut credentials = Credentials::new();
    credentials.insert("alpha", Secret::new("s3cret").unwrap()).unwrap();
    Arc::new(credentials)
}

/// What came of some input: the output, the last event, and what was left for the target.
type Outcome = (Vec<u8>, Option<Event>, Vec<u8>);

fn drain(buffer: &mut LinkBuffer) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = buffer.read_chunk(usize::MAX) {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

fn answer(credentials: &Credentials, login: &Login) -> Proven {
    match credentials.check(login) {
        Check::Known(true) => Proven::Yes,
        Check::Known(false) => Proven::No,
        Check::Ask(_) => Proven::Later,
    }
}

/// Feeds the pieces and answers a `Connect` with `reply`, where there is one.
fn run(
    credentials: &Arc<Credentials>,
    pieces: &[&[u8]],
    reply: Option<Result<Option<SocketAddr>, ReplyCode>>,
) -> Outcome {
    let mut socks = Socks5::new(!credentials.is_open());
    let mut input = LinkBuffer::new();
    let mut event = None;
    for piece in pieces {
        input.write(piece);
        socks.handle_input(&mut input);
        while let Some(next) = socks.poll_event() {
            if let Event::Verify(login) = next {
                socks.verified(answer(credentials, &login));
                socks.handle_input(&mut input);
                continue;
            }
            assert_eq!(event.replace(next), None, "one event for one handshake");
        }
    }
    if let Some(reply) = reply {
        assert!(matches!(event, Some(Event::Connect { .. })), "{event:?}");
        socks.reply(reply);
        event = socks.poll_event();
        // What comes later is the target's as well.
        input.write(b"!");
        socks.handle_input(&mut input);
    }
    assert_eq!(socks.poll_event(), None);
    (drain(socks.output()), event, drain(&mut input))
}

/// Every way to cut the input in two, and every size of equal pieces.
#[track_caller]
fn check_run(
    credentials: &Arc<Credentials>,
    input: &[u8],
    reply: Option<Result<Option<SocketAddr>, ReplyCode>>,
    want: Outcome,
) {
    for cut in 0..=input.len() {
        let (first, second) = input.split_at(cut);
        assert_eq!(run(credentials, &[first, second], reply), want, "cut at {cut}");
    }
    for size in 1..input.len() {
        let pieces: Vec<&[u8]> = input.chunks(size).collect();
        assert_eq!(run(credentials, &pieces, reply), want, "pieces of {size}");
    }
}

fn connect(host: &str, port: u16, user: Option<&str>) -> Option<Event> {
    Some(Event::Connect { host: host.to_owned(), port, user: user.map(str::to_owned) })
}

/// An open gateway, a request, and the target that comes of it.
#[track_caller]
fn check_target(request: &[u8], host: &str, port: u16) {
    let input = [HELLO, request].concat();
    check_run(&open(), &input, None, (b"\x05\x00".to_vec(), connect(host, port, None), vec![]));
}

/// An open gateway, and a request that is refused with this code.
#[track_caller]
fn check_refused(request: &[u8], code: ReplyCode) {
    let input = [HELLO, request].concat();
    let output = [b"\x05\x00\x05", &[code.as_u8()][..], b"\x00\x01\0\0\0\0\0\0"].concat();
    check_run(&open(), &input, None, (output, Some(Event::Close(code.word())), vec![]));
}

fn to_name(name: &[u8]) -> Vec<u8> {
    [b"\x05\x01\x00\x03", &[name.len() as u8][..], name, b"\x01\xbb"].concat()
}

#[test]
fn the_three_kinds_of_address() {
    check_target(TO_V4, "192.0.2.7", 80);
    check_target(&to_name(b"Example.COM."), "example.com", 443);
    check_target(&to_name(b"127.1"), "127.0.0.1", 443);
    let v6 = [b"\x05\x01\x00\x04\x20\x01\x0d\xb8", &[0; 11][..], b"\x01\xff\xff"].concat();
    check_target(&v6, "2001:db8::1", 65535);
    let mapped = [b"\x05\x01\x00\x04", &[0; 10][..], b"\xff\xff\x7f\0\0\x01\x00\x50"].concat();
    check_target(&mapped, "127.0.0.1", 80);
}

// T21: the domain's length 0 and 255, NUL, unknown type, other commands.
#[test]
fn requests_that_cannot_be_done_are_refused() {
    check_refused(&to_name(b""), ReplyCode::NameUnresolved);
    check_refused(&to_name(b"exa\0mple.com"), ReplyCode::NameUnresolved);
    check_refused(&to_name(b"exa\xffmple.com"), ReplyCode::NameUnresolved);
    check_refused(&to_name(b"exa mple.com"), ReplyCode::NameUnresolved);
    check_refused(&to_name(&[b'a'; 255]), ReplyCode::NameUnresolved);
    check_refused(b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x00", ReplyCode::Failed);
    check_refused(b"\x05\x01\x00\x02", ReplyCode::AddressUnsupported);
    check_refused(b"\x05\x02\x00\x01", ReplyCode::CommandUnsupported);
    check_refused(b"\x05\x03\x00\x01", ReplyCode::CommandUnsupported);
    check_refused(b"\x05\x00\x00\x09", ReplyCode::CommandUnsupported);
}

#[test]
fn the_longest_messages_are_taken() {
    let name = [&[b'a'; 63][..]; 4].join(&b'.');
    check_target(&to_name(&name[..253]), std::str::from_utf8(&name[..253]).unwrap(), 443);

    let hello = [b"\x05\xff", &[METHOD_NONE; 255][..]].concat();
    let want = (b"\x05\x00".to_vec(), connect("192.0.2.7", 80, None), vec![]);
    check_run(&open(), &[&hello, TO_V4].concat(), None, want);

    let (user, password) = ("u".repeat(255), "p".repeat(255));
    let mut credentials = Credentials::new();
    credentials.insert(&user, Secret::new(password.as_str()).unwrap()).unwrap();
    let message = [b"\x01\xff", user.as_bytes(), b"\xff", password.as_bytes()].concat();
    assert_eq!(message.len(), SOCKS5_MESSAGE_BYTES_MAX);
    let want = (b"\x05\x02\x01\x00".to_vec(), connect("192.0.2.7", 80, Some(&user)), vec![]);
    check_run(&Arc::new(credentials), &[HELLO_PASSWORD, &message, TO_V4].concat(), None, want);
}

// T7, T9: with a group, a password or nothing.
#[test]
fn a_group_wants_its_password() {
    let input = [HELLO_PASSWORD, PASSWORD, TO_V4].concat();
    let want = (b"\x05\x02\x01\x00".to_vec(), connect("192.0.2.7", 80, Some("alpha")), vec![]);
    check_run(&guarded(), &input, None, want);

    let refused = |output: &[u8], why| (output.to_vec(), Some(Event::Close(why)), vec![]);
    check_run(&guarded(), HELLO, None, refused(b"\x05\xff", "no-method"));
    check_run(&guarded(), b"\x05\x00", None, refused(b"\x05\xff", "no-method"));
    check_run(&guarded(), b"\x05\x02\x01\x80", None, refused(b"\x05\xff", "no-method"));
    for wrong in [
        &b"\x01\x05alpha\x06s3creT"[..],
        b"\x01\x05alpha\x05s3cre",
        b"\x01\x05alpha\x00",
        b"\x01\x04alph\x06s3cret",
        b"\x01\x00\x06s3cret",
        b"\x01\x00\x00",
    ] {
        // What stands behind a wrong password is never looked at.
        let input = [HELLO_PASSWORD, wrong, TO_V4].concat();
        check_run(&guarded(), &input, None, refused(b"\x05\x02\x01\x01", "password"));
    }
    let input = [HELLO_PASSWORD, b"\x05\x05alpha\x06s3cret"].concat();
    check_run(&guarded(), &input, None, refused(b"\x05\x02\x01\x01", "version"));
}

#[test]
fn an_open_gateway_asks_nobody_and_turns_nobody_away() {
    let want = |output: &[u8]| (output.to_vec(), connect("192.0.2.7", 80, None), vec![]);
    check_run(&open(), &[HELLO_PASSWORD, TO_V4].concat(), None, want(b"\x05\x00"));
    let insists = [b"\x05\x01\x02", PASSWORD, TO_V4].concat();
    check_run(&open(), &insists, None, want(b"\x05\x02\x01\x00"));
    let refused = (b"\x05\xff".to_vec(), Some(Event::Close("no-method")), vec![]);
    check_run(&open(), b"\x05\x01\x01", None, refused);
}

#[test]
fn another_version_is_closed_without_a_word() {
    for input in [&b"\x04\x01\x00\x50\x7f\0\0\x01\0"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0"] {
        check_run(&open(), input, None, (vec![], Some(Event::Close("version")), vec![]));
    }
    let input = [HELLO, b"\x04\x01\x00\x01"].concat();
    check_run(&open(), &input, None, (b"\x05\x00".to_vec(), Some(Event::Close("version")), vec![]));
}

// T21: bytes behind the request are the target's, and it answers only after the target did.
#[test]
fn what_is_sent_behind_the_request_stays() {
    let input = [HELLO, TO_V4, b"early"].concat();
    let want = (b"\x05\x00".to_vec(), connect("192.0.2.7", 80, None), b"early".to_vec());
    check_run(&open(), &input, None, want);

    let output = b"\x05\x00\x05\x00\x00\x01\xc6\x33\x64\x01\x30\x39".to_vec();
    let bound = "198.51.100.1:12345".parse().unwrap();
    let want = (output, Some(Event::Established), b"early!".to_vec());
    check_run(&open(), &input, Some(Ok(Some(bound))), want);
}

#[test]
fn a_reply_carries_what_is_known_of_the_bound_address() {
    #[track_caller]
    fn check(bound: Option<&str>, want: &[u8]) {
        let input = [HELLO, TO_V4].concat();
        let output = [b"\x05\x00\x05\x00\x00", want].concat();
        let bound = bound.map(|address| address.parse().unwrap());
        let want = (output, Some(Event::Established), b"!".to_vec());
        check_run(&open(), &input, Some(Ok(bound)), want);
    }
    check(None, b"\x01\0\0\0\0\0\0");
    check(Some("[2001:db8::1]:258"), b"\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02");
}

#[test]
fn a_refusal_says_why_and_closes() {
    for (code, byte) in [
        (ReplyCode::Failed, 1),
        (ReplyCode::Forbidden, 2),
        (ReplyCode::NetworkUnreachable, 3),
        (ReplyCode::HostUnreachable, 4),
        (ReplyCode::NameUnresolved, 4),
        (ReplyCode::Refused, 5),
        (ReplyCode::TimedOut, 6),
    ] {
        let output = [b"\x05\x00\x05", &[byte][..], b"\x00\x01\0\0\0\0\0\0"].concat();
        let input = [HELLO, TO_V4, b"early"].concat();
        check_run(&open(), &input, Some(Err(code)), (output, Some(Event::Close(code.word())), vec![]));
    }
}

#[test]
fn an_end_in_the_middle_of_the_handshake_is_the_end() {
    let whole = [HELLO_PASSWORD, PASSWORD, TO_V4].concat();
    for cut in 0..=whole.len() {
        let mut socks = Socks5::new(true);
        let mut input = LinkBuffer::new();
        input.write(&whole[..cut]);
        socks.handle_input(&mut input);
        let mut connect = socks.poll_event();
        if let Some(Event::Verify(login)) = &connect {
            // An end that comes while the password is looked at is looked at after it.
            socks.handle_end();
            assert_eq!(socks.poll_event(), None);
            socks.verified(answer(&guarded(), login));
            socks.handle_input(&mut input);
            connect = socks.poll_event();
        }
        socks.handle_end();
        let want = if cut == whole.len() { None } else { Some(Event::Close("ended")) };
        assert_eq!(connect.is_some(), want.is_none());
        assert_eq!(socks.poll_event(), want, "ended after {cut}");
    }
}

#[test]
#[should_panic(expected = "one reply answers one Connect")]
fn a_reply_to_nothing_is_a_mistake_of_ours() {
    Socks5::new(false).reply(Ok(None));
}

#[test]
#[should_panic(expected = "one answer to one Verify")]
fn an_answer_to_nothing_is_a_mistake_of_ours() {
    Socks5::new(true).verified(Proven::Yes);
}

// proves T9: nothing behind a password is looked at before it is verified, and too many wrong ones are wrong as well
#[test]
fn what_follows_a_password_waits_for_it() {
    for (proven, output, why) in [
        (Proven::Yes, &b"\x01\x00"[..], None),
        (Proven::No, b"\x01\x01", Some("password")),
        (Proven::Later, b"\x01\x01", Some("auth-later")),
    ] {
        let mut socks = Socks5::new(true);
        let mut input = LinkBuffer::new();
        input.write(&[HELLO_PASSWORD, PASSWORD, TO_V4].concat());
        socks.handle_input(&mut input);
        let Some(Event::Verify(login)) = socks.poll_event() else { panic!("a password came") };
        assert_eq!((login.user.as_str(), login.password.as_bytes()), ("alpha", &b"s3cret"[..]));
        socks.handle_input(&mut input);
        assert_eq!((socks.poll_event(), input.len()), (None, TO_V4.len()));
        assert_eq!(drain(socks.output()), b"\x05\x02");
        socks.verified(proven);
        socks.handle_input(&mut input);
        assert_eq!((drain(socks.output()), input.len()), (output.to_vec(), 0));
        let want = why.map_or_else(|| connect("192.0.2.7", 80, Some("alpha")), |why| Some(Event::Close(why)));
        assert_eq!(socks.poll_event(), want);
    }
}

#[test]
fn no_bytes_make_it_panic_or_speak_out_of_turn() {
    let mut draws = fastrand::Rng::with_seed(11);
    for _ in 0..20_000 {
        let len = draws.usize(0..40);
        let mut bytes: Vec<u8> = (0..len).map(|_| draws.u8(0..6)).collect();
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        let (output, event, _) = run(&guarded(), &[&bytes], None);
        assert!(output.len() <= 2 + 2 + 10);
        assert!(
            !matches!(event, Some(Event::Established | Event::Connect { .. })),
            "nobody knew the password"
        );
    }
}
