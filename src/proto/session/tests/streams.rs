//! One stream at a time.

use super::*;
use crate::limits::{
    BACKLOG_LINKED_BYTES_MAX, CONTROL_QUEUE_OPEN_LEN_MAX, DATAGRAM_QUEUE_BYTES_MAX, DATAGRAM_QUEUE_LEN_MAX,
    DGRAM_BODY_BYTES_MAX, SEND_QUEUE_BYTES_MAX, WINDOW_INITIAL_BYTES,
};

#[track_caller]
fn read_all(pair: &mut Pair, side: usize, id: StreamId) -> (Vec<u8>, bool) {
    let mut out = LinkBuffer::new();
    let read = pair.ends[side].read(id, &mut out, usize::MAX).expect("the stream is there");
    (bytes_of(&mut out), read.end)
}

// proves S-09, S-11: a question, an answer, FIN both ways, and the stream is gone once on both sides
#[test]
fn bytes_go_both_ways_and_two_fins_end_the_stream() {
    let (mut pair, id) = Pair::with_stream(tcp("db.internal", 5432));
    pair.ends[GATEWAY].write(id, &mut buffer(b"question")).unwrap();
    pair.ends[GATEWAY].finish(id);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Readable(id)]);
    assert_eq!(read_all(&mut pair, CLIENT, id), (b"question".to_vec(), true));
    assert_eq!(read_all(&mut pair, CLIENT, id), (vec![], false));
    assert_eq!(pair.ends[GATEWAY].write(id, &mut buffer(b"more")), Err(StreamError::Finished));

    pair.ends[CLIENT].write(id, &mut buffer(b"answer")).unwrap();
    pair.ends[CLIENT].finish(id);
    pair.ends[CLIENT].finish(id);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Closed(id)]);
    assert_eq!(pair.take_events(GATEWAY), [Event::Readable(id)]);
    assert_eq!(read_all(&mut pair, GATEWAY, id), (b"answer".to_vec(), true));
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::Closed(id)]);
    for end in &pair.ends {
        assert_eq!((end.stream_count(), end.stats().streams_closed), (0, 1));
    }
}

#[test]
fn what_is_written_before_the_target_answers_follows_its_answer() {
    let mut pair = Pair::up();
    let id = pair.ends[GATEWAY].open(tcp("h", 1)).unwrap();
    let mut early = buffer(b"early");
    assert_eq!(pair.ends[GATEWAY].write(id, &mut early), Ok(0));
    pair.drive();
    pair.ends[CLIENT].accept(id, Opened::default()).unwrap();
    assert_eq!(pair.ends[CLIENT].accept(id, Opened::default()), Err(StreamError::Opening));
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::Accepted(id, Opened::default()), Event::Writable(id)]);
    assert_eq!(pair.ends[GATEWAY].write(id, &mut early), Ok(5));
    pair.drive();
    assert_eq!(read_all(&mut pair, CLIENT, id), (b"early".to_vec(), false));
}

#[test]
fn a_refusal_says_why_and_ends_the_stream() {
    let mut pair = Pair::up();
    let id = pair.ends[GATEWAY].open(tcp("nowhere", 1)).unwrap();
    pair.drive();
    pair.ends[CLIENT].refuse(id, RefuseCode::Dns, 5, 6).unwrap();
    assert_eq!(pair.ends[CLIENT].refuse(id, RefuseCode::Dns, 5, 6), Err(StreamError::Gone));
    pair.drive();
    let refused = Refused { code: RefuseCode::Dns, resolve_us: 5, connect_us: 6 };
    assert_eq!(pair.take_events(GATEWAY), [Event::Refused(id, refused), Event::Closed(id)]);
    assert_eq!(pair.take_events(CLIENT), [Event::Opened(id, tcp("nowhere", 1)), Event::Closed(id)]);
}

