//! What the loopback tests share: a handler that tells a channel what happens to it and does what a closure says.
//!
//! Tests wait for events. `PATIENCE` only bounds how long a broken one hangs; a passing one never waits for it.
#![allow(dead_code, unreachable_pub)]

pub mod built;
pub mod gate;
pub mod logs;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use poller::{Closed, Connection, EventLoop, Handle, Handler, Prepare, Reject, Remote};
use socket2::{Domain, Socket, Type};

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A callback, or the drop of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    Prepare,
    Connect,
    Request,
    Drain,
    Timer,
    Shutdown,
    Disconnect,
    /// A close callback, of those that `Probe::close_callbacks` adds.
    Callback,
    Close,
    Dropped,
}

/// One callback as it ended. `input` is what it left, `ended` whether the peer's stream had.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: u64,
    pub at: At,
    pub input: usize,
    pub ended: bool,
    pub handle: Option<Handle>,
    pub closed: Option<Closed>,
}

type Act = Box<dyn Fn(At, &mut Connection) -> poller::Result + Send + Sync>;
type Before = Box<dyn Fn(&mut Prepare<'_>) -> Result<(), Reject> + Send + Sync>;
type After = Arc<dyn Fn(At, &Closed) + Send + Sync>;
type OnDrop = Arc<dyn Fn() + Send + Sync>;

/// The handler of most tests.
pub struct Probe {
    act: Act,
    before: Before,
    after: After,
    on_drop: OnDrop,
    close_callbacks: usize,
    events: Sender<Event>,
    log: Option<Log>,
}

/// What has happened, in order.
#[derive(Clone)]
pub struct Log(Receiver<Event>);

impl Probe {
    /// `act` runs in every callback that has a connection, before the event is told.
    pub fn new(act: impl Fn(At, &mut Connection) -> poller::Result + Send + Sync + 'static) -> Probe {
        let (events, receiver) = crossbeam_channel::unbounded();
        Probe {
            act: Box::new(act),
            before: Box::new(|_| Ok(())),
            after: Arc::new(|_, _| ()),
            on_drop: Arc::new(|| ()),
            close_callbacks: 0,
            events,
            log: Some(Log(receiver)),
        }
    }

    /// Sends back what comes.
    pub fn echo() -> Probe {
        Probe::new(echo)
    }

    /// Does nothing and leaves everything where it is.
    pub fn quiet() -> Probe {
        Probe::new(|_, _| Ok(()))
    }

    /// Writes `bytes` in `on_connect`, more than the kernel takes of a peer that does not read.
    pub fn filled(bytes: usize) -> Probe {
        Probe::new(move |at, conn| {
            if at == At::Connect {
                conn.output().write_bytes(Bytes::from(vec![0; bytes]));
            }
            Ok(())
        })
    }

    /// Writes on after the peer's end.
    pub fn half_close(self) -> Probe {
        self.before(|conn| {
            conn.set_half_close(true);
            Ok(())
        })
    }

    pub fn before(
        mut self,
        before: impl Fn(&mut Prepare<'_>) -> Result<(), Reject> + Send + Sync + 'static,
    ) -> Probe {
        self.before = Box::new(before);
        self
    }

    pub fn after(mut self, after: impl Fn(At, &Closed) + Send + Sync + 'static) -> Probe {
        self.after = Arc::new(after);
        self
    }

    /// `on_drop` runs when a context is dropped, after that was told.
    pub fn on_drop(mut self, on_drop: impl Fn() + Send + Sync + 'static) -> Probe {
        self.on_drop = Arc::new(on_drop);
        self
    }

    /// Adds that many close callbacks in `on_connect`; each tells, then runs `after`.
    pub fn close_callbacks(mut self, count: usize) -> Probe {
        self.close_callbacks = count;
        self
    }

    pub fn start(mut self) -> (Arc<Probe>, Log) {
        let log = self.log.take().expect("started once");
        (Arc::new(self), log)
    }

    /// Serves on a port of its own.
    pub fn serve(self, event_loop: &Remote) -> (SocketAddr, Log) {
        let (probe, log) = self.start();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        (event_loop.serve(listener, probe).expect("served").local_addr(), log)
    }

    fn tell(&self, at: At, conn: &mut Connection) {
        let input = conn.input().len();
        let ended = conn.input_ended();
        let event = Event { id: conn.id(), at, input, ended, handle: Some(conn.handle()), closed: None };
        // A test that has seen enough drops its log.
        self.events.send(event).ok();
    }

    fn run(&self, cx: &mut Tag, at: At, conn: &mut Connection) -> poller::Result {
        cx.id = conn.id();
        for _ in 0..if at == At::Connect { self.close_callbacks } else { 0 } {
            let (events, after) = (self.events.clone(), self.after.clone());
            let callback = move |info: &Closed| {
                events.send(Event::end(At::Callback, info)).ok();
                after(At::Callback, info);
            };
            conn.handle().add_close_callback(callback).expect("room");
        }
        struct Told<'a, 'b, 'c>(&'a Probe, At, &'b mut Connection<'c>);
        impl Drop for Told<'_, '_, '_> {
            fn drop(&mut self) {
                self.0.tell(self.1, self.2);
            }
        }
        // Told also when the closure panics.
        let told = Told(self, at, conn);
        (self.act)(at, told.2)
    }

    fn end(&self, at: At, info: &Closed) {
        self.events.send(Event::end(at, info)).ok();
        (self.after)(at, info);
    }
}

