//! How a log line is spelled: the one place that escapes.
//!
//! A line is `key=value` pairs with one blank between them and a newline at its end:
//!
//! ```text
//! time=2026-11-20T10:00:00.023Z level=INFO event=listen name=http msg="ready \x1b[2J"
//! <6>level=INFO event=listen ...            under the journal, which keeps its own time
//! ```
//!
//! Whatever a value holds, the line stays one line, no terminal is driven by it, and reading it back gives the
//! value: a value with a blank, `"`, `=`, `\`, a control character or bytes outside UTF-8 is quoted; inside the
//! quotes `"` and `\` get a `\`, and the dangerous bytes are written `\xNN`. An empty value is `-`.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::limits::LOG_VALUE_BYTES_MAX;

/// What a line begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// `time=`, for files and terminals.
    Time,
    /// The priority in angle brackets and no time, for the journal.
    Priority,
}

impl Stamp {
    /// What standard error wants: [`Stamp::Priority`] if it is connected to the journal.
    pub fn of_stderr() -> Stamp {
        use std::os::fd::AsFd as _;
        use std::os::unix::fs::MetadataExt as _;
        let Ok(value) = std::env::var("JOURNAL_STREAM") else { return Stamp::Time };
        let meta = std::io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
        match meta.and_then(|file| file.metadata()) {
            Ok(meta) => Stamp::of_stream(&value, meta.dev(), meta.ino()),
            Err(_closed) => Stamp::Time,
        }
    }

    /// What marks a line that is no log line for the journal, such as `<3>`; nothing elsewhere.
    pub fn priority(self, level: log::Level) -> String {
        match self {
            Stamp::Time => String::new(),
            Stamp::Priority => format!("<{}>", priority(level)),
        }
    }

    /// The variable names the journal's socket as `device:inode`. A program started from a session that the
    /// journal follows inherits the variable while its own output goes elsewhere, so both numbers must agree.
    fn of_stream(journal_stream: &str, dev: u64, ino: u64) -> Stamp {
        let same =
            journal_stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(dev) && i.parse() == Ok(ino));
        if same { Stamp::Priority } else { Stamp::Time }
    }
}

/// Begins a line: the stamp, `level=` and `event=`.
pub fn push_head(out: &mut Vec<u8>, stamp: Stamp, time: SystemTime, level: log::Level, event: &[u8]) {
    match stamp {
        Stamp::Time => {
            out.extend_from_slice(b"time=");
            push_time(out, time);
            out.push(b' ');
        }
        Stamp::Priority => out.extend_from_slice(&[b'<', b'0' + priority(level), b'>']),
    }
    out.extend_from_slice(b"level=");
    out.extend_from_slice(level.as_str().as_bytes());
    push_pair(out, "event", event);
}

/// Adds ` key=value` where the key comes from anywhere: one with a strange letter would break the line, and gets a `_` there.
pub fn push_foreign_pair(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.push(b' ');
    out.extend(key.bytes().map(|b| if is_plain(b) { b } else { b'_' }));
    out.push(b'=');
    push_value(out, value, LOG_VALUE_BYTES_MAX);
}

/// Adds ` key=value`, the value escaped and cut at [`LOG_VALUE_BYTES_MAX`]; an empty one is `-`. The key, here and below, is
/// a name of ours: letters, digits and `_`.
pub fn push_pair(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    push_key(out, key);
    push_value(out, value, LOG_VALUE_BYTES_MAX);
}

/// Adds ` key=word` for a word of ours, which needs no escaping.
pub fn push_word(out: &mut Vec<u8>, key: &str, word: &str) {
    push_key(out, key);
    out.extend_from_slice(word.as_bytes());
}

/// Adds ` key=number`.
pub fn push_number(out: &mut Vec<u8>, key: &str, number: u64) {
    push_key(out, key);
    push_digits(out, number, 1);
}

/// Adds ` key=address:port`, or `-` for an address that is not known.
pub fn push_addr(out: &mut Vec<u8>, key: &str, addr: Option<SocketAddr>) {
    push_key(out, key);
    match addr {
        Some(SocketAddr::V4(addr)) => {
            for (octet, end) in addr.ip().octets().into_iter().zip(*b"...:") {
                push_digits(out, octet.into(), 1);
                out.push(end);
            }
            push_digits(out, addr.port().into(), 1);
        }
        Some(addr @ SocketAddr::V6(_)) => push_display(out, format_args!("{addr}")),
        None => out.push(b'-'),
    }
}

