//! A fuzz target whose bytes are choices, as a plain test: the race of iotest 124 and generated scenarios under byte strings. What a
//! coverage-guided fuzzer runs is the same by `blockjob-sim run FILE --check --bytes INPUT`.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::choice::{Bytes, Chooser};
use blockjob_sim::generate::{self, Options};
use blockjob_sim::scenario::Plan;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use common::case;
use proptest::prelude::*;
use std::process::Command;

/// The target: no input may break an invariant.
fn target(plan: &Plan, bytes: &[u8]) -> Outcome {
    let options = RunOptions { check: true, ..RunOptions::default() };
    sim::run(plan, Chooser::Bytes(Bytes::new(bytes)), &options).outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_race_holds_under_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert_eq!(target(&case("transaction-failure-race"), &bytes), Outcome::Passed);
    }

    #[test]
    fn generated_scenarios_hold_under_any_bytes(seed in 0u64..100, bytes in prop::collection::vec(any::<u8>(), 0..128)) {
        let generated = generate::with(&Options { kind: None, crashes: false, ..Options::default() }, seed);
        prop_assert_eq!(target(&generated.plan, &bytes), Outcome::Passed);
    }
}

#[test]
fn the_command_takes_a_file_of_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("input");
    let run = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
        let scenario = common::path("sim-scenarios/backup/full.yaml");
        let output =
            command.arg("run").arg(scenario).arg("--choices").arg("--bytes").arg(&file).output().expect("it runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(!run(&[0, 0]).contains('@'), "zeroes are calm");
    assert!(run(&[1, 1, 1, 1]).contains('@'));
}
