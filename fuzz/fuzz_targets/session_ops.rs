//! Two sessions, and two applications that do anything at any time; the input says what. On a wire that is whole every byte arrives in its
//! place or not at all, at most one message closes a direction, and nothing is left at the end. On a wire that is damaged nothing panics,
//! the damage ends the session once, and what it held is given back.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyproxy::proto::budget::WindowBudget;
use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{
    Decoder, GoAwayCode, Kind, Network, OpenRequest, Opened, PortError, PortRequest, RefuseCode, ResetCode,
};
use anyproxy::proto::session::{ClientConfig, Event, GatewayConfig, Session, StreamId};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use linkbuffer::LinkBuffer;

const CLIENT: usize = 0;
const GATEWAY: usize = 1;

/// What the input says next; zeroes behind its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// Small numbers and large ones.
    fn len(&mut self) -> usize {
        let byte = self.byte();
        usize::from(byte & 15) << (byte >> 4)
    }
}

#[derive(Default)]
struct Flow {
    written: u64,
    read: u64,
    finished: bool,
    ended: bool,
}

#[derive(Default)]
struct Model {
    udp: bool,
    broken: bool,
    /// By sender.
    flows: [Flow; 2],
}

/// At most one closing message for each stream and direction, and nothing behind it.
#[derive(Default)]
struct Observer {
    decoder: Decoder,
    closed: BTreeMap<u32, Kind>,
    stopped: BTreeMap<u32, ()>,
    over: bool,
}

impl Observer {
    fn watch(&mut self, bytes: Bytes) {
        self.decoder.push(bytes);
        while let Some((head, _)) = self.decoder.next_frame().expect("a session writes frames") {
            assert!(!self.over, "nothing follows the farewell");
            match head.kind {
                Kind::Fin | Kind::Rst | Kind::OpenErr => {
                    assert_eq!(self.closed.insert(head.stream, head.kind), None, "closed once: {head:?}");
                }
                Kind::Stop => {
                    assert_eq!(self.closed.get(&head.stream), Some(&Kind::Fin), "STOP follows FIN");
                    assert!(self.stopped.insert(head.stream, ()).is_none(), "STOP is said once");
                }
                Kind::Data | Kind::Dgram | Kind::Open | Kind::OpenOk => {
                    assert_eq!(self.closed.get(&head.stream), None, "nothing follows an end: {head:?}");
                }
                Kind::Window => assert!(!self.stopped.contains_key(&head.stream), "credit after STOP"),
                _ => {}
            }
        }
    }
}

/// What is under way from one side, in the messages that carry it.
#[derive(Default)]
struct Wire {
    bytes: VecDeque<u8>,
    /// What is left of each message. Invariant: their sum is bytes.len(), and none of them is 0.
    messages: VecDeque<usize>,
}

impl Wire {
    fn send(&mut self, message: Bytes) {
        if !message.is_empty() {
            self.messages.push_back(message.len());
            self.bytes.extend(message);
        }
    }

    /// At most `max` bytes of the first message, and whether it ends with them.
    fn receive(&mut self, max: usize) -> (Bytes, bool) {
        let Some(left) = self.messages.front_mut() else { return (Bytes::new(), false) };
        let len = max.min(*left);
        *left -= len;
        let ends = *left == 0;
        if ends {
            self.messages.pop_front();
        }
        (self.bytes.drain(..len).collect::<Vec<u8>>().into(), ends)
    }

    /// Makes a message longer by one byte.
    fn insert(&mut self, at: usize, byte: u8) {
        let mut end = 0;
        let message = self.messages.iter_mut().find(|len| {
            end += **len;
            at < end
        });
        *message.expect("the place lies in a message") += 1;
        self.bytes.insert(at, byte);
    }
}

struct World<'a> {
    script: Script<'a>,
    now: Instant,
    ends: [Session; 2],
    wires: [Wire; 2],
    observers: [Observer; 2],
    /// The wire was damaged, or a session was closed: what follows from whole wires does not hold any more.
    damaged: bool,
    /// A side has said that it wants no new streams.
    drained: bool,
    lost: [u32; 2],
    streams: BTreeMap<StreamId, Model>,
    budget: Arc<WindowBudget>,
}

