//! `conform`, `record` and `export`, with this program itself in the place of QEMU, so that none is needed.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

mod common;
#[path = "common/harness.rs"]
mod harness;
#[path = "common/signal.rs"]
mod signal;

use harness::{Tool, needing, trials};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // Images are compared with qemu-img.
    let mut all = needing(
        Tool::QemuImg,
        trials![
            programs_agree_with_this_program_as_qemu,
            what_differs_is_made_smaller,
            it_is_said_who_is_wrong,
            a_job_that_sleeps_for_its_speed_is_no_hang,
        ],
    );
    all.extend(needing(Tool::Python, trials![an_exported_script_is_python, a_failing_run_is_shown_by_its_script]));
    all.extend(needing(Tool::Python, needing(Tool::QemuImg, trials![the_example_of_a_client_runs])));
    all.extend(trials![
        what_is_recorded_of_an_end_is_possible,
        a_hang_is_kept_with_a_script_that_needs_nothing_of_ours,
        a_crash_is_kept_with_a_script_that_needs_nothing_of_ours,
        an_exported_schedule_says_how_its_order_is_forced,
        an_expectation_that_fails_on_both_is_no_hang,
        a_signal_tells_what_was_compared_and_recorded,
    ]);
    harness::main(all)
}

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

fn programs_agree_with_this_program_as_qemu() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["well-behaved", "hostile"] {
        let qemu = format!("{BIN} qemu -S");
        let (code, out, err) =
            command(dir.path(), &["conform", "--qemu", &qemu, "--kind", kind, "--seeds", "0..3", "--small"]);
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains("3 programs:") && out.ends_with("0 with new differences\n"), "{out}");
    }
    assert!(!dir.path().join("failures").exists(), "nothing was found, and nothing is kept");
}

/// What a difference does not need is left out, as long as both sides still differ in the same thing.
fn what_differs_is_made_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let differing = "\
about: 'A discard, among what has nothing to do with it.'
files:
  - create: {file: a.qcow2, format: qcow2, size: 1M}
  - create: {file: b.qcow2, format: qcow2, size: 1M}
  - create: {file: t.qcow2, format: qcow2, size: 1M}
args:
  - -drive
  - if=none,id=drive0,file=a.qcow2,format=qcow2,node-name=a,discard=unmap
  - -drive
  - if=none,id=drive1,file=b.qcow2,format=qcow2,node-name=b
steps:
  - qmp: {execute: query-status}
  - qmp: {execute: block-dirty-bitmap-add, arguments: {node: b, name: other}}
  - hmp: qemu-io drive1 \"write -P 1 0 64k\"
  - qmp: {execute: block-dirty-bitmap-add, arguments: {node: a, name: bit}}
  - hmp: qemu-io drive1 \"write -P 2 64k 64k\"
  - hmp: qemu-io drive0 \"discard 0 64k\"
  - qmp: {execute: blockdev-add, arguments: {driver: qcow2, node-name: t, file: {driver: file, filename: t.qcow2}}}
  - qmp: {execute: blockdev-backup, arguments: {device: drive1, target: t, sync: full, job-id: j}}
  - qmp: {execute: block-dirty-bitmap-clear, arguments: {node: b, name: other}}
  - qmp: {execute: query-block}
";
    fs::write(dir.path().join("differing.yaml"), differing).unwrap();
    let quirk = format!("{BIN} qemu -S --sim-quirk discard-not-dirty");
    let conform = |qemu: &str, file: &str, more: &[&str]| {
        command(dir.path(), &[&["conform", "--tries", "100", "--qemu", qemu, file], more].concat())
    };
    let (code, out, err) = conform(&quirk, "differing.yaml", &["--shrink"]);
    assert_eq!(code, Some(1), "{out}{err}");
    // What makes the difference is there: the drive, its bitmap, the discard, and a look at it. Nothing else is.
    for needed in ["id=drive0", "block-dirty-bitmap-add", "discard 0 64k", "query-"] {
        assert!(out.contains(needed), "{needed}: {out}");
    }
    for unneeded in ["drive1", "b.qcow2", "t.qcow2", "write -P", "blockdev-backup", "bitmap-clear", "query-status"] {
        assert!(!out.contains(unneeded), "{unneeded}: {out}");
    }
    // It is a program like any other, which still differs; the real one, or this one without the quirk, would agree.
    let kept = fs::read_to_string(dir.path().join("failures/differing.yaml")).expect("a failure file is kept");
    let scenario: String = kept.split_once("\nscenario: |\n").expect("it has its scenario").1.replace("\n  ", "\n");
    fs::write(dir.path().join("smaller.yaml"), scenario.trim_start()).unwrap();
    let (code, out, err) = conform(&quirk, "smaller.yaml", &[]);
    assert_eq!(code, Some(1), "{out}{err}");
    let (code, out, err) = conform(&format!("{BIN} qemu -S"), "smaller.yaml", &[]);
    assert_eq!(code, Some(0), "{out}{err}");
}

