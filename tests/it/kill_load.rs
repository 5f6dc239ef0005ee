//! Either end is killed in the middle of its work, again and again: how soon new streams work, and what is left.
//!
//! ```text
//!   small streams ×8, big ones ×2 ──▶ gateway ──▶ client ──▶ echo, source
//!                          kill -9 ──────┴───────────┘ started again at once
//!   probe ──▶ a new stream, tried until it works: the time that is reported
//! ```
//! The plain run has few rounds; `scripts/kill` has many, in release, and holds the times.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Origin, PATIENCE, Program, full};

/// No other test listens here and no connection begins here, so that a port stays free while its owner is dead.
const HOST: &str = "127.0.78.1";
const SMALL_USERS: usize = 8;
const BIG_USERS: usize = 2;

fn rounds() -> usize {
    let rounds = std::env::var("ANYPROXY_KILL_ROUNDS").ok();
    rounds.map_or(3, |rounds| rounds.parse().expect("ANYPROXY_KILL_ROUNDS is a number"))
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((HOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound")
}

fn started(args: &[String], word: &str) -> Program {
    let program = Program::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    program.wait(&[word]);
    program
}

/// The two programs and what they are started with, the targets, and the users.
struct Place {
    gateway_args: Vec<String>,
    client_args: Vec<String>,
    http: SocketAddr,
    forwarded: SocketAddr,
    echo: Origin,
    load: Load,
}

/// Users that never rest.
struct Load {
    stop: Arc<AtomicBool>,
    /// Small streams that went well, and those that did not.
    whole: Arc<AtomicUsize>,
    broken: Arc<AtomicUsize>,
    /// Bytes of big ones.
    bytes: Arc<AtomicUsize>,
    users: Vec<std::thread::JoinHandle<()>>,
}

/// Through the HTTP proxy, and a word to the target and back.
fn visit(http: SocketAddr, target: SocketAddr, word: &[u8], patience: Duration) -> io::Result<()> {
    let mut user = TcpStream::connect_timeout(&http, patience)?;
    user.set_read_timeout(Some(patience))?;
    user.set_write_timeout(Some(patience))?;
    user.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())?;
    answered(&mut user)?;
    greet(&mut user, word)
}

fn greet(user: &mut TcpStream, word: &[u8]) -> io::Result<()> {
    user.write_all(word)?;
    let mut back = vec![0; word.len()];
    user.read_exact(&mut back)?;
    assert!(back == word, "another stream's bytes: {:?}", String::from_utf8_lossy(&back));
    Ok(())
}

/// Reads the head of a 200.
fn answered(user: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        user.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    match head.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
    }
}

/// Tries until it works: how long that took.
fn until_works(since: Instant, attempt: impl Fn() -> io::Result<()>) -> Duration {
    loop {
        match attempt() {
            Ok(()) => return since.elapsed(),
            Err(error) => assert!(since.elapsed() < PATIENCE, "it never works again: {error}"),
        }
        // A user who gets an error at once tries again soon, but does not spin.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A stream that breaks ends by a reset, a refusal or early, never in silence. Its user comes back after a breath.
fn is_told(error: &io::Error) {
    let silent = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    assert!(!silent.contains(&error.kind()), "a stream hangs: {error}");
    std::thread::sleep(Duration::from_millis(5));
}

impl Load {
    fn start(http: SocketAddr, echo: SocketAddr, source: SocketAddr) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            whole: Arc::default(),
            broken: Arc::default(),
            bytes: Arc::default(),
            users: Vec::new(),
        };
        for user in 0..SMALL_USERS {
            let (stop, whole, broken) = (load.stop.clone(), load.whole.clone(), load.broken.clone());
            load.users.push(std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // Its own words, so that bytes of another stream would be seen.
                    let word = format!("user {user} visit {n};").repeat(1 + n % 40);
                    match visit(http, echo, word.as_bytes(), PATIENCE) {
                        Ok(()) => whole.fetch_add(1, Ordering::SeqCst),
                        Err(error) => {
                            is_told(&error);
                            broken.fetch_add(1, Ordering::SeqCst)
                        }
                    };
                }
            }));
        }
        for _ in 0..BIG_USERS {
            let (stop, bytes) = (load.stop.clone(), load.bytes.clone());
            load.users.push(std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    if let Err(error) = drink(http, source, &stop, &bytes) {
                        is_told(&error);
                    }
                }
            }));
        }
        load
    }

    /// Waits until there has been work of both kinds.
    fn works(&self) {
        let counts = || [self.whole.load(Ordering::SeqCst), self.bytes.load(Ordering::SeqCst)];
        let [whole, bytes] = counts();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [more_whole, more_bytes] = counts();
            if more_whole >= whole + 5 * SMALL_USERS && more_bytes >= bytes + (1 << 20) {
                return;
            }
            assert!(Instant::now() < deadline, "{more_whole} streams, {more_bytes} bytes: there is no load");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it, and says how it went while somebody was killed so often.
    fn stop(self, who: &str, rounds: usize) {
        self.stop.store(true, Ordering::SeqCst);
        for user in self.users {
            user.join().expect("no stream hangs, and none has another's bytes");
        }
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        let [whole, broken, bytes] = [&self.whole, &self.broken, &self.bytes].map(|counted| count(counted));
        println!(
            "{who} killed {rounds} times under load: {whole} small streams whole, {broken} broken, {bytes} bytes of big ones"
        );
    }
}

