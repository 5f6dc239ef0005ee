//! Random operations, each done to the buffer and to a queue of bytes, and compared. The operations are those of the fuzz
//! target `linkbuffer_ops`.
//!
//! A plain `cargo test` does some; `MODEL_OPERATIONS=1000000` does as many as it says.

use super::{cut, ops};
use crate::LinkBuffer;
use fastrand::Rng;

const OPERATIONS: usize = cut(100_000, 100);
/// Bytes of one run: about 800 operations from an empty buffer on, 50 under Miri.
const RUN_SIZE: usize = cut(4096, 256);

fn one_run(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let bytes: Vec<u8> = (0..RUN_SIZE).map(|_| rng.u8(..)).collect();
    ops::run(&bytes, LinkBuffer::invariants)
}

#[test]
fn random_operations_agree_with_a_byte_queue() {
    let wanted = std::env::var("MODEL_OPERATIONS").map_or(OPERATIONS, |n| n.parse().expect("it is a number"));
    let mut seed = fastrand::u64(..);
    let mut done = 0;
    while done < wanted {
        let outcome = std::panic::catch_unwind(|| one_run(seed));
        assert!(outcome.is_ok(), "failed with seed {seed}: put it into `SEEDS`");
        done += outcome.unwrap_or_default();
        seed = seed.wrapping_add(1);
    }
    println!("{done} operations");
}

/// Seeds that failed once: a shared piece that was cut, and a node that came back from the pool with the pool's mark on it.
const SEEDS: [u64; 4] =
    [6066700459356433029, 6242017236580341955, 13338698609022338592, 11408152528767236567];

#[test]
fn seeds_that_failed_once() {
    assert!(SEEDS.into_iter().all(|seed| one_run(seed) > 0));
}
