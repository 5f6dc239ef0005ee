//! A tunnel that is closed by everybody at once: in this process, so that every callback can be counted.

use std::collections::HashMap;
use std::io;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, Once};
use std::time::{Duration, Instant};

use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{GoAwayCode, Network, OpenRequest, Opened, ResetCode};
use anyproxy::proto::session::{ClientConfig, Event, GatewayConfig, OpenError, Session, StreamId};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use anyproxy::tunnel::{Broken, Carrier, Down, Side, Stream, StreamWatcher, Tunnel, Watcher};
use crossbeam_channel::{Receiver, Sender, unbounded};
use poller::{Closed, Connection, EventLoop, Handler, Prepare, Reason, Reject};

use crate::support::{PATIENCE, SetOnDrop, full};

/// What a side of this test heard of one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    up: usize,
    down: usize,
}

/// One end of every tunnel here: counts, and hands out what comes up.
struct Counting {
    client: bool,
    /// The tunnel, by number, in which a stream to be opened hits a fault of ours.
    faulty: Option<u64>,
    tunnels: AtomicUsize,
    heard: Mutex<HashMap<String, Heard>>,
    ups: Sender<Arc<Tunnel>>,
    downs: Sender<String>,
    opened: Sender<(Arc<Tunnel>, StreamId)>,
}

impl Counting {
    fn note(&self, tunnel: &Tunnel, note: impl FnOnce(&mut Heard)) {
        note(self.heard.lock().expect("no holder panics").entry(tunnel.label().to_owned()).or_default());
    }
}

impl Side for Counting {
    fn begin(&self, _peer: Option<SocketAddr>) -> io::Result<(WebSocket, Arc<Tunnel>)> {
        let number = self.tunnels.fetch_add(1, Ordering::SeqCst) as u64;
        let nonce = [number as u8; 32];
        let now = Instant::now();
        let (ws, session) = if self.client {
            let (name, group) = ("test".to_owned(), String::new());
            let config = ClientConfig { name, group, secret: None, instance: 1, generation: number, nonce };
            (WebSocket::client("gateway", TUNNEL_PATH, [7; 32]), Session::client(config, now))
        } else {
            let credentials = Arc::new(Credentials::new());
            let config = GatewayConfig { credentials, session_id: number, nonce };
            (WebSocket::server(), Session::gateway(config, now))
        };
        Ok((ws, Tunnel::new(session, number.to_string())))
    }

    fn on_up(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        self.note(tunnel, |heard| heard.up += 1);
        self.ups.send(tunnel.clone()).ok();
    }

    fn on_event(self: &Arc<Self>, tunnel: &Arc<Tunnel>, event: Event) {
        if let Event::Opened(id, _) = event {
            assert!(self.faulty.is_none_or(|number| tunnel.label() != number.to_string()), "a fault of ours");
            self.opened.send((tunnel.clone(), id)).ok();
        }
    }

    fn on_down(self: &Arc<Self>, tunnel: &Arc<Tunnel>, down: &Down) {
        log::debug!("{}", down.why);
        // A tunnel that is gone takes no stream, whatever the session would say.
        assert!(matches!(
            tunnel.open(request(), Watcher::Call(Arc::new(Ends::default()))),
            Err(OpenError::NotUp)
        ));
        self.note(tunnel, |heard| heard.down += 1);
        self.downs.send(tunnel.label().to_owned()).ok();
    }
}

/// Counts how often it is told of a stream that has ended: once at least, and nobody waits for ever.
#[derive(Default)]
struct Ends {
    stream: Mutex<Option<Stream>>,
    told_closed: AtomicUsize,
}

