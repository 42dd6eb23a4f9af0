//! A run is a function of its scenario and its choices, and of nothing else.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use blockjob_sim::choice::{ChoiceLog, Chooser, Recorder, Replay, ReplayMode, Walk};
use blockjob_sim::qmp::names::COMMANDS;
use blockjob_sim::scenario::plan::{Expect, PlannedStep, StepKind};
use blockjob_sim::scenario::{Plan, load};
use blockjob_sim::sim::outcome::{Outcome, Run, RunOptions};
use blockjob_sim::sim::{self, Sim};
use blockjob_sim::trace::jsonl::{self, Header};
use blockjob_sim::trace::{Level, canonical};
use proptest::prelude::*;
use std::fmt::Write;
use std::sync::Arc;

/// The whole trace as bytes.
fn bytes(run: &Run) -> String {
    let header = Header { scenario: "".into(), schedule: "".into(), level: Level::Co };
    jsonl::to_string(&header, &run.trace, true)
}

// Random scenarios -------------------------------------------------------------------------------------------------------

/// What may happen in a random scenario. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Doing {
    Write { drive: u8, cluster: u8, half: bool, length: u8, byte: u8 },
    Other { drive: u8, cluster: u8, what: &'static str },
    Flush { drive: u8 },
    Backup { drive: u8, sync: &'static str, speed: u32, on_error: &'static str },
    Grouped,
    Idle,
    Sleep { us: u32 },
    Query { what: &'static str },
}

fn doing() -> impl Strategy<Value = Doing> {
    use prop::sample::select;
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), any::<bool>(), 1u8..9, any::<u8>())
            .prop_map(|(drive, cluster, half, length, byte)| Doing::Write { drive, cluster, half, length, byte }),
        1 => (any::<u8>(), any::<u8>(), select(vec!["write -z", "write -z -u", "discard", "read"]))
            .prop_map(|(drive, cluster, what)| Doing::Other { drive, cluster, what }),
        1 => any::<u8>().prop_map(|drive| Doing::Flush { drive }),
        3 => (
            any::<u8>(),
            select(vec!["full", "top", "none", "incremental"]),
            select(vec![0u32, 0, 1 << 20]),
            select(vec!["report", "ignore", "stop"]),
        )
            .prop_map(|(drive, sync, speed, on_error)| Doing::Backup { drive, sync, speed, on_error }),
        1 => Just(Doing::Grouped),
        2 => Just(Doing::Idle),
        1 => (1u32..200_000).prop_map(|us| Doing::Sleep { us }),
        1 => select(vec!["query-jobs", "query-block-jobs", "query-named-block-nodes", "query-block"])
            .prop_map(|what| Doing::Query { what }),
    ]
}

