//! The `blockjob-sim` command.

use std::process::ExitCode;

/// A run makes and drops many small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    blockjob_sim::cli::main(blockjob_sim::sim::run)
}
