//! Random schedules: two applications that do anything at any time to up to fifty streams, and a model that knows what must come of it.
//!
//! The same seed gives the same run.

use super::*;
use crate::limits::{SEND_QUEUE_BYTES_MAX, WINDOW_INITIAL_BYTES};
use std::collections::BTreeMap;

/// Schedules of one test run; `ANYPROXY_SEEDS` asks for more.
const SEEDS: u64 = 100;
const STEPS: usize = 500;
const STREAMS: usize = 50;

/// One direction of a stream, as the applications see it.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes, or datagrams, that the sender was rid of.
    written: u64,
    /// Bytes that the receiver read; for datagrams, one more than the last number seen.
    read: u64,
    delivered: u64,
    finished: bool,
    /// The receiver saw the end.
    ended: bool,
    /// The receiver told the sender to stop.
    stopped: bool,
    /// A write fell short and nothing told the sender to go on since.
    waiting: bool,
}

#[derive(Debug, Default)]
struct Model {
    udp: bool,
    /// By side: whether the application there knows the stream, and whether it was told that it is gone.
    known: [bool; 2],
    gone: [bool; 2],
    answered: bool,
    /// Somebody broke it off or refused it.
    broken: bool,
    /// By sender.
    flows: [Flow; 2],
}

fn seeds() -> u64 {
    std::env::var("ANYPROXY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

struct World {
    rng: fastrand::Rng,
    pair: Pair,
    /// Streams at once: few of them fill their windows, many fill the table.
    live_max: usize,
    streams: BTreeMap<StreamId, Model>,
}

/// The byte at one place of one direction of one stream.
fn pattern(id: StreamId, side: usize, at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16) ^ (u64::from(id.0) * 7) ^ (side as u64 * 101)) as u8
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pair = Pair::up();
        pair.cut = if rng.bool() { Cut::Whole } else { Cut::Pieces(rng.usize(1..3000)) };
        let live_max = rng.usize(1..=STREAMS);
        Self { rng, pair, live_max, streams: BTreeMap::new() }
    }

    /// One thing that one application does, or that the network does.
    fn step(&mut self) {
        let side = self.rng.usize(..2);
        let ids: Vec<_> = self.streams.keys().copied().collect();
        let id = if ids.is_empty() { StreamId(1) } else { ids[self.rng.usize(..ids.len())] };
        match self.rng.u32(..100) {
            0..10 => self.open(),
            10..40 => self.write(id, side),
            40..65 => self.read(id, side),
            65..75 => self.deliver(id, side),
            75..80 => self.finish(id, side),
            80..82 => self.reset(id, side),
            82..90 => self.answer(id),
            90..93 => self.pair.stalled[side] = self.rng.u32(..3) == 0,
            93..96 => self.pair.delay = Duration::from_micros(self.rng.u64(..20_000)),
            _ => self.pair.transmit_max = [1, 20, 1000, 16_396, 65_536, usize::MAX][self.rng.usize(..6)],
        }
        if self.rng.bool() {
            let by = Duration::from_micros(self.rng.u64(..5_000));
            self.pair.advance(by);
            self.look();
        }
    }

    fn open(&mut self) {
        let live = self.streams.values().filter(|model| !model.gone[GATEWAY]).count();
        if live >= self.live_max {
            return;
        }
        let is_udp = self.rng.u32(..6) == 0;
        let request = if is_udp { udp("h", 1) } else { tcp("h", 1) };
        let id = self.pair.ends[GATEWAY].open(request).expect("fifty are not too many");
        let model = Model { udp: is_udp, known: [false, true], ..Model::default() };
        assert!(self.streams.insert(id, model).is_none(), "a number is used once");
    }

    fn answer(&mut self, id: StreamId) {
        let Some(model) = self.streams.get_mut(&id) else { return };
        if !model.known[CLIENT] {
            return;
        }
        let refuse = self.rng.u32(..8) == 0;
        let client = &mut self.pair.ends[CLIENT];
        let result = if refuse {
            client.refuse(id, RefuseCode::Refused, 0, 0)
        } else {
            client.accept(id, Opened::default())
        };
        if model.gone[CLIENT] {
            assert_eq!(result, Err(StreamError::Gone));
        } else if model.answered {
            assert_ne!(result, Ok(()));
        } else if result.is_ok() {
            model.answered = true;
            model.broken |= refuse;
        }
    }

    fn write(&mut self, id: StreamId, side: usize) {
        let Some(model) = self.streams.get_mut(&id) else { return };
        if !model.known[side] {
            return;
        }
        let flow = &mut model.flows[side];
        let end = &mut self.pair.ends[side];
        if model.udp {
            if end.send_datagram(id, flow.written.to_be_bytes().to_vec().into()).is_some() {
                assert!(!flow.finished && !model.gone[side]);
                flow.written += 1;
            }
            return;
        }
        let len = 1 << self.rng.u32(..18);
        let bytes: Vec<u8> = (0..len).map(|n| pattern(id, side, flow.written + n)).collect();
        let mut bytes = buffer(&bytes);
        match end.write(id, &mut bytes) {
            Ok(taken) => {
                assert!(!flow.finished && taken <= SEND_QUEUE_BYTES_MAX);
                assert_eq!(taken + bytes.len(), len as usize);
                flow.written += taken as u64;
                flow.waiting = !bytes.is_empty();
            }
            // The application may learn of the end from the call before it does from the event.
            Err(StreamError::Finished) => assert!(flow.finished || flow.stopped),
            Err(error) => assert_eq!(error, StreamError::Gone),
        }
    }

    fn read(&mut self, id: StreamId, side: usize) {
        let Some(model) = self.streams.get_mut(&id) else { return };
        let from = 1 - side;
        let flow = &mut model.flows[from];
        let end = &mut self.pair.ends[side];
        while let Some(datagram) = end.read_datagram(id) {
            let number = u64::from_be_bytes(datagram[..].try_into().expect("eight bytes were sent"));
            assert!(number >= flow.read && number < flow.written, "in order, and only what was sent");
            flow.read = number + 1;
        }
        let mut out = LinkBuffer::new();
        let max = if self.rng.bool() { usize::MAX } else { self.rng.usize(..100_000) };
        let Ok(read) = end.read(id, &mut out, max) else { return };
        assert_eq!(read.bytes, out.len());
        for byte in bytes_of(&mut out) {
            assert_eq!(byte, pattern(id, from, flow.read), "what is read is a prefix of what was written");
            flow.read += 1;
        }
        assert!(flow.read <= flow.written);
        let held = flow.read - flow.delivered + end.readable_len(id) as u64;
        assert!(model.udp || held <= u64::from(WINDOW_INITIAL_BYTES), "the window holds");
        if read.end {
            assert!(flow.finished && !flow.ended, "an end is seen once, and only where one was said");
            assert!(model.udp || flow.read == flow.written, "a clean end has every byte");
            flow.ended = true;
        }
    }

    fn deliver(&mut self, id: StreamId, side: usize) {
        let Some(model) = self.streams.get_mut(&id) else { return };
        let flow = &mut model.flows[1 - side];
        if model.udp {
            return;
        }
        // Sometimes a total that is not news.
        let total = self.rng.u64(..=flow.read);
        flow.delivered = flow.delivered.max(total);
        self.pair.ends[side].delivered(id, total);
    }

    fn finish(&mut self, id: StreamId, side: usize) {
        let Some(model) = self.streams.get_mut(&id) else { return };
        // Before it has answered, a client has nothing to finish.
        if model.known[side] && (side == GATEWAY || model.answered) {
            self.pair.ends[side].finish(id);
            model.flows[side].finished = true;
        }
    }

    fn reset(&mut self, id: StreamId, side: usize) {
        let Some(model) = self.streams.get_mut(&id) else { return };
        if model.known[side] {
            if self.rng.bool() {
                self.pair.ends[side].reset(id, ResetCode::Reset);
            } else {
                self.pair.ends[side].reset_behind(id, ResetCode::Reset);
            }
            model.broken = true;
            model.flows.iter_mut().for_each(|flow| flow.stopped = true);
        }
    }

    /// Takes all events, and holds them to their order.
    fn look(&mut self) {
        self.pair.transmit();
        for side in [CLIENT, GATEWAY] {
            assert!(self.pair.ends[side].held_bytes().is_ok(), "{:?}", self.pair.ends[side].held_bytes());
            for event in self.pair.take_events(side) {
                let id = match event {
                    Event::Opened(id, _)
                    | Event::Accepted(id, _)
                    | Event::Refused(id, _)
                    | Event::Readable(id)
                    | Event::Writable(id)
                    | Event::Stopped(id, _)
                    | Event::Reset(id, _)
                    | Event::Closed(id) => id,
                    other => panic!("{other:?}"),
                };
                let model = self.streams.get_mut(&id).expect("a stream that somebody opened");
                assert!(!model.gone[side], "nothing follows Closed: {event:?}");
                match event {
                    Event::Opened(..) => assert!(!std::mem::replace(&mut model.known[side], true)),
                    Event::Accepted(..) => assert!(side == GATEWAY && model.answered),
                    Event::Refused(..) | Event::Reset(..) | Event::Stopped(..) => assert!(model.broken),
                    Event::Writable(_) => {
                        assert!(
                            std::mem::take(&mut model.flows[side].waiting),
                            "only where a write fell short"
                        );
                    }
                    Event::Closed(_) => model.gone[side] = true,
                    _ => {}
                }
                assert!(model.known[side]);
            }
            let live = self.streams.values().filter(|model| model.known[side] && !model.gone[side]).count();
            assert_eq!(self.pair.ends[side].stream_count(), live, "the counter is what the events say");
        }
    }

    /// Both applications come to an end with every stream, and then nothing is left.
    fn settle(&mut self) {
        self.pair.stalled = [false; 2];
        for _ in 0..1000 {
            self.pair.drive();
            self.look();
            let ids: Vec<_> = self.streams.keys().copied().collect();
            for id in ids {
                self.answer(id);
                for side in [CLIENT, GATEWAY] {
                    self.finish(id, side);
                    self.read(id, side);
                    if let Some(model) = self.streams.get_mut(&id) {
                        let flow = &mut model.flows[1 - side];
                        if !model.udp {
                            flow.delivered = flow.read;
                            self.pair.ends[side].delivered(id, flow.read);
                        }
                    }
                }
            }
            if self.pair.ends.iter().all(|end| end.stream_count() == 0) {
                break;
            }
        }
        self.pair.drive();
        self.look();
        for end in &self.pair.ends {
            assert!(end.is_up() && end.stream_count() == 0 && !end.wants_transmit());
            assert!(end.turns.is_empty() && end.credits.is_empty() && end.control.is_empty());
            let stats = end.stats();
            assert_eq!(
                (stats.streams_opened, stats.streams_closed),
                (self.streams.len() as u64, self.streams.len() as u64)
            );
        }
        for (id, model) in &self.streams {
            assert_eq!((model.known, model.gone), ([true; 2], [true; 2]), "{id}: closed once on both sides");
            for flow in &model.flows {
                assert!(model.broken || flow.ended, "{id}: whatever nobody broke off comes to its end");
                assert!(model.broken || model.udp || flow.read == flow.written);
            }
        }
    }
}

