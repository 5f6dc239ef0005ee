//! The two sessions, the wire between them, and an observer that reads along.

use super::*;
use std::collections::{HashMap, VecDeque};

pub(super) const CLIENT: usize = 0;
pub(super) const GATEWAY: usize = 1;

/// The real time is read once and never looked at again: only differences matter.
#[allow(clippy::disallowed_methods)]
pub(super) fn base() -> Instant {
    Instant::now()
}

/// How input is cut before it is handed in.
#[derive(Clone, Copy)]
pub(super) enum Cut {
    Whole,
    /// Into pieces of this size.
    Pieces(usize),
    /// Once, before this byte of all that one side receives.
    At(usize, usize),
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) ends: [Session; 2],
    /// Events that were not looked at yet, by side.
    pub(super) events: [VecDeque<Event>; 2],
    /// What is under way from each side, and when it arrives.
    wire: [VecDeque<(Instant, Bytes)>; 2],
    pub(super) delay: Duration,
    /// What one call of `poll_transmit` may give.
    pub(super) transmit_max: usize,
    /// How input is cut on its way in.
    pub(super) cut: Cut,
    /// Nothing of this side gets onto the wire for now.
    pub(super) stalled: [bool; 2],
    /// Bytes that arrived at each side.
    pub(super) arrived: [usize; 2],
    /// Bytes from the other side are lost since it died.
    pub(super) dead: [bool; 2],
    observers: [Observer; 2],
    pub(super) pings: usize,
}

impl Pair {
    /// Two ends that have not spoken yet.
    pub(super) fn silent(client: ClientConfig, gateway: GatewayConfig) -> Self {
        let now = base();
        Self {
            now,
            ends: [Session::client(client, now), Session::gateway(gateway, now)],
            events: Default::default(),
            wire: Default::default(),
            delay: Duration::from_millis(1),
            transmit_max: 64 * 1024,
            cut: Cut::Whole,
            stalled: [false; 2],
            arrived: [0; 2],
            dead: [false; 2],
            observers: Default::default(),
            pings: 0,
        }
    }

    /// Two ends that know each other.
    pub(super) fn up() -> Self {
        let mut pair = Self::silent(client_config(), gateway_config());
        pair.drive();
        assert_eq!((pair.event(CLIENT), pair.event(GATEWAY)), (Some(Event::Up), Some(Event::Up)));
        pair
    }

    /// Two ends with one stream between them that the target has accepted.
    pub(super) fn with_stream(request: OpenRequest) -> (Self, StreamId) {
        let mut pair = Self::up();
        let id = pair.open(request);
        (pair, id)
    }

    pub(super) fn open(&mut self, request: OpenRequest) -> StreamId {
        let id = self.ends[GATEWAY].open(request.clone()).expect("the session is up");
        self.drive();
        assert_eq!(self.event(CLIENT), Some(Event::Opened(id, request)));
        self.ends[CLIENT].accept(id, Opened::default()).expect("just opened");
        self.drive();
        assert_eq!(self.event(GATEWAY), Some(Event::Accepted(id, Opened::default())));
        id
    }

    pub(super) fn event(&mut self, side: usize) -> Option<Event> {
        self.events[side].pop_front()
    }

    /// All events of one side that were not looked at.
    pub(super) fn take_events(&mut self, side: usize) -> Vec<Event> {
        self.events[side].drain(..).collect()
    }

    /// Puts what both ends have to say on the wire, and takes their events.
    pub(super) fn transmit(&mut self) {
        for side in [CLIENT, GATEWAY] {
            while !self.stalled[side] {
                let mut out = LinkBuffer::new();
                let sent = self.ends[side].poll_transmit(self.transmit_max, &mut out, self.now);
                assert_eq!(sent, out.len());
                if sent == 0 {
                    break;
                }
                let bytes = out.read_bytes(sent).expect("all of it");
                self.pings += self.observers[side].watch(&bytes);
                if !self.dead[side] {
                    self.wire[side].push_back((self.now + self.delay, bytes));
                }
            }
            assert!(self.stalled[side] || !self.ends[side].wants_transmit());
            while let Some(event) = self.ends[side].poll_event() {
                self.events[side].push_back(event);
            }
        }
    }

