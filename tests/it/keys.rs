//! A gateway with a file of keys: who serves a group, who uses it, who opens which port.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{self, Origin, PasswordFile, Program, Request, Talk, Wire, basic, field, ok};

/// A directory with passwords, and the gateway's file of keys.
struct Keys(tempfile::TempDir);

fn anyproxy(args: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_anyproxy")).args(args).output();
    command.expect("the program was built")
}

impl Keys {
    fn new() -> Keys {
        Keys(tempfile::tempdir().expect("a directory can be made"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("paths of temporary files are text").to_owned()
    }

    /// Makes a password and its line, as `anyproxy passwd` does, with these words; the password is in the file `name`.
    fn add(&self, name: &str, whose: &[&str]) {
        self.add_of(name, whose, 1024);
    }

    /// The same with a derivation that takes this much memory.
    fn add_of(&self, name: &str, whose: &[&str], kib: u32) {
        let path = self.path(name);
        let cheap = ["--generate", &path, "--memory-kib", &kib.to_string(), "--passes", "1"];
        let output = anyproxy(&[&["passwd"], whose, &cheap].concat());
        assert!(output.status.success(), "{output:?}");
        let line = String::from_utf8(output.stdout).expect("it prints text");
        assert!(
            line.starts_with(whose[0]) && line.contains(&format!(" $argon2id$v=19$m={kib},t=1,p=1$")),
            "{line}"
        );
        assert!(!line.contains(&self.password(name)), "{line}");
        let mode = std::fs::metadata(&path).expect("it was made").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let keys = std::fs::read_to_string(self.path("keys")).unwrap_or_default();
        std::fs::write(self.path("keys"), keys + &line).expect("it can be written");
        std::fs::set_permissions(self.path("keys"), std::fs::Permissions::from_mode(0o600))
            .expect("it is ours");
    }

    fn password(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("it was made").trim_end().to_owned()
    }

    fn gateway(&self) -> Program {
        support::gateway(&["--keys", &self.path("keys")])
    }

    /// A client of this name, with the password of that file.
    fn client(&self, gateway: &Program, name: &str, group: &str, password: &str, more: &[&str]) -> Program {
        let path = self.path(password);
        let flags = ["--name", name, "--group", group, "--password-file", &path, "--allow", "127.0.0.1"];
        gateway.client_unready(&[&flags[..], more].concat())
    }
}

fn page(request: &Request, wire: &mut Wire) -> Talk {
    wire.send(ok(&request.path));
    Talk::Goes
}

fn get(gateway: &Program, url: &str, login: &str) -> support::Response {
    let mut wire = Wire::connect(gateway.addr("http"));
    let host = url.split('/').nth(2).expect("a URL has a host");
    wire.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {login}\r\n\r\n"));
    wire.response("GET")
}

// proves T9, T25
#[test]
fn users_and_clients_have_keys_of_their_own() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    keys.add("edge", &["client", "edge04", "--group", "dev", "--group", "prod"]);
    let gateway = keys.gateway();
    let client = keys.client(&gateway, "edge04", "prod", "edge", &[]);
    gateway.wait(&["event=tun_up", "via=edge04", "group=prod"]);
    let origin = Origin::http(page);
    let (url, right) = (origin.url("/in"), basic("prod", &keys.password("users")));
    for _ in 0..3 {
        let answer = get(&gateway, &url, &right);
        assert_eq!((answer.code, answer.text().as_str()), (200, "/in"));
    }
    for wrong in
        [basic("prod", "guess"), basic("prod", &keys.password("edge")), basic("dev", &keys.password("users"))]
    {
        assert_eq!(get(&gateway, &url, &wrong).code, 407, "{wrong}");
    }
    let port = origin.addr().port();
    let socks = |password: &str| {
        Wire::connect(gateway.addr("socks")).socks(Some(("prod", password)), "127.0.0.1", port)
    };
    assert_eq!((socks(&keys.password("users")), socks("guess")), (0, 0xff));
    // Many at once, and what follows behind the password in the same piece.
    let mut wires: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = Wire::connect(gateway.addr("http"));
            let host = origin.addr();
            let one = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {right}\r\n\r\n");
            wire.send(one.repeat(3));
            wire
        })
        .collect();
    for wire in &mut wires {
        for _ in 0..3 {
            assert_eq!(wire.response("GET").code, 200);
        }
    }
    drop(wires);
    gateway.wait(&["event=access", "end=PA", "why=auth", "code=407"]);
    gateway.wait_nth(&["event=access", "code=200", "user=prod", "group=prod"], 63);
    client.stop();
    let log = gateway.stop().join("\n");
    for secret in ["users", "edge"].map(|name| keys.password(name)) {
        assert!(!log.contains(&secret), "a password in the log:\n{log}");
    }
    assert!(!log.contains("argon2id"), "a key in the log:\n{log}");
}

