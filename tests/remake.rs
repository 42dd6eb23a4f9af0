//! What `tests/remake.sh` needs of the library: searches whose answers stand in `tests/common/mod.rs`, to be done again after a change to
//! the model (`seeds`, `race-seeds`), and recordings of programs whose schedule is QEMU's own (`reported`, `jobs`): a new run that shows the
//! same by the rule of their test changes nothing. No test: cargo runs it only by its name.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it reads files, runs programs and prints"
)]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/recorded_program.rs"]
mod recorded_program;

use blockjob_sim::trace::Level;
use blockjob_sim::trace::compare::client_lines;
use common::{CASES, case, in_threads, parted, race, recorded, run, which, without_times};
use recorded_program::{differs, lines, same_on_all_hosts};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match &args[..] {
        ["seeds"] => search_seeds(),
        ["race-seeds"] => search_race_orders(),
        ["reported", names @ ..] => names.iter().for_each(|name| record_reported(name)),
        ["jobs", name, new] => add_traces(name, Path::new(new)),
        other => panic!("expected `seeds`, `race-seeds`, `reported NAME…` or `jobs NAME FILE`, got {other:?}"),
    }
}

/// The program that `QEMU` names, or QEMU's own by the search path.
fn qemu() -> PathBuf {
    let named = PathBuf::from(std::env::var_os("QEMU").unwrap_or_else(|| "qemu-system-x86_64".into()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(&named));
    let found = if named.components().count() > 1 { named.canonicalize().ok() } else { places.find(|p| p.is_file()) };
    found.unwrap_or_else(|| panic!("{}: there is no such program", named.display()))
}

/// Carries a program of `tests/data/reported` out on the real QEMU. What is the same by the rule of `tests/reported.rs` stays as it is.
fn record_reported(name: &str) {
    let dir = Path::new("tests/data/reported").join(name);
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_else(|error| panic!("{name}/{file}: {error}"));
    let program = serde_json::from_str(&read("program.json")).expect("JSON");
    let new = program::carry_out_by(&qemu(), &program);
    let neutral: Vec<_> = new.iter().cloned().map(same_on_all_hosts).collect();
    let known = dir.join("real.jsonl").exists().then(|| lines(&read("real.jsonl")));
    match known.map(|known| differs(&program, &known, &neutral)) {
        Some(None) => return println!("{name}: the same"),
        Some(Some(difference)) => println!("{name}: {difference}"),
        None => println!("{name}: new"),
    }
    let mut text = String::new();
    for line in new {
        let _ = writeln!(text, "{line}");
    }
    fs::write(dir.join("real.jsonl"), text).expect("written");
}

/// Adds what a new recording shows of a program of `tests/data/jobs` and no kept one does. Orders that it does not show stay: each run is
/// QEMU's own schedule.
fn add_traces(name: &str, new: &Path) {
    let file = PathBuf::from(format!("tests/data/jobs/{name}.jsonl"));
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut kept = if file.exists() { text(&file) } else { String::new() };
    let known: Vec<_> = parted(&kept).into_iter().map(|(_, trace)| trace).collect();
    let (mut shown, mut added) = (0, 0);
    for (part, trace) in parted(&text(new)) {
        if which(&trace, &known).is_ok() {
            shown += 1;
        } else {
            kept.push_str(&part);
            added += 1;
        }
    }
    println!("{name}: {shown} of {} traces were shown, {added} new", known.len());
    if added > 0 {
        fs::write(&file, kept).expect("written");
    }
}

/// Finds seeds for `RACE_SEEDS`.
fn search_race_orders() {
    let plan = case("transaction-failure-race");
    let mut shown = BTreeSet::new();
    let found: Vec<u64> = (0..1_000).filter(|seed| shown.insert(without_times(&race(&plan, *seed)))).collect();
    println!("{} orders: {:?}", found.len(), &found[..found.len().min(20)]);
}

/// Finds the lowest seeds for `RECORDED_SEEDS`.
fn search_seeds() {
    const BATCH: u64 = 1_000;
    const MOST: u64 = 200_000;
    for name in CASES {
        let (plan, known) = (case(name), recorded(name));
        if known.len() < 2 {
            continue;
        }
        let mut found: Vec<Option<u64>> = vec![None; known.len()];
        let mut others = 0;
        for start in (0..MOST).step_by(BATCH as usize) {
            let seeds: Vec<u64> = (start..start + BATCH).collect();
            let numbers = in_threads(&seeds, |seed| {
                let run = run(&plan, Some(*seed), Level::Client);
                which(&client_lines(&run.trace), &known).ok()
            });
            for (seed, number) in seeds.iter().zip(numbers) {
                match number {
                    Some(number) => _ = found[number].get_or_insert(*seed),
                    None => others += 1,
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        for (number, seed) in found.iter().enumerate() {
            match seed {
                Some(seed) => println!("    (\"{name}\", {number}, {seed}),"),
                None => println!("    // {name}, {number}: not found"),
            }
        }
        println!("    // {name}: {others} runs gave other traces");
    }
}
