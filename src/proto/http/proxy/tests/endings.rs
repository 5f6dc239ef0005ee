//! Ends that come too early, deadlines, shutdown, and sides that do not take their output.

use super::*;
use crate::limits::http::INTERIM_MAX;

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
fn an_early_answer_does_not_make_half_a_request_look_whole() {
    let mut run = Run::new(false);
    run.step(&user("POST http://a/ HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc"), usize::MAX);
    run.proxy.opened(run.clock);
    run.proxy.handle_user(&mut run.user, run.clock);
    assert!(!run.proxy.to_upstream().is_empty());
    run.up.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
    run.proxy.handle_upstream(&mut run.up, false, run.clock);
    assert!(run.proxy.to_upstream().is_empty());
    run.settle();
    assert_eq!(run.events.join(", "), "open a 80, abort-up, done 413 up=3 down=0 -- eof");
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

/// Good conversations with bytes damaged and events at odd moments: no panic, and the order of events holds.
#[test]
fn noise_breaks_no_rule() {
    let requests = [
        GET,
        "POST http://a/ HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3;x=y\nabc\n0\nT: u\n\n",
        "CONNECT a:1 HTTP/1.1\nHost: a\n\nraw",
        "PUT http://a/ HTTP/1.0\nContent-Length: 3\nConnection: keep-alive\n\nabc",
        "GET http://a/ HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: x\n\n",
    ];
    let responses = [
        "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3;x=y\nabc\n0\nT: u\n\n",
        "HTTP/1.0 200 OK\n\nabc",
        "HTTP/1.1 101 Switching Protocols\nUpgrade: x\n\nraw",
    ];
    let mut random = fastrand::Rng::with_seed(9110);
    let mut finished = 0;
    for _ in 0..3_000 {
        let mut run = Run::new(false);
        for _ in 0..8 {
            let piece = random.usize(1..40);
            let step = match random.u8(..20) {
                0..8 => user(&damaged(requests[random.usize(..requests.len())], &mut random)),
                8..12 => Opened,
                12..17 if run.up_open => {
                    up(&damaged(responses[random.usize(..responses.len())], &mut random))
                }
                17 if run.up_open => UpEnd,
                18 if run.up_open => UpReset,
                19 => [UserEnd, UserReset, Stop, Wait(9_000)][random.usize(..4)].clone(),
                _ => Refused(502),
            };
            // The caller answers only what it was asked, and closes nothing twice.
            let open = run
                .events
                .iter()
                .filter(|event| event.starts_with("open") || event.starts_with("connect"))
                .count();
            let ended = run
                .events
                .iter()
                .filter(|event| event.starts_with("done") && !event.ends_with("bad_request"))
                .count();
            match step {
                Opened | Refused(_) if run.up_open || open <= ended => {}
                step => run.step(&step, piece),
            }
        }
        let closes = run.events.iter().filter(|event| matches!(event.as_str(), "close" | "abort")).count();
        assert!(closes <= 1, "closed twice: {:?}", run.events);
        let mut upstream = false;
        for event in &run.events {
            match event.split(' ').next().expect("an event has a name") {
                "open" | "connect" => assert!(!std::mem::replace(&mut upstream, true), "{:?}", run.events),
                "close-up" | "abort-up" => assert!(std::mem::take(&mut upstream), "{:?}", run.events),
                "done" => upstream = false,
                _ => {}
            }
        }
        finished += run.events.iter().filter(|event| event.starts_with("done 200")).count();
    }
    assert!(finished > 100, "only {finished} exchanges came through");
}

fn damaged(text: &str, random: &mut fastrand::Rng) -> String {
    let mut bytes = text.as_bytes().to_vec();
    if random.u8(..3) == 0 {
        let at = random.usize(..bytes.len());
        match random.u8(..3) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, b'\r'),
            _ => bytes[at] = b" ;:0\n\tzZ\0"[random.usize(..9)],
        }
    }
    String::from_utf8(bytes).expect("the texts and the damage are ASCII")
}