// proves S-03, S-08 to S-13, S-16, S-17, S-39, S-42
#[test]
fn whatever_the_schedule_no_byte_is_lost_and_nothing_is_left() {
    let mut bytes = 0;
    for seed in 0..seeds() {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.settle();
            world.pair.arrived.iter().sum::<usize>()
        });
        match run {
            Ok(arrived) => bytes += arrived,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(bytes > seeds() as usize * 100_000, "the schedules move bytes: {bytes}");
}

// proves S-21, S-33, S-36, S-38: the session ends in the middle of everything, from either side, and all streams with it
#[test]
fn whatever_the_schedule_an_end_ends_everything_once() {
    let mut outlived = 0;
    for seed in 0..seeds() {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(..STEPS) {
            world.step();
        }
        world.look();
        let side = world.rng.usize(..2);
        let known = world.pair.ends.each_ref().map(|end| end.stream_count());
        world.pair.stalled = [false; 2];
        world.pair.ends[side].close(GoAwayCode::Stop, "");
        world.pair.drive();
        for (side, known) in known.into_iter().enumerate() {
            let closed =
                |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
            let events = world.pair.take_events(side);
            let whole: Vec<StreamId> =
                world.streams.keys().copied().filter(|id| world.pair.ends[side].outlives(*id)).collect();
            assert!(closed(&events) + whole.len() >= known, "seed {seed}");
            assert!(matches!(events.last(), Some(Event::Lost(_))), "seed {seed}");
            assert_eq!(world.pair.ends[side].stream_count(), whole.len(), "seed {seed}");
            // What had come as a whole is there as a whole.
            let end = &mut world.pair.ends[side];
            for id in &whole {
                let expected = end.readable_len(*id);
                let mut out = LinkBuffer::new();
                let read = end.read(*id, &mut out, usize::MAX).expect("it can be read");
                assert!(out.len() == expected && read.bytes == expected, "seed {seed}");
                end.delivered(*id, u64::MAX);
            }
            let events: Vec<Event> = std::iter::from_fn(|| end.poll_event()).collect();
            assert_eq!(closed(&events), whole.len(), "seed {seed}");
            assert_eq!((end.stream_count(), end.stats().streams_closed), (0, end.stats().streams_opened));
            assert!(!end.wants_transmit(), "seed {seed}");
            outlived += whole.len();
        }
    }
    assert!(outlived > 0, "the schedules have such streams");
}
