//! Who gets in, and who does not.

use super::*;
use crate::limits::{DERIVE_MEMORY_KIB_MIN, HANDSHAKE_MS};
use crate::proto::derive::{Cost, Derived, Recipe, derive};
use crate::proto::frame::{Hello, Welcome};
use crate::proto::keys::Grant;

#[track_caller]
fn check(client: ClientConfig, gateway: GatewayConfig, want_client: Lost, want_gateway: Lost) {
    let mut pair = Pair::silent(client, gateway);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Lost(want_client)]);
    assert_eq!(pair.take_events(GATEWAY), [Event::Lost(want_gateway)]);
}

fn refused(retry: bool, code: AuthErrCode, reason: &str) -> Lost {
    Lost::Failed(Error::Refused { retry, code, reason: reason.into() })
}

#[test]
fn both_sides_learn_the_same() {
    let pair = Pair::up();
    let peer = pair.ends[GATEWAY].peer().unwrap();
    // But for what the client proved itself by, which the gateway keeps to see whether it is still good.
    let secret = gateway_config().credentials.secret("prod").cloned().map(Arc::new);
    assert!(secret.is_some());
    assert_eq!(*peer, Peer { secret, ..pair.ends[CLIENT].peer().unwrap().clone() });
    assert_eq!((&*peer.name, &*peer.group, peer.instance, peer.generation), ("edge04", "prod", 77, 3));
    assert_eq!(
        (peer.session_id, peer.version, peer.features),
        (9, VERSION_NEWEST, FEATURES & !FEATURE_BINDING)
    );
}

// proves T10, T26: a proof over one TLS connection is worth nothing over another, and both ends have TLS or neither
#[test]
fn proofs_are_bound_to_the_connection() {
    let bound = |client: Option<u8>, gateway: Option<u8>| {
        let mut pair = Pair::silent(client_config(), gateway_config());
        for (end, to) in [(CLIENT, client), (GATEWAY, gateway)] {
            if let Some(to) = to {
                pair.ends[end].bind([to; 32]);
            }
        }
        pair.drive();
        (pair.take_events(CLIENT), pair.take_events(GATEWAY), pair)
    };
    let (client, gateway, mut pair) = bound(Some(7), Some(7));
    assert_eq!((client, gateway), (vec![Event::Up], vec![Event::Up]));
    assert_eq!(pair.ends[CLIENT].peer().expect("it is up").features, FEATURES);
    // Once it has begun nothing changes any more.
    pair.ends[CLIENT].bind([8; 32]);
    assert!(!pair.ends[CLIENT].wants_transmit() && pair.ends[CLIENT].is_up());

    let wrong = refused(false, AuthErrCode::Credentials, "the group or its secret is wrong");
    let (client, gateway, _) = bound(Some(7), Some(8));
    assert_eq!(client, [Event::Lost(wrong)]);
    assert_eq!(gateway, [Event::Lost(Lost::Failed(Error::Credentials))]);
    let between = refused(false, AuthErrCode::Binding, &Error::Binding.to_string());
    for (client, gateway) in [(Some(7), None), (None, Some(7))] {
        let (client, gateway, _) = bound(client, gateway);
        assert_eq!(client, [Event::Lost(between.clone())]);
        assert_eq!(gateway, [Event::Lost(Lost::Failed(Error::Binding))]);
    }
    assert!(!Error::Binding.retry() && Error::Binding.close_code() == 1008);

    // A gateway that takes the feature back, or gives one that nobody asked for.
    for (bind, features) in [(true, 0), (false, FEATURE_BINDING)] {
        let now = pair::base();
        let mut client = Session::client(client_config(), now);
        if bind {
            client.bind([7; 32]);
        }
        let welcome = Welcome {
            version: VERSION_NEWEST,
            features,
            session_id: 1,
            ports_max: 1,
            nonce: [0; 32],
            recipe: None,
        };
        let got = client.handle_input(Frame::Welcome(welcome).encode(0), now);
        assert_eq!(got, Err(Error::Binding));
    }
}