impl Event {
    fn end(at: At, info: &Closed) -> Event {
        Event { id: info.id, at, input: 0, ended: false, handle: None, closed: Some(info.clone()) }
    }
}

/// The context: tells of its drop.
pub struct Tag {
    id: u64,
    events: Sender<Event>,
    on_drop: OnDrop,
}

impl Drop for Tag {
    fn drop(&mut self) {
        let event =
            Event { id: self.id, at: At::Dropped, input: 0, ended: false, handle: None, closed: None };
        self.events.send(event).ok();
        (self.on_drop)();
    }
}

impl Handler for Probe {
    type Context = Tag;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<Tag, Reject> {
        let event = Event { id: 0, at: At::Prepare, input: 0, ended: false, handle: None, closed: None };
        self.events.send(event).ok();
        (self.before)(conn)?;
        Ok(Tag { id: 0, events: self.events.clone(), on_drop: self.on_drop.clone() })
    }
    fn on_connect(&self, cx: &mut Tag, conn: &mut Connection) -> poller::Result {
        self.run(cx, At::Connect, conn)
    }
    fn on_request(&self, cx: &mut Tag, conn: &mut Connection) -> poller::Result {
        self.run(cx, At::Request, conn)
    }
    fn on_drain(&self, cx: &mut Tag, conn: &mut Connection) -> poller::Result {
        self.run(cx, At::Drain, conn)
    }
    fn on_timer(&self, cx: &mut Tag, conn: &mut Connection) -> poller::Result {
        self.run(cx, At::Timer, conn)
    }
    fn on_shutdown(&self, cx: &mut Tag, conn: &mut Connection) -> poller::Result {
        self.run(cx, At::Shutdown, conn)
    }
    fn on_disconnect(&self, _: &mut Tag, info: &Closed) {
        self.end(At::Disconnect, info);
    }
    fn on_close(&self, _: &mut Tag, info: &Closed) {
        self.end(At::Close, info);
    }
}

impl Log {
    /// The next event.
    #[track_caller]
    pub fn next(&self) -> Event {
        self.0.recv_timeout(PATIENCE).expect("an event should have come")
    }

    /// The next event, if one comes in time.
    pub fn next_within(&self, time: Duration) -> Option<Event> {
        self.0.recv_timeout(time).ok()
    }

    /// The next events are these and no others between them.
    #[track_caller]
    pub fn expect(&self, want: &[At]) -> Event {
        let events: Vec<Event> = want.iter().map(|_| self.next()).collect();
        let seen: Vec<At> = events.iter().map(|event| event.at).collect();
        assert_eq!(seen, want);
        events.last().expect("at least one").clone()
    }

    /// Skips to the next event of this kind.
    #[track_caller]
    pub fn until(&self, at: At) -> Event {
        self.find(|event| event.at == at)
    }

    #[track_caller]
    pub fn find(&self, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        loop {
            let event = self.next();
            if wanted(&event) {
                return event;
            }
        }
    }

    /// What has been told and not been looked at.
    pub fn rest(&self) -> Vec<Event> {
        self.0.try_iter().collect()
    }

    /// The end of one connection: what its last callback was told.
    #[track_caller]
    pub fn closed(&self) -> Closed {
        self.until(At::Close).closed.expect("on_close is told why")
    }

    /// A handle of the next connection that connects.
    #[track_caller]
    pub fn handle(&self) -> Handle {
        self.until(At::Connect).handle.expect("on_connect has a connection")
    }
}

/// Sends back what comes; does as the default in every other callback.
pub fn echo(at: At, conn: &mut Connection) -> poller::Result {
    match at {
        At::Request => {
            let (input, output) = conn.buffers();
            output.append(std::mem::take(input));
        }
        At::Shutdown => conn.close(),
        _ => {}
    }
    Ok(())
}

/// Two polls, so that connections meet other threads.
pub fn event_loop() -> EventLoop {
    EventLoop::builder().polls(2).build().expect("an event loop")
}

pub fn one_poll() -> EventLoop {
    EventLoop::builder().polls(1).build().expect("an event loop")
}

/// A port on which nobody listens.
pub fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A listener that takes no more connections: dials to it wait. The streams keep its queue full.
pub fn full_listener() -> (SocketAddr, Socket, Vec<Socket>) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let listener = socket();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    listener.listen(0).expect("listens");
    let addr = listener.local_addr().expect("an address").as_socket().expect("IPv4");
    let streams = (0..4)
        .map(|_| {
            let stream = socket();
            stream.set_nonblocking(true).expect("non-blocking");
            stream.connect(&addr.into()).ok();
            stream
        })
        .collect();
    (addr, listener, streams)
}

/// A user's socket that gives up some day.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Leaves with a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
}

/// Asks and gets the same back.
#[track_caller]
pub fn ask(stream: &mut TcpStream, question: &[u8]) {
    stream.write_all(question).expect("written");
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, question);
}

/// Reads to the end of the stream.
#[track_caller]
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the peer ends its stream in an orderly manner");
    all
}

/// The byte at a place of a long stream: no two blocks are alike.
pub fn pattern(offset: usize) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 16)) as u8
}

/// Waits until the connections are gone: their last callback runs before they are counted out.
#[track_caller]
pub fn wait_until_none(event_loop: &Remote) {
    wait_until("no connection is left", || event_loop.connections() == 0);
}

/// For what has no event.
#[track_caller]
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}