fn pattern(id: StreamId, side: usize, at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16) ^ (u64::from(id.0) * 7) ^ (side as u64 * 101)) as u8
}

impl<'a> World<'a> {
    fn new(mut script: Script<'a>) -> Self {
        let now = Instant::now();
        let client = ClientConfig {
            name: "c".into(),
            group: String::new(),
            secret: None,
            instance: 1,
            generation: 1,
            nonce: [1; 32],
        };
        let gateway =
            GatewayConfig { credentials: Arc::new(Credentials::new()), session_id: 1, nonce: [2; 32] };
        // Some runs have next to no budget.
        let budget = Arc::new(WindowBudget::new(u64::from(script.byte()) << 20));
        let ends = [Session::client(client, now), Session::gateway(gateway, now)];
        Self {
            script,
            now,
            ends: ends.map(|end| end.with_budget(budget.clone())),
            wires: Default::default(),
            observers: Default::default(),
            damaged: false,
            drained: false,
            lost: [0; 2],
            streams: BTreeMap::new(),
            budget,
        }
    }

    fn transmit(&mut self, side: usize, max: usize) -> usize {
        let mut out = LinkBuffer::new();
        let sent = self.ends[side].poll_transmit(max, &mut out, self.now);
        let bytes = Bytes::from(out.read_vec(sent).expect("as much as it says"));
        assert!(out.is_empty());
        self.observers[side].watch(bytes.clone());
        self.wires[side].send(bytes);
        sent
    }

    /// Brings at most `max` bytes from one side to the other.
    fn deliver(&mut self, from: usize, max: usize) {
        let mut left = self.wires[from].bytes.len().min(max);
        loop {
            let (bytes, ends) = self.wires[from].receive(left);
            left -= bytes.len();
            let end = &mut self.ends[1 - from];
            let result = end.handle_input(bytes, self.now).and_then(|()| match ends {
                true => end.handle_message_end(),
                false => Ok(()),
            });
            assert!(result.is_ok() || self.damaged, "{result:?}");
            if left == 0 {
                return;
            }
        }
    }

    fn pump(&mut self) {
        for _ in 0..3 {
            for side in [CLIENT, GATEWAY] {
                while self.transmit(side, 1 << 16) > 0 {}
                self.deliver(side, usize::MAX);
            }
        }
    }

    fn events(&mut self, side: usize) {
        while let Some(event) = self.ends[side].poll_event() {
            // What came as a whole can be read behind the end.
            let outlived = matches!(event, Event::Closed(_) | Event::Reset(..));
            assert!(self.lost[side] == 0 || outlived, "nothing else follows the end: {event:?}");
            match event {
                Event::Opened(id, request) => {
                    let udp = request.network == Network::Udp;
                    let model = self.streams.entry(id).or_default();
                    assert!(model.udp == udp || self.damaged);
                }
                Event::Refused(id, refused) if refused.code == RefuseCode::Draining => {
                    assert!(self.drained || self.damaged);
                    self.broken(id);
                }
                Event::Refused(id, _) | Event::Reset(id, _) | Event::Stopped(id, _) => {
                    assert!(self.streams.get(&id).is_some_and(|model| model.broken) || self.damaged);
                }
                Event::PortRequested(request) => {
                    let answer = if request.port % 3 == 0 { Err(PortError::InUse) } else { Ok(request.port) };
                    // Given up meanwhile, perhaps.
                    self.ends[side].answer_port(request.network, request.port, answer).ok();
                }
                Event::Lost(_) => self.lost[side] += 1,
                _ => {}
            }
        }
    }

    fn stream(&mut self) -> StreamId {
        let newest = self.streams.keys().next_back().map_or(1, |id| id.0);
        let back = 2 * self.script.below(8) as u32;
        StreamId(newest.saturating_sub(back).max(1))
    }

