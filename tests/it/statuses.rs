//! What a user of the HTTP proxy is told when there is nothing to pass on, and what a user of SOCKS5 is.

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use crate::support::{self, Origin, Program, Wire, ok};

/// A port of which nobody takes connections, for as long as it is held.
pub(crate) fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has free ports");
    let addr = socket.local_addr().expect("it is bound").as_socket().expect("of IPv4");
    (socket, addr)
}

/// Asks for `target` in each of the three ways, and compares what is told, and what is logged, with what is wanted.
#[track_caller]
fn check(gateway: &Program, (host, port): (&str, u16), code: u16, reply: u8, end: &str, why: &str) {
    let http = gateway.addr("http");
    let mut wire = Wire::connect(http);
    let plain = wire.get(&format!("http://{host}:{port}/some/path"));
    assert_eq!(plain.code, code, "{plain:?}");
    assert!(plain.text().starts_with(&format!("{code} ")), "a sentence says why: {}", plain.text());
    // The connection goes on.
    wire.send(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"));
    assert_eq!(wire.response("CONNECT").code, code);
    let mut socks = Wire::connect(gateway.addr("socks"));
    assert_eq!(socks.socks(None, host, port), reply);
    assert_eq!(socks.read_to_end().0, b"");
    let (end, why) = (format!("end={end}"), format!("why={why}"));
    for (proto, code) in
        [("http", u32::from(code)), ("connect", u32::from(code)), ("socks5", u32::from(reply))]
    {
        let dst = format!("dst={host}:{port}");
        gateway.wait(&["event=access", &format!("proto={proto}"), &format!("code={code}"), &end, &why, &dst]);
    }
}

#[test]
fn a_target_that_refuses_is_502() {
    let (gateway, client) = support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let (_held, addr) = refusing();
    check(&gateway, ("127.0.0.1", addr.port()), 502, 5, "SC", "refused");
    client.stop();
    gateway.stop();
}

#[test]
fn a_name_that_does_not_exist_is_502() {
    let (gateway, client) = support::gateway_and_client(&[]);
    check(&gateway, ("no-such-name.invalid", 80), 502, 4, "SN", "dns_nx");
    client.stop();
    gateway.stop();
}

// proves S-71 (for proxies): what the client does not allow is not reached, by address or by name
#[test]
fn a_target_that_the_client_forbids_is_403() {
    let begun = Instant::now();
    let origin = Origin::http(|_, _| panic!("it is not to be reached"));
    let (gateway, client) = support::gateway_and_client(&["--deny", "*.forbidden.example"]);
    let port = origin.addr().port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "10.0.0.1", "169.254.169.254", "a.forbidden.example"] {
        check(&gateway, (host, port), 403, 2, "PC", "acl");
    }
    assert_eq!(origin.accepted(), 0);
    // Once for all of it: the user and what was wanted first.
    let (warned, dst) = (gateway.lines(&["level=WARN"]), format!(" dst=127.0.0.1:{port} "));
    assert!(
        warned.len() == 1 && warned[0].contains(" event=refuse ") && warned[0].contains(&dst),
        "{warned:?}"
    );
    // And so it is on the client.
    let said = client.lines(&["event=refuse"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(said.len() as u64)), "{said:?}");
    client.stop();
    gateway.stop_but_for(&["rules forbid"]);
}

#[test]
fn without_a_client_it_is_503_and_with_one_it_works_at_once() {
    let gateway = support::gateway(&[]);
    check(&gateway, ("127.0.0.1", 9), 503, 1, "TQ", "no_client");
    let origin = Origin::http(|request, wire| {
        wire.send(ok(&request.path));
        support::Talk::Goes
    });
    let client = gateway.client(&["--allow", "127.0.0.1"]);
    // The client says that it is up when it heard so from the gateway, which knows it by then.
    assert_eq!(Wire::connect(gateway.addr("http")).get(&origin.url("/x")).text(), "/x");
    client.stop();
    gateway.wait(&["event=group_empty"]);
    check(&gateway, ("127.0.0.1", 10), 503, 1, "TQ", "no_client");
    gateway.stop();
}

#[track_caller]
fn check_head(gateway: &Program, head: &str, code: u16) {
    let mut wire = Wire::connect(gateway.addr("http"));
    wire.send(head);
    let answer = wire.response("GET");
    assert_eq!(answer.code, code, "{head:?}: {answer:?}");
    assert_eq!(answer.field("connection"), Some("close"), "{head:?}");
    // Nothing that follows is taken for a request.
    assert_eq!(wire.read_to_end().0, b"", "{head:?}");
}

