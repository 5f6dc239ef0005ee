//! The world under the event loop: one clock, what happens next, processes, and whom it concerns.
//!
//! ```text
//!   queue of (time, order, what) ──▶ step ──▶ the clock moves there ──▶ a turn, a task, an accept: src runs, and asks for more
//! ```
//! One thread, one world a thread. What src calls borrows the world for a moment; no callback runs under that borrow. Two things
//! at the same time happen in the order in which they were asked for, but each is asked for with a little delay of its own, so the
//! seed decides who comes first.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::chance::{Chance, Trace};
use super::connection::{self, Body, Conn, News, Phase};
use super::handler::{Callbacks, Prepare};
use super::net::{Door, Link, Packet, UdpEnd, Weather};
use super::udp::{DatagramHandler, Datagrams};

thread_local! {
    static KERNEL: RefCell<Option<Box<Kernel>>> = const { RefCell::new(None) };
    static RUNS: Cell<u64> = const { Cell::new(0) };
    /// What the clock counts from; only differences are ever looked at.
    static ORIGIN: Instant = Instant::now();
}

/// Users and targets whose peer's host is gone notice after this time, or twice as much. Tunnels have to notice by themselves.
const GIVE_UP_NS: u64 = 30_000_000_000;

/// What can be done later, once.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// What is to happen. The order of the variants means nothing: no two entries have the same order number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A connection has news.
    Turn(u32),
    /// The next piece of a link comes to this end.
    Arrive(u32, u8),
    /// This end of a link may send more.
    Room(u32, u8),
    /// A dial comes to the address.
    Syn(u32),
    /// A connection's timer, armed for that time.
    Timer(u32, u64),
    Task(u64),
    Datagram(u64),
    /// Who is at the other end of a link that is silent gives up.
    GiveUp(u32),
    /// A process that is stopping has used up its time.
    Deadline(u32),
}

/// A process: what dies together.
#[derive(Debug)]
pub(super) struct Proc {
    pub(super) name: &'static str,
    pub(super) ip: IpAddr,
    pub(super) alive: bool,
    pub(super) stopping: bool,
    next_port: u16,
}

struct Task {
    proc: u32,
    job: Job,
    /// What waits for a time; the others stand for threads that block.
    timer: bool,
}

/// What a process has, for who looks for something that was left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that have not had their last callback.
    pub connections: usize,
    /// Listeners and UDP sockets.
    pub doors: usize,
    /// Timers of no connection.
    pub timers: usize,
    /// Tasks that block.
    pub tasks: usize,
    /// Bytes in the buffers of connections.
    pub buffered: usize,
    /// Timers of connections that stand in the queue.
    pub armed: usize,
}

/// One simulated world.
pub(super) struct Kernel {
    pub(super) run: u64,
    pub(super) now: u64,
    pub(super) chance: Chance,
    pub(super) random: Chance,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    order: u64,
    pub(super) trace: Trace,
    pub(super) conns: Vec<Conn>,
    pub(super) links: Vec<Link>,
    procs: Vec<Proc>,
    pub(super) doors: BTreeMap<SocketAddr, Door>,
    pub(super) udp: BTreeMap<SocketAddr, UdpEnd>,
    pub(super) packets: BTreeMap<u64, Packet>,
    tasks: BTreeMap<u64, Task>,
    names: BTreeMap<String, Vec<IpAddr>>,
    /// How late a timer may be, in nanoseconds.
    pub(super) late_max: u64,
    pub(super) weather: BTreeMap<SocketAddr, Weather>,
    pub(super) tapped: VecDeque<(u32, u8, Bytes)>,
    /// The process that runs.
    pub(super) current: u32,
    /// What went wrong on purpose, and when it last did.
    pub(super) faults: (u64, u64),
}

