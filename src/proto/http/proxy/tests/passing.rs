//! Exchanges that go well.

use super::*;

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