// proves T9: ten wrong passwords a minute, and then none is looked at
#[test]
fn an_address_that_guesses_has_to_wait() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    let gateway = keys.gateway();
    for n in 0..10 {
        assert_eq!(get(&gateway, "http://a/", &basic("prod", &format!("guess {n}"))).code, 407);
    }
    let answer = get(&gateway, "http://a/", &basic("prod", &keys.password("users")));
    assert_eq!((answer.code, answer.field("retry-after")), (429, Some("60")));
    assert_eq!(
        Wire::connect(gateway.addr("socks")).socks(Some(("prod", &keys.password("users"))), "a", 1),
        0xff
    );
    gateway.wait(&["event=access", "end=PA", "why=auth_later", "code=429"]);
    gateway.wait(&["event=access", "end=PA", "why=auth_later", "proto=socks5"]);
    gateway.wait(&["level=WARN", "event=limit_hit", "limit=auth_failures", "cli=127.0.0.1"]);
    assert_eq!(gateway.lines(&["level=WARN"]).len(), 1, "it is said once");
    gateway.stop_but_for(&["limit=auth_failures"]);
}

// proves T18 for verifying: without memory for it a user is told to come later, and when there is some all is as before
#[test]
fn passwords_that_no_memory_is_left_for_are_verified_later() {
    let keys = Keys::new();
    keys.add_of("users", &["user", "prod"], 64 << 10);
    let gateway = keys.gateway();
    let right = basic("prod", &keys.password("users"));
    // Whatever it takes for its first one.
    assert_eq!(get(&gateway, "http://a/", &basic("prod", "guess")).code, 407);
    let pid = Pid::from_raw(gateway.pid().cast_signed());
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
    let size: u64 = kib.and_then(|kib| kib.parse().ok()).expect("it has a size");
    // Enough for a thread, not for 64 MiB.
    let little = Rlimit { current: Some((size + 8192) << 10), maximum: None };
    let former = prlimit(pid, Resource::As, little).expect("ours");
    // More often than there are threads to verify.
    for _ in 0..5 {
        assert_eq!(get(&gateway, "http://a/", &right).code, 429);
    }
    prlimit(pid, Resource::As, former).expect("ours");
    assert_eq!(get(&gateway, "http://a/", &right).code, 503, "it is right, and there is no client");
    assert_eq!(gateway.lines(&["level=WARN"]).len(), 1, "it is said once");
    gateway.stop_but_for(&["limit=memory"]);
}

// proves T10: a group belongs to whose key lists it; neither its users nor other clients take it over
#[test]
fn nobody_serves_a_group_that_its_key_does_not_list() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    keys.add("edge", &["client", "edge04", "--group", "dev"]);
    let gateway = keys.gateway();
    let refused = [
        (keys.client(&gateway, "edge04", "prod", "edge", &[]), "key does not list the group"),
        (keys.client(&gateway, "prod", "prod", "users", &[]), "the group or its secret is wrong"),
        (keys.client(&gateway, "edge05", "dev", "edge", &[]), "the group or its secret is wrong"),
        (keys.client(&gateway, "edge04", "dev", "users", &[]), "the group or its secret is wrong"),
    ];
    for (client, why) in &refused {
        client.wait(&["level=ERROR", "event=tun_auth_fail", why]);
    }
    assert_eq!(get(&gateway, "http://127.0.0.1:9/", &basic("prod", &keys.password("users"))).code, 503);
    assert!(gateway.lines(&["event=tun_up"]).is_empty());
    for (client, _) in refused {
        client.stop_but_for(&["event=tun_auth_fail"]);
    }
    let client = keys.client(&gateway, "edge04", "dev", "edge", &[]);
    client.wait(&["event=tun_up", "group=dev"]);
    client.stop();
    gateway.stop();
}

