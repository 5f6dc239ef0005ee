//! Groups: who may use the gateway, and who may serve it.

use std::time::Instant;

use crate::support::{self, Origin, PasswordFile, Program, Request, Talk, Wire, basic, ok};

fn page(request: &Request, wire: &mut Wire) -> Talk {
    wire.send(ok(&request.path));
    Talk::Goes
}

fn group<'a>(name: &'a str, password: &'a PasswordFile) -> [&'a str; 4] {
    ["--group", name, "--password-file", password.path()]
}

#[track_caller]
fn check(gateway: &Program, url: &str, credentials: Option<&str>, code: u16) {
    let mut wire = Wire::connect(gateway.addr("http"));
    let host = url.split('/').nth(2).expect("a URL has a host");
    let line = credentials.map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    wire.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n{line}\r\n"));
    let answer = wire.response("GET");
    assert_eq!(answer.code, code, "{credentials:?}: {answer:?}");
    let challenge = answer.field("proxy-authenticate");
    assert_eq!(challenge.is_some(), code == 407, "{answer:?}");
    assert!(challenge.is_none_or(|value| value.starts_with("Basic realm=")), "{answer:?}");
    wire.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{line}\r\n"));
    assert_eq!(wire.response("CONNECT").code, code, "{credentials:?}");
}

#[test]
fn users_of_the_http_proxy_name_the_group_and_its_password() {
    let password = PasswordFile::new("correct horse:battery");
    let gateway = support::gateway(&group("prod", &password));
    let client = gateway.client(&[&group("prod", &password)[..], &["--allow", "127.0.0.1"]].concat());
    let origin = Origin::http(page);
    let url = origin.url("/in");
    check(&gateway, &url, None, 407);
    check(&gateway, &url, Some(&basic("prod", "wrong")), 407);
    check(&gateway, &url, Some(&basic("prod", "")), 407);
    check(&gateway, &url, Some(&basic("prod", "correct horse:batter")), 407);
    check(&gateway, &url, Some(&basic("prod", "correct horse:battery ")), 407);
    check(&gateway, &url, Some(&basic("Prod", "correct horse:battery")), 407);
    check(&gateway, &url, Some(&basic("", "")), 407);
    check(&gateway, &url, Some("Bearer abc"), 407);
    check(&gateway, &url, Some("Basic ?"), 407);
    assert_eq!(origin.accepted(), 0, "nobody came as far as the target");
    check(&gateway, &url, Some(&basic("prod", "correct horse:battery")), 200);
    let heads = origin.take_heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    let head = heads[0].to_ascii_lowercase();
    assert!(!head.contains("\r\nproxy-") && !head.contains("basic"), "credentials go no further: {head}");

    gateway.wait_nth(&["event=access", "end=PA", "why=auth", "code=407"], 18);
    gateway.wait_nth(&["event=access", "code=200", "user=prod", "group=prod"], 2);
    client.stop();
    let log = gateway.stop().join("\n");
    assert!(!log.contains("correct") && !log.contains("battery"), "a password in the log:\n{log}");
}