/// The least that may be asked of a client.
fn cheap() -> Recipe {
    Recipe { salt: [4; 16], cost: Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least") }
}

/// A gateway that has a key of the client `edge04`, made of this password, for these groups.
fn keyed(password: &str, groups: &str) -> GatewayConfig {
    let keys = derive(&secret(password).expect("given"), &cheap()).expect("there is memory");
    let grant = Arc::new(Grant::parse(groups, "8000").expect("good lists"));
    let mut credentials = Credentials::new();
    credentials.insert_client("edge04", Derived::new(cheap(), &keys), grant).expect("there is room");
    GatewayConfig { credentials: Arc::new(credentials), ..gateway_config() }
}

/// Drives both ends, deriving what the client is asked for.
fn drive_keyed(client: ClientConfig, gateway: GatewayConfig) -> (Vec<Event>, Vec<Event>, Pair) {
    let mut pair = Pair::silent(client.clone(), gateway);
    pair.drive();
    let mut events = pair.take_events(CLIENT);
    if let Some(&Event::Derive(recipe)) = events.first() {
        assert!(!pair.ends[CLIENT].is_up() && events.len() == 1);
        let keys = derive(client.secret.as_ref().expect("nothing is derived of nothing"), &recipe)
            .expect("there is memory");
        // Of another recipe they are nothing to it.
        let other = Recipe { salt: [0; 16], ..recipe };
        pair.ends[CLIENT].derived(&other, &keys);
        assert!(!pair.ends[CLIENT].wants_transmit());
        pair.ends[CLIENT].derived(&recipe, &keys);
        pair.ends[CLIENT].derived(&recipe, &keys);
        pair.drive();
        events = pair.take_events(CLIENT);
    }
    let gateway = pair.take_events(GATEWAY);
    (events, gateway, pair)
}

// proves T10, T25: a client proves its own key, and serves the groups that the key lists
#[test]
fn a_client_with_a_key_serves_the_groups_that_it_lists() {
    let (client, gateway, pair) = drive_keyed(client_config(), keyed("s3cret", "dev,prod"));
    assert_eq!((client, gateway), (vec![Event::Up], vec![Event::Up]));
    let grant = pair.ends[GATEWAY].peer().expect("it is up").grant.clone().expect("it has a key");
    assert!(grant.opens(8000) && !grant.opens(8001));
    assert_eq!(pair.ends[CLIENT].peer().expect("it is up").grant, None);

    let wrong = |reason: &str| vec![Event::Lost(refused(false, AuthErrCode::Credentials, reason))];
    let (client, gateway, _) = drive_keyed(client_config(), keyed("s3cret", "dev"));
    assert_eq!(client, wrong("this client's key does not list the group"));
    assert_eq!(gateway, [Event::Lost(Lost::Failed(Error::Group))]);
    // Whoever has another password, or another name, learns nothing of it.
    let name = ClientConfig { name: "edge05".into(), ..client_config() };
    for (client, gateway) in [(client_config(), keyed("guess", "prod")), (name, keyed("s3cret", "prod"))] {
        let (client, gateway, _) = drive_keyed(client, gateway);
        assert_eq!(client, wrong("the group or its secret is wrong"));
        assert_eq!(gateway, [Event::Lost(Lost::Failed(Error::Credentials))]);
    }
    let none = ClientConfig { secret: None, ..client_config() };
    let (client, ..) = drive_keyed(none, keyed("s3cret", "prod"));
    assert_eq!(client, [Event::Lost(Lost::Failed(Error::Credentials))]);
}

#[test]
fn keys_that_come_too_late_are_dropped() {
    let mut pair = Pair::silent(client_config(), keyed("s3cret", "prod"));
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Derive(cheap())]);
    pair.advance(Duration::from_millis(HANDSHAKE_MS));
    assert_eq!(pair.ends[CLIENT].end(), Some(&Lost::Failed(Error::HandshakeTimeout)));
    pair.ends[CLIENT]
        .derived(&cheap(), &derive(&secret("s3cret").expect("given"), &cheap()).expect("there is memory"));
    assert!(!pair.ends[CLIENT].wants_transmit());
}

