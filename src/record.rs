//! What is known of a finished stream: the record behind one access line.
//!
//! ```text
//! time=… level=INFO event=access v=1 conn_id=c4f2k9a1 tun=t7 proto=connect in=http cli=203.0.113.9:51544 user=prod
//! group=prod via=edge04 dst=db.internal:5432 ip=10.0.0.7:5432 code=200 ta=0 th=1 tq=2 tw=0 td=1 tc=3 tfb=20 tt=1523
//! up=967 down=8709 retry=0 act=12 end=-- why=eof
//! ```
//! The order of the keys is fixed, and `logs` reads back what [`AccessRecord::write_line`] writes: a new key goes
//! before `end=`, in both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::limits::LOG_VALUE_BYTES_MAX;
use crate::logfmt::{self, Stamp, push_addr, push_number, push_pair, push_timer, push_word};

/// One finished stream. What is not known stays at its default and is written as `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRecord {
    /// When the stream ended.
    pub time: SystemTime,
    /// The stream's label, the same on both sides of the tunnel.
    pub conn_id: Text,
    /// The session that carried it.
    pub tun: Text,
    /// What the user spoke.
    pub proto: Proto,
    /// The listener that took the user in.
    pub ingress: Ingress,
    /// The user's address.
    pub cli: Option<SocketAddr>,
    /// The name the user gave.
    pub user: Text,
    /// The group whose clients carried it.
    pub group: Text,
    /// The client that carried it.
    pub via: Text,
    /// The target as asked for, `host:port`; never a URL with its query.
    pub dst: Text,
    /// The target's address as dialed.
    pub ip: Option<SocketAddr>,
    /// The status told to the user: HTTP's, or the SOCKS5 reply.
    pub code: Option<u16>,
    /// How long everything took.
    pub timers: Timers,
    /// Payload bytes from the user to the target.
    pub up: u64,
    /// Payload bytes from the target to the user.
    pub down: u64,
    /// Other clients tried before this one.
    pub retry: u32,
    /// Streams active when this one ended.
    pub act: u32,
    /// Who ended it, and in which phase.
    pub end: End,
}

impl AccessRecord {
    /// A record of which only this much is known.
    pub fn new(time: SystemTime, proto: Proto, ingress: Ingress, end: End) -> AccessRecord {
        AccessRecord {
            time,
            conn_id: Text::default(),
            tun: Text::default(),
            proto,
            ingress,
            cli: None,
            user: Text::default(),
            group: Text::default(),
            via: Text::default(),
            dst: Text::default(),
            ip: None,
            code: None,
            timers: Timers::default(),
            up: 0,
            down: 0,
            retry: 0,
            act: 0,
            end,
        }
    }

    /// Appends the record as one line.
    pub fn write_line(&self, stamp: Stamp, out: &mut Vec<u8>) {
        logfmt::push_head(out, stamp, self.time, log::Level::Info, b"access");
        push_number(out, "v", 1);
        push_pair(out, "conn_id", self.conn_id.as_bytes());
        push_pair(out, "tun", self.tun.as_bytes());
        push_word(out, "proto", self.proto.word());
        push_word(out, "in", self.ingress.word());
        push_addr(out, "cli", self.cli);
        push_pair(out, "user", self.user.as_bytes());
        push_pair(out, "group", self.group.as_bytes());
        push_pair(out, "via", self.via.as_bytes());
        push_pair(out, "dst", self.dst.as_bytes());
        push_addr(out, "ip", self.ip);
        match self.code {
            Some(code) => push_number(out, "code", code.into()),
            None => push_word(out, "code", "-"),
        }
        let Timers { ta, th, tq, tw, td, tc, tfb, tt } = self.timers;
        for (key, timer) in
            [("ta", ta), ("th", th), ("tq", tq), ("tw", tw), ("td", td), ("tc", tc), ("tfb", tfb), ("tt", tt)]
        {
            push_timer(out, key, timer);
        }
        push_number(out, "up", self.up);
        push_number(out, "down", self.down);
        push_number(out, "retry", self.retry.into());
        push_number(out, "act", self.act.into());
        let letters = [self.end.who.letter(), self.end.phase.letter()];
        push_pair(out, "end", &letters);
        push_pair(out, "why", self.end.why.as_bytes());
        out.push(b'\n');
    }
}

