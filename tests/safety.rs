//! A scenario is data: whoever wrote it, it is safe to check, run, record, export and convert. And what a command starts ends with it.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs and print"
)]

#[path = "common/signal.rs"]
mod signals;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BIN: &str = env!("CARGO_BIN_EXE_blockjob-sim");

/// The images and options of the scenarios below.
const HEAD: &str = "\
files:
  - create: {file: s.qcow2, format: qcow2, size: 1M}
args: [-blockdev, '{\"driver\": \"qcow2\", \"node-name\": \"n\", \"file\": {\"driver\": \"file\", \"filename\": \"s.qcow2\"}}']
";

fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("skipped: no {program}");
    }
    there
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A place for a test: `home` is where commands run, `tmp` where they put temporary files.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("home")).env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(BIN, args).output().expect("the command starts")
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path("home").join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// A program for a script.
    fn program(&self, name: &str, content: &str) -> String {
        let path = self.write(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there, and no zombie.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Texts that would do something if they became code: `CANARY` stands for a file that must not come to be.
const TEXTS: &[&str] = &[
    r"harmless\rimport os; os.system('touch CANARY') #",
    r"x\nimport os; os.system('touch CANARY')",
    r"x\u2028import os; os.system('touch CANARY')",
    r"x\fimport os; os.system('touch CANARY')",
    r#"\"\"\"\nimport os; os.system('touch CANARY')\n\"\"\""#,
    r"');import os; os.system('touch CANARY')#",
    r#"\");import os; os.system('touch CANARY')#"#,
    r"\\",
    r"$$(touch CANARY)`touch CANARY`",
    r"';touch CANARY;'",
    r"EOF\ntouch CANARY",
    r"😀 \U0001f600 \u202e",
];

#[test]
fn texts_of_a_scenario_do_nothing_in_an_exported_script() {
    if !there("python3") {
        return;
    }
    let place = Place::new();
    for form in ["calm", "in order"] {
        for (number, text) in TEXTS.iter().enumerate() {
            let text = text.replace("CANARY", &place.path("canary").display().to_string());
            let here = text.replace('/', "_");
            let scenario = place.write(
                &format!("{number}.yaml"),
                &format!(
                    "about: \"{text}\"\nfiles:\n  - text: {{file: \"{here}\", content: \"{text}\"}}\n  \
                     - create: {{file: s.raw, format: raw, size: 1M}}\nargs: [-blockdev, '{{\"driver\": \"raw\", \"node-name\": \"n\", \
                     \"file\": {{\"driver\": \"file\", \"filename\": \"s.raw\"}}}}']\nsteps:\n  - mark: \"{text}\"\n  \
                     - qmp: {{execute: block-dirty-bitmap-add, arguments: {{node: n, name: \"{text}\"}}}}\n    reply: any\n"
                ),
            );
            let mut args = vec!["export", scenario.as_str()];
            args.extend(if form == "calm" { &[][..] } else { &["--seed", "1"] });
            let export = place.run(&args);
            assert_eq!(export.status.code(), Some(0), "{text}: {}", self::text(&export.stderr));
            assert!(export.stdout.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~')), "not plain: {text}");
            let script = place.write("script.py", &self::text(&export.stdout));
            // No QEMU is needed to see that nothing else runs.
            place.program("qemu-img", "#!/bin/sh\nexit 0\n");
            let path = format!("{}:{}", place.path("home").display(), std::env::var("PATH").unwrap_or_default());
            let ran = place.command("python3", &[&script, "true"]).env("PATH", path).output().unwrap();
            let said = self::text(&ran.stderr);
            assert!(said.starts_with("QEMU ended with 0"), "{text}: {said}");
            assert!(!place.path("canary").exists(), "{text}");
            assert_eq!(place.left(), [] as [PathBuf; 0], "{text}");
        }
    }
}

/// The script of a crash, too, with a QEMU that is none.
#[test]
fn texts_of_a_scenario_do_nothing_in_the_script_of_a_crash() {
    if !there("qemu-img") {
        return;
    }
    let place = Place::new();
    let crashes = place.program("crashes", &format!("#!/bin/sh\n{BIN} qemu -S \"$@\"\nkill -SEGV $$\n"));
    for (number, text) in TEXTS.iter().enumerate() {
        let text = text.replace("CANARY", &place.path("canary").display().to_string());
        let scenario = place.write(
            &format!("{number}.yaml"),
            &format!("about: \"{text}\"\n{HEAD}steps:\n  - mark: \"{text}\"\n  - qmp: {{execute: quit}}\n"),
        );
        let conform = place.run(&["conform", "--tries", "20", "--qemu", &crashes, &scenario]);
        assert_eq!(conform.status.code(), Some(1), "{}", self::text(&conform.stderr));
        let script = place.path("home").join(format!("failures/{number}.sh"));
        let script = script.display().to_string();
        let ran = place.command("bash", &[&script, "true"]).output().unwrap();
        assert!(!place.path("canary").exists(), "{text}: {}", self::text(&ran.stdout));
        assert_eq!(place.left(), [] as [PathBuf; 0], "{text}");
    }
}

#[test]
fn what_reaches_out_is_refused_unless_it_is_trusted() {
    let place = Place::new();
    let out = place.path("out").display().to_string();
    for scenario in [
        format!("about: x\n{HEAD}steps:\n  - qmp: {{execute: migrate, arguments: {{uri: 'exec:touch {out}'}}}}\n    reply: any\n"),
        format!("about: x\nfiles:\n  - text: {{file: {out}, content: x}}\nargs: []\nsteps:\n  - qmp: {{execute: query-block}}\n"),
        "about: x\nfiles:\n  - text: {file: ../../out, content: x}\nargs: []\nsteps:\n  - qmp: {execute: query-block}\n".to_owned(),
        format!("about: x\nfiles: []\nargs: [-D, {out}]\nsteps:\n  - qmp: {{execute: query-block}}\n"),
    ] {
        let file = place.write("s.yaml", &scenario);
        for command in ["record", "conform", "export"] {
            let done = place.run(&[command, "--trust", &file, "--help"]);
            assert_eq!(done.status.code(), Some(0), "{command} knows --trust");
            let mut args = vec![command, file.as_str()];
            let qemu = format!("{BIN} qemu -S");
            if command != "export" {
                args.extend(["--qemu", qemu.as_str()]);
            }
            let done = place.run(&args);
            let said = text(&done.stderr);
            assert_eq!(done.status.code(), Some(2), "{command}: {said}");
            assert!(said.contains("--trust") && done.stdout.is_empty(), "{command}: {said}");
            assert!(!Path::new(&out).exists());
        }
    }
    assert_eq!(
        place.run(&["export", "--trust", &place.path("home").join("s.yaml").display().to_string()]).status.code(),
        Some(0)
    );
    assert_eq!(place.left(), [] as [PathBuf; 0]);
}

/// A QEMU that says who it is and never answers.
fn silent(place: &Place) -> String {
    place.program(
        "silent",
        "#!/usr/bin/env python3\nimport os, socket, time\nopen(os.environ['HOME'] + '/pid', 'w').write(str(os.getpid()))\n\
         s = socket.socket(socket.AF_UNIX); s.bind('qmp.sock'); s.listen(1); time.sleep(600)\n",
    )
}

fn started(place: &Place, program: &str, args: &[&str]) -> (Child, String) {
    let pid = place.path("home").join("pid");
    let _ = fs::remove_file(&pid);
    let mut command = place.command(program, args);
    command.env("HOME", place.path("home")).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    wait_for("the process starts", || fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
    (child, fs::read_to_string(&pid).unwrap())
}

fn signal(child: &Child, name: &str) {
    signals::send(name, child.id());
}

#[test]
fn a_signal_leaves_neither_qemu_nor_directory() {
    if !there("python3") {
        return;
    }
    let place = Place::new();
    let qemu = silent(&place);
    let file = place.write("s.yaml", &format!("about: x\n{HEAD}steps:\n  - qmp: {{execute: query-block}}\n"));
    for command in ["record", "conform"] {
        for name in ["TERM", "INT", "HUP"] {
            let (mut child, pid) = started(&place, BIN, &[command, "--qemu", &qemu, &file]);
            let dirs = place.left();
            assert_eq!(dirs.len(), 1, "{command}: {dirs:?}");
            assert_eq!(fs::metadata(&dirs[0]).unwrap().permissions().mode() & 0o777, 0o700, "{command}");
            let unguessable = dirs[0].file_name().unwrap().to_string_lossy().into_owned();
            assert!(!unguessable.contains(&child.id().to_string()), "{unguessable}");
            signal(&child, name);
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(130), "{command}, {name}");
            wait_for("QEMU ends", || !lives(&pid));
            assert_eq!(place.left(), [] as [PathBuf; 0], "{command}, {name}");
        }
    }
}

#[test]
fn a_signal_ends_an_exported_script_with_all_it_made() {
    if !there("python3") || !there("qemu-img") {
        return;
    }
    let place = Place::new();
    let qemu = silent(&place);
    let file = place.write("s.yaml", &format!("about: x\n{HEAD}steps:\n  - qmp: {{execute: query-block}}\n"));
    for options in [&["export"][..], &["export", "--seed", "1"]] {
        let export = place.run(&[options, &[file.as_str()]].concat());
        let script = place.write("script.py", &text(&export.stdout));
        for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1)] {
            let (mut child, pid) = started(&place, "python3", &[&script, &qemu]);
            signal(&child, name);
            assert_eq!(child.wait().unwrap().code(), Some(128 + number), "{name}");
            wait_for("QEMU ends", || !lives(&pid));
            assert_eq!(place.left(), [] as [PathBuf; 0], "{name}");
        }
    }
}

#[test]
fn a_qemu_that_is_none_is_told_at_once() {
    let place = Place::new();
    let done = place.run(&["conform", "--qemu", "nonexist", "--seeds", "0..100", "--kind", "well"]);
    let said = text(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("nonexist") && said.lines().count() < 4, "{said}");
    assert!(done.stdout.is_empty() && place.left().is_empty());
}

/// A scenario that compares images at its end.
const GUEST_WRITE: &str = r#"about: A guest write during a full backup does not reach the target.
files:
  - create: {file: s.qcow2, format: qcow2, size: 4M}
  - write: {file: s.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
  - create: {file: t.qcow2, format: qcow2, size: 4M}
  - create: {file: was.qcow2, format: qcow2, size: 4M}
  - write: {file: was.qcow2, format: qcow2, pattern: 0x41, offset: 0, length: 1M}
args:
  - -drive
  - if=none,id=drive0,file=s.qcow2,format=qcow2,node-name=s
  - -blockdev
  - '{"driver": "qcow2", "node-name": "t", "file": {"driver": "file", "filename": "t.qcow2"}}'
steps:
  - qmp: {execute: blockdev-backup, arguments: {job-id: j, device: drive0, target: t, sync: full}}
  - {hmp: 'qemu-io drive0 "write -P 0x42 512k 64k"', returns: ''}
  - event: {event: BLOCK_JOB_COMPLETED, data: {device: j}, without: [error]}
  - event: {event: JOB_STATUS_CHANGE, data: {id: j, status: 'null'}}
  - same: [was.qcow2, t.qcow2]
  - no-jobs: true
"#;

/// QEMU has parts of images in its caches when a scenario compares them at its end.
#[test]
fn images_are_compared_when_qemu_has_written_them() {
    if !there("python3") || !there("qemu-img") || !there("qemu-io") {
        return;
    }
    let place = Place::new();
    let scenario = GUEST_WRITE.to_owned();
    // At the end QEMU is ended; before another command its nodes are flushed.
    let middle = format!("{scenario}  - qmp: {{execute: query-jobs}}\n");
    let simulated = place.program("qemu", &format!("#!/bin/sh\nexec {BIN} qemu \"$@\"\n"));
    let mut programs = vec![simulated];
    programs.extend(there("qemu-system-x86_64").then(|| "qemu-system-x86_64".to_owned()));
    for qemu in programs {
        for (name, scenario) in [("end", &scenario), ("middle", &middle)] {
            let file = place.write("mine.yaml", scenario);
            let export = place.run(&["export", &file]);
            let script = place.write("mine.py", &text(&export.stdout));
            let ran = place.command("python3", &[&script, &qemu]).output().unwrap();
            assert_eq!(ran.status.code(), Some(0), "{qemu}, {name}: {}{}", text(&ran.stdout), text(&ran.stderr));
            assert_eq!(place.left(), [] as [PathBuf; 0], "{qemu}, {name}");
        }
        // What differs is told, and leaves nothing either.
        let differs = scenario
            .replace("pattern: 0x41, offset: 0, length: 1M}\nargs", "pattern: 0x43, offset: 0, length: 1M}\nargs");
        assert_ne!(differs, scenario);
        let export = place.run(&["export", &place.write("mine.yaml", &differs)]);
        let script = place.write("mine.py", &text(&export.stdout));
        let ran = place.command("python3", &[&script, &qemu]).output().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{}", text(&ran.stderr));
        assert!(
            text(&ran.stderr).contains("compare") && !text(&ran.stderr).contains("Traceback"),
            "{}",
            text(&ran.stderr)
        );
        assert_eq!(place.left(), [] as [PathBuf; 0], "{qemu}");
    }
}

/// As the real one: a second process is refused, and its end takes nothing away; nothing is left where it fails.
#[test]
fn a_pid_file_is_private_and_locked() {
    let place = Place::new();
    let serve = |program: &[&str], sock: &str, pidfile: &str| {
        let monitor = format!("unix:{sock},server=on,wait=off");
        let more = ["-nodefaults", "-display", "none", "-S", "-pidfile", pidfile, "-qmp", &monitor];
        let mut command = place.command(program[0], &[&program[1..], &more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let home = |name: &str| place.path("home").join(name);
    let ours: &[&str] = &[BIN, "qemu"];
    let real: &[&str] = &["qemu-system-x86_64", "-machine", "none"];
    let mut programs = vec![ours];
    programs.extend(there(real[0]).then_some(real));
    for first in &programs {
        for second in &programs {
            let mut a = serve(first, "a.sock", "pf").spawn().unwrap();
            wait_for("the first serves", || home("a.sock").exists());
            assert_eq!(fs::read_to_string(home("pf")).unwrap(), format!("{}\n", a.id()));
            assert_eq!(fs::metadata(home("pf")).unwrap().permissions().mode() & 0o777, 0o600);
            let b = serve(second, "b.sock", "pf").output().unwrap();
            assert_eq!(b.status.code(), Some(1));
            let said = text(&b.stderr);
            let wanted = ": cannot create PID file: Cannot lock pid file: Resource temporarily unavailable\n";
            assert!(said.ends_with(wanted), "{said}");
            assert!(!home("b.sock").exists() && home("pf").exists());
            signal(&a, "TERM");
            a.wait().unwrap();
            assert!(!home("pf").exists() && !home("a.sock").exists());
        }
        let c = serve(first, "c.sock", "nodir/pf").output().unwrap();
        assert_eq!(c.status.code(), Some(1));
        assert!(
            text(&c.stderr)
                .ends_with("cannot create PID file: Could not create 'nodir/pf': No such file or directory\n")
        );
        assert!(!home("c.sock").exists(), "no socket is left behind");
    }
    // Unlike QEMU, ours leaves a file that has become another's.
    let mut a = serve(ours, "a.sock", "pf").spawn().unwrap();
    wait_for("it serves", || home("a.sock").exists());
    fs::write(home("other"), "1\n").unwrap();
    fs::rename(home("other"), home("pf")).unwrap();
    signal(&a, "TERM");
    a.wait().unwrap();
    assert_eq!(fs::read_to_string(home("pf")).unwrap(), "1\n");
}
