//! Programs that users of QEMU reported, in our own words, against what the real QEMU 10.0.2 did with them.
//!
//! `tests/data/reported/NAME/program.json` is a whole program: images to make, the arguments of a process, and steps, among which the
//! process may end, be killed and start again, and shell commands look at its images. `real.jsonl` is what QEMU showed: commands,
//! replies and events as they came, exit statuses, what was printed, and at last each image as qemu-img tells of it. The served program
//! has to show the same. Each program is a test of its own. Where QEMU crashes, which is a finding then (`docs/findings`), `instead.jsonl`
//! is what the served program shows from there on.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/harness.rs"]
mod harness;
#[path = "common/program.rs"]
mod program;
#[path = "common/recorded_program.rs"]
mod recorded_program;

use harness::{Tool, needing, trial};
use libtest_mimic::Trial;
use recorded_program::{difference, differs, lines, same_on_all_hosts};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Programs that need what the model does not have, and why.
const SKIPPED: &[(&str, &str)] = &[
    ("blockdev-create-errors", "not simulated: extended-l2"),
    ("cmdl-53", "not simulated: vvfat"),
    ("gl1139-cmdline-1", "not simulated: rbd"),
    ("gl1139-protocols", "not simulated: rbd and others, of which a host may have installed some"),
];

/// The real process dies: what ours shows is the same for a while, and then `instead`, to the end.
fn outlives(real: &[Value], ours: &[Value], instead: &[Value]) {
    let dies = |line: &Value| line["exit"].as_i64().is_some_and(|status| status < 0);
    assert!(real.iter().any(dies), "QEMU does not die of it");
    let same = real.iter().zip(ours).take_while(|(real, ours)| real == ours).count();
    let rest: Vec<&Value> = ours[same..].iter().collect();
    if let Some(found) = difference(&instead.iter().collect::<Vec<_>>(), &rest) {
        let shown: Vec<String> = rest.iter().map(ToString::to_string).collect();
        panic!("where QEMU dies: {found}\n{}", shown.join("\n"));
    }
}

fn run(dir: &Path) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a file");
    let program: Value = serde_json::from_str(&read("program.json")).expect("JSON");
    let real = lines(&read("real.jsonl"));
    let ours: Vec<Value> = program::carry_out(&program).into_iter().map(same_on_all_hosts).collect();
    if let Ok(instead) = fs::read_to_string(dir.join("instead.jsonl")) {
        return outlives(&real, &ours, &lines(&instead));
    }
    let found = differs(&program, &real, &ours);
    if let Some(found) = found {
        panic!("{found}");
    }
}

fn main() -> ExitCode {
    let mut dirs: Vec<_> = fs::read_dir("tests/data/reported").unwrap().map(|e| e.unwrap().path()).collect();
    dirs.sort();
    assert!(dirs.len() > 50, "the programs are there");
    let skipped = |name: &str| SKIPPED.iter().find(|(skipped, _)| *skipped == name).map(|(_, why)| *why);
    let all = dirs.into_iter().map(|dir| -> Trial {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let why = skipped(&name);
        let test = trial(name, move || run(&dir));
        match why {
            Some(why) => test.with_kind(why).with_ignored_flag(true),
            None => test,
        }
    });
    harness::main(needing(Tool::QemuImg, all.collect()))
}
