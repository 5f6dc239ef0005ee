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

const LOGIN: &str = "GET http://a/x HTTP/1.1\nHost: a\nProxy-Authorization: Basic cHJvZDpzZWNyZXQ6MQ==\n\n";

/// A request with a password that is being looked at, in pieces of every size.
#[track_caller]
fn while_verifying(request: &str, then: impl Fn(&mut Run)) {
    for piece in 1..=request.len() {
        let mut run = Run::new(true);
        run.by_hand = true;
        run.step(&user(request), piece);
        assert_eq!(std::mem::take(&mut run.events), ["verify prod"], "in pieces of {piece}");
        assert!(!run.proxy.wants_user() && run.proxy.poll_timeout().is_none() && run.sent_user.is_empty());
        then(&mut run);
    }
}

// THREATS T8, T9: nothing is done for a user before the password was looked at
#[test]
fn a_request_waits_for_its_password() {
    let verified = |run: &mut Run, proven| {
        run.proxy.verified(proven, run.clock);
        run.settle();
        (std::mem::take(&mut run.events).join(", "), normal(&std::mem::take(&mut run.sent_user)))
    };
    while_verifying(LOGIN, |run| assert_eq!(verified(run, Proven::Yes).0, "open a 80 as prod"));
    while_verifying(LOGIN, |run| {
        let (events, answer) = verified(run, Proven::No);
        assert_eq!(events, "done 407 up=0 down=0 PA auth");
        assert!(answer.contains("\nProxy-Authenticate: Basic realm="), "{answer}");
        // The connection goes on, with the next password.
        run.step(&user(LOGIN), usize::MAX);
        assert_eq!(verified(run, Proven::Yes).0, "verify prod, open a 80 as prod");
    });
    while_verifying(LOGIN, |run| {
        let (events, answer) = verified(run, Proven::Later);
        assert_eq!(events, "done 429 up=0 down=0 PA auth_later");
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\nRetry-After: 60\n"), "{answer}");
    });
    // What is refused anyway is refused to those alone who may know it.
    let trace = LOGIN.replace("GET", "TRACE");
    while_verifying(&trace, |run| assert_eq!(verified(run, Proven::No).0, "done 407 up=0 down=0 PA auth"));
    while_verifying(&trace, |run| assert_eq!(verified(run, Proven::Yes).0, "done 405 up=0 down=0 PR method"));
    // The user leaves, or the proxy stops, meanwhile.
    while_verifying(LOGIN, |run| {
        run.step(&UserReset, 1);
        assert_eq!(std::mem::take(&mut run.events).join(", "), "done 0 up=0 down=0 CA rst, abort");
        assert_eq!(verified(run, Proven::Yes), (String::new(), String::new()));
    });
    while_verifying(LOGIN, |run| {
        run.step(&Stop, 1);
        let (events, answer) = verified(run, Proven::No);
        assert_eq!(events, "done 407 up=0 down=0 PA auth, close");
        assert!(answer.contains("\nConnection: close\n"), "{answer}");
    });
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
