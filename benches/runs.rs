//! How fast runs are. `cargo bench` measures all; the README's figures come from here.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench reads files and clocks; runs do not"
)]

mod common;

use blockjob_sim::choice::{Calm, Walk};
use blockjob_sim::host::HostFiles;
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim::Sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::trace::canonical;
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;
use blockjob_sim::world::out::Output;
use common::{from_nothing, incremental};
use divan::Bencher;
use divan::counter::ItemsCount;
use std::cell::Cell;
use std::fs;
use std::path::Path;

/// The command's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RACE: &str = "sim-scenarios/iotest-124/transaction-failure-race.yaml";
const CASES: &str = "sim-scenarios/iotest-124";

fn main() {
    divan::main();
}

fn plan_of(file: &str) -> Plan {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = &mut |name: &str| fs::read_to_string(root.join(name)).map_err(|error| error.to_string());
    load(file, read).unwrap_or_else(|error| panic!("{error:?}")).expect("it has steps")
}

/// The race case from its start, each time under another seed.
#[divan::bench(sample_count = 200)]
fn race_from_nothing(bencher: Bencher<'_, '_>) {
    let plan = plan_of(RACE);
    let seed = Cell::new(0);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        from_nothing(&plan, &mut Walk::new(seed.replace(seed.get() + 1)));
    });
}

/// The same with images and process made once, as `test --seeds` does it.
#[divan::bench(sample_count = 200)]
fn race_from_its_first_step(bencher: Bencher<'_, '_>) {
    let plan = plan_of(RACE);
    let start = Sim::new(&plan, &RunOptions::default()).expect("the images can be made");
    let seed = Cell::new(0);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let mut sim = start.clone();
        assert_eq!(sim.finish(&mut Walk::new(seed.replace(seed.get() + 1))), Outcome::Passed);
    });
}

/// The race case just before its transaction.
fn checkpoint() -> Sim {
    let mut sim = Sim::new(&plan_of(RACE), &RunOptions::default()).expect("the images can be made");
    sim.run_to_mark("start", &mut Calm).expect("the case gets there");
    sim
}

/// The race case from just before its transaction, each time under another seed.
#[divan::bench(sample_count = 500)]
fn race_from_checkpoint(bencher: Bencher<'_, '_>) {
    let start = checkpoint();
    let seed = Cell::new(0);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let mut sim = start.clone();
        assert_eq!(sim.finish(&mut Walk::new(seed.replace(seed.get() + 1))), Outcome::Passed);
    });
}

/// What a checkpoint costs to take; dropping it is not counted.
#[divan::bench]
fn clone_of_a_checkpoint(bencher: Bencher<'_, '_>) {
    let start = checkpoint();
    bencher.bench_local(|| start.clone());
}

/// All cases of iotest 124, calm, their files already read.
#[divan::bench(sample_count = 50)]
fn all_thirteen_calm(bencher: Bencher<'_, '_>) {
    let folder = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES)).expect("the cases");
    let mut names: Vec<String> =
        folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    assert_eq!(names.len(), 13);
    let plans: Vec<Plan> = names.iter().map(|name| plan_of(&format!("{CASES}/{name}"))).collect();
    bencher.counter(ItemsCount::new(13_u32)).bench_local(|| {
        for plan in &plans {
            from_nothing(plan, &mut Calm);
        }
    });
}

/// Commands in a run of [`kernel_alone`].
const ROUNDS: u64 = 1_000;

/// Queue, clock and choice, with next to nothing to do: QMP's cheapest command, one after the other. Counted are the frames that ran.
#[divan::bench(sample_count = 100)]
fn kernel_alone(bencher: Bencher<'_, '_>) {
    let run = || {
        let mut world = World::new(HostFiles::new());
        let client = world.connect(true);
        let request = canonical::parse(r#"{"execute": "query-name"}"#).expect("JSON");
        let mut choose = Walk::new(1);
        for _ in 0..ROUNDS {
            world.submit(client, request.clone());
            while !matches!(world.out.pop_front(), Some(Output::Reply { .. })) {
                assert_eq!(world.step(&mut choose), Stepped::Ran);
            }
        }
        world.steps
    };
    let frames = run();
    bencher.counter(ItemsCount::new(frames)).bench_local(run);
}

/// The same writes and backup on a small and a huge drive: times are to be within a factor of 1.2.
#[divan::bench(args = ["64M", "16T"], sample_count = 200)]
fn incremental_backup(bencher: Bencher<'_, '_>, size: &str) {
    let mut start = Sim::new(&incremental(size), &RunOptions::default()).expect("the images can be made");
    start.run_to_mark("start", &mut Calm).expect("it gets there");
    bencher.bench_local(|| {
        let mut sim = start.clone();
        assert_eq!(sim.finish(&mut Calm), Outcome::Passed);
    });
}

/// The same, with making and opening the images.
#[divan::bench(args = ["64M", "16T"], sample_count = 200)]
fn incremental_backup_from_nothing(bencher: Bencher<'_, '_>, size: &str) {
    let plan = incremental(size);
    bencher.bench_local(|| from_nothing(&plan, &mut Calm));
}