/// What a step has to do with the world let go.
pub(super) enum Action {
    Nothing,
    Turn(u32, Box<Body>, News),
    Accept { link: u32, handler: Arc<dyn Callbacks>, proc: u32, local: SocketAddr, peer: SocketAddr },
    Run(Job),
    Datagram { handler: Arc<dyn DatagramHandler>, socket: Datagrams, from: SocketAddr, data: Option<Bytes> },
}

/// What has to be dropped with the world let go, because its `Drop` calls back.
pub(super) type Debris = Vec<Box<dyn Any>>;

/// Borrows the world of this thread; `None` when there is none.
pub(super) fn with<R>(what: impl FnOnce(&mut Kernel) -> R) -> Option<R> {
    KERNEL.try_with(|cell| cell.borrow_mut().as_deref_mut().map(what)).ok().flatten()
}

/// Begins a world, in the place of the one before.
pub fn begin(seed: u64) {
    end();
    let run = RUNS.get() + 1;
    RUNS.set(run);
    let kernel = Kernel {
        run,
        now: 0,
        chance: Chance::new(seed, 1),
        random: Chance::new(seed, 2),
        queue: BinaryHeap::new(),
        order: 0,
        trace: Trace::new(),
        conns: Vec::new(),
        links: Vec::new(),
        procs: Vec::new(),
        doors: BTreeMap::new(),
        udp: BTreeMap::new(),
        packets: BTreeMap::new(),
        tasks: BTreeMap::new(),
        names: BTreeMap::new(),
        late_max: 0,
        weather: BTreeMap::new(),
        tapped: VecDeque::new(),
        current: 0,
        faults: (0, 0),
    };
    KERNEL.with(|cell| *cell.borrow_mut() = Some(Box::new(kernel)));
}

/// Ends the world, with all that is in it.
pub fn end() {
    // Taken out first: what is dropped with it calls back, and then finds no world.
    drop(KERNEL.with(|cell| cell.borrow_mut().take()));
}

/// The simulated time, in nanoseconds since the world began.
pub fn now_ns() -> u64 {
    with(|k| k.now).unwrap_or(0)
}

/// The clock that deadlines are held against.
pub fn now() -> Instant {
    instant(now_ns())
}

/// The clock that people read.
pub fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_000_000) + Duration::from_nanos(now_ns())
}

fn instant(ns: u64) -> Instant {
    ORIGIN.with(|origin| *origin) + Duration::from_nanos(ns)
}

