//! What the frames say: one type per body, read and written here and nowhere else.
//!
//! Every value has exactly one encoding, so that both sides of the handshake can write a frame again and get the bytes that the
//! other one sent.

use super::code::{AuthErrCode, GoAwayCode, Network, PortError, RefuseCode, ResetCode};
use super::{FrameError, HEAD_SIZE, Head, Kind};
use crate::limits::{CLIENT_NAME_BYTES_MAX, GROUP_BYTES_MAX, HOST_BYTES_MAX, REASON_BYTES_MAX};
use crate::proto::auth::Proof;
use crate::proto::derive::{Cost, Recipe};
use crate::proto::wire::{Reader, WireError, put_addr, put_text};
use bytes::Bytes;
use std::net::SocketAddr;

/// The client's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version that the client speaks.
    pub version_min: u16,
    /// The highest.
    pub version_max: u16,
    /// Bits of what the client can do beyond the version.
    pub features: u64,
    /// Drawn at random for each tunnel that the client keeps, and anew for the successor of one that drains.
    pub instance: u64,
    /// Counts the connections of that instance.
    pub generation: u64,
    /// Streams that the client lets be open at once.
    pub streams_max: u32,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// The group whose secret the client knows.
    pub group: String,
    /// What the client is called in logs.
    pub name: String,
}

/// The gateway's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from here.
    pub version: u16,
    /// The features that both have.
    pub features: u64,
    /// The gateway's number for this session.
    pub session_id: u64,
    /// Ports that the client may own at once.
    pub ports_max: u32,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// How the client derives the key that it proves; `None` when its secret is that key.
    pub recipe: Option<Recipe>,
}

/// The gateway's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthErr {
    /// Whether trying again may help.
    pub retry: bool,
    /// Why.
    pub code: AuthErrCode,
    /// Why, for people.
    pub reason: String,
}

/// No more streams, or the end of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoAway {
    /// Which of the two, and why.
    pub code: GoAwayCode,
    /// Why, for people.
    pub reason: String,
}

/// The target that a stream is wanted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    /// TCP or UDP.
    pub network: Network,
    /// The host as the user named it; it is resolved on the client.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What both sides call the stream in their logs.
    pub conn_id: u64,
    /// The user's address, as far as it is known.
    pub user_addr: Option<SocketAddr>,
}

/// What the client says of a target that answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    /// The address that was dialed.
    pub addr: Option<SocketAddr>,
    /// The time that the name took.
    pub resolve_us: u32,
    /// The time that the connection took.
    pub connect_us: u32,
}

/// A port on the gateway that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// TCP or UDP.
    pub network: Network,
    /// The port on the gateway; 0 for any.
    pub port: u16,
    /// The host behind the client that users of the port reach.
    pub host: String,
    /// The port there.
    pub target_port: u16,
}

/// One frame, read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Kind has the words.
pub enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Auth(Proof),
    AuthOk(Proof),
    AuthErr(AuthErr),
    Ping(u64),
    Pong(u64),
    GoAway(GoAway),
    Open { request: OpenRequest, window: u32 },
    OpenOk { opened: Opened, window: u32 },
    OpenErr { code: RefuseCode, resolve_us: u32, connect_us: u32 },
    Data(Bytes),
    Window(u32),
    Fin,
    Rst(ResetCode),
    Stop(ResetCode),
    Dgram(Bytes),
    PortOpen(PortRequest),
    PortOk { network: Network, port: u16, actual: u16 },
    PortErr { network: Network, port: u16, error: PortError },
    PortClose { network: Network, port: u16 },
}

impl Frame {
    /// Reads the body that came with `head`.
    ///
    /// # Errors
    /// When the body does not have the form of its type.
    pub fn read(head: Head, body: Bytes) -> Result<Self, FrameError> {
        match head.kind {
            Kind::Data => return Ok(Frame::Data(body)),
            Kind::Dgram => return Ok(Frame::Dgram(body)),
            _ => {}
        }
        let mut r = Reader::new(&body);
        let frame = Self::read_fields(head.kind, &mut r);
        frame.and_then(|frame| r.end().map(|()| frame)).map_err(|error| FrameError::Body(head.kind, error))
    }

