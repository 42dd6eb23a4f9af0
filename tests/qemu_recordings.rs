//! Holds scenarios against what a client of the real QEMU 10.0.2 saw when it carried them out.
//!
//! `tests/data/qemu/DIR/NAME.jsonl` belongs to `sim-scenarios/DIR/NAME.yaml`. It holds the distinct client traces of some dozen real
//! runs, the most frequent first, each behind a header line that says which QEMU it was and how often the trace was seen. The calm
//! schedule must give one of them. Where the real client sent without waiting for the process to come to rest, that is a choice, and
//! the scenario's `schedule` names a seed that makes it.
//!
//! Each recording is a test of its own, `DIR/NAME`.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::base::Json;
use blockjob_sim::scenario;
use blockjob_sim::scenario::plan::Plan;
use blockjob_sim::sim;
use blockjob_sim::sim::outcome::RunOptions;
use blockjob_sim::trace::compare::{ClientLine, client_lines, first_difference};
use blockjob_sim::trace::{Level, canonical, jsonl};
use harness::trial;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn recordings(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            recordings(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The traces of a recording: each begins with a line that has the member `qemu`.
fn variants(text: &str) -> Vec<Vec<ClientLine>> {
    let mut all: Vec<String> = Vec::new();
    for line in text.lines() {
        let header = canonical::parse(line).is_ok_and(|json: Json| json.get("qemu").is_some());
        if header {
            all.push(String::new());
        }
        let last = all.last_mut().expect("a recording begins with a header");
        last.push_str(line);
        last.push('\n');
    }
    all.iter().map(|text| jsonl::parse_client(text).expect("recordings are well-formed")).collect()
}

fn load(name: &str) -> Plan {
    let path = format!("sim-scenarios/{name}.yaml");
    let mut read = |path: &str| fs::read_to_string(path).map_err(|err| err.to_string());
    scenario::load(&path, &mut read).unwrap_or_else(|err| panic!("{err:?}")).expect("it has steps")
}

/// Where our trace first differs from the recorded one that it follows longest; `None` if it is one of them.
fn difference(name: &str, wanted: &[Vec<ClientLine>]) -> Option<String> {
    let options = RunOptions { level: Some(Level::Client), record_choices: false, ..RunOptions::default() };
    let plan = load(name);
    let chooser = sim::chooser(&plan.schedule);
    let run = sim::run(&plan, chooser, &options);
    let ours = client_lines(&run.trace);
    let differences: Vec<_> = wanted.iter().map(|theirs| first_difference(theirs, &ours)).collect();
    if differences.iter().any(Option::is_none) {
        let outcome = run.outcome.to_string();
        return (outcome != "passed").then(|| format!("{name}: {outcome}"));
    }
    let longest = differences.into_iter().flatten().max_by_key(|d| d.index)?;
    Some(format!("{name}: {longest}"))
}

/// What clients of the real QEMU saw is what ours sees.
fn recording(file: &Path, name: &str) {
    let wanted = variants(&fs::read_to_string(file).unwrap());
    if let Some(difference) = difference(name, &wanted) {
        panic!("{difference}");
    }
}

fn main() -> ExitCode {
    let root = Path::new("tests/data/qemu");
    let mut files = Vec::new();
    recordings(root, &mut files);
    assert!(files.len() > 300, "the recordings are there");
    let all = files.into_iter().map(|file| {
        let name = file.strip_prefix(root).unwrap().with_extension("").to_str().unwrap().replace('\\', "/");
        trial(name.clone(), move || recording(&file, &name))
    });
    harness::main(all.collect())
}