// proves T15: the lower of what the two sides take counts
#[test]
fn both_sides_may_take_fewer_streams() {
    for (client, gateway) in [(2, 100), (100, 2), (2, 2), (2, usize::MAX)] {
        let mut pair = Pair::silent(client_config(), gateway_config());
        pair.ends[CLIENT].limit_streams(client);
        pair.ends[GATEWAY].limit_streams(gateway);
        pair.ends[CLIENT].bind([1; 32]);
        pair.ends[GATEWAY].bind([1; 32]);
        pair.drive();
        for _ in 0..2 {
            pair.ends[GATEWAY].open(tcp("a", 1)).expect("there is room");
        }
        assert_eq!(pair.ends[GATEWAY].open(tcp("a", 1)), Err(OpenError::Limit), "{client} {gateway}");
        // A gateway that opens more than the client said.
        pair.ends[GATEWAY].streams_max = 3;
        pair.ends[GATEWAY].open(tcp("a", 1)).expect("it believes that there is room");
        pair.drive();
        let refused =
            |event: &Event| matches!(event, Event::Refused(_, refused) if refused.code == RefuseCode::Limit);
        let count = pair.take_events(GATEWAY).iter().filter(|event| refused(event)).count();
        assert_eq!(count, usize::from(client == 2), "{client} {gateway}");
    }
}

#[test]
fn an_open_gateway_takes_the_empty_group() {
    let open = GatewayConfig { credentials: Arc::new(Credentials::new()), ..gateway_config() };
    let client = ClientConfig { group: String::new(), secret: None, ..client_config() };
    let mut pair = Pair::silent(client, open.clone());
    pair.drive();
    assert!(pair.ends.iter().all(Session::is_up));
    let wrong = refused(false, AuthErrCode::Credentials, "the group or its secret is wrong");
    check(client_config(), open, wrong, Lost::Failed(Error::Credentials));
}

// proves T9, T10: a wrong secret and an unknown group look the same from outside
#[test]
fn a_wrong_secret_and_an_unknown_group_fail_alike_and_for_good() {
    let wrong = refused(false, AuthErrCode::Credentials, "the group or its secret is wrong");
    let secret = ClientConfig { secret: secret("guess"), ..client_config() };
    check(secret, gateway_config(), wrong.clone(), Lost::Failed(Error::Credentials));
    let group = ClientConfig { group: "dev".into(), ..client_config() };
    check(group, gateway_config(), wrong, Lost::Failed(Error::Credentials));
    let empty = ClientConfig { group: "dev".into(), secret: None, ..client_config() };
    let wrong = refused(false, AuthErrCode::Credentials, "the group or its secret is wrong");
    check(empty, gateway_config(), wrong, Lost::Failed(Error::Credentials));
    assert!(!Error::Credentials.retry());
}

// proves T10: a gateway that does not know the secret is no gateway of ours, although it lets everybody in
#[test]
fn a_gateway_must_prove_itself() {
    let mut pair = Pair::silent(client_config(), gateway_config());
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        instance: 0,
        generation: 0,
        streams_max: 1,
        nonce: [0; 32],
        group: String::new(),
        name: String::new(),
    };
    // The impostor answers WELCOME and takes any proof.
    let welcome =
        Welcome { version: 1, features: 0, session_id: 1, ports_max: 1, nonce: [0; 32], recipe: None };
    let now = pair.now;
    pair.ends[CLIENT].handle_input(Frame::Welcome(welcome).encode(0), now).unwrap();
    // It even sends the client's own proof back.
    let mut out = LinkBuffer::new();
    let n = pair.ends[CLIENT].poll_transmit(usize::MAX, &mut out, now);
    let sent = out.read_bytes(n).unwrap();
    let proof: [u8; 32] = sent[sent.len() - 32..].try_into().unwrap();
    let got = pair.ends[CLIENT].handle_input(Frame::AuthOk(proof).encode(0), now);
    assert_eq!(got, Err(Error::Credentials));
    assert!(!pair.ends[CLIENT].is_up());
    // And HELLO is not for a client.
    let mut client = Session::client(client_config(), now);
    let got = client.handle_input(Frame::Hello(hello).encode(0), now);
    assert_eq!(got, Err(Error::Unexpected(Kind::Hello)));
}

