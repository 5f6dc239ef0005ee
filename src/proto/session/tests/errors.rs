//! A peer that breaks the protocol: each fault has its error, ends the session once, and never panics.

use super::*;
use crate::limits::{
    CONTROL_QUEUE_LEN_MAX, CONTROL_QUEUE_OPEN_LEN_MAX, CREDIT_BYTES_MIN, EVENT_QUEUE_LEN_MAX,
    PINGS_PER_S_MAX, PORT_OPENS_PER_S_MAX, PORT_RETRY_MS, PORTS_MAX, SMALL_CREDITS_PER_S_MAX,
    WINDOW_BYTES_MAX, WINDOW_INITIAL_BYTES,
};
use crate::proto::frame::{FrameError, PortError, PortRequest};
use crate::proto::wire::WireError;

/// Feeds raw bytes to one side, and looks at how it ends: the error, the farewell, and the streams closed before `Lost`.
#[track_caller]
fn check(pair: &mut Pair, side: usize, input: impl Into<Bytes>, want: &Error) {
    let end = &mut pair.ends[side];
    let streams = end.stream_count();
    let now = pair.now;
    assert_eq!(end.handle_input(input.into(), now).as_ref(), Err(want));
    // S-26: what comes after is not read, and the answer stays the same.
    assert_eq!(end.handle_input(Bytes::from_static(&[0; 100]), now).as_ref(), Err(want));
    assert_eq!(end.handle_timeout(now).as_ref(), Err(want));
    end.close(GoAwayCode::Stop, "too late");
    assert_eq!((end.is_up(), end.stream_count(), end.poll_timeout()), (false, 0, None));
    let events: Vec<_> = std::iter::from_fn(|| end.poll_event()).collect();
    let closed = events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
    let lost = events.iter().filter(|event| matches!(event, Event::Lost(_))).count();
    assert!(closed >= streams, "every stream is closed before the session");
    assert_eq!((lost, events.last()), (1, Some(&Event::Lost(Lost::Failed(want.clone())))));
    // One farewell, which names the fault, and the peer that gets it is lost as well.
    let mut out = LinkBuffer::new();
    let n = end.poll_transmit(usize::MAX, &mut out, now);
    assert_eq!(end.poll_transmit(usize::MAX, &mut LinkBuffer::new(), now), 0);
    let bytes = out.read_bytes(n).unwrap();
    let head = Head::decode(bytes.first_chunk().unwrap()).unwrap();
    let Ok(Frame::GoAway(goaway)) = Frame::read(head, bytes.slice(12..)) else { panic!("no GOAWAY") };
    assert_eq!((goaway.code, goaway.reason), (GoAwayCode::Protocol, want.to_string()));
}

/// Feeds frames to one side of a fresh pair with one accepted stream, which is number 1.
#[track_caller]
fn check_frames(side: usize, frames: &[(Frame, u32)], want: Error) {
    let (mut pair, _) = Pair::with_stream(tcp("a", 1));
    check(&mut pair, side, encode(frames), &want);
}

fn encode(frames: &[(Frame, u32)]) -> Vec<u8> {
    frames.iter().flat_map(|(frame, stream)| frame.encode(*stream)).collect()
}

fn data(len: usize) -> Frame {
    Frame::Data(vec![0; len].into())
}

fn open() -> Frame {
    Frame::Open { request: tcp("h", 1), window: 1 }
}

const ID: StreamId = StreamId(1);

#[test]
fn bytes_that_are_no_frame() {
    let (mut pair, _) = Pair::with_stream(tcp("a", 1));
    check(
        &mut pair,
        CLIENT,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        &Error::Frame(FrameError::UnknownType(b'G')),
    );
    let (mut pair, _) = Pair::with_stream(tcp("a", 1));
    let head = [19, 0, 0, 0, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff];
    let oversize = Error::Frame(FrameError::Oversize { kind: Kind::Data, len: 0x7fff_ffff });
    assert_eq!(oversize.close_code(), 1009);
    check(&mut pair, GATEWAY, head.to_vec(), &oversize);
    let (mut pair, _) = Pair::with_stream(tcp("a", 1));
    let short = Error::Frame(FrameError::Body(Kind::Window, WireError::Short));
    check(&mut pair, GATEWAY, vec![20, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9], &short);
}

