//! The network: links with two ends, what is under way on them, and what goes wrong.
//!
//! ```text
//!   one end                                                                        other end
//!   write ──▶ as much as there is room for ──▶ flight, piece by piece, each later than the last ──▶ unread ──▶ read
//!     ▲                                                                                                │
//!     └──────────────────────────────────── room, a delay later ◀──────────────────────────────────────┘
//! ```
//! It keeps what TCP keeps: order, every byte once, an end that comes behind the bytes, a reset that may overtake them, and a reset
//! in answer to bytes for an end that is closed. Pieces are as small, and as late, as the seed says.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use linkbuffer::LinkBuffer;

use super::connection::News;
use super::handler::Callbacks;
use super::kernel::{self, Action, Kernel, What};
use super::udp::{DatagramHandler, Datagrams};

/// One read takes no more.
const READ_MOST: usize = poller::limits::READ_BYTES_MAX;

/// What links to an address are like.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long a byte is under way, at least.
    pub delay: Duration,
    /// And how much longer it may be.
    pub jitter: Duration,
    /// Bytes that a link holds in one direction.
    pub room: usize,
    /// Of so many pieces one is cut into bits.
    pub bits: u64,
    /// Dials are refused while this is more than 0; each takes one off.
    pub refusals: u32,
    /// Dials are not answered at all.
    pub silent: bool,
    /// The next link is lost when so many bytes have been sent on it, both ways together.
    pub loses: Option<u64>,
    /// What is sent is noted, and can be had with [`take_tapped`].
    pub tapped: bool,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            delay: Duration::from_micros(50),
            jitter: Duration::from_micros(50),
            room: 256 * 1024,
            bits: 8,
            refusals: 0,
            silent: false,
            loses: None,
            tapped: false,
        }
    }
}

/// A port on which somebody listens.
pub(super) struct Door {
    pub(super) proc: Option<u32>,
    pub(super) handler: Option<Arc<dyn Callbacks>>,
}

/// A UDP socket.
pub(super) struct UdpEnd {
    pub(super) proc: Option<u32>,
    pub(super) handler: Option<Arc<dyn DatagramHandler>>,
    /// Where it is connected to.
    pub(super) peer: Option<SocketAddr>,
}

/// A datagram under way; an error that comes back has no bytes.
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) data: Option<Bytes>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
    Reset,
}

/// One end of a link.
#[derive(Debug)]
pub(super) struct End {
    pub(super) conn: Option<u32>,
    pub(super) addr: SocketAddr,
    /// Its descriptor is open.
    open: bool,
    /// What is on its way here.
    flight: VecDeque<Piece>,
    flight_bytes: usize,
    last_at: u64,
    unread: VecDeque<Bytes>,
    unread_bytes: usize,
    ended: bool,
    reset: bool,
    reset_told: bool,
    end_sent: bool,
    wants_room: bool,
}

impl End {
    fn new(addr: SocketAddr) -> End {
        End {
            conn: None,
            addr,
            open: true,
            flight: VecDeque::new(),
            flight_bytes: 0,
            last_at: 0,
            unread: VecDeque::new(),
            unread_bytes: 0,
            ended: false,
            reset: false,
            reset_told: false,
            end_sent: false,
            wants_room: false,
        }
    }
}

