//! Who was turned away, counted; and said aloud once for each address and minute. And what else others can have said as often
//! as they like.
//!
//! The Internet knocks at every open port. A line for each knock would be a way to fill somebody's disk, so further ones from the same
//! address go to the debug log, and the next line aloud says how many there were. Of more addresses than there are places for, one that
//! was quiet for a minute is forgotten with what was not said of it; the total counts it still.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{REFUSED_ADDRESSES_MAX, REFUSED_QUIET_MS};
use crate::logins;

/// What is known of those who were turned away.
#[derive(Debug)]
pub(crate) struct Refusals {
    seen: Mutex<Seen>,
    /// How often an address is spoken of in a minute.
    lines_max: u64,
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals::speaking(1)
    }
}

#[derive(Debug, Default)]
struct Seen {
    total: u64,
    /// Invariant: at most `REFUSED_ADDRESSES_MAX`.
    addresses: BTreeMap<IpAddr, Address>,
    /// All who find no place above.
    others: Option<Address>,
}

#[derive(Debug, Clone, Copy)]
struct Address {
    /// When its minute began: with a line.
    since: Instant,
    /// Lines in this minute.
    lines: u64,
    /// How often it was turned away since the last, without that being said.
    unsaid: u64,
}

/// What is to be said of one who was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// `Some` when it is to be said aloud: with how many there were of that address since that was last done.
    pub(crate) said: Option<u64>,
    /// How many there were in all, this one among them; no other is told the same.
    pub(crate) total: u64,
}

impl Refusals {
    /// That speaks of an address so often in a minute.
    pub(crate) fn speaking(lines_max: u64) -> Refusals {
        Refusals { seen: Mutex::default(), lines_max }
    }

    /// Counts one more, of which `peer` is the address; one of IPv6 counts with its network.
    pub(crate) fn note(&self, peer: Option<SocketAddr>, now: Instant) -> Noted {
        let (address, seen) = (address(peer), &mut *self.seen.lock());
        seen.total += 1;
        Noted { said: seen.note(address, self.lines_max, now), total: seen.total }
    }

    /// How many there were in all.
    pub(crate) fn total(&self) -> u64 {
        self.seen.lock().total
    }
}

impl Seen {
    fn note(&mut self, address: IpAddr, lines_max: u64, now: Instant) -> Option<u64> {
        if self.addresses.len() >= REFUSED_ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            // Who said nothing for a minute begins anew, as if it had not been there.
            self.addresses.retain(|_, address| !address.is_old(now));
        }
        let full = self.addresses.len() >= REFUSED_ADDRESSES_MAX;
        let place = match self.addresses.get_mut(&address) {
            Some(place) => place,
            None if full => match &mut self.others {
                Some(place) => place,
                none => {
                    *none = Some(Address::new(now));
                    return Some(1);
                }
            },
            None => {
                self.addresses.insert(address, Address::new(now));
                return Some(1);
            }
        };
        place.unsaid += 1;
        if place.is_old(now) {
            (place.since, place.lines) = (now, 0);
        }
        if place.lines >= lines_max {
            return None;
        }
        place.lines += 1;
        Some(std::mem::take(&mut place.unsaid))
    }
}

/// What counts as one address.
pub(crate) fn address(peer: Option<SocketAddr>) -> IpAddr {
    peer.map_or(Ipv6Addr::UNSPECIFIED.into(), |peer| logins::whole(peer.ip()))
}

impl Address {
    fn new(now: Instant) -> Address {
        Address { since: now, lines: 1, unsaid: 0 }
    }

    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= Duration::from_millis(REFUSED_QUIET_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: usize) -> Option<SocketAddr> {
        Some((u32::try_from(n).expect("a small number").to_be_bytes(), 1).into())
    }

    // proves T9, T14 for the log: once for each address and minute, and none is forgotten in the count
    #[test]
    fn each_address_is_said_once_a_minute_with_all_that_were_not() {
        let (refusals, begun) = (Refusals::default(), crate::rt::now());
        let quiet = Duration::from_millis(REFUSED_QUIET_MS);
        let just_before = begun + quiet - Duration::from_millis(1);
        assert_eq!(refusals.note(number(1), begun).said, Some(1));
        assert_eq!(refusals.note(number(1), begun).said, None);
        assert_eq!(refusals.note(number(2), begun).said, Some(1));
        assert_eq!(refusals.note(number(1), just_before).said, None);
        assert_eq!(refusals.note(number(1), begun + quiet).said, Some(3));
        assert_eq!(refusals.note(number(1), begun + quiet).said, None);
        assert_eq!(refusals.note(number(1), begun + 3 * quiet).said, Some(2));
        assert_eq!(refusals.total(), 7);
    }

    #[test]
    fn an_address_is_spoken_of_so_often_in_a_minute() {
        let (refusals, begun) = (Refusals::speaking(3), crate::rt::now());
        let quiet = Duration::from_millis(REFUSED_QUIET_MS);
        let note = |n, after| refusals.note(number(n), begun + after).said;
        let half = quiet / 2;
        assert_eq!([0; 5].map(|_| note(1, half)), [Some(1), Some(1), Some(1), None, None]);
        assert_eq!(note(2, half), Some(1));
        assert_eq!([0; 4].map(|_| note(1, half + quiet)), [Some(3), Some(1), Some(1), None]);
    }

    // A reader takes the highest for all that there were.
    #[test]
    fn no_two_are_told_the_same_total() {
        const EACH: u64 = 100_000;
        let (refusals, now) = (Refusals::default(), crate::rt::now());
        let note = || (0..EACH).map(|_| refusals.note(number(1), now).total).collect::<Vec<_>>();
        let mut totals: Vec<u64> = std::thread::scope(|scope| {
            let threads = [0; 4].map(|_| scope.spawn(note));
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        totals.sort_unstable();
        assert!(totals.into_iter().eq(1..=4 * EACH));
    }

    // One host has all the addresses of its network to come from.
    #[test]
    fn a_network_of_ipv6_is_said_once() {
        let (refusals, now) = (Refusals::default(), crate::rt::now());
        let note = |text: &str| refusals.note(Some(text.parse().expect("an address of ours")), now).said;
        assert_eq!(note("[2001:db8::1]:1"), Some(1));
        assert_eq!(note("[2001:db8::ffff:2]:2"), None);
        assert_eq!(note("[2001:db8:0:1::1]:1"), Some(1));
        assert_eq!(
            (note("192.0.2.1:1"), note("[::ffff:192.0.2.1]:2"), note("192.0.2.2:1")),
            (Some(1), None, Some(1))
        );
    }

    #[test]
    fn addresses_without_end_share_one_place() {
        let (refusals, now) = (Refusals::default(), crate::rt::now());
        for n in 0..REFUSED_ADDRESSES_MAX {
            assert_eq!(refusals.note(number(n), now).said, Some(1));
        }
        let said = (0..1000).filter_map(|n| refusals.note(number(1 << 20 | n), now).said).count();
        assert_eq!((said, refusals.seen.lock().addresses.len()), (1, REFUSED_ADDRESSES_MAX));
        // A minute later there is room again.
        let later = now + Duration::from_millis(REFUSED_QUIET_MS);
        assert_eq!(refusals.note(number(1 << 20), later).said, Some(1));
        assert_eq!(refusals.seen.lock().addresses.len(), 1);
    }
}
