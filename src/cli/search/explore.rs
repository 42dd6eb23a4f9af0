//! `blockjob-sim explore`.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell measures how long a search takes")]

use crate::base::{counted, grouped, part_of};
use crate::choice::{MODE_FAULTS, MODE_ORDER};
use crate::cli::about::quirks::{AlwaysWatchArgs, WatchArgs};
use crate::cli::interrupt::{EXIT_INTERRUPTED, Stop};
use crate::cli::output::Output;
use crate::cli::run::again;
use crate::cli::search::fuzz::one_schedule_only;
use crate::cli::search::memory;
use crate::cli::{EXIT_CODES, EXIT_USAGE, files};
use crate::explore::{Caps, ClientTrace, Exhausted, Reduction, Search, StartPoint, WorkerStates, listed, off_script};
use crate::sim::outcome::{Outcome, RunOptions};
use crate::trace::{Level, RecordKind, text};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Arguments of `explore`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct ExploreArgs {
    /// The scenario file
    file: PathBuf,
    /// Give up after this many states
    #[arg(long, value_name = "N", default_value_t = Caps::default().states)]
    max_states: usize,
    /// Give up when the search uses more memory than this; default: half of the machine's
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_memory: Option<u64>,
    /// Leave out orders of the requests of a backup, mirror or commit that nobody can tell apart; schedules are not counted then
    #[arg(long)]
    reduce: bool,
    /// Number of threads; default: one for each processor. The result does not depend on it
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Also vary which request each fault of the scenario hits; then only broken invariants and crashes count as failures
    #[arg(long)]
    faults: bool,
    /// How many client traces are listed
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
    #[command(flatten)]
    watch: AlwaysWatchArgs,
    /// Print each listed trace, from where exploring starts
    #[arg(long)]
    traces: bool,
    /// List and print this client trace only, named by the beginning of the hexadecimal number that stands behind its place
    #[arg(long, value_name = "NUMBER", value_parser = identity)]
    trace: Option<String>,
}

/// The beginning of the number of a client trace.
fn identity(text: &str) -> Result<String, String> {
    let digits = text.to_ascii_lowercase();
    let fits = (1..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        Ok(digits)
    } else {
        Err(format!("`{text}` is no number of a trace: expected up to 16 hexadecimal digits"))
    }
}

/// A size as scenarios have it, in bytes.
fn size(text: &str) -> Result<u64, String> {
    crate::base::units::parse_size(text).map_err(|_| format!("`{text}` is no size: expected 512M, 2G, …"))
}

/// Kinds of failures that are listed; the others are only counted.
const TOLD: usize = 5;

/// Explores one scenario exhaustively.
pub(in crate::cli) fn explore(args: &ExploreArgs, out: &mut Output) -> u8 {
    let Some(plan) = files::scenario(&args.file, out) else { return EXIT_USAGE };
    one_schedule_only(&plan, out);
    // Invariants are always watched here: they cost little beside the search.
    let watch = args.watch.watch();
    let level = (args.traces || args.trace.is_some()).then_some(Level::Client);
    let options = RunOptions { level, quirks: watch.quirks(), check: true, ..RunOptions::default() };
    let start = match StartPoint::of(&plan, &options) {
        Ok(start) => start,
        Err(outcome) => {
            out.error(&ended_early(&args.file, &outcome));
            return outcome.exit_code().max(1);
        }
    };
    let began = Instant::now();
    let caps = Caps { states: args.max_states, ..Caps::default() };
    let mode = if args.faults { MODE_ORDER | MODE_FAULTS } else { MODE_ORDER };
    let machine = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(machine).clamp(1, 256);
    let stop = Stop::on_signals();
    let memory = args.max_memory.unwrap_or_else(|| memory::of_machine() / 2);
    let mut reduction = if args.reduce { Reduction::Alike } else { Reduction::None };
    let mut search = Search::reduced(&start.sim, mode, caps, jobs, reduction);
    let mut parts = work(&search, jobs, (began, memory), &stop, out);
    if search.doubtful() && !stop.asked() {
        out.remark("a job that copies in many places met an error: every order of its requests is tried\n");
        reduction = Reduction::None;
        search = Search::new(&start.sim, mode, caps, jobs);
        parts = work(&search, jobs, (began, memory), &stop, out);
    }
    let searched = began.elapsed();
    let rate = rate(search.states(), began);
    let mut found = Exhausted::of(&search, parts);
    if args.faults {
        found.ends.retain(|end| !off_script(end));
    }
    drop(search);
    out.print(&summary(&found, reduction));
    let mut missed = false;
    if let Some(traces) = &found.traces {
        missed = !list(args, &watch, (mode, &start, reduction), traces, out);
    }
    let millis = searched.as_millis();
    out.remark(&format!(
        "searched in {}.{:03} s, {} states/s\n",
        millis / 1000,
        millis % 1000,
        grouped(&rate.to_string())
    ));
    if stop.asked() {
        return EXIT_INTERRUPTED;
    }
    if missed {
        out.error(&format!(
            "--trace: no client trace has a number that begins with {}",
            args.trace.as_deref().unwrap_or("")
        ));
        return EXIT_USAGE;
    }
    if found.proved() { 0 } else { found.ends.iter().map(Outcome::exit_code).max().unwrap_or(0).max(1) }
}

