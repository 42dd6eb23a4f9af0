//! A scenario that stands in the test itself, run in the calm schedule and under a hundred seeds.
//!
//! `cargo run --example scenario_in_a_test`

use blockjob_sim::choice::Chooser;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};
use blockjob_sim::{scenario, sim};

const SCENARIO: &str = "
about: A full backup holds what the disk held when the backup began.
files:
  - create: {file: disk.qcow2, format: qcow2, size: 4M}
  - write: {file: disk.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: backup.qcow2, format: qcow2, size: 4M}
  - create: {file: before.qcow2, format: qcow2, size: 4M}
  - write: {file: before.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
args:
  - -drive
  - if=none,id=drive0,file=disk.qcow2,format=qcow2,node-name=disk
  - -blockdev
  - driver=qcow2,node-name=target,file.driver=file,file.filename=backup.qcow2
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: drive0, target: target, sync: full}}
  - hmp: qemu-io drive0 \"write -P 0x42 512k 64k\"
  - wait: job0
  - same: [before.qcow2, backup.qcow2]
";

fn main() -> Result<(), Box<scenario::ScenarioError>> {
    let plan = scenario::load_str("backup.yaml", SCENARIO)?;
    for seed in 0..100 {
        let run = sim::run(&plan, Chooser::seed(seed), &RunOptions::default());
        assert_eq!(run.outcome, Outcome::Passed, "seed {seed}: {}", run.outcome);
    }
    Ok(())
}
