//! The floor: one thread, one epoll, and nothing between the system and the protocol.
//!
//! `raw --port P --proto http|rpc [--defer]`. With `--defer` the listener defers accepting until there is something to
//! read, the connection is read at once, and only a connection that stays is given to epoll.
//!
//! Level-triggered, so that a short read needs no second one; one read and one write per turn; a connection owns memory
//! only while a request is incomplete or an answer unsent.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use lab::args::Args;
use lab::socket;
use lab::wire::{self, Protocol, Splitter};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};

/// Descriptors are small numbers: none is this one.
const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 512;
const READ: usize = 64 * 1024;

struct Conn {
    socket: TcpStream,
    /// The beginning of a request.
    rest: Vec<u8>,
    /// Answers that the system did not take.
    unsent: Vec<u8>,
    /// The last answer was given.
    ending: bool,
}

/// What belongs to the thread.
struct Thread {
    epoll: OwnedFd,
    protocol: Protocol,
    splitter: Splitter,
    buffer: Vec<u8>,
    /// As many answers as requests can come with one read: how many are sent is decided by cutting.
    answers: Vec<u8>,
}

/// A connection with unsent answers is not read.
fn interest(conn: &Conn) -> EventFlags {
    if conn.unsent.is_empty() { EventFlags::IN | EventFlags::RDHUP } else { EventFlags::OUT }
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Turn {
    Stays,
    Ends,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::of_process(&["--port", "--proto"], &["--defer"])?;
    let protocol = args.get("--proto")?.unwrap_or(Protocol::Http);
    let defer = args.has("--defer");
    let listener = socket::listen(args.get("--port")?.unwrap_or(8080), defer)?;
    println!("{protocol:?} on {}", listener.local_addr()?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut thread = Thread {
        epoll,
        protocol,
        splitter: Splitter::new(protocol),
        buffer: vec![0; READ],
        answers: wire::HELLO.repeat(READ / wire::REQUEST_MIN + 1),
    };
    thread.run(&listener, defer)?;
    Ok(())
}

impl Thread {
    fn run(&mut self, listener: &TcpListener, defer: bool) -> io::Result<()> {
        let mut conns: Vec<Option<Conn>> = Vec::new();
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                if event.data.u64() == LISTENER {
                    self.accept(listener, defer, &mut conns)?;
                    continue;
                }
                let at = event.data.u64() as usize;
                let Some(conn) = &mut conns[at] else { continue };
                if self.turn(conn, event.flags) == Turn::Ends {
                    conns[at] = None;
                }
            }
        }
    }

    fn accept(
        &mut self,
        listener: &TcpListener,
        defer: bool,
        conns: &mut Vec<Option<Conn>>,
    ) -> io::Result<()> {
        // Also the end of what can be accepted for want of descriptors: the client counts what it misses.
        while let Ok(socket) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            let mut conn =
                Conn { socket: socket.into(), rest: Vec::new(), unsent: Vec::new(), ending: false };
            if defer && self.read(&mut conn) == Turn::Ends {
                continue;
            }
            let at = conn.socket.as_raw_fd() as usize;
            epoll::add(&self.epoll, &conn.socket, EventData::new_u64(at as u64), interest(&conn))?;
            if conns.len() <= at {
                conns.resize_with(at + 1, || None);
            }
            conns[at] = Some(conn);
        }
        Ok(())
    }

    fn turn(&mut self, conn: &mut Conn, flags: EventFlags) -> Turn {
        if conn.unsent.is_empty() {
            let turn = self.read(conn);
            let stuck = turn == Turn::Stays && !conn.unsent.is_empty();
            return if stuck { self.change_interest(conn) } else { turn };
        }
        // What is unsent goes first: nothing is read until it has left, and epoll is not asked for that.
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            return Turn::Ends;
        }
        match conn.socket.write(&conn.unsent) {
            Ok(sent) => drop(conn.unsent.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Turn::Ends,
        }
        if !conn.unsent.is_empty() {
            return Turn::Stays;
        }
        conn.unsent = Vec::new();
        if conn.ending { Turn::Ends } else { self.change_interest(conn) }
    }

    fn change_interest(&self, conn: &Conn) -> Turn {
        let data = EventData::new_u64(conn.socket.as_raw_fd() as u64);
        match epoll::modify(&self.epoll, &conn.socket, data, interest(conn)) {
            Ok(()) => Turn::Stays,
            Err(_) => Turn::Ends,
        }
    }

    fn read(&mut self, conn: &mut Conn) -> Turn {
        let read = match conn.socket.read(&mut self.buffer) {
            Ok(0) => return Turn::Ends,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Stays,
            Err(_) => return Turn::Ends,
        };
        let joined = !conn.rest.is_empty();
        if joined {
            conn.rest.extend_from_slice(&self.buffer[..read]);
        }
        let input = if joined { &conn.rest[..] } else { &self.buffer[..read] };
        let (mut used, mut requests, mut last) = (0, 0, false);
        while !last {
            match self.splitter.next(&input[used..]) {
                Ok(Some(request)) => {
                    if request.slow {
                        std::thread::sleep(wire::SLOW);
                    }
                    used += request.len;
                    requests += 1;
                    last = request.last;
                }
                Ok(None) => break,
                Err(wire::Malformed) => return Turn::Ends,
            }
        }
        let (answers, farewell): (&[u8], &[u8]) = match self.protocol {
            Protocol::Rpc => (&input[..used], b""),
            // The answers at hand are enough: an earlier rest has no whole request but the one that this read ends.
            Protocol::Http if last => (&self.answers[..(requests - 1) * wire::HELLO.len()], wire::HELLO_LAST),
            Protocol::Http => (&self.answers[..requests * wire::HELLO.len()], b""),
        };
        for part in [answers, farewell] {
            if part.is_empty() {
                continue;
            }
            let sent = if conn.unsent.is_empty() { conn.socket.write(part) } else { Ok(0) };
            match sent {
                Ok(sent) => conn.unsent.extend_from_slice(&part[sent..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.unsent.extend_from_slice(part)
                }
                Err(_) => return Turn::Ends,
            }
        }
        if joined {
            conn.rest.drain(..used);
            if conn.rest.is_empty() {
                conn.rest = Vec::new();
            }
        } else if used < read {
            conn.rest.extend_from_slice(&self.buffer[used..read]);
        }
        if conn.unsent.is_empty() {
            return if last { Turn::Ends } else { Turn::Stays };
        }
        conn.ending = last;
        Turn::Stays
    }
}
