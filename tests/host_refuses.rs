//! Real hosts that refuse: a full file system, a limit on the length of files, files that may only be read. What a client is told is true.
//!
//! The expected lines are QEMU 10.0.2's in the same place. Where the sandbox forbids what a test needs, it says so and passes.

#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read files, run programs, know the time and print"
)]

use blockjob_sim::base::Json;
use blockjob_sim::qmp::json::parse_one;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A disk of this many bytes, all ones, and a target of the same length.
const SIZE: usize = 4 << 20;

const NODES: [&str; 2] = [
    r#"{"driver":"raw","node-name":"s","file":{"driver":"file","filename":"s.raw"}}"#,
    r#"{"driver":"raw","node-name":"t","file":{"driver":"file","filename":"small/t.raw"}}"#,
];

/// A process whose monitor is on its standard input and output, started through a shell that first sets up its host.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    events: Vec<Json>,
    /// What it printed that is no message.
    printed: String,
}

impl Process {
    /// `before`: what the shell does in the directory, with `small/` in it, before it becomes the process.
    fn start(dir: &Path, before: &str, through: &[&str], nodes: &[&str]) -> Process {
        let mut words = vec!["-nodefaults", "-display", "none", "-S", "-qmp", "stdio"];
        nodes.iter().for_each(|node| words.extend(["-blockdev", node]));
        let script = format!("{before}; exec \"$@\"");
        let mut all: Vec<&str> = through.to_vec();
        all.extend(["sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_blockjob-sim"), "qemu"]);
        all.extend(words);
        let mut child = Command::new(all[0])
            .args(&all[1..])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Process { child, input, output, events: Vec::new(), printed: String::new() };
        process.message();
        process.qmp(r#"{"execute":"qmp_capabilities"}"#);
        process
    }

    /// The next line that is JSON; qemu-io prints others.
    fn message(&mut self) -> Json {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).expect("it can be read"), 0, "the process ended");
            if let Ok(json) = parse_one(line.trim_end()) {
                return json;
            }
            self.printed.push_str(&line);
        }
    }

    /// The reply to a command.
    fn qmp(&mut self, command: &str) -> Json {
        writeln!(self.input, "{command}").expect("it listens");
        loop {
            let message = self.message();
            if message.get("event").is_none() {
                return message;
            }
            self.events.push(message);
        }
    }

    fn ok(&mut self, command: &str) -> Json {
        let reply = self.qmp(command);
        reply.get("return").unwrap_or_else(|| panic!("{command}: {reply:?}")).clone()
    }

    fn fails(&mut self, command: &str) -> String {
        let reply = self.qmp(command);
        let error = reply.get("error").unwrap_or_else(|| panic!("{command} went well: {reply:?}"));
        error.get("desc").and_then(Json::as_str).expect("a text").to_owned()
    }

    /// The data of the next event of that name.
    fn event(&mut self, name: &str) -> Json {
        let is = |event: &Json| event.get("event").and_then(Json::as_str) == Some(name);
        loop {
            if let Some(at) = self.events.iter().position(is) {
                return self.events.remove(at).get("data").expect("data").clone();
            }
            let message = self.message();
            self.events.push(message);
        }
    }

    /// What qemu-io prints, but for its figures.
    fn hmp(&mut self, line: &str) -> String {
        self.printed.clear();
        let line = line.replace('"', "\\\"");
        self.ok(&format!(r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"{line}"}}}}"#));
        self.printed.lines().next().unwrap_or_default().to_owned()
    }

    fn quit(mut self) {
        self.ok(r#"{"execute":"quit"}"#);
        assert!(self.child.wait().expect("it ends").success());
    }
}

fn text<'a>(data: &'a Json, member: &str) -> Option<&'a str> {
    data.get(member).and_then(Json::as_str)
}

fn backup(policy: &str) -> String {
    format!(
        r#"{{"execute":"blockdev-backup","arguments":{{"job-id":"j","device":"s","target":"t","sync":"incremental","bitmap":"b","on-target-error":"{policy}"}}}}"#
    )
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("small")).expect("a directory");
    std::fs::write(dir.path().join("s.raw"), vec![1; SIZE]).expect("a file");
    dir
}

/// Whether a file system can be mounted without being root.
fn can_mount() -> bool {
    let works = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    let can = works.is_ok_and(|output| output.status.success());
    if !can {
        println!("no file system can be mounted in a namespace here: a full disk was not tested");
    }
    can
}

const FULL: &str = "mount -t tmpfs -o size=2m tmpfs small && truncate -s 4M small/t.raw";
const NAMESPACE: [&str; 2] = ["unshare", "-rm"];

