//! Windows over time: they grow with use, within the budgets, and what a stream held is free again when it ends.

use super::*;
use crate::limits::{
    CONTROL_QUEUE_LEN_MAX, RELAY_CREDIT_BYTES, SEND_QUEUE_BYTES_MAX, WINDOW_BYTES_MAX, WINDOW_IDLE_MS,
    WINDOW_INITIAL_BYTES, WINDOW_MIN_BYTES,
};
use crate::proto::budget::WindowBudget;
use crate::proto::frame::HEAD_SIZE;

/// Writes as much as there is room for on the client's end.
fn write(pair: &mut Pair, id: StreamId) {
    let mut bulk = buffer(&[5; SEND_QUEUE_BYTES_MAX]);
    while pair.ends[CLIENT].write(id, &mut bulk).is_ok_and(|taken| taken > 0) {
        pair.transmit();
        bulk = buffer(&[5; SEND_QUEUE_BYTES_MAX]);
    }
}

/// Reads at most `max` bytes on the gateway's end, and says that they were delivered.
fn deliver(pair: &mut Pair, id: StreamId, delivered: &mut u64, max: usize) {
    let mut out = LinkBuffer::new();
    *delivered += pair.ends[GATEWAY].read(id, &mut out, max).expect("the stream is there").bytes as u64;
    pair.ends[GATEWAY].delivered(id, *delivered);
    pair.transmit();
}

/// A stream over a path of 50 ms each way.
fn far() -> (Pair, StreamId) {
    let mut pair = Pair::up();
    pair.delay = Duration::from_millis(50);
    // The round trip that was measured when the session came up was another one.
    for end in &mut pair.ends {
        end.liveness.rtt_min = None;
    }
    pair.advance(Duration::from_secs(20));
    assert_eq!(pair.ends[GATEWAY].liveness.rtt_min, Some(Duration::from_millis(100)));
    let id = pair.open(tcp("a", 1));
    (pair, id)
}

// A path of 100 ms carries more than one first window per round trip once a stream has shown that it uses it
#[test]
fn a_stream_that_uses_its_window_gets_a_larger_one() {
    let (mut pair, id) = far();
    let (mut delivered, pings) = (0, pair.pings);
    let mut per_s = Vec::new();
    for _ in 0..10 {
        let before = delivered;
        for _ in 0..100 {
            write(&mut pair, id);
            pair.advance(Duration::from_millis(10));
            deliver(&mut pair, id, &mut delivered, usize::MAX);
        }
        per_s.push(delivered - before);
    }
    let held = pair.ends[GATEWAY].window_bytes();
    assert_eq!(held, u64::from(WINDOW_BYTES_MAX), "{per_s:?}");
    assert!(per_s[9] > 50 * u64::from(WINDOW_INITIAL_BYTES), "{per_s:?}");
    // Six times doubled, and measured once a second at most meanwhile, by a side that hears frames all the time.
    let asked = pair.pings - pings;
    assert!((1..=3).contains(&asked), "{asked} PINGs");
    // The other direction carried nothing and stays as it was.
    assert_eq!(pair.ends[CLIENT].window_bytes(), u64::from(WINDOW_INITIAL_BYTES));
    pair.ends[GATEWAY].reset(id, ResetCode::Reset);
    pair.drive();
    assert_eq!(pair.ends.each_ref().map(Session::window_bytes), [0, 0]);
}

// A target that is fast and a user who is slow: what the window holds would wait here, so it stays small.
#[test]
fn a_slow_reader_keeps_its_first_window() {
    let (mut pair, id) = far();
    let mut delivered = 0;
    for _ in 0..2000 {
        write(&mut pair, id);
        pair.advance(Duration::from_millis(10));
        deliver(&mut pair, id, &mut delivered, 8 << 10);
    }
    assert!(delivered > 1990 * (8 << 10), "it was hardly ever without something to read");
    assert_eq!(pair.ends[GATEWAY].window_bytes(), u64::from(WINDOW_INITIAL_BYTES));
}

#[test]
fn a_window_that_is_not_used_any_more_shrinks() {
    let (mut pair, id) = far();
    let mut delivered = 0;
    for _ in 0..500 {
        write(&mut pair, id);
        pair.advance(Duration::from_millis(10));
        deliver(&mut pair, id, &mut delivered, usize::MAX);
    }
    assert!(pair.ends[GATEWAY].window_bytes() > 8 * u64::from(WINDOW_INITIAL_BYTES));
    for _ in 0..4000 {
        pair.ends[CLIENT].write(id, &mut buffer(&[1; 10_000])).unwrap();
        pair.advance(Duration::from_millis(WINDOW_IDLE_MS / 10));
        deliver(&mut pair, id, &mut delivered, usize::MAX);
    }
    assert_eq!(pair.ends[GATEWAY].window_bytes(), u64::from(WINDOW_INITIAL_BYTES));
}

