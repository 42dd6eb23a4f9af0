//! How fast exploring is: campaigns from a checkpoint, exhaustive search, and what a state costs.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench reads files and clocks; runs do not"
)]

use blockjob_sim::choice::Calm;
use blockjob_sim::explore::{self, Atlas, Caps, Fingerprint, STATES, StartPoint, Strategy, exhaust};
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::Level;
use divan::Bencher;
use divan::counter::ItemsCount;
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;

/// The command's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RACE: &str = "sim-scenarios/iotest-124/transaction-failure-race.yaml";
const DURING: &str = "sim-scenarios/bitmap/on-device-during-backup.yaml";
/// Has more states than those two.
const GROUP: &str = "sim-scenarios/group/03-older-fails.yaml";

fn main() {
    divan::main();
}

fn plan_of(file: &str) -> Plan {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = &mut |name: &str| fs::read_to_string(root.join(name)).map_err(|error| error.to_string());
    load(file, read).unwrap_or_else(|error| panic!("{error:?}")).expect("it has steps")
}

fn start_of(file: &str) -> StartPoint {
    let options = RunOptions { level: Some(Level::Client), check: true, ..RunOptions::default() };
    StartPoint::watched(&plan_of(file), &options).expect("it gets there")
}

/// The race case from just before its transaction, with trace digest and all invariants, by each strategy.
#[divan::bench(args = ["calm", "walk", "uniform", "urw", "pct:3", "preempt:2"], sample_count = 500)]
fn campaign_run(bencher: Bencher<'_, '_>, strategy: &str) {
    let start = start_of(RACE);
    let strategy: Strategy = strategy.parse().expect("a strategy");
    let seed = Cell::new(0);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let ran = explore::run(&start, strategy.chooser(seed.replace(seed.get() + 1)));
        assert_eq!(ran.outcome, Outcome::Passed);
    });
}

/// The same as a campaign makes them: states that earlier runs went through are not gone through again. An atlas that knows nothing is
/// among the samples, one in fifty.
#[divan::bench(args = ["uniform", "urw", "pct:3", "preempt:2"], sample_count = 200)]
fn campaign_run_with_atlas(bencher: Bencher<'_, '_>, strategy: &str) {
    const RUNS: u64 = 1_000;
    let start = start_of(RACE);
    let strategy: Strategy = strategy.parse().expect("a strategy");
    let block = Cell::new(0_u64);
    let atlas = RefCell::new(Atlas::new(&start, STATES));
    bencher.counter(ItemsCount::new(RUNS)).bench_local(|| {
        let number = block.replace(block.get() + 1);
        let mut atlas = atlas.borrow_mut();
        if number.is_multiple_of(50) {
            *atlas = Atlas::new(&start, STATES);
        }
        for seed in number * RUNS..(number + 1) * RUNS {
            assert_eq!(atlas.run(&start, || strategy.chooser(seed)).outcome, Outcome::Passed);
        }
    });
}

/// Exhaustive search; counted are transitions, each of which is a state that was generated.
#[divan::bench(args = [RACE, DURING, GROUP], sample_count = 10)]
fn exhaustive(bencher: Bencher<'_, '_>, file: &str) {
    let start = start_of(file);
    let transitions = exhaust(&start, Caps::default()).transitions;
    bencher.counter(ItemsCount::new(transitions)).bench_local(|| exhaust(&start, Caps::default()));
}

/// What it costs to tell whether a state is known.
#[divan::bench]
fn fingerprint_of_a_state(bencher: Bencher<'_, '_>) {
    let start = start_of(RACE);
    bencher.bench_local(|| Fingerprint::of(&start.sim));
}

/// What it costs to tell that of a state of which one job, and what it touches, has changed.
#[divan::bench]
fn fingerprint_of_the_next_state(bencher: Bencher<'_, '_>) {
    let start = start_of(RACE);
    let mut next = start.sim.clone();
    let _remembered = Fingerprint::of(&next);
    assert_eq!(next.step(&mut Calm), None);
    bencher.with_inputs(|| next.clone()).bench_local_values(|next| Fingerprint::of(&next));
}

/// What it costs to keep a state, with its invariants.
#[divan::bench]
fn clone_of_a_state(bencher: Bencher<'_, '_>) {
    let start = start_of(RACE);
    bencher.bench_local(|| start.sim.clone());
}