#[test]
fn a_backup_to_a_full_disk_fails_and_keeps_its_bitmap() {
    if !can_mount() {
        return;
    }
    let dir = directory();
    let mut qemu = Process::start(dir.path(), FULL, &NAMESPACE, &NODES);
    qemu.ok(r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"s","name":"b"}}"#);
    qemu.hmp(r#"qemu-io s "write -P 2 0 4M""#);
    qemu.ok(&backup("report"));
    let error = qemu.event("BLOCK_JOB_ERROR");
    assert_eq!((text(&error, "operation"), text(&error, "action")), (Some("write"), Some("report")));
    let completed = qemu.event("BLOCK_JOB_COMPLETED");
    assert_eq!(text(&completed, "error"), Some("No space left on device"));
    let nodes = qemu.ok(r#"{"execute":"query-named-block-nodes"}"#);
    let source = nodes.as_list().unwrap().iter().find(|node| text(node, "node-name") == Some("s")).expect("the source");
    let bitmap = &source.get("dirty-bitmaps").and_then(Json::as_list).expect("bitmaps")[0];
    assert_eq!(bitmap.get("count").and_then(Json::as_u64), Some(SIZE as u64));
    qemu.quit();
}

#[test]
fn a_backup_stops_at_a_full_disk_and_goes_on_when_there_is_room() {
    if !can_mount() {
        return;
    }
    let dir = directory();
    // The shell's child makes room when the test says so.
    let setup = "mount -t tmpfs -o size=5m tmpfs small && truncate -s 4M small/t.raw && head -c 3M /dev/zero >small/fill; \
                 (until [ -e go ]; do sleep 0.05; done; rm small/fill; touch gone) </dev/null >/dev/null 2>&1 &";
    let mut qemu = Process::start(dir.path(), &format!("{setup} :"), &NAMESPACE, &NODES);
    qemu.ok(r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"s","name":"b"}}"#);
    qemu.hmp(r#"qemu-io s "write -P 2 0 4M""#);
    qemu.ok(&backup("enospc"));
    assert_eq!(text(&qemu.event("BLOCK_JOB_ERROR"), "action"), Some("stop"));
    let jobs = qemu.ok(r#"{"execute":"query-block-jobs"}"#);
    assert_eq!(text(&jobs.as_list().unwrap()[0], "io-status"), Some("nospace"));
    std::fs::write(dir.path().join("go"), "").expect("a file");
    while !dir.path().join("gone").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    qemu.ok(r#"{"execute":"block-job-resume","arguments":{"device":"j"}}"#);
    while text(&qemu.event("BLOCK_JOB_COMPLETED"), "error").is_some() {}
    assert_eq!(qemu.hmp(r#"qemu-io t "read -P 2 0 4M""#), "read 4194304/4194304 bytes at offset 0");
    qemu.quit();
}

/// A shell's words for a limit on the length of files, in KiB. A process that does not ignore the signal is ended, and so is QEMU.
fn limit(kib: u32) -> String {
    format!("truncate -s 4M small/t.raw; trap '' XFSZ; ulimit -f {}", kib * 2)
}

#[test]
fn files_that_may_not_grow_are_too_large() {
    let dir = directory();
    let mut qemu = Process::start(dir.path(), &limit(1024), &["env"], &NODES);
    qemu.ok(r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"s","name":"b"}}"#);
    qemu.hmp(r#"qemu-io s "write -P 2 0 64k""#);
    // Behind the limit nothing is written, before it all is; and reads go on.
    assert_eq!(qemu.hmp(r#"qemu-io s "write -P 3 2M 64k""#), "write failed: File too large");
    assert_eq!(qemu.hmp(r#"qemu-io s "read -P 1 2M 64k""#), "read 65536/65536 bytes at offset 2097152");
    qemu.ok(&backup("report"));
    assert_eq!(text(&qemu.event("BLOCK_JOB_COMPLETED"), "error"), Some("File too large"));
    let resize = r#"{"execute":"block_resize","arguments":{"node-name":"t","size":8388608}}"#;
    assert_eq!(qemu.fails(resize), "Could not resize file: File too large");
    let drive = r#"{"execute":"drive-backup","arguments":{"job-id":"d","device":"s","target":"n.raw","format":"raw","sync":"full"}}"#;
    assert_eq!(qemu.fails(drive), "The image size is too large for file format 'raw'");
    let create = r#"{"execute":"blockdev-create","arguments":{"job-id":"c","options":{"driver":"file","filename":"c.raw","size":8388608}}}"#;
    qemu.ok(create);
    while text(&qemu.event("JOB_STATUS_CHANGE"), "status") != Some("concluded") {}
    while qemu
        .ok(r#"{"execute":"query-jobs"}"#)
        .as_list()
        .unwrap()
        .iter()
        .all(|job| text(job, "status") != Some("concluded"))
    {}
    let jobs = qemu.ok(r#"{"execute":"query-jobs"}"#);
    let job = jobs.as_list().unwrap().iter().find(|job| text(job, "id") == Some("c")).expect("the job");
    assert_eq!(text(job, "error"), Some("Could not resize file: File too large"));
    qemu.quit();
    let disk = std::fs::read(dir.path().join("s.raw")).expect("a file");
    assert!(disk[..64 << 10].iter().all(|byte| *byte == 2), "what was not refused is there");
    assert!(disk[64 << 10..].iter().all(|byte| *byte == 1), "what was refused is not");
}
