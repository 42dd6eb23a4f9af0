//! Strategies for `proptest`: generated scenarios, and schedules for them.
//!
//! ```
//! use blockjob_sim::generate::{Options, strategies};
//! use blockjob_sim::sim::{self, outcome::{Outcome, RunOptions}};
//! use proptest::prelude::*;
//!
//! proptest!(ProptestConfig::with_cases(4), |(
//!     generated in strategies::scenarios(Options::default()),
//!     schedule in strategies::schedules(64),
//! )| {
//!     let run = sim::run(&generated.plan, schedule, &RunOptions { check: true, ..RunOptions::default() });
//!     prop_assert_eq!(run.outcome, Outcome::Passed);
//! });
//! ```

use super::{Generated, Options, with, with_commands};
use crate::choice::{Bytes, Chooser};
use proptest::prelude::{Strategy, any};

/// Commands that a generated program has at most.
const COMMANDS: usize = 24;

/// Generated scenarios. They shrink to programs with fewer commands.
pub fn scenarios(options: Options) -> impl Strategy<Value = Generated> {
    (any::<u64>().no_shrink(), 1..=COMMANDS).prop_map(move |(seed, commands)| {
        let drawn = with(&options, seed);
        if commands < drawn.knobs.commands { with_commands(&options, seed, commands) } else { drawn }
    })
}

/// Schedules of up to so many choices that are not calm. They shrink towards the calm one.
pub fn schedules(choices: usize) -> impl Strategy<Value = Chooser> {
    proptest::collection::vec(any::<u8>(), 0..=choices).prop_map(|bytes| Chooser::Bytes(Bytes::new(&bytes)))
}
