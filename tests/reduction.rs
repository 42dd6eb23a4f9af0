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
use blockjob_sim::explore::{Caps, Exhausted, Reduction, Search, Start};
use blockjob_sim::generate::{self, Options};
use blockjob_sim::quirk::{Origin, Quirks, TABLE};
use blockjob_sim::scenario::Plan;
use blockjob_sim::scenario::load;
use blockjob_sim::sim::outcome::RunOptions;
use common::{in_threads, plan_of};
use std::collections::BTreeSet;

/// States within which a scenario counts as small.
const SMALL: usize = 1_500;

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

/// Backups of a drive with data in several places: what several requests of one job are in flight for.
fn scenario(seed: u64) -> Plan {
    let pick = |shift: u32, among: u64| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) % among;
    let mut text =
        String::from("about: A backup, generated.\nfiles:\n  - create: {file: s.qcow2, format: qcow2, size: 4M}\n");
    for place in 0..2 + pick(8, 2) {
        let (offset, length) = (place * 1024 + 64 * pick(16 + 2 * place as u32, 4), 64 * (1 + pick(24, 2)));
        text += &format!(
            "  - write: {{file: s.qcow2, format: qcow2, pattern: {}, offset: {offset}K, length: {length}K}}\n",
            65 + place
        );
    }
    text += "  - create: {file: t.qcow2, format: qcow2, size: 4M}\n";
    let error = match pick(32, 4) {
        0 => ", \"inject-error\": [{\"event\": \"read_aio\", \"iotype\": \"read\", \"errno\": 5, \"once\": true}]",
        _ => "",
    };
    text += &format!(
        "args:\n  - -blockdev\n  - '{{\"driver\": \"qcow2\", \"node-name\": \"s\", \"file\": {{\"driver\": \"blkdebug\", \"image\": {{\"driver\": \"file\", \"filename\": \"s.qcow2\"}}{error}}}}}'\n  - -blockdev\n  - '{{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": {{\"driver\": \"file\", \"filename\": \"t.qcow2\"}}}}'\nsteps:\n"
    );
    text += "  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: s, target: t, sync: full}}\n";
    match pick(40, 4) {
        0 => text += "  - {qmp: {execute: query-block-jobs}}\n",
        1 => text += "  - {qmp: {execute: block-job-cancel, arguments: {device: j}}}\n",
        _ => {}
    }
    text += "  - event: {event: JOB_STATUS_CHANGE, data: {id: j, status: 'null'}}\n  - qmp: {execute: query-jobs}\n    returns: []\n";
    load("generated.yaml", &mut |_| Ok(text.clone())).expect("it reads").expect("it has steps")
}

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
        let backup = compare(&scenario(*seed), Quirks::NONE, Reduction::Alike, SMALL);
        assert_eq!(backup.differ, 0, "backup {seed}");
        let any = compare(&generate::with_commands(&options, *seed, 4).plan, Quirks::NONE, Reduction::Alike, SMALL);
        assert_eq!(any.differ, 0, "generated {seed}");
        sum(&[backup, any])
    });
    let all = sum(&tried);
    println!(
        "{} scenarios: {} decided, {} of them reduced, {} differ",
        2 * seeds.len(),
        all.decided,
        all.reduced,
        all.differ
    );
    assert!(
        all.decided >= 10 && all.reduced >= 3,
        "{} decided, {} reduced: too few to say anything",
        all.decided,
        all.reduced
    );
}

/// Who leaves out all orders but one is found out.
#[test]
fn a_wrong_rule_is_noticed() {
    let seeds: Vec<u64> = seeds().collect();
    let tried = in_threads(&seeds, |seed| compare(&scenario(*seed), Quirks::NONE, Reduction::Wrong, SMALL));
    assert!(sum(&tried).differ > 0, "a rule that is wrong gives the same traces in all of {} scenarios", seeds.len());
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
