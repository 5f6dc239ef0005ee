//! Where users come in: what the HTTP proxy, SOCKS5 and forwarded ports have in common.

pub mod http;
mod joined;
pub mod socks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::gateway::{NoStream, Opening, Shared};
use crate::proto::frame::{Opened, RefuseCode, ResetCode};
use crate::proto::session::Refused;
use crate::proto::target::Target;
use crate::record::{AccessRecord, End, Ingress, Phase, Proto, Text, Who};
use crate::refused::Noted;
use crate::rt;
use crate::tunnel::{Broken, Stream};

pub(crate) use joined::Joined;

/// One user's stream on its way to its access line.
///
/// A stream that rests keeps one, so what is text is shared where somebody has it anyway, and the record is made at the end.
#[derive(Debug)]
pub(crate) struct Journey(Box<Known>);

/// What is known so far. Boxed: it goes from hand to hand.
#[derive(Debug)]
struct Known {
    proto: Proto,
    ingress: Ingress,
    cli: Option<SocketAddr>,
    dst: Text,
    user: Text,
    /// When the user came, or began this request.
    begun: Instant,
    asked: Instant,
    carried: Option<Carried>,
    answered: Option<Answered>,
}

/// Since a stream was opened.
#[derive(Debug)]
struct Carried {
    conn_id: u64,
    tun: Text,
    group: Text,
    via: Text,
}

/// Since the client has said how it went with the target.
#[derive(Debug)]
struct Answered {
    resolve_us: u32,
    connect_us: Option<u32>,
    ip: Option<SocketAddr>,
    /// When the target was reached.
    reached: Option<Instant>,
    /// From then to the first byte back.
    first_byte: Option<Duration>,
}

impl Journey {
    pub(crate) fn new(proto: Proto, ingress: Ingress, cli: Option<SocketAddr>, begun: Instant) -> Journey {
        let (dst, user) = Default::default();
        let (carried, answered) = (None, None);
        Journey(Box::new(Known { proto, ingress, cli, dst, user, begun, asked: begun, carried, answered }))
    }

    /// The user has said where to.
    pub(crate) fn asked(&mut self, dst: Text, user: Option<&str>) {
        self.0.asked = rt::now();
        self.0.dst = dst;
        self.0.user = user.map(Text::new).unwrap_or_default();
    }

    /// The user began earlier than was known.
    pub(crate) fn began(&mut self, begun: Instant) {
        self.0.begun = begun;
    }

    /// A stream was opened for it. Gives the stream.
    pub(crate) fn opening(&mut self, opening: Opening, group: Text) -> Stream {
        let tun = Text::shared(opening.stream.tunnel().shared_label());
        let via = Text::shared(&opening.via);
        self.0.carried = Some(Carried { conn_id: opening.conn_id, tun, group, via });
        opening.stream
    }

    /// That of its stream, once there is one.
    pub(crate) fn conn_id(&self) -> Option<u64> {
        self.0.carried.as_ref().map(|carried| carried.conn_id)
    }

    /// The client has said how it went with the target.
    pub(crate) fn answer(&mut self, answer: &Result<Opened, Refused>) {
        self.0.answered = Some(match answer {
            Ok(Opened { addr, resolve_us, connect_us }) => {
                if let Some(carried) = &self.0.carried {
                    log::debug!(event = "stream", conn_id = crate::conn_label(carried.conn_id), ip = crate::shown(*addr); "established");
                }
                Answered {
                    resolve_us: *resolve_us,
                    connect_us: Some(*connect_us),
                    ip: *addr,
                    reached: Some(rt::now()),
                    first_byte: None,
                }
            }
            Err(refused) => Answered {
                resolve_us: refused.resolve_us,
                connect_us: Some(refused.connect_us).filter(|_| connected_late(refused.code)),
                ip: None,
                reached: None,
                first_byte: None,
            },
        });
    }

    /// Whether anything has come back.
    pub(crate) fn has_answer(&self) -> bool {
        self.0.answered.as_ref().is_some_and(|answered| answered.first_byte.is_some())
    }

    /// The stream's first byte back.
    pub(crate) fn first_byte(&mut self) {
        if let Some(answered) = &mut self.0.answered
            && let (Some(reached), None) = (answered.reached, answered.first_byte)
        {
            answered.first_byte = Some(rt::since(reached));
        }
    }

