//! Gateway, client and origin in this process, stopped again and again: no thread and no descriptor stays. A program of
//! its own, because both are counted for the whole process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyproxy::access::AccessLog;
use anyproxy::gateway::{self, Gateway};
use anyproxy::limits::STREAMS_MAX;
use anyproxy::logfmt::Stamp;
use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{Network, PortRequest};
use anyproxy::proto::target::{Rules, Target};
use anyproxy::times::Times;
use anyproxy::{client, serve};
use poller::EventLoop;

const PATIENCE: Duration = Duration::from_secs(40);

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).expect("there is a /proc").count()
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

fn ask(addr: SocketAddr, words: &str) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(words.as_bytes()).expect("it is read");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it is answered");
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

/// What is under way when the stop comes.
#[derive(Clone, Copy, Debug)]
enum Busy {
    Nothing,
    /// Streams of every kind that would never end.
    Everything,
}

fn run(busy: Busy) {
    let event_loop = EventLoop::builder().name("leak").polls(2).build().expect("there are threads");
    let remote = event_loop.remote();
    let access = AccessLog::start(Box::new(std::io::sink()), Stamp::of_stderr()).expect("there is a thread");
    let open = Arc::new(Credentials::new());
    let config = gateway::Config {
        tunnel: any(),
        http: any(),
        socks: Some(any()),
        clients: open.clone(),
        users: open,
        group: String::new(),
        times: Times::default(),
        access: access.clone(),
        windows: Arc::default(),
        tls: None,
        streams_max: STREAMS_MAX,
    };
    let gateway = Gateway::start(remote.clone(), config).expect("loopback has free ports");
    let serve = serve::start(&remote, any()).expect("loopback has free ports").local_addr();
    // A port of each kind; the system has just had them.
    let tcp = TcpListener::bind(any()).expect("a port").local_addr().expect("it is bound").port();
    let udp = UdpSocket::bind(any()).expect("a port").local_addr().expect("it is bound").port();
    let silent = UdpSocket::bind(any()).expect("a port");
    let silent_port = silent.local_addr().expect("it is bound").port();
    let forward =
        |network, port, target_port| PortRequest { network, port, host: "127.0.0.1".into(), target_port };
    let (up, is_up) = crossbeam_channel::bounded(1);
    let config = client::Config {
        gateways: vec![
            Target::from_address(gateway.tunnel_addr().ip(), gateway.tunnel_addr().port())
                .expect("an address")
                .into(),
        ],
        replicas: 2,
        group: String::new(),
        secret: None,
        name: "leak".into(),
        rules: Rules::open_local(),
        forwards: vec![forward(Network::Tcp, tcp, serve.port()), forward(Network::Udp, udp, silent_port)],
        streams_max: STREAMS_MAX,
        times: Times::default(),
        windows: Arc::default(),
        on_up: Box::new(move || {
            // Only the first time is waited for.
            up.try_send(()).ok();
        }),
    };
    client::start(remote.clone(), config).expect("there are random numbers");
    // And one whose gateway is not there: it is about to try again when the stop comes.
    let nobody = TcpListener::bind(any()).expect("a port").local_addr().expect("it is bound");
    let config = client::Config {
        gateways: vec![Target::new("localhost", nobody.port()).expect("a name").into()],
        replicas: 2,
        group: String::new(),
        secret: None,
        name: "early".into(),
        rules: Rules::open_local(),
        forwards: Vec::new(),
        streams_max: STREAMS_MAX,
        times: Times::default(),
        windows: Arc::default(),
        on_up: Box::new(|| ()),
    };
    client::start(remote, config).expect("there are random numbers");
    is_up.recv_timeout(PATIENCE).expect("the tunnel comes up");

    let mut users =
        vec![ask(gateway.http_addr(), &format!("GET http://{serve}/plaintext HTTP/1.1\r\nHost: a\r\n\r\n"))];
    if matches!(busy, Busy::Everything) {
        let http = gateway.http_addr();
        users.push(ask(http, &format!("GET http://{serve}/bytes/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n")));
        users.push(ask(http, &format!("CONNECT {serve} HTTP/1.1\r\nHost: a\r\n\r\n")));
        let mut waiting = connect(http);
        waiting
            .write_all(format!("GET http://{serve}/delay/60000 HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
            .expect("read");
        users.push(waiting);
        users.push(connect(http));
        users.push(connect(gateway.socks_addr().expect("it has one")));
        users.push(connect(gateway.tunnel_addr()));
        users.push(connect(serve));
        // The ports come after the tunnel.
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", tcp)).is_err() {
            assert!(Instant::now() < deadline, "the port is opened");
            std::thread::yield_now();
        }
        users.push(ask(([127, 0, 0, 1], tcp).into(), "GET /bytes/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n"));
        let user = UdpSocket::bind(any()).expect("a port");
        silent.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
        let mut datagram = [0; 16];
        // The UDP port may be a moment later than the other.
        while silent.recv(&mut datagram).is_err() {
            assert!(Instant::now() < deadline, "the datagram arrives");
            user.send_to(b"hello", ("127.0.0.1", udp)).expect("sent");
        }
    }
    let grace = match busy {
        Busy::Nothing => PATIENCE,
        Busy::Everything => Duration::from_millis(50),
    };
    let asked = Instant::now();
    let graceful = event_loop.shutdown(grace);
    assert_eq!(graceful, matches!(busy, Busy::Nothing), "{busy:?}");
    assert!(asked.elapsed() < PATIENCE / 2, "{busy:?}: {:?}", asked.elapsed());
    assert!(access.close());
    drop(users);
    // The gateway is kept to here: what it holds of a stopped event loop is no descriptor.
    assert_eq!((gateway.stream_count(), gateway.client_count()), (0, 0));
}

// proves S-15, S-17, S-38, S-40, S-41, S-43, S-46, S-56, S-68
#[test]
fn nothing_is_left_of_a_stopped_program() {
    // Threads from before; descriptors once, for what a process keeps for ever, such as the resolver's files.
    let threads = count("task");
    run(Busy::Everything);
    let base = [threads, count("fd")];
    for round in 0..10 {
        for busy in [Busy::Nothing, Busy::Everything] {
            run(busy);
            // The kernel takes a thread out of its table a moment after it was waited for.
            let deadline = Instant::now() + PATIENCE;
            while count("task") > base[0] && Instant::now() < deadline {
                std::thread::yield_now();
            }
            assert_eq!(
                [count("task"), count("fd")],
                base,
                "threads and descriptors after {busy:?}, round {round}"
            );
        }
    }
}
