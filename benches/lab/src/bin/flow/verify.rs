//! Streams whose every byte is looked at, in both directions at once.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use crate::end::{Scratch, Turn, User};
use crate::order::Order;
use crate::payload::Random;
use crate::poll::{Poll, member};
use crate::{connect, while_doing};

/// How long a wait lasts at most, so that a stream that stands still is noticed.
const WAIT: Duration = Duration::from_millis(200);
/// The largest stream has at most so many times the bytes of the smallest, but for those that have next to nothing.
const SPREAD: f64 = 1000.0;

/// Which way the bytes go, but for a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    Both,
    Up,
    Down,
}

/// What is to be carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) streams: usize,
    /// Of all streams and both directions.
    pub(crate) bytes: u64,
    pub(crate) ways: Ways,
    pub(crate) seed: u64,
    pub(crate) write_max: u32,
    /// A stream that does not move for so long has failed.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) streams: usize,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) span: Duration,
    /// The longest time in which a stream that had something to carry did not move.
    pub(crate) still: Duration,
    /// One line for each stream that was not carried as it was sent.
    pub(crate) faults: Vec<String>,
}

impl Verdict {
    pub(crate) fn json(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|fault| format!("{fault:?}")).collect();
        format!(
            r#"{{"streams":{},"up":{},"down":{},"secs":{:.3},"still":{:.3},"faults":[{}]}}"#,
            self.streams,
            self.up,
            self.down,
            self.span.as_secs_f64(),
            self.still.as_secs_f64(),
            faults.join(",")
        )
    }
}

/// The bytes up and down of each stream: shares of very different sizes that add up to the plan's bytes.
///
/// The first four are the edges: nothing at all, one byte in each direction alone, and one in both.
pub(crate) fn sizes(plan: &Plan) -> Vec<(u64, u64)> {
    const EDGES: [(u64, u64); 4] = [(0, 0), (1, 0), (0, 1), (1, 1)];
    let mut random = Random::new(plan.seed);
    let edges = EDGES.len().min(plan.streams.saturating_sub(1));
    let parts = match plan.ways {
        Ways::Both => [1.0, 1.0],
        Ways::Up => [1.0, 0.0],
        Ways::Down => [0.0, 1.0],
    };
    let shares: Vec<[f64; 2]> =
        (edges..plan.streams).map(|_| parts.map(|part| part * SPREAD.powf(random.part()))).collect();
    let whole: f64 = shares.iter().flatten().sum();
    let of = |share: f64| (plan.bytes as f64 * share / whole) as u64;
    EDGES[..edges].iter().copied().chain(shares.iter().map(|[up, down]| (of(*up), of(*down)))).collect()
}

struct Moving {
    user: User,
    moved: u64,
    since: Instant,
}

/// Runs the plan to the end of every stream. `asked` is called when every target has its order and nothing was read.
///
/// # Errors
/// When nothing could be tried. A stream that failed is in the verdict.
pub(crate) fn run(plan: &Plan, asked: impl FnOnce() -> io::Result<()>) -> io::Result<Verdict> {
    let start = Instant::now();
    let mut poll = Poll::new()?;
    let mut scratch = Scratch::new();
    let mut verdict = Verdict {
        streams: plan.streams,
        up: 0,
        down: 0,
        span: Duration::ZERO,
        still: Duration::ZERO,
        faults: Vec::new(),
    };
    let mut moving = Vec::with_capacity(plan.streams);
    for (at, (up, down)) in sizes(plan).into_iter().enumerate() {
        verdict.up += up;
        verdict.down += down;
        // Two numbers apart, because the target makes its bytes from the next one.
        let order = Order::checked(plan.seed.wrapping_add(2 * at as u64), up, down, plan.write_max);
        let socket = connect(plan.address).map_err(while_doing(&format!("stream {at}: connecting")))?;
        let mut user = User::new(socket, order);
        user.turn(EventFlags::OUT, &mut scratch).map_err(while_doing(&format!("stream {at}: asking")))?;
        poll.add(&user.socket, at, user.interest())?;
        moving.push(Some(Moving { user, moved: 0, since: Instant::now() }));
    }
    asked()?;
    let mut open = moving.len();
    let mut looked = Instant::now();
    for stream in moving.iter_mut().flatten() {
        stream.since = looked;
    }
    while open > 0 {
        let ready: Vec<_> = poll.wait(Some(WAIT))?.iter().map(member).collect();
        for (at, flags) in ready {
            let Some(stream) = &mut moving[at] else { continue };
            let before = stream.user.interest();
            match stream.user.turn(flags, &mut scratch) {
                Ok(Turn::Stays) => {
                    let interest = stream.user.interest();
                    if interest != before {
                        poll.change(&stream.user.socket, at, interest)?;
                    }
                }
                Ok(Turn::Over) => {
                    moving[at] = None;
                    open -= 1;
                }
                Err(error) => {
                    verdict.faults.push(format!("stream {at} at {}: {error}", stream.user.progress()));
                    moving[at] = None;
                    open -= 1;
                }
            }
        }
        let now = Instant::now();
        if now.saturating_duration_since(looked) < WAIT {
            continue;
        }
        looked = now;
        for (at, place) in moving.iter_mut().enumerate() {
            let Some(stream) = place else { continue };
            if stream.user.moved() != stream.moved {
                (stream.moved, stream.since) = (stream.user.moved(), now);
                continue;
            }
            let still = now.saturating_duration_since(stream.since);
            verdict.still = verdict.still.max(still);
            if still > plan.patience {
                verdict.faults.push(format!("stream {at} at {}: stands still", stream.user.progress()));
                *place = None;
                open -= 1;
            }
        }
    }
    verdict.span = start.elapsed();
    Ok(verdict)
}
