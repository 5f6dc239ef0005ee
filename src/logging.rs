//! Everything that is logged and is no access line: life-cycle events, warnings, errors.
//!
//! The code says `log::info!(event = "listen", name = "http", addr:% = addr; "ready")`, and standard error gets
//!
//! ```text
//! time=2026-11-20T10:00:00.023Z level=INFO event=listen name=http addr=127.0.0.1:8088 msg=ready
//! ```
//! `ANYPROXY_LOG`, or else `RUST_LOG`, chooses levels (`info` unless set; `debug`; `warn,anyproxy::client=debug`). The former is
//! about this program alone, and what it names has to be a part of it; the latter may be meant for others besides.
//! [`quiet`] says which I/O errors are ordinary endings, and not faults.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::SystemTime;

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Record};

use crate::limits::{LOG_MSG_BYTES_MAX, LOG_VALUE_BYTES_MAX};
use crate::logfmt::{self, Stamp};

/// Makes standard error the destination of `log`, for the rest of the process.
///
/// # Errors
/// In one line: when the levels asked for cannot be read, or when a logger was set before.
pub fn init(stamp: Stamp) -> Result<(), String> {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    let asked = ["ANYPROXY_LOG", "RUST_LOG"].iter().find_map(|name| Some((name, std::env::var_os(name)?)));
    if let Some((name, levels)) = asked {
        let levels = levels.into_string().map_err(|levels| format!("{name}: {levels:?} is not UTF-8"))?;
        for (module, level) in parse_levels(&levels).map_err(|e| format!("{name}: {e}"))? {
            if let Some(stranger) = module.filter(|module| *name == "ANYPROXY_LOG" && !is_ours(module)) {
                return Err(format!(
                    "{name}: {stranger:?} is no part of this program ({})",
                    CRATES.join(", ")
                ));
            }
            builder.filter(module, level);
        }
    }
    // "Always" hands our bytes through in one write; the other styles look for colours to strip.
    builder.write_style(env_logger::WriteStyle::Always).format(move |out, record| {
        let mut line = Vec::with_capacity(LOG_VALUE_BYTES_MAX);
        format_record(stamp, SystemTime::now(), record, &mut line);
        out.write_all(&line)
    });
    builder.try_init().map_err(|e| e.to_string())
}

/// The crates of this program that log.
const CRATES: [&str; 4] = ["anyproxy", "poller", "mio", "tungstenite"];

/// Whether it is one of them, or a module in one of them.
fn is_ours(module: &str) -> bool {
    CRATES.contains(&module.split("::").next().unwrap_or_default())
}

/// `LEVEL` or `MODULE=LEVEL`, comma between.
fn parse_levels(levels: &str) -> Result<Vec<(Option<&str>, LevelFilter)>, String> {
    let parts = levels.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (module, level) = match part.split_once('=') {
                Some((module, level)) => (Some(module.trim()), level.trim()),
                None => (None, part),
            };
            let parsed = level.parse().map_err(|_unknown| {
                format!("{level:?} is not a level (off, error, warn, info, debug, trace)")
            });
            parsed.map(|level| (module, level))
        })
        .collect()
}

/// Appends `record` as one line: stamp, level, event, the other keys in the order given, the message.
pub fn format_record(stamp: Stamp, time: SystemTime, record: &Record<'_>, out: &mut Vec<u8>) {
    let keys = record.key_values();
    let event = keys.get(Key::from("event")).map_or_else(|| bounded("log"), bounded);
    logfmt::push_head(out, stamp, time, record.level(), event.as_bytes());
    if keys.visit(&mut Pairs { out }).is_err() {
        out.extend_from_slice(b" kv_error=1");
    }
    let mut msg = Bounded { text: String::new(), bytes_max: LOG_MSG_BYTES_MAX };
    msg.fill(record.args());
    if !msg.text.is_empty() {
        out.extend_from_slice(b" msg=");
        logfmt::push_value(out, msg.text.as_bytes(), LOG_MSG_BYTES_MAX);
    }
    out.push(b'\n');
}

struct Pairs<'a> {
    out: &'a mut Vec<u8>,
}

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if key.as_str() != "event" {
            logfmt::push_foreign_pair(self.out, key.as_str(), bounded(value).as_bytes());
        }
        Ok(())
    }
}

fn bounded(value: impl fmt::Display) -> String {
    let mut text = Bounded { text: String::new(), bytes_max: LOG_VALUE_BYTES_MAX };
    text.fill(value);
    text.text
}

/// Text that stops growing a little above its limit, so that a huge value costs no memory on its way to be cut.
struct Bounded {
    text: String,
    bytes_max: usize,
}

impl Bounded {
    fn fill(&mut self, value: impl fmt::Display) {
        if write!(self, "{value}").is_err() && self.text.len() <= self.bytes_max {
            // Not our limit, so the value's own Display gave up.
            self.text.push_str("(unprintable)");
        }
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // A byte above the limit shows the cut that something was cut.
        let room = (self.bytes_max + 4).saturating_sub(self.text.len());
        let head = logfmt::cut(text.as_bytes(), room).len();
        self.text.push_str(&text[..head]);
        if self.text.len() > self.bytes_max { Err(fmt::Error) } else { Ok(()) }
    }
}

