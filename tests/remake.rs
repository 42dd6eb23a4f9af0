//! Searches whose answers stand in `tests/common/mod.rs`, to be done again after a change to the model: `tests/remake.sh seeds` and
//! `tests/remake.sh race-seeds`. No test: cargo runs it only by its name.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it reads files, runs programs and prints"
)]

mod common;

use blockjob_sim::trace::Level;
use blockjob_sim::trace::compare::client_lines;
use common::{CASES, case, in_threads, race, recorded, run, which, without_times};
use std::collections::BTreeSet;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("seeds") => search_seeds(),
        Some("race-seeds") => search_race_orders(),
        other => panic!("expected `seeds` or `race-seeds`, got {other:?}"),
    }
}

/// Finds seeds for `RACE_SEEDS`.
fn search_race_orders() {
    let plan = case("transaction-failure-race");
    let mut shown = BTreeSet::new();
    let found: Vec<u64> = (0..1_000).filter(|seed| shown.insert(without_times(&race(&plan, *seed)))).collect();
    println!("{} orders: {:?}", found.len(), &found[..found.len().min(20)]);
}

/// Finds the lowest seeds for `RECORDED_SEEDS`.
fn search_seeds() {
    const BATCH: u64 = 1_000;
    const MOST: u64 = 200_000;
    for name in CASES {
        let (plan, known) = (case(name), recorded(name));
        if known.len() < 2 {
            continue;
        }
        let mut found: Vec<Option<u64>> = vec![None; known.len()];
        let mut others = 0;
        for start in (0..MOST).step_by(BATCH as usize) {
            let seeds: Vec<u64> = (start..start + BATCH).collect();
            let numbers = in_threads(&seeds, |seed| {
                let run = run(&plan, Some(*seed), Level::Client);
                which(&client_lines(&run.trace), &known).ok()
            });
            for (seed, number) in seeds.iter().zip(numbers) {
                match number {
                    Some(number) => _ = found[number].get_or_insert(*seed),
                    None => others += 1,
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        for (number, seed) in found.iter().enumerate() {
            match seed {
                Some(seed) => println!("    (\"{name}\", {number}, {seed}),"),
                None => println!("    // {name}, {number}: not found"),
            }
        }
        println!("    // {name}: {others} runs gave other traces");
    }
}
