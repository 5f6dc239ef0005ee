//! A session as a whole: quiet for days, lost in time, drained, closed, and its ports.

use super::*;
use crate::limits::{OPEN_QUIET_MS, PING_ANSWER_MS, PING_IDLE_MS};
use crate::proto::frame::{PortError, PortRequest};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// proves S-24, S-25, S-27: nothing ends a quiet tunnel, and nothing happens in it but PING and PONG
#[test]
fn a_quiet_tunnel_lives_for_a_day_and_its_streams_with_it() {
    let (mut pair, id) = Pair::with_stream(tcp("ssh", 22));
    let before = pair.pings;
    pair.advance(DAY);
    assert_eq!((pair.take_events(CLIENT), pair.take_events(GATEWAY)), (vec![], vec![]));
    let pings = pair.pings - before;
    assert!((5000..=2 * 5760).contains(&pings), "one PING in 15 s from each side at most: {pings}");
    assert_eq!(pair.ends[CLIENT].rtt(), Some(2 * pair.delay));
    pair.ends[GATEWAY].write(id, &mut buffer(b"awake")).unwrap();
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Readable(id)]);
}

// proves S-28, S-35, T17: a peer that vanished is found within 45 s, from either side, at any moment of the quiet
#[test]
fn a_dead_peer_is_found_within_45_seconds() {
    for side in [CLIENT, GATEWAY] {
        for quiet_ms in [0, 1, 7_000, 14_999, 15_000, 15_001, 31_000] {
            let (mut pair, id) = Pair::with_stream(tcp("a", 1));
            pair.advance(Duration::from_millis(quiet_ms));
            pair.dead[1 - side] = true;
            let died = pair.now;
            pair.advance(Duration::from_secs(45));
            let lost = Event::Lost(Lost::Failed(Error::PeerLost));
            assert_eq!(pair.take_events(side), [Event::Closed(id), lost], "{quiet_ms}");
            assert!(pair.now == died + Duration::from_secs(45) && !pair.ends[side].is_up());
        }
    }
}

// A client whose host has died without a word would be the least busy one until somebody notices.
#[test]
fn a_client_that_does_not_even_answer_a_ping_behind_an_open_is_doubted_soon() {
    let (mut pair, _) = Pair::with_stream(tcp("a", 1));
    // Between two questions.
    pair.advance(Duration::from_secs(62));
    pair.dead[CLIENT] = true;
    pair.ends[GATEWAY].open(tcp("b", 1)).unwrap();
    let asked = pair.now;
    pair.drive();
    let due = asked + Duration::from_millis(OPEN_QUIET_MS);
    pair.advance(due - pair.now - pair.delay);
    assert!(!pair.ends[GATEWAY].is_doubtful());
    // A second one does not put it off.
    pair.ends[GATEWAY].open(tcp("c", 1)).unwrap();
    pair.drive();
    pair.advance(due.saturating_duration_since(pair.now));
    assert!(pair.ends[GATEWAY].is_doubtful() && pair.ends[GATEWAY].is_up());
    pair.advance(Duration::from_millis(2 * PING_ANSWER_MS));
    assert!(!pair.ends[GATEWAY].is_up() && !pair.ends[GATEWAY].is_doubtful());
}

// A target may take half a minute, and the client that waits for it is there.
#[test]
fn a_client_that_answers_the_ping_behind_an_open_is_not_doubted_again() {
    let mut pair = Pair::up();
    let id = pair.ends[GATEWAY].open(tcp("slow", 1)).unwrap();
    pair.drive();
    let before = pair.pings;
    pair.advance(Duration::from_millis(OPEN_QUIET_MS + 10));
    assert_eq!(pair.pings, before + 1, "asked once");
    assert!(!pair.ends[GATEWAY].is_doubtful());
    pair.advance(Duration::from_millis(OPEN_QUIET_MS + 10));
    assert_eq!(pair.pings, before + 1, "and answered");
    pair.advance(Duration::from_secs(20));
    pair.ends[CLIENT].accept(id, Opened::default()).unwrap();
    pair.drive();
    assert!(pair.ends[GATEWAY].is_up());
}

// proves S-27: any frame counts as life, also when the answer to a PING is lost
#[test]
fn any_frame_is_life() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let gateway = &mut pair.ends[GATEWAY];
    let mut now = pair.now;
    for _ in 0..10 {
        now = gateway.poll_timeout().unwrap();
        gateway.handle_timeout(now).unwrap();
        now = gateway.poll_timeout().unwrap();
        gateway.handle_timeout(now).unwrap();
        now += Duration::from_secs(3);
        gateway.handle_input(Frame::Data(Bytes::from_static(b"x")).encode(id.0), now).unwrap();
        assert_eq!(gateway.poll_timeout(), Some(now + Duration::from_millis(PING_IDLE_MS)));
    }
    assert!(gateway.is_up() && now > pair.now);
}

