//! Failures as files: written, read back, shown again, and what is said when the model has changed since.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::choice::{Chooser, ReplayMode, Walk};
use blockjob_sim::failure::Failure;
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::Level;
use std::process::Command;

/// A client that believes a bitmap to be clean as soon as its backup's command was answered: true on a quiet machine only.
const HASTY: &str = "\
about: A client looks at a job too early.
files:
  - create: {file: s.qcow2, format: qcow2, size: 4M}
  - write: {file: s.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: t.qcow2, format: qcow2, size: 4M}
args:
  - -drive
  - if=none,id=drive0,file=s.qcow2,format=qcow2,node-name=s
  - -blockdev
  - '{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": {\"driver\": \"file\", \"filename\": \"t.qcow2\"}}'
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: drive0, target: t, sync: full}}
  - qmp: {execute: query-jobs}
    returns: []
";

fn plan(text: &str) -> Plan {
    load("hasty.yaml", &mut |_| Ok(text.to_owned())).expect("no mistakes").expect("it has steps")
}

/// The first failure that seeds find.
fn found(plan: &Plan) -> Failure {
    let options = RunOptions { level: Some(Level::Client), record_choices: true, ..RunOptions::default() };
    for seed in 0..100 {
        let run = sim::run(plan, Chooser::Walk(Box::new(Walk::new(seed))), &options);
        if let Some(failure) = Failure::of("hasty.yaml", plan, "walk", Some(seed), &run) {
            return failure;
        }
    }
    panic!("no seed fails");
}

#[test]
fn a_file_comes_back_and_shows_the_failure_again() {
    let failure = found(&plan(HASTY));
    assert_eq!(&*failure.verdict.outcome, "failed");
    let text = failure.to_text();
    let back = Failure::from_text("f.yaml", &text).expect("its own text");
    assert_eq!(back, failure, "{text}");
    assert_eq!(back.to_text(), text);
    for level in [Level::Client, Level::Co] {
        let options = RunOptions { level: Some(level), ..RunOptions::default() };
        let shown = back.replay(sim::run, ReplayMode::Strict, &options);
        assert!(shown.same, "{:?}", shown.differences);
        assert_eq!(shown.run.outcome.word(), "failed");
    }
}

#[test]
fn it_says_where_recorded_choices_no_longer_fit() {
    let mut failure = found(&plan(HASTY));
    // As if the model had changed: the source is larger, so that there are more requests to choose from.
    let text = failure.to_text().replace("length: 1M", "length: 3M");
    failure = Failure::from_text("f.yaml", &text).expect("a failure file");
    let shown = failure.replay(sim::run, ReplayMode::Strict, &RunOptions::default());
    assert!(!shown.same);
    let Outcome::Diverged(divergence) = &shown.run.outcome else { panic!("{}", shown.run.outcome) };
    assert!(divergence.to_string().starts_with("choice "), "{divergence}");
    let lenient = failure.replay(sim::run, ReplayMode::Lenient, &RunOptions::default());
    assert!(!matches!(lenient.run.outcome, Outcome::Diverged(_)), "{}", lenient.run.outcome);
    assert!(!lenient.same);
}

#[test]
fn what_is_no_failure_file_is_refused_with_a_reason() {
    let text = found(&plan(HASTY)).to_text();
    let wrong = |text: &str| Failure::from_text("f.yaml", text).expect_err("no failure file").to_string();
    assert_eq!(wrong("about: x\nsteps: []\n"), "f.yaml: this is no failure file: expected `failure: 1`");
    assert_eq!(
        wrong(&text.replacen("failure: 1", "failure: 99", 1)),
        "f.yaml: its form is of version 99; this tool reads up to 1"
    );
    assert_eq!(
        wrong(&text.replacen("strategy: walk", "strategy: [walk]", 1)),
        "f.yaml: expected a text behind `strategy`"
    );
    assert!(
        wrong(&text.replacen("  steps:", "  stops:", 1)).contains("stops"),
        "{}",
        wrong(&text.replacen("  steps:", "  stops:", 1))
    );
    assert!(wrong("{").contains("f.yaml:1:"), "{}", wrong("{"));
}

#[test]
fn the_command_shows_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("failure.yaml");
    let failure = found(&plan(HASTY));
    std::fs::write(&file, failure.to_text()).expect("a file");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
        let output = command.arg("replay").arg(&file).args(more).output().expect("the command runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, said) = run(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the same failure, and the same trace"), "{said}");

    std::fs::write(&file, failure.to_text().replace("length: 1M", "length: 3M")).expect("a file");
    let (code, said) = run(&[]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("diverged: choice ") && said.contains("--lenient goes on calmly"), "{said}");
    let (code, _) = run(&["--lenient"]);
    assert_ne!(code, Some(4));

    std::fs::write(&file, "steps: []").expect("a file");
    assert_eq!(run(&[]).0, Some(2));
}
