//! Every example, as its reader would run it: started, talked to, and ended by the end of its standard input.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use support::built::examples;
use support::*;

/// A running example. Dropping it ends it, also when the test fails.
struct Example {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl Example {
    /// Starts `name` and reads the address from its first line.
    #[track_caller]
    fn start(name: &str, args: &[&str]) -> Example {
        let mut command = Command::new(examples().join(name));
        command.args(args);
        Example::run(name, command)
    }

    #[track_caller]
    fn run(name: &str, mut command: Command) -> Example {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a first line");
        let words = line.split([' ', ';', ',', '/', '\n']);
        let addr = words.filter_map(|word| word.parse().ok()).next();
        let addr = addr.unwrap_or_else(|| panic!("{name} begins with its address: {line:?}"));
        Example { child, input, output, addr }
    }

    /// The next line that it says.
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line
    }

    /// Ends the standard input, waits for the end, and gives what was said meanwhile.
    #[track_caller]
    fn end(mut self) -> String {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {rest}");
        rest
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Both fail when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const ANY_PORT: &str = "127.0.0.1:0";

fn talk_echo() {
    let echo = Example::start("echo", &[ANY_PORT]);
    let mut user = connect(echo.addr);
    ask(&mut user, b"hello");
    user.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut user), b"");
    assert!(echo.end().contains("closed by the peer (5 bytes in, 5 out)"));
}

fn ask_datagram(addr: SocketAddr, question: &[u8]) -> Vec<u8> {
    let user = UdpSocket::bind(ANY_PORT).expect("a port");
    user.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    user.send_to(question, addr).expect("sent");
    let mut answer = vec![0; 100];
    let n = user.recv(&mut answer).expect("answered");
    answer.truncate(n);
    answer
}

fn talk_udp() {
    let udp = Example::start("udp", &[ANY_PORT]);
    assert_eq!(ask_datagram(udp.addr, b"hello"), b"HELLO");
    assert_eq!(udp.end(), "answered 1, lost 0\n");
}

/// As a service manager would: the socket is bound here and becomes descriptor 3 of the example.
fn talk_socket_activation() {
    let activate = |socket: OwnedFd, listen_pid: &str| {
        let script = format!("export LISTEN_FDS=1 LISTEN_PID={listen_pid}; exec \"$0\" 3>&2 2>/dev/null");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(examples().join("socket_activation")).stderr(socket);
        command
    };
    let tcp = TcpListener::bind(ANY_PORT).expect("a port");
    // It waits in the queue, as while the program is replaced.
    let mut early = connect(tcp.local_addr().expect("bound"));
    let for_another = activate(tcp.try_clone().expect("a copy").into(), "1").status().expect("a shell");
    assert!(!for_another.success(), "the descriptor was meant for another process");
    let example = Example::run("socket_activation", activate(tcp.into(), "$$"));
    ask(&mut early, b"I came before you");
    drop(early);
    assert_eq!(example.end(), "");
    let udp = UdpSocket::bind(ANY_PORT).expect("a port");
    let example = Example::run("socket_activation", activate(udp.into(), "$$"));
    assert_eq!(ask_datagram(example.addr, b"hello"), b"hello");
    example.end();
}

fn talk_timer() {
    let timer = Example::start("timer", &[ANY_PORT]);
    let mut user = connect(timer.addr);
    user.write_all(b"5\n1\n").expect("written");
    let mut answers = [0; 10];
    user.read_exact(&mut answers).expect("twice");
    assert_eq!(&answers, b"ding\nding\n");
    user.write_all(b"soon\n").expect("written");
    assert_eq!(read_all(&mut user), b"", "no number ends it");
    timer.end();
}

fn talk_blocking() {
    let library = Example::start("blocking", &[ANY_PORT]);
    let (mut slow, mut quick) = (connect(library.addr), connect(library.addr));
    slow.write_all(b"first\nslow one\n").expect("written");
    let mut lines = BufReader::new(slow.try_clone().expect("a second handle")).lines();
    let mut next = || lines.next().expect("a line").expect("a line");
    assert_eq!(next(), "everybody knows \"first\"");
    quick.write_all(b"quick\n").expect("written");
    quick.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&mut quick), b"everybody knows \"quick\"\n");
    assert_eq!(next(), "the database knows \"slow one\"");
    slow.write_all(b"early\nstore 5\nby").expect("written");
    assert_eq!(next(), "everybody knows \"early\"");
    slow.write_all(b"tes").expect("written");
    assert_eq!(next(), "stored \"bytes\"");
    library.end();
}

fn talk_shutdown() {
    let mut counter = Example::start("shutdown", &[ANY_PORT]);
    let mut user = connect(counter.addr);
    user.write_all(b"one\ntwo\nthr").expect("written");
    let mut counts = [0; 4];
    user.read_exact(&mut counts).expect("two lines have come");
    assert_eq!(&counts, b"1\n2\n");
    // Those who are in the middle of a line may finish it.
    counter.input.as_mut().expect("open").write_all(b"\n").expect("written");
    assert_eq!(counter.line(), "stopping, 1 connections\n");
    user.write_all(b"ee\n").expect("written");
    assert_eq!(read_all(&mut user), b"3\n3 lines in all\n");
    assert_eq!(counter.end(), "all had finished\n");
}

