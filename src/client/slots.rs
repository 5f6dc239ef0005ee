//! Which tunnel goes to which gateway, and when it is tried again: decisions; no clock, no dice, no socket.
//!
//! A client keeps a number of tunnels. The place of one of them is a slot, and a slot is always in one of three phases:
//!
//! ```text
//!                begin                    up
//!   Waiting ───────────────▶ Dialing ───────────────▶ Up
//!      ▲                        │ ended                │ ended: lost, closed
//!      │                        ▼                      │ drains: the gateway is leaving
//!      └───────────────◀────────┴───────────◀──────────┘
//! ```
//! * Every attempt has a number. What is said of an attempt that is not its slot's latest is about a tunnel that was
//!   left behind, and changes nothing here.
//! * A slot goes to the gateway that has the fewest of the other slots, so that two go to different ones where there
//!   are several; after a failure it goes elsewhere if that is as good.
//! * The first tunnel that comes up sends every slot off at once whose latest attempt failed: what was missing is back. A slot that had
//!   a tunnel and lost it waits all the same, or two that lose theirs as soon as they are up would send each other off for ever.
//! * A gateway that is leaving has a successor at once, if it was there for some time: one that leaves as soon as it is there is
//!   waited for like a lost one. It is somebody else for a gateway (another instance), because who comes as the same one again
//!   takes the old tunnel's place, and its streams with it.
//! * Of the tunnels to one gateway one asks for the forwarded ports: the first that is up, and after it the next.

use std::time::Duration;

use super::reconnect::{Ended, Reconnect};
use crate::limits::RECONNECT_QUICK_LIVED_MS;

/// One attempt at a tunnel, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Whose it is.
    pub(super) slot: usize,
    /// Where it goes.
    pub(super) gateway: usize,
    /// Of all attempts of this process, from 1 on; 0 before the first.
    pub(super) number: u64,
    /// Who the client is, for that gateway.
    pub(super) instance: u64,
    /// The number of attempts with this instance: the newest takes the place of the others.
    pub(super) generation: u64,
    /// The first since the tunnel of its slot was lost, or left.
    pub(super) returns: bool,
}

/// What a tunnel that came up leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Up {
    /// It is the one to ask for ports.
    pub(super) asks: bool,
    /// The attempts after which others wait; they need not wait any more.
    pub(super) waiting: Vec<Attempt>,
}

/// What an end leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct After {
    /// The next attempt, not before this has passed.
    pub(super) wait: Duration,
    /// The slot that is to ask for ports now.
    pub(super) asks: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Dialing,
    Up,
}

struct Slot {
    latest: Attempt,
    phase: Phase,
    reconnect: Reconnect,
    /// The latest attempt failed, or its gateway is leaving.
    elsewhere: bool,
}

/// The slots of a client.
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// By gateway: the slot that asks for ports. Invariant: it is up, at that gateway.
    asking: Vec<Option<usize>>,
    attempts: u64,
}

impl Slots {
    /// A slot for each of these instances, which are different numbers; all of them wait for their first attempt.
    ///
    /// # Panics
    /// When there is no gateway.
    pub(super) fn new(gateways: usize, instances: impl IntoIterator<Item = u64>) -> Slots {
        assert!(gateways > 0, "a client has a gateway");
        let slot = |(slot, instance)| Slot {
            latest: Attempt {
                slot,
                gateway: slot % gateways,
                number: 0,
                instance,
                generation: 0,
                returns: false,
            },
            phase: Phase::Waiting,
            reconnect: Reconnect::new(),
            elsewhere: false,
        };
        let slots = instances.into_iter().enumerate().map(slot).collect();
        Slots { slots, asking: vec![None; gateways], attempts: 0 }
    }

    /// The attempts after which slots wait, which are none at all in the beginning.
    pub(super) fn waiting(&self) -> Vec<Attempt> {
        self.slots.iter().filter(|slot| slot.phase == Phase::Waiting).map(|slot| slot.latest).collect()
    }

    /// Of those, the attempts that came to nothing.
    fn failed(&self) -> Vec<Attempt> {
        self.waiting().into_iter().filter(|after| !after.returns).collect()
    }

    /// Whether a slot waits since this attempt.
    pub(super) fn waits(&self, after: Attempt) -> bool {
        self.current(after).is_some_and(|slot| slot.phase == Phase::Waiting)
    }

    /// The next attempt of a slot that waits since that one; `None` when it does not any more.
    pub(super) fn begin(&mut self, after: Attempt) -> Option<Attempt> {
        if !self.waits(after) {
            return None;
        }
        let gateway = self.choose(after.slot);
        self.attempts += 1;
        let slot = &mut self.slots[after.slot];
        slot.phase = Phase::Dialing;
        slot.latest.gateway = gateway;
        slot.latest.number = self.attempts;
        slot.latest.generation += 1;
        Some(slot.latest)
    }