/// An instant as nanoseconds of the world.
pub(super) fn nanos_at(at: Instant) -> u64 {
    let since = at.saturating_duration_since(ORIGIN.with(|origin| *origin));
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes the next thing happen; false when nothing is left to happen.
pub fn step() -> bool {
    let Some(Some(action)) = with(Kernel::next) else { return false };
    match action {
        Action::Nothing => {}
        Action::Turn(id, body, news) => connection::run(id, body, news),
        Action::Run(job) => job(),
        Action::Datagram { handler, socket, from, data } => match data {
            Some(data) => handler.on_datagram(&socket, from, &data),
            None => handler.on_error(&socket, &std::io::ErrorKind::ConnectionRefused.into()),
        },
        Action::Accept { link, handler, proc, local, peer } => {
            let mut prepare = Prepare::new(Some(peer));
            let made = handler.prepare(&mut prepare);
            let _ = with(|k| match made {
                Ok(context) => {
                    let body = Body::new(handler, context, Phase::Connecting, &prepare);
                    let id = k.enter(proc, body, Some(peer), Some(local));
                    k.attach(id, link, 1);
                    k.trace.note(k.now, "accept", u64::from(id), u64::from(link));
                    k.notify(id, News::READABLE);
                }
                Err(_) => k.close_end(link, 1, true),
            });
        }
    }
    true
}

/// Lets time pass, up to when the next thing happens.
pub fn advance_to(ns: u64) {
    let next = next_at().unwrap_or(u64::MAX);
    let _ = with(|k| k.now = k.now.max(ns.min(next)));
}

/// When the next thing happens, in nanoseconds.
pub fn next_at() -> Option<u64> {
    with(|k| k.queue.peek().map(|entry| entry.0.0)).flatten()
}

/// The number that stands for all that has happened, and how much that was.
pub fn trace() -> (u64, u64) {
    with(|k| (k.trace.hash(), k.trace.count())).unwrap_or_default()
}

/// How much went wrong on purpose, and the time, in nanoseconds, at which it last did.
pub fn faults() -> (u64, u64) {
    with(|k| k.faults).unwrap_or_default()
}

/// Prints all that happens from now on.
pub fn print_trace() {
    let _ = with(|k| k.trace.prints = true);
}

/// Adds something to the trace that the world's inhabitants have seen.
pub fn note(what: &'static str, a: u64, b: u64) {
    let _ = with(|k| k.trace.note(k.now, what, a, b));
}

/// Timers of connections, and tasks, may be late by as much as that.
pub fn set_late_max(late: Duration) {
    let _ = with(|k| k.late_max = late.as_nanos() as u64);
}

/// Gives a name its addresses.
pub fn set_name(name: &str, addresses: &[IpAddr]) {
    let _ = with(|k| k.names.insert(name.to_owned(), addresses.to_vec()));
}

/// The addresses of a name.
///
/// # Errors
/// When it has none.
pub fn look_up(name: &str, port: u16) -> std::io::Result<impl Iterator<Item = SocketAddr> + use<>> {
    let found = with(|k| k.names.get(name).cloned()).flatten().unwrap_or_default();
    if found.is_empty() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok(found.into_iter().map(move |ip| SocketAddr::new(ip, port)))
}

/// Fills `bytes` with what the seed says.
///
/// # Errors
/// Never here.
pub fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    let _ = with(|k| k.random.fill(bytes));
    Ok(())
}

impl Kernel {
    // ---- what happens next

