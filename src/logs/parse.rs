//! One log line, taken apart without copying.
//!
//! Values stay as they are written, quotes and escapes included: for counting, equal spelling is equality, because
//! there is one writer and it spells each value in one way.

use crate::record::{Phase, Who};

/// What a line holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A finished stream.
    Access(Prefix<'a>, Access<'a>),
    /// Any other event of ours.
    Event(Prefix<'a>),
}

/// What every line has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix<'a> {
    /// Milliseconds since 1970; none under the journal.
    pub time_ms: Option<u64>,
    /// `ERROR`, `WARN`, `INFO`, ...
    pub level: &'a [u8],
    /// `access`, `listen`, ...
    pub event: &'a [u8],
}

/// What the summary needs of an access line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// The user's name.
    pub user: &'a [u8],
    /// The client that carried it.
    pub via: &'a [u8],
    /// The target.
    pub dst: &'a [u8],
    /// The status told to the user.
    pub code: Option<u16>,
    /// Milliseconds to the first byte back.
    pub tfb: Option<u64>,
    /// Milliseconds in all.
    pub tt: Option<u64>,
    /// Bytes from the user.
    pub up: u64,
    /// Bytes to the user.
    pub down: u64,
    /// Who ended it, and when.
    pub end: (Who, Phase),
    /// Why, in a word.
    pub why: &'a [u8],
}

/// Why a line is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not a sequence of `key=value`.
    NoPair,
    /// A quoted value without its second quote.
    OpenQuote,
    /// No `level=` and `event=` at its head.
    NoEvent,
    /// A time that is not `YYYY-MM-DDThh:mm:ss.mmmZ`.
    BadTime,
    /// An access line with a number that is none.
    BadNumber,
    /// An access line with letters in `end=` that are not in the table.
    BadEnd,
    /// An access line that stops before `why=`.
    Cut,
    /// An access line of another version of the schema.
    Version,
    /// Longer than a line of ours can be.
    TooLong,
}

impl Fault {
    /// The fault in words.
    pub fn words(self) -> &'static str {
        match self {
            Fault::NoPair => "not key=value",
            Fault::OpenQuote => "quote not closed",
            Fault::NoEvent => "no level= and event=",
            Fault::BadTime => "time not readable",
            Fault::BadNumber => "number not readable",
            Fault::BadEnd => "end code unknown",
            Fault::Cut => "cut short",
            Fault::Version => "other schema version",
            Fault::TooLong => "line too long",
        }
    }
}

/// Takes a line apart; `line` is without its newline.
///
/// # Errors
/// When it is not a line of ours, with the first fault found.
pub fn parse(line: &[u8]) -> Result<Line<'_>, Fault> {
    let mut pairs = Pairs { rest: skip_priority(line) };
    let mut prefix = Prefix::default();
    while let Some((key, value)) = pairs.next()? {
        match key {
            b"time" => prefix.time_ms = Some(parse_time(value).ok_or(Fault::BadTime)?),
            b"level" => prefix.level = value,
            b"event" => {
                prefix.event = value;
                break;
            }
            _ => return Err(Fault::NoEvent),
        }
    }
    if prefix.level.is_empty() || prefix.event.is_empty() {
        return Err(Fault::NoEvent);
    }
    match prefix.event {
        b"access" => Ok(Line::Access(prefix, parse_access(pairs)?)),
        _ => Ok(Line::Event(prefix)),
    }
}