/// The durations of an access line, written in whole milliseconds; `None` is a phase that was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// Waiting to be accepted.
    pub ta: Option<Duration>,
    /// Handshakes before the first request byte counts: PROXY, TLS, WebSocket upgrade.
    pub th: Option<Duration>,
    /// First byte to complete request.
    pub tq: Option<Duration>,
    /// Waiting for a tunnel, a window or a limit.
    pub tw: Option<Duration>,
    /// Name resolution, on the client.
    pub td: Option<Duration>,
    /// Connecting, on the client.
    pub tc: Option<Duration>,
    /// Connected to the first byte back.
    pub tfb: Option<Duration>,
    /// All of it.
    pub tt: Option<Duration>,
}

/// A value that came from outside, at most [`LOG_VALUE_BYTES_MAX`] bytes of it, so that a queue of records is
/// bounded in bytes and not only in number. Clones share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(Arc<[u8]>);

impl Text {
    /// Keeps the first bytes of `value`.
    pub fn new(value: impl AsRef<[u8]>) -> Text {
        Text(logfmt::cut(value.as_ref(), LOG_VALUE_BYTES_MAX).into())
    }

    /// Keeps what somebody has anyway, without a copy where it is not too long.
    pub fn shared(value: &Arc<str>) -> Text {
        if value.len() <= LOG_VALUE_BYTES_MAX {
            Text(value.clone().into())
        } else {
            Text::new(value.as_bytes())
        }
    }

    /// What was kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<T: AsRef<[u8]>> From<T> for Text {
    fn from(value: T) -> Text {
        Text::new(value)
    }
}

/// What the user spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// A forwarded TCP connection.
    Tcp,
    /// A forwarded UDP session, or one of a SOCKS5 association.
    Udp,
    /// An HTTP CONNECT.
    Connect,
    /// One HTTP request in absolute form.
    Http,
    /// A SOCKS5 CONNECT.
    Socks5,
}

impl Proto {
    fn word(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
            Proto::Connect => "connect",
            Proto::Http => "http",
            Proto::Socks5 => "socks5",
        }
    }
}

/// The listener that took the user in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// The HTTP proxy.
    Http,
    /// The SOCKS5 proxy.
    Socks,
    /// A forwarded port.
    Forward,
}

impl Ingress {
    fn word(self) -> &'static str {
        match self {
            Ingress::Http => "http",
            Ingress::Socks => "socks",
            Ingress::Forward => "forward",
        }
    }
}

/// How a stream ended: two letters for tools and a word for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Who ended it.
    pub who: Who,
    /// How far it had come.
    pub phase: Phase,
    /// One word of `[a-z0-9_]`, never renamed: `eof rst refused dns_nx dns_timeout acl auth idle drain ...`.
    pub why: &'static str,
}

impl End {
    /// Both sides said all they had to say.
    pub const EOF: End = End { who: Who::Normal, phase: Phase::Done, why: "eof" };

    /// An ending of another kind.
    pub const fn new(who: Who, phase: Phase, why: &'static str) -> End {
        End { who, phase, why }
    }
}

/// The two letters.
impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", char::from(self.who.letter()), char::from(self.phase.letter()))
    }
}

/// An enum whose variants are letters in the log, with what each means: one table, read by both directions.
macro_rules! letters {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $letter:literal $meaning:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)*
        }

        impl $name {
            /// All of them, in the order of declaration, which is also that of `as usize`.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The letter in the log.
            pub const fn letter(self) -> u8 {
                match self { $($name::$variant => $letter,)* }
            }

            /// The variant with this letter.
            pub const fn from_letter(letter: u8) -> Option<$name> {
                match letter { $($letter => Some($name::$variant),)* _ => None }
            }

            /// The letter in words.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning,)* }
            }
        }
    };
}

letters! {
    /// Who ended a stream: the first letter of `end=`.
    Who {
        Normal = b'-' "normal end",
        UserReset = b'C' "user reset or aborted",
        TargetReset = b'S' "target reset or refused",
        UserTimeout = b'c' "user's side timed out",
        TargetTimeout = b's' "target's side timed out",
        TunnelLost = b'T' "no tunnel, or it was lost",
        TunnelTimeout = b't' "tunnel timed out",
        Refused = b'P' "refused by policy or limit",
        Local = b'L' "answered here",
        Exhausted = b'R' "out of a resource",
        Internal = b'I' "internal error",
        Killed = b'K' "killed by an operator or the drain deadline",
    }
}

