//! The generator: what it makes is well formed, comes back from its file, ends, and is the same each time.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::base::Json;
use blockjob_sim::choice::{Chooser, Walk};
use blockjob_sim::generate::{self, ClientKind, Generated, Options};
use blockjob_sim::scenario::load;
use blockjob_sim::scenario::plan::StepKind;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, Run, RunOptions};
use blockjob_sim::trace::{Level, RecordKind, canonical, text};
use common::in_threads;
use std::collections::BTreeMap;

fn run(generated: &Generated, chooser: Chooser) -> Run {
    let options = RunOptions { level: Some(Level::Client), record_choices: true, check: true, ..RunOptions::default() };
    sim::run(&generated.plan, chooser, &options)
}

/// 300 programs, a hundred of each kind, calm and under a seed of choices each: no invariant breaks, all end, twice the same.
#[test]
fn programs_run_clean_and_the_same_each_time() {
    let seeds: Vec<(ClientKind, u64)> = (0..100).flat_map(|seed| ClientKind::ALL.map(|kind| (kind, seed))).collect();
    let wrong: Vec<String> = in_threads(&seeds, |(kind, seed)| {
        let options = Options { kind: Some(*kind), crashes: false, all_kinds: true, exports: false };
        let generated = generate::with(&options, *seed);
        assert_eq!(generate::with(&options, *seed), generated);
        let mut wrong = Vec::new();
        for choices in [None, Some(seed + 1)] {
            let chooser = || choices.map_or(Chooser::Calm, |seed| Chooser::Walk(Box::new(Walk::new(seed))));
            let first = run(&generated, chooser());
            if first.outcome != Outcome::Passed {
                wrong.push(format!("{kind} {seed}, choices {choices:?}: {}", first.outcome));
            }
            let second = run(&generated, chooser());
            assert_eq!(text::to_string(&first.trace), text::to_string(&second.trace), "{kind} {seed}");
            assert_eq!(first.choices, second.choices, "{kind} {seed}");
        }
        wrong
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{} of {} runs:\n{}", wrong.len(), 2 * seeds.len(), wrong.join("\n"));
}

#[test]
fn programs_come_back_from_their_files() {
    for seed in 0..300 {
        let generated = generate::scenario(seed);
        let text = generated.to_yaml();
        let plan = load("generated.yaml", &mut |_| Ok(text.clone()));
        let plan = plan.unwrap_or_else(|error| panic!("seed {seed}: {error}")).expect("it has steps");
        assert_eq!(plan.without_places(), generated.plan, "seed {seed}");
    }
}

#[test]
fn nothing_is_generated_that_is_not_simulated() {
    let seeds: Vec<u64> = (0..600).collect();
    let said: Vec<String> = in_threads(&seeds, |seed| {
        let run = run(&generate::scenario(*seed), Chooser::Calm);
        let text = text::to_string(&run.trace);
        text.lines()
            .filter(|line| line.contains("not simulated"))
            .map(|line| format!("{seed}: {line}"))
            .collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

/// What replies and events come about, and that all of it does: a vocabulary that never comes to use is none.
#[test]
fn programs_reach_what_there_is_to_reach() {
    let seeds: Vec<u64> = (0..600).collect();
    let mut reached: BTreeMap<String, usize> = BTreeMap::new();
    let runs = in_threads(&seeds, |seed| {
        let mut words = Vec::new();
        for record in run(&generate::scenario(*seed), Chooser::Calm).trace.iter() {
            match &record.kind {
                RecordKind::Event { name, data } => {
                    let status = data.get("status").and_then(Json::as_str).unwrap_or_default();
                    words.push(format!("{name} {status}"));
                }
                RecordKind::Reply(reply) => {
                    words.push(if reply.get("error").is_some() { "error" } else { "return" }.to_owned());
                }
                RecordKind::Command(command) => {
                    words.push(command.get("execute").and_then(Json::as_str).unwrap_or_default().to_owned());
                }
                _ => {}
            }
        }
        words
    });
    runs.into_iter().flatten().for_each(|word| *reached.entry(word).or_default() += 1);
    for word in [
        "JOB_STATUS_CHANGE created",
        "JOB_STATUS_CHANGE paused",
        "JOB_STATUS_CHANGE waiting",
        "JOB_STATUS_CHANGE pending",
        "JOB_STATUS_CHANGE aborting",
        "JOB_STATUS_CHANGE concluded",
        "JOB_STATUS_CHANGE null",
        "BLOCK_JOB_COMPLETED ",
        "BLOCK_JOB_CANCELLED ",
        "BLOCK_JOB_ERROR ",
        "BLOCK_JOB_PENDING ",
        "transaction",
        "drive-backup",
        "blockdev-backup",
        "block_resize",
        "blockdev-add",
        "blockdev-del",
        "block-dirty-bitmap-merge",
        "human-monitor-command",
        "job-finalize",
        "job-dismiss",
    ] {
        assert!(reached.get(word).is_some_and(|n| *n >= 10), "{word}: {:?}", reached.get(word));
    }
    // At its end a program tells each of its jobs to end, whether it still is there or not: so many errors are no surprise.
    let (errors, returns) = (reached["error"], reached["return"]);
    assert!(errors * 20 > returns && errors < returns * 2, "{errors} errors, {returns} return values");
}

/// What a real QEMU is known to crash on stays out where it is asked to.
#[test]
fn what_qemu_crashes_on_can_be_left_out() {
    let mut crashing = [0; 2];
    for seed in 0..3_000 {
        for (count, crashes) in crashing.iter_mut().zip([false, true]) {
            let generated = generate::with(&Options { kind: None, crashes, all_kinds: true, exports: false }, seed);
            *count += generated.plan.steps.iter().filter(|step| crashes_qemu(&step.kind)).count();
        }
    }
    assert_eq!(crashing[0], 0);
    assert!(crashing[1] > 20, "{}", crashing[1]);
}

/// A transaction with a backup by a bitmap that an earlier action adds, followed by another action; an `enable`; two backups of one
/// drive; a merge of nothing.
fn crashes_qemu(step: &StepKind) -> bool {
    let StepKind::Qmp { command, .. } = step else { return false };
    if command.get("execute").and_then(Json::as_str) != Some("transaction") {
        return canonical::to_string(command).contains("\"bitmaps\": []");
    }
    let actions = command.get("arguments").and_then(|a| a.get("actions")).and_then(Json::as_list).unwrap_or_default();
    let data = |action: &Json, key: &str| action.get("data").and_then(|data| data.get(key)).cloned();
    let is = |action: &Json, name: &str| action.get("type").and_then(Json::as_str) == Some(name);
    actions.iter().enumerate().any(|(i, action)| {
        let added = |of: &Json| {
            actions[..i].iter().any(|a| is(a, "block-dirty-bitmap-add") && data(a, "name").as_ref() == Some(of))
        };
        is(action, "block-dirty-bitmap-enable")
            || i + 1 < actions.len() && data(action, "bitmap").is_some_and(|bitmap| added(&bitmap))
            || data(action, "bitmaps") == Some(Json::list(vec![]))
    })
}