// proves T15: numbers that are reused, skipped, of the wrong parity, or never opened
#[test]
fn stream_numbers() {
    let due = |id, due| Error::StreamId { id: StreamId(id), due };
    check_frames(CLIENT, &[(open(), 1)], due(1, 3));
    check_frames(CLIENT, &[(open(), 2)], due(2, 3));
    check_frames(CLIENT, &[(open(), 5)], due(5, 3));
    check_frames(CLIENT, &[(Frame::Fin, 3)], Error::UnknownStream(StreamId(3)));
    check_frames(GATEWAY, &[(data(1), 3)], Error::UnknownStream(StreamId(3)));
    check_frames(GATEWAY, &[(Frame::Rst(ResetCode::Reset), 2)], Error::UnknownStream(StreamId(2)));
    check_frames(GATEWAY, &[(open(), 3)], Error::Unexpected(Kind::Open));
}

// proves T15, T16: bytes beyond the window, credit beyond any window
#[test]
fn windows() {
    let window = WINDOW_INITIAL_BYTES as usize;
    let mut frames = vec![(data(16 * 1024), 1); window / (16 * 1024)];
    frames.push((data(1), 1));
    check_frames(CLIENT, &frames, Error::WindowExceeded(ID));
    check_frames(GATEWAY, &frames, Error::WindowExceeded(ID));
    let most = WINDOW_BYTES_MAX - WINDOW_INITIAL_BYTES;
    check_frames(GATEWAY, &[(Frame::Window(most), 1), (Frame::Window(1), 1)], Error::CreditOverflow(ID));
    check_frames(CLIENT, &[(Frame::Window(u32::MAX), 1)], Error::CreditOverflow(ID));
    let large = Frame::Open { request: tcp("h", 1), window: u32::MAX };
    check_frames(CLIENT, &[(large, 3)], Error::CreditOverflow(StreamId(3)));
    check_frames(CLIENT, &[(Frame::Window(0), 1)], Error::Empty(Kind::Window));
    check_frames(CLIENT, &[(data(0), 1)], Error::Empty(Kind::Data));
}

// proves S-09 from the other side: a second closing message, and anything behind the first
#[test]
fn after_fin() {
    let fin = (Frame::Fin, 1);
    check_frames(CLIENT, &[fin.clone(), fin.clone()], Error::AfterFin(ID, Kind::Fin));
    check_frames(CLIENT, &[fin.clone(), (data(1), 1)], Error::AfterFin(ID, Kind::Data));
    check_frames(GATEWAY, &[fin.clone(), (Frame::Rst(ResetCode::Reset), 1)], Error::AfterFin(ID, Kind::Rst));
    check_frames(GATEWAY, &[(Frame::Stop(ResetCode::Reset), 1)], Error::Unexpected(Kind::Stop));
}

// proves S-09: STOP is said once and is the last word, also while what came before the FIN waits to be read
#[test]
fn after_stop() {
    let stop = (Frame::Stop(ResetCode::Reset), 1);
    let begun = [(data(1), 1), (Frame::Fin, 1), stop.clone()];
    for side in [CLIENT, GATEWAY] {
        let then = |frame: Frame| [&begun[..], &[(frame, 1)]].concat();
        let after = |kind| Error::AfterStop(ID, kind);
        check_frames(side, &then(Frame::Stop(ResetCode::Reset)), after(Kind::Stop));
        check_frames(side, &then(Frame::Window(WINDOW_INITIAL_BYTES)), after(Kind::Window));
        check_frames(side, &then(Frame::Fin), after(Kind::Fin));
        // Whoever had ended its own direction before is told once as well.
        let (mut pair, id) = Pair::with_stream(tcp("a", 1));
        pair.ends[side].finish(id);
        pair.ends[side].poll_transmit(usize::MAX, &mut LinkBuffer::new(), pair.now);
        check(&mut pair, side, encode(&then(Frame::Stop(ResetCode::Reset))), &after(Kind::Stop));
        // With nothing to be read the stream is gone, and what comes is late.
        let (mut pair, _) = Pair::with_stream(tcp("a", 1));
        let now = pair.now;
        pair.ends[side].handle_input(encode(&begun).into(), now).unwrap();
        pair.ends[side].read(ID, &mut LinkBuffer::new(), 10).unwrap();
        assert!(!pair.ends[side].contains(ID));
        pair.ends[side].handle_input(encode(&begun).into(), now).unwrap();
        assert_eq!(pair.ends[side].stats().late_frames, 3);
    }
}