// proves T10: the frames of one session are worth nothing in another
#[test]
fn a_recorded_handshake_does_not_open_a_second_session() {
    let mut pair = Pair::silent(client_config(), gateway_config());
    let mut recorded = LinkBuffer::new();
    let now = pair.now;
    pair.ends[CLIENT].poll_transmit(usize::MAX, &mut recorded, now);
    let n = recorded.len();
    let hello = recorded.read_bytes(n).unwrap();
    pair.ends[GATEWAY].handle_input(hello.clone(), now).unwrap();
    let mut answer = LinkBuffer::new();
    let n = pair.ends[GATEWAY].poll_transmit(usize::MAX, &mut answer, now);
    pair.ends[CLIENT].handle_input(answer.read_bytes(n).unwrap(), now).unwrap();
    let n = pair.ends[CLIENT].poll_transmit(usize::MAX, &mut recorded, now);
    let auth = recorded.read_bytes(n).unwrap();

    let mut second = Session::gateway(GatewayConfig { nonce: [3; 32], ..gateway_config() }, now);
    second.handle_input(hello, now).unwrap();
    assert_eq!(second.handle_input(auth.clone(), now), Err(Error::Credentials));
    pair.ends[GATEWAY].handle_input(auth, now).unwrap();
    assert!(pair.ends[GATEWAY].is_up());
}

#[test]
fn versions_that_do_not_meet_are_refused_for_good() {
    let now = pair::base();
    let hello = |version_min, version_max| {
        let hello = Hello {
            version_min,
            version_max,
            features: !FEATURE_BINDING,
            instance: 0,
            generation: 0,
            streams_max: 7,
            nonce: [0; 32],
            group: "prod".into(),
            name: "n".into(),
        };
        Frame::Hello(hello).encode(0)
    };
    for (min, max) in [(2, 9), (0, 0), (5, 1)] {
        let mut gateway = Session::gateway(gateway_config(), now);
        assert_eq!(gateway.handle_input(hello(min, max), now), Err(Error::Version { min, max }));
        let mut out = LinkBuffer::new();
        let n = gateway.poll_transmit(usize::MAX, &mut out, now);
        let mut client = Session::client(client_config(), now);
        let error = client.handle_input(out.read_bytes(n).unwrap(), now).unwrap_err();
        assert!(matches!(error, Error::Refused { retry: false, code: AuthErrCode::Version, .. }));
    }
    let mut gateway = Session::gateway(gateway_config(), now);
    gateway.handle_input(hello(0, 9), now).unwrap();
    let peer = gateway.peer().unwrap();
    assert_eq!(
        (peer.version, peer.features, gateway.streams_max),
        (VERSION_NEWEST, FEATURES & !FEATURE_BINDING, 7)
    );
    assert!(!gateway.is_up());
}

// proves T17: whoever says nothing, or half of it, is dropped after ten seconds; nothing before that opens a stream
#[test]
fn the_handshake_has_a_limit() {
    let now = pair::base();
    let limit = Duration::from_millis(HANDSHAKE_MS);
    for mut end in [Session::gateway(gateway_config(), now), Session::client(client_config(), now)] {
        assert_eq!(end.poll_timeout(), Some(now + limit));
        assert_eq!(end.handle_timeout(now + limit - Duration::from_millis(1)), Ok(()));
        assert_eq!(end.open(tcp("h", 1)), Err(OpenError::NotUp));
        assert_eq!(end.handle_timeout(now + limit), Err(Error::HandshakeTimeout));
        assert_eq!(end.handle_timeout(now + limit), Err(Error::HandshakeTimeout));
        assert_eq!(end.poll_timeout(), None);
    }
    // A dial that took nine seconds takes nothing of it.
    let mut late = Session::client(client_config(), now);
    let connected = now + Duration::from_secs(9);
    late.begin(connected);
    assert_eq!(late.poll_timeout(), Some(connected + limit));
    assert_eq!(late.handle_timeout(now + limit), Ok(()));
    assert_eq!(late.handle_timeout(connected + limit), Err(Error::HandshakeTimeout));
    let mut gateway = Session::gateway(gateway_config(), now);
    let open = Frame::Open { request: tcp("h", 1), window: 1 }.encode(1);
    assert_eq!(gateway.handle_input(open, now), Err(Error::Unexpected(Kind::Open)));
}