// proves that an idle tunnel costs one PING in 15 s: the gateway's, which is the client's sign of life
#[test]
fn of_a_quiet_tunnel_one_side_asks() {
    let mut pair = Pair::up();
    let up = pair.now;
    for _ in 0..10 {
        let [gateway, client] =
            [GATEWAY, CLIENT].map(|end| pair.ends[end].poll_timeout().expect("a deadline"));
        assert!(gateway < client, "the client need not ask");
        pair.now = gateway;
        pair.ends[GATEWAY].handle_timeout(gateway).expect("alive");
        pair.drive();
    }
    let rounds = (pair.now - up).as_millis() as u64 / PING_IDLE_MS;
    assert_eq!(rounds, 10, "one question each time");
}

// proves T28: a process that slept through its deadlines asks once more before it gives up
#[test]
fn a_deadline_that_is_seen_late_asks_again() {
    let mut pair = Pair::up();
    let gateway = &mut pair.ends[GATEWAY];
    let first = gateway.poll_timeout().unwrap();
    gateway.handle_timeout(first).unwrap();
    let second = gateway.poll_timeout().unwrap();
    gateway.handle_timeout(second).unwrap();
    // Suspended for a minute within the last ten seconds.
    let late = second + Duration::from_secs(60);
    gateway.handle_timeout(late).unwrap();
    assert!(gateway.is_up());
    let last = gateway.poll_timeout().unwrap();
    assert_eq!(last, late + Duration::from_millis(PING_ANSWER_MS));
    assert_eq!(gateway.handle_timeout(last), Err(Error::PeerLost));
    assert!(!Error::PeerLost.to_string().is_empty() && Error::PeerLost.retry());
}

// proves S-12, S-33, S-38, S-47: closing ends all streams, then the session, once, and says one last word
#[test]
fn closing_ends_the_streams_and_then_the_session_once() {
    let (mut pair, a) = Pair::with_stream(tcp("a", 1));
    let b = pair.open(tcp("b", 1));
    pair.ends[GATEWAY].write(a, &mut buffer(&[1; 1000])).unwrap();
    for _ in 0..3 {
        pair.ends[GATEWAY].close(GoAwayCode::Stop, "SIGTERM");
    }
    assert_eq!(pair.ends[GATEWAY].open(tcp("c", 1)), Err(OpenError::NotUp));
    pair.drive();
    let closed = [Event::Closed(a), Event::Closed(b)];
    let ours = Event::Lost(Lost::Closed(GoAwayCode::Stop));
    let theirs = Event::Lost(Lost::PeerClosed(GoAwayCode::Stop, "SIGTERM".into()));
    assert_eq!(pair.take_events(GATEWAY), [&closed[..], &[ours]].concat());
    assert_eq!(pair.take_events(CLIENT), [&closed[..], &[theirs]].concat());
    let now = pair.now;
    for end in &mut pair.ends {
        assert_eq!(end.handle_input(Bytes::from_static(b"junk"), now), Ok(()));
        assert_eq!(end.handle_timeout(now + DAY), Ok(()));
        assert_eq!((end.poll_event(), end.poll_timeout(), end.wants_transmit()), (None, None, false));
        assert_eq!((end.stream_count(), end.stats().streams_closed), (0, 2));
    }
}

// proves S-34, S-44: who has said everything and heard everything may leave, and what it said is still there for who reads it late
#[test]
fn what_has_come_as_a_whole_outlives_the_session() {
    for side in [CLIENT, GATEWAY] {
        let (mut pair, whole) = Pair::with_stream(tcp("a", 1));
        let half = pair.open(tcp("b", 1));
        pair.ends[side].finish(whole);
        pair.drive();
        for id in [whole, half] {
            pair.ends[1 - side].write(id, &mut buffer(&[7; 1000])).unwrap();
            pair.ends[1 - side].finish(id);
        }
        pair.drive();
        assert!(pair.ends[1 - side].read(whole, &mut LinkBuffer::new(), 1).unwrap().end);
        pair.take_events(side);
        pair.ends[1 - side].close(GoAwayCode::Stop, "");
        pair.drive();
        // Of the other one this side would have more to say.
        let lost = Event::Lost(Lost::PeerClosed(GoAwayCode::Stop, String::new()));
        assert_eq!(pair.take_events(side), [Event::Closed(half), lost]);
        let end = &mut pair.ends[side];
        assert!(end.outlives(whole) && !end.contains(half));
        let mut out = LinkBuffer::new();
        assert_eq!(end.read(whole, &mut out, 999), Ok(Read { bytes: 999, end: false }));
        end.delivered(whole, 999);
        assert_eq!(end.write(whole, &mut buffer(b"x")), Err(StreamError::Finished));
        assert_eq!(end.read(whole, &mut out, 999), Ok(Read { bytes: 1, end: true }));
        assert_eq!((end.poll_event(), end.stream_count()), (Some(Event::Closed(whole)), 0));
        assert!(!end.wants_transmit() && end.poll_timeout().is_none());
    }
}

