//! `conform`, `record` and `export`, with this program itself in the place of QEMU, so that none is needed.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

const BIN: &str = env!("CARGO_BIN_EXE_blockjob-sim");

/// Exit code, standard output and standard error.
fn command(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BIN).args(args).current_dir(dir).output().expect("the command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn scenario(name: &str) -> String {
    common::path(&format!("sim-scenarios/{name}.yaml")).display().to_string()
}

fn program(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok()
}

#[test]
fn programs_agree_with_this_program_as_qemu() {
    if !program("qemu-img") {
        println!("no qemu-img: images cannot be compared");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for kind in ["well", "faulty"] {
        let qemu = format!("{BIN} qemu -S");
        let (code, out, err) =
            command(dir.path(), &["conform", "--qemu", &qemu, "--kind", kind, "--seeds", "0..3", "--small"]);
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains("3 programs") && out.ends_with("0 differ\n"), "{out}");
    }
    assert!(!dir.path().join("failures").exists(), "nothing was found, and nothing is kept");
}

/// What `record` writes is what `validate` takes, the end of the process included.
#[test]
fn what_is_recorded_of_an_end_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = format!("{BIN} qemu -S");
    for (name, asked) in [("quit/plain", true), ("quit/two", true), ("smoke/simple", false)] {
        let file = scenario(name);
        let (code, trace, err) = command(dir.path(), &["record", "--qemu", &qemu, &file]);
        assert_eq!(code, Some(0), "{name}: {err}");
        assert_eq!(trace.contains("SHUTDOWN"), asked, "{name}: {trace}");
        fs::write(dir.path().join("trace.jsonl"), trace).unwrap();
        let (code, out, err) = command(dir.path(), &["validate", "trace.jsonl", "--scenario", &file]);
        assert_eq!(code, Some(0), "{name}: {out}{err}");
    }
}

/// A hang is a finding, also where the model says that it comes.
#[test]
fn a_hang_is_kept_with_a_script_that_needs_nothing_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    // What QEMU does there is a wrong behaviour that has a name here.
    let qemu = format!("{BIN} qemu -S --sim-quirk grouped-undo-waits-for-unstarted");
    let file = scenario("group/27-third-cannot-prepare");
    let (code, out, err) = command(dir.path(), &["conform", "--qemu", &qemu, &file]);
    assert_eq!(code, Some(0), "the model hangs, too: {out}{err}");
    let kept = |ending: &str| fs::read_to_string(dir.path().join(format!("failures/27-third-cannot-prepare.{ending}")));
    let script = kept("sh").expect("a script is kept");
    assert!(script.contains("QEMU hangs: no reply came") && script.contains("qemu-img create"), "{script}");
    assert!(!script.contains("blockjob-sim"), "{script}");
    let read = Command::new("bash").args(["-n", "-c", &script]).output().expect("there is a bash");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    assert!(kept("yaml").expect("a failure file is kept").contains("outcome: qemu-hang"));
    // The trace that is kept is one that `validate` reads, and that the model gives up to the hang.
    let trace = kept("qemu.jsonl").expect("the trace is kept");
    assert!(trace.contains(r#""status": "aborting""#) && trace.starts_with('{'), "{trace}");
}

/// The two ways of the race: who ends first is held back, by a breakpoint where it can be resumed.
#[test]
fn an_exported_schedule_says_how_its_order_is_forced() {
    let dir = tempfile::tempdir().unwrap();
    let file = scenario("iotest-124/transaction-failure");
    let (code, calm, _) = command(dir.path(), &["export", &file]);
    assert!(code == Some(0) && calm.contains("is not forced"), "{calm}");
    let mut seen = (false, false, false);
    for seed in 0..20 {
        let (code, script, err) = command(dir.path(), &["export", &file, "--seed", &seed.to_string()]);
        assert_eq!(code, Some(0), "{err}");
        // An event of that status from before the command is not the one that is waited for.
        seen.0 |= script.contains("break read_aio held")
            && script.contains("qmp.told(\"waiting\", ")
            && script.contains("resume held");
        seen.1 |= script.contains(r#"\"iops-read\": 2}"#) && script.contains("throttle-group,id=hold-drive1");
        seen.2 |= err.contains("cannot be forced") && script.contains("in range(60)");
        if seed == 0 && program("python3") {
            let path = dir.path().join("script.py");
            fs::write(&path, &script).unwrap();
            let read = Command::new("python3").args(["-m", "py_compile"]).arg(&path).output().unwrap();
            assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        }
    }
    assert!(seen.0 && seen.1, "breakpoints and throttling are used: {seen:?}");
}
