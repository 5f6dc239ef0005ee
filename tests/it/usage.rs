//! Every flag, used wrongly: one line that names it, and exit status 2.

use std::process::{Command, Stdio};

#[track_caller]
fn check(line: &str, word: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
        .args(line.split(' '))
        .stdin(Stdio::null())
        .output()
        .expect("the program was built");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}: {err}");
    assert_eq!(err.matches('\n').count(), 1, "{line}: {err:?}");
    assert!(err.starts_with("anyproxy: ") && err.contains(word), "{line}: {err} does not name {word}");
    assert!(output.stdout.is_empty(), "{line}: {:?}", String::from_utf8_lossy(&output.stdout));
}

/// A flag without a value, with one that makes no sense, and twice (unless it may be repeated).
fn check_flag(before: &str, flag: &str, good: &str, bad: &str, repeats: bool) {
    check(&format!("{before} {flag}"), flag);
    check(&format!("{before} {flag} {bad}"), flag);
    check(&format!("{before} {flag}={bad}"), flag);
    if !repeats {
        check(&format!("{before} {flag} {good} {flag} {good}"), flag);
    }
}

const ADDR: &str = "127.0.0.1:0";

// proves S-73
#[test]
fn every_flag_is_checked() {
    for flag in ["--http", "--socks", "--serve", "--tunnel"] {
        check_flag("standalone", flag, ADDR, "8088", false);
        check(&format!("standalone {flag} 0.0.0.0:0"), flag);
    }
    for (flag, other) in [("--tunnel", "--http"), ("--http", "--tunnel")] {
        check_flag(&format!("gateway {other} {ADDR}"), flag, ADDR, "nowhere:port", false);
        check(&format!("gateway {other} {ADDR}"), flag);
        check(&format!("gateway {other} {ADDR} {flag} 0.0.0.0:0"), flag);
    }
    let gateway = format!("gateway --tunnel {ADDR} --http {ADDR}");
    check_flag(&gateway, "--socks", ADDR, "[::1", false);
    check_flag("client", "--gateway", "ws://h:1", "ftp://h", false);
    let client = "client --gateway ws://127.0.0.1:1";
    for role in [gateway.as_str(), client] {
        check_flag(&format!("{role} --password-file f"), "--group", "g", "a:b", false);
        check(&format!("{role} --group g"), "--password-file");
        check(&format!("{role} --group g --password-file"), "--password-file");
        check(&format!("{role} --group g --password-file /nonexistent/p"), "--password-file");
        check(&format!("{role} --password-file f --group g --password-file f"), "--password-file");
        check(&format!("{role} --frobnicate"), "--frobnicate");
        check(&format!("{role} extra"), "extra");
    }
    check_flag(client, "--name", "n", "a:b", false);
    check_flag(client, "--allow", "x", &"p".repeat(300), true);
    check_flag(client, "--deny", "x", &"p".repeat(300), true);
    check_flag(client, "--forward", "1:h:1", "1:h", true);
    check_flag(client, "--forward", "1:h:1", "1:h:1/sctp", true);
    check(
        &format!("{client} --forward 1:h:1 --forward 2:h:1 --forward 1:h:2"),
        "--forward 1: given twice for tcp",
    );
    // A forward that its own rules forbid can never work.
    check(&format!("{client} --forward 1:127.0.0.1:1"), "--allow");
    check_flag("serve", "--listen", ADDR, "8080", false);
    check("logs --follow x", "--follow");
}

/// A service that cannot start is heard of by who asks the journal for warnings.
#[test]
fn the_journal_is_told_that_a_fault_is_an_error() {
    use std::os::unix::fs::MetadataExt as _;
    let taken = std::net::TcpListener::bind(ADDR).expect("loopback has free ports");
    let addr = taken.local_addr().expect("it is bound").to_string();
    for args in [&["gateway"][..], &["serve", "--listen", &addr]] {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        let meta = file.as_file().metadata().expect("it is there");
        let status = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
            .args(args)
            .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
            .stdin(Stdio::null())
            .stderr(file.reopen().expect("it is ours"))
            .status()
            .expect("the program was built");
        let err = std::fs::read_to_string(file.path()).expect("it is text");
        assert!(!status.success());
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("<3>anyproxy: "), "{args:?}: {err}");
    }
}

/// A port that is taken is no fault of the command line: one line that names it, exit status 1.
#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind(ADDR).expect("loopback has free ports");
    let addr = taken.local_addr().expect("it is bound").to_string();
    for args in [
        vec!["serve", "--listen", &addr],
        vec!["gateway", "--tunnel", &addr, "--http", ADDR],
        vec!["gateway", "--tunnel", ADDR, "--http", &addr],
        vec!["gateway", "--tunnel", ADDR, "--http", ADDR, "--socks", &addr],
        vec!["standalone", "--http", ADDR, "--socks", ADDR, "--serve", &addr],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
            .args(&args)
            .stdin(Stdio::null())
            .output()
            .expect("the program was built");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("anyproxy: ") && last.contains(&addr), "{args:?}: {err}");
        assert!(!err.contains("level=ERROR") && !err.contains("panicked"), "{args:?}: {err}");
    }
}