/// Passes connections on to the gateway's tunnel port, from another address of this machine.
fn elsewhere(gateway: &Program) -> Origin {
    let tunnel = gateway.addr("tunnel");
    Origin::new(move |wire| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 1, 0, 1], 0)).into()).expect("it is ours");
        socket.connect(&tunnel.into()).expect("the gateway is there");
        let (to, from) = (std::net::TcpStream::from(socket), wire.writer());
        std::thread::scope(|scope| {
            for (mut from, mut to) in [(&from, &to), (&to, &from)] {
                scope.spawn(move || {
                    // Until one of the two has gone.
                    std::io::copy(&mut from, &mut to).ok();
                    to.shutdown(std::net::Shutdown::Both).ok();
                });
            }
        });
    })
}

// proves T10: who has the key of a client that is here, and comes from somewhere else, is named with both addresses
#[test]
fn a_key_that_is_in_two_places_is_warned_of() {
    let keys = Keys::new();
    keys.add("edge", &["client", "edge04", "--group", "prod", "--group", "dev"]);
    let (gateway, path) = (keys.gateway(), keys.path("edge"));
    let edge = keys.client(&gateway, "edge04", "prod", "edge", &[]);
    gateway.wait(&["event=tun_up", "via=edge04"]);
    // Twice on one host is nothing to speak of.
    let same = keys.client(&gateway, "edge04", "prod", "edge", &[]);
    gateway.wait_nth(&["event=tun_up", "via=edge04"], 2);
    let relay = elsewhere(&gateway);
    let url = format!("ws://{}", relay.addr());
    let flags = ["--name", "edge04", "--group", "dev", "--password-file", &path];
    let copied = Program::start(&[&["client", "--gateway", &url][..], &flags].concat());
    let line = gateway.wait(&["level=WARN", "event=tun_twice", "via=edge04", "group=dev", "same key"]);
    assert!(
        field(&line, "peer").starts_with("127.1.0.1:") && field(&line, "other").starts_with("127.0.0.1:"),
        "{line}"
    );
    assert_eq!(gateway.lines(&["level=WARN"]).len(), 1);
    for client in [edge, same, copied] {
        client.stop();
    }
    gateway.stop_but_for(&["event=tun_twice"]);
}

