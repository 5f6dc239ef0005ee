//! The flags for times, of the gateway and of the client.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::limits::{TIMEOUT_MS_MAX, TIMEOUT_MS_MIN};
use crate::times::{Idle, Times};

/// A gateway's times.
#[derive(Args, Clone, Debug)]
pub(super) struct RawGatewayTimes {
    /// Give up a user that reads nothing for this long (100ms to 7days) [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    write_stall_timeout: Option<Duration>,
    /// Close users' connections on which nothing moves for this long, all of them or those of one kind; may be repeated
    /// (100ms to 7days, or never) [default: never]
    #[arg(long, value_name = "[http=|socks=|forward=]TIME")]
    idle_timeout: Vec<IdleTime>,
}

/// A client's times.
#[derive(Args, Clone, Debug)]
pub(super) struct RawClientTimes {
    /// Give up a target that is not connected within this (100ms to 7days) [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    connect_timeout: Option<Duration>,
    /// Give up a target that reads nothing for this long (100ms to 7days) [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    write_stall_timeout: Option<Duration>,
}

impl From<RawGatewayTimes> for Times {
    fn from(raw: RawGatewayTimes) -> Times {
        let default = Times::default();
        let mut idle = Idle::default();
        // One for all is the rest's, whatever the order.
        let (all, kinds): (Vec<_>, Vec<_>) =
            raw.idle_timeout.into_iter().partition(|time| time.kind.is_none());
        for IdleTime { kind, time } in all.into_iter().chain(kinds) {
            if matches!(kind, None | Some(Kind::Http)) {
                idle.http = time;
            }
            if matches!(kind, None | Some(Kind::Socks)) {
                idle.socks = time;
            }
            if matches!(kind, None | Some(Kind::Forward)) {
                idle.forward = time;
            }
        }
        Times { write_stall: raw.write_stall_timeout.unwrap_or(default.write_stall), idle, ..default }
    }
}

impl From<RawClientTimes> for Times {
    fn from(raw: RawClientTimes) -> Times {
        let default = Times::default();
        Times {
            connect: raw.connect_timeout.unwrap_or(default.connect),
            write_stall: raw.write_stall_timeout.unwrap_or(default.write_stall),
            ..default
        }
    }
}

/// `TIME`, or `KIND=TIME`; `never` is a time here.
#[derive(Clone, Copy, Debug)]
struct IdleTime {
    kind: Option<Kind>,
    /// `None` is never.
    time: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http,
    Socks,
    Forward,
}

impl FromStr for IdleTime {
    type Err = String;

    fn from_str(text: &str) -> Result<IdleTime, String> {
        let (kind, time) = match text.split_once('=') {
            None => (None, text),
            Some(("http", time)) => (Some(Kind::Http), time),
            Some(("socks", time)) => (Some(Kind::Socks), time),
            Some(("forward", time)) => (Some(Kind::Forward), time),
            Some((kind, _)) => return Err(format!("{kind:?} is neither http, socks nor forward")),
        };
        let time = if time == "never" { None } else { Some(duration(time)?) };
        Ok(IdleTime { kind, time })
    }
}

/// A time with its unit, such as `500ms`, `30s` or `5min`.
fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_fault| "want a time such as 30s or 5min")?;
    let bounds = Duration::from_millis(TIMEOUT_MS_MIN)..=Duration::from_millis(TIMEOUT_MS_MAX);
    if bounds.contains(&time) {
        Ok(time)
    } else {
        let (least, most) = (bounds.start(), bounds.end());
        Err(format!(
            "a time is from {} to {}",
            humantime::format_duration(*least),
            humantime::format_duration(*most)
        ))
    }
}