// proves S-03, S-08, S-12, S-31, S-39: what is gone stays gone, quietly, and its neighbour does not notice
#[test]
fn a_reset_ends_one_stream_and_late_frames_are_dropped() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let other = pair.open(tcp("b", 2));
    pair.ends[GATEWAY].write(id, &mut buffer(b"lost")).unwrap();
    pair.ends[GATEWAY].reset(id, ResetCode::Reset);
    pair.ends[GATEWAY].reset(id, ResetCode::Internal);
    pair.ends[GATEWAY].finish(id);
    pair.ends[GATEWAY].delivered(id, 10);
    assert_eq!(pair.ends[GATEWAY].write(id, &mut buffer(b"x")), Err(StreamError::Gone));
    // These cross the RST.
    pair.ends[CLIENT].write(id, &mut buffer(b"late")).unwrap();
    pair.ends[CLIENT].finish(id);
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::Closed(id)]);
    assert_eq!(pair.take_events(CLIENT), [Event::Reset(id, ResetCode::Reset), Event::Closed(id)]);
    assert_eq!(pair.ends[GATEWAY].stats().late_frames, 2);
    assert_eq!(pair.ends[CLIENT].read(id, &mut LinkBuffer::new(), 1), Err(StreamError::Gone));

    pair.ends[GATEWAY].write(other, &mut buffer(b"still here")).unwrap();
    pair.drive();
    assert_eq!(read_all(&mut pair, CLIENT, other).0, b"still here");
}

// proves S-09, S-16: what a target sent before it broke off is read first, then the reset is heard of, once
#[test]
fn a_reset_behind_loses_nothing_that_was_written_before() {
    let whole = vec![7; 200_000];
    for finished in [false, true] {
        for piece in [1_000, 50_000, 1_000_000] {
            let (mut pair, id) = Pair::with_stream(tcp("a", 1));
            let mut bytes = buffer(&whole);
            pair.ends[CLIENT].write(id, &mut bytes).unwrap();
            let written = whole.len() - bytes.len();
            if finished {
                pair.ends[CLIENT].finish(id);
            }
            pair.ends[CLIENT].reset_behind(id, ResetCode::Reset);
            assert_eq!(pair.ends[CLIENT].write(id, &mut bytes), Err(StreamError::Finished));
            // This crosses the RST.
            pair.ends[GATEWAY].write(id, &mut buffer(b"late")).unwrap();
            pair.drive();
            assert_eq!(pair.take_events(CLIENT).last(), Some(&Event::Closed(id)));
            assert_eq!(pair.take_events(GATEWAY), [Event::Readable(id)]);
            assert_eq!(
                pair.ends[GATEWAY].write(id, &mut buffer(b"x")),
                Err(StreamError::Finished),
                "nobody reads it"
            );
            let mut read = LinkBuffer::new();
            while pair.ends[GATEWAY].contains(id) {
                pair.drive();
                assert_eq!(pair.take_events(GATEWAY), [], "not before the last byte");
                assert!(!pair.ends[GATEWAY].read(id, &mut read, piece).unwrap().end, "a reset is no end");
            }
            assert_eq!(read.len(), written);
            pair.drive();
            assert_eq!(pair.take_events(GATEWAY), [Event::Reset(id, ResetCode::Reset), Event::Closed(id)]);
            assert!(!pair.ends[GATEWAY].wants_transmit(), "the last word was said by the client");
        }
    }
}

// proves S-12: with nothing queued it is an ordinary reset, and an ordinary reset cuts it short
#[test]
fn a_reset_behind_nothing_is_a_reset_and_a_reset_of_it_is_at_once() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    pair.ends[CLIENT].reset_behind(id, ResetCode::Reset);
    assert!(!pair.ends[CLIENT].contains(id));
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Closed(id)]);
    assert_eq!(pair.take_events(GATEWAY), [Event::Reset(id, ResetCode::Reset), Event::Closed(id)]);

    let id = pair.open(tcp("b", 1));
    pair.ends[CLIENT].write(id, &mut buffer(b"unsent")).unwrap();
    pair.ends[CLIENT].reset_behind(id, ResetCode::Reset);
    pair.ends[CLIENT].reset(id, ResetCode::Stopping);
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::Reset(id, ResetCode::Stopping), Event::Closed(id)]);
    assert_eq!(pair.ends[CLIENT].stream_count() + pair.ends[GATEWAY].stream_count(), 0);
}