    /// The end: writes the line.
    pub(crate) fn end(self, shared: &Shared, code: Option<u16>, bytes: (u64, u64), end: End) {
        let Known { proto, ingress, cli, dst, user, begun, asked, carried, answered } = *self.0;
        let mut record = Box::new(AccessRecord::new(rt::wall(), proto, ingress, end));
        (record.cli, record.dst, record.user, record.code) = (cli, dst, user, code);
        (record.up, record.down) = bytes;
        record.act = shared.registry.stream_count() as u32;
        let timers = &mut record.timers;
        (timers.ta, timers.th) = (Some(Duration::ZERO), Some(Duration::ZERO));
        timers.tq = Some(asked.saturating_duration_since(begun));
        timers.tt = Some(rt::since(begun));
        if let Some(answered) = answered {
            timers.td = Some(Duration::from_micros(answered.resolve_us.into()));
            timers.tc = answered.connect_us.map(|us| Duration::from_micros(us.into()));
            timers.tfb = answered.first_byte;
            record.ip = answered.ip;
        }
        let conn_id = match carried {
            Some(Carried { conn_id, tun, group, via }) => {
                timers.tw = Some(Duration::ZERO);
                (record.tun, record.group, record.via) = (tun, group, via);
                conn_id
            }
            None => shared.next_conn_id(),
        };
        record.conn_id = Text::new(crate::conn_text(conn_id));
        log::debug!(event = "stream", conn_id = crate::conn_label(conn_id); "closing: {}", end.why);
        if end.why == FORBIDDEN {
            warn_of_forbidden(shared, &record);
        }
        shared.stats.note(&record);
        shared.access.write(record);
    }
}

/// Says once for each address and minute who wants to go where the rules of the client forbid it: it may be looking for a way in.
fn warn_of_forbidden(shared: &Shared, record: &AccessRecord) {
    let Noted { said: Some(count), total } = shared.forbidden.note(record.cli, rt::now()) else { return };
    let [conn_id, user, via, dst] = [&record.conn_id, &record.user, &record.via, &record.dst]
        .map(|text| String::from_utf8_lossy(text.as_bytes()));
    // As the rules see it, however it was written.
    let dst = dst.parse::<Target>().map_or_else(|_| dst.to_string(), |target| target.to_string());
    log::warn!(event = "refuse", conn_id = &*conn_id, cli = crate::shown(record.cli), user = &*user, via = &*via,
        dst = dst.as_str(), count, total; "the client's rules forbid this target");
}

/// What became of a stream that is being opened; `None` while nobody knows.
pub(crate) fn opened(stream: &Stream, journey: &mut Option<Journey>) -> Option<Result<Opened, Verdict>> {
    match (stream.take_answer(), stream.broken()) {
        (Some(answer), _) => {
            if let Some(journey) = journey {
                journey.answer(&answer);
            }
            Some(answer.map_err(|refused| refused.code.into()))
        }
        (None, Some(broken)) => {
            let end = broken_end(broken, Phase::Connect);
            Some(Err(Verdict { status: 502, text: "the tunnel was lost", end, ..NoStream::NoClient.into() }))
        }
        (None, None) => None,
    }
}

/// Why a stream ended that the rules forbid.
const FORBIDDEN: &str = "acl";

fn connected_late(code: RefuseCode) -> bool {
    matches!(code, RefuseCode::Refused | RefuseCode::Unreachable | RefuseCode::Timeout)
}

/// A target as the log has it.
pub(crate) fn dst(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a user is told of a target that was not reached, in the words of every ingress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) status: u16,
    pub(crate) text: &'static str,
    pub(crate) reply: crate::proto::socks5::ReplyCode,
    pub(crate) end: End,
}

