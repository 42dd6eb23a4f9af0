//! The command `fuzz`: the same result with any number of workers, in parts, and after it was killed.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use blockjob_sim::explore::{self, Strategy};
use common::{case, path, plan_of};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const RACE: &str = "sim-scenarios/iotest-124/transaction-failure-race.yaml";
/// Holds in the calm schedule only.
const CALM: &str = "tests/data/explore/query-during-backup.yaml";

/// Standard output and exit code.
fn sim(args: &[&str]) -> (String, i32) {
    let run = Command::new(env!("CARGO_BIN_EXE_blockjob-sim")).current_dir(path(".")).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.code().is_some_and(|code| code < 2), "{args:?}: {errors}");
    (String::from_utf8(run.stdout).unwrap(), run.status.code().unwrap())
}

#[test]
fn workers_do_not_matter() {
    for more in
        [&["--max-states", "0", "--runs", "300"][..], &["--seeds", "0..400", "--strategy", "urw"], &["--runs", "99"]]
    {
        for file in [RACE, CALM] {
            let dir = tempfile::tempdir().unwrap();
            let to = ["--failures", dir.path().to_str().unwrap()];
            let fuzz = |jobs: &str| sim(&[&["fuzz", file, "--marks", "--jobs", jobs][..], more, &to].concat());
            let one = fuzz("1");
            assert_eq!(one, fuzz("3"), "{file} {more:?}");
            assert_eq!(one.1, i32::from(file == CALM), "{}", one.0);
        }
    }
}

#[test]
fn a_failure_is_a_file_that_shows_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let failures = dir.path().to_str().unwrap();
    let (told, code) = sim(&["fuzz", CALM, "--seeds", "0..200", "--failures", failures]);
    assert_eq!(code, 1, "{told}");
    let file =
        told.lines().find_map(|line| line.trim().strip_prefix("again: blockjob-sim replay ")).expect("a command");
    let again = Command::new(env!("CARGO_BIN_EXE_blockjob-sim")).args(["replay", file]).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned() + &String::from_utf8_lossy(&again.stdout);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("expected a return value") || said.contains("[]"), "{said}");
}

/// A failure's file is drawn, and a campaign's pages show its failure made small.
#[test]
fn failures_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (failures, report) = (at("failures"), at("report"));
    let args = ["fuzz", CALM, "--seeds", "0..200", "--failures", &failures, "--report", &report];
    let (told, code) = sim(&args);
    assert_eq!(code, 1, "{told}");
    let file = told.lines().find_map(|line| line.trim().strip_prefix("again: blockjob-sim replay ")).unwrap();
    for (form, begins) in [("svg", "<svg"), ("html", "<!doctype html"), ("mmd", "sequenceDiagram"), ("json", "{")] {
        let picture = at(&format!("failure.{form}"));
        let (_, code) = sim(&["timeline", file, "-o", &picture]);
        let text = fs::read_to_string(&picture).unwrap();
        assert!(code == 0 && text.to_lowercase().contains(&begins.to_lowercase()), "{form}: {text:.200}");
    }
    let (terminal, code) = sim(&["timeline", file]);
    assert!(code == 0 && terminal.contains("client"), "{terminal}");

    let index = fs::read_to_string(dir.path().join("report/index.html")).unwrap();
    for part in ["made small", "after:  preemptions 1,", "<svg", "failure-1.html", "failure-1.yaml", "Marks:"] {
        assert!(index.contains(part), "no {part:?} in {index:.3000}");
    }
    assert!(!index.contains("http://") || !index.contains("src=\"http"), "it needs nothing from outside");
    assert!(fs::read_to_string(dir.path().join("report/failure-1.html")).unwrap().contains("made small"));
    let small = at("report/failure-1.yaml");
    let (_, code) = sim(&["run", &small]);
    assert_eq!(code, 1, "what was made small fails");
}

#[test]
fn generated_scenarios_are_explored() {
    let dir = tempfile::tempdir().unwrap();
    let failures = dir.path().to_str().unwrap();
    let fuzz =
        |jobs| sim(&["fuzz", "--generate", "--seeds", "0..96", "--jobs", jobs, "--keep-going", "--failures", failures]);
    let (one, code) = fuzz("1");
    assert_eq!((one, code), fuzz("2"));
}

/// What is too large with each order the first stage proves without those that nobody can tell apart, and says that it counted fewer
/// schedules; what is too large even so goes on to the next stage.
#[test]
fn the_first_stage_leaves_out_orders_if_it_has_to() {
    let file = "sim-scenarios/iotest-124/incremental-simple.yaml";
    let fuzz = |states: &str| sim(&["fuzz", file, "--max-states", states, "--runs", "8"]);
    let (told, code) = fuzz("1000");
    assert!(code == 0 && told.contains("every schedule was tried"), "{told}");
    assert!(told.contains("schedules            all, at least ") && !told.contains("deviations"), "{told}");
    let (told, code) = fuzz("300");
    assert!(code == 0 && told.contains("more than 300 states") && told.contains("deviations = 0"), "{told}");
    assert!(!told.contains("all, at least "), "{told}");
    let (told, _) = sim(&["fuzz", RACE]);
    assert!(told.contains("schedules            all ") && !told.contains("at least"), "{told}");
}

