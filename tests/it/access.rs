//! A thousand requests of all kinds: what `anyproxy logs` makes of the log is what the users saw.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::{self, Ended, Origin, PasswordFile, Program, Talk, Wire, basic, field, ok};

/// What users saw, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    access: u64,
    up: u64,
    down: u64,
    codes: BTreeMap<u16, u64>,
    ends: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, code: Option<u16>, up: u64, down: u64, end: &str) {
        self.access += 1;
        self.up += up;
        self.down += down;
        if let Some(code) = code {
            *self.codes.entry(code).or_default() += 1;
        }
        *self.ends.entry(end.to_owned()).or_default() += 1;
    }

    fn join(&mut self, other: &Tally) {
        self.access += other.access;
        self.up += other.up;
        self.down += other.down;
        other.codes.iter().for_each(|(code, count)| *self.codes.entry(*code).or_default() += count);
        other.ends.iter().for_each(|(end, count)| *self.ends.entry(end.clone()).or_default() += count);
    }

    /// From the lines themselves.
    fn of_lines(lines: &[String]) -> Tally {
        let mut tally = Tally::default();
        let number = |line, key| field(line, key).parse().expect("a number");
        for line in lines.iter().filter(|line| line.contains(" event=access ")) {
            tally.add(
                field(line, "code").parse().ok(),
                number(line, "up"),
                number(line, "down"),
                field(line, "end"),
            );
        }
        tally
    }

    /// From the screen that `anyproxy logs` prints, of lines with so many warnings.
    fn of_screen(screen: &str, warned: usize) -> Tally {
        let line = |name: &str| {
            let found = screen.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.unwrap_or_else(|| panic!("no {name} in\n{screen}")).trim()
        };
        let number = |text: &str, after: &str| -> u64 {
            let (_, rest) = text.split_once(after).unwrap_or_else(|| panic!("no {after} in {text}"));
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().unwrap_or_else(|_| panic!("no number behind {after} in {text}"))
        };
        assert!(line("lines").ends_with(", not parsed 0"), "{screen}");
        assert_eq!(line("levels"), format!("WARN {warned}, ERROR 0"), "{screen}");
        let codes = line("codes").split(", ").map(|pair| {
            let (code, count) = pair.split_once(' ').expect("a code and a count");
            (code.parse().expect("a code"), count.parse().expect("a count"))
        });
        let (_, table) = screen.split_once("\nend      count\n").expect("the ends have a table");
        let ends = table.lines().take_while(|line| !line.is_empty()).map(|line| {
            let mut words = line.split_whitespace();
            let end = words.next().expect("the end").to_owned();
            (end, words.next().expect("its count").parse().expect("a number"))
        });
        Tally {
            access: number(line("lines"), "access "),
            up: number(line("bytes"), "up "),
            down: number(line("bytes"), "down "),
            codes: codes.collect(),
            ends: ends.collect(),
        }
    }
}

/// Targets of several kinds.
struct Targets {
    http: Origin,
    echo: Origin,
    breaks: Origin,
    refusing: (socket2::Socket, std::net::SocketAddr),
}

fn targets() -> Targets {
    let http = Origin::http(|request, wire| {
        let len: usize = request.path.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        if request.path.starts_with("/cut/") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
            return Talk::Ends;
        }
        if request.path == "/304" {
            wire.send("HTTP/1.1 304 Not Modified\r\n\r\n");
            return Talk::Goes;
        }
        wire.send(ok(&"x".repeat(len)));
        Talk::Goes
    });
    Targets { http, echo: Origin::echo(), breaks: Origin::breaks(3), refusing: crate::statuses::refusing() }
}