fn parse_access(mut pairs: Pairs<'_>) -> Result<Access<'_>, Fault> {
    let (mut user, mut via, mut dst) = (&b"-"[..], &b"-"[..], &b"-"[..]);
    let (mut code, mut tfb, mut tt) = (None, None, None);
    let (mut up, mut down, mut end, mut why) = (None, None, None, None);
    while let Some((key, value)) = pairs.next()? {
        match key {
            b"v" if value != b"1" => return Err(Fault::Version),
            b"user" => user = value,
            b"via" => via = value,
            b"dst" => dst = value,
            b"code" if value != b"-" => {
                code = Some(u16::try_from(number(value)?).map_err(|_above| Fault::BadNumber)?);
            }
            b"tfb" => tfb = timer(value)?,
            b"tt" => tt = timer(value)?,
            b"up" => up = Some(number(value)?),
            b"down" => down = Some(number(value)?),
            b"end" => end = Some(parse_end(value).ok_or(Fault::BadEnd)?),
            b"why" => why = Some(value),
            _ => {}
        }
    }
    match (up, down, end, why) {
        (Some(up), Some(down), Some(end), Some(why)) => {
            Ok(Access { user, via, dst, code, tfb, tt, up, down, end, why })
        }
        _ => Err(Fault::Cut),
    }
}

fn parse_end(value: &[u8]) -> Option<(Who, Phase)> {
    let &[who, phase] = value else { return None };
    Some((Who::from_letter(who)?, Phase::from_letter(phase)?))
}

/// A key and its value, quotes and all.
type Pair<'a> = (&'a [u8], &'a [u8]);

struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    fn next(&mut self) -> Result<Option<Pair<'a>>, Fault> {
        while let [b' ' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let is_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let equals = self.rest.iter().position(|&b| !is_key(b)).ok_or(Fault::NoPair)?;
        if equals == 0 || self.rest[equals] != b'=' {
            return Err(Fault::NoPair);
        }
        let (key, value) = (&self.rest[..equals], &self.rest[equals + 1..]);
        let len = match value {
            [b'"', quoted @ ..] => quoted_len(quoted).ok_or(Fault::OpenQuote)? + 1,
            plain => plain.iter().position(|&b| b == b' ').unwrap_or(plain.len()),
        };
        let (value, rest) = value.split_at(len);
        if !matches!(rest, [] | [b' ' | b'\r', ..]) {
            return Err(Fault::NoPair);
        }
        self.rest = rest;
        Ok(Some((key, value.strip_suffix(b"\r").unwrap_or(value))))
    }
}

/// Up to and with the closing quote.
fn quoted_len(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// `<6>` in front of a line is for the journal.
fn skip_priority(line: &[u8]) -> &[u8] {
    match line {
        [b'<', b'0'..=b'7', b'>', rest @ ..] => rest,
        _ => line,
    }
}

fn timer(value: &[u8]) -> Result<Option<u64>, Fault> {
    if value == b"-1" || value == b"-" { Ok(None) } else { number(value).map(Some) }
}

fn number(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() {
        return Err(Fault::BadNumber);
    }
    value
        .iter()
        .try_fold(0_u64, |sum, &b| {
            let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
            sum.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(Fault::BadNumber)
}

/// Milliseconds since 1970 of `YYYY-MM-DDThh:mm:ss.mmmZ`.
fn parse_time(value: &[u8]) -> Option<u64> {
    const SHAPE: &[u8; 24] = b"0000-00-00T00:00:00.000Z";
    let shaped = value.len() == SHAPE.len()
        && value.iter().zip(SHAPE).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s });
    if !shaped {
        return None;
    }
    let part = |from: usize, to: usize| number(&value[from..to]).ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let valid = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !valid || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1000 + part(20, 23)?)
}

