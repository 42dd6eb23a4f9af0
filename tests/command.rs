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
