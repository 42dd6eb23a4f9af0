//! The invariants: each has a scenario that breaks it on purpose, and none is broken where nothing is wrong.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::check::{JUDGED, WATCHED};
use blockjob_sim::invariant::{Invariant, PAGES};
use blockjob_sim::quirk::{KnownCause, Quirks};
use blockjob_sim::scenario::Plan;
use blockjob_sim::scenario::plan::Schedule;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, Run, RunOptions};
use blockjob_sim::trace::Level;
use common::{CASES, case, chooser, in_threads, path, plan_of};
use std::fs;
use std::path::Path;

fn checked(plan: &Plan, seed: Option<u64>) -> Run {
    let own = || sim::chooser(&plan.schedule);
    let chooser = seed.map_or_else(own, |seed| chooser(Some(seed)));
    sim::run(plan, chooser, &RunOptions { check: true, ..RunOptions::default() })
}

fn breaking(invariant: Invariant) -> Plan {
    let file = format!("sim-scenarios/invariant/{}.yaml", invariant.name());
    plan_of(&file).unwrap_or_else(|| panic!("{file} has no steps"))
}

/// Defects of QEMU's that a run names have their page, and a run that meets one says so.
#[test]
fn what_is_known_of_qemu_is_named() {
    for page in PAGES {
        assert!(path(&format!("docs/findings/{page}.md")).is_file(), "{page}");
    }
    let ended = [
        ("bitmap/of-another-size", "bitmap-of-another-size"),
        ("bitmap/shorter-than-its-node", "bitmap-of-another-size"),
        ("commit/header-write-fails", "commit-cannot-write-its-header"),
        ("commit/qemu-io-as-it-ends", "qemu-io-as-a-commit-ends"),
        ("commit/reopen-overlay", "reopen-above-a-commit"),
        ("copy-on-read/bottom-is-file", "copy-on-read-above-its-bottom"),
        ("machine/qom-set-same-drive", "qom-set-same-drive"),
        ("mirror/base-taken-away", "base-taken-from-a-mirror"),
        ("mirror/pending-read", "pending-mirror-blocks-the-monitor"),
        ("mirror/replaces-complete-twice", "mirror-duplicate-complete"),
        ("mirror/small-buffer", "mirror-with-a-small-buffer"),
        ("mirror/small-granules", "mirror-by-small-granules"),
        ("mirror/source-made-shorter", "mirror-of-a-node-made-shorter"),
        ("reopen/as-a-mirror-ends", "reopen-as-a-mirror-ends"),
        ("reopen/raw-shorter-below-a-filter", "smaller-below-a-filter"),
        ("reopen/smaller-below-a-filter", "smaller-below-a-filter"),
        ("stream/concluded-query", "query-after-a-stream"),
    ];
    for (name, page) in ended {
        let plan = Plan { expect_violation: None, ..plan_of(&format!("sim-scenarios/{name}.yaml")).expect("steps") };
        assert_eq!(checked(&plan, None).outcome.page(), Some(page), "{name}");
    }
    let met = [
        ("commit/shorter-image", "commit-of-a-shorter-image"),
        ("mirror/blocking-part-of-a-cluster", "partial-write-of-an-active-mirror"),
        ("mirror/change-during-its-flush", "mirror-change-during-its-flush"),
        ("mirror/forgives-a-failed-write", "mirror-forgives-a-failed-write"),
        ("snapshot/undone-below-a-backup", "aborted-snapshot-below-a-backup"),
        ("stream/past-a-shorter-image", "stream-past-a-shorter-image"),
        ("stream/status-error-below-a-backup", "reads-undone-below-a-stream"),
    ];
    for (name, page) in met {
        let run = checked(&plan_of(&format!("sim-scenarios/{name}.yaml")).expect("steps"), None);
        assert_eq!(run.outcome, Outcome::Passed, "{name}");
        assert!(
            run.findings.iter().any(|finding| finding.known == KnownCause::Page(page)),
            "{name}: {:?}",
            run.findings
        );
    }
}

#[test]
fn each_invariant_has_a_scenario_that_breaks_it() {
    for invariant in Invariant::ALL {
        let plan = breaking(*invariant);
        assert_eq!(plan.expect_violation, Some(*invariant), "{}", invariant.name());
        assert!(!plan.quirks.is_empty(), "{}", invariant.name());
        let run = checked(&plan, plan.schedule.seed());
        assert_eq!(run.outcome, Outcome::Passed, "{}: {}", invariant.name(), run.outcome);
    }
}

/// What breaks them is the quirk: without it the same scenario passes.
#[test]
fn without_the_quirk_it_holds() {
    for invariant in Invariant::ALL {
        let mut plan = breaking(*invariant);
        (plan.quirks, plan.expect_violation) = (Quirks::NONE, None);
        for seed in [plan.schedule.seed(), Some(1), Some(2)] {
            let run = checked(&plan, seed);
            assert_eq!(run.outcome, Outcome::Passed, "{} under {seed:?}: {}", invariant.name(), run.outcome);
        }
    }
}

#[test]
fn a_scenario_that_is_to_break_one_fails_if_it_does_not() {
    let mut plan = breaking(Invariant::TransactionUndone);
    plan.quirks = Quirks::NONE;
    let run = checked(&plan, None);
    assert!(
        matches!(&run.outcome, Outcome::Failed { reason, .. } if reason.contains("transaction-undone")),
        "{}",
        run.outcome
    );
}

#[test]
fn the_register_has_every_invariant_but_those_that_end_the_step_themselves() {
    for invariant in Invariant::ALL {
        let alone = [Invariant::UsedAfterFree, Invariant::NoAbort, Invariant::ComesToRest].contains(invariant);
        assert_eq!(WATCHED.contains(invariant) || JUDGED.contains(invariant), !alone, "{}", invariant.name());
    }
}

fn scenarios(folder: &Path, found: &mut Vec<String>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            scenarios(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "yaml") {
            let name = entry.strip_prefix(path("")).expect("below the package").to_string_lossy().into_owned();
            found.push(name);
        }
    }
}

/// An invariant that cries wolf is a defect.
#[test]
fn all_scenarios_hold_them_all() {
    let mut files = Vec::new();
    scenarios(&path("sim-scenarios"), &mut files);
    assert!(files.len() > 300);
    let broken = in_threads(&files, |file| {
        let plan = plan_of(file)?;
        let seeds = match &plan.schedule {
            Schedule::Any => vec![None, Some(11), Some(12)],
            other => vec![other.seed()],
        };
        let failed =
            seeds.into_iter().map(|seed| checked(&plan, seed).outcome).find(|outcome| *outcome != Outcome::Passed);
        failed.map(|outcome| format!("{file}: {outcome}"))
    });
    let broken: Vec<String> = broken.into_iter().flatten().collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Whoever watches changes nothing.
#[test]
fn a_watched_run_is_the_same_run() {
    for name in CASES {
        let plan = case(name);
        for seed in [None, Some(3)] {
            let options = RunOptions { level: Some(Level::Co), record_choices: true, ..RunOptions::default() };
            let plain = sim::run(&plan, chooser(seed), &options);
            let watched = sim::run(&plan, chooser(seed), &RunOptions { check: true, ..options });
            assert!(plain.trace == watched.trace && plain.choices == watched.choices, "{name} under {seed:?}");
        }
    }
}
