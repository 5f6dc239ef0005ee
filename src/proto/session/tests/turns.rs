//! Many streams at once: who sends first, who is passed over, and whose datagrams make room.

use super::*;
use crate::limits::{
    DATAGRAM_QUEUE_BYTES_MAX, DGRAM_BODY_BYTES_MAX, SEND_QUEUE_BYTES_MAX, SESSION_DATAGRAM_BYTES_MAX,
};
use crate::proto::frame::HEAD_SIZE;

/// What one call of `poll_transmit` gives, by its heads.
fn message(pair: &mut Pair, side: usize, max: usize) -> Vec<Head> {
    let mut out = LinkBuffer::new();
    let n = pair.ends[side].poll_transmit(max, &mut out, pair.now);
    assert_eq!(n, out.len());
    let mut decoder = Decoder::default();
    decoder.push(out.read_bytes(n).expect("all of it"));
    std::iter::from_fn(|| decoder.next_frame().expect("a session writes frames"))
        .map(|(head, _)| head)
        .collect()
}

fn bytes(heads: &[Head], is: impl Fn(Kind) -> bool) -> usize {
    heads.iter().filter(|head| is(head.kind)).map(|head| HEAD_SIZE + head.len).sum()
}

// proves T14, T16: control frames leave first, but no number of them holds the bytes of streams up
#[test]
fn control_frames_leave_half_of_each_message_to_the_streams() {
    const MAX: usize = 64 * 1024;
    let (mut pair, bulk) = Pair::with_stream(tcp("a", 1));
    let host = "x".repeat(200);
    for _ in 0..3000 {
        pair.ends[GATEWAY].open(tcp(&host, 1)).unwrap();
    }
    let (mut sent, mut seen) = (0, 0);
    while sent < 5 {
        pair.ends[GATEWAY].write(bulk, &mut buffer(&[1; SEND_QUEUE_BYTES_MAX])).unwrap();
        let heads = message(&mut pair, GATEWAY, MAX);
        let data = bytes(&heads, |kind| kind == Kind::Data);
        let control = bytes(&heads, |kind| kind == Kind::Open);
        assert!(
            heads[0].kind == Kind::Open && heads.iter().any(|head| head.kind == Kind::Data),
            "first, both"
        );
        assert!(data >= MAX / 2 - 17_000 && control >= MAX / 2 - 17_000, "{data} {control}");
        assert!(data + control <= MAX);
        sent += 1;
        seen += heads.iter().filter(|head| head.kind == Kind::Open).count();
    }
    // With no bytes that wait, all of the message is theirs.
    let heads = loop {
        let heads = message(&mut pair, GATEWAY, MAX);
        seen += heads.iter().filter(|head| head.kind == Kind::Open).count();
        if heads.iter().all(|head| head.kind == Kind::Open) {
            break heads;
        }
    };
    assert!(bytes(&heads, |kind| kind == Kind::Open) > MAX - 300);
    while let heads @ [_, ..] = &message(&mut pair, GATEWAY, MAX)[..] {
        seen += heads.len();
    }
    assert_eq!(seen, 3000, "and none is lost");
}

// proves S-13: the answer is ahead of the bytes that follow it, however little of it fits into a message
#[test]
fn no_byte_overtakes_the_answer_that_opens_its_stream() {
    for max in [1, 100, 300, 2_000, 20_000] {
        let mut pair = Pair::up();
        let bulk = pair.open(tcp("a", 1));
        let ids: Vec<_> = (0..100).map(|_| pair.ends[GATEWAY].open(tcp("h", 1)).unwrap()).collect();
        pair.drive();
        pair.take_events(CLIENT);
        pair.ends[CLIENT].write(bulk, &mut buffer(&[0; 100])).unwrap();
        for (n, &id) in ids.iter().enumerate() {
            pair.ends[CLIENT].write(id, &mut buffer(b"before")).unwrap();
            // An answer longer than what follows it.
            let addr = Some("[2001:db8::1]:443".parse().expect("an address"));
            pair.ends[CLIENT].accept(id, Opened { addr, ..Opened::default() }).unwrap();
            pair.ends[CLIENT].write(id, &mut buffer(b", behind")).unwrap();
            match n % 3 {
                0 => pair.ends[CLIENT].finish(id),
                1 => pair.ends[CLIENT].reset_behind(id, ResetCode::Reset),
                _ => {}
            }
        }
        pair.transmit_max = max;
        pair.drive();
        assert!(pair.ends.iter().all(Session::is_up), "{:?}", pair.ends[GATEWAY].end());
        for &id in &ids {
            let mut out = LinkBuffer::new();
            pair.ends[GATEWAY].read(id, &mut out, usize::MAX).unwrap();
            assert_eq!(bytes_of(&mut out), b"before, behind");
        }
        let answered = pair.take_events(GATEWAY);
        assert_eq!(answered.iter().filter(|event| matches!(event, Event::Accepted(..))).count(), 100);
    }
}

