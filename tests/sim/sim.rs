//! The tunnel in a simulated world: gateway, clients, users and targets in one thread, over a network and a clock that one seed
//! decides, with everything going wrong that can.
//!
//! What runs is all of src, over the event loop in `rt/` instead of the poller; `world/` is one run. `cargo test` tries a few hundred
//! seeds; `scripts/sim` as many as one likes, and one of them again.

// A test that cannot go on says where.
#![allow(clippy::unwrap_used)]

mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use simulated::proto::credentials::Proven;
use world::Outcome;

/// Seeds of the short form.
const SHORT: u64 = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Quiet while the many run: a finding says what the panic said.
fn quietly<R>(run: impl FnOnce() -> R) -> R {
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    drop(std::panic::take_hook());
    result
}

/// Seeds from `first` on, over `threads`: the first finding, and what was done.
fn run_many(first: u64, count: u64, threads: u64) -> (Option<(u64, String)>, [u64; 4]) {
    let next = AtomicU64::new(first);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let sums = Mutex::new([0; 4]);
    quietly(|| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count || found.lock().unwrap().is_some() {
                            return;
                        }
                        let Outcome { finding, trace, whole, streams, bytes } = world::run(seed, false);
                        let mut sums = sums.lock().unwrap();
                        for (sum, part) in sums.iter_mut().zip([trace.1, whole as u64, streams as u64, bytes])
                        {
                            *sum += part;
                        }
                        if let Some(finding) = finding {
                            let mut found = found.lock().unwrap();
                            if found.as_ref().is_none_or(|(known, _)| seed < *known) {
                                *found = Some((seed, finding));
                            }
                        }
                    }
                });
            }
        });
    });
    (found.into_inner().unwrap(), sums.into_inner().unwrap())
}

/// Prints what src logs, with the simulated time.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Pairs(String);
        impl<'kvs> log::kv::VisitSource<'kvs> for Pairs {
            fn visit_pair(
                &mut self,
                key: log::kv::Key<'kvs>,
                value: log::kv::Value<'kvs>,
            ) -> Result<(), log::kv::Error> {
                self.0 += &format!(" {key}={value}");
                Ok(())
            }
        }
        if !record.target().starts_with("simulated") {
            return;
        }
        let mut pairs = Pairs(String::new());
        record.key_values().visit(&mut pairs).expect("text takes everything");
        let at = simulated::rt::now_ns() as f64 / 1e6;
        eprintln!("{at:>14.6} ms  {}{} {}", record.level(), pairs.0, record.args());
    }

    fn flush(&self) {}
}

/// As many seeds as `SIM_SEEDS` says, from `SIM_FIRST` on; or the one that `SIM_SEED` names, with everything that happens.
#[test]
fn seeds_without_a_finding() {
    if let Some(seed) = number("SIM_SEED") {
        log::set_boxed_logger(Box::new(Lines)).expect("nobody else logs");
        log::set_max_level(log::LevelFilter::Trace);
        let outcome = world::run(seed, true);
        eprintln!("{outcome:#?}");
        assert_eq!(outcome.finding, None, "seed {seed}");
        return;
    }
    let (count, first) = (number("SIM_SEEDS").unwrap_or(SHORT), number("SIM_FIRST").unwrap_or(1));
    let threads = number("SIM_THREADS")
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let begun = Instant::now();
    let (found, [events, whole, streams, bytes]) = run_many(first, count, threads);
    let took = begun.elapsed().as_secs_f64();
    if let Some((seed, finding)) = found {
        panic!("seed {seed}: {finding}\nagain, with everything that happens: scripts/sim --seed {seed}");
    }
    println!(
        "sim: {count} seeds in {took:.1} s: {:.0} a second and thread, {threads} threads; a seed has {} events, {} streams of which {} \
         came to their end, {} kB",
        count as f64 / took / threads as f64,
        events / count,
        streams / count,
        whole / count,
        bytes / count / 1000,
    );
    assert!(whole * 2 > streams, "most streams ought to come to their end: {whole} of {streams}");
}

// A peer that makes us answer and reads nothing is bounded by more than the memory.
#[test]
fn a_flood_is_cut_off() {
    for seed in 1..4 {
        let asked = world::flood::run(seed).unwrap_or_else(|finding| panic!("flood: {finding}"));
        assert!(asked > 1_000, "it is not cut off at once, either: {asked}");
    }
}

// Passwords are looked at beside the event loop, by threads that are tasks here: a login that has to be computed is answered in
// simulated time.
#[test]
fn keys_are_verified_in_the_simulated_world() {
    for seed in 1..10 {
        let answers = world::logins::run(seed);
        assert_eq!(answers.iter().map(|(proven, _)| *proven).collect::<Vec<_>>(), [Proven::Yes, Proven::No]);
        assert!(answers.iter().all(|(_, at)| *at > 0), "it takes a while: {answers:?}");
        assert_eq!(world::logins::run(seed), answers, "a seed is one run");
    }
}

#[test]
fn a_seed_is_one_run() {
    let hashes: Vec<_> = (1..20).map(|seed| world::run(seed, false).trace).collect();
    let again: Vec<_> = (1..20).map(|seed| world::run(seed, false).trace).collect();
    assert_eq!(hashes, again);
    assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]), "other seeds are other runs");
}
