//! What the HTTP proxy passes on, as both sides see it.

use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use crate::support::{self, Ended, Origin, Program, Talk, Wire, ok, pattern};

/// A gateway and a client that may reach this machine.
fn start() -> (Program, Program) {
    support::gateway_and_client(&["--allow", "127.0.0.1"])
}

fn stop((gateway, client): (Program, Program)) {
    client.stop();
    gateway.stop();
}

#[test]
fn fields_about_one_connection_stay_there_and_the_others_go_on() {
    let origin = Origin::http(|_, wire| {
        wire.send(
            "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
             Proxy-Authenticate: Basic\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Answer: yes\r\n\r\nhi",
        );
        Talk::Ends
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let (url, addr) = (origin.url("/a?b=c"), origin.addr());
    wire.send(format!(
        "GET {url} HTTP/1.1\r\nHost: other.example\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic c2VjcmV0\r\nCookie: c=3\r\nX-Asked: yes\r\n\r\n"
    ));
    let answer = wire.response("GET");
    assert_eq!((answer.code, answer.text().as_str()), (200, "hi"));
    let names: Vec<&str> = answer.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["set-cookie", "set-cookie", "x-answer", "via", "date", "content-length"]);
    assert!(answer.field("via").is_some_and(|via| via.starts_with("1.1 anyproxy")));

    let heads = origin.take_heads();
    let lines: Vec<&str> = heads[0].trim_end().split("\r\n").collect();
    let host = format!("Host: {addr}");
    assert_eq!(lines[..4], ["GET /a?b=c HTTP/1.1", &host, "Cookie: c=3", "X-Asked: yes"], "{lines:?}");
    assert!(lines[4].starts_with("Via: 1.1 anyproxy"), "{lines:?}");
    assert_eq!(lines[5..], ["Connection: close"]);
    drop(wire);
    stop(programs);
}

#[test]
fn a_user_keeps_one_connection_for_fifty_requests() {
    let origin = Origin::http(|request, wire| {
        wire.send(ok(&format!("{} {} {}", request.method, request.path, request.body.len())));
        Talk::Goes
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let addr = origin.addr();
    for n in 0..50 {
        let url = origin.url(&format!("/{n}"));
        if n % 2 == 0 {
            assert_eq!(wire.get(&url).text(), format!("GET /{n} 0"));
        } else {
            let body = "x".repeat(n * 1000);
            wire.send(format!(
                "POST {url} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            assert_eq!(wire.response("POST").text(), format!("POST /{n} {}", body.len()));
        }
    }
    programs.0.wait_nth(&["event=access", "end=--", "code=200"], 50);
    drop(wire);
    stop(programs);
}

#[test]
fn requests_sent_ahead_are_answered_in_their_order() {
    let origin = Origin::http(|request, wire| {
        wire.send(ok(&request.path));
        Talk::Goes
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let addr = origin.addr();
    let all: Vec<String> = (0..30)
        .map(|n| match n % 3 {
            0 => format!("GET http://{addr}/{n} HTTP/1.1\r\nHost: {addr}\r\n\r\n"),
            1 => format!("POST http://{addr}/{n} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 5\r\n\r\nGET /"),
            _ => format!(
                "POST http://{addr}/{n} HTTP/1.1\r\nHost: {addr}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
        })
        .collect();
    wire.send(all.concat());
    wire.finish();
    for n in 0..30 {
        assert_eq!(wire.response("GET").text(), format!("/{n}"));
    }
    assert_eq!(wire.read_to_end(), (vec![], Ended::Fin));
    stop(programs);
}

#[test]
fn chunked_bodies_go_up_and_down_whatever_their_pieces() {
    let origin = Origin::http(|request, wire| {
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in request.body.chunks(777) {
            wire.send(format!("{:x}\r\n", piece.len()));
            wire.send(piece);
            wire.send("\r\n");
        }
        wire.send("0\r\nX-Sum: 7\r\n\r\n");
        Talk::Goes
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let body = pattern(100_000);
    for size in [1_000, 16_384, 50_000, 100_000] {
        let (url, addr) = (origin.url("/"), origin.addr());
        wire.send(format!("POST {url} HTTP/1.1\r\nHost: {addr}\r\nTransfer-Encoding: chunked\r\n\r\n"));
        for piece in body.chunks(size) {
            wire.send(format!("{:X};name=value\r\n", piece.len()));
            wire.send(piece);
            wire.send("\r\n");
        }
        wire.send("0\r\n\r\n");
        let answer = wire.response("POST");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        assert!(answer.body == body, "pieces of {size}: {} bytes", answer.body.len());
    }
    programs.0.wait_nth(&["event=access", "up=100000", "down=100000", "end=--"], 4);
    drop(wire);
    stop(programs);
}

#[test]
fn a_body_that_ends_with_the_connection_arrives_whole_and_the_user_stays() {
    let origin = Origin::http(|_, wire| {
        wire.send("HTTP/1.0 200 OK\r\n\r\n");
        wire.send(pattern(300_000));
        Talk::Ends
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    for _ in 0..2 {
        let answer = wire.get(&origin.url("/"));
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"), "HTTP/1.1 has an end of its own");
        assert!(answer.body == pattern(300_000));
    }
    // HTTP/1.0 knows no other end.
    let mut old = Wire::connect(programs.0.addr("http"));
    old.send(format!("GET {} HTTP/1.0\r\n\r\n", origin.url("/")));
    let answer = old.response_head();
    assert_eq!((answer.code, answer.field("transfer-encoding")), (200, None));
    let (body, ended) = old.read_to_end();
    assert!(body == pattern(300_000), "{} bytes", body.len());
    assert_eq!(ended, Ended::Fin);
    drop(wire);
    stop(programs);
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::http(|request, wire| {
        wire.send(match request.path.as_str() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        });
        Talk::Ends
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let addr = origin.addr();
    for (method, path, code, length) in [
        ("HEAD", "/", 200, Some("1000")),
        ("HEAD", "/chunked", 200, None),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("1000")),
        ("HEAD", "/304", 304, Some("1000")),
    ] {
        wire.send(format!("{method} http://{addr}{path} HTTP/1.1\r\nHost: {addr}\r\n\r\n"));
        let answer = wire.response("HEAD");
        assert_eq!((answer.code, answer.field("content-length")), (code, length), "{method} {path}");
    }
    // The connection is still in step.
    assert_eq!(wire.get(&origin.url("/204")).code, 204);
    drop(wire);
    stop(programs);
}

/// A target that answers and then ends or breaks off, once the user has seen the beginning (if there is any to see).
/// The user is told `code`, or else the connection is reset.
#[track_caller]
fn check_cut(answer: &'static str, talk: Talk, code: Option<u16>) {
    let seen = Arc::new(Barrier::new(2));
    let waits = seen.clone();
    let origin = Origin::http(move |_, wire| {
        wire.send(answer);
        if code.is_none() {
            waits.wait();
        }
        talk
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let (url, addr) = (origin.url("/"), origin.addr());
    wire.send(format!("GET {url} HTTP/1.1\r\nHost: {addr}\r\n\r\n"));
    let head = wire.response_head();
    assert_eq!(head.code, code.unwrap_or(200), "{answer:?} {talk:?}");
    if code.is_none() {
        seen.wait();
        let (came, ended) = wire.read_to_end();
        assert_eq!(ended, Ended::Reset, "{answer:?} {talk:?} came as {:?}", String::from_utf8_lossy(&came));
    }
    let line = programs.0.wait(&["event=access"]);
    assert!(support::field(&line, "end").starts_with('S'), "{line}");
    drop(wire);
    stop(programs);
}

#[test]
fn an_answer_that_is_cut_short_is_never_made_to_look_whole() {
    let with_length = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this";
    check_cut(with_length, Talk::Ends, None);
    check_cut(with_length, Talk::Breaks, None);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    check_cut(chunked, Talk::Ends, None);
    check_cut(chunked, Talk::Breaks, None);
    check_cut("HTTP/1.1 200 OK\r\n\r\nuntil the end, which is none", Talk::Breaks, None);
    // Nothing was sent on yet, so there is room for an answer.
    check_cut("", Talk::Ends, Some(502));
    check_cut("HTTP/1.1 200 OK\r\nContent-Le", Talk::Ends, Some(502));
    check_cut("SSH-2.0-x\r\n", Talk::Ends, Some(502));
    check_cut(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        Talk::Ends,
        Some(502),
    );
}

// proves S-16: the reset must not overtake the answer inside the tunnel, which took hundreds of tries to see
#[test]
fn an_answer_that_was_whole_before_its_target_broke_off_arrives_whole() {
    let origin = Origin::http(|_, wire| {
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n{}", "x".repeat(4096)));
        Talk::Breaks
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    for request in 0..500 {
        let answer = wire.get(&origin.url("/"));
        assert_eq!((answer.code, answer.body.len()), (200, 4096), "request {request}");
    }
    drop(wire);
    stop(programs);
}

#[test]
fn a_request_that_is_cut_short_is_never_made_to_look_whole() {
    let (sink, news) = mpsc::channel();
    let origin = Origin::new(move |mut wire| {
        wire.take(20);
        sink.send(None).expect("the test waits for it");
        sink.send(Some(wire.read_to_end().1)).expect("the test waits for it");
    });
    let programs = start();
    let (url, addr) = (origin.url("/"), origin.addr());
    for framing in ["Content-Length: 11", "Transfer-Encoding: chunked"] {
        let mut wire = Wire::connect(programs.0.addr("http"));
        wire.send(format!("POST {url} HTTP/1.1\r\nHost: {addr}\r\n{framing}\r\n\r\n5\r\nhello\r\n"));
        assert_eq!(news.recv_timeout(support::PATIENCE), Ok(None), "{framing}");
        wire.reset();
        assert_eq!(news.recv_timeout(support::PATIENCE), Ok(Some(Ended::Reset)), "{framing}");
    }
    programs.0.wait_nth(&["event=access", "end=CD", "why=rst"], 2);
    stop(programs);
}

#[test]
fn a_user_who_waits_for_100_gets_it_from_the_target() {
    let origin = Origin::http(|request, wire| {
        assert!(request.head.contains("\r\nExpect: 100-continue\r\n"), "{}", request.head);
        if request.path == "/no" {
            wire.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n");
            return Talk::Ends;
        }
        wire.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.take(5);
        wire.send(ok(&String::from_utf8(body).expect("it is ours")));
        Talk::Ends
    });
    let programs = start();
    let addr = origin.addr();
    let ask = |path: &str| {
        let mut wire = Wire::connect(programs.0.addr("http"));
        let url = origin.url(path);
        wire.send(format!(
            "PUT {url} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        ));
        wire
    };
    let mut wire = ask("/yes");
    assert_eq!(wire.response("PUT").code, 100);
    wire.send("hello");
    assert_eq!(wire.response("PUT").text(), "hello");
    let mut refused = ask("/no");
    assert_eq!(refused.response("PUT").code, 417);
    drop((wire, refused));
    stop(programs);
}

#[test]
fn after_101_the_connection_belongs_to_the_two_sides() {
    let (sink, ends) = mpsc::channel();
    let origin = Origin::http(move |request, wire| {
        assert!(request.head.contains("\r\nUpgrade: chat\r\nConnection: upgrade\r\n"), "{}", request.head);
        // The first words come together with the head.
        wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\nwelcome");
        assert_eq!(wire.take(6), b"\0hello");
        wire.send("bye");
        wire.finish();
        sink.send(wire.read_to_end()).expect("the test waits for it");
        Talk::Ends
    });
    let programs = start();
    let mut wire = Wire::connect(programs.0.addr("http"));
    let (url, addr) = (origin.url("/"), origin.addr());
    wire.send(format!(
        "GET {url} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n\0hel"
    ));
    let answer = wire.response("GET");
    assert_eq!((answer.code, answer.field("upgrade")), (101, Some("chat")));
    wire.send("lo");
    assert_eq!(wire.read_to_end(), (b"welcomebye".to_vec(), Ended::Fin));
    wire.send("still here");
    wire.finish();
    assert_eq!(ends.recv_timeout(support::PATIENCE), Ok((b"still here".to_vec(), Ended::Fin)));
    programs.0.wait(&["event=access", "code=101", "end=--", "down=10"]);
    stop(programs);
}

// proves S-48, S-50, S-51: patience with slow targets; what takes longer than other clocks of the program comes whole
#[test]
fn a_target_that_takes_six_seconds_is_waited_for() {
    let programs = start();
    let http = programs.0.addr("http");
    std::thread::scope(|scope| {
        for seconds in if support::full() { vec![6, 29, 45] } else { vec![6] } {
            scope.spawn(move || {
                let origin = Origin::slow(Duration::from_secs(seconds));
                let begun = Instant::now();
                let mut wire = Wire::connect(http);
                let patience = Some(Duration::from_secs(2 * seconds));
                wire.writer().set_read_timeout(patience).expect("not zero");
                assert_eq!(wire.get(&origin.url("/late")).text(), "/late");
                assert!(begun.elapsed() >= Duration::from_secs(seconds));
            });
        }
    });
    stop(programs);
}
