//! Streams that carry as much as they can, and how much that was.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::end::{Counted, Scratch, User};
use crate::order::{COUNTED, ENDLESS, Order, number};
use crate::poll::{Poll, member};
use crate::{connect, while_doing};

/// How long a wait lasts at most, so that the end is not missed when nothing comes.
const WAIT: Duration = Duration::from_millis(20);

/// What is to be carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Where users knock.
    pub(crate) address: SocketAddr,
    /// Where the target itself listens: it is asked for what it received.
    pub(crate) target: SocketAddr,
    pub(crate) streams: usize,
    pub(crate) up: bool,
    pub(crate) warm: Duration,
    pub(crate) span: Duration,
}

/// What was carried, as its receiver counted it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) bytes: u64,
    pub(crate) span: Duration,
}

impl Carried {
    pub(crate) fn json(&self) -> String {
        format!(r#"{{"bytes":{},"secs":{:.6}}}"#, self.bytes, self.span.as_secs_f64())
    }
}

/// Runs the plan; calls `begun` when the warm-up is over.
///
/// # Errors
/// When a stream breaks.
pub(crate) fn run(plan: &Plan, begun: impl FnOnce()) -> io::Result<(Carried, Vec<User>)> {
    let mut poll = Poll::new()?;
    let order = if plan.up { Order::plain(ENDLESS, 0) } else { Order::plain(0, ENDLESS) };
    let mut users = Vec::with_capacity(plan.streams);
    for at in 0..plan.streams {
        let user = User::new(connect(plan.address)?, order);
        poll.add(&user.socket, at, user.interest())?;
        users.push(user);
    }
    let (mut scratch, mut ready) = (Scratch::new(), Vec::new());
    let mut flow_until = |end: Instant, users: &mut [User]| {
        while Instant::now() < end {
            ready.clear();
            ready.extend(poll.wait(Some(WAIT))?.iter().map(member));
            for &(at, flags) in &ready {
                let user = &mut users[at];
                let before = user.interest();
                user.turn(flags, &mut scratch)
                    .map_err(|error| while_doing(&format!("stream {at}"))(error))?;
                if user.interest() != before {
                    poll.change(&user.socket, at, user.interest())?;
                }
            }
        }
        Ok::<_, io::Error>(())
    };
    flow_until(Instant::now() + plan.warm, &mut users)?;
    begun();
    let (start, before) = (Instant::now(), received(plan, &users)?);
    flow_until(start + plan.span, &mut users)?;
    let bytes = received(plan, &users)? - before;
    Ok((Carried { bytes, span: start.elapsed() }, users))
}

/// What has arrived so far, where it arrives.
fn received(plan: &Plan, users: &[User]) -> io::Result<u64> {
    if plan.up {
        return Ok(count(plan.target).map_err(while_doing("asking the target"))?.received);
    }
    Ok(users.iter().map(|user| user.sink.received).sum())
}

/// Asks a target what it has received and sent on all its streams.
pub(crate) fn count(target: SocketAddr) -> io::Result<Counted> {
    let mut socket = TcpStream::connect(target)?;
    socket.write_all(&Order::count().encode())?;
    let mut answer = [0; COUNTED];
    socket.read_exact(&mut answer)?;
    Ok(Counted { received: number(&answer[..8]), sent: number(&answer[8..]) })
}