/// What is said of a scenario that has no schedules to explore.
pub(in crate::cli) fn ended_early(file: &Path, outcome: &Outcome) -> String {
    format!("{}: the scenario ended before exploring could start: {outcome}", file.display())
}

/// Has the workers search, and says how far they are.
fn work(
    search: &Search,
    jobs: usize,
    (began, limit): (Instant, u64),
    stop: &Stop,
    out: &mut Output,
) -> Vec<WorkerStates> {
    let (done, parts) = mpsc::channel();
    let found = std::thread::scope(|scope| {
        for _ in 0..jobs {
            let done = done.clone();
            scope.spawn(move || {
                // Whoever listens does so until all have answered.
                let _ = done.send(search.work());
            });
        }
        drop(done);
        let mut found = Vec::new();
        loop {
            match parts.recv_timeout(Duration::from_millis(200)) {
                Ok(part) => found.push(part),
                Err(RecvTimeoutError::Disconnected) => return found,
                Err(RecvTimeoutError::Timeout) => {
                    let (held, states) = (memory::held(), search.states());
                    if stop.asked() {
                        search.stop(&format!("Ctrl-C, after {}", counted(states as u64, "state")));
                    } else if held > limit {
                        let states = counted(states as u64, "state");
                        search.stop(&format!("{} MiB of memory, after {states} (--max-memory)", limit >> 20));
                    }
                    out.progress(&progress(search, began, (held, limit)));
                }
            }
        }
    });
    out.progress("");
    found
}

/// How far a search is. How many states there are, nobody knows before the end: what is said is how long it can go on at most, by what
/// it needs a state.
fn progress(search: &Search, began: Instant, (held, limit): (u64, u64)) -> String {
    let states = search.states();
    let per_state = (held / states.max(1) as u64).max(1);
    let room = limit.saturating_sub(held) / per_state;
    let room = room.min(search.room() as u64);
    let seconds = u128::from(room) / rate(states, began).max(1);
    format!(
        "{}, {} states/s, {} MiB of {} MiB; gives up in {}:{:02}:{:02} at the latest",
        counted(states as u64, "state"),
        grouped(&rate(states, began).to_string()),
        held >> 20,
        limit >> 20,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
    )
}

fn rate(states: usize, since: Instant) -> u128 {
    states as u128 * 1_000_000 / since.elapsed().as_micros().max(1)
}