    /// The tunnel is up; `None` when it was left behind meanwhile.
    pub(super) fn up(&mut self, attempt: Attempt) -> Option<Up> {
        let slot = self.current_mut(attempt)?;
        slot.phase = Phase::Up;
        slot.elsewhere = false;
        let asking = &mut self.asking[attempt.gateway];
        let asks = asking.is_none();
        if asks {
            *asking = Some(attempt.slot);
        }
        Some(Up { asks, waiting: self.failed() })
    }

    /// The attempt came to nothing, or its tunnel is gone; `None` when it was left behind before. `random` is any evenly
    /// drawn number.
    pub(super) fn ended(&mut self, attempt: Attempt, ended: Ended, random: u32) -> Option<After> {
        let slot = self.current_mut(attempt)?;
        slot.phase = Phase::Waiting;
        let was_up = matches!(ended, Ended::Lost { .. });
        slot.elsewhere = !was_up;
        slot.latest.returns = was_up;
        let wait = slot.reconnect.wait(ended, random);
        Some(After { wait, asks: self.hand_on(attempt) })
    }

    /// The gateway is leaving after `lived`, and so is the tunnel: the slot waits for its next attempt, as this instance; `None` when
    /// the tunnel was left behind before. `random` is any evenly drawn number.
    pub(super) fn drains(
        &mut self,
        attempt: Attempt,
        instance: u64,
        lived: Duration,
        random: u32,
    ) -> Option<(Attempt, After)> {
        let slot = self.current_mut(attempt)?;
        // Asked in either case: what the tunnel lived counts for the waits that follow.
        let wait = slot.reconnect.wait(Ended::Lost { lived }, random);
        let is_quick = lived >= Duration::from_millis(RECONNECT_QUICK_LIVED_MS);
        let wait = if is_quick { Duration::ZERO } else { wait };
        slot.phase = Phase::Waiting;
        slot.elsewhere = true;
        slot.latest.instance = instance;
        slot.latest.generation = 0;
        slot.latest.returns = true;
        // Another number at once, so that nothing that is still said of the old tunnel is taken for the next one's.
        self.attempts += 1;
        let number = self.attempts;
        let slot = &mut self.slots[attempt.slot];
        slot.latest.number = number;
        let next = slot.latest;
        Some((next, After { wait, asks: self.hand_on(attempt) }))
    }

    /// Whether this tunnel is the one that asks its gateway for ports.
    pub(super) fn asks(&self, attempt: Attempt) -> bool {
        self.current(attempt).is_some() && self.asking[attempt.gateway] == Some(attempt.slot)
    }

    /// Whoever asked for ports does so no longer: the slot that does now.
    fn hand_on(&mut self, attempt: Attempt) -> Option<usize> {
        if self.asking[attempt.gateway] != Some(attempt.slot) {
            return None;
        }
        let next =
            self.slots.iter().position(|s| s.phase == Phase::Up && s.latest.gateway == attempt.gateway);
        self.asking[attempt.gateway] = next;
        next
    }

    fn choose(&self, index: usize) -> usize {
        let gateways = self.asking.len();
        let Attempt { gateway: last, .. } = self.slots[index].latest;
        let elsewhere = self.slots[index].elsewhere;
        let others = |gateway| {
            let others = self.slots.iter().enumerate().filter(|(other, _)| *other != index);
            others.filter(|(_, slot)| slot.latest.gateway == gateway).count()
        };
        let cost = |&gateway: &usize| {
            // The next one in the circle, so that a slot that fails comes round to each.
            let steps = (gateway + gateways - last) % gateways;
            (others(gateway), elsewhere && gateway == last, steps)
        };
        (0..gateways).min_by_key(cost).expect("there is a gateway")
    }

    fn current(&self, attempt: Attempt) -> Option<&Slot> {
        self.slots.get(attempt.slot).filter(|slot| slot.latest.number == attempt.number)
    }

    fn current_mut(&mut self, attempt: Attempt) -> Option<&mut Slot> {
        self.slots.get_mut(attempt.slot).filter(|slot| slot.latest.number == attempt.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECONNECT_EARLY_MAX_MS;
    use crate::limits::RECONNECT_QUICK_MAX_MS;

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
        check(
            1,
            [(Refused, 99), (Refused, 199), (Refused, 399), (Failed, 219), (Refused, 219), (Refused, 439)],
        );
        // The other one may be restarting.
        check(
            2,
            [(Refused, 99), (Failed, 199), (Refused, 219), (Failed, 219), (Refused, 219), (Failed, 219)],
        );
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
            assert_eq!(then, After { wait: Duration::ZERO, asks: None });
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
}
