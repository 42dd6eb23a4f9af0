//! What the benches share.

use blockjob_sim::choice::Choose;
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim::Sim;
use blockjob_sim::sim::outcome::{Outcome, RunOptions};

/// A run from making the images to its end.
pub fn from_nothing(plan: &Plan, choose: &mut dyn Choose) {
    let mut sim = Sim::new(plan, &RunOptions::default()).expect("the images can be made");
    assert_eq!(sim.finish(choose), Outcome::Passed);
}

/// Guest writes of 8 MiB and an incremental backup of them. What is touched is the same whatever the size of the drive.
pub fn incremental(size: &str) -> Plan {
    let mut text = format!(
        "about: The same writes and their backup on a drive of {size}.\n\
         files:\n\
         \x20 - create: {{file: s.qcow2, format: qcow2, size: {size}}}\n\
         \x20 - create: {{file: t.qcow2, format: qcow2, size: {size}}}\n\
         args:\n\
         \x20 - -drive\n\
         \x20 - if=none,id=drive0,file=s.qcow2,format=qcow2,node-name=s\n\
         \x20 - -blockdev\n\
         \x20 - '{{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": {{\"driver\": \"file\", \"filename\": \"t.qcow2\"}}}}'\n\
         steps:\n\
         \x20 - qmp: {{execute: block-dirty-bitmap-add, arguments: {{node: s, name: b}}}}\n\
         \x20 - mark: start\n"
    );
    for at in 0..16 {
        text.push_str(&format!("  - hmp: 'qemu-io drive0 \"write -P {} {}M 512k\"'\n", at + 1, at * 4));
    }
    text.push_str(
        "  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: drive0, target: t, sync: incremental, bitmap: b}}\n\
         \x20 - event: {event: BLOCK_JOB_COMPLETED, data: {device: j}, without: [error]}\n\
         \x20 - event: {event: JOB_STATUS_CHANGE, data: {id: j, status: 'null'}}\n\
         \x20 - bitmap: {node: s, name: b, count: 0}\n",
    );
    load("bench.yaml", &mut |_| Ok(text.clone())).unwrap_or_else(|error| panic!("{error:?}")).expect("it has steps")
}