/// Whether an error is one of the ordinary ways in which a connection ends: the peer left, or we closed.
pub fn quiet(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted | NotConnected | UnexpectedEof)
        || matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::ESHUTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use std::time::Duration;

    #[track_caller]
    fn check(record: &Record<'_>, want: &str) {
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_168_800_023);
        format_record(Stamp::Time, time, record, &mut out);
        let want = format!("time=2026-11-20T10:00:00.023Z {want}\n");
        assert_eq!(String::from_utf8(out).as_deref(), Ok(want.as_str()));
    }

    #[test]
    fn records_become_lines() {
        let addr: std::net::SocketAddr = ([127, 0, 0, 1], 8088).into();
        let pairs: &[(&str, Value<'_>)] =
            &[("name", "http".into()), ("event", "listen".into()), ("addr", Value::from_display(&addr))];
        let mut base = Record::builder();
        base.level(Level::Info).key_values(&pairs);
        check(
            &base.args(format_args!("ready now")).build(),
            "level=INFO event=listen name=http addr=127.0.0.1:8088 msg=\"ready now\"",
        );
        check(&base.args(format_args!("")).build(), "level=INFO event=listen name=http addr=127.0.0.1:8088");
        check(
            &Record::builder().level(Level::Error).args(format_args!("a\nb \"c\"")).build(),
            r#"level=ERROR event=log msg="a\x0ab \"c\"""#,
        );
    }

    #[test]
    fn a_hostile_value_forges_nothing_and_a_huge_one_is_cut() {
        let huge = "ü".repeat(1 << 20);
        let pairs: &[(&str, Value<'_>)] = &[
            ("event", "x\nlevel=ERROR".into()),
            ("a key", "\x1b[31m".into()),
            ("long", Value::from_display(&huge)),
        ];
        let cut = "ü".repeat(LOG_VALUE_BYTES_MAX / 2);
        let msg = "ü".repeat(LOG_MSG_BYTES_MAX / 2);
        check(
            &Record::builder().level(Level::Warn).key_values(&pairs).args(format_args!("{huge}")).build(),
            &format!(r#"level=WARN event="x\x0alevel=ERROR" a_key="\x1b[31m" long="{cut}" msg="{msg}""#),
        );
    }

    #[test]
    fn levels_are_read_or_refused_in_one_line() {
        use LevelFilter::{Debug, Off, Warn};
        assert_eq!(parse_levels("debug"), Ok(vec![(None, Debug)]));
        assert_eq!(
            parse_levels("warn, anyproxy::client=DEBUG,,poller=off"),
            Ok(vec![(None, Warn), (Some("anyproxy::client"), Debug), (Some("poller"), Off)])
        );
        for (module, want) in
            [("anyproxy", true), ("poller::tls", true), ("foo", false), ("", false), ("anyproxy2", false)]
        {
            assert_eq!(is_ours(module), want, "{module:?}");
        }
        let refused = parse_levels("debgu").expect_err("a typing error is not a level");
        assert!(refused.starts_with("\"debgu\" is not a level") && !refused.contains('\n'), "{refused}");
    }

    // proves S-58: ordinary endings are a class of their own
    #[test]
    fn ordinary_endings_are_told_from_faults() {
        use io::ErrorKind as K;
        let os = io::Error::from_raw_os_error;
        let endings = [libc::EPIPE, libc::ECONNRESET, libc::ECONNABORTED, libc::ENOTCONN, libc::ESHUTDOWN];
        let closed = io::Error::new(K::BrokenPipe, "use of closed connection");
        for error in endings.map(os).into_iter().chain([os(libc::ECANCELED), K::UnexpectedEof.into(), closed])
        {
            assert!(quiet(&error), "{error:?}");
        }
        let faults = [
            libc::ECONNREFUSED,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::EMFILE,
            libc::EBADF,
            libc::ENOSPC,
        ];
        for error in faults.map(os).into_iter().chain([K::InvalidData.into(), io::Error::other("tls")]) {
            assert!(!quiet(&error), "{error:?}");
        }
    }

    const CHILD: &str = "ANYPROXY_TEST_LOGGING";

    /// The process whose standard error the test below looks at.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_some() {
            init(Stamp::of_stderr()).expect("levels of ours");
            log::debug!(event = "never"; "below the level asked for");
            log::info!(event = "listen", name = "http"; "grüße\x1b[2J");
            log::info!(target: "mio", event = "never"; "switched off");
        }
    }

    #[test]
    fn standard_error_gets_whole_lines_and_the_journal_gets_priorities() {
        use std::os::unix::fs::MetadataExt as _;
        for journal in [false, true] {
            let file = tempfile::NamedTempFile::new().expect("a file can be made");
            let meta = file.as_file().metadata().expect("it is there");
            let ino = if journal { meta.ino() } else { meta.ino() + 1 };
            let status = std::process::Command::new(std::env::current_exe().expect("a test has a program"))
                .args(["--exact", "logging::tests::child"])
                .env(CHILD, "1")
                .env("ANYPROXY_LOG", "info,mio=off")
                .env("RUST_LOG", "trace")
                .env("JOURNAL_STREAM", format!("{}:{ino}", meta.dev()))
                .stdout(std::process::Stdio::null())
                .stderr(file.reopen().expect("it is ours"))
                .status()
                .expect("the program can be run");
            assert!(status.success());
            let text = std::fs::read_to_string(file.path()).expect("lines are UTF-8");
            let (head, line) = text.split_once("level=").expect("one line was logged");
            assert_eq!(line, "INFO event=listen name=http msg=\"grüße\\x1b[2J\"\n");
            assert!(if journal { head == "<6>" } else { head.starts_with("time=20") }, "{text}");
        }
    }
}
