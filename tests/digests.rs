//! Digests of the whole traces of all cases of iotest 124, calm and under a seed: whatever changes a run shows here, and a test that
//! fails says where the traces part.
//!
//! A digest is one hash of all times, and a short one of each record without its time: a change of cost changes the former alone.
//! After a change that is meant: `INSTA_UPDATE=always cargo test --test digests`.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;
#[path = "common/harness.rs"]
mod harness;

use blockjob_sim::sim::outcome::Outcome;
use blockjob_sim::trace::{Level, Record, canonical, jsonl, text};
use common::{CASES, case, case_file, path, run};
use harness::trial;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;
use std::process::ExitCode;

/// Hashes in a line.
const LINE: usize = 32;

fn main() -> ExitCode {
    let schedules = [("calm", None), ("seed-7", Some(7))];
    let all = CASES.iter().flat_map(|name| {
        schedules.map(|(schedule, seed)| {
            trial(format!("iotest-124/{name}/digest-{schedule}"), move || digest(name, schedule, seed))
        })
    });
    harness::main(all.collect())
}

/// The first bytes of a hash, which are enough to see a change.
fn hash(bytes: &[u8], length: usize) -> String {
    Sha256::digest(bytes).iter().take(length).map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a record without its time.
fn record_hash(record: &&Record) -> String {
    hash(canonical::to_string(&jsonl::value(record, false)).as_bytes(), 2)
}

fn digest(name: &str, schedule: &str, seed: Option<u64>) {
    let run = run(&case(name), seed, Level::Co);
    assert_eq!(run.outcome, Outcome::Passed, "{}", run.outcome);
    let records: Vec<&Record> = run.trace.iter().collect();
    let times: String = records.iter().map(|record| format!("{}\n", record.time.as_nanos())).collect();
    let hashes: Vec<String> = records.iter().map(record_hash).collect();
    let mut shown = format!("times {}\nrecords {}\n", hash(times.as_bytes(), 8), records.len());
    for line in hashes.chunks(LINE) {
        _ = writeln!(shown, "{}", line.join(" "));
    }

    let folder = path("snapshots/iotest-124/digests");
    let stored = fs::read_to_string(folder.join(format!("{name}.{schedule}.snap"))).unwrap_or_default();
    let stored = stored.splitn(3, "---\n").nth(2).unwrap_or_default();
    if stored.trim_end() != shown.trim_end() && std::env::var_os("INSTA_UPDATE").is_none() {
        let seed = seed.map_or(String::new(), |seed| format!(" --seed {seed}"));
        panic!(
            "{}\nthe whole trace: blockjob-sim run {}{seed} --level co\nif this is meant: INSTA_UPDATE=always cargo test --test digests",
            parting(stored, &hashes, &records),
            case_file(name)
        );
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("{name}.{schedule}"), shown));
}

/// Where the trace leaves the stored one: the first record that differs, as it is now, behind those before it.
fn parting(stored: &str, hashes: &[String], records: &[&Record]) -> String {
    let old: Vec<&str> = stored.lines().skip(2).flat_map(str::split_whitespace).collect();
    let differs = |i: &usize| old.get(*i).copied() != hashes.get(*i).map(String::as_str);
    let Some(at) = (0..hashes.len().max(old.len())).find(differs) else {
        return "only times differ: what happens is the same, in the same order".to_owned();
    };
    let before = records[at.saturating_sub(5)..at].iter().copied();
    let before = text::short_lines(before, text::SNAPSHOT_WIDTH);
    let mut now = format!("nothing: the stored trace has {} records, this one {}\n", old.len(), records.len());
    if let Some(record) = records.get(at) {
        now.clear();
        text::write_line(record, &mut now);
    }
    format!("the traces are the same up to\n{before}then, record {at} is now\n{now}")
}
