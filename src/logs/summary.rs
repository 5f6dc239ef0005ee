//! What is counted while a log is read.

use super::histogram::Histogram;
use super::parse::{Access, Fault, Line, Prefix};
use super::top::Top;
use crate::record::{Phase, Who};

/// Codes counted one by one: HTTP's and SOCKS5's are all below.
const CODES: usize = 1000;

/// The sum of everything read.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The earliest and the latest time seen, in milliseconds since 1970.
    pub span_ms: Option<(u64, u64)>,
    /// Access lines.
    pub access: u64,
    /// Payload bytes from the users.
    pub up: u64,
    /// Payload bytes to the users.
    pub down: u64,
    /// Total times, in milliseconds.
    pub tt: Histogram,
    /// Times to the first byte back, in milliseconds.
    pub tfb: Histogram,
    /// Targets, users, clients, reasons.
    pub tops: Tops,
    /// Events that are no access lines, by name.
    pub events: Top,
    /// Lines at WARN.
    pub warns: u64,
    /// Lines at ERROR.
    pub errors: u64,
    /// Lines that are not ours.
    pub faults: u64,
    /// The first of them: input, line number, fault.
    pub first_fault: Option<(String, u64, Fault)>,
    other_events: u64,
    ends: [[u64; Phase::ALL.len()]; Who::ALL.len()],
    codes: Box<[u64; CODES]>,
}

/// The tables of access lines.
#[derive(Clone, Debug, Default)]
pub struct Tops {
    /// By target.
    pub dst: Top,
    /// By user.
    pub user: Top,
    /// By client.
    pub via: Top,
    /// By reason.
    pub why: Top,
}

impl Default for Summary {
    fn default() -> Self {
        Summary {
            span_ms: None,
            access: 0,
            up: 0,
            down: 0,
            tt: Histogram::default(),
            tfb: Histogram::default(),
            tops: Tops::default(),
            events: Top::default(),
            warns: 0,
            errors: 0,
            faults: 0,
            first_fault: None,
            other_events: 0,
            ends: Default::default(),
            codes: Box::new([0; CODES]),
        }
    }
}

impl Summary {
    /// Counts a line of ours.
    pub fn add(&mut self, line: &Line<'_>) {
        match line {
            Line::Access(prefix, access) => {
                self.add_prefix(prefix);
                self.add_access(access);
            }
            Line::Event(prefix) => {
                self.add_prefix(prefix);
                self.other_events += 1;
                self.events.add(prefix.event, false, 0);
            }
        }
    }

    /// Counts a line that is not ours.
    pub fn add_fault(&mut self, name: &str, number: u64, fault: Fault) {
        self.faults += 1;
        self.first_fault.get_or_insert_with(|| (name.to_owned(), number, fault));
    }

    fn add_prefix(&mut self, prefix: &Prefix<'_>) {
        match prefix.level {
            b"WARN" => self.warns += 1,
            b"ERROR" => self.errors += 1,
            _ => {}
        }
        if let Some(ms) = prefix.time_ms {
            let (first, last) = self.span_ms.unwrap_or((ms, ms));
            // Lines of several threads or files need not be in order.
            self.span_ms = Some((first.min(ms), last.max(ms)));
        }
    }

    fn add_access(&mut self, access: &Access<'_>) {
        let (who, phase) = access.end;
        let bytes = access.up.saturating_add(access.down);
        let bad = !matches!(who, Who::Normal | Who::Local);
        self.access += 1;
        self.up = self.up.saturating_add(access.up);
        self.down = self.down.saturating_add(access.down);
        // A timer that was not reached says nothing about how long it takes.
        access.tt.into_iter().for_each(|ms| self.tt.record(ms));
        access.tfb.into_iter().for_each(|ms| self.tfb.record(ms));
        self.ends[who as usize][phase as usize] += 1;
        if let Some(count) = access.code.and_then(|code| self.codes.get_mut(usize::from(code))) {
            *count += 1;
        }
        self.tops.dst.add(access.dst, bad, bytes);
        self.tops.user.add(access.user, bad, bytes);
        self.tops.via.add(access.via, bad, bytes);
        self.tops.why.add(access.why, bad, bytes);
    }

    /// Lines that were ours.
    pub fn matched(&self) -> u64 {
        self.access + self.other_events
    }

    /// All lines but empty ones.
    pub fn lines(&self) -> u64 {
        self.matched() + self.faults
    }

    /// Access lines with this end code.
    pub fn ended(&self, who: Who, phase: Phase) -> u64 {
        self.ends[who as usize][phase as usize]
    }

    /// The end codes that occur, the most frequent first.
    pub fn ends(&self) -> Vec<(Who, Phase, u64)> {
        let all = Who::ALL.iter().flat_map(|&who| Phase::ALL.iter().map(move |&phase| (who, phase)));
        let counted = all.map(|(who, phase)| (who, phase, self.ended(who, phase)));
        let mut ends: Vec<_> = counted.filter(|(_, _, count)| *count > 0).collect();
        ends.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        ends
    }

    /// The status codes below 1000 that occur, in their order.
    pub fn codes(&self) -> impl Iterator<Item = (usize, u64)> {
        self.codes.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }
}