// Nobody is left to read them, and the peer may send a window of them before it hears of the reset.
#[test]
fn bytes_for_a_stream_that_only_has_its_reset_to_send_are_not_kept() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let early = pair.ends[GATEWAY].write(id, &mut buffer(&[1; 10_000])).unwrap();
    pair.drive();
    assert_eq!(pair.ends[CLIENT].readable_len(id), early);
    pair.stalled[CLIENT] = true;
    pair.ends[CLIENT].write(id, &mut buffer(b"the answer")).unwrap();
    pair.ends[CLIENT].reset_behind(id, ResetCode::Reset);
    assert_eq!(pair.ends[CLIENT].readable_len(id), 0, "what had come before");
    pair.take_events(CLIENT);
    // All that the window allows, which still holds.
    let mut left = buffer(&[2; WINDOW_INITIAL_BYTES as usize]);
    while pair.ends[GATEWAY].write(id, &mut left).unwrap() > 0 {
        pair.drive();
        assert_eq!(pair.ends[CLIENT].readable_len(id), 0);
    }
    assert_eq!(left.len(), early);
    pair.ends[GATEWAY].finish(id);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [], "nobody is there to be told");
    assert_eq!(pair.ends[CLIENT].read(id, &mut LinkBuffer::new(), 1), Err(StreamError::Gone), "no clean end");
    pair.stalled[CLIENT] = false;
    pair.drive();
    assert_eq!(read_all(&mut pair, GATEWAY, id).0, b"the answer");
    assert!(!pair.ends[CLIENT].contains(id) && !pair.ends[GATEWAY].contains(id));

    let (mut pair, id) = Pair::with_stream(udp("a", 1));
    pair.stalled[CLIENT] = true;
    pair.ends[GATEWAY].send_datagram(id, Bytes::from_static(b"before"));
    pair.drive();
    pair.ends[CLIENT].send_datagram(id, Bytes::from_static(b"the answer"));
    pair.ends[CLIENT].reset_behind(id, ResetCode::Reset);
    pair.ends[GATEWAY].send_datagram(id, Bytes::from_static(b"after"));
    pair.drive();
    assert_eq!(pair.ends[CLIENT].read_datagram(id), None);
}

// proves S-09: after FIN there is no second closing message, and what was sent before FIN is still read to its end
#[test]
fn a_reset_after_fin_stops_the_peer_and_loses_nothing_that_was_finished() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    pair.ends[GATEWAY].write(id, &mut buffer(b"whole")).unwrap();
    pair.ends[GATEWAY].finish(id);
    pair.drive();
    let mut endless = buffer(&[0; 600_000]);
    pair.ends[CLIENT].write(id, &mut endless).unwrap();
    pair.ends[GATEWAY].reset(id, ResetCode::Timeout);
    pair.drive();
    let stopped = Event::Stopped(id, ResetCode::Timeout);
    assert_eq!(pair.take_events(CLIENT), [Event::Readable(id), Event::Writable(id), stopped]);
    assert_eq!(pair.ends[CLIENT].write(id, &mut endless), Err(StreamError::Finished));
    pair.ends[CLIENT].finish(id);
    assert_eq!(read_all(&mut pair, CLIENT, id), (b"whole".to_vec(), true));
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Closed(id)]);
    assert_eq!(pair.ends[CLIENT].stream_count() + pair.ends[GATEWAY].stream_count(), 0);
}