// proves S-69, S-70 for keys: a port is opened for whose key lists it
#[test]
fn a_client_opens_the_ports_that_its_key_lists() {
    let keys = Keys::new();
    keys.add("edge", &["client", "edge04", "--group", "prod", "--port", "0", "--port", "7-9"]);
    let (gateway, origin) = (keys.gateway(), Origin::http(page));
    let to = |port: u16| format!("{port}:{}", origin.addr());
    let (any, other) = (to(0), to(10));
    let client = keys.client(&gateway, "edge04", "prod", "edge", &["--forward", &any, "--forward", &other]);
    client.wait(&["level=WARN", "event=fwd_fail", "port=10", "may not have it"]);
    gateway.wait(&["event=refuse", "port=10", "key does not list it"]);
    let opened = client.wait(&["event=fwd_open", "port=0"]);
    let mut wire = Wire::connect(([127, 0, 0, 1], field(&opened, "actual").parse().expect("a port")).into());
    wire.send("GET /port HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.response("GET").text(), "/port");
    drop(wire);
    client.stop_but_for(&["event=fwd_fail"]);
    gateway.stop();
}

#[test]
fn a_client_comes_back_with_the_key_that_it_has() {
    let keys = Keys::new();
    keys.add("edge", &["client", "edge04", "--group", "prod"]);
    let start = |addr: &str| {
        let args = ["gateway", "--tunnel", addr, "--http", "127.0.0.1:0", "--keys", &keys.path("keys")];
        Program::start(&args)
    };
    // No other test listens there and no connection begins there, so that the port stays free while the gateway is dead.
    let mut gateway = start("127.0.77.2:0");
    let addr = gateway.addr("tunnel").to_string();
    let client = keys.client(&gateway, "edge04", "prod", "edge", &[]);
    client.wait(&["event=tun_up"]);
    gateway.signal("KILL");
    gateway.ended();
    client.wait(&["event=tun_down"]);
    // The same key, and then another of the same password, which has another salt.
    for count in 2..4 {
        let mut gateway = start(&addr);
        client.wait_nth(&["event=tun_up"], count);
        gateway.signal("KILL");
        gateway.ended();
        client.wait_nth(&["event=tun_down"], count);
        let path = keys.path("edge");
        let cheap = ["--password-file", &path, "--memory-kib", "1025", "--passes", "1"];
        let output = anyproxy(&[&["passwd", "client", "edge04", "--group", "prod"][..], &cheap].concat());
        std::fs::write(keys.path("keys"), output.stdout).expect("it can be written");
    }
    client.stop_but_for(&["event=tun_down", "event=connect"]);
}

#[test]
fn faults_of_keys_are_faults_of_the_command_line() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    let path = keys.path("keys");
    let check = |args: &[&str], status: i32, words: &[&str]| {
        let output = anyproxy(args);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {line}");
        assert!(words.iter().all(|word| line.contains(word)), "{args:?}: {line}");
        assert!(!line.contains("argon2id$v=19$m="), "{line}");
    };
    let gateway = ["gateway", "--tunnel", "127.0.0.1:0", "--http", "127.0.0.1:0", "--keys", &path];
    let good = std::fs::read_to_string(&path).expect("it was made");
    let group = ["--group", "prod", "--password-file", &keys.path("users")];
    check(&[&gateway[..], &group].concat(), 2, &["line 1", "--group has a password for this group"]);
    for (text, words) in [
        (format!("# two\n{good}{good}"), ["line 3", "twice"]),
        (good.replace("user", "users"), ["line 1", "user, client or #"]),
        (good.replace("m=1024", "m=1"), ["line 1", "limits"]),
        (String::new(), ["--keys", "no key in it"]),
        (" ".repeat((4 << 20) + 1), ["--keys", "longer than 4194304 bytes"]),
    ] {
        std::fs::write(&path, text).expect("it can be written");
        check(&gateway, 2, &words);
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("it is ours");
    check(&gateway, 2, &["keys: mode 0640"]);
    check(&["gateway", "--tunnel", "0.0.0.0:0", "--http", "127.0.0.1:0"], 2, &["--keys"]);
    check(
        &["passwd", "user", "prod", "--generate", &keys.path("users")],
        2,
        &["users: is there already, and is never overwritten"],
    );
    check(&["passwd", "user", "prod", "--password-file", &keys.path("none")], 2, &["none: No such file"]);
}

/// A user of a group who is joined to the echo.
fn joined(gateway: &Program, echo: &Origin, login: &str) -> Wire {
    let (mut wire, to) = (Wire::connect(gateway.addr("http")), echo.addr());
    wire.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nProxy-Authorization: {login}\r\n\r\n"));
    assert_eq!(wire.response("CONNECT").code, 200);
    echoes(&mut wire);
    wire
}

#[track_caller]
fn echoes(wire: &mut Wire) {
    wire.send("here");
    assert_eq!(wire.take(4), b"here");
}

// proves T29 (a good file counts at once, for who comes and for who is there) and T9: a key that was taken out lets nobody in, and
// nobody stay
#[test]
fn keys_are_loaded_again_while_it_runs() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    keys.add("developers", &["user", "dev"]);
    keys.add("edge", &["client", "edge04", "--group", "prod", "--port", "0"]);
    keys.add("other", &["client", "edge05", "--group", "dev"]);
    let (gateway, echo) = (keys.gateway(), Origin::echo());
    let forward = format!("0:{}", echo.addr());
    let edge = keys.client(&gateway, "edge04", "prod", "edge", &["--forward", &forward]);
    let port = field(&edge.wait(&["event=fwd_open"]), "actual").parse().expect("a port");
    let other = keys.client(&gateway, "edge05", "dev", "other", &[]);
    other.wait(&["event=tun_up"]);
    let [prod, dev] =
        [("prod", "users"), ("dev", "developers")].map(|(user, name)| basic(user, &keys.password(name)));
    let (mut user, mut developer) = (joined(&gateway, &echo, &prod), joined(&gateway, &echo, &dev));
    let reload = |count: usize, words: &[&str]| {
        gateway.signal("HUP");
        let line = gateway.wait_nth(&["level=INFO", "event=reload"], count);
        assert!(words.iter().all(|word| line.split(' ').any(|pair| pair == *word)), "{line}: {words:?}");
        assert!(line.contains(&keys.path("keys")), "{line}");
    };
    let write = |text: &str| std::fs::write(keys.path("keys"), text).expect("it can be written");

    // A key more: everything else is left alone.
    assert_eq!(get(&gateway, "http://a/", &basic("more", "guess")).code, 407);
    keys.add("more", &["user", "more"]);
    reload(1, &["users=3", "clients=2", "ended=0"]);
    assert_eq!(
        get(&gateway, "http://a/", &basic("more", &keys.password("more"))).code,
        503,
        "nobody serves it"
    );
    echoes(&mut user);
    echoes(&mut developer);

    // A client's key less: its tunnel ends, with its streams and ports, and the others' does not.
    let before = std::fs::read_to_string(keys.path("keys")).expect("it was made");
    write(
        &before
            .lines()
            .filter(|line| !line.contains("edge04"))
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    );
    reload(2, &["users=3", "clients=1", "ended=1"]);
    assert_eq!(gateway.lines(&["event=tun_revoke", "via=edge04", "group=prod"]).len(), 1);
    user.read_to_end();
    gateway.wait(&["level=INFO", "event=tun_down", "via=edge04"]);
    edge.wait(&["level=ERROR", "event=tun_auth_fail"]);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "its port is closed");
    assert_eq!(get(&gateway, "http://a/", &prod).code, 503);
    echoes(&mut developer);

    // Another key for a group's users: what they have under way ends, and their client is back.
    write(&before);
    keys.add("newcomers", &["user", "fresh"]);
    let text = std::fs::read_to_string(keys.path("keys")).expect("it was made");
    let fresh = text
        .lines()
        .find(|line| line.starts_with("user fresh "))
        .expect("it was added")
        .replace("fresh", "dev");
    let kept = before.lines().filter(|line| !line.starts_with("user dev "));
    write(&kept.chain([fresh.as_str()]).map(|line| format!("{line}\n")).collect::<String>());
    reload(3, &["users=3", "clients=2", "ended=1"]);
    developer.read_to_end();
    other.wait_nth(&["event=tun_up"], 2);
    assert_eq!(get(&gateway, "http://a/", &dev).code, 407);
    let dev = basic("dev", &keys.password("newcomers"));
    gateway.wait_nth(&["event=tun_up", "via=edge05"], 2);
    echoes(&mut joined(&gateway, &echo, &dev));
    // And who was locked out is in again, now that its line is back.
    edge.wait_nth(&["event=tun_up"], 2);

    edge.stop_but_for(&["event=tun_auth_fail"]);
    other.stop();
    gateway.stop();
}

