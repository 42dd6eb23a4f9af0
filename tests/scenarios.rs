//! Every scenario passes, and its trace stands as a snapshot: `sim-scenarios/DIR/NAME.yaml` as `snapshots/DIR/NAME.snap`, in the
//! calm schedule (or the one it names), as the client sees it. A few also stand under seeds, as `NAME.seed-N.snap`. The
//! description of a snapshot is the command that shows the run.
//!
//! Times stand in a snapshot only where the clock matters ([`clock_matters`]), so that a change of what things cost changes no other.
//!
//! Each is a test of its own, `DIR/NAME` or `DIR/NAME.seed-N`: `cargo test transaction-failure-race`.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;
#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::scenario::Plan;
use blockjob_sim::scenario::plan::StepKind;
use blockjob_sim::sim::outcome::Outcome;
use blockjob_sim::trace::{Level, canonical};
use common::{RACE_SEEDS, RECORDED_SEEDS, case, case_file, lines, path, plan_of, race, run, without_times};
use harness::{trial, trials};
use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = trials![traces_of_transaction_failure_differ, orders_of_the_race_differ, no_snapshot_is_left_over];
    for file in files_below("sim-scenarios", ".yaml") {
        // A file that cannot be read is a test too, which says so.
        if !matches!(catch_unwind(|| plan_of(&file)), Ok(None)) {
            all.push(trial(short(&file).to_owned(), move || scenario(&file)));
        }
    }
    for seed in transaction_failure_seeds() {
        all.push(trial(format!("iotest-124/transaction-failure.seed-{seed}"), move || transaction_failure(seed)));
    }
    for seed in RACE_SEEDS.iter().copied() {
        all.push(trial(format!("iotest-124/transaction-failure-race.seed-{seed}"), move || race_under_seed(seed)));
    }
    harness::main(all)
}

/// All files below a folder of the package whose names end so, sorted.
fn files_below(folder: &str, ending: &str) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(path(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = format!("{folder}/{}", entry.file_name().into_string().expect("a name in UTF-8"));
            if entry.file_type().expect("a type").is_dir() {
                open.push(name);
            } else if name.ends_with(ending) {
                found.insert(name);
            }
        }
    }
    found
}

/// A run that must pass, as the client sees it.
fn as_client(plan: &Plan, seed: Option<u64>) -> String {
    let run = run(plan, seed, Level::Client);
    assert_eq!(run.outcome, Outcome::Passed, "{}\nseed {seed:?}", run.outcome);
    lines(run.trace.iter())
}

/// Compares with `snapshots/NAME.snap`.
fn snapshot(name: &str, command: &str, shown: &str) {
    let (folder, name) = name.rsplit_once('/').expect("scenarios stand in folders");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path("snapshots").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(command);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

/// `iotest-124/incremental-simple` for `sim-scenarios/iotest-124/incremental-simple.yaml`.
fn short(file: &str) -> &str {
    file.trim_start_matches("sim-scenarios/").trim_end_matches(".yaml")
}

/// Whether what a scenario shows depends on when it happens: it sleeps, it follows recorded times, or something in it
/// has a rate, a delay or a clock.
fn clock_matters(plan: &Plan) -> bool {
    const WORDS: [&str; 7] = ["speed", "bps", "iops", "throttl", "slice-time", "cbw-timeout", "latency"];
    let text = |text: &str| WORDS.iter().any(|word| text.contains(word));
    plan.args.iter().any(|arg| text(arg))
        || plan.steps.iter().any(|step| match &step.kind {
            StepKind::Sleep(_) | StepKind::At { .. } => true,
            StepKind::Qmp { command, .. } => text(&canonical::to_string(command)),
            StepKind::Hmp { line, .. } => text(line),
            _ => false,
        })
}

/// The lines of a trace as the snapshot has them.
fn timed(plan: &Plan, trace: String) -> String {
    if clock_matters(plan) { trace } else { without_times(&trace) }
}

/// The scenario passes and shows its snapshot.
fn scenario(file: &str) {
    let plan = plan_of(file).expect("a scenario");
    snapshot(short(file), &format!("blockjob-sim run {file}"), &timed(&plan, as_client(&plan, None)));
}

/// One of the traces of transaction-failure that the real QEMU showed.
fn transaction_failure(seed: u64) {
    let file = case_file("transaction-failure");
    let plan = case("transaction-failure");
    let trace = timed(&plan, as_client(&plan, Some(seed)));
    snapshot(&format!("{}.seed-{seed}", short(&file)), &format!("blockjob-sim run {file} --seed {seed}"), &trace);
}

/// The seeds of transaction-failure, in the order of `RECORDED_SEEDS`.
fn transaction_failure_seeds() -> impl Iterator<Item = u64> {
    RECORDED_SEEDS.iter().filter(|(of, _, _)| *of == "transaction-failure").map(|(_, _, seed)| *seed)
}

fn traces_of_transaction_failure_differ() {
    let plan = case("transaction-failure");
    let shown: BTreeSet<_> =
        transaction_failure_seeds().map(|seed| without_times(&as_client(&plan, Some(seed)))).collect();
    assert_eq!(shown.len(), 6, "traces that differ");
}

/// To its client the race case looks the same under seeds, as it did in 30 runs of the real QEMU (`explore` finds one more trace, in which
/// thirteen requests in a row are done in one round of the event loop). What differs is below: how the jobs
/// get on, and in which order their data requests end. So these snapshots begin at the transaction and show that too, but not what
/// every job goes through whatever the order: pauses, drained sections, metadata.
fn race_under_seed(seed: u64) {
    let file = case_file("transaction-failure-race");
    let plan = case("transaction-failure-race");
    let calm = without_times(&as_client(&plan, None));
    assert_eq!(without_times(&as_client(&plan, Some(seed))), calm, "seed {seed}");
    let command = format!("blockjob-sim run {file} --seed {seed} --level io");
    snapshot(&format!("{}.seed-{seed}", short(&file)), &command, &timed(&plan, race(&plan, seed)));
}

fn orders_of_the_race_differ() {
    let plan = case("transaction-failure-race");
    let shown: BTreeSet<_> = RACE_SEEDS.iter().map(|seed| without_times(&race(&plan, *seed))).collect();
    assert_eq!(shown.len(), 5, "orders that differ");
}

fn no_snapshot_is_left_over() {
    let scenarios = files_below("sim-scenarios", ".yaml");
    let folders: BTreeSet<&str> =
        scenarios.iter().filter_map(|file| short(file).rsplit_once('/')).map(|(f, _)| f).collect();
    for file in files_below("snapshots", ".snap") {
        let name = file.trim_start_matches("snapshots/").trim_end_matches(".snap");
        let (folder, own) = name.rsplit_once('/').expect("snapshots stand in folders");
        if !folders.contains(folder) {
            continue;
        }
        let (of, seed) = name.rsplit_once(".seed-").map_or((name, None), |(of, seed)| (of, seed.parse::<u64>().ok()));
        assert!(scenarios.contains(&format!("sim-scenarios/{of}.yaml")), "{file}: no such scenario");
        let known = seed.is_none_or(|seed| match own.starts_with("transaction-failure-race") {
            true => RACE_SEEDS.contains(&seed),
            false => RECORDED_SEEDS.iter().any(|(case, _, s)| own.starts_with(case) && *s == seed),
        });
        assert!(known, "{file}: no test has this seed");
    }
}