// proves S-08: when both sides have said their last word, there is nothing left to say
#[test]
fn a_reset_of_a_stream_that_both_sides_finished_is_not_sent() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    pair.ends[CLIENT].write(id, &mut buffer(b"unread")).unwrap();
    pair.ends[CLIENT].finish(id);
    pair.ends[GATEWAY].finish(id);
    pair.drive();
    pair.ends[GATEWAY].reset(id, ResetCode::Reset);
    assert!(!pair.ends[GATEWAY].wants_transmit());
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::Readable(id), Event::Closed(id)]);
}

#[test]
fn what_a_client_writes_before_it_accepts_follows_its_answer() {
    let mut pair = Pair::up();
    let id = pair.ends[GATEWAY].open(tcp("h", 1)).unwrap();
    pair.drive();
    pair.ends[CLIENT].write(id, &mut buffer(b"220 ready")).unwrap();
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), []);
    pair.ends[CLIENT].accept(id, Opened::default()).unwrap();
    pair.drive();
    assert_eq!(pair.take_events(GATEWAY), [Event::Accepted(id, Opened::default()), Event::Readable(id)]);
    assert_eq!(read_all(&mut pair, GATEWAY, id).0, b"220 ready");
}

/// Half a window of bytes, read on the gateway and not yet delivered.
fn half_a_window_read() -> (Pair, StreamId, u64) {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let half = crate::limits::WINDOW_INITIAL_BYTES as usize / 2;
    let mut bulk = buffer(&vec![5; half]);
    while !bulk.is_empty() {
        pair.ends[CLIENT].write(id, &mut bulk).unwrap();
        pair.drive();
    }
    assert_eq!(read_all(&mut pair, GATEWAY, id).0.len(), half);
    (pair, id, half as u64)
}

// proves S-10, S-11: what a stream had queued leaves with it
#[test]
fn credit_is_not_given_for_a_stream_that_is_gone_or_finished() {
    let (mut pair, id, half) = half_a_window_read();
    pair.ends[GATEWAY].delivered(id, half);
    assert!(pair.ends[GATEWAY].wants_transmit());
    pair.ends[GATEWAY].reset(id, ResetCode::Reset);
    pair.drive();
    assert_eq!(pair.ends[CLIENT].stats().late_frames, 0);

    for fin_first in [true, false] {
        let (mut pair, id, half) = half_a_window_read();
        pair.stalled[GATEWAY] = !fin_first;
        if !fin_first {
            pair.ends[GATEWAY].delivered(id, half);
        }
        pair.ends[CLIENT].finish(id);
        pair.drive();
        pair.ends[GATEWAY].delivered(id, half);
        let frames = pair.ends[GATEWAY].stats().frames_out;
        pair.stalled = [false; 2];
        pair.drive();
        assert_eq!(pair.ends[GATEWAY].stats().frames_out, frames);
    }
}

// proves T16: a stream whose reader sleeps does not slow the other 99
#[test]
fn ninety_nine_streams_go_on_beside_one_that_is_blocked() {
    let mut pair = Pair::up();
    let ids: Vec<_> = (0..100).map(|_| pair.open(tcp("h", 1))).collect();
    let mut read = vec![0; 100];
    for _ in 0..20 {
        for (n, &id) in ids.iter().enumerate() {
            pair.ends[CLIENT].write(id, &mut buffer(&[n as u8; SEND_QUEUE_BYTES_MAX])).unwrap();
        }
        pair.drive();
        for (n, &id) in ids.iter().enumerate().skip(1) {
            let bytes = pair.ends[GATEWAY].read(id, &mut LinkBuffer::new(), usize::MAX).unwrap().bytes;
            read[n] += bytes;
            pair.ends[GATEWAY].delivered(id, read[n] as u64);
        }
        pair.drive();
    }
    assert!(read[1..].iter().all(|&bytes| bytes == 20 * SEND_QUEUE_BYTES_MAX), "{read:?}");
    assert_eq!(pair.ends[GATEWAY].readable_len(ids[0]), crate::limits::WINDOW_INITIAL_BYTES as usize);
}