// proves T9: a login that was right is good for nothing any more once its key is gone, also where nothing was asked for yet
#[test]
fn a_user_that_had_only_logged_in_is_locked_out_too() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    keys.add("developers", &["user", "dev"]);
    keys.add("edge", &["client", "edge04", "--group", "prod"]);
    keys.add("other", &["client", "edge05", "--group", "dev"]);
    let (gateway, echo) = (keys.gateway(), Origin::echo());
    let edge = keys.client(&gateway, "edge04", "prod", "edge", &[]);
    let other = keys.client(&gateway, "edge05", "dev", "other", &[]);
    gateway.wait_nth(&["event=tun_up"], 2);
    let [mut user, mut developer] = [("prod", "users"), ("dev", "developers")].map(|(group, name)| {
        let mut wire = Wire::connect(gateway.addr("socks"));
        assert_eq!(wire.socks_login(Some((group, &keys.password(name)))), 0);
        wire
    });
    let text = std::fs::read_to_string(keys.path("keys")).expect("it was made");
    let kept = text.lines().filter(|line| !line.starts_with("user prod "));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    std::fs::write(keys.path("keys"), kept).expect("it can be written");
    gateway.signal("HUP");
    gateway.wait(&["event=reload", "ended=1"]);
    // The group's client is back, and would carry it.
    gateway.wait_nth(&["event=tun_up", "via=edge04"], 2);
    assert_eq!(user.socks_request("127.0.0.1", echo.addr().port()), 2, "it may not");
    gateway.wait(&["event=access", "end=PA", "why=auth", "code=2", "proto=socks5"]);
    assert_eq!(echo.accepted(), 0);
    // Whose key is the same notices nothing.
    assert_eq!(developer.socks_request("127.0.0.1", echo.addr().port()), 0);
    echoes(&mut developer);
    drop((user, developer));
    edge.stop();
    other.stop();
    gateway.stop();
}

