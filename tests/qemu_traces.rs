//! The client's view of a run is one that clients of the real QEMU had, when it ran its own iotest 124.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::sim::outcome::Outcome;
use blockjob_sim::trace::Level;
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use common::{CASES, RECORDED_SEEDS, case, client_trace, in_threads, recorded, run};

/// The number of the recorded trace that this is; else the place up to which one of them is the same.
fn which(trace: &[ClientLine], known: &[Vec<ClientLine>]) -> Result<usize, String> {
    let mut nearest = None;
    for (number, other) in known.iter().enumerate() {
        match first_difference(trace, other) {
            None => return Ok(number),
            Some(found) if nearest.as_ref().is_none_or(|(index, _)| found.index > *index) => {
                nearest = Some((found.index, format!("nearest to the recorded trace {number}: {found}")));
            }
            Some(_) => {}
        }
    }
    Err(nearest.map_or("nothing is recorded".to_owned(), |(_, text)| text))
}

#[test]
fn all_recorded_traces_are_here() {
    let numbers: Vec<usize> = CASES.iter().map(|case| recorded(case).len()).collect();
    assert_eq!(numbers, [1, 1, 2, 1, 9, 1, 1, 1, 1, 1, 1, 6, 1]);
}

#[test]
fn a_calm_trace_is_a_recorded_one() {
    let mut differences = Vec::new();
    for name in CASES {
        let run = run(&case(name), None, Level::Client);
        if run.outcome != Outcome::Passed {
            differences.push(format!("{name}: {}", run.outcome));
        }
        if let Err(difference) = which(&client_lines(&run.trace), &recorded(name)) {
            differences.push(format!("{name}: {difference}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Where the real QEMU showed several traces, each comes about under some seed.
#[test]
fn each_recorded_trace_has_a_seed() {
    for name in CASES {
        let known = recorded(name);
        if known.len() < 2 {
            continue;
        }
        let plan = case(name);
        let mut reached: Vec<usize> = Vec::new();
        for (_, number, seed) in RECORDED_SEEDS.iter().filter(|(of, _, _)| of == &name) {
            let difference = first_difference(&client_trace(&plan, Some(*seed)), &known[*number]);
            if let Some(difference) = difference {
                panic!("{name}, seed {seed}: not the recorded trace {number}: {difference}");
            }
            reached.push(*number);
        }
        assert_eq!(reached, (0..known.len()).collect::<Vec<_>>(), "{name}: traces that a seed is named for");
    }
}

/// Finds the lowest seeds for `RECORDED_SEEDS`, after a change to the model:
/// `cargo test --release --test qemu_traces -- --ignored --nocapture`.
#[test]
#[ignore = "a search, not a check"]
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
