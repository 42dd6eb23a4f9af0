//! The reduced exhaustive search: it gives the verdict and the client traces of the plain one.
//!
//! `REDUCTION_SEEDS=FIRST..END cargo test --test reduction generated -- --nocapture` holds them together on other generated scenarios.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, the environment, and print"
)]

mod common;

use blockjob_sim::choice::MODE_ORDER;
use blockjob_sim::explore::{Caps, Exhausted, Mistake, Reduction, Search, Start};
use blockjob_sim::generate::{self, Options};
use blockjob_sim::quirk::{Origin, Quirks, TABLE};
use blockjob_sim::scenario::Plan;
use blockjob_sim::scenario::load;
use blockjob_sim::sim::outcome::RunOptions;
use common::{CASES, in_threads, plan_of};
use std::collections::BTreeSet;

/// States within which a scenario counts as small.
const SMALL: usize = 2_000;

/// What both searches must agree on: whether all is proved, the client traces, and how runs end.
type Verdict = (bool, BTreeSet<u64>, BTreeSet<String>);

fn verdict(found: &Exhausted) -> Verdict {
    let traces = found.traces.as_ref().expect("few").iter().map(|trace| trace.digest.0).collect();
    (found.proved(), traces, found.ends.iter().map(|end| end.to_string()).collect())
}

/// A search of all orders, or of some; nothing if there are too many states, or the search says that orders mattered after all.
fn search(start: &Start, reduction: Reduction, states: usize) -> Option<Exhausted> {
    let caps = Caps { states, ..Caps::default() };
    let search = Search::reduced(&start.sim, MODE_ORDER, caps, 1, reduction);
    let parts = vec![search.work()];
    let found = Exhausted::of(&search, parts);
    (found.capped.is_none() && !search.doubtful()).then_some(found)
}

/// What comes of a scenario, plain and reduced.
#[derive(Clone, Copy, Default)]
struct Tried {
    /// Both searches came to their ends.
    decided: u32,
    /// The reduced one left something out.
    reduced: u32,
    /// They differ.
    differ: u32,
}

fn compare(plan: &Plan, quirks: Quirks, reduction: Reduction, states: usize) -> Tried {
    let options = RunOptions { quirks, check: true, ..RunOptions::default() };
    let Ok(start) = Start::of(plan, &options) else { return Tried::default() };
    let Some(plain) = search(&start, Reduction::None, states) else { return Tried::default() };
    let Some(reduced) = search(&start, reduction, states) else { return Tried { decided: 1, ..Tried::default() } };
    let differ = verdict(&plain) != verdict(&reduced);
    let left_out = reduced.transitions < plain.transitions;
    Tried { decided: 1, reduced: u32::from(left_out), differ: u32::from(differ) }
}

/// The number that a seed gives for a question, below `among`.
fn pick(seed: u64, question: u32, among: u64) -> u64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7 * question) >> 33) % among
}

fn plan(text: &str) -> Plan {
    load("generated.yaml", &mut |_| Ok(text.to_owned())).expect("it reads").expect("it has steps")
}

/// Two places of a drive, or three of a large one, so far apart that each is copied by itself, of different lengths.
fn data(seed: u64, file: &str, format: &str, step: u64) -> String {
    let mut text = String::new();
    let places = if step < 1024 { 2 } else { 2 + pick(seed, 1, 2) };
    for place in 0..places {
        let length = 64 * (1 + pick(seed, 2 + place as u32, 2));
        let (offset, pattern) = (place * step, 65 + place);
        text += &format!(
            "  - write: {{file: {file}, format: {format}, pattern: {pattern}, offset: {offset}K, length: {length}K}}\n"
        );
    }
    text
}

/// A raw disk as a node; its first read or write fails if that is said.
fn raw_node(name: &str, fails: Option<&str>) -> String {
    let file = match fails {
        Some(request) => format!(
            "{{\"driver\": \"blkdebug\", \"image\": {{\"driver\": \"file\", \"filename\": \"{name}.raw\"}}, \"inject-error\": [{{\"event\": \"{request}_aio\", \"iotype\": \"{request}\", \"errno\": 5, \"once\": true}}]}}"
        ),
        None => format!("{{\"driver\": \"file\", \"filename\": \"{name}.raw\"}}"),
    };
    format!("  - -blockdev\n  - '{{\"driver\": \"raw\", \"node-name\": \"{name}\", \"file\": {file}}}'\n")
}

/// What a client does while a job works: nothing, or it asks, or has it end.
fn meddling(seed: u64, job: &str) -> String {
    match pick(seed, 5, 4) {
        0 => "  - {qmp: {execute: query-block-jobs}}\n".to_owned(),
        1 => format!("  - qmp: {{execute: block-job-cancel, arguments: {{device: {job}}}}}\n    reply: any\n"),
        _ => String::new(),
    }
}

