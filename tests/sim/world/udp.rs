//! Users of the forwarded UDP port, and their target, which sends back what it gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use simulated::rt::{self, DatagramHandler, Datagrams, Remote, UdpSocket};

use super::plan::Plan;
use super::{FORWARD_UDP, at};

/// All users of a run.
pub(super) struct Users {
    people: Remote,
    sockets: Vec<Option<Datagrams>>,
    /// Datagrams that are still to be sent.
    left: usize,
    next: usize,
    next_at: u64,
    wrong: Arc<Mutex<Option<String>>>,
    answers: Arc<AtomicU64>,
}

struct Echo;

impl DatagramHandler for Echo {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        rt::note("echo", data.len() as u64, 0);
        // One that cannot be sent is lost, as datagrams may be.
        socket.send_to(data, from).ok();
    }
}

struct User {
    number: usize,
    wrong: Arc<Mutex<Option<String>>>,
    answers: Arc<AtomicU64>,
}

/// What a user sends: its number, and as many bytes as the turn says.
fn datagram(number: usize, turn: usize) -> Vec<u8> {
    vec![number as u8; 1 + (turn * 97) % 1_400]
}

impl DatagramHandler for User {
    fn on_datagram(&self, _socket: &Datagrams, _from: SocketAddr, data: &[u8]) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if data.is_empty() || data.iter().any(|byte| usize::from(*byte) != self.number) {
            let what = format!("user {} of the UDP port got somebody else's datagram", self.number);
            self.wrong.lock().get_or_insert(what);
        }
    }
}

impl Users {
    pub(super) fn new(plan: &Plan, people: Remote) -> Users {
        let (users, turns) = plan.udp;
        let next_at = if users * turns > 0 { Duration::from_millis(500).as_nanos() as u64 } else { u64::MAX };
        Users {
            people,
            sockets: vec![None; users],
            left: users * turns,
            next: 0,
            next_at,
            wrong: Arc::default(),
            answers: Arc::default(),
        }
    }

    /// The target.
    pub(super) fn serve(&self, addr: SocketAddr) -> Result<(), String> {
        let socket = UdpSocket::bind(addr).map_err(|error| error.to_string())?;
        self.people.datagrams(socket, Echo).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// When the next datagram is due.
    pub(super) fn next_at(&self) -> u64 {
        self.next_at
    }

    /// Sends it.
    pub(super) fn send(&mut self) {
        let (number, turn) = (self.next % self.sockets.len(), self.next / self.sockets.len());
        let socket = self.sockets[number].get_or_insert_with(|| {
            let user = User { number, wrong: self.wrong.clone(), answers: self.answers.clone() };
            let ip = std::net::Ipv4Addr::new(10, 9, 1, number as u8 + 1);
            let socket = UdpSocket::bind(at(ip, 5_000)).expect("nobody else has it");
            self.people.datagrams(socket, user).expect("people never stop")
        });
        socket.send_to(&datagram(number, turn), FORWARD_UDP).expect("an open socket sends");
        self.next += 1;
        self.left -= 1;
        let pause = Duration::from_millis(3 + (self.next as u64 * 37) % 100).as_nanos() as u64;
        self.next_at = if self.left > 0 { self.next_at + pause } else { u64::MAX };
    }

    /// What went wrong, and how many answers came.
    pub(super) fn finding(&self) -> Option<String> {
        self.wrong.lock().take()
    }
}