    fn step(&mut self) {
        let op = self.script.byte();
        let side = usize::from(op >> 7);
        let id = self.stream();
        match op & 31 {
            0 => self.open(op & 64 != 0),
            // A wire without delay, which leads further into what can happen than its parts by themselves.
            1 | 2 => self.pump(),
            3 => {
                self.ends[CLIENT].accept(id, Opened::default()).ok();
            }
            4 => {
                if self.ends[CLIENT].refuse(id, RefuseCode::Refused, 0, 0).is_ok() {
                    self.broken(id);
                }
            }
            5..=9 => self.write(id, side),
            10..=13 => self.read(id, side),
            14 | 15 => {
                self.finish(id, side);
            }
            16 => {
                self.broken(id);
                self.ends[side].reset(id, ResetCode::Reset);
            }
            17 => {
                self.broken(id);
                self.ends[side].reset_behind(id, ResetCode::Timeout);
            }
            18..=21 => {
                let max = self.script.len();
                self.transmit(side, max);
            }
            22..=25 => {
                let max = self.script.len();
                self.deliver(side, max);
            }
            26 => {
                self.now += Duration::from_millis(self.script.len() as u64);
                let late = self.ends[side].handle_timeout(self.now);
                // Nobody says that the wire is quick.
                self.damaged |= late.is_err();
            }
            27 => {
                let port = u16::from(self.script.byte() & 7);
                let request = PortRequest { network: Network::Tcp, port, host: "h".into(), target_port: 1 };
                self.ends[CLIENT].request_port(request).ok();
            }
            28 => {
                let port = u16::from(self.script.byte() & 7);
                self.ends[side].close_port(Network::Tcp, port);
            }
            29 if op & 64 != 0 => {
                self.drained = true;
                self.ends[side].drain();
            }
            30 if op & 64 != 0 => {
                self.damaged = true;
                self.ends[side].close(GoAwayCode::Stop, "");
            }
            31 if !self.wires[side].bytes.is_empty() => {
                self.damaged = true;
                let at = self.script.byte() as usize % self.wires[side].bytes.len();
                match op & 64 {
                    0 => self.wires[side].bytes[at] ^= self.script.byte(),
                    _ => self.wires[side].insert(at, self.script.byte()),
                }
            }
            _ => {}
        }
        self.events(CLIENT);
        self.events(GATEWAY);
        for end in &self.ends {
            assert!(end.held_bytes().is_ok(), "{:?}", end.held_bytes());
        }
    }

    fn broken(&mut self, id: StreamId) {
        if let Some(model) = self.streams.get_mut(&id) {
            model.broken = true;
        }
    }

    fn open(&mut self, udp: bool) {
        let network = if udp { Network::Udp } else { Network::Tcp };
        let request = OpenRequest { network, host: "h".into(), port: 1, conn_id: 1, user_addr: None };
        if let Ok(id) = self.ends[GATEWAY].open(request) {
            let before = self.streams.insert(id, Model { udp, ..Model::default() });
            assert!(before.is_none() || self.damaged, "a number is used once");
        }
    }

    fn finish(&mut self, id: StreamId, side: usize) {
        // OPEN may still be under way to this side.
        if self.ends[side].contains(id)
            && let Some(model) = self.streams.get_mut(&id)
        {
            model.flows[side].finished = true;
        }
        self.ends[side].finish(id);
    }

    fn write(&mut self, id: StreamId, side: usize) {
        let len = self.script.len() as u64;
        let Some(model) = self.streams.get_mut(&id) else { return };
        let flow = &mut model.flows[side];
        if model.udp {
            if self.ends[side].send_datagram(id, Bytes::from(flow.written.to_be_bytes().to_vec())).is_some() {
                flow.written += 1;
            }
            return;
        }
        let mut bytes = LinkBuffer::new();
        bytes.write(&(0..len).map(|n| pattern(id, side, flow.written + n)).collect::<Vec<_>>());
        if let Ok(taken) = self.ends[side].write(id, &mut bytes) {
            assert!((taken == 0 || !flow.finished) && taken + bytes.len() == len as usize);
            flow.written += taken as u64;
        }
    }

