//! The program as a process: started on ports of the system's choice, read by its log, stopped by its own pid.

use std::io::{BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::PATIENCE;

/// A running program. Dropped, it is killed.
pub(crate) struct Program {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    /// `gateway`, `client`, ...
    role: String,
}

/// What it has said so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    news: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended: bool,
}

/// Gateway, client and origin in one process.
pub(crate) fn standalone() -> Program {
    const ANY: &str = "127.0.0.1:0";
    Program::start(&["standalone", "--http", ANY, "--socks", ANY, "--serve", ANY, "--tunnel", ANY])
}

/// A gateway with all its listeners; `more` are further flags.
pub(crate) fn gateway(more: &[&str]) -> Program {
    gateway_that_says("info", more)
}

/// The same, with these levels of its log.
pub(crate) fn gateway_that_says(levels: &str, more: &[&str]) -> Program {
    const ANY: &str = "127.0.0.1:0";
    let args = ["gateway", "--tunnel", ANY, "--http", ANY, "--socks", ANY];
    Program::start_with(&[&args[..], more].concat(), &[("ANYPROXY_LOG", levels)])
}

/// A gateway and a client of it, whose tunnel is up; `more` are further flags of the client.
pub(crate) fn gateway_and_client(more: &[&str]) -> (Program, Program) {
    let gateway = gateway(&[]);
    let client = gateway.client(more);
    (gateway, client)
}

impl Program {
    /// Starts the program, without waiting for anything.
    pub(crate) fn start(args: &[&str]) -> Program {
        Program::start_with(args, &[])
    }

    /// Starts the program with variables in its environment.
    pub(crate) fn start_with(args: &[&str], env: &[(&str, &str)]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anyproxy"));
        clear(&mut command).args(args).envs(env.iter().copied());
        Program::spawn(command, args[0])
    }

    /// Starts the program with so few descriptors, as long as it asks for no more.
    pub(crate) fn start_limited(descriptors: u32, args: &[&str]) -> Program {
        let mut command = Command::new("sh");
        let script = format!("ulimit -S -n {descriptors} && exec \"$0\" \"$@\"");
        clear(&mut command).args(["-c", &script, env!("CARGO_BIN_EXE_anyproxy")]).args(args);
        Program::spawn(command, args[0])
    }

    /// Starts the program with no more descriptors than these, whatever it asks for.
    pub(crate) fn start_bounded(descriptors: u32, args: &[&str]) -> Program {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        clear(&mut command).args(["-c", &script, env!("CARGO_BIN_EXE_anyproxy")]).args(args);
        Program::spawn(command, args[0])
    }

    /// Starts the program with this as its standard input.
    pub(crate) fn start_at(stdin: impl Into<Stdio>, args: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anyproxy"));
        clear(&mut command).args(args);
        Program::spawn_at(stdin.into(), command, args[0])
    }

    fn spawn(command: Command, role: &str) -> Program {
        Program::spawn_at(Stdio::null(), command, role)
    }

    fn spawn_at(stdin: Stdio, mut command: Command, role: &str) -> Program {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let log = Arc::new(Log::default());
        let (stderr, into) = (child.stderr.take().expect("it is piped"), log.clone());
        let reader = std::thread::spawn(move || into.read(BufReader::new(stderr)));
        Program { child, log, reader: Some(reader), role: role.to_owned() }
    }

    /// A client of this gateway, whose tunnel is up; `more` are further flags.
    pub(crate) fn client(&self, more: &[&str]) -> Program {
        let client = self.client_unready(more);
        client.wait(&["event=tun_up"]);
        client
    }

    /// A client of this gateway; `more` are further flags.
    pub(crate) fn client_unready(&self, more: &[&str]) -> Program {
        let url = format!("ws://{}", self.addr("tunnel"));
        Program::start(&[&["client", "--gateway", &url][..], more].concat())
    }

    /// A client of this gateway that dials it by `url`, which ends in this gateway's port; `more` are further flags.
    pub(crate) fn tls_client(&self, host: &str, more: &[&str]) -> Program {
        let url = format!("wss://{host}:{}", self.addr("tunnel").port());
        Program::start(&[&["client", "--gateway", &url][..], more].concat())
    }