impl StreamWatcher for Ends {
    fn on_stream(&self, _id: StreamId) {
        if self.stream.lock().expect("no holder panics").as_ref().is_some_and(Stream::is_closed) {
            self.told_closed.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn request() -> OpenRequest {
    OpenRequest { network: Network::Tcp, host: "target".into(), port: 1, conn_id: 1, user_addr: None }
}

struct Bench {
    event_loop: EventLoop,
    addr: SocketAddr,
    /// Client, gateway.
    sides: [Arc<Counting>; 2],
    ups: [Receiver<Arc<Tunnel>>; 2],
    downs: [Receiver<String>; 2],
    opened: Receiver<(Arc<Tunnel>, StreamId)>,
}

impl Bench {
    fn new(faulty: Option<u64>) -> Bench {
        let event_loop = EventLoop::builder().name("closing").polls(2).build().expect("there are threads");
        let (opened_tx, opened) = unbounded();
        let side = |client| {
            let (ups, up) = unbounded();
            let (downs, down) = unbounded();
            let side = Counting {
                client,
                faulty,
                tunnels: AtomicUsize::new(0),
                heard: Mutex::default(),
                ups,
                downs,
                opened: opened_tx.clone(),
            };
            (Arc::new(side), up, down)
        };
        let ((client, client_up, client_down), (gateway, gateway_up, gateway_down)) =
            (side(true), side(false));
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let addr = event_loop.serve(listener, Carrier(gateway.clone())).expect("it runs").local_addr();
        Bench {
            event_loop,
            addr,
            sides: [client, gateway],
            ups: [client_up, gateway_up],
            downs: [client_down, gateway_down],
            opened,
        }
    }

    /// A new tunnel: the client's end and the gateway's.
    fn tunnel(&self) -> [Arc<Tunnel>; 2] {
        self.event_loop.dial(self.addr, PATIENCE, Carrier(self.sides[0].clone())).expect("it runs");
        [0, 1].map(|end| self.ups[end].recv_timeout(PATIENCE).expect("the tunnel comes up"))
    }

    /// A stream in it, with whoever counts its ends on either side.
    fn stream(&self, tunnel: &[Arc<Tunnel>; 2]) -> [Arc<Ends>; 2] {
        let ends = [Arc::new(Ends::default()), Arc::new(Ends::default())];
        let stream = tunnel[1].open(request(), Watcher::Call(ends[1].clone())).expect("it is up");
        *ends[1].stream.lock().expect("no holder panics") = Some(stream);
        let (at, id) = self.opened.recv_timeout(PATIENCE).expect("the client hears of it");
        let stream = at.take_on(id, Watcher::Call(ends[0].clone())).expect("it is there");
        at.exchange(|session| session.accept(id, Opened::default())).expect("it waits for this");
        *ends[0].stream.lock().expect("no holder panics") = Some(stream);
        ends
    }
}

/// How many pairs of descriptors a witness holds at once.
const HELD: usize = 16;

/// Opens descriptors and lets go of them again, so that it is given the numbers that others have just closed, until that is over;
/// says how many. A number that is closed once more is not theirs by then: what is said into its pair does not come out.
fn witness(over: &AtomicBool) -> usize {
    let mut opened = 0;
    while !over.load(Ordering::SeqCst) {
        let pairs = [(); HELD].map(|()| UnixStream::pair().expect("there are descriptors"));
        opened += HELD;
        for (number, (mut one, mut other)) in (opened..).zip(pairs) {
            let (said, mut heard) = (number.to_le_bytes(), [0; 8]);
            let told = other
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| one.write_all(&said))
                .and_then(|()| other.read_exact(&mut heard));
            assert!(told.is_ok() && heard == said, "somebody else has closed it: {told:?}");
        }
    }
    opened
}

/// What somebody does to a tunnel who wants its end.
const WAYS: usize = 6;

fn end(tunnel: &Tunnel, way: usize) {
    let carrier = tunnel.carrier().expect("it is up");
    match way % WAYS {
        0 => tunnel.exchange(|session| session.close(GoAwayCode::Stop, "enough")),
        1 => carrier.close(),
        2 => carrier.abort(),
        3 => tunnel.exchange(|session| session.close(GoAwayCode::Replaced, "another")),
        // These two ask for less, and come in between.
        4 => tunnel.exchange(Session::drain),
        _ => carrier.wake(),
    }
}

// proves S-09, S-10, S-11, S-12, S-13, S-22, S-26, S-30, S-31, S-33, S-36, S-37, S-38, S-42: closed by four threads
// from both ends at once, a tunnel ends once on each side, and so does each of its streams
#[test]
fn a_tunnel_closed_by_everybody_at_once_ends_once() {
    let bench = Bench::new(None);
    let rounds = if full() { 2000 } else { 200 };
    for round in 0..rounds {
        let tunnel = bench.tunnel();
        let streams: Vec<[Arc<Ends>; 2]> = (0..3).map(|_| bench.stream(&tunnel)).collect();
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (tunnel, streams, barrier) = (&tunnel, &streams, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let side = thread % 2;
                    // One of the streams is given up at the same moment.
                    if thread == round % 4
                        && let Some(stream) = &*streams[0][side].stream.lock().expect("no holder panics")
                    {
                        stream.reset(ResetCode::Cancelled);
                    }
                    for way in [round + thread, round / 4 + thread, 0] {
                        end(&tunnel[side], way);
                    }
                });
            }
        });
        for side in [0, 1] {
            let label = bench.downs[side].recv_timeout(PATIENCE).expect("both ends go down");
            assert_eq!(label, tunnel[side].label());
            let heard = bench.sides[side].heard.lock().expect("no holder panics")[&label];
            assert_eq!(heard, Heard { up: 1, down: 1 }, "round {round}, side {side}");
            assert_eq!(tunnel[side].stream_count(), 0);
            assert!(!tunnel[side].takes_streams());
            for (index, stream) in streams.iter().enumerate() {
                let told = stream[side].told_closed.load(Ordering::SeqCst);
                assert!(told > 0, "round {round}, side {side}, stream {index}");
                let stream = stream[side].stream.lock().expect("no holder panics").take();
                let stream = stream.expect("it was opened");
                // Whoever gave it up himself is told of its end and of nothing else.
                assert!(
                    stream.broken().is_some() || index == 0,
                    "round {round}, side {side}, stream {index}"
                );
                assert!(stream.exchange(|session, id| session.write(id, &mut vec![1].into())).is_err());
            }
            // Asking for what is over.
            (0..WAYS).for_each(|way| end(&tunnel[side], way));
        }
    }
    assert!(bench.event_loop.shutdown(PATIENCE), "nothing was left");
    for (side, downs) in bench.sides.iter().zip(&bench.downs) {
        assert_eq!(downs.try_iter().count(), 0);
        let heard = side.heard.lock().expect("no holder panics");
        assert_eq!((heard.len(), heard.values().filter(|heard| heard.down == 1).count()), (rounds, rounds));
    }
}

