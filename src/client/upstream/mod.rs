//! Streams that the gateway opened, on their way to their targets.
//!
//! ```text
//!   OPEN ──▶ rules on the name ──▶ resolve ──▶ rules on each address ──▶ dial the first that is allowed
//!                │ no                 │ no            │ none                 │ failed: the next, or
//!                └────────────────────┴───────────────┴──────────────────────┴──▶ OPEN_ERR with the reason
//!                                                                    connected ──▶ OPEN_OK, relay
//! ```
//! A user who leaves meanwhile, or a tunnel that is lost, ends all of it at once: the stream has an owner from the first
//! moment, and news of it before the answer can only be its end.

mod udp;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::resolve::{NoAddress, Resolver};
use crate::proto::frame::{Network, OpenRequest, Opened, RefuseCode, ResetCode};
use crate::proto::session::StreamId;
use crate::proto::target::{Rules, Target, Verdict};
use crate::refused::{Noted, Refusals};
use crate::relay::{Flow, Relay};
use crate::rt::{self, Closed, Connection, Handle, Handler, Prepare, Reason, Reject, Remote};
use crate::times::{Stall, Times};
use crate::tunnel::{Broken, Stream, StreamWatcher, Tunnel, Watcher};

/// What every stream needs on its way.
pub(super) struct Ways {
    pub(super) remote: Remote,
    pub(super) rules: Rules,
    pub(super) times: Times,
    pub(super) resolver: Resolver,
    /// Users who wanted to go where they may not.
    pub(super) forbidden: Refusals,
    /// Connections for which this process had no socket.
    pub(super) without_socket: Refusals,
}

impl Ways {
    /// Says once for each user's address and minute where they wanted to go: whoever is a user can do it as often as he likes.
    fn log_forbidden(&self, user: Option<SocketAddr>, target: &Target, conn_id: u64, verdict: &Verdict) {
        let Noted { said, total } = self.forbidden.note(user, rt::now());
        let level = if said.is_some() { log::Level::Info } else { log::Level::Debug };
        log::log!(level, event = "refuse", conn_id = crate::conn_label(conn_id), cli = crate::shown(user), dst:% = target,
            count = said.unwrap_or(1), total; "{verdict}");
    }

    /// Says once a minute that there was no socket for a target, whoever wanted it.
    fn log_without_socket(&self, addr: SocketAddr, conn_id: u64, error: &io::Error) {
        let Noted { said, total } = self.without_socket.note(None, rt::now());
        let level = if said.is_some() { log::Level::Info } else { log::Level::Debug };
        log::log!(level, event = "limit_hit", conn_id = crate::conn_label(conn_id), dst:% = addr,
            count = said.unwrap_or(1), total; "no connection to a target: {error}");
    }
}

/// A stream whose target is being reached. Dropped without an answer, it is reset.
struct Reaching {
    ways: Arc<Ways>,
    stream: Stream,
    attempt: Arc<Attempt>,
    network: Network,
    conn_id: u64,
    target: Target,
    begun: Instant,
    resolve_us: u32,
    dialing: Instant,
    /// Allowed addresses that were not tried.
    left: VecDeque<SocketAddr>,
    deadline: Instant,
}

/// The dial under way, for the one who hears that nobody waits for it any more.
#[derive(Default)]
struct Attempt(Mutex<Dialing>);

#[derive(Default)]
struct Dialing {
    /// The last one that was begun, and how many addresses were left behind it.
    dial: Option<(usize, Handle)>,
    unwanted: bool,
}

impl Attempt {
    /// Keeps a dial behind which so many addresses are left. One that failed at once may come here after the next one, which
    /// a thread of the event loop began meanwhile, and does not take its place.
    fn dials(&self, left: usize, dial: Handle) {
        let mut dialing = self.0.lock();
        if dialing.unwanted {
            dial.abort();
        }
        if dialing.dial.as_ref().is_none_or(|(least, _)| left < *least) {
            dialing.dial = Some((left, dial));
        }
    }
}

impl StreamWatcher for Attempt {
    fn on_stream(&self, _id: StreamId) {
        let mut dialing = self.0.lock();
        dialing.unwanted = true;
        if let Some((_, dial)) = &dialing.dial {
            dial.abort();
        }
    }
}