    fn read(&mut self, id: StreamId, side: usize) {
        let max = self.script.len();
        let Some(model) = self.streams.get_mut(&id) else { return };
        let (udp, broken) = (model.udp, model.broken);
        let flow = &mut model.flows[1 - side];
        while udp && let Some(datagram) = self.ends[side].read_datagram(id) {
            if !self.damaged {
                let number = u64::from_be_bytes(datagram[..].try_into().expect("eight bytes were sent"));
                assert!(number >= flow.read && number < flow.written, "in order, and only what was sent");
                flow.read = number + 1;
            }
        }
        let mut out = LinkBuffer::new();
        let Ok(read) = self.ends[side].read(id, &mut out, max) else { return };
        assert!(read.bytes == out.len() && read.bytes <= max);
        if !udp {
            for chunk in out.chunks() {
                for byte in chunk {
                    assert!(
                        self.damaged || *byte == pattern(id, 1 - side, flow.read),
                        "a prefix of what was sent"
                    );
                    flow.read += 1;
                }
            }
            assert!(self.damaged || flow.read <= flow.written);
            self.ends[side].delivered(id, flow.read);
        }
        if read.end {
            assert!(!std::mem::replace(&mut flow.ended, true) || self.damaged, "one end");
            let whole = flow.finished && (udp || flow.read == flow.written);
            assert!(self.damaged || whole || broken, "an end comes behind the last byte");
        }
    }

    /// Both applications come to an end with everything.
    fn settle(&mut self) {
        self.script = Script(&[]);
        for _ in 0..2000 {
            for side in [CLIENT, GATEWAY] {
                while self.transmit(side, 1 << 16) > 0 {}
                self.deliver(side, usize::MAX);
            }
            for id in self.streams.keys().copied().collect::<Vec<_>>() {
                self.ends[CLIENT].accept(id, Opened::default()).ok();
                for side in [CLIENT, GATEWAY] {
                    self.finish(id, side);
                    // `read` without a script reads nothing; an end takes no length.
                    self.script = Script(&[0xff]);
                    self.read(id, side);
                }
            }
            self.events(CLIENT);
            self.events(GATEWAY);
            let quiet = self.wires.iter().all(|wire| wire.bytes.is_empty());
            if quiet && self.ends.iter().all(|end| end.stream_count() == 0 && !end.wants_transmit()) {
                break;
            }
        }
        for side in [CLIENT, GATEWAY] {
            let end = &self.ends[side];
            if self.damaged {
                // A session that is damaged may wait for what does not come any more, but one that is over holds nothing.
                assert!(end.end().is_none() || (end.stream_count() == 0 && self.lost[side] == 1));
            } else {
                assert!(end.is_up() && end.stream_count() == 0 && !end.wants_transmit(), "nothing is left");
                assert_eq!(end.stats().streams_opened, end.stats().streams_closed);
            }
            assert!(end.stream_count() > 0 || end.window_bytes() == 0, "what a stream held is free again");
        }
        if !self.damaged {
            for model in self.streams.values() {
                for flow in &model.flows {
                    assert!(model.broken || flow.ended, "what nobody broke off comes to its end");
                    assert!(model.broken || model.udp || flow.read == flow.written, "and is whole");
                }
            }
        }
        let budget = self.budget.clone();
        self.ends.iter_mut().for_each(|end| end.close(GoAwayCode::Stop, ""));
        assert_eq!(budget.used(), 0, "nor of the budget of the process");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new(Script(input));
    // The handshake is whole: what strangers say is the target `frame`'s, and the tests'.
    for _ in 0..4 {
        for side in [CLIENT, GATEWAY] {
            while world.transmit(side, 1 << 16) > 0 {}
            world.deliver(side, usize::MAX);
        }
    }
    assert!(world.ends.iter().all(Session::is_up));
    while !world.script.0.is_empty() {
        world.step();
    }
    world.settle();
});
