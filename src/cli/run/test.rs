//! `blockjob-sim test`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell has workers and a clock, and writes the report to a real file"
)]

use crate::base::{counted, part_of};
use crate::choice::Chooser;
use crate::cli::interrupt::{EXIT_INTERRUPTED, Stop};
use crate::cli::output::Output;
use crate::cli::run::again;
use crate::cli::scenario::check::WIDTH;
use crate::cli::{EXIT_USAGE, TestArgs, files, report};
use crate::explore::Strategy;
use crate::scenario::Library;
use crate::scenario::plan::{Plan, Schedule};
use crate::sim;
use crate::sim::outcome::{Outcome, RunOptions, Runner};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How many kinds of failures of one scenario are listed; the others are only counted.
const SHOWN: usize = 5;

/// What came of one scenario.
struct Verdict {
    name: String,
    /// The folder that it stands in, for reports.
    class: String,
    /// What failed: a text for people, the first of each kind.
    failures: Vec<String>,
    runs: u64,
    failed: u64,
    /// The worst exit code.
    code: u8,
    /// How long it took.
    time: Duration,
}

/// What the workers share.
struct Shared<'a> {
    found: &'a [(PathBuf, PathBuf)],
    args: &'a TestArgs,
    runner: Runner,
    colour: bool,
    stop: Stop,
    /// A scenario failed, and that is enough.
    enough: AtomicBool,
    /// Runs made so far.
    runs: AtomicU64,
}

impl Shared<'_> {
    fn over(&self) -> bool {
        self.stop.asked() || self.enough.load(Ordering::Relaxed)
    }
}

/// Where scenarios are looked for if nobody says where.
pub(in crate::cli) const DEFAULT_DIR: &str = "sim-scenarios";

/// Runs every scenario, calm and under each seed; one that holds in a single schedule only in that.
pub(in crate::cli) fn test(args: &TestArgs, runner: Runner, out: &mut Output) -> u8 {
    if let Some(Err(error)) = args.junit.as_ref().map(|path| crate::serve::outfile::probe(path)) {
        out.error(&format!(
            "--junit: {}: {}",
            args.junit.as_deref().unwrap_or("".as_ref()).display(),
            files::plain(&error)
        ));
        return EXIT_USAGE;
    }
    let found = match files::named(&args.paths, &args.filter) {
        Ok(found) => found,
        Err(problem) => {
            // Nobody has named this one.
            let unnamed = args.paths.iter().any(|path| path.as_os_str() == DEFAULT_DIR && !path.exists());
            out.error(&if unnamed {
                format!("{problem}; name scenario files, or directories of them")
            } else {
                problem
            });
            return EXIT_USAGE;
        }
    };
    if args.list {
        found.iter().for_each(|(_, path)| out.print(&format!("{}\n", path.display())));
        return if found.is_empty() { EXIT_USAGE } else { 0 };
    }
    let shared = Shared {
        found: &found,
        args,
        runner,
        colour: out.colour_out,
        stop: Stop::on_signals(),
        enough: AtomicBool::new(false),
        runs: AtomicU64::new(0),
    };
    let verdicts = all(&shared, out);
    if verdicts.is_empty() && !shared.stop.asked() {
        out.error(&files::none(&args.paths, &args.filter));
        return EXIT_USAGE;
    }
    let failed = verdicts.iter().filter(|verdict| verdict.code != 0).count();
    let runs: u64 = verdicts.iter().map(|verdict| verdict.runs).sum();
    out.print(&format!(
        "{}, {}: {} passed, {failed} failed\n",
        counted(verdicts.len() as u64, "scenario"),
        counted(runs, "run"),
        verdicts.len() - failed
    ));
    let mut code = verdicts.iter().map(|verdict| verdict.code).max().unwrap_or(0);
    if let Some(path) = &args.junit
        && let Err(problem) = write_junit(path, &verdicts)
    {
        out.error(&format!("{}: {problem}", path.display()));
        code = code.max(EXIT_USAGE);
    }
    if shared.stop.asked() {
        out.complain(&format!(
            "interrupted: what was not run yet of the {} is not counted\n",
            counted(found.len() as u64, "file")
        ));
        code = EXIT_INTERRUPTED;
    }
    code
}

