//! The client's view of a run is one that clients of the real QEMU had: when it ran its own iotest 124, and when it carried out programs with
//! mirrors, commits and streams, which `tests/data/jobs` holds.

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
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use common::{CASES, RECORDED_SEEDS, case, client_trace, plan_of, recorded, run, traces, which};
use harness::{trial, trials};
use std::fs;
use std::process::ExitCode;

/// The programs of `tests/data/jobs`, and the scenario of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("commit-active-cancel-running", "commit/active-cancel-running"),
    ("commit-active-complete", "commit/active-complete"),
    ("commit-cancel-at-once", "commit/cancel-at-once"),
    ("commit-grow", "commit/grow"),
    ("commit-intermediate", "commit/intermediate"),
    ("commit-intermediate-backing-file", "commit/intermediate-backing-file"),
    ("commit-intermediate-error", "commit/intermediate-error"),
    ("commit-intermediate-error-stop", "commit/intermediate-error-stop"),
    ("commit-intermediate-manual", "commit/intermediate-manual"),
    ("commit-then-merge", "commit/then-merge"),
    ("drive-mirror-top", "mirror/drive-mirror-top"),
    ("mirror-background-writes", "mirror/background-writes"),
    ("mirror-blocking-writes", "mirror/blocking-writes"),
    ("mirror-cancel-at-once", "mirror/cancel-at-once"),
    ("mirror-cancel-ready-force", "mirror/cancel-ready-force"),
    ("mirror-cancel-ready-jobcancel", "mirror/cancel-ready-jobcancel"),
    ("mirror-cancel-running", "mirror/cancel-running"),
    ("mirror-change-mode", "mirror/change-mode"),
    ("mirror-dirty-init-race", "mirror/dirty-init-race"),
    ("mirror-errors-4", "mirror/errors-4"),
    ("mirror-full-complete", "mirror/full-complete"),
    ("mirror-manual", "mirror/manual"),
    ("mirror-manual-softcancel", "mirror/manual-softcancel"),
    ("mirror-none-complete", "mirror/none-complete"),
    ("mirror-paused-cancel", "mirror/paused-cancel"),
    ("mirror-paused-complete", "mirror/paused-complete"),
    ("mirror-pivot-fails", "mirror/pivot-fails"),
    ("mirror-quit-ready", "mirror/quit-ready"),
    ("mirror-replaces", "mirror/replaces"),
    ("mirror-size-mismatch", "mirror/size-mismatch"),
    ("mirror-soft-then-force", "mirror/soft-then-force"),
    ("mirror-source-error-report", "mirror/source-error-report"),
    ("mirror-target-error-ignore", "mirror/target-error-ignore"),
    ("mirror-target-error-stop", "mirror/target-error-stop"),
    ("mirror-target-flush-error", "mirror/target-flush-error"),
    ("mirror-top-complete", "mirror/top-complete"),
    ("mirror-zero-length", "mirror/zero-length"),
    ("stream-base-node", "stream/base-node"),
    ("stream-cancel", "stream/cancel"),
    ("stream-cancel-at-once", "stream/cancel-at-once"),
    ("stream-error-ignore", "stream/error-ignore"),
    ("stream-error-report", "stream/error-report"),
    ("stream-full", "stream/full"),
    ("stream-manual", "stream/manual"),
    ("stream-nothing", "stream/nothing"),
    ("stream-pause-resume", "stream/pause-resume"),
];

/// Seeds under which the other traces of a program come about: program, number of the recorded trace, seed.
const PROGRAM_SEEDS: &[(&str, usize, u64)] =
    &[("commit-cancel-at-once", 0, 1), ("commit-cancel-at-once", 1, 4), ("commit-cancel-at-once", 2, 23)];

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

/// What clients of the real QEMU saw of a program.
fn observed(program: &str) -> Vec<Vec<ClientLine>> {
    traces(&format!("tests/data/jobs/{program}.jsonl"))
}

fn each_program_has_its_scenario() {
    let mut files: Vec<String> = fs::read_dir("tests/data/jobs")
        .expect("the traces are here")
        .map(|entry| entry.expect("a file").path().with_extension("").file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    assert_eq!(files.len(), 46);
    assert_eq!(files, PROGRAMS.iter().map(|(program, _)| *program).collect::<Vec<_>>());
}

/// The scenario's own schedule, which is the calm one unless it names a seed, gives a trace that QEMU's client saw.
fn program(name: &str, scenario: &str) {
    let plan = plan_of(&format!("sim-scenarios/{scenario}.yaml")).expect("a scenario");
    let run = run(&plan, None, Level::Client);
    assert_eq!(run.outcome, Outcome::Passed, "{}", run.outcome);
    if let Err(difference) = which(&client_lines(&run.trace), &observed(name)) {
        panic!("{difference}");
    }
}

/// Where a program had several traces, each comes about under some seed.
fn each_trace_of_a_program_has_a_seed(name: &str, scenario: &str) {
    let plan = plan_of(&format!("sim-scenarios/{scenario}.yaml")).expect("a scenario");
    let known = observed(name);
    let seeds = PROGRAM_SEEDS.iter().filter(|(of, _, _)| *of == name);
    let reached = seeds.map(|(_, number, seed)| {
        let difference = first_difference(&client_trace(&plan, Some(*seed)), &known[*number]);
        if let Some(difference) = difference {
            panic!("seed {seed}: not the recorded trace {number}: {difference}");
        }
        *number
    });
    assert_eq!(reached.collect::<Vec<_>>(), (0..known.len()).collect::<Vec<_>>(), "traces that a seed is named for");
}

fn main() -> ExitCode {
    let mut all = trials![all_recorded_traces_are_here, each_program_has_its_scenario];
    for (name, scenario) in PROGRAMS {
        all.push(trial(format!("jobs/{name}"), || program(name, scenario)));
        if observed(name).len() > 1 {
            all.push(trial(format!("jobs/{name}/each-has-a-seed"), || {
                each_trace_of_a_program_has_a_seed(name, scenario)
            }));
        }
    }
    all.extend(CASES.map(|name| trial(format!("iotest-124/{name}/calm"), move || calm(name))));
    let several = CASES.into_iter().filter(|name| recorded(name).len() > 1);
    all.extend(several.map(|name| trial(format!("iotest-124/{name}/each-has-a-seed"), move || each_has_a_seed(name))));
    harness::main(all)
}