fn ended(job: &str) -> String {
    format!("  - event: {{event: JOB_STATUS_CHANGE, data: {{id: {job}, status: 'null'}}}}\n")
}

/// A backup of a drive with data in several places: what several requests of one job are in flight for.
fn backup(seed: u64) -> Plan {
    let mut text =
        String::from("about: A backup, generated.\nfiles:\n  - create: {file: s.qcow2, format: qcow2, size: 4M}\n");
    text += &data(seed, "s.qcow2", "qcow2", 1024);
    text += "  - create: {file: t.qcow2, format: qcow2, size: 4M}\n";
    let error = match pick(seed, 6, 4) {
        0 => ", \"inject-error\": [{\"event\": \"read_aio\", \"iotype\": \"read\", \"errno\": 5, \"once\": true}]",
        _ => "",
    };
    text += &format!(
        "args:\n  - -blockdev\n  - '{{\"driver\": \"qcow2\", \"node-name\": \"s\", \"file\": {{\"driver\": \"blkdebug\", \"image\": {{\"driver\": \"file\", \"filename\": \"s.qcow2\"}}{error}}}}}'\n  - -blockdev\n  - '{{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": {{\"driver\": \"file\", \"filename\": \"t.qcow2\"}}}}'\nsteps:\n"
    );
    text += "  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: s, target: t, sync: full}}\n";
    text += &meddling(seed, "j");
    text += &ended("j");
    text += "  - qmp: {execute: query-jobs}\n    returns: []\n";
    plan(&text)
}

/// A raw disk with data in two places, and one to copy it to.
fn raw_disks(seed: u64, size: u64) -> String {
    let mut text = format!("files:\n  - create: {{file: s.raw, format: raw, size: {size}K}}\n");
    text += &data(seed, "s.raw", "raw", 192);
    text + &format!("  - create: {{file: t.raw, format: raw, size: {size}K}}\n")
}

/// A backup of a raw disk, where a piece is a read and a write; with few workers, what is copied next depends on what is done.
fn raw_backup(seed: u64) -> Plan {
    let workers = [2, 64][pick(seed, 6, 2) as usize];
    let mut text = format!("about: A raw backup, generated.\n{}args:\n", raw_disks(seed, 384));
    text += &(raw_node("s", None) + &raw_node("t", None));
    text += &format!(
        "steps:\n  - qmp: {{execute: blockdev-backup, arguments: {{job-id: j, device: s, target: t, sync: full, x-perf: {{max-workers: {workers}}}}}}}\n"
    );
    text += &(meddling(seed, "j") + &ended("j"));
    plan(&text)
}

/// A mirror that pivots, or is told to end at once.
fn mirror(seed: u64) -> Plan {
    let mut text = format!("about: A mirror, generated.\n{}args:\n", raw_disks(seed, 384));
    text += &(raw_node("s", None) + &raw_node("t", None));
    text += "steps:\n  - qmp: {execute: blockdev-mirror, arguments: {job-id: j, device: s, target: t, sync: full}}\n";
    text += match pick(seed, 5, 4) {
        0 => "  - qmp: {execute: block-job-cancel, arguments: {device: j, force: true}}\n    reply: any\n",
        _ => {
            "  - event: {event: BLOCK_JOB_READY, data: {device: j}}\n  - {qmp: {execute: job-complete, arguments: {id: j}}}\n"
        }
    };
    text += &ended("j");
    plan(&text)
}

/// Two backups in a group, of which one copies in several places and the other fails when it writes, or not.
fn group(seed: u64) -> Plan {
    let mut text = format!("about: A group, generated.\n{}", raw_disks(seed, 384));
    text += "  - create: {file: f.raw, format: raw, size: 64K}\n  - create: {file: g.raw, format: raw, size: 64K}\n";
    text += "  - write: {file: f.raw, format: raw, pattern: 80, offset: 0, length: 64K}\nargs:\n";
    text += &(raw_node("s", None) + &raw_node("t", None) + &raw_node("f", None));
    text += &raw_node("g", (pick(seed, 5, 4) > 0).then_some("write"));
    let workers = [2, 64][pick(seed, 6, 2) as usize];
    let start = |job: &str, device: &str, target: &str| {
        format!(
            "{{type: blockdev-backup, data: {{job-id: {job}, device: {device}, target: {target}, sync: full, x-perf: {{max-workers: {workers}}}}}}}"
        )
    };
    let (j, k) = (start("j", "s", "t"), start("k", "f", "g"));
    let actions = if pick(seed, 7, 2) == 0 { format!("{j}, {k}") } else { format!("{k}, {j}") };
    text += &format!(
        "steps:\n  - qmp: {{execute: transaction, arguments: {{actions: [{actions}], properties: {{completion-mode: grouped}}}}}}\n"
    );
    text += &(ended("j") + &ended("k"));
    plan(&text)
}

/// A program from its seed.
type Drawn = fn(u64) -> Plan;

/// All of these; each reduces in most of its scenarios.
const KINDS: [(&str, Drawn); 4] =
    [("backup", backup), ("raw backup", raw_backup), ("mirror", mirror), ("group", group)];

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("REDUCTION_SEEDS").ok();
    let asked = asked.as_deref().and_then(|text| text.split_once(".."));
    asked.map_or(0..24, |(first, end)| first.parse().expect("a number")..end.parse().expect("a number"))
}

fn sum(tried: &[Tried]) -> Tried {
    tried.iter().fold(Tried::default(), |a, b| Tried {
        decided: a.decided + b.decided,
        reduced: a.reduced + b.reduced,
        differ: a.differ + b.differ,
    })
}

/// On generated scenarios both searches give the same verdicts and the same client traces.
#[test]
fn generated_scenarios_have_the_same_traces() {
    let seeds: Vec<u64> = seeds().collect();
    let options = Options { crashes: false, ..Options::default() };
    let tried = in_threads(&seeds, |seed| {
        let mut tried = KINDS.map(|(kind, make)| {
            let tried = compare(&make(*seed), Quirks::NONE, Reduction::Alike, SMALL);
            assert_eq!(tried.differ, 0, "{kind} {seed}");
            tried
        });
        let any = compare(&generate::with_commands(&options, *seed, 4).plan, Quirks::NONE, Reduction::Alike, SMALL);
        assert_eq!(any.differ, 0, "generated {seed}");
        tried[0] = sum(&[tried[0], any]);
        tried
    });
    let of_kind = |kind: usize| sum(&tried.iter().map(|tried| tried[kind]).collect::<Vec<_>>());
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        let Tried { decided, reduced, differ } = of_kind(kind);
        println!("{name}: {decided} decided, {reduced} of them reduced, {differ} differ");
        assert!(reduced as usize * 3 >= seeds.len(), "{name}: {reduced} reduced: too few to say anything");
    }
}