letters! {
    /// The phase a stream was in when it ended: the second letter of `end=`.
    Phase {
        Request = b'R' "reading the request",
        Auth = b'A' "checking the user",
        Queue = b'Q' "waiting for a tunnel",
        Name = b'N' "resolving the name",
        Connect = b'C' "connecting",
        Head = b'H' "waiting for the response head",
        Data = b'D' "moving data",
        LastData = b'L' "moving the last data",
        Done = b'-' "complete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn full() -> AccessRecord {
        let ms = |n| Some(Duration::from_millis(n));
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_168_800_023);
        AccessRecord {
            conn_id: "c4f2k9a1".into(),
            tun: "t7".into(),
            cli: Some(([203, 0, 113, 9], 51544).into()),
            user: "prod".into(),
            group: "prod".into(),
            via: "edge04".into(),
            dst: "db.internal:5432".into(),
            ip: Some(([10, 0, 0, 7], 5432).into()),
            code: Some(200),
            timers: Timers {
                ta: ms(0),
                th: ms(1),
                tq: ms(2),
                tw: ms(0),
                td: ms(1),
                tc: ms(3),
                tfb: ms(20),
                tt: ms(1523),
            },
            up: 967,
            down: 8709,
            act: 12,
            ..AccessRecord::new(time, Proto::Connect, Ingress::Http, End::EOF)
        }
    }

    #[track_caller]
    fn check(record: &AccessRecord, stamp: Stamp, want: &str) {
        let mut out = Vec::new();
        record.write_line(stamp, &mut out);
        assert_eq!(String::from_utf8(out).as_deref(), Ok(want));
    }

    #[test]
    fn a_full_record_is_the_line_of_the_schema() {
        check(
            &full(),
            Stamp::Time,
            "time=2026-11-20T10:00:00.023Z level=INFO event=access v=1 conn_id=c4f2k9a1 tun=t7 proto=connect \
             in=http cli=203.0.113.9:51544 user=prod group=prod via=edge04 dst=db.internal:5432 \
             ip=10.0.0.7:5432 code=200 ta=0 th=1 tq=2 tw=0 td=1 tc=3 tfb=20 tt=1523 up=967 down=8709 retry=0 \
             act=12 end=-- why=eof\n",
        );
    }

    #[test]
    fn an_empty_record_says_what_is_unknown() {
        let end = End::new(Who::Refused, Phase::Auth, "auth");
        check(
            &AccessRecord::new(SystemTime::UNIX_EPOCH, Proto::Socks5, Ingress::Socks, end),
            Stamp::Priority,
            "<6>level=INFO event=access v=1 conn_id=- tun=- proto=socks5 in=socks cli=- user=- group=- via=- \
             dst=- ip=- code=- ta=-1 th=-1 tq=-1 tw=-1 td=-1 tc=-1 tfb=-1 tt=-1 up=0 down=0 retry=0 act=0 \
             end=PA why=auth\n",
        );
    }

    #[test]
    fn hostile_values_stay_inside_their_key() {
        let mut record = full();
        record.user = "x\ntime=2026 event=access end=-- why=eof".into();
        record.dst = Text::new([0xff; LOG_VALUE_BYTES_MAX + 1]);
        let mut out = Vec::new();
        record.write_line(Stamp::Time, &mut out);
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1, "one line");
        let line = String::from_utf8(out).expect("a log line is UTF-8");
        assert!(line.contains(r#" user="x\x0atime=2026 event=access end=-- why=eof" "#), "{line}");
        assert_eq!(line.matches("\\xff").count(), LOG_VALUE_BYTES_MAX);
    }

    #[test]
    fn shared_values_are_bounded_as_others_are() {
        let (short, long): (Arc<str>, Arc<str>) =
            ("edge04".into(), "x".repeat(LOG_VALUE_BYTES_MAX + 1).into());
        assert_eq!(Text::shared(&short), "edge04".into());
        assert_eq!(Text::shared(&long).as_bytes(), [b'x'; LOG_VALUE_BYTES_MAX]);
    }

    #[test]
    fn letters_go_both_ways() {
        for (i, &who) in Who::ALL.iter().enumerate() {
            assert_eq!((Who::from_letter(who.letter()), who as usize), (Some(who), i));
        }
        for (i, &phase) in Phase::ALL.iter().enumerate() {
            assert_eq!((Phase::from_letter(phase.letter()), phase as usize), (Some(phase), i));
        }
        assert_eq!(Who::from_letter(b'x'), None);
        assert_eq!(Phase::from_letter(b'x'), None);
    }
}