// proves T10: a key that goes with a name comes before the password of a group, also for a client that is here already
#[test]
fn a_client_whose_name_gets_a_key_needs_that_key() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    let password = PasswordFile::new("secret");
    let group = ["--group", "plain", "--password-file", password.path()];
    let gateway = support::gateway(&[&["--keys", &keys.path("keys")][..], &group].concat());
    let start = |name| gateway.client_unready(&[&["--name", name][..], &group].concat());
    let (edge, other) = (start("edge04"), start("edge05"));
    gateway.wait_nth(&["event=tun_up"], 2);
    keys.add("edge", &["client", "edge04", "--group", "plain"]);
    gateway.signal("HUP");
    gateway.wait(&["event=reload", "ended=1"]);
    let line = gateway.wait(&["event=tun_revoke"]);
    assert!(line.contains(" via=edge04 ") && line.contains("its name has a key of its own now"), "{line}");
    edge.wait(&["level=ERROR", "event=tun_auth_fail"]);
    assert!(other.lines(&["event=tun_down"]).is_empty());
    edge.stop_but_for(&["event=tun_auth_fail"]);
    other.stop();
    gateway.stop();
}

// proves T29: of a bad file nothing counts, and one line says what is wrong with it
#[test]
fn a_bad_file_of_keys_changes_nothing() {
    let keys = Keys::new();
    keys.add("users", &["user", "prod"]);
    keys.add("edge", &["client", "edge04", "--group", "prod"]);
    let (gateway, echo) = (keys.gateway(), Origin::echo());
    let client = keys.client(&gateway, "edge04", "prod", "edge", &[]);
    client.wait(&["event=tun_up"]);
    let login = basic("prod", &keys.password("users"));
    let mut user = joined(&gateway, &echo, &login);
    let good = std::fs::read_to_string(keys.path("keys")).expect("it was made");
    let bad = [(format!("# first\n{good}users more"), "line 4"), (String::new(), "no key in it")];
    for (count, (text, why)) in bad.iter().enumerate() {
        std::fs::write(keys.path("keys"), text).expect("it can be written");
        gateway.signal("HUP");
        let line = gateway.wait_nth(&["level=ERROR", "event=reload_fail"], count + 1);
        assert!(line.contains(why) && line.contains(&keys.path("keys")), "{line}");
        echoes(&mut user);
        echoes(&mut joined(&gateway, &echo, &login));
    }
    std::fs::remove_file(keys.path("keys")).expect("it is there");
    gateway.signal("HUP");
    gateway.wait_nth(&["level=ERROR", "event=reload_fail", "No such file"], 1);
    echoes(&mut joined(&gateway, &echo, &login));
    assert_eq!(gateway.lines(&["level=ERROR"]).len(), 3, "each is said once");
    assert!(gateway.lines(&["event=reload"]).is_empty());
    drop(user);
    client.stop();
    gateway.stop_but_for(&["event=reload_fail"]);
}