fn talk_proxy() {
    const TOTAL: usize = 8 << 20;
    let echo = Example::start("echo", &[ANY_PORT]);
    let proxy = Example::start("proxy", &[ANY_PORT, &echo.addr.to_string()]);
    let mut user = connect(proxy.addr);
    ask(&mut user, b"through two");
    // More than both watermarks, both ways at once; and the end goes through, too.
    let mut writer = user.try_clone().expect("a second handle");
    let writes = std::thread::spawn(move || {
        let all: Vec<u8> = (0..TOTAL).map(pattern).collect();
        writer.write_all(&all).expect("taken");
        writer.shutdown(Shutdown::Write).expect("shut down");
    });
    let all = read_all(&mut user);
    writes.join().expect("no panic");
    assert_eq!(all.len(), TOTAL);
    assert!(all.iter().enumerate().all(|(i, byte)| *byte == pattern(i)));
    // Nobody listens there: the relay passes that on.
    let lonely = Example::start("proxy", &[ANY_PORT, &closed_port().to_string()]);
    let refused = connect(lonely.addr).read_to_end(&mut Vec::new());
    assert_eq!(refused.expect_err("cut off").kind(), std::io::ErrorKind::ConnectionReset);
    for example in [proxy, lonely, echo] {
        example.end();
    }
}

fn talk_http() {
    let http = Example::start("http", &["--port", "0", "--proto", "http", "--defer"]);
    let mut user = connect(http.addr);
    user.write_all(b"GET /plaintext HTTP/1.1\r\nHost: here\r\n\r\n").expect("written");
    let mut status = String::new();
    BufReader::new(&user).read_line(&mut status).expect("an answer");
    assert_eq!(status, "HTTP/1.1 200 OK\r\n");
    // It is to be measured and has no end of its own: the drop ends it.
}

fn talk_rpc() {
    let rpc = Example::start("rpc", &["--port", "0", "--proto", "rpc"]);
    let mut user = connect(rpc.addr);
    ask(&mut user, b"\0\0\0\x05hello\0\0\0\0\0\0\0\x01S");
    // As `http`, it has no end of its own.
}

#[cfg(feature = "tls")]
fn talk_tls() {
    use poller::tls::rustls::pki_types::{CertificateDer, ServerName};
    use poller::tls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    let mut echo = Example::start("tls", &[ANY_PORT]);
    let addr = echo.addr;
    let mut open = Vec::new();
    for question in [b"first".as_slice(), b"second"] {
        let mut line = String::new();
        while !line.starts_with("certificate ") {
            line.clear();
            assert_ne!(echo.output.read_line(&mut line).expect("a line"), 0, "a certificate is announced");
        }
        let digits = line.trim_start_matches("certificate ").trim();
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).expect("a byte");
        let cert: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(cert)).expect("a certificate");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        // The announcement comes before the certificate is in use, so the first try may meet the former one.
        let mut user = loop {
            let conn = ClientConnection::new(config.clone().into(), name.clone()).expect("a client");
            let mut user = StreamOwned::new(conn, connect(addr));
            match user.write_all(question) {
                Ok(()) => break user,
                Err(error) => assert!(error.to_string().contains("invalid peer certificate"), "{error}"),
            }
        };
        let mut answer = vec![0; question.len()];
        user.read_exact(&mut answer).expect("answered");
        assert_eq!(answer, question);
        // Another certificate, and this connection lives on.
        echo.input.as_mut().expect("open").write_all(b"\n").expect("written");
        open.push(user);
    }
    for mut user in open {
        user.conn.send_close_notify();
        assert_eq!(user.read_to_end(&mut Vec::new()).expect("a proper end"), 0);
    }
    assert!(echo.end().contains("closed by the peer after "));
}

/// The example is not built without the feature.
#[cfg(not(feature = "tls"))]
fn talk_tls() {}

/// What is done with each example.
fn talks() -> BTreeMap<&'static str, fn()> {
    BTreeMap::from([
        ("blocking", talk_blocking as fn()),
        ("echo", talk_echo),
        ("http", talk_http),
        ("proxy", talk_proxy),
        ("rpc", talk_rpc),
        ("shutdown", talk_shutdown),
        ("socket_activation", talk_socket_activation),
        ("timer", talk_timer),
        ("tls", talk_tls),
        ("udp", talk_udp),
    ])
}

#[test]
fn every_example_does_what_it_says() {
    for (name, talk) in talks() {
        // Seen when the test fails.
        println!("{name}");
        talk();
    }
}

/// The names and texts of the examples that there are.
fn sources() -> Vec<(String, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries =
        std::fs::read_dir(directory).expect("there are examples").map(|entry| entry.expect("read").path());
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    entries.map(|path| (name(&path), std::fs::read_to_string(&path).expect("text"))).collect()
}

// The README lists every example, and no other.
#[test]
fn the_readme_lists_the_examples() {
    let readme = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.expect("there is one");
    let section = readme.lines().skip_while(|line| *line != "## Examples").skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let mut listed: Vec<&str> = rows
        .flat_map(|names| names.split(", "))
        .map(|name| name.trim_matches('`').split('`').next().expect("a name"))
        .filter(|name| !name.starts_with("cargo"))
        .collect();
    let sources = sources();
    let mut there: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
    listed.sort_unstable();
    there.sort_unstable();
    assert_eq!(listed, there);
}

#[test]
fn no_example_is_forgotten_and_each_is_short() {
    for (name, text) in sources() {
        let is_built = name != "tls" || cfg!(feature = "tls");
        assert!(!is_built || talks().contains_key(name.as_str()), "nobody talks to {name}");
        assert!(text.lines().count() < 100, "{name} is no first contact any more");
    }
}