/// A difference is QEMU's fault where it breaks a contract that its client can see, else the model's.
fn it_is_said_who_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let copied = "\
about: 'A write behind what a backup has copied before its speed holds it up.'
files:
  - create: {file: a.raw, format: raw, size: 4M}
  - write: {file: a.raw, format: raw, pattern: 1, offset: 0, length: 4M}
  - create: {file: t.raw, format: raw, size: 4M}
args:
  - -drive
  - if=none,id=a,file=a.raw,format=raw,node-name=na
steps:
  - qmp: {execute: blockdev-add, arguments: {driver: raw, node-name: t, file: {driver: file, filename: t.raw}}}
  - qmp:
      execute: blockdev-backup
      arguments: {device: na, target: t, sync: full, job-id: j, speed: 65536, x-perf: {use-copy-range: true, max-chunk: 1M}}
  - hmp: qemu-io a \"write -P 2 3584k 64k\"
  - qmp: {execute: block-job-set-speed, arguments: {device: j, speed: 0}}
  - event: BLOCK_JOB_COMPLETED
"
    .replace("1M}}", "1048576}}");
    let file = dir.path().join("copied.yaml");
    fs::write(&file, copied).unwrap();
    let museum = |quirk: &str| scenario(&format!("museum/{quirk}"));
    let model = "the model is wrong: QEMU breaks no contract";
    let qemu = |invariant: &str| format!("QEMU is wrong: broken invariant {invariant}: ");
    for (quirk, file, wanted, outcome) in [
        ("txn-start-in-prepare", museum("txn-start-in-prepare"), qemu("group-completion"), "qemu-breaks-a-contract"),
        ("finalize-twice-assert", museum("finalize-twice-assert"), qemu("no-abort"), "qemu-breaks-a-contract"),
        ("txn-early-fail-leaves-drain", museum("txn-early-fail-leaves-drain"), qemu("comes-to-rest"), "qemu-hang"),
        ("copy-range-recopies-clean", file.display().to_string(), qemu("backup-content"), "qemu-breaks-a-contract"),
        // No client can see how often a rule was to strike.
        ("blkdebug-once-rearms", museum("blkdebug-once-rearms"), model.to_owned(), "qemu-differs"),
    ] {
        let real = format!("{BIN} qemu -S --sim-quirk {quirk}");
        let (code, out, err) = command(dir.path(), &["conform", "--tries", "100", "--qemu", &real, &file]);
        assert_eq!(code, Some(1), "{quirk}: {out}{err}");
        assert!(out.contains(&wanted), "{quirk}: {out}");
        let stem = Path::new(&file).file_stem().unwrap().to_string_lossy().into_owned();
        let kept = fs::read_to_string(dir.path().join(format!("failures/{stem}.yaml"))).expect("it is kept");
        assert!(kept.contains(&format!("outcome: {outcome}")), "{kept}");
    }
}

/// What `record` writes is what `validate` takes, the end of the process included.
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