// proves S-21, S-12: no descriptor is closed twice, however many close its connection: one that somebody else was given meanwhile
// stays his, and no system call is told of a descriptor that is gone
#[test]
fn a_descriptor_is_closed_once_whoever_closes() {
    let over = AtomicBool::new(false);
    listen_to_the_log();
    let pairs = std::thread::scope(|scope| {
        let witness = scope.spawn(|| witness(&over));
        // Also where something below fails: the scope waits for the witness.
        let ends = SetOnDrop(&over);
        let bench = Bench::new(None);
        for round in 0..if full() { 2000 } else { 100 } {
            let tunnel = bench.tunnel();
            let barrier = Barrier::new(4);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (tunnel, barrier) = (&tunnel, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        for way in [round + thread, 1, 2] {
                            end(&tunnel[thread % 2], way);
                        }
                    });
                }
            });
            for downs in &bench.downs {
                downs.recv_timeout(PATIENCE).expect("both ends go down");
            }
        }
        assert!(bench.event_loop.shutdown(PATIENCE), "nothing was left");
        drop(ends);
        witness.join().expect("the witness keeps what it has")
    });
    assert!(pairs > HELD, "{pairs}");
    let said = LOG.0.lock().expect("no holder panics").clone();
    assert!(!said.iter().any(|line| line.contains(GONE)), "{said:?}");
}

