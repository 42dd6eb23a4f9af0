//! What the tests of whole scenarios share.

#![allow(dead_code, reason = "each test takes what it needs")]

use blockjob_sim::choice::{Chooser, Walk};
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::{Outcome, Run, RunOptions};
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use blockjob_sim::trace::jsonl::parse_client;
use blockjob_sim::trace::{Level, Record, RecordKind, RequestPhase, text};
use std::fs;
use std::path::{Path, PathBuf};

/// The cases of iotest 124, by the names of their scenarios.
pub const CASES: [&str; 13] = [
    "growing-before-backup",
    "incremental-failure",
    "incremental-pause",
    "incremental-simple",
    "incremental-transaction",
    "large-granularity",
    "larger-cluster-target",
    "small-granularity",
    "sync-dirty-bitmap-bad-granularity",
    "sync-dirty-bitmap-missing",
    "sync-dirty-bitmap-not-found",
    "transaction-failure",
    "transaction-failure-race",
];

/// Seeds under which the real QEMU's other traces come about: case, number of the recorded trace, seed.
pub const RECORDED_SEEDS: &[(&str, usize, u64)] = &[
    ("incremental-pause", 0, 0),
    ("incremental-pause", 1, 7),
    ("incremental-transaction", 0, 0),
    ("incremental-transaction", 1, 47),
    ("incremental-transaction", 2, 62),
    ("incremental-transaction", 3, 204),
    ("incremental-transaction", 4, 27),
    ("incremental-transaction", 5, 117),
    ("incremental-transaction", 6, 26),
    ("incremental-transaction", 7, 411),
    ("incremental-transaction", 8, 168),
    ("transaction-failure", 0, 2),
    ("transaction-failure", 1, 3),
    ("transaction-failure", 2, 0),
    ("transaction-failure", 3, 15),
    ("transaction-failure", 4, 33),
    ("transaction-failure", 5, 287),
];

/// Seeds under which the race case's traces differ from each other.
pub const RACE_SEEDS: &[u64] = &[0, 1, 2, 3, 4];

/// A path below the package's folder.
pub fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// The file of a case's scenario.
pub fn case_file(case: &str) -> String {
    format!("sim-scenarios/iotest-124/{case}.yaml")
}

/// Reads a scenario by its name below the package's folder; `None` for one that only defines.
pub fn plan_of(file: &str) -> Option<Plan> {
    let read = &mut |name: &str| fs::read_to_string(path(name)).map_err(|error| error.to_string());
    load(file, read).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The plan of a case.
pub fn case(case: &str) -> Plan {
    plan_of(&case_file(case)).expect("a scenario")
}

/// The schedule of a seed; without one the calm one.
pub fn chooser(seed: Option<u64>) -> Chooser {
    seed.map_or(Chooser::Calm, |seed| Chooser::Walk(Box::new(Walk::new(seed))))
}

/// A run with a trace; without a seed in the scenario's own schedule.
pub fn run(plan: &Plan, seed: Option<u64>, level: Level) -> Run {
    let options = RunOptions { level: Some(level), record_choices: false, ..RunOptions::default() };
    let own = || sim::chooser(&plan.schedule);
    sim::run(plan, seed.map_or_else(own, |seed| chooser(Some(seed))), &options)
}

/// The client's view of a run that must pass.
pub fn client_trace(plan: &Plan, seed: Option<u64>) -> Vec<ClientLine> {
    let run = run(plan, seed, Level::Client);
    assert_eq!(run.outcome, Outcome::Passed, "{}\nseed {seed:?}", run.outcome);
    client_lines(&run.trace)
}

/// What clients of the real QEMU saw in a case, from the most frequent trace on: each begins with a header line.
pub fn recorded(case: &str) -> Vec<Vec<ClientLine>> {
    traces(&format!("tests/data/qemu/iotest-124/{case}.jsonl"))
}

/// The client traces of a file: each begins with a header line.
pub fn traces(file: &str) -> Vec<Vec<ClientLine>> {
    let text = fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    parted(&text).into_iter().map(|(_, trace)| trace).collect()
}

/// The parts of such a file, each with its header line, and the client trace of each.
pub fn parted(text: &str) -> Vec<(String, Vec<ClientLine>)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let is_header = line.contains(r#""qemu": "10.0.2""#);
        if is_header {
            parts.push(Default::default());
        }
        let (part, trace) = parts.last_mut().expect("a header line first");
        *part += &format!("{line}\n");
        if !is_header {
            *trace += &format!("{line}\n");
        }
    }
    let read = |text: &str| parse_client(text).unwrap_or_else(|error| panic!("{error:?}"));
    parts.into_iter().map(|(part, trace)| (part, read(&trace))).collect()
}

/// Calls `each` for all items, on as many threads as the machine has; the answers come in the order of the items.
pub fn in_threads<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let answers = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(i) else { return };
                    let answer = each(item);
                    answers.lock().unwrap().push((i, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_by_key(|(i, _)| *i);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Lines of records, long ones cut; `tests/qemu_traces.rs` holds what they say in full against the real QEMU.
pub fn lines<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    text::short_lines(records, text::SNAPSHOT_WIDTH)
}

/// The race from its transaction on.
pub fn race(plan: &Plan, seed: u64) -> String {
    let run = run(plan, Some(seed), Level::Io);
    assert_eq!(run.outcome, Outcome::Passed, "{}\nseed {seed}", run.outcome);
    let is_mark = |record: &&Record| !matches!(&record.kind, RecordKind::Note(note) if note.what == "mark");
    lines(run.trace.iter().skip_while(is_mark).filter(|record| match &record.kind {
        RecordKind::Request { bytes, phase, .. } => *bytes >= 65_536 && *phase != RequestPhase::Submit,
        RecordKind::JobPause { .. } | RecordKind::Drain { .. } => false,
        _ => true,
    }))
}

/// The lines without their first column.
pub fn without_times(trace: &str) -> String {
    trace.lines().map(|line| format!("{}\n", line.trim_start().split_once("  ").map_or("", |(_, rest)| rest))).collect()
}

/// The number of the recorded trace that this is; else the place up to which one of them is the same.
pub fn which(trace: &[ClientLine], known: &[Vec<ClientLine>]) -> Result<usize, String> {
    let mut nearest = None;
    for (number, other) in known.iter().enumerate() {
        match first_difference(trace, other) {
            None => return Ok(number),
            Some(found) if nearest.as_ref().is_none_or(|(index, _)| found.index > *index) => {
                nearest = Some((found.index, format!("nearest to the recorded trace {number}: {found}")));
            }
            Some(_) => {}
        }
    }
    Err(nearest.map_or("nothing is recorded".to_owned(), |(_, text)| text))
}
