//! Brings a scenario about: the subject's callbacks, and what the test does from outside.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use poller::{Connection, Handle, Limit};
use socket2::Socket;

use crate::scenario::{BYTES, Deed, Dial, LIMIT, Leave, WORDS, Way};
use crate::stage::{Bystander, Situation, Stage};
use crate::support::gate::{Gate, Stop, gate};
use crate::support::*;

/// How long a stop waits that is to be forced.
const GRACE: Duration = Duration::from_millis(20);

/// What the subject's callbacks know and share with the test.
pub struct Subject {
    deed: Deed,
    situation: Situation,
    bystander: Bystander,
    /// The callback that does the deed has begun: others of the same kind do nothing.
    begun: AtomicBool,
    /// The first request has come.
    asked: AtomicBool,
    /// Where a callback waits while the deed is done elsewhere.
    stop: Stop,
    /// When the timer is due.
    due: Mutex<Option<Instant>>,
    /// Bytes that were given to the output.
    pub written: AtomicU64,
}

impl Subject {
    pub fn new(deed: Deed, stage: &Stage) -> (Arc<Subject>, Gate) {
        let (stop, gate) = gate();
        let subject = Subject {
            deed,
            situation: stage.situation,
            bystander: stage.bystander.clone(),
            begun: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            stop,
            due: Mutex::new(None),
            written: AtomicU64::new(0),
        };
        (Arc::new(subject), gate)
    }

    /// A handler with the subject's callbacks.
    pub fn probe(self: &Arc<Subject>) -> Probe {
        let (acts, prepares, ends, drops) = (self.clone(), self.clone(), self.clone(), self.clone());
        Probe::new(move |at, conn| acts.act(at, conn))
            .before(move |conn| {
                if prepares.deed.fills() {
                    conn.socket().set_send_buffer_size(64 * 1024).expect("a size");
                }
                if matches!(prepares.deed, Deed::Around(At::Prepare, _)) {
                    prepares.wait_for_the_deed();
                }
                prepares.do_deed(At::Prepare, None).map_err(|error| poller::Reject(error.to_string()))
            })
            .after(move |at, _| ends.do_deed(at, None).expect("the last callbacks cannot fail"))
            .on_drop(move || drops.do_deed(At::Dropped, None).expect("nor can a drop"))
            .close_callbacks(2)
    }

    /// A callback that has a connection.
    fn act(&self, at: At, conn: &mut Connection) -> poller::Result {
        match at {
            At::Connect => {
                if self.deed.fills() {
                    conn.output().write_bytes(Bytes::from(vec![0; BYTES]));
                    self.written.fetch_add(BYTES as u64, Ordering::SeqCst);
                }
                if matches!(self.deed, Deed::Around(At::Connect, _)) {
                    self.wait_for_the_deed();
                }
            }
            At::Request => {
                conn.input().clear();
                let first = !self.asked.swap(true, Ordering::SeqCst);
                if first && matches!(self.deed, Deed::In(At::Timer, _)) {
                    let due = Instant::now() + Duration::from_millis(2);
                    *self.due.lock().expect("no panic") = Some(due);
                    conn.set_timer_at(due);
                }
                match self.deed {
                    Deed::Limit(Limit::WriteStall) => conn.set_write_stall_timeout(Some(LIMIT))?,
                    Deed::Limit(_) => conn.set_idle_timeout(Some(LIMIT))?,
                    _ => {}
                }
                if first && self.deed.is_outside() && self.situation == Situation::TakenOver {
                    self.stop.wait_announced();
                }
            }
            At::Shutdown if !matches!(self.deed, Deed::In(..) | Deed::Stop { forced: true }) => conn.close(),
            _ => {}
        }
        self.do_deed(at, Some(conn))
    }

    /// The deed, in the callback that is to do it.
    fn do_deed(&self, at: At, conn: Option<&mut Connection>) -> poller::Result {
        let Deed::In(when, way) = self.deed else { return Ok(()) };
        if when != at || self.begun.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.bystander.lead_away(at == At::Shutdown);
        match (way, conn) {
            (Way::Panic, _) => panic!("on purpose"),
            (Way::Fail, _) => return Err("on purpose".into()),
            (Way::Close, Some(conn)) => conn.close(),
            (Way::Abort, Some(conn)) => conn.abort(),
            (Way::HandleClose, Some(conn)) => conn.handle().close(),
            (Way::HandleAbort, Some(conn)) => conn.handle().abort(),
            (Way::ThreadClose, Some(conn)) => {
                let handle = conn.handle();
                std::thread::scope(|scope| scope.spawn(|| handle.close()).join().expect("no panic"));
            }
            (_, None) => panic!("{at:?} has no connection"),
        }
        Ok(())
    }

