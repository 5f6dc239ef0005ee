//! The closing scenarios: who ends the connection, when and how, and what must follow.

use std::time::Duration;

use poller::{Limit, Reason};

use crate::support::At;

/// Bytes that a scenario with output that waits writes: more than the kernel takes of a peer that does not read.
pub const BYTES: usize = 8 << 20;

/// A limit that is to pass.
pub const LIMIT: Duration = Duration::from_millis(10);

/// What a peer says before it leaves.
pub const WORDS: &[u8] = b"last words";

/// What is done to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Close,
    Abort,
    HandleClose,
    HandleAbort,
    /// Through a handle, by another thread, while the callback runs.
    ThreadClose,
    Fail,
    Panic,
}

/// How the peer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    End,
    Reset,
}

/// Who ends the connection, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// This callback does it.
    In(At, Way),
    /// Somebody outside, through a handle.
    Handle(Way),
    /// The peer, after its last words.
    Peer(Leave),
    /// Both at the same instant.
    Both(Way, Leave),
    /// The peer, before (Prepare), during (Connect) or right at the end (Request) of `on_connect`.
    Around(At, Leave),
    /// The event loop stops, and the connection takes no notice of that when it has to be forced.
    Stop {
        forced: bool,
    },
    /// As `Handle` and `Peer`, while another connection waits for room in this one's output.
    Waiter(Way),
    WaiterPeer(Leave),
    /// Time passes: a limit that the first request sets.
    Limit(Limit),
    /// A dial comes to nothing.
    Dial(Dial),
}

/// How a dial comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    Refused,
    TimedOut,
    /// Somebody closes it, or aborts.
    GivenUp(Way),
    /// The event loop stops.
    Stopped,
}

impl Deed {
    /// The connection is to have output that waits.
    pub fn fills(self) -> bool {
        matches!(self, Deed::In(At::Drain, _) | Deed::Limit(Limit::WriteStall)) || self.has_waiter()
    }

    pub fn has_waiter(self) -> bool {
        matches!(self, Deed::Waiter(_) | Deed::WaiterPeer(_))
    }

    /// Nothing of the connection's needs to run for it.
    pub fn is_outside(self) -> bool {
        !matches!(self, Deed::In(..) | Deed::Around(..) | Deed::Dial(_))
    }
}

/// Whose reason counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Never connected, never told.
    Untold,
    User,
    Peer,
    Reset,
    Refused,
    Timeout(Limit),
    Shutdown,
    Handler,
    Panic,
    /// The first of user and peer.
    First,
}

impl Why {
    pub fn allows(self, reason: &Reason) -> bool {
        let errno = match reason {
            Reason::Error(fault) => fault.errno,
            _ => None,
        };
        let is_reset = errno == Some(libc::ECONNRESET) || errno == Some(libc::EPIPE);
        match self {
            Why::Untold => false,
            Why::User => *reason == Reason::User,
            Why::Peer => *reason == Reason::Peer,
            Why::Reset => is_reset,
            Why::Refused => errno == Some(libc::ECONNREFUSED),
            Why::Timeout(limit) => *reason == Reason::Timeout(limit),
            Why::Shutdown => *reason == Reason::Shutdown,
            Why::Handler => *reason == Reason::Handler("on purpose".into()),
            Why::Panic => *reason == Reason::Panic,
            Why::First => is_reset || matches!(reason, Reason::User | Reason::Peer),
        }
    }
}

/// What the user's socket sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    End,
    Reset,
    /// It left itself.
    Nothing,
}

/// One row.
#[derive(Debug)]
pub struct Scenario {
    pub deed: Deed,
    pub why: Why,
    pub sees: Sees,
    /// The callbacks before the last ones; one of these. What follows them is the same for all (see `main.rs`).
    pub callbacks: Vec<Vec<At>>,
    /// Whether `on_connect` said Ok.
    pub connected: bool,
    /// ERROR lines that name the connection.
    pub errors: usize,
}

const CONNECTED: [At; 2] = [At::Prepare, At::Connect];

/// The callbacks up to and with `on_connect`, and then those.
fn after_connect(then: &[At]) -> Vec<Vec<At>> {
    vec![[&CONNECTED, then].concat()]
}

fn row(deed: Deed, why: Why, sees: Sees, callbacks: Vec<Vec<At>>) -> Scenario {
    Scenario { deed, why, sees, callbacks, connected: true, errors: 0 }
}

