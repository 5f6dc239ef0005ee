//! Heads as data. Each is fed whole, at every split point, and byte by byte.

use super::*;
use crate::limits::http::{CONNECTION_MAX_BYTES, HOST_MAX_BYTES};

/// The verdict on a request that arrives in two pieces, cut at `cut`.
fn verdict(input: &[u8], cut: usize) -> Result<Option<String>, Reject> {
    let mut scan = HeadScan::default();
    let mut slots = empty_slots();
    if let Some((head, n)) = parse_request(&input[..cut], &mut scan, &mut slots)? {
        return Ok(Some(show(&head, n)));
    }
    let mut slots = empty_slots();
    Ok(parse_request(input, &mut scan, &mut slots)?.map(|(head, n)| show(&head, n)))
}

fn show(head: &RequestHead<'_, '_>, n: usize) -> String {
    format!("{n} {} {:?} {:?} {:?} {:?}", head.method, head.target, head.version, head.body, head.keep_alive)
}

#[track_caller]
fn same_at_every_split(input: &[u8]) -> Result<Option<String>, Reject> {
    let whole = verdict(input, input.len());
    // Long inputs: every split near both ends and around the limits, and some between.
    let step = if input.len() > 600 { 97 } else { 1 };
    for cut in (0..input.len()).step_by(step) {
        assert_eq!(verdict(input, cut), whole, "cut at {cut} of {:?}", input.escape_ascii().to_string());
    }
    let mut scan = HeadScan::default();
    for n in 0..=input.len() {
        let mut slots = empty_slots();
        match parse_request(&input[..n], &mut scan, &mut slots) {
            Ok(None) if n < input.len() => {}
            Ok(got) => {
                assert_eq!(Ok(got.map(|(head, n)| show(&head, n))), whole, "byte by byte");
                break;
            }
            Err(reject) => {
                assert_eq!(Err(reject), whole, "byte by byte");
                break;
            }
        }
    }
    whole
}

#[track_caller]
fn rejects(status: u16, why: &str, input: impl AsRef<[u8]>) {
    let got = same_at_every_split(input.as_ref());
    let Err(reject) = got else { panic!("accepted: {got:?}") };
    assert_eq!((reject.status, reject.why), (status, why));
}

/// A POST whose fields are `fields`, after a good Host.
fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[track_caller]
fn body(want: Result<Framing, (u16, &str)>, fields: &str) {
    let text = post(fields);
    let got = same_at_every_split(text.as_bytes());
    match want {
        Ok(framing) => {
            let got = got.expect("accepted").expect("complete");
            assert!(got.contains(&format!(" {framing:?} ")), "{fields:?}: {got}");
        }
        Err((status, why)) => {
            let reject = got.expect_err(fields);
            assert_eq!((reject.status, reject.why), (status, why), "{fields:?}");
        }
    }
}

