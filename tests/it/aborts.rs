//! Users who leave in the middle, in every phase, by the hundred: nothing is logged about it, nothing is left of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::statuses::FullBacklog;
use crate::support::{Origin, Program, Talk, Wire, full, ok, skipped};

/// A crowd that is larger at once than any before it makes a program grow, and the allocator keeps that. What leaks grows with
/// every round: so there is to be a stretch of so many rounds, of thousands of users each, in which neither end grows by more
/// than this. Of a hundred bytes for each of them, that would be more.
const STRETCH: usize = 4;
const STRETCH_GROWTH_KIB: u64 = 1024;
/// Where there is none among so many rounds, there is none.
const ROUNDS_MAX: usize = 20;

/// In which phase a user leaves.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Connected,
    InHead,
    InConnect,
    InRequestBody,
    InAnswer,
    HalfClosed,
    InTunnel,
    InSocksGreeting,
    InSocksRequest,
    InSocksTunnel,
}

const PHASES: [Phase; 10] = [
    Phase::Connected,
    Phase::InHead,
    Phase::InConnect,
    Phase::InRequestBody,
    Phase::InAnswer,
    Phase::HalfClosed,
    Phase::InTunnel,
    Phase::InSocksGreeting,
    Phase::InSocksRequest,
    Phase::InSocksTunnel,
];

/// Where users go.
struct Places {
    http: SocketAddr,
    socks: SocketAddr,
    origin: SocketAddr,
    echo: SocketAddr,
    /// Neither takes connections nor refuses them.
    nowhere: SocketAddr,
}

impl Places {
    /// A user at the moment of leaving.
    fn user(&self, phase: Phase) -> Wire {
        let Places { http, socks, origin, echo, nowhere } = self;
        let connected = |addr: &SocketAddr, words: String| {
            let mut wire = Wire::connect(*addr);
            wire.send(words);
            wire
        };
        match phase {
            Phase::Connected => Wire::connect(*http),
            Phase::InHead => connected(http, format!("GET http://{origin}/small HTTP/1.1\r\nHos")),
            Phase::InConnect => connected(http, format!("GET http://{nowhere}/ HTTP/1.1\r\nHost: a\r\n\r\n")),
            Phase::InRequestBody => {
                let head = format!(
                    "POST http://{origin}/small HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
                );
                let mut wire = connected(http, head);
                wire.send([b'x'; 10_000]);
                wire
            }
            Phase::InAnswer => {
                let mut wire =
                    connected(http, format!("GET http://{origin}/big HTTP/1.1\r\nHost: a\r\n\r\n"));
                wire.head();
                wire
            }
            Phase::HalfClosed => {
                let mut wire =
                    connected(http, format!("GET http://{origin}/big HTTP/1.1\r\nHost: a\r\n\r\n"));
                wire.finish();
                wire
            }
            Phase::InTunnel => {
                let mut wire = Wire::http_connect(*http, echo);
                wire.send([b'x'; 100_000]);
                wire
            }
            Phase::InSocksGreeting => {
                let mut wire = Wire::connect(*socks);
                wire.send([5]);
                wire
            }
            Phase::InSocksRequest => {
                let mut wire = Wire::connect(*socks);
                wire.send([5, 1, 0]);
                wire.take(2);
                wire.send([5, 1, 0, 3, 200, b'a']);
                wire
            }
            Phase::InSocksTunnel => {
                let mut wire = Wire::socks_connect(*socks, "localhost", echo.port());
                wire.send([b'x'; 100_000]);
                wire
            }
        }
    }
}

impl Places {
    /// So many users come, and leave in every phase, by FIN and by RST.
    fn come_and_go(&self, users: usize) {
        std::thread::scope(|scope| {
            for thread in 0..6 {
                scope.spawn(move || {
                    for user in (thread..users).step_by(6) {
                        let phase = PHASES[user / 2 % PHASES.len()];
                        let wire = self.user(phase);
                        // Who ends in order while the target is being reached may still want the answer, and is waited
                        // for until the target's deadline.
                        if user % 2 == 0 || matches!(phase, Phase::InConnect) {
                            wire.reset();
                        }
                    }
                });
            }
        });
    }
}

