//! Strategies, exhaustive search and campaigns.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::choice::{ChoiceLog, Chooser, Mode, Replay};
use blockjob_sim::explore::Strategy;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::Level;
use common::{CASES, case, in_threads};
use std::sync::Arc;

/// What the cases of iotest 124 expect comes about under every strategy, and the list of a run's choices gives the same run again.
#[test]
fn cases_pass_under_every_strategy_and_replay() {
    let options = RunOptions { level: Some(Level::Co), record_choices: true, ..RunOptions::default() };
    let mut all = Vec::new();
    for case in CASES {
        all.extend(Strategy::ALL.map(|strategy| (case, strategy)));
    }
    in_threads(&all, |(name, strategy)| {
        let plan = case(name);
        for seed in 0..6 {
            let run = sim::run(&plan, strategy.chooser(seed), &options);
            assert_eq!(run.outcome, Outcome::Passed, "{name}, {strategy}, seed {seed}: {}", run.outcome);
            let log: ChoiceLog = run.choices.deviations().to_string().parse().expect("a log reads back");
            let again = sim::run(&plan, Chooser::Replay(Replay::new(Arc::new(log), Mode::Strict)), &options);
            assert!(again == run, "{name}, {strategy}, seed {seed}: {}", again.outcome);
        }
    });
}
