//! Requests that are answered by us.

use super::*;

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
