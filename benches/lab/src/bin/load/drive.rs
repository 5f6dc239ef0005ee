//! The loop: waits for answers, counts them, and sends the next batch at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use lab::socket;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::peer::{Firehose, Peer, Progress, Script};
use crate::{Outcome, Plan, nanos, while_doing};

const EVENTS: usize = 1024;
const READ: usize = 256 * 1024;
/// With more, the server is not worth asking.
const ERRORS_MAX: u64 = 1000;
/// A batch that is under way for longer when the time is over was not merely the last one.
const STALLED: Duration = Duration::from_secs(1);
/// How long a wait lasts at most, so that the end is not missed when nothing comes.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

struct Driver<'a> {
    script: &'a Script,
    plan: &'a Plan,
    epoll: OwnedFd,
    random: u64,
    outcome: Outcome,
    opened: usize,
    /// When the warm-up ends.
    start: Instant,
}

/// Runs the plan.
pub(crate) fn drive(script: &Script, plan: &Plan) -> io::Result<Outcome> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let start = Instant::now();
    let mut driver = Driver {
        script,
        plan,
        epoll,
        random: 0x9e37_79b9_7f4a_7c15,
        outcome: Outcome::default(),
        opened: 0,
        start,
    };
    driver.run()?;
    Ok(driver.outcome)
}