    fn read_fields(kind: Kind, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match kind {
            Kind::Hello => Frame::Hello(Hello {
                version_min: r.u16()?,
                version_max: r.u16()?,
                features: r.u64()?,
                instance: r.u64()?,
                generation: r.u64()?,
                streams_max: r.u32()?,
                nonce: r.array()?,
                group: r.text(GROUP_BYTES_MAX)?.to_owned(),
                name: r.text(CLIENT_NAME_BYTES_MAX)?.to_owned(),
            }),
            Kind::Welcome => Frame::Welcome(Welcome {
                version: r.u16()?,
                features: r.u64()?,
                session_id: r.u64()?,
                ports_max: r.u32()?,
                nonce: r.array()?,
                recipe: read_recipe(r)?,
            }),
            Kind::Auth => Frame::Auth(r.array()?),
            Kind::AuthOk => Frame::AuthOk(r.array()?),
            Kind::AuthErr => Frame::AuthErr(AuthErr {
                retry: match r.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(WireError::Value),
                },
                code: AuthErrCode::read(r)?,
                reason: r.text(REASON_BYTES_MAX)?.to_owned(),
            }),
            Kind::Ping => Frame::Ping(r.u64()?),
            Kind::Pong => Frame::Pong(r.u64()?),
            Kind::GoAway => Frame::GoAway(GoAway {
                code: GoAwayCode::read(r)?,
                reason: r.text(REASON_BYTES_MAX)?.to_owned(),
            }),
            Kind::Open => Frame::Open {
                window: r.u32()?,
                request: OpenRequest {
                    conn_id: r.u64()?,
                    network: Network::read(r)?,
                    port: r.u16()?,
                    user_addr: r.addr()?,
                    host: read_host(r)?,
                },
            },
            Kind::OpenOk => Frame::OpenOk {
                window: r.u32()?,
                opened: Opened { resolve_us: r.u32()?, connect_us: r.u32()?, addr: r.addr()? },
            },
            Kind::OpenErr => {
                Frame::OpenErr { code: RefuseCode::read(r)?, resolve_us: r.u32()?, connect_us: r.u32()? }
            }
            Kind::Window => Frame::Window(r.u32()?),
            Kind::Fin => Frame::Fin,
            Kind::Rst => Frame::Rst(ResetCode::read(r)?),
            Kind::Stop => Frame::Stop(ResetCode::read(r)?),
            Kind::PortOpen => Frame::PortOpen(PortRequest {
                network: Network::read(r)?,
                port: r.u16()?,
                target_port: r.u16()?,
                host: read_host(r)?,
            }),
            Kind::PortOk => Frame::PortOk { network: Network::read(r)?, port: r.u16()?, actual: r.u16()? },
            Kind::PortErr => {
                Frame::PortErr { network: Network::read(r)?, port: r.u16()?, error: PortError::read(r)? }
            }
            Kind::PortClose => Frame::PortClose { network: Network::read(r)?, port: r.u16()? },
            Kind::Data | Kind::Dgram => unreachable!("bodies of bytes are not read field by field"),
        })
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        match self {
            Frame::Hello(_) => Kind::Hello,
            Frame::Welcome(_) => Kind::Welcome,
            Frame::Auth(_) => Kind::Auth,
            Frame::AuthOk(_) => Kind::AuthOk,
            Frame::AuthErr(_) => Kind::AuthErr,
            Frame::Ping(_) => Kind::Ping,
            Frame::Pong(_) => Kind::Pong,
            Frame::GoAway(_) => Kind::GoAway,
            Frame::Open { .. } => Kind::Open,
            Frame::OpenOk { .. } => Kind::OpenOk,
            Frame::OpenErr { .. } => Kind::OpenErr,
            Frame::Data(_) => Kind::Data,
            Frame::Window(_) => Kind::Window,
            Frame::Fin => Kind::Fin,
            Frame::Rst(_) => Kind::Rst,
            Frame::Stop(_) => Kind::Stop,
            Frame::Dgram(_) => Kind::Dgram,
            Frame::PortOpen(_) => Kind::PortOpen,
            Frame::PortOk { .. } => Kind::PortOk,
            Frame::PortErr { .. } => Kind::PortErr,
            Frame::PortClose { .. } => Kind::PortClose,
        }
    }

    /// The whole frame as bytes, about `stream`.
    pub fn encode(&self, stream: u32) -> Bytes {
        let mut out = Vec::new();
        self.encode_to(stream, &mut out);
        out.into()
    }

    /// Puts the whole frame, about `stream`, behind what is in `out`.
    pub fn encode_to(&self, stream: u32, out: &mut Vec<u8>) {
        let (kind, begin) = (self.kind(), out.len());
        out.extend_from_slice(&[0; HEAD_SIZE]);
        self.put_body(out);
        let head = Head { kind, stream, len: out.len() - begin - HEAD_SIZE };
        debug_assert!(head.len <= kind.body_bytes_max() && kind.is_stream() == (stream != 0));
        out[begin..begin + HEAD_SIZE].copy_from_slice(&head.encode());
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello(h) => {
                out.extend_from_slice(&h.version_min.to_be_bytes());
                out.extend_from_slice(&h.version_max.to_be_bytes());
                out.extend_from_slice(&h.features.to_be_bytes());
                out.extend_from_slice(&h.instance.to_be_bytes());
                out.extend_from_slice(&h.generation.to_be_bytes());
                out.extend_from_slice(&h.streams_max.to_be_bytes());
                out.extend_from_slice(&h.nonce);
                put_text(out, &h.group, GROUP_BYTES_MAX);
                put_text(out, &h.name, CLIENT_NAME_BYTES_MAX);
            }
            Frame::Welcome(w) => {
                out.extend_from_slice(&w.version.to_be_bytes());
                out.extend_from_slice(&w.features.to_be_bytes());
                out.extend_from_slice(&w.session_id.to_be_bytes());
                out.extend_from_slice(&w.ports_max.to_be_bytes());
                out.extend_from_slice(&w.nonce);
                out.push(u8::from(w.recipe.is_some()));
                if let Some(Recipe { salt, cost }) = &w.recipe {
                    out.extend_from_slice(salt);
                    cost.parts().iter().for_each(|part| out.extend_from_slice(&part.to_be_bytes()));
                }
            }
            Frame::Auth(proof) | Frame::AuthOk(proof) => out.extend_from_slice(proof),
            Frame::AuthErr(e) => {
                out.extend_from_slice(&[u8::from(e.retry), e.code as u8]);
                put_text(out, &e.reason, REASON_BYTES_MAX);
            }
            Frame::Ping(value) | Frame::Pong(value) => out.extend_from_slice(&value.to_be_bytes()),
            Frame::GoAway(g) => {
                out.push(g.code as u8);
                put_text(out, &g.reason, REASON_BYTES_MAX);
            }
            Frame::Open { request, window } => {
                out.extend_from_slice(&window.to_be_bytes());
                out.extend_from_slice(&request.conn_id.to_be_bytes());
                out.push(request.network as u8);
                out.extend_from_slice(&request.port.to_be_bytes());
                put_addr(out, request.user_addr);
                put_text(out, &request.host, HOST_BYTES_MAX);
            }
            Frame::OpenOk { opened, window } => {
                out.extend_from_slice(&window.to_be_bytes());
                out.extend_from_slice(&opened.resolve_us.to_be_bytes());
                out.extend_from_slice(&opened.connect_us.to_be_bytes());
                put_addr(out, opened.addr);
            }
            Frame::OpenErr { code, resolve_us, connect_us } => {
                out.push(*code as u8);
                out.extend_from_slice(&resolve_us.to_be_bytes());
                out.extend_from_slice(&connect_us.to_be_bytes());
            }
            Frame::Data(bytes) | Frame::Dgram(bytes) => out.extend_from_slice(bytes),
            Frame::Window(credit) => out.extend_from_slice(&credit.to_be_bytes()),
            Frame::Fin => {}
            Frame::Rst(code) | Frame::Stop(code) => out.push(*code as u8),
            Frame::PortOpen(p) => {
                out.push(p.network as u8);
                out.extend_from_slice(&p.port.to_be_bytes());
                out.extend_from_slice(&p.target_port.to_be_bytes());
                put_text(out, &p.host, HOST_BYTES_MAX);
            }
            Frame::PortOk { network, port, actual } => {
                out.push(*network as u8);
                out.extend_from_slice(&port.to_be_bytes());
                out.extend_from_slice(&actual.to_be_bytes());
            }
            Frame::PortErr { network, port, error } => {
                out.push(*network as u8);
                out.extend_from_slice(&port.to_be_bytes());
                out.push(*error as u8);
            }
            Frame::PortClose { network, port } => {
                out.push(*network as u8);
                out.extend_from_slice(&port.to_be_bytes());
            }
        }
    }
}

