//! The client's view of a run is one that clients of the real QEMU had, when it ran its own iotest 124.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;
#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::sim::outcome::Outcome;
use blockjob_sim::trace::Level;
use blockjob_sim::trace::compare::{client_lines, first_difference};
use common::{CASES, RECORDED_SEEDS, case, client_trace, recorded, run, which};
use harness::{trial, trials};
use std::process::ExitCode;

fn all_recorded_traces_are_here() {
    let numbers: Vec<usize> = CASES.iter().map(|case| recorded(case).len()).collect();
    assert_eq!(numbers, [1, 1, 2, 1, 9, 1, 1, 1, 1, 1, 1, 6, 1]);
}

/// The calm trace is a recorded one.
fn calm(name: &str) {
    let run = run(&case(name), None, Level::Client);
    assert_eq!(run.outcome, Outcome::Passed, "{}", run.outcome);
    if let Err(difference) = which(&client_lines(&run.trace), &recorded(name)) {
        panic!("{difference}");
    }
}

/// Where the real QEMU showed several traces, each comes about under some seed.
fn each_has_a_seed(name: &str) {
    let known = recorded(name);
    let plan = case(name);
    let mut reached: Vec<usize> = Vec::new();
    for (_, number, seed) in RECORDED_SEEDS.iter().filter(|(of, _, _)| *of == name) {
        let difference = first_difference(&client_trace(&plan, Some(*seed)), &known[*number]);
        if let Some(difference) = difference {
            panic!("seed {seed}: not the recorded trace {number}: {difference}");
        }
        reached.push(*number);
    }
    assert_eq!(reached, (0..known.len()).collect::<Vec<_>>(), "traces that a seed is named for");
}

fn main() -> ExitCode {
    let mut all = trials![all_recorded_traces_are_here];
    all.extend(CASES.map(|name| trial(format!("iotest-124/{name}/calm"), move || calm(name))));
    let several = CASES.into_iter().filter(|name| recorded(name).len() > 1);
    all.extend(several.map(|name| trial(format!("iotest-124/{name}/each-has-a-seed"), move || each_has_a_seed(name))));
    harness::main(all)
}