/// Two drives, the second with a fault that each flush arms; a bitmap on each.
fn scenario(doings: &[Doing]) -> Plan {
    let mut yaml = String::from("about: Random.\nfiles:\n");
    for drive in 0..2 {
        _ = writeln!(yaml, "  - create: {{file: d{drive}, format: qcow2, size: 4M}}");
        _ = writeln!(yaml, "  - write: {{file: d{drive}, format: qcow2, pattern: 0x41, offset: 96K, length: 1M}}");
    }
    yaml.push_str("steps:\n");
    for drive in 0..2 {
        let rules = match drive {
            0 => "",
            _ => {
                ", set-state: [{event: flush_to_disk, state: 1, new_state: 2}, {event: flush_to_disk, state: 3, new_state: 2}], \
                 inject-error: [{event: read_aio, errno: 5, state: 2, immediately: false, once: true}]"
            }
        };
        _ = writeln!(
            yaml,
            "  - qmp: {{execute: blockdev-add, arguments: {{driver: qcow2, node-name: d{drive}, file: {{driver: blkdebug, \
             image: {{driver: file, filename: d{drive}}}{rules}}}}}}}"
        );
        _ = writeln!(
            yaml,
            "  - qmp: {{execute: block-dirty-bitmap-add, arguments: {{node: d{drive}, name: b, granularity: 65536}}}}"
        );
    }
    for (n, doing) in doings.iter().enumerate() {
        let hmp = |drive: u8, line: String| format!("  - hmp: 'qemu-io d{} \"{line}\"'\n", drive % 2);
        let step = match doing {
            Doing::Write { drive, cluster, half, length, byte } => {
                let offset = u32::from(cluster % 56) * 64 + if *half { 32 } else { 0 };
                hmp(*drive, format!("write -P {byte} {offset}k {}k", u32::from(*length) * 32))
            }
            Doing::Other { drive, cluster, what } => {
                hmp(*drive, format!("{what} {}k 64k", u32::from(cluster % 56) * 64))
            }
            Doing::Flush { drive } => hmp(*drive, "flush".to_owned()),
            Doing::Backup { drive, sync, speed, on_error } => {
                let bitmap = if *sync == "incremental" { ", bitmap: b" } else { "" };
                format!(
                    "  - qmp: {{execute: drive-backup, arguments: {{job-id: j{n}, device: d{}, sync: {sync}{bitmap}, \
                     format: qcow2, target: t{n}, speed: {speed}, on-source-error: {on_error}}}}}\n",
                    drive % 2
                )
            }
            Doing::Grouped => {
                let action = |drive| {
                    format!(
                        "{{type: drive-backup, data: {{job-id: g{n}-{drive}, device: d{drive}, sync: incremental, bitmap: b, \
                         format: qcow2, target: g{n}-{drive}}}}}"
                    )
                };
                format!(
                    "  - qmp: {{execute: transaction, arguments: {{properties: {{completion-mode: grouped}}, actions: [{}, {}]}}}}\n",
                    action(0),
                    action(1)
                )
            }
            Doing::Idle => "  - idle: true\n".to_owned(),
            Doing::Sleep { us } => format!("  - sleep: {us}us\n"),
            Doing::Query { what } => format!("  - qmp: {{execute: {what}}}\n"),
        };
        yaml.push_str(&step);
    }
    plan_from(&yaml)
}

fn plan_from(yaml: &str) -> Plan {
    let plan = load("random.yaml", &mut |_| Ok(yaml.to_owned()));
    plan.unwrap_or_else(|error| panic!("{error:?}\n{yaml}")).expect("a scenario")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The same seed gives the same bytes, and so do the choices it made when they are replayed.
    #[test]
    fn same_seed_same_bytes(doings in prop::collection::vec(doing(), 1..12), seed in any::<u64>()) {
        let plan = scenario(&doings);
        let options = RunOptions { level: Some(Level::Co), record_choices: true, ..RunOptions::default() };
        let walk = || Chooser::Walk(Box::new(Walk::new(seed)));
        let first = sim::run(&plan, walk(), &options);
        prop_assert!(!matches!(first.outcome, Outcome::Crash { .. }), "{}", first.outcome);
        let second = sim::run(&plan, walk(), &options);
        prop_assert_eq!(bytes(&first), bytes(&second));
        prop_assert_eq!(&first, &second);

        let log: ChoiceLog = first.choices.to_string().parse().expect("a log reads back");
        let replay = Chooser::Replay(Replay::new(Arc::new(log), ReplayMode::Strict));
        let replayed = sim::run(&plan, replay, &options);
        prop_assert_eq!(bytes(&first), bytes(&replayed));
        prop_assert_eq!(&first, &replayed);
    }

    /// A copy from the middle goes on as the original does, and the original is not disturbed by it.
    #[test]
    fn a_clone_goes_on_alike(doings in prop::collection::vec(doing(), 1..12), seed in any::<u64>(), at in 0usize..3_000) {
        let plan = scenario(&doings);
        let options = RunOptions { level: Some(Level::Co), record_choices: false, ..RunOptions::default() };
        let mut choose = Recorder::new(Chooser::Walk(Box::new(Walk::new(seed))));
        let mut sim = Sim::new(&plan, &options).expect("a process");
        let mut early = None;
        for _ in 0..at {
            early = sim.step(&mut choose);
            if early.is_some() {
                break;
            }
        }
        if early.is_none() {
            let (mut copy, mut copy_choose) = (sim.clone(), choose.clone());
            prop_assert_eq!(&copy, &sim);
            let other = copy.finish(&mut copy_choose);
            let own = sim.finish(&mut choose);
            prop_assert_eq!(own, other);
            prop_assert_eq!(&choose, &copy_choose);
            prop_assert_eq!(&sim, &copy);
        }
    }
}

