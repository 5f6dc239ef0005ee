//! What the slots decide, step by step, and in a world of gateways that come and go.

use super::*;
use crate::limits::RECONNECT_EARLY_MAX_MS;
use crate::limits::RECONNECT_QUICK_MAX_MS;
use crate::limits::RECONNECT_WAIT_MAX_MS;

const LONGEST: u32 = u32::MAX;
const LONG: Duration = Duration::from_millis(RECONNECT_QUICK_LIVED_MS);

fn slots(gateways: usize, count: u64) -> Slots {
    Slots::new(gateways, 100..100 + count)
}

/// Begins with every slot that waits.
fn begin(slots: &mut Slots) -> Vec<Attempt> {
    let waiting = slots.waiting();
    waiting.into_iter().map(|after| slots.begin(after).expect("it waits")).collect()
}

fn gateways(attempts: &[Attempt]) -> Vec<usize> {
    attempts.iter().map(|attempt| attempt.gateway).collect()
}

fn lost() -> Ended {
    Ended::Lost { lived: Duration::from_secs(3600) }
}

#[test]
fn tunnels_are_spread_over_the_gateways() {
    for (gateways_count, slots_count, want) in [
        (1, 1, vec![0]),
        (1, 3, vec![0, 0, 0]),
        (2, 1, vec![0]),
        (2, 2, vec![0, 1]),
        (3, 2, vec![0, 1]),
        (2, 5, vec![0, 1, 0, 1, 0]),
    ] {
        let mut slots = slots(gateways_count, slots_count);
        assert_eq!(gateways(&begin(&mut slots)), want);
        assert_eq!(slots.waiting(), []);
    }
}

#[test]
fn a_gateway_that_is_not_there_is_left_for_one_that_is_as_good() {
    #[track_caller]
    fn check(gateways: usize, count: u64, want: &[usize]) {
        let mut slots = slots(gateways, count);
        let mut attempts = begin(&mut slots);
        let mut went = Vec::new();
        for _ in 0..want.len() {
            let failed = attempts[0];
            slots.ended(failed, Ended::Failed, LONGEST).expect("it is the latest");
            attempts = begin(&mut slots);
            went.push(attempts[0].gateway);
        }
        assert_eq!(went, want);
    }
    // Alone it goes round.
    check(1, 1, &[0, 0]);
    check(2, 1, &[1, 0, 1]);
    check(3, 1, &[1, 2, 0]);
    // Beside another it stays where that one is not.
    check(2, 2, &[0, 0, 0]);
    check(3, 2, &[2, 0, 2]);
}

#[test]
fn who_is_not_let_in_goes_elsewhere_and_hurries_where_nobody_answers() {
    use Ended::{Failed, Refused};
    /// How the attempts of a client's only slot end, in order, and within how many milliseconds the next one follows.
    #[track_caller]
    fn check(gateways: usize, story: [(Ended, u64); 6]) {
        let mut slots = slots(gateways, 1);
        for (n, (ended, want_ms)) in story.into_iter().enumerate() {
            let attempt = begin(&mut slots)[0];
            assert_eq!((attempt.gateway, attempt.returns), (n % gateways, false));
            let after = slots.ended(attempt, ended, LONGEST).expect("it is the latest");
            assert_eq!(after.wait, Duration::from_millis(want_ms), "{n}");
        }
    }
    check(1, [(Refused, 99), (Refused, 199), (Refused, 399), (Failed, 219), (Refused, 219), (Refused, 439)]);
    // The other one may be restarting.
    check(2, [(Refused, 99), (Failed, 199), (Refused, 219), (Failed, 219), (Refused, 219), (Failed, 219)]);
}

#[test]
fn a_tunnel_that_is_lost_is_missed_where_it_was() {
    let mut slots = slots(3, 2);
    let attempts = begin(&mut slots);
    slots.up(attempts[0]).expect("it is the latest");
    let after = slots.ended(attempts[0], lost(), LONGEST).expect("it is the latest");
    assert!(after.wait <= Duration::from_millis(RECONNECT_QUICK_MAX_MS));
    assert_eq!(gateways(&begin(&mut slots)), [0]);
}

// proves S-57 (policy): what kept one tunnel down kept the others down
#[test]
fn the_first_success_wakes_everybody_who_waits() {
    let mut slots = slots(2, 4);
    let attempts = begin(&mut slots);
    for attempt in &attempts {
        assert!(slots.ended(*attempt, Ended::Failed, LONGEST).is_some());
    }
    let first = slots.begin(attempts[2]).expect("it waits");
    let up = slots.up(first).expect("it is the latest");
    assert_eq!(up.waiting.iter().map(|waiting| waiting.slot).collect::<Vec<_>>(), [0, 1, 3]);
    for waiting in up.waiting {
        assert!(slots.begin(waiting).is_some());
        assert_eq!(slots.begin(waiting), None, "its own timer comes too late");
    }
}