// THREATS T3 and the table at its end.
#[test]
fn framing_that_two_readers_could_take_in_two_ways_is_refused() {
    let length = "bad Content-Length";
    let last = "Transfer-Encoding does not end in chunked";
    for (want, fields) in [
        (Ok(Framing::None), ""),
        (Ok(Framing::None), "Content-Length: 0\r\n"),
        (Ok(Framing::Length(5)), "Content-Length: 5\r\n"),
        (Ok(Framing::Length(5)), "content-LENGTH:\t 005 \r\n"),
        (Ok(Framing::Length(u64::MAX)), "Content-Length: 18446744073709551615\r\n"),
        (Err((400, length)), "Content-Length: 18446744073709551616\r\n"),
        (Err((400, length)), "Content-Length: 99999999999999999999999999\r\n"),
        (Err((400, length)), "Content-Length: +5\r\n"),
        (Err((400, length)), "Content-Length: -5\r\n"),
        (Err((400, length)), "Content-Length: 0x5\r\n"),
        (Err((400, length)), "Content-Length: 5 5\r\n"),
        (Err((400, length)), "Content-Length: 5, 5\r\n"),
        (Err((400, length)), "Content-Length: 5,6\r\n"),
        (Err((400, length)), "Content-Length: 5;\r\n"),
        (Err((400, length)), "Content-Length: 5.0\r\n"),
        (Err((400, length)), "Content-Length: \"5\"\r\n"),
        (Err((400, length)), "Content-Length: 1e3\r\n"),
        (Err((400, length)), "Content-Length:\r\n"),
        (Err((400, length)), "Content-Length: \u{661}\r\n"),
        (Err((400, "more than one Content-Length")), "Content-Length: 5\r\nContent-Length: 5\r\n"),
        (Err((400, "more than one Content-Length")), "Content-Length: 5\r\nX: y\r\nCONTENT-LENGTH: 6\r\n"),
        (Ok(Framing::Chunked), "Transfer-Encoding: chunked\r\n"),
        (Ok(Framing::Chunked), "transfer-encoding:Chunked\r\n"),
        (
            Err((400, "both Transfer-Encoding and Content-Length")),
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        ),
        (
            Err((400, "both Transfer-Encoding and Content-Length")),
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        ),
        (Err((501, "unknown transfer coding")), "Transfer-Encoding: xchunked\r\n"),
        (Err((501, "unknown transfer coding")), "Transfer-Encoding: identity\r\n"),
        (Err((501, "unknown transfer coding")), "Transfer-Encoding: foo, chunked\r\n"),
        (Err((501, "unknown transfer coding")), "Transfer-Encoding: gzip, chunked\r\n"),
        (Err((400, last)), "Transfer-Encoding: gzip\r\n"),
        (Err((400, last)), "Transfer-Encoding: chunked, gzip\r\n"),
        (Err((400, last)), "Transfer-Encoding: chunked, identity\r\n"),
        (Err((400, last)), "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        (Err((400, "chunked twice")), "Transfer-Encoding: chunked, chunked\r\n"),
        (Err((400, "chunked twice")), "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        (Err((400, "malformed Transfer-Encoding")), "Transfer-Encoding:\r\n"),
        (Err((400, "malformed Transfer-Encoding")), "Transfer-Encoding: ,chunked\r\n"),
        (Err((400, "malformed Transfer-Encoding")), "Transfer-Encoding: chunked,\r\n"),
        (Err((400, "malformed Transfer-Encoding")), "Transfer-Encoding: \"chunked\"\r\n"),
        (Err((400, "malformed Transfer-Encoding")), "Transfer-Encoding: chunked;q=1\r\n"),
        (Err((400, "malformed Transfer-Encoding")), "Transfer-Encoding: chun ked\r\n"),
        (Err((400, "control character in the head")), "Transfer-Encoding: \x0bchunked\r\n"),
        (Err((400, "bad header field name")), "Transfer-Encoding : chunked\r\n"),
        (Err((400, "bad header field name")), "Transfer\u{a0}Encoding: chunked\r\n"),
        (Err((417, "unknown expectation")), "Expect: 200-ok\r\n"),
    ] {
        body(want, fields);
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    rejects(400, "Transfer-Encoding in HTTP/1.0", old);
    for method in ["CONNECT a:1", "TRACE /"] {
        let text = format!("{method} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        rejects(400, "CONNECT and TRACE have no body", text);
    }
}

#[test]
fn lines_end_in_crlf_and_hold_no_control_character() {
    for (why, input) in [
        ("LF without CR", "GET / HTTP/1.1\nHost: a\n\n"),
        ("LF without CR", "GET / HTTP/1.1\r\nHost: a\n\r\n"),
        ("LF without CR", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("LF without CR", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("CR without LF", "GET / HTTP/1.1\rHost: a\r\n\r\n"),
        ("CR without LF", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
        ("CR without LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("CR without LF", "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n"),
        ("control character in the head", "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"),
        ("control character in the head", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("control character in the head", "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("control character in the head", "GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31m\r\n\r\n"),
        ("bad header field value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"),
        ("folded header field", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        ("folded header field", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
        ("folded header field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("folded header field", "GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n"),
        ("bad header field name", "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: z\r\n\r\n"),
    ] {
        rejects(400, why, input);
    }
}

// THREATS T2, T22; the HTTP/2 preface and HTTP/0.9 are answered at their first line.
#[test]
fn start_lines_that_are_not_ours_are_answered() {
    let target = "forbidden byte in the request target";
    for (status, why, line) in [
        (505, "HTTP version not supported", "PRI * HTTP/2.0"),
        (505, "HTTP version not supported", "GET / HTTP/2.0"),
        (505, "HTTP version not supported", "GET / HTTP/0.9"),
        (505, "HTTP version not supported", "GET / HTTP/9.9"),
        (400, "bad HTTP version", "GET / HTTP/1"),
        (400, "bad HTTP version", "GET / HTTP/1.10"),
        (400, "bad HTTP version", "GET / HTTP/01.1"),
        (400, "bad HTTP version", "GET / HTTP/1,1"),
        (400, "bad HTTP version", "GET / http/1.1"),
        (400, "bad HTTP version", "GET / HTTP/1.1 "),
        (400, "bad HTTP version", "GET /  HTTP/1.1"),
        (400, "bad HTTP version", "GET /a b HTTP/1.1"),
        (400, "bad HTTP version", "GET / ICY/1.1"),
        (400, "bad HTTP version", "GET / "),
        (400, "no HTTP version", "GET /"),
        (400, "no request target", "GET"),
        (400, "more than one blank in the request line", "GET  / HTTP/1.1"),
        (400, "more than one blank in the request line", "GET  HTTP/1.1"),
        (400, "bad method", " GET / HTTP/1.1"),
        (400, "bad method", "G(T / HTTP/1.1"),
        (400, "bad method", "G\u{e9}T / HTTP/1.1"),
        (400, "bad method", "\"GET\" / HTTP/1.1"),
        (501, "method too long", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1"),
        (400, "fragment in the request target", "GET /a#b HTTP/1.1"),
        (400, "forbidden character in the request target", "GET /<a> HTTP/1.1"),
        (400, target, "GET /\u{e9} HTTP/1.1"),
        (400, target, "GET /\x7f HTTP/1.1"),
        (400, "request target is neither a path nor an absolute URI", "GET a HTTP/1.1"),
        (400, "request target is neither a path nor an absolute URI", "GET a:80 HTTP/1.1"),
        (400, "request target is neither a path nor an absolute URI", "GET http:/a/ HTTP/1.1"),
        (400, "the target * is for OPTIONS only", "GET * HTTP/1.1"),
        (400, "CONNECT without a port", "CONNECT a HTTP/1.1"),
        (400, "CONNECT without a port", "CONNECT a: HTTP/1.1"),
        (400, "bad port", "CONNECT a:0 HTTP/1.1"),
        (400, "bad port", "CONNECT a:65536 HTTP/1.1"),
        (400, "bad port", "CONNECT a:+80 HTTP/1.1"),
        (400, "bad port", "CONNECT a:80/ HTTP/1.1"),
        (400, "bad port", "CONNECT a:80:80 HTTP/1.1"),
        (400, "empty host", "CONNECT ::1:80 HTTP/1.1"),
        (400, "empty host", "CONNECT :80 HTTP/1.1"),
        (400, "forbidden character in a host", "CONNECT /a:80 HTTP/1.1"),
        (400, "bad port", "CONNECT http://a:80 HTTP/1.1"),
        (400, "user information in a host", "CONNECT u@a:80 HTTP/1.1"),
        (400, "user information in a host", "GET http://u:p@a/ HTTP/1.1"),
        (400, "bad IPv6 address", "CONNECT [fe80::1%25eth0]:80 HTTP/1.1"),
        (400, "bad IPv6 address", "CONNECT []:80 HTTP/1.1"),
        (400, "bracket never closed in a host", "CONNECT [::1:80 HTTP/1.1"),
        (400, "text after the address in a host", "CONNECT [::1]80 HTTP/1.1"),
        (400, "empty host", "GET http:///a HTTP/1.1"),
        (400, "bad port", "GET http://a:x/ HTTP/1.1"),
        (
            400,
            "only http:// can be asked for in absolute form; https:// goes by CONNECT",
            "GET https://a/ HTTP/1.1",
        ),
    ] {
        rejects(status, why, format!("{line}\r\nHost: a\r\n\r\n"));
    }
    // Nothing behind the first line is needed for these.
    rejects(505, "HTTP version not supported", "PRI * HTTP/2.0\r\n");
    rejects(400, "no HTTP version", "GET /\r\n");
    rejects(400, "control character in the head", b"\x16\x03\x01\x02\x00\x01");
    rejects(400, "bad method", b"\x80\x81garbage");
    rejects(400, "empty line where a message should begin", "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn host_is_there_once_and_is_a_host() {
    for (why, fields) in [
        ("no Host", ""),
        ("more than one Host", "Host: a\r\nHost: a\r\n"),
        ("more than one Host", "Host: a\r\nHOST: b\r\n"),
        ("empty Host", "Host:\r\n"),
        ("bad Host", "Host: a b\r\n"),
        ("bad Host", "Host: a, b\r\n"),
        ("bad Host", "Host: a,b\r\n"),
        ("bad Host", "Host: http://a\r\n"),
        ("bad Host", "Host: a/b\r\n"),
        ("bad Host", "Host: u@a\r\n"),
        ("bad Host", "Host: a:x\r\n"),
        ("bad Host", "Host: a:65536\r\n"),
        ("bad Host", "Host: ::1\r\n"),
        ("bad Host", "Host: [::1\r\n"),
        ("bad Host", "Host: \u{e9}\r\n"),
    ] {
        rejects(400, why, format!("GET / HTTP/1.1\r\n{fields}\r\n"));
    }
    let long = "a".repeat(HOST_MAX_BYTES + 1);
    rejects(400, "bad Host", format!("GET / HTTP/1.1\r\nHost: {long}\r\n\r\n"));
    for fields in
        ["Host: a\r\n", "host:a:80\r\n", "Host: [::1]:8080\r\n", "Host: 127.0.0.1\r\n", "Host: a_b.c.\r\n"]
    {
        let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert!(matches!(same_at_every_split(text.as_bytes()), Ok(Some(_))), "{fields:?}");
    }
    assert!(matches!(same_at_every_split(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some(_))));
}

#[test]
fn good_heads_are_taken_apart() {
    for (input, want) in [
        ("GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nrest", r#"30 GET Origin("/a?b") Http11 None true"#),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", r#"31 GET Origin("/") Http11 None true"#),
        ("GET / HTTP/1.9\r\nHost: x\r\n\r\n", r#"27 GET Origin("/") Http11 None true"#),
        ("GET / HTTP/1.0\r\n\r\n", r#"18 GET Origin("/") Http10 None false"#),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", r#"42 GET Origin("/") Http10 None true"#),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: x, CLOSE\r\n\r\n",
            r#"49 GET Origin("/") Http11 None false"#,
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", r#"31 OPTIONS Asterisk Http11 None true"#),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            r#"39 CONNECT Authority(Authority { host: "a", port: Some(443), bracketed: false }) Http11 None true"#,
        ),
        (
            "CONNECT [::1]:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            r#"39 CONNECT Authority(Authority { host: "::1", port: Some(443), bracketed: true }) Http11 None true"#,
        ),
        (
            "GET HTTP://a:/?q HTTP/1.1\r\nHost: b\r\n\r\n",
            r#"38 GET Absolute { authority: Authority { host: "a", port: None, bracketed: false }, path_and_query: "/?q" } Http11 None true"#,
        ),
        (
            "GET http://a.b:8080?q HTTP/1.1\r\nHost: b\r\n\r\n",
            r#"43 GET Absolute { authority: Authority { host: "a.b", port: Some(8080), bracketed: false }, path_and_query: "?q" } Http11 None true"#,
        ),
    ] {
        assert_eq!(same_at_every_split(input.as_bytes()), Ok(Some(want.to_string())), "{input:?}");
    }
    for n in 0.."GET / HTTP/1.1\r\nHost: a\r\n\r".len() {
        assert_eq!(verdict(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..n], n), Ok(None), "incomplete at {n}");
    }
}

// THREATS T2: the limits, each met and exceeded by one.
#[test]
fn heads_above_the_limits_are_refused_at_the_limit() {
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n - 1));
    assert!(matches!(same_at_every_split(target(TARGET_MAX_BYTES).as_bytes()), Ok(Some(_))));
    rejects(414, "request target too long", target(TARGET_MAX_BYTES + 1));
    rejects(414, "request target too long", format!("GET /{}", "a".repeat(TARGET_MAX_BYTES)));
    rejects(414, "request target too long", target(100_000));

    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert!(matches!(same_at_every_split(fields(FIELDS_MAX).as_bytes()), Ok(Some(_))));
    rejects(431, "too many header fields", fields(FIELDS_MAX + 1));
    rejects(431, "too many header fields", fields(10_000));

    let block = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(n - 14));
    assert!(matches!(same_at_every_split(block(FIELDS_MAX_BYTES).as_bytes()), Ok(Some(_))));
    rejects(431, "header fields too large", block(FIELDS_MAX_BYTES + 1));
    rejects(431, "header fields too large", block(100_000));
    let name = format!("GET / HTTP/1.1\r\nHost: a\r\n{}: y\r\n\r\n", "x".repeat(100_000));
    rejects(431, "header fields too large", name);

    let connection = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "c".repeat(n));
    assert!(matches!(same_at_every_split(connection(CONNECTION_MAX_BYTES).as_bytes()), Ok(Some(_))));
    rejects(431, "Connection too long", connection(CONNECTION_MAX_BYTES + 1));

    let method = |n: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(n));
    assert!(matches!(same_at_every_split(method(METHOD_MAX_BYTES).as_bytes()), Ok(Some(_))));
    rejects(501, "method too long", method(METHOD_MAX_BYTES + 1));
}

/// Good heads with a few bytes changed, dropped or doubled: whatever the verdict, it does not depend on the pieces,
/// and what is accepted is free of everything that must not get through.
#[test]
fn damaged_heads_get_one_verdict() {
    let good: [&[u8]; 4] = [
        b"GET /a?b=c HTTP/1.1\r\nHost: a.b:80\r\nConnection: close, x\r\nContent-Length: 12\r\n\r\n",
        b"POST http://[::1]:8/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        b"CONNECT a.b:443 HTTP/1.0\r\nX: y\r\n\r\n",
        b"\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\nUpgrade: a\r\n\r\n",
    ];
    let spice = b"\r\n\t \0:,;/@#[]%+-0aZ\x7f\x80\xff";
    let mut random = fastrand::Rng::with_seed(9112);
    let mut accepted = 0;
    for round in 0..4_000 {
        let mut input = good[round % good.len()].to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..input.len());
            let byte = spice[random.usize(..spice.len())];
            match random.u8(..4) {
                0 => drop(input.remove(at)),
                1 => input.insert(at, input[at]),
                2 => input.insert(at, byte),
                _ => input[at] = byte,
            }
        }
        if let Ok(Some(_)) = same_at_every_split(&input) {
            accepted += 1;
            let end = input.windows(4).rposition(|four| four == b"\r\n\r\n").expect("an end of the head");
            let lines = input[..end].split(|&b| b == b'\n');
            for line in lines {
                let text = line.strip_suffix(b"\r").unwrap_or(line);
                let bad = text.iter().any(|&b| b < 0x20 && b != b'\t' || b == 0x7f);
                assert!(!bad, "let through: {:?}", input.escape_ascii().to_string());
            }
        }
    }
    assert!(accepted > 100, "only {accepted} of the damaged heads were still good");
}

#[test]
fn a_head_that_arrives_byte_by_byte_is_looked_at_once() {
    let steps = |n: usize| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(n));
        let mut scan = HeadScan::default();
        for end in 0..=text.len() {
            let mut slots = empty_slots();
            parse_request(&text.as_bytes()[..end], &mut scan, &mut slots).expect("good");
        }
        (scan.steps, text.len())
    };
    for n in [100, 1_000, 10_000, 30_000] {
        let (steps, len) = steps(n);
        assert!(steps <= 3 * len, "{steps} steps for {len} bytes");
    }
}

#[test]
fn responses_are_framed_by_status_and_method() {
    use Framing::{Chunked, Length, None, UntilClose};
    let bad = "bad status line";
    for (method, text, want) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((200, Length(5)))),
        ("GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Ok((200, None))),
        ("GET", "HTTP/1.1 200 \r\n\r\n", Ok((200, UntilClose))),
        ("GET", "HTTP/1.0 200 OK\r\n\r\n", Ok((200, UntilClose))),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok((200, Chunked))),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((200, None))),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", Ok((200, None))),
        ("GET", "HTTP/1.1 204 No\r\n\r\n", Ok((204, None))),
        ("GET", "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", Ok((304, None))),
        ("GET", "HTTP/1.1 100 Go\r\n\r\n", Ok((100, None))),
        ("CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ok((200, None))),
        ("CONNECT", "HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n", Ok((407, Length(5)))),
        ("GET", "HTTP/1.1 099 No\r\n\r\n", Err(bad)),
        ("GET", "HTTP/1.1 20 OK\r\n\r\n", Err(bad)),
        ("GET", "HTTP/1.1 2000 OK\r\n\r\n", Err(bad)),
        ("GET", "HTTP/1.1  200 OK\r\n\r\n", Err(bad)),
        ("GET", "HTTP/1.1 +20 OK\r\n\r\n", Err(bad)),
        ("GET", "HTTP/1.1 200 O\x7f\r\n\r\n", Err(bad)),
        ("GET", "HTTP\r\n\r\n", Err(bad)),
        ("GET", "HTTP/2.0 200 OK\r\n\r\n", Err("HTTP version not supported")),
        ("GET", "ICY 200 OKAY\r\n\r\n", Err("bad HTTP version")),
        ("GET", "\r\nHTTP/1.1 200 OK\r\n\r\n", Err("empty line where a message should begin")),
        ("GET", "HTTP/1.1 200 OK\nA: b\n\n", Err("LF without CR")),
        ("GET", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Err("folded header field")),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            Err("both Transfer-Encoding and Content-Length"),
        ),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err("Transfer-Encoding in HTTP/1.0"),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            Err("more than one Content-Length"),
        ),
    ] {
        let mut scan = HeadScan::default();
        let mut got = Ok(Option::None);
        for end in 0..=text.len() {
            let mut slots = empty_slots();
            got = parse_response(&text.as_bytes()[..end], method, &mut scan, &mut slots)
                .map(|head| head.map(|(head, n)| (head.status, head.body, n)));
            if got != Ok(Option::None) {
                break;
            }
        }
        let want = match want {
            Ok((status, body)) => Ok(Some((status, body, text.len()))),
            Err(why) => Err(Reject { status: 502, why }),
        };
        assert_eq!(got, want, "{method} {text:?}");
    }
    let long = format!("HTTP/1.1 200 {}", "a".repeat(STATUS_LINE_MAX_BYTES));
    let mut slots = empty_slots();
    let got = parse_response(long.as_bytes(), "GET", &mut HeadScan::default(), &mut slots);
    assert_eq!(got.map(|_| ()).map_err(|reject| reject.why), Err("status line too long"));
}
