//! Connections at the tunnel's port that have not proved themselves: counted, in all and for each address.
//!
//! ```text
//!   connection ── enter ──▶ stranger ── leave ──▶ proved, or gone
//!                   │ too many: refused
//! ```
//! An IPv6 host has a whole /64 to come from, so that counts as one address.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;

use crate::limits::{PRE_AUTH_MAX, PRE_AUTH_PER_ADDRESS_MAX};
use crate::refused::address;

/// The strangers of one gateway.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Invariant: the sum of `addresses`, and <= PRE_AUTH_MAX.
    all: usize,
    /// Invariant: each from 1 to PRE_AUTH_PER_ADDRESS_MAX.
    addresses: HashMap<IpAddr, usize>,
}

/// There is no room for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// For nobody.
    All,
    /// For this address.
    Address,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRoom::All => write!(f, "{PRE_AUTH_MAX} connections have not proved themselves yet"),
            NoRoom::Address => {
                write!(
                    f,
                    "{PRE_AUTH_PER_ADDRESS_MAX} connections of this address have not proved themselves yet"
                )
            }
        }
    }
}

impl Strangers {
    /// Takes in a connection. Whoever was taken in leaves once, from the same address.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn enter(&self, peer: Option<SocketAddr>) -> Result<(), NoRoom> {
        let counts = &mut *self.0.lock();
        if counts.all >= PRE_AUTH_MAX {
            return Err(NoRoom::All);
        }
        let count = counts.addresses.entry(address(peer)).or_default();
        if *count >= PRE_AUTH_PER_ADDRESS_MAX {
            return Err(NoRoom::Address);
        }
        *count += 1;
        counts.all += 1;
        Ok(())
    }

    /// It has proved itself, or is gone.
    pub(super) fn leave(&self, peer: Option<SocketAddr>) {
        let counts = &mut *self.0.lock();
        let address = address(peer);
        let count = counts.addresses.get_mut(&address).expect("who leaves has entered");
        *count -= 1;
        counts.all -= 1;
        if *count == 0 {
            counts.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address of ours"))
    }

    fn number(n: usize) -> Option<SocketAddr> {
        let octets = u32::try_from(n).expect("a small number").to_be_bytes();
        Some(SocketAddr::from((octets, 1)))
    }

    // proves T17: one address cannot take all the room
    #[test]
    fn each_address_has_its_share() {
        let strangers = Strangers::default();
        for (same, other) in [
            (["192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.1]:3"], "192.0.2.2:1"),
            (["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::ffff:0:0:1]:1"], "[2001:db8:0:1::1]:1"),
        ] {
            for n in 0..PRE_AUTH_PER_ADDRESS_MAX {
                assert_eq!(strangers.enter(peer(same[n % 3])), Ok(()));
            }
            assert!(same.iter().all(|text| strangers.enter(peer(text)) == Err(NoRoom::Address)));
            assert_eq!(strangers.enter(peer(other)), Ok(()));
            strangers.leave(peer(same[0]));
            assert_eq!(strangers.enter(peer(same[1])), Ok(()));
            assert_eq!(strangers.enter(peer(same[2])), Err(NoRoom::Address));
        }
    }

    // proves T17
    #[test]
    fn all_together_are_bounded_and_nothing_is_kept_of_those_who_left() {
        let strangers = Strangers::default();
        for n in 0..PRE_AUTH_MAX {
            assert_eq!(strangers.enter(number(n)), Ok(()));
        }
        assert_eq!(strangers.enter(number(PRE_AUTH_MAX)), Err(NoRoom::All));
        strangers.leave(number(0));
        assert_eq!(strangers.enter(None), Ok(()));
        assert_eq!(strangers.enter(number(0)), Err(NoRoom::All));
        strangers.leave(None);
        (1..PRE_AUTH_MAX).for_each(|n| strangers.leave(number(n)));
        let counts = strangers.0.lock();
        assert_eq!((counts.all, counts.addresses.len()), (0, 0));
    }
}