/// What was found, in figures and a verdict.
fn summary(found: &Exhausted, reduction: Reduction) -> String {
    let n = |n: usize| grouped(&n.to_string());
    let mut text = String::new();
    let mut line = |what: &str, value: &str| text.push_str(&format!("{what:<20} {value}\n"));
    if found.capped.is_none() {
        line("states", &n(found.states));
        line("transitions", &n(found.transitions));
        line("depth", &n(found.depth));
        let round = if found.cycles > 0 { ", and infinitely many that repeat a cycle" } else { "" };
        let least = if reduction == Reduction::None { "" } else { "at least " };
        line("complete schedules", &format!("{least}{}{round}", found.schedules));
        if found.cycles > 0 {
            let back = if found.cycles == 1 { "leads" } else { "lead" };
            line("cycles", &format!("{} {back} to an earlier state", counted(found.cycles as u64, "transition")));
        }
        match &found.traces {
            // All of them, also where orders were left out.
            Some(traces) => line("client traces", &n(traces.len())),
            None => line("client traces", "too many to tell apart"),
        }
    }
    let bad: Vec<&Outcome> = found.ends.iter().filter(|end| **end != Outcome::Passed).collect();
    text.push_str(&verdict(found, &bad));
    for end in bad.iter().take(TOLD) {
        text.push_str(&format!("{end}\n"));
    }
    if bad.len() > TOLD {
        text.push_str(&format!("and {}\n", counted((bad.len() - TOLD) as u64, "other failure")));
    }
    text
}

fn verdict(found: &Exhausted, bad: &[&Outcome]) -> String {
    let rest = match (&found.capped, found.without_end, found.cycles) {
        (Some(cap), ..) => format!("INCOMPLETE: stopped at {cap}; nothing is proved\n"),
        (None, 0, 0) if !bad.iter().any(|end| matches!(end, Outcome::Stuck { .. } | Outcome::Limit { .. })) => {
            "every schedule comes to rest\n".to_owned()
        }
        (None, 0, 0) => "NOT every schedule comes to rest\n".to_owned(),
        (None, 0, _) => {
            "every schedule comes to rest, except those that repeat a cycle for ever; an end can be reached from each state\n"
                .to_owned()
        }
        (None, lost, _) => {
            format!("NOT every schedule comes to rest: no end can be reached from {}\n", counted(lost as u64, "state"))
        },
    };
    let passed = match (bad.len(), &found.capped) {
        (0, None) => "every schedule passed\n".to_owned(),
        (0, Some(_)) => "no schedule failed so far\n".to_owned(),
        (n, _) => format!("FAILED, {}:\n", counted(n as u64, "different failure")),
    };
    rest + &passed
}

/// The client traces, each with the shortest choices that lead to it. Whether there are those that were asked for.
fn list(
    args: &ExploreArgs,
    watch: &WatchArgs,
    (mode, start, reduction): (u32, &StartPoint, Reduction),
    traces: &[ClientTrace],
    out: &mut Output,
) -> bool {
    let least = if reduction == Reduction::None { "" } else { "at least " };
    let number_of = |trace: &ClientTrace| format!("{:016x}", trace.digest.0);
    let wanted = |trace: &ClientTrace| args.trace.as_ref().is_none_or(|begins| number_of(trace).starts_with(&**begins));
    let listed_traces: Vec<_> = traces.iter().enumerate().filter(|(_, trace)| wanted(trace)).collect();
    for &(number, trace) in listed_traces.iter().take(args.list) {
        let (log, records, outcome) = listed(mode, start, &trace.picks);
        let schedules = match trace.schedules.to_string() {
            one if one == "1" => format!("{least}1 schedule"),
            many => format!("{least}{many} schedules"),
        };
        let calm = match (trace.deviations, u64::from(trace.choices)) {
            (0, 0) => "no choice".to_owned(),
            (0, all) => format!("{} calm", part_of(all, all, "choice")),
            (few, all) => format!("{} not calm", part_of(u64::from(few), all, "choice")),
        };
        out.print(&format!(
            "\ntrace {} of {}: {}, {}, {}, {}\n",
            number + 1,
            traces.len(),
            number_of(trace),
            outcome.word(),
            schedules,
            calm,
        ));
        out.print(&format!("  {}\n", again(&args.file, None, Some(&log.deviations().one_line()), watch)));
        if args.traces || args.trace.is_some() {
            let skip = start.sim.world.trace.len();
            for record in records.iter().skip(skip).filter(|record| record.kind.level() == Level::Client) {
                if !matches!(record.kind, RecordKind::Note(_)) {
                    let mut line = String::new();
                    text::write_line(record, &mut line);
                    out.print(&format!("  {}\n", line.trim_end()));
                }
            }
        }
    }
    if listed_traces.len() > args.list {
        out.print(&format!("\nand {} more (--list)\n", listed_traces.len() - args.list));
    }
    args.trace.is_none() || !listed_traces.is_empty()
}
