//! The hand-over: how the lead of a poll passes from one worker thread to another.
//!
//! The lead is a box that exists once. While its holder runs a callback, it lies in a slot; whoever takes it out leads.
//!
//! ```text
//!              lend(hinted)                  reclaim: Kept
//!    Held ──────────────────▶ Lent, run n ─────────────────▶ Held (by the same thread)
//!     ▲                           │
//!     └─── stand_in, by another ──┘     reclaim: Lost (the former holder finishes its callback and stands by)
//!
//!    announce (the callback itself) ─┐
//!                                    ├─▶ wanted = n ─▶ Ask: one stand-in is called ─▶ stand_in: wanted = 0, and the
//!    suspect (the monitor)          ─┘                 Asked: it is on its way          lead, if run n still lasts
//! ```
//! * A holder pays one swap before a callback and one after it; the rest is loads and stores of its own cache line.
//! * The *run number* changes with every callback, so the monitor sees whether it is still the same one, without
//!   touching the lead. Only the holder writes it.
//! * A stand-in that comes late, when the callback that it was called for has ended, takes nothing.
//! * Whoever wants the lead handed on while a stand-in is on its way leaves the number of its run, and the stand-in
//!   finds it. So nobody who announces that it will block keeps the lead, and nobody calls two stand-ins.
//!
//! The loom tests (`handover/loom_tests.rs`) run the interleavings of a leader, a monitor and a stand-in.

use crate::sync::atomic::{AtomicU64, Ordering};

use crate::limits;

const LENT: u64 = 1 << 0;
const HINTED: u64 = 1 << 1;
const FLAGS: u64 = LENT | HINTED;
/// One callback more.
const ONE: u64 = 1 << 2;

/// Names one callback of one poll: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run(u64);

impl Run {
    /// No callback. The word of a callback is never zero.
    pub(crate) const NONE: Run = Run(0);

    /// The callback belongs to a listener or a dialer whose callbacks have blocked before.
    pub(crate) fn is_hinted(self) -> bool {
        self.0 & HINTED != 0
    }
}

/// The verdict of [`Handover::reclaim`].
#[must_use = "the lead is in it"]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reclaim<T> {
    /// Nobody has taken the lead.
    Kept(Box<T>),
    /// Another thread leads. `suspected`: because the monitor found this callback to block.
    Lost { suspected: bool },
}

/// The verdict of [`Handover::announce`] and [`Handover::suspect`].
#[must_use = "a stand-in that is not called never comes"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The caller calls one worker, which calls [`Handover::stand_in`].
    Ask,
    /// One is on its way, or none is wanted any more.
    Asked,
}

/// One lead and its slot.
pub(crate) struct Handover<T> {
    slot: Slot<T>,
    /// The number of the callback, and whether it lasts. Written by the holder of the lead alone.
    run: AtomicU64,
    /// The run for which a stand-in is on its way, or zero.
    wanted: AtomicU64,
    /// The runs that the monitor found to block, each in the place that its number gives it: many may block at once. One that
    /// another pushes out is not told that it was found.
    suspects: [AtomicU64; limits::SUSPECTS_MAX],
}

impl<T> Handover<T> {
    /// The lead waits for its first holder, which has been called.
    pub(crate) fn new(lead: Box<T>) -> Handover<T> {
        let slot = Slot::new();
        slot.put(lead);
        Handover {
            slot,
            run: AtomicU64::new(LENT),
            wanted: AtomicU64::new(LENT),
            suspects: std::array::from_fn(|_| AtomicU64::new(Run::NONE.0)),
        }
    }

    /// The holder puts the lead down for the length of a callback.
    #[inline]
    pub(crate) fn lend(&self, lead: Box<T>, hinted: bool) -> Run {
        let held = self.run.load(Ordering::Relaxed);
        debug_assert_eq!(held & FLAGS, 0, "only a held lead can be put down");
        let run = held.wrapping_add(ONE) | LENT | if hinted { HINTED } else { 0 };
        // Before the slot is filled: who finds the lead there finds this number or a later one.
        self.run.store(run, Ordering::Relaxed);
        self.slot.put(lead);
        Run(run)
    }

    /// The callback has returned.
    #[inline]
    pub(crate) fn reclaim(&self, run: Run) -> Reclaim<T> {
        // A lead that lies there for somebody else's callback is left where it is: that one is about to come back.
        if self.run.load(Ordering::Relaxed) == run.0
            && let Some(lead) = self.take()
        {
            return Reclaim::Kept(lead);
        }
        Reclaim::Lost { suspected: self.suspect_at(run).load(Ordering::Acquire) == run.0 }
    }

    /// The callback is going to block, or to take long.
    pub(crate) fn announce(&self, run: Run) -> Call {
        match self.wanted.swap(run.0, Ordering::AcqRel) {
            0 => Call::Ask,
            _ => Call::Asked,
        }
    }

    /// The monitor has found this callback to block, or to take long.
    pub(crate) fn suspect(&self, run: Run, blocks: bool) -> Call {
        // A callback that has ended meanwhile needs nobody, and neither does one that announces itself: the look at its thread
        // may have found it waiting for the next event.
        if self.run.load(Ordering::Relaxed) != run.0 || self.wanted.load(Ordering::Relaxed) != 0 {
            return Call::Asked;
        }
        if blocks {
            // Before the call, so that the callback that loses the lead finds why.
            self.suspect_at(run).store(run.0, Ordering::Release);
        }
        match self.wanted.compare_exchange(0, run.0, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Call::Ask,
            Err(_) => Call::Asked,
        }
    }

    /// The worker that was called takes the lead, if the callback that it is wanted for still runs.
    pub(crate) fn stand_in(&self) -> Option<Box<T>> {
        // Before the look into the slot: who wants the lead handed on after this calls again.
        let wanted = self.wanted.swap(0, Ordering::AcqRel);
        if self.run.load(Ordering::Relaxed) == wanted { self.take() } else { None }
    }

