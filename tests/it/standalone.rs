//! One process, nothing to configure: the first thing that anybody tries.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::{self, Program, Wire};

fn is_page(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).contains("<html")
}

#[track_caller]
fn stop(program: Program, access: usize) {
    stop_but_for(program, access, &[]);
}

#[track_caller]
fn stop_but_for(program: Program, access: usize, expected: &[&str]) {
    let lines = program.stop_but_for(expected);
    let count = lines.iter().filter(|line| line.contains(" event=access ")).count();
    assert_eq!(count, access, "{}", lines.join("\n"));
    assert!(!lines.iter().any(|line| line.contains("closed pipe")), "{}", lines.join("\n"));
}

// proves S-61, S-06
#[test]
fn the_page_comes_by_absolute_form_by_connect_and_by_socks5() {
    let program = support::standalone();
    let (http, socks, serve) = (program.addr("http"), program.addr("socks"), program.addr("serve"));
    let mut plain = Wire::connect(http);
    let page = plain.get(&format!("http://{serve}/"));
    assert_eq!(page.code, 200);
    assert!(is_page(&page.body), "{}", page.text());

    let ask = format!("GET / HTTP/1.1\r\nHost: {serve}\r\nConnection: close\r\n\r\n");
    let mut connect = Wire::http_connect(http, serve);
    connect.send(&ask);
    assert_eq!(connect.response("GET").body, page.body);
    let mut by_name = Wire::socks_connect(socks, "localhost", serve.port());
    by_name.send(&ask);
    assert_eq!(by_name.response("GET").body, page.body);
    drop((plain, connect, by_name));
    program.wait_nth(&["event=access", "end=--"], 3);
    stop(program, 3);
}

// proves S-01
#[test]
fn ten_at_once_all_succeed_and_nothing_is_complained_about() {
    let program = support::standalone();
    let (http, serve) = (program.addr("http"), program.addr("serve"));
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let answer = Wire::connect(http).get(&format!("http://{serve}/plaintext"));
                assert_eq!((answer.code, answer.text().as_str()), (200, "Hello, World!"));
            });
        }
    });
    program.wait_nth(&["event=access", "end=--", "code=200", "down=13"], 10);
    stop(program, 10);
}

// proves S-01, S-61: with the tool that the issues name
#[test]
fn curl_uses_it_as_the_readme_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("curl is not installed: the other tests do the same with sockets");
        return;
    }
    let program = support::standalone();
    let (http, socks, serve) = (program.addr("http"), program.addr("socks"), program.addr("serve"));
    // The README's lines, on the ports of this run.
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("it is there");
    let lines: Vec<String> = readme
        .lines()
        .filter(|line| line.starts_with("curl ") && line.contains("127.0.0.1"))
        .map(|line| {
            line.replace("127.0.0.1:8088", &http.to_string())
                .replace("127.0.0.1:1080", &socks.to_string())
                .replace("127.0.0.1:8080", &serve.to_string())
        })
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let mut running = Vec::new();
    for line in lines.iter().chain(std::iter::repeat_n(&lines[0], 9)) {
        let mut command = Command::new("curl");
        for name in
            ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]
        {
            command.env_remove(name);
        }
        let words = line.split_whitespace().skip(1);
        command.args(["-sS", "--fail", "--max-time", "40"]).args(words);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        running.push((line, command.spawn().expect("it is installed")));
    }
    for (line, curl) in running {
        let output = curl.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{line}");
    }
    program.wait_nth(&["event=access", "end=--"], 11);
    stop(program, 11);
}

#[test]
fn it_prints_and_announces_where_it_listens() {
    let mut program = support::standalone();
    let [http, socks, serve] = ["http", "socks", "serve"].map(|name| program.addr(name));
    let tunnel = program.addr("tunnel");
    program.wait(&["event=ready"]);
    assert!([http, socks, serve, tunnel].iter().all(|addr| addr.ip().is_loopback() && addr.port() > 0));
    program.signal("TERM");
    let printed = program.printed();
    for want in [
        format!("HTTP proxy   http://{http}\n"),
        format!("SOCKS5       {socks}\n"),
        format!("page to try  http://{serve}/\n"),
        format!("curl -x http://{http} http://{serve}/\n"),
        format!("curl --socks5-hostname {socks} http://{serve}/\n"),
    ] {
        assert!(printed.contains(&want), "{want:?} is not in\n{printed}");
    }
    assert_eq!(program.ended().code(), Some(0));
}

// A proxy that is asked for itself would go round until it has no descriptor left (T5).
#[test]
fn the_program_does_not_lead_to_itself() {
    let program = support::standalone();
    let (http, socks) = (program.addr("http"), program.addr("socks"));
    let tunnel = program.addr("tunnel");
    for own in [http, socks, tunnel] {
        for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            let mut wire = Wire::connect(http);
            wire.send(format!("CONNECT {host}:{0} HTTP/1.1\r\nHost: {host}:{0}\r\n\r\n", own.port()));
            assert_eq!(wire.response("CONNECT").code, 403, "{host}:{}", own.port());
        }
        assert_eq!(Wire::connect(socks).socks(None, "127.1", own.port()), 2);
        assert_eq!(Wire::connect(http).get(&format!("http://{own}/")).code, 403);
    }
    program.wait_nth(&["event=access", "end=PC", "why=acl"], 18);
    stop_but_for(program, 18, &["rules forbid"]);
}

/// Whoever starts it in a pipe and closes that has a program that runs: nobody has to read the page that it prints.
#[test]
fn a_standard_output_that_nobody_reads_is_no_fault() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    for (stdout, warns) in [(Stdio::from(writer), false), (Stdio::from(full), true)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
            .arg("standalone")
            .args(["--http", "--socks", "--serve"].map(|flag| format!("{flag}=127.0.0.1:0")))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let mut lines = Vec::new();
        for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
            let line = line.expect("lines are UTF-8");
            if line.contains(" event=ready ") {
                let pid = i32::try_from(child.id()).expect("a process has a small number");
                let pid = rustix::process::Pid::from_raw(pid).expect("which is not zero");
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
            }
            lines.push(line);
        }
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{}", lines.join("\n"));
        let warned =
            lines.iter().any(|line| line.contains("level=WARN") && line.contains("standard output: "));
        assert_eq!(warned, warns, "{}", lines.join("\n"));
    }
}