    /// When something happens next by itself.
    fn next(&self) -> Option<Instant> {
        let arrivals = self.wire.iter().filter_map(|wire| wire.front().map(|(at, _)| *at));
        let alive = self.ends.iter().zip(self.dead).filter(|(_, dead)| !dead);
        arrivals.chain(alive.filter_map(|(end, _)| end.poll_timeout())).min()
    }

    fn deliver(&mut self, side: usize, mut bytes: Bytes) {
        let before = self.arrived[side];
        self.arrived[side] += bytes.len();
        let mut pieces = Vec::new();
        match self.cut {
            Cut::Pieces(size) => {
                while bytes.len() > size {
                    pieces.push(bytes.split_to(size));
                }
            }
            Cut::At(at_side, at) if at_side == side && (before + 1..self.arrived[side]).contains(&at) => {
                pieces.push(bytes.split_to(at - before));
            }
            _ => {}
        }
        pieces.push(bytes);
        for piece in pieces {
            // An error shows as the event Lost.
            let result = self.ends[side].handle_input(piece, self.now);
            assert_eq!(result.is_err(), matches!(self.ends[side].end(), Some(Lost::Failed(_))));
        }
    }

    /// Lets what is due at `self.now` happen.
    fn turn(&mut self) {
        for side in [CLIENT, GATEWAY] {
            let peer = 1 - side;
            while self.wire[side].front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = self.wire[side].pop_front().expect("there is one");
                if !self.dead[peer] {
                    self.deliver(peer, bytes);
                }
            }
            if !self.dead[side] && self.ends[side].poll_timeout().is_some_and(|at| at <= self.now) {
                let result = self.ends[side].handle_timeout(self.now);
                assert_eq!(result.is_err(), matches!(self.ends[side].end(), Some(Lost::Failed(_))));
            }
        }
        self.transmit();
    }

    /// Until nothing is under way.
    pub(super) fn drive(&mut self) {
        self.transmit();
        while let Some(at) = self.wire.iter().filter_map(|wire| wire.front().map(|(at, _)| *at)).min() {
            self.now = self.now.max(at);
            self.turn();
        }
    }

    /// Lets virtual time pass.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        self.transmit();
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.turn();
        }
        self.now = until;
    }
}

/// Reads what one side sends and holds it to S-09: at most one closing message for each stream, and no bytes after it.
#[derive(Default)]
struct Observer {
    decoder: Decoder,
    closed: HashMap<u32, Kind>,
    stopped: HashMap<u32, ()>,
    over: bool,
}

impl Observer {
    /// Returns how many PINGs there were.
    fn watch(&mut self, bytes: &Bytes) -> usize {
        let mut pings = 0;
        self.decoder.push(bytes.clone());
        while let Some((head, _)) = self.decoder.next_frame().expect("a session writes frames") {
            assert!(!self.over, "nothing follows the farewell");
            match head.kind {
                Kind::Ping => pings += 1,
                Kind::Fin | Kind::Rst | Kind::OpenErr => {
                    let before = self.closed.insert(head.stream, head.kind);
                    assert_eq!(before, None, "stream {} was closed before {:?}", head.stream, head.kind);
                }
                Kind::Stop => {
                    assert_eq!(self.closed.get(&head.stream), Some(&Kind::Fin), "STOP follows FIN");
                    assert_eq!(self.stopped.insert(head.stream, ()), None, "STOP is said once");
                }
                Kind::Data | Kind::Dgram | Kind::Open | Kind::OpenOk => {
                    assert_eq!(self.closed.get(&head.stream), None, "{:?} after the end", head.kind);
                }
                Kind::Window => assert!(!self.stopped.contains_key(&head.stream), "credit after STOP"),
                _ => {}
            }
        }
        pings
    }
}
