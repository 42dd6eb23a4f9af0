//! Drives the simulated QEMU without a scenario: sends QMP and prints what comes back.
//!
//! `cargo run --example qmp_by_hand`

use blockjob_sim::choice::Chooser;
use blockjob_sim::host::HostFiles;
use blockjob_sim::qmp::json::parse_one;
use blockjob_sim::qmp::print::{MemberOrder, to_text};
use blockjob_sim::world::World;
use blockjob_sim::world::out::Output;

fn main() -> Result<(), String> {
    let mut world = World::new(HostFiles::new());
    let args = ["driver=null-co,node-name=source,size=1048576", "driver=null-co,node-name=target,size=1048576"];
    world.boot(&args.iter().flat_map(|arg| ["-blockdev".into(), (*arg).into()]).collect::<Vec<_>>())?;
    let client = world.connect(true);
    let backup = r#"{"execute": "blockdev-backup",
                     "arguments": {"job-id": "job0", "device": "source", "target": "target", "sync": "full"}}"#;
    world.submit(client, parse_one(backup).expect("this is JSON"));
    // Another chooser, such as `Chooser::seed(7)`, gives another order.
    let mut choices = Chooser::Calm;
    while !world.at_rest() {
        world.step(&mut choices);
    }
    for output in std::mem::take(&mut world.out) {
        #[allow(clippy::disallowed_macros)]
        match output {
            Output::Reply { time, reply, .. } => println!("{time:>9} ns  {}", to_text(&reply, MemberOrder::Wire)),
            Output::Event { time, event, .. } => {
                println!("{time:>9} ns  {} {}", event.name(), to_text(&event.data(), MemberOrder::Wire));
            }
            Output::Stdout(text) | Output::Stderr(text) | Output::Report(text) => println!("{text}"),
        }
    }
    Ok(())
}