// proves L-09 on the tunnel, T16: credit follows delivery, and only that
#[test]
fn a_reader_that_delivers_nothing_holds_the_sender_at_one_window() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let window = crate::limits::WINDOW_INITIAL_BYTES as usize;
    let mut bulk = buffer(&vec![5; 4 * window]);
    let mut taken = 0;
    loop {
        let n = pair.ends[CLIENT].write(id, &mut bulk).unwrap();
        assert!(n <= SEND_QUEUE_BYTES_MAX);
        taken += n;
        pair.drive();
        if pair.take_events(CLIENT) != [Event::Writable(id)] {
            break;
        }
    }
    assert_eq!(taken, window);
    assert_eq!(pair.take_events(GATEWAY), vec![Event::Readable(id); window / SEND_QUEUE_BYTES_MAX]);
    assert_eq!(pair.ends[GATEWAY].readable_len(id), window);

    let mut out = LinkBuffer::new();
    let read = pair.ends[GATEWAY].read(id, &mut out, window / 2 + 10).unwrap();
    assert_eq!(read, Read { bytes: window / 2 + 10, end: false });
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [], "read is not delivered");
    pair.ends[GATEWAY].delivered(id, window as u64 / 2 - 1);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [], "not half a window yet");
    pair.ends[GATEWAY].delivered(id, window as u64 / 2);
    pair.ends[GATEWAY].delivered(id, 1);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Writable(id)]);
    let mut more = 0;
    while let Ok(n @ 1..) = pair.ends[CLIENT].write(id, &mut bulk) {
        more += n;
        pair.drive();
    }
    assert_eq!(more, window / 2);
}

// What has come of a frame can be read, and none of it waits for the rest
#[test]
fn the_beginning_of_a_frame_is_there_to_read_before_its_end_has_come() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let frame = Frame::Data(vec![7; 10_000].into()).encode(id.0);
    let now = pair.now;
    let gateway = &mut pair.ends[GATEWAY];
    let frames = gateway.stats().frames_in;
    gateway.handle_input(frame.slice(..4_000), now).unwrap();
    assert_eq!((gateway.poll_event(), gateway.readable_len(id)), (Some(Event::Readable(id)), 4_000 - 12));
    gateway.handle_input(frame.slice(4_000..), now).unwrap();
    assert_eq!((gateway.poll_event(), gateway.readable_len(id)), (Some(Event::Readable(id)), 10_000));
    assert_eq!(gateway.stats().frames_in, frames + 1, "it is one frame");
    // A frame that is not allowed as a whole is refused with its first byte.
    let window = crate::limits::WINDOW_INITIAL_BYTES as usize - 10_000;
    let frames: Vec<u8> =
        (0..window / 16_384).flat_map(|_| Frame::Data(vec![7; 16_384].into()).encode(id.0)).collect();
    gateway.handle_input(frames.into(), now).unwrap();
    let last = Frame::Data(vec![7; window % 16_384 + 1].into()).encode(id.0);
    assert_eq!(gateway.handle_input(last.slice(..13), now), Err(Error::WindowExceeded(id)));
}

