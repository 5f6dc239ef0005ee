//! The interleavings of a leader, a monitor and a stand-in (preemption bound 3).

use super::*;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Mutex};

/// The slot with the orderings of the real one. The flag is what threads exchange; the box beside it may be touched
/// by the one who won the exchange, so a lock that is found taken is a fault.
pub(super) struct Slot<T> {
    full: AtomicUsize,
    lead: Mutex<Option<Box<T>>>,
}

impl<T> Slot<T> {
    pub(super) fn new() -> Slot<T> {
        Slot { full: AtomicUsize::new(0), lead: Mutex::new(None) }
    }

    pub(super) fn put(&self, lead: Box<T>) {
        let former = self.lead.try_lock().expect("one holder at a time").replace(lead);
        assert!(former.is_none(), "the lead exists once");
        assert_eq!(self.full.swap(1, Ordering::AcqRel), 0, "the lead exists once");
    }

    pub(super) fn take(&self) -> Option<Box<T>> {
        match self.full.swap(0, Ordering::AcqRel) {
            0 => None,
            _ => Some(self.lead.try_lock().expect("one holder at a time").take().expect("it lies there")),
        }
    }
}

/// What the lead stands for. Turns are counted without a lock, by whoever leads.
struct Turns(usize);

struct Model {
    handover: Handover<Turns>,
    /// Stand-ins that were called and have not come.
    called: AtomicUsize,
    /// Where a thread leaves the lead that it holds at its end.
    held: Mutex<Option<Box<Turns>>>,
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

impl Model {
    fn new() -> (Arc<Model>, Box<Turns>) {
        let handover = Handover::new(Box::new(Turns(0)));
        let lead = handover.stand_in().expect("born in the slot");
        (Arc::new(Model { handover, called: AtomicUsize::new(0), held: Mutex::new(None) }), lead)
    }

    fn call(&self, call: Call) {
        if call == Call::Ask {
            let waiting = self.called.fetch_add(1, Ordering::AcqRel);
            assert_eq!(waiting, 0, "one stand-in is on its way at a time");
        }
    }

    /// A worker that comes if it was called, and then runs a callback of its own, which returns.
    fn stand_in(&self) {
        // The call is counted off first: from here on the next one may be made.
        if self.called.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            && let Some(lead) = self.handover.stand_in()
        {
            self.callback(lead);
        }
    }

    fn callback(&self, mut lead: Box<Turns>) {
        lead.0 += 1;
        let run = self.handover.lend(lead, false);
        if let Reclaim::Kept(lead) = self.handover.reclaim(run) {
            self.hold(lead);
        }
    }

    fn hold(&self, lead: Box<Turns>) {
        assert!(self.held.lock().expect("no panic").replace(lead).is_none(), "the lead exists once");
    }

    /// At the end the lead is held by somebody or lies in the slot.
    fn turns(&self) -> usize {
        let held = self.held.lock().expect("no panic").take();
        let lent = self.handover.slot.take();
        assert!(held.is_some() != lent.is_some(), "the lead exists once");
        held.or(lent).expect("just seen").0
    }
}

// proves L-10 (the lead is nowhere twice and never lost)
#[test]
fn loom_a_leader_comes_back_while_it_is_suspected_and_relieved() {
    check(|| {
        let (model, lead) = Model::new();
        let leader = loom::thread::spawn({
            let model = model.clone();
            move || {
                let run = model.handover.lend(lead, false);
                if let Reclaim::Kept(lead) = model.handover.reclaim(run) {
                    model.callback(lead);
                }
            }
        });
        let monitor = loom::thread::spawn({
            let model = model.clone();
            move || {
                if let Some(run) = model.handover.look() {
                    model.call(model.handover.suspect(run, true));
                }
            }
        });
        model.stand_in();
        leader.join().expect("no panic");
        monitor.join().expect("no panic");
        model.stand_in();
        assert!(model.turns() >= 1);
    });
}

// proves L-10: whoever announces that it will block does not keep the lead, however late earlier stand-ins come
#[test]
fn loom_a_callback_that_announces_itself_does_not_strand_the_lead() {
    check(|| {
        let (model, lead) = Model::new();
        let leader = loom::thread::spawn({
            let model = model.clone();
            move || {
                let first = model.handover.lend(lead, false);
                model.call(model.handover.announce(first));
                if let Reclaim::Kept(lead) = model.handover.reclaim(first) {
                    // This one never returns.
                    let second = model.handover.lend(lead, true);
                    model.call(model.handover.announce(second));
                }
            }
        });
        let worker = loom::thread::spawn({
            let model = model.clone();
            move || model.stand_in()
        });
        model.stand_in();
        leader.join().expect("no panic");
        worker.join().expect("no panic");
        // Whoever is still on its way comes.
        model.stand_in();
        assert!(model.handover.slot.take().is_none(), "nobody leads, and nobody comes");
        assert!(model.held.lock().expect("no panic").is_some());
    });
}

// proves L-10 with the monitor, an announcement and a stand-in at once
#[test]
fn loom_monitor_and_announcement_call_one_stand_in() {
    check(|| {
        let (model, lead) = Model::new();
        let leader = loom::thread::spawn({
            let model = model.clone();
            move || {
                let run = model.handover.lend(lead, false);
                model.call(model.handover.announce(run));
            }
        });
        let monitor = loom::thread::spawn({
            let model = model.clone();
            move || {
                if let Some(run) = model.handover.look() {
                    model.call(model.handover.suspect(run, true));
                }
            }
        });
        model.stand_in();
        leader.join().expect("no panic");
        monitor.join().expect("no panic");
        model.stand_in();
        assert!(model.handover.slot.take().is_none(), "the callback blocks for ever, and nobody comes");
        assert_eq!(model.turns(), 1);
    });
}
