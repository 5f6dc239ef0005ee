//! One conversation that says everything there is to say, with the input cut at every point.

use super::*;
use crate::limits::WINDOW_INITIAL_BYTES;
use crate::proto::frame::{PortError, PortRequest};

/// Plays the conversation and returns what both sides saw, byte for byte.
fn play(cut: Cut, transmit_max: usize) -> (Vec<Event>, Vec<u8>, [usize; 2], [Stats; 2]) {
    let mut pair = Pair::silent(client_config(), gateway_config());
    pair.cut = cut;
    pair.transmit_max = transmit_max;
    let mut events = Vec::new();
    let mut bytes = Vec::new();
    let mut turn = |pair: &mut Pair| {
        pair.drive();
        for side in [CLIENT, GATEWAY] {
            for event in pair.take_events(side) {
                if let Event::Readable(id) = event {
                    let mut out = LinkBuffer::new();
                    while let Some(datagram) = pair.ends[side].read_datagram(id) {
                        bytes.extend_from_slice(&datagram);
                        bytes.push(b'|');
                    }
                    let read = pair.ends[side].read(id, &mut out, usize::MAX).unwrap();
                    bytes.extend_from_slice(&bytes_of(&mut out));
                    bytes.extend_from_slice(if read.end { b"." } else { b"," });
                } else {
                    events.push(event);
                }
            }
        }
    };
    turn(&mut pair);
    let ids: Vec<_> = [tcp("a", 1), tcp("b", 2), udp("c", 3), tcp("d", 4)]
        .map(|request| pair.ends[GATEWAY].open(request).unwrap())
        .into();
    turn(&mut pair);
    pair.ends[CLIENT].accept(ids[0], Opened::default()).unwrap();
    pair.ends[CLIENT].refuse(ids[1], RefuseCode::Refused, 1, 2).unwrap();
    pair.ends[CLIENT].accept(ids[2], Opened::default()).unwrap();
    pair.ends[CLIENT].accept(ids[3], Opened::default()).unwrap();
    turn(&mut pair);
    pair.ends[GATEWAY].write(ids[0], &mut buffer(b"to the target")).unwrap();
    pair.ends[CLIENT].write(ids[0], &mut buffer(b"to the user")).unwrap();
    pair.ends[GATEWAY].send_datagram(ids[2], Bytes::from_static(b"question"));
    pair.ends[CLIENT].send_datagram(ids[2], Bytes::new());
    pair.ends[GATEWAY].finish(ids[3]);
    turn(&mut pair);
    pair.ends[GATEWAY].finish(ids[0]);
    pair.ends[GATEWAY].reset(ids[2], ResetCode::Timeout);
    pair.ends[GATEWAY].reset(ids[3], ResetCode::Reset);
    let request = |port| PortRequest { network: Network::Udp, port, host: "ns".into(), target_port: 53 };
    pair.ends[CLIENT].request_port(request(53)).unwrap();
    pair.ends[CLIENT].request_port(request(54)).unwrap();
    turn(&mut pair);
    pair.ends[GATEWAY].answer_port(Network::Udp, 53, Ok(53)).unwrap();
    pair.ends[GATEWAY].answer_port(Network::Udp, 54, Err(PortError::Forbidden)).unwrap();
    pair.ends[CLIENT].finish(ids[0]);
    turn(&mut pair);
    pair.ends[CLIENT].close_port(Network::Udp, 53);
    pair.advance(Duration::from_secs(16));
    pair.ends[CLIENT].drain();
    turn(&mut pair);
    pair.ends[GATEWAY].close(GoAwayCode::Replaced, "a newer one");
    turn(&mut pair);
    let stats = [pair.ends[CLIENT].stats(), pair.ends[GATEWAY].stats()];
    (events, bytes, pair.arrived, stats)
}

#[test]
fn a_conversation_is_the_same_wherever_it_is_cut() {
    let whole = play(Cut::Whole, usize::MAX);
    assert!(whole.0.len() > 20 && whole.1.len() > 30, "{whole:?}");
    for side in [CLIENT, GATEWAY] {
        for at in 1..whole.2[side] {
            assert_eq!(play(Cut::At(side, at), usize::MAX), whole, "cut before byte {at}");
        }
    }
    for size in 1..100 {
        assert_eq!(play(Cut::Pieces(size), usize::MAX), whole, "in pieces of {size}");
        assert_eq!(play(Cut::Whole, size), whole, "in messages of about {size}");
    }
}

#[test]
fn a_long_stream_arrives_whole_in_pieces_of_any_size() {
    for size in [1, 7, 12, 13, 4095, 16 * 1024 + 11, 100_000] {
        let (mut pair, id) = Pair::with_stream(tcp("a", 1));
        pair.cut = Cut::Pieces(size);
        let want: Vec<u8> = (0..3 * WINDOW_INITIAL_BYTES).map(|n| (n ^ (n >> 8)) as u8).collect();
        let (mut source, mut sink) = (buffer(&want), LinkBuffer::new());
        while sink.len() < want.len() {
            let taken = pair.ends[CLIENT].write(id, &mut source).unwrap();
            pair.drive();
            let read = pair.ends[GATEWAY].read(id, &mut sink, usize::MAX).unwrap();
            assert_eq!(taken, read.bytes);
            pair.ends[GATEWAY].delivered(id, sink.len() as u64);
            pair.drive();
        }
        assert!(bytes_of(&mut sink) == want);
    }
}

// The body of a DATA frame that lies whole in one input is handed on as it is.
#[test]
fn a_body_that_came_whole_is_not_copied() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let input = Frame::Data(vec![7; 16 * 1024].into()).encode(id.0);
    let now = pair.now;
    pair.ends[CLIENT].handle_input(input.clone(), now).unwrap();
    let mut out = LinkBuffer::new();
    pair.ends[CLIENT].read(id, &mut out, usize::MAX).unwrap();
    assert_eq!(out.chunk().as_ptr(), input[12..].as_ptr());
    // And on the way out neither.
    pair.ends[CLIENT].write(id, &mut out).unwrap();
    pair.ends[CLIENT].poll_transmit(usize::MAX, &mut out, now);
    out.skip(12).unwrap();
    assert_eq!(out.chunk().as_ptr(), input[12..].as_ptr());
}