#[test]
fn generations_grow_and_instances_stay() {
    let mut slots = slots(1, 2);
    let (mut generations, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for attempt in begin(&mut slots) {
            assert_eq!(attempt.instance, 100 + attempt.slot as u64);
            generations.push(attempt.generation);
            numbers.push(attempt.number);
            assert!(slots.ended(attempt, Ended::Failed, LONGEST).is_some());
        }
    }
    assert_eq!(generations, [1, 1, 2, 2, 3, 3]);
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

// GOAWAY: who comes as the same instance would take the place of a tunnel that still has streams.
#[test]
fn a_gateway_that_leaves_has_a_successor_at_once_and_as_somebody_else() {
    for (gateways_count, next_gateway) in [(1, 0), (2, 1)] {
        let mut slots = slots(gateways_count, 1);
        let old = begin(&mut slots)[0];
        assert!(slots.up(old).expect("it is the latest").asks);
        let (after, then) = slots.drains(old, 7, LONG, LONGEST).expect("it is the latest");
        assert_eq!(then, After { wait: Duration::ZERO, asks: None, waiting: vec![] });
        let new = slots.begin(after).expect("it needs no wait");
        assert_eq!((new.gateway, new.instance, new.generation), (next_gateway, 7, 1));
        assert!(slots.up(new).expect("it is the latest").asks);
        // What is still said of the old one is nothing to the new one.
        assert_eq!(slots.ended(old, lost(), LONGEST), None);
        assert_eq!(slots.drains(old, 8, LONG, LONGEST), None);
        assert_eq!(slots.up(old), None);
        assert!(slots.asks(new) && !slots.asks(old));
        assert_eq!(slots.waiting(), []);
    }
}

// However long it had been missing before, and however it ended: a gateway that was there is back soon.
#[test]
fn a_tunnel_that_lived_ends_the_long_waits_also_where_its_gateway_left() {
    let mut slots = slots(1, 1);
    let mut attempt = begin(&mut slots)[0];
    for _ in 0..60 {
        slots.ended(attempt, Ended::Failed, LONGEST).expect("it is the latest");
        attempt = slots.begin(attempt).expect("it waits");
    }
    slots.up(attempt).expect("it is the latest");
    let hour = Duration::from_secs(3600);
    let (after, _) = slots.drains(attempt, 7, hour, LONGEST).expect("it is the latest");
    let next = slots.begin(after).expect("it needs no wait");
    let wait = slots.ended(next, Ended::Failed, LONGEST).expect("it is the latest").wait;
    assert!(wait <= Duration::from_millis(RECONNECT_EARLY_MAX_MS), "{wait:?}");
}

// Two slots would send each other off without any wait.
#[test]
fn who_lost_a_tunnel_is_not_sent_off_by_another_that_comes_up() {
    let mut slots = slots(1, 3);
    let [a, b, c] = begin(&mut slots)[..] else { panic!("three slots") };
    for attempt in [a, b] {
        slots.up(attempt).expect("it is the latest");
    }
    slots.drains(a, 7, Duration::ZERO, LONGEST).expect("it is the latest");
    slots.ended(b, lost(), LONGEST).expect("it is the latest");
    assert_eq!(slots.up(c).expect("it is the latest").waiting, []);
}

// It would be dialed without end.
#[test]
fn a_gateway_that_leaves_as_soon_as_it_is_there_is_waited_for() {
    let mut slots = slots(1, 1);
    let mut attempt = begin(&mut slots)[0];
    for instance in 1..=1000 {
        assert!(slots.up(attempt).is_some());
        let short = Duration::from_millis(RECONNECT_QUICK_LIVED_MS - 1) / 1000;
        let (after, then) = slots.drains(attempt, instance, short, LONGEST).expect("it is the latest");
        assert!(then.wait > Duration::ZERO, "{instance}");
        attempt = slots.begin(after).expect("it waits");
        assert!(attempt.returns && attempt.instance == instance, "{attempt:?}");
    }
    let mut wait = || slots.drains(attempt, 0, Duration::ZERO, LONGEST).expect("it is the latest").1.wait;
    assert!(wait() > Duration::from_secs(20), "such a gateway is tried more and more rarely");
}

#[test]
fn one_tunnel_of_each_gateway_asks_for_ports() {
    let mut slots = slots(2, 4);
    let attempts = begin(&mut slots);
    assert_eq!(gateways(&attempts), [0, 1, 0, 1]);
    let asks: Vec<bool> = [2, 1, 0, 3].map(|i| slots.up(attempts[i]).expect("the latest").asks).into();
    assert_eq!(asks, [true, true, false, false]);
    assert!(slots.asks(attempts[2]) && !slots.asks(attempts[0]));
    // The other of the two goes on; one that did not ask changes nothing.
    let after = slots.ended(attempts[2], lost(), LONGEST).expect("it is the latest");
    assert_eq!(after.asks, Some(0));
    let after = slots.ended(attempts[3], lost(), LONGEST).expect("it is the latest");
    assert_eq!(after.asks, None);
    let after = slots.ended(attempts[1], lost(), LONGEST).expect("it is the latest");
    assert_eq!(after.asks, None, "nobody is there");
    let again = begin(&mut slots);
    for attempt in again {
        let up = slots.up(attempt).expect("it is the latest");
        // Slot 0 asks the gateway 0; of those that come back the first at the other one does.
        assert_eq!(up.asks, attempt.slot == 1, "{attempt:?}");
    }
}

/// A client before gateways that come and go, on a clock of its own: every draw is another, and a dial takes no time.
struct World {
    slots: Slots,
    there: Vec<bool>,
    now: Duration,
    /// When which waits are over.
    due: Vec<(Duration, Vec<Attempt>)>,
    up: Vec<(Duration, Attempt)>,
    /// Every attempt so far: when, and its gateway.
    dials: Vec<(Duration, usize)>,
    draws: fastrand::Rng,
}

impl World {
    fn new(there: &[bool], count: u64, seed: u64) -> World {
        let slots = slots(there.len(), count);
        let due = slots.waiting().into_iter().map(|after| (Duration::ZERO, vec![after])).collect();
        let (there, draws) = (there.to_vec(), fastrand::Rng::with_seed(seed));
        World { slots, there, now: Duration::ZERO, due, up: vec![], dials: vec![], draws }
    }

    fn then(&mut self, attempt: Attempt, after: After) {
        let next = [attempt].into_iter().chain(after.waiting).collect();
        self.due.push((self.now + after.wait, next));
    }

    fn runs(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(next) = (0..self.due.len()).min_by_key(|&i| self.due[i].0)
            && self.due[next].0 <= end
        {
            let (now, waiting) = self.due.remove(next);
            self.now = now;
            let begun: Vec<_> = waiting.into_iter().filter_map(|after| self.slots.begin(after)).collect();
            for attempt in begun {
                self.dials.push((now, attempt.gateway));
                if self.there[attempt.gateway] {
                    let up = self.slots.up(attempt).expect("it is the latest");
                    self.up.push((now, attempt));
                    self.due.push((now, up.waiting));
                } else {
                    let ended = self.slots.ended(attempt, Ended::Failed, self.draws.u32(..));
                    self.then(attempt, ended.expect("it is the latest"));
                }
            }
        }
        self.now = end;
    }

    /// The gateway is gone, and its tunnels are; or it has said so before.
    fn goes(&mut self, gateway: usize, says_so: bool) {
        self.there[gateway] = false;
        let (gone, stay) = self.up.drain(..).partition(|(_, attempt)| attempt.gateway == gateway);
        self.up = stay;
        for (since, attempt) in Vec::from_iter::<Vec<_>>(gone) {
            let (lived, random) = (self.now - since, self.draws.u32(..));
            let (next, after) = match says_so {
                true => self.slots.drains(attempt, random.into(), lived, random).expect("it is the latest"),
                false => {
                    let ended = self.slots.ended(attempt, Ended::Lost { lived }, random);
                    (attempt, ended.expect("it is the latest"))
                }
            };
            self.then(next, after);
        }
    }

    /// The gateways dialed since then, in order.
    fn dialed(&self, since: Duration) -> Vec<usize> {
        self.dials.iter().filter(|(at, _)| *at >= since).map(|(_, gateway)| *gateway).collect()
    }
}

const QUICK: Duration = Duration::from_millis(RECONNECT_QUICK_MAX_MS);
const EARLY: Duration = Duration::from_millis(RECONNECT_EARLY_MAX_MS);

// A gateway that had been away, and was back, was not dialed for half a minute, and the one that had gone all the time.
#[test]
fn a_gateway_that_is_back_is_found_when_the_last_tunnel_is_lost() {
    for (seed, says_so) in (0..100).map(|seed| (seed, seed % 2 == 0)) {
        for (gateways, replicas) in [(2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (3, 5)] {
            let mut there = vec![false; gateways];
            there[0] = true;
            let mut world = World::new(&there, replicas, seed);
            world.runs(300);
            let (left, back) = (world.now, gateways - 1);
            world.there[back] = true;
            world.goes(0, says_so);
            world.runs(60);
            let found = world.up.iter().map(|(since, _)| *since - left).min();
            // Back where it was, and then to each of the others, with no other slot to help.
            let most = QUICK + EARLY * u32::try_from(gateways - 1).expect("a few");
            let story = (gateways, replicas, says_so, seed);
            assert!(found.is_some_and(|found| found <= most), "{story:?}: {found:?}");
            if says_so {
                let first = world.dialed(left)[0];
                assert_ne!(first, 0, "{story:?}: the successor goes to the gateway that leaves");
            }
            assert!(world.up.iter().all(|(_, attempt)| attempt.gateway == back), "{story:?}");
            assert_eq!(world.slots.waiting().len() + world.up.len(), replicas as usize);
        }
    }
}

// It may be that nothing answers where the tunnel was lost, for as long as a connect takes.
#[test]
fn who_dials_again_after_the_last_loss_does_not_dial_alone() {
    for (lived, is_woken) in [(LONG, true), (LONG - Duration::from_millis(1), false)] {
        let mut slots = slots(3, 4);
        let attempts = begin(&mut slots);
        assert_eq!(gateways(&attempts), [0, 1, 2, 0]);
        slots.ended(attempts[3], Ended::Failed, LONGEST).expect("it is the latest");
        slots.up(attempts[0]).expect("it is the latest");
        for attempt in &attempts[1..3] {
            slots.ended(*attempt, Ended::Failed, LONGEST).expect("it is the latest");
        }
        let waiting = slots.ended(attempts[0], Ended::Lost { lived }, LONGEST).expect("the latest").waiting;
        // One for each other gateway.
        let woken = if is_woken { &attempts[1..3] } else { &[] };
        assert_eq!(waiting, woken);
        let next = [attempts[0]].into_iter().chain(waiting);
        let next: Vec<_> = next.map(|after| slots.begin(after).expect("it waits")).collect();
        assert_eq!(gateways(&next), if is_woken { vec![0, 1, 2] } else { vec![0] });
    }
    // Nor is anybody sent off while there is another tunnel, or to the gateway that was lost.
    for (gateways_count, is_other_up) in [(1, false), (3, true)] {
        let mut slots = slots(gateways_count, 3);
        let [a, b, c] = begin(&mut slots)[..] else { panic!("three slots") };
        slots.up(a).expect("it is the latest");
        slots.ended(b, Ended::Failed, LONGEST).expect("it is the latest");
        match is_other_up {
            true => assert!(slots.up(c).is_some()),
            false => assert!(slots.ended(c, Ended::Failed, LONGEST).is_some()),
        }
        assert_eq!(slots.ended(a, lost(), LONGEST).expect("it is the latest").waiting, []);
    }
}

// proves S-57 (policy): what is gone for good is dialed as rarely as if each slot were alone, and each gateway in turn
#[test]
fn gateways_that_are_gone_are_not_dialed_more_often_for_being_several() {
    for (gateways, replicas) in [(1, 1), (1, 4), (2, 2), (3, 3)] {
        let mut world = World::new(&vec![true; gateways], replicas, 7);
        world.runs(300);
        for gateway in 0..gateways {
            world.goes(gateway, gateway % 2 == 1);
        }
        let left = world.now;
        world.runs(3600);
        let mut alone = World::new(&[true], 1, 8);
        alone.runs(300);
        alone.goes(0, false);
        alone.runs(3600);
        let (dials, want) = (world.dialed(left).len(), alone.dials.len() * replicas as usize);
        assert!(dials < want * 5 / 4, "{gateways}, {replicas}: {dials} dials, {want} by as many clients");
        for gateway in 0..gateways {
            let times: Vec<_> = world.dials.iter().filter(|(_, dialed)| *dialed == gateway).collect();
            let most = Duration::from_millis(RECONNECT_WAIT_MAX_MS);
            let late = times.windows(2).find(|pair| pair[0].0 >= left && pair[1].0 - pair[0].0 > most);
            assert_eq!(late, None, "{gateways}, {replicas}: {gateway} is dialed again");
        }
    }
}

// The one that is missing is the matter of few.
#[test]
fn a_gateway_that_is_gone_is_not_dialed_by_all_while_another_is_there() {
    for (replicas, most_there) in [(2, 1), (3, 2), (5, 3)] {
        let mut world = World::new(&[true, true], replicas, 7);
        world.runs(300);
        world.goes(0, false);
        world.runs(3600);
        assert_eq!(world.up.len(), most_there, "{replicas}");
        assert_eq!(world.slots.waiting().len(), replicas as usize - most_there);
    }
}