/// So is a crash.
#[cfg(unix)]
fn a_crash_is_kept_with_a_script_that_needs_nothing_of_ours() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    // It does as it is told, and then dies of a signal instead of leaving.
    let crashes = dir.path().join("crashes");
    fs::write(&crashes, format!("#!/bin/sh\n{BIN} qemu -S \"$@\"\nkill -SEGV $$\n")).unwrap();
    fs::set_permissions(&crashes, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, out, err) = command(
        dir.path(),
        &["conform", "--tries", "20", "--qemu", &crashes.display().to_string(), &scenario("quit/plain")],
    );
    assert_eq!(code, Some(1), "the model does not crash: {out}{err}");
    assert!(out.contains("QEMU is wrong: broken invariant no-abort: the process: it was ended by SIGSEGV"), "{out}");
    let kept = |ending: &str| fs::read_to_string(dir.path().join(format!("failures/plain.{ending}")));
    let script = kept("sh").expect("a script is kept");
    assert!(script.contains("QEMU was ended by SIGSEGV") && !script.contains("blockjob-sim qemu"), "{script}");
    let failure = kept("yaml").expect("a failure file is kept");
    assert!(failure.contains("outcome: qemu-crash") && failure.contains("invariant: no-abort"), "{failure}");
}

/// The two ways of the race: who ends first is held back, by a breakpoint where it can be resumed.
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
    }
    assert!(seen.0 && seen.1, "breakpoints and throttling are used: {seen:?}");
}

fn an_exported_script_is_python() {
    let dir = tempfile::tempdir().unwrap();
    let (code, script, err) =
        command(dir.path(), &["export", &scenario("iotest-124/transaction-failure"), "--seed", "0"]);
    assert_eq!(code, Some(0), "{err}");
    let path = dir.path().join("script.py");
    fs::write(&path, &script).unwrap();
    let read = Command::new("python3").args(["-m", "py_compile"]).arg(&path).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

/// The failing example of README.md: a slow backup that is over before its cancel arrives.
const CANCEL: &str = "about: A slow backup is cancelled.
files: [{create: {file: disk.img, format: raw, size: 4M}}, {write: {file: disk.img, format: raw, pattern: 1, offset: 0, length: 4M}}]
args: [-blockdev, 'driver=file,node-name=disk,filename=disk.img', -blockdev, 'driver=null-co,node-name=target,size=4194304']
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: job0, device: disk, target: target, sync: full, speed: 1048576}}
  - qmp: {execute: block-job-cancel, arguments: {device: job0}}
  - event: {event: BLOCK_JOB_CANCELLED, data: {device: job0}}
";

/// Its script ends where the run does, and the cancel waits for the end of the job.
fn a_failing_run_is_shown_by_its_script() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cancel.yaml"), CANCEL).unwrap();
    let (code, script, err) = command(dir.path(), &["export", "cancel.yaml", "--seed", "21"]);
    assert!(code == Some(0) && err.contains("failed in step 2"), "{code:?} {err}");
    assert!(script.contains("in range(5)") && !script.contains("BLOCK_JOB_CANCELLED"), "{script}");
    let path = dir.path().join("script.py");
    fs::write(&path, &script).unwrap();
    let run = Command::new("python3").arg(&path).args([BIN, "qemu", "-S"]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("QEMU gave this order, in attempt 1 of at most 5"), "{said}");
    assert!(said.contains("Block job 'job0' not found"), "{said}");
    // A list that does not fit is no order.
    let (code, script, err) = command(dir.path(), &["export", "cancel.yaml", "--replay", "@0 complete-next 1/9"]);
    assert!(code == Some(4) && script.is_empty() && err.starts_with("error: cancel.yaml: diverged"), "{code:?} {err}");
}

