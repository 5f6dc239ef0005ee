//! A slot's index and its generation in one word: what the kernel hands back with an event.
//!
//! ```text
//!   63            32 31             0
//!  ┌────────────────┬────────────────┐
//!  │   generation   │     index      │
//!  └────────────────┴────────────────┘
//! ```
//! A slot that is taken again gets the next generation, so an event that still names the slot's former tenant is
//! recognised and dropped.

/// Names one tenant of one slot of a poll's operator table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The token of a poll's own waker; no slot has it, because a poll never has 2^32 - 1 slots.
pub(crate) const WAKER: mio::Token = mio::Token(usize::MAX);

impl Token {
    /// Names nobody.
    pub(crate) const NONE: Token = Token { index: u32::MAX, generation: u32::MAX };

    pub(crate) fn to_mio(self) -> mio::Token {
        mio::Token(((u64::from(self.generation) << 32) | u64::from(self.index)) as usize)
    }

    pub(crate) fn from_mio(token: mio::Token) -> Token {
        let word = token.0 as u64;
        Token { index: word as u32, generation: (word >> 32) as u32 }
    }
}

/// A table of operators whose slots are reused under a new generation.
///
/// Invariant: a token names at most one tenant, ever (until 2^32 reuses of one slot).
pub(crate) struct Table<T> {
    slots: slab::Slab<T>,
    /// The generation of each index's tenant, or that of its next one; grows with the slab and never shrinks.
    generations: Vec<u32>,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Table<T> {
        Table { slots: slab::Slab::new(), generations: Vec::new() }
    }

    pub(crate) fn insert(&mut self, operator: T) -> Token {
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        if index == self.generations.len() {
            self.generations.push(0);
        }
        entry.insert(operator);
        Token { index: index as u32, generation: self.generations[index] }
    }

    pub(crate) fn find(&self, token: Token) -> Option<&T> {
        let index = token.index as usize;
        match self.generations.get(index) {
            Some(generation) if *generation == token.generation => self.slots.get(index),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        self.find(token)?;
        let index = token.index as usize;
        self.generations[index] = self.generations[index].wrapping_add(1);
        Some(self.slots.remove(index))
    }

    pub(crate) fn into_tenants(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().map(|(_, operator)| operator)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, operator)| operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_survives_the_round_trip_through_mio() {
        for (index, generation) in [(0, 0), (1, 0), (0, 1), (7, u32::MAX), (u32::MAX - 1, u32::MAX)] {
            let token = Token { index, generation };
            assert_eq!(Token::from_mio(token.to_mio()), token);
            assert_ne!(token.to_mio(), WAKER);
        }
    }

    // proves L-24 (the table's part)
    #[test]
    fn a_reused_slot_does_not_answer_to_its_former_token() {
        let mut table = Table::new();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(table.find(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.find(second), Some(&"second"));
        assert_eq!(table.iter().count(), 1);
    }
}

#[cfg(all(test, poller_shuttle))]
mod shuttle_tests;
