//! Failures made small: how few deviations are left, after how many runs.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::choice::{ChoiceLog, Chooser, Replay, ReplayMode, Walk};
use blockjob_sim::explore::{self, Strategy};
use blockjob_sim::failure::Failure;
use blockjob_sim::quirk::{Origin, Quirk, QuirkInfo, Quirks, TABLE};
use blockjob_sim::scenario::plan::Schedule;
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::shrink::{MAX_RUNS, Shrunk, shrink};
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::{Level, text};
use common::{in_threads, plan_of};
use std::fs;
use std::process::Command;
use std::sync::Arc;

/// Deviations that may be left.
const PREEMPTIONS: usize = 2;
/// Runs until then.
const RUNS: u32 = 50;

/// A client that takes a job to be over as soon as its command is answered, among much that does not matter.
const HASTY: &str = "\
about: A client looks at a job too early.
files:
  - create: {file: s.qcow2, format: qcow2, size: 4M}
  - write: {file: s.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: t.qcow2, format: qcow2, size: 4M}
  - create: {file: other.qcow2, format: qcow2, size: 8M}
args:
  - -drive
  - if=none,id=drive0,file=s.qcow2,format=qcow2,node-name=s
  - -drive
  - if=none,id=drive1,file=other.qcow2,format=qcow2,node-name=o
  - -blockdev
  - '{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": {\"driver\": \"file\", \"filename\": \"t.qcow2\"}}'
steps:
  - qmp: {execute: block-dirty-bitmap-add, arguments: {node: o, name: b}}
  - hmp: qemu-io drive1 \"write -P 0x11 0 1M\"
  - hmp: qemu-io drive0 \"write -P 0x12 1M 64k\"
  - qmp: {execute: query-block}
  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: drive0, target: t, sync: full, auto-dismiss: true}}
  - qmp: {execute: query-jobs}
    returns: []
  - qmp: {execute: query-block}
";

fn options() -> RunOptions {
    RunOptions { level: Some(Level::Client), record_choices: true, check: true, ..RunOptions::default() }
}

/// The first failure that seeds show. Most have many choices that are not calm, and need few of them or none.
fn found(name: &str, plan: &Plan, seeds: u64) -> Option<Failure> {
    (0..seeds).find_map(|seed| {
        let run = sim::run(plan, Chooser::Walk(Box::new(Walk::new(seed))), &options());
        Failure::of(name, plan, "walk", Some(seed), &run)
    })
}

fn parse(text: &str) -> Plan {
    load("shrunk.yaml", &mut |_| Ok(text.to_owned())).unwrap_or_else(|error| panic!("{error}\n{text}")).expect("steps")
}

/// What is left fails in the same way, under its own schedule, from its own file.
fn fails_again(shrunk: &Shrunk) {
    let mut plan = parse(&shrunk.to_yaml());
    plan.expect_violation = None;
    let run = sim::run(&plan, sim::chooser(&plan.schedule), &options());
    let failure = Failure::of("again", &plan, "its own", None, &run).unwrap_or_else(|| panic!("{}", shrunk.to_yaml()));
    assert!(failure.verdict.same_kind(&shrunk.verdict), "{}\n{}", failure.verdict, shrunk.to_yaml());
}

#[test]
fn a_hasty_client_is_one_preemption_and_two_commands() {
    let plan = parse(HASTY);
    for seed in 0..60 {
        let run = sim::run(&plan, Chooser::Walk(Box::new(Walk::new(seed))), &options());
        let Some(failure) = Failure::of("hasty", &plan, "walk", Some(seed), &run) else { continue };
        let shrunk = shrink(&failure, MAX_RUNS).expect("it fails again");
        assert_eq!(shrunk.deviations.len(), 1, "seed {seed}\n{}", shrunk.to_yaml());
        assert!(shrunk.schedule_runs <= RUNS, "seed {seed}: {} runs", shrunk.schedule_runs);
        assert!(shrunk.plan.steps.len() <= 2, "seed {seed}\n{}", shrunk.to_yaml());
        assert!(shrunk.plan.args.len() <= 4 && shrunk.plan.files.len() <= 3, "seed {seed}\n{}", shrunk.to_yaml());
        fails_again(&shrunk);
        let text = shrunk.to_yaml();
        assert!(text.contains("# this matters:") && text.contains("# What led to it:"), "{text}");
        assert_eq!(shrink(&failure, MAX_RUNS).expect("it fails again"), shrunk, "the same each time");
        // One is enough in a build for tests; what else fails comes to the same.
        if seed > 20 {
            break;
        }
    }
}

/// Each wrong behaviour of the museum: the first failure that seeds show, made small.
#[test]
fn races_of_the_museum_are_two_preemptions_at_most() {
    let exhibits: Vec<&QuirkInfo> = TABLE.iter().filter(|about| about.origin != Origin::Seeded).collect();
    let told = in_threads(&exhibits, |about| {
        let name = format!("sim-scenarios/museum/{}.yaml", about.name);
        let mut plan = plan_of(&name).expect("it has steps");
        plan.quirks = Quirks::NONE.with(about.quirk);
        let failure = found(&name, &plan, 200).unwrap_or_else(|| panic!("{name} does not fail"));
        // What is bounded is the schedule; how far the scenario shrinks is up to the runs.
        let shrunk = shrink(&failure, 120).unwrap_or_else(|error| panic!("{name}: {error}"));
        fails_again(&shrunk);
        let fits = shrunk.deviations.len() <= PREEMPTIONS && shrunk.schedule_runs <= RUNS;
        let (before, after) = (shrunk.before.deviations, shrunk.deviations.len());
        (fits, format!("{}: {before} -> {after} deviations in {} runs", about.name, shrunk.schedule_runs))
    });
    assert!(told.len() >= 12);
    let wrong: Vec<&String> = told.iter().filter(|(fits, _)| !fits).map(|(_, line)| line).collect();
    println!("{told:#?}");
    assert!(wrong.is_empty(), "{wrong:#?} of {told:#?}");
}

