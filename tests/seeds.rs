//! All cases of iotest 124 pass under 1,000 seeds.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use common::{CASES, case, case_file, chooser, in_threads};

const SEEDS: u64 = 1_000;
/// Seeds that a thread takes at a time.
const BATCH: u64 = 25;

#[test]
fn all_cases_pass_under_seeds() {
    let plans = CASES.map(|name| (name, case(name)));
    let batches: Vec<(&str, &_, u64)> = plans
        .iter()
        .flat_map(|(name, plan)| (0..SEEDS).step_by(BATCH as usize).map(move |start| (*name, plan, start)))
        .collect();
    let failures: Vec<String> = in_threads(&batches, |(name, plan, start)| {
        let mut failures = Vec::new();
        // Making the images and starting the process asks for no choice.
        let begun = sim::Sim::new(plan, &RunOptions::default()).expect("the images are made");
        for seed in *start..start + BATCH {
            let outcome = sim::run_from(plan, begun.clone(), chooser(Some(seed)), &RunOptions::default()).outcome;
            if outcome != Outcome::Passed {
                failures.push(format!("{outcome}\nagain: blockjob-sim run {} --seed {seed}\n", case_file(name)));
            }
        }
        failures
    })
    .into_iter()
    .flatten()
    .collect();
    let told = failures.iter().take(5).map(String::as_str).collect::<String>();
    assert!(failures.is_empty(), "{} runs failed, among them:\n{told}", failures.len());
}
