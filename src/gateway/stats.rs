//! How it goes, in one line now and then: what a person or a script watches instead of every access line.
//!
//! ```text
//!   every stream's end ──▶ counters ── every STATS_MS, if anything has changed ──▶ event=stats
//!                                          └── many of them timed out ──▶ at WARN
//! ```
//! `conn_tot ok timeouts` count from the start of the process, so that a lost line does no harm; `latency_ms` is the mean of the
//! interval, from the request to the target's first byte. What the tunnels counted and who was turned away at their port is there
//! besides. A gateway on which nothing happens says nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Shared;
use crate::limits::{STATS_ALARM_PERCENT_MIN, STATS_ALARM_STREAMS_MIN, STATS_MS};
use crate::record::{AccessRecord, Who};
use crate::tunnel::Tally;

/// What has ended so far, in counters that grow.
#[derive(Debug, Default)]
pub(super) struct Stats {
    ended: AtomicU64,
    ok: AtomicU64,
    timeouts: AtomicU64,
    answered: AtomicU64,
    latency_us: AtomicU64,
    /// As they were when the last line was written.
    said: Mutex<Said>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    beside: Beside,
    counts: Counts,
}

/// What others know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Beside {
    /// Streams that are open.
    active: usize,
    /// What all tunnels counted.
    tally: Tally,
    /// Who was turned away at the tunnels' port.
    strangers: u64,
    /// Clients that broke the protocol.
    faults: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    ended: u64,
    ok: u64,
    timeouts: u64,
    answered: u64,
    latency_us: u64,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    beside: Beside,
    counts: Counts,
    latency_ms: u64,
    alarm: bool,
}

impl Stats {
    /// A stream has ended.
    pub(super) fn note(&self, record: &AccessRecord) {
        let add = |counter: &AtomicU64, by| counter.fetch_add(by, Ordering::Relaxed);
        add(&self.ended, 1);
        match record.end.who {
            Who::Normal => {
                add(&self.ok, 1);
            }
            Who::UserTimeout | Who::TargetTimeout | Who::TunnelTimeout => {
                add(&self.timeouts, 1);
            }
            _ => {}
        }
        let timers = &record.timers;
        if let (Some(resolved), Some(connected), Some(first)) = (timers.td, timers.tc, timers.tfb) {
            add(&self.answered, 1);
            let micros = (resolved + connected + first).as_micros();
            add(&self.latency_us, u64::try_from(micros).unwrap_or(u64::MAX >> 20));
        }
    }

    /// The next line, if there is anything new to say.
    fn line(&self, beside: Beside) -> Option<Line> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = Counts {
            ended: read(&self.ended),
            ok: read(&self.ok),
            timeouts: read(&self.timeouts),
            answered: read(&self.answered),
            latency_us: read(&self.latency_us),
        };
        let said = std::mem::replace(&mut *self.said.lock(), Said { beside, counts });
        if said == (Said { beside, counts }) {
            return None;
        }
        let before = said.counts;
        let ended = counts.ended - before.ended;
        let timeouts = counts.timeouts - before.timeouts;
        let latency_us = counts.latency_us.saturating_sub(before.latency_us);
        let latency_ms = latency_us / 1000 / (counts.answered - before.answered).max(1);
        let alarm = ended >= STATS_ALARM_STREAMS_MIN && timeouts * 100 >= ended * STATS_ALARM_PERCENT_MIN;
        Some(Line { beside, counts, latency_ms, alarm })
    }
}

/// Writes a line now and then, until the event loop stops.
pub(super) fn watch(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    let again = move || {
        if let Some(shared) = weak.upgrade() {
            say(&shared);
            watch(&shared);
        }
    };
    if let Err(error) = shared.remote.after(Duration::from_millis(STATS_MS), again) {
        log::debug!(event = "stats"; "no more of them: {error}");
    }
}