/// Reaches the target of a stream.
pub(super) fn reach(ways: &Arc<Ways>, tunnel: &Arc<Tunnel>, id: StreamId, request: OpenRequest) {
    let now = rt::now();
    let attempt = Arc::new(Attempt::default());
    let watcher = Watcher::Call(attempt.clone() as Arc<dyn StreamWatcher>);
    let Some(stream) = tunnel.take_on(id, watcher) else { return };
    let refuse = |code| stream.exchange(|session, id| answered(session.refuse(id, code, 0, 0)));
    let target = match Target::new(&request.host, request.port) {
        Ok(target) => target,
        Err(error) => {
            log::debug!(event = "refuse", conn_id = crate::conn_label(request.conn_id); "{error}");
            return refuse(RefuseCode::Dns);
        }
    };
    let verdict = ways.rules.name(&target);
    if !verdict.allowed {
        ways.log_forbidden(request.user_addr, &target, request.conn_id, &verdict);
        return refuse(RefuseCode::Forbidden);
    }
    let mut reaching = Reaching {
        ways: ways.clone(),
        stream,
        attempt,
        network: request.network,
        conn_id: request.conn_id,
        target: target.clone(),
        begun: now,
        resolve_us: 0,
        dialing: now,
        left: VecDeque::new(),
        deadline: now + ways.times.connect,
    };
    let user = request.user_addr;
    ways.resolver.resolve(&target, move |found| {
        if reaching.stream.is_closed() {
            return;
        }
        reaching.resolve_us = micros(reaching.begun);
        reaching.dialing = rt::now();
        match found {
            Err(why) => reaching.refuse(match why {
                NoAddress::NotFound => RefuseCode::Dns,
                NoAddress::Timeout => RefuseCode::Timeout,
                NoAddress::Busy => RefuseCode::Limit,
            }),
            Ok(addresses) => {
                match allowed(&reaching.ways.rules, &reaching.target, reaching.conn_id, addresses) {
                    Ok(addresses) => {
                        reaching.left = addresses;
                        reaching.next(RefuseCode::Unreachable);
                    }
                    Err(verdict) => {
                        if let Some(verdict) = verdict {
                            reaching.ways.log_forbidden(user, &reaching.target, reaching.conn_id, &verdict);
                        }
                        reaching.refuse(RefuseCode::Forbidden);
                    }
                }
            }
        }
    });
}

/// Those of a target's addresses that may be reached.
///
/// # Errors
/// When none of them may; with what the rules say of the first, where there is one. That is one refusal, however many addresses
/// the name has, and none where the user is served by another of them.
fn allowed(
    rules: &Rules,
    target: &Target,
    conn_id: u64,
    addresses: Vec<SocketAddr>,
) -> Result<VecDeque<SocketAddr>, Option<Verdict>> {
    let (mut allowed, mut forbidden) = (VecDeque::new(), None);
    for address in addresses {
        let verdict = rules.address(target, address);
        if verdict.allowed {
            allowed.push_back(address);
        } else {
            log::debug!(event = "refuse", conn_id = crate::conn_label(conn_id), dst:% = target, ip:% = address; "{verdict}");
            forbidden.get_or_insert(verdict);
        }
    }
    if allowed.is_empty() { Err(forbidden) } else { Ok(allowed) }
}

/// A stream that has gone meanwhile wants no answer.
fn answered<T, E: std::fmt::Display>(outcome: Result<T, E>) {
    if let Err(gone) = outcome {
        log::trace!(event = "refuse"; "{gone}");
    }
}

fn micros(since: Instant) -> u32 {
    u32::try_from(rt::since(since).as_micros()).unwrap_or(u32::MAX)
}

impl Reaching {
    fn refuse(&self, code: RefuseCode) {
        let (resolve_us, connect_us) = (self.resolve_us, micros(self.dialing));
        log::debug!(event = "stream", conn_id = crate::conn_label(self.conn_id), dst:% = self.target; "not reached: {code:?}");
        self.stream.exchange(|session, id| answered(session.refuse(id, code, resolve_us, connect_us)));
    }

    fn opened(&self, addr: SocketAddr) -> Opened {
        Opened { addr: Some(addr), resolve_us: self.resolve_us, connect_us: micros(self.dialing) }
    }

