//! Looks for a schedule in which a scenario fails. This client takes for granted that a slow backup is still there when it cancels it.
//!
//! `cargo run --example find_a_race` prints the failure and the choices that lead to it, which `blockjob-sim run --replay` takes.

use blockjob_sim::{explore, scenario};

const SCENARIO: &str = "
about: A slow backup is cancelled.
files:
  - create: {file: disk.img, format: raw, size: 4M}
  - write: {file: disk.img, format: raw, pattern: 1, offset: 0, length: 4M}
args: [-blockdev, 'driver=file,node-name=disk,filename=disk.img', -blockdev, 'driver=null-co,node-name=target,size=4194304']
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: disk, target: target, sync: full, speed: 1048576}}
  - qmp: {execute: block-job-cancel, arguments: {device: job0}}
  - event: {event: BLOCK_JOB_CANCELLED, data: {device: job0}}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = scenario::load_str("cancel.yaml", SCENARIO)?;
    let report = explore::check(&plan).runs(1_000).run().map_err(|outcome| outcome.to_string())?;
    let found = report.found.first().ok_or("no schedule fails")?;
    // Standard output of an example is for whoever runs it.
    #[allow(clippy::disallowed_macros)]
    {
        println!("{}\nchoices: {}", found.text, found.choices);
    }
    Ok(())
}
