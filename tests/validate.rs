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

use blockjob_sim::base::Json;
use blockjob_sim::choice::{Chooser, Replay, ReplayMode};
use blockjob_sim::scenario::plan::{Plan, PlannedStep, StepKind};
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::RunOptions;
use blockjob_sim::trace::Level;
use blockjob_sim::trace::canonical;
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use blockjob_sim::validate::mutate::mutants;
use blockjob_sim::validate::target::Target;
use blockjob_sim::validate::{Answer, Effort, bare, search, validate, validate_like};
use common::{CASES, case, in_threads, path, plan_of, recorded};
use std::fs;
use std::sync::Arc;

const EFFORT: Effort = Effort { tries: 3_000, steps: 20_000_000, seed: 0 };
/// Wrong traces are given up sooner.
const LITTLE: Effort = Effort { tries: 120, steps: 2_000_000, seed: 0 };
/// There are thousands of those that are made, each a small change of a trace whose choices are known. A mirror that is READY wakes up ten
/// times a second while the client waits for what never comes, and would use up any number of steps.
const BRIEF: Effort = Effort { steps: 200_000, ..LITTLE };

/// What a client saw that did not wait for QEMU to come to rest, one program a kind of order: each took a change of the model, or, as
/// the error that is lost in a pause, of the search.
#[test]
fn racing_traces_of_the_real_one_are_possible() {
    let names = fs::read_dir(path("tests/data/racing")).unwrap().map(|entry| entry.unwrap().path());
    let mut traces: Vec<_> = names.filter(|file| file.extension().is_some_and(|e| e == "jsonl")).collect();
    traces.sort();
    assert_eq!(traces.len(), 12);
    for file in traces {
        let real = blockjob_sim::validate::logs::read(&fs::read_to_string(&file).unwrap()).unwrap().remove(0);
        let plan = plan_of(file.with_extension("yaml").to_str().unwrap()).expect("a trace has its program");
        let plan = bare(&plan, &real);
        let log = match validate(&plan, &real, Effort { tries: 100_000, ..EFFORT }) {
            Answer::Possible(log) => log,
            other => panic!("{}: {other:?}", file.display()),
        };
        let options = RunOptions { level: Some(Level::Client), ..RunOptions::default() };
        let run = sim::run(&plan, Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict)), &options);
        let difference = first_difference(&client_lines(&run.trace), &real);
        assert!(difference.is_none(), "{}: its choices give {difference:?}", file.display());
    }
}

/// Crashes of the real one that the model foretells: the trace that ends in one, and the signal.
fn crashes() -> Vec<(String, Plan, Vec<ClientLine>, String)> {
    let names = fs::read_dir(path("tests/data/crashes")).unwrap().map(|entry| entry.unwrap().path());
    let mut traces: Vec<_> = names.filter(|file| file.extension().is_some_and(|e| e == "jsonl")).collect();
    traces.sort();
    let read = |file: std::path::PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        let head = canonical::parse(text.lines().next().unwrap()).unwrap();
        let member = |key: &str| head.get(key).and_then(Json::as_str).expect("the head says it").to_owned();
        let real = blockjob_sim::validate::logs::read(&text).unwrap().remove(0);
        let plan = plan_of(&member("case")).expect("a trace has its program");
        (file.display().to_string(), bare(&plan, &real), real, member("killed"))
    };
    traces.into_iter().map(read).collect()
}

fn killed(plan: &Plan, trace: &[ClientLine], signal: Option<&str>, effort: Effort) -> Answer {
    let target = Target { killed: signal.map(str::to_owned), hangs: false, ..Target::new(trace) };
    search(plan, &target, trace, None, effort)
}

#[test]
fn crashes_are_foretold_after_the_same_trace() {
    let crashes = crashes();
    assert_eq!(crashes.len(), 4);
    for (name, plan, real, signal) in crashes {
        let answer = killed(&plan, &real, Some(&signal), EFFORT);
        assert!(
            matches!(&answer, Answer::Dies(_, broken) if broken.signals().contains(&&*signal)),
            "{name}: {answer:?}"
        );
    }
}

/// What ends the model's run excuses no crash that comes earlier, after another trace, or of another kind, and no process that goes on.
#[test]
fn other_crashes_are_not_foretold() {
    for (name, plan, real, signal) in crashes() {
        let none = |what: &str, trace: &[ClientLine], signal: Option<&str>| {
            let answer = killed(&plan, trace, signal, LITTLE);
            assert!(!answer.is_found(), "{name}, {what}: {answer:?}");
        };
        none("before its last line", &real[..real.len() - 1], Some(&signal));
        none("halfway", &real[..real.len() / 2], Some(&signal));
        let at = real.iter().rposition(|line| matches!(line, ClientLine::Event { .. })).expect("an event");
        let mut other = real.clone();
        other[at] = ClientLine::Event { name: "BLOCK_JOB_ERROR".into(), data: Json::empty() };
        none("after another event", &other, Some(&signal));
        other[at] = real[at].clone();
        other.push(real[at].clone());
        none("after one more event", &other, Some(&signal));
        none("of a signal that nothing here gives", &real, Some("SIGFPE"));
        none("where none came", &real, None);
        let defined = !name.contains("snapshot-as-a-backup-ends");
        if defined {
            none("of the other signal", &real, Some(if signal == "SIGABRT" { "SIGSEGV" } else { "SIGABRT" }));
        }
    }
}

