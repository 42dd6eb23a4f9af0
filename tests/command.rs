//! The command from outside: exit codes, messages, closed pipes.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn command(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"));
    command.args(args).current_dir(dir).output().expect("the command starts")
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const GOOD: (&str, &str) = ("good.yaml", "about: Nothing happens.\ninclude: [common/x.yaml]\nsteps:\n  - call: rest\n");
const COMMON: (&str, &str) = ("common/x.yaml", "define: {rest: {steps: [{idle: true}]}}\n");

#[test]
fn check_names_places() {
    let dir = folder(&[GOOD, COMMON, ("bad.yaml", "about: x\nsteps:\n  - idel: true\n")]);
    let (code, out, err) = texts(&command(dir.path(), &["check", "good.yaml", "common/x.yaml"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, "good.yaml: ok, 1 step: Nothing happens.\ncommon/x.yaml: ok, definitions only\n");
    let (code, _, err) = texts(&command(dir.path(), &["check", "bad.yaml", "good.yaml"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("--> bad.yaml:3:5") && err.contains("did you mean `idle`?") && !err.contains('\x1b'), "{err}");
    let (code, _, err) = texts(&command(dir.path(), &["check", "none.yaml"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("error: none.yaml: No such file or directory"), "{err}");
}

#[test]
fn mistakes_in_arguments_end_with_2() {
    let dir = folder(&[GOOD, COMMON]);
    for (args, word) in [
        (&["run"][..], "FILE"),
        (&["run", "good.yaml", "--level", "all"], "expected client, job, io or co"),
        (&["run", "good.yaml", "--seed", "1", "--replay", "@1"], "cannot be used with"),
        (&["run", "good.yaml", "--replay", "@1 nothing 1/2"], "no such choice point"),
        (&["run", "good.yaml", "--replay", "nowhere"], "--replay: nowhere: No such file or directory"),
        (&["run", "common/x.yaml"], "only definitions"),
        (&["test", "nowhere"], "nowhere: No such file or directory"),
        (&["test", "common"], "common: no scenarios here"),
        (&["test", "--seeds", "5..1"], "no range of seeds"),
        (&["help", "nothing"], "no help on `nothing`"),
        (&["help", "strategis"], "no help on `strategis`: did you mean `strategies`?"),
        (&["test"], "sim-scenarios: No such file or directory; name scenario files, or directories of them"),
        (&["museum", "cbw-nowait"], "`cbw-nowait` is no quirk: "),
        (
            &["quirks", "txn-dangling-membre"],
            "is no quirk: did you mean `txn-dangling-member`? `blockjob-sim quirks` lists all",
        ),
        (&["frobnicate"], "unrecognized subcommand"),
    ] {
        let (code, _, err) = texts(&command(dir.path(), args));
        assert_eq!(code, Some(2), "{args:?}: {err}");
        assert!(err.contains(word), "{args:?}: {err}");
    }
}

#[test]
fn help_explains() {
    let dir = folder(&[]);
    for (args, word) in [
        (&["help"][..], "Exit codes:"),
        (&["help", "trace"], "Levels of detail"),
        (&["help", "scenario"], "A scenario is a YAML file"),
        (&["help", "choices"], "--replay CHOICES"),
        (&["help", "run"], "--seed <N>"),
        (&["--help"], "Exit codes:"),
        (&["--version"], "blockjob-sim"),
    ] {
        let (code, out, err) = texts(&command(dir.path(), args));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
        assert!(out.contains(word), "{args:?}: {out}");
    }
}

#[test]
fn every_choice_point_and_step_has_help() {
    let dir = folder(&[]);
    let (_, choices, _) = texts(&command(dir.path(), &["help", "choices"]));
    for (name, _) in blockjob_sim::choice::kinds() {
        assert!(choices.contains(&format!("\n  {name} ")), "{name}");
    }
}

/// A reader that goes away early must not turn into a panic.
#[test]
fn a_closed_pipe_ends_quietly() {
    let dir = folder(&[]);
    for args in [&["help", "trace"][..], &["--help"], &["help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_blockjob-sim"))
            .args(args)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(texts(&output), (Some(0), String::new(), String::new()), "{args:?}");
    }
}

/// What one command writes or prints, another one takes, or says which does.
#[test]
fn a_failure_file_is_no_scenario() {
    let failure = "failure: 1\ntool: blockjob-sim 0.1.0\n";
    let passes = "about: It does nothing.\nsteps: []\n";
    let dir = folder(&[("failures/f.yaml", failure), ("mine.yaml", passes)]);
    for verb in ["run", "check", "test", "explore", "fuzz"] {
        let (code, out, err) = texts(&command(dir.path(), &[verb, "failures/f.yaml"]));
        let said = out + &err;
        assert_eq!(code, Some(2), "{verb}: {said}");
        assert!(said.contains("this is a failure file") && said.contains("blockjob-sim replay"), "{verb}: {said}");
    }
    for verb in ["run", "check", "test"] {
        let (code, out, err) = texts(&command(dir.path(), &[verb, "."]));
        assert_eq!(code, Some(0), "{verb}: {out}{err}");
    }
}

#[test]
fn explore_takes_the_numbers_that_it_prints() {
    let dir = folder(&[]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/explore/query-during-backup.yaml");
    let (_, all, _) = texts(&command(dir.path(), &["explore", file]));
    let line = all.lines().find(|line| line.starts_with("trace 3 of 8: ")).expect("the third trace");
    let number = &line["trace 3 of 8: ".len()..][..16];
    let (code, out, err) = texts(&command(dir.path(), &["explore", file, "--trace", &number[..6]]));
    let traces: Vec<&str> = out.lines().filter(|line| line.starts_with("trace ")).collect();
    assert_eq!((code, &traces[..]), (Some(1), &[line][..]), "{out}{err}");
    assert!(out.contains("query-block-jobs") || out.contains("query-jobs"), "the trace itself: {out}");
    let (code, _, err) = texts(&command(dir.path(), &["explore", file, "--trace", "0123456789abcdef"]));
    assert!(code == Some(2) && err.contains("--trace: no client trace"), "{err}");
    let (code, _, err) = texts(&command(dir.path(), &["explore", file, "--trace", "third"]));
    assert!(code == Some(2) && err.contains("hexadecimal"), "{err}");
}

#[test]
fn what_is_not_there_is_named_as_it_was_given() {
    let dir = folder(&[("mine.yaml", "about: It does nothing.\nsteps: []\n")]);
    for verb in ["record", "conform"] {
        let (code, _, err) = texts(&command(dir.path(), &[verb, "mine.yaml", "--qemu", "no-such-qemu"]));
        assert_eq!(code, Some(2), "{verb}: {err}");
        assert!(err.contains("no-such-qemu") && !err.contains("stdbuf"), "{verb}: {err}");
    }
    let (code, out, err) = texts(&command(dir.path(), &["museum"]));
    assert!(code == Some(2) && out.is_empty() && err.contains("--scenarios"), "{out}{err}");
}
