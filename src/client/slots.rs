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
//!   are several; of those that are as good, to the one that has failed least lately. While a tunnel is up, a slot that waits counts
//!   where it last went: one gateway that is missing is not dialed by all. While none is up it counts nowhere, because to wait
//!   for a gateway is no reason why another slot should not find it.
//! * The first tunnel that comes up sends every slot off at once whose latest attempt failed: what was missing is back. A slot that had
//!   a tunnel and lost it waits all the same, or two that lose theirs as soon as they are up would send each other off for ever.
//! * The loss of the last tunnel that is up, after some time, also ends waits: of those whose latest attempt failed at another gateway,
//!   one for each gateway, and not before the slot that lost it goes. Their back-off stays, and one of them that finds its
//!   gateway sends off the others.
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
    /// The attempts after which others wait; they need not wait any more once the next attempt has begun.
    pub(super) waiting: Vec<Attempt>,
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
}

/// The slots of a client.
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// By gateway: the slot that asks for ports. Invariant: it is up, at that gateway.
    asking: Vec<Option<usize>>,
    /// By gateway: the number of the latest attempt that came to nothing there, or of its leaving; 0 where a tunnel came up since.
    failed: Vec<u64>,
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
        };
        let slots = instances.into_iter().enumerate().map(slot).collect();
        Slots { slots, asking: vec![None; gateways], failed: vec![0; gateways], attempts: 0 }
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
        self.failed[attempt.gateway] = 0;
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
        slot.latest.returns = matches!(ended, Ended::Lost { .. });
        let wait = slot.reconnect.wait(ended, random);
        let waiting = match ended {
            Ended::Lost { lived } => self.missed(attempt, lived),
            Ended::Failed | Ended::Refused => {
                let failed = &mut self.failed[attempt.gateway];
                *failed = attempt.number.max(*failed);
                Vec::new()
            }
        };
        Some(After { wait, asks: self.hand_on(attempt), waiting })
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
        slot.latest.instance = instance;
        slot.latest.generation = 0;
        slot.latest.returns = true;
        // Another number at once, so that nothing that is still said of the old tunnel is taken for the next one's.
        self.attempts += 1;
        let number = self.attempts;
        let slot = &mut self.slots[attempt.slot];
        slot.latest.number = number;
        let next = slot.latest;
        self.failed[attempt.gateway] = number;
        Some((next, After { wait, asks: self.hand_on(attempt), waiting: self.missed(attempt, lived) }))
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

    fn is_any_up(&self) -> bool {
        self.slots.iter().any(|slot| slot.phase == Phase::Up)
    }

    /// The tunnel of this attempt is up no longer, after `lived`: who need not wait any more, because no other is up either.
    fn missed(&self, attempt: Attempt, lived: Duration) -> Vec<Attempt> {
        if self.is_any_up() || lived < Duration::from_millis(RECONNECT_QUICK_LIVED_MS) {
            return Vec::new();
        }
        let failed = self.failed();
        let first = |gateway| failed.iter().find(|after| after.gateway == gateway).copied();
        (0..self.asking.len()).filter(|&gateway| gateway != attempt.gateway).filter_map(first).collect()
    }

    fn choose(&self, index: usize) -> usize {
        let gateways = self.asking.len();
        let Attempt { gateway: last, .. } = self.slots[index].latest;
        // It waits itself, so that one that is up is another.
        let is_any_up = self.is_any_up();
        let others = |gateway| {
            let others = self.slots.iter().enumerate().filter(|(other, _)| *other != index);
            let counts = |slot: &Slot| is_any_up || slot.phase == Phase::Dialing;
            others.filter(|(_, slot)| slot.latest.gateway == gateway && counts(slot)).count()
        };
        let cost = |&gateway: &usize| {
            // The next one in the circle, so that a slot that fails comes round to each.
            let steps = (gateway + gateways - last) % gateways;
            (others(gateway), self.failed[gateway], steps)
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
mod tests;