// proves S-10, S-31: a stream that left with a turn, or with credit, still to come is passed over
#[test]
fn streams_that_are_gone_have_no_turn() {
    let mut pair = Pair::up();
    let ids: Vec<_> = (0..500).map(|_| pair.open(tcp("h", 1))).collect();
    for &id in &ids {
        pair.ends[GATEWAY].write(id, &mut buffer(&[1; 100])).unwrap();
    }
    for &id in &ids[1..] {
        pair.ends[GATEWAY].reset(id, ResetCode::Cancelled);
    }
    assert_eq!(pair.ends[GATEWAY].turns.len(), 500, "nobody looks for them");
    let heads = message(&mut pair, GATEWAY, usize::MAX);
    assert_eq!(heads.iter().filter(|head| head.kind == Kind::Rst).count(), 499);
    let data: Vec<_> = heads.iter().filter(|head| head.kind == Kind::Data).collect();
    assert_eq!(data, [&Head { kind: Kind::Data, stream: ids[0].0, len: 100 }]);
    assert!(pair.ends[GATEWAY].turns.is_empty() && !pair.ends[GATEWAY].wants_transmit());
    pair.ends[GATEWAY].write(ids[0], &mut buffer(&[1; 100])).unwrap();
    pair.ends[GATEWAY].close(GoAwayCode::Stop, "");
    assert!(pair.ends[GATEWAY].turns.is_empty() && pair.ends[GATEWAY].credits.is_empty());
}

// proves T14, T20: what all datagrams of a session hold has a limit, and who holds most loses first
#[test]
fn the_longest_queue_makes_room_for_the_datagrams_of_others() {
    let mut pair = Pair::up();
    let modest = pair.open(udp("ns", 53));
    let floods: Vec<_> = (0..40).map(|_| pair.open(udp("h", 1))).collect();
    pair.ends[GATEWAY].send_datagram(modest, Bytes::from_static(b"q"));
    pair.drive();
    let received = |pair: &Pair| pair.ends[CLIENT].datagrams.bytes();
    assert_eq!(received(&pair), HEAD_SIZE + 1);
    for _ in 0..3 {
        for &id in &floods {
            pair.ends[GATEWAY].send_datagram(id, vec![1; DGRAM_BODY_BYTES_MAX].into());
            pair.drive();
            assert!(received(&pair) <= SESSION_DATAGRAM_BYTES_MAX);
        }
    }
    assert!(floods.len() * DATAGRAM_QUEUE_BYTES_MAX > SESSION_DATAGRAM_BYTES_MAX);
    assert!(received(&pair) > SESSION_DATAGRAM_BYTES_MAX - 2 * DGRAM_BODY_BYTES_MAX);
    assert!(pair.ends[CLIENT].stats().datagrams_dropped > 40);
    assert_eq!(pair.ends[CLIENT].read_datagram(modest), Some(Bytes::from_static(b"q")));
    let kept: Vec<usize> =
        floods.iter().map(|&id| std::iter::from_fn(|| pair.ends[CLIENT].read_datagram(id)).count()).collect();
    assert!(kept.iter().all(|kept| (1..=2).contains(kept)), "{kept:?}");
    assert_eq!(received(&pair), 0);
    // What a stream holds leaves with it, both ways.
    pair.stalled[CLIENT] = true;
    for &id in &floods {
        pair.ends[CLIENT].send_datagram(id, Bytes::from_static(b"out"));
    }
    pair.ends[GATEWAY].send_datagram(floods[0], Bytes::from_static(b"in"));
    pair.drive();
    assert_eq!(received(&pair), 40 * (HEAD_SIZE + 3) + HEAD_SIZE + 2);
    pair.ends[CLIENT].reset(floods[0], ResetCode::Reset);
    assert_eq!(received(&pair), 39 * (HEAD_SIZE + 3));
    pair.ends[CLIENT].close(GoAwayCode::Stop, "");
    assert_eq!(received(&pair), 0);
}

// proves T20: datagrams with nothing in them take room as well
#[test]
fn empty_datagrams_are_counted() {
    let (mut pair, id) = Pair::with_stream(udp("ns", 53));
    for _ in 0..1000 {
        pair.ends[CLIENT].send_datagram(id, Bytes::new());
    }
    assert_eq!(pair.ends[CLIENT].datagrams.bytes(), crate::limits::DATAGRAM_QUEUE_LEN_MAX * HEAD_SIZE);
    pair.drive();
    assert_eq!(pair.ends[CLIENT].datagrams.bytes(), 0);
}
