//! The opening of a session: who, which version, and two proofs.

use super::{Error, Event, Role, Session};
use crate::limits::{PORTS_MAX, STREAMS_MAX};
use crate::proto::auth::{self, Proof, Prover, Transcript, same};
use crate::proto::credentials::{Claim, Credentials, Secret};
use crate::proto::derive::{Keys, Recipe};
use crate::proto::frame::{AuthErr, Frame, GoAwayCode, Hello, Welcome};
use crate::proto::keys::Grant;
use std::sync::Arc;
use std::time::Instant;

/// The lowest version of the protocol that this program speaks.
pub const VERSION_OLDEST: u16 = 1;
/// The highest.
pub const VERSION_NEWEST: u16 = 1;
/// The proofs are bound to the connection that carries the session.
pub const FEATURE_BINDING: u64 = 1;
/// The features that this program has beyond its version.
pub const FEATURES: u64 = FEATURE_BINDING;

/// What a client brings to a session. Names longer than `limits` allows are cut, and then no gateway knows them.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What the client is called in logs.
    pub name: String,
    /// The group that it serves.
    pub group: String,
    /// The group's secret; none for an open gateway.
    pub secret: Option<Secret>,
    /// Drawn at random for each tunnel that the client keeps, and anew for the successor of one that drains.
    pub instance: u64,
    /// Counts the connections of that instance.
    pub generation: u64,
    /// Fresh random bytes for each session.
    pub nonce: [u8; 32],
}

/// What a gateway brings to a session.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The groups, with their secrets.
    pub credentials: Arc<Credentials>,
    /// The gateway's number for this session.
    pub session_id: u64,
    /// Fresh random bytes for each session.
    pub nonce: [u8; 32],
}

/// The other side, and what was agreed on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The client's name, on both sides.
    pub name: String,
    /// The client's group, on both sides.
    pub group: String,
    /// The client's instance, on both sides.
    pub instance: u64,
    /// The client's generation, on both sides.
    pub generation: u64,
    /// The gateway's number for the session, on both sides.
    pub session_id: u64,
    /// The version that both speak.
    pub version: u16,
    /// The features that both have.
    pub features: u64,
    /// Ports that the client may own at once.
    pub ports_max: u32,
    /// What the client's key is good for, on the gateway, where it has a key of its own.
    pub grant: Option<Arc<Grant>>,
    /// What the client proved itself by, on the gateway, where it has none and there is one.
    pub secret: Option<Arc<Secret>>,
}

/// What both ends of one connection know of it, and nobody between them.
pub type Binding = [u8; 32];

/// How far the handshake came.
#[derive(Debug)]
pub(super) enum Phase {
    /// Client: HELLO was sent.
    AwaitWelcome { hello: Hello, secret: Option<Secret>, binding: Option<Binding> },
    /// Client: WELCOME came, and the keys for the proof are being derived.
    AwaitKeys { recipe: Recipe, transcript: Transcript },
    /// Client: AUTH was sent; the gateway must answer with this.
    AwaitAuthOk { expected: Proof },
    /// Gateway: nothing came yet.
    AwaitHello { config: GatewayConfig, binding: Option<Binding> },
    /// Gateway: WELCOME was sent.
    AwaitAuth { claim: Claim, transcript: Transcript },
    /// Gateway: the client has proved itself, and is answered with this if there is a place for it.
    AwaitPlace { ours: Proof },
    /// Done.
    Up,
}

impl Session {
    /// The client's side of a new tunnel. HELLO is there to be sent.
    pub fn client(config: ClientConfig, now: Instant) -> Self {
        let hello = Hello {
            version_min: VERSION_OLDEST,
            version_max: VERSION_NEWEST,
            // Not bound to anything yet.
            features: FEATURES & !FEATURE_BINDING,
            instance: config.instance,
            generation: config.generation,
            streams_max: u32::try_from(STREAMS_MAX).expect("the limit fits its field"),
            nonce: config.nonce,
            group: config.group,
            name: config.name,
        };
        let frame = Frame::Hello(hello.clone());
        let phase = Phase::AwaitWelcome { hello, secret: config.secret, binding: None };
        let mut session = Self::new(Role::Client, phase, now);
        session.control(&frame, 0);
        session
    }