/// A client that waits for what neither side sends has made the mistake itself, and QEMU does not hang.
fn an_expectation_that_fails_on_both_is_no_hang() {
    let dir = tempfile::tempdir().unwrap();
    let text = CANCEL
        .replace(", speed: 1048576", "")
        .replace("  - qmp: {execute: block-job-cancel, arguments: {device: job0}}\n", "");
    fs::write(dir.path().join("wait.yaml"), text).unwrap();
    let qemu = format!("{BIN} qemu -S");
    let (code, trace, err) = command(dir.path(), &["record", "--qemu", &qemu, "wait.yaml"]);
    assert!(code == Some(1) && err.contains("did not come; QEMU is at rest and answers"), "{code:?} {err}");
    fs::write(dir.path().join("wait.jsonl"), &trace).unwrap();
    let (code, out, err) = command(dir.path(), &["validate", "wait.jsonl", "--scenario", "wait.yaml"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("what the scenario expects fails in it") && out.contains("stuck in step 2"), "{out}");
    // One line more is another trace.
    let event = r#"{"data": {"id": "job0", "status": "null"}, "event": "JOB_STATUS_CHANGE"}"#;
    fs::write(dir.path().join("more.jsonl"), format!("{trace}{event}\n")).unwrap();
    let (code, out, _) = command(dir.path(), &["validate", "more.jsonl", "--scenario", "wait.yaml", "--tries", "20"]);
    assert_eq!(code, Some(1), "{out}");
    if Tool::QemuImg.found().is_some() {
        let (code, out, err) = command(dir.path(), &["conform", "--qemu", &qemu, "wait.yaml"]);
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains("wait.yaml:6: what step 2 of the scenario expects fails on both"), "{out}");
        assert!(!out.contains("wrong") && !dir.path().join("failures").exists(), "{out}");
    }
}

/// At 64 KiB a second the next chunk, of 1 MiB, is due in sixteen seconds.
fn a_job_that_sleeps_for_its_speed_is_no_hang() {
    let dir = tempfile::tempdir().unwrap();
    let text = CANCEL
        .replace("speed: 1048576", "speed: 65536")
        .replace("  - qmp: {execute: block-job-cancel, arguments: {device: job0}}\n", "")
        .replace("BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED");
    fs::write(dir.path().join("slow.yaml"), text).unwrap();
    let (code, out, err) = command(dir.path(), &["conform", "--qemu", &format!("{BIN} qemu -S"), "slow.yaml"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("1 equal in another one") && !out.contains("hang"), "{out}{err}");
    assert!(!dir.path().join("failures").exists(), "{out}{err}");
}

/// Ctrl-C says what was done until then, and in the exit code that it was not all.
fn a_signal_tells_what_was_compared_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = format!("{BIN} qemu -S");
    let simple = scenario("smoke/simple");
    for (args, out_has, err_has) in [
        (&["record", "--repeat", "1000000", &simple][..], "\"case\": ", " of 1,000,000 times"),
        (
            &["conform", "--seeds", "0..1000000", "--kind", "well-behaved", "--small"],
            "well-behaved: ",
            "was not compared to its end",
        ),
    ] {
        let mut child = Command::new(BIN);
        child.args(args).args(["--qemu", &qemu]).current_dir(dir.path());
        let child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        signal::send("INT", child.id());
        let output = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(130), "{args:?} {out}{err}");
        assert!(out.contains(out_has) && err.contains("interrupted: ") && err.contains(err_has), "{args:?} {out}{err}");
    }
}

/// `examples/backup_client.py` against the served program, under three seeds.
fn the_example_of_a_client_runs() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/backup_client.py");
    let mut python = std::process::Command::new("python3");
    python.args([example, "3"]).env("BLOCKJOB_SIM", env!("CARGO_BIN_EXE_blockjob-sim"));
    let output = python.output().expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.stderr.is_empty(),
        "nothing is said of processes that end: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // A program that is not there is told in a line; the run of a seed that fails is kept.
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("python3").args([example, "1"]).env("BLOCKJOB_SIM", "/nope").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.starts_with("no program /nope: ") && said.lines().count() == 1,
        "{said}"
    );
    let failing =
        fs::read_to_string(example).unwrap().replace("assert \"error\" not in done", "assert \"error\" in done");
    fs::write(dir.path().join("client.py"), failing).unwrap();
    let mut python = Command::new("python3");
    python.args(["client.py", "2"]).env("BLOCKJOB_SIM", BIN).current_dir(dir.path());
    let output = python.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && !said.contains("Traceback"), "{said}");
    assert!(said.contains("seed 0 fails; again: blockjob-sim run seed-0.yaml"), "{said}");
    let (code, out, err) = command(dir.path(), &["run", "seed-0.yaml"]);
    assert!(code == Some(0) && out.contains("BLOCK_JOB_COMPLETED"), "{out}{err}");
}
