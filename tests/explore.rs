//! Strategies, exhaustive search and campaigns.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::choice::{ChoiceLog, ChoicePoint, Choose, Chooser, MODE_FAULTS, MODE_ORDER, Replay, ReplayMode};
use blockjob_sim::explore::{
    self, Caps, Count, Exhausted, Search, StartPoint, Strategy, TraceDigest, exhaust, exhaust_in, listed, off_script,
};
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::{Level, text};
use common::{CASES, case, in_threads, plan_of};
use std::collections::BTreeSet;
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
        for seed in 0..3 {
            let run = sim::run(&plan, strategy.chooser(seed), &options);
            assert_eq!(run.outcome, Outcome::Passed, "{name}, {strategy}, seed {seed}: {}", run.outcome);
            let log: ChoiceLog = run.choices.deviations().to_string().parse().expect("a log reads back");
            let again = sim::run(&plan, Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict)), &options);
            assert!(again == run, "{name}, {strategy}, seed {seed}: {}", again.outcome);
        }
    });
}

/// Small enough for brute force.
const SMALL: &str = "tests/data/explore/query-during-backup.yaml";

/// Where a scenario is explored from.
fn start_of(file: &str) -> StartPoint {
    let options = RunOptions { level: Some(Level::Client), check: true, ..RunOptions::default() };
    StartPoint::watched(&plan_of(file).expect("a scenario"), &options).expect("it gets there")
}

/// All that a client can see when latencies are drawn is among what the exhaustive search finds.
#[test]
fn the_search_finds_all_traces_that_latencies_give() {
    let files = [("sim-scenarios/iotest-124/transaction-failure-race.yaml", true, 2, 1), (SMALL, false, 8, 2)];
    for (file, holds, traces, by_seeds) in files {
        let start = start_of(file);
        let found = exhaust(&start, Caps::default());
        assert_eq!(found.proved(), holds, "{file}");
        assert_eq!((found.capped, found.cycles, found.without_end), (None, 0, 0), "{file}");
        let all: BTreeSet<TraceDigest> = found.traces.expect("few").iter().map(|trace| trace.digest).collect();
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            let ran = explore::run(&start, Strategy::Walk.chooser(seed));
            assert!(all.contains(&ran.trace), "{file}: seed {seed} gives a trace that the search did not find");
            seen.insert(ran.trace);
        }
        assert_eq!(all.len(), traces, "{file}");
        assert!(seen.len() >= by_seeds, "{file}: {} traces in 400 seeds", seen.len());
    }
}

/// What several workers find is put together as if one had searched alone: the same graph, whoever was faster.
#[test]
fn the_number_of_workers_does_not_matter() {
    for file in ["sim-scenarios/iotest-124/transaction-failure-race.yaml", SMALL] {
        let start = start_of(file);
        let alone = exhaust(&start, Caps::default());
        for workers in [2, 3, 5] {
            let search = Search::new(&start.sim, MODE_ORDER, Caps::default(), workers);
            let parts = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| search.work())).collect();
                threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
            });
            assert!(Exhausted::of(&search, parts) == alone, "{file}: {workers} workers");
        }
    }
}

/// A cap ends the search of all workers, and nothing is told that depends on who was faster.
#[test]
fn a_cap_ends_the_search_of_all_workers() {
    let start = start_of("sim-scenarios/iotest-124/transaction-failure-race.yaml");
    let caps = Caps { states: 100, ..Caps::default() };
    let search = Search::new(&start.sim, MODE_ORDER, caps, 3);
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| search.work())).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let found = Exhausted::of(&search, parts);
    assert_eq!((found.capped.as_deref(), found.states, found.proved()), (Some("100 states (--max-states)"), 0, false));
    assert!(search.states() > 100);
}

/// Each trace's shortest list of choices gives that trace, and the search says rightly how few of them are not calm.
#[test]
fn each_trace_comes_with_choices_that_lead_to_it() {
    let start = start_of(SMALL);
    let found = exhaust(&start, Caps::default());
    let mut sum = Count::default();
    for trace in found.traces.expect("few") {
        let (log, records, outcome) = listed(MODE_ORDER, &start, &trace.picks);
        assert_eq!((TraceDigest::of(&records), &outcome), (trace.digest, &trace.outcome));
        assert_eq!(log.deviations().len(), trace.deviations as usize + 1, "those and the answer to `mode`");
        sum.add(&trace.schedules);
    }
    assert_eq!(sum, found.schedules);
}

/// Where faults strike is explored, too: then a backup that is to fail has more than one end.
#[test]
fn faults_are_choices() {
    let start = start_of("tests/data/explore/read-fails-once.yaml");
    assert!(exhaust(&start, Caps::default()).proved());
    let found = exhaust_in(MODE_ORDER | MODE_FAULTS, &start, Caps::default());
    assert_eq!(found.capped, None);
    assert!(found.ends.iter().any(off_script), "the read never failed elsewhere: {:?}", found.ends);
    assert!(found.ends.iter().all(|end| *end == Outcome::Passed || off_script(end)), "{:?}", found.ends);
}

/// Answers from a list, calmly behind its end, and keeps among how many each answer was.
struct Script {
    picks: Vec<u32>,
    among: Vec<u32>,
}

impl Choose for Script {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        if point == ChoicePoint::Mode {
            return MODE_ORDER;
        }
        self.among.push(among);
        self.picks.get(self.among.len() - 1).copied().unwrap_or(0)
    }
    fn wants_mode(&self) -> bool {
        true
    }
}

/// Of two writes to the same bytes that are under way at once, either is told to be done first, and either is what is left: the host's
/// worker threads do as they like, and QEMU looks at the newest first.
#[test]
fn writes_to_the_same_bytes_are_done_in_any_order() {
    let plan = plan_of("tests/data/explore/overlapping-writes.yaml").expect("a scenario");
    let options = RunOptions { level: Some(Level::Io), ..RunOptions::default() };
    let seen: BTreeSet<(bool, bool)> = (0..400)
        .map(|seed| {
            let text = text::to_string(&sim::run(&plan, Strategy::Uniform.chooser(seed), &options).trace);
            let told = |bytes: u32| text.find(&format!("wrote {bytes}/{bytes} bytes")).expect("it is told");
            (told(65_536) < told(32_768), text.contains("Pattern verification failed"))
        })
        .collect();
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// Every schedule is run by itself, one after the other; the search with deduplication counts as many, and finds the same traces.
#[test]
fn the_search_agrees_with_brute_force() {
    let start = start_of(SMALL);
    let found = exhaust(&start, Caps::default());
    let (mut count, mut picks, mut traces) = (0u128, Some(Vec::new()), BTreeSet::new());
    while let Some(list) = picks {
        let mut script = Script { picks: list, among: Vec::new() };
        let ran = explore::run(&start, &mut script);
        count += 1;
        traces.insert(ran.trace);
        script.picks.resize(script.among.len(), 0);
        let last = (0..script.among.len()).rev().find(|at| script.picks[*at] + 1 < script.among[*at]);
        picks = last.map(|at| script.picks[..at].iter().copied().chain([script.picks[at] + 1]).collect());
    }
    assert!(count > 100, "{count} schedules are too few to say anything");
    assert_eq!(found.schedules.decimal(), count.to_string());
    let found: BTreeSet<TraceDigest> = found.traces.expect("few").iter().map(|trace| trace.digest).collect();
    assert_eq!(found, traces);
}