#[test]
fn messages_that_end_inside_a_frame() {
    assert_eq!(Error::Cut.close_code(), 1002);
    let frames = encode(&[(data(100), 1), (Frame::Window(5), 1)]);
    for side in [CLIENT, GATEWAY] {
        for len in 0..=frames.len() {
            let (mut pair, _) = Pair::with_stream(tcp("a", 1));
            let now = pair.now;
            let end = &mut pair.ends[side];
            end.handle_input(frames[..len].to_vec().into(), now).unwrap();
            let whole = [0, 112, frames.len()].contains(&len);
            assert_eq!(end.handle_message_end(), if whole { Ok(()) } else { Err(Error::Cut) }, "{len}");
            assert_eq!(end.is_up(), whole);
            // Of a session that is over, no message says anything.
            end.close(GoAwayCode::Stop, "");
            assert_eq!(end.handle_message_end(), Ok(()));
        }
    }
}

#[test]
fn frames_out_of_place() {
    let opened = Frame::OpenOk { opened: Opened::default(), window: 1 };
    check_frames(GATEWAY, &[(opened.clone(), 1)], Error::Unexpected(Kind::OpenOk));
    check_frames(CLIENT, &[(opened, 1)], Error::Unexpected(Kind::OpenOk));
    check_frames(CLIENT, &[(Frame::Auth([0; 32]), 0)], Error::Unexpected(Kind::Auth));
    check_frames(CLIENT, &[(Frame::Dgram(Bytes::new()), 1)], Error::Unexpected(Kind::Dgram));
    check_frames(CLIENT, &[(open(), 3), (data(1), 3)], Error::Unexpected(Kind::Data));
    let (mut pair, id) = Pair::with_stream(udp("ns", 53));
    check(&mut pair, GATEWAY, data(1).encode(id.0), &Error::Unexpected(Kind::Data));
    let mut pair = Pair::up();
    let id = pair.ends[GATEWAY].open(tcp("h", 1)).unwrap();
    check(&mut pair, GATEWAY, data(1).encode(id.0), &Error::Unexpected(Kind::Data));
    let port = Frame::PortOk { network: Network::Tcp, port: 80, actual: 80 };
    check_frames(CLIENT, &[(port, 0)], Error::Unexpected(Kind::PortOk));
    let request = PortRequest { network: Network::Tcp, port: 80, host: "h".into(), target_port: 80 };
    let port = Frame::PortOpen(request);
    check_frames(CLIENT, &[(port.clone(), 0)], Error::Unexpected(Kind::PortOpen));
    check_frames(GATEWAY, &[(port.clone(), 0), (port, 0)], Error::Unexpected(Kind::PortOpen));
}

// proves T14: PINGs at a steady rate are answered, each by the last one's PONG; more than that is a flood
#[test]
fn pings() {
    let pings = |n: u32| -> Vec<(Frame, u32)> { (0..n).map(|n| (Frame::Ping(u64::from(n)), 0)).collect() };
    let mut pair = Pair::up();
    for _ in 0..5 {
        pair.now += Duration::from_secs(1);
        let now = pair.now;
        pair.ends[CLIENT].handle_input(encode(&pings(PINGS_PER_S_MAX)).into(), now).unwrap();
        let mut out = LinkBuffer::new();
        let n = pair.ends[CLIENT].poll_transmit(usize::MAX, &mut out, now);
        let pong = Frame::Pong(u64::from(PINGS_PER_S_MAX) - 1).encode(0);
        assert_eq!(out.read_bytes(n).unwrap(), pong, "one PONG, for the latest");
    }
    let flood = Error::Flood(Flood::Pings);
    assert_eq!(flood.close_code(), 1008);
    check_frames(CLIENT, &pings(PINGS_PER_S_MAX + 1), flood.clone());
    check_frames(GATEWAY, &vec![(Frame::Pong(0), 0); PINGS_PER_S_MAX as usize + 1], flood);
}

