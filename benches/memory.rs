//! How much memory runs take. `cargo bench --bench memory`; counting slows them down, so that times stand in `runs.rs`.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench reads files and clocks; runs do not"
)]

mod common;

use blockjob_sim::choice::Calm;
use common::{from_nothing, incremental};
use divan::Bencher;

#[global_allocator]
static ALLOC: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// The same writes and backup on a small and a huge drive: `max alloc` is to be within a factor of 1.2.
#[divan::bench(args = ["64M", "16T"], sample_count = 20)]
fn incremental_backup_from_nothing(bencher: Bencher<'_, '_>, size: &str) {
    let plan = incremental(size);
    bencher.bench_local(|| from_nothing(&plan, &mut Calm));
}
