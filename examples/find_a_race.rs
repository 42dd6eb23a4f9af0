//! Looks for a schedule in which a scenario fails. This client takes for granted that a slow backup is still there when it cancels it.
//!
//! `cargo run --example find_a_race` prints the failure and the choices that lead to it, which `blockjob-sim run --replay` takes.

use blockjob_sim::{explore, scenario};

const SCENARIO: &str = "
about: A slow backup is cancelled.
args:
  - -blockdev
  - driver=null-co,node-name=source,size=1048576
  - -blockdev
  - driver=null-co,node-name=target,size=1048576
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: source, target: target, sync: full, speed: 65536}}
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
