//! The `blockjob-sim` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    blockjob_sim::cli::main(blockjob_sim::sim::run)
}