    /// Tries the next address; `code` is what the last one came to.
    fn next(mut self, code: RefuseCode) {
        if self.stream.is_closed() {
            return;
        }
        let left = self.deadline.saturating_duration_since(rt::now());
        let Some(addr) = self.left.pop_front().filter(|_| !left.is_zero()) else {
            return self.refuse(code);
        };
        if self.network == Network::Udp {
            return udp::join(self, addr);
        }
        let Some(carrier) = self.stream.tunnel().carrier().cloned() else { return };
        let (remote, attempt, addresses_left) =
            (self.ways.remote.clone(), self.attempt.clone(), self.left.len());
        let dial = Arc::new(Dial(Mutex::new(Some(Box::new((self, addr))))));
        match remote.dial_near(&carrier, addr, left, dial.clone()) {
            Ok(handle) => attempt.dials(addresses_left, handle),
            Err(error) => {
                let reaching = dial.0.lock().take();
                if let Some(reaching) = reaching {
                    let (reaching, _) = *reaching;
                    reaching.without_socket(addr, &error);
                }
            }
        }
    }

    /// There was no socket for this address, so no connection that could tell: here is the only one who can answer.
    fn without_socket(self, addr: SocketAddr, error: &io::Error) {
        if self.ways.remote.is_stopping() {
            return self.refuse(RefuseCode::Draining);
        }
        // A host without this family may have the other, and lacks no sockets.
        if error.raw_os_error() == Some(libc::EAFNOSUPPORT) {
            return self.next(RefuseCode::Unreachable);
        }
        self.ways.log_without_socket(addr, self.conn_id, error);
        self.refuse(RefuseCode::Limit);
    }
}

/// What is on its way, and where to. Boxed, so that a target that was reached keeps none of it.
type Begun = Box<(Reaching, SocketAddr)>;

/// The handler of one dialed target.
struct Dial(Mutex<Option<Begun>>);

/// A target's connection.
struct TargetConn {
    stage: Stage,
    conn_id: u64,
}

enum Stage {
    Dialing(Begun),
    Relaying(Relay, Stall),
    Over,
}

impl Handler for Dial {
    type Context = TargetConn;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<TargetConn, Reject> {
        conn.set_half_close(true);
        let Some(begun) = self.0.lock().take() else {
            return Err("a target is dialed once".into());
        };
        let conn_id = begun.0.conn_id;
        Ok(TargetConn { stage: Stage::Dialing(begun), conn_id })
    }

    fn on_connect(&self, cx: &mut TargetConn, conn: &mut Connection) -> rt::Result {
        let Stage::Dialing(begun) = std::mem::replace(&mut cx.stage, Stage::Over) else {
            return Ok(());
        };
        let (reaching, addr) = *begun;
        let opened = reaching.opened(addr);
        reaching.stream.watch(Watcher::Connection(conn.handle()));
        if reaching.stream.exchange(|session, id| session.accept(id, opened)).is_err() {
            // The user left before the target was reached, and perhaps in the middle of a word.
            conn.abort();
            return Ok(());
        }
        log::debug!(event = "stream", conn_id = crate::conn_label(cx.conn_id), dst:% = reaching.target, ip:% = addr; "established");
        let stall = Stall::new(&reaching.ways.times);
        cx.stage = Stage::Relaying(Relay::new(reaching.stream), stall);
        pump(cx, conn)
    }

    fn on_request(&self, cx: &mut TargetConn, conn: &mut Connection) -> rt::Result {
        pump(cx, conn)
    }

    fn on_shutdown(&self, _cx: &mut TargetConn, _conn: &mut Connection) -> rt::Result {
        // It may be in the middle of something: it has until the deadline.
        Ok(())
    }