// Hostile commands -------------------------------------------------------------------------------------------------------

/// JSON that is made of what commands take, put together without sense.
fn json() -> impl Strategy<Value = String> {
    use prop::sample::select;
    let word = select(vec![
        "d0",
        "d1",
        "b",
        "j",
        "t",
        "nowhere",
        "full",
        "top",
        "none",
        "incremental",
        "bitmap",
        "always",
        "existing",
        "absolute-paths",
        "qcow2",
        "raw",
        "file",
        "null-co",
        "blkdebug",
        "on-success",
        "grouped",
        "report",
        "stop",
        "enospc",
        "drive-backup",
        "blockdev-backup",
        "abort",
        "block-dirty-bitmap-add",
        "block-dirty-bitmap-clear",
        "block-dirty-bitmap-merge",
        "block-dirty-bitmap-remove",
        "unmap",
        "",
        "qemu-io d0 \\\"write 0 64k\\\"",
        "\\u0000",
        "json:{\\\"driver\\\": \\\"file\\\", \\\"filename\\\": \\\"d0\\\"}",
    ]);
    let leaf = prop_oneof![
        4 => word.prop_map(|word| format!("\"{word}\"")),
        1 => select(vec!["true", "false", "null", "0", "1", "-1", "512", "65536", "9223372036854775807", "-9223372036854775808",
            "18446744073709551615", "1e300", "4611686018427387904"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            3 => members(inner),
        ]
    })
}

/// An object with members that commands have.
fn members(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "device",
        "node",
        "node-name",
        "name",
        "id",
        "job-id",
        "target",
        "sync",
        "bitmap",
        "bitmap-mode",
        "mode",
        "format",
        "speed",
        "granularity",
        "persistent",
        "disabled",
        "bitmaps",
        "size",
        "actions",
        "type",
        "data",
        "properties",
        "completion-mode",
        "driver",
        "file",
        "filename",
        "image",
        "backing",
        "inject-error",
        "event",
        "errno",
        "state",
        "force",
        "auto-finalize",
        "auto-dismiss",
        "on-source-error",
        "on-target-error",
        "compress",
        "x-perf",
        "max-workers",
        "max-chunk",
        "command-line",
        "options",
        "read-only",
        "discard",
        "detect-zeroes",
        "cache",
        "direct",
        "flat",
        "reopen",
    ]);
    prop::collection::btree_map(key, value, 0..6).prop_map(|members| {
        let members: Vec<String> = members.into_iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        format!("{{{}}}", members.join(", "))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever a client sends, with a job running or not: it gets a reply, and nothing breaks.
    #[test]
    fn hostile_commands_never_panic(
        commands in prop::collection::vec((prop::sample::select(COMMANDS.to_vec()), members(json())), 1..6),
        busy in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let backup = Doing::Backup { drive: 0, sync: "full", speed: 1 << 20, on_error: "report" };
        let plan = scenario(if busy { std::slice::from_ref(&backup) } else { &[] });
        for (name, arguments) in &commands {
            let text = format!("{{\"execute\": \"{name}\", \"arguments\": {arguments}}}");
            let command = canonical::parse(&text).expect("JSON");
            let mut plan = plan.clone();
            let pos = plan.steps[0].pos.clone();
            let step = PlannedStep { pos, calls: Arc::new([]), kind: StepKind::Qmp { command, expect: Expect::Return(None) } };
            plan.steps = plan.steps.iter().cloned().chain([step]).collect();
            let outcome = sim::run(&plan, Chooser::Walk(Box::new(Walk::new(seed))), &RunOptions::default()).outcome;
            prop_assert!(matches!(outcome, Outcome::Passed | Outcome::Failed { .. }), "{text}\n{outcome}");
        }
    }
}