/// What exploring finds are schedules of orders alone, and of few deviations: they become small, too.
#[test]
fn what_exploring_finds_becomes_small() {
    let plan = parse(HASTY);
    for strategy in [None, Some(Strategy::Uniform), Some(Strategy::Pct(3)), Some(Strategy::Urw)] {
        let mut check = explore::check(&plan).runs(400);
        if let Some(strategy) = strategy {
            check = check.strategy(strategy);
        }
        let report = check.run().expect("it starts");
        let found = report.found.first().unwrap_or_else(|| panic!("{strategy:?} finds nothing"));
        let log: ChoiceLog = found.choices.parse().expect("a list of choices");
        let chooser = Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict));
        let run = sim::run(&plan, chooser, &options());
        let failure = Failure::of("hasty", &plan, "explored", found.seed, &run).expect("it fails again");
        let shrunk = shrink(&failure, MAX_RUNS).expect("it fails again");
        assert_eq!(shrunk.deviations.len(), 1, "{strategy:?}\n{}", shrunk.to_yaml());
        assert!(shrunk.schedule_runs <= RUNS && shrunk.plan.steps.len() <= 2, "{strategy:?}\n{}", shrunk.to_yaml());
        fails_again(&shrunk);
    }
}

/// With a quirk, what is saved below `sim-scenarios` is a test at once: the scenario and its snapshot, as the test of all scenarios
/// wants them.
#[test]
fn a_saved_scenario_has_its_snapshot() {
    let mut plan = plan_of("sim-scenarios/museum/txn-start-in-prepare.yaml").expect("it has steps");
    plan.quirks = Quirks::NONE.with(Quirk::TxnStartInPrepare);
    let failure = found("race", &plan, 200).expect("it fails");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("group-completion-race.yaml");
    fs::write(&file, failure.to_text()).expect("a file");
    let regress = folder.path().join("sim-scenarios/regress");
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
    let output = command.arg("shrink").arg(&file).arg("--save").arg(&regress).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let saved = fs::read_to_string(regress.join("group-completion-race.yaml")).expect("a scenario");
    let snapshot = folder.path().join("snapshots/regress/group-completion-race.snap");
    let snapshot = fs::read_to_string(snapshot).expect("a snapshot");
    let again = parse(&saved);
    let run = sim::run(&again, sim::chooser(&again.schedule), &options());
    assert_eq!(run.outcome, Outcome::Passed, "it expects its violation");
    let (head, body) = snapshot.split_once("\n---\n").expect("head and body");
    assert!(head.contains("blockjob-sim run sim-scenarios/regress/group-completion-race.yaml"), "{head}");
    assert_eq!(body, text::short_lines(run.trace.iter(), text::SNAPSHOT_WIDTH));
}

#[test]
fn the_command_prints_and_saves() {
    let plan = parse(HASTY);
    let failure = found("hasty", &plan, 100).expect("a failure");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hasty.yaml");
    fs::write(&file, failure.to_text()).expect("a file");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
        let output = command.arg("shrink").arg(&file).args(more).output().expect("the command runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, printed, said) = run(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("before: preemptions") && said.contains("after:  preemptions 1"), "{said}");
    let save = folder.path().join("regress");
    let (code, nothing, said) = run(&["--save", &save.to_string_lossy()]);
    assert_eq!((code, nothing.as_str()), (Some(0), ""), "{said}");
    assert_eq!(fs::read_to_string(save.join("failed-hasty.yaml")).expect("a scenario"), printed);

    // A failure that is none any more.
    fs::write(&file, failure.to_text().replace("returns: []", "reply: any")).expect("a file");
    let (code, _, said) = run(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not come about again"), "{said}");
}

/// A client that cancels a job which has ended: made small, it is still the end of the job that comes first, and not a job that was never there.
#[test]
fn an_expectation_that_fails_stays_the_same_one() {
    let text = "about: A slow backup is cancelled.
files: [{create: {file: disk.img, format: raw, size: 4M}}, {write: {file: disk.img, format: raw, pattern: 1, offset: 0, length: 4M}}]
args: [-blockdev, 'driver=file,node-name=disk,filename=disk.img', -blockdev, 'driver=null-co,node-name=target,size=4194304']
steps:
  - qmp: {execute: query-block-jobs}
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: disk, target: target, sync: full, speed: 1048576}}
  - qmp: {execute: block-job-cancel, arguments: {device: job0}}
  - event: {event: BLOCK_JOB_CANCELLED, data: {device: job0}}
";
    let failure = found("cancel", &parse(text), 200).expect("a seed fails");
    let shrunk = shrink(&failure, MAX_RUNS).expect("it comes about again");
    assert_eq!(shrunk.after.steps, 2, "{}", shrunk.to_yaml());
    assert!(shrunk.after.deviations > 0 && shrunk.to_yaml().contains("speed: "), "{}", shrunk.to_yaml());
    fails_again(&shrunk);
    let calm = Plan { schedule: Schedule::Calm, ..shrunk.plan.clone() };
    assert_eq!(sim::run(&calm, sim::chooser(&calm.schedule), &options()).outcome, Outcome::Passed, "it is a race");
}