    /// The gateway's side of a new tunnel. It waits for HELLO.
    pub fn gateway(config: GatewayConfig, now: Instant) -> Self {
        Self::new(Role::Gateway, Phase::AwaitHello { config, binding: None }, now)
    }

    /// Takes no more than `most` streams at once, which the peer is told where it opens them. To be called before anything was
    /// sent or received.
    pub fn limit_streams(&mut self, most: usize) {
        self.streams_max = most.min(STREAMS_MAX);
        if let Phase::AwaitWelcome { hello, .. } = &mut self.phase {
            hello.streams_max = u32::try_from(self.streams_max).expect("the limit fits its field");
            let frame = Frame::Hello(hello.clone());
            self.greet(&frame);
        }
    }

    /// Says HELLO, in place of one that was not sent yet.
    fn greet(&mut self, hello: &Frame) {
        self.control.clear();
        self.control(hello, 0);
    }

    /// Binds the proofs to the connection, which both sides do or neither: where one end has TLS and the other has not, there
    /// is somebody between them. To be called before anything was sent or received; does nothing after that.
    pub fn bind(&mut self, to: Binding) {
        match &mut self.phase {
            Phase::AwaitHello { binding, .. } => *binding = Some(to),
            Phase::AwaitWelcome { hello, binding, .. } if self.control.len() == 1 => {
                hello.features |= FEATURE_BINDING;
                *binding = Some(to);
                let frame = Frame::Hello(hello.clone());
                self.greet(&frame);
            }
            _ => {}
        }
    }

    pub(super) fn on_handshake_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Error> {
        let kind = frame.kind();
        match (&self.phase, frame) {
            (Phase::AwaitHello { config, binding }, Frame::Hello(hello)) => {
                let (config, binding) = (config.clone(), *binding);
                self.on_hello(&config, binding, hello)
            }
            (Phase::AwaitWelcome { hello, secret, binding }, Frame::Welcome(welcome)) => {
                let (hello, secret, binding) = (hello.clone(), secret.clone(), *binding);
                self.on_welcome(hello, secret.as_ref(), binding, welcome)
            }
            (Phase::AwaitAuth { claim, transcript }, Frame::Auth(proof)) => {
                let ours = auth::check(claim, &proof, transcript).ok_or(Error::Credentials)?;
                match (claim, &mut self.peer) {
                    (Claim::Key { grant, .. }, Some(peer)) => {
                        peer.grant = grant.clone();
                        if !peer.grant.as_ref().is_some_and(|grant| grant.serves(&peer.group)) {
                            return Err(Error::Group);
                        }
                    }
                    (Claim::Secret { secret, .. }, Some(peer)) => peer.secret = secret.clone(),
                    (_, None) => {}
                }
                self.phase = Phase::AwaitPlace { ours };
                match self.asks_for_place {
                    true => self.events.push_back(Event::Proved),
                    false => _ = self.admit(now),
                }
                Ok(())
            }
            (Phase::AwaitAuthOk { expected }, Frame::AuthOk(proof)) => {
                if !same(expected, &proof) {
                    return Err(Error::Credentials);
                }
                self.up(now);
                Ok(())
            }
            (
                Phase::AwaitWelcome { .. } | Phase::AwaitKeys { .. } | Phase::AwaitAuthOk { .. },
                Frame::AuthErr(refusal),
            ) => {
                let AuthErr { retry, code, reason } = refusal;
                Err(Error::Refused { retry, code, reason })
            }
            // There is nothing yet that could be let go on: the end of all it is, or no word of it.
            (_, Frame::GoAway(goaway)) if goaway.code != GoAwayCode::Drain => {
                self.on_goaway(goaway);
                Ok(())
            }
            _ => Err(Error::Unexpected(kind)),
        }
    }

