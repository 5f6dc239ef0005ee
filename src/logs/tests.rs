//! Logs written by the program's own writer, and logs that nobody should write.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime};

use super::*;
use crate::limits::{LOG_VALUE_BYTES_MAX, REPORT_ROWS_MAX};
use crate::logfmt::Stamp;
use crate::record::{AccessRecord, End, Ingress, Phase, Proto, Text, Who};

/// Gives its bytes in pieces of one size.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.1.min(buf.len());
        self.0.read(&mut buf[..len])
    }
}

fn summarize(log: &[u8], piece: usize) -> Summary {
    let mut summary = Summary::default();
    scan("x.log", &mut Pieces(log, piece), &mut summary).expect("memory can be read");
    summary
}

fn random_record(rng: &mut fastrand::Rng, n: u64) -> AccessRecord {
    let who = *rng.choice(Who::ALL).expect("there are letters");
    let phase = *rng.choice(Phase::ALL).expect("there are letters");
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_168_800_000 + n * 10);
    let end = End::new(who, phase, if who == Who::Normal { "eof" } else { "rst" });
    let mut record = AccessRecord::new(time, Proto::Connect, Ingress::Http, end);
    record.conn_id = format!("c{n}").into();
    let hostile = ["db:5432", "a b=\"c\"", "x\nlevel=ERROR event=access", "\\", "\u{1b}[2J"];
    record.dst = Text::new(rng.choice(hostile).expect("there are names"));
    record.user = Text::new([b'u', rng.u8(b'0'..b'4')]);
    record.code = Some(*rng.choice([200, 403, 502].iter()).expect("there are codes"));
    record.up = rng.u64(0..1 << 40);
    record.down = rng.u64(0..1 << 40);
    let mut timer = || rng.bool().then(|| Duration::from_millis(rng.u64(0..100)));
    record.timers.tt = timer();
    record.timers.tfb = timer();
    record
}

// A log of 1,000 records: counts, bytes and end codes come back as they went in.
#[test]
fn what_was_written_is_what_is_read() {
    let mut rng = fastrand::Rng::with_seed(7);
    let records: Vec<_> = (0..1000).map(|n| random_record(&mut rng, n)).collect();
    let mut log = Vec::new();
    records.iter().for_each(|r| r.write_line(Stamp::Time, &mut log));

    for piece in [1, 7, 333, 4096, usize::MAX] {
        let s = summarize(&log, piece);
        assert_eq!((s.lines(), s.access, s.faults, s.errors), (1000, 1000, 0, 0), "piece {piece}");
        assert_eq!(s.up, records.iter().map(|r| r.up).sum::<u64>());
        assert_eq!(s.down, records.iter().map(|r| r.down).sum::<u64>());
        for &who in Who::ALL {
            for &phase in Phase::ALL {
                let want = records.iter().filter(|r| (r.end.who, r.end.phase) == (who, phase)).count();
                assert_eq!(s.ended(who, phase), want as u64, "{who:?} {phase:?}");
            }
        }
        let mut codes = HashMap::<usize, u64>::new();
        records.iter().for_each(|r| *codes.entry(r.code.unwrap_or(0).into()).or_default() += 1);
        assert_eq!(s.codes().collect::<HashMap<_, _>>(), codes);
        for (h, timers) in [
            (&s.tt, records.iter().map(|r| r.timers.tt).collect::<Vec<_>>()),
            (&s.tfb, records.iter().map(|r| r.timers.tfb).collect()),
        ] {
            // Timers that were not reached do not count.
            let mut ms: Vec<_> = timers.into_iter().flatten().map(|t| t.as_millis() as u64).collect();
            ms.sort_unstable();
            assert_eq!(h.total(), ms.len() as u64);
            assert_eq!(h.permille(500), Some(ms[ms.len().div_ceil(2) - 1]));
            assert_eq!(h.max(), ms.last().copied());
        }
        assert_eq!(s.tops.dst.len(), 5, "no value forged a line or another key");
        assert_eq!(s.span_ms, Some((1_795_168_800_000, 1_795_168_809_990)));
    }
}

#[track_caller]
fn check(log: impl AsRef<[u8]>, lines: u64, matched: u64, first_fault: Option<(u64, Fault)>) {
    for piece in [1, 2, 3, 1000, usize::MAX] {
        let s = summarize(log.as_ref(), piece);
        assert_eq!((s.lines(), s.matched()), (lines, matched), "piece {piece}");
        assert_eq!(s.first_fault.map(|(_, number, fault)| (number, fault)), first_fault, "piece {piece}");
    }
}