/// Parts of seeds, of generated scenarios, and of the ladder: exhausted, or by deviations and seeds.
#[test]
fn parts_join_into_one_big_run() {
    for what in [
        &[CALM, "--seeds", "0..500"][..],
        &[CALM, "--seeds", "0..500", "--keep-going"],
        &["--generate", "--runs", "150", "--keep-going"],
        &[RACE],
        &[CALM],
        &[RACE, "--max-states", "0", "--runs", "700"],
        &[CALM, "--max-states", "0", "--runs", "500", "--keep-going"],
        &[CALM, "--max-states", "0"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let common = [&["fuzz"], what].concat();
        let once = sim(&[&common[..], &["--failures", &place("failures")]].concat());
        let files = || -> Vec<(String, String)> {
            let Ok(dir) = fs::read_dir(place("failures")) else { return Vec::new() };
            let mut names: Vec<_> = dir.map(|entry| entry.unwrap().path()).collect();
            names.sort();
            let text = |path: &PathBuf| fs::read_to_string(path).unwrap();
            names.iter().map(|path| (path.display().to_string(), text(path))).collect()
        };
        let of_one = files();
        assert_eq!(of_one.is_empty(), once.1 == 0);
        let _ = fs::remove_dir_all(place("failures"));
        let mut parts = vec!["merge".to_owned(), "--failures".to_owned(), place("failures")];
        for part in ["0/3", "1/3", "2/3"] {
            let state = place(&part.replace('/', "of"));
            sim(&[&common[..], &["--shard", part, "--state", &state]].concat());
            parts.push(state);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        assert_eq!(sim(&parts), once, "{what:?}");
        assert_eq!(files(), of_one, "{what:?}");
    }
}

#[test]
fn a_campaign_that_was_killed_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let args = ["fuzz", RACE, "--max-states", "0", "--runs", "400", "--state", state];
    let whole = sim(&args);
    let file = dir.path().join("campaign.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 4, "{text}");
    // In the middle of a line.
    let cut = text.len() - lines[lines.len() - 1].len() / 2 - lines[lines.len() - 2].len();
    fs::write(&file, &text[..cut]).unwrap();
    assert_eq!(sim(&[&args[..], &["--resume"]].concat()), whole);
}

#[test]
fn runs_are_deterministic() {
    let (told, code) = sim(&["fuzz", RACE, "--seeds", "0..60", "--check-determinism"]);
    assert_eq!(code, 0, "{told}");
}

/// The library: failures are values, the lowest seed comes first.
#[test]
fn checks_in_a_few_lines() {
    let report = explore::check(&case("transaction-failure-race")).runs(200).run().unwrap();
    assert_eq!((report.failed, report.over.as_deref()), (0, Some("every schedule was tried")));
    let missed = report.missed();
    for reached in ["running to waiting", "aborting to concluded", "drive-backup: commit", "job ends cancelled"] {
        assert!(!missed.iter().any(|name| name == reached), "{reached} was not reached: {missed:?}");
    }
    assert!(missed.iter().any(|name| name == "drive-backup: abort"), "{missed:?}");
    let plan = plan_of(CALM).unwrap();
    let report = explore::check(&plan).strategy(Strategy::Uniform).runs(500).run().unwrap();
    let first = &report.found[0];
    assert_eq!(first.strategy.as_deref(), Some("uniform"));
    let seed = first.seed.unwrap();
    for earlier in 0..seed {
        let report = explore::check(&plan).strategy(Strategy::Uniform).first_seed(earlier).runs(1).run().unwrap();
        assert!(report.found.is_empty(), "seed {earlier} fails too");
    }
}

/// Whoever stops a campaign does not wait for the end of a block.
#[test]
fn a_block_ends_when_nobody_wants_the_rest() {
    use blockjob_sim::explore::{Campaign, CampaignSource, Worker};
    use blockjob_sim::sim::outcome::RunOptions;
    use std::sync::Arc;
    let campaign = Arc::new(Campaign::seeds(&[Strategy::Walk], 0, 1_000));
    let source = Arc::new(CampaignSource::Generated(Box::new(|seed| blockjob_sim::generate::scenario(seed).plan)));
    let mut worker = Worker::new(campaign, source, RunOptions::default());
    let mut made = 0;
    let block = worker.block(0, 0, 1_000, &mut |_| {
        made += 1;
        made <= 3
    });
    assert_eq!((block.runs, made), (3, 4));
}

/// Failures of several kinds are told one by one, with how many runs there were of each: all of those that are counted.
#[test]
fn every_failure_that_is_counted_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("two.yaml");
    let text = "about: A slow backup is paused, and then cancelled.
files: [{create: {file: disk.img, format: raw, size: 4M}}, {write: {file: disk.img, format: raw, pattern: 1, offset: 0, length: 4M}}]
args: [-blockdev, 'driver=file,node-name=disk,filename=disk.img', -blockdev, 'driver=null-co,node-name=target,size=4194304']
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: disk, target: target, sync: full, speed: 1048576}}
  - qmp: {execute: query-block-jobs}
    returns: [{device: job0}]
  - qmp: {execute: block-job-cancel, arguments: {device: job0}}
  - event: {event: BLOCK_JOB_CANCELLED, data: {device: job0}}
";
    fs::write(&file, text).unwrap();
    let failures = dir.path().join("failures");
    let (told, code) = sim(&["fuzz", file.to_str().unwrap(), "--keep-going", "--failures", failures.to_str().unwrap()]);
    assert_eq!(code, 1, "{told}");
    let number = |line: &str, before: &str| -> u64 {
        let digits: String = line.rsplit_once(before).unwrap().1.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let all = told.lines().find(|line| line.starts_with("FAILED: ")).map(|line| number(line, "FAILED: ")).unwrap();
    let kinds: Vec<&str> = told.lines().filter(|line| line.contains(" failed runs), first by ")).collect();
    assert!(kinds.len() == 2 && kinds[0].starts_with("failed in step ") && kinds[0] != kinds[1], "{told}");
    assert_eq!(kinds.iter().map(|line| number(line, "(")).sum::<u64>(), all, "{told}");
    assert_eq!(fs::read_dir(&failures).unwrap().count(), 2, "a file for each kind");
}