/// What the system calls a descriptor that is none: EBADF.
const GONE: &str = "os error 9)";

/// Keeps what is said at ERROR in this process, and what is said of descriptors that are gone.
struct Kept(Mutex<Vec<String>>);

static LOG: Kept = Kept(Mutex::new(Vec::new()));

fn listen_to_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOG).expect("nobody else here has one");
        log::set_max_level(log::LevelFilter::Debug);
    });
}

impl log::Log for Kept {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let said = record.args().to_string();
        if record.level() == log::Level::Error || said.contains(GONE) {
            self.0.lock().expect("no holder panics").push(said);
        }
    }

    fn flush(&self) {}
}

// proves S-29, S-19, S-39: a fault of ours is said once and ends its own tunnel; nobody catches it and goes on with that one
#[test]
fn a_fault_of_ours_shows_and_ends_one_tunnel() {
    listen_to_the_log();
    let bench = Bench::new(Some(0));
    let faulty = bench.tunnel();
    let sound = bench.tunnel();
    let ends = Arc::new(Ends::default());
    let stream = faulty[1].open(request(), Watcher::Call(ends.clone())).expect("it is up");
    *ends.stream.lock().expect("no holder panics") = Some(stream);
    for (side, downs) in bench.downs.iter().enumerate() {
        assert_eq!(downs.recv_timeout(PATIENCE).expect("both ends go down"), faulty[side].label());
    }
    let stream = ends.stream.lock().expect("no holder panics").take().expect("it was opened");
    assert_eq!(stream.broken(), Some(Broken::Lost));
    let said = LOG.0.lock().expect("no holder panics").clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("a fault of ours"), "{said:?}");
    for ends in bench.stream(&sound) {
        drop(ends.stream.lock().expect("no holder panics").take());
    }
    assert!(bench.event_loop.shutdown(PATIENCE));
}

/// Asks for a deadline when it has closed already.
struct Late(Sender<&'static str>);

impl Handler for Late {
    type Context = ();

    fn on_prepare(&self, _conn: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_connect(&self, _cx: &mut (), conn: &mut Connection) -> poller::Result {
        conn.close();
        conn.set_timer(Duration::ZERO);
        Ok(())
    }

    fn on_request(&self, _cx: &mut (), _conn: &mut Connection) -> poller::Result {
        Ok(())
    }

    fn on_timer(&self, _cx: &mut (), _conn: &mut Connection) -> poller::Result {
        self.0.send("timer").ok();
        Ok(())
    }

    fn on_close(&self, _cx: &mut (), info: &Closed) {
        self.0.send(if info.reason == Reason::User { "closed" } else { "closed otherwise" }).ok();
    }
}

// proves S-04: a deadline for what is closed already is no fault: it is closed, and that is all
#[test]
fn a_deadline_on_a_closed_connection_is_nothing() {
    let event_loop = EventLoop::new().expect("there are threads");
    let (told, heard) = unbounded();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let addr = event_loop.serve(listener, Late(told)).expect("it runs").local_addr();
    let users: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(addr).expect("it listens")).collect();
    for _ in &users {
        assert_eq!(heard.recv_timeout(PATIENCE), Ok("closed"));
    }
    let remote = event_loop.remote();
    assert!(event_loop.shutdown(PATIENCE));
    // And one for an event loop that has stopped is refused with words.
    let refused = remote.after(Duration::ZERO, || ()).err().expect("nobody would look at it");
    assert_eq!(refused.to_string(), "the event loop is stopping");
    assert_eq!(heard.try_iter().count(), 0);
}