// proves T14: a peer that gives a byte of credit at a time is borne with for a while, whether the stream is there or not
#[test]
fn credit_in_small_change() {
    let flood = Error::Flood(Flood::Credits);
    assert_eq!(flood.close_code(), 1008);
    let small = (Frame::Window(CREDIT_BYTES_MIN - 1), 1);
    let per_s = SMALL_CREDITS_PER_S_MAX as usize;
    check_frames(CLIENT, &vec![small.clone(); per_s + 1], flood.clone());
    let mut late = vec![(Frame::Rst(ResetCode::Reset), 1)];
    late.extend(vec![small.clone(); per_s + 1]);
    check_frames(GATEWAY, &late, flood);

    let (mut pair, _) = Pair::with_stream(tcp("a", 1));
    for _ in 0..5 {
        pair.now += Duration::from_secs(1);
        let now = pair.now;
        let frames = [vec![small.clone(); per_s], vec![(Frame::Window(CREDIT_BYTES_MIN), 1); per_s]].concat();
        pair.ends[CLIENT].handle_input(encode(&frames).into(), now).unwrap();
    }
}

// proves S-31, T15: after its RST the peer has no stream any more, and it does not matter that here it waits to be read
#[test]
fn frames_behind_a_reset_that_waits_to_be_read_are_late() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let now = pair.now;
    let mut frames = vec![(data(10), 1), (Frame::Rst(ResetCode::Reset), 1)];
    let late = [
        data(10),
        Frame::Window(u32::MAX),
        Frame::Fin,
        Frame::Rst(ResetCode::Timeout),
        Frame::Stop(ResetCode::Reset),
        Frame::Dgram(Bytes::new()),
    ];
    frames.extend(late.iter().map(|frame| (frame.clone(), 1)));
    pair.ends[GATEWAY].handle_input(encode(&frames).into(), now).unwrap();
    assert_eq!(pair.ends[GATEWAY].stats().late_frames, late.len() as u64);
    let mut out = LinkBuffer::new();
    assert_eq!(pair.ends[GATEWAY].read(id, &mut out, 100), Ok(Read { bytes: 10, end: false }));
    let events: Vec<_> = std::iter::from_fn(|| pair.ends[GATEWAY].poll_event()).collect();
    assert_eq!(events, [Event::Reset(id, ResetCode::Reset), Event::Closed(id)], "the first code");
}

// proves T14, T15: a peer that opens and resets without end, or asks without reading the answers
#[test]
fn floods_of_streams() {
    let churn: Vec<_> = (0..EVENT_QUEUE_LEN_MAX as u32)
        .flat_map(|n| [(open(), 3 + 2 * n), (Frame::Rst(ResetCode::Reset), 3 + 2 * n)])
        .collect();
    check_frames(CLIENT, &churn, Error::Flood(Flood::Events));

    let mut pair = Pair::up();
    let many: Vec<_> =
        (0..(STREAMS_MAX + CONTROL_QUEUE_LEN_MAX) as u32).map(|n| (open(), 1 + 2 * n)).collect();
    let now = pair.now;
    pair.ends[CLIENT]
        .handle_input(encode(&many).into(), now)
        .expect("all of these are refused, none too many");
    assert_eq!(pair.ends[CLIENT].stats().streams_refused, CONTROL_QUEUE_LEN_MAX as u64);
    let next = 1 + 2 * many.len() as u32;
    check(&mut pair, CLIENT, open().encode(next), &Error::Flood(Flood::Answers));
}

// proves S-69 for the session's part, T15: ports have a limit and each question one answer
#[test]
fn ports_beyond_the_limit() {
    let mut pair = Pair::up();
    let request = |port| PortRequest { network: Network::Tcp, port, host: "h".into(), target_port: 1 };
    let many: Vec<_> = (0..PORTS_MAX as u16).map(|port| (Frame::PortOpen(request(port)), 0)).collect();
    let now = pair.now;
    pair.ends[GATEWAY].handle_input(encode(&many).into(), now).unwrap();
    pair.ends[GATEWAY].handle_input(Frame::PortOpen(request(9999)).encode(0), now).unwrap();
    let mut out = LinkBuffer::new();
    let n = pair.ends[GATEWAY].poll_transmit(usize::MAX, &mut out, now);
    let refused =
        Frame::PortErr { network: Network::Tcp, port: 9999, error: crate::proto::frame::PortError::Limit };
    assert_eq!(out.read_bytes(n).unwrap(), refused.encode(0));

    let mut pair = Pair::up();
    for port in 0..PORTS_MAX as u16 {
        pair.ends[CLIENT].request_port(request(port)).unwrap();
    }
    assert_eq!(pair.ends[CLIENT].request_port(request(9999)), Err(crate::proto::frame::PortError::Limit));
}