impl From<RefuseCode> for Verdict {
    fn from(code: RefuseCode) -> Verdict {
        use crate::proto::socks5::ReplyCode as Reply;
        let (status, text, reply, who, phase, why) = match code {
            RefuseCode::Refused => (
                502,
                "the target refused the connection",
                Reply::Refused,
                Who::TargetReset,
                Phase::Connect,
                "refused",
            ),
            RefuseCode::Unreachable => {
                let text = "there is no way to the target";
                (502, text, Reply::HostUnreachable, Who::TargetReset, Phase::Connect, "unreachable")
            }
            RefuseCode::Timeout => {
                let text = "the target did not answer in time";
                (504, text, Reply::TimedOut, Who::TargetTimeout, Phase::Connect, "timeout")
            }
            RefuseCode::Dns => {
                let text = "the target's name was not found";
                (502, text, Reply::NameUnresolved, Who::TargetReset, Phase::Name, "dns_nx")
            }
            RefuseCode::Forbidden => {
                let text = "the client's rules forbid this target";
                (403, text, Reply::Forbidden, Who::Refused, Phase::Connect, FORBIDDEN)
            }
            RefuseCode::Limit => {
                (503, "the client is at a limit", Reply::Failed, Who::Exhausted, Phase::Queue, "limit")
            }
            RefuseCode::Draining => {
                (503, "the client is stopping", Reply::Failed, Who::Refused, Phase::Queue, "drain")
            }
        };
        Verdict { status, text, reply, end: End::new(who, phase, why) }
    }
}

impl From<NoStream> for Verdict {
    fn from(why: NoStream) -> Verdict {
        use crate::proto::socks5::ReplyCode as Reply;
        let (status, text, who, why) = match why {
            NoStream::Barred => {
                let (text, end) =
                    ("the login is not good any more", End::new(Who::Refused, Phase::Auth, "auth"));
                return Verdict { status: 403, text, reply: Reply::Forbidden, end };
            }
            NoStream::NoClient => (503, "no client of this group is connected", Who::TunnelLost, "no_client"),
            NoStream::Limit => (503, "the tunnel is at its limit of streams", Who::Exhausted, "max_streams"),
            NoStream::Draining => (503, "the client is stopping", Who::Refused, "drain"),
            NoStream::Host => (400, "the target is no valid host", Who::Refused, "bad_host"),
        };
        Verdict { status, text, reply: Reply::Failed, end: End::new(who, Phase::Queue, why) }
    }
}

/// How a stream that broke is written down.
pub(crate) fn broken_end(broken: Broken, phase: Phase) -> End {
    match broken {
        Broken::Lost => End::new(Who::TunnelLost, phase, "tunnel_lost"),
        Broken::Reset(code) | Broken::Stopped(code) => match code {
            ResetCode::Reset => End::new(Who::TargetReset, phase, "rst"),
            ResetCode::Timeout => End::new(Who::TargetTimeout, phase, "timeout"),
            ResetCode::Cancelled => End::new(Who::TargetReset, phase, "cancelled"),
            ResetCode::Stopping => End::new(Who::Killed, phase, "drain"),
            ResetCode::Forbidden => End::new(Who::Refused, phase, FORBIDDEN),
            ResetCode::Limit => End::new(Who::Exhausted, phase, "limit"),
            ResetCode::Internal => End::new(Who::Internal, phase, "internal"),
        },
    }
}

/// How a user's connection that closed in the middle is written down.
pub(crate) fn closed_end(reason: &rt::Reason, phase: Phase) -> End {
    match reason {
        rt::Reason::Peer => End::new(Who::UserReset, phase, "eof"),
        rt::Reason::Error(_) => End::new(Who::UserReset, phase, "rst"),
        rt::Reason::Tls(_) => End::new(Who::UserReset, phase, "tls"),
        rt::Reason::Timeout(_) => End::new(Who::UserTimeout, phase, "timeout"),
        rt::Reason::Shutdown => End::new(Who::Killed, phase, "drain"),
        rt::Reason::User | rt::Reason::Detached => End::new(Who::Local, phase, "closed"),
        rt::Reason::Handler(_) | rt::Reason::Panic => End::new(Who::Internal, phase, "internal"),
    }
}

/// How a stream is broken off whose user went before its target had answered. What the user had said by then was not all, and the
/// target may have been reached meanwhile: it is not to see a stream that ended in order.
pub(crate) fn unanswered(reason: &rt::Reason) -> ResetCode {
    match reason {
        rt::Reason::Shutdown => ResetCode::Stopping,
        rt::Reason::Timeout(_) => ResetCode::Timeout,
        rt::Reason::Handler(_) | rt::Reason::Panic => ResetCode::Internal,
        _ => ResetCode::Reset,
    }
}

/// What every ingress handler holds.
pub(crate) type Gate = Arc<Shared>;