#[test]
fn what_is_no_request_is_400_or_says_better() {
    let origin = Origin::http(|_, _| panic!("nothing of this is passed on"));
    let (gateway, client) = support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let addr = origin.addr();
    for (line, fields, code) in [
        ("GET URL HTTP/1.1", "Bad Header : x\r\n", 400),
        ("GET URL HTTP/1.1", "", 400),
        ("GET URL HTTP/1.1", "HOST\r\nHOST\r\n", 400),
        ("GET URL HTTP/1.1", "HOST\r\nX: a\r\n b\r\n", 400),
        ("GET URL HTTP/1.1", "HOST\r\nX: a\0b\r\n", 400),
        ("POST URL HTTP/1.1", "HOST\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        ("POST URL HTTP/1.1", "HOST\r\nContent-Length: 3\r\nContent-Length: 4\r\n", 400),
        ("POST URL HTTP/1.1", "HOST\r\nContent-Length: +3\r\n", 400),
        ("POST URL HTTP/1.1", "HOST\r\nTransfer-Encoding: chunked, identity\r\n", 400),
        ("POST URL HTTP/1.0", "HOST\r\nTransfer-Encoding: chunked\r\n", 400),
        ("GET  URL HTTP/1.1", "HOST\r\n", 400),
        ("GET URL HTTP/2.0", "HOST\r\n", 505),
        ("G\u{1}T URL HTTP/1.1", "HOST\r\n", 400),
        ("CONNECT 127.0.0.1 HTTP/1.1", "HOST\r\n", 400),
        ("CONNECT 127.0.0.1:0 HTTP/1.1", "HOST\r\n", 400),
        ("CONNECT 127.0.0.1:99999 HTTP/1.1", "HOST\r\n", 400),
    ] {
        let line = line.replace("URL", &format!("http://{addr}/"));
        let fields = fields.replace("HOST", &format!("Host: {addr}"));
        // A second request behind it, which must not be seen as one.
        let head =
            format!("{line}\r\n{fields}\r\nGET http://{addr}/smuggled HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        check_head(&gateway, &head, code);
    }
    let long = "x".repeat(70_000);
    check_head(&gateway, &format!("GET http://{addr}/{long} HTTP/1.1\r\nHost: {addr}\r\n\r\n"), 414);
    check_head(&gateway, &format!("GET http://{addr}/ HTTP/1.1\r\nHost: {addr}\r\nX: {long}\r\n\r\n"), 431);
    gateway.wait_nth(&["event=access", "end=PR", "why=bad_request"], 18);
    assert_eq!(origin.accepted(), 0);
    client.stop();
    gateway.stop();
}

#[test]
fn a_browser_that_takes_it_for_a_server_is_told_what_it_is() {
    let gateway = support::gateway(&[]);
    let mut wire = Wire::connect(gateway.addr("http"));
    wire.send("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n");
    let answer = wire.response("GET");
    assert_eq!(answer.code, 400);
    assert!(answer.text().contains("this is an HTTP proxy"), "{}", answer.text());
    drop(wire);
    gateway.wait(&["event=access", "end=LR", "why=not_proxy_form"]);
    gateway.stop();
}

// proves S-41, S-50: 30 s for connecting, and not more
#[test]
fn a_target_that_does_not_answer_is_504_after_half_a_minute() {
    if support::skipped("a target that does not answer for 30 s") {
        return;
    }
    let (gateway, client) = support::gateway_and_client(&["--allow", "127.0.0.1"]);
    let full = FullBacklog::new();
    let begun = std::time::Instant::now();
    check(&gateway, ("127.0.0.1", full.addr.port()), 504, 6, "sC", "timeout");
    let took = begun.elapsed().as_secs();
    assert!((90..100).contains(&took), "three times in a row 30 s: {took} s");
    client.stop();
    gateway.stop();
}

/// A listener whose backlog is full: who connects waits.
pub(crate) struct FullBacklog {
    pub(crate) addr: SocketAddr,
    pub(crate) listener: TcpListener,
    _waiting: Vec<socket2::Socket>,
}

impl FullBacklog {
    pub(crate) fn new() -> FullBacklog {
        let (socket, addr) = refusing();
        socket.listen(0).expect("it is bound");
        // What a backlog of nothing holds is the kernel's affair: fill it until one has to wait.
        let mut waiting = Vec::new();
        loop {
            let one =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            let stuck = one.connect_timeout(&addr.into(), std::time::Duration::from_millis(200)).is_err();
            // Those that wait go on knocking, so the last one leaves.
            if stuck {
                break;
            }
            waiting.push(one);
        }
        FullBacklog { addr, listener: socket.into(), _waiting: waiting }
    }
}