fn read_recipe(r: &mut Reader<'_>) -> Result<Option<Recipe>, WireError> {
    match r.u8()? {
        0 => Ok(None),
        1 => {
            let salt = r.array()?;
            let cost = Cost::new(r.u32()?, r.u32()?, r.u32()?).ok_or(WireError::Value)?;
            Ok(Some(Recipe { salt, cost }))
        }
        _ => Err(WireError::Value),
    }
}

fn read_host(r: &mut Reader<'_>) -> Result<String, WireError> {
    match r.text(HOST_BYTES_MAX)? {
        "" => Err(WireError::Text),
        host => Ok(host.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{DERIVE_MEMORY_KIB_MAX, DERIVE_MEMORY_KIB_MIN};

    fn samples() -> Vec<Frame> {
        let request = OpenRequest {
            network: Network::Tcp,
            host: "db.internal".into(),
            port: 5432,
            conn_id: 7,
            user_addr: Some("[::1]:9".parse().expect("an address")),
        };
        let network = Network::Udp;
        vec![
            Frame::Hello(Hello {
                version_min: 1,
                version_max: 3,
                features: 5,
                instance: 6,
                generation: 7,
                streams_max: 8,
                nonce: [9; 32],
                group: "g".repeat(64),
                name: "n".repeat(64),
            }),
            Frame::Welcome(Welcome {
                version: 1,
                features: 2,
                session_id: 3,
                ports_max: 4,
                nonce: [5; 32],
                recipe: None,
            }),
            Frame::Welcome(Welcome {
                version: 1,
                features: 2,
                session_id: 3,
                ports_max: 4,
                nonce: [5; 32],
                recipe: Some(Recipe { salt: [6; 16], cost: Cost::default() }),
            }),
            Frame::Auth([1; 32]),
            Frame::AuthOk([2; 32]),
            Frame::AuthErr(AuthErr { retry: true, code: AuthErrCode::Limit, reason: "r".repeat(128) }),
            Frame::Ping(u64::MAX),
            Frame::Pong(1),
            Frame::GoAway(GoAway { code: GoAwayCode::Replaced, reason: "newer".into() }),
            Frame::Open { request: OpenRequest { host: "h".repeat(253), ..request.clone() }, window: 10 },
            Frame::Open { request: OpenRequest { user_addr: None, ..request }, window: u32::MAX },
            Frame::OpenOk {
                opened: Opened {
                    addr: Some("10.0.0.7:5432".parse().expect("an address")),
                    resolve_us: 1,
                    connect_us: 2,
                },
                window: 3,
            },
            Frame::OpenErr { code: RefuseCode::Dns, resolve_us: 1, connect_us: 0 },
            Frame::Data(Bytes::from_static(b"data")),
            Frame::Window(77),
            Frame::Fin,
            Frame::Rst(ResetCode::Timeout),
            Frame::Stop(ResetCode::Reset),
            Frame::Dgram(Bytes::new()),
            Frame::PortOpen(PortRequest { network, port: 53, host: "ns".into(), target_port: 5353 }),
            Frame::PortOk { network, port: 0, actual: 40000 },
            Frame::PortErr { network, port: 53, error: PortError::InUse },
            Frame::PortClose { network, port: 53 },
        ]
    }

    #[test]
    fn every_frame_reads_as_it_was_written_and_no_shorter_or_longer_body_does() {
        let mut kinds = Vec::new();
        for frame in samples() {
            let stream = u32::from(frame.kind().is_stream());
            let bytes = frame.encode(stream);
            let head = Head::decode(bytes.first_chunk().expect("a head")).expect("it is whole");
            let body = bytes.slice(HEAD_SIZE..);
            assert_eq!((head.kind, head.len), (frame.kind(), body.len()));
            assert_eq!(Frame::read(head, body.clone()).as_ref(), Ok(&frame));
            kinds.push(head.kind);
            if matches!(frame, Frame::Data(_) | Frame::Dgram(_)) {
                continue;
            }
            for len in 0..body.len() {
                assert!(Frame::read(head, body.slice(..len)).is_err(), "{frame:?} cut to {len}");
            }
            let longer = [&body[..], &[0]].concat().into();
            assert_eq!(Frame::read(head, longer), Err(FrameError::Body(head.kind, WireError::Trailing)));
        }
        assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)), "a sample of every type");
    }

    #[test]
    fn texts_have_their_longest() {
        let check = |frame: Frame, len: usize, letter: u8| {
            let mut body = frame.encode(0)[HEAD_SIZE..].to_vec();
            // As long as may be; its length stands right before it.
            let from = body.windows(len).position(|text| text.iter().all(|byte| *byte == letter));
            let from = from.expect("a sample has it");
            assert_eq!(usize::from(body[from - 1]), len);
            body[from - 1] += 1;
            body.insert(from, letter);
            let head = Head { kind: frame.kind(), stream: 0, len: body.len() };
            let want = Err(FrameError::Body(head.kind, WireError::Text));
            assert_eq!(Frame::read(head, body.into()), want, "{frame:?}");
        };
        let reason = "r".repeat(REASON_BYTES_MAX);
        check(samples().remove(0), GROUP_BYTES_MAX, b'g');
        check(samples().remove(0), CLIENT_NAME_BYTES_MAX, b'n');
        let code = AuthErrCode::Limit;
        check(Frame::AuthErr(AuthErr { retry: true, code, reason: reason.clone() }), REASON_BYTES_MAX, b'r');
        check(Frame::GoAway(GoAway { code: GoAwayCode::Stop, reason }), REASON_BYTES_MAX, b'r');
    }

    #[test]
    fn numbers_that_stand_for_nothing_are_refused() {
        #[track_caller]
        fn check(kind: Kind, body: &'static [u8], want: WireError) {
            let head = Head { kind, stream: u32::from(kind.is_stream()), len: body.len() };
            assert_eq!(Frame::read(head, Bytes::from_static(body)), Err(FrameError::Body(kind, want)));
        }
        check(Kind::Rst, &[0], WireError::Value);
        check(Kind::Rst, &[8], WireError::Value);
        check(Kind::PortClose, &[3, 0, 1], WireError::Value);
        check(Kind::AuthErr, &[2, 1, 0], WireError::Value);
        check(Kind::GoAway, &[9, 0], WireError::Value);
        // What derives a key is neither for nothing nor without end.
        let recipe = |tag, memory_kib: u32| -> &'static [u8] {
            let cost = [memory_kib, 1, 1].map(u32::to_be_bytes).concat();
            [&[0; 54][..], &[tag], &[7; 16], &cost].concat().leak()
        };
        check(Kind::Welcome, recipe(1, DERIVE_MEMORY_KIB_MIN - 1), WireError::Value);
        check(Kind::Welcome, recipe(1, DERIVE_MEMORY_KIB_MAX + 1), WireError::Value);
        check(Kind::Welcome, recipe(2, DERIVE_MEMORY_KIB_MIN), WireError::Value);
        check(Kind::Welcome, recipe(0, DERIVE_MEMORY_KIB_MIN), WireError::Trailing);
        check(Kind::PortOpen, &[1, 0, 1, 0, 1, 0], WireError::Text);
        check(Kind::PortOpen, &[1, 0, 1, 0, 1, 2, b'a', b'\n'], WireError::Text);
    }
}
