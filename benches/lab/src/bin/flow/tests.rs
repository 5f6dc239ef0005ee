//! Both ends over loopback, and what becomes of a stream that somebody between them spoils.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::epoll::EventFlags;

use crate::end::{Scratch, User};
use crate::order::{ENDLESS, ORDER, Order, REPORT};
use crate::verify::Ways;
use crate::{bulk, connect, target, verify};

/// A target that ends with this process.
fn target() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || target::serve(&listener).expect("the listener stays"));
    address
}

fn plan(address: SocketAddr, streams: usize, bytes: u64) -> verify::Plan {
    verify::Plan {
        address,
        streams,
        bytes,
        ways: Ways::Both,
        seed: 3,
        write_max: 1 << 20,
        patience: Duration::from_secs(60),
    }
}

/// Where in the bytes towards the user a fault is made, and which.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    Flip(usize),
    Lose(usize),
    Add(usize),
    /// Nothing more passes, and the user sees an end.
    Cut(usize),
}

/// A relay for one connection, that does one fault on the way to the user.
fn between(target: SocketAddr, spoil: Spoil) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let (mut user, _) = listener.accept().expect("somebody comes");
        let mut far = TcpStream::connect(target).expect("it listens");
        let (mut from_user, mut to_far) = (user.try_clone().expect("room"), far.try_clone().expect("room"));
        let up = std::thread::spawn(move || {
            // A user who has seen the fault goes away: that is no fault of the relay's.
            drop(std::io::copy(&mut from_user, &mut to_far));
            drop(to_far.shutdown(Shutdown::Write));
        });
        let mut bytes = Vec::new();
        drop(far.read_to_end(&mut bytes));
        match spoil {
            Spoil::Flip(at) => bytes[at] ^= 1,
            Spoil::Lose(at) => drop(bytes.remove(at)),
            Spoil::Add(at) => bytes.insert(at, 0),
            Spoil::Cut(at) => bytes.truncate(at),
        }
        drop(user.write_all(&bytes));
        drop(user.shutdown(Shutdown::Write));
        up.join().expect("it does not panic");
    });
    address
}

#[test]
fn what_arrives_is_what_was_sent() {
    let plan = plan(target(), 20, 3_000_000);
    let verdict = verify::run(&plan, || Ok(())).expect("it can be tried");
    assert_eq!(verdict.faults, Vec::<String>::new());
    let carried = verdict.up + verdict.down;
    assert!(carried <= plan.bytes + 4 && carried > plan.bytes - 40, "{carried}");
    assert!(verdict.up > 0 && verdict.down > 0);
}

#[test]
fn sizes_have_the_edges_and_are_uneven() {
    let sizes = verify::sizes(&plan(SocketAddr::from(([127, 0, 0, 1], 1)), 100, 1_000_000_000));
    assert_eq!((sizes.len(), &sizes[..4]), (100, &[(0, 0), (1, 0), (0, 1), (1, 1)][..]));
    let (least, most) = (sizes[4..].iter().map(|(up, _)| *up), sizes[4..].iter().map(|(_, down)| *down));
    for (ways, up, down) in [(Ways::Up, 1000, 2), (Ways::Down, 2, 1000)] {
        let plan = verify::Plan { ways, ..plan(SocketAddr::from(([127, 0, 0, 1], 1)), 100, 1000 + 96) };
        let sizes = verify::sizes(&plan);
        let all =
            (sizes.iter().map(|(up, _)| up).sum::<u64>(), sizes.iter().map(|(_, down)| down).sum::<u64>());
        assert_eq!((all.0 >= up, all.1 >= down, all.0.min(all.1)), (true, true, 2), "{ways:?}: {all:?}");
    }
    assert!(least.min().expect("some") * 50 < most.max().expect("some"), "{sizes:?}");
}

#[track_caller]
fn check(spoil: Spoil, want: &str) {
    let verdict =
        verify::run(&plan(between(target(), spoil), 1, 200_000), || Ok(())).expect("it can be tried");
    assert_eq!(verdict.faults.len(), 1, "{spoil:?} was not seen");
    assert!(verdict.faults[0].contains(want), "{spoil:?}: {:?}", verdict.faults);
}

#[test]
fn one_wrong_byte_is_found_wherever_it_is() {
    let (_, down) = verify::sizes(&plan(SocketAddr::from(([127, 0, 0, 1], 1)), 1, 200_000))[0];
    let down = usize::try_from(down).expect("it is short");
    for at in [0, down / 2, down - 1] {
        check(Spoil::Flip(at), "DIFFER");
    }
    check(Spoil::Lose(down / 2), "ended 1 bytes before it should");
    check(Spoil::Add(down / 2), "more came than was sent");
    check(Spoil::Cut(down / 2), "ended within the payload");
    check(Spoil::Cut(down), &format!("ended {REPORT} bytes before it should"));
    // The report itself: the target's own sums are told wrongly.
    check(Spoil::Flip(down), "bytes sent");
}

#[test]
fn bulk_is_counted_where_it_arrives() {
    let target = target();
    for up in [false, true] {
        let plan = bulk::Plan {
            address: target,
            target,
            streams: 3,
            up,
            warm: Duration::from_millis(20),
            span: Duration::from_millis(200),
        };
        let before = bulk::count(target).expect("it answers");
        let (carried, users) = bulk::run(&plan, || ()).expect("nothing breaks");
        let after = bulk::count(target).expect("it answers");
        drop(users);
        let all = if up { after.received - before.received } else { after.sent - before.sent };
        assert!(carried.bytes > 0 && carried.bytes <= all, "{carried:?} of {all}");
        assert!(carried.span >= plan.span);
    }
}

#[test]
fn who_has_sent_all_waits_for_input_alone() {
    let mut scratch = Scratch::new();
    let target = target();
    for (order, done) in [
        (Order::plain(0, ENDLESS), true),
        (Order::plain(ENDLESS, 0), false),
        (Order::checked(1, 9, ENDLESS, 1), false),
    ] {
        let socket = connect(target).expect("it listens");
        let mut user = User::new(socket, order);
        assert_eq!(user.interest(), EventFlags::IN | EventFlags::OUT, "the order is still to be sent");
        user.turn(EventFlags::OUT, &mut scratch).expect("there is room");
        assert_eq!(user.interest().contains(EventFlags::OUT), !done, "{order:?}");
    }
}

#[test]
fn who_orders_nothing_is_turned_away_alone() {
    let target = target();
    let mut rude = TcpStream::connect(target).expect("it listens");
    rude.write_all(&[b'x'; ORDER]).expect("there is room");
    assert_eq!(rude.read(&mut [0]).ok().filter(|read| *read > 0), None);
    let mut polite = TcpStream::connect(target).expect("it still listens");
    polite.write_all(&Order::plain(0, 5).encode()).expect("there is room");
    polite.shutdown(Shutdown::Write).expect("it is open");
    let mut payload = Vec::new();
    polite.read_to_end(&mut payload).expect("it is sent");
    assert_eq!(payload, [0; 5]);
}
