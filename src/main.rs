//! The `blockjob-sim` command.
fn main() {}