/// Distributes the scenarios among workers, and reports the result of each, in their order.
fn all(shared: &Shared<'_>, out: &mut Output) -> Vec<Verdict> {
    let machine = std::thread::available_parallelism().map_or(1, usize::from);
    let total = shared.found.len();
    let jobs = shared.args.jobs.unwrap_or(machine).clamp(1, 256).min(total);
    let taken = AtomicUsize::new(0);
    let mut verdicts: Vec<Verdict> = Vec::new();
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for _ in 0..jobs {
            let (send, taken) = (send.clone(), &taken);
            scope.spawn(move || {
                let mut library = Library::default();
                while !shared.over() {
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    let Some((dir, path)) = shared.found.get(number) else { break };
                    let verdict = one(&mut library, dir, path, shared);
                    if send.send((number, verdict)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let (mut waiting, mut next, mut done) = (BTreeMap::new(), 0, 0);
        loop {
            match receive.recv_timeout(Duration::from_millis(200)) {
                Ok((number, verdict)) => {
                    done += 1;
                    _ = waiting.insert(number, verdict);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            while let Some(verdict) = waiting.remove(&next) {
                next += 1;
                // With --fail-fast scenarios after the first failure are not reported, whichever worker was faster.
                if let Some(verdict) = verdict
                    && !shared.enough.load(Ordering::Relaxed)
                {
                    out.progress("");
                    tell(&verdict, out);
                    shared.enough.store(shared.args.fail_fast && verdict.code != 0, Ordering::Relaxed);
                    verdicts.push(verdict);
                }
            }
            let runs = shared.runs.load(Ordering::Relaxed);
            out.progress(&format!("{}, {}", part_of(done, total as u64, "scenario"), counted(runs, "run")));
        }
    });
    out.progress("");
    verdicts
}

/// Runs a scenario; nothing for a file that only holds definitions.
fn one(library: &mut Library, dir: &Path, path: &Path, shared: &Shared<'_>) -> Option<Verdict> {
    let name = path.strip_prefix(dir).ok().filter(|rest| *rest != Path::new("")).unwrap_or(path);
    let name = name.with_extension("").to_string_lossy().into_owned();
    let class = path.parent().map_or_else(String::new, |folder| folder.to_string_lossy().replace('/', "."));
    let began = Instant::now();
    let mut verdict =
        Verdict { name, class, failures: Vec::new(), runs: 0, failed: 0, code: 0, time: Duration::default() };
    match files::plan_with(library, path) {
        Ok(None) => return None,
        Ok(Some(plan)) => run_all(path, &plan, shared, &mut verdict),
        Err(error) => {
            verdict.failures.push(report::render(&error, WIDTH, shared.colour));
            (verdict.failed, verdict.code) = (1, EXIT_USAGE);
        }
    }
    verdict.time = began.elapsed();
    Some(verdict)
}

fn run_all(path: &Path, plan: &Plan, shared: &Shared<'_>, verdict: &mut Verdict) {
    let args = shared.args;
    let options = RunOptions { quirks: args.watch.quirks(), check: args.watch.check, ..RunOptions::default() };
    let seeds = args.seeds.clone().filter(|_| plan.schedule == Schedule::Any);
    // Runs differ from where the first choice is made: the images and the process are made once.
    let begun = seeds.as_ref().and_then(|_| sim::Sim::new(plan, &options).ok());
    // The same failure under many seeds is reported once, with the first command that reproduces it.
    let mut kinds: BTreeMap<String, (String, u64)> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for seed in std::iter::once(None).chain(seeds.into_iter().flatten().map(Some)) {
        if shared.stop.asked() {
            break;
        }
        let own = || sim::chooser(&plan.schedule);
        let chooser = seed.map_or_else(own, Chooser::seed);
        let run = match (seed, &begun) {
            (Some(_), Some(begun)) => sim::run_from(plan, begun.clone(), chooser, &options),
            _ => (shared.runner)(plan, chooser, &options),
        };
        let outcome = run.outcome;
        verdict.runs += 1;
        shared.runs.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Passed {
            continue;
        }
        verdict.failed += 1;
        verdict.code = verdict.code.max(outcome.exit_code());
        let text = outcome.to_string();
        if kinds.len() < SHOWN || kinds.contains_key(&text) {
            let again = || again(path, seed.map(|seed| (Strategy::Walk, seed)), None, &args.watch);
            if !kinds.contains_key(&text) {
                order.push(text.clone());
            }
            kinds.entry(text).or_insert_with(|| (again(), 0)).1 += 1;
        }
    }
    for text in order {
        let Some((again, times)) = kinds.remove(&text) else { continue };
        let times = if times > 1 { format!("\n  {} fail like this", counted(times, "run")) } else { String::new() };
        verdict.failures.push(format!("{text}{times}\n  again: {again}\n"));
    }
}

/// Prints a line for a scenario, and what failed below it.
fn tell(verdict: &Verdict, out: &mut Output) {
    if out.quiet && verdict.code == 0 {
        return;
    }
    let word = if verdict.code == 0 { "ok" } else { "FAILED" };
    let of = match verdict.runs {
        0 | 1 => String::new(),
        runs if verdict.failed == 0 => format!("  {}", counted(runs, "run")),
        runs => format!("  {}", part_of(verdict.failed, runs, "run")),
    };
    out.print(&format!("{word:<6}  {}{of}\n", verdict.name));
    for failure in &verdict.failures {
        let indented: String = failure.lines().map(|line| format!("        {line}\n")).collect();
        out.print(&indented);
    }
}

/// Writes the report that continuous integration shows.
fn write_junit(path: &Path, verdicts: &[Verdict]) -> Result<(), String> {
    crate::serve::outfile::write(path, junit(verdicts)?.as_bytes()).map_err(|error| files::plain(&error))
}

/// The results in JUnit's form: a mistake in a file is an error, anything that a run found a failure.
fn junit(verdicts: &[Verdict]) -> Result<String, String> {
    let time = verdicts.iter().map(|verdict| verdict.time).sum();
    let mut suite = TestSuite::new("scenarios");
    suite.set_time(time);
    for verdict in verdicts {
        let kind = match verdict.code {
            0 => None,
            1 => Some(NonSuccessKind::Failure),
            _ => Some(NonSuccessKind::Error),
        };
        let status = kind.map_or_else(TestCaseStatus::success, |kind| {
            let mut status = TestCaseStatus::non_success(kind);
            status.set_message(match verdict.runs {
                0 => "a mistake in the file".to_owned(),
                runs => format!("{} failed", part_of(verdict.failed, runs, "run")),
            });
            status.set_description(verdict.failures.join("\n"));
            status
        });
        let mut case = TestCase::new(verdict.name.as_str(), status);
        case.set_classname(verdict.class.as_str()).set_time(verdict.time);
        suite.add_test_case(case);
    }
    let mut report = Report::new("blockjob-sim");
    report.set_time(time).add_test_suite(suite);
    report.to_string().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_xml_whatever_a_failure_says() {
        let verdict = |name: &str, code: u8, failure: &str| Verdict {
            name: name.to_owned(),
            class: "a".to_owned(),
            failures: vec![failure.to_owned()],
            runs: u64::from(code == 1),
            failed: u64::from(code > 0),
            code,
            time: Duration::from_millis(1_250),
        };
        let coloured = "\x1b[31m×\x1b[0m <a> & \"b\" \u{1}";
        let text = junit(&[verdict("one", 0, ""), verdict("<two>", 1, coloured), verdict("three", 2, "]]>")]);
        let text = text.expect("a report");
        for part in [
            "<testsuite name=\"scenarios\" tests=\"3\" skipped=\"0\" errors=\"1\" failures=\"1\" time=\"3.750\">",
            "<testcase name=\"one\" classname=\"a\" time=\"1.250\"/>",
            "<testcase name=\"&lt;two&gt;\" classname=\"a\" time=\"1.250\">",
            "<failure message=\"1 run failed\">× &lt;a&gt; &amp; &quot;b&quot; </failure>",
            "<error message=\"a mistake in the file\">]]&gt;</error>",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