    /// Where it listens for `name`, as it says itself.
    pub(crate) fn addr(&self, name: &str) -> SocketAddr {
        let line = self.wait(&["event=listen", &format!("name={name}")]);
        field(&line, "addr").parse().unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The first line that has all these words.
    #[track_caller]
    pub(crate) fn wait(&self, words: &[&str]) -> String {
        self.wait_nth(words, 1)
    }

    /// The line with which there are `count` that have all these words.
    #[track_caller]
    pub(crate) fn wait_nth(&self, words: &[&str], count: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().expect("no holder panics");
        loop {
            if let Some(line) = lines.all.iter().filter(|line| has(line, words)).nth(count - 1) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let all = lines.all.join("\n");
                drop(lines);
                panic!("{}: {count} lines with {words:?} did not come:\n{all}", self.role);
            }
            lines = self.log.news.wait_timeout(lines, left).expect("no holder panics").0;
        }
    }

    /// The lines so far that have all these words.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let lines = self.log.lines.lock().expect("no holder panics");
        lines.all.iter().filter(|line| has(line, words)).cloned().collect()
    }

    /// What it has printed on standard output, once it has ended or closed it. Call it after [`Program::signal`].
    pub(crate) fn printed(&mut self) -> String {
        let mut text = String::new();
        let mut out = self.child.stdout.take().expect("standard output is read once");
        out.read_to_string(&mut text).expect("it prints text");
        text
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }

    /// Its resident memory.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most that its resident memory has been.
    pub(crate) fn rss_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("it runs");
        let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("it has memory");
        value.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends it a signal: `TERM`, `KILL`, ...
    pub(crate) fn signal(&self, name: &str) {
        // The shell has a kill of its own on every system.
        let script = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status().expect("there is a shell");
        assert!(status.success(), "{script}: {status}");
    }

    /// Waits for its end. The log is whole then.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        if let Some(reader) = self.reader.take() {
            let deadline = Instant::now() + PATIENCE;
            let mut lines = self.log.lines.lock().expect("no holder panics");
            while !lines.ended {
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "{} does not end:\n{}", self.role, lines.all.join("\n"));
                lines = self.log.news.wait_timeout(lines, left).expect("no holder panics").0;
            }
            drop(lines);
            reader.join().expect("reading does not panic");
        }
        self.child.wait().expect("it is our child")
    }

    /// Stops it by SIGTERM, and gives its log: exit status 0, and no line that would have woken anybody.
    #[track_caller]
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop_but_for(&[])
    }

    /// As [`Program::stop`], where lines with one of these words may be at WARN or ERROR.
    #[track_caller]
    pub(crate) fn stop_but_for(mut self, expected: &[&str]) -> Vec<String> {
        self.signal("TERM");
        let status = self.ended();
        let lines = self.lines(&[]);
        let log = || lines.join("\n");
        assert_eq!(status.code(), Some(0), "{}: {status}:\n{}", self.role, log());
        for line in &lines {
            let loud = line.contains(" level=ERROR ") || line.contains(" level=WARN ");
            let foreign = !line.starts_with("time=");
            let known = expected.iter().any(|word| line.contains(word));
            assert!(!foreign && (!loud || known), "{}: {line}\n--- of\n{}", self.role, log());
        }
        lines
    }
}

/// Without what the environment of a test would tell the program.
fn clear(command: &mut Command) -> &mut Command {
    let names = ["ANYPROXY_LOG", "RUST_LOG", "JOURNAL_STREAM", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"];
    names.into_iter().fold(command, Command::env_remove)
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.reader.is_some() {
            // A test that failed; it may also be gone already.
            let killed = self.child.kill().and_then(|()| self.child.wait());
            if std::thread::panicking() {
                eprintln!("--- log of the {} ({killed:?}):\n{}", self.role, self.lines(&[]).join("\n"));
            }
        }
    }
}

impl Log {
    fn read(&self, from: impl std::io::BufRead) {
        for line in from.lines() {
            let line = line.expect("the log is text");
            self.lines.lock().expect("no holder panics").all.push(line);
            self.news.notify_all();
        }
        self.lines.lock().expect("no holder panics").ended = true;
        self.news.notify_all();
    }
}

/// Whether a line has all these words, as whole `key=value` pairs where they are such.
fn has(line: &str, words: &[&str]) -> bool {
    words.iter().all(|word| match word.contains('=') {
        true => line.split(' ').any(|pair| pair == *word),
        false => line.contains(word),
    })
}

/// The value of a key in a log line.
#[track_caller]
pub(crate) fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let value = line.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {key}= in {line}"))
}