    /// The callback that runs now, with the lead in the slot.
    pub(crate) fn look(&self) -> Option<Run> {
        let run = self.run.load(Ordering::Acquire);
        (run & LENT != 0).then_some(Run(run))
    }

    /// Callbacks that have been run with the lead in the slot.
    pub(crate) fn runs(&self) -> u64 {
        self.run.load(Ordering::Relaxed) / ONE
    }

    fn suspect_at(&self, run: Run) -> &AtomicU64 {
        &self.suspects[(run.0 / ONE) as usize % limits::SUSPECTS_MAX]
    }

    fn take(&self) -> Option<Box<T>> {
        let lead = self.slot.take()?;
        // The number as the last holder left it, which this thread sees because it has taken what that one put down.
        let run = self.run.load(Ordering::Relaxed);
        self.run.store(run & !FLAGS, Ordering::Relaxed);
        Some(lead)
    }
}

/// A place for one box that threads exchange for its absence in one step.
#[cfg(not(poller_loom))]
struct Slot<T>(crate::sync::AtomicCell<Option<Box<T>>>);

#[cfg(not(poller_loom))]
impl<T> Slot<T> {
    fn new() -> Slot<T> {
        #[cfg(not(any(poller_shuttle, miri)))]
        const {
            assert!(crate::sync::AtomicCell::<Option<Box<T>>>::is_lock_free())
        };
        Slot(crate::sync::AtomicCell::new(None))
    }

    #[inline]
    fn put(&self, lead: Box<T>) {
        let former = self.0.swap(Some(lead));
        debug_assert!(former.is_none(), "the lead exists once");
    }

    #[inline]
    fn take(&self) -> Option<Box<T>> {
        self.0.take()
    }
}

#[cfg(poller_loom)]
use loom_tests::Slot;

#[cfg(all(test, not(poller_loom)))]
mod tests {
    use super::*;

    fn held() -> (Handover<u8>, Box<u8>) {
        let handover = Handover::new(Box::new(7));
        assert!(handover.look().is_some());
        let lead = handover.stand_in().expect("it waits for its first holder");
        assert_eq!((handover.look(), handover.runs()), (None, 0));
        (handover, lead)
    }

    #[test]
    fn a_lead_that_nobody_wants_comes_back() {
        let (handover, mut lead) = held();
        for n in 1..5 {
            let run = handover.lend(lead, n == 3);
            assert_eq!((handover.look(), run.is_hinted()), (Some(run), n == 3));
            assert_eq!(handover.runs(), n);
            let Reclaim::Kept(kept) = handover.reclaim(run) else { panic!("nobody took it") };
            assert_eq!(handover.look(), None);
            lead = kept;
        }
    }

    #[test]
    fn who_announces_itself_loses_the_lead_to_one_stand_in() {
        let (handover, lead) = held();
        let run = handover.lend(lead, false);
        assert_eq!(handover.announce(run), Call::Ask);
        assert_eq!(handover.announce(run), Call::Asked);
        assert_eq!(handover.suspect(run, true), Call::Asked);
        let lead = handover.stand_in().expect("it is wanted");
        assert!(handover.stand_in().is_none());
        let next = handover.lend(lead, false);
        assert_ne!(next, run);
        assert_eq!(handover.reclaim(run), Reclaim::Lost { suspected: false });
        assert_eq!(handover.look(), Some(next), "the lead of another callback stays where it is");
        assert_eq!(handover.reclaim(next), Reclaim::Kept(Box::new(7)));
    }

    #[test]
    fn callbacks_that_block_at_once_are_each_told_that_they_were_found() {
        let (handover, mut lead) = held();
        let mut blocked = Vec::new();
        for _ in 0..limits::SUSPECTS_MAX {
            let run = handover.lend(lead, true);
            assert_eq!(handover.suspect(run, true), Call::Ask);
            blocked.push(run);
            lead = handover.stand_in().expect("it is wanted");
        }
        for run in blocked {
            assert_eq!(handover.reclaim(run), Reclaim::Lost { suspected: true });
        }
        let busy = handover.lend(lead, true);
        assert_eq!(handover.suspect(busy, false), Call::Ask);
        assert!(handover.stand_in().is_some());
        assert_eq!(handover.reclaim(busy), Reclaim::Lost { suspected: false }, "it only took long");
    }

    #[test]
    fn a_stand_in_that_comes_late_takes_nothing() {
        let (handover, lead) = held();
        let run = handover.lend(lead, false);
        assert_eq!(handover.suspect(run, true), Call::Ask);
        let Reclaim::Kept(lead) = handover.reclaim(run) else { panic!("nobody took it") };
        let next = handover.lend(lead, false);
        assert!(handover.stand_in().is_none());
        assert_eq!(handover.suspect(run, true), Call::Asked, "it has ended: nobody is called");
        // Called for one callback, and wanted by the next before it came.
        assert_eq!(handover.announce(next), Call::Ask);
        let Reclaim::Kept(lead) = handover.reclaim(next) else { panic!("nobody took it") };
        let last = handover.lend(lead, false);
        assert_eq!(handover.announce(last), Call::Asked);
        let lead = handover.stand_in().expect("the later one is found");
        assert_eq!(handover.reclaim(last), Reclaim::Lost { suspected: false });
        let last = handover.lend(lead, false);
        assert_eq!(handover.suspect(last, true), Call::Ask);
        assert!(handover.stand_in().is_some());
        assert_eq!(handover.reclaim(last), Reclaim::Lost { suspected: true });
    }
}

#[cfg(all(test, poller_loom))]
mod loom_tests;