/// Two ends and what is between them.
#[derive(Debug)]
pub(super) struct Link {
    /// The one that dialed, and the one that listened.
    pub(super) ends: [End; 2],
    delay: u64,
    jitter: u64,
    room: usize,
    bits: u64,
    sent: u64,
    loses: Option<u64>,
    silent: bool,
    /// Nothing comes through before this.
    stalled: u64,
    tapped: bool,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Kernel {
    // ---- dialing

    /// A dial comes to its address.
    pub(super) fn syn(&mut self, id: u32) -> Action {
        let conn = &self.conns[id as usize];
        let (Some(addr), Some(from)) = (conn.peer, conn.local) else { return Action::Nothing };
        if conn.done || conn.closing.is_some() {
            return Action::Nothing;
        }
        let any_port = SocketAddr::new(addr.ip(), 0);
        let (weather, door) = match self.doors.contains_key(&addr) {
            true => (addr, addr),
            false => (any_port, any_port),
        };
        let weather = self.weather.entry(weather).or_default();
        if weather.silent {
            return Action::Nothing;
        }
        let refused = weather.refusals > 0;
        weather.refusals = weather.refusals.saturating_sub(1);
        let mut seen = weather.clone();
        let door = self.doors.get(&door).filter(|_| !refused);
        let Some((proc, handler)) = door.and_then(|door| Some((door.proc?, door.handler.clone()?))) else {
            self.conns[id as usize].dial_error = Some(io::ErrorKind::ConnectionRefused);
            self.notify(id, News::WRITABLE);
            return Action::Nothing;
        };
        if let Some(weather) = self.weather.get_mut(&addr) {
            // The next one only.
            seen.loses = weather.loses.take();
        }
        let link = self.links.len() as u32;
        self.links.push(Link {
            ends: [End::new(from), End::new(addr)],
            delay: seen.delay.as_nanos() as u64,
            jitter: seen.jitter.as_nanos() as u64,
            room: seen.room,
            bits: seen.bits,
            sent: 0,
            loses: seen.loses,
            silent: false,
            stalled: 0,
            tapped: seen.tapped,
        });
        self.attach(id, link, 0);
        self.notify(id, News::WRITABLE);
        Action::Accept { link, handler, proc, local: addr, peer: from }
    }

    // ---- bytes

    /// Takes what there is room for out of `output`: how many bytes, and whether some are left.
    pub(super) fn write(
        &mut self,
        link: u32,
        side: u8,
        output: &mut LinkBuffer,
    ) -> io::Result<(usize, bool)> {
        let (me, other) = (usize::from(side), usize::from(1 - side));
        let it = &mut self.links[link as usize];
        if it.ends[me].reset || it.ends[me].end_sent {
            it.ends[me].reset_told = true;
            return Err(reset());
        }
        let used = it.ends[other].flight_bytes + it.ends[other].unread_bytes;
        let room = it.room.saturating_sub(used);
        let mut n = room.min(output.len());
        if n > 1 && self.chance.one_in(24) {
            // The kernel has less room than one would think, for a moment.
            n = self.chance.range(1, n as u64) as usize;
            let at = self.soon();
            self.push(at, What::Room(link, side));
        }
        let it = &mut self.links[link as usize];
        let short = n < output.len();
        it.ends[me].wants_room |= short;
        if n == 0 {
            return Ok((0, short));
        }
        let mut left = n;
        while left > 0 {
            let mut bytes = output.read_chunk(left).expect("there is as much as was said");
            left -= bytes.len();
            let it = &mut self.links[link as usize];
            it.sent += bytes.len() as u64;
            if it.tapped {
                self.tapped.push_back((link, side, bytes.clone()));
            }
            let it = &self.links[link as usize];
            if self.chance.one_in(it.bits) {
                let first = self.chance.scale(1, bytes.len() as u64) as usize;
                self.send(link, side, Piece::Bytes(bytes.split_to(first)));
            }
            if !bytes.is_empty() {
                self.send(link, side, Piece::Bytes(bytes));
            }
        }
        let it = &self.links[link as usize];
        if it.loses.is_some_and(|most| it.sent >= most) {
            self.lose(link);
        }
        Ok((n, short))
    }

    /// Puts a piece on its way from this end.
    fn send(&mut self, link: u32, side: u8, piece: Piece) {
        let it = &mut self.links[link as usize];
        let jitter = self.chance.below(it.jitter + 1);
        let other = &mut it.ends[usize::from(1 - side)];
        if let Piece::Bytes(bytes) = &piece {
            other.flight_bytes += bytes.len();
        }
        if let Piece::Reset = piece {
            // It overtakes what is under way, or comes behind it.
            if self.chance.one_in(2) {
                other.flight.clear();
                other.flight_bytes = 0;
            }
        }
        other.flight.push_back(piece);
        let at = (self.now + it.delay + jitter).max(other.last_at).max(it.stalled);
        other.last_at = at;
        if !it.silent {
            self.push(at, What::Arrive(link, 1 - side));
        }
    }

    /// The next piece comes to this end.
    pub(super) fn arrive(&mut self, link: u32, side: u8) {
        let it = &mut self.links[link as usize];
        if it.silent {
            return;
        }
        if it.stalled > self.now {
            let at = it.stalled;
            return self.push(at, What::Arrive(link, side));
        }
        let end = &mut it.ends[usize::from(side)];
        // What was overtaken has left its arrival behind.
        let Some(piece) = end.flight.pop_front() else { return };
        let conn = end.conn;
        match piece {
            Piece::Bytes(bytes) => {
                end.flight_bytes -= bytes.len();
                if end.reset {
                    return;
                }
                if !end.open {
                    return self.send(link, side, Piece::Reset);
                }
                end.unread_bytes += bytes.len();
                self.trace.note(
                    self.now,
                    "bytes",
                    u64::from(link) << 1 | u64::from(side),
                    bytes.len() as u64,
                );
                self.links[link as usize].ends[usize::from(side)].unread.push_back(bytes);
                if let Some(conn) = conn {
                    self.notify(conn, News::READABLE);
                }
            }
            Piece::End => {
                end.ended = true;
                self.trace.note(self.now, "end", u64::from(link) << 1 | u64::from(side), 0);
                if let Some(conn) = conn {
                    self.notify(conn, News::READABLE.with(News::HUP));
                }
            }
            Piece::Reset => {
                end.reset = true;
                end.flight.clear();
                end.flight_bytes = 0;
                self.trace.note(self.now, "reset", u64::from(link) << 1 | u64::from(side), 0);
                if let Some(conn) = conn {
                    self.notify(conn, News::READABLE.with(News::WRITABLE).with(News::HUP));
                }
            }
        }
    }

    /// One read into `input`: how many bytes, 0 at the end of the stream, `None` when there is nothing.
    pub(super) fn read(&mut self, link: u32, side: u8, input: &mut LinkBuffer) -> io::Result<Option<usize>> {
        let it = &mut self.links[link as usize];
        let end = &mut it.ends[usize::from(side)];
        let mut n = 0;
        while let Some(mut bytes) = end.unread.pop_front() {
            if bytes.len() > READ_MOST - n {
                end.unread.push_front(bytes.split_off(READ_MOST - n));
            }
            n += bytes.len();
            // Copied, as the system does.
            input.write(&bytes);
            if n == READ_MOST {
                break;
            }
        }
        if n > 0 {
            end.unread_bytes -= n;
            if it.ends[usize::from(1 - side)].wants_room {
                let at = self.now + it.delay;
                self.push(at, What::Room(link, 1 - side));
            }
            return Ok(Some(n));
        }
        if end.reset {
            if std::mem::replace(&mut end.reset_told, true) {
                return Ok(Some(0));
            }
            return Err(reset());
        }
        Ok(end.ended.then_some(0))
    }

    /// Whether there is nothing more to read now, so that the next news will be news.
    pub(super) fn is_dry(&self, link: u32, side: u8) -> bool {
        let end = &self.links[link as usize].ends[usize::from(side)];
        end.unread.is_empty() && !end.ended && !end.reset
    }

    /// The error of a reset that has come and was not told yet.
    pub(super) fn take_error(&mut self, link: u32, side: u8) -> Option<io::Error> {
        let end = &mut self.links[link as usize].ends[usize::from(side)];
        (end.reset && !std::mem::replace(&mut end.reset_told, true)).then(reset)
    }

    pub(super) fn room(&mut self, link: u32, side: u8) {
        let end = &mut self.links[link as usize].ends[usize::from(side)];
        if end.open
            && std::mem::take(&mut end.wants_room)
            && let Some(conn) = end.conn
        {
            self.notify(conn, News::WRITABLE);
        }
    }

    // ---- ends

    /// Our stream has ended.
    pub(super) fn end_stream(&mut self, link: u32, side: u8) -> bool {
        let end = &mut self.links[link as usize].ends[usize::from(side)];
        if end.reset {
            return false;
        }
        if !std::mem::replace(&mut end.end_sent, true) {
            self.send(link, side, Piece::End);
        }
        true
    }

    /// The descriptor is closed. Whoever closes with bytes unread, or on purpose, resets.
    pub(super) fn close_end(&mut self, link: u32, side: u8, resets: bool) {
        let end = &mut self.links[link as usize].ends[usize::from(side)];
        if !std::mem::replace(&mut end.open, false) {
            return;
        }
        end.conn = None;
        let unread = end.unread_bytes > 0;
        (end.unread, end.unread_bytes) = (VecDeque::new(), 0);
        if end.reset {
            return;
        }
        if resets || unread {
            end.reset = true;
            self.send(link, side, Piece::Reset);
        } else {
            self.end_stream(link, side);
        }
    }

    /// The link breaks: what is under way is lost, and both ends are told.
    pub(super) fn lose(&mut self, link: u32) {
        self.fault("lose", u64::from(link), 0);
        self.links[link as usize].loses = None;
        for side in 0..2 {
            let end = &mut self.links[link as usize].ends[usize::from(1 - side)];
            end.flight.clear();
            end.flight_bytes = 0;
            self.send(link, side, Piece::Reset);
        }
    }

    /// Nothing comes through any more, and nobody is told.
    pub(super) fn silence(&mut self, link: u32) {
        self.fault("silence", u64::from(link), 0);
        self.links[link as usize].silent = true;
    }

    /// The ends of a link that is silent are told that it is broken; those of a tunnel are not.
    pub(super) fn give_up(&mut self, link: u32) {
        let it = &mut self.links[link as usize];
        if it.tapped {
            return;
        }
        for side in 0..2 {
            let end = &mut self.links[link as usize].ends[side];
            end.reset = true;
            if let Some(conn) = end.conn {
                self.notify(conn, News::READABLE.with(News::WRITABLE).with(News::HUP));
            }
        }
    }

    // ---- datagrams

    pub(super) fn send_packet(&mut self, packet: Packet) {
        let lost = packet.data.is_some() && self.chance.one_in(32);
        if lost {
            return;
        }
        self.order_packet(packet);
    }

    fn order_packet(&mut self, packet: Packet) {
        let id = self.packets.last_key_value().map_or(0, |(id, _)| id + 1);
        self.packets.insert(id, packet);
        let at = self.soon() + 100_000;
        self.push(at, What::Datagram(id));
    }

    pub(super) fn datagram(&mut self, id: u64) -> Action {
        let Some(Packet { from, to, data }) = self.packets.remove(&id) else { return Action::Nothing };
        let end = self.udp.get(&to);
        let found = end.filter(|end| end.peer.is_none_or(|peer| peer == from));
        let Some((handler, peer)) = found.and_then(|end| Some((end.handler.clone()?, end.peer))) else {
            if data.is_some() && end.is_none() {
                self.order_packet(Packet { from: to, to: from, data: None });
            }
            return Action::Nothing;
        };
        // An error is for a connected socket alone.
        if data.is_none() && peer.is_none() {
            return Action::Nothing;
        }
        self.trace.note(
            self.now,
            "datagram",
            u64::from(to.port()),
            data.as_ref().map_or(0, |data| data.len() as u64),
        );
        Action::Datagram { handler, socket: Datagrams::new(self.run, to, peer), from, data }
    }
}

// ---- for those who make the weather

/// Links to `addr` are like this from now on; port 0 stands for every port without a listener of its own.
pub fn set_weather(addr: SocketAddr, weather: Weather) {
    let _ = kernel::with(|k| k.weather.insert(addr, weather));
}

/// Changes what links to `addr` will be like.
pub fn change_weather(addr: SocketAddr, change: impl FnOnce(&mut Weather)) {
    let _ = kernel::with(|k| change(k.weather.entry(addr).or_default()));
}

/// The links to `addr` that are whole.
pub fn links_to(addr: SocketAddr) -> Vec<u32> {
    let whole = |link: &Link| {
        link.ends[1].addr == addr && link.ends.iter().all(|end| end.open && !end.reset) && !link.silent
    };
    kernel::with(|k| {
        k.links.iter().enumerate().filter(|(_, link)| whole(link)).map(|(id, _)| id as u32).collect()
    })
    .unwrap_or_default()
}

/// Nothing goes wrong any more of what is still to go wrong by itself.
pub fn clear_up() {
    let _ = kernel::with(|k| {
        k.links.iter_mut().for_each(|link| link.loses = None);
        k.weather.values_mut().for_each(|weather| (weather.loses, weather.refusals) = (None, 0));
    });
}

/// Breaks a link.
pub fn lose(link: u32) {
    let _ = kernel::with(|k| k.lose(link));
}

/// Lets nothing through any more, and tells nobody.
pub fn silence(link: u32) {
    let _ = kernel::with(|k| k.silence(link));
}

/// Holds everything back for a while.
pub fn stall(link: u32, time: Duration) {
    let _ = kernel::with(|k| {
        k.trace.note(k.now, "stall", u64::from(link), time.as_millis() as u64);
        k.links[link as usize].stalled = k.now + time.as_nanos() as u64;
    });
}

/// What was sent on links that are tapped, in order: the link, whether the listening end sent it, and the bytes.
pub fn take_tapped() -> Option<(u32, bool, Bytes)> {
    kernel::with(|k| k.tapped.pop_front()).flatten().map(|(link, side, bytes)| (link, side == 1, bytes))
}

/// Bytes that the system took from the one connection that has this at its other end.
pub fn bytes_out_to(peer: SocketAddr) -> Option<u64> {
    kernel::with(|k| k.conns.iter().rev().find(|conn| conn.peer == Some(peer)).map(|conn| conn.bytes_out))
        .flatten()
}