/// One big stream, until it breaks.
fn drink(http: SocketAddr, source: SocketAddr, stop: &AtomicBool, bytes: &AtomicUsize) -> io::Result<()> {
    let mut user = TcpStream::connect_timeout(&http, PATIENCE)?;
    user.set_read_timeout(Some(PATIENCE))?;
    user.write_all(format!("CONNECT {source} HTTP/1.1\r\nHost: {source}\r\n\r\n").as_bytes())?;
    answered(&mut user)?;
    let mut piece = vec![0; 64 << 10];
    while !stop.load(Ordering::SeqCst) {
        match user.read(&mut piece)? {
            0 => break,
            read => bytes.fetch_add(read, Ordering::SeqCst),
        };
        // Big is as much as a link gives, not all that this machine can.
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

impl Place {
    fn new() -> (Place, Origin) {
        let echo = Origin::echo();
        let source = Origin::new(|mut wire| {
            let piece = [7; 64 << 10];
            while wire.try_send(piece).is_ok() {}
        });
        let (tunnel, http, forwarded) = (free_addr(), free_addr(), free_addr());
        let gateway_args = ["gateway", "--tunnel", &tunnel.to_string(), "--http", &http.to_string()];
        let forward = format!("{}:{}", forwarded.port(), echo.addr());
        let url = format!("ws://{tunnel}");
        let client_args =
            ["client", "--gateway", &url, "--allow", "127.0.0.1", "--name", "k", "--forward", &forward];
        let place = Place {
            gateway_args: gateway_args.map(String::from).into(),
            client_args: client_args.map(String::from).into(),
            http,
            forwarded,
            load: Load::start(http, echo.addr(), source.addr()),
            echo,
        };
        (place, source)
    }

    fn gateway(&self) -> Program {
        started(&self.gateway_args, "event=ready")
    }

    fn client(&self) -> Program {
        started(&self.client_args, "event=ready")
    }

    /// A new stream.
    fn works(&self, since: Instant) -> Duration {
        until_works(since, || visit(self.http, self.echo.addr(), b"probe", Duration::from_millis(500)))
    }

    /// The forwarded port, with a new stream behind it.
    fn port_works(&self, since: Instant) -> Duration {
        until_works(since, || {
            let mut user = TcpStream::connect_timeout(&self.forwarded, Duration::from_millis(500))?;
            user.set_read_timeout(Some(Duration::from_millis(500)))?;
            greet(&mut user, b"port")
        })
    }
}

/// Times of many rounds.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, share: f64) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        let rank = (times.len() as f64 * share).ceil() as usize;
        times[rank.clamp(1, times.len()) - 1]
    }

    fn show(&self, what: &str) {
        let ms = |share| self.at(share).as_secs_f64() * 1e3;
        println!("{what}: median {:.0} ms, p99 {:.0} ms, {} rounds", ms(0.5), ms(0.99), self.0.len());
    }

    #[track_caller]
    fn hold(&self, what: &str, median: Duration, p99: Duration) {
        self.show(what);
        if full() {
            assert!(self.at(0.5) <= median && self.at(0.99) <= p99, "{what}: at most {median:?}, {p99:?}");
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const AFTER_KILL: &str = "  a new stream works after the kill, the start of the program included";

/// Descriptors of the program that was never killed, without users.
#[track_caller]
fn rests(program: &Program, base: usize) {
    let deadline = Instant::now() + PATIENCE;
    while program.descriptors() > base {
        let now = program.descriptors();
        assert!(Instant::now() < deadline, "{now} descriptors, {base} before: something is stuck");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn only_loud(program: &Program, word: &str, count: usize) {
    let loud = |line: &&String| line.contains(" level=WARN ") || line.contains(" level=ERROR ");
    let lines = program.lines(&[]);
    let loud: Vec<&String> = lines.iter().filter(loud).collect();
    assert!(loud.iter().all(|line| line.contains(word)) && loud.len() == count, "{loud:#?}");
}

// proves S-35, S-16, S-17, S-57: a gateway that is killed under load
#[test]
fn a_gateway_killed_under_load_is_back_as_soon_as_it_is_started() {
    let (place, _source) = Place::new();
    let mut gateway = place.gateway();
    let client = place.client();
    place.works(Instant::now());
    place.port_works(Instant::now());
    let (mut from_kill, mut from_ready, mut ports) = (Times::default(), Times::default(), Times::default());
    let rounds = rounds();
    for round in 1..=rounds {
        place.load.works();
        let killed = Instant::now();
        gateway.signal("KILL");
        gateway.ended();
        client.wait_nth(&["event=tun_down"], round);
        gateway = place.gateway();
        let ready = Instant::now();
        from_ready.0.push(place.works(ready));
        from_kill.0.push(killed.elapsed());
        place.port_works(killed);
        ports.0.push(ready.elapsed());
    }
    place.load.stop("gateway", rounds);
    from_kill.hold(AFTER_KILL, SECOND, 2 * SECOND);
    from_ready.hold("  a new stream works after the gateway is ready", SECOND * 3 / 10, 2 * SECOND);
    ports.show("  the forwarded port works after the gateway is ready");
    client.wait_nth(&["event=tun_up"], rounds + 1);
    assert_eq!(client.lines(&["event=tun_up"]).len(), rounds + 1, "one tunnel for each gateway");
    only_loud(&client, " event=tun_down ", rounds);
    // Of all those streams and tunnels nothing is left but one tunnel.
    let fresh = place_alone(&place.client_args);
    rests(&client, fresh);
    client.stop_but_for(&["event=tun_down"]);
    gateway.stop_but_for(&[]);
}

/// The descriptors of a client that has one tunnel and nothing else to do; its gateway is still there.
fn place_alone(args: &[String]) -> usize {
    // Without ports: those are the other's.
    let program = started(&args[..args.len() - 2], "event=tun_up");
    let descriptors = program.descriptors();
    program.stop();
    descriptors
}

// proves S-35, S-16, S-17, S-56, S-69, S-70: a client that is killed under load, and its ports
#[test]
fn a_client_killed_under_load_is_replaced_as_soon_as_it_is_started() {
    let (place, _source) = Place::new();
    let gateway = place.gateway();
    let base = gateway.descriptors();
    let mut client = place.client();
    place.works(Instant::now());
    place.port_works(Instant::now());
    let (mut from_kill, mut from_ready, mut ports) = (Times::default(), Times::default(), Times::default());
    let rounds = rounds();
    for round in 1..=rounds {
        place.load.works();
        let killed = Instant::now();
        client.signal("KILL");
        client.ended();
        client = place.client();
        let ready = Instant::now();
        from_ready.0.push(place.works(ready));
        from_kill.0.push(killed.elapsed());
        ports.0.push(place.port_works(killed));
        // The clean-up of the one that died comes when it comes, and touches nothing of the one that is there.
        gateway.wait_nth(&["event=tun_down"], round);
        place.works(Instant::now());
        place.port_works(Instant::now());
    }
    place.load.stop("client", rounds);
    from_kill.hold(AFTER_KILL, SECOND, 2 * SECOND);
    from_ready.hold("  a new stream works after the client is ready", SECOND * 3 / 10, 2 * SECOND);
    ports.hold("  the forwarded port works after the kill", SECOND, 2 * SECOND);
    let ups = gateway.lines(&["event=tun_up"]);
    assert_eq!(ups.len(), rounds + 1, "one tunnel for each client");
    assert!(ups.iter().all(|line| line.contains(" generation=1 ")), "each is its own: {ups:#?}");
    assert_eq!(gateway.lines(&["event=refuse"]), Vec::<String>::new(), "no port was held, no tunnel stale");
    only_loud(&gateway, " event=tun_down ", rounds);
    client.stop_but_for(&[]);
    // No client, no user: what is left is what it began with.
    rests(&gateway, base);
    drop(TcpListener::bind(place.forwarded).expect("the port is free"));
    gateway.stop_but_for(&["event=tun_down"]);
}
