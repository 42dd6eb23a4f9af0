//! The museum: each quirk has a scenario, `sim-scenarios/museum/NAME.yaml`, which passes in every schedule without it, and in some
//! schedule does not with it.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::choice::Calm;
use blockjob_sim::quirk::{About, Origin, Quirk, Quirks, TABLE};
use blockjob_sim::scenario::Plan;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::sim::{self, Sim};
use common::{case, chooser, in_threads, plan_of};

/// Seeds that are tried with a quirk off.
const OFF: u64 = 30;
/// Seeds within which a quirk that is on must be found.
const ON: u64 = 200;

fn exhibits() -> Vec<&'static About> {
    TABLE.iter().filter(|about| about.origin == Origin::Qemu).collect()
}

fn plan(about: &About) -> Plan {
    let file = format!("sim-scenarios/museum/{}.yaml", about.name);
    plan_of(&file).unwrap_or_else(|| panic!("{file} has no steps"))
}

fn outcome(plan: &Plan, seed: Option<u64>, quirks: Quirks) -> Outcome {
    sim::run(plan, chooser(seed), &RunOptions { quirks, check: true, ..RunOptions::default() }).outcome
}

#[test]
fn there_are_enough() {
    assert!(exhibits().len() >= 12, "{}", exhibits().len());
}

#[test]
fn without_the_quirk_every_schedule_passes() {
    let wrong = in_threads(&exhibits(), |about| {
        let plan = plan(about);
        assert!(plan.quirks.is_empty(), "{}", about.name);
        let seeds = std::iter::once(None).chain((0..OFF).map(Some));
        let mut failed = seeds.map(|seed| (seed, outcome(&plan, seed, Quirks::NONE)));
        failed
            .find(|(_, outcome)| *outcome != Outcome::Passed)
            .map(|(seed, outcome)| format!("{} under {seed:?}: {outcome}", about.name))
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn with_the_quirk_its_invariant_is_broken() {
    let wrong = in_threads(&exhibits(), |about| {
        let plan = plan(about);
        let quirks = Quirks::NONE.with(about.quirk);
        let seeds = std::iter::once(None).chain((0..ON).map(Some));
        let first = seeds.map(|seed| outcome(&plan, seed, quirks)).find(|outcome| *outcome != Outcome::Passed);
        match first {
            Some(Outcome::Violated { invariant, .. }) if invariant == about.breaks.name() => None,
            Some(other) => Some(format!("{}: {other}", about.name)),
            None => Some(format!("{}: not found", about.name)),
        }
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The race of 2016, in the case of iotest 124 that was written for it: at most 20 runs, median over 100 starting seeds.
#[test]
fn the_race_of_2016_is_found_at_once() {
    let plan = case("transaction-failure-race");
    let options =
        RunOptions { quirks: Quirks::NONE.with(Quirk::TxnStartInPrepare), check: true, ..RunOptions::default() };
    let mut start = Sim::new(&plan, &options).expect("the images can be made");
    start.run_to_mark("start", &mut Calm).expect("the case gets there");
    let mut runs: Vec<u64> = (0..100)
        .map(|first| {
            let found = (0..40).find(|run| {
                let mut chooser = chooser(Some(first * 1000 + run));
                matches!(start.clone().finish(&mut chooser), Outcome::Violated { .. })
            });
            found.map_or(u64::MAX, |run| run + 1)
        })
        .collect();
    runs.sort_unstable();
    assert!(runs[50] <= 20, "median {}", runs[50]);
}
