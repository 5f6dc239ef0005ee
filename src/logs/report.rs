//! The summary as one screen of text.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::Summary;
use super::histogram::Histogram;
use super::top::Top;
use crate::limits::REPORT_ROWS_MAX;
use crate::logfmt;

/// Columns that a key may take in a table.
const KEY_COLUMNS: usize = 44;

/// The screen. Keys come from outside, so what would drive a terminal is escaped.
pub(super) fn render(s: &Summary) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a string cannot fail, so the first failure is also the last word.
    match write_all(s, &mut text) {
        Ok(()) => text.into_bytes(),
        Err(std::fmt::Error) => unreachable!("a string takes every character"),
    }
}

fn write_all(s: &Summary, out: &mut String) -> std::fmt::Result {
    let seconds = s.span_ms.map_or(0.0, |(first, last)| Duration::from_millis(last - first).as_secs_f64());
    match s.span_ms {
        Some((first, last)) => {
            let length = humantime::format_duration(Duration::from_millis(last - first));
            writeln!(out, "span     {} to {}, {length}", time(first), time(last))?;
        }
        None => writeln!(out, "span     no times")?,
    }
    write!(out, "lines    {}: access {}", s.lines(), s.access)?;
    if seconds > 0.0 {
        write!(out, " ({:.1}/s)", as_f64(s.access) / seconds)?;
    }
    writeln!(out, ", other events {}, not parsed {}", s.matched() - s.access, s.faults)?;
    if let Some((name, number, fault)) = &s.first_fault {
        writeln!(
            out,
            "         first not parsed: {} line {number}: {}",
            key(name.as_bytes()),
            fault.words()
        )?;
    }
    writeln!(out, "levels   WARN {}, ERROR {}", s.warns, s.errors)?;
    let events = s.events.rows(REPORT_ROWS_MAX * 2);
    write_words(out, "events", events.iter().map(|(name, t)| (key(name), t.count)))?;
    if s.access == 0 {
        return Ok(());
    }
    writeln!(out, "bytes    up {} ({}), down {} ({})", s.up, human(s.up), s.down, human(s.down))?;
    write_words(out, "codes", s.codes().map(|(code, count)| (code.to_string(), count)))?;
    let whys = s.tops.why.rows(REPORT_ROWS_MAX * 2);
    write_words(out, "why", whys.iter().map(|(word, t)| (key(word), t.count)))?;
    writeln!(out, "\nms           p50       p90       p99     p99.9       max     count")?;
    write_times(out, "tt", &s.tt)?;
    write_times(out, "tfb", &s.tfb)?;
    writeln!(out, "\nend      count")?;
    let ends = s.ends();
    for (who, phase, count) in ends.iter().take(REPORT_ROWS_MAX * 2) {
        let code = [who.letter(), phase.letter()].map(char::from);
        let percent = percent(*count, s.access);
        let meaning = [who.meaning(), phase.meaning()].join(", ");
        writeln!(out, "{}{} {count:>11} {percent:>6}  {meaning}", code[0], code[1])?;
    }
    if ends.len() > REPORT_ROWS_MAX * 2 {
        writeln!(out, "         and {} more", ends.len() - REPORT_ROWS_MAX * 2)?;
    }
    write_top(out, "dst", &s.tops.dst, s.access)?;
    write_top(out, "user", &s.tops.user, s.access)?;
    write_top(out, "via", &s.tops.via, s.access)
}

fn write_words(
    out: &mut String,
    title: &str,
    words: impl Iterator<Item = (String, u64)>,
) -> std::fmt::Result {
    let words: Vec<String> = words.map(|(word, count)| format!("{word} {count}")).collect();
    if words.is_empty() { Ok(()) } else { writeln!(out, "{title:<8} {}", words.join(", ")) }
}

fn write_times(out: &mut String, title: &str, h: &Histogram) -> std::fmt::Result {
    let cell = |value: Option<u64>| value.map_or_else(|| "-".into(), |v| v.to_string());
    write!(out, "{title:<6}")?;
    for value in [h.permille(500), h.permille(900), h.permille(990), h.permille(999), h.max()] {
        write!(out, "{:>10}", cell(value))?;
    }
    writeln!(out, "{:>10}", h.total())
}

fn write_top(out: &mut String, title: &str, top: &Top, total: u64) -> std::fmt::Result {
    let about = if top.slack() > 0 { format!(", counts at most {} too low", top.slack()) } else { "".into() };
    let distinct = if top.slack() > 0 { "many".into() } else { top.len().to_string() };
    writeln!(out, "\n{title:<8} {distinct} distinct{about}")?;
    for (name, t) in top.rows(REPORT_ROWS_MAX) {
        let percent = percent(t.count, total);
        write!(out, "{:>14} {percent:>6} {:>10}", t.count, human(t.bytes))?;
        match t.bad {
            0 => writeln!(out, "            {}", key(name))?,
            bad => writeln!(out, " {:>10} {}", format!("bad {bad}"), key(name))?,
        }
    }
    Ok(())
}

/// A key as it may be shown, shortened to its columns.
fn key(name: &[u8]) -> String {
    let mut safe = Vec::new();
    logfmt::push_printable(&mut safe, name);
    let safe = String::from_utf8_lossy(&safe);
    match safe.char_indices().nth(KEY_COLUMNS) {
        Some((at, _)) => format!("{}...", &safe[..at]),
        None => safe.into_owned(),
    }
}

fn time(ms: u64) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

fn percent(part: u64, total: u64) -> String {
    format!("{:.1}%", as_f64(part) * 100.0 / as_f64(total.max(1)))
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = as_f64(bytes);
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// For rates and shares, where the last digits do not matter.
fn as_f64(n: u64) -> f64 {
    n as f64
}