impl Driver<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut peers = Vec::with_capacity(self.plan.conns);
        for at in 0..self.plan.conns {
            peers.push(self.open(at)?);
        }
        // The firehose is registered behind the peers.
        let mut firehose = None;
        if self.plan.firehose {
            let stream = self.connect()?;
            self.register(&stream, peers.len(), EventFlags::IN | EventFlags::OUT)?;
            firehose = Some(Firehose::new(stream, self.script));
        }
        self.start = Instant::now() + self.plan.warm;
        let end = self.start + self.plan.span;
        for (at, peer) in peers.iter_mut().enumerate() {
            self.next(at, peer, Instant::now())?;
        }
        let mut before = 0;
        let mut events = Vec::with_capacity(EVENTS);
        let mut buffer = vec![0; READ];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&WAIT)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            let answered = self.outcome.first.requests + self.outcome.later.requests;
            if now >= end || answered >= self.plan.requests_max {
                self.outcome.span = now.saturating_duration_since(self.start);
                let received = firehose.map_or(0, |firehose: Firehose| firehose.received);
                self.outcome.firehose_bytes = received.saturating_sub(before);
                for peer in &peers {
                    if is_stalled(peer.since, self.start, now) {
                        self.error("a batch was not answered")?;
                    }
                }
                return Ok(());
            }
            if now < self.start {
                before = firehose.as_ref().map_or(0, |firehose| firehose.received);
            }
            for event in &events {
                let (at, flags) = (event.data.u64() as usize, event.flags);
                if let Some(peer) = peers.get_mut(at) {
                    self.turn(at, peer, flags, &mut buffer)?;
                } else if let Some(firehose) = &mut firehose {
                    let readable = flags.contains(EventFlags::IN);
                    let writable = flags.contains(EventFlags::OUT);
                    if firehose.turn(writable, readable, &mut buffer) == Progress::Broken {
                        return Err(io::Error::other("the server ended the firehose"));
                    }
                }
            }
        }
    }

    fn turn(&mut self, at: usize, peer: &mut Peer, flags: EventFlags, buffer: &mut [u8]) -> io::Result<()> {
        let mut progress = Progress::Nothing;
        if flags.contains(EventFlags::OUT) && peer.is_sending(self.script) {
            progress = peer.send(self.script);
            if !peer.is_sending(self.script) {
                self.watch(&peer.stream, at, EventFlags::IN)?;
            }
        }
        if progress != Progress::Broken
            && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
        {
            progress = peer.receive(self.script, buffer);
        }
        match progress {
            Progress::Nothing | Progress::Some => Ok(()),
            Progress::Answered => {
                let now = Instant::now();
                if now >= self.start {
                    self.count(peer, now);
                }
                if self.plan.churn {
                    *peer = self.open(at)?;
                }
                self.next(at, peer, now)
            }
            Progress::Broken => {
                self.error("a connection broke")?;
                *peer = self.open(at)?;
                self.next(at, peer, Instant::now())
            }
        }
    }

    fn count(&mut self, peer: &Peer, now: Instant) {
        let (slow, script) = (peer.slow, self.script);
        let took = nanos(peer.since, now);
        let phase = self.outcome.phase(now.saturating_duration_since(self.start));
        if slow {
            phase.requests += script.slow.requests;
            phase.slow.add(took);
        } else {
            phase.requests += script.fast.requests;
            phase.fast.add(took);
        }
    }

    /// Sends the next batch.
    fn next(&mut self, at: usize, peer: &mut Peer, since: Instant) -> io::Result<()> {
        let slow = self.plan.slow_per_myriad > 0 && self.random() % 10_000 < self.plan.slow_per_myriad;
        // A connection that is broken already says so to the read that follows.
        if peer.begin(self.script, slow, since) != Progress::Broken && peer.is_sending(self.script) {
            self.watch(&peer.stream, at, EventFlags::IN | EventFlags::OUT)?;
        }
        Ok(())
    }

    fn open(&mut self, at: usize) -> io::Result<Peer> {
        let since = Instant::now();
        let stream = self.connect()?;
        self.register(&stream, at, EventFlags::IN)?;
        Ok(Peer::new(stream, since))
    }

    fn connect(&mut self) -> io::Result<std::net::TcpStream> {
        loop {
            self.opened += 1;
            let source = self.plan.churn.then(|| socket::source(self.opened));
            match socket::connect(self.script.port, source) {
                Ok(stream) => {
                    stream.set_nonblocking(true)?;
                    return Ok(stream);
                }
                Err(error) => self.error(&format!("connecting: {error}"))?,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn error(&mut self, what: &str) -> io::Result<()> {
        self.outcome.errors += 1;
        if self.outcome.errors > ERRORS_MAX { Err(io::Error::other(what.to_owned())) } else { Ok(()) }
    }

    fn register(&self, stream: &impl AsFd, at: usize, flags: EventFlags) -> io::Result<()> {
        epoll::add(&self.epoll, stream, EventData::new_u64(at as u64), flags)
            .map_err(while_doing("registering"))
    }

    fn watch(&self, stream: &impl AsFd, at: usize, flags: EventFlags) -> io::Result<()> {
        epoll::modify(&self.epoll, stream, EventData::new_u64(at as u64), flags)
            .map_err(while_doing("watching"))
    }

    /// The same sequence in every run.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Whether a batch that began at `since` has been without its answer for too long of the measured time.
fn is_stalled(since: Instant, start: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since.max(start)) > STALLED
}

#[cfg(test)]
mod tests {
    use lab::wire::Protocol;

    use super::*;
    use crate::tests::{SIZE, answer_once};

    #[test]
    fn a_batch_is_stalled_after_a_second_of_the_measured_time() {
        let origin = Instant::now();
        let at = |millis| origin + Duration::from_millis(millis);
        for (since, start, now, want) in [
            (0, 0, 1001, true),
            (0, 0, 1000, false),
            (0, 500, 1400, false),
            (500, 0, 1400, false),
            (0, 2000, 1500, false),
        ] {
            assert_eq!(is_stalled(at(since), at(start), at(now)), want, "{since} {start} {now}");
        }
    }

    #[test]
    fn requests_that_are_never_answered_are_errors() {
        let (port, server) = answer_once(3);
        let script = Script::learn(Protocol::Rpc, port, SIZE, 1, false).expect("rpc asks nothing");
        let plan = Plan {
            conns: 3,
            slow_per_myriad: 0,
            warm: Duration::ZERO,
            // So long that the first answers may take their time.
            span: 3 * STALLED,
            requests_max: u64::MAX,
            churn: false,
            firehose: false,
        };
        let outcome = drive(&script, &plan).expect("the server listens");
        drop(server.join());
        assert_eq!((outcome.first.requests + outcome.later.requests, outcome.errors), (3, 3));
    }
}
