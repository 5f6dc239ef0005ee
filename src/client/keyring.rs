//! The keys that gateways ask for: derived once, one gateway's at a time, and told to everybody who waits for them.
//!
//! What is asked for comes from a gateway that has proved nothing yet, and deriving takes memory and time. So it is bounded how much
//! is under way at once, whoever asks and however often.

use std::collections::VecDeque;

use crate::limits::{DERIVATIONS_MAX, GATEWAYS_MAX, REPLICAS_MAX};
use crate::proto::derive::{Keys, Recipe};

/// What to do about a recipe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Here are its keys.
    Known(Keys),
    /// Derive them, and say so with [`Keyring::derived`].
    Derive,
    /// They are being derived: the one who asks is told with the others.
    Wait,
    /// Too much is under way. The next attempt may fare better.
    Full,
}

/// The keys of one secret. `W` is who waits.
pub(super) struct Keyring<W> {
    /// The latest first. Invariant: known.len() <= GATEWAYS_MAX.
    known: VecDeque<(Recipe, Keys)>,
    /// Invariant: pending.len() <= DERIVATIONS_MAX, and each list at most REPLICAS_MAX long.
    pending: Vec<(Recipe, VecDeque<W>)>,
}

impl<W> Default for Keyring<W> {
    fn default() -> Self {
        Keyring { known: VecDeque::new(), pending: Vec::new() }
    }
}

impl<W> Keyring<W> {
    /// Somebody needs the keys of this recipe.
    pub(super) fn ask(&mut self, recipe: Recipe, who: W) -> Ask {
        if let Some((_, keys)) = self.known.iter().find(|(of, _)| *of == recipe) {
            return Ask::Known(keys.clone());
        }
        if let Some((_, waiting)) = self.pending.iter_mut().find(|(of, _)| *of == recipe) {
            // No more than that are alive: the oldest has given up.
            if waiting.len() >= REPLICAS_MAX {
                waiting.pop_front();
            }
            waiting.push_back(who);
            return Ask::Wait;
        }
        if self.pending.len() >= DERIVATIONS_MAX {
            return Ask::Full;
        }
        self.pending.push((recipe, VecDeque::from([who])));
        Ask::Derive
    }

    /// They are derived: who has waited for them.
    pub(super) fn derived(&mut self, recipe: Recipe, keys: Keys) -> VecDeque<W> {
        self.known.push_front((recipe, keys));
        self.known.truncate(GATEWAYS_MAX);
        self.given_up(recipe)
    }

    /// They will not be derived.
    pub(super) fn given_up(&mut self, recipe: Recipe) -> VecDeque<W> {
        let found = self.pending.iter().position(|(of, _)| *of == recipe);
        found.map(|index| self.pending.swap_remove(index).1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DERIVE_MEMORY_KIB_MIN;
    use crate::proto::credentials::Secret;
    use crate::proto::derive::{Cost, derive};

    fn recipe(n: u8) -> Recipe {
        Recipe { salt: [n; 16], cost: Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least") }
    }

    // proves T19 for keys: a gateway that asks for another key each time has the client derive two at once, and no more
    #[test]
    fn keys_are_derived_once_and_few_at_a_time() {
        let keys = derive(&Secret::new("s").expect("a secret"), &recipe(0)).expect("there is memory");
        let mut ring = Keyring::default();
        for n in 0..DERIVATIONS_MAX as u8 {
            assert_eq!(ring.ask(recipe(n), n), Ask::Derive);
        }
        assert_eq!(ring.ask(recipe(100), 0), Ask::Full);
        assert_eq!(ring.ask(recipe(0), 7), Ask::Wait);
        assert_eq!(ring.derived(recipe(0), keys.clone()), [0, 7]);
        assert_eq!(ring.ask(recipe(0), 8), Ask::Known(keys.clone()));
        assert_eq!(ring.ask(recipe(100), 1), Ask::Derive);
        assert_eq!(ring.given_up(recipe(100)), [1]);
        assert_eq!(ring.given_up(recipe(100)), []);
        // Whoever waits is bounded, and so is what is kept.
        for n in 0..=REPLICAS_MAX as u8 {
            assert_eq!(ring.ask(recipe(1), n), Ask::Wait);
        }
        let waited = ring.derived(recipe(1), keys.clone());
        assert_eq!((waited.len(), waited.back()), (REPLICAS_MAX, Some(&(REPLICAS_MAX as u8))));
        for n in 10..10 + GATEWAYS_MAX as u8 {
            assert_eq!(ring.ask(recipe(n), n), Ask::Derive);
            assert_eq!(ring.derived(recipe(n), keys.clone()), [n]);
        }
        assert_eq!(ring.known.len(), GATEWAYS_MAX);
        assert_eq!(ring.ask(recipe(0), 0), Ask::Derive, "the oldest was forgotten");
    }
}