/// Memory of one input, which says when it is gone.
struct Input {
    bytes: Vec<u8>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Input {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// proves T19: a reader that has stopped holds its window, and not everything that its bytes came in
#[test]
fn a_stopped_reader_does_not_keep_the_inputs_of_others() {
    let (mut pair, stopped) = Pair::with_stream(tcp("a", 1));
    let alive = Arc::new(());
    let small = Frame::Data(vec![7; 4096].into()).encode(stopped.0);
    let now = pair.now;
    for _ in 0..60 {
        // The rest of it is another stream's, which is read at once.
        let mut input = small.to_vec();
        input.resize(64 * 1024, 0);
        let input = Bytes::from_owner(Input { bytes: input, _alive: alive.clone() });
        pair.ends[GATEWAY].handle_input(input.slice(..small.len()), now).unwrap();
    }
    assert_eq!(pair.ends[GATEWAY].readable_len(stopped), 60 * 4096);
    let kept = Arc::strong_count(&alive) - 1;
    assert!(kept <= BACKLOG_LINKED_BYTES_MAX / 4096, "{kept} inputs of 64 KiB");
    assert_eq!(read_all(&mut pair, GATEWAY, stopped).0, vec![7; 60 * 4096]);
    assert_eq!(Arc::strong_count(&alive), 1);
}

// proves T16: one blocked stream does not hold up the others, and turns are shared by bytes
#[test]
fn turns_are_shared_and_a_small_stream_waits_for_one_frame_of_a_large_one() {
    let (mut pair, bulk) = Pair::with_stream(tcp("a", 1));
    let small = pair.open(tcp("b", 1));
    let gateway = &mut pair.ends[GATEWAY];
    gateway.write(bulk, &mut buffer(&[1; SEND_QUEUE_BYTES_MAX])).unwrap();
    gateway.write(small, &mut buffer(&[2; 64])).unwrap();
    gateway.finish(small);
    let mut out = LinkBuffer::new();
    while gateway.poll_transmit(1, &mut out, pair.now) > 0 {}
    let mut decoder = Decoder::default();
    let n = out.len();
    decoder.push(out.read_bytes(n).unwrap());
    let mut order = Vec::new();
    while let Some((head, _)) = decoder.next_frame().unwrap() {
        order.push((head.stream, head.kind, head.len));
    }
    let large = (bulk.0, Kind::Data, 16 * 1024);
    assert_eq!(order, [large, (small.0, Kind::Data, 64), (small.0, Kind::Fin, 0), large, large, large]);
}

#[test]
fn datagrams_keep_their_edges_and_the_oldest_is_dropped() {
    let (mut pair, id) = Pair::with_stream(udp("ns", 53));
    assert_eq!(pair.ends[GATEWAY].send_datagram(id, Bytes::from_static(b"q1")), Some(0));
    assert_eq!(pair.ends[GATEWAY].send_datagram(id, Bytes::new()), Some(0));
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Readable(id)]);
    let got: Vec<_> = std::iter::from_fn(|| pair.ends[CLIENT].read_datagram(id)).collect();
    assert_eq!(got, [&b"q1"[..], b""]);

    for n in 0..DATAGRAM_QUEUE_LEN_MAX + 3 {
        let dropped = if n < DATAGRAM_QUEUE_LEN_MAX { 0 } else { 4 };
        assert_eq!(pair.ends[CLIENT].send_datagram(id, vec![n as u8; 4].into()), Some(dropped));
    }
    assert_eq!(pair.ends[CLIENT].stats().datagrams_dropped, 3);
    pair.ends[CLIENT].finish(id);
    assert_eq!(pair.ends[CLIENT].send_datagram(id, Bytes::new()), None);
    pair.drive();
    assert_eq!(
        pair.ends[GATEWAY].read(id, &mut LinkBuffer::new(), 1),
        Ok(Read::default()),
        "datagrams are left"
    );
    let got: Vec<_> = std::iter::from_fn(|| pair.ends[GATEWAY].read_datagram(id)).collect();
    assert_eq!((got.len(), &got[0][..]), (DATAGRAM_QUEUE_LEN_MAX, &[3; 4][..]));
    assert_eq!(pair.ends[GATEWAY].read(id, &mut LinkBuffer::new(), 1), Ok(Read { bytes: 0, end: true }));