/// Who holds for independent what is not is found out, whichever of the rules it is.
#[test]
fn a_wrong_rule_is_noticed() {
    let seeds: Vec<u64> = seeds().collect();
    for mistake in [Mistake::NothingBeside, Mistake::CommandsAreBlind, Mistake::JobsAreAlike] {
        let tried = in_threads(&seeds, |seed| {
            sum(&KINDS.map(|(_, make)| compare(&make(*seed), Quirks::NONE, Reduction::Wrong(mistake), SMALL)))
        });
        let all = sum(&tried);
        println!("{mistake:?}: {} decided, {} differ", all.decided, all.differ);
        assert!(all.differ > 0, "{mistake:?} gives the same traces in all of {} seeds", seeds.len());
    }
}

/// Each museum piece that the plain search decides is decided the same by the reduced one, with its quirk on and off.
#[test]
fn museum_pieces_are_found_by_both() {
    let pieces: Vec<_> = TABLE.iter().filter(|about| about.origin != Origin::Seeded).collect();
    let tried = in_threads(&pieces, |about| {
        let file = format!("sim-scenarios/museum/{}.yaml", about.name);
        let plan = plan_of(&file).expect("it has steps");
        let both = [Quirks::NONE.without(about.quirk), Quirks::NONE.with(about.quirk)];
        sum(&both.map(|quirks| {
            let tried = compare(&plan, quirks, Reduction::Alike, SMALL);
            assert_eq!(tried.differ, 0, "{}", about.name);
            tried
        }))
    });
    let all = sum(&tried);
    println!("{} museum pieces: {} searches decided, {} reduced", pieces.len(), all.decided, all.reduced);
    assert!(all.decided > 0);
}

/// What no search of each order comes to the end of is proved by the reduced one: all cases of iotest 124, a mirror and a commit of
/// disks as large.
#[test]
fn large_scenarios_are_proved() {
    let mut files: Vec<String> = CASES.iter().map(|case| format!("sim-scenarios/iotest-124/{case}.yaml")).collect();
    files.extend(["mirror", "commit"].map(|job| format!("tests/data/explore/{job}-of-64M.yaml")));
    in_threads(&files, |file| {
        let plan = plan_of(file).expect("it has steps");
        let options = RunOptions { check: true, ..RunOptions::default() };
        let start = Start::of(&plan, &options).expect("it comes to where exploring starts");
        // Two jobs that copy beside each other, of which one fails.
        let states = if file.ends_with("/transaction-failure.yaml") { 300_000 } else { SMALL };
        let found = search(&start, Reduction::Alike, states).unwrap_or_else(|| panic!("{file}: too many states"));
        assert!(found.proved(), "{file}: {:?}", found.ends);
    });
}
