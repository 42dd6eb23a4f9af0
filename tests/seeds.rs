//! All cases of iotest 124 pass under 1,000 seeds, each as a test of its own.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;
#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use common::{CASES, case, case_file, chooser};
use harness::trial;
use std::process::ExitCode;

const SEEDS: u64 = 1_000;

/// A case passes under them all; making the images and starting the process asks for no choice, and is done once.
fn passes(name: &str) {
    let plan = case(name);
    let begun = sim::Sim::new(&plan, &RunOptions::default()).expect("the images are made");
    let failures: Vec<String> = (0..SEEDS)
        .filter_map(|seed| {
            let outcome = sim::run_from(&plan, begun.clone(), chooser(Some(seed)), &RunOptions::default()).outcome;
            let again = || format!("{outcome}\nagain: blockjob-sim run {} --seed {seed}\n", case_file(name));
            (outcome != Outcome::Passed).then(again)
        })
        .collect();
    let told = failures.iter().take(5).map(String::as_str).collect::<String>();
    assert!(failures.is_empty(), "{} runs failed, among them:\n{told}", failures.len());
}

fn main() -> ExitCode {
    harness::main(CASES.map(|name| trial(format!("iotest-124/{name}/seeds"), move || passes(name))).into())
}
