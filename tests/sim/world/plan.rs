//! What is to happen in one run: all of it is drawn before it begins.

use std::time::Duration;

use simulated::rt::{Chance, Weather};

/// The way by which a user comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Connect,
    Socks,
    Forward,
}

/// One of the two who talk over a stream.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    /// Bytes that it sends.
    pub(crate) len: u64,
    /// At most so many at a time.
    pub(crate) piece: usize,
    /// It ends its direction only when it has heard all of the other's.
    pub(crate) ends_last: bool,
    /// It breaks off when so many bytes were sent and received by it.
    pub(crate) aborts_at: Option<u64>,
    /// It reads so many bytes, and then rests.
    pub(crate) rests: Option<(u64, Duration)>,
    /// Between its pieces.
    pub(crate) pause: Duration,
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamPlan {
    pub(crate) way: Way,
    pub(crate) begins: Duration,
    /// The target is named and not numbered.
    pub(crate) named: bool,
    /// The user sends before it has an answer.
    pub(crate) hasty: bool,
    /// Up: the user. Down: the target.
    pub(crate) user: Talk,
    pub(crate) target: Talk,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All tunnels break.
    Lose,
    /// Nothing comes through any more, and nobody is told.
    Silence,
    /// Nothing comes through for a moment.
    Stall(Duration),
    /// The next tunnel breaks at that byte.
    LoseAt(u64),
    /// The next connection of a user, or to a target, does.
    LoseUserAt(u64),
    LoseTargetAt(u64),
    /// Who is killed comes back after that time.
    KillGateway {
        silently: bool,
        back: Duration,
    },
    KillClient {
        which: usize,
        silently: bool,
        back: Duration,
    },
    /// Who is told to stop has time, and comes back.
    StopGateway {
        back: Duration,
    },
    StopClient {
        which: usize,
        back: Duration,
    },
    /// So many dials of the gateway are refused.
    Refuse(u32),
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) clients: usize,
    /// Tunnels of each client.
    pub(crate) replicas: usize,
    pub(crate) streams: Vec<StreamPlan>,
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// Users of the forwarded UDP port, and datagrams of each.
    pub(crate) udp: (usize, usize),
    pub(crate) late: Duration,
    /// What the links are like: those of tunnels, of users, and to targets.
    pub(crate) tunnel: Weather,
    pub(crate) users: Weather,
    pub(crate) targets: Weather,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn talk(chance: &mut Chance, big: bool) -> Talk {
    let len = match chance.below(8) {
        0 => 0,
        1..=5 => chance.scale(1, 20_000),
        _ if big => chance.scale(20_000, 900_000),
        _ => chance.scale(1, 100_000),
    };
    let rests = chance.one_in(4).then(|| {
        let most = if chance.one_in(8) { 20_000 } else { 200 };
        // Few rests in all, however much there is.
        (chance.scale(1, 300_000).max(len / 8), ms(chance.scale(1, most)))
    });
    Talk {
        len,
        piece: chance.scale(1, 60_000) as usize,
        ends_last: chance.one_in(3),
        aborts_at: chance.one_in(8).then(|| chance.scale(1, 200_000)),
        rests,
        pause: if chance.one_in(6) { us(chance.scale(1, 20_000)) } else { Duration::ZERO },
    }
}

/// A stream without anything difficult in it.
pub(crate) fn probe(way: Way) -> StreamPlan {
    let talk = |len| Talk {
        len,
        piece: 10_000,
        ends_last: false,
        aborts_at: None,
        rests: None,
        pause: Duration::ZERO,
    };
    let (user, target) = (talk(3_000), talk(20_000));
    StreamPlan { way, begins: Duration::ZERO, named: false, hasty: false, user, target }
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Plan {
        let chance = &mut Chance::new(seed, 3);
        let big = chance.one_in(6);
        let clients = if chance.one_in(3) { 2 } else { 1 };
        let replicas = if chance.one_in(4) { 2 } else { 1 };
        let spread = chance.scale(1, 4_000);
        let count = if big { chance.range(1, 4) } else { chance.scale(1, 24) };
        let streams = (0..count).map(|_| stream(chance, big, spread)).collect();
        let faulty = if chance.one_in(4) { 0 } else { chance.range(1, 3) };
        let faults = (0..faulty).map(|_| (ms(chance.below(spread + 200)), fault(chance, clients))).collect();
        let udp = if chance.one_in(4) {
            (chance.range(1, 4) as usize, chance.range(1, 20) as usize)
        } else {
            (0, 0)
        };
        Plan {
            clients,
            replicas,
            streams,
            faults,
            udp,
            late: if chance.one_in(4) { ms(chance.scale(1, 3_000)) } else { Duration::ZERO },
            tunnel: weather(chance, 60_000),
            users: weather(chance, 5_000),
            targets: weather(chance, 5_000),
        }
    }
}

fn weather(chance: &mut Chance, delay_most: u64) -> Weather {
    Weather {
        delay: us(chance.scale(10, delay_most)),
        jitter: us(chance.scale(1, 20_000)),
        room: chance.scale(500, 400_000) as usize,
        bits: chance.scale(1, 64),
        ..Weather::default()
    }
}

fn stream(chance: &mut Chance, big: bool, spread: u64) -> StreamPlan {
    let mut user = talk(chance, big);
    let target = talk(chance, big);
    let way = match chance.below(4) {
        0 | 1 => Way::Connect,
        2 => Way::Socks,
        _ => Way::Forward,
    };
    // Both waiting for the other to end would last for ever.
    user.ends_last &= !target.ends_last;
    if way == Way::Forward {
        // The target cannot know otherwise whom it talks to.
        user.len = user.len.max(super::bytes::NAME_SIZE);
    }
    StreamPlan {
        way,
        begins: ms(chance.below(spread)),
        named: chance.one_in(3),
        hasty: chance.one_in(3),
        user,
        target,
    }
}

fn fault(chance: &mut Chance, clients: usize) -> Fault {
    let back = ms(chance.scale(1, 20_000));
    let which = chance.below(clients as u64) as usize;
    let silently = chance.one_in(4);
    match chance.below(16) {
        0..=2 => Fault::Lose,
        3 => Fault::Silence,
        4 | 5 => Fault::Stall(ms(chance.scale(1, 1_500))),
        6 | 7 => Fault::LoseAt(chance.scale(1, 500_000)),
        8 => Fault::LoseUserAt(chance.scale(1, 50_000)),
        9 => Fault::LoseTargetAt(chance.scale(1, 50_000)),
        10 | 11 => Fault::KillGateway { silently, back },
        12 | 13 => Fault::KillClient { which, silently, back },
        14 if chance.one_in(2) => Fault::StopGateway { back },
        14 => Fault::StopClient { which, back },
        _ => Fault::Refuse(chance.range(1, 3) as u32),
    }
}