    fn on_hello(
        &mut self,
        config: &GatewayConfig,
        binding: Option<Binding>,
        hello: Hello,
    ) -> Result<(), Error> {
        let version = hello.version_max.min(VERSION_NEWEST);
        if version < hello.version_min.max(VERSION_OLDEST) {
            return Err(Error::Version { min: hello.version_min, max: hello.version_max });
        }
        if binding.is_some() != (hello.features & FEATURE_BINDING != 0) {
            return Err(Error::Binding);
        }
        let claim = config.credentials.claim(&hello.name, &hello.group);
        let welcome = Welcome {
            version,
            features: hello.features & FEATURES,
            session_id: config.session_id,
            ports_max: u32::try_from(PORTS_MAX).expect("the limit fits its field"),
            nonce: config.nonce,
            recipe: match &claim {
                Claim::Secret { .. } => None,
                Claim::Key { derived, .. } => Some(derived.recipe),
            },
        };
        self.streams_max = self.streams_max.min(usize::try_from(hello.streams_max).unwrap_or(usize::MAX));
        self.peer = Some(Peer::new(&hello, &welcome));
        let transcript = Transcript::new(hello, welcome, binding);
        self.control.push_back(transcript.welcome.clone());
        self.phase = Phase::AwaitAuth { claim, transcript };
        Ok(())
    }

    fn on_welcome(
        &mut self,
        hello: Hello,
        secret: Option<&Secret>,
        binding: Option<Binding>,
        welcome: Welcome,
    ) -> Result<(), Error> {
        let version = welcome.version;
        if !(hello.version_min..=hello.version_max).contains(&version) {
            return Err(Error::Version { min: version, max: version });
        }
        if (welcome.features ^ hello.features) & FEATURE_BINDING != 0 {
            return Err(Error::Binding);
        }
        self.peer = Some(Peer::new(&hello, &welcome));
        let recipe = welcome.recipe;
        let transcript = Transcript::new(hello, welcome, binding);
        if let Some(recipe) = recipe {
            // Nothing can be derived of nothing.
            if secret.is_none() {
                return Err(Error::Credentials);
            }
            self.events.push_back(Event::Derive(recipe));
            self.phase = Phase::AwaitKeys { recipe, transcript };
            return Ok(());
        }
        let proof = auth::prove(secret, Prover::Client, &transcript);
        self.phase = Phase::AwaitAuthOk { expected: auth::prove(secret, Prover::Gateway, &transcript) };
        self.control(&Frame::Auth(proof), 0);
        Ok(())
    }

    /// Takes the keys that [`Event::Derive`] asked for, and sends the proof. Does nothing when that is not waited for any more,
    /// or not of these keys.
    pub fn derived(&mut self, of: &Recipe, keys: &Keys) {
        if let Phase::AwaitKeys { recipe, transcript } = &self.phase
            && recipe == of
            && self.end.is_none()
        {
            let (proof, expected) = auth::prove_keys(keys, transcript);
            self.phase = Phase::AwaitAuthOk { expected };
            self.control(&Frame::Auth(proof), 0);
        }
    }

    /// Gateway: has the application asked whether there is a place for a client that proved itself, by [`Event::Proved`]; it answers
    /// with [`admit`](Self::admit) or [`turn_away`](Self::turn_away). To be called before anything was received.
    pub fn ask_for_place(&mut self) {
        self.asks_for_place = true;
    }

    /// There is a place for the client that has proved itself: says so to it. False when the session is not up then.
    pub fn admit(&mut self, now: Instant) -> bool {
        if let Phase::AwaitPlace { ours } = self.phase
            && self.end.is_none()
        {
            self.control(&Frame::AuthOk(ours), 0);
            self.up(now);
        }
        self.is_up()
    }

    fn up(&mut self, now: Instant) {
        self.phase = Phase::Up;
        self.liveness.received(now);
        // While nothing else is under way: how windows grow depends on it.
        self.liveness.measure(now);
        self.events.push_back(Event::Up);
    }
}

impl Transcript {
    fn new(hello: Hello, welcome: Welcome, binding: Option<Binding>) -> Self {
        let (hello, welcome) = (Frame::Hello(hello).encode(0), Frame::Welcome(welcome).encode(0));
        Self { hello, welcome, binding }
    }
}

impl Peer {
    /// Whether the session is bound to a connection with TLS.
    pub fn has_tls(&self) -> bool {
        self.features & FEATURE_BINDING != 0
    }

    fn new(hello: &Hello, welcome: &Welcome) -> Self {
        Self {
            name: hello.name.clone(),
            group: hello.group.clone(),
            instance: hello.instance,
            generation: hello.generation,
            session_id: welcome.session_id,
            version: welcome.version,
            features: welcome.features,
            ports_max: welcome.ports_max,
            grant: None,
            secret: None,
        }
    }
}