// A key that is taken out takes with it what its users have under way, also where that had come as a whole.
#[test]
fn of_a_session_that_is_revoked_nothing_is_left_to_read() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    pair.ends[GATEWAY].finish(id);
    pair.drive();
    pair.ends[CLIENT].write(id, &mut buffer(b"hello")).unwrap();
    pair.ends[CLIENT].finish(id);
    pair.drive();
    pair.take_events(GATEWAY);
    assert!(pair.ends[GATEWAY].outlives(id));
    pair.ends[GATEWAY].revoke(GoAwayCode::Stop, "its key was taken out");
    pair.drive();
    let ours = Event::Lost(Lost::Closed(GoAwayCode::Stop));
    assert_eq!(pair.take_events(GATEWAY), [Event::Closed(id), ours]);
    assert_eq!(pair.ends[GATEWAY].read(id, &mut LinkBuffer::new(), 9), Err(StreamError::Gone));
}

// proves S-43 for the session's part: draining refuses new streams and lets the open ones finish
#[test]
fn draining_lets_open_streams_go_on() {
    for side in [CLIENT, GATEWAY] {
        let (mut pair, id) = Pair::with_stream(tcp("a", 1));
        // This one crosses the GOAWAY when the client drains.
        let crossing = (side == CLIENT).then(|| pair.ends[GATEWAY].open(tcp("b", 1)).unwrap());
        pair.ends[side].drain();
        pair.ends[side].drain();
        pair.drive();
        assert_eq!(pair.event(1 - side), Some(Event::Draining));
        if let Some(id) = crossing {
            let refused = Refused { code: RefuseCode::Draining, resolve_us: 0, connect_us: 0 };
            assert_eq!(pair.take_events(GATEWAY), [Event::Refused(id, refused), Event::Closed(id)]);
        }
        assert_eq!(pair.ends[GATEWAY].open(tcp("c", 1)), Err(OpenError::Draining));
        pair.ends[CLIENT].write(id, &mut buffer(b"rest")).unwrap();
        pair.drive();
        assert_eq!(pair.take_events(GATEWAY), [Event::Readable(id)]);
    }
}

#[test]
fn ports_are_asked_for_answered_once_and_given_back() {
    let (tcp, udp) = (Network::Tcp, Network::Udp);
    let request = |network| PortRequest { network, port: 53, host: "ns".into(), target_port: 5353 };
    let mut pair = Pair::up();
    // S-72: TCP and UDP may share a number.
    for network in [tcp, udp] {
        pair.ends[CLIENT].request_port(request(network)).unwrap();
        assert_eq!(pair.ends[CLIENT].request_port(request(network)), Err(PortError::InUse));
    }
    pair.drive();
    assert_eq!(
        pair.take_events(GATEWAY),
        [Event::PortRequested(request(tcp)), Event::PortRequested(request(udp))]
    );
    pair.ends[GATEWAY].answer_port(tcp, 53, Ok(53)).unwrap();
    assert_eq!(pair.ends[GATEWAY].answer_port(tcp, 53, Ok(53)), Err(PortError::Closed));
    pair.ends[GATEWAY].answer_port(udp, 53, Err(PortError::InUse)).unwrap();
    pair.drive();
    let opened = Event::PortOpened { network: tcp, port: 53, actual: 53 };
    let refused = Event::PortRefused { network: udp, port: 53, error: PortError::InUse };
    assert_eq!(pair.take_events(CLIENT), [opened, refused]);

    // Closed before the answer: the answer is a refusal, whatever it was going to be.
    let closed = |network| Event::PortClosed { network, port: 53 };
    pair.ends[CLIENT].request_port(request(udp)).unwrap();
    pair.ends[CLIENT].close_port(udp, 53);
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::PortRequested(request(udp)), closed(udp)]);
    assert_eq!(pair.ends[GATEWAY].answer_port(udp, 53, Ok(53)), Err(PortError::Closed));
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [closed(udp)]);

    // Both give it up at once, and the client asks again before it hears: the old farewell is not for the new port.
    pair.ends[GATEWAY].close_port(tcp, 53);
    pair.ends[CLIENT].close_port(tcp, 53);
    pair.ends[CLIENT].close_port(tcp, 53);
    pair.ends[CLIENT].request_port(request(tcp)).unwrap();
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::PortRequested(request(tcp))]);
    pair.ends[GATEWAY].answer_port(tcp, 53, Ok(53)).unwrap();
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::PortOpened { network: tcp, port: 53, actual: 53 }]);
    assert!(pair.ends.iter().all(Session::is_up));
}