    /// The peer leaves while this callback waits, in the way of the situation.
    fn wait_for_the_deed(&self) {
        match self.situation {
            Situation::Kept => self.stop.wait(),
            Situation::TakenOver => {
                self.bystander.lead_away(false);
                self.stop.wait();
            }
            // There is nobody to take over.
            Situation::Queue => self.stop.wait_announced(),
        }
    }
}

/// What can be held on to from outside.
#[derive(Default)]
pub struct Cast {
    /// The user's socket, if it did not leave.
    pub user: Option<TcpStream>,
    pub handle: Option<Handle>,
    /// Who waits for room in the subject's output, and what it is told.
    pub waiter: Option<(TcpStream, Log)>,
    /// Who does not answer a dial.
    target: Option<(Socket, Vec<Socket>)>,
    /// Events that have been looked at.
    pub seen: Vec<Event>,
}

/// One subject on its stage.
pub struct Scene<'a> {
    pub stage: &'a Stage,
    pub subject: &'a Subject,
    pub gate: Gate,
    pub probe: Arc<Probe>,
    pub log: Log,
    /// Where the subject's probe serves.
    pub addr: SocketAddr,
    pub cast: Cast,
}

impl Scene<'_> {
    /// Looks at events up to one of this kind.
    #[track_caller]
    fn until(&mut self, at: At) {
        let event = self.log.find(|event| {
            self.cast.seen.push(event.clone());
            event.at == at
        });
        if at == At::Connect {
            self.cast.handle = event.handle;
        }
    }

    /// Brings the deed about, to the point from which the subject goes its way alone.
    pub fn play(&mut self) {
        match self.subject.deed {
            Deed::In(At::Prepare | At::Connect, _) => {
                self.stage.hold_queue();
                self.cast.user = Some(connect(self.addr));
                self.stage.release_queue();
            }
            Deed::Dial(dial) => self.dial(dial),
            Deed::In(at, _) => self.callback(at),
            Deed::Around(when, how) => {
                // In the queue the connection is not even accepted when its peer leaves before on_prepare.
                let unseen = when == At::Prepare && self.stage.situation == Situation::Queue;
                if unseen {
                    self.stage.hold();
                }
                let user = connect(self.addr);
                match when {
                    At::Request => self.until(At::Connect),
                    _ if unseen => {}
                    _ => self.gate.reached(),
                }
                leave(user, how);
                if unseen {
                    // Its holder goes on when the subject's on_prepare does.
                    self.gate.open();
                    self.stage.release();
                } else if when != At::Request {
                    self.gate.open();
                }
            }
            _ => self.outside(),
        }
    }

    /// Makes the callback `at` run.
    fn callback(&mut self, at: At) {
        let mut user = connect(self.addr);
        self.until(At::Connect);
        if at == At::Timer {
            user.write_all(b"?").expect("written");
            self.until(At::Request);
        }
        self.stage.hold_queue();
        match at {
            At::Request => user.write_all(b"?").expect("written"),
            At::Drain => user.read_exact(&mut [0; 65_536]).expect("some of it is in the kernel"),
            At::Timer => {
                let due = self.subject.due.lock().expect("no panic").expect("set in the request");
                wait_until("the timer is due", || Instant::now() > due);
            }
            At::Shutdown => {
                let graceful = self.stage.stop(PATIENCE, || self.stage.release_queue());
                assert!(graceful, "nothing had to be forced");
                self.cast.user = Some(user);
                return;
            }
            // The last callbacks come when the peer leaves.
            _ => {
                drop(user);
                return self.stage.release_queue();
            }
        }
        self.stage.release_queue();
        self.cast.user = Some(user);
    }

    /// Ends the connection from outside, while it rests, while its handler blocks, or while the worker is held.
    fn outside(&mut self) {
        let taken_over = self.stage.situation == Situation::TakenOver;
        let mut user = connect(self.addr);
        self.until(At::Connect);
        let handle = self.cast.handle.clone().expect("on_connect has a connection");
        handle.wake();
        match taken_over {
            true => self.gate.reached(),
            false => self.until(At::Request),
        }
        if self.subject.deed.has_waiter() {
            let (waiter_addr, waiter_log) = Probe::quiet().serve(&self.stage.remote);
            let stream = connect(waiter_addr);
            handle.wake_on_drain(&waiter_log.handle());
            assert!(waiter_log.rest().is_empty(), "there is no room");
            self.cast.waiter = Some((stream, waiter_log));
        }
        self.stage.hold_queue();
        match self.subject.deed {
            Deed::Handle(way) | Deed::Waiter(way) => {
                end(&handle, way);
                self.cast.user = Some(user);
            }
            Deed::WaiterPeer(how) => leave(user, how),
            Deed::Limit(_) => {
                let begun = Instant::now();
                wait_until("the limit has passed", || begun.elapsed() > 2 * LIMIT);
                self.cast.user = Some(user);
            }
            Deed::Peer(how) => {
                user.write_all(WORDS).expect("written");
                leave(user, how);
            }
            Deed::Both(way, how) => {
                let barrier = Barrier::new(2);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        barrier.wait();
                        end(&handle, way);
                    });
                    barrier.wait();
                    leave(user, how);
                });
            }
            Deed::Stop { forced } => {
                let begun = Instant::now();
                let graceful = self.stage.stop(if forced { GRACE } else { PATIENCE }, || {
                    match (forced, taken_over) {
                        // The leader runs the killing while the subject's handler blocks.
                        (true, true) => wait_until("it is killed", || handle.is_closed()),
                        (true, false) => wait_until("its time is over", || begun.elapsed() > 2 * GRACE),
                        (false, true) => self.stage.bystander.is_ended(false),
                        (false, false) => {}
                    }
                    self.stage.release_queue();
                    if taken_over {
                        self.gate.open();
                    }
                });
                assert_eq!(graceful, !forced);
                self.cast.user = Some(user);
                return;
            }
            Deed::In(..) | Deed::Around(..) | Deed::Dial(_) => panic!("played elsewhere"),
        }
        if taken_over {
            // The leader has seen the news when this is answered, and the subject's handler has not ended.
            self.stage.bystander.is_served();
            self.gate.open();
        }
        self.stage.release_queue();
        if matches!(self.subject.deed, Deed::Limit(_)) {
            // Who reads before would set it off again.
            wait_until("the limit ends it", || handle.is_closed());
        }
    }

    /// Dials, and lets it come to nothing.
    fn dial(&mut self, dial: Dial) {
        let timeout = if dial == Dial::TimedOut { GRACE } else { PATIENCE };
        let addr = match dial {
            Dial::Refused => closed_port(),
            _ => {
                let (addr, listener, streams) = full_listener();
                self.cast.target = Some((listener, streams));
                addr
            }
        };
        self.stage.hold();
        let begun = Instant::now();
        let handle = self.stage.remote.dial(addr, timeout, self.probe.clone()).expect("begun");
        if self.stage.situation != Situation::Queue {
            // The dial is registered when this is answered.
            self.stage.bystander.is_served();
        }
        match dial {
            Dial::Refused => {}
            Dial::TimedOut => wait_until("its time is over", || begun.elapsed() > timeout),
            Dial::GivenUp(way) => end(&handle, way),
            Dial::Stopped => {
                assert!(self.stage.stop(PATIENCE, || self.stage.release()), "nothing had to be forced");
            }
        }
        if dial != Dial::Stopped {
            self.stage.release();
        }
        self.cast.handle = Some(handle);
    }
}

fn leave(user: TcpStream, how: Leave) {
    match how {
        Leave::End => drop(user),
        Leave::Reset => reset(user),
    }
}

fn end(handle: &Handle, way: Way) {
    match way {
        Way::Close | Way::HandleClose | Way::ThreadClose => handle.close(),
        Way::Abort | Way::HandleAbort => handle.abort(),
        Way::Fail | Way::Panic => panic!("a handle cannot do that"),
    }
}