/// A callback closes, fails or panics; the last callbacks can only panic.
pub fn in_callbacks() -> Vec<Scenario> {
    let ways = [
        (Way::Close, Why::User, Sees::End),
        (Way::Abort, Why::User, Sees::Reset),
        (Way::HandleClose, Why::User, Sees::End),
        (Way::HandleAbort, Why::User, Sees::Reset),
        (Way::ThreadClose, Why::User, Sees::End),
        (Way::Fail, Why::Handler, Sees::End),
        (Way::Panic, Why::Panic, Sees::Reset),
    ];
    let callbacks: [(At, &[At]); 5] = [
        (At::Connect, &[]),
        (At::Request, &[At::Request]),
        (At::Timer, &[At::Request, At::Timer]),
        (At::Drain, &[At::Drain]),
        (At::Shutdown, &[At::Shutdown]),
    ];
    let mut rows = Vec::new();
    for (at, then) in callbacks {
        for (way, why, sees) in ways {
            let why = match (at, way) {
                // What `Connection::close` means there; a handle does not know of it.
                (At::Shutdown, Way::Close) => Why::Shutdown,
                _ => why,
            };
            let mut row = row(Deed::In(at, way), why, sees, after_connect(then));
            row.connected = at != At::Connect || !matches!(way, Way::Fail | Way::Panic);
            row.errors = usize::from(way == Way::Panic);
            rows.push(row);
        }
    }
    rows
}

/// A panic in the callbacks that cannot end the connection: before there is one, and when it ends already.
pub fn in_the_first_and_the_last() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for way in [Way::Fail, Way::Panic] {
        let mut row = row(Deed::In(At::Prepare, way), Why::Untold, Sees::End, vec![vec![At::Prepare]]);
        row.connected = false;
        row.errors = usize::from(way == Way::Panic);
        rows.push(row);
    }
    for at in [At::Disconnect, At::Callback, At::Close, At::Dropped] {
        let ended = after_connect(&[At::Request]);
        let mut row = row(Deed::In(at, Way::Panic), Why::Peer, Sees::Nothing, ended);
        row.errors = 1;
        rows.push(row);
    }
    rows
}

/// The first request is a wake, which makes sure that there is a handler to run.
pub fn from_outside() -> Vec<Scenario> {
    let asked = || after_connect(&[At::Request]);
    vec![
        row(Deed::Handle(Way::HandleClose), Why::User, Sees::End, asked()),
        row(Deed::Handle(Way::HandleAbort), Why::User, Sees::Reset, asked()),
        // The words, and the end of the stream.
        row(
            Deed::Peer(Leave::End),
            Why::Peer,
            Sees::Nothing,
            after_connect(&[At::Request, At::Request, At::Request]),
        ),
        row(Deed::Peer(Leave::Reset), Why::Reset, Sees::Nothing, after_connect(&[At::Request, At::Request])),
    ]
}

/// Whoever comes first; the peer's end may have been handed over when the user's close was found.
pub fn both_at_once() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for way in [Way::HandleClose, Way::HandleAbort] {
        for leave in [Leave::End, Leave::Reset] {
            let callbacks =
                [after_connect(&[At::Request]), after_connect(&[At::Request, At::Request])].concat();
            rows.push(row(Deed::Both(way, leave), Why::First, Sees::Nothing, callbacks));
        }
    }
    rows
}

pub fn around_on_connect() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for when in [At::Prepare, At::Connect, At::Request] {
        let ended = after_connect(&[At::Request]);
        rows.push(row(Deed::Around(when, Leave::End), Why::Peer, Sees::Nothing, ended));
        rows.push(row(Deed::Around(when, Leave::Reset), Why::Reset, Sees::Nothing, after_connect(&[])));
    }
    rows
}

pub fn while_the_event_loop_stops() -> Vec<Scenario> {
    let told = after_connect(&[At::Request, At::Shutdown]);
    // Forced before it could be told.
    let untold = after_connect(&[At::Request]);
    vec![
        row(Deed::Stop { forced: false }, Why::Shutdown, Sees::End, told.clone()),
        row(Deed::Stop { forced: true }, Why::Shutdown, Sees::Reset, [told, untold].concat()),
    ]
}

pub fn while_a_writer_waits() -> Vec<Scenario> {
    let asked = || after_connect(&[At::Request]);
    vec![
        // What is queued is still sent.
        row(Deed::Waiter(Way::HandleClose), Why::User, Sees::End, asked()),
        row(Deed::Waiter(Way::HandleAbort), Why::User, Sees::Reset, asked()),
        row(Deed::WaiterPeer(Leave::Reset), Why::Reset, Sees::Nothing, asked()),
    ]
}

pub fn dials() -> Vec<Scenario> {
    let ways = [
        (Dial::Refused, Why::Refused),
        (Dial::TimedOut, Why::Timeout(Limit::Connect)),
        (Dial::GivenUp(Way::HandleClose), Why::User),
        (Dial::GivenUp(Way::HandleAbort), Why::User),
        (Dial::Stopped, Why::Shutdown),
    ];
    let mut rows = Vec::new();
    for (dial, why) in ways {
        let mut row = row(Deed::Dial(dial), why, Sees::Nothing, vec![vec![At::Prepare]]);
        row.connected = false;
        rows.push(row);
    }
    rows
}

pub fn limits_in_time() -> Vec<Scenario> {
    let limit =
        |limit, sees| row(Deed::Limit(limit), Why::Timeout(limit), sees, after_connect(&[At::Request]));
    vec![limit(Limit::Idle, Sees::End), limit(Limit::WriteStall, Sees::Reset)]
}
