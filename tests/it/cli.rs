//! Exit statuses and one-line faults of the real program.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    // Dropped at once, so that the program sees the end. It may be gone already: then it needed no input.
    let written = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    assert!(written.is_ok() || input.is_empty() || !output.status.success(), "{written:?}");
    output
}

/// Status, words on standard output, words on standard error (which then is one line; none means empty).
#[track_caller]
fn check(args: &[&str], input: &str, status: i32, stdout: &str, stderr: &str) {
    let output = run(args, input);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{args:?}: {err}");
    assert!(out.contains(stdout), "{args:?}: {out}");
    assert!(err.contains(stderr), "{args:?}: {err}");
    let lines = usize::from(!stderr.is_empty());
    assert_eq!(err.matches('\n').count(), lines, "{args:?}: {err}");
}

#[test]
fn usage_faults_are_one_line_and_status_2() {
    check(&[], "", 2, "", "no command given");
    check(&["fly"], "", 2, "", "'fly'");
    check(&["standalone", "--http", "nowhere"], "", 2, "", "'--http <ADDR>'");
    check(&["gateway", "--tunnel", "0.0.0.0:0", "--http", "127.0.0.1:0"], "", 2, "", "--tunnel 0.0.0.0:0");
    check(&["client", "--gateway", "http://h"], "", 2, "", "neither wss nor ws");
    check(&["logs"], "", 2, "", "<FILE>...");
    check(&["logs", "/nonexistent/x.log"], "", 2, "", "/nonexistent/x.log: No such file");
}

#[test]
fn a_file_that_is_named_and_cannot_be_used_is_status_2() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = |name: &str| dir.path().join(name).to_str().expect("it is text").to_owned();
    std::fs::write(path("there"), "").expect("a file can be written");
    let cheap = ["--memory-kib", "1024", "--passes", "1"];
    let passwd = |file: &str| {
        let path = path(file);
        let args = [&["passwd", "user", "a", "--generate", &path][..], &cheap].concat();
        run(&args, "").status.code()
    };
    assert_eq!((passwd("there"), passwd("none/f")), (Some(2), Some(2)));
    let cert =
        |cert: &str, key: &str| run(&["cert", "--cert", &path(cert), "--key", &path(key)], "").status.code();
    assert_eq!((cert("c", "there"), cert("there", "k"), cert("c", "none/k")), (Some(2), Some(2), Some(2)));
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 1, "nothing half made is left");
}

#[test]
fn a_password_whose_line_is_not_printed_is_not_left_behind() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("password");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
        .args(["passwd", "user", "a", "--memory-kib", "1024", "--passes", "1", "--generate"])
        .arg(&path)
        .stdout(full)
        .output()
        .expect("the program was built");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("anyproxy: passwd: standard output: "), "{err}");
    assert!(!path.exists());
}

#[test]
fn a_password_may_come_through_a_pipe() {
    let passwd = ["passwd", "user", "a", "--memory-kib", "1024", "--passes", "1", "--password-file", "-"];
    check(&passwd, "secret\n", 0, "user a $argon2id$", "");
    check(&passwd, "", 2, "", "anyproxy: passwd: -: the file is empty");
    check(&passwd, "a\nb\n", 2, "", "anyproxy: passwd: -: more than one line");
    check(&passwd, &"x".repeat(256), 2, "", "anyproxy: passwd: -: longer than 255 bytes");
}

#[test]
fn levels_of_the_log_that_make_no_sense_are_status_2() {
    let cases: [(&[u8], _); 3] = [
        (b"verbose", "\"verbose\" is not a level"),
        (b"warn,foo=debug", "\"foo\" is no part"),
        (b"debug\xff", "\"debug\\xFF\" is not UTF-8"),
    ];
    for (levels, word) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_anyproxy"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("ANYPROXY_LOG", OsStr::from_bytes(levels))
            .stdin(Stdio::null())
            .output()
            .expect("the program was built");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.starts_with("anyproxy: ANYPROXY_LOG: ") && err.contains(word), "{err}");
    }
}

#[test]
fn a_rule_that_cannot_be_read_is_named_with_its_flag() {
    let reversed =
        "--allow: \"10.0.0.1:90-80\" does not end in a port, or a range of ports with the lower one first";
    check(&["check", "--allow", "10.0.0.1:90-80"], "", 2, "", &format!("anyproxy: check: {reversed}"));
    check(&["check", "--allow", "a:1", "--deny", "a:x"], "", 2, "", "anyproxy: check: --deny: \"a:x\"");
}

#[test]
fn help_and_version_are_no_faults() {
    check(&["--help"], "", 0, "standalone", "");
    check(&["client", "--help"], "", 0, "--forward <PORT:HOST:PORT[/udp]>", "");
    check(&["client", "--help"], "", 0, "--gateway <wss://HOST[:PORT]>", "");
    check(&["client", "--help"], "", 0, "without PORT it is 443, or 80 with ws://", "");
    check(&["--version"], "", 0, concat!("anyproxy ", env!("CARGO_PKG_VERSION"), "\n"), "");
}

// proves S-71: a forward's target is explained by the same rules
#[test]
fn check_explains_which_rule_decides() {
    check(&["check"], "", 0, "the rules can be read\n", "");
    check(&["check", "--allow", "10.0.0.1/8"], "", 2, "", "is 10.0.0.0/8 meant?");
    let explain = |rules: &[&str], target: &str, status, words: &str| {
        check(&[&["check"][..], rules, &["--explain", target]].concat(), "", status, words, "");
    };
    explain(
        &["--allow", "10.0.0.0/8"],
        "10.1.2.3:80",
        0,
        "allowed by the rule 10.0.0.0/8\nreached at 10.1.2.3\n",
    );
    explain(
        &["--allow", "*"],
        "10.1.2.3:80",
        1,
        "a private address, and no allow rule names it\nnot reached\n",
    );
    explain(
        &["--allow", "10.0.0.0/8:80-90"],
        "10.1.1.1:91",
        1,
        "a private address, and no allow rule names it with port 91\nnot reached\n",
    );
    explain(&["--deny", "*:25"], "mail.example:25", 1, "  name  denied by the rule *:25\nnot reached\n");
    explain(&[], "0x7f.1:80", 1, "127.0.0.1:80\n  127.0.0.1  denied: 127.0.0.1 is a loopback address");
    // Resolved by the hosts file, and every address judged.
    explain(&["--allow", "localhost"], "LOCALHOST:80", 0, "127.0.0.1  allowed by the rule localhost\n");
    explain(&["--allow", "*"], "localhost:80", 1, "127.0.0.1  denied: 127.0.0.1 is a loopback address");
    explain(&["--allow", "127.0.0.1"], "localhost:80", 0, "name       allowed: no rule speaks of it\n");
}

#[test]
fn logs_says_by_its_status_whether_there_was_anything() {
    check(&["logs", "-"], "", 1, "lines    0", "");
    check(&["logs", "-"], "hello\n", 1, "(stdin) line 1: not key=value", "");
    check(&["logs", "-"], "<4>level=WARN event=tun_down\n", 0, "WARN 1", "");
}
