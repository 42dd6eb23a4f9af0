//! The host may ask the process to end at any moment: whatever is under way, it ends, but for an image that is being made, where it
//! hangs as QEMU does (docs/findings/terminated-while-making-an-image.md).

use blockjob_sim::base::Json;
use blockjob_sim::choice::Calm;
use blockjob_sim::scenario;
use blockjob_sim::sim::Sim;
use blockjob_sim::sim::outcome::RunOptions;
use blockjob_sim::trace::canonical;
use blockjob_sim::world::World;
use blockjob_sim::world::aio::Stepped;

const PROCESS: &str = "\
about: A drive and a target.
files:
  - create: {file: a.qcow2, format: qcow2, size: 1M}
  - write: {file: a.qcow2, format: qcow2, pattern: 1, offset: 0, length: 1M}
  - create: {file: t.qcow2, format: qcow2, size: 1M}
args:
  - -drive
  - if=none,id=d,file=a.qcow2,format=qcow2,node-name=a
  - -blockdev
  - '{\"driver\": \"qcow2\", \"node-name\": \"t\", \"file\": {\"driver\": \"file\", \"filename\": \"t.qcow2\"}}'
steps:
  - qmp: {execute: query-jobs}
";

/// Each with whether the process always ends.
const COMMANDS: [(&str, bool); 6] = [
    (r#"{"execute": "block_resize", "arguments": {"device": "d", "size": 2097152}}"#, true),
    (r#"{"execute": "human-monitor-command", "arguments": {"command-line": "block_resize d 2M"}}"#, true),
    (
        r#"{"execute": "blockdev-create", "arguments": {"job-id": "c", "options": {"driver": "qcow2", "file": "t", "size": 65536}}}"#,
        false,
    ),
    (
        r#"{"execute": "blockdev-backup", "arguments": {"job-id": "j", "device": "a", "target": "t", "sync": "full"}}"#,
        true,
    ),
    (
        r#"{"execute": "drive-backup", "arguments": {"job-id": "j", "device": "d", "target": "new.qcow2", "sync": "top"}}"#,
        true,
    ),
    (r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io d \"aio_write 0 1M\""}}"#, true),
];

fn process() -> Sim {
    let plan = scenario::load("process.yaml", &mut |_| Ok(PROCESS.to_owned())).unwrap().unwrap();
    Sim::new(&plan, &RunOptions { check: true, ..RunOptions::default() }).expect("it starts")
}

fn go_on(world: &mut World, until: impl Fn(&World) -> bool) -> Stepped {
    loop {
        if until(world) {
            return Stepped::Ran;
        }
        match world.step(&mut Calm) {
            Stepped::Ran => {}
            ended => return ended,
        }
    }
}

/// Steps that the command takes alone.
fn steps_of(command: &Json) -> u32 {
    let mut sim = process();
    go_on(&mut sim.world, |_| false);
    let client = sim.world.connect(true);
    sim.world.submit(client, command.clone());
    let mut steps = 0;
    while sim.world.step(&mut Calm) == Stepped::Ran {
        steps += 1;
    }
    steps
}

#[test]
fn a_signal_may_come_at_any_moment() {
    for (command, ends) in COMMANDS {
        let command = canonical::parse(command).unwrap();
        let all = steps_of(&command);
        assert!(all > 3, "{all} steps of {command:?}");
        let mut hung = 0;
        for after in 0..=all {
            let mut sim = process();
            let world = &mut sim.world;
            go_on(world, |_| false);
            let client = world.connect(true);
            world.submit(client, command.clone());
            for _ in 0..after {
                world.step(&mut Calm);
            }
            // The main loop looks for signals between two rounds.
            go_on(world, World::in_main_loop);
            assert!(world.in_main_loop(), "{after} steps: it hangs");
            world.host_shutdown();
            go_on(world, World::in_main_loop);
            hung += u32::from(!world.in_main_loop());
        }
        assert_eq!(hung == 0, ends, "{command:?}: it hangs after {hung} of {all} steps");
    }
}
