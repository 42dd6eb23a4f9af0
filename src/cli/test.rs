//! `blockjob-sim test`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell has workers, and writes the report to a real file"
)]

use super::check::WIDTH;
use super::output::Output;
use super::run::again;
use super::{EXIT_USAGE, TestArgs, files, report};
use crate::choice::{Chooser, Walk};
use crate::explore::Strategy;
use crate::scenario::Library;
use crate::scenario::plan::{Plan, Schedule};
use crate::sim;
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// How many failed runs of one scenario are told; the others are counted.
const SHOWN: usize = 5;

/// What came of one scenario.
struct Verdict {
    name: String,
    /// What failed: a text for people, the first few runs.
    failures: Vec<String>,
    runs: u64,
    failed: u64,
    /// The worst exit code.
    code: u8,
}

/// Runs every scenario, calm and under each seed; one that holds in a single schedule only in that.
pub(super) fn test(args: &TestArgs, runner: Runner, out: &mut Output) -> u8 {
    if let Some(Err(error)) = args.junit.as_ref().map(|path| crate::serve::outfile::probe(path)) {
        out.complain(&format!("--junit: {error}\n"));
        return EXIT_USAGE;
    }
    let paths = match files::scenarios(&args.dir) {
        Ok(paths) => paths,
        Err(problem) => {
            out.complain(&format!("{problem}\n"));
            return EXIT_USAGE;
        }
    };
    let mut verdicts = Vec::new();
    all(&paths, args, runner, out.colour_out, &mut |verdict| {
        out.progress("");
        tell(&verdict, out);
        out.progress(&format!("{} of {}", verdicts.len() + 1, paths.len()));
        verdicts.push(verdict);
    });
    out.progress("");
    if verdicts.is_empty() {
        out.complain(&format!("{}: no scenarios here\n", args.dir.display()));
        return EXIT_USAGE;
    }
    let failed = verdicts.iter().filter(|verdict| verdict.code != 0).count();
    let runs: u64 = verdicts.iter().map(|verdict| verdict.runs).sum();
    out.print(&format!(
        "{} scenarios, {runs} runs: {} passed, {failed} failed\n",
        verdicts.len(),
        verdicts.len() - failed
    ));
    let mut code = verdicts.iter().map(|verdict| verdict.code).max().unwrap_or(0);
    if let Some(path) = &args.junit
        && let Err(problem) = write_junit(path, &verdicts)
    {
        out.complain(&format!("{}: {problem}\n", path.display()));
        code = code.max(EXIT_USAGE);
    }
    code
}

/// Shares the scenarios out among workers, and tells what came of each, in their order.
fn all(paths: &[PathBuf], args: &TestArgs, runner: Runner, colour: bool, told: &mut dyn FnMut(Verdict)) {
    let machine = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(machine).clamp(1, 256).min(paths.len());
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for _ in 0..jobs {
            let (send, taken) = (send.clone(), &taken);
            scope.spawn(move || {
                let mut library = Library::default();
                loop {
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = paths.get(number) else { break };
                    let verdict = one(&mut library, path, args, runner, colour);
                    if send.send((number, verdict)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        for (number, verdict) in receive {
            waiting.insert(number, verdict);
            while let Some(verdict) = waiting.remove(&next) {
                next += 1;
                if let Some(verdict) = verdict {
                    told(verdict);
                }
            }
        }
    });
}

/// Runs a scenario; nothing for a file that only holds definitions.
fn one(library: &mut Library, path: &Path, args: &TestArgs, runner: Runner, colour: bool) -> Option<Verdict> {
    let name = path.strip_prefix(&args.dir).ok().filter(|rest| *rest != Path::new("")).unwrap_or(path);
    let name = name.with_extension("").to_string_lossy().into_owned();
    match files::plan_with(library, path) {
        Ok(None) => None,
        Ok(Some(plan)) => Some(run_all(name, path, &plan, args, runner)),
        Err(error) => {
            let failures = vec![report::render(&error, WIDTH, colour)];
            Some(Verdict { name, failures, runs: 0, failed: 1, code: EXIT_USAGE })
        }
    }
}

fn run_all(name: String, path: &Path, plan: &Plan, args: &TestArgs, runner: Runner) -> Verdict {
    let mut verdict = Verdict { name, failures: Vec::new(), runs: 0, failed: 0, code: 0 };
    let options = RunOptions { quirks: args.watch.quirks(), check: args.watch.check, ..RunOptions::default() };
    let seeds = args.seeds.clone().filter(|_| plan.schedule == Schedule::Any);
    // Runs differ from where the first choice is made: the images and the process are made once.
    let begun = seeds.as_ref().and_then(|_| sim::Sim::new(plan, &options).ok());
    for seed in std::iter::once(None).chain(seeds.into_iter().flatten().map(Some)) {
        let own = || sim::chooser(&plan.schedule);
        let chooser = seed.map_or_else(own, |seed| Chooser::Walk(Box::new(Walk::new(seed))));
        let run = match (seed, &begun) {
            (Some(_), Some(begun)) => sim::run_from(plan, begun.clone(), chooser, &options),
            _ => runner(plan, chooser, &options),
        };
        let outcome = run.outcome;
        verdict.runs += 1;
        if outcome == Outcome::Passed {
            continue;
        }
        verdict.failed += 1;
        verdict.code = verdict.code.max(outcome.exit_code());
        if verdict.failures.len() < SHOWN {
            let again = again(path, seed.map(|seed| (Strategy::Walk, seed)), None, &args.watch);
            verdict.failures.push(format!("{outcome}\n  again: {again}\n"));
        }
    }
    verdict
}

/// Prints a line for a scenario, and what failed below it.
fn tell(verdict: &Verdict, out: &mut Output) {
    let word = if verdict.code == 0 { "ok" } else { "FAILED" };
    let of = match verdict.runs {
        0 | 1 => String::new(),
        runs if verdict.failed == 0 => format!("  {runs} runs"),
        runs => format!("  {} of {runs} runs", verdict.failed),
    };
    out.print(&format!("{word:<6}  {}{of}\n", verdict.name));
    for failure in &verdict.failures {
        let indented: String = failure.lines().map(|line| format!("        {line}\n")).collect();
        out.print(&indented);
    }
    let untold = verdict.failed.saturating_sub(verdict.failures.len() as u64);
    if untold > 0 {
        out.print(&format!("        and {untold} more\n"));
    }
}

/// Writes the report that continuous integration shows; it has no times, so that the same runs give the same file.
fn write_junit(path: &Path, verdicts: &[Verdict]) -> Result<(), String> {
    let mut suite = TestSuite::new("scenarios");
    for verdict in verdicts {
        let mut status = TestCaseStatus::success();
        if verdict.code != 0 {
            let kind = if verdict.code == 1 { NonSuccessKind::Failure } else { NonSuccessKind::Error };
            status = TestCaseStatus::non_success(kind);
            status.set_message(match verdict.runs {
                0 => "a mistake in the file".to_owned(),
                runs => format!("{} of {runs} runs failed", verdict.failed),
            });
            status.set_description(verdict.failures.join("\n"));
        }
        suite.add_test_case(TestCase::new(verdict.name.as_str(), status));
    }
    let mut report = Report::new("blockjob-sim");
    report.add_test_suite(suite);
    let text = report.to_string().map_err(|error| error.to_string())?;
    crate::serve::outfile::write(path, text.as_bytes()).map_err(|error| error.to_string())
}