    pub(super) fn push(&mut self, at: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse((at.max(self.now), self.order, what)));
    }

    /// A little while, as it takes to be noticed.
    pub(super) fn soon(&mut self) -> u64 {
        let most = if self.chance.one_in(16) { 2_000_000 } else { 40_000 };
        self.now + self.chance.below(most)
    }

    /// When something that is due at `at` is done in fact.
    pub(super) fn late(&mut self, at: u64) -> u64 {
        let late = if self.late_max > 0 && self.chance.one_in(4) { self.late_max } else { 1_000_000 };
        at.saturating_add(self.chance.below(late))
    }

    fn next(&mut self) -> Option<Action> {
        let Reverse((at, _, what)) = self.queue.pop()?;
        self.now = at;
        Some(self.act(what))
    }

    fn act(&mut self, what: What) -> Action {
        match what {
            What::Turn(id) => match self.begin_turn(id) {
                Some((body, news)) => Action::Turn(id, body, news),
                None => Action::Nothing,
            },
            What::Arrive(link, side) => {
                self.arrive(link, side);
                Action::Nothing
            }
            What::Room(link, side) => {
                self.room(link, side);
                Action::Nothing
            }
            What::Timer(id, at) => {
                let conn = &mut self.conns[id as usize];
                if conn.armed == Some(at) {
                    conn.armed = None;
                    self.notify(id, News::TIMER);
                }
                Action::Nothing
            }
            What::Task(id) => match self.tasks.remove(&id) {
                Some(task) => {
                    self.current = task.proc;
                    self.trace.note(self.now, "task", id, u64::from(task.proc));
                    Action::Run(task.job)
                }
                None => Action::Nothing,
            },
            What::GiveUp(link) => {
                self.give_up(link);
                Action::Nothing
            }
            What::Syn(id) => self.syn(id),
            What::Datagram(id) => self.datagram(id),
            What::Deadline(proc) => {
                for id in self.conns_of(proc) {
                    self.close_conn(id, connection::Closer::Shutdown, true);
                }
                let udp: Vec<SocketAddr> = self
                    .udp
                    .iter()
                    .filter(|(_, end)| end.proc == Some(proc))
                    .map(|(addr, _)| *addr)
                    .collect();
                let ends: Vec<UdpEnd> = udp.iter().filter_map(|addr| self.udp.remove(addr)).collect();
                let tasks = self.take_tasks(proc);
                // Dropped with the world let go.
                Action::Run(Box::new(move || drop((ends, tasks))))
            }
        }
    }

    /// Something goes wrong on purpose.
    pub(super) fn fault(&mut self, what: &'static str, a: u64, b: u64) {
        self.faults = (self.faults.0 + 1, self.now);
        self.trace.note(self.now, what, a, b);
    }

    // ---- processes

    /// A new process, with an address of its own.
    pub(super) fn spawn(&mut self, name: &'static str, ip: Ipv4Addr) -> u32 {
        self.procs.push(Proc { name, ip: ip.into(), alive: true, stopping: false, next_port: 40_000 });
        (self.procs.len() - 1) as u32
    }

    pub(super) fn proc(&self, proc: u32) -> &Proc {
        &self.procs[proc as usize]
    }

    pub(super) fn port_of(&mut self, proc: u32) -> SocketAddr {
        let proc = &mut self.procs[proc as usize];
        proc.next_port = proc.next_port.wrapping_add(1).max(40_000);
        SocketAddr::new(proc.ip, proc.next_port)
    }

    pub(super) fn conns_of(&self, proc: u32) -> Vec<u32> {
        let alive = |conn: &Conn| conn.proc == proc && !conn.done;
        self.conns.iter().enumerate().filter(|(_, conn)| alive(conn)).map(|(id, _)| id as u32).collect()
    }

    fn take_tasks(&mut self, proc: u32) -> Vec<Job> {
        self.tasks.extract_if(.., |_, task| task.proc == proc).map(|(_, task)| task.job).collect()
    }

    /// Stops as a program does that was told to: listeners close, connections hear of it, and what is left at the deadline is cut.
    pub(super) fn stop(&mut self, proc: u32, grace: Duration) -> Debris {
        self.fault("stop", u64::from(proc), 0);
        self.procs[proc as usize].stopping = true;
        let doors = self.take_doors(proc);
        for id in self.conns_of(proc) {
            self.notify(id, News::SHUTDOWN);
        }
        self.push(self.now + grace.as_nanos() as u64, What::Deadline(proc));
        vec![Box::new(doors)]
    }

    fn take_doors(&mut self, proc: u32) -> Vec<Door> {
        self.doors.extract_if(.., |_, door| door.proc == Some(proc)).map(|(_, door)| door).collect()
    }

    /// Kills: nothing of the process runs any more. The system closes its sockets, or, when the host went with it, nobody does.
    pub(super) fn kill(&mut self, proc: u32, silently: bool) -> Debris {
        self.fault("kill", u64::from(proc), u64::from(silently));
        self.procs[proc as usize].alive = false;
        self.procs[proc as usize].stopping = true;
        let mut debris: Debris = vec![Box::new(self.take_doors(proc)), Box::new(self.take_tasks(proc))];
        let udp: Vec<UdpEnd> =
            self.udp.extract_if(.., |_, end| end.proc == Some(proc)).map(|(_, end)| end).collect();
        debris.push(Box::new(udp));
        for id in self.conns_of(proc) {
            let conn = &mut self.conns[id as usize];
            (conn.done, conn.news, conn.armed) = (true, News::NONE, None);
            debris.push(Box::new(conn.body.take()));
            if let Some((link, side)) = conn.link.take() {
                match silently {
                    true => {
                        self.silence(link);
                        let at = self.now + GIVE_UP_NS + self.chance.below(GIVE_UP_NS);
                        self.push(at, What::GiveUp(link));
                    }
                    false => self.close_end(link, side, true),
                }
            }
        }
        debris
    }

    pub(super) fn counts(&self, proc: u32) -> Counts {
        let conns = self.conns.iter().filter(|conn| conn.proc == proc && !conn.done);
        let mut counts = Counts::default();
        for conn in conns {
            counts.connections += 1;
            counts.buffered += conn.body.as_ref().map_or(0, |body| body.input.len() + body.output.len());
            counts.armed += usize::from(conn.armed.is_some());
        }
        counts.doors = self.doors.values().filter(|door| door.proc == Some(proc)).count()
            + self.udp.values().filter(|end| end.proc == Some(proc)).count();
        for task in self.tasks.values().filter(|task| task.proc == proc) {
            *if task.timer { &mut counts.timers } else { &mut counts.tasks } += 1;
        }
        counts
    }

    /// What belongs to the connections of a process, as their handlers have it.
    pub(super) fn contexts(&self, proc: u32) -> impl Iterator<Item = &(dyn Any + Send)> {
        let conns = self.conns.iter().filter(move |conn| conn.proc == proc && !conn.done);
        conns.filter_map(|conn| conn.body.as_ref()?.context.as_deref())
    }

    // ---- tasks

    pub(super) fn add_task(&mut self, proc: u32, at: u64, timer: bool, job: Job) -> u64 {
        self.order += 1;
        let id = self.order;
        self.tasks.insert(id, Task { proc, job, timer });
        self.push(at, What::Task(id));
        id
    }

    pub(super) fn take_task(&mut self, id: u64) -> Option<Job> {
        self.tasks.remove(&id).map(|task| task.job)
    }

    // ---- connections

    pub(super) fn enter(
        &mut self,
        proc: u32,
        body: Box<Body>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> u32 {
        self.conns.push(Conn::new(proc, body, peer, local, self.now));
        (self.conns.len() - 1) as u32
    }

    pub(super) fn attach(&mut self, id: u32, link: u32, side: u8) {
        self.conns[id as usize].link = Some((link, side));
        self.links[link as usize].ends[usize::from(side)].conn = Some(id);
    }

    /// Leaves news for a connection; it has a turn soon.
    pub(super) fn notify(&mut self, id: u32, news: News) {
        let conn = &mut self.conns[id as usize];
        if conn.done {
            return;
        }
        conn.news = conn.news.with(news);
        if !conn.queued && !conn.running {
            conn.queued = true;
            let at = self.soon();
            self.push(at, What::Turn(id));
        }
    }

    fn begin_turn(&mut self, id: u32) -> Option<(Box<Body>, News)> {
        let now = self.now;
        let conn = &mut self.conns[id as usize];
        self.current = conn.proc;
        conn.queued = false;
        if conn.done {
            return None;
        }
        let body = conn.body.take()?;
        let news = std::mem::replace(&mut conn.news, News::NONE);
        conn.running = true;
        self.trace.note(now, "turn", u64::from(id), u64::from(news.bits()));
        Some((body, news))
    }

    /// The turn is over. `again` is news that it has not used.
    pub(super) fn end_turn(&mut self, id: u32, body: Box<Body>, again: News) -> Option<Box<Body>> {
        let conn = &mut self.conns[id as usize];
        conn.running = false;
        conn.news = conn.news.with(again);
        if conn.done {
            return Some(body);
        }
        conn.body = Some(body);
        if conn.news != News::NONE {
            self.notify(id, News::NONE);
        }
        None
    }

    /// Asks for a close; the first closer's reason counts.
    pub(super) fn close_conn(&mut self, id: u32, closer: connection::Closer, abort: bool) {
        let conn = &mut self.conns[id as usize];
        if conn.done {
            return;
        }
        let (first, was) = conn.closing.unwrap_or((closer, false));
        let news = conn.closing != Some((first, was || abort));
        conn.closing = Some((first, was || abort));
        if news {
            self.notify(id, News::REST);
        }
    }
}