/// Days in the Gregorian calendar, counted in years that begin in March, so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let months_since_march = (month + 9) % 12;
    let day_of_year = (153 * months_since_march + 2) / 5 + day - 1;
    // 719,468 days lie between the first of March of year 0 and the first of January 1970.
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    const GOOD: &str = "time=2026-11-20T10:00:00.023Z level=INFO event=access v=1 conn_id=c4f2k9a1 tun=t7 \
                        proto=connect in=http cli=203.0.113.9:51544 user=prod group=prod via=\"ed ge\" \
                        dst=db.internal:5432 ip=10.0.0.7:5432 code=200 ta=0 th=1 tq=2 tw=0 td=1 tc=3 tfb=-1 \
                        tt=1523 up=967 down=8709 retry=0 act=12 end=SC why=refused";

    #[test]
    fn an_access_line_is_read() {
        let prefix = Prefix { time_ms: Some(1_795_168_800_023), level: b"INFO", event: b"access" };
        let access = Access {
            user: b"prod",
            via: b"\"ed ge\"",
            dst: b"db.internal:5432",
            code: Some(200),
            tfb: None,
            tt: Some(1523),
            up: 967,
            down: 8709,
            end: (Who::TargetReset, Phase::Connect),
            why: b"refused",
        };
        assert_eq!(parse(GOOD.as_bytes()), Ok(Line::Access(prefix, access)));
        let journal = GOOD.replace("time=2026-11-20T10:00:00.023Z ", "<6>");
        let prefix = Prefix { time_ms: None, ..prefix };
        assert_eq!(parse(journal.as_bytes()), Ok(Line::Access(prefix, access)));
        let crlf = format!("{GOOD}\r");
        assert!(matches!(parse(crlf.as_bytes()), Ok(Line::Access(_, a)) if a.why == b"refused"));
        let newer = GOOD.replace(" end=", " shiny_new=\"x \\\" y\" end=");
        assert!(
            matches!(parse(newer.as_bytes()), Ok(Line::Access(_, a)) if a == access),
            "unknown keys are passed over"
        );
    }

    #[test]
    fn a_line_cut_anywhere_is_a_fault_or_a_shorter_last_word() {
        for len in 0..GOOD.len() {
            match parse(&GOOD.as_bytes()[..len]) {
                Err(_) => {}
                Ok(Line::Access(_, a)) => assert!(b"refused".starts_with(a.why), "{}", &GOOD[..len]),
                // The name of the event itself was cut.
                Ok(Line::Event(p)) => assert!(b"access".starts_with(p.event), "{}", &GOOD[..len]),
            }
        }
    }

    #[track_caller]
    fn check(line: impl AsRef<[u8]>, want: Fault) {
        assert_eq!(parse(line.as_ref()), Err(want));
    }

    #[test]
    fn hostile_lines_are_faults() {
        check("", Fault::NoEvent);
        check("hello", Fault::NoPair);
        check("panicked at src/x.rs", Fault::NoPair);
        check("=x", Fault::NoPair);
        check("level=INFO", Fault::NoEvent);
        check("level=INFO msg=x event=access", Fault::NoEvent);
        check("level=INFO event=", Fault::NoEvent);
        check("time=yesterday level=INFO event=x", Fault::BadTime);
        check("time=2026-13-20T10:00:00.023Z level=INFO event=x", Fault::BadTime);
        check("level=INFO event=access v=1", Fault::Cut);
        check("level=INFO event=\"acc", Fault::OpenQuote);
        check("level=INFO event=\"acc\\", Fault::OpenQuote);
        check("level=INFO event=\"a\"b", Fault::NoPair);
        check(GOOD.replace("v=1", "v=2"), Fault::Version);
        check(GOOD.replace("up=967", "up=-967"), Fault::BadNumber);
        check(GOOD.replace("up=967", "up="), Fault::BadNumber);
        check(GOOD.replace("up=967", "up=18446744073709551616"), Fault::BadNumber);
        check(GOOD.replace("code=200", "code=65536"), Fault::BadNumber);
        check(GOOD.replace("tt=1523", "tt=-2"), Fault::BadNumber);
        check(GOOD.replace("end=SC", "end=S"), Fault::BadEnd);
        check(GOOD.replace("end=SC", "end=ZZ"), Fault::BadEnd);
        check([0xff; 300], Fault::NoPair);
        check([0; 300], Fault::NoPair);
    }

    #[test]
    fn times_agree_with_the_library() {
        for seconds in (0..40_000_000_000_u64).step_by(86_400 * 13 + 4321) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + seconds % 1000);
            let text = humantime::format_rfc3339_millis(time).to_string();
            assert_eq!(parse_time(text.as_bytes()), Some(seconds * 1000 + seconds % 1000), "{text}");
        }
    }
}