    // By bytes, and the longest datagram passes although it is longer than a turn.
    let longest = Bytes::from(vec![7; DGRAM_BODY_BYTES_MAX]);
    let fits = DATAGRAM_QUEUE_BYTES_MAX / DGRAM_BODY_BYTES_MAX;
    for n in 0..=fits {
        let dropped = if n < fits { 0 } else { DGRAM_BODY_BYTES_MAX };
        assert_eq!(pair.ends[GATEWAY].send_datagram(id, longest.clone()), Some(dropped));
    }
    assert_eq!(pair.ends[GATEWAY].send_datagram(id, vec![0; DGRAM_BODY_BYTES_MAX + 1].into()), None);
    assert_eq!(pair.ends[GATEWAY].stats().datagrams_dropped, 1);
    pair.drive();
    let got: Vec<_> = std::iter::from_fn(|| pair.ends[CLIENT].read_datagram(id)).collect();
    assert!(got.len() == fits && got.iter().all(|datagram| *datagram == longest));
}

// proves T15: the limit of streams, on both sides
#[test]
fn streams_beyond_the_limit_are_refused() {
    let mut pair = Pair::up();
    for _ in 0..STREAMS_MAX {
        pair.ends[GATEWAY].open(tcp("h", 1)).unwrap();
    }
    assert_eq!(pair.ends[GATEWAY].open(tcp("h", 1)), Err(OpenError::Limit));
    pair.drive();
    assert_eq!(pair.ends[CLIENT].stream_count(), STREAMS_MAX);
    // A gateway that does not hold to it is told so, and the session goes on.
    pair.ends[GATEWAY].streams_max = STREAMS_MAX + 1;
    let id = pair.ends[GATEWAY].open(tcp("h", 1)).unwrap();
    pair.drive();
    let refused = Refused { code: RefuseCode::Limit, resolve_us: 0, connect_us: 0 };
    assert_eq!(pair.take_events(GATEWAY), [Event::Refused(id, refused), Event::Closed(id)]);
    // It is counted on both ends, which have different things to say of it.
    assert_eq!(pair.ends.each_ref().map(|end| end.stats().streams_refused), [1, 1]);
}

#[test]
fn a_gateway_whose_control_frames_do_not_leave_opens_no_more_streams() {
    let mut pair = Pair::up();
    let gateway = &mut pair.ends[GATEWAY];
    let opened = std::iter::from_fn(|| {
        let id = gateway.open(tcp("h", 1)).ok()?;
        gateway.reset(id, ResetCode::Cancelled);
        Some(id)
    });
    assert_eq!(opened.count(), CONTROL_QUEUE_OPEN_LEN_MAX / 2);
    assert_eq!(gateway.open(tcp("h", 1)), Err(OpenError::Limit));
    pair.drive();
    assert!(pair.ends[GATEWAY].open(tcp("h", 1)).is_ok());
}

// proves T15: numbers are never used twice, also at their end
#[test]
fn stream_numbers_run_out_instead_of_around() {
    let mut pair = Pair::up();
    for end in &mut pair.ends {
        end.next_id = u64::from(u32::MAX);
    }
    let last = pair.open(tcp("h", 1));
    assert_eq!(last, StreamId(u32::MAX));
    assert_eq!(pair.ends[GATEWAY].open(tcp("h", 1)), Err(OpenError::Exhausted));
    pair.ends[GATEWAY].reset(last, ResetCode::Reset);
    assert_eq!(pair.ends[GATEWAY].open(tcp("h", 1)), Err(OpenError::Exhausted));
    pair.drive();
    assert!(pair.ends.iter().all(|end| end.is_up() && end.stream_count() == 0));
}

#[test]
fn a_host_that_is_no_name_is_not_sent() {
    let mut pair = Pair::up();
    for host in ["", "a\r\nb", &"x".repeat(254)] {
        assert_eq!(pair.ends[GATEWAY].open(tcp(host, 1)), Err(OpenError::Host));
    }
    assert_eq!(pair.ends[CLIENT].open(tcp("h", 1)), Err(OpenError::Role));
}