#[test]
fn the_real_traces_of_iotest_124_are_possible() {
    let all: Vec<(&str, usize, Vec<ClientLine>)> = CASES
        .iter()
        .flat_map(|name| recorded(name).into_iter().enumerate().map(|(number, trace)| (*name, number, trace)))
        .collect();
    assert_eq!(all.len(), 27);
    let wrong = in_threads(&all, |(name, number, trace)| match validate(&bare(&case(name), trace), trace, EFFORT) {
        Answer::Possible(_) => None,
        other => Some(format!("{name} {number}: {other:?}")),
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many wrong traces are made of each.
const MUTANTS: usize = 10;

/// What came of wrong traces.
#[derive(Default)]
struct Told {
    refused: usize,
    /// Those that the model can give.
    possible: Vec<String>,
    /// Those that got a wrong answer.
    wrong: Vec<String>,
}

/// Each wrong trace is refused at the record that is wrong, or is one that the model gives: then the choices show it.
fn tell_wrong_traces() -> Told {
    let mut files: Vec<(String, String)> = Vec::new();
    let dirs =
        fs::read_dir(path("tests/data/qemu")).unwrap().map(|dir| dir.unwrap().file_name().into_string().unwrap());
    for dir in dirs {
        let names = fs::read_dir(path(&format!("tests/data/qemu/{dir}"))).unwrap().map(|e| e.unwrap().path());
        files.extend(names.map(|f| (dir.to_owned(), f.file_stem().unwrap().to_str().unwrap().to_owned())));
    }
    // `TRACES=nbd`: those of one folder alone.
    let only = std::env::var("TRACES").ok();
    files.retain(|(dir, _)| only.as_ref().is_none_or(|only| only == dir));
    files.sort();
    let work: Vec<_> = files.iter().collect();
    let told = in_threads(&work, |(dir, name)| {
        let text = fs::read_to_string(path(&format!("tests/data/qemu/{dir}/{name}.jsonl"))).unwrap();
        let real = blockjob_sim::validate::logs::read(&text).unwrap().remove(0);
        let plan = plan_of(&format!("sim-scenarios/{dir}/{name}.yaml")).expect("a recording has its scenario");
        let mut told = Told::default();
        // Traces that end with QEMU's death have a test of their own.
        if plan.expect_violation.is_some() {
            return told;
        }
        let plan = bare(&plan, &real);
        let Answer::Possible(like) = validate(&plan, &real, EFFORT) else {
            told.wrong.push(format!("{dir}/{name}: the real trace is refused"));
            return told;
        };
        // The moment of a signal is in no trace: with another one a wrong trace may be refused elsewhere.
        if plan.steps.iter().any(|step: &PlannedStep| matches!(step.kind, StepKind::Process(_))) {
            return told;
        }
        for mutant in mutants(&real, MUTANTS) {
            let what = format!("{dir}/{name}: {} in line {}", mutant.what, mutant.line + 1);
            match validate_like(&plan, &mutant.trace, like.clone(), BRIEF) {
                // A wrong trace may be possible, as when two events of different jobs changed places. The choices must give just it.
                Answer::Possible(log) => {
                    let chooser = Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict));
                    let options = RunOptions { level: Some(Level::Client), ..RunOptions::default() };
                    let run = sim::run(&plan, chooser, &options);
                    match first_difference(&client_lines(&run.trace), &mutant.trace) {
                        None => told.possible.push(what),
                        Some(difference) => {
                            told.wrong.push(format!("{what}: possible, but its choices give {difference}"))
                        }
                    }
                }
                Answer::Dies(_, broken) => told.wrong.push(format!("{what}: the process dies: {broken}")),
                Answer::Refused(refusal) => {
                    told.refused += 1;
                    // All before the wrong record is as it was, and so it fits; the record, or what its absence leaves, does not.
                    if refusal.matched < mutant.line {
                        told.wrong.push(format!("{what}: refused before, in line {}", refusal.matched + 1));
                    }
                }
            }
        }
        told
    });
    let mut all = Told::default();
    for mut part in told {
        all.refused += part.refused;
        all.possible.append(&mut part.possible);
        all.wrong.append(&mut part.wrong);
    }
    all
}

#[test]
fn wrong_traces_are_refused_at_the_wrong_record() {
    let Told { refused, possible, wrong } = tell_wrong_traces();
    println!("{refused} refused, {} possible by choices that were run: {possible:#?}", possible.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(refused > 3_000 || std::env::var_os("TRACES").is_some(), "only {refused} were refused");
}