#[test]
fn a_gateway_turns_away_and_says_when_to_come_back() {
    let stopping = |pair: &mut Pair| pair.ends[GATEWAY].close(GoAwayCode::Stop, "stopping");
    let full = |pair: &mut Pair| pair.ends[GATEWAY].turn_away(AuthErrCode::Limit, "1000 clients");
    for (act, code, reason) in [
        (&stopping as &dyn Fn(&mut Pair), AuthErrCode::Stopping, "stopping"),
        (&full, AuthErrCode::Limit, "1000 clients"),
    ] {
        let mut pair = Pair::silent(client_config(), gateway_config());
        act(&mut pair);
        pair.drive();
        let lost = refused(true, code, reason);
        assert_eq!(pair.take_events(CLIENT), [Event::Lost(lost.clone())]);
        assert!(matches!(lost, Lost::Failed(error) if error.retry()));
        assert_eq!(pair.take_events(GATEWAY), [Event::Lost(Lost::Closed(GoAwayCode::Stop))]);
    }
}

#[test]
fn a_client_takes_no_version_that_it_did_not_offer() {
    let now = pair::base();
    for version in [0, VERSION_NEWEST + 1, u16::MAX] {
        let mut client = Session::client(client_config(), now);
        let welcome =
            Welcome { version, features: 0, session_id: 1, ports_max: 1, nonce: [0; 32], recipe: None };
        let got = client.handle_input(Frame::Welcome(welcome).encode(0), now);
        assert_eq!(got, Err(Error::Version { min: version, max: version }));
        assert!(!got.unwrap_err().retry(), "somebody has to change something first");
    }
}

/// What each side says of itself, in order: HELLO and WELCOME.
fn greetings(pair: &mut Pair) -> [Bytes; 2] {
    let (now, mut out) = (pair.now, LinkBuffer::new());
    let n = pair.ends[CLIENT].poll_transmit(usize::MAX, &mut out, now);
    let hello = out.read_bytes(n).unwrap();
    pair.ends[GATEWAY].handle_input(hello.clone(), now).unwrap();
    let n = pair.ends[GATEWAY].poll_transmit(usize::MAX, &mut out, now);
    [hello, out.read_bytes(n).unwrap()]
}

// Whoever stops or finds a fault may say so at any time; that nothing new is to be begun only when something may be.
#[test]
fn during_the_handshake_goaway_ends_the_session_and_does_nothing_else() {
    let now = pair::base();
    let goaway = |code| Frame::GoAway(GoAway { code, reason: "why".into() }).encode(0);
    let [hello, welcome] = greetings(&mut Pair::silent(client_config(), gateway_config()));
    // Before and after what the other side says first.
    let ends = || {
        let fresh = |side| match side {
            CLIENT => Session::client(client_config(), now),
            _ => Session::gateway(gateway_config(), now),
        };
        [(CLIENT, None), (GATEWAY, None), (CLIENT, Some(&welcome)), (GATEWAY, Some(&hello))].map(
            |(side, first)| {
                let mut end = fresh(side);
                if let Some(first) = first {
                    end.handle_input(first.clone(), now).unwrap();
                }
                end
            },
        )
    };
    for mut end in ends() {
        end.handle_input(goaway(GoAwayCode::Stop), now).unwrap();
        assert_eq!(end.end(), Some(&Lost::PeerClosed(GoAwayCode::Stop, "why".into())));
    }
    for mut end in ends() {
        let got = end.handle_input(goaway(GoAwayCode::Drain), now);
        assert_eq!(got, Err(Error::Unexpected(Kind::GoAway)));
        assert!(!end.is_draining());
    }
}