fn descriptors(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.pid())).expect("it runs").count()
}

/// Waits until a program has no more descriptors than this.
#[track_caller]
fn settled(program: &Program, most: usize) {
    // Less than a dial takes that nobody ends.
    let deadline = Instant::now() + Duration::from_secs(20);
    while descriptors(program) > most {
        assert!(Instant::now() < deadline, "{} descriptors, not {most}", descriptors(program));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether neither end has grown in the last stretch.
fn rests(sizes: &[[u64; 2]]) -> bool {
    let [.., now] = sizes else { return false };
    let Some(then) = sizes.iter().nth_back(STRETCH) else { return false };
    now.iter().zip(then).all(|(now, then)| *now <= then + STRETCH_GROWTH_KIB)
}

// proves S-02, S-03, S-05, S-06, S-11, S-17, S-31, S-38: users who leave in every phase, by FIN and by RST, leave nothing
#[test]
fn users_who_leave_in_the_middle_leave_nothing() {
    let users = if full() { 3000 } else { 300 };
    // Memory is measured below: in one piece, where what is free is used again, whichever thread let go of it.
    let start = |args: &[&str]| Program::start_with(args, &[("MALLOC_ARENA_MAX", "1")]);
    let any = "127.0.0.1:0";
    let gateway = start(&["gateway", "--tunnel", any, "--http", any, "--socks", any]);
    let url = format!("ws://{}", gateway.addr("tunnel"));
    let client = start(&["client", "--gateway", &url, "--allow", "127.0.0.1", "--allow", "localhost"]);
    client.wait(&["event=tun_up"]);
    let big = "b".repeat(4 << 20);
    let origin = Origin::http(move |request, wire| {
        let body = if request.path == "/big" { big.as_str() } else { "small" };
        // The user may have left.
        match wire.try_send(ok(body)) {
            Ok(()) => Talk::Goes,
            Err(_) => Talk::Ends,
        }
    });
    let echo = Origin::echo();
    let silent = FullBacklog::new();
    let places = Places {
        http: gateway.addr("http"),
        socks: gateway.addr("socks"),
        origin: origin.addr(),
        echo: echo.addr(),
        nowhere: silent.addr,
    };
    let works = || {
        let mut user = Wire::connect(places.http);
        assert_eq!(user.get(&origin.url("/small")).text(), "small");
        let mut user = Wire::socks_connect(places.socks, "localhost", places.echo.port());
        user.send("x");
        assert_eq!(user.take(1), b"x");
    };
    works();
    gateway.wait_nth(&["event=access"], 2);
    let base = [descriptors(&gateway), descriptors(&client)];
    let come_and_go = || {
        places.come_and_go(users);
        // Also those whose targets never answered.
        settled(&gateway, base[0]);
        settled(&client, base[1]);
        [&gateway, &client].map(Program::rss_kib)
    };
    let mut sizes = vec![come_and_go()];
    if !skipped("memory that thousands of users leave behind") {
        while !rests(&sizes) {
            assert!(sizes.len() < ROUNDS_MAX, "it grows, in KiB: {sizes:?}");
            sizes.push(come_and_go());
        }
        println!("resident memory of gateway and client after every {users} users: {sizes:?} KiB");
    }
    works();
    let lines = client.stop();
    assert!(!lines.iter().any(|line| line.contains("closed pipe")));
    let lines = gateway.stop();
    // Who never came to a request has no line; everybody else has exactly one, and one label each.
    let mut labels: Vec<&str> = lines
        .iter()
        .filter(|line| line.contains(" event=access "))
        .map(|line| crate::support::field(line, "conn_id"))
        .collect();
    let count = labels.len();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), count, "a stream has one line");
    assert!(count >= sizes.len() * users * 6 / 10, "{count}");
}
