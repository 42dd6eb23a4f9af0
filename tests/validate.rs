//! `validate` says yes to what clients of the real QEMU saw, and no to what they did not.
//!
//! The traces are the recordings of `tests/data/qemu`, each behind a header line that says which QEMU it was; no QEMU is needed.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::trace::compare::ClientLine;
use blockjob_sim::validate::mutate::mutants;
use blockjob_sim::validate::{Answer, Effort, bare, validate};
use common::{CASES, case, in_threads, path, plan_of, recorded};
use std::fs;

const EFFORT: Effort = Effort { tries: 3_000, steps: 20_000_000 };
/// Wrong traces are given up sooner.
const LITTLE: Effort = Effort { tries: 120, steps: 2_000_000 };

#[test]
fn the_real_traces_of_iotest_124_are_possible() {
    let all: Vec<(&str, usize, Vec<ClientLine>)> = CASES
        .iter()
        .flat_map(|name| recorded(name).into_iter().enumerate().map(|(number, trace)| (*name, number, trace)))
        .collect();
    assert_eq!(all.len(), 27);
    let wrong = in_threads(&all, |(name, number, trace)| match validate(&bare(&case(name), trace), trace, EFFORT) {
        Answer::Possible(_) => None,
        Answer::Refused(refusal) => Some(format!("{name} {number}: {refusal:?}")),
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Recordings below these directories of `tests/data/qemu`, and how many mutants of each are tried.
const MUTATED: [(&str, usize); 3] = [("group", 10), ("drain", 10), ("backup", 10)];

/// Takes minutes: `cargo test --release --test validate -- --ignored --nocapture`.
#[test]
#[ignore = "a long search over some thousand wrong traces"]
fn wrong_traces_are_refused_and_the_record_is_named() {
    let mut work = Vec::new();
    for (dir, most) in MUTATED {
        let mut files: Vec<_> =
            fs::read_dir(path(&format!("tests/data/qemu/{dir}"))).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&file).unwrap();
            let traces = blockjob_sim::validate::logs::read(&text).unwrap();
            let Some(plan) = plan_of(&format!("sim-scenarios/{dir}/{name}.yaml")) else { continue };
            // What another real run showed is not wrong.
            let known = traces.clone();
            let mutants =
                mutants(&traces[0], most).into_iter().filter(|m| !known.contains(&m.trace)).collect::<Vec<_>>();
            work.push((format!("{dir}/{name}"), plan, mutants));
        }
    }
    let told = in_threads(&work, |(name, plan, mutants)| {
        let (mut refused, mut possible, mut wrong) = (0, Vec::new(), Vec::new());
        for mutant in mutants {
            match validate(&bare(plan, &mutant.trace), &mutant.trace, LITTLE) {
                // A wrong trace may be a possible one by chance: two events of different jobs, say.
                Answer::Possible(_) => possible.push(format!("{name}: {}, line {}", mutant.what, mutant.line + 1)),
                Answer::Refused(refusal) => {
                    refused += 1;
                    // What fits ends at the record that was changed, or where its absence shows.
                    if refusal.matched < mutant.line.min(mutant.trace.len().saturating_sub(1)).saturating_sub(6) {
                        wrong.push(format!(
                            "{name}: {} in line {}, refused after {}",
                            mutant.what,
                            mutant.line + 1,
                            refusal.matched
                        ));
                    }
                }
            }
        }
        (refused, possible, wrong)
    });
    let refused: usize = told.iter().map(|(refused, _, _)| refused).sum();
    let possible: Vec<&String> = told.iter().flat_map(|(_, possible, _)| possible).collect();
    let wrong: Vec<&String> = told.iter().flat_map(|(_, _, wrong)| wrong).collect();
    println!("{refused} refused, {} possible: {possible:#?}", possible.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(refused > 500, "only {refused} were refused");
    // The few that are possible were looked at one by one: events of a job that may come on either side of a reply.
    assert!(possible.len() * 20 <= refused, "{possible:#?}");
}