#[test]
fn lines_of_others_are_counted_by_number() {
    let ours = "level=INFO event=listen name=http";
    check("", 0, 0, None);
    check("\n\n", 0, 0, None);
    check(ours, 1, 1, None);
    check(format!("{ours}\n{ours}\n"), 2, 2, None);
    check(format!("\n{ours}\n\nhello\nlevel\n{ours}"), 4, 2, Some((4, Fault::NoPair)));
    check([b"\xff\x00\n".as_slice(), ours.as_bytes()].concat(), 2, 1, Some((1, Fault::NoPair)));
    check(format!("{ours}\nlevel=INFO event=access v=1 conn_id=c"), 2, 1, Some((2, Fault::Cut)));
}

// proves the bounds of REPORT_LINE_BYTES_MAX and REPORT_BLOCK_BYTES
#[test]
fn endless_lines_are_passed_over() {
    let ours = "level=INFO event=listen name=http";
    for len in [REPORT_LINE_BYTES_MAX + 1, REPORT_BLOCK_BYTES, REPORT_BLOCK_BYTES * 3 + 5] {
        let long = "x".repeat(len);
        for log in [format!("{ours}\n{long}\n{ours}\n"), format!("{ours}\n{long}\n{ours}")] {
            for piece in [1000, usize::MAX] {
                let s = summarize(log.as_bytes(), piece);
                let fault = Some(("x.log".to_owned(), 2, Fault::TooLong));
                assert_eq!((s.matched(), s.faults, s.first_fault), (2, 1, fault), "{len} {piece}");
            }
        }
        assert_eq!(summarize(long.as_bytes(), 1000).faults, 1);
    }
    let longest = format!("{ours} msg={}", "x".repeat(REPORT_LINE_BYTES_MAX - ours.len() - 5));
    assert_eq!(summarize(longest.as_bytes(), usize::MAX).matched(), 1);
}

#[test]
fn a_screen_shows_no_control_bytes_and_stays_one_screen() {
    let mut log = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for n in 0..500 {
        let mut record = random_record(&mut rng, n);
        record.user = Text::new(n.to_string().repeat(LOG_VALUE_BYTES_MAX));
        record.write_line(Stamp::Time, &mut log);
        log.extend_from_slice(format!("level=WARN event=\x1b[2J{n}\n").as_bytes());
    }
    let screen = String::from_utf8(report::render(&summarize(&log, usize::MAX))).expect("text");
    assert!(screen.chars().all(|c| c == '\n' || !c.is_control()), "{screen}");
    assert!(screen.lines().count() <= 50, "{screen}");
    assert!(screen.lines().all(|l| l.chars().count() <= 700), "{screen}");
    assert!(screen.contains("levels   WARN 500, ERROR 0"), "{screen}");
}

#[test]
fn files_give_an_outcome_or_one_line() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path
    };
    let found = file("a.log", "level=INFO event=ready\n");
    let none = file("b.log", "hello\n");
    let empty = file("c.log", "");
    let mut out = Vec::new();
    assert_eq!(run(&[none, empty], &mut out).ok(), Some(Outcome::NothingFound));
    assert!(String::from_utf8_lossy(&out).contains("b.log line 1: not key=value"));
    assert_eq!(run(&[found.clone(), found.clone()], &mut out).ok(), Some(Outcome::Found));

    out.clear();
    for path in [dir.path().join("missing"), dir.path().to_owned()] {
        let error = run(&[found.clone(), path.clone()], &mut out).expect_err("it cannot be read").to_string();
        assert!(error.starts_with(&*path.to_string_lossy()) && !error.contains('\n'), "{error}");
        assert!(out.is_empty(), "no half summary");
    }
    let full = run(&[found], &mut [0_u8; 3].as_mut_slice()).expect_err("there is no room");
    assert!(matches!(full, LogsError::Write(_)), "{full}");
}

// REPORT_ROWS_MAX: the report names the first few of many, and says how many there are.
#[test]
fn a_report_names_the_first_few_of_many() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut log = Vec::new();
    for rank in 0..REPORT_ROWS_MAX + 2 {
        for n in 0..40 - rank {
            let mut record = random_record(&mut rng, n as u64);
            record.dst = format!("host{rank}:80").into();
            record.write_line(Stamp::Time, &mut log);
        }
    }
    let screen = String::from_utf8(report::render(&summarize(&log, usize::MAX))).expect("text");
    for rank in 0..REPORT_ROWS_MAX + 2 {
        let named = screen.contains(&format!("host{rank}:80"));
        assert_eq!(named, rank < REPORT_ROWS_MAX, "the {rank}th of\n{screen}");
    }
    assert!(screen.contains(&format!("{} distinct", REPORT_ROWS_MAX + 2)), "{screen}");
}