/// The n-th request: does it, and enters what came of it.
fn request(n: usize, gateway: &Program, targets: &Targets, wire: &mut Wire, tally: &mut Tally) {
    let (http, socks) = (gateway.addr("http"), gateway.addr("socks"));
    let login = format!("Proxy-Authorization: {}\r\n", basic("prod", "secret"));
    let addr = targets.http.addr();
    let size = n % 700 + 1;
    match n % 13 {
        0 => {
            wire.send(format!("GET http://{addr}/{size} HTTP/1.1\r\nHost: {addr}\r\n{login}\r\n"));
            assert_eq!(wire.response("GET").body.len(), size);
            tally.add(Some(200), 0, size as u64, "--");
        }
        1 => {
            let body = "y".repeat(2 * size);
            let len = body.len();
            wire.send(format!(
                "POST http://{addr}/{size} HTTP/1.1\r\nHost: {addr}\r\n{login}Content-Length: {len}\r\n\r\n{body}"
            ));
            assert_eq!(wire.response("POST").body.len(), size);
            tally.add(Some(200), len as u64, size as u64, "--");
        }
        2 => {
            let body = "z".repeat(size);
            wire.send(format!(
                "POST http://{addr}/0 HTTP/1.1\r\nHost: {addr}\r\n{login}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
            ));
            assert_eq!(wire.response("POST").code, 200);
            tally.add(Some(200), size as u64, 0, "--");
        }
        3 => {
            wire.send(format!("GET http://{addr}/304 HTTP/1.1\r\nHost: {addr}\r\n{login}\r\n"));
            assert_eq!(wire.response("GET").code, 304);
            tally.add(Some(304), 0, 0, "--");
        }
        4 => {
            let refusing = targets.refusing.1;
            wire.send(format!("GET http://{refusing}/ HTTP/1.1\r\nHost: {refusing}\r\n{login}\r\n"));
            assert_eq!(wire.response("GET").code, 502);
            tally.add(Some(502), 0, 0, "SC");
        }
        5 => {
            wire.send(format!("GET http://10.1.2.3/ HTTP/1.1\r\nHost: 10.1.2.3\r\n{login}\r\n"));
            assert_eq!(wire.response("GET").code, 403);
            tally.add(Some(403), 0, 0, "PC");
        }
        6 => {
            wire.send(format!("GET http://{addr}/1 HTTP/1.1\r\nHost: {addr}\r\n\r\n"));
            assert_eq!(wire.response("GET").code, 407);
            tally.add(Some(407), 0, 0, "PA");
        }
        7 => {
            let mut bad = Wire::connect(http);
            bad.send("GET http://a/ HTTP/1.1\r\nHost : a\r\n\r\n");
            assert_eq!(bad.response("GET").code, 400);
            tally.add(Some(400), 0, 0, "PR");
        }
        8 => {
            let mut cut = Wire::connect(http);
            cut.send(format!("GET http://{addr}/cut/ HTTP/1.1\r\nHost: {addr}\r\n{login}\r\n"));
            // The head may get lost with the connection, and is logged as it was sent.
            assert_eq!(cut.read_to_end().1, Ended::Reset);
            tally.add(Some(200), 0, 0, "SD");
        }
        9 => {
            let mut connect = Wire::connect(http);
            let echo = targets.echo.addr();
            connect.send(format!("CONNECT {echo} HTTP/1.1\r\nHost: {echo}\r\n{login}\r\n"));
            assert_eq!(connect.response("CONNECT").code, 200);
            connect.send("e".repeat(size));
            connect.finish();
            assert_eq!(connect.read_to_end().0.len(), size);
            tally.add(Some(200), size as u64, size as u64, "--");
        }
        10 => {
            let mut user = Wire::connect(socks);
            assert_eq!(user.socks(Some(("prod", "secret")), "127.0.0.1", targets.echo.addr().port()), 0);
            user.send("s".repeat(size));
            assert_eq!(user.take(size).len(), size);
            user.reset();
            tally.add(Some(0), size as u64, size as u64, "CD");
        }
        11 => {
            let mut user = Wire::connect(socks);
            assert_eq!(user.socks(Some(("prod", "secret")), "127.0.0.1", targets.breaks.addr().port()), 0);
            user.send("abc");
            assert_eq!(user.read_to_end(), (vec![], Ended::Reset));
            tally.add(Some(0), 3, 0, "SD");
        }
        _ => {
            let mut user = Wire::connect(socks);
            assert_eq!(user.socks(Some(("prod", "secret")), "127.0.0.1", targets.refusing.1.port()), 5);
            assert_eq!(user.read_to_end().1, Ended::Fin);
            tally.add(Some(5), 0, 0, "SC");
        }
    }
}

#[test]
fn a_thousand_requests_are_counted_as_their_users_saw_them() {
    let password = PasswordFile::new("secret");
    let group = ["--group", "prod", "--password-file", password.path()];
    let gateway = support::gateway(&group);
    let client = gateway.client(&[&group[..], &["--allow", "127.0.0.1"]].concat());
    let targets = targets();
    let seen = std::thread::scope(|scope| {
        let users: Vec<_> = (0..4)
            .map(|user| {
                let (gateway, targets) = (&gateway, &targets);
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    let mut wire = Wire::connect(gateway.addr("http"));
                    (0..250).for_each(|n| request(user * 250 + n, gateway, targets, &mut wire, &mut tally));
                    tally
                })
            })
            .collect();
        let mut seen = Tally::default();
        users.into_iter().for_each(|user| seen.join(&user.join().expect("its requests went well")));
        seen
    });
    assert_eq!(seen.access, 1000);
    gateway.wait_nth(&["event=access"], 1000);
    client.stop();
    let lines = gateway.stop_but_for(&["rules forbid"]);
    assert_eq!(Tally::of_lines(&lines), seen);
    // That somebody wants what the rules forbid is said once a minute.
    let warned = lines.iter().filter(|line| line.contains(" level=WARN ")).count();
    assert!(warned > 0);

    let mut logs = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
        .args(["logs", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut input = logs.stdin.take().expect("it is piped");
    lines.iter().for_each(|line| writeln!(input, "{line}").expect("it reads to the end"));
    drop(input);
    let output = logs.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let screen = String::from_utf8(output.stdout).expect("a screen of text");
    assert_eq!(Tally::of_screen(&screen, warned), seen, "{screen}");
    // Every line has a label of its own.
    let labels: std::collections::BTreeSet<&str> = lines
        .iter()
        .filter(|line| line.contains(" event=access "))
        .map(|line| field(line, "conn_id"))
        .collect();
    assert_eq!(labels.len(), 1000);
}
