//! What is left with a poll when its lead comes back from under a panic, and when it ends.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;

use socket2::SockRef;

use super::*;
use crate::socket::Registered;
use crate::udp::{DatagramHandler, Datagrams};

fn poll() -> Arc<PollShared> {
    let workers = Pool::new("test".to_owned(), 0, 0);
    let live = Live::new(1, 0, Duration::ZERO);
    PollShared::new(workers, live, Arc::default(), Duration::ZERO).expect("a selector")
}

/// Leads until the poll stops, with a job that earlier work has left.
fn lead_with(poll: &Arc<PollShared>, job: Job) {
    let mut scratch = Scratch::default();
    scratch.jobs.push_back(job);
    worker::lead(poll, &mut scratch);
    assert!(scratch.jobs.is_empty());
}

// proves L-21 where work has left a job before a panic ended it: the job is done, and no later work has to bring it along
#[test]
#[cfg_attr(miri, ignore = "Miri has no selector that waits")]
fn what_work_has_left_is_done_after_a_panic() {
    let poll = poll();
    poll.arm_task(Instant::now(), Box::new(|| panic!("on purpose"))).expect("not stopped");
    let (told, done) = mpsc::channel();
    std::thread::spawn(move || {
        lead_with(&poll, Job::Stop);
        told.send(()).expect("the test waits");
    });
    done.recv_timeout(Duration::from_secs(30)).expect("it stops");
}

/// A handler that dislikes to be dropped.
struct Bomb(mpsc::Sender<()>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.send(()).expect("the test waits");
        panic!("on purpose");
    }
}

impl DatagramHandler for Bomb {
    fn on_datagram(&self, _: &Datagrams, _: SocketAddr, _: &[u8]) {}
}

// proves L-21, L-29: a poll that ends lets go of each tenant and each task by itself. Two panics at once would end the process
#[test]
#[cfg_attr(miri, ignore = "Miri has no sockets")]
fn a_panic_in_what_an_ending_poll_drops_is_none_in_the_others() {
    let (poll, registered) = (poll(), Arc::<Registered>::default());
    let (dropped, drops) = mpsc::channel();
    let never = Instant::now() + Duration::from_secs(3600);
    for _ in 0..2 {
        let bomb = Bomb(dropped.clone());
        poll.arm_task(never, Box::new(move || drop(bomb))).expect("not stopped");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let addr = socket.local_addr().expect("bound");
        let registration = registered.enter(&SockRef::from(&socket), "UDP socket").expect("a new one");
        let bomb = Box::new(Bomb(dropped.clone()));
        let udp = UdpShared::new(socket, addr, registration, poll.clone(), bomb).expect("a UDP socket");
        poll.push(Job::Datagram(udp));
    }
    lead_with(&poll, Job::Stop);
    assert_eq!(drops.try_iter().count(), 4);
}
