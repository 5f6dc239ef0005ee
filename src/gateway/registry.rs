//! Which clients of which group are connected, and which of them carries the next stream.
//!
//! * A client is known by its name and its instance, a number that it draws for each of its tunnels; each connection for it has a
//!   higher generation. A higher generation takes the place of a lower one at once, and nobody else takes a place: an instance may
//!   have been overheard, but a name that has a key is nobody else's.
//! * Who leaves is named by its tunnel, so the clean-up of an older generation touches nothing of the newer.
//! * Who has left is known as long as somebody reads what had come of it: the right to that can be taken away.
//! * Of those that have room the least busy client is picked, the longest unpicked when several are equal. One that does not
//!   answer, and so may be gone, is picked only when there is no other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::NoStream;
use crate::limits::CLIENTS_PER_GROUP_MAX;
use crate::refused::address;
use crate::rt::{self, Handle};
use crate::tunnel::{Room, Tunnel};

/// One connected client.
#[derive(Clone)]
pub struct Member {
    /// Its tunnel.
    pub tunnel: Arc<Tunnel>,
    /// The name that it gave.
    pub name: Arc<str>,
    /// The number that it drew.
    pub instance: u64,
    /// The number of its connection.
    pub generation: u64,
}

impl Member {
    /// Whether this is another connection of the same client, to the same group.
    fn is(&self, other: &Member) -> bool {
        self.instance == other.instance && self.name == other.name
    }

    /// Where it comes from.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.tunnel.carrier().and_then(Handle::peer_addr)
    }
}

/// Whether these are two places, as far as addresses tell: a host has all of an IPv6 network.
pub fn is_elsewhere(one: SocketAddr, other: Option<SocketAddr>) -> bool {
    other.is_some_and(|other| address(Some(one)) != address(Some(other)))
}

/// What became of a client that joined.
#[must_use]
pub enum Joined {
    /// It is the group's first.
    First,
    /// The group had others.
    Another,
    /// It took the place of its own older connection, which is to be closed.
    Replaced(Member),
    /// A connection of the same client is there already, and this one is not newer: it is to be closed.
    Stale(Member),
    /// The group is full; this one is to be closed.
    Full,
    /// Its session has ended meanwhile.
    Gone,
}

/// The groups and their clients.
#[derive(Default)]
pub struct Registry {
    groups: Mutex<HashMap<String, Vec<Member>>>,
    /// Who has left, while its streams are read to their end; each is held by its user's connection.
    parted: Mutex<Vec<Parted>>,
}

/// One that was a member.
struct Parted {
    group: String,
    name: Arc<str>,
    tunnel: Weak<Tunnel>,
}

impl Parted {
    /// Its tunnel, if there is something left to be read of it.
    fn read(&self) -> Option<Arc<Tunnel>> {
        self.tunnel.upgrade().filter(|tunnel| tunnel.stream_count() > 0)
    }
}

impl Registry {
    /// Adds a client to a group, if there is a place for it, and lets its session come up: so whoever is in a group is up, and who
    /// finds no place never was.
    pub fn join(&self, group: &str, member: Member) -> Joined {
        let mut groups = self.groups.lock();
        let members = groups.get(group).map_or(&[][..], Vec::as_slice);
        let former = members.iter().position(|known| known.is(&member));
        match former.map(|index| &members[index]) {
            Some(known) if known.generation >= member.generation => return Joined::Stale(known.clone()),
            None if members.len() >= CLIENTS_PER_GROUP_MAX => return Joined::Full,
            _ => {}
        }
        // Under the lock: nobody who looks finds its place empty.
        if !member.tunnel.exchange(|session| session.admit(rt::now())) {
            return Joined::Gone;
        }
        let members = groups.entry(group.to_owned()).or_default();
        if let Some(index) = former {
            let former = std::mem::replace(&mut members[index], member);
            self.part(group, &former);
            return Joined::Replaced(former);
        }
        members.push(member);
        if members.len() == 1 { Joined::First } else { Joined::Another }
    }

    /// Removes the client that has this tunnel; says how many the group has left, or `None` when it was not there.
    pub fn leave(&self, group: &str, tunnel: &Arc<Tunnel>) -> Option<usize> {
        let mut groups = self.groups.lock();
        let members = groups.get_mut(group)?;
        let index = members.iter().position(|member| Arc::ptr_eq(&member.tunnel, tunnel))?;
        self.part(group, &members.remove(index));
        let left = members.len();
        if left == 0 {
            groups.remove(group);
        }
        Some(left)
    }

    /// The client that carries the next stream of a group.
    ///
    /// # Errors
    /// When none has room. One that is full is a better reason than one that is about to leave.
    pub fn pick(&self, group: &str) -> Result<Member, NoStream> {
        let mut groups = self.groups.lock();
        let members = groups.get_mut(group).ok_or(NoStream::NoClient)?;
        let mut best = Room::Gone;
        let mut least: Option<(usize, (bool, usize))> = None;
        for (index, Member { tunnel, .. }) in members.iter().enumerate() {
            let room = tunnel.room();
            best = best.max(room);
            let cost = (room == Room::Doubtful, tunnel.stream_count());
            if room >= Room::Doubtful && least.is_none_or(|(_, least)| cost < least) {
                least = Some((index, cost));
            }
        }
        let (index, _) = least.ok_or(match best {
            Room::Gone => NoStream::NoClient,
            Room::Leaving => NoStream::Draining,
            Room::Full | Room::Doubtful | Room::Free => NoStream::Limit,
        })?;
        // To the back, so that equals take turns.
        let member = members.remove(index);
        members.push(member.clone());
        Ok(member)
    }

    /// Another client of this name, in whichever group, that comes from somewhere else than this one: from where.
    pub fn namesake(&self, name: &str, instance: u64, from: Option<SocketAddr>) -> Option<SocketAddr> {
        let groups = self.groups.lock();
        let others =
            groups.values().flatten().filter(|member| &*member.name == name && member.instance != instance);
        others.filter_map(Member::addr).find(|addr| is_elsewhere(*addr, from))
    }

    /// Remembers one that is no member any more.
    fn part(&self, group: &str, member: &Member) {
        let mut parted = self.parted.lock();
        parted.retain(|known| known.read().is_some());
        if member.tunnel.stream_count() > 0 {
            let (group, name) = (group.to_owned(), member.name.clone());
            parted.push(Parted { group, name, tunnel: Arc::downgrade(&member.tunnel) });
        }
    }

    /// Everybody, also who has left and whose streams are still read: the group, the name and the tunnel.
    pub fn everybody(&self) -> Vec<(String, Arc<str>, Arc<Tunnel>)> {
        let groups = self.groups.lock();
        let mut all = Vec::new();
        for (group, members) in &*groups {
            all.extend(
                members.iter().map(|member| (group.clone(), member.name.clone(), member.tunnel.clone())),
            );
        }
        // Under both locks, so that nobody is missed who leaves meanwhile.
        for known in &*self.parted.lock() {
            all.extend(known.read().map(|tunnel| (known.group.clone(), known.name.clone(), tunnel)));
        }
        all
    }

    /// Clients that are connected.
    pub fn client_count(&self) -> usize {
        self.groups.lock().values().map(Vec::len).sum()
    }

    /// Streams that are open, in all tunnels.
    pub fn stream_count(&self) -> usize {
        let groups = self.groups.lock();
        groups.values().flatten().map(|member| member.tunnel.stream_count()).sum()
    }
}