// proves T16: with a budget that is used up, streams get the smallest window, and every byte still arrives
#[test]
fn without_a_budget_streams_still_move() {
    let now = pair::base();
    let budget = Arc::new(WindowBudget::new(0));
    let mut pair = Pair::silent(client_config(), gateway_config());
    pair.ends = [
        Session::client(client_config(), now).with_budget(budget.clone()),
        Session::gateway(gateway_config(), now).with_budget(budget.clone()),
    ];
    pair.drive();
    assert_eq!((pair.event(CLIENT), pair.event(GATEWAY)), (Some(Event::Up), Some(Event::Up)));
    let ids = [pair.open(tcp("a", 1)), pair.open(tcp("b", 1))];
    assert_eq!(budget.used(), 4 * u64::from(WINDOW_MIN_BYTES));
    let mut delivered = [0; 2];
    for _ in 0..200 {
        for (&id, delivered) in ids.iter().zip(&mut delivered) {
            let mut bulk = buffer(&[5; SEND_QUEUE_BYTES_MAX]);
            let taken = pair.ends[CLIENT].write(id, &mut bulk).unwrap();
            assert!(taken <= WINDOW_MIN_BYTES as usize);
            pair.drive();
            deliver(&mut pair, id, delivered, usize::MAX);
            pair.drive();
        }
    }
    assert_eq!(delivered, [200 * u64::from(WINDOW_MIN_BYTES); 2]);
    assert_eq!(budget.used(), 4 * u64::from(WINDOW_MIN_BYTES), "nothing grows");
    drop(pair);
    assert_eq!(budget.used(), 0);
}

// proves L-09 on the tunnel: a relay leaves less than this unsaid when nothing makes it look again, and nobody may wait for that
#[test]
fn the_smallest_window_opens_although_a_little_is_not_said_to_be_delivered() {
    let now = pair::base();
    let mut pair = Pair::silent(client_config(), gateway_config());
    let gateway = Session::gateway(gateway_config(), now);
    pair.ends[GATEWAY] = gateway.with_budget(Arc::new(WindowBudget::new(0)));
    pair.drive();
    pair.events = Default::default();
    let id = pair.open(tcp("a", 1));
    pair.ends[CLIENT].write(id, &mut buffer(&[5; SEND_QUEUE_BYTES_MAX])).unwrap();
    pair.drive();
    let mut out = LinkBuffer::new();
    let read = pair.ends[GATEWAY].read(id, &mut out, usize::MAX).unwrap().bytes as u64;
    assert_eq!(read, u64::from(WINDOW_MIN_BYTES));
    pair.ends[GATEWAY].delivered(id, read - (RELAY_CREDIT_BYTES - 1));
    pair.take_events(CLIENT);
    pair.drive();
    assert_eq!(pair.take_events(CLIENT), [Event::Writable(id)]);
}

// proves T16: a stream of datagrams has no use for a window and holds none
#[test]
fn datagrams_hold_no_window() {
    let (mut pair, id) = Pair::with_stream(udp("ns", 53));
    assert_eq!(pair.ends.each_ref().map(Session::window_bytes), [0, 0]);
    pair.ends[GATEWAY].send_datagram(id, Bytes::from_static(b"q"));
    pair.drive();
    assert_eq!(pair.ends[CLIENT].read_datagram(id), Some(Bytes::from_static(b"q")));
}

// proves T14, T16: what a session holds is counted, and what is above a limit is said
#[test]
fn what_a_session_holds_is_counted_and_held_against_its_limits() {
    let (mut pair, id) = Pair::with_stream(tcp("a", 1));
    let datagrams = pair.open(udp("ns", 53));
    pair.drive();
    assert_eq!(pair.ends.each_ref().map(Session::held_bytes), [Ok(0), Ok(0)]);
    pair.ends[CLIENT].write(id, &mut buffer(&[5; SEND_QUEUE_BYTES_MAX])).unwrap();
    pair.ends[CLIENT].send_datagram(datagrams, Bytes::from_static(b"four"));
    let held = SEND_QUEUE_BYTES_MAX + HEAD_SIZE + 4;
    assert_eq!(pair.ends.each_ref().map(Session::held_bytes), [Ok(held), Ok(0)]);
    pair.drive();
    assert_eq!(pair.ends.each_ref().map(Session::held_bytes), [Ok(0), Ok(held)], "they wait to be read");
    let client = &mut pair.ends[CLIENT];
    (0..CONTROL_QUEUE_LEN_MAX).for_each(|n| client.control(&Frame::Ping(n as u64), 0));
    assert_eq!(client.held_bytes(), Ok(CONTROL_QUEUE_LEN_MAX * (HEAD_SIZE + 8)));
    client.control(&Frame::Ping(0), 0);
    assert_eq!(client.held_bytes(), Err("the control frames"));
    // More to read than the windows allow.
    let gateway = &mut pair.ends[GATEWAY];
    let stream = gateway.table.get_mut(&id.0).unwrap();
    stream.push_received(vec![5; WINDOW_INITIAL_BYTES as usize].into());
    assert_eq!(gateway.held_bytes(), Err("what was not read yet"));
}