    fn on_close(&self, cx: &mut TargetConn, info: &Closed) {
        match std::mem::replace(&mut cx.stage, Stage::Over) {
            Stage::Dialing(begun) => {
                let code = match &info.reason {
                    Reason::Timeout(_) => RefuseCode::Timeout,
                    Reason::Error(fault) => match fault.kind {
                        io::ErrorKind::ConnectionRefused => RefuseCode::Refused,
                        io::ErrorKind::TimedOut => RefuseCode::Timeout,
                        _ => RefuseCode::Unreachable,
                    },
                    Reason::Shutdown => RefuseCode::Draining,
                    _ => RefuseCode::Unreachable,
                };
                begun.0.next(code);
            }
            Stage::Relaying(mut relay, _) => {
                log::debug!(event = "stream", conn_id = crate::conn_label(cx.conn_id); "closing: {}", info.reason);
                relay.abandon(&info.reason);
            }
            Stage::Over => {}
        }
        log::debug!(event = "stream", conn_id = crate::conn_label(cx.conn_id), up = info.bytes_out, down = info.bytes_in; "closed: {}", info.reason);
    }
}

fn pump(cx: &mut TargetConn, conn: &mut Connection) -> rt::Result {
    let Stage::Relaying(relay, stall) = &mut cx.stage else { return Ok(()) };
    let flow = relay.pump(conn);
    if !stall.follow(conn, Some(cx.conn_id))? {
        return Ok(());
    }
    if flow != Flow::Open {
        log::debug!(event = "stream", conn_id = crate::conn_label(cx.conn_id); "closing: {flow:?}");
    }
    match flow {
        Flow::Open => return Ok(()),
        Flow::Done => conn.close(),
        // Not needed any more is no reason to tell the target of a fault.
        Flow::Broken(Broken::Reset(ResetCode::Cancelled)) => conn.close(),
        Flow::Broken(_) => conn.abort(),
    }
    cx.stage = Stage::Over;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::rt::EventLoop;

    struct Idle;

    impl Handler for Idle {
        type Context = ();

        fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
            Ok(())
        }

        fn on_connect(&self, (): &mut (), _: &mut Connection) -> rt::Result {
            Ok(())
        }

        fn on_request(&self, (): &mut (), _: &mut Connection) -> rt::Result {
            Ok(())
        }
    }

    // A dial that fails at once has begun the next one, on a thread of the event loop, before its own handle is kept.
    #[test]
    fn a_user_who_leaves_ends_the_last_dial_whichever_was_kept_last() {
        // Before the event loop, so that it is there when that ends.
        let (ends, ended) = mpsc::channel();
        let event_loop = EventLoop::builder().polls(1).build().expect("there are threads");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let addr = listener.local_addr().expect("it is bound");
        // Each with as many addresses left behind it as it says.
        let dial = |left: usize| {
            let dial = event_loop.dial(addr, Duration::from_secs(60), Idle).expect("a socket");
            let ends = ends.clone();
            let tell = move |_: &Closed| ends.send(left).expect("the test waits");
            dial.add_close_callback(tell).expect("it is the only one");
            (left, dial)
        };
        for first_is_kept_last in [false, true] {
            let attempt = Attempt::default();
            let mut dials = [dial(2), dial(1)];
            if first_is_kept_last {
                dials.reverse();
            }
            for (left, dial) in dials {
                attempt.dials(left, dial);
            }
            attempt.on_stream(StreamId(1));
            assert_eq!(ended.recv(), Ok(1), "{first_is_kept_last}");
            // One that begins after all is ended as well.
            let (left, late) = dial(0);
            attempt.dials(left, late);
            assert_eq!(ended.recv(), Ok(0));
        }
    }

    // A user who is served by one address of a name is not told of the others, and one who is not is one, not as many as they are.
    #[test]
    fn a_name_is_forbidden_once_and_where_no_address_of_it_is_allowed() {
        let rules = Rules::parse(&["*.test".into(), "127.0.0.4/31".into()], &[]).expect("rules");
        let target: Target = "a.test:80".parse().expect("a target");
        let addresses = |hosts: &[u8]| -> Vec<SocketAddr> {
            hosts.iter().map(|host| ([127, 0, 0, *host], 80).into()).collect()
        };
        let of = |hosts: &[u8]| allowed(&rules, &target, 1, addresses(hosts)).map(Vec::from);
        assert_eq!(of(&[2, 4, 3, 5]).ok(), Some(addresses(&[4, 5])));
        let verdict = of(&[3, 2]).expect_err("neither is allowed").expect("and why");
        assert_eq!(verdict.to_string(), rules.address(&target, addresses(&[3])[0]).to_string());
        assert!(of(&[]).expect_err("there is none").is_none());
    }
}