fn say(shared: &Shared) {
    shared.registry.everybody().iter().for_each(|(_, _, tunnel)| shared.totals.take(tunnel));
    let beside = Beside {
        active: shared.registry.stream_count(),
        tally: shared.totals.get(),
        strangers: shared.refusals.total(),
        faults: shared.faults.total(),
    };
    let Some(line) = shared.stats.line(beside) else { return };
    let level = if line.alarm { log::Level::Warn } else { log::Level::Info };
    let words = if line.alarm { "many streams time out" } else { "" };
    let Counts { ended, ok, timeouts, .. } = line.counts;
    let Tally { refused, late, dgram_drop, ws_ctl, .. } = line.beside.tally;
    log::log!(level, event = "stats", v = 1, conns = line.beside.active, conn_tot = ended, ok, timeouts,
        latency_ms = line.latency_ms, tun = shared.registry.client_count(), log_drop = shared.access.dropped(),
        refused, late, dgram_drop, ws_ctl, strangers = line.beside.strangers, faults = line.beside.faults; "{words}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{End, Ingress, Phase, Proto};
    use std::time::SystemTime;

    fn ended(who: Who, tfb_ms: Option<u64>) -> AccessRecord {
        let end = End::new(who, Phase::Data, "x");
        let mut record = AccessRecord::new(SystemTime::UNIX_EPOCH, Proto::Connect, Ingress::Http, end);
        record.timers.td = Some(Duration::from_millis(1));
        record.timers.tc = Some(Duration::from_millis(2));
        record.timers.tfb = tfb_ms.map(Duration::from_millis);
        record
    }

    fn active(active: usize) -> Beside {
        Beside { active, ..Beside::default() }
    }

    // What the tunnels counted, and who was turned away, is news as well.
    #[test]
    fn a_line_comes_when_a_tunnel_counted_something_or_somebody_was_turned_away() {
        let stats = Stats::default();
        let late = Beside { tally: Tally { late: 1, ..Tally::default() }, ..Beside::default() };
        let turned_away = Beside { strangers: 1, ..late };
        let faulty = Beside { faults: 1, ..turned_away };
        for beside in [late, turned_away, faulty] {
            assert_eq!(stats.line(beside).map(|line| line.beside), Some(beside));
            assert_eq!(stats.line(beside), None, "that is known");
        }
    }

    // proves S-67: total, active, time-outs, successes and average latency; and silence while nothing happens
    #[test]
    fn a_line_has_the_totals_and_the_latency_of_its_interval() {
        let stats = Stats::default();
        assert_eq!(stats.line(active(0)), None);
        stats.note(&ended(Who::Normal, Some(7)));
        stats.note(&ended(Who::Normal, Some(27)));
        stats.note(&ended(Who::UserReset, None));
        stats.note(&ended(Who::TargetTimeout, None));
        let line = stats.line(active(3)).expect("there is news");
        let Counts { ended: count, ok, timeouts, .. } = line.counts;
        assert_eq!((line.beside.active, count, ok, timeouts, line.latency_ms), (3, 4, 2, 1, 20));
        assert_eq!(stats.line(active(3)), None, "that is known");
        let line = stats.line(active(2)).expect("one is gone");
        assert_eq!((line.beside.active, line.counts.ended, line.latency_ms), (2, 4, 0));
        stats.note(&ended(Who::Normal, Some(97)));
        let line = stats.line(active(2)).expect("there is news");
        assert_eq!((line.counts.ended, line.counts.ok, line.latency_ms), (5, 3, 100));
    }

    // proves S-67: the alarm
    #[test]
    fn many_time_outs_are_an_alarm() {
        #[track_caller]
        fn check(timeouts: u64, others: u64, alarm: bool) {
            let stats = Stats::default();
            for (who, count) in [(Who::UserTimeout, timeouts), (Who::Normal, others)] {
                (0..count).for_each(|_| stats.note(&ended(who, None)));
            }
            assert_eq!(
                stats.line(active(0)).map(|line| line.alarm),
                Some(alarm),
                "{timeouts} of {}",
                timeouts + others
            );
            // It is over when they are.
            stats.note(&ended(Who::Normal, None));
            assert_eq!(stats.line(active(0)).map(|line| line.alarm), Some(false));
        }
        let (streams, percent) = (STATS_ALARM_STREAMS_MIN, STATS_ALARM_PERCENT_MIN);
        check(streams, 0, true);
        check(streams - 1, 0, false);
        check(percent, 100 - percent, true);
        check(percent - 1, 101 - percent, false);
    }
}