/// Adds ` key=MS`, or `-1` for a timer that was not reached.
pub fn push_timer(out: &mut Vec<u8>, key: &str, timer: Option<Duration>) {
    match timer {
        Some(timer) => push_number(out, key, u64::try_from(timer.as_millis()).unwrap_or(u64::MAX)),
        None => push_word(out, key, "-1"),
    }
}

/// Adds a value alone, escaped and cut at `bytes_max`.
pub fn push_value(out: &mut Vec<u8>, value: &[u8], bytes_max: usize) {
    let value = cut(value, bytes_max);
    if value.is_empty() {
        out.push(b'-');
    } else if value.iter().all(|&b| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\')) {
        out.extend_from_slice(value);
    } else {
        out.push(b'"');
        push_escaped(out, value, true);
        out.push(b'"');
    }
}

/// Adds text for a person's terminal: as it is, but for the bytes that would drive the terminal.
pub fn push_printable(out: &mut Vec<u8>, text: &[u8]) {
    push_escaped(out, text, false);
}

/// A line for a person's terminal, with what would drive the terminal escaped.
pub fn printable(line: &str) -> String {
    let mut out = Vec::with_capacity(line.len());
    push_printable(&mut out, line.as_bytes());
    String::from_utf8(out).expect("escaping leaves only UTF-8")
}

/// The first `bytes_max` bytes, or a little less where that would cut a character in two.
pub fn cut(value: &[u8], bytes_max: usize) -> &[u8] {
    let Some(head) = value.get(..bytes_max) else { return value };
    if head.len() == value.len() {
        return value;
    }
    match std::str::from_utf8(head) {
        // An error without a length is a character that goes on behind the end.
        Err(e) if e.error_len().is_none() => &head[..e.valid_up_to()],
        _ => head,
    }
}

/// A key of a record, which is a name of ours.
fn push_key(out: &mut Vec<u8>, key: &str) {
    debug_assert!(key.bytes().all(is_plain), "{key:?} could break the line");
    out.push(b' ');
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn push_escaped(out: &mut Vec<u8>, text: &[u8], quoted: bool) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let bytes = c.encode_utf8(&mut utf8).as_bytes();
            match c {
                '"' | '\\' if quoted => out.extend_from_slice(&[b'\\', bytes[0]]),
                _ if is_dangerous(c) => push_hex(out, bytes),
                _ => out.extend_from_slice(bytes),
            }
        }
        push_hex(out, chunk.invalid());
    }
}

/// Control characters, and those that break or reorder a line on a screen.
fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for b in bytes {
        push_display(out, format_args!("\\x{b:02x}"));
    }
}

/// Adds the time in UTC, to the millisecond, as RFC 3339 has it. A line has one, so this does without `fmt`.
fn push_time(out: &mut Vec<u8>, time: SystemTime) {
    // The years that the format can write; a clock outside them is wrong anyway.
    let last = Duration::from_secs(253_402_300_799);
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(last);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let fields = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (since.subsec_millis().into(), 3, b'Z'),
    ];
    for (number, digits, end) in fields {
        push_digits(out, number, digits);
        out.push(end);
    }
}

/// Year, month and day of a day after 1970-01-01. Counted in years that begin in March, so that a leap day is the last of its
/// year, from a day that begins 400 of them.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const FROM_0000_03_01_TO_1970: u64 = 719_468;
    let days = days + FROM_0000_03_01_TO_1970;
    let (cycle, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    // Without the leap days so far: one in 4 years, none in 100, one in 400.
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months in a row have 153 days, over and over.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * cycle + year + next, month, day)
}

/// Adds a number with at least so many digits, which are at most 20.
fn push_digits(out: &mut Vec<u8>, mut number: u64, digits_min: usize) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    while number > 0 {
        from -= 1;
        digits[from] += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[from.min(digits.len() - digits_min)..]);
}

fn push_display(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes every byte, and the values' Display does not fail");
}

fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &[u8], want: &str) {
        let mut out = Vec::new();
        push_value(&mut out, value, LOG_VALUE_BYTES_MAX);
        assert_eq!(String::from_utf8(out).as_deref(), Ok(want));
    }

    #[test]
    fn values_are_escaped() {
        check(b"", "-");
        check(b"-", "-");
        check(b"db.internal:5432", "db.internal:5432");
        check(b"a b", "\"a b\"");
        check(b"a=b", "\"a=b\"");
        check(b"say \"hi\"", r#""say \"hi\"""#);
        check(br"a\x0a", r#""a\\x0a""#);
        check(b"a\nlevel=ERROR", r#""a\x0alevel=ERROR""#);
        check(b"\r\n\0\x1b[2J\x7f", r#""\x0d\x0a\x00\x1b[2J\x7f""#);
        check(b"\xff\xfe", r#""\xff\xfe""#);
        check("grüße".as_bytes(), "\"grüße\"");
        check("\u{9b}31m".as_bytes(), r#""\xc2\x9b31m""#);
        check("\u{202e}gpj".as_bytes(), r#""\xe2\x80\xaegpj""#);
    }

    #[test]
    fn values_are_cut_at_the_limit_and_never_inside_a_character() {
        let long = [b'x'; LOG_VALUE_BYTES_MAX + 1];
        assert_eq!(cut(&long, LOG_VALUE_BYTES_MAX).len(), LOG_VALUE_BYTES_MAX);
        assert_eq!(cut(&long[1..], LOG_VALUE_BYTES_MAX).len(), LOG_VALUE_BYTES_MAX);
        assert_eq!(cut("xü".as_bytes(), 2), b"x");
        assert_eq!(cut("xü".as_bytes(), 3), "xü".as_bytes());
        assert_eq!(cut(b"\xff\xff\xff", 2), b"\xff\xff");
    }

    #[test]
    fn heads_carry_time_or_priority() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_168_800_023);
        let head = |stamp, time, level| {
            let mut out = Vec::new();
            push_head(&mut out, stamp, time, level, b"access");
            String::from_utf8(out)
        };
        assert_eq!(
            head(Stamp::Time, time, log::Level::Info).as_deref(),
            Ok("time=2026-11-20T10:00:00.023Z level=INFO event=access")
        );
        assert_eq!(
            head(Stamp::Priority, time, log::Level::Warn).as_deref(),
            Ok("<4>level=WARN event=access")
        );
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(head(Stamp::Time, far, log::Level::Info).is_ok_and(|h| h.starts_with("time=9999-")));
    }

    // The spelling of another implementation, for all days of 800 years and the last ones, at odd times of day.
    #[test]
    fn times_are_spelled_as_rfc_3339_has_them() {
        for day in (0..292_194_u64).chain(2_932_000..2_932_897) {
            let millis = day * 86_400_000 + day * 7_919_773 % 86_400_000;
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let mut out = Vec::new();
            push_time(&mut out, time);
            let want = humantime::format_rfc3339_millis(time).to_string();
            assert_eq!(std::str::from_utf8(&out), Ok(&*want), "day {day}");
        }
    }

    #[test]
    fn numbers_and_addresses_are_spelled_as_usual() {
        let mut out = Vec::new();
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX] {
            push_number(&mut out, "n", number);
        }
        let addrs = ["203.0.113.9:51544", "0.0.0.0:0", "255.255.255.255:65535", "[2001:db8::1]:443"];
        for addr in addrs {
            push_addr(&mut out, "a", addr.parse().ok());
        }
        push_addr(&mut out, "a", None);
        push_timer(&mut out, "t", Some(Duration::MAX));
        push_timer(&mut out, "t", None);
        push_foreign_pair(&mut out, "odd key", b"x");
        let want = " n=0 n=1 n=9 n=10 n=99 n=100 n=12345 n=18446744073709551615 a=203.0.113.9:51544 a=0.0.0.0:0 \
            a=255.255.255.255:65535 a=[2001:db8::1]:443 a=- t=18446744073709551615 t=-1 odd_key=x";
        assert_eq!(String::from_utf8(out).as_deref(), Ok(want));
    }

    #[test]
    fn the_journal_is_recognised_by_its_socket() {
        assert_eq!(Stamp::of_stream("8:1234", 8, 1234), Stamp::Priority);
        for (stream, dev, ino) in
            [("8:1234", 8, 1), ("8:1234", 9, 1234), ("", 0, 0), ("x:y", 0, 0), ("1", 1, 1)]
        {
            assert_eq!(Stamp::of_stream(stream, dev, ino), Stamp::Time, "{stream}");
        }
    }
}