// proves T14: who asks for ports and does not read that it gets none is borne with for as many answers as may wait
#[test]
fn answers_about_ports_that_nobody_reads() {
    let mut pair = Pair::up();
    let request = PortRequest { network: Network::Tcp, port: 1, host: "h".into(), target_port: 1 };
    let open = Frame::PortOpen(request).encode(0);
    for answered in 0..CONTROL_QUEUE_OPEN_LEN_MAX {
        assert_eq!(pair.ends[GATEWAY].held_bytes().err(), None, "{answered}");
        if answered % PORT_OPENS_PER_S_MAX as usize == 0 {
            pair.now += Duration::from_secs(1);
        }
        pair.ends[GATEWAY].handle_input(open.clone(), pair.now).expect("there is room for an answer");
        assert!(matches!(pair.ends[GATEWAY].poll_event(), Some(Event::PortRequested(_))), "{answered}");
        pair.ends[GATEWAY].answer_port(Network::Tcp, 1, Err(PortError::Forbidden)).expect("it was asked for");
    }
    pair.now += Duration::from_secs(1);
    check(&mut pair, GATEWAY, open, &Error::Flood(Flood::Answers));
}

// proves T15: who asks for ports and gives them up without end is borne with for a while; who gets none of all its ports and asks again
// as soon as a client does is no such peer
#[test]
fn ports_that_are_asked_for_without_end() {
    let request = |port| PortRequest { network: Network::Tcp, port, host: "h".into(), target_port: 1 };
    let flood = Error::Flood(Flood::Ports);
    assert_eq!(flood.close_code(), 1008);
    let mut pair = Pair::up();
    for round in 0..20 {
        for port in 0..PORTS_MAX as u16 {
            pair.ends[CLIENT].request_port(request(port)).expect("it was refused, and asks again");
        }
        pair.drive();
        for port in 0..PORTS_MAX as u16 {
            assert_eq!(pair.event(GATEWAY), Some(Event::PortRequested(request(port))), "{round}");
            pair.ends[GATEWAY].answer_port(Network::Tcp, port, Err(PortError::InUse)).unwrap();
        }
        pair.drive();
        pair.events[CLIENT].clear();
        pair.advance(Duration::from_millis(PORT_RETRY_MS));
    }

    let mut pair = Pair::up();
    let now = pair.now;
    let round =
        encode(&[(Frame::PortOpen(request(1)), 0), (Frame::PortClose { network: Network::Tcp, port: 1 }, 0)]);
    for _ in 0..PORT_OPENS_PER_S_MAX {
        pair.ends[GATEWAY].handle_input(round.clone().into(), now).unwrap();
        pair.ends[GATEWAY].answer_port(Network::Tcp, 1, Err(PortError::InUse)).unwrap_err();
    }
    check(&mut pair, GATEWAY, Frame::PortOpen(request(2)).encode(0), &flood);
}

#[test]
fn random_bytes_and_damaged_frames_never_panic() {
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut seen_error, mut seen_ok) = (0, 0);
    for round in 0..3000 {
        let (mut pair, _) = Pair::with_stream(tcp("a", 1));
        let side = round % 2;
        let mut input = encode(&[
            (data(30), 1),
            (Frame::Window(5), 1),
            (Frame::Ping(1), 0),
            (Frame::PortClose { network: Network::Tcp, port: 80 }, 0),
            (Frame::Fin, 1),
            (Frame::Stop(ResetCode::Reset), 1),
        ]);
        for _ in 0..rng.usize(0..3) {
            let at = rng.usize(..input.len());
            input[at] = rng.u8(..);
        }
        let now = pair.now;
        match pair.ends[side].handle_input(input.into(), now) {
            Ok(()) => seen_ok += 1,
            Err(_) => seen_error += 1,
        }
        pair.transmit();
    }
    assert!(seen_error > 500 && seen_ok > 500, "{seen_error} {seen_ok}");
}