#[test]
fn users_of_socks_name_the_group_and_its_password() {
    let password = PasswordFile::new("secret");
    let gateway = support::gateway(&group("prod", &password));
    let client = gateway.client(&[&group("prod", &password)[..], &["--allow", "localhost"]].concat());
    let origin = Origin::http(page);
    let port = origin.addr().port();
    let ask = |user| {
        let mut wire = Wire::connect(gateway.addr("socks"));
        (wire.socks(user, "localhost", port), wire)
    };
    for wrong in [None, Some(("prod", "Secret")), Some(("prod", "s")), Some(("dev", "secret"))] {
        let (code, mut wire) = ask(wrong);
        assert_eq!(code, 0xff, "{wrong:?}");
        assert_eq!(wire.read_to_end().0, b"");
    }
    assert_eq!(origin.accepted(), 0);
    let (code, mut wire) = ask(Some(("prod", "secret")));
    assert_eq!(code, 0);
    wire.send("GET /socks HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(wire.response("GET").text(), "/socks");
    drop(wire);
    gateway.wait(&["event=access", "proto=socks5", "user=prod", "code=0", "end=--"]);
    client.stop();
    gateway.stop();
}

// proves T9: ten wrong passwords a minute, and then none is looked at, also where the gateway has the password itself
#[test]
fn an_address_that_guesses_the_groups_password_has_to_wait() {
    let password = PasswordFile::new("secret");
    let gateway = support::gateway(&group("prod", &password));
    let right = basic("prod", "secret");
    let get = |credentials: &str| {
        let mut wire = Wire::connect(gateway.addr("http"));
        wire.send(format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {credentials}\r\n\r\n"));
        wire.response("GET")
    };
    for n in 0..9 {
        assert_eq!(get(&basic("prod", &format!("guess {n}"))).code, 407);
        // Who is in is let in meanwhile, here to where nobody serves.
        assert_eq!(get(&right).code, 503);
    }
    // SOCKS5 is no way around.
    assert_eq!(Wire::connect(gateway.addr("socks")).socks(Some(("dev", "guess")), "a", 1), 0xff);
    let answer = get(&right);
    assert_eq!((answer.code, answer.field("retry-after")), (429, Some("60")));
    assert_eq!(Wire::connect(gateway.addr("socks")).socks(Some(("prod", "secret")), "a", 1), 0xff);
    gateway.wait(&["event=access", "end=PA", "why=auth_later", "code=429"]);
    gateway.wait(&["event=access", "end=PA", "why=auth_later", "proto=socks5"]);
    gateway.wait(&["level=WARN", "event=limit_hit", "limit=auth_failures", "cli=127.0.0.1"]);
    assert_eq!(gateway.lines(&["level=WARN"]).len(), 1, "it is said once");
    gateway.stop_but_for(&["limit=auth_failures"]);
}

// proves T5: who tries to go where it may not is named once, with where that is, however it was written
#[test]
fn a_user_who_wants_a_forbidden_target_is_named() {
    let password = PasswordFile::new("secret");
    let gateway = support::gateway(&group("prod", &password));
    let client = gateway.client(&[&group("prod", &password)[..], &["--name", "edge"]].concat());
    for host in ["::FFFF:7f00:1", "127.0.0.1", "LocalHost", "10.0.0.1"] {
        assert_eq!(Wire::connect(gateway.addr("socks")).socks(Some(("prod", "secret")), host, 22), 2);
    }
    gateway.wait_nth(&["event=access", "end=PC", "why=acl"], 4);
    let lines = gateway.lines(&["level=WARN"]);
    assert_eq!(lines.len(), 1, "once a minute: {lines:?}");
    let line = gateway.lines(&["level=WARN", "event=refuse", "user=prod", "via=edge", "dst=127.0.0.1:22"]);
    assert!(
        line.len() == 1 && line[0].contains(" cli=127.0.0.1:") && line[0].contains("rules forbid"),
        "{lines:?}"
    );
    client.stop();
    gateway.stop_but_for(&["rules forbid"]);
}

// proves T29 and T9 for the password of a group: another one counts at once, for who comes and for who is there
#[test]
fn the_groups_password_is_loaded_again() {
    let (password, old, new) = (PasswordFile::new("old"), PasswordFile::new("old"), PasswordFile::new("new"));
    let gateway = support::gateway(&group("prod", &password));
    let start = |password| {
        gateway.client_unready(&[&group("prod", password)[..], &["--allow", "127.0.0.1"]].concat())
    };
    let (client, echo) = (start(&old), Origin::echo());
    gateway.wait(&["event=tun_up"]);
    let mut user = Wire::connect(gateway.addr("socks"));
    let port = echo.addr().port();
    assert_eq!(user.socks(Some(("prod", "old")), "127.0.0.1", port), 0);
    let mut waiting = Wire::connect(gateway.addr("socks"));
    assert_eq!(waiting.socks_login(Some(("prod", "old"))), 0);
    let login = |text: &str| Wire::connect(gateway.addr("socks")).socks_login(Some(("prod", text)));

    // Nothing new, and nothing good: nobody notices.
    gateway.signal("HUP");
    let line = gateway.wait(&["level=INFO", "event=reload", "ended=0"]);
    assert!(line.contains(password.path()), "{line}");
    password.write("\n");
    gateway.signal("HUP");
    let line = gateway.wait(&["level=ERROR", "event=reload_fail"]);
    assert!(line.contains(&format!("--password-file {}: the file is empty", password.path())), "{line}");
    user.send("here");
    assert_eq!(user.take(4), b"here");
    assert_eq!(login("old"), 0);

    password.write("new\n");
    gateway.signal("HUP");
    gateway.wait(&["level=INFO", "event=reload", "ended=1"]);
    gateway.wait(&["event=tun_revoke", "the password of its group was changed"]);
    user.read_to_end();
    client.wait(&["level=ERROR", "event=tun_auth_fail"]);
    assert_eq!((login("old"), login("new")), (0xff, 0));
    let client_of_now = start(&new);
    gateway.wait_nth(&["event=tun_up"], 2);
    assert_eq!(waiting.socks_request("127.0.0.1", port), 2, "its login is not good any more");
    assert_eq!(Wire::connect(gateway.addr("socks")).socks(Some(("prod", "new")), "127.0.0.1", port), 0);
    client.stop_but_for(&["event=tun_auth_fail"]);
    client_of_now.stop();
    gateway.stop_but_for(&["event=reload_fail"]);
}

#[test]
fn two_clients_of_a_group_share_its_users() {
    let password = PasswordFile::new("secret");
    let gateway = support::gateway(&group("prod", &password));
    let start = |name| {
        let flags = [&group("prod", &password)[..], &["--allow", "127.0.0.1", "--name", name]].concat();
        gateway.client(&flags)
    };
    let (one, two) = (start("one"), start("two"));
    let origin = Origin::http(page);
    let login = basic("prod", "secret");
    let ask = |path: &str| {
        let mut wire = Wire::connect(gateway.addr("http"));
        let (url, host) = (origin.url(path), origin.addr());
        wire.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {login}\r\n\r\n"));
        assert_eq!(wire.response("GET").text(), path);
    };
    for n in 0..20 {
        ask(&format!("/{n}"));
    }
    gateway.wait_nth(&["event=access", "end=--"], 20);
    for via in ["via=one", "via=two"] {
        let count = gateway.lines(&["event=access", via]).len();
        assert!(count >= 5, "{via}: {count} of 20");
    }
    // The one that is left serves all of them.
    one.stop();
    gateway.wait(&["event=tun_down", "via=one"]);
    for n in 20..30 {
        ask(&format!("/{n}"));
    }
    gateway.wait_nth(&["event=access", "via=two"], 20);
    two.stop();
    gateway.stop();
}

// proves S-07: a real fault gives exactly one ERROR, however often it is tried again; and T9, T24: whoever guesses fills no log
#[test]
fn a_client_with_another_password_is_refused_and_says_so_once() {
    let (right, wrong) = (PasswordFile::new("right"), PasswordFile::new("wrong"));
    let begun = Instant::now();
    let gateway = support::gateway_that_says("info,anyproxy::gateway=debug", &group("prod", &right));
    let stranger = gateway.client_unready(&group("prod", &wrong));
    let unknown = gateway.client_unready(&group("dev", &right));
    stranger.wait(&["level=ERROR", "event=tun_auth_fail"]);
    unknown.wait(&["level=ERROR", "event=tun_auth_fail"]);
    // Both have come back more than once by now.
    gateway.wait_nth(&["event=tun_auth_fail"], 8);
    let lines = gateway.lines(&["event=tun_auth_fail"]);
    let totals = lines.iter().map(|line| support::field(line, "total").parse::<u64>().expect("a number"));
    assert!(totals.max() >= Some(8), "{lines:?}");
    // The operator reads of it once a minute, with the reason.
    let aloud = gateway.lines(&["level=INFO", "event=tun_auth_fail", "the group or its secret is wrong"]);
    let minutes = begun.elapsed().as_secs() / 60;
    assert!((1..=1 + minutes).contains(&(aloud.len() as u64)), "{aloud:?}");
    let quiet = gateway.lines(&["level=DEBUG", "event=tun_auth_fail"]);
    assert!(quiet.len() + aloud.len() >= 8, "{quiet:?}");
    let mut wire = Wire::connect(gateway.addr("http"));
    let login = basic("prod", "right");
    wire.send(format!(
        "GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\nProxy-Authorization: {login}\r\n\r\n"
    ));
    assert_eq!(wire.response("GET").code, 503, "neither of them serves");
    drop(wire);
    for client in [stranger, unknown] {
        let log = client.stop_but_for(&["event=tun_auth_fail"]);
        let errors: Vec<_> = log.iter().filter(|line| line.contains(" level=ERROR ")).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(!log.iter().any(|line| line.contains("event=tun_up")));
    }
    gateway.stop();
}

#[test]
fn a_client_without_a_group_does_not_come_into_a_gateway_with_one() {
    let password = PasswordFile::new("secret");
    let gateway = support::gateway(&group("prod", &password));
    let client = gateway.client_unready(&[]);
    client.wait(&["level=ERROR", "event=tun_auth_fail"]);
    client.stop_but_for(&["event=tun_auth_fail"]);
    gateway.stop();
}
